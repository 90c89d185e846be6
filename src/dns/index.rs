//! What names mean: services and their endpoints, as DNS sees them.
//!
//! Keeps true: the index shows each service as it is after the last change told, wherever slice and service
//! arrive in which order; addresses lead back to names. Knows nothing of DNS messages.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::IpAddr;
use std::sync::Arc;

use k8s_openapi::api::core::v1::Service;
use k8s_openapi::api::discovery::v1::EndpointSlice;

/// Namespace and name.
pub(crate) type Key = (String, String);

/// A named port.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Port {
    pub(crate) name: String,
    /// Lower case.
    pub(crate) protocol: String,
    pub(crate) number: u16,
}

/// An endpoint of a headless service.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Endpoint {
    pub(crate) address: IpAddr,
    /// First label of its own name: its host name, or its address with dashes.
    pub(crate) label: String,
    pub(crate) ports: Vec<Port>,
}

/// What a service's name stands for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Target {
    /// Its own addresses.
    Addresses(Vec<IpAddr>, Vec<Port>),
    /// Its endpoints.
    Headless(Vec<Endpoint>),
    /// Another name.
    External(String),
}

#[derive(Clone, Debug, Default)]
struct Known {
    service: Option<Arc<Service>>,
    slices: BTreeMap<String, Arc<EndpointSlice>>,
    target: Option<Target>,
}

/// All services of the cluster.
#[derive(Clone, Debug, Default)]
pub struct Index {
    known: BTreeMap<Key, Known>,
    /// Names of addresses: service, and label for endpoints.
    reverse: HashMap<IpAddr, BTreeSet<(Key, Option<String>)>>,
}

impl Index {
    /// A service came, changed or went.
    pub fn service(&mut self, namespace: &str, name: &str, service: Option<Arc<Service>>) {
        self.change((namespace.to_owned(), name.to_owned()), |known| known.service = service);
    }

    /// A slice came, changed or went; `old` tells which service it was about.
    pub fn slice(&mut self, old: Option<&Arc<EndpointSlice>>, new: Option<&Arc<EndpointSlice>>) {
        if let Some((key, name)) = old.and_then(|s| about(s)) {
            self.change(key, |known| drop(known.slices.remove(&name)));
        }
        if let Some((slice, (key, name))) = new.and_then(|s| Some((s, about(s)?))) {
            self.change(key, |known| drop(known.slices.insert(name, slice.clone())));
        }
    }

    fn change(&mut self, key: Key, change: impl FnOnce(&mut Known)) {
        let known = self.known.entry(key.clone()).or_default();
        let old = known.target.take();
        change(known);
        let new = target(known);
        known.target.clone_from(&new);
        if known.service.is_none() && known.slices.is_empty() {
            self.known.remove(&key);
        }
        for (address, label) in old.iter().flat_map(addresses) {
            let empty = self.reverse.get_mut(&address).is_some_and(|names| {
                names.remove(&(key.clone(), label));
                names.is_empty()
            });
            if empty {
                self.reverse.remove(&address);
            }
        }
        for (address, label) in new.iter().flat_map(addresses) {
            self.reverse.entry(address).or_default().insert((key.clone(), label));
        }
    }

    pub(crate) fn target(&self, namespace: &str, name: &str) -> Option<&Target> {
        self.known.get(&(namespace.to_owned(), name.to_owned()))?.target.as_ref()
    }

    /// Whether any service lives there.
    pub(crate) fn has_namespace(&self, namespace: &str) -> bool {
        let from = (namespace.to_owned(), String::new());
        self.known
            .range(from..)
            .take_while(|((n, _), _)| n == namespace)
            .any(|(_, known)| known.target.is_some())
    }

    pub(crate) fn names_of(&self, address: IpAddr) -> impl Iterator<Item = &(Key, Option<String>)> {
        self.reverse.get(&address).into_iter().flatten()
    }
}

fn about(slice: &EndpointSlice) -> Option<(Key, String)> {
    let meta = &slice.metadata;
    let service = meta.labels.as_ref()?.get("kubernetes.io/service-name")?.clone();
    Some(((meta.namespace.clone().unwrap_or_default(), service), meta.name.clone().unwrap_or_default()))
}

fn addresses(target: &Target) -> Vec<(IpAddr, Option<String>)> {
    match target {
        Target::Addresses(addresses, _) => addresses.iter().map(|a| (*a, None)).collect(),
        Target::Headless(endpoints) => endpoints.iter().map(|e| (e.address, Some(e.label.clone()))).collect(),
        Target::External(_) => Vec::new(),
    }
}

fn target(known: &Known) -> Option<Target> {
    let spec = known.service.as_ref()?.spec.as_ref()?;
    if spec.type_.as_deref() == Some("ExternalName") {
        return spec.external_name.clone().map(Target::External);
    }
    let listed = spec.cluster_ips.iter().flatten().chain(&spec.cluster_ip);
    let addresses: BTreeSet<IpAddr> = listed.clone().filter_map(|a| a.parse().ok()).collect();
    let headless = listed.clone().any(|a| a == "None");
    if headless {
        let unready = spec.publish_not_ready_addresses == Some(true);
        let endpoints = known.slices.values().flat_map(|s| endpoints(s, unready)).collect::<BTreeSet<_>>();
        return Some(Target::Headless(endpoints.into_iter().collect()));
    }
    let ports = spec.ports.iter().flatten().filter_map(|p| {
        let name = p.name.clone().unwrap_or_default();
        let protocol = p.protocol.as_deref().unwrap_or("TCP").to_ascii_lowercase();
        Some(Port { name, protocol, number: u16::try_from(p.port).ok()? })
    });
    Some(Target::Addresses(addresses.into_iter().collect(), ports.collect()))
}

fn endpoints(slice: &EndpointSlice, unready: bool) -> Vec<Endpoint> {
    let ports = slice.ports.iter().flatten().filter_map(|p| {
        let name = p.name.clone().unwrap_or_default();
        let protocol = p.protocol.as_deref().unwrap_or("TCP").to_ascii_lowercase();
        Some(Port { name, protocol, number: u16::try_from(p.port?).ok()? })
    });
    let ports: Vec<Port> = ports.collect();
    let ready = |e: &&k8s_openapi::api::discovery::v1::Endpoint| {
        unready || e.conditions.as_ref().and_then(|c| c.ready).unwrap_or(true)
    };
    let usable = slice.endpoints.iter().filter(ready);
    let each = usable.flat_map(|e| {
        let hostname = e.hostname.as_ref().filter(|h| !h.is_empty()).map(|h| h.to_ascii_lowercase());
        let ports = ports.clone();
        e.addresses.iter().filter_map(move |address| {
            let address: IpAddr = address.parse().ok()?;
            let label = hostname.clone().unwrap_or_else(|| dashed(address));
            Some(Endpoint { address, label, ports: ports.clone() })
        })
    });
    each.collect()
}

/// `10.0.0.1` as a label: `10-0-0-1`.
fn dashed(address: IpAddr) -> String {
    address.to_string().replace(['.', ':'], "-")
}
