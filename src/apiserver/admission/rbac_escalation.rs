//! Nobody hands out more than they have: writing a role needs its permissions (or the verb `escalate`), binding
//! one needs them too (or the verb `bind`). Upstream does this in the registry of the RBAC kinds.

use api::Object;
use api::status::Status;
use serde_json::Value;

use super::{Operation, Plugin, Review};
use crate::authn::MASTERS;
use crate::authz::{Ask, Rule, describe, missing, rules_in};

const GROUP: &str = "rbac.authorization.k8s.io";

pub(crate) struct RbacEscalation;

#[async_trait::async_trait]
impl Plugin for RbacEscalation {
    async fn validate(&self, review: &Review<'_>) -> api::Result<()> {
        let writes = matches!(review.operation, Operation::Create | Operation::Update);
        if review.resource.group != GROUP || !writes || review.user.in_group(MASTERS) {
            return Ok(());
        }
        let Some(new) = review.object.as_deref() else { return Ok(()) };
        match review.resource.plural.as_str() {
            "roles" | "clusterroles" => check_role(review, new),
            "rolebindings" | "clusterrolebindings" => check_binding(review, new),
            _ => Ok(()),
        }
    }
}

fn same(new: &Object, old: Option<&Object>, fields: &[&str]) -> bool {
    old.is_some_and(|old| fields.iter().all(|field| old.get(field) == new.get(field)))
}

fn check_role(review: &Review<'_>, new: &Object) -> api::Result<()> {
    if same(new, review.old, &["rules", "aggregationRule"])
        || may(review, "escalate", review.resource.plural.as_str(), new.name())
    {
        return Ok(());
    }
    if new.get("aggregationRule").is_some_and(|rule| !rule.is_null())
        && !same(new, review.old, &["aggregationRule"])
    {
        let (owned, _) = owned(review);
        if !missing(&owned, &everything()).is_empty() {
            return Err(review.forbidden("must have cluster-admin privileges to use the aggregationRule"));
        }
    }
    covers(review, &rules_in(new))
}

fn check_binding(review: &Review<'_>, new: &Object) -> api::Result<()> {
    if same(new, review.old, &["subjects", "roleRef"]) {
        return Ok(());
    }
    let (plural, namespace) = match new.str_at("roleRef.kind") {
        "Role" => ("roles", review.namespace),
        _ => ("clusterroles", ""),
    };
    let name = new.str_at("roleRef.name");
    if may(review, "bind", plural, name) {
        return Ok(());
    }
    let resource = review.server.resource(GROUP, plural);
    match review.server.cached_get(&resource, namespace, name) {
        Some(role) => covers(review, &rules_in(&role)),
        None => Err(Status::not_found(&resource.group_resource(), name)),
    }
}

fn may(review: &Review<'_>, verb: &str, plural: &str, name: &str) -> bool {
    let ask = Ask { namespace: review.namespace, name, ..Ask::resource(verb, GROUP, plural) };
    review.server.authorizer().is_some_and(|authorizer| authorizer.allows(review.user, &ask))
}

fn owned(review: &Review<'_>) -> (Vec<Rule>, Vec<String>) {
    let Some(authorizer) = review.server.authorizer() else { return (Vec::new(), Vec::new()) };
    let (rules, errors) = authorizer.rules_of(review.user, review.namespace);
    (rules.iter().flat_map(|rules| rules.iter().cloned()).collect(), errors)
}

fn covers(review: &Review<'_>, wanted: &[Rule]) -> api::Result<()> {
    let (owned, errors) = owned(review);
    let gaps = missing(&owned, wanted);
    if gaps.is_empty() {
        return Ok(());
    }
    Err(review.forbidden(refusal(&review.user.name, &review.user.groups, &gaps, &errors)))
}

fn refusal(user: &str, groups: &[String], gaps: &[&Rule], errors: &[String]) -> String {
    let groups: Vec<String> = groups.iter().map(|group| format!("{group:?}")).collect();
    let mut lines: Vec<String> = gaps.iter().map(|rule| describe(rule)).collect();
    lines.sort();
    lines.dedup();
    let mut text = format!(
        "user {user:?} (groups=[{}]) is attempting to grant RBAC permissions not currently held:\n{}",
        groups.join(" "),
        lines.join("\n")
    );
    if !errors.is_empty() {
        text = format!("{text}; resolution errors: [{}]", errors.join(", "));
    }
    text
}

fn everything() -> Vec<Rule> {
    let rule = |value: Value| serde_json::from_value(value).unwrap_or_default();
    vec![
        rule(serde_json::json!({"verbs": ["*"], "apiGroups": ["*"], "resources": ["*"]})),
        rule(serde_json::json!({"verbs": ["*"], "nonResourceURLs": ["*"]})),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn refusals() {
        let rule: Rule =
            serde_json::from_value(json!({"verbs": ["get"], "apiGroups": [""], "resources": ["pods"]}))
                .unwrap();
        assert_eq!(
            refusal("bob", &["dev".into(), "ops".into()], &[&rule, &rule], &[]),
            "user \"bob\" (groups=[\"dev\" \"ops\"]) is attempting to grant RBAC permissions not currently held:\n\
             {APIGroups:[\"\"], Resources:[\"pods\"], Verbs:[\"get\"]}"
        );
    }

    #[test]
    fn unchanged_parts_need_no_leave() {
        let object = |value: Value| Object(value.as_object().unwrap().clone());
        let role = object(json!({"rules": [{"verbs": ["get"]}]}));
        let mut labelled = role.clone();
        labelled.set("metadata.labels", json!({"a": "b"}));
        assert!(same(&labelled, Some(&role), &["rules", "aggregationRule"]));
        assert!(!same(&labelled, None, &["rules"]));
        labelled.set("rules", json!([]));
        assert!(!same(&labelled, Some(&role), &["rules"]));
    }
}
