//! The Node authorizer: a node may read what pods bound to it need, and write its own Node, Lease and CSINode.
//!
//! The graph node → pod → object is not kept but walked: a question names one object, and only pods of that
//! object's namespace can lead to it. What a node may do at all is [`NODE`]; what it may *write into*
//! its objects is admission's (`admission/node_restriction.rs`).

use std::sync::Arc;

use api::Object;

use super::refs::{self, Kind};
use super::{Ask, Decision};
use crate::authn::UserInfo;
use crate::bootstrap::{cluster_roles::NODE, policy::RuleRow};
use crate::server::Server;

/// What the authorizer reads; the watch cache, or a test's objects.
pub(crate) trait View {
    /// An object of the group "" or storage.k8s.io.
    fn get(&self, group: &str, plural: &str, namespace: &str, name: &str) -> Option<Arc<Object>>;
    /// Pods of a namespace; of all when it is empty.
    fn pods(&self, namespace: &str) -> Vec<Arc<Object>>;
}

/// The watch cache as it is now.
pub(crate) struct Cached<'a>(pub(crate) &'a Server);

impl View for Cached<'_> {
    fn get(&self, group: &str, plural: &str, namespace: &str, name: &str) -> Option<Arc<Object>> {
        self.0.cached_get(&self.0.resource(group, plural), namespace, name)
    }

    fn pods(&self, namespace: &str) -> Vec<Arc<Object>> {
        let namespace = (!namespace.is_empty()).then_some(namespace);
        self.0.cached_list(&self.0.resource("", "pods"), namespace)
    }
}

fn no(reason: impl Into<String>) -> Decision {
    Decision::NoOpinion(reason.into())
}

/// Decides for nodes; has no opinion about anybody else.
pub(crate) fn authorize(view: &dyn View, user: &UserInfo, ask: &Ask<'_>) -> Decision {
    let Some(node) = user.node() else { return no("") };
    if node.is_empty() {
        return no(format!("unknown node for user {:?}", user.name));
    }
    if !ask.is_resource {
        return by_rules(ask);
    }
    match (ask.group, ask.resource) {
        ("", "secrets" | "configmaps") => read_object(view, node, ask, &["get", "list", "watch"]),
        ("", "persistentvolumeclaims") if ask.subresource == "status" => claim_status(view, node, ask),
        ("", "persistentvolumeclaims" | "persistentvolumes") => read_object(view, node, ask, &["get"]),
        ("storage.k8s.io", "volumeattachments") => read_object(view, node, ask, &["get"]),
        ("resource.k8s.io", "resourceclaims") => read_object(view, node, ask, &["get"]),
        ("resource.k8s.io", "resourceslices") => resource_slice(node, ask),
        ("", "serviceaccounts") => account(view, node, ask),
        ("coordination.k8s.io", "leases") => lease(node, ask),
        ("storage.k8s.io", "csinodes") => csi_node(node, ask),
        ("", "nodes") => own_node(node, ask),
        ("", "pods") => pod(view, node, ask),
        _ => by_rules(ask),
    }
}

fn by_rules(ask: &Ask<'_>) -> Decision {
    let allows = |row: &RuleRow| {
        let has = |list: &[&str], wanted: &str| list.contains(&wanted);
        let resource = match ask.subresource {
            "" => ask.resource.to_owned(),
            subresource => format!("{}/{subresource}", ask.resource),
        };
        ask.is_resource
            && has(row.verbs, ask.verb)
            && has(row.groups, ask.group)
            && has(row.resources, &resource)
    };
    if NODE.iter().any(allows) { Decision::Allow } else { no("") }
}

fn read_object(view: &dyn View, node: &str, ask: &Ask<'_>, verbs: &[&str]) -> Decision {
    if !verbs.contains(&ask.verb) {
        return no(match verbs {
            ["get"] => "can only get individual resources of this type",
            _ => "can only read resources of this type",
        });
    }
    if !ask.subresource.is_empty() {
        return no("cannot read subresource");
    }
    if ask.name.is_empty() {
        return no("No Object name found");
    }
    if reaches(view, node, ask) { Decision::Allow } else { unrelated(node) }
}

fn unrelated(node: &str) -> Decision {
    no(format!("no relationship found between node '{node}' and this object"))
}

fn reaches(view: &dyn View, node: &str, ask: &Ask<'_>) -> bool {
    match ask.resource {
        "secrets" => {
            pod_refers(view, node, ask.namespace, Kind::Secret, ask.name)
                || volume_refers(view, node, ask.namespace, ask.name)
        }
        "configmaps" => {
            pod_refers(view, node, ask.namespace, Kind::ConfigMap, ask.name)
                || config_source(view, node, ask.namespace, ask.name)
        }
        "persistentvolumeclaims" => pod_refers(view, node, ask.namespace, Kind::Claim, ask.name),
        "persistentvolumes" => volume_reaches(view, node, ask.name),
        "resourceclaims" => pod_refers(view, node, ask.namespace, Kind::ResourceClaim, ask.name),
        "volumeattachments" => view
            .get("storage.k8s.io", "volumeattachments", "", ask.name)
            .is_some_and(|attachment| attachment.str_at("spec.nodeName") == node),
        _ => false,
    }
}

/// Pods bound to the node whose references count: a mirror pod's do not, the node made it up itself.
fn bound<'a>(view: &dyn View, node: &'a str, namespace: &str) -> impl Iterator<Item = Arc<Object>> + use<'a> {
    let on_node = move |pod: &Arc<Object>| {
        pod.str_at("spec.nodeName") == node && pod.annotation("kubernetes.io/config.mirror").is_none()
    };
    view.pods(namespace).into_iter().filter(on_node)
}

fn pod_refers(view: &dyn View, node: &str, namespace: &str, kind: Kind, name: &str) -> bool {
    !namespace.is_empty() && bound(view, node, namespace).any(|pod| refs::refers(&pod, kind, name))
}

fn volume_reaches(view: &dyn View, node: &str, volume: &str) -> bool {
    let Some(volume) = view.get("", "persistentvolumes", "", volume) else { return false };
    let (namespace, claim) = (volume.str_at("spec.claimRef.namespace"), volume.str_at("spec.claimRef.name"));
    !claim.is_empty() && pod_refers(view, node, namespace, Kind::Claim, claim)
}

/// Secrets that the volumes of the node's pods need.
fn volume_refers(view: &dyn View, node: &str, namespace: &str, secret: &str) -> bool {
    bound(view, node, "").any(|pod| {
        refs::claims(&pod).iter().any(|claim| {
            let claim = view.get("", "persistentvolumeclaims", pod.namespace(), claim);
            let volume =
                claim.and_then(|c| view.get("", "persistentvolumes", "", c.str_at("spec.volumeName")));
            volume.is_some_and(|v| {
                refs::volume_secrets(&v).iter().any(|(ns, name)| ns == namespace && name == secret)
            })
        })
    })
}

fn config_source(view: &dyn View, node: &str, namespace: &str, name: &str) -> bool {
    let source = "spec.configSource.configMap";
    view.get("", "nodes", "", node).is_some_and(|node| {
        node.str_at(&format!("{source}.name")) == name
            && node.str_at(&format!("{source}.namespace")) == namespace
    })
}

fn claim_status(view: &dyn View, node: &str, ask: &Ask<'_>) -> Decision {
    match ask.verb {
        "get" | "update" | "patch" if pod_refers(view, node, ask.namespace, Kind::Claim, ask.name) => {
            Decision::Allow
        }
        "get" | "update" | "patch" => unrelated(node),
        _ => no("can only get/update/patch this type"),
    }
}

fn account(view: &dyn View, node: &str, ask: &Ask<'_>) -> Decision {
    let wanted = (ask.verb, ask.subresource);
    if wanted != ("create", "token") && wanted != ("get", "") {
        return no("can only create tokens for individual service accounts");
    }
    if ask.name.is_empty() {
        return no("No Object name found");
    }
    match pod_refers(view, node, ask.namespace, Kind::ServiceAccount, ask.name) {
        true => Decision::Allow,
        false => unrelated(node),
    }
}

fn lease(node: &str, ask: &Ask<'_>) -> Decision {
    match ask.verb {
        "get" | "create" | "update" | "patch" | "delete" => {}
        _ => return no("can only get, create, update, patch, or delete a node lease"),
    }
    if ask.namespace != "kube-node-lease" {
        return no("can only access leases in the \"kube-node-lease\" system namespace");
    }
    // The name of a new lease is in its body: NodeRestriction looks at it.
    if ask.verb != "create" && ask.name != node {
        return no("can only access node lease with the same name as the requesting node");
    }
    Decision::Allow
}

fn csi_node(node: &str, ask: &Ask<'_>) -> Decision {
    match ask.verb {
        "get" | "create" | "update" | "patch" | "delete" => {}
        _ => return no("can only get, create, update, patch, or delete a CSINode"),
    }
    if !ask.subresource.is_empty() {
        return no("cannot authorize CSINode subresources");
    }
    if ask.verb != "create" && ask.name != node {
        return no("can only access CSINode with the same name as the requesting node");
    }
    Decision::Allow
}

fn resource_slice(node: &str, ask: &Ask<'_>) -> Decision {
    if !ask.subresource.is_empty() {
        return no("cannot authorize ResourceSlice subresources");
    }
    match ask.verb {
        "get" | "create" | "update" | "patch" | "delete" => Decision::Allow,
        "list" | "watch" | "deletecollection" if ask.selects("spec.nodeName") == Some(node) => {
            Decision::Allow
        }
        "list" | "watch" | "deletecollection" => {
            no("can only list/watch/deletecollection resourceslices with spec.nodeName field selector")
        }
        _ => no(
            "only the following verbs are allowed for a ResourceSlice: [get watch list create update patch delete deletecollection]",
        ),
    }
}

fn own_node(node: &str, ask: &Ask<'_>) -> Decision {
    match (ask.verb, ask.subresource) {
        ("create", "") => Decision::Allow,
        ("get" | "list" | "watch", "") if ask.name == node => Decision::Allow,
        ("get" | "list" | "watch", "") if ask.name.is_empty() => {
            no(format!("node '{node}' cannot read all nodes, only its own Node object"))
        }
        ("get" | "list" | "watch", "") => {
            no(format!("node '{node}' cannot read '{}', only its own Node object", ask.name))
        }
        ("update" | "patch", "" | "status") if ask.name == node => Decision::Allow,
        ("update" | "patch", "" | "status") => {
            no(format!("node '{node}' cannot {} '{}', only its own Node object", ask.verb, ask.name))
        }
        _ => no(""),
    }
}

fn pod(view: &dyn View, node: &str, ask: &Ask<'_>) -> Decision {
    if ask.subresource == "status" || ask.subresource == "eviction" {
        // NodeRestriction limits these to pods bound to the node.
        return by_rules(ask);
    }
    if !ask.subresource.is_empty() {
        return no("");
    }
    match ask.verb {
        "get" => match view.get("", "pods", ask.namespace, ask.name) {
            Some(pod) if pod.str_at("spec.nodeName") == node => Decision::Allow,
            _ => unrelated(node),
        },
        "list" | "watch" => {
            let own = ask.selects("spec.nodeName") == Some(node);
            let named = !ask.name.is_empty()
                && view
                    .get("", "pods", ask.namespace, ask.name)
                    .is_some_and(|pod| pod.str_at("spec.nodeName") == node);
            match own || named {
                true => Decision::Allow,
                false => no("can only list/watch pods with spec.nodeName field selector"),
            }
        }
        _ => by_rules(ask),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    struct Objects(Vec<(&'static str, Arc<Object>)>);

    impl View for Objects {
        fn get(&self, _: &str, plural: &str, namespace: &str, name: &str) -> Option<Arc<Object>> {
            let fits = |(kind, o): &&(&str, Arc<Object>)| {
                *kind == plural && o.namespace() == namespace && o.name() == name
            };
            self.0.iter().find(fits).map(|(_, object)| object.clone())
        }

        fn pods(&self, namespace: &str) -> Vec<Arc<Object>> {
            let fits = |o: &&(&str, Arc<Object>)| {
                o.0 == "pods" && (namespace.is_empty() || o.1.namespace() == namespace)
            };
            self.0.iter().filter(fits).map(|(_, object)| object.clone()).collect()
        }
    }

    fn object(value: Value) -> Arc<Object> {
        Arc::new(Object(value.as_object().unwrap().clone()))
    }

    fn pod(name: &str, node: &str, rest: Value) -> (&'static str, Arc<Object>) {
        let mut pod = json!({"metadata": {"name": name, "namespace": "a"}, "spec": rest});
        pod["spec"]["nodeName"] = json!(node);
        ("pods", object(pod))
    }

    fn world() -> Objects {
        let mut mirror = pod("static-w1", "w1", json!({"volumes": [{"secret": {"secretName": "stolen"}}]})).1;
        Arc::make_mut(&mut mirror).set_annotation("kubernetes.io/config.mirror", "x");
        Objects(vec![
            pod(
                "p1",
                "w1",
                json!({
                    "serviceAccountName": "sa1",
                    "imagePullSecrets": [{"name": "pull"}],
                    "containers": [{
                        "env": [{"valueFrom": {"secretKeyRef": {"name": "env-secret"}}}],
                        "envFrom": [{"configMapRef": {"name": "env-map"}}],
                    }],
                    "initContainers": [{"envFrom": [{"secretRef": {"name": "init-secret"}}]}],
                    "volumes": [
                        {"name": "v", "secret": {"secretName": "vol-secret"}},
                        {"name": "c", "configMap": {"name": "vol-map"}},
                        {"name": "d", "persistentVolumeClaim": {"claimName": "claim"}},
                        {"name": "e", "ephemeral": {}},
                        {"name": "p", "projected": {"sources": [{"secret": {"name": "proj-secret"}}, {"configMap": {"name": "kube-root-ca.crt"}}]}},
                    ],
                }),
            ),
            pod(
                "p2",
                "w2",
                json!({"volumes": [{"secret": {"secretName": "other"}}], "serviceAccountName": "sa2"}),
            ),
            ("pods", mirror),
            (
                "persistentvolumeclaims",
                object(
                    json!({"metadata": {"name": "claim", "namespace": "a"}, "spec": {"volumeName": "pv1"}}),
                ),
            ),
            (
                "persistentvolumes",
                object(json!({"metadata": {"name": "pv1"}, "spec": {
                    "claimRef": {"namespace": "a", "name": "claim"},
                    "csi": {"nodeStageSecretRef": {"namespace": "storage", "name": "csi-secret"}},
                }})),
            ),
            ("volumeattachments", object(json!({"metadata": {"name": "va1"}, "spec": {"nodeName": "w1"}}))),
        ])
    }

    /// `VERB GROUP:RESOURCE[/SUB] [NAMESPACE/]NAME`, name `-` for none, and an optional field selector.
    fn check(line: &str, expect: bool) {
        let words: Vec<&str> = line.split(' ').collect();
        let (group, resource) = words[1].split_once(':').unwrap_or(("", words[1]));
        let (resource, subresource) = resource.split_once('/').unwrap_or((resource, ""));
        let (namespace, name) = words[2].split_once('/').unwrap_or(("", words[2]));
        let ask = Ask {
            subresource,
            namespace,
            name: if name == "-" { "" } else { name },
            field_selector: words.get(3).copied().unwrap_or_default(),
            ..Ask::resource(words[0], group, resource)
        };
        let user = UserInfo::authenticated("system:node:w1", vec!["system:nodes".into()]);
        let decision = authorize(&world(), &user, &ask);
        assert_eq!(decision == Decision::Allow, expect, "{line}: {decision:?}");
    }

    #[test]
    fn what_a_node_may_read() {
        for secret in ["pull", "env-secret", "init-secret", "vol-secret", "proj-secret"] {
            check(&format!("get secrets a/{secret}"), true);
            check(&format!("watch secrets a/{secret}"), true);
            check(&format!("get secrets b/{secret}"), false);
            check(&format!("update secrets a/{secret}"), false);
        }
        check("get secrets a/other", false);
        check("get secrets a/stolen", false);
        check("list secrets a/-", false);
        check("get secrets storage/csi-secret", true);
        check("get configmaps a/env-map", true);
        check("get configmaps a/vol-map", true);
        check("list configmaps a/kube-root-ca.crt", true);
        check("get configmaps a/nope", false);
        check("get persistentvolumeclaims a/claim", true);
        check("get persistentvolumeclaims a/p1-e", true);
        check("list persistentvolumeclaims a/claim", false);
        check("patch persistentvolumeclaims/status a/claim", true);
        check("get persistentvolumes pv1", true);
        check("get persistentvolumes pv2", false);
        check("get storage.k8s.io:volumeattachments va1", true);
        check("get pods a/p1", true);
        check("get pods a/p2", false);
        check("list pods -", false);
        check("watch pods - spec.nodeName=w1", true);
        check("watch pods - spec.nodeName=w2", false);
        check("get nodes w1", true);
        check("get nodes w2", false);
        check("list nodes -", false);
        check("list services -", true);
        check("list node.k8s.io:runtimeclasses -", true);
        check("list apps:deployments -", false);
        check("get pods/exec a/p1", false);
    }

    #[test]
    fn what_a_node_may_write() {
        check("create nodes -", true);
        check("patch nodes/status w1", true);
        check("patch nodes/status w2", false);
        check("update nodes w1", true);
        check("delete nodes w1", false);
        check("patch pods/status a/p1", true);
        check("create pods a/-", true);
        check("delete pods a/p1", true);
        check("update pods a/p1", false);
        check("create pods/eviction a/p1", true);
        check("create pods/binding a/p1", false);
        check("create serviceaccounts/token a/sa1", true);
        check("create serviceaccounts/token a/sa2", false);
        check("create serviceaccounts a/sa1", false);
        check("update coordination.k8s.io:leases kube-node-lease/w1", true);
        check("create coordination.k8s.io:leases kube-node-lease/-", true);
        check("update coordination.k8s.io:leases kube-node-lease/w2", false);
        check("update coordination.k8s.io:leases kube-system/w1", false);
        check("list coordination.k8s.io:leases kube-node-lease/-", false);
        check("create storage.k8s.io:csinodes -", true);
        check("update storage.k8s.io:csinodes w2", false);
        check("create certificates.k8s.io:certificatesigningrequests -", true);
        check("update certificates.k8s.io:certificatesigningrequests/approval x", false);
        check("create authentication.k8s.io:tokenreviews -", true);
        check("create events a/-", true);
    }

    #[test]
    fn others_are_none_of_its_business() {
        let ask = Ask::resource("get", "", "secrets");
        let check = |name: &str, groups: &[&str], expect: &str| {
            let groups = groups.iter().map(|g| (*g).to_owned()).collect();
            let decision = authorize(&world(), &UserInfo::authenticated(name, groups), &ask);
            assert_eq!(decision, no(expect));
        };
        check("bob", &[], "");
        check("system:node:w1", &[], "");
        check("bob", &["system:nodes"], "unknown node for user \"bob\"");
        check("system:node:w1", &["system:nodes"], "No Object name found");
    }
}
