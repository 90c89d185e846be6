//! Label selectors and node selectors, compiled once and matched often.
//!
//! Keeps true: an absent selector matches nothing, an empty one everything, as in Kubernetes.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{NodeSelector, NodeSelectorRequirement, NodeSelectorTerm};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;

/// Labels of an object.
pub(crate) type Labels = BTreeMap<String, String>;

/// One condition on one label.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Requirement {
    key: String,
    test: Test,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Test {
    In(Vec<String>),
    NotIn(Vec<String>),
    Exists,
    DoesNotExist,
    Gt(i64),
    Lt(i64),
    /// An operator or a value that nobody can satisfy.
    Never,
}

impl Requirement {
    fn new(key: &str, operator: &str, values: &[String]) -> Self {
        let number = || values.first().and_then(|v| v.parse().ok());
        let test = match operator {
            "In" => Test::In(values.to_vec()),
            "NotIn" => Test::NotIn(values.to_vec()),
            "Exists" => Test::Exists,
            "DoesNotExist" => Test::DoesNotExist,
            "Gt" => number().map_or(Test::Never, Test::Gt),
            "Lt" => number().map_or(Test::Never, Test::Lt),
            _ => Test::Never,
        };
        Self { key: key.to_owned(), test }
    }

    fn holds(&self, value: Option<&str>) -> bool {
        let number = || value.and_then(|v| v.parse::<i64>().ok());
        match &self.test {
            Test::In(values) => value.is_some_and(|v| values.iter().any(|x| x == v)),
            Test::NotIn(values) => value.is_none_or(|v| values.iter().all(|x| x != v)),
            Test::Exists => value.is_some(),
            Test::DoesNotExist => value.is_none(),
            Test::Gt(limit) => number().is_some_and(|n| n > *limit),
            Test::Lt(limit) => number().is_some_and(|n| n < *limit),
            Test::Never => false,
        }
    }
}

/// A compiled label selector. `None` inside: matches nothing.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Selector(Option<Vec<Requirement>>);

impl Selector {
    /// Compiles the object form.
    pub(crate) fn new(selector: Option<&LabelSelector>) -> Self {
        Self(selector.map(|selector| {
            let labels = selector.match_labels.iter().flatten();
            let equal = labels.map(|(k, v)| Requirement::new(k, "In", std::slice::from_ref(v)));
            let expressions = selector.match_expressions.iter().flatten();
            let others = expressions
                .map(|e| Requirement::new(&e.key, &e.operator, e.values.as_deref().unwrap_or(&[])));
            equal.chain(others).collect()
        }))
    }

    /// Compiles the map form of a Service; an empty map selects nothing.
    pub(crate) fn from_map(labels: &Labels) -> Self {
        if labels.is_empty() {
            return Self(None);
        }
        Self(Some(labels.iter().map(|(k, v)| Requirement::new(k, "In", std::slice::from_ref(v))).collect()))
    }

    /// The same selector that also wants label `key` to be (`equal`) or not to be `value`.
    pub(crate) fn and(mut self, key: &str, value: &str, equal: bool) -> Self {
        if let Some(requirements) = &mut self.0 {
            let operator = if equal { "In" } else { "NotIn" };
            requirements.push(Requirement::new(key, operator, &[value.to_owned()]));
        }
        self
    }

    /// Whether labels satisfy the selector.
    pub(crate) fn matches(&self, labels: &Labels) -> bool {
        self.0.as_ref().is_some_and(|all| all.iter().all(|r| r.holds(labels.get(&r.key).map(String::as_str))))
    }
}

/// Whether a node, given by name and labels, satisfies one of the terms.
pub(crate) fn node_selector_matches(selector: &NodeSelector, name: &str, labels: &Labels) -> bool {
    selector.node_selector_terms.iter().any(|term| node_term_matches(term, name, labels))
}

/// Whether a node satisfies one term; an empty term matches no node.
pub(crate) fn node_term_matches(term: &NodeSelectorTerm, name: &str, labels: &Labels) -> bool {
    let expressions = term.match_expressions.as_deref().unwrap_or(&[]);
    let fields = term.match_fields.as_deref().unwrap_or(&[]);
    if expressions.is_empty() && fields.is_empty() {
        return false;
    }
    let holds = |r: &NodeSelectorRequirement, value: Option<&str>| {
        Requirement::new(&r.key, &r.operator, r.values.as_deref().unwrap_or(&[])).holds(value)
    };
    expressions.iter().all(|r| holds(r, labels.get(&r.key).map(String::as_str)))
        && fields.iter().all(|r| r.key == "metadata.name" && holds(r, Some(name)))
}

#[cfg(test)]
mod tests {
    use super::{Labels, Selector, node_selector_matches};

    fn labels(pairs: &[(&str, &str)]) -> Labels {
        pairs.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect()
    }

    #[test]
    fn label_selectors_match_as_documented() {
        let check = |selector: serde_json::Value, on: &[(&str, &str)], expect: bool| {
            let parsed: Option<_> = serde_json::from_value(selector.clone()).unwrap();
            assert_eq!(Selector::new(parsed.as_ref()).matches(&labels(on)), expect, "{selector} on {on:?}");
        };
        check(serde_json::json!(null), &[("a", "b")], false);
        check(serde_json::json!({}), &[("a", "b")], true);
        check(serde_json::json!({"matchLabels": {"a": "b"}}), &[("a", "b")], true);
        check(serde_json::json!({"matchLabels": {"a": "b"}}), &[("a", "c")], false);
        check(
            serde_json::json!({"matchExpressions": [{"key": "a", "operator": "NotIn", "values": ["b"]}]}),
            &[],
            true,
        );
        check(serde_json::json!({"matchExpressions": [{"key": "a", "operator": "Exists"}]}), &[], false);
        check(serde_json::json!({"matchExpressions": [{"key": "a", "operator": "DoesNotExist"}]}), &[], true);
        check(
            serde_json::json!({"matchExpressions": [{"key": "a", "operator": "Odd"}]}),
            &[("a", "1")],
            false,
        );
    }

    #[test]
    fn node_selectors_match_as_documented() {
        let check = |term: serde_json::Value, expect: bool| {
            let selector = serde_json::from_value(serde_json::json!({"nodeSelectorTerms": [term]})).unwrap();
            assert_eq!(node_selector_matches(&selector, "w1", &labels(&[("gen", "7")])), expect, "{term}");
        };
        check(serde_json::json!({}), false);
        check(
            serde_json::json!({"matchExpressions": [{"key": "gen", "operator": "Gt", "values": ["6"]}]}),
            true,
        );
        check(
            serde_json::json!({"matchExpressions": [{"key": "gen", "operator": "Lt", "values": ["6"]}]}),
            false,
        );
        check(
            serde_json::json!({"matchFields": [{"key": "metadata.name", "operator": "In", "values": ["w1"]}]}),
            true,
        );
        check(
            serde_json::json!({"matchFields": [{"key": "metadata.name", "operator": "In", "values": ["w2"]}]}),
            false,
        );
    }
}
