//! Tables (meta.k8s.io/v1): what `kubectl get` shows.
//!
//! Keeps true: column names, order, priorities and cells are those of kubectl's users' habit. Pure functions of
//! the object and the time.

use jiff::Timestamp;
use serde_json::{Map, Value, json};
use std::sync::Arc;

use crate::{
    Object, Resource,
    catalog::{Cell, Col, Column},
    jsonpath::JsonPath,
    time,
};

mod cells;
pub(crate) mod cluster;
pub(crate) mod core;
pub(crate) mod events;
pub(crate) mod network;
pub(crate) mod nodes;
pub(crate) mod pods;
pub(crate) mod policy;
pub(crate) mod workloads;

/// Computes a cell.
pub type CellFn = fn(&Object, Timestamp) -> Value;

/// How much of each object goes with its row.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum IncludeObject {
    /// Nothing.
    None,
    /// `PartialObjectMetadata`: type and metadata.
    #[default]
    Metadata,
    /// All of it.
    Object,
}

impl IncludeObject {
    /// From the `includeObject` query parameter; `None` when it is not one of those.
    pub fn from_query(text: &str) -> Option<Self> {
        match text {
            "" | "Metadata" => Some(Self::Metadata),
            "None" => Some(Self::None),
            "Object" => Some(Self::Object),
            _ => None,
        }
    }
}

/// Name and age, for kinds without columns of their own.
pub(crate) const DEFAULT: &[Col] = &[NAME, AGE];

pub(crate) const NAME: Col = Col {
    name: "Name",
    kind: "string",
    format: "name",
    description: "Name must be unique within a namespace. Is required when creating resources, although some \
                  resources may allow a client to request the generation of an appropriate name automatically. \
                  Name is primarily intended for creation idempotence and configuration definition. Cannot be \
                  updated. More info: https://kubernetes.io/docs/concepts/overview/working-with-objects/names#names",
    priority: 0,
    cell: |object, _| object.name().into(),
};

pub(crate) const AGE: Col = Col {
    name: "Age",
    kind: "string",
    format: "",
    description: "CreationTimestamp is a timestamp representing the server time when this object was created. It \
                  is not guaranteed to be set in happens-before order across separate operations. Clients may \
                  not set this value. It is represented in RFC3339 form and is in UTC.",
    priority: 0,
    cell: |object, now| time::age(Some(object.creation_timestamp()), now).into(),
};

/// A `meta.k8s.io/v1` Table of these objects, without `metadata`: the caller adds the list's.
pub fn render(resource: &Resource, objects: &[Arc<Object>], include: IncludeObject, now: Timestamp) -> Value {
    let rows: Vec<_> = objects.iter().map(|o| row(resource, o, include, now)).collect();
    json!({
        "kind": "Table",
        "apiVersion": "meta.k8s.io/v1",
        "metadata": {},
        "columnDefinitions": definitions(resource),
        "rows": rows,
    })
}

/// The column definitions alone: a watch sends them once.
pub fn definitions(resource: &Resource) -> Value {
    resource.columns.iter().map(definition).collect()
}

fn definition(column: &Column) -> Value {
    let Column { name, kind, format, description, priority, .. } = column;
    json!({"name": name, "type": kind, "format": format, "description": description, "priority": priority})
}

/// One row.
pub fn row(resource: &Resource, object: &Object, include: IncludeObject, now: Timestamp) -> Value {
    let whole = || Value::Object(object.0.clone());
    let cells: Vec<_> = resource.columns.iter().map(|c| cell(c, object, now)).collect();
    let mut row = Map::new();
    row.insert("cells".into(), cells.into());
    match include {
        IncludeObject::None => {}
        IncludeObject::Metadata => {
            let metadata = object.0.get("metadata").cloned().unwrap_or_default();
            row.insert("object".into(), json!({"kind": "PartialObjectMetadata", "apiVersion": "meta.k8s.io/v1", "metadata": metadata}));
        }
        IncludeObject::Object => {
            row.insert("object".into(), whole());
        }
    }
    Value::Object(row)
}

fn cell(column: &Column, object: &Object, now: Timestamp) -> Value {
    match &column.cell {
        Cell::Computed(compute) => compute(object, now),
        Cell::Path(path) => custom_cell(column, path, object, now),
    }
}

/// A cell of a custom resource: of a type that fits the column, or empty.
fn custom_cell(column: &Column, path: &JsonPath, object: &Object, now: Timestamp) -> Value {
    let found = path.find_in(object);
    let Some(first) = found.first() else { return Value::Null };
    match (column.kind.as_str(), first) {
        ("date", Value::String(text)) => time::age(Some(text), now).into(),
        ("string", Value::String(_)) => {
            found.iter().map(|v| cells::plain(v)).collect::<Vec<_>>().join(",").into()
        }
        ("string", _) => found.iter().map(|v| v.to_string()).collect::<Vec<_>>().join(",").into(),
        ("integer", Value::Number(n)) if n.is_i64() => (*first).clone(),
        ("number", Value::Number(_)) | ("boolean", Value::Bool(_)) => (*first).clone(),
        _ => Value::Null,
    }
}

impl Column {
    /// The name column, as every custom resource has it first.
    pub fn name_column() -> Self {
        Self::from(&NAME)
    }

    /// The age column, for a custom resource that declares no columns.
    pub fn age_column() -> Self {
        Self::from(&AGE)
    }

    /// A column from an entry of a CRD's `additionalPrinterColumns`.
    ///
    /// # Errors
    /// A text that says what is wrong with its `jsonPath`.
    pub fn from_printer(entry: &Value) -> std::result::Result<Self, String> {
        let field = |name: &str| cells::str_of(entry, name).to_owned();
        let priority = i32::try_from(cells::int_of(entry, "priority")).unwrap_or_default();
        let path = Arc::new(JsonPath::parse(cells::str_of(entry, "jsonPath"))?);
        Ok(Self {
            name: field("name"),
            kind: field("type"),
            format: field("format"),
            description: match field("description") {
                text if text.is_empty() => {
                    format!("Custom resource definition column (in JSONPath format): {}", field("jsonPath"))
                }
                text => text,
            },
            priority,
            cell: Cell::Path(path),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Catalog, GroupVersionKind};

    #[test]
    fn a_table_of_custom_resources() {
        let pods = Catalog::builtin().by_kind(&GroupVersionKind::new("", "v1", "Pod")).unwrap().clone();
        let columns = [
            json!({"name": "Size", "type": "integer", "jsonPath": ".spec.size"}),
            json!({"name": "When", "type": "date", "jsonPath": ".metadata.creationTimestamp", "priority": 1}),
            json!({"name": "Ready", "type": "string", "jsonPath": ".status.conditions[?(@.type==\"Ready\")].status"}),
        ];
        let columns = columns.iter().map(|c| Column::from_printer(c).unwrap());
        let columns = std::iter::once(Column::name_column()).chain(columns).collect();
        let resource = Resource { columns, ..Resource::clone(&pods) };
        let object =
            Object::try_from(json!({"metadata": {"name": "x", "creationTimestamp": "2026-01-01T00:59:00Z"},
            "spec": {"size": 3}, "status": {"conditions": [{"type": "Ready", "status": "True"}]}}))
            .unwrap();
        let now = time::parse("2026-01-01T01:00:00Z").unwrap();
        let table = render(&resource, &[Arc::new(object)], IncludeObject::Metadata, now);
        assert_eq!(table["kind"], "Table");
        assert_eq!(table["rows"][0]["cells"], json!(["x", 3, "60s", "True"]));
        assert_eq!(table["rows"][0]["object"]["kind"], "PartialObjectMetadata");
        assert_eq!(table["columnDefinitions"][2]["priority"], 1);
    }

    #[test]
    fn every_kind_has_its_name_first_or_is_an_event() {
        for r in Catalog::builtin().iter() {
            let first = if r.plural == "events" { "Last Seen" } else { "Name" };
            assert_eq!(r.columns[0].name, first, "{}", r.gvk());
            assert_eq!(definitions(r).as_array().unwrap().len(), r.columns.len());
        }
    }
}
