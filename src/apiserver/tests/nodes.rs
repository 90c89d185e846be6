//! What a node may do, the certificates it asks for, and the masters behind `default/kubernetes`: through real
//! HTTPS, on the store in memory. The administrator acts as the node by impersonation.

#![allow(
    clippy::unwrap_used,
    clippy::too_many_lines,
    reason = "a test may panic, and tells one story in order"
)]

mod common;

use apiserver::store::{Kv, Op, Txn, memory::Memory};
use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use common::{Api, call};
use rcgen::{CertificateParams, DnType, KeyPair};
use serde_json::{Value, json};
use std::sync::Arc;

const JSON: &str = "application/json";
const MERGE: &str = "application/merge-patch+json";

async fn memory() -> Api {
    Api::start(Arc::new(Memory::new()), &[]).await
}

fn parse(text: &str) -> Value {
    serde_json::from_str(text).unwrap_or_else(|e| panic!("{e}: {text}"))
}

async fn made(api: &Api, path: &str, body: Value) -> Value {
    let (code, text) = api.call("POST", path, JSON, &body.to_string()).await;
    assert_eq!(code, 201, "{path}: {text}");
    parse(&text)
}

/// A request as the node `w1`.
async fn as_node(api: &Api, method: &str, path: &str, content_type: &str, body: &Value) -> (u16, String) {
    let headers = [
        ("impersonate-user", "system:node:w1"),
        ("impersonate-group", "system:nodes"),
        ("content-type", content_type),
    ];
    let body = if body.is_null() { String::new() } else { body.to_string() };
    call(&api.admin, method, path, &headers, &body).await
}

fn object(version: &str, kind: &str, name: &str, rest: Value) -> Value {
    let mut object = json!({"apiVersion": version, "kind": kind, "metadata": {"name": name}});
    object.as_object_mut().unwrap().extend(rest.as_object().unwrap().clone());
    object
}

#[tokio::test]
async fn a_node_is_kept_to_its_own() {
    let api = memory().await;
    made(&api, "/api/v1/nodes", object("v1", "Node", "w2", json!({}))).await;
    let base = "/api/v1/namespaces/default";
    made(&api, &format!("{base}/serviceaccounts"), object("v1", "ServiceAccount", "default", json!({})))
        .await;
    for name in ["mine", "foreign"] {
        made(&api, &format!("{base}/secrets"), object("v1", "Secret", name, json!({}))).await;
    }
    for (name, node) in [("mine", "w1"), ("foreign", "w2")] {
        let spec = json!({"spec": {
            "nodeName": node,
            "containers": [{"name": "c", "image": "i"}],
            "volumes": [{"name": "v", "secret": {"secretName": name}}],
        }});
        made(&api, &format!("{base}/pods"), object("v1", "Pod", name, spec)).await;
    }
    let check = async |method: &str, path: &str, content: &str, body: Value, code: u16, part: &str| {
        let (got, text) = as_node(&api, method, path, content, &body).await;
        assert!(got == code && text.contains(part), "{method} {path}: {got} {text}");
    };
    let own = || object("v1", "Node", "w1", json!({}));
    check("POST", "/api/v1/nodes", JSON, own(), 201, "node.kubernetes.io/not-ready").await;
    check(
        "POST",
        "/api/v1/nodes",
        JSON,
        object("v1", "Node", "w3", json!({})),
        403,
        "is not allowed to modify node \\\"w3\\\"",
    )
    .await;
    let label = |key: &str| json!({"metadata": {"labels": {key: "x"}}});
    check("PATCH", "/api/v1/nodes/w1", MERGE, label("kubernetes.io/hostname"), 200, "").await;
    check(
        "PATCH",
        "/api/v1/nodes/w1",
        MERGE,
        label("node-role.kubernetes.io/x"),
        403,
        "is not allowed to modify labels",
    )
    .await;
    check(
        "PATCH",
        "/api/v1/nodes/w1",
        MERGE,
        json!({"spec": {"taints": []}}),
        403,
        "is not allowed to modify taints",
    )
    .await;
    check("PATCH", "/api/v1/nodes/w2", MERGE, label("a"), 403, "only its own Node object").await;
    check("GET", &format!("{base}/secrets/mine"), JSON, Value::Null, 200, "mine").await;
    check(
        "GET",
        &format!("{base}/secrets/foreign"),
        JSON,
        Value::Null,
        403,
        "no relationship found between node 'w1' and this object",
    )
    .await;
    check("GET", &format!("{base}/secrets"), JSON, Value::Null, 403, "No Object name found").await;
    check(
        "GET",
        "/api/v1/pods",
        JSON,
        Value::Null,
        403,
        "can only list/watch pods with spec.nodeName field selector",
    )
    .await;
    check("GET", "/api/v1/pods?fieldSelector=spec.nodeName%3Dw1", JSON, Value::Null, 200, "mine").await;
    check("GET", "/api/v1/pods?fieldSelector=spec.nodeName%3Dw2", JSON, Value::Null, 403, "").await;
    let ready = json!({"status": {"phase": "Running"}});
    check("PATCH", &format!("{base}/pods/mine/status"), MERGE, ready.clone(), 200, "Running").await;
    check(
        "PATCH",
        &format!("{base}/pods/foreign/status"),
        MERGE,
        ready,
        403,
        "can only update pod status for pods with spec.nodeName set to itself",
    )
    .await;
    check("DELETE", &format!("{base}/pods/foreign"), JSON, Value::Null, 403, "can only delete pods").await;
    let lease = |name: &str| {
        object("coordination.k8s.io/v1", "Lease", name, json!({"spec": {"holderIdentity": name}}))
    };
    let leases = "/apis/coordination.k8s.io/v1/namespaces/kube-node-lease/leases";
    check("POST", leases, JSON, lease("w1"), 201, "").await;
    check("POST", leases, JSON, lease("w2"), 403, "same name as the requesting node").await;
    let elections = "/apis/coordination.k8s.io/v1/namespaces/kube-system/leases";
    check("POST", elections, JSON, lease("w1"), 403, "kube-node-lease").await;
    let pod = parse(&as_node(&api, "GET", &format!("{base}/pods/mine"), JSON, &Value::Null).await.1);
    let token = |name: &str, uid: &Value| {
        json!({
            "apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest",
            "spec": {"boundObjectRef": {"apiVersion": "v1", "kind": "Pod", "name": name, "uid": uid}},
        })
    };
    let tokens = format!("{base}/serviceaccounts/default/token");
    check("POST", &tokens, JSON, token("mine", &pod["metadata"]["uid"]), 201, "expirationTimestamp").await;
    check("POST", &tokens, JSON, token("foreign", &json!("x")), 403, "does not match the UID in record")
        .await;
    let unbound = json!({"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": {}});
    check("POST", &tokens, JSON, unbound, 403, "not bound to a pod").await;
    check("POST", "/api/v1/nodes/w2/proxy/run", JSON, Value::Null, 403, "").await;
    api.stop().await;
}

fn request(name: &str, organization: &str, signer: &str) -> Value {
    let mut params = CertificateParams::default();
    params.distinguished_name.push(DnType::CommonName, name);
    params.distinguished_name.push(DnType::OrganizationName, organization);
    let pem = params.serialize_request(&KeyPair::generate().unwrap()).unwrap().pem().unwrap();
    json!({
        "apiVersion": "certificates.k8s.io/v1", "kind": "CertificateSigningRequest",
        "metadata": {"generateName": "csr-"},
        "spec": {
            "request": BASE64_STANDARD.encode(pem), "signerName": signer, "username": "system:admin",
            "groups": ["system:masters"], "usages": ["digital signature", "client auth"],
        },
    })
}

#[tokio::test]
async fn certificates_are_asked_for_in_ones_own_name() {
    let api = memory().await;
    let path = "/apis/certificates.k8s.io/v1/certificatesigningrequests";
    let signer = "kubernetes.io/kube-apiserver-client-kubelet";
    let own = request("system:node:w1", "system:nodes", signer);
    let (code, text) = as_node(&api, "POST", path, JSON, &own).await;
    assert_eq!(code, 201, "{text}");
    let csr = parse(&text);
    assert_eq!(csr["spec"]["username"], "system:node:w1");
    assert!(!csr["spec"]["groups"].as_array().unwrap().contains(&json!("system:masters")));
    let foreign = request("system:node:w2", "system:nodes", signer);
    let (code, text) = as_node(&api, "POST", path, JSON, &foreign).await;
    assert!(code == 403 && text.contains("can only create a node CSR with CN=system:node:w1"), "{text}");
    let root = request("eve", "system:masters", "kubernetes.io/kube-apiserver-client");
    let (code, text) = api.call("POST", path, JSON, &root.to_string()).await;
    assert!(code == 403 && text.contains("with system:masters group is not allowed"), "{text}");

    let mut approved = csr.clone();
    approved["status"] =
        json!({"conditions": [{"type": "Approved", "status": "True", "reason": "x", "message": "y"}]});
    approved["spec"]["username"] = json!("eve");
    let approval = format!("{path}/{}/approval", csr["metadata"]["name"].as_str().unwrap());
    let bind = object(
        "rbac.authorization.k8s.io/v1",
        "ClusterRole",
        "approver",
        json!({"rules": [
            {"apiGroups": ["certificates.k8s.io"], "resources": ["certificatesigningrequests/approval"], "verbs": ["update"]},
        ]}),
    );
    made(&api, "/apis/rbac.authorization.k8s.io/v1/clusterroles", bind).await;
    let bind = object(
        "rbac.authorization.k8s.io/v1",
        "ClusterRoleBinding",
        "approver",
        json!({
            "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "approver"},
            "subjects": [{"apiGroup": "rbac.authorization.k8s.io", "kind": "User", "name": "jane"}],
        }),
    );
    made(&api, "/apis/rbac.authorization.k8s.io/v1/clusterrolebindings", bind).await;
    let jane = api.client("jane");
    let put = async || call(&jane, "PUT", &approval, &[("content-type", JSON)], &approved.to_string()).await;
    until(async || put().await.1.contains("user not permitted to approve requests with signerName")).await;
    let (code, text) = api.call("PUT", &approval, JSON, &approved.to_string()).await;
    assert_eq!(code, 200, "{text}");
    assert_eq!(parse(&text)["spec"]["username"], "system:node:w1", "who asked stays");
    api.stop().await;
}

#[tokio::test]
async fn dead_masters_leave_the_endpoints() {
    let kv = Arc::new(Memory::new());
    let one = Api::start(kv.clone(), &[]).await;
    // Another one that never renews its lease of one second.
    let lease = kv.lease_grant(1).await.unwrap();
    let key = "/registry/masterleases/10.90.0.13".to_owned();
    let put = Op::Put { key, value: "{}".into(), lease };
    kv.txn(Txn { then: vec![put], ..Txn::default() }).await.unwrap();
    let addresses = async || {
        let path = "/api/v1/namespaces/default/endpoints/kubernetes";
        let (_, text) = call(&one.admin, "GET", path, &[], "").await;
        let found = parse(&text)["subsets"][0]["addresses"].as_array().cloned().unwrap_or_default();
        found.iter().map(|a| a["ip"].as_str().unwrap().to_owned()).collect::<Vec<_>>().join(" ")
    };
    until(async || addresses().await == "10.90.0.11 10.90.0.13").await;
    until(async || addresses().await == "10.90.0.11").await;
    one.stop().await;
}

/// Waits until it holds, at most ten seconds.
async fn until(holds: impl AsyncFn() -> bool) {
    let begun = std::time::Instant::now();
    while !holds().await {
        assert!(begun.elapsed().as_secs() < 10, "not in time");
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }
}
