//! What the OpenAPI document of a real API server says, small enough to be committed: a line for every type and
//! every operation. The document itself is 4 MB; the tests compare our own documents with these lines.

use std::collections::BTreeSet;
use std::fmt::Write as _;

use serde_json::{Map, Value};

/// Fields in which our sources differ from the server's own document.
pub(crate) const KNOWN: &[(&str, &str)] =
    &[("api.events.v1.Event", "eventTime"), ("apimachinery.pkg.apis.meta.v1.WatchEvent", "object")];

/// Definitions that differ for it, or that go with every group there is, served or not.
pub(crate) const SKIPPED: &[&str] = &["api.events.v1.Event", "apimachinery.pkg.apis.meta.v1.DeleteOptions"];

/// The name by which definitions are told apart.
pub(crate) fn short(name: &str) -> &str {
    name.trim_start_matches("io.k8s.")
}

/// The committed file's whole text.
#[allow(dead_code)] // Each of the files that include this one uses its part.
pub(crate) fn of(swagger: &Value) -> String {
    let mut out = String::from(
        "# Made by examples/generate (digest.rs) from the OpenAPI v2 document of a Kubernetes 1.35 API server:\n\
         #   cargo run -p api --example generate -- SWAGGER.json\n\
         # type: name, hash of the definition without texts, hash of the texts, fields with their shapes (!: required).\n\
         # operation: path, method, action, operation id, group/version/kind.\n",
    );
    for (name, definition) in definitions(swagger) {
        let _ = writeln!(out, "{}", type_line(short(name), definition));
    }
    for line in operations(swagger) {
        let _ = writeln!(out, "{line}");
    }
    out
}

/// The definitions of a document.
pub(crate) fn definitions(document: &Value) -> impl Iterator<Item = (&String, &Value)> {
    document["definitions"].as_object().into_iter().flatten()
}

fn type_line(name: &str, definition: &Value) -> String {
    let empty = Map::new();
    let properties = definition["properties"].as_object().unwrap_or(&empty);
    let required: Vec<&str> =
        definition["required"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
    let fields = properties.iter().map(|(field, schema)| Field {
        name: field,
        shape: shape(schema),
        required: required.contains(&field.as_str()),
        text: schema["description"].as_str().unwrap_or_default().to_owned(),
    });
    format!("type\t{name}\t{}\t{}", definition_hash(name, definition), fields_columns(name, fields.collect()))
}

/// One field as it is compared.
pub(crate) struct Field<'a> {
    pub(crate) name: &'a str,
    pub(crate) shape: String,
    pub(crate) required: bool,
    pub(crate) text: String,
}

/// The hash of all texts, and the shapes, sorted by name.
pub(crate) fn fields_columns(of: &str, mut fields: Vec<Field<'_>>) -> String {
    fields.retain(|field| !KNOWN.contains(&(of, field.name)));
    fields.sort_by_key(|field| field.name);
    let texts: Vec<&str> = fields.iter().map(|field| field.text.as_str()).collect();
    let mut columns = hash(&texts.join("\n"));
    for (i, Field { name, shape, required, .. }) in fields.iter().enumerate() {
        let _ = write!(
            columns,
            "{}{name}:{shape}{}",
            if i == 0 { '\t' } else { ' ' },
            if *required { "!" } else { "" }
        );
    }
    columns
}

/// The hash of what a definition says without its texts, and without what we leave out on purpose.
pub(crate) fn definition_hash(name: &str, definition: &Value) -> String {
    if SKIPPED.contains(&name) { "-".to_owned() } else { hash(&canonical(&bare(definition.clone()))) }
}

fn bare(mut definition: Value) -> Value {
    if let Some(map) = definition.as_object_mut() {
        map.remove("x-kubernetes-unions");
        map.remove("description");
        if let Some(required) = map.get_mut("required").and_then(Value::as_array_mut) {
            required.sort_by_key(Value::to_string);
        }
        for property in map.get_mut("properties").and_then(Value::as_object_mut).into_iter().flatten() {
            property.1.as_object_mut().and_then(|p| p.remove("description"));
        }
    }
    definition
}

/// JSON with its keys in order, whatever the order of the map.
fn canonical(value: &Value) -> String {
    match value {
        Value::Object(map) => {
            let sorted: BTreeSet<(&String, String)> = map.iter().map(|(k, v)| (k, canonical(v))).collect();
            let fields: Vec<String> = sorted.iter().map(|(k, v)| format!("{k:?}:{v}")).collect();
            format!("{{{}}}", fields.join(","))
        }
        Value::Array(items) => format!("[{}]", items.iter().map(canonical).collect::<Vec<_>>().join(",")),
        simple => simple.to_string(),
    }
}

/// FNV-1a: it is to notice differences, nobody gains by making two texts look the same.
fn hash(text: &str) -> String {
    let step = |hash: u64, byte: u8| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
    format!("{:016x}", text.bytes().fold(0xcbf2_9ce4_8422_2325, step))
}

/// The shape of a field: `string`, `integer:int32`, `[#api.core.v1.Container` (a list), `{string` (a map).
pub(crate) fn shape(schema: &Value) -> String {
    if let Some(reference) = schema["$ref"].as_str() {
        return format!("#{}", short(reference.trim_start_matches("#/definitions/")));
    }
    let format = schema["format"].as_str().map(|f| format!(":{f}")).unwrap_or_default();
    match (schema["type"].as_str(), &schema["additionalProperties"]) {
        (Some("array"), _) => format!("[{}", shape(&schema["items"])),
        (Some("object"), Value::Null) => "object".to_owned(),
        (Some("object"), values) => format!("{{{}", shape(values)),
        (Some(simple), _) => format!("{simple}{format}"),
        (None, _) => "any".to_owned(),
    }
}

/// A line for each operation on objects. The deprecated /watch/ paths are left out: we do not serve them.
pub(crate) fn operations(document: &Value) -> BTreeSet<String> {
    let mut all = BTreeSet::new();
    let paths = document["paths"].as_object().into_iter().flatten();
    for (path, item) in paths.filter(|(path, _)| !path.contains("/watch/")) {
        let operations = item.as_object().into_iter().flatten();
        for (method, operation) in operations.filter(|(_, o)| o["x-kubernetes-action"].is_string()) {
            let text = |v: &Value| v.as_str().unwrap_or_default().to_owned();
            let kind = &operation["x-kubernetes-group-version-kind"];
            let kind = ["group", "version", "kind"].map(|part| text(&kind[part])).join("/");
            let (id, action) = (text(&operation["operationId"]), text(&operation["x-kubernetes-action"]));
            all.insert(format!("operation\t{path}\t{method}\t{action}\t{id}\t{kind}"));
        }
    }
    all
}
