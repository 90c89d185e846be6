//! Nodes and leases.

use serde_json::Value;

use super::{
    AGE, NAME,
    cells::{NONE, UNKNOWN, condition, or, str_of, text, wide},
};
use crate::{Object, catalog::Col};

pub(crate) const NODES: &[Col] = &[
    NAME,
    text("Status", "The status of the node", |o, _| status(o).into()),
    text("Roles", "The roles of the node", |o, _| roles(o).into()),
    AGE,
    text("Version", "Kubelet Version reported by the node.", |o, _| {
        or(o, "status.nodeInfo.kubeletVersion", "")
    }),
    wide(text("Internal-IP", "The node's address inside of the cluster.", |o, _| address(o, "InternalIP"))),
    wide(text("External-IP", "The node's address outside of the cluster.", |o, _| address(o, "ExternalIP"))),
    wide(text("OS-Image", "OS Image reported by the node.", |o, _| {
        or(o, "status.nodeInfo.osImage", UNKNOWN)
    })),
    wide(text("Kernel-Version", "Kernel Version reported by the node.", |o, _| {
        or(o, "status.nodeInfo.kernelVersion", UNKNOWN)
    })),
    wide(text("Container-Runtime", "ContainerRuntime Version reported by the node.", |o, _| {
        or(o, "status.nodeInfo.containerRuntimeVersion", UNKNOWN)
    })),
];

fn status(node: &Object) -> String {
    let ready = match condition(node, "Ready").map(|c| str_of(c, "status")) {
        Some("True") => "Ready",
        Some(_) => "NotReady",
        None => "Unknown",
    };
    let closed = if node.bool_at("spec.unschedulable") { ",SchedulingDisabled" } else { "" };
    format!("{ready}{closed}")
}

fn roles(node: &Object) -> String {
    let mut roles: Vec<String> = Vec::new();
    for (key, value) in node.labels().into_iter().flatten() {
        let named = key.strip_prefix("node-role.kubernetes.io/").filter(|role| !role.is_empty());
        let labelled = value.as_str().filter(|v| key == "kubernetes.io/role" && !v.is_empty());
        roles.extend(named.or(labelled).map(str::to_owned));
    }
    roles.sort();
    roles.dedup();
    super::cells::join_or(roles, NONE)
}

fn address(node: &Object, kind: &str) -> Value {
    let found = node.list_at("status.addresses").iter().find(|a| str_of(a, "type") == kind);
    found.map_or(NONE, |a| str_of(a, "address")).into()
}

pub(crate) const LEASES: &[Col] = &[
    NAME,
    text("Holder", "The identity of the holder of a current lease.", |o, _| or(o, "spec.holderIdentity", "")),
    AGE,
];

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_node() {
        let node = json!({"metadata": {"name": "w1", "labels": {"node-role.kubernetes.io/worker": "", "kubernetes.io/role": "x"}},
            "spec": {"unschedulable": true}, "status": {"conditions": [{"type": "Ready", "status": "True"}],
            "addresses": [{"type": "InternalIP", "address": "10.90.0.21"}], "nodeInfo": {"kubeletVersion": "v1.35.0"}}});
        let node = Object::try_from(node).unwrap();
        let cells: Vec<_> = NODES.iter().map(|c| (c.cell)(&node, crate::time::now())).collect();
        let expect = json!([
            "w1",
            "Ready,SchedulingDisabled",
            "worker,x",
            "<unknown>",
            "v1.35.0",
            "10.90.0.21",
            "<none>",
            "<unknown>",
            "<unknown>",
            "<unknown>"
        ]);
        assert_eq!(json!(cells), expect);
    }
}
