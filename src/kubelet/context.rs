//! What all parts of one kubelet share: configuration, seams, and what is known of the node.

use std::sync::{Arc, PoisonError, RwLock};

use client::Recorder;
use k8s_openapi::api::core::v1::Node;

use crate::{
    cgroup::Cgroups,
    cluster::Cluster,
    config::Config,
    pod::{resources::List, status::Host},
    runtime::Runtime,
};

/// The kubelet's shared parts; use it in an `Arc`.
pub struct Context {
    /// What it was told.
    pub config: Config,
    /// The container runtime.
    pub runtime: Arc<dyn Runtime>,
    /// The API server.
    pub cluster: Arc<dyn Cluster>,
    /// Events.
    pub recorder: Recorder,
    /// Control groups.
    pub cgroups: Cgroups,
    /// `containerd://1.6.20`, as the node's status has it.
    pub runtime_version: String,
    /// The node's addresses and runtime.
    pub host: Host,
    /// What the machine has.
    pub capacity: List,
    /// What pods may have of it.
    pub allocatable: List,
    /// The node object as it was last seen.
    pub node: RwLock<Option<Arc<Node>>>,
}

impl Context {
    /// The node object as it was last seen.
    #[must_use]
    pub fn node(&self) -> Option<Arc<Node>> {
        self.node.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Remembers the node object.
    pub fn set_node(&self, node: Arc<Node>) {
        *self.node.write().unwrap_or_else(PoisonError::into_inner) = Some(node);
    }

    /// The node's memory in bytes.
    #[must_use]
    pub fn memory(&self) -> i64 {
        crate::pod::resources::units(Some(&self.capacity), "memory")
    }
}
