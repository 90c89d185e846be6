//! Who may do what, through real HTTPS, on the store in memory.

#![allow(clippy::unwrap_used)]

mod common;

use apiserver::store::memory::Memory;
use base64::Engine;
use base64::prelude::{BASE64_STANDARD, BASE64_URL_SAFE_NO_PAD};
use common::{Api, call, nobody};
use kube::Client;
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::sync::Arc;

const JSON: &str = "application/json";

async fn memory() -> Api {
    Api::start(Arc::new(Memory::new()), &[]).await
}

fn parse(text: &str) -> Value {
    serde_json::from_str(text).unwrap_or_else(|e| panic!("{e}: {text}"))
}

async fn get(client: &Client, path: &str, token: Option<&str>) -> (u16, String) {
    let bearer = token.map(|token| format!("Bearer {token}"));
    let headers: Vec<(&str, &str)> = bearer.iter().map(|value| ("authorization", value.as_str())).collect();
    call(client, "GET", path, &headers, "").await
}

async fn post(api: &Api, path: &str, body: Value) -> (u16, Value) {
    let (code, text) = api.call("POST", path, JSON, &body.to_string()).await;
    (code, parse(&text))
}

async fn account(api: &Api, name: &str) {
    let body = json!({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": name}});
    let (code, answer) = post(api, "/api/v1/namespaces/default/serviceaccounts", body).await;
    assert_eq!(code, 201, "{answer}");
}

async fn token(api: &Api, name: &str, spec: Value) -> (u16, Value) {
    let path = format!("/api/v1/namespaces/default/serviceaccounts/{name}/token");
    post(api, &path, json!({"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": spec}))
        .await
}

#[tokio::test]
async fn anonymous_sees_health_and_nothing_else() {
    let api = memory().await;
    let nobody = nobody(&api);
    for (path, code) in [
        ("/healthz", 200),
        ("/livez", 200),
        ("/readyz", 200),
        ("/version", 200),
        ("/metrics", 403),
        ("/api", 403),
        ("/openapi/v2", 403),
        ("/api/v1/secrets", 403),
    ] {
        let (got, text) = get(&nobody, path, None).await;
        assert_eq!(got, code, "{path}: {text}");
    }
    let (_, text) = get(&nobody, "/api/v1/secrets", None).await;
    assert_eq!(
        parse(&text)["message"],
        "secrets is forbidden: User \"system:anonymous\" cannot list resource \"secrets\" in API group \"\" at the cluster scope"
    );
    for header in ["Bearer x.y.z", "Basic YTpi", "Bearer ", "Bearer  x"] {
        let (code, text) = call(&nobody, "GET", "/healthz", &[("authorization", header)], "").await;
        assert_eq!((code, parse(&text)["message"].clone()), (401, json!("Unauthorized")), "{header}");
    }
    let faked = [("x-remote-user", "root"), ("x-remote-group", "system:masters")];
    let (code, _) = call(&nobody, "GET", "/api/v1/secrets", &faked, "").await;
    assert_eq!(code, 403);
    api.stop().await;
}

#[tokio::test]
async fn tokens_of_service_accounts() {
    let api = memory().await;
    let nobody = nobody(&api);
    account(&api, "sam").await;
    let (code, short) = token(&api, "sam", json!({"expirationSeconds": 60})).await;
    assert_eq!(code, 422);
    assert!(short["message"].as_str().unwrap().contains("may not specify a duration less than 10 minutes"));
    let (code, made) = token(&api, "sam", json!({})).await;
    assert_eq!(code, 201, "{made}");
    let bearer = made["status"]["token"].as_str().unwrap().to_owned();
    let (code, text) = get(&nobody, "/api/v1/namespaces/default/pods", Some(&bearer)).await;
    assert_eq!(code, 403, "{text}");
    assert!(text.contains("system:serviceaccount:default:sam"), "{text}");
    let grant = json!({
        "apiVersion": "rbac.authorization.k8s.io/v1", "kind": "RoleBinding", "metadata": {"name": "sam"},
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "view"},
        "subjects": [{"kind": "ServiceAccount", "name": "sam", "namespace": "default"}],
    });
    let (code, answer) =
        post(&api, "/apis/rbac.authorization.k8s.io/v1/namespaces/default/rolebindings", grant).await;
    assert_eq!(code, 201, "{answer}");
    until(async || get(&nobody, "/api/v1/namespaces/default/pods", Some(&bearer)).await.0 == 200).await;
    let (code, _) = get(&nobody, "/api/v1/namespaces/default/secrets", Some(&bearer)).await;
    assert_eq!(code, 403, "view does not read secrets");

    let review =
        json!({"apiVersion": "authentication.k8s.io/v1", "kind": "TokenReview", "spec": {"token": bearer}});
    let (code, answer) = post(&api, "/apis/authentication.k8s.io/v1/tokenreviews", review).await;
    assert_eq!((code, &answer["status"]["authenticated"]), (201, &json!(true)), "{answer}");
    assert_eq!(answer["status"]["user"]["username"], "system:serviceaccount:default:sam");
    let (_, other) = token(&api, "sam", json!({"audiences": ["vault"]})).await;
    let other = other["status"]["token"].as_str().unwrap();
    assert_eq!(get(&nobody, "/version", Some(other)).await.0, 401, "a token for another audience");
    let none = format!(
        "{}.{}.",
        BASE64_URL_SAFE_NO_PAD.encode(r#"{"alg":"none"}"#),
        bearer.split('.').nth(1).unwrap()
    );
    assert_eq!(get(&nobody, "/version", Some(&none)).await.0, 401);

    let (code, _) = api.call("DELETE", "/api/v1/namespaces/default/serviceaccounts/sam", JSON, "").await;
    assert_eq!(code, 200);
    until(async || get(&nobody, "/version", Some(&bearer)).await.0 == 401).await;
    api.stop().await;
}

#[tokio::test]
async fn tokens_bound_to_pods_end_with_them() {
    let api = memory().await;
    let nobody = nobody(&api);
    account(&api, "sam").await;
    let pods = "/api/v1/namespaces/default/pods";
    let pod = json!({
        "apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p"},
        "spec": {"serviceAccountName": "sam", "containers": [{"name": "c", "image": "i"}]},
    });
    let (code, pod) = post(&api, pods, pod).await;
    assert_eq!(code, 201, "{pod}");
    let volume = pod["spec"]["volumes"][0]["name"].as_str().unwrap();
    assert!(volume.starts_with("kube-api-access-"));
    assert_eq!(pod["spec"]["containers"][0]["volumeMounts"][0]["name"], volume);
    assert_eq!(pod["spec"]["tolerations"].as_array().unwrap().len(), 2);
    assert_eq!(
        (&pod["spec"]["priority"], &pod["spec"]["preemptionPolicy"]),
        (&json!(0), &json!("PreemptLowerPriority"))
    );
    let bind =
        |uid: &Value| json!({"boundObjectRef": {"kind": "Pod", "apiVersion": "v1", "name": "p", "uid": uid}});
    let (code, answer) = token(&api, "sam", bind(&json!("other"))).await;
    assert_eq!(code, 409, "{answer}");
    let (code, made) = token(&api, "sam", bind(&pod["metadata"]["uid"])).await;
    assert_eq!(code, 201, "{made}");
    let bearer = made["status"]["token"].as_str().unwrap().to_owned();
    assert_eq!(get(&nobody, "/api", Some(&bearer)).await.0, 200);
    let (_, text) = api.call("DELETE", &format!("{pods}/p?gracePeriodSeconds=0"), JSON, "").await;
    until(async || get(&nobody, "/api", Some(&bearer)).await.0 == 401).await;
    drop(text);
    api.stop().await;
}

#[tokio::test]
async fn bootstrap_tokens_ask_for_certificates() {
    let api = memory().await;
    let nobody = nobody(&api);
    let secret = |usage: &str| {
        let data: serde_json::Map<String, Value> = [
            ("token-id", "abcdef"),
            ("token-secret", "0123456789abcdef"),
            ("usage-bootstrap-authentication", usage),
            ("auth-extra-groups", "system:bootstrappers:kubeadm:default-node-token"),
        ]
        .map(|(key, value)| (key.to_owned(), json!(BASE64_STANDARD.encode(value))))
        .into_iter()
        .collect();
        json!({
            "apiVersion": "v1", "kind": "Secret", "metadata": {"name": "bootstrap-token-abcdef"},
            "type": "bootstrap.kubernetes.io/token", "data": data,
        })
    };
    let bearer = "abcdef.0123456789abcdef";
    assert_eq!(get(&nobody, "/api", Some(bearer)).await.0, 401, "no such secret yet");
    let (code, answer) = post(&api, "/api/v1/namespaces/kube-system/secrets", secret("true")).await;
    assert_eq!(code, 201, "{answer}");
    assert_eq!(get(&nobody, "/api", Some(bearer)).await.0, 200);
    assert_eq!(get(&nobody, "/api", Some("abcdef.0123456789abcdee")).await.0, 401);
    let (code, text) = get(&nobody, "/api/v1/nodes", Some(bearer)).await;
    assert_eq!(code, 403, "{text}");
    assert!(text.contains("system:bootstrap:abcdef"));
    api.stop().await;
}

#[tokio::test]
async fn nobody_gives_more_than_they_have() {
    let api = memory().await;
    let jane = api.client("jane");
    let rbac = "/apis/rbac.authorization.k8s.io/v1/namespaces/default";
    let bind = |name: &str, role: &str| {
        json!({
            "apiVersion": "rbac.authorization.k8s.io/v1", "kind": "RoleBinding", "metadata": {"name": name},
            "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": role},
            "subjects": [{"apiGroup": "rbac.authorization.k8s.io", "kind": "User", "name": "jane"}],
        })
    };
    let (code, answer) = post(&api, &format!("{rbac}/rolebindings"), bind("jane", "admin")).await;
    assert_eq!(code, 201, "{answer}");
    let role = |name: &str, resource: &str| {
        json!({
            "apiVersion": "rbac.authorization.k8s.io/v1", "kind": "Role", "metadata": {"name": name},
            "rules": [{"apiGroups": [""], "resources": [resource], "verbs": ["get"]}],
        })
        .to_string()
    };
    let json_type = [("content-type", JSON)];
    let roles = format!("{rbac}/roles");
    until(async || call(&jane, "GET", &roles, &[], "").await.0 == 200).await;
    let (code, text) = call(&jane, "POST", &roles, &json_type, &role("pods", "pods")).await;
    assert_eq!(code, 201, "{text}");
    let (code, text) = call(&jane, "POST", &roles, &json_type, &role("nodes", "nodes")).await;
    assert_eq!(code, 403, "{text}");
    let message = parse(&text)["message"].as_str().unwrap().to_owned();
    assert!(
        message
            .starts_with("roles.rbac.authorization.k8s.io \"nodes\" is forbidden: user \"jane\" (groups=["),
        "{message}"
    );
    assert!(
        message.ends_with("is attempting to grant RBAC permissions not currently held:\n{APIGroups:[\"\"], Resources:[\"nodes\"], Verbs:[\"get\"]}"),
        "{message}"
    );
    let bindings = format!("{rbac}/rolebindings");
    let (code, _) =
        call(&jane, "POST", &bindings, &json_type, &bind("more", "cluster-admin").to_string()).await;
    assert_eq!(code, 403);
    let (code, text) = call(&jane, "POST", &bindings, &json_type, &bind("less", "view").to_string()).await;
    assert_eq!(code, 201, "{text}");
    let (code, _) =
        call(&jane, "GET", "/api/v1/namespaces/default/pods", &[("impersonate-user", "root")], "").await;
    assert_eq!(code, 403);
    api.stop().await;
}

#[tokio::test]
async fn reviews_answer() {
    let api = memory().await;
    let ask = |user: &str, verb: &str, resource: &str| {
        json!({
            "apiVersion": "authorization.k8s.io/v1", "kind": "SubjectAccessReview",
            "spec": {"user": user, "resourceAttributes": {"verb": verb, "resource": resource, "namespace": "default"}},
        })
    };
    let path = "/apis/authorization.k8s.io/v1/subjectaccessreviews";
    for (user, verb, resource, expect) in [
        ("system:kube-scheduler", "list", "pods", true),
        ("system:kube-scheduler", "list", "secrets", false),
        ("system:kube-controller-manager", "list", "secrets", true),
        ("nobody", "get", "pods", false),
    ] {
        let (code, answer) = post(&api, path, ask(user, verb, resource)).await;
        assert_eq!(
            (code, &answer["status"]["allowed"]),
            (201, &json!(expect)),
            "{user} {verb} {resource}: {answer}"
        );
    }
    let own = json!({"apiVersion": "authentication.k8s.io/v1", "kind": "SelfSubjectReview"});
    let (code, answer) = post(&api, "/apis/authentication.k8s.io/v1/selfsubjectreviews", own).await;
    assert_eq!(code, 201, "{answer}");
    let groups = answer["status"]["userInfo"]["groups"].as_array().unwrap();
    assert!(groups.contains(&json!("system:masters")) && groups.contains(&json!("system:authenticated")));
    let rules = json!({"apiVersion": "authorization.k8s.io/v1", "kind": "SelfSubjectRulesReview", "spec": {"namespace": "default"}});
    let (code, answer) = post(&api, "/apis/authorization.k8s.io/v1/selfsubjectrulesreviews", rules).await;
    assert_eq!(code, 201, "{answer}");
    assert!(
        answer["status"]["resourceRules"]
            .as_array()
            .unwrap()
            .iter()
            .any(|rule| rule["verbs"] == json!(["*"]))
    );
    api.stop().await;
}

#[tokio::test]
async fn the_cluster_starts_with_what_it_needs() {
    let api = memory().await;
    for path in [
        "/api/v1/namespaces/kube-node-lease",
        "/apis/rbac.authorization.k8s.io/v1/clusterroles/cluster-admin",
        "/apis/rbac.authorization.k8s.io/v1/clusterrolebindings/kubeadm:cluster-admins",
        "/apis/rbac.authorization.k8s.io/v1/clusterroles/system:controller:replicaset-controller",
        "/apis/scheduling.k8s.io/v1/priorityclasses/system-node-critical",
        "/apis/networking.k8s.io/v1/servicecidrs/kubernetes",
        "/api/v1/namespaces/kube-system/configmaps/extension-apiserver-authentication",
    ] {
        assert_eq!(get(&api.admin, path, None).await.0, 200, "{path}");
    }
    let service = "/api/v1/namespaces/default/services/kubernetes";
    until(async || get(&api.admin, service, None).await.0 == 200).await;
    let (_, text) = get(&api.admin, service, None).await;
    assert_eq!(parse(&text)["spec"]["clusterIP"], "10.96.0.1");
    let slice = "/apis/discovery.k8s.io/v1/namespaces/default/endpointslices/kubernetes";
    until(async || get(&api.admin, slice, None).await.1.contains("10.90.0.11")).await;
    let (code, text) = api.call("DELETE", "/api/v1/namespaces/kube-system", JSON, "").await;
    assert_eq!(code, 403, "{text}");
    assert_eq!(
        parse(&text)["message"],
        "namespaces \"kube-system\" is forbidden: this namespace may not be deleted"
    );
    api.stop().await;
}

#[tokio::test]
async fn three_servers_never_give_one_address_or_port_twice() {
    let kv = Arc::new(Memory::new());
    let flags = ["--service-cluster-ip-range=10.96.0.0/25", "--service-node-port-range=30000-30099"];
    let servers: Vec<Arc<Api>> = futures::future::join_all((0..3).map(|_| Api::start(kv.clone(), &flags)))
        .await
        .into_iter()
        .map(Arc::new)
        .collect();
    let service = |name: String| {
        json!({
            "apiVersion": "v1", "kind": "Service", "metadata": {"name": name},
            "spec": {"type": "NodePort", "ports": [{"port": 80}]},
        })
    };
    let all = futures::future::join_all((0..60).map(|i| {
        let (api, body) = (servers[i % 3].clone(), service(format!("s{i}")));
        async move { post(&api, "/api/v1/namespaces/default/services", body).await }
    }))
    .await;
    let (mut addresses, mut ports) = (BTreeSet::new(), BTreeSet::new());
    for (code, answer) in &all {
        assert_eq!(*code, 201, "{answer}");
        assert!(addresses.insert(answer["spec"]["clusterIP"].as_str().unwrap().to_owned()), "{answer}");
        assert!(ports.insert(answer["spec"]["ports"][0]["nodePort"].as_u64().unwrap()), "{answer}");
    }
    let taken = all[0].1["spec"].clone();
    let mut again = service("again".into());
    again["spec"]["clusterIP"] = taken["clusterIP"].clone();
    let (code, answer) = post(&servers[1], "/api/v1/namespaces/default/services", again.clone()).await;
    assert_eq!(code, 422);
    assert!(answer["message"].as_str().unwrap().ends_with("provided IP is already allocated"), "{answer}");
    again["spec"].as_object_mut().unwrap().remove("clusterIP");
    again["spec"]["ports"][0]["nodePort"] = taken["ports"][0]["nodePort"].clone();
    let (code, answer) = post(&servers[2], "/api/v1/namespaces/default/services", again.clone()).await;
    assert_eq!(code, 422);
    assert!(answer["message"].as_str().unwrap().ends_with("provided port is already allocated"), "{answer}");
    let name = all[0].1["metadata"]["name"].as_str().unwrap();
    let (code, _) =
        servers[0].call("DELETE", &format!("/api/v1/namespaces/default/services/{name}"), JSON, "").await;
    assert_eq!(code, 200);
    again["spec"]["clusterIP"] = taken["clusterIP"].clone();
    let (code, answer) = post(&servers[2], "/api/v1/namespaces/default/services", again).await;
    assert_eq!(code, 201, "both are free again: {answer}");
    for server in servers {
        Arc::into_inner(server).unwrap().stop().await;
    }
}

#[tokio::test]
async fn updates_keep_what_was_allocated() {
    let api = memory().await;
    let services = "/api/v1/namespaces/default/services";
    let service = |kind: &str| {
        json!({
            "apiVersion": "v1", "kind": "Service", "metadata": {"name": "s"},
            "spec": {"type": kind, "ports": [{"port": 80}]},
        })
    };
    let (code, made) = post(&api, services, service("NodePort")).await;
    assert_eq!(code, 201, "{made}");
    let put = async |kind: &str| {
        let (code, text) = api.call("PUT", &format!("{services}/s"), JSON, &service(kind).to_string()).await;
        assert_eq!(code, 200, "{text}");
        parse(&text)["spec"].clone()
    };
    let same = put("NodePort").await;
    assert_eq!(same["clusterIP"], made["spec"]["clusterIP"]);
    assert_eq!(same["ports"], made["spec"]["ports"]);
    let plain = put("ClusterIP").await;
    assert_eq!(plain["clusterIP"], made["spec"]["clusterIP"]);
    assert_eq!(plain["ports"][0].get("nodePort"), None);
    let address =
        format!("/apis/networking.k8s.io/v1/ipaddresses/{}", made["spec"]["clusterIP"].as_str().unwrap());
    assert_eq!(get(&api.admin, &address, None).await.0, 200);
    let (code, _) = api.call("DELETE", &format!("{services}/s"), JSON, "").await;
    assert_eq!(code, 200);
    assert_eq!(get(&api.admin, &address, None).await.0, 404);
    api.stop().await;
}

#[tokio::test]
async fn keys_are_published() {
    let api = memory().await;
    let (code, text) = get(&api.admin, "/openid/v1/jwks", None).await;
    assert_eq!((code, &parse(&text)["keys"][0]["alg"]), (200, &json!("ES256")), "{text}");
    let (code, text) = get(&api.admin, "/.well-known/openid-configuration", None).await;
    assert_eq!(
        (code, &parse(&text)["issuer"]),
        (200, &json!("https://kubernetes.default.svc.cluster.local"))
    );
    api.stop().await;
}

#[tokio::test]
async fn tunnels_refuse_what_they_must() {
    let api = memory().await;
    let node = json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": "w1"}});
    let (code, answer) = post(&api, "/api/v1/nodes", node).await;
    assert_eq!(code, 201, "{answer}");
    assert_eq!(answer["spec"]["taints"][0]["key"], "node.kubernetes.io/not-ready");
    account(&api, "default").await;
    let pod = |name: &str, containers: Value, node: Option<&str>| {
        json!({
            "apiVersion": "v1", "kind": "Pod", "metadata": {"name": name},
            "spec": {"containers": containers, "nodeName": node},
        })
    };
    let one = json!([{"name": "a", "image": "i"}]);
    let two = json!([{"name": "a", "image": "i"}, {"name": "b", "image": "i"}]);
    for pod in [pod("free", one, None), pod("two", two, Some("w1"))] {
        let (code, answer) = post(&api, "/api/v1/namespaces/default/pods", pod).await;
        assert_eq!(code, 201, "{answer}");
    }
    let spdy = [("connection", "Upgrade"), ("upgrade", "SPDY/3.1")];
    let base = "/api/v1/namespaces/default/pods";
    let check = async |path: &str, headers: &[(&str, &str)], code: u16, part: &str| {
        let (got, text) = call(&api.admin, "GET", &format!("{base}/{path}"), headers, "").await;
        assert!(got == code && text.contains(part), "{path}: {got} {text}");
    };
    check("free/log", &[], 200, "").await;
    check("two/log", &[], 400, "a container name must be specified for pod two, choose one of: [a b]").await;
    check("two/log?container=x", &[], 400, "container x is not valid for pod two").await;
    check("two/log?container=a&tailLines=-1", &[], 422, "must be greater than or equal to 0").await;
    check("two/log?container=a", &[], 500, "no preferred addresses found").await;
    check("free/exec?command=ls", &spdy, 400, "pod free does not have a host assigned").await;
    check("two/exec?command=ls&container=a", &[], 400, "Upgrade request required").await;
    check("none/exec?command=ls", &spdy, 404, "pods \\\"none\\\" not found").await;
    check("free/proxy/", &[], 400, "has no address yet").await;
    let status = json!({"status": {"podIP": "127.0.0.1", "podIPs": [{"ip": "127.0.0.1"}]}}).to_string();
    let (code, text) =
        api.call("PATCH", &format!("{base}/free/status"), "application/merge-patch+json", &status).await;
    assert_eq!(code, 200, "{text}");
    check("free:6443/proxy/", &[], 400, "address not allowed").await;
    let (code, text) = get(&api.admin, "/api/v1/namespaces/default/services/none/proxy/", None).await;
    assert_eq!(code, 404, "{text}");
    api.stop().await;
}

/// Waits until it holds, at most ten seconds.
async fn until(holds: impl AsyncFn() -> bool) {
    let begun = std::time::Instant::now();
    while !holds().await {
        assert!(begun.elapsed().as_secs() < 10, "not in time");
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }
}
