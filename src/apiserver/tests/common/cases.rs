//! What the API does, on whatever store.

use super::{Api, call};
use serde_json::{Value, json};

const JSON: &str = "application/json";

fn parse(text: &str) -> Value {
    serde_json::from_str(text).unwrap_or_else(|e| panic!("{e}: {text}"))
}

fn configmap(name: &str) -> String {
    json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name, "labels": {"app": name}}, "data": {"a": "1"}})
        .to_string()
}

const MAPS: &str = "/api/v1/namespaces/default/configmaps";

pub async fn objects_live_and_die(api: Api) {
    let (code, text) = api.call("POST", MAPS, JSON, &configmap("x")).await;
    assert_eq!(code, 201, "{text}");
    let made = parse(&text);
    assert!(made["metadata"]["uid"].is_string() && made["metadata"]["resourceVersion"].is_string());
    let (code, text) = api.call("POST", MAPS, JSON, &configmap("x")).await;
    assert_eq!((code, parse(&text)["message"].clone()), (409, json!("configmaps \"x\" already exists")));

    let mut stale = made.clone();
    let (code, text) = api
        .call("PATCH", &format!("{MAPS}/x"), "application/merge-patch+json", r#"{"data":{"b":"2"}}"#)
        .await;
    assert_eq!((code, parse(&text)["data"].clone()), (200, json!({"a": "1", "b": "2"})));
    stale["data"]["a"] = json!("stale");
    let (code, text) = api.call("PUT", &format!("{MAPS}/x"), JSON, &stale.to_string()).await;
    let expect = "Operation cannot be fulfilled on configmaps \"x\": the object has been modified; please apply your changes to the latest version and try again";
    assert_eq!((code, parse(&text)["message"].clone()), (409, json!(expect)));

    let (code, text) = api.call("DELETE", &format!("{MAPS}/x"), JSON, "").await;
    assert_eq!((code, parse(&text)["status"].clone()), (200, json!("Success")));
    let (code, text) = api.call("GET", &format!("{MAPS}/x"), JSON, "").await;
    assert_eq!((code, parse(&text)["message"].clone()), (404, json!("configmaps \"x\" not found")));
    api.stop().await;
}

pub async fn lists_come_in_pages(api: Api) {
    for i in 0..7 {
        assert_eq!(api.call("POST", MAPS, JSON, &configmap(&format!("page-{i}"))).await.0, 201);
    }
    // One that the selector leaves out, so that a page ends in the middle of what the store gave last.
    let other = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "page-3a"}}).to_string();
    assert_eq!(api.call("POST", MAPS, JSON, &other).await.0, 201);
    let mut names = Vec::new();
    let mut token = String::new();
    let mut revision = Value::Null;
    loop {
        let query = format!("{MAPS}?limit=3&labelSelector=app&continue={token}");
        let list = parse(&api.call("GET", &query, JSON, "").await.1);
        assert_eq!(list["kind"], "ConfigMapList");
        if revision.is_null() {
            revision = list["metadata"]["resourceVersion"].clone();
            // Later writes do not show in later pages.
            assert_eq!(api.call("POST", MAPS, JSON, &configmap("page-9")).await.0, 201);
        }
        assert_eq!(list["metadata"]["resourceVersion"], revision);
        names.extend(
            list["items"]
                .as_array()
                .unwrap()
                .iter()
                .map(|i| i["metadata"]["name"].as_str().unwrap().to_string()),
        );
        token = list["metadata"]["continue"].as_str().unwrap_or_default().to_string();
        if token.is_empty() {
            break;
        }
    }
    assert_eq!(names, (0..7).map(|i| format!("page-{i}")).collect::<Vec<_>>());
    api.stop().await;
}

pub async fn permission_is_asked_for(api: Api) {
    let jane = api.client("jane");
    let (code, text) = call(&jane, "GET", "/api/v1/namespaces/default/pods", &[], "").await;
    let expect = "pods is forbidden: User \"jane\" cannot list resource \"pods\" in API group \"\" in the namespace \"default\"";
    assert_eq!((code, parse(&text)["message"].clone()), (403, json!(expect)));
    let headers = [("impersonate-user", "jane")];
    assert_eq!(call(&api.admin, "GET", "/api/v1/namespaces/default/pods", &headers, "").await.0, 403);
    assert_eq!(call(&jane, "GET", "/readyz", &[], "").await.0, 200);
    api.stop().await;
}

pub async fn an_epoch_fences_writes(api: Api) {
    let leases = "/apis/coordination.k8s.io/v1/namespaces/kube-system/leases";
    let lease = |holder: &str| {
        json!({"apiVersion": "coordination.k8s.io/v1", "kind": "Lease", "metadata": {"name": "kube-scheduler"},
            "spec": {"holderIdentity": holder, "leaseDurationSeconds": 2}})
    };
    let made = parse(&api.call("POST", leases, JSON, &lease("a").to_string()).await.1);
    assert_eq!(made["spec"]["leaseTransitions"], 0);
    let fenced = [("content-type", JSON), ("trireme-epoch", "kube-system/kube-scheduler=0")];
    assert_eq!(call(&api.admin, "POST", MAPS, &fenced, &configmap("one")).await.0, 201);
    let taken =
        parse(&api.call("PUT", &format!("{leases}/kube-scheduler"), JSON, &lease("b").to_string()).await.1);
    assert_eq!(taken["spec"]["leaseTransitions"], 1, "{taken}");
    let (code, text) = call(&api.admin, "POST", MAPS, &fenced, &configmap("two")).await;
    let expect = "leader election lease kube-system/kube-scheduler: epoch 0 is over";
    assert_eq!((code, parse(&text)["message"].clone()), (409, json!(expect)));
    api.stop().await;
}

pub async fn a_custom_resource_is_served_like_any_other(api: Api) {
    let definition = json!({
        "apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition",
        "metadata": {"name": "widgets.example.com"},
        "spec": {"group": "example.com", "scope": "Namespaced",
            "names": {"plural": "widgets", "singular": "widget", "kind": "Widget", "listKind": "WidgetList"},
            "versions": [{"name": "v1", "served": true, "storage": true, "subresources": {"status": {}},
                "schema": {"openAPIV3Schema": {"type": "object", "properties": {
                    "spec": {"type": "object", "properties": {"size": {"type": "integer", "default": 3}}}}}}}]}
    });
    let path = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions";
    let (code, text) = api.call("POST", path, JSON, &definition.to_string()).await;
    assert_eq!(code, 201, "{text}");
    let widgets = "/apis/example.com/v1/namespaces/default/widgets";
    let until = async |path: &str, wanted: u16| {
        for _ in 0..200 {
            if api.call("GET", path, JSON, "").await.0 == wanted {
                return;
            }
            tokio::time::sleep(std::time::Duration::from_millis(20)).await;
        }
        panic!("{path} never answered {wanted}");
    };
    until(widgets, 200).await;
    let widget =
        json!({"apiVersion": "example.com/v1", "kind": "Widget", "metadata": {"name": "w"}, "spec": {}});
    let (code, text) = api.call("POST", widgets, JSON, &widget.to_string()).await;
    assert_eq!((code, parse(&text)["spec"]["size"].clone()), (201, json!(3)), "{text}");
    assert_eq!(api.call("DELETE", &format!("{path}/widgets.example.com"), JSON, "").await.0, 200);
    until(&format!("{path}/widgets.example.com"), 404).await;
    until(widgets, 404).await;
    api.stop().await;
}

/// Lines of a watch until one satisfies a condition.
async fn watch_until(
    api: &Api,
    path: &str,
    headers: &[(&str, &str)],
    enough: impl Fn(&[Value]) -> bool,
) -> Vec<Value> {
    use futures::AsyncBufReadExt;
    let mut request = http::Request::builder().uri(path);
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    let request = request.body(Vec::new()).unwrap();
    let mut stream = std::pin::pin!(api.admin.request_stream(request).await.unwrap());
    let mut events = Vec::new();
    let read = async {
        let mut line = String::new();
        while !enough(&events) {
            line.clear();
            assert!(stream.as_mut().read_line(&mut line).await.unwrap() > 0, "the watch ended: {events:?}");
            events.push(parse(&line));
        }
    };
    let done = tokio::time::timeout(std::time::Duration::from_secs(20), read).await.is_ok();
    assert!(done, "no end: {events:?}");
    events
}

fn short(events: &[Value]) -> Vec<String> {
    let name = |e: &Value| e["object"]["metadata"]["name"].as_str().unwrap_or_default().to_string();
    events.iter().map(|e| format!("{} {}", e["type"].as_str().unwrap_or_default(), name(e))).collect()
}

pub async fn a_watch_tells_every_change(api: Api) {
    let now = parse(&api.call("GET", MAPS, JSON, "").await.1)["metadata"]["resourceVersion"].clone();
    let all = format!("{MAPS}?watch=1&labelSelector=app&resourceVersion={}", now.as_str().unwrap());
    let watched =
        tokio::join!(watch_until(&api, &all, &[], |e| short(e).contains(&"DELETED w2".into())), async {
            for name in ["w1", "w2"] {
                assert_eq!(api.call("POST", MAPS, JSON, &configmap(name)).await.0, 201);
            }
            let unlabel = r#"{"metadata":{"labels":{"app":null}}}"#;
            let relabel = r#"{"metadata":{"labels":{"app":"back"}}}"#;
            for patch in [unlabel, relabel] {
                let (code, _) =
                    api.call("PATCH", &format!("{MAPS}/w1"), "application/merge-patch+json", patch).await;
                assert_eq!(code, 200);
            }
            assert_eq!(api.call("DELETE", &format!("{MAPS}/w2"), JSON, "").await.0, 200);
        });
    let events = watched.0;
    assert_eq!(short(&events), ["ADDED w1", "ADDED w2", "DELETED w1", "ADDED w1", "DELETED w2"]);
    let revisions: Vec<u64> = events
        .iter()
        .map(|e| e["object"]["metadata"]["resourceVersion"].as_str().unwrap().parse().unwrap())
        .collect();
    assert!(revisions.is_sorted(), "{revisions:?}");
    // From a revision on, without what came before it.
    let from = format!("{MAPS}?watch=1&labelSelector=app&resourceVersion={}", revisions[2]);
    let again = watch_until(&api, &from, &[], |e| e.len() == 2).await;
    assert_eq!(short(&again), ["ADDED w1", "DELETED w2"]);
    // Streaming list: state, bookmark, then changes.
    let list = format!(
        "{MAPS}?watch=1&labelSelector=app&sendInitialEvents=true&allowWatchBookmarks=true&resourceVersionMatch=NotOlderThan"
    );
    let begun = watch_until(&api, &list, &[], |e| e.last().is_some_and(|e| e["type"] == "BOOKMARK")).await;
    assert_eq!(short(&begun), ["ADDED w1", "BOOKMARK "]);
    assert_eq!(begun[1]["object"]["metadata"]["annotations"]["k8s.io/initial-events-end"], "true");
    let table = [("accept", "application/json;as=Table;v=v1;g=meta.k8s.io")];
    let rows =
        watch_until(&api, &format!("{MAPS}?watch=1&labelSelector=app"), &table, |e| e.len() == 1).await;
    assert_eq!(rows[0]["object"]["kind"], "Table");
    api.stop().await;
}

pub async fn deletion_waits_for_finalizers(api: Api) {
    let mut object = parse(&configmap("f"));
    object["metadata"]["finalizers"] = json!(["example.com/wait"]);
    assert_eq!(api.call("POST", MAPS, JSON, &object.to_string()).await.0, 201);
    let (code, text) = api.call("DELETE", &format!("{MAPS}/f"), JSON, "").await;
    assert!(code == 200 && parse(&text)["metadata"]["deletionTimestamp"].is_string(), "{text}");
    let (code, text) = api
        .call(
            "PATCH",
            &format!("{MAPS}/f"),
            "application/merge-patch+json",
            r#"{"metadata":{"finalizers":null}}"#,
        )
        .await;
    assert_eq!(code, 200, "{text}");
    assert_eq!(api.call("GET", &format!("{MAPS}/f"), JSON, "").await.0, 404);
    // A namespace waits for its own finalizer.
    let spaces = "/api/v1/namespaces";
    let space = r#"{"apiVersion":"v1","kind":"Namespace","metadata":{"name":"gone"}}"#;
    let made = parse(&api.call("POST", spaces, JSON, space).await.1);
    assert_eq!(made["spec"]["finalizers"], json!(["kubernetes"]), "{made}");
    let (_, text) = api.call("DELETE", "/api/v1/namespaces/gone", JSON, "").await;
    let mut going = parse(&text);
    assert_eq!(going["status"]["phase"], "Terminating", "{text}");
    going["spec"]["finalizers"] = json!([]);
    let (code, text) = api.call("PUT", "/api/v1/namespaces/gone/finalize", JSON, &going.to_string()).await;
    assert_eq!(code, 200, "{text}");
    assert_eq!(api.call("GET", "/api/v1/namespaces/gone", JSON, "").await.0, 404);
    api.stop().await;
}

const DEPLOYMENTS: &str = "/apis/apps/v1/namespaces/default/deployments";

pub async fn a_workload_is_scaled_and_reports(api: Api) {
    let deployment = json!({
        "apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "web"},
        "spec": {"replicas": 3, "selector": {"matchLabels": {"app": "web"}},
            "template": {"metadata": {"labels": {"app": "web"}}, "spec": {"containers": [{"name": "c", "image": "i"}]}}},
    });
    let (code, text) = api.call("POST", DEPLOYMENTS, JSON, &deployment.to_string()).await;
    let made = parse(&text);
    assert_eq!((code, made["metadata"]["generation"].clone()), (201, json!(1)), "{text}");
    assert_eq!(made["spec"]["strategy"]["type"], "RollingUpdate");
    let scale = parse(&api.call("GET", &format!("{DEPLOYMENTS}/web/scale"), JSON, "").await.1);
    assert_eq!((scale["kind"].clone(), scale["spec"]["replicas"].clone()), (json!("Scale"), json!(3)));
    assert_eq!(scale["status"]["selector"], "app=web");
    let (code, text) = api
        .call(
            "PATCH",
            &format!("{DEPLOYMENTS}/web/scale"),
            "application/merge-patch+json",
            r#"{"spec":{"replicas":6}}"#,
        )
        .await;
    assert_eq!((code, parse(&text)["spec"]["replicas"].clone()), (200, json!(6)), "{text}");
    let status = r#"{"spec":{"replicas":1},"status":{"replicas":6,"observedGeneration":2}}"#;
    let (code, text) =
        api.call("PATCH", &format!("{DEPLOYMENTS}/web/status"), "application/merge-patch+json", status).await;
    let now = parse(&text);
    assert_eq!(
        (code, now["spec"]["replicas"].clone(), now["status"]["replicas"].clone()),
        (200, json!(6), json!(6)),
        "{text}"
    );
    assert_eq!(now["metadata"]["generation"], 2);
    let bad = json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "bad"}, "spec": {}});
    let (code, text) = api.call("POST", DEPLOYMENTS, JSON, &bad.to_string()).await;
    assert!(code == 422 && text.contains("spec.selector: Required value"), "{text}");
    api.stop().await;
}
