//! Routes to the pods of other nodes and to services.
//!
//! Keeps true: routes of ours carry a protocol number of their own, and only those are ever removed; a route that
//! somebody else made is left alone. [`plan`] is pure; [`sync`] runs `ip` (iproute2).

use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::process::Stdio;
use std::sync::Arc;

use ipnet::Ipv4Net;
use k8s_openapi::api::core::v1::Node;
use serde::Deserialize;
use tokio::process::Command;

use crate::Error;

/// Marks our routes in the kernel (see rt_protos; numbers above 200 are free).
const PROTOCOL: &str = "213";
/// Interfaces that lead to containers, never to other hosts.
const INNER: [&str; 5] = ["lo", "cni", "veth", "docker", "br-"];

/// A route as the kernel has it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
pub(crate) struct Present {
    dst: String,
    #[serde(default)]
    gateway: Option<Ipv4Addr>,
    #[serde(default)]
    dev: Option<String>,
    #[serde(default)]
    protocol: Option<String>,
    #[serde(default)]
    scope: Option<String>,
}

impl Present {
    fn network(&self) -> Option<Ipv4Net> {
        match self.dst.as_str() {
            "default" => Some(Ipv4Net::default()),
            text => text.parse().ok().or_else(|| text.parse::<Ipv4Addr>().ok().map(Ipv4Net::from)),
        }
    }

    fn is_ours(&self) -> bool {
        self.protocol.as_deref() == Some(PROTOCOL)
    }
}

/// Where a route leads.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Way {
    Via(Ipv4Addr),
    Dev(String),
}

/// A change of the kernel's routes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Change {
    Set(Ipv4Net, Way),
    Remove(Ipv4Net),
}

/// What to change so that the routes fit the nodes. `own`: this node's name.
pub(crate) fn plan(
    nodes: &[Arc<Node>],
    own: &str,
    service: Option<Ipv4Net>,
    present: &[Present],
) -> Vec<Change> {
    let mut wanted: BTreeMap<Ipv4Net, Way> = BTreeMap::new();
    for node in nodes.iter().filter(|n| n.metadata.name.as_deref() != Some(own)) {
        let cidr = node.spec.as_ref().and_then(|s| s.pod_cidr.as_deref()?.parse().ok());
        if let Some((cidr, address)) = cidr.zip(internal_ip(node)) {
            wanted.insert(cidr, Way::Via(address));
        }
    }
    if let Some(network) = service.filter(|network| !covered(*network, present)) {
        wanted.extend(main_interface(nodes, present).map(|dev| (network, Way::Dev(dev))));
    }
    let mut changes = Vec::new();
    for route in present.iter().filter(|r| r.is_ours()) {
        changes.extend(route.network().filter(|n| !wanted.contains_key(n)).map(Change::Remove));
    }
    for (network, way) in wanted {
        let same = |r: &Present| r.network() == Some(network) && r.leads(&way);
        if !present.iter().any(same) {
            changes.push(Change::Set(network, way));
        }
    }
    changes
}

impl Present {
    fn leads(&self, way: &Way) -> bool {
        match way {
            Way::Via(address) => self.gateway == Some(*address),
            Way::Dev(name) => self.gateway.is_none() && self.dev.as_ref() == Some(name),
        }
    }
}

fn internal_ip(node: &Node) -> Option<Ipv4Addr> {
    let addresses = node.status.as_ref()?.addresses.as_deref()?;
    addresses.iter().filter(|a| a.type_ == "InternalIP").find_map(|a| a.address.parse().ok())
}

/// Whether somebody else's route leads to the services already.
fn covered(network: Ipv4Net, present: &[Present]) -> bool {
    present.iter().any(|r| !r.is_ours() && r.network().is_some_and(|n| n.contains(&network)))
}

/// The interface to other hosts: the one on a network with nodes, else the first on any network.
fn main_interface(nodes: &[Arc<Node>], present: &[Present]) -> Option<String> {
    let inner = |dev: &str| INNER.iter().any(|prefix| dev.starts_with(prefix));
    let direct = |r: &&Present| r.gateway.is_none() && r.scope.as_deref() == Some("link") && !r.is_ours();
    let outer = || present.iter().filter(direct).filter(|r| r.dev.as_deref().is_some_and(|d| !inner(d)));
    let addresses: Vec<Ipv4Addr> = nodes.iter().filter_map(|n| internal_ip(n)).collect();
    let has_nodes = |r: &&Present| r.network().is_some_and(|n| addresses.iter().any(|a| n.contains(a)));
    outer().find(has_nodes).or_else(|| outer().next()).and_then(|r| r.dev.clone())
}

/// Brings the kernel's routes to what the nodes ask for; tells how many changed.
pub async fn sync(nodes: &[Arc<Node>], own: &str, service: Option<Ipv4Net>) -> Result<usize, Error> {
    let changes = plan(nodes, own, service, &present().await?);
    let mut failure = None;
    for change in &changes {
        // One unreachable node must not cost the others their routes.
        failure = perform(change).await.err().or(failure);
    }
    failure.map_or(Ok(changes.len()), Err)
}

/// Removes all routes of ours.
pub(crate) async fn cleanup() -> Result<(), Error> {
    ip(&["-4", "route", "flush", "proto", PROTOCOL]).await.map(drop)
}

async fn present() -> Result<Vec<Present>, Error> {
    let text = ip(&["-4", "-j", "route", "show", "table", "main"]).await?;
    let text = if text.trim().is_empty() { "[]".to_owned() } else { text };
    serde_json::from_str(&text)
        .map_err(|e| Error::Refused { message: format!("ip route show is not readable: {e}") })
}

async fn perform(change: &Change) -> Result<(), Error> {
    let network = match change {
        Change::Set(network, _) | Change::Remove(network) => network.to_string(),
    };
    let arguments: Vec<String> = match change {
        Change::Set(_, Way::Via(address)) => {
            vec!["replace".into(), network, "via".into(), address.to_string()]
        }
        Change::Set(_, Way::Dev(name)) => vec!["replace".into(), network, "dev".into(), name.clone()],
        Change::Remove(_) => vec!["del".into(), network],
    };
    let mut all = vec!["-4", "route"];
    all.extend(arguments.iter().map(String::as_str));
    all.extend(["proto", PROTOCOL]);
    ip(&all).await.map(drop)
}

async fn ip(arguments: &[&str]) -> Result<String, Error> {
    let command = Command::new("ip").args(arguments).stdin(Stdio::null()).kill_on_drop(true).output();
    let output = command.await.map_err(|source| Error::Ip { source })?;
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
    }
    let why = String::from_utf8_lossy(&output.stderr).trim().to_owned();
    Err(Error::Refused { message: format!("ip {}: {why}", arguments.join(" ")) })
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use serde_json::{Value, json};

    use super::{Change, Present, Way, plan};

    fn node(name: &str, cidr: &str, address: &str) -> Value {
        json!({"metadata": {"name": name}, "spec": {"podCIDR": cidr},
               "status": {"addresses": [{"type": "InternalIP", "address": address}]}})
    }

    fn check(nodes: &[Value], routes: Value, expect: &[Change]) {
        let nodes: Vec<_> =
            nodes.iter().map(|n| Arc::new(serde_json::from_value(n.clone()).unwrap())).collect();
        let routes: Vec<Present> = serde_json::from_value(routes).unwrap();
        assert_eq!(plan(&nodes, "w1", Some("10.96.0.0/12".parse().unwrap()), &routes), expect);
    }

    #[test]
    fn routes_follow_the_nodes() {
        let set = |net: &str, way| Change::Set(net.parse().unwrap(), way);
        let via = |address: &str| Way::Via(address.parse().unwrap());
        let w1 = || node("w1", "10.244.1.0/24", "10.90.0.21");
        let w2 = || node("w2", "10.244.2.0/24", "10.90.0.22");
        let link = json!({"dst": "10.90.0.0/24", "dev": "eth0", "scope": "link", "protocol": "kernel"});
        let cni = json!({"dst": "10.244.1.0/24", "dev": "cni0", "scope": "link", "protocol": "kernel"});
        let service = set("10.96.0.0/12", Way::Dev("eth0".to_owned()));
        check(&[w1(), w2()], json!([cni, link]), &[service, set("10.244.2.0/24", via("10.90.0.22"))]);
        let ours = json!({"dst": "10.244.2.0/24", "gateway": "10.90.0.22", "dev": "eth0", "protocol": "213"});
        let services = json!({"dst": "10.96.0.0/12", "dev": "eth0", "scope": "link", "protocol": "213"});
        check(&[w1(), w2()], json!([link, ours, services]), &[]);
        check(&[w1()], json!([link, ours, services]), &[Change::Remove("10.244.2.0/24".parse().unwrap())]);
        let moved =
            json!({"dst": "10.244.2.0/24", "gateway": "10.90.0.99", "dev": "eth0", "protocol": "213"});
        check(&[w2()], json!([link, moved, services]), &[set("10.244.2.0/24", via("10.90.0.22"))]);
        let default = json!({"dst": "default", "gateway": "10.90.0.1", "dev": "eth0", "protocol": "boot"});
        check(&[w1()], json!([default, link]), &[]);
        check(&[], json!([]), &[]);
    }
}
