//! DefaultTolerationSeconds: a pod stays on a node that fails for a while, and not for ever.

use api::Object;
use serde_json::{Value, json};

use super::{Operation, Plugin, Review};

pub(crate) struct DefaultTolerationSeconds;

#[async_trait::async_trait]
impl Plugin for DefaultTolerationSeconds {
    async fn admit(&self, review: &mut Review<'_>) -> api::Result<()> {
        let flags = &review.server.config().flags;
        let seconds = [
            ("node.kubernetes.io/not-ready", flags.default_not_ready_toleration_seconds),
            ("node.kubernetes.io/unreachable", flags.default_unreachable_toleration_seconds),
        ];
        let applies =
            review.is("", "pods") && matches!(review.operation, Operation::Create | Operation::Update);
        if let (true, Some(pod)) = (applies, review.object.as_deref_mut()) {
            for (key, seconds) in seconds {
                tolerate(pod, key, seconds);
            }
        }
        Ok(())
    }
}

fn tolerate(pod: &mut Object, key: &str, seconds: i64) {
    let mut tolerations = pod.list_at("spec.tolerations").to_vec();
    if tolerations.iter().any(|toleration| covers(toleration, key)) {
        return;
    }
    tolerations
        .push(json!({"key": key, "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": seconds}));
    pod.set("spec.tolerations", tolerations);
}

fn covers(toleration: &Value, key: &str) -> bool {
    let text = |field: &str| toleration.get(field).and_then(Value::as_str).unwrap_or_default();
    let about_key = text("key") == key || text("key").is_empty();
    about_key && matches!(text("effect"), "NoExecute" | "")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tolerations_are_added_unless_there() {
        let check = |given: Value, expect: usize| {
            let mut pod = Object::new("v1", "Pod");
            pod.set("spec.tolerations", given.clone());
            tolerate(&mut pod, "k", 5);
            assert_eq!(pod.list_at("spec.tolerations").len(), expect, "{given}");
        };
        check(json!([]), 1);
        check(json!([{"key": "k", "effect": "NoExecute", "operator": "Exists"}]), 1);
        check(json!([{"key": "k", "effect": "NoSchedule", "operator": "Exists"}]), 2);
        check(json!([{"operator": "Exists"}]), 1);
        check(json!([{"key": "other", "operator": "Exists"}]), 2);
    }
}
