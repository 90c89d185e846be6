//! What cells of many kinds have in common.

use jiff::Timestamp;
use serde_json::{Map, Value};

use super::CellFn;
use crate::{Object, catalog::Col, time};

pub(super) const NONE: &str = "<none>";
pub(super) const UNSET: &str = "<unset>";
pub(super) const UNKNOWN: &str = "<unknown>";

/// A column of strings.
pub(super) const fn text(name: &'static str, description: &'static str, cell: CellFn) -> Col {
    Col { name, kind: "string", format: "", description, priority: 0, cell }
}

/// A column of integers.
pub(super) const fn number(name: &'static str, description: &'static str, cell: CellFn) -> Col {
    Col { name, kind: "integer", format: "", description, priority: 0, cell }
}

/// A column that only `-o wide` shows.
pub(super) const fn wide(mut col: Col) -> Col {
    col.priority = 1;
    col
}

pub(super) const CONTAINERS: Col =
    wide(text("Containers", "Names of each container in the template.", |o, _| {
        template_field(o, "name").into()
    }));

pub(super) const IMAGES: Col =
    wide(text("Images", "Images referenced by each container in the template.", |o, _| {
        template_field(o, "image").into()
    }));

pub(super) const SELECTOR: Col =
    wide(text("Selector", "Label selector for pods.", |o, _| selector(o.get("spec.selector")).into()));

/// One field of every container of the pod template, separated by commas.
pub(super) fn template_field(object: &Object, field: &str) -> String {
    let template = [
        "spec.template.spec.containers",
        "spec.jobTemplate.spec.template.spec.containers",
        "template.spec.containers",
    ];
    let containers =
        template.iter().map(|path| object.list_at(path)).find(|l| !l.is_empty()).unwrap_or_default();
    containers.iter().map(|c| str_of(c, field)).collect::<Vec<_>>().join(",")
}

/// The string in a field of a value, "" when absent.
pub(super) fn str_of<'a>(value: &'a Value, field: &str) -> &'a str {
    value.get(field).and_then(Value::as_str).unwrap_or_default()
}

/// The integer in a field of a value, 0 when absent.
pub(super) fn int_of(value: &Value, field: &str) -> i64 {
    value.get(field).and_then(Value::as_i64).unwrap_or_default()
}

/// A scalar as text.
pub(super) fn plain(value: &Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), str::to_owned)
}

/// The scalar at a path as text, or another text when it is absent or empty.
pub(super) fn or(object: &Object, path: &str, absent: &str) -> Value {
    match object.get(path) {
        None | Some(Value::Null) => absent.into(),
        Some(Value::String(s)) if s.is_empty() => absent.into(),
        Some(value) => plain(value).into(),
    }
}

/// The integer at a path, 0 when absent.
pub(super) fn int(object: &Object, path: &str) -> Value {
    object.i64_at(path).unwrap_or_default().into()
}

/// `k=v,k=v`, or `<none>`.
pub(super) fn labels(map: Option<&Map<String, Value>>) -> String {
    let pairs: Vec<_> = map.into_iter().flatten().map(|(k, v)| format!("{k}={}", plain(v))).collect();
    if pairs.is_empty() { NONE.to_owned() } else { pairs.join(",") }
}

/// A label selector, in either form.
pub(super) fn selector(value: Option<&Value>) -> String {
    let Some(map) = value.and_then(Value::as_object) else { return NONE.to_owned() };
    let structured = map.contains_key("matchLabels") || map.contains_key("matchExpressions");
    if !structured {
        return labels(Some(map));
    }
    let parsed = crate::selector::LabelSelector::from_value(value);
    match parsed.map(|s| equalities(&s)) {
        Ok(text) if text.is_empty() => NONE.to_owned(),
        Ok(text) => text,
        Err(_) => "<error>".to_owned(),
    }
}

/// `matchLabels` as `k=v`, as upstream's formatter has it.
fn equalities(selector: &crate::selector::LabelSelector) -> String {
    use crate::selector::Operator;
    let requirement = |r: &crate::selector::Requirement| match (r.operator, r.values.as_slice()) {
        (Operator::In, [one]) => format!("{}={one}", r.key),
        _ => r.to_string(),
    };
    selector.requirements().iter().map(requirement).collect::<Vec<_>>().join(",")
}

/// How long ago a time at a path was.
pub(super) fn since(object: &Object, path: &str, now: Timestamp) -> String {
    time::age(object.get(path).and_then(Value::as_str), now)
}

/// The condition of this type.
pub(super) fn condition<'a>(object: &'a Object, kind: &str) -> Option<&'a Value> {
    object.list_at("status.conditions").iter().find(|c| str_of(c, "type") == kind)
}

/// Whether the condition of this type is true.
pub(super) fn is_true(object: &Object, kind: &str) -> bool {
    condition(object, kind).is_some_and(|c| str_of(c, "status") == "True")
}

/// Texts joined by commas, or another text when there are none.
pub(super) fn join_or(texts: impl IntoIterator<Item = String>, absent: &str) -> String {
    let all: Vec<_> = texts.into_iter().collect();
    if all.is_empty() { absent.to_owned() } else { all.join(",") }
}

/// The first few texts, and how many more there are.
pub(super) fn first_few(all: &[String], few: usize) -> String {
    match all {
        [] => NONE.to_owned(),
        all if all.len() <= few => all.join(","),
        all => format!("{} + {} more...", all[..few].join(","), all.len() - few),
    }
}
