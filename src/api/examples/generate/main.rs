//! Makes `schema/k8s.tsv` from the sources of two published crates: `k8s-openapi` (types, required, texts) and
//! `k8s-pb` (protobuf tags, and the Go markers in its comments: list types, keys, patch strategies, defaults).
//!
//! Run by hand when the version moves: `cargo run -p api --example generate`, with the OpenAPI document of a real
//! API server (`kubectl get --raw /openapi/v2`) as its argument to make `testdata/server.tsv` from that as well.
//! Not a build script, because on a fresh machine neither source is there at build time. Both sources are machine-written and regular, so lines
//! are read, not Rust.

pub(crate) mod digest;

use std::{
    collections::BTreeMap,
    fmt::Write as _,
    fs, io,
    path::{Path, PathBuf},
    process::Command,
};

/// The version of Kubernetes whose types are read from k8s-openapi.
const VERSION: &str = "v1_35";

#[allow(dead_code)] // A test includes this file as a module.
fn main() -> io::Result<()> {
    let (openapi, pb) =
        sources().ok_or_else(|| io::Error::other("cargo metadata finds no k8s-openapi or k8s-pb"))?;
    let out = Path::new(env!("CARGO_MANIFEST_DIR")).join("schema/k8s.tsv");
    let table = table(&openapi, &pb)?;
    write(&out, &table)?;
    let Some(swagger) = std::env::args_os().nth(1) else { return Ok(()) };
    let swagger: serde_json::Value = serde_json::from_slice(&fs::read(swagger)?)?;
    write(&Path::new(env!("CARGO_MANIFEST_DIR")).join("testdata/server.tsv"), &digest::of(&swagger))
}

#[allow(dead_code)] // A test includes this file as a module.
fn write(file: &Path, text: &str) -> io::Result<()> {
    println!("{}: {} lines, {} bytes", file.display(), text.lines().count(), text.len());
    fs::write(file, text)
}

/// The source folders of k8s-openapi and k8s-pb, as cargo knows them. Where they were never needed, cargo fetches
/// them now: what nothing compiles is not there yet on a fresh machine.
pub(crate) fn sources() -> Option<(PathBuf, PathBuf)> {
    known_sources("--offline").or_else(|| known_sources("--locked"))
}

fn known_sources(how: &str) -> Option<(PathBuf, PathBuf)> {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let arguments = ["metadata", "--format-version", "1", "--all-features", how];
    let output = Command::new(cargo).args(arguments).current_dir(env!("CARGO_MANIFEST_DIR")).output().ok()?;
    let metadata: serde_json::Value = serde_json::from_slice(&output.stdout).ok()?;
    let folder = |name: &str| {
        let package = metadata["packages"].as_array()?.iter().find(|p| p["name"] == name)?;
        Some(Path::new(package["manifest_path"].as_str()?).parent()?.join("src"))
    };
    let found = (folder("k8s-openapi")?.join(VERSION), folder("k8s-pb")?);
    Some(found).filter(|(openapi, pb)| openapi.exists() && pb.exists())
}

/// The whole table.
///
/// # Errors
/// When a source cannot be read or is not as regular as it was.
pub(crate) fn table(openapi: &Path, pb: &Path) -> io::Result<String> {
    let messages = messages(pb)?;
    let mut types = BTreeMap::new();
    for file in rust_files(openapi)? {
        for t in parse_file(&fs::read_to_string(&file)?) {
            types.insert(t.name.clone(), t);
        }
    }
    let lists: Vec<_> = types.values().filter_map(|t| list_type(t, &messages)).collect();
    types.extend(lists.into_iter().map(|t| (t.name.clone(), t)));
    let mut out = String::from("# Made by examples/generate.rs from k8s-openapi and k8s-pb. Do not edit.\n");
    for t in types.values() {
        write_type(&mut out, t, &messages);
    }
    Ok(out)
}

fn rust_files(folder: &Path) -> io::Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        if path.is_dir() {
            files.extend(rust_files(&path)?);
        } else if path.extension().is_some_and(|e| e == "rs") {
            files.push(path);
        }
    }
    files.sort();
    Ok(files)
}

/// A definition as k8s-openapi has it.
struct Definition {
    name: String,
    kinds: Vec<(String, String, String)>,
    list_kind: String,
    schema: Json,
}

/// The JSON in a `json_schema!` call, with references.
#[derive(Clone, Debug)]
enum Json {
    Object(Vec<(String, Json)>),
    List(Vec<Json>),
    Text(String),
    Bool,
    /// A reference, and the description that overrides its own.
    Reference(String, String),
}

impl Json {
    fn get(&self, key: &str) -> Option<&Json> {
        match self {
            Self::Object(fields) => fields.iter().find(|(k, _)| k == key).map(|(_, v)| v),
            _ => None,
        }
    }

    fn text(&self, key: &str) -> &str {
        match self.get(key) {
            Some(Self::Text(text)) => text,
            _ => "",
        }
    }

    fn fields(&self, key: &str) -> &[(String, Json)] {
        match self.get(key) {
            Some(Self::Object(fields)) => fields,
            _ => &[],
        }
    }

    fn list(&self, key: &str) -> Vec<&str> {
        match self.get(key) {
            Some(Self::List(items)) => items
                .iter()
                .filter_map(|i| if let Self::Text(t) = i { Some(t.as_str()) } else { None })
                .collect(),
            _ => Vec::new(),
        }
    }
}

fn parse_file(text: &str) -> Vec<Definition> {
    let Some(name) = between(text, "// Generated from definition ", "\n") else { return Vec::new() };
    let Some(schema) = text.split("json_schema!(").nth(1) else { return Vec::new() };
    let (schema, _) = Parser { rest: schema }.value();
    let constant = |name: &str| between(text, &format!("const {name}: &'static str = \""), "\"");
    let mut kinds = Vec::new();
    if text.contains("impl crate::Resource for ") {
        let all = (constant("GROUP"), constant("VERSION"), constant("KIND"));
        if let (Some(group), Some(version), Some(kind)) = all {
            kinds.push((group.to_owned(), version.to_owned(), kind.to_owned()));
        }
    }
    let list_kind = constant("LIST_KIND").unwrap_or_default().to_owned();
    vec![Definition { name: name.to_owned(), kinds, list_kind, schema }]
}

fn between<'a>(text: &'a str, before: &str, after: &str) -> Option<&'a str> {
    let start = text.find(before)? + before.len();
    Some(&text[start..start + text[start..].find(after)?])
}

struct Parser<'a> {
    rest: &'a str,
}

impl<'a> Parser<'a> {
    fn value(mut self) -> (Json, &'a str) {
        self.rest = self.rest.trim_start();
        match self.rest.as_bytes().first() {
            Some(b'{') => self.object(),
            Some(b'[') => self.list(),
            Some(b'"') => {
                let (text, rest) = string(self.rest);
                (Json::Text(text), rest)
            }
            Some(b'(') => self.parenthesis(),
            Some(b'_') => self.reference(""),
            Some(b't' | b'f') => (Json::Bool, self.rest.trim_start_matches(char::is_alphabetic)),
            _ => panic!("unexpected in json_schema!: {:.80}", self.rest),
        }
    }

    fn object(self) -> (Json, &'a str) {
        let mut fields = Vec::new();
        let mut rest = self.rest[1..].trim_start();
        while !rest.starts_with('}') {
            let (key, after) = string(rest);
            let after = after.trim_start().strip_prefix(':').expect("a colon after a key");
            let (value, after) = Parser { rest: after }.value();
            fields.push((key, value));
            let after = after.trim_start();
            rest = after.strip_prefix(',').unwrap_or(after).trim_start();
        }
        (Json::Object(fields), &rest[1..])
    }

    fn list(self) -> (Json, &'a str) {
        let mut items = Vec::new();
        let mut rest = self.rest[1..].trim_start();
        while !rest.starts_with(']') {
            let (value, after) = Parser { rest }.value();
            items.push(value);
            let after = after.trim_start();
            rest = after.strip_prefix(',').unwrap_or(after).trim_start();
        }
        (Json::List(items), &rest[1..])
    }

    /// `(REFERENCE)`, or a block that sets the description of a reference.
    fn parenthesis(self) -> (Json, &'a str) {
        let inner = self.rest[1..].trim_start();
        let Some(block) = inner.strip_prefix('{').filter(|b| b.trim_start().starts_with("let mut")) else {
            let (value, rest) = Parser { rest: inner }.value();
            return (value, rest.trim_start().strip_prefix(')').expect("a closing parenthesis"));
        };
        let at = block.find("__gen").expect("a reference in the block");
        let (_, after) = Parser { rest: &block[at..] }.reference("");
        let at = after.find("\"description\".into(), ").expect("a description in the block");
        let (description, after) = string(&after[at + "\"description\".into(), ".len()..]);
        let (reference, _) =
            Parser { rest: &block[block.find("__gen").expect("seen above")..] }.reference(&description);
        let end = after.find("})").expect("the end of the block");
        (reference, &after[end + 2..])
    }

    /// `__gen.subschema_for::<crate::api::core::v1::PodSpec>()`.
    fn reference(self, description: &str) -> (Json, &'a str) {
        let path = between(self.rest, "subschema_for::<", ">()").expect("a type");
        let rest = &self.rest[self.rest.find(">()").expect("seen above") + 3..];
        let name = path.trim_start_matches("crate::").replace("::", ".");
        (Json::Reference(definition_name(&name), description.to_owned()), rest)
    }
}

/// `api.core.v1.PodSpec` of a Rust path; packages whose names have dashes lose them in Rust.
fn definition_name(path: &str) -> String {
    path.replace("apiextensions_apiserver", "apiextensions-apiserver")
        .replace("kube_aggregator", "kube-aggregator")
}

/// A Rust string literal at the start of a text, and what follows it.
fn string(text: &str) -> (String, &str) {
    let body = text.strip_prefix('"').unwrap_or_else(|| panic!("no string: {text:.60}"));
    let mut out = String::new();
    let mut chars = body.char_indices();
    while let Some((i, c)) = chars.next() {
        match c {
            '"' => return (out, &body[i + 1..]),
            '\\' => match chars.next().map(|(_, c)| c) {
                Some('n') => out.push('\n'),
                Some('t') => out.push('\t'),
                Some('u') => {
                    let code: String =
                        chars.by_ref().map(|(_, c)| c).skip(1).take_while(|c| *c != '}').collect();
                    let code = u32::from_str_radix(&code, 16).expect("a code point");
                    out.push(char::from_u32(code).expect("a character"));
                }
                Some(c) => out.push(c),
                None => break,
            },
            c => out.push(c),
        }
    }
    panic!("unterminated string: {text:.60}")
}

/// A protobuf message as k8s-pb has it.
#[derive(Default)]
struct Message {
    doc: Vec<String>,
    fields: Vec<MessageField>,
}

#[derive(Clone, Default)]
struct MessageField {
    /// Lower case, letters and digits only: comparable with a JSON name.
    name: String,
    kind: String,
    tag: String,
    doc: Vec<String>,
}

type Messages = BTreeMap<String, Message>;

/// All messages by `module.struct`, in lower case.
fn messages(pb: &Path) -> io::Result<Messages> {
    let mut messages = Messages::new();
    for file in rust_files(pb)? {
        let module = file.parent().and_then(|p| p.strip_prefix(pb).ok()).expect("below the folder").display();
        let module = module.to_string().replace('/', ".");
        parse_messages(&module, &fs::read_to_string(&file)?, &mut messages);
    }
    Ok(messages)
}

fn parse_messages(module: &str, text: &str, messages: &mut Messages) {
    let (mut doc, mut tag, mut current) = (Vec::new(), String::new(), None::<String>);
    let mut lines = text.lines().map(str::trim);
    while let Some(line) = lines.next() {
        if let Some(comment) = line.strip_prefix("///") {
            doc.push(comment.strip_prefix(' ').unwrap_or(comment).to_owned());
        } else if line.starts_with("#[prost(") {
            tag = between(line, "tag = \"", "\"").unwrap_or_default().to_owned();
        } else if let Some(name) = line.strip_prefix("pub struct ") {
            let name = name.split(|c: char| !c.is_alphanumeric() && c != '_').next().unwrap_or_default();
            let name = format!("{module}.{name}").to_lowercase();
            let fields = Vec::new();
            messages.insert(name.clone(), Message { doc: std::mem::take(&mut doc), fields });
            current = Some(name);
        } else if let Some((name, kind)) = line.strip_prefix("pub ").and_then(|l| l.split_once(':')) {
            let Some(message) = current.as_ref().and_then(|c| messages.get_mut(c)) else { continue };
            let mut kind = kind.trim().to_owned();
            while !kind.ends_with(',') {
                kind.push_str(lines.next().expect("a field's type ends with a comma"));
            }
            let field = MessageField {
                name: plain(name.trim_start_matches("r#")),
                kind,
                tag: std::mem::take(&mut tag),
                doc: std::mem::take(&mut doc),
            };
            message.fields.push(field);
        } else if line == "}" {
            current = None;
        } else if !line.starts_with("#[") {
            doc.clear();
        }
    }
}

fn plain(name: &str) -> String {
    name.chars().filter(char::is_ascii_alphanumeric).collect::<String>().to_lowercase()
}

/// The message of a definition.
fn message<'a>(messages: &'a Messages, definition: &str) -> Option<&'a Message> {
    let name = definition.trim_start_matches("io.k8s.").replace('-', "_").to_lowercase();
    messages.get(&name)
}

/// The message field of a JSON field; inline structs are nested in protobuf: then the tag is a path (`1.3`).
fn message_field(messages: &Messages, definition: &str, json: &str) -> Option<MessageField> {
    let own = message(messages, definition)?;
    let wanted = plain(json);
    if let Some(field) = own.fields.iter().find(|f| f.name == wanted) {
        return Some(field.clone());
    }
    // An inline struct's field is named after its type (`handler` of ProbeHandler).
    let package = definition.trim_start_matches("io.k8s.").rsplit_once('.')?.0;
    own.fields.iter().find_map(|outer| {
        let inner = resolve(package, &outer.kind)?;
        let (_, kind) = inner.rsplit_once('.')?;
        let field = plain(kind).ends_with(&outer.name).then(|| message_field(messages, &inner, json))??;
        Some(MessageField { tag: format!("{}.{}", outer.tag, field.tag), ..field })
    })
}

/// The definition that an optional message field's Rust type names, seen from a package.
fn resolve(package: &str, kind: &str) -> Option<String> {
    let path = between(kind, "Option<", ">")?.trim_end_matches(',').trim();
    let mut package: Vec<_> = package.split('.').collect();
    for part in path.split("::") {
        if part == "super" {
            package.pop()?;
        } else {
            package.push(part);
        }
    }
    Some(package.join("."))
}

/// The text of a comment without markers, as Kubernetes' generator joins it: paragraphs by empty lines.
fn prose(doc: &[String]) -> String {
    let mut out = String::new();
    for line in doc.iter().map(|l| l.trim()).take_while(|l| *l != "---").filter(|l| !l.starts_with('+')) {
        if line.is_empty() {
            out.push_str("\n\n");
        } else {
            if !out.is_empty() && !out.ends_with('\n') {
                out.push(' ');
            }
            out.push_str(line);
        }
    }
    // prost makes links of bare addresses.
    out.trim().replace("<http", "http").replace('>', "")
}

fn marker<'a>(doc: &'a [String], name: &str) -> Vec<&'a str> {
    doc.iter().filter_map(|l| l.trim().strip_prefix('+')?.strip_prefix(name)?.strip_prefix('=')).collect()
}

/// The definition of the list of a kind, which k8s-openapi has as a generic type.
fn list_type(item: &Definition, messages: &Messages) -> Option<Definition> {
    let (group, version, _) = item.kinds.first()?;
    let package = item.name.rsplit_once('.')?.0;
    let name = format!("{package}.{}", item.list_kind);
    let doc = message(messages, &name).filter(|_| !item.list_kind.is_empty())?;
    let text = |s: &str| Json::Text(s.to_owned());
    let field_doc =
        |field: &str| doc.fields.iter().find(|f| f.name == field).map(|f| prose(&f.doc)).unwrap_or_default();
    let typed = |key: &str| item.schema.fields("properties").iter().find(|(k, _)| k == key).cloned();
    let items = Json::Object(vec![
        ("description".into(), text(&field_doc("items"))),
        ("type".into(), text("array")),
        ("items".into(), Json::Reference(item.name.trim_start_matches("io.k8s.").into(), String::new())),
    ]);
    let meta = Json::Reference("apimachinery.pkg.apis.meta.v1.ListMeta".into(), field_doc("metadata"));
    let mut properties: Vec<_> = typed("apiVersion").into_iter().collect();
    properties.push(("items".into(), items));
    properties.extend(typed("kind"));
    properties.push(("metadata".into(), meta));
    let schema = Json::Object(vec![
        ("description".into(), text(&prose(&doc.doc))),
        ("type".into(), text("object")),
        ("properties".into(), Json::Object(properties)),
        ("required".into(), Json::List(vec![text("items")])),
    ]);
    let kinds = vec![(group.clone(), version.clone(), item.list_kind.clone())];
    Some(Definition { name, kinds, list_kind: String::new(), schema })
}

fn write_type(out: &mut String, t: &Definition, messages: &Messages) {
    let name = t.name.trim_start_matches("io.k8s.");
    let kinds: Vec<_> = t.kinds.iter().map(|(g, v, k)| format!("{g}/{v}/{k}")).collect();
    let doc = message(messages, &t.name).map(|m| m.doc.as_slice()).unwrap_or_default();
    let atomic = if marker(doc, "structType") == ["atomic"] { "atomic" } else { "" };
    let whole = if t.schema.fields("properties").is_empty() { shape(&t.schema) } else { String::new() };
    let description = escape(t.schema.text("description"));
    writeln!(out, "T\t{name}\t{}\t{atomic}\t{whole}\t{description}", kinds.join(",")).expect("to a string");
    let required = t.schema.list("required");
    for (json, schema) in t.schema.fields("properties") {
        let field = message_field(messages, &t.name, json).unwrap_or_default();
        // k8s-openapi makes these required for its own convenience.
        let implied = json == "metadata" && !t.kinds.is_empty() && name != "api.core.v1.Event";
        let defaulted = !marker(&field.doc, "default").is_empty();
        let required = required.contains(&json.as_str()) && !implied && !defaulted;
        write_field(out, json, schema, &field, required);
    }
}

fn write_field(out: &mut String, json: &str, schema: &Json, field: &MessageField, required: bool) {
    let description = match schema {
        Json::Reference(_, description) => description,
        other => other.text("description"),
    };
    let one = |name: &str| marker(&field.doc, name).first().copied().unwrap_or_default().to_owned();
    let list_type = ["listType", "mapType", "structType"].map(one).into_iter().find(|t| !t.is_empty());
    let columns = [
        "F".to_owned(),
        json.to_owned(),
        shape(schema),
        field.tag.clone(),
        if required { "required" } else { "" }.to_owned(),
        list_type.unwrap_or_default(),
        marker(&field.doc, "listMapKey").join(","),
        marker(&field.doc, "patchStrategy").join(","),
        one("patchMergeKey"),
        default_value(&one("default")),
        escape(description),
    ];
    writeln!(out, "{}", columns.join("\t")).expect("to a string");
}

/// A default as JSON; two refer to Go constants.
fn default_value(marker: &str) -> String {
    match marker {
        "ref(AzureDataDiskCachingReadWrite)" => "\"ReadWrite\"".to_owned(),
        "ref(AzureSharedBlobDisk)" => "\"Shared\"".to_owned(),
        other => other.to_owned(),
    }
}

/// A type in the table's notation: `string:FORMAT`, `[ITEM`, `{VALUE`, `#DEFINITION`, `any`.
fn shape(schema: &Json) -> String {
    if let Json::Reference(name, _) = schema {
        return format!("#{name}");
    }
    let format = schema.text("format");
    match schema.text("type") {
        "array" => format!("[{}", schema.get("items").map_or_else(|| "any".into(), shape)),
        "object" => match schema.get("additionalProperties") {
            Some(values) => format!("{{{}", shape(values)),
            None => "object".to_owned(),
        },
        "" => "any".to_owned(),
        simple if format.is_empty() => simple.to_owned(),
        simple => format!("{simple}:{format}"),
    }
}

fn escape(text: &str) -> String {
    text.replace('\\', "\\\\").replace('\n', "\\n").replace('\t', "\\t")
}
