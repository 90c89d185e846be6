//! NodeRestriction: what a node may write into the objects the Node authorizer lets it touch: its own Node
//! without labels and taints that steer pods, its own Lease and CSINode, the status of its own pods, mirror
//! pods that refer to nothing, tokens for pods that run on it.

use std::collections::BTreeSet;

use api::Object;
use api::status::Status;
use serde_json::{Map, Value};

use super::{Operation, Plugin, Review, certificates};
use crate::authz::refs::{self, Kind};

pub(crate) struct NodeRestriction;

/// Labels outside the kubelet's own namespaces that it may set on its Node.
const KUBELET_LABELS: [&str; 10] = [
    "beta.kubernetes.io/arch",
    "beta.kubernetes.io/instance-type",
    "beta.kubernetes.io/os",
    "failure-domain.beta.kubernetes.io/region",
    "failure-domain.beta.kubernetes.io/zone",
    "kubernetes.io/arch",
    "kubernetes.io/hostname",
    "kubernetes.io/os",
    "node.kubernetes.io/instance-type",
    "topology.kubernetes.io/region",
];
const KUBELET_ZONE: &str = "topology.kubernetes.io/zone";
/// Label namespaces that belong to the kubelet.
const KUBELET_NAMESPACES: [&str; 2] = ["kubelet.kubernetes.io", "node.kubernetes.io"];
const RESTRICTED: &str = "node-restriction.kubernetes.io";
const MIRROR: &str = "kubernetes.io/config.mirror";

#[async_trait::async_trait]
impl Plugin for NodeRestriction {
    async fn admit(&self, review: &mut Review<'_>) -> api::Result<()> {
        let Some(node) = review.user.node() else { return Ok(()) };
        if node.is_empty() {
            return Err(
                review.forbidden(format!("could not determine node from user {:?}", review.user.name))
            );
        }
        check(review, node).await
    }
}

async fn check(review: &Review<'_>, node: &str) -> api::Result<()> {
    let decided = match (review.resource.group.as_str(), review.resource.plural.as_str(), review.subresource)
    {
        ("", "pods", "") => pod(review, node),
        ("", "pods", "status") => pod_status(review, node),
        ("", "pods", "eviction") => return eviction(review, node).await,
        ("", "pods", other) => {
            Err(format!("unexpected pod subresource {other:?}, only 'status' and 'eviction' are allowed"))
        }
        ("", "nodes", _) => own_node(review, node),
        ("", "persistentvolumeclaims", "status") => Ok(()),
        ("", "persistentvolumeclaims", _) => Err("may only update PVC status".into()),
        ("", "serviceaccounts", "token") => return token(review, node).await,
        ("coordination.k8s.io", "leases", _) => own_name(review, node, "node lease"),
        ("storage.k8s.io", "csinodes", _) => own_name(review, node, "CSINode"),
        ("resource.k8s.io", "resourceslices", _) => resource_slice(review, node),
        ("certificates.k8s.io", "certificatesigningrequests", "") => signing_request(review, node),
        _ => Ok(()),
    };
    decided.map_err(|reason| review.forbidden(reason))
}

type Decided = Result<(), String>;

fn demand(holds: bool, reason: impl FnOnce() -> String) -> Decided {
    if holds { Ok(()) } else { Err(reason()) }
}

fn runs_on(pod: &Object, node: &str) -> bool {
    pod.str_at("spec.nodeName") == node
}

fn pod(review: &Review<'_>, node: &str) -> Decided {
    match (review.operation, review.object.as_deref()) {
        (Operation::Create, Some(pod)) => mirror_pod(pod, node, &node_uid(review, node)),
        (Operation::Delete, _) => {
            let cached = review.server.cached_get(review.resource, review.namespace, review.name);
            let own = review.old.or(cached.as_deref()).is_none_or(|pod| runs_on(pod, node));
            demand(own, || format!("node {node:?} can only delete pods with spec.nodeName set to itself"))
        }
        (operation, _) => Err(format!(
            "unexpected operation {operation:?}, node {node:?} can only create and delete mirror pods"
        )),
    }
}

fn node_uid(review: &Review<'_>, node: &str) -> String {
    let nodes = review.server.resource("", "nodes");
    review.server.cached_get(&nodes, "", node).map(|node| node.uid().to_owned()).unwrap_or_default()
}

/// A mirror pod shows what a node runs on its own account: it may not give the node access to anything.
fn mirror_pod(pod: &Object, node: &str, node_uid: &str) -> Decided {
    demand(pod.annotation(MIRROR).is_some(), || {
        format!("pod does not have {MIRROR:?} annotation, node {node:?} can only create mirror pods")
    })?;
    demand(runs_on(pod, node), || {
        format!("node {node:?} can only create pods with spec.nodeName set to itself")
    })?;
    let owners: Vec<_> = pod.owner_references().collect();
    demand(owners.len() <= 1, || {
        format!("node {node:?} can only create pods with a single owner reference set to itself")
    })?;
    let own = owners.first().is_some_and(|owner| {
        let text = |field: &str| owner.get(field).and_then(Value::as_str).unwrap_or_default();
        text("apiVersion") == "v1"
            && text("kind") == "Node"
            && text("name") == node
            && text("uid") == node_uid
    });
    demand(own, || format!("node {node:?} can only create pods with an owner reference set to itself"))?;
    let blocks = owners.iter().any(|owner| owner.get("blockOwnerDeletion") == Some(&Value::Bool(true)));
    demand(!blocks, || format!("node {node:?} must not set blockOwnerDeletion on an owner reference"))?;
    match refs::refers_to_something(pod) {
        None => Ok(()),
        Some(kind) => Err(format!("node {node:?} can not create pods that reference {}", named(kind))),
    }
}

fn named(kind: Kind) -> &'static str {
    match kind {
        Kind::Secret => "secrets",
        Kind::ConfigMap => "configmaps",
        Kind::Claim => "persistentvolumeclaims",
        Kind::ServiceAccount => "a service account",
        Kind::ResourceClaim => "resourceclaims",
    }
}

fn pod_status(review: &Review<'_>, node: &str) -> Decided {
    let (Operation::Update, Some(new), Some(old)) = (review.operation, review.object.as_deref(), review.old)
    else {
        return Err(format!("unexpected operation {:?}", review.operation));
    };
    demand(runs_on(old, node), || {
        format!("node {node:?} can only update pod status for pods with spec.nodeName set to itself")
    })?;
    demand(old.labels() == new.labels(), || {
        format!("node {node:?} cannot update labels through pod status")
    })?;
    let claims = "status.resourceClaimStatuses";
    demand(old.get(claims) == new.get(claims), || {
        format!("node {node:?} cannot update resource claim statuses")
    })
}

async fn eviction(review: &Review<'_>, node: &str) -> api::Result<()> {
    let name = review.object_name();
    if name.is_empty() {
        return Err(Status::bad_request("could not determine pod from request data"));
    }
    let pod = find(review, "pods", review.namespace, name).await?;
    match runs_on(&pod, node) {
        true => Ok(()),
        false => {
            Err(review.forbidden(format!("node {node} can only evict pods with spec.nodeName set to itself")))
        }
    }
}

/// From the cache, or from the store when the cache may lag behind.
async fn find(review: &Review<'_>, plural: &str, namespace: &str, name: &str) -> api::Result<Object> {
    let resource = review.server.resource("", plural);
    match review.server.cached_get(&resource, namespace, name) {
        Some(object) => Ok((*object).clone()),
        None => review.server.get(&resource, namespace, name).await,
    }
}

fn own_name(review: &Review<'_>, node: &str, what: &str) -> Decided {
    demand(review.object_name() == node, || {
        format!("can only access {what} with the same name as the requesting node")
    })
}

fn own_node(review: &Review<'_>, node: &str) -> Decided {
    let requested = review.object_name();
    if let Some(new) = review.object.as_deref() {
        match (review.operation, review.old) {
            (Operation::Create, _) => new_node(new)?,
            (Operation::Update, Some(old)) => changed_node(new, old, node)?,
            _ => {}
        }
    }
    demand(requested == node, || format!("node {node:?} is not allowed to modify node {requested:?}"))
}

fn new_node(new: &Object) -> Decided {
    demand(new.get("spec.configSource").is_none_or(Value::is_null), || {
        "is not allowed to create pods with a non-nil configSource".into()
    })?;
    let forbidden = forbidden_labels(&changed_labels(new.labels(), None));
    demand(forbidden.is_empty(), || {
        format!("is not allowed to set the following labels: {}", forbidden.join(", "))
    })
}

fn changed_node(new: &Object, old: &Object, node: &str) -> Decided {
    let same = |path: &str| {
        let empty = |value: &&Value| !value.is_null() && value.as_array().is_none_or(|list| !list.is_empty());
        old.get(path).filter(empty) == new.get(path).filter(empty)
    };
    demand(same("spec.configSource"), || {
        format!("node {node:?} cannot update configSource to a new non-nil configSource")
    })?;
    demand(same("spec.taints"), || format!("node {node:?} is not allowed to modify taints"))?;
    demand(same("metadata.ownerReferences"), || {
        format!("node {node:?} is not allowed to modify ownerReferences")
    })?;
    let forbidden = forbidden_labels(&changed_labels(new.labels(), old.labels()));
    demand(forbidden.is_empty(), || format!("is not allowed to modify labels: {}", forbidden.join(", ")))
}

fn changed_labels(new: Option<&Map<String, Value>>, old: Option<&Map<String, Value>>) -> BTreeSet<String> {
    let get =
        |labels: Option<&Map<String, Value>>, key: &str| labels.and_then(|labels| labels.get(key)).cloned();
    let keys = new.into_iter().chain(old).flat_map(Map::keys);
    keys.filter(|key| get(new, key) != get(old, key)).cloned().collect()
}

/// Labels that a kubelet must not change: they decide where pods run.
fn forbidden_labels(labels: &BTreeSet<String>) -> Vec<String> {
    let within = |namespace: &str, parent: &str| {
        namespace == parent || namespace.strip_suffix(parent).is_some_and(|rest| rest.ends_with('.'))
    };
    let forbidden = |label: &&String| {
        let namespace = label.split_once('/').map_or("", |(namespace, _)| namespace);
        if within(namespace, RESTRICTED) {
            return true;
        }
        let kubernetes = within(namespace, "kubernetes.io") || within(namespace, "k8s.io");
        let own = KUBELET_LABELS.contains(&label.as_str())
            || label.as_str() == KUBELET_ZONE
            || KUBELET_NAMESPACES.iter().any(|own| within(namespace, own));
        kubernetes && !own
    };
    labels.iter().filter(forbidden).cloned().collect()
}

async fn token(review: &Review<'_>, node: &str) -> api::Result<()> {
    let Some(request) = review.object.as_deref() else { return Ok(()) };
    let bound = |field: &str| request.str_at(&format!("spec.boundObjectRef.{field}")).to_owned();
    let to_pod = bound("kind") == "Pod" && bound("apiVersion") == "v1" && !bound("name").is_empty();
    demand(to_pod, || "node requested token not bound to a pod".into()).map_err(|r| review.forbidden(r))?;
    demand(!bound("uid").is_empty(), || "node requested token with a pod binding without a uid".into())
        .map_err(|r| review.forbidden(r))?;
    let pod = find(review, "pods", review.namespace, &bound("name")).await?;
    token_for(&pod, request, node, &bound("uid")).map_err(|reason| review.forbidden(reason))
}

fn token_for(pod: &Object, request: &Object, node: &str, uid: &str) -> Decided {
    demand(pod.uid() == uid, || {
        format!(
            "the UID in the bound object reference ({uid}) does not match the UID in record. The object might have been deleted and then recreated"
        )
    })?;
    demand(runs_on(pod, node), || {
        "node requested token bound to a pod scheduled on a different node".into()
    })?;
    let foreign = request
        .list_at("spec.audiences")
        .iter()
        .filter_map(Value::as_str)
        .find(|audience| !audience.is_empty() && !has_audience(pod, audience));
    match foreign {
        Some(audience) => Err(format!(
            "audience {audience:?} not found in pod spec volume, system:node:{node} is not authorized to request tokens for this audience"
        )),
        None => Ok(()),
    }
}

fn has_audience(pod: &Object, audience: &str) -> bool {
    let sources = |volume: &Value| {
        let list = volume.get("projected").and_then(|p| p.get("sources")).and_then(Value::as_array);
        list.cloned().unwrap_or_default()
    };
    pod.list_at("spec.volumes").iter().flat_map(sources).any(|source| {
        source.get("serviceAccountToken").and_then(|t| t.get("audience")).and_then(Value::as_str)
            == Some(audience)
    })
}

fn resource_slice(review: &Review<'_>, node: &str) -> Decided {
    let own = |slice: &Object| slice.str_at("spec.nodeName") == node;
    match (review.operation, review.object.as_deref(), review.old) {
        (Operation::Create, Some(new), _) => demand(own(new), || {
            "can only create ResourceSlice with the same NodeName as the requesting node".into()
        }),
        (Operation::Delete, _, Some(old)) => demand(own(old), || {
            "can only delete ResourceSlice with the same NodeName as the requesting node".into()
        }),
        _ => Ok(()),
    }
}

/// A node asks for certificates in its own name only.
fn signing_request(review: &Review<'_>, node: &str) -> Decided {
    let Some(request) = review.object.as_deref().filter(|_| review.operation == Operation::Create) else {
        return Ok(());
    };
    let signer = request.str_at("spec.signerName");
    if !matches!(signer, "kubernetes.io/kubelet-serving" | "kubernetes.io/kube-apiserver-client-kubelet") {
        return Ok(());
    }
    let Some((name, _)) = certificates::subject(request) else {
        return Err("unable to parse csr".into());
    };
    demand(name == format!("system:node:{node}"), || {
        format!("can only create a node CSR with CN=system:node:{node}")
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn object(value: Value) -> Object {
        Object(value.as_object().unwrap().clone())
    }

    #[test]
    fn labels() {
        let check = |label: &str, expect: bool| {
            let labels = BTreeSet::from([label.to_owned()]);
            assert_eq!(forbidden_labels(&labels).is_empty(), expect, "{label}");
        };
        check("kubernetes.io/hostname", true);
        check("topology.kubernetes.io/zone", true);
        check("node.kubernetes.io/anything", true);
        check("x.kubelet.kubernetes.io/y", true);
        check("example.com/x", true);
        check("plain", true);
        check("node-role.kubernetes.io/control-plane", false);
        check("node-restriction.kubernetes.io/x", false);
        check("a.node-restriction.kubernetes.io/x", false);
        check("kubernetes.io/other", false);
        check("foo.k8s.io/x", false);
        check("notkubernetes.io/x", true);
    }

    #[test]
    fn nodes_change_only_harmless_things() {
        let old = object(json!({"metadata": {"name": "w1", "labels": {"a": "b"}}, "spec": {"taints": []}}));
        let check = |path: &str, value: Value, expect: Decided| {
            let mut new = old.clone();
            new.set(path, value);
            assert_eq!(changed_node(&new, &old, "w1"), expect);
        };
        check("status.capacity", json!({"cpu": "1"}), Ok(()));
        check("metadata.labels", json!({"a": "c"}), Ok(()));
        check("spec.taints", Value::Null, Ok(()));
        check(
            "spec.taints",
            json!([{"key": "x"}]),
            Err("node \"w1\" is not allowed to modify taints".into()),
        );
        check(
            "metadata.ownerReferences",
            json!([{"name": "x"}]),
            Err("node \"w1\" is not allowed to modify ownerReferences".into()),
        );
        check(
            "metadata.labels",
            json!({"a": "b", "node-role.kubernetes.io/x": ""}),
            Err("is not allowed to modify labels: node-role.kubernetes.io/x".into()),
        );
    }

    #[test]
    fn mirror_pods() {
        let good = json!({
            "metadata": {
                "annotations": {MIRROR: "x"},
                "ownerReferences": [{"apiVersion": "v1", "kind": "Node", "name": "w1", "uid": "u", "controller": true}],
            },
            "spec": {"nodeName": "w1"},
        });
        let check = |path: &str, value: Value, expect: &str| {
            let mut pod = object(good.clone());
            pod.set(path, value);
            let found = mirror_pod(&pod, "w1", "u").err().unwrap_or_default();
            assert!(found.contains(expect) && found.is_empty() == expect.is_empty(), "{found}");
        };
        check("spec.hostNetwork", json!(true), "");
        check("metadata.annotations", json!({}), "can only create mirror pods");
        check("spec.nodeName", json!("w2"), "with spec.nodeName set to itself");
        check("metadata.ownerReferences", json!([]), "owner reference set to itself");
        check("metadata.ownerReferences", json!([{}, {}]), "single owner reference");
        check("spec.serviceAccountName", json!("x"), "reference a service account");
        check("spec.volumes", json!([{"secret": {"secretName": "x"}}]), "reference secrets");
        check("spec.volumes", json!([{"configMap": {"name": "x"}}]), "reference configmaps");
        check(
            "spec.volumes",
            json!([{"persistentVolumeClaim": {"claimName": "x"}}]),
            "persistentvolumeclaims",
        );
    }

    #[test]
    fn tokens_only_for_own_pods() {
        let pod = object(json!({
            "metadata": {"uid": "u"},
            "spec": {"nodeName": "w1", "volumes": [{"projected": {"sources": [{"serviceAccountToken": {"audience": "vault"}}]}}]},
        }));
        let check = |audiences: Value, node: &str, uid: &str, expect: &str| {
            let request = object(json!({"spec": {"audiences": audiences}}));
            let found = token_for(&pod, &request, node, uid).err().unwrap_or_default();
            assert!(found.contains(expect) && found.is_empty() == expect.is_empty(), "{found}");
        };
        check(json!([]), "w1", "u", "");
        check(json!([""]), "w1", "u", "");
        check(json!(["vault"]), "w1", "u", "");
        check(json!(["other"]), "w1", "u", "audience \"other\" not found in pod spec volume");
        check(json!([]), "w2", "u", "scheduled on a different node");
        check(json!([]), "w1", "v", "does not match the UID in record");
    }
}
