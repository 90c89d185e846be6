//! Completing bootstrap roles and bindings that exist: what is missing is added, nothing is taken away. Pure.

use api::Object;
use serde_json::Value;

use crate::authz::{missing, rules_in};

const AUTOUPDATE: &str = "rbac.authorization.kubernetes.io/autoupdate";

/// The role with the wanted rules it does not cover yet.
pub(super) fn role(existing: Object, wanted: &Object) -> Object {
    if protected(&existing) {
        return existing;
    }
    let mut role = with_metadata(existing, wanted);
    if let Some(aggregation) = wanted.get("aggregationRule") {
        // The rules are the aggregation controller's.
        if role.get("aggregationRule").is_none_or(Value::is_null) {
            role.set("aggregationRule", aggregation.clone());
        }
        return role;
    }
    let (owned, all) = (rules_in(&role), rules_in(wanted));
    let gaps = missing(&owned, &all);
    let added = all.iter().zip(wanted.list_at("rules")).filter(|(rule, _)| gaps.contains(rule));
    let added: Vec<Value> = added.map(|(_, value)| value.clone()).collect();
    append(&mut role, "rules", added);
    role
}

/// The binding with the wanted subjects it lacks. Another role than the wanted one is the user's decision.
pub(super) fn binding(existing: Object, wanted: &Object) -> Object {
    if protected(&existing) || existing.str_at("roleRef.name") != wanted.str_at("roleRef.name") {
        return existing;
    }
    let mut binding = with_metadata(existing, wanted);
    let same =
        |a: &Value, b: &Value| ["kind", "name", "namespace"].iter().all(|field| a.get(field) == b.get(field));
    let lacks = |subject: &&Value| !binding.list_at("subjects").iter().any(|own| same(own, subject));
    let added: Vec<Value> = wanted.list_at("subjects").iter().filter(lacks).cloned().collect();
    append(&mut binding, "subjects", added);
    binding
}

fn protected(existing: &Object) -> bool {
    existing.annotation(AUTOUPDATE) == Some("false") || existing.deletion_timestamp().is_some()
}

fn append(object: &mut Object, path: &str, added: Vec<Value>) {
    if !added.is_empty() {
        let mut all = object.list_at(path).to_vec();
        all.extend(added);
        object.set(path, all);
    }
}

/// Adds wanted labels and annotations; existing values stay.
fn with_metadata(mut existing: Object, wanted: &Object) -> Object {
    for field in ["metadata.labels", "metadata.annotations"] {
        for (key, value) in wanted.map_at(field).into_iter().flatten() {
            let mut map = existing.map_at(field).cloned().unwrap_or_default();
            if !map.contains_key(key) {
                map.insert(key.clone(), value.clone());
                existing.set(field, map);
            }
        }
    }
    existing
}

#[cfg(test)]
mod tests {
    use super::super::{cluster_roles::CLUSTER_ROLES, policy};
    use super::*;
    use serde_json::json;

    fn wanted(name: &str) -> Object {
        let rows = CLUSTER_ROLES.iter().chain(policy::ROLES);
        rows.clone().find(|row| row.name == name).unwrap().to_object()
    }

    #[test]
    fn complete_objects_stay() {
        for row in CLUSTER_ROLES.iter().chain(policy::ROLES) {
            let object = row.to_object();
            assert_eq!(role(object.clone(), &object), object, "{}", row.name);
        }
        for row in policy::CLUSTER_BINDINGS.iter().chain(policy::BINDINGS) {
            let object = row.to_object();
            assert_eq!(binding(object.clone(), &object), object, "{}", row.name);
        }
    }

    #[test]
    fn missing_parts_are_added_and_edits_stay() {
        let wanted = wanted("system:basic-user");
        let mut edited = wanted.clone();
        edited.set("rules", json!([{"verbs": ["get"], "apiGroups": ["x"], "resources": ["y"]}]));
        edited.set("metadata.labels", json!({"mine": "yes"}));
        let completed = role(edited.clone(), &wanted);
        assert_eq!(completed.list_at("rules").len(), 3);
        assert_eq!(completed.list_at("rules")[0], edited.list_at("rules")[0]);
        assert_eq!(completed.label("mine"), Some("yes"));
        assert_eq!(completed.label("kubernetes.io/bootstrapping"), Some("rbac-defaults"));
        edited.set_annotation(AUTOUPDATE, "false");
        assert_eq!(role(edited.clone(), &wanted), edited);
    }

    #[test]
    fn subjects_are_added() {
        let wanted = policy::CLUSTER_BINDINGS[0].to_object();
        let mut edited = wanted.clone();
        edited.set("subjects", json!([{"kind": "User", "name": "eve"}]));
        assert_eq!(binding(edited.clone(), &wanted).list_at("subjects").len(), 2);
        edited.set("roleRef.name", "view");
        assert_eq!(binding(edited.clone(), &wanted), edited);
    }
}
