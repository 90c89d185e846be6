//! The catalog: every resource that can be served, built-in (const rows in `catalog/GROUP.rs`) or custom.
//!
//! Keeps true: rows are the list of `api-resources.tsv` (a test compares), in the order in which Kubernetes
//! prefers groups and versions. Whether a resource is served (`--runtime-config`) is left to the API server.

use std::sync::{Arc, OnceLock};

use crate::{jsonpath::JsonPath, schema::Schema, table::CellFn};

mod admission;
mod apps;
mod auth;
mod batch;
mod core;
mod extension;
mod names;
mod networking;
mod node;
mod storage;
mod verbs;

use names::api_version;
pub use names::{GroupKind, GroupResource, GroupVersionKind};
pub use verbs::Verbs;

/// A subresource, as a const row.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Sub {
    name: &'static str,
    verbs: Verbs,
    /// The HTTP methods of a subresource that is connected to; empty for others.
    connect: &'static [&'static str],
    /// Group, version and kind of its body; empty: the parent's.
    gvk: (&'static str, &'static str, &'static str),
}

impl Sub {
    const fn own(name: &'static str) -> Self {
        Self { name, verbs: Verbs::SUB, connect: &[], gvk: ("", "", "") }
    }

    const fn of(name: &'static str, verbs: Verbs, gvk: (&'static str, &'static str, &'static str)) -> Self {
        Self { name, verbs, connect: &[], gvk }
    }

    const fn connect(name: &'static str, methods: &'static [&'static str], kind: &'static str) -> Self {
        Self { name, verbs: Verbs::NONE, connect: methods, gvk: ("", "v1", kind) }
    }
}

const STATUS: Sub = Sub::own("status");
const SCALE: Sub = Sub::of("scale", Verbs::SUB, ("autoscaling", "v1", "Scale"));
const ANY_METHOD: &[&str] = &["DELETE", "GET", "HEAD", "OPTIONS", "PATCH", "POST", "PUT"];
const GET_POST: &[&str] = &["GET", "POST"];

/// A printer column, as a const row.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Col {
    /// The header, as kubectl shows it in capitals.
    pub(crate) name: &'static str,
    /// The OpenAPI type.
    pub(crate) kind: &'static str,
    /// The OpenAPI format; `name` marks the name column.
    pub(crate) format: &'static str,
    /// What the column shows.
    pub(crate) description: &'static str,
    /// 0: always shown; 1: with `-o wide`.
    pub(crate) priority: i32,
    /// The cell.
    pub(crate) cell: CellFn,
}

/// One built-in resource.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Row {
    kind: &'static str,
    plural: &'static str,
    short: &'static [&'static str],
    categories: &'static [&'static str],
    namespaced: bool,
    verbs: Verbs,
    subs: &'static [Sub],
    /// Where objects are kept below `/registry/`; empty: under the plural.
    prefix: &'static str,
    /// The group and version that is stored; empty: this one.
    storage: (&'static str, &'static str),
    columns: &'static [Col],
    on: bool,
}

impl Row {
    const fn new(kind: &'static str, plural: &'static str) -> Self {
        Self {
            kind,
            plural,
            short: &[],
            categories: &[],
            namespaced: true,
            verbs: Verbs::ALL,
            subs: &[],
            prefix: "",
            storage: ("", ""),
            columns: crate::table::DEFAULT,
            on: true,
        }
    }

    const fn short(mut self, names: &'static [&'static str]) -> Self {
        self.short = names;
        self
    }

    const fn all(mut self) -> Self {
        self.categories = &["all"];
        self
    }

    const fn extends_api(mut self) -> Self {
        self.categories = &["api-extensions"];
        self
    }

    const fn cluster(mut self) -> Self {
        self.namespaced = false;
        self
    }

    const fn verbs(mut self, verbs: Verbs) -> Self {
        self.verbs = verbs;
        self
    }

    const fn subs(mut self, subs: &'static [Sub]) -> Self {
        self.subs = subs;
        self
    }

    const fn prefix(mut self, prefix: &'static str) -> Self {
        self.prefix = prefix;
        self
    }

    const fn stored(mut self, group: &'static str, version: &'static str) -> Self {
        self.storage = (group, version);
        self
    }

    const fn columns(mut self, columns: &'static [Col]) -> Self {
        self.columns = columns;
        self
    }

    const fn off(mut self) -> Self {
        self.on = false;
        self
    }
}

/// One version of one group, with its rows.
pub(crate) struct GroupRows {
    group: &'static str,
    version: &'static str,
    rows: &'static [Row],
}

/// Groups and versions in the order in which clients prefer them.
const GROUPS: &[&[GroupRows]] = &[
    core::GROUPS,
    extension::SERVICES,
    apps::GROUPS,
    core::EVENTS,
    auth::REVIEWS,
    apps::AUTOSCALING,
    batch::GROUPS,
    auth::CERTIFICATES,
    networking::GROUPS,
    auth::POLICY,
    auth::RBAC,
    storage::GROUPS,
    admission::GROUPS,
    extension::DEFINITIONS,
    node::GROUPS,
    networking::DISCOVERY,
    extension::SERVER,
    storage::RESOURCES,
];

/// A subresource.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Subresource {
    /// `status`, `scale`, `log`, ….
    pub name: String,
    /// What it offers; empty for one that is connected to (`exec`), see `connect`.
    pub verbs: Verbs,
    /// The HTTP methods of a subresource that is connected to.
    pub connect: Vec<&'static str>,
    /// The type of its body (`autoscaling/v1 Scale`, `v1 PodExecOptions`).
    pub gvk: GroupVersionKind,
}

impl Subresource {
    /// The verbs as discovery lists them: those of a connected one follow from its HTTP methods.
    pub fn discovery_verbs(&self) -> Vec<&'static str> {
        if self.connect.is_empty() {
            return self.verbs.names().collect();
        }
        let verb = |method: &&str| match *method {
            "DELETE" => Some("delete"),
            "GET" => Some("get"),
            "PATCH" => Some("patch"),
            "POST" => Some("create"),
            "PUT" => Some("update"),
            _ => None,
        };
        let mut verbs: Vec<_> = self.connect.iter().filter_map(verb).collect();
        verbs.sort_unstable();
        verbs
    }
}

/// What a column of a table shows.
#[derive(Clone, Debug)]
pub enum Cell {
    /// A computed value (built-in kinds).
    Computed(CellFn),
    /// A value found by a path (custom resources' `additionalPrinterColumns`).
    Path(Arc<JsonPath>),
}

/// A column of a table.
#[derive(Clone, Debug)]
pub struct Column {
    /// The header.
    pub name: String,
    /// The OpenAPI type: `string`, `integer`, `date`, ….
    pub kind: String,
    /// The OpenAPI format; `name` marks the name column.
    pub format: String,
    /// What the column shows.
    pub description: String,
    /// 0: always shown; greater: with `-o wide`.
    pub priority: i32,
    /// The cell.
    pub cell: Cell,
}

/// One resource: what is served at `/apis/GROUP/VERSION/PLURAL`.
#[derive(Clone, Debug)]
pub struct Resource {
    /// The API group; empty for core.
    pub group: String,
    /// The version.
    pub version: String,
    /// The kind.
    pub kind: String,
    /// The plural, lower-case name.
    pub plural: String,
    /// The singular, lower-case name.
    pub singular: String,
    /// The kind of a list.
    pub list_kind: String,
    /// What kubectl users may type instead.
    pub short_names: Vec<String>,
    /// Groups of resources that kubectl users may name (`all`).
    pub categories: Vec<String>,
    /// Whether objects live in namespaces.
    pub namespaced: bool,
    /// What can be done with it.
    pub verbs: Verbs,
    /// Its subresources.
    pub subresources: Vec<Subresource>,
    /// What `kubectl get` shows.
    pub columns: Vec<Column>,
    /// The store key's prefix below `/registry/` (`services/specs`).
    pub prefix: String,
    /// The type that is stored.
    pub storage: GroupVersionKind,
    /// Whether it is served without `--runtime-config`.
    pub default_on: bool,
    /// The schema; `None` accepts everything.
    pub schema: Option<Arc<Schema>>,
    /// Whether it comes from a CustomResourceDefinition.
    pub custom: bool,
    /// Further fields that field selectors may name, as dotted paths (`selectableFields` of a CRD).
    pub selectable: Vec<String>,
}

impl Resource {
    /// `v1` or `apps/v1`.
    pub fn group_version(&self) -> String {
        api_version(&self.group, &self.version)
    }

    /// Group and plural.
    pub fn group_resource(&self) -> GroupResource {
        GroupResource::new(&self.group, &self.plural)
    }

    /// Group and kind.
    pub fn group_kind(&self) -> GroupKind {
        GroupKind::new(&self.group, &self.kind)
    }

    /// Group, version and kind.
    pub fn gvk(&self) -> GroupVersionKind {
        GroupVersionKind::new(&self.group, &self.version, &self.kind)
    }

    /// The subresource of this name.
    pub fn subresource(&self, name: &str) -> Option<&Subresource> {
        self.subresources.iter().find(|s| s.name == name)
    }

    fn builtin(group: &str, version: &str, row: &Row) -> Self {
        let (storage_group, storage_version) = match row.storage {
            ("", "") => (group, version),
            storage => storage,
        };
        let owned = |names: &[&str]| names.iter().map(|n| (*n).to_owned()).collect();
        Self {
            group: group.into(),
            version: version.into(),
            kind: row.kind.into(),
            plural: row.plural.into(),
            singular: row.kind.to_lowercase(),
            list_kind: format!("{}List", row.kind),
            short_names: owned(row.short),
            categories: owned(row.categories),
            namespaced: row.namespaced,
            verbs: row.verbs,
            subresources: row.subs.iter().map(|s| subresource(group, version, row.kind, s)).collect(),
            columns: row.columns.iter().map(Column::from).collect(),
            prefix: if row.prefix.is_empty() { row.plural } else { row.prefix }.into(),
            storage: GroupVersionKind::new(storage_group, storage_version, row.kind),
            default_on: row.on,
            schema: Schema::builtin(group, version, row.kind),
            custom: false,
            selectable: Vec::new(),
        }
    }
}

fn subresource(group: &str, version: &str, kind: &str, sub: &Sub) -> Subresource {
    let gvk = match sub.gvk {
        ("", "", "") => GroupVersionKind::new(group, version, kind),
        (g, v, k) => GroupVersionKind::new(g, v, k),
    };
    Subresource { name: sub.name.into(), verbs: sub.verbs, connect: sub.connect.to_vec(), gvk }
}

impl From<&Col> for Column {
    fn from(col: &Col) -> Self {
        Self {
            name: col.name.into(),
            kind: col.kind.into(),
            format: col.format.into(),
            description: col.description.into(),
            priority: col.priority,
            cell: Cell::Computed(col.cell),
        }
    }
}

/// All resources. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub struct Catalog {
    resources: Arc<Vec<Arc<Resource>>>,
    /// Positions in `resources`, sorted by group, version and plural.
    by_plural: Arc<Vec<usize>>,
    /// Positions in `resources`, sorted by group, version and kind.
    by_kind: Arc<Vec<usize>>,
}

impl Catalog {
    /// Every built-in resource, also those that are off by default.
    pub fn builtin() -> Self {
        static BUILTIN: OnceLock<Catalog> = OnceLock::new();
        BUILTIN.get_or_init(|| Self::new(builtin_resources())).clone()
    }

    /// A catalog of these resources, in this order.
    pub fn new(resources: Vec<Arc<Resource>>) -> Self {
        let sorted = |key: fn(&Resource) -> (&str, &str, &str)| {
            let mut positions: Vec<_> = (0..resources.len()).collect();
            positions.sort_by(|a, b| key(&resources[*a]).cmp(&key(&resources[*b])));
            positions
        };
        let by_plural = Arc::new(sorted(plural_key));
        let by_kind = Arc::new(sorted(kind_key));
        Self { resources: Arc::new(resources), by_plural, by_kind }
    }

    /// This catalog's built-in resources and these custom ones instead of any that it had.
    #[must_use]
    pub fn with(&self, custom: impl IntoIterator<Item = Arc<Resource>>) -> Self {
        let builtin = self.resources.iter().filter(|r| !r.custom).cloned();
        Self::new(builtin.chain(custom).collect())
    }

    /// This catalog with only the resources that satisfy a condition (what is served).
    #[must_use]
    pub fn only(&self, keep: impl Fn(&Resource) -> bool) -> Self {
        Self::new(self.resources.iter().filter(|r| keep(r)).cloned().collect())
    }

    /// The resource at a path.
    pub fn find(&self, group: &str, version: &str, plural: &str) -> Option<&Arc<Resource>> {
        self.search(&self.by_plural, plural_key, (group, version, plural))
    }

    /// The resource of a kind.
    pub fn by_kind(&self, gvk: &GroupVersionKind) -> Option<&Arc<Resource>> {
        self.search(&self.by_kind, kind_key, (&gvk.group, &gvk.version, &gvk.kind))
    }

    /// The resource of a group in the version that its group prefers.
    pub fn preferred(&self, group: &str, plural: &str) -> Option<&Arc<Resource>> {
        self.iter().find(|r| r.group == group && r.plural == plural)
    }

    /// All resources, in the order in which clients prefer groups and versions.
    pub fn iter(&self) -> impl Iterator<Item = &Arc<Resource>> {
        self.resources.iter()
    }

    /// The groups and versions, in order, each once.
    pub fn group_versions(&self) -> Vec<(&str, &str)> {
        let mut seen: Vec<(&str, &str)> = Vec::new();
        for r in self.iter() {
            if !seen.contains(&(&r.group, &r.version)) {
                seen.push((&r.group, &r.version));
            }
        }
        seen
    }

    fn search(
        &self,
        index: &[usize],
        key: fn(&Resource) -> (&str, &str, &str),
        wanted: (&str, &str, &str),
    ) -> Option<&Arc<Resource>> {
        let found = index.binary_search_by(|i| key(&self.resources[*i]).cmp(&wanted)).ok()?;
        self.resources.get(index[found])
    }
}

fn plural_key(r: &Resource) -> (&str, &str, &str) {
    (&r.group, &r.version, &r.plural)
}

fn kind_key(r: &Resource) -> (&str, &str, &str) {
    (&r.group, &r.version, &r.kind)
}

fn builtin_resources() -> Vec<Arc<Resource>> {
    let rows = GROUPS.iter().flat_map(|g| g.iter()).flat_map(|g| g.rows.iter().map(move |row| (g, row)));
    rows.map(|(g, row)| Arc::new(Resource::builtin(g.group, g.version, row))).collect()
}

#[cfg(test)]
mod tests;
