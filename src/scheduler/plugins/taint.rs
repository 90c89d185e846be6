//! TaintToleration: nodes repel pods that do not tolerate their taints.

use k8s_openapi::api::core::v1::{Taint, Toleration};

use super::{Context, Plugin, Reject, scale};
use crate::event::Event;
use crate::pod::PodInfo;
use crate::snapshot::NodeInfo;

struct Taints<'a> {
    tolerations: &'a [Toleration],
}

/// Whether one of the tolerations covers the taint.
pub(super) fn tolerated(tolerations: &[Toleration], taint: &Taint) -> bool {
    tolerations.iter().any(|t| tolerates(t, taint))
}

fn tolerates(toleration: &Toleration, taint: &Taint) -> bool {
    let wanted =
        |field: &Option<String>, value: &str| field.as_deref().is_none_or(|f| f.is_empty() || f == value);
    let exists = toleration.operator.as_deref() == Some("Exists");
    let any_key = toleration.key.as_deref().is_none_or(str::is_empty);
    let value = toleration.value.as_deref().unwrap_or_default();
    wanted(&toleration.effect, &taint.effect)
        && wanted(&toleration.key, &taint.key)
        && (exists || !any_key && value == taint.value.as_deref().unwrap_or_default())
}

/// Whether no taint keeps the pod away from the node.
pub(super) fn admits(node: &NodeInfo, tolerations: &[Toleration]) -> bool {
    let hard = |t: &&Taint| matches!(t.effect.as_str(), "NoSchedule" | "NoExecute");
    node.taints().iter().filter(hard).all(|taint| tolerated(tolerations, taint))
}

pub(super) fn prepare<'a>(context: &Context<'a>) -> Option<Box<dyn Plugin + 'a>> {
    Some(Box::new(Taints { tolerations: context.pod.tolerations() }))
}

pub(super) fn hint(event: &Event, pod: &PodInfo) -> bool {
    event.node().is_some_and(|node| admits(node, pod.tolerations()))
}

impl Plugin for Taints<'_> {
    fn filter(&self, node: &NodeInfo) -> Result<(), Reject> {
        if admits(node, self.tolerations) {
            return Ok(());
        }
        Reject::for_good("node(s) had untolerated taint(s)")
    }

    fn prescore(&mut self, nodes: &[&NodeInfo]) -> bool {
        nodes.iter().any(|n| n.taints().iter().any(|t| t.effect == "PreferNoSchedule"))
    }

    fn score(&self, node: &NodeInfo) -> i64 {
        let soft = node.taints().iter().filter(|t| t.effect == "PreferNoSchedule");
        i64::try_from(soft.filter(|t| !tolerated(self.tolerations, t)).count()).unwrap_or(i64::MAX)
    }

    fn normalize(&self, _nodes: &[&NodeInfo], scores: &mut [i64]) {
        scale(scores, true);
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::tolerates;

    #[test]
    fn tolerations_cover_taints() {
        let check = |toleration: serde_json::Value, expect: bool| {
            let taint =
                serde_json::from_value(json!({"key": "k", "value": "v", "effect": "NoSchedule"})).unwrap();
            let parsed = serde_json::from_value(toleration.clone()).unwrap();
            assert_eq!(tolerates(&parsed, &taint), expect, "{toleration}");
        };
        check(json!({"operator": "Exists"}), true);
        check(json!({"key": "k", "operator": "Exists", "effect": "NoExecute"}), false);
        check(json!({"key": "k", "value": "v"}), true);
        check(json!({"key": "k", "operator": "Equal", "value": "w"}), false);
        check(json!({"key": "j", "operator": "Exists"}), false);
        check(json!({"operator": "Equal", "value": "v"}), false);
    }
}
