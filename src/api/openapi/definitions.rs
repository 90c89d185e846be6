//! Schemas of kinds as OpenAPI writes them, from the table of built-in types or from a CRD.

use std::collections::BTreeMap;

use serde_json::{Map, Value, json};

use crate::{
    GroupVersionKind, Resource,
    schema::types::{self, Field, Shape, Type},
};

pub(super) const META: &str = "apimachinery.pkg.apis.meta.v1";

/// Which version of OpenAPI is written.
#[derive(Clone, Copy, PartialEq)]
pub(super) enum Flavor {
    V2,
    V3,
}

impl Flavor {
    fn reference(self, name: &str) -> String {
        match self {
            Self::V2 => format!("#/definitions/{name}"),
            Self::V3 => format!("#/components/schemas/{name}"),
        }
    }
}

/// The definitions of a document: those that were asked for, and all that they refer to.
pub(super) struct Definitions {
    flavor: Flavor,
    pub(super) all: BTreeMap<String, Value>,
}

impl Definitions {
    pub(super) fn new(flavor: Flavor) -> Self {
        Self { flavor, all: BTreeMap::new() }
    }

    /// A reference to the definition of a kind, which is added with all that it needs.
    pub(super) fn kind(&mut self, gvk: &GroupVersionKind, custom: Option<&Resource>) -> Option<Value> {
        if let Some(resource) =
            custom.filter(|r| r.custom && r.group == gvk.group && r.version == gvk.version)
        {
            return Some(self.custom(resource, &gvk.kind));
        }
        let t = types::table().kind(&gvk.group, &gvk.version, &gvk.kind)?;
        Some(self.of_type(t))
    }

    /// A reference to a type of meta/v1.
    pub(super) fn meta(&mut self, name: &str) -> Value {
        match types::table().named(&format!("{META}.{name}")) {
            Some(t) => self.of_type(t),
            None => json!({"type": "object"}),
        }
    }

    fn of_type(&mut self, t: &'static Type) -> Value {
        let name = format!("io.k8s.{}", t.name);
        if !self.all.contains_key(&name) {
            self.all.insert(name.clone(), Value::Null);
            let definition = self.definition(t);
            self.all.insert(name.clone(), definition);
        }
        json!({"$ref": self.flavor.reference(&name)})
    }

    fn definition(&mut self, t: &'static Type) -> Value {
        let mut out = match &t.whole {
            Some(whole) => self.whole(whole),
            None => Map::from_iter([("type".to_owned(), json!("object"))]),
        };
        set_text(&mut out, t.description);
        if t.whole.is_none() {
            let properties: Map<_, _> =
                t.fields.iter().map(|f| (f.name.to_owned(), self.property(f))).collect();
            out.insert("properties".into(), Value::Object(properties));
        }
        let required: Vec<_> = t.fields.iter().filter(|f| f.required).map(|f| f.name).collect();
        if !required.is_empty() {
            out.insert("required".into(), json!(required));
        }
        if t.atomic {
            out.insert("x-kubernetes-map-type".into(), json!("atomic"));
        }
        let kinds = match t.short() {
            "DeleteOptions" | "WatchEvent" => every_group(t.short()),
            _ => t.kinds.iter().map(|(g, v, k)| json!({"group": g, "version": v, "kind": k})).collect(),
        };
        if !kinds.is_empty() {
            out.insert("x-kubernetes-group-version-kind".into(), kinds.into());
        }
        Value::Object(out)
    }

    /// A type that is no struct: version 3 says what version 2 cannot.
    fn whole(&mut self, shape: &Shape) -> Map<String, Value> {
        let value = match (shape, self.flavor) {
            (Shape::String("quantity"), Flavor::V3) => {
                json!({"oneOf": [{"type": "string"}, {"type": "number"}]})
            }
            (Shape::String("quantity"), Flavor::V2) => json!({"type": "string"}),
            (Shape::String("int-or-string"), Flavor::V3) => {
                json!({"oneOf": [{"type": "integer"}, {"type": "string"}], "format": "int-or-string"})
            }
            (Shape::String("micro-time"), _) => json!({"type": "string", "format": "date-time"}),
            (shape, _) => self.shape(shape),
        };
        value.as_object().cloned().unwrap_or_default()
    }

    fn shape(&mut self, shape: &Shape) -> Value {
        match shape {
            Shape::Any => json!({}),
            Shape::Object => json!({"type": "object"}),
            Shape::Boolean => json!({"type": "boolean"}),
            Shape::Number => json!({"type": "number", "format": "double"}),
            Shape::String("") => json!({"type": "string"}),
            Shape::String(format) => json!({"type": "string", "format": format}),
            Shape::Integer("") => json!({"type": "integer"}),
            Shape::Integer(format) => json!({"type": "integer", "format": format}),
            Shape::List(item) => json!({"type": "array", "items": self.nested(item)}),
            Shape::Map(value) => json!({"type": "object", "additionalProperties": self.nested(value)}),
            Shape::Ref(_) => shape.target().map_or(Value::Null, |t| self.of_type(t)),
        }
    }

    /// An item or value: in version 3 a reference is wrapped, so that a default can stand beside it.
    fn nested(&mut self, shape: &Shape) -> Value {
        let inner = self.shape(shape);
        match (shape, self.flavor) {
            (Shape::Ref(_), Flavor::V3) => json!({"allOf": [inner], "default": {}}),
            (Shape::String(""), Flavor::V3) => json!({"type": "string", "default": ""}),
            _ => inner,
        }
    }

    fn property(&mut self, field: &Field) -> Value {
        let inner = self.shape(&field.shape);
        let mut out = match (&field.shape, self.flavor, inner) {
            (Shape::Ref(_), Flavor::V3, inner) => Map::from_iter([("allOf".to_owned(), json!([inner]))]),
            (_, _, Value::Object(map)) => map,
            _ => Map::new(),
        };
        set_text(&mut out, field.description);
        if self.flavor == Flavor::V3 && !field.default.is_empty() {
            out.extend(serde_json::from_str(field.default).ok().map(|d| ("default".to_owned(), d)));
        }
        let is_map = matches!(field.shape, Shape::Map(_) | Shape::Ref(_));
        let topology = if is_map { "x-kubernetes-map-type" } else { "x-kubernetes-list-type" };
        let mut extension = |name: &str, value: Value| out.insert(name.to_owned(), value);
        if !field.list_type.is_empty() {
            extension(topology, json!(field.list_type));
        }
        if !field.map_keys.is_empty() {
            extension("x-kubernetes-list-map-keys", field.map_keys.split(',').collect());
        }
        if !field.patch_strategy.is_empty() {
            extension("x-kubernetes-patch-strategy", json!(field.patch_strategy));
        }
        if !field.patch_key.is_empty() {
            extension("x-kubernetes-patch-merge-key", json!(field.patch_key));
        }
        Value::Object(out)
    }

    fn custom(&mut self, resource: &Resource, kind: &str) -> Value {
        let reversed: Vec<_> = resource.group.rsplit('.').collect();
        let name = format!("{}.{}.{kind}", reversed.join("."), resource.version);
        if !self.all.contains_key(&name) {
            self.all.insert(name.clone(), Value::Null);
            let definition = self.custom_definition(resource, kind);
            self.all.insert(name.clone(), definition);
        }
        json!({"$ref": self.flavor.reference(&name)})
    }

    fn custom_definition(&mut self, resource: &Resource, kind: &str) -> Value {
        let gvk = json!([{"group": resource.group, "version": resource.version, "kind": kind}]);
        let api_version =
            types::table().kind("", "v1", "Pod").map(|t| ["apiVersion", "kind"].map(|f| t.field(f)));
        let mut properties = Map::new();
        for field in api_version.into_iter().flatten().flatten() {
            properties.insert(field.name.to_owned(), self.property(field));
        }
        let mut out = if kind == resource.list_kind {
            let item = self.custom(resource, &resource.kind);
            properties.insert("metadata".into(), self.meta("ListMeta"));
            properties.insert("items".into(), json!({"type": "array", "items": item}));
            json!({"type": "object", "description": format!("{kind} is a list of {}", resource.kind), "required": ["items"]})
        } else {
            let schema = resource.schema.as_ref().and_then(|s| s.open_api());
            let mut schema = schema
                .cloned()
                .unwrap_or_else(|| json!({"type": "object", "x-kubernetes-preserve-unknown-fields": true}));
            if self.flavor == Flavor::V2 {
                downgrade(&mut schema);
            }
            let own = schema["properties"].as_object().cloned().unwrap_or_default();
            properties.extend(own.into_iter().filter(|(name, _)| name != "metadata"));
            properties.insert("metadata".into(), self.meta("ObjectMeta"));
            schema
        };
        out["properties"] = Value::Object(properties);
        out["x-kubernetes-group-version-kind"] = gvk;
        out
    }
}

/// These two go with every group and version.
fn every_group(kind: &str) -> Vec<Value> {
    let catalog = crate::Catalog::builtin();
    let groups = catalog.group_versions();
    groups.iter().map(|(group, version)| json!({"group": group, "version": version, "kind": kind})).collect()
}

fn set_text(out: &mut Map<String, Value>, escaped: &str) {
    if !escaped.is_empty() {
        out.insert("description".into(), types::text(escaped).into());
    }
}

/// Leaves out of a CRD's schema what version 2 has no word for; what then cannot be described accepts all.
fn downgrade(schema: &mut Value) {
    let Some(map) = schema.as_object_mut() else { return };
    let free = map.get("x-kubernetes-preserve-unknown-fields") == Some(&Value::Bool(true));
    let nullable = map.remove("nullable") == Some(Value::Bool(true));
    let either = map.get("x-kubernetes-int-or-string") == Some(&Value::Bool(true));
    for word in ["oneOf", "anyOf", "not", "allOf"] {
        map.remove(word);
    }
    map.retain(|word, _| !word.starts_with("x-kubernetes-validations"));
    if nullable || either {
        for word in ["type", "properties", "items", "additionalProperties", "required", "format"] {
            map.remove(word);
        }
    } else if free {
        map.remove("items");
        map.remove("properties");
    }
    for (word, value) in map.iter_mut() {
        match word.as_str() {
            "properties" => value.as_object_mut().into_iter().flat_map(Map::values_mut).for_each(downgrade),
            "items" | "additionalProperties" => downgrade(value),
            _ => {}
        }
    }
}
