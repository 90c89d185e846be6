//! Strategic merge as kubectl uses it, and its directives one by one.

use serde_json::{Value, json};

use super::strategic;
use crate::schema::Schema;

fn apply(kind: &str, original: &Value, patch: &Value) -> Result<Value, String> {
    let group = if kind == "Deployment" { "apps" } else { "" };
    let schema = Schema::builtin(group, "v1", kind).unwrap();
    strategic(original, patch, Some(&schema)).map_err(|s| format!("{}: {s}", s.code()))
}

fn check(kind: &str, original: Value, patch: Value, expect: Value) {
    assert_eq!(apply(kind, &original, &patch), Ok(expect), "{patch}");
}

fn pod(containers: Value) -> Value {
    json!({"spec": {"containers": containers}})
}

#[test]
fn lists_merge_by_key() {
    let two = json!([{"name": "a", "image": "1"}, {"name": "b", "image": "1"}]);
    check(
        "Pod",
        pod(two.clone()),
        pod(json!([{"name": "b", "image": "2"}])),
        pod(json!([{"name": "a", "image": "1"}, {"name": "b", "image": "2"}])),
    );
    // A new item goes before what only the server has.
    check(
        "Pod",
        pod(two.clone()),
        pod(json!([{"name": "c"}])),
        pod(json!([{"name": "c"}, {"name": "a", "image": "1"}, {"name": "b", "image": "1"}])),
    );
    check(
        "Pod",
        pod(two.clone()),
        pod(json!([{"name": "a", "$patch": "delete"}])),
        pod(json!([{"name": "b", "image": "1"}])),
    );
    check(
        "Pod",
        pod(two.clone()),
        pod(json!([{"name": "c"}, {"$patch": "replace"}])),
        pod(json!([{"name": "c"}])),
    );
    // Environment variables inside containers, ports by containerPort, arguments replaced.
    check(
        "Pod",
        pod(
            json!([{"name": "a", "env": [{"name": "X", "value": "1"}], "args": ["a"], "ports": [{"containerPort": 1}]}]),
        ),
        pod(
            json!([{"name": "a", "env": [{"name": "Y", "value": "2"}], "args": ["b"], "ports": [{"containerPort": 1, "name": "p"}]}]),
        ),
        pod(
            json!([{"name": "a", "env": [{"name": "Y", "value": "2"}, {"name": "X", "value": "1"}], "args": ["b"],
            "ports": [{"containerPort": 1, "name": "p"}]}]),
        ),
    );
    let missing = apply("Pod", &pod(two), &pod(json!([{"image": "x"}])));
    assert_eq!(missing, Err("422: map: {\"image\":\"x\"} does not contain declared merge key: name".into()));
}

#[test]
fn maps_merge_and_null_deletes() {
    check(
        "Pod",
        json!({"metadata": {"labels": {"a": "1", "b": "2"}}, "spec": {"nodeName": "x"}}),
        json!({"metadata": {"labels": {"a": null, "c": "3"}}, "spec": {"nodeName": null, "x": null}}),
        json!({"metadata": {"labels": {"b": "2", "c": "3"}}, "spec": {}}),
    );
    check(
        "Deployment",
        json!({"spec": {"strategy": {"type": "RollingUpdate", "rollingUpdate": {"maxSurge": 1}}}}),
        json!({"spec": {"strategy": {"$retainKeys": ["type"], "type": "Recreate"}}}),
        json!({"spec": {"strategy": {"type": "Recreate"}}}),
    );
    check(
        "Deployment",
        json!({"spec": {"strategy": {"type": "RollingUpdate", "rollingUpdate": {"maxSurge": 1}}}}),
        json!({"spec": {"strategy": {"$patch": "replace", "type": "Recreate"}}}),
        json!({"spec": {"strategy": {"type": "Recreate"}}}),
    );
    check(
        "ConfigMap",
        json!({"data": {"a": "1"}}),
        json!({"data": {"$patch": "delete"}}),
        json!({"data": {}}),
    );
}

#[test]
fn scalars_merge_as_a_set() {
    let with = |list: Value| json!({"metadata": {"finalizers": list}});
    check("Pod", with(json!(["a", "b"])), with(json!(["b", "c"])), with(json!(["a", "b", "c"])));
    check(
        "Pod",
        with(json!(["a", "b"])),
        json!({"metadata": {"$deleteFromPrimitiveList/finalizers": ["a"]}}),
        with(json!(["b"])),
    );
    check(
        "Pod",
        with(json!(["a", "b"])),
        json!({"metadata": {"$deleteFromPrimitiveList/finalizers": ["a"], "$setElementOrder/finalizers": ["c", "b"],
            "finalizers": ["c"]}}),
        with(json!(["c", "b"])),
    );
}

#[test]
fn order_is_set() {
    let four = json!([{"name": "a"}, {"name": "b"}, {"name": "server"}, {"name": "c"}]);
    check(
        "Pod",
        pod(four.clone()),
        json!({"spec": {"$setElementOrder/containers": [{"name": "c"}, {"name": "a"}, {"name": "b"}]}}),
        pod(json!([{"name": "server"}, {"name": "c"}, {"name": "a"}, {"name": "b"}])),
    );
    let disorder = json!({"spec": {"$setElementOrder/containers": [{"name": "a"}, {"name": "b"}],
        "containers": [{"name": "b"}, {"name": "a"}]}});
    assert!(apply("Pod", &pod(four), &disorder).unwrap_err().starts_with("400: The order in patch list"));
}

#[test]
fn what_kubectl_sends() {
    let containers = json!([{"name": "web", "image": "demo.local/web:1", "resources": {}}]);
    let deployment = json!({"metadata": {"annotations": {"a": "b"}}, "spec": {"replicas": 3,
        "template": {"spec": {"containers": containers, "dnsPolicy": "ClusterFirst"}}}});
    // set image
    let mut expect = deployment.clone();
    expect["spec"]["template"]["spec"]["containers"][0]["image"] = "demo.local/web:2".into();
    let image = json!({"spec": {"template": {"spec": {"$setElementOrder/containers": [{"name": "web"}],
        "containers": [{"image": "demo.local/web:2", "name": "web"}]}}}});
    check("Deployment", deployment.clone(), image, expect);
    // apply, with a volume that became a secret
    let volumes = |v: Value| json!({"spec": {"template": {"spec": {"volumes": v}}}});
    check(
        "Deployment",
        volumes(json!([{"name": "v", "emptyDir": {}}])),
        volumes(
            json!([{"$retainKeys": ["name", "secret"], "name": "v", "secret": {"secretName": "s"}, "emptyDir": null}]),
        ),
        volumes(json!([{"name": "v", "secret": {"secretName": "s"}}])),
    );
    // rollout restart
    let mut expect = deployment.clone();
    expect["spec"]["template"]["metadata"] =
        json!({"annotations": {"kubectl.kubernetes.io/restartedAt": "now"}});
    let annotations = json!({"annotations": {"kubectl.kubernetes.io/restartedAt": "now"}});
    check("Deployment", deployment, json!({"spec": {"template": {"metadata": annotations}}}), expect);
    // taint
    check(
        "Node",
        json!({"spec": {"taints": [{"key": "a", "effect": "NoSchedule"}]}}),
        json!({"spec": {"taints": null}}),
        json!({"spec": {}}),
    );
    // a status patch of conditions
    check(
        "Node",
        json!({"status": {"conditions": [{"type": "Ready", "status": "True"}, {"type": "X", "status": "True"}]}}),
        json!({"status": {"$setElementOrder/conditions": [{"type": "Ready"}, {"type": "X"}],
            "conditions": [{"type": "Ready", "status": "Unknown"}]}}),
        json!({"status": {"conditions": [{"type": "Ready", "status": "Unknown"}, {"type": "X", "status": "True"}]}}),
    );
}

#[test]
fn custom_resources_have_no_strategic_merge() {
    let status = strategic(&json!({}), &json!({}), None).unwrap_err();
    assert_eq!(status.code(), 415);
    assert_eq!(
        apply("Pod", &json!({}), &json!({"$patch": "x"})),
        Err("400: unknown patch type found: x".into())
    );
}
