//! RBAC: roles and bindings as an index from subject to rules.
//!
//! The index is a pure function of the four kinds' objects; it is built again when one of them has changed in
//! the watch cache (their `cached_version` says so), and shared by all requests until then.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use api::Object;
use serde_json::Value;

use super::{Ask, Decision, Rule};
use crate::authn::{UserInfo, account_user};
use crate::server::Server;

const GROUP: &str = "rbac.authorization.k8s.io";
const KINDS: [&str; 4] = ["roles", "clusterroles", "rolebindings", "clusterrolebindings"];

/// The index and the cache versions it was made from.
#[derive(Default)]
pub(crate) struct Rbac {
    built: Mutex<Option<([u64; 4], Arc<Index>)>>,
}

impl Rbac {
    /// The index for what the watch cache holds now.
    pub(crate) fn index(&self, server: &Server) -> Arc<Index> {
        let resources = KINDS.map(|plural| server.resource(GROUP, plural));
        let versions = [0, 1, 2, 3].map(|i| server.cached_version(&resources[i]));
        let mut built = self.built.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((of, index)) = &*built
            && *of == versions
        {
            return index.clone();
        }
        let lists = [0, 1, 2, 3].map(|i| server.cached_list(&resources[i], None));
        let index = Arc::new(Index::build(&lists[0], &lists[1], &lists[2], &lists[3]));
        *built = Some((versions, index.clone()));
        index
    }
}

/// Rules granted to one subject by one binding.
#[derive(Debug)]
struct Grant {
    /// Where it holds; `None` everywhere.
    namespace: Option<String>,
    rules: Option<Arc<Vec<Rule>>>,
    /// `ClusterRoleBinding "x" of ClusterRole "y" to User "z"`.
    through: String,
    /// What is wrong when `rules` is `None`.
    missing: String,
}

/// All grants by subject.
#[derive(Debug, Default)]
pub(crate) struct Index {
    users: HashMap<String, Vec<Arc<Grant>>>,
    groups: HashMap<String, Vec<Arc<Grant>>>,
}

type Roles = HashMap<(String, String), Arc<Vec<Rule>>>;

impl Index {
    /// Builds the index from all objects of the four kinds.
    pub(crate) fn build(
        roles: &[Arc<Object>],
        cluster_roles: &[Arc<Object>],
        bindings: &[Arc<Object>],
        cluster_bindings: &[Arc<Object>],
    ) -> Self {
        let known: Roles = roles
            .iter()
            .chain(cluster_roles)
            .map(|role| ((role.namespace().to_owned(), role.name().to_owned()), Arc::new(rules_in(role))))
            .collect();
        let mut index = Self::default();
        for binding in bindings.iter().chain(cluster_bindings) {
            index.add(&known, binding);
        }
        index
    }

    fn add(&mut self, known: &Roles, binding: &Object) {
        let namespace = binding.namespace();
        let role_kind = binding.str_at("roleRef.kind");
        let role_name = binding.str_at("roleRef.name");
        let home = if role_kind == "Role" { namespace } else { "" };
        let rules = known.get(&(home.to_owned(), role_name.to_owned())).cloned();
        let subjects = binding.get("subjects").and_then(Value::as_array);
        for subject in subjects.into_iter().flatten() {
            let Some((is_group, key, shown)) = subject_of(subject, namespace) else { continue };
            let grant = Arc::new(Grant {
                namespace: (!namespace.is_empty()).then(|| namespace.to_owned()),
                rules: rules.clone(),
                through: through(binding, role_kind, role_name, &shown),
                missing: format!("{}.{GROUP} {role_name:?} not found", role_kind.to_lowercase()),
            });
            let map = if is_group { &mut self.groups } else { &mut self.users };
            map.entry(key).or_default().push(grant);
        }
    }

    fn grants<'a>(&'a self, user: &'a UserInfo, namespace: &'a str) -> impl Iterator<Item = &'a Grant> {
        let own = self.users.get(&user.name).into_iter().flatten();
        let groups = user.groups.iter().filter_map(|group| self.groups.get(group)).flatten();
        let holds = move |grant: &&Grant| grant.namespace.as_deref().is_none_or(|home| home == namespace);
        own.chain(groups).map(Arc::as_ref).filter(holds)
    }

    /// Whether a binding allows it; the second text says which.
    pub(crate) fn authorize(&self, user: &UserInfo, ask: &Ask<'_>) -> (Decision, String) {
        let mut missing = Vec::new();
        for grant in self.grants(user, ask.namespace) {
            match &grant.rules {
                Some(rules) if rules.iter().any(|rule| rule.allows(ask)) => {
                    return (Decision::Allow, format!("RBAC: allowed by {}", grant.through));
                }
                Some(_) => {}
                None => missing.push(grant.missing.clone()),
            }
        }
        missing.dedup();
        let reason = match missing.as_slice() {
            [] => String::new(),
            [one] => format!("RBAC: {one}"),
            several => format!("RBAC: [{}]", several.join(", ")),
        };
        (Decision::NoOpinion(reason), String::new())
    }

    /// All rules that hold for the user in the namespace, and the roles that could not be found.
    pub(crate) fn rules_of(&self, user: &UserInfo, namespace: &str) -> (Vec<Arc<Vec<Rule>>>, Vec<String>) {
        let mut rules = Vec::new();
        let mut missing = Vec::new();
        for grant in self.grants(user, namespace) {
            match &grant.rules {
                Some(found) => rules.push(found.clone()),
                None => missing.push(grant.missing.clone()),
            }
        }
        (rules, missing)
    }
}

/// The rules of a Role or ClusterRole; one that cannot be read grants nothing.
pub(crate) fn rules_in(role: &Object) -> Vec<Rule> {
    let rules = role.get("rules").and_then(Value::as_array);
    let read = |rule: &Value| serde_json::from_value(rule.clone()).unwrap_or_default();
    rules.into_iter().flatten().map(read).collect()
}

fn through(binding: &Object, role_kind: &str, role: &str, subject: &str) -> String {
    let name = binding.name();
    match binding.namespace() {
        "" => format!("ClusterRoleBinding {name:?} of {role_kind} {role:?} to {subject}"),
        namespace => {
            let shown = format!("{name}/{namespace}");
            format!("RoleBinding {shown:?} of {role_kind} {role:?} to {subject}")
        }
    }
}

/// Whether the subject is a group, the name to match, and how reasons show it.
fn subject_of(subject: &Value, binding_namespace: &str) -> Option<(bool, String, String)> {
    let text = |field: &str| subject.get(field).and_then(Value::as_str).unwrap_or_default();
    let name = text("name");
    match text("kind") {
        "User" => Some((false, name.to_owned(), format!("User {name:?}"))),
        "Group" => Some((true, name.to_owned(), format!("Group {name:?}"))),
        "ServiceAccount" => {
            let namespace = if text("namespace").is_empty() { binding_namespace } else { text("namespace") };
            let shown = format!("{name}/{namespace}");
            (!namespace.is_empty())
                .then(|| (false, account_user(namespace, name), format!("ServiceAccount {shown:?}")))
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::authn::{ANONYMOUS, account_groups};
    use crate::bootstrap::{cluster_roles::CLUSTER_ROLES, policy};
    use serde_json::json;

    fn object(value: Value) -> Arc<Object> {
        Arc::new(Object(value.as_object().unwrap().clone()))
    }

    fn index() -> Index {
        let cluster_roles: Vec<_> = CLUSTER_ROLES.iter().map(|row| Arc::new(row.to_object())).collect();
        let mut cluster_bindings: Vec<_> =
            policy::CLUSTER_BINDINGS.iter().map(|row| Arc::new(row.to_object())).collect();
        cluster_bindings.push(object(json!({
            "metadata": {"name": "dangling"}, "roleRef": {"kind": "ClusterRole", "name": "gone"},
            "subjects": [{"kind": "User", "name": "dan"}],
        })));
        let roles = [object(json!({
            "metadata": {"name": "reader", "namespace": "a"},
            "rules": [{"verbs": ["get"], "apiGroups": [""], "resources": ["secrets"], "resourceNames": ["one"]}],
        }))];
        let bindings = [
            object(json!({
                "metadata": {"name": "edits", "namespace": "a"}, "roleRef": {"kind": "ClusterRole", "name": "edit"},
                "subjects": [{"kind": "User", "name": "eve"}],
            })),
            object(json!({
                "metadata": {"name": "reads", "namespace": "a"}, "roleRef": {"kind": "Role", "name": "reader"},
                "subjects": [{"kind": "ServiceAccount", "name": "sam"}],
            })),
        ];
        Index::build(&roles, &cluster_roles, &bindings, &cluster_bindings)
    }

    fn user(name: &str) -> UserInfo {
        match name {
            ANONYMOUS => UserInfo::anonymous(),
            "sam" => UserInfo::authenticated(account_user("a", "sam"), account_groups("a")),
            name => UserInfo::authenticated(name, Vec::new()),
        }
    }

    #[test]
    fn the_bootstrap_policy_decides() {
        let index = index();
        let check = |who: &str, verb: &str, what: &str, namespace: &str, name: &str, expect: bool| {
            let (group, rest) = what.split_once(':').unwrap_or(("", what));
            let (resource, subresource) = rest.split_once('/').unwrap_or((rest, ""));
            let ask = Ask { namespace, name, subresource, ..Ask::resource(verb, group, resource) };
            let (decision, _) = index.authorize(&user(who), &ask);
            assert_eq!(
                decision == Decision::Allow,
                expect,
                "{who} {verb} {what} in {namespace:?}: {decision:?}"
            );
        };
        check("eve", "create", "apps:deployments", "a", "", true);
        check("eve", "create", "apps:deployments", "b", "", false);
        check("eve", "list", "apps:deployments", "a", "", true);
        check("eve", "list", "apps:deployments", "", "", false);
        check("eve", "create", "pods/exec", "a", "x", true);
        check("eve", "create", "endpoints", "a", "x", false);
        check("eve", "create", "rbac.authorization.k8s.io:roles", "a", "x", false);
        check("sam", "get", "secrets", "a", "one", true);
        check("sam", "get", "secrets", "a", "two", false);
        check("sam", "list", "secrets", "a", "", false);
        check("bob", "create", "authorization.k8s.io:selfsubjectaccessreviews", "", "", true);
        check("bob", "get", "secrets", "a", "one", false);
        check(ANONYMOUS, "create", "authorization.k8s.io:selfsubjectaccessreviews", "", "", false);
        check("system:kube-scheduler", "create", "pods/binding", "a", "x", true);
        check(
            "system:kube-scheduler",
            "update",
            "coordination.k8s.io:leases",
            "kube-system",
            "kube-scheduler",
            true,
        );
        check("system:kube-scheduler", "update", "coordination.k8s.io:leases", "kube-system", "other", false);
        check("system:kube-scheduler", "get", "secrets", "a", "x", false);
        check("system:kube-proxy", "watch", "discovery.k8s.io:endpointslices", "", "", true);
        check("system:kube-proxy", "get", "secrets", "a", "x", false);
    }

    #[test]
    fn paths_without_resources() {
        let index = index();
        let check = |who: &str, path: &str, expect: bool| {
            let ask = Ask { verb: "get", path, ..Ask::default() };
            let (decision, _) = index.authorize(&user(who), &ask);
            assert_eq!(decision == Decision::Allow, expect, "{who} {path}");
        };
        check(ANONYMOUS, "/healthz", true);
        check(ANONYMOUS, "/readyz", true);
        check(ANONYMOUS, "/version", true);
        check(ANONYMOUS, "/metrics", false);
        check(ANONYMOUS, "/api", false);
        check(ANONYMOUS, "/openapi/v2", false);
        check("bob", "/api", true);
        check("bob", "/openapi/v3/apis/apps/v1", true);
        check("bob", "/metrics", false);
        check("sam", "/openid/v1/jwks", true);
    }

    #[test]
    fn reasons_name_the_binding() {
        let index = index();
        let check = |who: &str, ask: Ask<'_>, expect: (Decision, &str)| {
            assert_eq!(index.authorize(&user(who), &ask), (expect.0, expect.1.to_owned()));
        };
        let secret = Ask { namespace: "a", name: "one", ..Ask::resource("get", "", "secrets") };
        check(
            "sam",
            secret,
            (
                Decision::Allow,
                "RBAC: allowed by RoleBinding \"reads/a\" of Role \"reader\" to ServiceAccount \"sam/a\"",
            ),
        );
        check(
            "dan",
            secret,
            (
                Decision::NoOpinion("RBAC: clusterrole.rbac.authorization.k8s.io \"gone\" not found".into()),
                "",
            ),
        );
    }
}
