//! Who owns whom, over all objects of the cluster.
//!
//! Keeps true: the graph is what the watches have delivered, edges by uid; an owner that was never seen has
//! dependents here, but is no node.

use std::collections::{HashMap, HashSet};

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference};

use crate::controller::{Key, Resource, Target};

pub(crate) const FOREGROUND: &str = "foregroundDeletion";
pub(crate) const ORPHAN: &str = "orphan";
/// Uids known to be gone that are remembered, so that a thousand dependents ask only once.
const REMEMBERED: usize = 10_000;

/// One object.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Node {
    pub(crate) target: Target,
    pub(crate) owners: Vec<OwnerReference>,
    pub(crate) version: Option<String>,
    pub(crate) deleting: bool,
    pub(crate) foreground: bool,
    pub(crate) orphaning: bool,
}

impl Node {
    fn new(resource: Resource, meta: &ObjectMeta) -> Self {
        let deleting = meta.deletion_timestamp.is_some();
        let has = |f: &str| meta.finalizers.iter().flatten().any(|x| x == f);
        Self {
            target: Target { resource, key: Key::of(meta) },
            owners: meta.owner_references.clone().unwrap_or_default(),
            version: meta.resource_version.clone(),
            deleting,
            foreground: deleting && has(FOREGROUND),
            orphaning: deleting && has(ORPHAN),
        }
    }

    /// Whether this object keeps an owner from going before it.
    pub(crate) fn blocks(&self, owner: &str) -> bool {
        self.owners.iter().any(|r| r.uid == owner && r.block_owner_deletion == Some(true))
    }
}

/// The graph.
#[derive(Default)]
pub(crate) struct Graph {
    nodes: HashMap<String, Node>,
    dependents: HashMap<String, HashSet<String>>,
    gone: HashSet<String>,
    kinds: HashMap<(String, String), Resource>,
}

impl Graph {
    /// Takes in a change; returns the uids that should be looked at because of it.
    pub(crate) fn apply(
        &mut self,
        resource: Resource,
        old: Option<&ObjectMeta>,
        new: Option<&ObjectMeta>,
    ) -> Vec<String> {
        let mut wake = Vec::new();
        let uid = |m: Option<&ObjectMeta>| m.and_then(|m| m.uid.clone());
        if let Some(before) = uid(old).filter(|u| uid(new).as_ref() != Some(u)) {
            wake.extend(self.remove(&before));
        }
        if let (Some(meta), Some(uid)) = (new, uid(new)) {
            wake.extend(self.insert(uid, Node::new(resource, meta)));
        }
        wake
    }

    fn remove(&mut self, uid: &str) -> Vec<String> {
        let Some(node) = self.nodes.remove(uid) else { return Vec::new() };
        self.remember_gone(uid);
        let mut wake: Vec<String> = self.dependents_of(uid);
        for owner in &node.owners {
            self.unlink(&owner.uid, uid);
            wake.extend(self.waiting(&owner.uid));
        }
        wake
    }

    fn insert(&mut self, uid: String, node: Node) -> Vec<String> {
        let before = self.nodes.get(&uid).cloned();
        let was = |f: fn(&Node) -> bool| before.as_ref().is_some_and(f);
        let mut wake = Vec::new();
        let old_owners = before.as_ref().map(|b| b.owners.clone()).unwrap_or_default();
        if old_owners != node.owners {
            for owner in &old_owners {
                self.unlink(&owner.uid, &uid);
                wake.extend(self.waiting(&owner.uid));
            }
            for owner in &node.owners {
                self.dependents.entry(owner.uid.clone()).or_default().insert(uid.clone());
            }
            wake.push(uid.clone());
        }
        if node.foreground && !was(|b| b.foreground) {
            wake.extend(self.dependents_of(&uid));
            wake.push(uid.clone());
        }
        if node.orphaning {
            wake.push(uid.clone());
        }
        // A dependent that begins to delete its own dependents may need its owner to look again.
        if node.deleting && !was(|b| b.deleting) {
            wake.extend(node.owners.iter().flat_map(|o| self.waiting(&o.uid)));
        }
        self.nodes.insert(uid, node);
        wake
    }

    fn unlink(&mut self, owner: &str, dependent: &str) {
        if let Some(set) = self.dependents.get_mut(owner) {
            set.remove(dependent);
            if set.is_empty() {
                self.dependents.remove(owner);
            }
        }
    }

    /// The owner, if it waits for its dependents to go.
    fn waiting(&self, owner: &str) -> Option<String> {
        self.nodes.get(owner).filter(|n| n.foreground || n.orphaning).map(|_| owner.to_owned())
    }

    pub(crate) fn node(&self, uid: &str) -> Option<&Node> {
        self.nodes.get(uid)
    }

    pub(crate) fn dependents_of(&self, uid: &str) -> Vec<String> {
        self.dependents.get(uid).into_iter().flatten().cloned().collect()
    }

    pub(crate) fn dependent_nodes(&self, uid: &str) -> impl Iterator<Item = &Node> {
        self.dependents.get(uid).into_iter().flatten().filter_map(|d| self.nodes.get(d))
    }

    /// Uids are never used twice: once gone, always gone.
    pub(crate) fn remember_gone(&mut self, uid: &str) {
        if self.gone.len() >= REMEMBERED {
            self.gone.clear();
        }
        self.gone.insert(uid.to_owned());
    }

    pub(crate) fn is_gone(&self, uid: &str) -> bool {
        self.gone.contains(uid)
    }

    pub(crate) fn know(&mut self, resources: &[Resource]) {
        self.kinds = resources.iter().map(|r| ((r.api_version(), r.kind.to_string()), r.clone())).collect();
    }

    /// The resource that an owner reference means. Another version of a served kind is as good.
    pub(crate) fn resolve(&self, reference: &OwnerReference) -> Option<Resource> {
        let key = (reference.api_version.clone(), reference.kind.clone());
        self.kinds.get(&key).cloned().or_else(|| {
            let group = reference.api_version.split_once('/').map_or("", |(g, _)| g);
            self.kinds.values().find(|r| r.group == group && r.kind == reference.kind).cloned()
        })
    }

    /// Everything that may need work when a term begins.
    pub(crate) fn open(&self) -> Vec<String> {
        let unknown = |n: &Node| n.owners.iter().any(|o| self.nodes.get(&o.uid).is_none_or(|p| p.foreground));
        let open = |n: &Node| n.foreground || n.orphaning || unknown(n);
        self.nodes.iter().filter(|(_, n)| open(n)).map(|(uid, _)| uid.clone()).collect()
    }
}
