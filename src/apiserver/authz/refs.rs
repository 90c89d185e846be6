//! What a pod refers to: secrets, config maps, claims. The edges of the Node authorizer's graph, and what
//! NodeRestriction forbids in a mirror pod. Pure.

use api::Object;
use serde_json::Value;

/// The kinds a pod can refer to by name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Secret,
    ConfigMap,
    Claim,
    ServiceAccount,
    ResourceClaim,
}

const CONTAINERS: [&str; 3] = ["spec.containers", "spec.initContainers", "spec.ephemeralContainers"];

/// (volume field, field in it that names a secret).
const SECRET_VOLUMES: &[(&str, &[&str])] = &[
    ("secret", &["secretName"]),
    ("azureFile", &["secretName"]),
    ("cephfs", &["secretRef", "name"]),
    ("flexVolume", &["secretRef", "name"]),
    ("iscsi", &["secretRef", "name"]),
    ("rbd", &["secretRef", "name"]),
    ("scaleIO", &["secretRef", "name"]),
    ("storageos", &["secretRef", "name"]),
    ("csi", &["nodePublishSecretRef", "name"]),
];

/// Whether the pod refers to the object of that kind and name in its own namespace.
pub(crate) fn refers(pod: &Object, kind: Kind, name: &str) -> bool {
    let mut found = false;
    visit(pod, &mut |of, is| found |= of == kind && is == name);
    found
}

/// Whether the pod refers to anything at all, its service account included.
pub(crate) fn refers_to_something(pod: &Object) -> Option<Kind> {
    let mut first = None;
    visit(pod, &mut |kind, _| first = first.or(Some(kind)));
    first
}

/// Names of the claims of the pod, generic ephemeral volumes included.
pub(crate) fn claims(pod: &Object) -> Vec<String> {
    let mut claims = Vec::new();
    visit(pod, &mut |kind, name| {
        if kind == Kind::Claim {
            claims.push(name.to_owned());
        }
    });
    claims
}

fn visit(pod: &Object, found: &mut dyn FnMut(Kind, &str)) {
    let mut named = |kind: Kind, name: &str| {
        if !name.is_empty() {
            found(kind, name);
        }
    };
    named(Kind::ServiceAccount, pod.str_at("spec.serviceAccountName"));
    for secret in pod.list_at("spec.imagePullSecrets") {
        named(Kind::Secret, text(secret, &["name"]));
    }
    for container in CONTAINERS.iter().flat_map(|path| pod.list_at(path)) {
        visit_container(container, &mut named);
    }
    for volume in pod.list_at("spec.volumes") {
        visit_volume(pod.name(), volume, &mut named);
    }
    for claim in pod.list_at("status.resourceClaimStatuses") {
        named(Kind::ResourceClaim, text(claim, &["resourceClaimName"]));
    }
    for claim in pod.list_at("spec.resourceClaims") {
        named(Kind::ResourceClaim, text(claim, &["resourceClaimName"]));
    }
}

fn visit_container(container: &Value, named: &mut dyn FnMut(Kind, &str)) {
    for source in list(container, "envFrom") {
        named(Kind::Secret, text(source, &["secretRef", "name"]));
        named(Kind::ConfigMap, text(source, &["configMapRef", "name"]));
    }
    for variable in list(container, "env") {
        named(Kind::Secret, text(variable, &["valueFrom", "secretKeyRef", "name"]));
        named(Kind::ConfigMap, text(variable, &["valueFrom", "configMapKeyRef", "name"]));
    }
}

fn visit_volume(pod: &str, volume: &Value, named: &mut dyn FnMut(Kind, &str)) {
    for (kind, path) in SECRET_VOLUMES {
        if let Some(source) = volume.get(kind) {
            named(Kind::Secret, text(source, path));
        }
    }
    named(Kind::ConfigMap, text(volume, &["configMap", "name"]));
    named(Kind::Claim, text(volume, &["persistentVolumeClaim", "claimName"]));
    if volume.get("ephemeral").is_some_and(|source| !source.is_null()) {
        named(Kind::Claim, &format!("{pod}-{}", text(volume, &["name"])));
    }
    for source in volume.get("projected").map_or(&[][..], |projected| list(projected, "sources")) {
        named(Kind::Secret, text(source, &["secret", "name"]));
        named(Kind::ConfigMap, text(source, &["configMap", "name"]));
    }
}

fn list<'a>(value: &'a Value, field: &str) -> &'a [Value] {
    value.get(field).and_then(Value::as_array).map_or(&[], Vec::as_slice)
}

fn text<'a>(value: &'a Value, path: &[&str]) -> &'a str {
    path.iter().try_fold(value, |value, field| value.get(field)).and_then(Value::as_str).unwrap_or_default()
}

/// Names of the secrets a PersistentVolume refers to in the claim's namespace or its own.
pub(crate) fn volume_secrets(volume: &Object) -> Vec<(String, String)> {
    const REFS: [&str; 5] = [
        "controllerPublishSecretRef",
        "nodePublishSecretRef",
        "nodeStageSecretRef",
        "controllerExpandSecretRef",
        "nodeExpandSecretRef",
    ];
    let Some(csi) = volume.get("spec.csi") else { return Vec::new() };
    let read = |field: &&str| {
        let secret = csi.get(*field)?;
        Some((text(secret, &["namespace"]).to_owned(), text(secret, &["name"]).to_owned()))
    };
    REFS.iter().filter_map(read).collect()
}
