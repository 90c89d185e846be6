//! What can happen in the cluster that may let a pod fit that did not fit before.

use std::sync::Arc;

use k8s_openapi::api::core::v1::Node;

use crate::pod::PodInfo;
use crate::snapshot::NodeInfo;

/// Something happened.
#[derive(Clone, Debug)]
pub enum Event {
    /// A node came.
    NodeAdded(Arc<NodeInfo>),
    /// A node's labels, taints, capacity or cordon changed.
    NodeChanged(Arc<NodeInfo>, Arc<NodeInfo>),
    /// A pod is on a node now.
    PodAssigned(Arc<PodInfo>),
    /// A pod on a node changed its labels or what it asks for.
    PodChanged(Arc<PodInfo>, Arc<PodInfo>),
    /// A pod left its node, or an assumption was taken back.
    PodRemoved(Arc<PodInfo>),
    /// A namespace's labels, a service or a budget changed.
    Other,
}

impl Event {
    /// The event of a node that changed; `None` when nothing changed that scheduling looks at.
    pub(crate) fn of_node(old: Option<&Arc<Node>>, new: &Arc<Node>) -> Option<Self> {
        let info = |node: &Arc<Node>| Arc::new(NodeInfo::from_node(node.clone()));
        let Some(old) = old else { return Some(Self::NodeAdded(info(new))) };
        let resources = |n: &Node| n.status.as_ref().and_then(|s| s.allocatable.clone());
        let same = old.spec == new.spec
            && old.metadata.labels == new.metadata.labels
            && resources(old) == resources(new);
        (!same).then(|| Self::NodeChanged(info(old), info(new)))
    }

    /// The node that came or changed, as it is now.
    pub(crate) fn node(&self) -> Option<&NodeInfo> {
        match self {
            Self::NodeAdded(node) | Self::NodeChanged(_, node) => Some(node),
            _ => None,
        }
    }
}
