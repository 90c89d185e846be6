//! The committed table of types against its sources, and against the OpenAPI of a real 1.35 API server.

use std::collections::{BTreeMap, BTreeSet};

use api::{
    openapi,
    schema::types::{self, Field, Shape},
};
use generate::digest;
use serde_json::Value;

#[path = "../examples/generate/main.rs"]
mod generate;

/// `Definition, field, patch strategy, merge key, list type, list map keys` of every list of a real server.
const MERGE_KEYS: &str = include_str!("../testdata/merge-keys.tsv");

/// What the whole OpenAPI document of a real server says, in short.
const SERVER: &str = include_str!("../testdata/server.tsv");

/// That document, for those who have it.
const SWAGGER: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../../shared/facts/swagger-1.35.json");

#[test]
fn committed_table_is_what_the_generator_makes() {
    let (openapi, pb) = generate::sources().expect(
        "the sources of k8s-openapi and k8s-pb are not there: run `cargo fetch --locked` and try again",
    );
    let made = generate::table(&openapi, &pb).unwrap();
    same_lines(&made, include_str!("../schema/k8s.tsv"), "run `cargo run -p api --example generate`");
}

#[test]
fn committed_digest_is_that_of_the_document() {
    // The comparisons below need the digest only; this one is for those who have the document.
    let Ok(document) = std::fs::read(SWAGGER) else { return };
    let document: Value = serde_json::from_slice(&document).expect("the document is JSON");
    let advice = format!("run `cargo run -p api --example generate -- {SWAGGER}`");
    same_lines(&digest::of(&document), SERVER, &advice);
}

fn same_lines(made: &str, committed: &str, advice: &str) {
    let differs = made.lines().zip(committed.lines()).find(|(a, b)| a != b);
    assert_eq!(differs, None, "{advice}");
    assert_eq!(made.len(), committed.len(), "{advice}");
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

/// Lines of the digest of one sort, split into columns.
fn lines(sort: &str) -> impl Iterator<Item = Vec<&'static str>> {
    SERVER.lines().map(|line| line.split('\t').collect::<Vec<_>>()).filter(move |line| line[0] == sort)
}

#[test]
fn types_are_those_of_a_real_server() {
    let mut theirs: BTreeMap<&str, String> = lines("type").map(|l| (l[1], l[3..].join("\t"))).collect();
    for t in types::table().iter() {
        let field = |f: &'static Field| digest::Field {
            name: f.name,
            shape: ours(&f.shape),
            required: f.required,
            text: types::text(f.description),
        };
        let columns = digest::fields_columns(t.name, t.fields.iter().map(field).collect());
        assert_eq!(Some(columns), theirs.remove(t.name), "{} (hash of all texts, then the fields)", t.name);
    }
    assert!(theirs.is_empty(), "not ours: {:?}", theirs.keys());
}

#[test]
fn definitions_are_those_of_a_real_server() {
    let theirs: BTreeMap<&str, &str> = lines("type").map(|l| (l[1], l[2])).collect();
    let document = openapi::v2(&api::Catalog::builtin());
    let mut compared = 0;
    for (name, definition) in digest::definitions(&document) {
        let (name, ours) = (digest::short(name), digest::definition_hash(digest::short(name), definition));
        assert_eq!(Some(&ours.as_str()), theirs.get(name), "{name}: {definition:#}");
        compared += 1;
    }
    assert!(compared > 650, "{compared}");
}

#[test]
fn paths_are_those_of_a_real_server() {
    let ours = digest::operations(&openapi::v2(&api::Catalog::builtin()));
    let theirs: BTreeSet<String> = lines("operation").map(|l| l.join("\t")).collect();
    let missing: Vec<_> = theirs.difference(&ours).take(10).collect();
    let extra: Vec<_> = ours.difference(&theirs).take(10).collect();
    assert!(missing.is_empty() && extra.is_empty(), "missing {missing:#?}\nextra {extra:#?}");
    assert!(ours.len() > 500);
}
