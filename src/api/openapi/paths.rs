//! The paths of a resource and what can be done there, in a form that both versions are written from.

use crate::{GroupVersionKind, Resource, Verbs, catalog::Subresource};

/// What a request body is.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Body {
    None,
    /// An object of this type.
    Object(GroupVersionKind),
    DeleteOptions,
    Patch,
}

/// What a successful response is.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Answer {
    Object(GroupVersionKind),
    Status,
    /// Whatever the other end of a connection says.
    Text,
}

/// A query parameter: name, type, description.
pub(super) type Parameter = (&'static str, &'static str, &'static str);

/// One method at one path.
#[derive(Clone, Debug)]
pub(super) struct Operation {
    pub(super) method: &'static str,
    /// `x-kubernetes-action`.
    pub(super) action: &'static str,
    pub(super) id: String,
    pub(super) description: String,
    pub(super) gvk: GroupVersionKind,
    pub(super) body: Body,
    pub(super) answer: Answer,
    pub(super) parameters: Vec<Parameter>,
    /// Status codes of success.
    pub(super) codes: &'static [(&'static str, &'static str)],
}

/// One path.
#[derive(Clone, Debug)]
pub(super) struct PathItem {
    pub(super) path: String,
    pub(super) operations: Vec<Operation>,
}

impl PathItem {
    /// The names in braces, in order.
    pub(super) fn variables(&self) -> impl Iterator<Item = &str> {
        self.path.split('{').skip(1).filter_map(|rest| rest.split('}').next())
    }
}

const OK: &[(&str, &str)] = &[("200", "OK")];
const CREATED: &[(&str, &str)] = &[("200", "OK"), ("201", "Created")];
const ACCEPTED: &[(&str, &str)] = &[("200", "OK"), ("202", "Accepted")];
const POSTED: &[(&str, &str)] = &[("200", "OK"), ("201", "Created"), ("202", "Accepted")];

const WRITE: &[Parameter] = &[
    (
        "dryRun",
        "string",
        "When present, indicates that modifications should not be persisted. Valid values are: All.",
    ),
    ("fieldManager", "string", "The name of the actor or entity that is making these changes."),
    (
        "fieldValidation",
        "string",
        "How to handle unknown or duplicate fields of the object in the request. Valid values are: Ignore, Warn, Strict.",
    ),
];
const FORCE: Parameter =
    ("force", "boolean", "Whether to take over fields that others own. Only for apply patches.");
const DELETE: &[Parameter] = &[
    WRITE[0],
    ("gracePeriodSeconds", "integer", "The duration in seconds before the object should be deleted."),
    (
        "orphanDependents",
        "boolean",
        "Deprecated: use propagationPolicy. Whether dependents should be orphaned.",
    ),
    (
        "propagationPolicy",
        "string",
        "Whether and how garbage collection is performed: Orphan, Background, Foreground.",
    ),
];
const SELECT: &[Parameter] = &[
    ("continue", "string", "The token of the previous part of a list that was limited."),
    ("fieldSelector", "string", "Restricts the list to objects whose fields match."),
    ("labelSelector", "string", "Restricts the list to objects whose labels match."),
    ("limit", "integer", "The largest number of objects in one answer."),
    ("resourceVersion", "string", "How fresh the data must be, or where a watch starts."),
    ("resourceVersionMatch", "string", "How resourceVersion is applied to a list: NotOlderThan or Exact."),
    ("sendInitialEvents", "boolean", "Whether a watch starts with the objects that are there."),
    ("timeoutSeconds", "integer", "How long a list or watch may take, in seconds."),
];
const WATCH: &[Parameter] = &[
    ("allowWatchBookmarks", "boolean", "Whether a watch may send events of type BOOKMARK."),
    ("watch", "boolean", "Watch for changes instead of listing."),
];

/// All paths of a resource.
pub(super) fn of(resource: &Resource) -> Vec<PathItem> {
    let mut builder = Builder::new(resource);
    builder.collection();
    builder.item();
    for sub in &resource.subresources {
        builder.subresource(sub);
    }
    if resource.namespaced && resource.verbs.contains(Verbs::LIST) {
        builder.everywhere();
    }
    builder.paths.retain(|p| !p.operations.is_empty());
    builder.paths
}

/// `/api/v1` or `/apis/apps/v1`.
pub(super) fn root(group: &str, version: &str) -> String {
    if group.is_empty() { format!("/api/{version}") } else { format!("/apis/{group}/{version}") }
}

struct Builder<'a> {
    resource: &'a Resource,
    /// `CoreV1`, in operation ids.
    prefix: String,
    /// `NamespacedPod` or `Node`.
    noun: String,
    paths: Vec<PathItem>,
}

impl<'a> Builder<'a> {
    fn new(resource: &'a Resource) -> Self {
        let prefix = format!("{}{}", group_name(resource), capital(&resource.version));
        let scope = if resource.namespaced { "Namespaced" } else { "" };
        Self { resource, prefix, noun: format!("{scope}{}", resource.kind), paths: Vec::new() }
    }

    fn base(&self) -> String {
        let root = root(&self.resource.group, &self.resource.version);
        let namespace = if self.resource.namespaced { "/namespaces/{namespace}" } else { "" };
        format!("{root}{namespace}/{}", self.resource.plural)
    }

    fn push(&mut self, path: String, operations: Vec<Operation>) {
        self.paths.push(PathItem { path, operations });
    }

    fn operation(&self, method: &'static str, action: &'static str, verb: &str, suffix: &str) -> Operation {
        let gvk = self.resource.gvk();
        Operation {
            method,
            action,
            id: format!("{verb}{}{}{suffix}", self.prefix, self.noun),
            description: format!("{} {} {}", verb.trim_end_matches("Collection"), self.resource.kind, suffix)
                .trim_end()
                .to_owned(),
            answer: Answer::Object(gvk.clone()),
            gvk,
            body: Body::None,
            parameters: Vec::new(),
            codes: OK,
        }
    }

    fn list_gvk(&self) -> GroupVersionKind {
        GroupVersionKind { kind: self.resource.list_kind.clone(), ..self.resource.gvk() }
    }

    fn collection(&mut self) {
        let (verbs, gvk) = (self.resource.verbs, self.resource.gvk());
        let mut operations = Vec::new();
        if verbs.contains(Verbs::LIST) {
            let parameters = [SELECT, WATCH].concat();
            let answer = Answer::Object(self.list_gvk());
            operations.push(Operation { parameters, answer, ..self.operation("get", "list", "list", "") });
        }
        if verbs.contains(Verbs::CREATE) {
            let (body, parameters, codes) = (Body::Object(gvk), WRITE.to_vec(), POSTED);
            operations.push(Operation {
                body,
                parameters,
                codes,
                ..self.operation("post", "post", "create", "")
            });
        }
        if verbs.contains(Verbs::DELETE_COLLECTION) {
            let (body, parameters, answer) = (Body::DeleteOptions, [DELETE, SELECT].concat(), Answer::Status);
            let id = format!("delete{}Collection{}", self.prefix, self.noun);
            let delete = self.operation("delete", "deletecollection", "delete", "");
            operations.push(Operation { body, parameters, answer, id, ..delete });
        }
        self.push(self.base(), operations);
    }

    fn item(&mut self) {
        let verbs = self.resource.verbs;
        let gvk = self.resource.gvk();
        let mut operations = self.object_operations(verbs, "", &gvk);
        if verbs.contains(Verbs::DELETE) {
            let (body, parameters, codes) = (Body::DeleteOptions, DELETE.to_vec(), ACCEPTED);
            let delete = self.operation("delete", "delete", "delete", "");
            let answer = if self.returns_deleted() { delete.answer.clone() } else { Answer::Status };
            operations.push(Operation { body, parameters, codes, answer, ..delete });
        }
        self.push(format!("{}/{{name}}", self.base()), operations);
    }

    /// Kinds whose deletion is graceful are answered with the object.
    fn returns_deleted(&self) -> bool {
        let kinds = [
            "Pod",
            "PersistentVolume",
            "PersistentVolumeClaim",
            "PodTemplate",
            "ResourceQuota",
            "ServiceAccount",
            "Service",
        ];
        self.resource.group.is_empty() && kinds.contains(&self.resource.kind.as_str())
    }

    /// get, put and patch of an object or of one of its subresources.
    fn object_operations(&self, verbs: Verbs, suffix: &str, gvk: &GroupVersionKind) -> Vec<Operation> {
        let answer = Answer::Object(gvk.clone());
        let with = |operation: Operation| Operation { gvk: gvk.clone(), answer: answer.clone(), ..operation };
        let mut operations = Vec::new();
        if verbs.contains(Verbs::GET) {
            operations.push(with(self.operation("get", "get", "read", suffix)));
        }
        if verbs.contains(Verbs::UPDATE) {
            let (body, parameters, codes) = (Body::Object(gvk.clone()), WRITE.to_vec(), CREATED);
            let put = self.operation("put", "put", "replace", suffix);
            operations.push(with(Operation { body, parameters, codes, ..put }));
        }
        if verbs.contains(Verbs::PATCH) {
            let (body, mut parameters, codes) = (Body::Patch, WRITE.to_vec(), CREATED);
            parameters.push(FORCE);
            let patch = self.operation("patch", "patch", "patch", suffix);
            operations.push(with(Operation { body, parameters, codes, ..patch }));
        }
        operations
    }

    fn subresource(&mut self, sub: &Subresource) {
        let (path, suffix) = (format!("{}/{{name}}/{}", self.base(), sub.name), capital(&sub.name));
        // Finalize is a verb of the namespace in operation ids, too.
        let mut operations = self.object_operations(sub.verbs, &suffix, &sub.gvk);
        if sub.name == "log" {
            operations.iter_mut().for_each(|o| o.answer = Answer::Text);
        }
        if sub.verbs.contains(Verbs::CREATE) {
            let (body, parameters, codes) = (Body::Object(sub.gvk.clone()), WRITE.to_vec(), POSTED);
            let (gvk, answer) = (sub.gvk.clone(), Answer::Object(sub.gvk.clone()));
            let post = self.operation("post", "post", "create", &suffix);
            operations.push(Operation { body, parameters, codes, gvk, answer, ..post });
        }
        operations.extend(self.connections(sub, &suffix));
        self.push(path.clone(), operations);
        if sub.name == "proxy" {
            self.push(format!("{path}/{{path}}"), self.connections(sub, "ProxyWithPath").collect());
        }
    }

    fn connections(&self, sub: &Subresource, suffix: &str) -> impl Iterator<Item = Operation> {
        sub.connect.iter().map(move |method| {
            let lower = METHODS.iter().find(|m| m.eq_ignore_ascii_case(method)).copied().unwrap_or("get");
            let mut operation = self.operation(lower, "connect", "connect", suffix);
            operation.id = format!("connect{}{}{}{suffix}", self.prefix, capital(lower), self.noun);
            Operation { gvk: sub.gvk.clone(), answer: Answer::Text, ..operation }
        })
    }

    fn everywhere(&mut self) {
        let path = format!("{}/{}", root(&self.resource.group, &self.resource.version), self.resource.plural);
        let mut list = self.operation("get", "list", "list", "");
        list.id = format!("list{}{}ForAllNamespaces", self.prefix, self.resource.kind);
        let (parameters, answer) = ([SELECT, WATCH].concat(), Answer::Object(self.list_gvk()));
        self.push(path, vec![Operation { parameters, answer, ..list }]);
    }
}

/// The methods in lower case, in the order of OpenAPI.
pub(super) const METHODS: [&str; 7] = ["get", "put", "post", "delete", "options", "head", "patch"];

/// `Core`, `RbacAuthorization`; a custom group's parts are reversed: `IoExample`.
fn group_name(resource: &Resource) -> String {
    let group = match resource.group.as_str() {
        "" => "core",
        group => group.strip_suffix(".k8s.io").unwrap_or(group),
    };
    let mut parts: Vec<_> = group.split('.').map(capital).collect();
    if resource.custom {
        parts = resource.group.split('.').rev().map(capital).collect();
    }
    parts.concat()
}

fn capital(text: &str) -> String {
    let mut chars = text.chars();
    chars.next().map(|c| c.to_uppercase().chain(chars).collect()).unwrap_or_default()
}

/// `core_v1`, `rbacAuthorization_v1`.
pub(super) fn tag(resource: &Resource) -> String {
    let name = group_name(resource);
    let mut chars = name.chars();
    let lower: String = chars.next().map(|c| c.to_lowercase().chain(chars).collect()).unwrap_or_default();
    format!("{lower}_{}", resource.version)
}
