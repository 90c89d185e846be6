//! Whether a CRD's schema is structural: every value has a type, and nothing that cannot be checked quickly.

use serde_json::Value;

use crate::field::{FieldError, Path};

const TYPES: [&str; 6] = ["array", "boolean", "integer", "number", "object", "string"];
const FORBIDDEN: [&str; 6] = ["$ref", "definitions", "dependencies", "deprecated", "id", "patternProperties"];

/// The mistakes in a schema.
pub(super) fn check(schema: &Value, path: &Path) -> Vec<FieldError> {
    let mut errors = Vec::new();
    match schema["type"].as_str().unwrap_or_default() {
        "object" => {}
        "" => errors.push(FieldError::required(&path.child("type"), "must not be empty at the root")),
        other => errors.push(FieldError::invalid(&path.child("type"), other, "must be object at the root")),
    }
    walk(schema, path, &mut errors);
    errors
}

fn walk(schema: &Value, path: &Path, errors: &mut Vec<FieldError>) {
    let kind = schema["type"].as_str().unwrap_or_default();
    if !kind.is_empty() && !TYPES.contains(&kind) {
        errors.push(FieldError::not_supported(&path.child("type"), kind, &TYPES));
    }
    for word in FORBIDDEN.iter().filter(|word| schema.get(**word).is_some_and(|v| !v.is_null())) {
        errors.push(FieldError::forbidden(&path.child(word), format!("{word} is not supported")));
    }
    if schema["uniqueItems"] == true {
        let text = "uniqueItems cannot be set to true since the runtime complexity becomes quadratic";
        errors.push(FieldError::forbidden(&path.child("uniqueItems"), text));
    }
    if kind == "array" && schema.get("items").is_none() {
        errors.push(FieldError::required(&path.child("items"), "must be specified"));
    }
    let map = schema["properties"].as_object();
    if map.is_some() && schema.get("additionalProperties").is_some_and(|a| *a != false) {
        let text = "additionalProperties and properties are mutual exclusive";
        errors.push(FieldError::forbidden(&path.child("additionalProperties"), text));
    }
    children(schema, path, errors);
}

fn children(schema: &Value, path: &Path, errors: &mut Vec<FieldError>) {
    for (name, property) in schema["properties"].as_object().into_iter().flatten() {
        typed(property, &path.child("properties").key(name), "specified object fields", errors);
    }
    match &schema["items"] {
        Value::Array(_) => {
            let text = "items must be a schema object and not an array";
            errors.push(FieldError::forbidden(&path.child("items"), text));
        }
        items @ Value::Object(_) => typed(items, &path.child("items"), "specified array items", errors),
        _ => {}
    }
    if let values @ Value::Object(_) = &schema["additionalProperties"] {
        typed(values, &path.child("additionalProperties"), "specified object fields", errors);
    }
}

fn typed(schema: &Value, path: &Path, what: &str, errors: &mut Vec<FieldError>) {
    let free = ["x-kubernetes-int-or-string", "x-kubernetes-preserve-unknown-fields"];
    let typeless = free.iter().any(|word| schema[*word] == true);
    if schema["type"].as_str().unwrap_or_default().is_empty() && !typeless {
        errors.push(FieldError::required(&path.child("type"), format!("must not be empty for {what}")));
    }
    walk(schema, path, errors);
}
