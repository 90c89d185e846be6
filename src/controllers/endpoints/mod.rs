//! Which pods stand behind a Service: EndpointSlices, and the older Endpoints.
//!
//! Keeps true: a pod that is not ready, or is going, is never `ready` in either (unless the Service publishes such
//! addresses); a pod that has run to its end is in neither.

pub(crate) mod legacy;
pub(crate) mod slices;

use std::{net::IpAddr, sync::Arc};

use k8s_openapi::{
    api::core::v1::{Pod, Service, ServicePort, ServiceSpec},
    apimachinery::pkg::util::intstr::IntOrString,
};

use crate::{
    controller::Key,
    pods, select,
    store::{Delta, Stores},
};

/// The label of objects that belong to a Service without a cluster IP.
pub(crate) const HEADLESS: &str = "service.kubernetes.io/headless";

/// A port as a pod serves it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Port {
    pub(crate) name: String,
    pub(crate) protocol: String,
    pub(crate) port: i32,
    pub(crate) app_protocol: Option<String>,
}

/// The spec of a Service whose endpoints are found by selector.
pub(crate) fn selecting(service: &Service) -> Option<&ServiceSpec> {
    let spec = service.spec.as_ref()?;
    let external = spec.type_.as_deref() == Some("ExternalName");
    let selects = spec.selector.as_ref().is_some_and(|s| !s.is_empty());
    (selects && !external).then_some(spec)
}

pub(crate) fn is_headless(spec: &ServiceSpec) -> bool {
    spec.cluster_ip.as_deref() == Some("None")
}

/// Pods that the Service selects and that have an address and a life.
pub(crate) fn selected(stores: &Stores, service: &Service, spec: &ServiceSpec) -> Vec<Arc<Pod>> {
    let Some(selector) = spec.selector.as_ref() else { return Vec::new() };
    let namespace = service.metadata.namespace.as_deref().unwrap_or_default();
    let fits = |p: &Arc<Pod>| {
        select::contains(selector, &p.metadata) && !pods::is_finished(p) && !addresses(p).is_empty()
    };
    stores.pods.within(namespace).into_iter().filter(fits).collect()
}

/// A pod's addresses, the primary one first.
pub(crate) fn addresses(pod: &Pod) -> Vec<IpAddr> {
    let Some(status) = pod.status.as_ref() else { return Vec::new() };
    let all = status.pod_ips.iter().flatten().map(|ip| ip.ip.as_str());
    let mut found: Vec<IpAddr> = all.filter_map(|ip| ip.parse().ok()).collect();
    if found.is_empty() {
        found.extend(status.pod_ip.as_deref().and_then(|ip| ip.parse::<IpAddr>().ok()));
    }
    found
}

/// The Service's ports as this pod serves them; ports it does not have are left out.
pub(crate) fn ports(spec: &ServiceSpec, pod: &Pod) -> Vec<Port> {
    let mut found: Vec<Port> = spec.ports.iter().flatten().filter_map(|p| port(p, pod)).collect();
    found.sort();
    found
}

fn port(wanted: &ServicePort, pod: &Pod) -> Option<Port> {
    let protocol = wanted.protocol.clone().unwrap_or_else(|| "TCP".into());
    let number = match wanted.target_port.as_ref() {
        None => wanted.port,
        Some(IntOrString::Int(0)) => wanted.port,
        Some(IntOrString::Int(n)) => *n,
        Some(IntOrString::String(name)) => named(pod, name, &protocol)?,
    };
    let name = wanted.name.clone().unwrap_or_default();
    Some(Port { name, protocol, port: number, app_protocol: wanted.app_protocol.clone() })
}

fn named(pod: &Pod, name: &str, protocol: &str) -> Option<i32> {
    let spec = pod.spec.as_ref()?;
    // A sidecar is an init container that keeps running.
    let sidecars =
        spec.init_containers.iter().flatten().filter(|c| c.restart_policy.as_deref() == Some("Always"));
    let ports = spec.containers.iter().chain(sidecars).flat_map(|c| c.ports.iter().flatten());
    ports
        .filter(|p| p.name.as_deref() == Some(name) && p.protocol.as_deref().unwrap_or("TCP") == protocol)
        .map(|p| p.container_port)
        .next()
}

/// A pod's name in DNS, if the Service is the one that its subdomain names.
pub(crate) fn hostname(service: &Service, pod: &Pod) -> Option<String> {
    let spec = pod.spec.as_ref()?;
    let hostname = spec.hostname.clone().filter(|h| !h.is_empty())?;
    (spec.subdomain == service.metadata.name).then_some(hostname)
}

/// Services that a changed pod stands behind, or stood.
pub(crate) fn services_of(stores: &Stores, delta: &Delta<Pod>) -> Vec<Key> {
    if delta.old.as_deref().zip(delta.new.as_deref()).is_some_and(|(a, b)| shows_the_same(a, b)) {
        return Vec::new();
    }
    let namespace = delta.key().namespace;
    let wants = |s: &Service| {
        let selector = selecting(s).and_then(|spec| spec.selector.as_ref());
        selector.is_some_and(|sel| delta.both().any(|p| select::contains(sel, &p.metadata)))
    };
    let services = stores.services.within(&namespace);
    services.iter().filter(|s| wants(s)).map(|s| Key::of(&s.metadata)).collect()
}

/// Whether two states of a pod are the same to everybody who uses it as an endpoint.
fn shows_the_same(a: &Pod, b: &Pod) -> bool {
    let view = |p: &Pod| {
        let spec = p.spec.as_ref();
        (
            pods::is_ready(p),
            pods::is_finished(p),
            p.metadata.deletion_timestamp.is_some(),
            pods::node(p).map(ToOwned::to_owned),
            addresses(p),
            spec.and_then(|s| s.hostname.clone()),
        )
    };
    a.metadata.labels == b.metadata.labels && a.metadata.uid == b.metadata.uid && view(a) == view(b)
}

/// Labels that the Service's own labels must not overwrite.
pub(crate) fn service_labels(service: &Service) -> select::Labels {
    let mut labels = service.metadata.labels.clone().unwrap_or_default();
    labels.retain(|key, _| !key.starts_with("endpointslice.kubernetes.io/") && key != HEADLESS);
    labels.remove(crate::store::SERVICE_NAME);
    labels
}
