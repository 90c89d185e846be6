//! The endpoints controller: one Endpoints object per Service, for clients that know nothing newer.
//!
//! Keeps true: the object has the Service's name; at most 1000 addresses, ready ones first, and an annotation that
//! says so when there were more.

use std::collections::BTreeMap;

use k8s_openapi::{
    api::core::v1::{
        EndpointAddress, EndpointPort, EndpointSubset, Endpoints, ObjectReference, Pod, Service, ServiceSpec,
    },
    apimachinery::pkg::apis::meta::v1::ObjectMeta,
};

use super::{HEADLESS, Port, addresses, hostname, is_headless, ports, selected, selecting, service_labels};
use crate::{
    controller::{Action, Context, Controller, Key, Plan, Resource, delete, json, update},
    pods,
    store::{Change, Stores},
};

const OVER_CAPACITY: &str = "endpoints.kubernetes.io/over-capacity";
const MANAGED_BY: &str = "endpoints.kubernetes.io/managed-by";
/// Addresses in an Endpoints object.
const CAPACITY: usize = 1000;

/// The controller; it keeps nothing.
pub(crate) struct Legacy;

impl Controller for Legacy {
    fn keys(&self, stores: &Stores) -> Vec<Key> {
        stores.services.keys()
    }

    fn wake(&self, stores: &Stores, change: &Change) -> Vec<Key> {
        match change {
            Change::Service(d) => vec![d.key()],
            Change::Pod(d) => super::services_of(stores, d),
            Change::Endpoints(d) => vec![d.key()],
            _ => Vec::new(),
        }
    }

    fn reconcile(&self, context: &Context<'_>, key: &Key) -> Plan {
        reconcile(context, key)
    }
}

/// Decides what a Service's Endpoints should say.
pub(crate) fn reconcile(context: &Context<'_>, key: &Key) -> Plan {
    let existing = context.stores.endpoints.get(key);
    let Some(service) = context.stores.services.get(key) else {
        let managed = existing.filter(|e| is_ours(&e.metadata));
        return Plan::of(managed.iter().map(|e| delete(&**e)).collect());
    };
    let Some(spec) = selecting(&service).filter(|_| service.metadata.deletion_timestamp.is_none()) else {
        return Plan::none();
    };
    let (subsets, truncated) = subsets(context.stores, &service, spec);
    let action = match existing {
        None => Some(create(&service, spec, subsets, truncated)),
        Some(old) => {
            let mut new = (*old).clone();
            new.subsets = Some(subsets).filter(|s| !s.is_empty());
            describe(&mut new.metadata, &service, spec, truncated);
            (new != *old).then(|| update(&new, ""))
        }
    };
    Plan::of(action.into_iter().collect())
}

fn is_ours(meta: &ObjectMeta) -> bool {
    meta.labels.as_ref().and_then(|l| l.get(MANAGED_BY)).is_some()
}

fn create(service: &Service, spec: &ServiceSpec, subsets: Vec<EndpointSubset>, truncated: bool) -> Action {
    let mut metadata = ObjectMeta {
        name: service.metadata.name.clone(),
        namespace: service.metadata.namespace.clone(),
        ..Default::default()
    };
    describe(&mut metadata, service, spec, truncated);
    let object = Endpoints { metadata, subsets: Some(subsets).filter(|s| !s.is_empty()) };
    let resource = Resource::of::<Endpoints>();
    Action::Create { resource, object: json(&object), announce: None, exists_ok: false }
}

fn describe(meta: &mut ObjectMeta, service: &Service, spec: &ServiceSpec, truncated: bool) {
    let mut labels = service_labels(service);
    labels.insert(MANAGED_BY.into(), "endpoint-controller".into());
    if is_headless(spec) {
        labels.insert(HEADLESS.into(), String::new());
    }
    meta.labels = Some(labels);
    if truncated {
        meta.annotations.get_or_insert_default().insert(OVER_CAPACITY.into(), "truncated".into());
    } else if let Some(annotations) = &mut meta.annotations {
        annotations.remove(OVER_CAPACITY);
    }
}

type Grouped = BTreeMap<Vec<Port>, (Vec<EndpointAddress>, Vec<EndpointAddress>)>;

fn subsets(stores: &Stores, service: &Service, spec: &ServiceSpec) -> (Vec<EndpointSubset>, bool) {
    let publish = spec.publish_not_ready_addresses == Some(true);
    let mut found: Vec<(bool, Vec<Port>, EndpointAddress)> = Vec::new();
    for pod in selected(stores, service, spec) {
        if pod.metadata.deletion_timestamp.is_some() && !publish {
            continue;
        }
        let ports = ports(spec, &pod);
        // Without a port in common there is nothing to reach, except for a headless Service without ports.
        if ports.is_empty() && spec.ports.as_ref().is_some_and(|p| !p.is_empty()) {
            continue;
        }
        found.extend(address(service, &pod).map(|a| (publish || pods::is_ready(&pod), ports, a)));
    }
    // Ready ones first: they survive truncation.
    found.sort_by(|a, b| (!a.0, &a.2.ip).cmp(&(!b.0, &b.2.ip)));
    let truncated = found.len() > CAPACITY;
    found.truncate(CAPACITY);
    let mut groups = Grouped::new();
    for (ready, ports, address) in found {
        let group = groups.entry(ports).or_default();
        if ready { group.0.push(address) } else { group.1.push(address) }
    }
    (groups.into_iter().map(subset).collect(), truncated)
}

fn subset(
    (ports, (ready, not_ready)): (Vec<Port>, (Vec<EndpointAddress>, Vec<EndpointAddress>)),
) -> EndpointSubset {
    let port = |p: Port| EndpointPort {
        name: Some(p.name).filter(|n| !n.is_empty()),
        port: p.port,
        protocol: Some(p.protocol),
        app_protocol: p.app_protocol,
    };
    EndpointSubset {
        addresses: Some(ready).filter(|a| !a.is_empty()),
        not_ready_addresses: Some(not_ready).filter(|a| !a.is_empty()),
        ports: Some(ports.into_iter().map(port).collect::<Vec<_>>()).filter(|p| !p.is_empty()),
    }
}

fn address(service: &Service, pod: &Pod) -> Option<EndpointAddress> {
    Some(EndpointAddress {
        ip: addresses(pod).first()?.to_string(),
        hostname: hostname(service, pod),
        node_name: pods::node(pod).map(Into::into),
        target_ref: Some(ObjectReference {
            kind: Some("Pod".into()),
            namespace: pod.metadata.namespace.clone(),
            name: pod.metadata.name.clone(),
            uid: pod.metadata.uid.clone(),
            ..Default::default()
        }),
    })
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use serde_json::{Value, json};

    use super::*;
    use crate::testing::{NOON, at, context, load, merge, meta};

    fn stores(pods: usize, ready: bool, extra: &Value) -> Stores {
        let stores = Stores::default();
        let mut service = json!({"metadata": meta("web"), "spec": {"selector": {"app": "web"},
            "ports": [{"port": 80, "targetPort": 8080}]}});
        merge(&mut service, extra);
        load::<Service>(&stores, service);
        for i in 0..pods {
            let mut pod = json!({"metadata": meta(&format!("p{i}")), "spec": {"containers": [], "nodeName": "n"},
                "status": {"phase": "Running", "podIP": format!("10.244.{}.{}", i / 200, i % 200 + 1),
                    "conditions": [{"type": "Ready", "status": if ready { "True" } else { "False" }}]}});
            pod["metadata"]["labels"] = json!({"app": "web"});
            load::<Pod>(&stores, pod);
        }
        stores
    }

    fn run(stores: &Stores) -> Value {
        let answers = HashMap::new();
        let plan = reconcile(&context(stores, &answers, at(NOON)), &Key::new("ns", "web"));
        match plan.actions.first() {
            Some(Action::Create { object, .. }) => object.clone(),
            other => json!({"other": format!("{other:?}")}),
        }
    }

    #[test]
    fn ready_and_not_ready() {
        let object = run(&stores(2, true, &json!({})));
        assert_eq!(object["subsets"][0]["addresses"].as_array().unwrap().len(), 2);
        assert_eq!(object["subsets"][0]["ports"][0]["port"], 8080);
        let object = run(&stores(2, false, &json!({})));
        assert_eq!(object["subsets"][0]["notReadyAddresses"].as_array().unwrap().len(), 2);
        let object = run(&stores(1, false, &json!({"spec": {"publishNotReadyAddresses": true}})));
        assert_eq!(object["subsets"][0]["addresses"].as_array().unwrap().len(), 1);
        assert_eq!(run(&stores(0, true, &json!({}))).get("subsets"), None);
    }

    #[test]
    fn more_than_a_thousand_are_cut() {
        let object = run(&stores(1001, true, &json!({})));
        assert_eq!(object["subsets"][0]["addresses"].as_array().unwrap().len(), 1000);
        assert_eq!(object["metadata"]["annotations"][OVER_CAPACITY], "truncated");
    }

    #[test]
    fn without_a_selector_somebody_else_writes_them() {
        assert_eq!(run(&stores(1, true, &json!({"spec": {"selector": null}})))["other"], "None");
    }
}
