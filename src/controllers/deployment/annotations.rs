//! The annotations by which a Deployment and its ReplicaSets remember revisions and sizes.

use k8s_openapi::{
    api::apps::v1::{Deployment, ReplicaSet},
    apimachinery::pkg::apis::meta::v1::ObjectMeta,
};
use serde_json::json;

use crate::controller::{Action, Target};

pub(super) const REVISION: &str = "deployment.kubernetes.io/revision";
const HISTORY: &str = "deployment.kubernetes.io/revision-history";
const DESIRED: &str = "deployment.kubernetes.io/desired-replicas";
const MAX: &str = "deployment.kubernetes.io/max-replicas";
/// Never copied from a Deployment to its ReplicaSets.
const OWN: &[&str] = &[
    "kubectl.kubernetes.io/last-applied-configuration",
    REVISION,
    HISTORY,
    DESIRED,
    MAX,
    "deprecated.deployment.rollback.revision",
];
/// Bytes of history that are kept.
const HISTORY_LIMIT: usize = 2000;

fn number(meta: &ObjectMeta, name: &str) -> Option<i64> {
    meta.annotations.as_ref()?.get(name)?.parse().ok()
}

/// An object's revision, 0 if it has none.
pub(super) fn revision(meta: &ObjectMeta) -> i64 {
    number(meta, REVISION).unwrap_or(0)
}

/// The number of replicas that the deployment wanted when the ReplicaSet was last sized.
pub(super) fn desired(meta: &ObjectMeta) -> Option<i32> {
    number(meta, DESIRED).and_then(|n| n.try_into().ok())
}

/// The most replicas that the deployment could have when the ReplicaSet was last sized.
pub(super) fn max(meta: &ObjectMeta) -> Option<i32> {
    number(meta, MAX).and_then(|n| n.try_into().ok())
}

fn put(meta: &mut ObjectMeta, name: &str, value: String) -> bool {
    let annotations = meta.annotations.get_or_insert_default();
    annotations.insert(name.into(), value.clone()) != Some(value)
}

/// Notes desired and most replicas; true if that changed something.
pub(super) fn set_sizes(meta: &mut ObjectMeta, (desired, most): (i32, i32)) -> bool {
    let first = put(meta, DESIRED, desired.to_string());
    put(meta, MAX, most.to_string()) || first
}

/// Publishes the current revision on the Deployment itself, without touching its spec or generation.
pub(super) fn set_revision(deployment: &Deployment, revision: i64) -> Action {
    let uid = deployment.metadata.uid.clone();
    let patch = json!({"metadata": {"uid": uid, "annotations": {(REVISION): revision.to_string()}}});
    Action::Patch { target: Target::of(deployment), subresource: "", patch }
}

/// Gives a ReplicaSet the deployment's annotations and its revision; sizes only when it is being made. True if
/// that changed something.
pub(super) fn inherit(
    deployment: &Deployment,
    set: &mut ReplicaSet,
    wanted: i64,
    sizes: (i32, i32),
    making: bool,
) -> bool {
    let mut changed = false;
    for (name, value) in deployment.metadata.annotations.iter().flatten() {
        if !OWN.contains(&name.as_str()) {
            changed |= put(&mut set.metadata, name, value.clone());
        }
    }
    let old = number(&set.metadata, REVISION);
    if old.unwrap_or(0) < wanted {
        put(&mut set.metadata, REVISION, wanted.to_string());
        changed = true;
        if let Some(old) = old {
            remember(&mut set.metadata, old);
        }
    }
    if making {
        changed |= set_sizes(&mut set.metadata, sizes);
    }
    changed
}

/// Adds a revision that a ReplicaSet once had to its history.
fn remember(meta: &mut ObjectMeta, old: i64) {
    let history = meta.annotations.as_ref().and_then(|a| a.get(HISTORY)).cloned().unwrap_or_default();
    let mut parts: Vec<String> = history.split(',').filter(|p| !p.is_empty()).map(Into::into).collect();
    parts.push(old.to_string());
    while parts.iter().map(|p| p.len() + 1).sum::<usize>() > HISTORY_LIMIT {
        parts.remove(0);
    }
    put(meta, HISTORY, parts.join(","));
}
