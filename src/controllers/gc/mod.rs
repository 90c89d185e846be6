//! The garbage collector: what is owned goes when its owners have gone.
//!
//! Keeps true: nothing is deleted because of a cache alone. Before a delete the live API has said that every owner
//! is absent (or is another object under the same name), and the delete carries the uid and version that were
//! looked at. Leaves to others: setting the finalizers `foregroundDeletion` and `orphan` (the API server).

mod graph;
#[cfg(test)]
mod tests;
pub(crate) mod watch;

use std::{
    sync::{Mutex, MutexGuard, PoisonError, atomic::AtomicBool, atomic::Ordering},
    time::Duration,
};

use graph::{FOREGROUND, Graph, Node, ORPHAN};
use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference};
use serde_json::json;

use crate::{
    controller::{Action, Answer, Context, Controller, Key, Plan, Propagation, Question, Resource, Target},
    store::{Change, Stores},
};

/// How soon to look again at what could not be decided.
const AGAIN: Duration = Duration::from_secs(5);

/// The controller and its graph. Keys are uids.
#[derive(Default)]
pub(crate) struct GarbageCollector {
    graph: Mutex<Graph>,
    /// What the last change woke; `wake` follows `observe` in the same thread.
    woken: Mutex<Vec<String>>,
    complete: AtomicBool,
}

impl Controller for GarbageCollector {
    fn observe(&self, _: &Stores, change: &Change, _: Timestamp) {
        let (resource, old, new) = change.meta();
        let woken = self.graph().apply(resource, old, new);
        self.woken.lock().unwrap_or_else(PoisonError::into_inner).extend(woken);
    }

    fn keys(&self, _: &Stores) -> Vec<Key> {
        self.graph().open().into_iter().map(|uid| Key::new("", uid)).collect()
    }

    fn wake(&self, _: &Stores, _: &Change) -> Vec<Key> {
        let woken = std::mem::take(&mut *self.woken.lock().unwrap_or_else(PoisonError::into_inner));
        woken.into_iter().map(|uid| Key::new("", uid)).collect()
    }

    fn reconcile(&self, context: &Context<'_>, key: &Key) -> Plan {
        let mut graph = self.graph();
        decide(&mut graph, context, &key.name, self.complete.load(Ordering::Acquire))
    }
}

impl GarbageCollector {
    fn graph(&self) -> MutexGuard<'_, Graph> {
        self.graph.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Every watch has delivered its first list: from here, "has no dependents" can be believed.
    pub(crate) fn set_complete(&self) {
        self.complete.store(true, Ordering::Release);
    }

    /// Whether all watches have delivered.
    pub(crate) fn is_complete(&self) -> bool {
        self.complete.load(Ordering::Acquire)
    }

    /// The resources that owner references can mean.
    pub(crate) fn know(&self, resources: &[Resource]) {
        self.graph().know(resources);
    }
}

/// Decides about one object.
fn decide(graph: &mut Graph, context: &Context<'_>, uid: &str, complete: bool) -> Plan {
    let Some(node) = graph.node(uid).cloned() else { return Plan::none() };
    if node.orphaning || node.foreground {
        if !complete {
            return later();
        }
        return if node.orphaning {
            orphan(graph, context, uid, &node)
        } else {
            foreground(graph, context, uid, &node)
        };
    }
    if node.deleting || node.owners.is_empty() {
        return Plan::none();
    }
    match sort_owners(graph, context, &node) {
        Err(plan) => plan,
        Ok(owners) if owners.dangling.is_empty() && owners.waiting.is_empty() => Plan::none(),
        Ok(owners) => act(graph, context, uid, &node, &owners),
    }
}

fn later() -> Plan {
    Plan { requeue: Some(AGAIN), ..Plan::none() }
}

/// The live metadata of an object that must still be this one; `Err` is what to do instead.
fn live<'a>(context: &'a Context<'_>, node: &Node, uid: &str) -> Result<&'a ObjectMeta, Plan> {
    let question = Question::Get(node.target.clone());
    match context.answers.get(&question) {
        None => Err(Plan::ask(vec![question])),
        Some(Answer::Meta(meta)) if meta.uid.as_deref() == Some(uid) => Ok(meta),
        Some(Answer::Meta(_) | Answer::Absent) => Err(Plan::none()),
        Some(_) => Err(later()),
    }
}

fn without_finalizer(node: &Node, meta: &ObjectMeta, finalizer: &str) -> Action {
    let left: Vec<&String> = meta.finalizers.iter().flatten().filter(|f| *f != finalizer).collect();
    let patch = json!({"metadata": {
        "uid": meta.uid, "resourceVersion": meta.resource_version, "finalizers": left,
    }});
    Action::Patch { target: node.target.clone(), subresource: "", patch }
}

fn with_owners(target: &Target, version: Option<&String>, owners: &[&OwnerReference]) -> Action {
    let patch = json!({"metadata": {"resourceVersion": version, "ownerReferences": owners}});
    Action::Patch { target: target.clone(), subresource: "", patch }
}

/// Takes the owner reference out of every dependent, then lets the owner go.
fn orphan(graph: &Graph, context: &Context<'_>, uid: &str, node: &Node) -> Plan {
    let meta = match live(context, node, uid) {
        Ok(meta) => meta,
        Err(plan) => return plan,
    };
    let free = |d: &Node| {
        let others: Vec<&OwnerReference> = d.owners.iter().filter(|r| r.uid != uid).collect();
        with_owners(&d.target, d.version.as_ref(), &others)
    };
    let mut actions: Vec<Action> = graph.dependent_nodes(uid).map(free).collect();
    if actions.is_empty() {
        if meta.finalizers.iter().flatten().any(|f| f == ORPHAN) {
            actions.push(without_finalizer(node, meta, ORPHAN));
        }
        return Plan::of(actions);
    }
    // The finalizer goes when the graph shows that no dependent is left.
    let mut plan = Plan::of(vec![Action::Batch(actions)]);
    plan.requeue = Some(AGAIN);
    plan
}

/// Lets an owner go once nothing that blocks it is left.
fn foreground(graph: &Graph, context: &Context<'_>, uid: &str, node: &Node) -> Plan {
    if graph.dependent_nodes(uid).any(|d| d.blocks(uid)) {
        return Plan::none();
    }
    match live(context, node, uid) {
        Ok(meta) if meta.finalizers.iter().flatten().any(|f| f == FOREGROUND) => {
            Plan::of(vec![without_finalizer(node, meta, FOREGROUND)])
        }
        Ok(_) => Plan::none(),
        Err(plan) => plan,
    }
}

#[derive(Default)]
struct Owners {
    /// Uids of owners that are there.
    solid: Vec<String>,
    /// Uids of owners that are gone.
    dangling: Vec<String>,
    /// Uids of owners that wait for this object to go first.
    waiting: Vec<String>,
}

/// Sorts an object's owners; asks the live API about those that the graph does not show.
fn sort_owners(graph: &mut Graph, context: &Context<'_>, node: &Node) -> Result<Owners, Plan> {
    let mut owners = Owners::default();
    let mut open = Vec::new();
    for reference in &node.owners {
        let uid = reference.uid.clone();
        if let Some(known) = graph.node(&uid).filter(|n| n.target.key.name == reference.name) {
            let list = if known.foreground { &mut owners.waiting } else { &mut owners.solid };
            list.push(uid);
            continue;
        }
        if graph.is_gone(&uid) {
            owners.dangling.push(uid);
            continue;
        }
        match ask_owner(graph, context, node, reference)? {
            Asked::Unknown(question) => open.push(question),
            Asked::Gone => {
                graph.remember_gone(&uid);
                owners.dangling.push(uid);
            }
            Asked::Waiting => owners.waiting.push(uid),
            Asked::There => owners.solid.push(uid),
        }
    }
    if open.is_empty() { Ok(owners) } else { Err(Plan::ask(open)) }
}

enum Asked {
    Unknown(Question),
    Gone,
    Waiting,
    There,
}

fn ask_owner(
    graph: &Graph,
    context: &Context<'_>,
    node: &Node,
    owner: &OwnerReference,
) -> Result<Asked, Plan> {
    // A kind that is not served (yet): nobody can say that the owner is gone.
    let Some(resource) = graph.resolve(owner) else { return Err(later()) };
    let namespace = if resource.namespaced { node.target.key.namespace.as_str() } else { "" };
    if resource.namespaced && namespace.is_empty() {
        // A cluster-scoped object cannot be owned by a namespaced one; such a reference means nothing.
        return Ok(Asked::There);
    }
    let question = Question::Get(Target { key: Key::new(namespace, owner.name.clone()), resource });
    Ok(match context.answers.get(&question) {
        None => Asked::Unknown(question),
        Some(Answer::Absent) => Asked::Gone,
        Some(Answer::Meta(meta)) if meta.uid.as_deref() != Some(&owner.uid) => Asked::Gone,
        Some(Answer::Meta(meta)) => {
            let going = meta.deletion_timestamp.is_some();
            let waits = going && meta.finalizers.iter().flatten().any(|f| f == FOREGROUND);
            if waits { Asked::Waiting } else { Asked::There }
        }
        Some(_) => return Err(later()),
    })
}

/// Some owner is gone or waiting: the object loses the reference, or goes.
fn act(graph: &Graph, context: &Context<'_>, uid: &str, node: &Node, owners: &Owners) -> Plan {
    let meta = match live(context, node, uid) {
        Ok(meta) if meta.deletion_timestamp.is_none() => meta,
        Ok(_) => return Plan::none(),
        Err(plan) => return plan,
    };
    // Somebody changed its owners since: look again when the watch shows that.
    if meta.owner_references.as_deref().unwrap_or_default() != node.owners {
        return later();
    }
    if !owners.solid.is_empty() {
        let keep: Vec<&OwnerReference> =
            node.owners.iter().filter(|r| owners.solid.contains(&r.uid)).collect();
        return Plan::of(vec![with_owners(&node.target, meta.resource_version.as_ref(), &keep)]);
    }
    let has = |f: &str| meta.finalizers.iter().flatten().any(|x| x == f);
    let deep = !owners.waiting.is_empty() && !graph.dependents_of(uid).is_empty();
    let propagation = match () {
        () if deep => Propagation::Foreground,
        () if has(ORPHAN) => Propagation::Orphan,
        () if has(FOREGROUND) => Propagation::Foreground,
        () => Propagation::Background,
    };
    Plan::of(vec![Action::Delete {
        target: node.target.clone(),
        uid: Some(uid.to_owned()),
        resource_version: meta.resource_version.clone(),
        propagation: Some(propagation),
        grace: None,
        announce: None,
    }])
}
