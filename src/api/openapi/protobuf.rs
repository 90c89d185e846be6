//! A v2 document as protobuf: gnostic's `openapi.v2.Document`, which kubectl before 1.27 asks for.
//!
//! Field numbers are those of gnostic's openapiv2/OpenAPIv2.proto. Only what our documents contain is written.

use serde_json::{Map, Value};

/// A message under construction.
#[derive(Default)]
struct Message(Vec<u8>);

impl Message {
    fn varint(&mut self, mut n: u64) {
        while n >= 0x80 {
            self.0.push((n & 0x7f) as u8 | 0x80);
            n >>= 7;
        }
        self.0.push(n as u8);
    }

    fn bytes(&mut self, tag: u32, bytes: &[u8]) {
        self.varint(u64::from(tag) << 3 | 2);
        self.varint(bytes.len() as u64);
        self.0.extend_from_slice(bytes);
    }

    fn text(&mut self, tag: u32, value: Option<&Value>) {
        if let Some(text) = value.and_then(Value::as_str).filter(|t| !t.is_empty()) {
            self.bytes(tag, text.as_bytes());
        }
    }

    fn texts(&mut self, tag: u32, value: Option<&Value>) {
        for text in value.and_then(Value::as_array).into_iter().flatten() {
            self.bytes(tag, text.as_str().unwrap_or_default().as_bytes());
        }
    }

    fn flag(&mut self, tag: u32, value: Option<&Value>) {
        if value == Some(&Value::Bool(true)) {
            self.varint(u64::from(tag) << 3);
            self.varint(1);
        }
    }

    fn int(&mut self, tag: u32, value: Option<&Value>) {
        if let Some(n) = value.and_then(Value::as_i64).filter(|n| *n != 0) {
            self.varint(u64::from(tag) << 3);
            self.varint(n.cast_unsigned());
        }
    }

    fn double(&mut self, tag: u32, value: Option<&Value>) {
        if let Some(n) = value.and_then(Value::as_f64).filter(|n| *n != 0.0) {
            self.varint(u64::from(tag) << 3 | 1);
            self.0.extend_from_slice(&n.to_le_bytes());
        }
    }

    fn message(&mut self, tag: u32, message: &Message) {
        self.bytes(tag, &message.0);
    }

    /// `Any`: its YAML, and JSON is YAML.
    fn any(&mut self, tag: u32, value: Option<&Value>) {
        if let Some(value) = value {
            let mut any = Message::default();
            any.bytes(2, format!("{value}\n").as_bytes());
            self.message(tag, &any);
        }
    }

    /// Named messages: one field for each entry.
    fn named(&mut self, tag: u32, name: &str, value: &Message) {
        let mut entry = Message::default();
        entry.bytes(1, name.as_bytes());
        entry.message(2, value);
        self.message(tag, &entry);
    }

    /// Everything that starts with `x-`.
    fn extensions(&mut self, tag: u32, map: &Map<String, Value>) {
        for (name, value) in map.iter().filter(|(name, _)| name.starts_with("x-")) {
            let mut any = Message::default();
            any.bytes(2, format!("{value}\n").as_bytes());
            self.named(tag, name, &any);
        }
    }
}

fn entries(value: Option<&Value>) -> impl Iterator<Item = (&String, &Value)> {
    value.and_then(Value::as_object).into_iter().flatten()
}

fn empty() -> &'static Map<String, Value> {
    static EMPTY: std::sync::OnceLock<Map<String, Value>> = std::sync::OnceLock::new();
    EMPTY.get_or_init(Map::new)
}

fn fields(value: &Value) -> &Map<String, Value> {
    value.as_object().unwrap_or_else(|| empty())
}

/// A v2 document (JSON) as `application/com.github.proto-openapi.spec.v2@v1.0+protobuf`.
pub fn encode(document: &Value) -> Vec<u8> {
    let mut out = Message::default();
    out.text(1, document.get("swagger"));
    let mut info = Message::default();
    info.text(1, document["info"].get("title"));
    info.text(2, document["info"].get("version"));
    out.message(2, &info);
    let mut paths = Message::default();
    for (path, item) in entries(document.get("paths")) {
        paths.named(2, path, &path_item(fields(item)));
    }
    out.message(8, &paths);
    let mut definitions = Message::default();
    for (name, definition) in entries(document.get("definitions")) {
        definitions.named(1, name, &schema(fields(definition)));
    }
    out.message(9, &definitions);
    for requirement in document["security"].as_array().into_iter().flatten() {
        let mut message = Message::default();
        for (name, _) in entries(Some(requirement)) {
            message.named(1, name, &Message::default());
        }
        out.message(12, &message);
    }
    let mut schemes = Message::default();
    for (name, scheme) in entries(document.get("securityDefinitions")) {
        let (mut key, mut item) = (Message::default(), Message::default());
        for (tag, field) in [(1, "type"), (2, "name"), (3, "in"), (4, "description")] {
            key.text(tag, scheme.get(field));
        }
        item.message(2, &key);
        schemes.named(1, name, &item);
    }
    out.message(13, &schemes);
    out.0
}

fn path_item(item: &Map<String, Value>) -> Message {
    let mut out = Message::default();
    let methods = ["get", "put", "post", "delete", "options", "head", "patch"];
    for (tag, method) in (2..).zip(methods) {
        if let Some(Value::Object(operation)) = item.get(method) {
            out.message(tag, &self::operation(operation));
        }
    }
    parameters(&mut out, 9, item.get("parameters"));
    out
}

fn operation(operation: &Map<String, Value>) -> Message {
    let mut out = Message::default();
    out.texts(1, operation.get("tags"));
    out.text(3, operation.get("description"));
    out.text(5, operation.get("operationId"));
    out.texts(6, operation.get("produces"));
    out.texts(7, operation.get("consumes"));
    parameters(&mut out, 8, operation.get("parameters"));
    let mut responses = Message::default();
    for (code, response) in entries(operation.get("responses")) {
        let (mut message, mut value) = (Message::default(), Message::default());
        message.text(1, response.get("description"));
        if let Some(Value::Object(of)) = response.get("schema") {
            let mut item = Message::default();
            item.message(1, &schema(of));
            message.message(2, &item);
        }
        value.message(1, &message);
        responses.named(1, code, &value);
    }
    out.message(9, &responses);
    out.texts(10, operation.get("schemes"));
    out.extensions(13, operation);
    out
}

fn parameters(out: &mut Message, tag: u32, list: Option<&Value>) {
    for parameter in list.and_then(Value::as_array).into_iter().flatten() {
        let (mut of, mut item) = (Message::default(), Message::default());
        match parameter["in"].as_str() {
            Some("body") => of.message(1, &body_parameter(fields(parameter))),
            Some("path") => of.message(2, &non_body(4, &simple_parameter(fields(parameter), 0))),
            _ => of.message(2, &non_body(3, &simple_parameter(fields(parameter), 1))),
        }
        item.message(1, &of);
        out.message(tag, &item);
    }
}

fn non_body(tag: u32, parameter: &Message) -> Message {
    let mut out = Message::default();
    out.message(tag, parameter);
    out
}

fn body_parameter(parameter: &Map<String, Value>) -> Message {
    let mut out = Message::default();
    out.text(1, parameter.get("description"));
    out.text(2, parameter.get("name"));
    out.text(3, parameter.get("in"));
    out.flag(4, parameter.get("required"));
    if let Some(Value::Object(of)) = parameter.get("schema") {
        out.message(5, &schema(of));
    }
    out
}

/// A path parameter; in a query parameter all numbers from 5 on are one higher.
fn simple_parameter(parameter: &Map<String, Value>, shift: u32) -> Message {
    let mut out = Message::default();
    out.flag(1, parameter.get("required"));
    out.text(2, parameter.get("in"));
    out.text(3, parameter.get("description"));
    out.text(4, parameter.get("name"));
    out.text(5 + shift, parameter.get("type"));
    out.text(6 + shift, parameter.get("format"));
    out.flag(19 + shift, parameter.get("uniqueItems"));
    out
}

fn schema(schema: &Map<String, Value>) -> Message {
    let mut out = Message::default();
    for (tag, word) in [(1, "$ref"), (2, "format"), (3, "title"), (4, "description"), (13, "pattern")] {
        out.text(tag, schema.get(word));
    }
    out.any(5, schema.get("default"));
    for (tag, word) in [(6, "multipleOf"), (7, "maximum"), (9, "minimum")] {
        out.double(tag, schema.get(word));
    }
    for (tag, word) in [(8, "exclusiveMaximum"), (10, "exclusiveMinimum"), (16, "uniqueItems")] {
        out.flag(tag, schema.get(word));
    }
    let sizes = ["maxLength", "minLength", "", "maxItems", "minItems", "", "maxProperties", "minProperties"];
    for (tag, word) in (11..).zip(sizes) {
        out.int(tag, schema.get(word));
    }
    out.texts(19, schema.get("required"));
    for value in schema.get("enum").and_then(Value::as_array).into_iter().flatten() {
        out.any(20, Some(value));
    }
    nested(&mut out, schema);
    out.extensions(31, schema);
    out
}

fn nested(out: &mut Message, map: &Map<String, Value>) {
    match map.get("additionalProperties") {
        Some(Value::Object(of)) => {
            let mut item = Message::default();
            item.message(1, &schema(of));
            out.message(21, &item);
        }
        flag @ Some(Value::Bool(_)) => {
            let mut item = Message::default();
            item.flag(2, flag);
            out.message(21, &item);
        }
        _ => {}
    }
    if let Some(kind @ Value::String(_)) = map.get("type") {
        let mut item = Message::default();
        item.text(1, Some(kind));
        out.message(22, &item);
    }
    if let Some(Value::Object(of)) = map.get("items") {
        let mut item = Message::default();
        item.message(1, &schema(of));
        out.message(23, &item);
    }
    if map.contains_key("properties") {
        let mut properties = Message::default();
        for (name, property) in entries(map.get("properties")) {
            properties.named(1, name, &schema(fields(property)));
        }
        out.message(25, &properties);
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn bytes_of_a_small_document() {
        let document = json!({"swagger": "2.0", "info": {"title": "t", "version": "v"}, "definitions": {"d": {"type": "string", "x-a": 1}}});
        let expect: &[u8] = b"\x0a\x032.0\x12\x06\x0a\x01t\x12\x01v\x42\x00\x4a\x20\x0a\x1e\x0a\x01d\x12\x19\xb2\x01\x08\x0a\x06string\xfa\x01\x0b\x0a\x03x-a\x12\x04\x12\x021\n\x6a\x00";
        assert_eq!(encode(&document), expect, "{:?}", String::from_utf8_lossy(&encode(&document)));
    }

    #[test]
    fn the_whole_document_is_well_formed() {
        let bytes = encode(&crate::openapi::v2(&crate::Catalog::builtin()));
        assert!(bytes.len() > 1_000_000);
        // Every top-level field can be skipped by its length.
        let (mut at, mut tags) = (0, Vec::new());
        let varint = |at: &mut usize| {
            let (mut n, mut shift) = (0_usize, 0);
            loop {
                let b = bytes[*at];
                *at += 1;
                n |= usize::from(b & 0x7f) << shift;
                shift += 7;
                if b < 0x80 {
                    return n;
                }
            }
        };
        while at < bytes.len() {
            let key = varint(&mut at);
            assert_eq!(key & 7, 2);
            tags.push(key >> 3);
            at += varint(&mut at);
        }
        assert_eq!(at, bytes.len());
        assert_eq!(tags, [1, 2, 8, 9, 12, 13]);
    }
}
