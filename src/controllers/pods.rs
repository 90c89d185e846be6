//! What controllers ask about pods and pod templates.
//!
//! Keeps true: the hash of a template depends on its content only, never on field order or this program's version
//! of a map type (it is part of names that outlive the process).

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::{
    api::core::v1::{Pod, PodCondition, PodTemplateSpec},
    apimachinery::pkg::{
        apis::meta::v1::{ObjectMeta, OwnerReference},
        util::intstr::IntOrString,
    },
};
use serde_json::Value;

/// The label that tells the pods of a Deployment's ReplicaSets apart.
pub(crate) const HASH_LABEL: &str = "pod-template-hash";

/// Letters that spell no words, as in Kubernetes' generated names.
pub(crate) const ALPHABET: &[u8] = b"bcdfghjklmnpqrstvwxz2456789";

/// A pod's phase.
#[must_use]
pub(crate) fn phase(pod: &Pod) -> &str {
    pod.status.as_ref().and_then(|s| s.phase.as_deref()).unwrap_or_default()
}

/// Whether a pod has run to its end.
#[must_use]
pub(crate) fn is_finished(pod: &Pod) -> bool {
    matches!(phase(pod), "Succeeded" | "Failed")
}

/// Whether a pod counts as a replica: not finished and not going.
#[must_use]
pub(crate) fn is_active(pod: &Pod) -> bool {
    !is_finished(pod) && pod.metadata.deletion_timestamp.is_none()
}

/// A pod's condition of this type.
#[must_use]
pub(crate) fn condition<'a>(pod: &'a Pod, kind: &str) -> Option<&'a PodCondition> {
    pod.status.as_ref()?.conditions.iter().flatten().find(|c| c.type_ == kind)
}

/// Since when a pod is ready, if it is.
#[must_use]
pub(crate) fn ready_since(pod: &Pod) -> Option<Timestamp> {
    let ready = condition(pod, "Ready").filter(|c| c.status == "True")?;
    Some(ready.last_transition_time.as_ref().map_or(Timestamp::UNIX_EPOCH, |t| t.0))
}

/// Whether a pod is ready.
#[must_use]
pub(crate) fn is_ready(pod: &Pod) -> bool {
    ready_since(pod).is_some()
}

/// When a ready pod becomes available; a time that has passed means it is.
#[must_use]
pub(crate) fn available_at(pod: &Pod, min_ready_seconds: i32) -> Option<Timestamp> {
    ready_since(pod)?.checked_add(SignedDuration::from_secs(min_ready_seconds.max(0).into())).ok()
}

/// The node that a pod is bound to.
#[must_use]
pub(crate) fn node(pod: &Pod) -> Option<&str> {
    pod.spec.as_ref()?.node_name.as_deref().filter(|n| !n.is_empty())
}

/// A new pod from a template, for its controller; its name is made when it is created.
#[must_use]
pub(crate) fn from_template(template: &PodTemplateSpec, namespace: &str, owner: OwnerReference) -> Pod {
    let meta = template.metadata.as_ref();
    Pod {
        metadata: ObjectMeta {
            namespace: Some(namespace.into()),
            generate_name: Some(format!("{}-", owner.name)),
            labels: meta.and_then(|m| m.labels.clone()),
            annotations: meta.and_then(|m| m.annotations.clone()),
            finalizers: meta.and_then(|m| m.finalizers.clone()),
            owner_references: Some(vec![owner]),
            ..Default::default()
        },
        spec: template.spec.clone(),
        status: None,
    }
}

/// Whether two templates ask for the same pods, whatever their hash labels say.
#[must_use]
pub(crate) fn same_template(a: &PodTemplateSpec, b: &PodTemplateSpec) -> bool {
    let strip = |t: &PodTemplateSpec| {
        let mut value = crate::controller::json(t);
        if let Some(labels) = value.pointer_mut("/metadata/labels").and_then(Value::as_object_mut) {
            labels.remove(HASH_LABEL);
        }
        prune_empty(&mut value);
        value
    };
    strip(a) == strip(b)
}

/// Fields of a pod template whose zero means the same as their absence (in Go they are no pointers). Other zeros, such
/// as `runAsUser: 0` or `automountServiceAccountToken: false`, are choices.
const ZERO_IS_ABSENT: &[&str] = &[
    "hostIPC",
    "hostNetwork",
    "hostPID",
    "hostPort",
    "initialDelaySeconds",
    "readOnly",
    "stdin",
    "stdinOnce",
    "tty",
];
/// Fields that hold people's own keys, where an empty value is a value.
const OWN_KEYS: &[&str] = &["annotations", "labels", "matchLabels", "nodeSelector"];

/// Takes out what means the same as nothing, so that equal templates look equal however they were written.
fn prune_empty(value: &mut Value) {
    match value {
        Value::Object(map) => {
            map.iter_mut()
                .filter(|(key, _)| !OWN_KEYS.contains(&key.as_str()))
                .for_each(|(_, v)| prune_empty(v));
            map.retain(|key, v| match v {
                Value::Null => false,
                // An empty volume source (emptyDir: {}) or security context is a choice; empty metadata is not.
                Value::Object(m) => {
                    !(m.is_empty()
                        && (key == "metadata" || key == "resources" || OWN_KEYS.contains(&key.as_str())))
                }
                Value::Array(list) => !list.is_empty(),
                Value::String(text) => !text.is_empty(),
                zero => !(ZERO_IS_ABSENT.contains(&key.as_str()) && (*zero == false || *zero == 0)),
            });
        }
        Value::Array(list) => list.iter_mut().for_each(prune_empty),
        _ => {}
    }
}

/// The value of the hash label for a template; a collision counter changes it.
#[must_use]
pub(crate) fn template_hash(template: &PodTemplateSpec, collisions: Option<i32>) -> String {
    let mut value = crate::controller::json(template);
    prune_empty(&mut value);
    let mut hash = fnv1a(0x811c_9dc5, value.to_string().as_bytes());
    if let Some(count) = collisions {
        hash = fnv1a(hash, &count.to_le_bytes());
    }
    hash.to_string().bytes().map(|b| char::from(ALPHABET[usize::from(b) % ALPHABET.len()])).collect()
}

fn fnv1a(start: u32, bytes: &[u8]) -> u32 {
    bytes.iter().fold(start, |hash, b| (hash ^ u32::from(*b)).wrapping_mul(0x0100_0193))
}

/// A number, or a percentage of `total`; `None` when it is neither.
#[must_use]
pub(crate) fn scaled(value: &IntOrString, total: i32, round_up: bool) -> Option<i32> {
    match value {
        IntOrString::Int(n) => Some(*n),
        IntOrString::String(s) => {
            let percent: i64 = s.strip_suffix('%')?.parse().ok()?;
            let product = percent.checked_mul(total.into())?;
            let rounded =
                if round_up { product.saturating_add(99).div_euclid(100) } else { product.div_euclid(100) };
            i32::try_from(rounded).ok()
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn template(value: Value) -> PodTemplateSpec {
        serde_json::from_value(value).unwrap()
    }

    #[test]
    fn hash_is_frozen() {
        let one = template(json!({"metadata": {"labels": {"app": "web"}},
            "spec": {"containers": [{"name": "web", "image": "web:1"}]}}));
        // A different value would make every Deployment roll on an upgrade of this program.
        assert_eq!(template_hash(&one, None), "794686fc5b");
        assert_ne!(template_hash(&one, None), template_hash(&one, Some(1)));
        assert_ne!(template_hash(&one, Some(1)), template_hash(&one, Some(2)));
    }

    #[test]
    fn equality_ignores_the_hash_label() {
        let check = |a: Value, b: Value, expect: bool| {
            assert_eq!(same_template(&template(a), &template(b)), expect);
        };
        let with = |hash: Option<&str>, image: &str| {
            let mut labels = json!({"app": "web"});
            if let Some(h) = hash {
                labels[HASH_LABEL] = json!(h);
            }
            json!({"metadata": {"labels": labels}, "spec": {"containers": [{"name": "web", "image": image}]}})
        };
        check(with(None, "a"), with(Some("x"), "a"), true);
        check(with(Some("y"), "a"), with(Some("x"), "a"), true);
        check(with(None, "a"), with(None, "b"), false);
        let spec = |spec: Value| json!({"spec": spec});
        let plain = || spec(json!({"containers": [{"name": "c"}]}));
        let zeros = json!({"hostNetwork": false, "containers": [{"name": "c", "tty": false, "resources": {}, "env": []}]});
        check(plain(), spec(zeros), true);
        check(plain(), spec(json!({"hostNetwork": true, "containers": [{"name": "c"}]})), false);
        check(
            plain(),
            spec(json!({"automountServiceAccountToken": false, "containers": [{"name": "c"}]})),
            false,
        );
        let label = |value: Value| json!({"metadata": {"labels": value}});
        check(label(json!({"a": ""})), label(json!({})), false);
    }

    #[test]
    fn percentages() {
        let check = |text: &str, total, up, expect| {
            assert_eq!(scaled(&IntOrString::String(text.into()), total, up), expect, "{text} of {total}");
        };
        check("25%", 3, true, Some(1));
        check("25%", 3, false, Some(0));
        check("100%", 7, true, Some(7));
        check("0%", 7, true, Some(0));
        check("x", 7, true, None);
        assert_eq!(scaled(&IntOrString::Int(4), 1, true), Some(4));
    }
}
