//! Which endpoints of a service port get traffic on this node.
//!
//! Keeps true: an endpoint that is not ready gets traffic only when none is ready and it still serves while it
//! terminates; a preference (same node, same zone) never leaves a service without endpoints that it has. Pure.

use std::collections::BTreeSet;
use std::net::{Ipv4Addr, SocketAddrV4};

use k8s_openapi::api::core::v1::Service;
use k8s_openapi::api::discovery::v1::{Endpoint, EndpointSlice};

/// This node.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NodeView {
    /// Its name.
    pub name: String,
    /// Value of its zone label.
    pub zone: Option<String>,
}

/// Where traffic of a service port may go.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Targets {
    /// For policy `Cluster`.
    pub(crate) cluster: BTreeSet<SocketAddrV4>,
    /// For policy `Local`.
    pub(crate) local: BTreeSet<SocketAddrV4>,
    /// Whether any endpoint, wherever it is, could serve.
    pub(crate) any: bool,
}

struct Candidate<'a> {
    address: SocketAddrV4,
    endpoint: &'a Endpoint,
}

impl Candidate<'_> {
    fn ready(&self) -> bool {
        self.endpoint.conditions.as_ref().and_then(|c| c.ready).unwrap_or(true)
    }

    fn serves_while_ending(&self) -> bool {
        let conditions = self.endpoint.conditions.as_ref();
        let ending = conditions.and_then(|c| c.terminating).unwrap_or(false);
        ending && conditions.and_then(|c| c.serving).unwrap_or_else(|| self.ready())
    }

    fn on(&self, node: &NodeView) -> bool {
        self.endpoint.node_name.as_deref() == Some(&node.name)
    }

    fn node_hints(&self) -> Option<Vec<&str>> {
        let hints = self.endpoint.hints.as_ref()?.for_nodes.as_ref()?;
        (!hints.is_empty()).then(|| hints.iter().map(|h| h.name.as_str()).collect())
    }

    fn zone_hints(&self) -> Option<Vec<&str>> {
        let hints = self.endpoint.hints.as_ref()?.for_zones.as_ref()?;
        (!hints.is_empty()).then(|| hints.iter().map(|h| h.name.as_str()).collect())
    }
}

/// Chooses among the endpoints of the port with this name and protocol.
pub(crate) fn choose(
    service: &Service,
    slices: &[&EndpointSlice],
    port: (&str, &str),
    node: &NodeView,
    prefer_same_node: bool,
) -> Targets {
    let all = candidates(slices, port);
    let usable = |on: &dyn Fn(&Candidate<'_>) -> bool| -> Vec<&Candidate<'_>> {
        let ready: Vec<_> = all.iter().filter(|c| on(c) && c.ready()).collect();
        if ready.is_empty() {
            all.iter().filter(|c| on(c) && c.serves_while_ending()).collect()
        } else {
            ready
        }
    };
    let everywhere = usable(&|_| true);
    let addresses = |from: Vec<&Candidate<'_>>| from.into_iter().map(|c| c.address).collect();
    Targets {
        any: !everywhere.is_empty(),
        local: addresses(usable(&|c| c.on(node))),
        cluster: addresses(near(service, everywhere, node, prefer_same_node)),
    }
}

fn candidates<'a>(slices: &[&'a EndpointSlice], (name, protocol): (&str, &str)) -> Vec<Candidate<'a>> {
    let mut found = Vec::new();
    for slice in slices.iter().filter(|s| s.address_type == "IPv4") {
        let wanted = slice.ports.iter().flatten().find(|p| {
            p.name.as_deref().unwrap_or_default() == name
                && p.protocol.as_deref().unwrap_or("TCP") == protocol
        });
        let Some(port) = wanted.and_then(|p| p.port).and_then(|p| u16::try_from(p).ok()) else { continue };
        for endpoint in &slice.endpoints {
            let address = endpoint.addresses.first().and_then(|a| a.parse::<Ipv4Addr>().ok());
            if let Some(address) = address {
                found.push(Candidate { address: SocketAddrV4::new(address, port), endpoint });
            }
        }
    }
    found
}

/// Narrows to the endpoints that are preferred for this node, where that leaves any.
fn near<'a>(
    service: &Service,
    all: Vec<&'a Candidate<'a>>,
    node: &NodeView,
    prefer_same_node: bool,
) -> Vec<&'a Candidate<'a>> {
    let mut preferences: Vec<Vec<&Candidate<'_>>> = Vec::new();
    if prefer_same_node {
        preferences.push(all.iter().filter(|c| c.on(node)).copied().collect());
    }
    if uses_hints(service) {
        preferences.push(hinted(&all, Candidate::node_hints, Some(&node.name)));
        preferences.push(hinted(&all, Candidate::zone_hints, node.zone.as_deref()));
    }
    preferences.into_iter().find(|p| !p.is_empty()).unwrap_or(all)
}

fn uses_hints(service: &Service) -> bool {
    let spec = service.spec.as_ref();
    let annotation =
        |key: &str| service.metadata.annotations.as_ref().and_then(|a| a.get(key)).map(String::as_str);
    spec.and_then(|s| s.traffic_distribution.as_deref()).is_some_and(|t| !t.is_empty())
        || annotation("service.kubernetes.io/topology-mode").is_some_and(|m| m.eq_ignore_ascii_case("auto"))
}

/// Endpoints hinted for `here`; none when some endpoint has no hint, for then the hints are being made.
fn hinted<'a>(
    all: &[&'a Candidate<'a>],
    hints: fn(&'a Candidate<'a>) -> Option<Vec<&'a str>>,
    here: Option<&str>,
) -> Vec<&'a Candidate<'a>> {
    let Some(here) = here.filter(|_| all.iter().all(|c| hints(c).is_some())) else { return Vec::new() };
    all.iter().filter(|c| hints(c).is_some_and(|h| h.contains(&here))).copied().collect()
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::{NodeView, choose};

    fn endpoint(ip: &str, node: &str, conditions: Value) -> Value {
        json!({"addresses": [ip], "nodeName": node, "conditions": conditions,
               "hints": {"forNodes": [{"name": node}], "forZones": [{"name": format!("zone-{node}")}]}})
    }

    fn check(service: Value, endpoints: &[Value], same_node: bool, cluster: &[&str], local: &[&str]) {
        let service = serde_json::from_value(json!({"metadata": {"name": "s"}, "spec": service})).unwrap();
        let slice = json!({"metadata": {"name": "s-1"}, "addressType": "IPv4", "endpoints": endpoints,
            "ports": [{"name": "http", "port": 80, "protocol": "TCP"}]});
        let slice = serde_json::from_value(slice).unwrap();
        let node = NodeView { name: "w1".to_owned(), zone: Some("zone-w2".to_owned()) };
        let got = choose(&service, &[&slice], ("http", "TCP"), &node, same_node);
        let text = |set: &std::collections::BTreeSet<std::net::SocketAddrV4>| -> Vec<String> {
            set.iter().map(|a| a.ip().to_string()).collect()
        };
        assert_eq!(
            (text(&got.cluster), text(&got.local)),
            (
                cluster.iter().map(|s| (*s).to_owned()).collect(),
                local.iter().map(|s| (*s).to_owned()).collect(),
            )
        );
    }

    #[test]
    fn only_what_is_ready_or_still_serves() {
        let ready = json!({"ready": true});
        let ending = json!({"ready": false, "serving": true, "terminating": true});
        let dead = json!({"ready": false, "serving": false, "terminating": true});
        let a = || endpoint("10.0.0.1", "w1", ready.clone());
        let b = || endpoint("10.0.0.2", "w2", ready.clone());
        check(json!({}), &[a(), b()], false, &["10.0.0.1", "10.0.0.2"], &["10.0.0.1"]);
        let (c, d) = (endpoint("10.0.0.3", "w1", ending.clone()), endpoint("10.0.0.4", "w1", dead));
        check(json!({}), &[b(), c.clone(), d.clone()], false, &["10.0.0.2"], &["10.0.0.3"]);
        check(json!({}), &[c, d], false, &["10.0.0.3"], &["10.0.0.3"]);
        check(json!({}), &[], false, &[], &[]);
    }

    #[test]
    fn preferences_narrow_but_never_empty() {
        let ready = json!({"ready": true});
        let a = || endpoint("10.0.0.1", "w1", ready.clone());
        let b = || endpoint("10.0.0.2", "w2", ready.clone());
        let c = || endpoint("10.0.0.3", "w3", ready.clone());
        let same = json!({"trafficDistribution": "PreferSameNode"});
        check(same.clone(), &[a(), b()], false, &["10.0.0.1"], &["10.0.0.1"]);
        check(same.clone(), &[b(), c()], false, &["10.0.0.2"], &[]);
        check(same.clone(), &[c()], false, &["10.0.0.3"], &[]);
        let unhinted = json!({"addresses": ["10.0.0.9"], "nodeName": "w9"});
        check(same, &[a(), unhinted], false, &["10.0.0.1", "10.0.0.9"], &["10.0.0.1"]);
        check(json!({}), &[a(), b()], true, &["10.0.0.1"], &["10.0.0.1"]);
        check(json!({}), &[b(), c()], true, &["10.0.0.2", "10.0.0.3"], &[]);
    }
}
