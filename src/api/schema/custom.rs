//! Custom kinds: a structural OpenAPI v3 schema, compiled once, that prunes, defaults and validates.
//!
//! Keeps true: texts are those of apiextensions-apiserver. `x-kubernetes-validations` (CEL) is left to later.

use std::collections::BTreeMap;

use regex::Regex;
use serde_json::{Map, Value};

use super::{
    builtin,
    trail::Trail,
    types::{Type, table},
};
use crate::{
    field::{FieldError, Path},
    object,
};

mod check;

/// A schema, or a part of one.
#[derive(Debug, Default)]
pub(super) struct Node {
    /// The schema as the CRD has it; kept at the root only.
    source: Value,
    kind: String,
    nullable: bool,
    int_or_string: bool,
    preserve: bool,
    embedded: bool,
    properties: BTreeMap<String, Node>,
    additional: Option<Additional>,
    items: Option<Box<Node>>,
    required: Vec<String>,
    default: Option<Value>,
    options: Vec<Value>,
    pattern: Option<Regex>,
    format: String,
    minimum: Option<f64>,
    maximum: Option<f64>,
    exclusive_minimum: bool,
    exclusive_maximum: bool,
    multiple_of: Option<f64>,
    /// Least and most of: characters, items, properties.
    length: Range,
    count: Range,
    size: Range,
    list_type: String,
    map_keys: Vec<String>,
    all_of: Vec<Node>,
    any_of: Vec<Node>,
    one_of: Vec<Node>,
    not: Option<Box<Node>>,
}

#[derive(Debug)]
enum Additional {
    Anything,
    Values(Box<Node>),
}

#[derive(Clone, Copy, Debug, Default)]
struct Range {
    min: Option<usize>,
    max: Option<usize>,
}

impl Node {
    /// Compiles a structural schema.
    ///
    /// # Errors
    /// Patterns that are no regular expressions, defaults that do not fit.
    pub(super) fn root(schema: &Value, path: &Path) -> Result<Self, Vec<FieldError>> {
        let mut errors = Vec::new();
        let mut root = Self::compile(schema, path, &mut errors);
        root.source = schema.clone();
        if errors.is_empty() {
            root.check_defaults(path, &mut errors);
        }
        if errors.is_empty() { Ok(root) } else { Err(errors) }
    }

    /// The schema that this was compiled from.
    pub(super) fn source(&self) -> &Value {
        &self.source
    }

    fn compile(schema: &Value, path: &Path, errors: &mut Vec<FieldError>) -> Self {
        let text = |word: &str| schema[word].as_str().unwrap_or_default().to_owned();
        let flag = |word: &str| schema[word] == Value::Bool(true);
        let range = |min: &str, max: &str| Range { min: size(&schema[min]), max: size(&schema[max]) };
        let texts = |word: &str| strings(&schema[word]);
        let mut node = Self {
            kind: text("type"),
            nullable: flag("nullable"),
            int_or_string: flag("x-kubernetes-int-or-string"),
            preserve: flag("x-kubernetes-preserve-unknown-fields"),
            embedded: flag("x-kubernetes-embedded-resource"),
            required: texts("required"),
            default: schema.get("default").cloned(),
            options: schema["enum"].as_array().cloned().unwrap_or_default(),
            format: text("format"),
            minimum: schema["minimum"].as_f64(),
            maximum: schema["maximum"].as_f64(),
            exclusive_minimum: flag("exclusiveMinimum"),
            exclusive_maximum: flag("exclusiveMaximum"),
            multiple_of: schema["multipleOf"].as_f64().filter(|m| *m > 0.0),
            length: range("minLength", "maxLength"),
            count: range("minItems", "maxItems"),
            size: range("minProperties", "maxProperties"),
            list_type: text("x-kubernetes-list-type"),
            map_keys: texts("x-kubernetes-list-map-keys"),
            ..<Self as Default>::default()
        };
        if let Some(pattern) = schema["pattern"].as_str() {
            node.pattern = compile_pattern(pattern, &path.child("pattern"), errors);
        }
        node.compile_parts(schema, path, errors);
        node
    }

    fn compile_parts(&mut self, schema: &Value, path: &Path, errors: &mut Vec<FieldError>) {
        for (name, property) in schema["properties"].as_object().into_iter().flatten() {
            let node = Self::compile(property, &path.child("properties").key(name), errors);
            self.properties.insert(name.clone(), node);
        }
        self.additional = match &schema["additionalProperties"] {
            Value::Bool(true) => Some(Additional::Anything),
            values @ Value::Object(_) => {
                let node = Self::compile(values, &path.child("additionalProperties"), errors);
                Some(Additional::Values(Box::new(node)))
            }
            _ => None,
        };
        let mut one = |word: &str| {
            let part = schema.get(word).filter(|s| s.is_object());
            part.map(|s| Box::new(Self::compile(s, &path.child(word), errors)))
        };
        (self.items, self.not) = (one("items"), one("not"));
        let mut many = |word: &str| {
            let parts = schema[word].as_array().into_iter().flatten().enumerate();
            parts.map(|(i, s)| Self::compile(s, &path.child(word).index(i), errors)).collect()
        };
        (self.all_of, self.any_of, self.one_of) = (many("allOf"), many("anyOf"), many("oneOf"));
    }

    fn check_defaults(&self, path: &Path, errors: &mut Vec<FieldError>) {
        if let Some(default) = &self.default {
            let mut value = default.clone();
            let mut unknown = Vec::new();
            self.prune(&mut value, &Trail::Root(&Path::root()), &mut unknown);
            let path = path.child("default");
            if unknown.is_empty() {
                self.validate(default, &path, errors);
            } else {
                errors.push(FieldError::invalid(&path, default.clone(), "must not have unknown fields"));
            }
        }
        for (name, node) in &self.properties {
            node.check_defaults(&path.child("properties").key(name), errors);
        }
        if let Some(Additional::Values(node)) = &self.additional {
            node.check_defaults(&path.child("additionalProperties"), errors);
        }
        if let Some(node) = &self.items {
            node.check_defaults(&path.child("items"), errors);
        }
    }

    /// Removes what the schema does not know; type and metadata are known in every object.
    pub(super) fn prune_root(&self, value: &mut Value, removed: &mut Vec<String>) {
        self.prune_fields(value, &Trail::Root(&Path::root()), true, removed);
    }

    fn prune(&self, value: &mut Value, at: &Trail<'_>, removed: &mut Vec<String>) {
        match value {
            Value::Object(_) => self.prune_fields(value, at, self.embedded, removed),
            Value::Array(items) => {
                let Some(node) = &self.items else { return };
                for (i, item) in items.iter_mut().enumerate() {
                    node.prune(item, &Trail::Index(at, i), removed);
                }
            }
            _ => {}
        }
    }

    fn prune_fields(&self, value: &mut Value, at: &Trail<'_>, resource: bool, removed: &mut Vec<String>) {
        let Some(map) = value.as_object_mut() else { return };
        map.retain(|name, value| {
            let below = Trail::Field(at, name);
            if resource && matches!(name.as_str(), "apiVersion" | "kind") {
                return true;
            }
            if resource && name == "metadata" {
                prune_metadata(value, &below, removed);
                return true;
            }
            match (self.properties.get(name), &self.additional) {
                (Some(node), _) => node.prune(value, &below, removed),
                (None, Some(Additional::Values(node))) => node.prune(value, &below, removed),
                (None, Some(Additional::Anything)) => {}
                (None, None) if self.preserve => {}
                (None, None) => {
                    removed.push(below.path().as_str().to_owned());
                    return false;
                }
            }
            true
        });
    }

    /// Fills in defaults; a null where null is not allowed counts as absent.
    pub(super) fn default(&self, value: &mut Value) {
        match value {
            Value::Object(map) => self.default_fields(map),
            Value::Array(items) => {
                if let Some(node) = &self.items {
                    items.iter_mut().for_each(|item| node.default(item));
                }
            }
            _ => {}
        }
    }

    fn default_fields(&self, map: &mut Map<String, Value>) {
        for (name, node) in &self.properties {
            if let Some(default) = &node.default {
                let absent = map.get(name).is_none_or(|v| v.is_null() && !node.nullable);
                if absent {
                    map.insert(name.clone(), default.clone());
                }
            }
            if let Some(value) = map.get_mut(name) {
                node.default(value);
            }
        }
        if let Some(Additional::Values(node)) = &self.additional {
            let others = map.iter_mut().filter(|(name, _)| !self.properties.contains_key(*name));
            others.for_each(|(_, value)| node.default(value));
        }
    }

    /// All mistakes in a value.
    pub(super) fn validate(&self, value: &Value, path: &Path, errors: &mut Vec<FieldError>) {
        check::value(self, value, &Trail::Root(path), errors);
    }

    /// Whether a value is of this node's type.
    fn has_type(&self, value: &Value) -> bool {
        if value.is_null() {
            return self.nullable || self.kind.is_empty() && !self.int_or_string;
        }
        if self.int_or_string {
            return value.is_string() || value.is_i64();
        }
        match self.kind.as_str() {
            "" => true,
            "integer" => value.is_i64() || value.as_f64().is_some_and(|n| n.fract() == 0.0),
            "number" => value.is_number(),
            kind => object::type_name(value) == kind,
        }
    }
}

fn size(value: &Value) -> Option<usize> {
    value.as_u64().and_then(|n| usize::try_from(n).ok())
}

fn strings(value: &Value) -> Vec<String> {
    value.as_array().into_iter().flatten().filter_map(Value::as_str).map(str::to_owned).collect()
}

fn compile_pattern(pattern: &str, path: &Path, errors: &mut Vec<FieldError>) -> Option<Regex> {
    let compiled = regex::RegexBuilder::new(pattern).size_limit(1 << 20).build();
    if let Err(error) = &compiled {
        let text = format!("must be a valid regular expression, but isn't: {error}");
        errors.push(FieldError::invalid(path, pattern, text));
    }
    compiled.ok()
}

fn object_meta() -> Option<&'static Type> {
    table().named("apimachinery.pkg.apis.meta.v1.ObjectMeta")
}

fn prune_metadata(value: &mut Value, at: &Trail<'_>, removed: &mut Vec<String>) {
    let Some(t) = object_meta() else { return };
    let mut unknown = Vec::new();
    builtin::prune(t, value, &mut unknown);
    removed.extend(unknown.into_iter().map(|name| at.path().child(&name).as_str().to_owned()));
}

#[cfg(test)]
mod tests;
