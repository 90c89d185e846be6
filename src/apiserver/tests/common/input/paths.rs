//! Where there is nothing, what cannot be done there, and paths that look like something else.

use super::{Api, BASE64_URL_SAFE_NO_PAD, Engine, JSON, MAPS, PODS, PROTOBUF, call, json, parse, refused};

pub async fn bad_paths_and_types(api: Api) {
    let not_found = "the server could not find the requested resource";
    let not_allowed = "the server does not allow this method on the requested resource";
    let rows: &[(&str, &str, u16, &str, &str)] = &[
        ("GET", "/nothing", 404, "NotFound", not_found),
        ("GET", "/api/v1/nothings", 404, "NotFound", not_found),
        ("GET", "/api/v2/pods", 404, "NotFound", not_found),
        ("GET", "/apis/none.example.com/v1/things", 404, "NotFound", not_found),
        ("GET", "/apis/apps/v1/namespaces/default/deployments/x/nothing", 404, "NotFound", not_found),
        ("GET", "/api/v1/namespaces/default/nodes", 404, "NotFound", not_found),
        ("POST", "/api/v1/configmaps", 404, "NotFound", not_found),
        ("POST", &format!("{MAPS}/x"), 405, "MethodNotAllowed", not_allowed),
        ("PUT", MAPS, 405, "MethodNotAllowed", not_allowed),
        ("PATCH", MAPS, 405, "MethodNotAllowed", not_allowed),
        ("OPTIONS", MAPS, 405, "MethodNotAllowed", not_allowed),
        ("BREW", MAPS, 405, "MethodNotAllowed", not_allowed),
        ("GET", &format!("{PODS}/x/eviction"), 405, "MethodNotAllowed", not_allowed),
        ("GET", &format!("{PODS}/x/binding"), 405, "MethodNotAllowed", not_allowed),
        ("GET", "/apis/authorization.k8s.io/v1/subjectaccessreviews", 405, "MethodNotAllowed", not_allowed),
        ("GET", "/api/v1/namespaces/default/pods//log", 404, "NotFound", not_found),
        ("GET", "//api/v1/pods", 404, "NotFound", not_found),
        ("GET", "/api//v1/pods", 404, "NotFound", not_found),
        ("GET", "/api/v1/namespaces//pods", 404, "NotFound", not_found),
        ("GET", "/healthz/../api/v1/secrets", 404, "", ""),
        ("GET", "/openapi/../metrics", 404, "NotFound", not_found),
    ];
    for (method, path, code, reason, message) in rows {
        if reason.is_empty() {
            assert_eq!(api.call(method, path, JSON, "").await.0, *code, "{path}");
            continue;
        }
        refused(&api.admin, (method, path, JSON, b"", *code, reason, message)).await;
    }
    for accept in ["text/html", PROTOBUF, "application/json;as=Nothing;v=v1;g=meta.k8s.io"] {
        let (code, text) = call(&api.admin, "GET", MAPS, &[("accept", accept)], "").await;
        let status = parse(&text);
        let expect = "only the following media types are accepted: application/json, application/yaml";
        assert_eq!((code, &status["reason"]), (406, &json!("NotAcceptable")), "{text}");
        assert_eq!(status["message"], expect);
    }
    api.stop().await;
}

/// Paths that look like something else: nobody gets more by them than they may have anyway.
pub async fn path_tricks(api: Api) {
    let grant = json!({
        "apiVersion": "rbac.authorization.k8s.io/v1", "kind": "RoleBinding", "metadata": {"name": "jane"},
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "admin"},
        "subjects": [{"apiGroup": "rbac.authorization.k8s.io", "kind": "User", "name": "jane"}],
    });
    let bindings = "/apis/rbac.authorization.k8s.io/v1/namespaces/default/rolebindings";
    assert_eq!(api.call("POST", bindings, JSON, &grant.to_string()).await.0, 201);
    let secret = json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "x"}, "stringData": {"a": "treasure"}});
    let secrets = "/api/v1/namespaces/kube-system/secrets";
    assert_eq!(api.call("POST", secrets, JSON, &secret.to_string()).await.0, 201);
    let jane = api.client("jane");
    let own = "/api/v1/namespaces/default/secrets";
    while call(&jane, "GET", own, &[], "").await.0 != 200 {
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }
    let token = BASE64_URL_SAFE_NO_PAD.encode(r#"{"v":"meta.k8s.io/v1","rv":-1,"start":"../kube-system/"}"#);
    for (path, code) in [
        ("/api/v1/namespaces/kube-system/secrets/x".to_string(), 403),
        ("/api/v1/%6eamespaces/kube-system/%73ecrets/x".into(), 403),
        ("/%61pi/v1/secrets".into(), 403),
        ("//api/v1/namespaces/kube-system/secrets".into(), 403),
        ("/api//v1/secrets".into(), 403),
        ("/api/v1//secrets".into(), 403),
        ("/api/v1/namespaces//secrets".into(), 403),
        ("/healthz/../api/v1/secrets".into(), 403),
        ("/healthz/%2e%2e/api/v1/secrets".into(), 403),
        ("/version/../metrics".into(), 403),
        ("/version/%2e%2e/metrics".into(), 403),
        ("/apis/../api/v1/secrets".into(), 403),
        ("/api/../metrics".into(), 403),
        ("/openapi/../metrics".into(), 404),
        ("/openapi/%2e%2e/metrics".into(), 404),
        (format!("{own}/../../kube-system/secrets/x"), 403),
        (format!("{own}/%2e%2e"), 400),
        (format!("{own}/%2e%2e%2fkube-system%2fx"), 400),
        (format!("{own}/..%2fkube-system%2fx"), 400),
        ("/api/v1/namespaces/default%2f..%2fkube-system/secrets".into(), 403),
        ("/api/v1/namespaces/default%00/secrets".into(), 403),
        (format!("{own}?continue={token}"), 400),
        (format!("{own}?fieldSelector=metadata.namespace%3Dkube-system"), 200),
        (format!("{own}?namespace=kube-system"), 200),
    ] {
        let (got, text) = call(&jane, "GET", &path, &[], "").await;
        assert!(got == code && !text.contains("dHJlYXN1cmU"), "{path}: {got} {text}");
    }
    api.stop().await;
}
