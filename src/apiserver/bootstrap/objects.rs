//! The bootstrap objects that are not RBAC's.

use std::path::Path;

use api::Object;
use serde_json::{Value, json};

use crate::flags::Config;

/// Namespaces that always exist.
const NAMESPACES: [&str; 4] = ["default", "kube-system", "kube-public", "kube-node-lease"];

fn object(value: Value) -> Object {
    Object::try_from(value).unwrap_or_default()
}

/// The system namespaces.
pub(super) fn namespaces() -> Vec<Object> {
    let namespace = |name: &&str| {
        object(json!({
            "apiVersion": "v1",
            "kind": "Namespace",
            "metadata": {"name": name, "labels": {"kubernetes.io/metadata.name": name}},
            "spec": {"finalizers": ["kubernetes"]},
            "status": {"phase": "Active"},
        }))
    };
    NAMESPACES.iter().map(namespace).collect()
}

/// `system-node-critical` and `system-cluster-critical`.
pub(super) fn priority_classes() -> Vec<Object> {
    let class = |name: &str, value: i64, description: &str| {
        object(json!({
            "apiVersion": "scheduling.k8s.io/v1",
            "kind": "PriorityClass",
            "metadata": {"name": name},
            "value": value,
            "description": description,
            "preemptionPolicy": "PreemptLowerPriority",
        }))
    };
    vec![
        class(
            "system-node-critical",
            2_000_001_000,
            "Used for system critical pods that must not be moved from their current node.",
        ),
        class(
            "system-cluster-critical",
            2_000_000_000,
            "Used for system critical pods that must run in the cluster, but can be moved to another node if necessary.",
        ),
    ]
}

/// The ServiceCIDR `kubernetes` for `--service-cluster-ip-range`.
pub(super) fn service_cidr(config: &Config) -> Object {
    object(json!({
        "apiVersion": "networking.k8s.io/v1",
        "kind": "ServiceCIDR",
        "metadata": {"name": "kubernetes"},
        "spec": {"cidrs": [config.service_cidr.to_string()]},
        "status": {"conditions": [{
            "type": "Ready",
            "status": "True",
            "reason": "",
            "message": "Kubernetes Service CIDR is ready",
            "lastTransitionTime": api::time::now_text(),
        }]},
    }))
}

/// Its condition may have been dropped at creation, where status does not count.
pub(super) fn ready_cidr(mut existing: Object, wanted: &Object) -> Object {
    if existing.list_at("status.conditions").is_empty() {
        existing.set("status.conditions", wanted.list_at("status.conditions").to_vec());
    }
    existing
}

/// kube-system/extension-apiserver-authentication: whom extension API servers may trust, and for what.
pub(super) fn authentication(config: &Config) -> Object {
    let flags = &config.flags;
    let mut data = serde_json::Map::new();
    let mut file = |key: &str, path: Option<&Path>| {
        if let Some(text) = path.and_then(|path| std::fs::read_to_string(path).ok()) {
            data.insert(key.to_owned(), json!(text));
        }
    };
    file("client-ca-file", flags.client_ca_file.as_deref());
    file("requestheader-client-ca-file", flags.requestheader_client_ca_file.as_deref());
    if flags.requestheader_client_ca_file.is_some() {
        for (key, list) in [
            ("requestheader-allowed-names", &flags.requestheader_allowed_names),
            ("requestheader-username-headers", &flags.requestheader_username_headers),
            ("requestheader-group-headers", &flags.requestheader_group_headers),
            ("requestheader-extra-headers-prefix", &flags.requestheader_extra_headers_prefix),
        ] {
            data.insert(key.to_owned(), json!(json!(list).to_string()));
        }
    }
    object(json!({
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {"name": "extension-apiserver-authentication", "namespace": "kube-system"},
        "data": data,
    }))
}

/// The keys that this server knows are set to what it knows; others stay.
pub(super) fn same_data(mut existing: Object, wanted: &Object) -> Object {
    let mut data = existing.map_at("data").cloned().unwrap_or_default();
    data.extend(wanted.map_at("data").cloned().unwrap_or_default());
    if existing.map_at("data") != Some(&data) {
        existing.set("data", data);
    }
    existing
}
