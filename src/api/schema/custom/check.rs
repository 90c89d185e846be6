//! Validation of a value by a compiled schema, in Kubernetes' words.

use serde_json::Value;

use super::{super::format, Additional, Node, Trail};
use crate::{
    field::{FieldError, Path},
    object,
};

type Errors = Vec<FieldError>;

/// All mistakes in a value.
pub(super) fn value(node: &Node, value: &Value, at: &Trail<'_>, errors: &mut Errors) {
    if !node.has_type(value) {
        errors.push(wrong_type(node, value, at));
        return;
    }
    if value.is_null() {
        return;
    }
    if !node.options.is_empty() && !node.options.contains(value) {
        let options: Vec<_> = node.options.iter().map(plain).collect();
        errors.push(FieldError::not_supported(&at.path(), value.clone(), &options));
    }
    match value {
        Value::String(text) => self::text(node, text, at, errors),
        Value::Number(n) => number(node, n.as_f64().unwrap_or_default(), value, at, errors),
        Value::Array(items) => list(node, items, at, errors),
        Value::Object(map) => fields(node, map, at, errors),
        _ => {}
    }
    combinations(node, value, at, errors);
}

fn plain(value: &Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), str::to_owned)
}

fn wrong_type(node: &Node, value: &Value, at: &Trail<'_>) -> FieldError {
    let expected = if node.int_or_string { "integer,string" } else { &node.kind };
    let got = object::type_name(value);
    let path = at.path();
    FieldError::type_invalid(&path, got, format!("{} must be of type {expected}: {got:?}", in_body(&path)))
}

/// `spec.replicas in body`; the object itself has no name.
fn in_body(path: &Path) -> String {
    match path.as_str() {
        "" => "in body".to_owned(),
        path => format!("{path} in body"),
    }
}

fn invalid(at: &Trail<'_>, value: &Value, text: &str) -> FieldError {
    let path = at.path();
    FieldError::invalid(&path, value.clone(), format!("{} {text}", in_body(&path)))
}

fn text(node: &Node, text: &str, at: &Trail<'_>, errors: &mut Errors) {
    let value = Value::from(text);
    let length = text.chars().count();
    if let Some(max) = node.length.max.filter(|max| length > *max) {
        errors.push(FieldError::too_long(&at.path(), max));
    }
    if let Some(min) = node.length.min.filter(|min| length < *min) {
        errors.push(invalid(at, &value, &format!("should be at least {min} chars long")));
    }
    if let Some(pattern) = node.pattern.as_ref().filter(|p| !p.is_match(text)) {
        errors.push(invalid(at, &value, &format!("should match '{pattern}'")));
    }
    if !format::fits(&node.format, text) {
        errors.push(invalid(at, &value, &format!("must be of type {}: {text:?}", node.format)));
    }
}

fn number(node: &Node, n: f64, value: &Value, at: &Trail<'_>, errors: &mut Errors) {
    if let Some(min) = node.minimum {
        let (wrong, text) = match node.exclusive_minimum {
            true => (n <= min, "should be greater than"),
            false => (n < min, "should be greater than or equal to"),
        };
        if wrong {
            errors.push(invalid(at, value, &format!("{text} {min}")));
        }
    }
    if let Some(max) = node.maximum {
        let (wrong, text) = match node.exclusive_maximum {
            true => (n >= max, "should be less than"),
            false => (n > max, "should be less than or equal to"),
        };
        if wrong {
            errors.push(invalid(at, value, &format!("{text} {max}")));
        }
    }
    if let Some(of) = node.multiple_of {
        let quotient = n / of;
        if (quotient - quotient.round()).abs() > 1e-9 {
            errors.push(invalid(at, value, &format!("should be a multiple of {of}")));
        }
    }
    let whole = value.as_i64();
    if node.format == "int32" && whole.is_some_and(|n| i32::try_from(n).is_err()) {
        errors.push(invalid(at, value, "must be of type int32"));
    }
}

fn list(node: &Node, items: &[Value], at: &Trail<'_>, errors: &mut Errors) {
    if let Some(max) = node.count.max.filter(|max| items.len() > *max) {
        errors.push(FieldError::too_many(&at.path(), items.len(), max));
    }
    if let Some(min) = node.count.min.filter(|min| items.len() < *min) {
        errors.push(invalid(at, &items.len().into(), &format!("should have at least {min} items")));
    }
    if let Some(of) = &node.items {
        for (i, item) in items.iter().enumerate() {
            value(of, item, &Trail::Index(at, i), errors);
        }
    }
    duplicates(node, items, at, errors);
}

/// Items of a set, and keys of a list that is a map, are unique.
fn duplicates(node: &Node, items: &[Value], at: &Trail<'_>, errors: &mut Errors) {
    let key = |item: &Value| match node.list_type.as_str() {
        "set" => Some(item.to_string()),
        "map" => {
            let keys = node.map_keys.iter().map(|k| (k.clone(), item.get(k).cloned().unwrap_or_default()));
            Some(Value::Object(keys.filter(|(_, v)| !v.is_null()).collect()).to_string())
        }
        _ => None,
    };
    let mut seen = std::collections::HashSet::new();
    for (i, item) in items.iter().enumerate() {
        let Some(key) = key(item) else { return };
        if !seen.insert(key.clone()) {
            let shown = serde_json::from_str::<Value>(&key).unwrap_or_default();
            errors.push(FieldError::duplicate(&at.path().index(i), shown));
        }
    }
}

fn fields(node: &Node, map: &serde_json::Map<String, Value>, at: &Trail<'_>, errors: &mut Errors) {
    if let Some(max) = node.size.max.filter(|max| map.len() > *max) {
        errors.push(FieldError::too_many(&at.path(), map.len(), max));
    }
    if let Some(min) = node.size.min.filter(|min| map.len() < *min) {
        errors.push(invalid(at, &map.len().into(), &format!("should have at least {min} properties")));
    }
    for name in node.required.iter().filter(|name| !map.contains_key(*name)) {
        errors.push(FieldError::required(&at.path().child(name), ""));
    }
    for (name, field) in map {
        match (node.properties.get(name), &node.additional) {
            (Some(of), _) => value(of, field, &Trail::Field(at, name), errors),
            (None, Some(Additional::Values(of))) => value(of, field, &Trail::Field(at, name), errors),
            _ => {}
        }
    }
}

fn fits(node: &Node, of: &Value, at: &Trail<'_>) -> bool {
    let mut errors = Vec::new();
    value(node, of, at, &mut errors);
    errors.is_empty()
}

fn combinations(node: &Node, of: &Value, at: &Trail<'_>, errors: &mut Errors) {
    let mut wrong = |text: String| {
        let path = at.path();
        errors.push(FieldError::invalid(&path, "", format!("{:?} {text}", path.as_str())));
    };
    if !node.any_of.is_empty() && !node.any_of.iter().any(|n| fits(n, of, at)) {
        wrong("must validate at least one schema (anyOf)".to_owned());
    }
    if !node.one_of.is_empty() {
        match node.one_of.iter().filter(|n| fits(n, of, at)).count() {
            1 => {}
            0 => wrong("must validate one and only one schema (oneOf). Found none valid".to_owned()),
            n => {
                wrong(format!("must validate one and only one schema (oneOf). Found {n} valid alternatives"))
            }
        }
    }
    if node.not.as_ref().is_some_and(|n| fits(n, of, at)) {
        wrong("must not validate the schema (not)".to_owned());
    }
    if !node.all_of.iter().all(|n| fits(n, of, at)) {
        wrong("must validate all the schemas (allOf)".to_owned());
    }
    node.all_of.iter().for_each(|n| value(n, of, at, errors));
}
