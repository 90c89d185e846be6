//! The endpointslice controller.
//!
//! Keeps true: every endpoint is in exactly one slice of its Service, no slice has more than 100, and a change of
//! one endpoint rewrites one slice (full repacking would make every node's proxy read everything again). Leaves to
//! others: slices that somebody else manages.

use std::{collections::BTreeMap, net::IpAddr};

use k8s_openapi::{
    api::{
        core::v1::{Node, ObjectReference, Pod, Service, ServiceSpec},
        discovery::v1::{
            Endpoint, EndpointConditions, EndpointHints, EndpointPort, EndpointSlice, ForNode, ForZone,
        },
    },
    apimachinery::pkg::apis::meta::v1::ObjectMeta,
};

use super::{HEADLESS, Port, addresses, hostname, is_headless, ports, selected, selecting, service_labels};
use crate::{
    controller::{Action, Context, Controller, Key, Plan, Resource, delete, json, owned_by, update},
    pods,
    store::{Change, Delta, Index, SERVICE_NAME, Stores},
};

const MANAGED_BY: &str = "endpointslice.kubernetes.io/managed-by";
const MANAGER: &str = "endpointslice-controller.k8s.io";
const ZONE: &str = "topology.kubernetes.io/zone";
/// Endpoints in a slice.
const CAPACITY: usize = 100;

/// The controller; it keeps nothing.
pub(crate) struct Slices;

impl Controller for Slices {
    fn keys(&self, stores: &Stores) -> Vec<Key> {
        stores.services.keys()
    }

    fn wake(&self, stores: &Stores, change: &Change) -> Vec<Key> {
        match change {
            Change::Service(d) => vec![d.key()],
            Change::Pod(d) => super::services_of(stores, d),
            Change::EndpointSlice(d) => d.any().and_then(|s| service_of(s)).into_iter().collect(),
            Change::Node(d) => by_node(stores, d),
            _ => Vec::new(),
        }
    }

    fn reconcile(&self, context: &Context<'_>, key: &Key) -> Plan {
        let Some(service) = context.stores.services.get(key) else { return Plan::none() };
        reconcile(context, &service)
    }
}

fn service_of(slice: &EndpointSlice) -> Option<Key> {
    let labels = slice.metadata.labels.as_ref()?;
    let service =
        labels.get(SERVICE_NAME).filter(|_| labels.get(MANAGED_BY).is_some_and(|m| m == MANAGER))?;
    Some(Key::new(slice.metadata.namespace.as_deref().unwrap_or_default(), service))
}

/// Services with pods on a node whose zone changed, or that came or went.
fn by_node(stores: &Stores, delta: &Delta<Node>) -> Vec<Key> {
    if delta.old.as_deref().zip(delta.new.as_deref()).is_some_and(|(a, b)| zone(a) == zone(b)) {
        return Vec::new();
    }
    let on_it = stores.pods.by(Index::Node, &delta.key().name);
    let mut keys: Vec<Key> = on_it
        .into_iter()
        .flat_map(|p| super::services_of(stores, &Delta { old: None, new: Some(p) }))
        .collect();
    keys.sort();
    keys.dedup();
    keys
}

fn zone(node: &Node) -> Option<&String> {
    node.metadata.labels.as_ref()?.get(ZONE)
}

/// Decides which slices a Service's pods need.
pub(crate) fn reconcile(context: &Context<'_>, service: &Service) -> Plan {
    let Some(spec) = selecting(service) else { return Plan::none() };
    if service.metadata.deletion_timestamp.is_some() {
        return Plan::none();
    }
    let name = Key::of(&service.metadata).to_string();
    let existing = context.stores.slices.by(Index::Service, &name);
    let mut ours: Vec<EndpointSlice> =
        existing.iter().filter(|s| service_of(s).is_some()).map(|s| (**s).clone()).collect();
    ours.retain(|s| s.metadata.deletion_timestamp.is_none());
    let mut plan = Plan::none();
    let families = families(spec);
    for slice in ours.extract_if(.., |s| !families.contains(&s.address_type.as_str())) {
        plan.act(delete(&slice));
    }
    for family in families {
        let wanted = desired(context.stores, service, spec, family);
        let (mine, others) = ours.into_iter().partition(|s: &EndpointSlice| s.address_type == family);
        ours = others;
        plan.actions.extend(pack(service, spec, family, mine, wanted));
    }
    plan
}

fn families(spec: &ServiceSpec) -> Vec<&'static str> {
    let of = |name: &str| if name == "IPv6" { "IPv6" } else { "IPv4" };
    match spec.ip_families.as_deref() {
        None | Some([]) => vec![of(spec
            .cluster_ip
            .as_deref()
            .map_or("IPv4", |ip| if ip.contains(':') { "IPv6" } else { "IPv4" }))],
        Some(list) => list.iter().map(|f| of(f)).collect(),
    }
}

type Groups = BTreeMap<Vec<Port>, Vec<Endpoint>>;

/// All endpoints of a family, by the ports that their pods serve.
fn desired(stores: &Stores, service: &Service, spec: &ServiceSpec, family: &str) -> Groups {
    let mut groups = Groups::new();
    for pod in selected(stores, service, spec) {
        if let Some(endpoint) = endpoint(stores, service, spec, &pod, family) {
            groups.entry(ports(spec, &pod)).or_default().push(endpoint);
        }
    }
    for group in groups.values_mut() {
        group.sort_by(|a, b| identity(a).cmp(&identity(b)));
        hint(spec.traffic_distribution.as_deref(), group);
    }
    groups
}

fn endpoint(
    stores: &Stores,
    service: &Service,
    spec: &ServiceSpec,
    pod: &Pod,
    family: &str,
) -> Option<Endpoint> {
    let address = addresses(pod).into_iter().find(|ip| matches!(ip, IpAddr::V6(_)) == (family == "IPv6"))?;
    let publish = spec.publish_not_ready_addresses == Some(true);
    let node = pods::node(pod).and_then(|n| stores.nodes.named("", n));
    if node.is_none() && !publish {
        // The node is gone: nothing answers there, whatever the pod's status says.
        return None;
    }
    let (serving, terminating) = (pods::is_ready(pod), pod.metadata.deletion_timestamp.is_some());
    Some(Endpoint {
        addresses: vec![address.to_string()],
        conditions: Some(EndpointConditions {
            ready: Some(publish || (serving && !terminating)),
            serving: Some(serving),
            terminating: Some(terminating),
        }),
        hostname: hostname(service, pod),
        node_name: pods::node(pod).map(Into::into),
        target_ref: Some(ObjectReference {
            kind: Some("Pod".into()),
            namespace: pod.metadata.namespace.clone(),
            name: pod.metadata.name.clone(),
            uid: pod.metadata.uid.clone(),
            ..Default::default()
        }),
        zone: node.as_deref().and_then(zone).cloned(),
        ..Default::default()
    })
}

/// What makes an endpoint the same one over time.
fn identity(endpoint: &Endpoint) -> (Option<&String>, Option<&String>) {
    (endpoint.addresses.first(), endpoint.target_ref.as_ref().and_then(|r| r.uid.as_ref()))
}

fn is_ready(endpoint: &Endpoint) -> bool {
    endpoint.conditions.as_ref().and_then(|c| c.ready) == Some(true)
}

/// Says which nodes and zones each endpoint is meant for. All or none: a node whose endpoints had no hints among
/// others that do would be sent elsewhere.
fn hint(distribution: Option<&str>, endpoints: &mut [Endpoint]) {
    let same_node = distribution == Some("PreferSameNode");
    let same_zone = matches!(distribution, Some("PreferClose" | "PreferSameZone"));
    let known = |e: &Endpoint| if same_node { e.node_name.is_some() } else { e.zone.is_some() };
    if !(same_node || same_zone) || !endpoints.iter().filter(|e| is_ready(e)).all(known) {
        return;
    }
    for endpoint in endpoints.iter_mut().filter(|e| is_ready(e)) {
        let node = endpoint.node_name.clone().filter(|_| same_node).map(|name| vec![ForNode { name }]);
        let zone = endpoint.zone.clone().map(|name| vec![ForZone { name }]);
        endpoint.hints = Some(EndpointHints { for_nodes: node, for_zones: zone });
    }
}

/// Spreads the wanted endpoints over the existing slices, changing as few as possible.
fn pack(
    service: &Service,
    spec: &ServiceSpec,
    family: &'static str,
    existing: Vec<EndpointSlice>,
    mut wanted: Groups,
) -> Vec<Action> {
    let mut actions = Vec::new();
    let mut spare: Vec<EndpointSlice> = Vec::new();
    let mut by_ports: BTreeMap<Vec<Port>, Vec<EndpointSlice>> = BTreeMap::new();
    for slice in existing {
        let ports = slice_ports(&slice);
        if wanted.contains_key(&ports) {
            by_ports.entry(ports).or_default().push(slice);
        } else {
            spare.push(slice);
        }
    }
    if wanted.is_empty() {
        // One slice without endpoints says: there are none, rather than: nobody has looked.
        wanted.insert(Vec::new(), Vec::new());
        by_ports.insert(Vec::new(), spare.pop().into_iter().collect());
    }
    for (ports, endpoints) in wanted {
        let mut slices = by_ports.remove(&ports).unwrap_or_default();
        // A slice whose ports changed is used again rather than deleted.
        if slices.is_empty() {
            slices.extend(spare.pop());
        }
        let filled = fill(slices, endpoints);
        let placeholder = filled.iter().all(|(_, endpoints)| endpoints.is_empty());
        for (at, (slice, endpoints)) in filled.into_iter().enumerate() {
            match slice {
                // Empty slices go, except one when there are no endpoints at all.
                Some(empty) if endpoints.is_empty() && !(placeholder && at == 0) => {
                    actions.push(delete(&empty))
                }
                slice => actions.extend(write(service, spec, family, slice, endpoints, &ports)),
            }
        }
    }
    actions.extend(spare.iter().map(delete));
    actions
}

type Filled = Vec<(Option<EndpointSlice>, Vec<Endpoint>)>;

/// Endpoints stay in the slice where they are; new ones go where there is room.
fn fill(existing: Vec<EndpointSlice>, endpoints: Vec<Endpoint>) -> Filled {
    let mut left: Vec<Option<Endpoint>> = endpoints.into_iter().map(Some).collect();
    let mut filled: Filled = Vec::new();
    for slice in existing {
        let mut stay = Vec::new();
        for old in &slice.endpoints {
            let same = |e: &&mut Option<Endpoint>| e.as_ref().is_some_and(|e| identity(e) == identity(old));
            if stay.len() < CAPACITY {
                stay.extend(left.iter_mut().find(same).and_then(Option::take));
            }
        }
        filled.push((Some(slice), stay));
    }
    let mut rest = left.into_iter().flatten().peekable();
    // Slices that change anyway, the fullest first, take the new ones.
    filled.sort_by_key(|(slice, stay)| {
        let same = slice.as_ref().is_some_and(|s| s.endpoints == *stay);
        (same, std::cmp::Reverse(stay.len()))
    });
    for (_, stay) in &mut filled {
        while stay.len() < CAPACITY && rest.peek().is_some() {
            stay.extend(rest.next());
        }
    }
    while rest.peek().is_some() {
        filled.push((None, rest.by_ref().take(CAPACITY).collect()));
    }
    if filled.is_empty() {
        filled.push((None, Vec::new()));
    }
    filled
}

fn slice_ports(slice: &EndpointSlice) -> Vec<Port> {
    let port = |p: &EndpointPort| {
        Some(Port {
            name: p.name.clone().unwrap_or_default(),
            protocol: p.protocol.clone().unwrap_or_else(|| "TCP".into()),
            port: p.port?,
            app_protocol: p.app_protocol.clone(),
        })
    };
    let mut ports: Vec<Port> = slice.ports.iter().flatten().filter_map(port).collect();
    ports.sort();
    ports
}

/// Creates a slice, or updates it if it differs.
fn write(
    service: &Service,
    spec: &ServiceSpec,
    family: &'static str,
    slice: Option<EndpointSlice>,
    endpoints: Vec<Endpoint>,
    ports: &[Port],
) -> Option<Action> {
    let labels = labels(service, spec);
    let endpoint_port = |p: &Port| EndpointPort {
        name: Some(p.name.clone()),
        port: Some(p.port),
        protocol: Some(p.protocol.clone()),
        app_protocol: p.app_protocol.clone(),
    };
    let Some(old) = slice else {
        let name = service.metadata.name.as_deref().unwrap_or_default();
        let new = EndpointSlice {
            address_type: family.into(),
            endpoints,
            metadata: ObjectMeta {
                generate_name: Some(format!("{name}-")),
                namespace: service.metadata.namespace.clone(),
                labels: Some(labels),
                owner_references: Some(vec![owned_by(service)]),
                ..Default::default()
            },
            ports: Some(ports.iter().map(endpoint_port).collect()),
        };
        let resource = Resource::of::<EndpointSlice>();
        return Some(Action::Create { resource, object: json(&new), announce: None, exists_ok: false });
    };
    let mut new = old.clone();
    if slice_ports(&old) != ports {
        new.ports = Some(ports.iter().map(endpoint_port).collect());
    }
    new.endpoints = endpoints;
    new.metadata.labels = Some(labels);
    (new != old).then(|| update(&new, ""))
}

fn labels(service: &Service, spec: &ServiceSpec) -> crate::select::Labels {
    let mut labels = service_labels(service);
    labels.insert(SERVICE_NAME.into(), service.metadata.name.clone().unwrap_or_default());
    labels.insert(MANAGED_BY.into(), MANAGER.into());
    if is_headless(spec) {
        labels.insert(HEADLESS.into(), String::new());
    }
    labels
}

#[cfg(test)]
mod tests;
