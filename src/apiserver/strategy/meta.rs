//! The metadata that every kind has: names, labels, annotations, owners, finalizers, and what an update may not
//! change.

use super::Strategy;
use api::{
    Object, Resource,
    field::{FieldError, Path},
    name,
};
use serde_json::Value;

/// What all annotations of an object may take together, bytes.
const MAX_ANNOTATIONS: usize = 256 << 10;

pub(super) fn validate(
    resource: &Resource,
    strategy: &dyn Strategy,
    new: &Object,
    old: Option<&Object>,
) -> Vec<FieldError> {
    let path = Path::new("metadata");
    let mut errors = match old {
        None => names(strategy, new, &path),
        Some(old) => unchanged(resource, new, old, &path),
    };
    errors.extend(labels(new.labels(), &path.child("labels")));
    errors.extend(annotations(new, &path.child("annotations")));
    errors.extend(finalizers(new, &path.child("finalizers")));
    errors.extend(owners(new, &path.child("ownerReferences")));
    errors
}

fn names(strategy: &dyn Strategy, new: &Object, path: &Path) -> Vec<FieldError> {
    let check = |field: &str, value: &str, sample: &str| {
        let path = path.child(field);
        let texts = strategy.check_name(sample).into_iter();
        texts.map(|text| FieldError::invalid(&path, value, text)).collect::<Vec<_>>()
    };
    let mut errors = Vec::new();
    if !new.generate_name().is_empty() {
        // Whatever five characters follow, the prefix may end in what a name may not end in.
        let sample = format!("{}a", new.generate_name().trim_end_matches(['-', '.']));
        errors.extend(check("generateName", new.generate_name(), &sample));
    }
    match new.name() {
        "" => errors.push(FieldError::required(&path.child("name"), "name or generateName is required")),
        name => errors.extend(check("name", name, name)),
    }
    errors
}

fn unchanged(resource: &Resource, new: &Object, old: &Object, path: &Path) -> Vec<FieldError> {
    let mut fields = vec!["name", "uid", "creationTimestamp", "deletionTimestamp"];
    if resource.namespaced {
        fields.push("namespace");
    }
    let value = |o: &Object, field: &str| o.get(&format!("metadata.{field}")).cloned().unwrap_or(Value::Null);
    let changed = fields.into_iter().filter(|field| value(new, field) != value(old, field));
    changed
        .map(|field| FieldError::invalid(&path.child(field), value(new, field), "field is immutable"))
        .collect()
}

/// Mistakes in a map of labels.
pub(super) fn labels(labels: Option<&serde_json::Map<String, Value>>, path: &Path) -> Vec<FieldError> {
    let mut errors = Vec::new();
    for (key, value) in labels.into_iter().flatten() {
        let value = value.as_str().unwrap_or_default();
        let keys = name::qualified_name(key).into_iter();
        errors.extend(keys.map(|text| FieldError::invalid(path, key.as_str(), text)));
        let values = name::label_value(value).into_iter();
        errors.extend(values.map(|text| FieldError::invalid(path, value, text)));
    }
    errors
}

fn annotations(new: &Object, path: &Path) -> Vec<FieldError> {
    let mut errors = Vec::new();
    let mut size = 0;
    for (key, value) in new.annotations().into_iter().flatten() {
        size += key.len() + value.as_str().map_or(0, str::len);
        let texts = name::qualified_name(&key.to_lowercase()).into_iter();
        errors.extend(texts.map(|text| FieldError::invalid(path, key.as_str(), text)));
    }
    if size > MAX_ANNOTATIONS {
        errors.push(FieldError::too_long(path, MAX_ANNOTATIONS));
    }
    errors
}

fn finalizers(new: &Object, path: &Path) -> Vec<FieldError> {
    let mistakes = new.finalizers().flat_map(|finalizer| {
        let texts = name::qualified_name(finalizer).into_iter();
        texts.map(|text| FieldError::invalid(path, finalizer, text)).collect::<Vec<_>>()
    });
    mistakes.collect()
}

fn owners(new: &Object, path: &Path) -> Vec<FieldError> {
    let mut errors = Vec::new();
    for (i, owner) in new.owner_references().enumerate() {
        for (field, empty) in [
            ("apiVersion", "version must not be empty"),
            ("kind", "must not be empty"),
            ("name", "must not be empty"),
            ("uid", "must not be empty"),
        ] {
            let value = owner.get(field).and_then(Value::as_str).unwrap_or_default();
            if value.is_empty() {
                errors.push(FieldError::invalid(&path.index(i).child(field), value, empty));
            }
        }
    }
    let controllers: Vec<&str> = new
        .owner_references()
        .filter(|owner| owner.get("controller") == Some(&Value::Bool(true)))
        .filter_map(|owner| owner.get("name").and_then(Value::as_str))
        .collect();
    if let [first, second, ..] = controllers[..] {
        let text = format!(
            "Only one reference can have Controller set to true. Found \"true\" in references for {first} and {second}"
        );
        errors.push(FieldError::invalid(path, Value::Null, text));
    }
    errors
}
