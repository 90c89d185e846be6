//! Pods and nodes for tests, in a line each.

use std::sync::Arc;

use k8s_openapi::api::core::v1::{Node, Pod};
use serde_json::{Value, json};

use crate::pod::PodInfo;
use crate::snapshot::NodeInfo;

/// A pod in the making; its unique id is its name.
#[derive(Clone)]
pub(crate) struct MakePod(pub(crate) Value);

pub(crate) fn pod(name: &str) -> MakePod {
    MakePod(json!({
        "metadata": {"name": name, "uid": name, "namespace": "default", "labels": {}},
        "spec": {"containers": [{"name": "c", "image": "i", "resources": {"requests": {}}}]},
        "status": {},
    }))
}

impl MakePod {
    pub(crate) fn set(mut self, pointer: &str, value: impl Into<Value>) -> Self {
        let mut at = &mut self.0;
        for part in pointer.trim_start_matches('/').split('/') {
            at = match part.parse::<usize>() {
                Ok(index) => &mut at[index],
                Err(_) => &mut at[part.replace("~1", "/").as_str()],
            };
        }
        *at = value.into();
        self
    }

    pub(crate) fn cpu(self, amount: &str) -> Self {
        self.set("/spec/containers/0/resources/requests/cpu", amount)
    }

    pub(crate) fn on(self, node: &str) -> Self {
        self.set("/spec/nodeName", node)
    }

    pub(crate) fn phase(self, phase: &str) -> Self {
        self.set("/status/phase", phase)
    }

    pub(crate) fn priority(self, priority: i32) -> Self {
        self.set("/spec/priority", priority)
    }

    pub(crate) fn gate(self, name: &str) -> Self {
        self.set("/spec/schedulingGates", json!([{"name": name}]))
    }

    pub(crate) fn label(self, key: &str, value: &str) -> Self {
        self.set(&format!("/metadata/labels/{}", key.replace('/', "~1")), value)
    }

    pub(crate) fn owner(self, uid: &str) -> Self {
        let owner = json!({"apiVersion": "apps/v1", "kind": "ReplicaSet", "name": uid, "uid": uid, "controller": true});
        self.set("/metadata/ownerReferences", json!([owner]))
    }

    pub(crate) fn build(self) -> Arc<Pod> {
        Arc::new(serde_json::from_value(self.0).expect("a pod"))
    }

    pub(crate) fn info(self) -> Arc<PodInfo> {
        Arc::new(PodInfo::new(self.build()))
    }
}

/// A node in the making.
pub(crate) struct MakeNode(Value);

pub(crate) fn node(name: &str) -> MakeNode {
    let labels = json!({"kubernetes.io/hostname": name});
    MakeNode(json!({
        "metadata": {"name": name, "uid": name, "labels": labels},
        "spec": {},
        "status": {"allocatable": {"cpu": "4", "memory": "8Gi", "pods": "110"}},
    }))
}

impl MakeNode {
    pub(crate) fn cpu(mut self, amount: &str) -> Self {
        self.0["status"]["allocatable"]["cpu"] = amount.into();
        self
    }

    pub(crate) fn pods(mut self, count: usize) -> Self {
        self.0["status"]["allocatable"]["pods"] = count.to_string().into();
        self
    }

    pub(crate) fn label(mut self, key: &str, value: &str) -> Self {
        self.0["metadata"]["labels"][key] = value.into();
        self
    }

    pub(crate) fn taint(mut self, key: &str, effect: &str) -> Self {
        self.0["spec"]["taints"] = json!([{"key": key, "effect": effect}]);
        self
    }

    pub(crate) fn cordoned(mut self) -> Self {
        self.0["spec"]["unschedulable"] = true.into();
        self
    }

    pub(crate) fn build(self) -> Arc<Node> {
        Arc::new(serde_json::from_value(self.0).expect("a node"))
    }
}

pub(crate) fn node_info(name: &str, cpu: &str) -> Arc<NodeInfo> {
    Arc::new(NodeInfo::from_node(node(name).cpu(cpu).build()))
}
