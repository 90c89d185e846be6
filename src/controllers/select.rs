//! Label selectors of the object form.
//!
//! Keeps true: a selector that cannot be understood matches nothing (never everything).

use std::collections::BTreeMap;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{LabelSelector, ObjectMeta};

/// Labels of an object.
pub(crate) type Labels = BTreeMap<String, String>;

/// Whether a selector selects nothing in particular, that is: everything.
#[must_use]
pub(crate) fn is_empty(selector: &LabelSelector) -> bool {
    selector.match_labels.as_ref().is_none_or(BTreeMap::is_empty)
        && selector.match_expressions.as_ref().is_none_or(Vec::is_empty)
}

/// Whether the labels satisfy every requirement.
#[must_use]
pub(crate) fn matches(selector: &LabelSelector, labels: Option<&Labels>) -> bool {
    let value = |key: &str| labels.and_then(|l| l.get(key));
    let pairs = selector.match_labels.iter().flatten().all(|(k, v)| value(k) == Some(v));
    pairs
        && selector.match_expressions.iter().flatten().all(|r| {
            let values = r.values.as_deref().unwrap_or_default();
            let is_one = value(&r.key).is_some_and(|v| values.contains(v));
            match r.operator.as_str() {
                "In" => is_one,
                "NotIn" => !is_one,
                "Exists" => value(&r.key).is_some(),
                "DoesNotExist" => value(&r.key).is_none(),
                _ => false,
            }
        })
}

/// Whether the object's labels contain every pair (a Service's or ReplicationController's selector).
#[must_use]
pub(crate) fn contains(selector: &Labels, meta: &ObjectMeta) -> bool {
    selector.iter().all(|(k, v)| meta.labels.as_ref().and_then(|l| l.get(k)) == Some(v))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn selectors() {
        let check = |selector: serde_json::Value, labels: serde_json::Value, expect: bool| {
            let parsed: LabelSelector = serde_json::from_value(selector.clone()).unwrap();
            let labels: Labels = serde_json::from_value(labels).unwrap();
            assert_eq!(matches(&parsed, Some(&labels)), expect, "{selector} {labels:?}");
        };
        let expression = |op: &str, values: &[&str]| json!({"matchExpressions": [{"key": "a", "operator": op, "values": values}]});
        check(json!({"matchLabels": {"a": "1"}}), json!({"a": "1", "b": "2"}), true);
        check(json!({"matchLabels": {"a": "1"}}), json!({"b": "2"}), false);
        check(json!({}), json!({}), true);
        check(expression("In", &["1", "2"]), json!({"a": "2"}), true);
        check(expression("In", &["1", "2"]), json!({}), false);
        check(expression("NotIn", &["1"]), json!({"a": "1"}), false);
        check(expression("NotIn", &["1"]), json!({}), true);
        check(expression("Exists", &[]), json!({"a": ""}), true);
        check(expression("DoesNotExist", &[]), json!({"a": ""}), false);
        check(expression("Nonsense", &[]), json!({"a": ""}), false);
    }
}
