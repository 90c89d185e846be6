//! Kubernetes' protobuf bodies → JSON: what Go clients send for built-in kinds (kubectl create, drain).
//!
//! Driven by the api crate's table of types. Go writes fields that have no pointer even when they are zero; the
//! table does not say which these are, so zeros are dropped except where they mean something ([`ZEROS`]), as
//! JSON's `omitempty` would. Answers are JSON: every client that sends protobuf accepts it.

use api::{Object, schema::Schema, status::Status};
use base64::{Engine, prelude::BASE64_STANDARD};
use jiff::Timestamp;
use serde_json::{Map, Value};

/// The content type.
pub(super) const TYPE: &str = "application/vnd.kubernetes.protobuf";
const MAGIC: &[u8] = b"k8s\0";
/// How deep messages may lie in each other.
const DEEPEST: usize = 64;
/// Integers whose zero is not the same as their absence.
const ZEROS: &[&str] = &[
    "replicas",
    "parallelism",
    "completions",
    "backoffLimit",
    "ttlSecondsAfterFinished",
    "runAsUser",
    "runAsGroup",
    "fsGroup",
    "terminationGracePeriodSeconds",
    "gracePeriodSeconds",
    "revisionHistoryLimit",
    "defaultMode",
    "mode",
    "tolerationSeconds",
    "successfulJobsHistoryLimit",
    "failedJobsHistoryLimit",
    "partition",
    "priority",
    "leaseTransitions",
    "value",
    "minReplicas",
];

/// Booleans whose false is not the same as their absence.
const FALSES: &[&str] = &[
    "automountServiceAccountToken",
    "enableServiceLinks",
    "allowPrivilegeEscalation",
    "runAsNonRoot",
    "readOnlyRootFilesystem",
    "privileged",
    "hostUsers",
    "blockOwnerDeletion",
    "controller",
    "optional",
    "immutable",
    "setHostnameAsFQDN",
    "shareProcessNamespace",
    "suspend",
    "allocateLoadBalancerNodePorts",
    "orphanDependents",
    "attachRequired",
    "podInfoOnMount",
    "allowVolumeExpansion",
    "served",
    "storage",
    "allowed",
];

type Type = &'static api::schema::types::Type;
type Field = api::schema::types::Field;
type Shape = api::schema::types::Shape;

/// Parses a body.
pub(super) fn parse(bytes: &[u8]) -> api::Result<Object> {
    let broken = || Status::bad_request("the body is not what Kubernetes' protobuf encoding makes");
    let envelope = bytes.strip_prefix(MAGIC).ok_or_else(broken)?;
    let (mut version, mut kind, mut raw) = (String::new(), String::new(), &[][..]);
    for item in Items(envelope) {
        match item.ok_or_else(broken)? {
            (1, Wire::Bytes(meta)) => {
                for item in Items(meta) {
                    match item.ok_or_else(broken)? {
                        (1, Wire::Bytes(text)) => version = String::from_utf8_lossy(text).into_owned(),
                        (2, Wire::Bytes(text)) => kind = String::from_utf8_lossy(text).into_owned(),
                        _ => {}
                    }
                }
            }
            (2, Wire::Bytes(bytes)) => raw = bytes,
            _ => {}
        }
    }
    let (group, number) = version.split_once('/').unwrap_or(("", &version));
    let unknown =
        || Status::bad_request(format!("no kind \"{kind}\" is registered for version \"{version}\""));
    let ty = Schema::builtin(group, number, &kind).and_then(|s| s.definition()).ok_or_else(unknown)?;
    let mut object = Map::new();
    object.insert("apiVersion".into(), version.as_str().into());
    object.insert("kind".into(), kind.as_str().into());
    message(ty, "", raw, &mut object, 0).ok_or_else(broken)?;
    Ok(Object(object))
}

enum Wire<'a> {
    Varint(u64),
    Fixed64([u8; 8]),
    Bytes(&'a [u8]),
    Fixed32,
}

/// The fields of a message; `None` for bytes that are none.
struct Items<'a>(&'a [u8]);

impl<'a> Iterator for Items<'a> {
    type Item = Option<(u64, Wire<'a>)>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.0.is_empty() {
            return None;
        }
        let item = self.item();
        if item.is_none() {
            self.0 = &[];
        }
        Some(item)
    }
}

impl<'a> Items<'a> {
    fn item(&mut self) -> Option<(u64, Wire<'a>)> {
        let key = varint(&mut self.0)?;
        let wire = match key & 7 {
            0 => Wire::Varint(varint(&mut self.0)?),
            1 => Wire::Fixed64(self.take(8)?.try_into().ok()?),
            2 => {
                let length = varint(&mut self.0)?;
                Wire::Bytes(self.take(usize::try_from(length).ok()?)?)
            }
            5 => {
                self.take(4)?;
                Wire::Fixed32
            }
            _ => return None,
        };
        Some((key >> 3, wire))
    }

    fn take(&mut self, length: usize) -> Option<&'a [u8]> {
        let (head, tail) = self.0.split_at_checked(length)?;
        self.0 = tail;
        Some(head)
    }
}

fn varint(bytes: &mut &[u8]) -> Option<u64> {
    let mut value = 0u64;
    for shift in (0..64).step_by(7) {
        let (first, rest) = bytes.split_first()?;
        *bytes = rest;
        value |= u64::from(first & 0x7f) << shift;
        if first & 0x80 == 0 {
            return Some(value);
        }
    }
    None
}

/// Reads a message's fields. Messages that JSON shows inline have tags such as `1.3`: `prefix` is their own.
fn message(ty: Type, prefix: &str, bytes: &[u8], out: &mut Map<String, Value>, depth: usize) -> Option<()> {
    if depth > DEEPEST {
        return None;
    }
    for item in Items(bytes) {
        let (number, wire) = item?;
        let tag = if prefix.is_empty() { number.to_string() } else { format!("{prefix}.{number}") };
        if let Some(field) = ty.fields.iter().find(|f| f.tag == tag) {
            put(field, wire, out, depth)?;
        } else if let Wire::Bytes(inner) = wire
            && ty.fields.iter().any(|f| f.tag.starts_with(&format!("{tag}.")))
        {
            message(ty, &tag, inner, out, depth + 1)?;
        }
    }
    Some(())
}

fn put(field: &Field, wire: Wire<'_>, out: &mut Map<String, Value>, depth: usize) -> Option<()> {
    match whole(&field.shape) {
        Shape::List(item) => {
            let list = out.entry(field.name).or_insert_with(|| Value::Array(Vec::new())).as_array_mut()?;
            list.push(value(item, wire, depth)?);
        }
        Shape::Map(item) => {
            let Wire::Bytes(entry) = wire else { return None };
            let (mut key, mut found) = (String::new(), None);
            for item_of_entry in Items(entry) {
                match item_of_entry? {
                    (1, Wire::Bytes(text)) => key = std::str::from_utf8(text).ok()?.to_string(),
                    (2, wire) => found = Some(value(item, wire, depth)?),
                    _ => {}
                }
            }
            let map = out.entry(field.name).or_insert_with(|| Value::Object(Map::new())).as_object_mut()?;
            map.insert(key, found.unwrap_or_else(|| empty(item)));
        }
        shape => {
            let value = value(shape, wire, depth)?;
            let zero = value == ""
                || value.is_null()
                || (value == 0 && !ZEROS.contains(&field.name))
                || (value == false && !FALSES.contains(&field.name));
            if !zero {
                out.insert(field.name.into(), value);
            }
        }
    }
    Some(())
}

fn empty(shape: &Shape) -> Value {
    match whole(shape) {
        Shape::List(_) => Value::Array(Vec::new()),
        _ => "".into(),
    }
}

/// What stands behind a reference to a type that is a list or a map; other types stay references.
fn whole(shape: &Shape) -> &Shape {
    match shape.target().and_then(|t| t.whole.as_ref()) {
        Some(inner @ (Shape::List(_) | Shape::Map(_))) => inner,
        _ => shape,
    }
}

fn value(shape: &Shape, wire: Wire<'_>, depth: usize) -> Option<Value> {
    if let Some(ty) = shape.target() {
        let Wire::Bytes(bytes) = wire else { return None };
        return special(ty, bytes, depth);
    }
    match (shape, wire) {
        (Shape::String("byte"), Wire::Bytes(bytes)) => Some(BASE64_STANDARD.encode(bytes).into()),
        (Shape::String(_), Wire::Bytes(bytes)) => Some(std::str::from_utf8(bytes).ok()?.into()),
        (Shape::Integer("int32"), Wire::Varint(n)) => Some((n as i32).into()),
        (Shape::Integer(_), Wire::Varint(n)) => Some((n as i64).into()),
        (Shape::Boolean, Wire::Varint(n)) => Some((n != 0).into()),
        (Shape::Number, Wire::Fixed64(bytes)) => Some(f64::from_le_bytes(bytes).into()),
        (Shape::List(item), Wire::Bytes(bytes)) => {
            // A named list is a message with its items under tag 1.
            let items = Items(bytes).map(|i| value(item, i?.1, depth + 1));
            items.collect::<Option<Vec<_>>>().map(Value::Array)
        }
        (Shape::Any | Shape::Object, Wire::Bytes(bytes)) => raw(bytes),
        _ => None,
    }
}

/// Types whose JSON is not their message.
fn special(ty: Type, bytes: &[u8], depth: usize) -> Option<Value> {
    match ty.short() {
        "Time" | "MicroTime" => time(ty.short() == "MicroTime", bytes),
        "Quantity" => Some(text_at(bytes, 1)?.into()),
        "IntOrString" => match number_at(bytes, 1)? {
            0 => Some((number_at(bytes, 2)? as i32).into()),
            _ => Some(text_at(bytes, 3)?.into()),
        },
        "RawExtension" | "FieldsV1" | "JSON" => raw(bytes),
        "Duration" => Some(format!("{}ns", number_at(bytes, 1)? as i64).into()),
        _ => match &ty.whole {
            Some(inner) if ty.fields.is_empty() => value(inner, Wire::Bytes(bytes), depth + 1),
            _ => {
                let mut out = Map::new();
                message(ty, "", bytes, &mut out, depth + 1)?;
                Some(Value::Object(out))
            }
        },
    }
}

/// The zero time is an absent one.
fn time(micro: bool, bytes: &[u8]) -> Option<Value> {
    if bytes.is_empty() {
        return Some(Value::Null);
    }
    let (seconds, nanos) = (number_at(bytes, 1)? as i64, number_at(bytes, 2)? as i32);
    let at = Timestamp::new(seconds, nanos).ok()?;
    Some(if micro { api::time::format_micro(at) } else { api::time::format(at) }.into())
}

fn raw(bytes: &[u8]) -> Option<Value> {
    let json = bytes_at(bytes, 1)?;
    if json.is_empty() { Some(Value::Null) } else { serde_json::from_slice(json).ok() }
}

fn bytes_at(bytes: &[u8], wanted: u64) -> Option<&[u8]> {
    for item in Items(bytes) {
        if let (number, Wire::Bytes(found)) = item?
            && number == wanted
        {
            return Some(found);
        }
    }
    Some(&[])
}

fn text_at(bytes: &[u8], wanted: u64) -> Option<&str> {
    std::str::from_utf8(bytes_at(bytes, wanted)?).ok()
}

fn number_at(bytes: &[u8], wanted: u64) -> Option<u64> {
    for item in Items(bytes) {
        if let (number, Wire::Varint(found)) = item?
            && number == wanted
        {
            return Some(found);
        }
    }
    Some(0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn field(number: u64, bytes: &[u8]) -> Vec<u8> {
        let mut out = vec![(number << 3 | 2) as u8, bytes.len() as u8];
        out.extend_from_slice(bytes);
        out
    }

    #[test]
    fn a_deployment_as_go_writes_it() {
        let metadata =
            [field(1, b"web"), field(3, b""), field(11, &[field(1, b"app"), field(2, b"web")].concat())]
                .concat();
        let replicas = [1 << 3, 0];
        let spec = [replicas.to_vec(), vec![5 << 3, 0, 7 << 3, 0]].concat();
        let object = [field(1, &metadata), field(2, &spec)].concat();
        let meta = [field(1, b"apps/v1"), field(2, b"Deployment")].concat();
        let body = [MAGIC.to_vec(), field(1, &meta), field(2, &object)].concat();
        let expect = json!({"apiVersion": "apps/v1", "kind": "Deployment",
            "metadata": {"name": "web", "labels": {"app": "web"}}, "spec": {"replicas": 0}});
        assert_eq!(parse(&body).unwrap().into_value(), expect);
    }

    #[test]
    fn broken_bytes_are_a_bad_request() {
        for body in [&b""[..], b"k8s\0\xff", b"k8s\0\x12\xff\xff\xff\xff\x0f", b"{}"] {
            assert_eq!(parse(body).unwrap_err().code(), 400);
        }
    }
}
