//! Who may do what: the authorizers of `--authorization-mode`, asked in order until one decides.
//!
//! Decides only; it changes nothing and reads only the watch cache, so it never waits for the store. Escalation
//! checks on RBAC writes are admission's (`admission/rbac_escalation.rs`), which asks [`Authorizer::rules_of`].

mod node;
mod rbac;
pub(crate) mod refs;
mod rules;

use std::sync::{Arc, Weak};

use api::status::Status;

pub(crate) use rbac::rules_in;
pub(crate) use rules::{Rule, describe, missing};

use crate::authn::{MASTERS, UserInfo};
use crate::flags::Config;
use crate::request::RequestInfo;
use crate::server::Server;

/// What an authorizer says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Decision {
    /// It may happen.
    Allow,
    /// It may not, whatever other authorizers say.
    Deny(String),
    /// Others may decide; nobody allowing it means no.
    NoOpinion(String),
}

/// A request to authorise.
pub(crate) struct Attributes<'a> {
    /// Who.
    pub(crate) user: &'a UserInfo,
    /// What.
    pub(crate) info: &'a RequestInfo,
}

/// What is asked for: a request's attributes, or those of an access review.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Ask<'a> {
    pub(crate) verb: &'a str,
    pub(crate) is_resource: bool,
    pub(crate) path: &'a str,
    pub(crate) group: &'a str,
    pub(crate) resource: &'a str,
    pub(crate) subresource: &'a str,
    pub(crate) namespace: &'a str,
    pub(crate) name: &'a str,
    /// The field selector of a list or watch as text.
    pub(crate) field_selector: &'a str,
}

impl<'a> Ask<'a> {
    /// What a request asks for.
    pub(crate) fn of(info: &'a RequestInfo) -> Self {
        Self {
            verb: info.verb,
            is_resource: info.is_resource,
            path: &info.path,
            group: &info.group,
            resource: &info.resource,
            subresource: &info.subresource,
            namespace: &info.namespace,
            name: &info.name,
            field_selector: info.query.get("fieldSelector").unwrap_or_default(),
        }
    }

    /// A verb on a named resource; fill in the rest with `..`.
    pub(crate) fn resource(verb: &'a str, group: &'a str, resource: &'a str) -> Self {
        Self { verb, is_resource: true, group, resource, ..Self::default() }
    }

    /// The value a field selector demands of a field, if it demands one exactly.
    pub(crate) fn selects(&self, field: &str) -> Option<&'a str> {
        self.field_selector.split(',').find_map(|term| {
            let (name, value) = term.split_once('=')?;
            let value = value.strip_prefix('=').unwrap_or(value);
            (name == field && !value.is_empty()).then_some(value)
        })
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Mode {
    Node,
    Rbac,
    AlwaysAllow,
    AlwaysDeny,
}

/// The configured authorizers.
pub(crate) struct Authorizer {
    modes: Vec<Mode>,
    rbac: rbac::Rbac,
    /// Weak, because the server owns its authorizer.
    server: Weak<Server>,
}

impl Authorizer {
    /// Authorizers for `--authorization-mode`.
    pub(crate) fn new(config: &Config, server: &Arc<Server>) -> Self {
        let mode = |name: &String| match name.as_str() {
            "Node" => Mode::Node,
            "AlwaysAllow" => Mode::AlwaysAllow,
            "AlwaysDeny" => Mode::AlwaysDeny,
            _ => Mode::Rbac,
        };
        Self {
            modes: config.flags.authorization_mode.iter().map(mode).collect(),
            rbac: rbac::Rbac::default(),
            server: Arc::downgrade(server),
        }
    }

    /// Whether the request may happen.
    #[allow(clippy::unused_async, reason = "webhook authorizers will wait")]
    pub(crate) async fn authorize(&self, a: &Attributes<'_>) -> Decision {
        self.decide(a.user, &Ask::of(a.info)).0
    }

    /// Whether the user may do it, and why. The second text is the reason for an `Allow`.
    pub(crate) fn decide(&self, user: &UserInfo, ask: &Ask<'_>) -> (Decision, String) {
        if user.in_group(MASTERS) {
            return (Decision::Allow, String::new());
        }
        let Some(server) = self.server.upgrade() else {
            return (Decision::Deny("the server is stopping".into()), String::new());
        };
        let mut reasons = Vec::new();
        for mode in &self.modes {
            let (decision, why) = self.ask(*mode, &server, user, ask);
            match decision {
                Decision::NoOpinion(reason) if reason.is_empty() => {}
                Decision::NoOpinion(reason) => reasons.push(reason),
                decided => return (decided, why),
            }
        }
        (Decision::NoOpinion(reasons.join(", ")), String::new())
    }

    /// Shorthand for own checks on behalf of a user.
    pub(crate) fn allows(&self, user: &UserInfo, ask: &Ask<'_>) -> bool {
        self.decide(user, ask).0 == Decision::Allow
    }

    fn ask(&self, mode: Mode, server: &Server, user: &UserInfo, ask: &Ask<'_>) -> (Decision, String) {
        match mode {
            Mode::Node => (node::authorize(&node::Cached(server), user, ask), String::new()),
            Mode::Rbac => self.rbac.index(server).authorize(user, ask),
            Mode::AlwaysAllow => (Decision::Allow, String::new()),
            Mode::AlwaysDeny => (Decision::NoOpinion("Everything is forbidden.".into()), String::new()),
        }
    }

    /// All RBAC rules that apply to the user in the namespace (empty: cluster-wide ones only), and the errors
    /// met on the way (roles that do not exist).
    pub(crate) fn rules_of(&self, user: &UserInfo, namespace: &str) -> (Vec<Arc<Vec<Rule>>>, Vec<String>) {
        match self.server.upgrade() {
            Some(server) => self.rbac.index(&server).rules_of(user, namespace),
            None => (Vec::new(), Vec::new()),
        }
    }
}

/// The 403 of a request that nobody allowed, in upstream's words.
pub(crate) fn forbidden(a: &Attributes<'_>, reason: &str) -> Status {
    let info = a.info;
    let message = refusal(a.user, &Ask::of(info), reason);
    if !info.is_resource {
        return Status::forbidden(&api::catalog::GroupResource::default(), "", &message);
    }
    let resource = api::catalog::GroupResource { group: info.group.clone(), resource: info.resource.clone() };
    Status::forbidden(&resource, &info.name, &message)
}

/// `User "x" cannot get resource "pods" in API group "" in the namespace "y": reason`.
fn refusal(user: &UserInfo, ask: &Ask<'_>, reason: &str) -> String {
    let name = &user.name;
    let mut text = if ask.is_resource {
        let slash = if ask.subresource.is_empty() { "" } else { "/" };
        let scope = match ask.namespace {
            "" => " at the cluster scope".to_owned(),
            namespace => format!(" in the namespace {namespace:?}"),
        };
        format!(
            "User {name:?} cannot {} resource \"{}{slash}{}\" in API group {:?}{scope}",
            ask.verb, ask.resource, ask.subresource, ask.group
        )
    } else {
        format!("User {name:?} cannot {} path {:?}", ask.verb, ask.path)
    };
    if !reason.is_empty() {
        text = format!("{text}: {reason}");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refusals_read_as_upstream() {
        let user = UserInfo::authenticated("bob", Vec::new());
        let check =
            |ask: Ask<'_>, reason: &str, expect: &str| assert_eq!(refusal(&user, &ask, reason), expect);
        check(
            Ask { namespace: "a", subresource: "log", ..Ask::resource("get", "", "pods") },
            "",
            "User \"bob\" cannot get resource \"pods/log\" in API group \"\" in the namespace \"a\"",
        );
        check(
            Ask::resource("list", "apps", "deployments"),
            "because",
            "User \"bob\" cannot list resource \"deployments\" in API group \"apps\" at the cluster scope: because",
        );
        check(
            Ask { verb: "get", path: "/metrics", ..Ask::default() },
            "",
            "User \"bob\" cannot get path \"/metrics\"",
        );
    }

    #[test]
    fn field_selectors_are_read() {
        let check = |selector: &str, expect: Option<&str>| {
            let ask = Ask { field_selector: selector, ..Ask::default() };
            assert_eq!(ask.selects("spec.nodeName"), expect, "{selector}");
        };
        check("spec.nodeName=w1", Some("w1"));
        check("status.phase!=Failed,spec.nodeName==w1", Some("w1"));
        check("spec.nodeName!=w1", None);
        check("spec.nodeName=", None);
        check("", None);
    }
}
