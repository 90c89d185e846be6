//! From services and endpoints to rules.
//!
//! A packet to a service's address and port is found in one map lookup, goes to the service's chain, from there
//! by chance (or by the client's affinity) to an endpoint's chain, and is given the endpoint's address:
//! ```text
//! hooks ─► services ─► map service-ips ───────────► service-… ─► endpoint-… (dnat)
//!                  └─► map service-nodeports ─► external-… ─┘
//! hooks ─► no-endpoint-services ─► reject        postrouting ─► masquerade what is marked
//! ```
//!
//! Keeps true: nothing but node ports is open on the node's own addresses, and those not on loopback; a service
//! without endpoints refuses at once. Pure. IPv4 only: dual-stack services are served by their IPv4 address.

use std::collections::{BTreeSet, HashMap};
use std::net::{Ipv4Addr, SocketAddrV4};
use std::sync::Arc;

use ipnet::Ipv4Net;
use k8s_openapi::api::core::v1::{Service, ServicePort, ServiceSpec};
use k8s_openapi::api::discovery::v1::EndpointSlice;

use crate::endpoints::{NodeView, Targets, choose};
use crate::ruleset::{Map, Ruleset};

/// Mark of packets whose source address must become the node's.
const MARK: &str = "0x4000";
const DEFAULT_AFFINITY_SECONDS: i32 = 10800;
/// nft's limit for names is 128 bytes.
const LONGEST_NAME: usize = 120;

/// What an administrator chooses.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Options {
    /// Addresses of pods.
    pub cluster_cidr: Option<Ipv4Net>,
    /// Local networks that node ports are open on; empty: all.
    pub node_port_networks: Vec<Ipv4Net>,
    /// Masquerade all traffic to services.
    pub masquerade_all: bool,
    /// Masquerade traffic of pods that leaves the cluster.
    pub masquerade_pods: bool,
    /// Prefer the endpoint on the same node for all services.
    pub prefer_same_node: bool,
}

/// The rules for this node.
#[must_use]
pub fn plan(
    services: &[Arc<Service>],
    slices: &[Arc<EndpointSlice>],
    node: &NodeView,
    options: &Options,
) -> Ruleset {
    let mut by_service: HashMap<(&str, &str), Vec<&EndpointSlice>> = HashMap::new();
    for slice in slices {
        let namespace = slice.metadata.namespace.as_deref().unwrap_or_default();
        let labels = slice.metadata.labels.as_ref();
        if let Some(name) = labels.and_then(|l| l.get("kubernetes.io/service-name")) {
            by_service.entry((namespace, name)).or_default().push(slice);
        }
    }
    let mut rules = Ruleset { base: base(options), ..Ruleset::default() };
    for service in services.iter().filter(|s| ours(s)) {
        let key = (
            service.metadata.namespace.as_deref().unwrap_or_default(),
            service.metadata.name.as_deref().unwrap_or_default(),
        );
        let mine = by_service.get(&key).map(Vec::as_slice).unwrap_or_default();
        let Some(spec) = &service.spec else { continue };
        for port in spec.ports.iter().flatten() {
            let protocol = port.protocol.as_deref().unwrap_or("TCP");
            let wanted = (port.name.as_deref().unwrap_or_default(), protocol);
            let targets = choose(service, mine, wanted, node, options.prefer_same_node);
            if let Some(port) = Port::new(service, spec, port, targets) {
                port.emit(&mut rules, options);
            }
        }
    }
    rules
}

/// Whether we serve it: it has an address, and nobody else claims it.
fn ours(service: &Service) -> bool {
    let foreign = service
        .metadata
        .labels
        .iter()
        .flatten()
        .any(|(k, _)| k == "service.kubernetes.io/service-proxy-name");
    let external = service.spec.as_ref().and_then(|s| s.type_.as_deref()) == Some("ExternalName");
    !foreign && !external
}

/// The chains with hooks, and those they share.
fn base(options: &Options) -> Vec<String> {
    let networks: Vec<String> = options.node_port_networks.iter().map(ToString::to_string).collect();
    let on_node = if networks.is_empty() {
        "fib daddr type local ip daddr != 127.0.0.0/8".to_owned()
    } else {
        format!("fib daddr type local ip daddr != 127.0.0.0/8 ip daddr {{ {} }}", networks.join(", "))
    };
    let mut lines = Vec::new();
    let mut chain = |name: &str, hook: &str, rules: &[String]| {
        let hook = if hook.is_empty() { String::new() } else { format!(" {{ type {hook} ; }}") };
        lines.push(format!("add chain ip {} {name}{hook}", crate::ruleset::TABLE));
        lines.extend(rules.iter().map(|r| format!("add rule ip {} {name} {r}", crate::ruleset::TABLE)));
    };
    let text = |rules: &[&str]| rules.iter().map(|r| (*r).to_owned()).collect::<Vec<_>>();
    chain("mark-for-masquerade", "", &text(&[&format!("meta mark set meta mark or {MARK}")]));
    chain("reject-chain", "", &text(&["reject"]));
    chain(
        "services",
        "",
        &text(&[
            "ip daddr . meta l4proto . th dport vmap @service-ips",
            &format!("{on_node} meta l4proto . th dport vmap @service-nodeports"),
        ]),
    );
    chain(
        "no-endpoints",
        "",
        &text(&[
            "ip daddr . meta l4proto . th dport vmap @no-endpoint-services",
            &format!("{on_node} meta l4proto . th dport vmap @no-endpoint-nodeports"),
        ]),
    );
    chain("unknown-ports", "", &text(&["ip daddr @cluster-ips reject"]));
    chain("masquerading", "", &masquerading(options));
    chain("nat-prerouting", "nat hook prerouting priority dstnat", &text(&["jump services"]));
    chain("nat-output", "nat hook output priority -100", &text(&["jump services"]));
    chain("nat-postrouting", "nat hook postrouting priority srcnat", &text(&["jump masquerading"]));
    chain("filter-input", "filter hook input priority filter", &text(&["ct state new jump no-endpoints"]));
    let forward = ["ct state new jump no-endpoints", "ct state new jump unknown-ports"];
    chain("filter-forward", "filter hook forward priority filter", &text(&forward));
    chain("filter-output", "filter hook output priority -110", &text(&["ct state new jump no-endpoints"]));
    let after = ["ct state new jump unknown-ports"];
    chain("filter-output-post-dnat", "filter hook output priority -90", &text(&after));
    lines
}

fn masquerading(options: &Options) -> Vec<String> {
    let marked =
        format!("meta mark & {MARK} == {MARK} meta mark set meta mark xor {MARK} masquerade fully-random");
    let pods = options.cluster_cidr.filter(|_| options.masquerade_pods);
    let leaving = pods.map(|pods| format!("ip saddr {pods} ip daddr != {pods} masquerade fully-random"));
    std::iter::once(marked).chain(leaving).collect()
}

/// One port of one service, with its targets.
struct Port<'a> {
    spec: &'a ServiceSpec,
    targets: Targets,
    /// `HASH-NAMESPACE/NAME/PROTOCOL/PORT`, unique and at most [`LONGEST_NAME`] bytes.
    id: String,
    protocol: String,
    address: Ipv4Addr,
    port: u16,
    node_port: Option<u16>,
    /// External addresses and those of a load balancer.
    external: BTreeSet<Ipv4Addr>,
}

impl<'a> Port<'a> {
    fn new(service: &Service, spec: &'a ServiceSpec, port: &ServicePort, targets: Targets) -> Option<Self> {
        let address =
            spec.cluster_ips.iter().flatten().chain(&spec.cluster_ip).find_map(|a| a.parse().ok())?;
        let number = u16::try_from(port.port).ok()?;
        let protocol = port.protocol.as_deref().unwrap_or("TCP").to_ascii_lowercase();
        if !matches!(protocol.as_str(), "tcp" | "udp" | "sctp") {
            return None;
        }
        let name = format!(
            "{}/{}/{protocol}/{}",
            service.metadata.namespace.as_deref().unwrap_or_default(),
            service.metadata.name.as_deref().unwrap_or_default(),
            port.name.as_deref().unwrap_or_default()
        );
        let node_port = port.node_port.and_then(|p| u16::try_from(p).ok()).filter(|p| *p != 0);
        let external = external_ips(service, spec);
        Some(Self { spec, targets, id: unique(&name), protocol, address, port: number, node_port, external })
    }

    fn emit(&self, rules: &mut Ruleset, options: &Options) {
        rules.addresses.insert(self.address);
        rules.elements.insert((Map::ClusterIps, self.address.to_string()), String::new());
        let internal_local = self.spec.internal_traffic_policy.as_deref() == Some("Local");
        let external_local = self.spec.external_traffic_policy.as_deref() == Some("Local");
        let internal = if internal_local { &self.targets.local } else { &self.targets.cluster };
        let is_external = self.node_port.is_some() || !self.external.is_empty();
        let refusal = |local: bool| if local && self.targets.any { "drop" } else { "goto reject-chain" };

        if internal.is_empty() {
            self.element(rules, Map::NoEndpointServices, self.address, refusal(internal_local));
        } else {
            let verdict = format!("goto {}", self.cluster_ip_chain(rules, options, internal_local));
            self.element(rules, Map::ServiceIps, self.address, &verdict);
        }
        self.note_udp(rules, self.address, internal);
        if !is_external {
            return;
        }
        let external = if external_local { &self.targets.local } else { &self.targets.cluster };
        let (map, node_map, verdict) = if external.is_empty() && (!external_local || !self.targets.any) {
            (Map::NoEndpointServices, Map::NoEndpointNodePorts, refusal(false).to_owned())
        } else {
            let chain = self.external_chain(rules, options, external_local);
            (Map::ServiceIps, Map::ServiceNodePorts, format!("goto {chain}"))
        };
        for &address in &self.external {
            self.element(rules, map, address, &verdict);
            self.note_udp(rules, address, external);
        }
        if let Some(port) = self.node_port {
            rules.elements.insert((node_map, format!("{} . {port}", self.protocol)), verdict);
            if self.protocol == "udp" {
                rules.udp.node_ports.insert(port, external.clone());
            }
        }
    }

    fn element(&self, rules: &mut Ruleset, map: Map, address: Ipv4Addr, verdict: &str) {
        let key = format!("{address} . {} . {}", self.protocol, self.port);
        rules.elements.insert((map, key), verdict.to_owned());
    }

    fn note_udp(&self, rules: &mut Ruleset, address: Ipv4Addr, targets: &BTreeSet<SocketAddrV4>) {
        if self.protocol == "udp" {
            rules.udp.services.insert(SocketAddrV4::new(address, self.port), targets.clone());
        }
    }

    /// What packets to the cluster address go through: from outside the pods' network they are masqueraded.
    fn cluster_ip_chain(&self, rules: &mut Ruleset, options: &Options, local: bool) -> String {
        let balance = self.balance_chain(rules, local);
        let condition = match (options.masquerade_all, options.cluster_cidr) {
            (true, _) => format!("ip daddr {}", self.address),
            (false, Some(pods)) => format!("ip daddr {} ip saddr != {pods}", self.address),
            (false, None) => return balance,
        };
        let name = format!("cluster-ip-{}", self.id);
        let lines = vec![format!("{condition} jump mark-for-masquerade"), format!("goto {balance}")];
        rules.chains.insert(name.clone(), lines);
        name
    }

    /// What packets to node ports and external addresses go through.
    fn external_chain(&self, rules: &mut Ruleset, options: &Options, local: bool) -> String {
        let name = format!("external-{}", self.id);
        let mut lines = Vec::new();
        if local {
            // Pods and the node itself are inside, so their traffic may go anywhere.
            if !self.targets.cluster.is_empty() {
                let anywhere = self.balance_chain(rules, false);
                lines.extend(options.cluster_cidr.map(|pods| format!("ip saddr {pods} goto {anywhere}")));
                lines.push("fib saddr type local jump mark-for-masquerade".to_owned());
                lines.push(format!("fib saddr type local goto {anywhere}"));
            }
            lines.push(match self.targets.local.is_empty() {
                true => "drop".to_owned(),
                false => format!("goto {}", self.balance_chain(rules, true)),
            });
        } else {
            lines.push("jump mark-for-masquerade".to_owned());
            lines.push(format!("goto {}", self.balance_chain(rules, false)));
        }
        rules.chains.insert(name.clone(), lines);
        name
    }

    /// The chain that picks an endpoint; made on first use.
    fn balance_chain(&self, rules: &mut Ruleset, local: bool) -> String {
        let (prefix, targets) =
            if local { ("local", &self.targets.local) } else { ("service", &self.targets.cluster) };
        let name = format!("{prefix}-{}", self.id);
        if rules.chains.contains_key(&name) {
            return name;
        }
        let chains: Vec<String> = targets.iter().map(|target| self.endpoint_chain(rules, *target)).collect();
        let mut lines: Vec<String> = Vec::new();
        if self.affinity().is_some() {
            let remembered = targets.iter().zip(&chains);
            lines.extend(
                remembered.map(|(t, chain)| format!("ip saddr @{} goto {chain}", self.affinity_set(*t))),
            );
        }
        let choices: Vec<String> =
            chains.iter().enumerate().map(|(i, c)| format!("{i} : goto {c}")).collect();
        lines.push(match chains.as_slice() {
            [only] => format!("goto {only}"),
            several => format!("numgen random mod {} vmap {{ {} }}", several.len(), choices.join(", ")),
        });
        rules.chains.insert(name.clone(), lines);
        name
    }

    /// The chain that sends a packet to one endpoint; a pod that reaches itself is masqueraded.
    fn endpoint_chain(&self, rules: &mut Ruleset, target: SocketAddrV4) -> String {
        let name = format!("endpoint-{}__{}/{}", self.id, target.ip(), target.port());
        let mut lines = vec![format!("ip saddr {} jump mark-for-masquerade", target.ip())];
        if let Some(seconds) = self.affinity() {
            let set = self.affinity_set(target);
            lines.push(format!("update @{set} {{ ip saddr timeout {seconds}s }}"));
            rules.affinity.insert(set, seconds);
        }
        lines.push(format!("meta l4proto {} dnat to {target}", self.protocol));
        rules.chains.insert(name.clone(), lines);
        name
    }

    fn affinity_set(&self, target: SocketAddrV4) -> String {
        format!("affinity-{}__{}/{}", self.id, target.ip(), target.port())
    }

    /// Seconds that a client is remembered, if clients are.
    fn affinity(&self) -> Option<u32> {
        if self.spec.session_affinity.as_deref() != Some("ClientIP") {
            return None;
        }
        let config = self.spec.session_affinity_config.as_ref().and_then(|c| c.client_ip.as_ref());
        let seconds = config.and_then(|c| c.timeout_seconds).unwrap_or(DEFAULT_AFFINITY_SECONDS);
        u32::try_from(seconds).ok()
    }
}

/// External addresses and those of a load balancer that wants packets to keep them.
fn external_ips(service: &Service, spec: &ServiceSpec) -> BTreeSet<Ipv4Addr> {
    let balancer = service.status.as_ref().and_then(|s| s.load_balancer.as_ref());
    let ingress = balancer.into_iter().flat_map(|b| b.ingress.iter().flatten());
    let direct = ingress.filter(|i| i.ip_mode.as_deref() != Some("Proxy")).filter_map(|i| i.ip.as_deref());
    let listed = spec.external_ips.iter().flatten().map(String::as_str).chain(direct);
    listed.filter_map(|a| a.parse().ok()).filter(|a: &Ipv4Addr| !a.is_loopback()).collect()
}

/// A name for chains: readable, and unique also when it had to be cut.
fn unique(name: &str) -> String {
    let hash =
        name.bytes().fold(0xcbf2_9ce4_8422_2325u64, |h, b| (h ^ u64::from(b)).wrapping_mul(0x0100_0000_01b3));
    // The rest of the longest name: "endpoint-", "HASH-", "__255.255.255.255/65535".
    let room = LONGEST_NAME - 9 - 17 - 23;
    format!("{hash:016x}-{}", name.get(..room).unwrap_or(name))
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use serde_json::{Value, json};

    use super::{NodeView, Options, plan};
    use crate::ruleset::Ruleset;

    fn service(spec: Value) -> Value {
        json!({"metadata": {"name": "web", "namespace": "shop"}, "spec": spec})
    }

    fn endpoints(list: &[(&str, &str)]) -> Value {
        let all: Vec<Value> =
            list.iter().map(|(ip, node)| json!({"addresses": [ip], "nodeName": node})).collect();
        json!({"metadata": {"name": "web-1", "namespace": "shop", "labels": {"kubernetes.io/service-name": "web"}},
               "addressType": "IPv4", "endpoints": all, "ports": [{"name": "http", "port": 8080, "protocol": "TCP"}]})
    }

    fn rules(service: &Value, endpoints: &Value) -> Ruleset {
        let node = NodeView { name: "w1".to_owned(), zone: None };
        let options = Options { cluster_cidr: Some("10.244.0.0/16".parse().unwrap()), ..Options::default() };
        let service = Arc::new(serde_json::from_value(service.clone()).unwrap());
        let slice = Arc::new(serde_json::from_value(endpoints.clone()).unwrap());
        plan(&[service], &[slice], &node, &options)
    }

    /// The text without the base, and with the service's id shortened.
    fn text(rules: &Ruleset) -> String {
        let bare = Ruleset { base: rules.base.clone(), ..Ruleset::default() };
        rules.difference(&bare).replace(" ip kube-proxy", "")
    }

    fn port() -> Value {
        json!({"name": "http", "port": 80, "protocol": "TCP"})
    }

    #[track_caller]
    fn check(spec: Value, list: &[(&str, &str)], expect: &str) {
        let got = text(&rules(&service(spec), &endpoints(list)));
        let id =
            got.split("-shop/web").next().and_then(|s| s.rsplit('-').next()).unwrap_or_default().to_owned();
        let got = got.replace(&format!("{id}-shop/web/tcp/http"), "ID");
        let expect: String = expect.lines().map(|l| format!("{}\n", l.trim())).collect();
        assert_eq!(got, expect, "\n{got}");
    }

    #[test]
    fn a_service_with_two_endpoints() {
        check(
            json!({"clusterIP": "10.96.0.5", "ports": [port()]}),
            &[("10.244.1.2", "w1"), ("10.244.2.3", "w2")],
            "add chain cluster-ip-ID
            add chain endpoint-ID__10.244.1.2/8080
            add chain endpoint-ID__10.244.2.3/8080
            add chain service-ID
            add rule cluster-ip-ID ip daddr 10.96.0.5 ip saddr != 10.244.0.0/16 jump mark-for-masquerade
            add rule cluster-ip-ID goto service-ID
            add rule endpoint-ID__10.244.1.2/8080 ip saddr 10.244.1.2 jump mark-for-masquerade
            add rule endpoint-ID__10.244.1.2/8080 meta l4proto tcp dnat to 10.244.1.2:8080
            add rule endpoint-ID__10.244.2.3/8080 ip saddr 10.244.2.3 jump mark-for-masquerade
            add rule endpoint-ID__10.244.2.3/8080 meta l4proto tcp dnat to 10.244.2.3:8080
            add rule service-ID numgen random mod 2 vmap { 0 : goto endpoint-ID__10.244.1.2/8080, 1 : goto endpoint-ID__10.244.2.3/8080 }
            add element service-ips { 10.96.0.5 . tcp . 80 : goto cluster-ip-ID }
            add element cluster-ips { 10.96.0.5 }",
        );
    }

    #[test]
    fn services_without_endpoints_refuse() {
        let mut node_port = port();
        node_port["nodePort"] = 30080.into();
        check(
            json!({"type": "NodePort", "clusterIP": "10.96.0.5", "ports": [node_port]}),
            &[],
            "add element no-endpoint-services { 10.96.0.5 . tcp . 80 : goto reject-chain }
            add element no-endpoint-nodeports { tcp . 30080 : goto reject-chain }
            add element cluster-ips { 10.96.0.5 }",
        );
        check(json!({"clusterIP": "None", "ports": [port()]}), &[("10.244.1.2", "w1")], "");
        check(json!({"type": "ExternalName", "externalName": "x"}), &[], "");
        check(
            json!({"clusterIP": "10.96.0.5", "internalTrafficPolicy": "Local", "ports": [port()]}),
            &[("10.244.2.3", "w2")],
            "add element no-endpoint-services { 10.96.0.5 . tcp . 80 : drop }
            add element cluster-ips { 10.96.0.5 }",
        );
    }

    #[test]
    fn node_ports_with_local_policy_keep_the_source() {
        let mut node_port = port();
        node_port["nodePort"] = 30080.into();
        check(
            json!({"type": "NodePort", "clusterIP": "10.96.0.5", "externalTrafficPolicy": "Local", "ports": [node_port]}),
            &[("10.244.1.2", "w1")],
            "add chain cluster-ip-ID
            add chain endpoint-ID__10.244.1.2/8080
            add chain external-ID
            add chain local-ID
            add chain service-ID
            add rule cluster-ip-ID ip daddr 10.96.0.5 ip saddr != 10.244.0.0/16 jump mark-for-masquerade
            add rule cluster-ip-ID goto service-ID
            add rule endpoint-ID__10.244.1.2/8080 ip saddr 10.244.1.2 jump mark-for-masquerade
            add rule endpoint-ID__10.244.1.2/8080 meta l4proto tcp dnat to 10.244.1.2:8080
            add rule external-ID ip saddr 10.244.0.0/16 goto service-ID
            add rule external-ID fib saddr type local jump mark-for-masquerade
            add rule external-ID fib saddr type local goto service-ID
            add rule external-ID goto local-ID
            add rule local-ID goto endpoint-ID__10.244.1.2/8080
            add rule service-ID goto endpoint-ID__10.244.1.2/8080
            add element service-ips { 10.96.0.5 . tcp . 80 : goto cluster-ip-ID }
            add element service-nodeports { tcp . 30080 : goto external-ID }
            add element cluster-ips { 10.96.0.5 }",
        );
    }

    #[test]
    fn affinity_remembers_clients() {
        let spec = json!({"clusterIP": "10.96.0.5", "ports": [port()], "sessionAffinity": "ClientIP",
            "sessionAffinityConfig": {"clientIP": {"timeoutSeconds": 60}}});
        let text = text(&rules(&service(spec), &endpoints(&[("10.244.1.2", "w1"), ("10.244.2.3", "w2")])));
        assert!(text.contains("{ type ipv4_addr ; flags dynamic, timeout ; timeout 60s ; }"), "{text}");
        assert!(text.contains("__10.244.1.2/8080 { ip saddr timeout 60s }"), "{text}");
        let remembered = text.find("ip saddr @affinity-").unwrap();
        assert!(remembered < text.find("numgen").unwrap(), "{text}");
    }

    #[test]
    fn only_what_changed_is_changed() {
        let spec = || service(json!({"clusterIP": "10.96.0.5", "ports": [port()]}));
        let two = rules(&spec(), &endpoints(&[("10.244.1.2", "w1"), ("10.244.2.3", "w2")]));
        let one = rules(&spec(), &endpoints(&[("10.244.2.3", "w2")]));
        assert_eq!(two.difference(&two), "");
        let change = one.difference(&two);
        let lines: Vec<&str> = change.lines().collect();
        assert_eq!(lines.len(), 4, "{change}");
        assert!(lines[0].starts_with("flush chain ip kube-proxy service-"));
        assert!(lines[1].contains("goto endpoint-"));
        assert!(lines[2].starts_with("flush chain ip kube-proxy endpoint-"));
        assert!(lines[3].starts_with("delete chain ip kube-proxy endpoint-"));
        let none = rules(&spec(), &endpoints(&[]));
        let change = none.difference(&one);
        assert!(
            change.contains("delete element ip kube-proxy service-ips { 10.96.0.5 . tcp . 80 }"),
            "{change}"
        );
        assert!(change.contains("add element ip kube-proxy no-endpoint-services"), "{change}");
    }

    #[test]
    fn names_stay_within_nfts_limit() {
        let long = super::unique(&"x".repeat(300));
        assert!(format!("endpoint-{long}__255.255.255.255/65535").len() <= 120);
        assert_ne!(long, super::unique(&"x".repeat(301)));
    }
}
