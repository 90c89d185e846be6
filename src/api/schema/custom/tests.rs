//! The CronTab of the documentation, and every word of the schema language.

use serde_json::{Value, json};

use super::Node;
use crate::{field::Path, schema::Schema};

fn node(schema: &Value) -> Node {
    Node::root(schema, &Path::root()).unwrap()
}

fn messages(schema: &Value, value: &Value) -> Vec<String> {
    let mut errors = Vec::new();
    node(schema).validate(value, &Path::new("spec").child("x"), &mut errors);
    errors.iter().map(ToString::to_string).collect()
}

fn check(schema: Value, value: Value, expect: &[&str]) {
    assert_eq!(messages(&schema, &value), expect, "{value}");
}

#[test]
fn validation_of_scalars() {
    let integer = json!({"type": "integer", "minimum": 1, "maximum": 10});
    check(integer.clone(), json!(5), &[]);
    check(integer.clone(), json!(5.0), &[]);
    check(
        integer.clone(),
        json!(0),
        &["spec.x: Invalid value: 0: spec.x in body should be greater than or equal to 1"],
    );
    check(
        integer.clone(),
        json!(11),
        &["spec.x: Invalid value: 11: spec.x in body should be less than or equal to 10"],
    );
    check(
        integer,
        json!("5"),
        &["spec.x: Invalid value: \"string\": spec.x in body must be of type integer: \"string\""],
    );
    let pattern = json!({"type": "string", "pattern": "^a+$", "maxLength": 3, "minLength": 1});
    check(pattern.clone(), json!("aa"), &[]);
    check(pattern.clone(), json!("b"), &["spec.x: Invalid value: \"b\": spec.x in body should match '^a+$'"]);
    check(pattern, json!("aaaa"), &["spec.x: Too long: may not be more than 3 bytes"]);
    check(
        json!({"type": "string", "minLength": 1}),
        json!(""),
        &["spec.x: Invalid value: \"\": spec.x in body should be at least 1 chars long"],
    );
    check(
        json!({"type": "string", "enum": ["a", "b"]}),
        json!("c"),
        &["spec.x: Unsupported value: \"c\": supported values: \"a\", \"b\""],
    );
    check(
        json!({"type": "string"}),
        json!(null),
        &["spec.x: Invalid value: \"null\": spec.x in body must be of type string: \"null\""],
    );
    check(json!({"type": "string", "nullable": true}), json!(null), &[]);
    check(json!({"x-kubernetes-int-or-string": true}), json!("80%"), &[]);
    check(
        json!({"x-kubernetes-int-or-string": true}),
        json!(true),
        &["spec.x: Invalid value: \"boolean\": spec.x in body must be of type integer,string: \"boolean\""],
    );
}

#[test]
fn validation_of_composites() {
    let object = json!({"type": "object", "required": ["a"], "properties": {"a": {"type": "string"}, "b": {"type": "array",
        "items": {"type": "integer"}, "maxItems": 2, "minItems": 1, "x-kubernetes-list-type": "set"}}});
    check(object.clone(), json!({}), &["spec.x.a: Required value"]);
    check(
        object.clone(),
        json!({"a": "", "b": [1, "x"]}),
        &["spec.x.b[1]: Invalid value: \"string\": spec.x.b[1] in body must be of type integer: \"string\""],
    );
    check(
        object.clone(),
        json!({"a": "", "b": [1, 2, 3]}),
        &["spec.x.b: Too many: 3: must have at most 2 items"],
    );
    check(
        object.clone(),
        json!({"a": "", "b": []}),
        &["spec.x.b: Invalid value: 0: spec.x.b in body should have at least 1 items"],
    );
    check(object, json!({"a": "", "b": [1, 1]}), &["spec.x.b[1]: Duplicate value: 1"]);
    let either = |word: &str| {
        json!({"type": "object", word: [{"required": ["a"]}, {"required": ["b"]}],
        "properties": {"a": {"type": "string"}, "b": {"type": "string"}}})
    };
    check(either("anyOf"), json!({"a": "", "b": ""}), &[]);
    check(
        either("anyOf"),
        json!({}),
        &["spec.x: Invalid value: \"\": \"spec.x\" must validate at least one schema (anyOf)"],
    );
    check(either("oneOf"), json!({"a": ""}), &[]);
    check(
        either("oneOf"),
        json!({}),
        &[
            "spec.x: Invalid value: \"\": \"spec.x\" must validate one and only one schema (oneOf). Found none valid",
        ],
    );
    check(
        json!({"type": "object", "not": {"required": ["a"]}}),
        json!({"a": 1}),
        &["spec.x: Invalid value: \"\": \"spec.x\" must not validate the schema (not)"],
    );
    check(
        json!({"type": "string", "format": "ipv4"}),
        json!("x"),
        &["spec.x: Invalid value: \"x\": spec.x in body must be of type ipv4: \"x\""],
    );
    check(json!({"type": "object", "additionalProperties": {"type": "integer"}}), json!({"a": 1}), &[]);
}

#[test]
fn pruning() {
    fn check(schema: Value, value: Value, expect: Value, removed: &[&str]) {
        let (mut value, mut paths) = (value, Vec::new());
        node(&schema).prune_root(&mut value, &mut paths);
        assert_eq!(value, expect);
        assert_eq!(paths, removed);
    }
    let text = json!({"type": "string"});
    check(
        json!({"type": "object", "properties": {"spec": {"type": "object", "properties": {"a": text}}}}),
        json!({"apiVersion": "v", "kind": "K", "metadata": {"name": "n", "x": 1}, "spec": {"a": "", "b": 1}, "y": 1}),
        json!({"apiVersion": "v", "kind": "K", "metadata": {"name": "n"}, "spec": {"a": ""}}),
        &["metadata.x", "spec.b", "y"],
    );
    check(
        json!({"type": "object", "properties": {"free": {"type": "object", "x-kubernetes-preserve-unknown-fields": true},
            "list": {"type": "array", "items": {"type": "object", "properties": {"a": text}}},
            "map": {"type": "object", "additionalProperties": text},
            "pod": {"type": "object", "x-kubernetes-embedded-resource": true, "properties": {"spec": {"type": "object"}}}}}),
        json!({"free": {"x": 1}, "list": [{"a": "", "b": ""}], "map": {"k": "v"},
            "pod": {"apiVersion": "v1", "metadata": {"name": "p"}, "spec": {"x": 1}, "status": 1}}),
        json!({"free": {"x": 1}, "list": [{"a": ""}], "map": {"k": "v"},
            "pod": {"apiVersion": "v1", "metadata": {"name": "p"}, "spec": {}}}),
        &["list[0].b", "pod.spec.x", "pod.status"],
    );
}

#[test]
fn defaulting() {
    let schema = json!({"type": "object", "properties": {
        "spec": {"type": "object", "default": {}, "properties": {
            "n": {"type": "integer", "default": 3},
            "l": {"type": "array", "items": {"type": "object", "properties": {"p": {"type": "string", "default": "TCP"}}}},
            "null": {"type": "string", "nullable": true, "default": "x"}}}}});
    let check = |value: Value, expect: Value| {
        let mut value = value;
        node(&schema).default(&mut value);
        assert_eq!(value, expect);
    };
    check(json!({}), json!({"spec": {"n": 3, "null": "x"}}));
    check(
        json!({"spec": {"n": null, "null": null, "l": [{}]}}),
        json!({"spec": {"n": 3, "null": null, "l": [{"p": "TCP"}]}}),
    );
}

#[test]
fn bad_schemas() {
    fn check(schema: Value, expect: &str) {
        let errors = Schema::from_open_api(&schema, &Path::new("schema")).unwrap_err();
        let texts: Vec<_> = errors.iter().map(ToString::to_string).collect();
        assert!(texts.iter().any(|t| t.starts_with(expect)), "{texts:?}");
    }
    check(json!({"type": "string"}), "schema.type: Invalid value: \"string\": must be object at the root");
    check(json!({}), "schema.type: Required value: must not be empty at the root");
    let with = |property: Value| json!({"type": "object", "properties": {"a": property}});
    check(
        with(json!({})),
        "schema.properties[a].type: Required value: must not be empty for specified object fields",
    );
    check(
        with(json!({"type": "string", "pattern": "("})),
        "schema.properties[a].pattern: Invalid value: \"(\": must be a valid regular expression",
    );
    check(with(json!({"type": "text"})), "schema.properties[a].type: Unsupported value: \"text\"");
    check(
        with(json!({"type": "integer", "default": "x"})),
        "schema.properties[a].default: Invalid value: \"string\"",
    );
    check(with(json!({"type": "array"})), "schema.properties[a].items: Required value: must be specified");
    check(
        with(json!({"type": "string", "$ref": "x"})),
        "schema.properties[a].$ref: Forbidden: $ref is not supported",
    );
    check(
        with(json!({"type": "object", "properties": {}, "additionalProperties": true})),
        "schema.properties[a].additionalProperties: Forbidden: additionalProperties and properties are mutual exclusive",
    );
    check(
        with(json!({"type": "array", "uniqueItems": true, "items": {"type": "string"}})),
        "schema.properties[a].uniqueItems: Forbidden",
    );
}
