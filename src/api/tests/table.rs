//! The committed table of types against its sources, and against the OpenAPI of a real 1.35 API server.

use std::{collections::BTreeSet, path::Path};

use api::{
    openapi,
    schema::types::{self, Field, Shape, Type},
};
use serde_json::Value;

#[path = "../examples/generate.rs"]
mod generate;

/// `Definition, field, patch strategy, merge key, list type, list map keys` of every list of a real server.
const MERGE_KEYS: &str = include_str!("../testdata/merge-keys.tsv");

/// The whole OpenAPI of a real server: too large to be committed, so looked at where it lies.
const SWAGGER: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../../shared/facts/swagger-1.35.json");

fn say_loudly(what: &str) {
    eprintln!("\n*** NOT COMPARED: {what} ***\n");
}

#[test]
fn committed_table_is_what_the_generator_makes() {
    let Some((openapi, pb)) = generate::sources().filter(|(a, b)| a.exists() && b.exists()) else {
        return say_loudly("the sources of k8s-openapi and k8s-pb are not there (cargo fetch brings them)");
    };
    let made = generate::table(&openapi, &pb).unwrap();
    let committed = include_str!("../schema/k8s.tsv");
    let differs = made.lines().zip(committed.lines()).find(|(a, b)| a != b);
    assert_eq!(differs, None, "run `cargo run -p api --example generate`");
    assert_eq!(made.len(), committed.len());
}

#[test]
fn merge_keys_are_those_of_a_real_server() {
    let mut compared = 0;
    for line in MERGE_KEYS.lines().skip(1) {
        let columns: Vec<_> = line.split('\t').collect();
        let [definition, field, strategy, key, list_type, map_keys, map_type, ..] = columns[..] else {
            panic!("{line}");
        };
        let t = types::table().named(definition.trim_start_matches("io.k8s.")).expect(definition);
        if field == "(self)" {
            assert_eq!(t.atomic, map_type == "atomic", "{definition}");
            continue;
        }
        let f = t.field(field).expect(line);
        let topology = if list_type.is_empty() { map_type } else { list_type };
        let ours = (f.patch_strategy, f.patch_key, f.list_type, f.map_keys);
        assert_eq!(ours, (strategy, key, topology, map_keys), "{definition} {field}");
        compared += 1;
    }
    assert!(compared > 400, "{compared}");
}

fn swagger() -> Option<Value> {
    let Ok(text) = std::fs::read(Path::new(SWAGGER)) else {
        say_loudly("swagger-1.35.json is not there");
        return None;
    };
    Some(serde_json::from_slice(&text).expect("the swagger is JSON"))
}

fn shape(schema: &Value) -> String {
    if let Some(reference) = schema["$ref"].as_str() {
        return format!("#{}", reference.trim_start_matches("#/definitions/io.k8s."));
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

fn ours(shape: &Shape) -> String {
    let with = |name: &str, format: &str| {
        if format.is_empty() { name.to_owned() } else { format!("{name}:{format}") }
    };
    match shape {
        Shape::Any => "any".to_owned(),
        Shape::Object => "object".to_owned(),
        Shape::String(format) => with("string", format),
        Shape::Integer(format) => with("integer", format),
        Shape::Number => "number:double".to_owned(),
        Shape::Boolean => "boolean".to_owned(),
        Shape::List(item) => format!("[{}", ours(item)),
        Shape::Map(value) => format!("{{{}", ours(value)),
        Shape::Ref(_) => format!("#{}", shape.target().expect("a type of the table").name),
    }
}

#[test]
fn types_are_those_of_a_real_server() {
    let Some(swagger) = swagger() else { return };
    let definitions = swagger["definitions"].as_object().unwrap();
    let theirs: BTreeSet<_> = definitions.keys().map(|k| k.trim_start_matches("io.k8s.")).collect();
    let names: BTreeSet<_> = types::table().iter().map(|t| t.name).collect();
    assert_eq!(names, theirs);
    for t in types::table().iter() {
        compare_type(t, &definitions[&format!("io.k8s.{}", t.name)]);
    }
}

/// Where our sources differ from the server's own document.
const KNOWN: &[(&str, &str)] =
    &[("api.events.v1.Event", "eventTime"), ("apimachinery.pkg.apis.meta.v1.WatchEvent", "object")];

fn compare_type(t: &Type, theirs: &Value) {
    let empty = serde_json::Map::new();
    let properties = theirs["properties"].as_object().unwrap_or(&empty);
    let names: BTreeSet<_> = properties.keys().map(String::as_str).collect();
    assert_eq!(t.fields.iter().map(|f| f.name).collect::<BTreeSet<_>>(), names, "{}", t.name);
    let required = theirs["required"].as_array().cloned().unwrap_or_default();
    for f in t.fields.iter().filter(|f| !KNOWN.contains(&(t.name, f.name))) {
        compare_field(t, f, &properties[f.name], required.contains(&Value::from(f.name)));
    }
}

fn compare_field(t: &Type, f: &Field, theirs: &Value, required: bool) {
    let at = format!("{} {}", t.name, f.name);
    assert_eq!(ours(&f.shape), shape(theirs), "{at}");
    assert_eq!(f.required, required, "{at}");
    assert_eq!(types::text(f.description), theirs["description"].as_str().unwrap_or_default(), "{at}");
}

/// What a definition says without its texts, and without what we leave out on purpose.
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

#[test]
fn definitions_are_those_of_a_real_server() {
    let Some(swagger) = swagger() else { return };
    let document = openapi::v2(&api::Catalog::builtin());
    let ours = document["definitions"].as_object().expect("definitions");
    // Differs, see KNOWN; or goes with every group there is, served or not.
    let skipped = ["io.k8s.api.events.v1.Event", "io.k8s.apimachinery.pkg.apis.meta.v1.DeleteOptions"];
    for (name, definition) in ours.iter().filter(|(name, _)| !skipped.contains(&name.as_str())) {
        assert_eq!(bare(definition.clone()), bare(swagger["definitions"][name].clone()), "{name}");
    }
    assert!(ours.len() > 650, "{}", ours.len());
}

/// Method, path, operation id, action, kind.
type Operation = (String, String, String, String, String);

fn operations(document: &Value) -> BTreeSet<Operation> {
    let mut all = BTreeSet::new();
    for (path, item) in document["paths"].as_object().expect("paths") {
        let item = item.as_object().expect("a path item");
        for (method, operation) in item.iter().filter(|(_, o)| o["x-kubernetes-action"].is_string()) {
            let text = |v: &Value| v.as_str().unwrap_or_default().to_owned();
            let gvk = operation["x-kubernetes-group-version-kind"].to_string();
            all.insert((
                method.clone(),
                path.clone(),
                text(&operation["operationId"]),
                text(&operation["x-kubernetes-action"]),
                gvk,
            ));
        }
    }
    all
}

#[test]
fn paths_are_those_of_a_real_server() {
    let Some(swagger) = swagger() else { return };
    let ours = operations(&openapi::v2(&api::Catalog::builtin()));
    // The deprecated /watch/ paths are not served.
    let theirs: BTreeSet<_> = operations(&swagger).into_iter().filter(|o| !o.1.contains("/watch/")).collect();
    let missing: Vec<_> = theirs.difference(&ours).take(10).collect();
    let extra: Vec<_> = ours.difference(&theirs).take(10).collect();
    assert!(missing.is_empty() && extra.is_empty(), "missing {missing:#?}\nextra {extra:#?}");
    assert!(ours.len() > 500);
}
