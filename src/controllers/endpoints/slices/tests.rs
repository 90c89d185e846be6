//! Tables for slices.

use std::collections::HashMap;

use serde_json::{Value, json};

use super::*;
use crate::testing::{NOON, at, cluster_meta, context, load, merge, meta};

fn service(extra: Value) -> Value {
    let mut service = json!({"metadata": meta("web"), "spec": {"clusterIP": "10.96.0.5",
        "selector": {"app": "web"}, "ports": [{"name": "http", "port": 80, "targetPort": "http"}]}});
    merge(&mut service, &extra);
    service
}

fn pod(name: &str, ip: &str, node: &str, ready: bool, extra: Value) -> Value {
    let ready = if ready { "True" } else { "False" };
    let mut pod = json!({"metadata": meta(name),
        "spec": {"nodeName": node, "containers": [{"name": "c", "ports": [{"name": "http", "containerPort": 8080}]}]},
        "status": {"phase": "Running", "podIP": ip, "podIPs": [{"ip": ip}],
            "conditions": [{"type": "Ready", "status": ready}]}});
    pod["metadata"]["labels"] = json!({"app": "web"});
    merge(&mut pod, &extra);
    pod
}

fn node(name: &str, zone: &str) -> Value {
    let mut node = json!({"metadata": cluster_meta(name)});
    node["metadata"]["labels"] = json!({"topology.kubernetes.io/zone": zone});
    node
}

fn stores(pods: &[Value]) -> Stores {
    let stores = Stores::default();
    load::<Node>(&stores, node("n1", "a"));
    load::<Node>(&stores, node("n2", "b"));
    for pod in pods {
        load::<Pod>(&stores, pod.clone());
    }
    stores
}

fn run(stores: &Stores, of: Value) -> Vec<Action> {
    let service: Service = load(stores, of);
    let answers = HashMap::new();
    reconcile(&context(stores, &answers, at(NOON)), &service).actions
}

fn created(actions: &[Action]) -> Vec<EndpointSlice> {
    let object = |a: &Action| match a {
        Action::Create { object, .. } | Action::Update { object, .. } => {
            serde_json::from_value(object.clone()).ok()
        }
        _ => None,
    };
    actions.iter().filter_map(object).collect()
}

fn conditions(slice: &EndpointSlice) -> Vec<(String, bool, bool, bool)> {
    let of = |e: &Endpoint| {
        let c = e.conditions.clone().unwrap();
        (e.addresses[0].clone(), c.ready.unwrap(), c.serving.unwrap(), c.terminating.unwrap())
    };
    slice.endpoints.iter().map(of).collect()
}

#[test]
fn readiness() {
    let going = json!({"metadata": {"deletionTimestamp": NOON}});
    let check = |pods: &[Value], extra: Value, expect: &[(&str, bool, bool, bool)]| {
        let slices = created(&run(&stores(pods), service(extra)));
        assert_eq!(slices.len(), 1);
        let expect: Vec<_> = expect.iter().map(|e| (e.0.to_owned(), e.1, e.2, e.3)).collect();
        assert_eq!(conditions(&slices[0]), expect);
    };
    let (up, down) =
        (pod("a", "10.244.1.2", "n1", true, json!({})), pod("b", "10.244.1.3", "n1", false, json!({})));
    check(&[], json!({}), &[]);
    check(
        &[up.clone(), down.clone()],
        json!({}),
        &[("10.244.1.2", true, true, false), ("10.244.1.3", false, false, false)],
    );
    check(
        &[down],
        json!({"spec": {"publishNotReadyAddresses": true}}),
        &[("10.244.1.3", true, false, false)],
    );
    check(&[pod("a", "10.244.1.2", "n1", true, going)], json!({}), &[("10.244.1.2", false, true, true)]);
    check(&[pod("a", "10.244.1.2", "n1", true, json!({"status": {"phase": "Failed"}}))], json!({}), &[]);
    check(&[pod("a", "10.244.1.2", "gone", true, json!({}))], json!({}), &[]);
    check(
        &[pod("a", "10.244.1.2", "n1", true, json!({"metadata": {"labels": {"app": "x"}}}))],
        json!({}),
        &[],
    );
}

#[test]
fn named_ports_group_pods() {
    let other =
        json!({"spec": {"containers": [{"name": "c", "ports": [{"name": "http", "containerPort": 9090}]}]}});
    let stores =
        stores(&[pod("a", "10.244.1.2", "n1", true, json!({})), pod("b", "10.244.1.3", "n1", true, other)]);
    let mut ports: Vec<_> =
        created(&run(&stores, service(json!({})))).iter().map(|s| slice_ports(s)[0].port).collect();
    ports.sort_unstable();
    assert_eq!(ports, [8080, 9090]);
}

#[test]
fn hints() {
    let pods = [pod("a", "10.244.1.2", "n1", true, json!({})), pod("b", "10.244.2.2", "n2", true, json!({}))];
    let check = |distribution: Value, nodes: Option<&str>, zones: Option<&str>| {
        let extra = json!({"spec": {"trafficDistribution": distribution}});
        let slices = created(&run(&stores(&pods), service(extra)));
        let hints = slices[0].endpoints[0].hints.clone();
        let node = hints.as_ref().and_then(|h| Some(h.for_nodes.as_ref()?[0].name.clone()));
        let zone = hints.as_ref().and_then(|h| Some(h.for_zones.as_ref()?[0].name.clone()));
        assert_eq!((node.as_deref(), zone.as_deref()), (nodes, zones));
    };
    check(Value::Null, None, None);
    check(json!("PreferClose"), None, Some("a"));
    check(json!("PreferSameZone"), None, Some("a"));
    check(json!("PreferSameNode"), Some("n1"), Some("a"));
}

#[test]
fn a_slice_is_rewritten_only_when_it_differs_and_holds_100() {
    let pods: Vec<Value> = (0..250)
        .map(|i| pod(&format!("p{i}"), &format!("10.244.{}.{}", 1 + i / 200, i % 200), "n1", true, json!({})))
        .collect();
    let stores = stores(&pods);
    let mut slices = created(&run(&stores, service(json!({}))));
    assert_eq!(slices.iter().map(|s| s.endpoints.len()).collect::<Vec<_>>(), [100, 100, 50]);
    for (i, slice) in slices.iter_mut().enumerate() {
        slice.metadata.name = Some(format!("web-{i}"));
        stores.put(slice.clone());
    }
    assert_eq!(run(&stores, service(json!({}))), []);
    // One pod becomes unready: one slice is written.
    load::<Pod>(&stores, pod("p7", "10.244.1.7", "n1", false, json!({})));
    assert_eq!(run(&stores, service(json!({}))).len(), 1);
    // One more pod: it goes where there is room.
    load::<Pod>(&stores, pod("p7", "10.244.1.7", "n1", true, json!({})));
    load::<Pod>(&stores, pod("new", "10.244.9.9", "n1", true, json!({})));
    let written = created(&run(&stores, service(json!({}))));
    assert_eq!(
        written.iter().map(|s| (s.metadata.name.clone().unwrap(), s.endpoints.len())).collect::<Vec<_>>(),
        [("web-2".to_owned(), 51)]
    );
}

#[test]
fn headless_says_so() {
    let slices = created(&run(&stores(&[]), service(json!({"spec": {"clusterIP": "None"}}))));
    let labels = slices[0].metadata.labels.clone().unwrap();
    assert_eq!(labels.get(HEADLESS).map(String::as_str), Some(""));
    assert_eq!(labels[SERVICE_NAME], "web");
    assert_eq!(labels[MANAGED_BY], MANAGER);
}

#[test]
fn services_without_selector_are_left_alone() {
    assert_eq!(run(&stores(&[]), service(json!({"spec": {"selector": null}}))), []);
    assert_eq!(run(&stores(&[]), service(json!({"spec": {"type": "ExternalName"}}))), []);
}
