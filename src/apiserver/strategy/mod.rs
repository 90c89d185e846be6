//! What one kind does differently from all others: defaults, what a client may not set, validation, grace.
//!
//! Keeps true: everything here is a pure function of the objects it is given. A kind without a row in [`of`] is
//! `PLAIN` or `SPEC_STATUS`; a custom resource is `CUSTOM`. Schema checks (types, required and unknown fields) come
//! before, admission around it; who may ask is decided elsewhere. Defaults and texts are those of Kubernetes'
//! own defaulting and validation functions.

mod config;
mod defaults;
mod meta;
mod pod;
mod podcheck;
mod podspec;
mod service;
mod simple;
mod workload;

use api::{
    Object, Resource,
    field::{FieldError, Path},
};
use defaults::Row;
use serde_json::Value;

/// A kind's behaviour. Every method has a default, so most kinds need none of their own.
pub(crate) trait Strategy: Sync {
    /// Fields that are filled in when absent; see [`defaults`] for the paths.
    fn rows(&self) -> &'static [Row] {
        &[]
    }

    /// Whether `metadata.generation` counts the changes of everything but metadata and status.
    fn counts_generation(&self) -> bool {
        false
    }

    /// Whether `status` belongs to the status subresource: not set by create, kept by update.
    fn has_status(&self) -> bool {
        false
    }

    /// Fills in what the client left out; also applied to the result of a patch. Idempotent.
    fn default(&self, object: &mut Object) {
        defaults::fill(object, "", self.rows());
    }

    /// Resets what a creator may not set. Name and uid are set already.
    fn prepare_create(&self, _object: &mut Object) {}

    /// Keeps what an updater may not change.
    fn prepare_update(&self, _new: &mut Object, _old: &Object) {}

    /// Checks the object's own fields; `old` is there on update. Metadata is checked by [`validate`].
    fn validate(&self, _new: &Object, _old: Option<&Object>) -> Vec<FieldError> {
        Vec::new()
    }

    /// What the client should know although the request is fine.
    fn warnings(&self, _new: &Object) -> Vec<String> {
        Vec::new()
    }

    /// What a name of this kind must look like: the mistakes in it.
    fn check_name(&self, name: &str) -> Vec<String> {
        api::name::dns1123_subdomain(name)
    }

    /// The grace of a deletion in seconds, when the kind dies gracefully; `requested` by the client.
    fn graceful_deletion(&self, _object: &Object, _requested: Option<i64>) -> Option<i64> {
        None
    }
}

/// The behaviour of a resource.
pub(crate) fn of(resource: &Resource) -> &'static dyn Strategy {
    if resource.custom {
        return &simple::CUSTOM;
    }
    match (resource.group.as_str(), resource.kind.as_str()) {
        ("", "Pod") => &pod::Pod,
        ("", "Service") => &service::Service,
        ("", "Secret") => &config::Secret,
        ("", "ConfigMap") => &config::ConfigMap,
        ("", "Namespace") => &simple::Namespace,
        ("", "ReplicationController") => &workload::ReplicationController,
        ("apps", "Deployment") => &workload::Deployment,
        ("apps", "ReplicaSet") => &workload::ReplicaSet,
        ("apps", "DaemonSet") => &workload::DaemonSet,
        ("apps", "StatefulSet") => &workload::StatefulSet,
        ("batch", "Job") => &workload::Job,
        ("batch", "CronJob") => &workload::CronJob,
        (group, kind) => simple::of(group, kind),
    }
}

/// Makes a new object ready to be stored: resets what its creator may not set.
pub(crate) fn prepare_create(resource: &Resource, object: &mut Object) {
    let strategy = of(resource);
    if strategy.has_status() {
        object.0.remove("status");
    }
    if strategy.counts_generation() {
        object.set_meta("generation", 1);
    } else {
        object.metadata_mut().remove("generation");
    }
    strategy.prepare_create(object);
}

/// Makes an update ready to be stored: keeps status, counts the generation.
pub(crate) fn prepare_update(resource: &Resource, new: &mut Object, old: &Object) {
    let strategy = of(resource);
    if strategy.has_status() {
        keep(new, old, "status");
    }
    strategy.prepare_update(new, old);
    keep_meta(new, old, "generation");
    if strategy.counts_generation() && (body(new).ne(body(old)) || begins_deletion(new, old)) {
        new.set_meta("generation", old.generation() + 1);
    }
}

/// Makes an update of the status subresource ready to be stored: only status and harmless metadata change.
pub(crate) fn prepare_status_update(_resource: &Resource, new: &mut Object, old: &Object) {
    let status = new.0.remove("status");
    let metadata = new.0.remove("metadata");
    *new = Object(old.0.clone());
    match status {
        Some(status) => new.0.insert("status".into(), status),
        None => new.0.remove("status"),
    };
    let Some(Value::Object(mut metadata)) = metadata else { return };
    for field in ["labels", "annotations", "finalizers", "resourceVersion"] {
        match metadata.remove(field) {
            Some(value) => new.metadata_mut().insert(field.into(), value),
            None => new.metadata_mut().remove(field),
        };
    }
}

/// Everything that is wrong with an object; `old` is there on update.
pub(crate) fn validate(resource: &Resource, new: &Object, old: Option<&Object>) -> Vec<FieldError> {
    let strategy = of(resource);
    let mut errors = meta::validate(resource, strategy, new, old);
    errors.extend(strategy.validate(new, old));
    errors
}

fn body(object: &Object) -> impl Iterator<Item = (&String, &Value)> {
    object.0.iter().filter(|(field, _)| !matches!(field.as_str(), "metadata" | "status"))
}

fn begins_deletion(new: &Object, old: &Object) -> bool {
    new.deletion_timestamp().is_some() && old.deletion_timestamp().is_none()
}

/// Copies a top-level field from the old object, or removes it where the old one has none.
fn keep(new: &mut Object, old: &Object, field: &str) {
    match old.0.get(field) {
        Some(value) => new.0.insert(field.into(), value.clone()),
        None => new.0.remove(field),
    };
}

fn keep_meta(new: &mut Object, old: &Object, field: &str) {
    match old.get(&format!("metadata.{field}")) {
        Some(value) => new.set_meta(field, value.clone()),
        None => {
            new.metadata_mut().remove(field);
        }
    }
}

/// `PATH: Invalid value: VALUE: field is immutable`, when a field differs.
fn immutable(new: &Object, old: Option<&Object>, path: &str) -> Option<FieldError> {
    let old = old?;
    let value = |o: &Object| o.get(path).cloned().unwrap_or(Value::Null);
    (value(old) != value(new))
        .then(|| FieldError::invalid(&Path::new(path), value(new), "field is immutable"))
}
