//! Cluster-role aggregation: roles whose rules are those of all roles with certain labels.
//!
//! Keeps true: a role never aggregates itself; the rules' order does not depend on the order of events.

use k8s_openapi::api::rbac::v1::{ClusterRole, PolicyRule};
use serde_json::json;

use crate::{
    controller::{Action, Context, Controller, Key, Plan, Target},
    select,
    store::{Change, Stores},
};

/// The controller; it keeps nothing.
pub(crate) struct Aggregation;

impl Controller for Aggregation {
    fn keys(&self, stores: &Stores) -> Vec<Key> {
        let aggregates = |r: &ClusterRole| r.aggregation_rule.is_some();
        stores.cluster_roles.all().iter().filter(|r| aggregates(r)).map(|r| Key::of(&r.metadata)).collect()
    }

    fn wake(&self, stores: &Stores, change: &Change) -> Vec<Key> {
        match change {
            Change::ClusterRole(_) => self.keys(stores),
            _ => Vec::new(),
        }
    }

    fn reconcile(&self, context: &Context<'_>, key: &Key) -> Plan {
        let Some(role) = context.stores.cluster_roles.get(key) else { return Plan::none() };
        let wanted = rules(context.stores, &role);
        match wanted {
            Some(rules) if role.rules.as_deref().unwrap_or_default() != rules => {
                let patch = json!({"metadata": {"uid": role.metadata.uid}, "rules": rules});
                Plan::of(vec![Action::Patch { target: Target::of(&*role), subresource: "", patch }])
            }
            _ => Plan::none(),
        }
    }
}

fn rules(stores: &Stores, role: &ClusterRole) -> Option<Vec<PolicyRule>> {
    let selectors = role.aggregation_rule.as_ref()?.cluster_role_selectors.as_ref()?;
    let mut rules: Vec<PolicyRule> = Vec::new();
    for other in stores.cluster_roles.all() {
        let fits = selectors.iter().any(|s| select::matches(s, other.metadata.labels.as_ref()));
        if !fits || other.metadata.name == role.metadata.name {
            continue;
        }
        for rule in other.rules.iter().flatten() {
            if !rules.contains(rule) {
                rules.push(rule.clone());
            }
        }
    }
    Some(rules)
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use super::*;
    use crate::testing::{NOON, at, cluster_meta, context, load};

    #[test]
    fn union_without_doubles() {
        let stores = Stores::default();
        let rule = |verb: &str| json!({"apiGroups": [""], "resources": ["pods"], "verbs": [verb]});
        let role = |name: &str, rules: serde_json::Value, label: bool| {
            let mut value = json!({"metadata": cluster_meta(name), "rules": rules});
            if label {
                value["metadata"]["labels"] = json!({"to": "view"});
            }
            load::<ClusterRole>(&stores, value);
        };
        role("b", json!([rule("get")]), true);
        role("a", json!([rule("list"), rule("get")]), true);
        role("c", json!([rule("delete")]), false);
        let selectors = json!([{"matchLabels": {"to": "view"}}]);
        let mut value =
            json!({"metadata": cluster_meta("view"), "aggregationRule": {"clusterRoleSelectors": selectors}});
        let run = |stores: &Stores| {
            let answers = HashMap::new();
            Aggregation.reconcile(&context(stores, &answers, at(NOON)), &Key::new("", "view"))
        };
        load::<ClusterRole>(&stores, value.clone());
        let plan = run(&stores);
        let [Action::Patch { patch, .. }] = &plan.actions[..] else { panic!("{plan:?}") };
        assert_eq!(patch["rules"], json!([rule("list"), rule("get")]));
        value["rules"] = patch["rules"].clone();
        load::<ClusterRole>(&stores, value);
        assert_eq!(run(&stores), Plan::none());
    }
}
