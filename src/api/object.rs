//! `Object`: one API object as a JSON tree, with accessors for the metadata that every kind has.
//!
//! Keeps true: accessors never copy and never fail; a field of the wrong type reads as absent. Whether a
//! tree is valid for its kind is left to `schema`.

use bytes::Bytes;
use serde::de::{Deserialize, Deserializer, Error as _, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Value};

use crate::{Result, Status};

/// An API object: a JSON object, as it is stored and sent.
#[derive(Clone, Debug, Default, PartialEq, serde::Serialize, serde::Deserialize)]
#[serde(transparent)]
pub struct Object(pub Map<String, Value>);

impl Object {
    /// An empty object of the given type.
    pub fn new(api_version: &str, kind: &str) -> Self {
        let mut map = Map::new();
        map.insert("apiVersion".into(), api_version.into());
        map.insert("kind".into(), kind.into());
        map.insert("metadata".into(), Value::Object(Map::new()));
        Self(map)
    }

    /// Parses JSON. The last of duplicate fields wins.
    ///
    /// # Errors
    /// 400 when the bytes are not JSON or not a JSON object.
    pub fn from_slice(bytes: &[u8]) -> Result<Self> {
        serde_json::from_slice(bytes).map(Self).map_err(|e| malformed(&e))
    }

    /// Parses JSON and also returns the paths of duplicate fields, as `fieldValidation=Strict` wants them
    /// (`spec.containers[0].name`).
    ///
    /// # Errors
    /// 400 when the bytes are not JSON or not a JSON object.
    pub fn from_slice_strict(bytes: &[u8]) -> Result<(Self, Vec<String>)> {
        let parsed: Tracked = serde_json::from_slice(bytes).map_err(|e| malformed(&e))?;
        let mut paths = Vec::new();
        let value = parsed.finish(&mut String::new(), &mut paths);
        Ok((Self::try_from(value)?, paths))
    }

    /// The canonical JSON of this object.
    pub fn to_bytes(&self) -> Bytes {
        serde_json::to_vec(&self.0).expect("a JSON tree with string keys always serialises").into()
    }

    /// `apiVersion`, or "" when absent.
    pub fn api_version(&self) -> &str {
        self.top("apiVersion")
    }

    /// `kind`, or "" when absent.
    pub fn kind(&self) -> &str {
        self.top("kind")
    }

    /// `metadata.name`, or "" when absent.
    pub fn name(&self) -> &str {
        self.meta_str("name")
    }

    /// `metadata.generateName`, or "" when absent.
    pub fn generate_name(&self) -> &str {
        self.meta_str("generateName")
    }

    /// `metadata.namespace`, or "" when absent.
    pub fn namespace(&self) -> &str {
        self.meta_str("namespace")
    }

    /// `metadata.uid`, or "" when absent.
    pub fn uid(&self) -> &str {
        self.meta_str("uid")
    }

    /// `metadata.resourceVersion`, or "" when absent.
    pub fn resource_version(&self) -> &str {
        self.meta_str("resourceVersion")
    }

    /// `metadata.generation`, or 0 when absent.
    pub fn generation(&self) -> i64 {
        self.meta("generation").and_then(Value::as_i64).unwrap_or(0)
    }

    /// `metadata.creationTimestamp`, or "" when absent.
    pub fn creation_timestamp(&self) -> &str {
        self.meta_str("creationTimestamp")
    }

    /// `metadata.deletionTimestamp` when the object is being deleted.
    pub fn deletion_timestamp(&self) -> Option<&str> {
        self.meta("deletionTimestamp").and_then(Value::as_str)
    }

    /// `metadata.deletionGracePeriodSeconds`, seconds.
    pub fn deletion_grace_period_seconds(&self) -> Option<i64> {
        self.meta("deletionGracePeriodSeconds").and_then(Value::as_i64)
    }

    /// `metadata.labels`.
    pub fn labels(&self) -> Option<&Map<String, Value>> {
        self.meta("labels").and_then(Value::as_object)
    }

    /// The value of one label.
    pub fn label(&self, key: &str) -> Option<&str> {
        self.labels()?.get(key)?.as_str()
    }

    /// `metadata.annotations`.
    pub fn annotations(&self) -> Option<&Map<String, Value>> {
        self.meta("annotations").and_then(Value::as_object)
    }

    /// The value of one annotation.
    pub fn annotation(&self, key: &str) -> Option<&str> {
        self.annotations()?.get(key)?.as_str()
    }

    /// Sets one annotation.
    pub fn set_annotation(&mut self, key: &str, value: &str) {
        let slot = self.metadata_mut().entry("annotations").or_insert(Value::Null);
        as_map(slot).insert(key.into(), value.into());
    }

    /// `metadata.finalizers`, in order.
    pub fn finalizers(&self) -> impl Iterator<Item = &str> {
        self.meta("finalizers").and_then(Value::as_array).into_iter().flatten().filter_map(Value::as_str)
    }

    /// `metadata.ownerReferences`, in order.
    pub fn owner_references(&self) -> impl Iterator<Item = &Map<String, Value>> {
        let list = self.meta("ownerReferences").and_then(Value::as_array);
        list.into_iter().flatten().filter_map(Value::as_object)
    }

    /// The owner reference with `controller: true`.
    pub fn controller(&self) -> Option<&Map<String, Value>> {
        self.owner_references().find(|r| r.get("controller") == Some(&Value::Bool(true)))
    }

    /// `metadata` for writing; made when it is absent.
    pub fn metadata_mut(&mut self) -> &mut Map<String, Value> {
        as_map(self.0.entry("metadata").or_insert(Value::Null))
    }

    /// Sets `metadata.FIELD`.
    pub fn set_meta(&mut self, field: &str, value: impl Into<Value>) {
        self.metadata_mut().insert(field.into(), value.into());
    }

    /// Sets `metadata.name`.
    pub fn set_name(&mut self, name: &str) {
        self.set_meta("name", name);
    }

    /// Sets `metadata.namespace`; an empty one is removed.
    pub fn set_namespace(&mut self, namespace: &str) {
        if namespace.is_empty() {
            self.metadata_mut().remove("namespace");
        } else {
            self.set_meta("namespace", namespace);
        }
    }

    /// Sets `metadata.resourceVersion`; an empty one is removed.
    pub fn set_resource_version(&mut self, version: &str) {
        if version.is_empty() {
            self.metadata_mut().remove("resourceVersion");
        } else {
            self.set_meta("resourceVersion", version);
        }
    }

    /// The value at a dotted path (`spec.nodeName`). List items are not addressed: take the list.
    pub fn get(&self, path: &str) -> Option<&Value> {
        let mut parts = path.split('.');
        let mut at = self.0.get(parts.next()?)?;
        for part in parts {
            at = at.as_object()?.get(part)?;
        }
        Some(at)
    }

    /// The value at a dotted path, for writing.
    pub fn get_mut(&mut self, path: &str) -> Option<&mut Value> {
        let mut parts = path.split('.');
        let mut at = self.0.get_mut(parts.next()?)?;
        for part in parts {
            at = at.as_object_mut()?.get_mut(part)?;
        }
        Some(at)
    }

    /// The string at a dotted path, "" when absent.
    pub fn str_at(&self, path: &str) -> &str {
        self.get(path).and_then(Value::as_str).unwrap_or_default()
    }

    /// The integer at a dotted path.
    pub fn i64_at(&self, path: &str) -> Option<i64> {
        self.get(path).and_then(Value::as_i64)
    }

    /// The boolean at a dotted path, false when absent.
    pub fn bool_at(&self, path: &str) -> bool {
        self.get(path).and_then(Value::as_bool).unwrap_or_default()
    }

    /// The list at a dotted path, empty when absent.
    pub fn list_at(&self, path: &str) -> &[Value] {
        self.get(path).and_then(Value::as_array).map_or(&[], Vec::as_slice)
    }

    /// The object at a dotted path.
    pub fn map_at(&self, path: &str) -> Option<&Map<String, Value>> {
        self.get(path).and_then(Value::as_object)
    }

    /// Sets the value at a dotted path; objects on the way are made, anything else on the way is replaced.
    pub fn set(&mut self, path: &str, value: impl Into<Value>) {
        let (parents, last) = path.rsplit_once('.').unwrap_or(("", path));
        let mut map = &mut self.0;
        for part in parents.split('.').filter(|p| !p.is_empty()) {
            map = as_map(map.entry(part).or_insert(Value::Null));
        }
        map.insert(last.into(), value.into());
    }

    /// Removes and returns the value at a dotted path.
    pub fn remove(&mut self, path: &str) -> Option<Value> {
        match path.rsplit_once('.') {
            None => self.0.remove(path),
            Some((parent, last)) => self.get_mut(parent)?.as_object_mut()?.remove(last),
        }
    }

    /// This object as a JSON value.
    pub fn into_value(self) -> Value {
        Value::Object(self.0)
    }

    fn top(&self, field: &str) -> &str {
        self.0.get(field).and_then(Value::as_str).unwrap_or_default()
    }

    fn meta(&self, field: &str) -> Option<&Value> {
        self.0.get("metadata")?.as_object()?.get(field)
    }

    fn meta_str(&self, field: &str) -> &str {
        self.meta(field).and_then(Value::as_str).unwrap_or_default()
    }
}

impl TryFrom<Value> for Object {
    type Error = Status;

    fn try_from(value: Value) -> Result<Self> {
        match value {
            Value::Object(map) => Ok(Self(map)),
            other => Err(Status::bad_request(format!("expected a JSON object, got {}", type_name(&other)))),
        }
    }
}

impl From<Object> for Value {
    fn from(object: Object) -> Self {
        Self::Object(object.0)
    }
}

/// The JSON type of a value, as error texts name it.
pub fn type_name(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "boolean",
        Value::Number(n) if n.is_f64() => "number",
        Value::Number(_) => "integer",
        Value::String(_) => "string",
        Value::Array(_) => "array",
        Value::Object(_) => "object",
    }
}

fn malformed(error: &serde_json::Error) -> Status {
    Status::bad_request(format!("couldn't get version/kind; json parse error: {error}"))
}

/// The map in a slot; whatever else was there is replaced by an empty one.
fn as_map(slot: &mut Value) -> &mut Map<String, Value> {
    if !slot.is_object() {
        *slot = Value::Object(Map::new());
    }
    slot.as_object_mut().expect("it was made an object above")
}

/// A JSON value that still knows which of its fields came twice.
enum Tracked {
    Leaf(Value),
    List(Vec<Tracked>),
    Map(Vec<(String, Tracked)>),
}

impl Tracked {
    fn finish(self, path: &mut String, duplicates: &mut Vec<String>) -> Value {
        let length = path.len();
        match self {
            Self::Leaf(value) => value,
            Self::List(items) => {
                let mut list = Vec::with_capacity(items.len());
                for (i, item) in items.into_iter().enumerate() {
                    path.push_str(&format!("[{i}]"));
                    list.push(item.finish(path, duplicates));
                    path.truncate(length);
                }
                Value::Array(list)
            }
            Self::Map(fields) => {
                let mut map = Map::new();
                for (key, field) in fields {
                    if length > 0 {
                        path.push('.');
                    }
                    path.push_str(&key);
                    let value = field.finish(path, duplicates);
                    if map.insert(key, value).is_some() && !duplicates.contains(path) {
                        duplicates.push(path.clone());
                    }
                    path.truncate(length);
                }
                Value::Object(map)
            }
        }
    }
}

impl<'de> Deserialize<'de> for Tracked {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> std::result::Result<Self, D::Error> {
        deserializer.deserialize_any(TrackedVisitor)
    }
}

struct TrackedVisitor;

impl<'de> Visitor<'de> for TrackedVisitor {
    type Value = Tracked;

    fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("a JSON value")
    }

    fn visit_unit<E>(self) -> std::result::Result<Tracked, E> {
        Ok(Tracked::Leaf(Value::Null))
    }

    fn visit_bool<E>(self, v: bool) -> std::result::Result<Tracked, E> {
        Ok(Tracked::Leaf(v.into()))
    }

    fn visit_i64<E>(self, v: i64) -> std::result::Result<Tracked, E> {
        Ok(Tracked::Leaf(v.into()))
    }

    fn visit_u64<E>(self, v: u64) -> std::result::Result<Tracked, E> {
        Ok(Tracked::Leaf(v.into()))
    }

    fn visit_f64<E: serde::de::Error>(self, v: f64) -> std::result::Result<Tracked, E> {
        let number = serde_json::Number::from_f64(v).ok_or_else(|| E::custom("number out of range"))?;
        Ok(Tracked::Leaf(Value::Number(number)))
    }

    fn visit_str<E>(self, v: &str) -> std::result::Result<Tracked, E> {
        Ok(Tracked::Leaf(v.into()))
    }

    fn visit_string<E>(self, v: String) -> std::result::Result<Tracked, E> {
        Ok(Tracked::Leaf(v.into()))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> std::result::Result<Tracked, A::Error> {
        let mut items = Vec::new();
        while let Some(item) = seq.next_element()? {
            items.push(item);
        }
        Ok(Tracked::List(items))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> std::result::Result<Tracked, A::Error> {
        let mut fields = Vec::new();
        while let Some(entry) = map.next_entry::<String, Tracked>()? {
            if fields.len() >= 1 << 20 {
                return Err(A::Error::custom("too many fields"));
            }
            fields.push(entry);
        }
        Ok(Tracked::Map(fields))
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn paths() {
        let mut o = Object::try_from(json!({"spec": {"nodeName": "w1", "n": 3, "l": [1]}})).unwrap();
        assert_eq!(o.str_at("spec.nodeName"), "w1");
        assert_eq!(o.i64_at("spec.n"), Some(3));
        assert_eq!(o.list_at("spec.l").len(), 1);
        assert_eq!(o.get("spec.nodeName.x"), None);
        o.set("status.a.b", 1);
        assert_eq!(o.i64_at("status.a.b"), Some(1));
        assert_eq!(o.remove("status.a.b"), Some(json!(1)));
        assert_eq!(o.get("status.a"), Some(&json!({})));
        o.set_name("x");
        assert_eq!(o.name(), "x");
    }

    #[test]
    fn duplicates_are_reported_with_their_paths() {
        let text = br#"{"a":1,"a":2,"s":{"c":[{"n":1},{"n":1,"n":2.5}]}}"#;
        let (o, duplicates) = Object::from_slice_strict(text).unwrap();
        assert_eq!(duplicates, ["a", "s.c[1].n"]);
        assert_eq!(o.into_value(), json!({"a": 2, "s": {"c": [{"n": 1}, {"n": 2.5}]}}));
        assert_eq!(Object::from_slice(b"[]").unwrap_err().code(), 400);
        assert_eq!(Object::from_slice(b"{").unwrap_err().code(), 400);
    }
}
