//! ConfigMap and Secret: bytes under keys, optionally frozen.

use super::{Strategy, defaults::Row, immutable};
use api::{
    Object,
    field::{FieldError, Path},
    name,
};
use base64::{Engine, prelude::BASE64_STANDARD};
use serde_json::Value;

/// What the values of a ConfigMap or Secret may take together, bytes.
const MAX_SIZE: usize = 1 << 20;

/// Plain configuration.
pub(super) struct ConfigMap;

impl Strategy for ConfigMap {
    fn validate(&self, new: &Object, old: Option<&Object>) -> Vec<FieldError> {
        let mut errors = keys(new, "data");
        errors.extend(keys(new, "binaryData"));
        let twice = new.map_at("data").into_iter().flat_map(|data| data.keys());
        let twice = twice.filter(|key| new.map_at("binaryData").is_some_and(|b| b.contains_key(*key)));
        errors.extend(twice.map(|key| {
            FieldError::invalid(
                &Path::new("data").key(key),
                key.as_str(),
                "duplicate of key present in binaryData",
            )
        }));
        if size(new, "data") + size(new, "binaryData") * 3 / 4 > MAX_SIZE {
            errors.push(FieldError::too_long(&Path::root(), MAX_SIZE));
        }
        errors.extend(frozen(new, old, &["data", "binaryData"]));
        errors
    }
}

/// Configuration that must not be seen by everybody.
pub(super) struct Secret;

impl Strategy for Secret {
    fn rows(&self) -> &'static [Row] {
        &[("type", "\"Opaque\"")]
    }

    fn default(&self, object: &mut Object) {
        super::defaults::fill(object, "", self.rows());
        // stringData is write-only: it is merged into data as bytes.
        if let Some(Value::Object(strings)) = object.0.remove("stringData") {
            for (key, value) in strings {
                let encoded = BASE64_STANDARD.encode(value.as_str().unwrap_or_default());
                super::defaults::visit(object, "data!", &mut |data| {
                    data.insert(key.clone(), encoded.clone().into());
                });
            }
        }
    }

    fn prepare_update(&self, new: &mut Object, old: &Object) {
        if new.str_at("type").is_empty() {
            super::keep(new, old, "type");
        }
    }

    fn validate(&self, new: &Object, old: Option<&Object>) -> Vec<FieldError> {
        let mut errors = keys(new, "data");
        if size(new, "data") * 3 / 4 > MAX_SIZE {
            errors.push(FieldError::too_long(&Path::new("data"), MAX_SIZE));
        }
        let needed: &[&str] = match new.str_at("type") {
            "kubernetes.io/tls" => &["tls.crt", "tls.key"],
            "kubernetes.io/dockerconfigjson" => &[".dockerconfigjson"],
            "kubernetes.io/dockercfg" => &[".dockercfg"],
            "kubernetes.io/ssh-auth" => &["ssh-privatekey"],
            _ => &[],
        };
        let has = |key: &str| new.map_at("data").is_some_and(|data| data.contains_key(key));
        let missing = needed.iter().filter(|key| !has(key));
        errors.extend(missing.map(|key| FieldError::required(&Path::new("data").key(key), "")));
        errors.extend(immutable(new, old, "type"));
        errors.extend(frozen(new, old, &["data"]));
        errors
    }
}

fn keys(object: &Object, field: &str) -> Vec<FieldError> {
    let keys = object.map_at(field).into_iter().flat_map(|map| map.keys());
    let mistakes = |key: &String| {
        let path = Path::new(field).key(key);
        let texts = name::config_map_key(key);
        texts.into_iter().map(|text| FieldError::invalid(&path, key.as_str(), text)).collect::<Vec<_>>()
    };
    keys.flat_map(mistakes).collect()
}

fn size(object: &Object, field: &str) -> usize {
    let values = object.map_at(field).into_iter().flat_map(|map| map.values());
    values.filter_map(Value::as_str).map(str::len).sum()
}

/// Once `immutable` is true, it and the data stay as they are.
fn frozen(new: &Object, old: Option<&Object>, fields: &[&str]) -> Vec<FieldError> {
    let Some(old) = old.filter(|old| old.bool_at("immutable")) else { return Vec::new() };
    let why = "field is immutable when `immutable` is set";
    let mut changed: Vec<&str> = fields.iter().filter(|f| old.get(f) != new.get(f)).copied().collect();
    if !new.bool_at("immutable") {
        changed.insert(0, "immutable");
    }
    changed.into_iter().map(|field| FieldError::forbidden(&Path::new(field), why)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn texts(errors: &[FieldError]) -> Vec<String> {
        errors.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn string_data_becomes_data() {
        let mut secret = Object::try_from(json!({"stringData": {"a": "x"}, "data": {"b": "eQ=="}})).unwrap();
        Secret.default(&mut secret);
        assert_eq!(secret.into_value(), json!({"type": "Opaque", "data": {"a": "eA==", "b": "eQ=="}}));
    }

    #[test]
    fn frozen_data_stays() {
        let old = Object::try_from(json!({"immutable": true, "data": {"a": "1"}})).unwrap();
        let new = Object::try_from(json!({"immutable": true, "data": {"a": "2"}})).unwrap();
        assert_eq!(
            texts(&ConfigMap.validate(&new, Some(&old))),
            ["data: Forbidden: field is immutable when `immutable` is set"]
        );
        assert!(ConfigMap.validate(&old, Some(&old)).is_empty());
    }
}
