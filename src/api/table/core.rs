//! The rest of the core group.

use jiff::Timestamp;
use serde_json::Value;

use super::{
    AGE, NAME,
    cells::{
        CONTAINERS, IMAGES, NONE, SELECTOR, first_few, int, int_of, join_or, labels, or, plain, str_of, text,
        wide,
    },
};
use crate::{Object, catalog::Col};

const fn number(name: &'static str, description: &'static str, cell: super::CellFn) -> Col {
    super::cells::number(name, description, cell)
}

/// Name and creation time, not age: limit ranges, roles, CRDs.
pub(crate) const CREATED_AT: &[Col] =
    &[NAME, Col { name: "Created At", kind: "date", cell: |o, _| o.creation_timestamp().into(), ..AGE }];

pub(crate) const COMPONENT_STATUSES: &[Col] = &[
    NAME,
    text("Status", "Status of the component conditions", |o, _| {
        let healthy = o.list_at("conditions").iter().find(|c| str_of(c, "type") == "Healthy");
        match healthy.map(|c| str_of(c, "status")) {
            Some("True") => "Healthy".into(),
            Some(_) => "Unhealthy".into(),
            None => "Unknown".into(),
        }
    }),
    text("Message", "Message of the component conditions", |o, _| first_condition(o, "message")),
    text("Error", "Error of the component conditions", |o, _| first_condition(o, "error")),
];

fn first_condition(object: &Object, field: &str) -> Value {
    object.list_at("conditions").first().map_or("", |c| str_of(c, field)).into()
}

fn size(object: &Object, field: &str) -> usize {
    object.map_at(field).map_or(0, serde_json::Map::len)
}

pub(crate) const CONFIG_MAPS: &[Col] = &[
    NAME,
    number("Data", "Number of entries.", |o, _| (size(o, "data") + size(o, "binaryData")).into()),
    AGE,
];

pub(crate) const SECRETS: &[Col] = &[
    NAME,
    text("Type", "Used to facilitate programmatic handling of secret data.", |o, _| or(o, "type", "")),
    number("Data", "Number of entries.", |o, _| size(o, "data").into()),
    AGE,
];

pub(crate) const SERVICE_ACCOUNTS: &[Col] =
    &[NAME, number("Secrets", "Number of secrets.", |o, _| o.list_at("secrets").len().into()), AGE];

pub(crate) const NAMESPACES: &[Col] =
    &[NAME, text("Status", "The status of the namespace", |o, _| or(o, "status.phase", "")), AGE];

pub(crate) const POD_TEMPLATES: &[Col] = &[
    NAME,
    Col { priority: 0, ..CONTAINERS },
    Col { priority: 0, ..IMAGES },
    text("Pod Labels", "The labels for the pod template", |o, _| {
        labels(o.map_at("template.metadata.labels")).into()
    }),
];

pub(crate) const REPLICATION_CONTROLLERS: &[Col] = &[
    NAME,
    number("Desired", "Number of desired pods.", |o, _| int(o, "spec.replicas")),
    number("Current", "Number of pods that were created.", |o, _| int(o, "status.replicas")),
    number("Ready", "Number of ready pods.", |o, _| int(o, "status.readyReplicas")),
    AGE,
    CONTAINERS,
    IMAGES,
    SELECTOR,
];

pub(crate) const QUOTAS: &[Col] = &[
    NAME,
    text("Request", "Used and allowed requests.", |o, _| quota(o, false).into()),
    text("Limit", "Used and allowed limits.", |o, _| quota(o, true).into()),
    AGE,
];

fn quota(object: &Object, limits: bool) -> String {
    let used = |name: &str| {
        let used = object.map_at("status.used").and_then(|u| u.get(name));
        used.map_or_else(|| "0".to_owned(), plain)
    };
    let hard = object.map_at("status.hard").into_iter().flatten();
    let rows = hard.filter(|(name, _)| name.starts_with("limits") == limits);
    rows.map(|(name, hard)| format!("{name}: {}/{}", used(name), plain(hard))).collect::<Vec<_>>().join(", ")
}

pub(crate) const ENDPOINTS: &[Col] = &[
    NAME,
    text("Endpoints", "The set of all endpoints is the union of all subsets.", |o, _| {
        let mut all = Vec::new();
        for subset in o.list_at("subsets") {
            subset_addresses(subset, &mut all);
        }
        first_few(&all, 3).into()
    }),
    AGE,
];

fn subset_addresses(subset: &Value, all: &mut Vec<String>) {
    let list = |field: &str| subset[field].as_array().map_or(&[][..], Vec::as_slice);
    for address in list("addresses") {
        let ip = str_of(address, "ip");
        if list("ports").is_empty() {
            all.push(ip.to_owned());
        }
        for port in list("ports") {
            all.push(socket(ip, int_of(port, "port")));
        }
    }
}

fn socket(ip: &str, port: i64) -> String {
    if ip.contains(':') { format!("[{ip}]:{port}") } else { format!("{ip}:{port}") }
}

pub(crate) const SERVICES: &[Col] = &[
    NAME,
    text("Type", "How the service is exposed.", |o, _| or(o, "spec.type", "")),
    text("Cluster-IP", "The service's own address.", |o, _| or(o, "spec.clusterIP", NONE)),
    text("External-IP", "Addresses outside of the cluster.", external_ip),
    text("Port(s)", "The ports that are exposed.", ports),
    AGE,
    wide(text("Selector", "Traffic goes to pods with these labels.", |o, _| {
        labels(o.map_at("spec.selector")).into()
    })),
];

fn external_ip(service: &Object, _: Timestamp) -> Value {
    let external = service.list_at("spec.externalIPs").iter().map(plain);
    match service.str_at("spec.type") {
        "ExternalName" => or(service, "spec.externalName", NONE),
        "LoadBalancer" => {
            let ingress = service.list_at("status.loadBalancer.ingress").iter();
            let balancers = ingress.map(|i| match str_of(i, "ip") {
                "" => str_of(i, "hostname").to_owned(),
                ip => ip.to_owned(),
            });
            join_or(balancers.chain(external), "<pending>").into()
        }
        _ => join_or(external, NONE).into(),
    }
}

fn ports(service: &Object, _: Timestamp) -> Value {
    let port = |p: &Value| match (int_of(p, "port"), int_of(p, "nodePort"), str_of(p, "protocol")) {
        (port, 0, protocol) => format!("{port}/{protocol}"),
        (port, node, protocol) => format!("{port}:{node}/{protocol}"),
    };
    join_or(service.list_at("spec.ports").iter().map(port), NONE).into()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::time;

    #[test]
    fn cells() {
        fn check(columns: &[Col], object: Value, expect: Value) {
            let now = time::parse("2026-01-01T01:00:00Z").unwrap();
            let object = Object::try_from(object).unwrap();
            let cells: Vec<_> = columns[1..].iter().map(|c| (c.cell)(&object, now)).collect();
            assert_eq!(json!(cells), expect);
        }
        let port =
            json!([{"port": 80, "nodePort": 30080, "protocol": "TCP"}, {"port": 53, "protocol": "UDP"}]);
        let service = |kind: &str| json!({"spec": {"type": kind, "clusterIP": "10.96.0.9", "ports": port, "selector": {"a": "b"}}});
        check(
            SERVICES,
            service("NodePort"),
            json!(["NodePort", "10.96.0.9", "<none>", "80:30080/TCP,53/UDP", "<unknown>", "a=b"]),
        );
        check(
            SERVICES,
            service("LoadBalancer"),
            json!(["LoadBalancer", "10.96.0.9", "<pending>", "80:30080/TCP,53/UDP", "<unknown>", "a=b"]),
        );
        let addresses: Vec<_> = (1..=4).map(|i| json!({"ip": format!("10.0.0.{i}")})).collect();
        check(
            ENDPOINTS,
            json!({"subsets": [{"addresses": addresses, "ports": [{"port": 8080}]}]}),
            json!(["10.0.0.1:8080,10.0.0.2:8080,10.0.0.3:8080 + 1 more...", "<unknown>"]),
        );
        check(ENDPOINTS, json!({}), json!(["<none>", "<unknown>"]));
        check(
            QUOTAS,
            json!({"status": {"hard": {"pods": "4", "limits.cpu": "2"}, "used": {"pods": "1"}}}),
            json!(["pods: 1/4", "limits.cpu: 0/2", "<unknown>"]),
        );
        check(CONFIG_MAPS, json!({"data": {"a": "b"}, "binaryData": {"c": ""}}), json!([2, "<unknown>"]));
    }
}
