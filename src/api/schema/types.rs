//! The table of every built-in type: fields, protobuf tags, list keys, patch strategies, defaults, texts.
//!
//! Keeps true: parsed once, from text that lives in the program; nothing is copied. `examples/generate.rs`
//! makes the text, `tests/table.rs` compares it with its sources and with a real API server's OpenAPI.

use std::{collections::HashMap, sync::OnceLock};

const TEXT: &str = include_str!("k8s.tsv");

/// A type: a definition of Kubernetes' OpenAPI, without `io.k8s.` before its name.
#[derive(Debug)]
pub struct Type {
    /// `api.core.v1.Pod`.
    pub name: &'static str,
    /// Group, version and kind, for a type that is a kind.
    pub kinds: Vec<(&'static str, &'static str, &'static str)>,
    /// Whether values are replaced as a whole (`x-kubernetes-map-type: atomic`).
    pub atomic: bool,
    /// For a type without fields: what its values are.
    pub whole: Option<Shape>,
    /// Escaped, see [`text`].
    pub description: &'static str,
    /// Sorted by name.
    pub fields: Vec<Field>,
}

impl Type {
    /// The field of this JSON name.
    pub fn field(&self, name: &str) -> Option<&Field> {
        let found = self.fields.binary_search_by(|f| f.name.cmp(name)).ok()?;
        self.fields.get(found)
    }

    /// The name after the last dot: `Pod`.
    pub fn short(&self) -> &'static str {
        self.name.rsplit('.').next().unwrap_or(self.name)
    }
}

/// A field of a type.
#[derive(Debug)]
pub struct Field {
    /// The JSON name.
    pub name: &'static str,
    /// What values are.
    pub shape: Shape,
    /// The protobuf tag; `1.3` for tag 3 in a message under tag 1.
    pub tag: &'static str,
    /// Whether it must be there.
    pub required: bool,
    /// `atomic`, `set`, `map`, `granular` or empty.
    pub list_type: &'static str,
    /// The keys of a list that is a map, separated by commas.
    pub map_keys: &'static str,
    /// `merge`, `replace`, `retainKeys`, separated by commas.
    pub patch_strategy: &'static str,
    /// The key by which strategic merge finds an item.
    pub patch_key: &'static str,
    /// JSON, or empty.
    pub default: &'static str,
    /// Escaped, see [`text`].
    pub description: &'static str,
}

/// What a value is.
#[derive(Clone, Debug, PartialEq)]
pub enum Shape {
    /// Anything.
    Any,
    /// An object of anything.
    Object,
    /// A string; with its OpenAPI format, or empty.
    String(&'static str),
    /// An integer: `int32` or `int64`.
    Integer(&'static str),
    /// A floating-point number.
    Number,
    /// A boolean.
    Boolean,
    /// A list.
    List(Box<Shape>),
    /// An object whose values are all alike.
    Map(Box<Shape>),
    /// A type of the table.
    Ref(usize),
}

impl Shape {
    /// The type that is referred to.
    pub fn target(&self) -> Option<&'static Type> {
        match self {
            Self::Ref(i) => table().types.get(*i),
            _ => None,
        }
    }

    /// This shape, or what stands behind a reference to a type without fields.
    pub(super) fn resolve(&self) -> &Shape {
        match self.target().and_then(|t| t.whole.as_ref()) {
            Some(whole) => whole,
            None => self,
        }
    }
}

/// All types.
#[derive(Debug)]
pub struct Table {
    types: Vec<Type>,
    by_name: HashMap<&'static str, usize>,
    by_kind: HashMap<(&'static str, &'static str, &'static str), usize>,
}

impl Table {
    /// The type of this name (`api.core.v1.PodSpec`).
    pub fn named(&'static self, name: &str) -> Option<&'static Type> {
        self.by_name.get(name).map(|i| &self.types[*i])
    }

    /// The type of a kind. The options of a deletion are a kind of every group and version.
    pub fn kind(&'static self, group: &str, version: &str, kind: &str) -> Option<&'static Type> {
        if kind == "DeleteOptions" {
            return self.named("apimachinery.pkg.apis.meta.v1.DeleteOptions");
        }
        self.by_kind.get(&(group, version, kind)).map(|i| &self.types[*i])
    }

    /// All types, sorted by name.
    pub fn iter(&'static self) -> impl Iterator<Item = &'static Type> {
        self.types.iter()
    }
}

/// The table.
pub fn table() -> &'static Table {
    static TABLE: OnceLock<Table> = OnceLock::new();
    TABLE.get_or_init(parse)
}

/// A description with its line breaks.
pub fn text(escaped: &str) -> String {
    let mut out = String::with_capacity(escaped.len());
    let mut chars = escaped.chars();
    while let Some(c) = chars.next() {
        match c {
            '\\' => match chars.next() {
                Some('n') => out.push('\n'),
                Some('t') => out.push('\t'),
                Some(c) => out.push(c),
                None => {}
            },
            c => out.push(c),
        }
    }
    out
}

fn parse() -> Table {
    let lines = || TEXT.lines().map(|l| l.split('\t').collect::<Vec<_>>());
    let names = lines().filter(|c| c[0] == "T").enumerate();
    let by_name: HashMap<_, _> = names.map(|(i, columns)| (columns[1], i)).collect();
    let mut types: Vec<Type> = Vec::with_capacity(by_name.len());
    for columns in lines() {
        match columns.as_slice() {
            ["T", name, kinds, atomic, whole, description] => types.push(Type {
                name,
                kinds: kinds.split(',').filter_map(kind).collect(),
                atomic: *atomic == "atomic",
                whole: whole_shape(name, whole, &by_name),
                description,
                fields: Vec::new(),
            }),
            ["F", rest @ ..] => {
                let last = types.last_mut().expect("a field follows its type");
                last.fields.push(field(rest, &by_name));
            }
            _ => {}
        }
    }
    types.iter_mut().for_each(|t| t.fields.sort_by_key(|f| f.name));
    let mut by_kind = HashMap::new();
    for (i, t) in types.iter().enumerate() {
        by_kind.extend(t.kinds.iter().map(|kind| (*kind, i)));
    }
    Table { types, by_name, by_kind }
}

fn kind(text: &'static str) -> Option<(&'static str, &'static str, &'static str)> {
    let mut parts = text.split('/');
    Some((parts.next()?, parts.next()?, parts.next()?))
}

/// Types whose JSON is not what their Rust or Go type says; some get formats of their own here.
fn whole_shape(name: &str, text: &'static str, names: &HashMap<&str, usize>) -> Option<Shape> {
    match name.rsplit('.').next() {
        Some("Quantity") => Some(Shape::String("quantity")),
        Some("MicroTime") => Some(Shape::String("micro-time")),
        Some("IntOrString") => Some(Shape::String("int-or-string")),
        Some("JSON") => Some(Shape::Any),
        _ if text.is_empty() => None,
        _ => Some(shape(text, names)),
    }
}

fn field(columns: &[&'static str], names: &HashMap<&str, usize>) -> Field {
    let &[name, kind, tag, required, list_type, map_keys, patch_strategy, patch_key, default, description] =
        columns
    else {
        panic!("schema/k8s.tsv: a field with {} columns", columns.len());
    };
    Field {
        name,
        shape: shape(kind, names),
        tag,
        required: !required.is_empty(),
        list_type,
        map_keys,
        patch_strategy,
        patch_key,
        default,
        description,
    }
}

fn shape(text: &'static str, names: &HashMap<&str, usize>) -> Shape {
    if let Some(name) = text.strip_prefix('#') {
        return Shape::Ref(names[name]);
    }
    if let Some(item) = text.strip_prefix('[') {
        return Shape::List(Box::new(shape(item, names)));
    }
    if let Some(value) = text.strip_prefix('{') {
        return Shape::Map(Box::new(shape(value, names)));
    }
    match text.split_once(':').unwrap_or((text, "")) {
        ("string", format) => Shape::String(format),
        ("integer", format) => Shape::Integer(format),
        ("number", _) => Shape::Number,
        ("boolean", _) => Shape::Boolean,
        ("object", _) => Shape::Object,
        _ => Shape::Any,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn looking_up() {
        let pod = table().kind("", "v1", "Pod").unwrap();
        assert_eq!(pod.short(), "Pod");
        let spec = pod.field("spec").unwrap().shape.target().unwrap();
        let containers = spec.field("containers").unwrap();
        assert_eq!((containers.patch_key, containers.map_keys, containers.required), ("name", "name", true));
        let Shape::List(item) = &containers.shape else { panic!("a list") };
        let ports = item.target().unwrap().field("ports").unwrap();
        assert_eq!((ports.patch_key, ports.map_keys), ("containerPort", "containerPort,protocol"));
        assert_eq!(table().named("api.core.v1.SecretKeySelector").unwrap().field("name").unwrap().tag, "1.1");
        assert_eq!(text("a\\nb\\\\n"), "a\nb\\n");
    }

    #[test]
    fn every_builtin_kind_has_a_type() {
        for r in crate::Catalog::builtin().iter() {
            assert!(r.schema.is_some(), "{}", r.gvk());
        }
    }
}
