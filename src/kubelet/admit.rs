//! Whether a pod that was bound to this node is taken. Pure. Keeps true: upstream's reasons (`OutOfcpu`,
//! `NodeAffinity`, …) and texts. The scheduler checks more, and earlier; this is the last word.

use std::{collections::BTreeMap, sync::Arc};

use k8s_openapi::api::core::v1::{Node, NodeSelectorRequirement, NodeSelectorTerm, Pod, PodSpec};

use crate::pod::{
    machine::Failure,
    resources::{List, amount, pod_request},
    spec,
};

/// Why the pod is not taken; `None` when it is.
#[must_use]
pub(crate) fn check(pod: &Pod, others: &[Arc<Pod>], allocatable: &List, node: &Node) -> Option<Failure> {
    let wanted = spec(pod);
    if node.metadata.name.is_some() && !selected(&wanted, node) {
        return Some(predicate("NodeAffinity", "node(s) didn't match Pod's node affinity/selector"));
    }
    let ports = host_ports(&wanted);
    if others.iter().any(|other| host_ports(&spec(other)).iter().any(|port| ports.contains(port))) {
        return Some(predicate("NodePorts", "node(s) didn't have free ports for the requested pod ports"));
    }
    let room = |name: &str, requested: i64, used: i64, capacity: i64| {
        (requested > 0 && used.saturating_add(requested) > capacity)
            .then(|| short(name, requested, used, capacity))
    };
    let count = i64::try_from(others.len()).unwrap_or(i64::MAX);
    let pods = amount(Some(allocatable), "pods") / 1000;
    room("pods", 1, count, pods).or_else(|| {
        [("cpu", 1), ("memory", 1000), ("ephemeral-storage", 1000)].into_iter().find_map(|(name, unit)| {
            let used =
                others.iter().map(|other| pod_request(&spec(other), name)).fold(0, i64::saturating_add);
            let capacity = amount(Some(allocatable), name);
            room(name, pod_request(&wanted, name) / unit, used / unit, capacity / unit)
        })
    })
}

fn predicate(reason: &str, text: &str) -> Failure {
    let message = format!("Pod was rejected: Predicate {reason} failed: {text}");
    Failure { reason: reason.to_owned(), message }
}

fn short(name: &str, requested: i64, used: i64, capacity: i64) -> Failure {
    let message = format!(
        "Pod was rejected: Node didn't have enough resource: {name}, requested: {requested}, used: {used}, capacity: {capacity}"
    );
    Failure { reason: format!("OutOf{name}"), message }
}

fn host_ports(spec: &PodSpec) -> Vec<(String, i32)> {
    let ports = spec.containers.iter().flat_map(|container| container.ports.iter().flatten());
    let used =
        ports.filter_map(|port| Some((port.protocol.clone().unwrap_or("TCP".into()), port.host_port?)));
    used.filter(|(_, port)| *port > 0).collect()
}

fn selected(spec: &PodSpec, node: &Node) -> bool {
    let empty = BTreeMap::new();
    let labels = node.metadata.labels.as_ref().unwrap_or(&empty);
    let plain = spec.node_selector.iter().flatten().all(|(key, value)| labels.get(key) == Some(value));
    let affinity = spec.affinity.as_ref().and_then(|affinity| affinity.node_affinity.as_ref());
    let required = affinity.and_then(|one| one.required_during_scheduling_ignored_during_execution.as_ref());
    let name = node.metadata.name.as_deref().unwrap_or_default();
    plain
        && required.is_none_or(|required| {
            required.node_selector_terms.iter().any(|term| matches(term, labels, name))
        })
}

fn matches(term: &NodeSelectorTerm, labels: &BTreeMap<String, String>, name: &str) -> bool {
    let expressions = term.match_expressions.as_deref().unwrap_or_default();
    let fields = term.match_fields.as_deref().unwrap_or_default();
    let own: BTreeMap<String, String> = [("metadata.name".to_owned(), name.to_owned())].into();
    (!expressions.is_empty() || !fields.is_empty())
        && expressions.iter().all(|one| holds(one, labels))
        && fields.iter().all(|one| holds(one, &own))
}

fn holds(requirement: &NodeSelectorRequirement, labels: &BTreeMap<String, String>) -> bool {
    let value = labels.get(&requirement.key);
    let values = requirement.values.as_deref().unwrap_or_default();
    let number = |text: Option<&String>| text.and_then(|text| text.parse::<i64>().ok());
    match requirement.operator.as_str() {
        "In" => value.is_some_and(|value| values.contains(value)),
        "NotIn" => value.is_none_or(|value| !values.contains(value)),
        "Exists" => value.is_some(),
        "DoesNotExist" => value.is_none(),
        "Gt" => matches!((number(value), number(values.first())), (Some(a), Some(b)) if a > b),
        "Lt" => matches!((number(value), number(values.first())), (Some(a), Some(b)) if a < b),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use k8s_openapi::apimachinery::pkg::api::resource::Quantity;

    fn pod(value: serde_json::Value) -> Pod {
        serde_json::from_value(serde_json::json!({"metadata": {"name": "a"}, "spec": value})).unwrap()
    }

    #[test]
    fn reasons() {
        let list: List = [("cpu", "1"), ("memory", "1Gi"), ("pods", "2")]
            .into_iter()
            .map(|(name, text)| (name.to_owned(), Quantity(text.to_owned())))
            .collect();
        let node: Node =
            serde_json::from_value(serde_json::json!({"metadata": {"name": "n", "labels": {"a": "b"}}}))
                .unwrap();
        let check = |value: serde_json::Value, others: usize, reason: Option<&str>| {
            let small = Arc::new(pod(
                serde_json::json!({"containers": [{"name": "c", "resources": {"requests": {"cpu": "600m"}}}]}),
            ));
            let others = vec![small; others];
            let failure = super::check(&pod(value), &others, &list, &node);
            assert_eq!(failure.map(|failure| failure.reason).as_deref(), reason);
        };
        let cpu = |amount: &str| serde_json::json!({"containers": [{"name": "c", "resources": {"requests": {"cpu": amount}}}]});
        check(cpu("400m"), 1, None);
        check(cpu("500m"), 1, Some("OutOfcpu"));
        check(cpu("0"), 2, Some("OutOfpods"));
        check(serde_json::json!({"containers": [], "nodeSelector": {"a": "c"}}), 0, Some("NodeAffinity"));
    }
}
