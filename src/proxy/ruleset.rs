//! The rules as data, as nftables text, and as the difference between two of them.
//!
//! Keeps true: both texts are one transaction each, so traffic sees the old rules or the new ones; the
//! difference leaves alone what did not change (also the memory of client affinity). Knows nft's language,
//! nothing of services.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;
use std::net::{Ipv4Addr, SocketAddrV4};

/// Name of the table; everything of ours is in it.
pub const TABLE: &str = "kube-proxy";

/// Maps and sets with elements.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Map {
    /// Address, protocol, port → verdict.
    ServiceIps,
    /// Protocol, node port → verdict.
    ServiceNodePorts,
    /// What has no endpoints, by address.
    NoEndpointServices,
    /// What has no endpoints, by node port.
    NoEndpointNodePorts,
    /// All cluster addresses, to refuse ports that no service has.
    ClusterIps,
}

impl Map {
    pub(crate) const ALL: [Self; 5] = [
        Self::ServiceIps,
        Self::ServiceNodePorts,
        Self::NoEndpointServices,
        Self::NoEndpointNodePorts,
        Self::ClusterIps,
    ];

    fn name(self) -> &'static str {
        match self {
            Self::ServiceIps => "service-ips",
            Self::ServiceNodePorts => "service-nodeports",
            Self::NoEndpointServices => "no-endpoint-services",
            Self::NoEndpointNodePorts => "no-endpoint-nodeports",
            Self::ClusterIps => "cluster-ips",
        }
    }

    fn declaration(self) -> String {
        let name = self.name();
        match self {
            Self::ServiceIps | Self::NoEndpointServices => {
                format!(
                    "add map ip {TABLE} {name} {{ type ipv4_addr . inet_proto . inet_service : verdict ; }}"
                )
            }
            Self::ServiceNodePorts | Self::NoEndpointNodePorts => {
                format!("add map ip {TABLE} {name} {{ type inet_proto . inet_service : verdict ; }}")
            }
            Self::ClusterIps => format!("add set ip {TABLE} {name} {{ type ipv4_addr ; }}"),
        }
    }
}

/// Endpoints of everything that is served over UDP, to find connections that go elsewhere.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Udp {
    /// By address and port of the service.
    pub services: BTreeMap<SocketAddrV4, BTreeSet<SocketAddrV4>>,
    /// By node port.
    pub node_ports: BTreeMap<u16, BTreeSet<SocketAddrV4>>,
}

/// Everything that the kernel should do for services.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Ruleset {
    /// Chains with hooks and what they jump to; fixed while the options are.
    pub(crate) base: Vec<String>,
    /// Rules of each service and endpoint chain.
    pub(crate) chains: BTreeMap<String, Vec<String>>,
    /// Sets that remember clients, with their timeout in seconds.
    pub(crate) affinity: BTreeMap<String, u32>,
    /// Elements with their verdicts; sets have none.
    pub(crate) elements: BTreeMap<(Map, String), String>,
    /// What is served over UDP.
    pub udp: Udp,
    /// Cluster addresses.
    pub addresses: BTreeSet<Ipv4Addr>,
}

impl Ruleset {
    /// The text that makes the whole table anew.
    #[must_use]
    pub fn render(&self) -> String {
        let mut text = String::new();
        line(&mut text, format_args!("add table ip {TABLE}"));
        line(&mut text, format_args!("delete table ip {TABLE}"));
        line(&mut text, format_args!("add table ip {TABLE}"));
        for map in Map::ALL {
            line(&mut text, format_args!("{}", map.declaration()));
        }
        for base in &self.base {
            line(&mut text, format_args!("{base}"));
        }
        let empty = Self { base: self.base.clone(), ..Self::default() };
        text + &self.difference(&empty)
    }

    /// The text that turns `old` into this; empty when they are the same.
    #[must_use]
    pub fn difference(&self, old: &Self) -> String {
        let mut text = String::new();
        self.add_names(old, &mut text);
        self.fill_chains(old, &mut text);
        self.change_elements(old, &mut text);
        self.remove_names(old, &mut text);
        text
    }

    fn add_names(&self, old: &Self, text: &mut String) {
        for (name, timeout) in self.affinity.iter().filter(|(n, t)| old.affinity.get(*n) != Some(t)) {
            if old.affinity.contains_key(name) {
                // Its timeout changed: whoever uses it is changed in this transaction, too.
                line(text, format_args!("flush set ip {TABLE} {name}"));
                continue;
            }
            line(
                text,
                format_args!(
                    "add set ip {TABLE} {name} {{ type ipv4_addr ; flags dynamic, timeout ; timeout {timeout}s ; }}"
                ),
            );
        }
        for name in self.chains.keys().filter(|n| !old.chains.contains_key(*n)) {
            line(text, format_args!("add chain ip {TABLE} {name}"));
        }
    }

    fn fill_chains(&self, old: &Self, text: &mut String) {
        for (name, rules) in &self.chains {
            match old.chains.get(name) {
                Some(before) if before == rules => continue,
                Some(_) => line(text, format_args!("flush chain ip {TABLE} {name}")),
                None => {}
            }
            for rule in rules {
                line(text, format_args!("add rule ip {TABLE} {name} {rule}"));
            }
        }
    }

    fn change_elements(&self, old: &Self, text: &mut String) {
        for ((map, key), verdict) in &old.elements {
            if self.elements.get(&(*map, key.clone())) != Some(verdict) {
                line(text, format_args!("delete element ip {TABLE} {} {{ {key} }}", map.name()));
            }
        }
        for ((map, key), verdict) in &self.elements {
            if old.elements.get(&(*map, key.clone())) == Some(verdict) {
                continue;
            }
            let value = if verdict.is_empty() { String::new() } else { format!(" : {verdict}") };
            line(text, format_args!("add element ip {TABLE} {} {{ {key}{value} }}", map.name()));
        }
    }

    /// Chains are emptied before any is deleted, since they refer to each other and to sets.
    fn remove_names(&self, old: &Self, text: &mut String) {
        let gone: Vec<&String> = old.chains.keys().filter(|n| !self.chains.contains_key(*n)).collect();
        for name in &gone {
            line(text, format_args!("flush chain ip {TABLE} {name}"));
        }
        for name in &gone {
            line(text, format_args!("delete chain ip {TABLE} {name}"));
        }
        for name in old.affinity.keys().filter(|n| !self.affinity.contains_key(*n)) {
            line(text, format_args!("delete set ip {TABLE} {name}"));
        }
    }
}

fn line(text: &mut String, content: std::fmt::Arguments<'_>) {
    writeln!(text, "{content}").expect("writing to a string does not fail");
}
