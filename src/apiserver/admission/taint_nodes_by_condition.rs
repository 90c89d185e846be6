//! TaintNodesByCondition: a new node takes no pods until the node controller has seen it ready.

use api::Object;
use serde_json::{Value, json};

use super::{Operation, Plugin, Review};

pub(crate) struct TaintNodesByCondition;

const NOT_READY: &str = "node.kubernetes.io/not-ready";

#[async_trait::async_trait]
impl Plugin for TaintNodesByCondition {
    async fn admit(&self, review: &mut Review<'_>) -> api::Result<()> {
        let applies = review.is("", "nodes") && review.operation == Operation::Create;
        if let (true, Some(node)) = (applies, review.object.as_deref_mut()) {
            taint(node);
        }
        Ok(())
    }
}

fn taint(node: &mut Object) {
    let mut taints = node.list_at("spec.taints").to_vec();
    let text =
        |taint: &Value, field: &str| taint.get(field).and_then(Value::as_str).unwrap_or_default().to_owned();
    if taints.iter().any(|t| text(t, "key") == NOT_READY && text(t, "effect") == "NoSchedule") {
        return;
    }
    taints.push(json!({"key": NOT_READY, "effect": "NoSchedule"}));
    node.set("spec.taints", taints);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn new_nodes_are_tainted_once() {
        let mut node = Object::new("v1", "Node");
        taint(&mut node);
        taint(&mut node);
        assert_eq!(node.list_at("spec.taints"), [json!({"key": NOT_READY, "effect": "NoSchedule"})]);
    }
}
