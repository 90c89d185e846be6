//! CustomResourceDefinition → Resource, on every API server by its own watch.
//!
//! Keeps true: a custom resource is served from the moment its definition is Established until the definition
//! is gone, by the very code that serves built-in kinds; names are accepted once, in order of creation; a
//! definition that is deleted takes its objects with it. Conditions are written conditionally, so several
//! servers doing it at once agree.

use crate::{
    server::{Preconditions, Server},
    watchcache::Entry,
};
use api::{
    Object,
    catalog::{Cell, Column, GroupVersionKind, Resource, Subresource, Verbs},
    field::Path,
    jsonpath::JsonPath,
    schema::Schema,
};
use serde_json::{Value, json};
use std::{collections::HashMap, sync::Arc, time::Duration};
use tokio_util::sync::CancellationToken;

const CLEANUP: &str = "customresourcecleanup.apiextensions.k8s.io";
/// Pause before a failed step is tried again.
const RETRY: Duration = Duration::from_millis(300);

/// Follows the definitions until `stop`.
pub(crate) async fn follow(server: Arc<Server>, stop: CancellationToken) {
    let definitions = server.resource("apiextensions.k8s.io", "customresourcedefinitions");
    let Some(shard) = server.cache().shard(&definitions) else { return };
    let mut applied = server.cache().follow();
    if !matches!(stop.run_until_cancelled(applied.wait_for(|at| *at > 0)).await, Some(Ok(_))) {
        return;
    }
    let mut made = HashMap::new();
    loop {
        let (entries, _, mut cursor) = shard.snapshot("");
        install(&server, &entries, &mut made);
        let done = settle(&server, &definitions, &entries).await;
        let wait = async {
            match done {
                true => cursor.wait().await,
                false => tokio::time::sleep(RETRY).await,
            }
        };
        if stop.run_until_cancelled(wait).await.is_none() {
            return;
        }
    }
}

/// Resources made of definitions, by uid and revision: kept as long as the definition does not change.
type Made = HashMap<String, (u64, Vec<Arc<Resource>>)>;

/// Serves what is established.
fn install(server: &Server, entries: &[Arc<Entry>], made: &mut Made) {
    let mut all = Vec::new();
    let mut next = HashMap::new();
    for entry in entries {
        let object = entry.object();
        if !condition(&object, "Established") {
            continue;
        }
        let known = made.remove(&entry.uid).filter(|(revision, _)| *revision == entry.revision);
        let resources = known.map_or_else(|| resources(&object), |(_, resources)| resources);
        all.extend(resources.iter().cloned());
        next.insert(entry.uid.clone(), (entry.revision, resources));
    }
    *made = next;
    let catalog = server.catalog();
    let now: Vec<&Arc<Resource>> = catalog.iter().filter(|r| r.custom).collect();
    let same = now.len() == all.len() && now.iter().zip(&all).all(|(a, b)| Arc::ptr_eq(a, b));
    if !same {
        server.set_catalog(Arc::new(catalog.with(all)));
    }
}

fn condition(object: &Object, kind: &str) -> bool {
    object.list_at("status.conditions").iter().any(|c| c["type"] == kind && c["status"] == "True")
}

/// Does what definitions need: conditions, finalizer, removal of objects. Whether nothing is left to do.
async fn settle(server: &Server, definitions: &Resource, entries: &[Arc<Entry>]) -> bool {
    let mut done = true;
    for entry in entries {
        let object = entry.object();
        let result = match object.deletion_timestamp() {
            Some(_) if object.finalizers().any(|f| f == CLEANUP) => {
                clean_up(server, definitions, &object).await
            }
            Some(_) => Ok(()),
            None => accept(server, definitions, &object, entries).await,
        };
        if let Err(status) = result {
            tracing::debug!(name = object.name(), %status, "a definition is not settled, trying again");
            done = false;
        }
    }
    done
}

async fn accept(server: &Server, r: &Resource, object: &Object, all: &[Arc<Entry>]) -> api::Result<()> {
    let clash = clash(server, object, all);
    if decide(object.clone(), clash.as_deref()) == *object {
        return Ok(());
    }
    server.update_with(r, "", object.name(), |current| Ok(decide(current, clash.as_deref()))).await.map(drop)
}

/// Another owner of one of the names, if there is one.
fn clash(server: &Server, object: &Object, all: &[Arc<Entry>]) -> Option<String> {
    let group = object.str_at("spec.group");
    let (plural, kind) = (object.str_at("spec.names.plural"), object.str_at("spec.names.kind"));
    let catalog = server.catalog();
    if catalog.iter().any(|r| !r.custom && r.group == group && (r.plural == plural || r.kind == kind)) {
        return Some(format!("{plural:?} is already in use"));
    }
    let older = |o: &Object| {
        (o.creation_timestamp(), o.uid()) < (object.creation_timestamp(), object.uid())
            && o.uid() != object.uid()
    };
    let others = all.iter().map(|entry| entry.object());
    others
        .filter(|o| o.str_at("spec.group") == group && older(o))
        .find_map(|o| (o.str_at("spec.names.kind") == kind).then(|| format!("{kind:?} is already in use")))
}

/// The definition with its conditions, accepted names, stored versions and finalizer.
fn decide(mut object: Object, clash: Option<&str>) -> Object {
    if object.deletion_timestamp().is_some() {
        return object;
    }
    if !object.finalizers().any(|f| f == CLEANUP) {
        let mut finalizers: Vec<String> = object.finalizers().map(str::to_string).collect();
        finalizers.push(CLEANUP.into());
        object.set_meta("finalizers", finalizers);
    }
    match clash {
        None => {
            let names = object.get("spec.names").cloned().unwrap_or_default();
            object.set("status.acceptedNames", names);
            set_condition(&mut object, "NamesAccepted", true, "NoConflicts", "no conflicts found");
            set_condition(
                &mut object,
                "Established",
                true,
                "InitialNamesAccepted",
                "the initial names have been accepted",
            );
        }
        Some(why) => {
            set_condition(&mut object, "NamesAccepted", false, "KindConflict", why);
            set_condition(&mut object, "Established", false, "NotAccepted", "not all names are accepted");
        }
    }
    let storage = object.list_at("spec.versions").iter().find(|v| v["storage"] == true);
    let storage = storage.map(|v| v["name"].clone()).unwrap_or_default();
    let mut stored = object.list_at("status.storedVersions").to_vec();
    if !storage.is_null() && !stored.contains(&storage) {
        stored.push(storage);
        object.set("status.storedVersions", stored);
    }
    object
}

fn set_condition(object: &mut Object, kind: &str, holds: bool, reason: &str, message: &str) {
    let status = if holds { "True" } else { "False" };
    let mut conditions = object.list_at("status.conditions").to_vec();
    let known = conditions.iter_mut().find(|c| c["type"] == kind);
    match known {
        Some(c) if c["status"] == status && c["reason"] == reason => return,
        Some(c) => {
            c["lastTransitionTime"] = api::time::now_text().into();
            c["status"] = status.into();
            c["reason"] = reason.into();
            c["message"] = message.into();
        }
        None => conditions.push(json!({
            "lastTransitionTime": api::time::now_text(),
            "message": message,
            "reason": reason,
            "status": status,
            "type": kind,
        })),
    }
    object.set("status.conditions", conditions);
}

/// Deletes the objects of a definition that is being deleted, then lets it go.
async fn clean_up(server: &Server, definitions: &Resource, object: &Object) -> api::Result<()> {
    for r in resources(object).iter().filter(|r| r.gvk() == r.storage) {
        server.cache().fresh().await?;
        for custom in server.cached_list(r, None) {
            let namespace = if r.namespaced { custom.namespace() } else { "" };
            match server.delete(r, namespace, custom.name(), Preconditions::default()).await {
                Err(status) if status.code() != 404 => return Err(status),
                _ => {}
            }
        }
        server.cache().fresh().await?;
        if !server.cached_list(r, None).is_empty() {
            return Err(api::Status::service_unavailable("objects wait for their finalizers"));
        }
    }
    let release = |mut current: Object| {
        let left: Vec<String> = current.finalizers().filter(|f| *f != CLEANUP).map(str::to_string).collect();
        current.set_meta("finalizers", left);
        Ok(current)
    };
    server.update_with(definitions, "", object.name(), release).await.map(drop)
}

/// The resources a definition makes: one per served version.
fn resources(definition: &Object) -> Vec<Arc<Resource>> {
    let versions = definition.list_at("spec.versions");
    let storage =
        versions.iter().find(|v| v["storage"] == true).and_then(|v| v["name"].as_str()).unwrap_or_default();
    let mut served: Vec<&Value> =
        versions.iter().filter(|v| v["served"] == true || v["storage"] == true).collect();
    served.sort_by_key(|version| std::cmp::Reverse(rank(version)));
    served.into_iter().map(|version| Arc::new(resource(definition, version, storage))).collect()
}

/// Order of versions as upstream prefers them: GA before beta before alpha, newer before older.
fn rank(version: &Value) -> (u8, u32, u32) {
    let name = version["name"].as_str().unwrap_or_default();
    let Some(rest) = name.strip_prefix('v') else { return (0, 0, 0) };
    let digits = rest.find(|c: char| !c.is_ascii_digit()).unwrap_or(rest.len());
    let Ok(major) = rest[..digits].parse() else { return (0, 0, 0) };
    let (level, minor) = match &rest[digits..] {
        "" => (3, ""),
        text => match (text.strip_prefix("beta"), text.strip_prefix("alpha")) {
            (Some(minor), _) => (2, minor),
            (_, Some(minor)) => (1, minor),
            _ => return (0, 0, 0),
        },
    };
    (level, major, minor.parse().unwrap_or(0))
}

fn resource(definition: &Object, version: &Value, storage: &str) -> Resource {
    let group = definition.str_at("spec.group");
    let names = |field: &str| definition.str_at(&format!("spec.names.{field}")).to_string();
    let list = |field: &str| -> Vec<String> {
        let values = definition.list_at(&format!("spec.names.{field}")).iter();
        values.filter_map(Value::as_str).map(str::to_string).collect()
    };
    let (kind, plural) = (names("kind"), names("plural"));
    let or = |name: String, default: String| if name.is_empty() { default } else { name };
    let version_name = version["name"].as_str().unwrap_or_default();
    Resource {
        group: group.into(),
        version: version_name.into(),
        singular: or(names("singular"), kind.to_lowercase()),
        list_kind: or(names("listKind"), format!("{kind}List")),
        short_names: list("shortNames"),
        categories: list("categories"),
        namespaced: definition.str_at("spec.scope") == "Namespaced",
        verbs: if version["served"] == true { Verbs::ALL } else { Verbs::NONE },
        subresources: subresources(group, version_name, &kind, version),
        columns: columns(version),
        prefix: format!("{group}/{plural}"),
        storage: GroupVersionKind::new(group, storage, &kind),
        default_on: true,
        schema: schema(definition, version),
        custom: true,
        selectable: selectable(version),
        kind,
        plural,
    }
}

fn selectable(version: &Value) -> Vec<String> {
    let fields = version["selectableFields"].as_array().into_iter().flatten();
    let paths = fields.filter_map(|f| f["jsonPath"].as_str());
    paths.map(|path| path.trim_start_matches('.').to_string()).collect()
}

fn schema(definition: &Object, version: &Value) -> Option<Arc<Schema>> {
    let schema = version.pointer("/schema/openAPIV3Schema")?;
    let path = Path::new("spec").child("versions").child("schema").child("openAPIV3Schema");
    match Schema::from_open_api(schema, &path) {
        Ok(schema) => Some(Arc::new(schema)),
        Err(errors) => {
            tracing::warn!(name = definition.name(), ?errors, "a definition's schema cannot be used");
            None
        }
    }
}

fn subresources(group: &str, version: &str, kind: &str, definition: &Value) -> Vec<Subresource> {
    let mut list = Vec::new();
    let mut add = |name: &str, gvk| {
        list.push(Subresource { name: name.into(), verbs: Verbs::SUB, connect: Vec::new(), gvk });
    };
    if definition.pointer("/subresources/status").is_some() {
        add("status", GroupVersionKind::new(group, version, kind));
    }
    if definition.pointer("/subresources/scale").is_some() {
        add("scale", GroupVersionKind::new("autoscaling", "v1", "Scale"));
    }
    list
}

fn columns(version: &Value) -> Vec<Column> {
    let column = |name: &str, kind: &str, format: &str, description: &str, priority: i64, path: &str| {
        let path = JsonPath::parse(path).ok()?;
        Some(Column {
            name: name.into(),
            kind: kind.into(),
            format: format.into(),
            description: description.into(),
            priority: priority as i32,
            cell: Cell::Path(Arc::new(path)),
        })
    };
    let mut columns: Vec<Column> =
        column("Name", "string", "name", "Name must be unique within a namespace.", 0, ".metadata.name")
            .into_iter()
            .collect();
    match version["additionalPrinterColumns"].as_array() {
        Some(own) => columns.extend(own.iter().filter_map(|c| {
            let text = |field: &str| c[field].as_str().unwrap_or_default();
            let priority = c["priority"].as_i64().unwrap_or(0);
            column(
                text("name"),
                text("type"),
                text("format"),
                text("description"),
                priority,
                text("jsonPath"),
            )
        })),
        None => columns.extend(column(
            "Age",
            "date",
            "",
            "CreationTimestamp is a timestamp representing the server time when this object was created.",
            0,
            ".metadata.creationTimestamp",
        )),
    }
    columns
}

/// The stored resource of a definition, for tests.
#[cfg(test)]
fn stored(definition: &Object) -> Option<Arc<Resource>> {
    resources(definition).into_iter().find(|r| r.gvk() == r.storage)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::registry;

    fn definition() -> Object {
        Object::try_from(json!({
            "metadata": {"name": "widgets.example.com", "uid": "u"},
            "spec": {
                "group": "example.com", "scope": "Namespaced",
                "names": {"plural": "widgets", "kind": "Widget"},
                "versions": [
                    {"name": "v1beta1", "served": true, "storage": false},
                    {"name": "v1", "served": true, "storage": true, "subresources": {"status": {}}},
                ],
            },
        }))
        .unwrap()
    }

    #[test]
    fn a_definition_makes_resources() {
        let made = resources(&definition());
        let versions: Vec<&str> = made.iter().map(|r| r.version.as_str()).collect();
        assert_eq!(versions, ["v1", "v1beta1"]);
        let stored = stored(&definition()).unwrap();
        assert_eq!((stored.singular.as_str(), stored.list_kind.as_str()), ("widget", "WidgetList"));
        assert_eq!(registry::suffix(&stored, "a", "b"), "a/b");
        assert!(stored.subresource("status").is_some());
    }

    #[test]
    fn accepting_is_idempotent() {
        let once = decide(definition(), None);
        assert!(condition(&once, "Established"));
        assert_eq!(decide(once.clone(), None), once);
        assert!(!condition(&decide(definition(), Some("taken")), "Established"));
    }
}
