//! What a write of a Service takes and gives back. Pure: reads the Service before and after and what is known to
//! be taken, fills in the new one, and says which claims its transaction must make.

use std::collections::BTreeSet;
use std::net::IpAddr;

use api::Object;
use api::field::{FieldError, Path};
use serde_json::{Value, json};

use super::{Claim, ports, range};
use crate::flags::Config;

/// What is known to be taken.
pub(super) trait Taken {
    /// Whether the address is taken.
    fn address(&self, ip: IpAddr) -> bool;
    /// All taken node ports.
    fn ports(&self) -> BTreeSet<u16>;
}

/// A claim to make.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Wanted {
    pub(super) claim: Claim,
    /// The user asked for exactly this value.
    pub(super) explicit: bool,
    /// The field an error is about.
    pub(super) path: Path,
}

/// What a write takes and gives back.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Plan {
    pub(super) claim: Vec<Wanted>,
    pub(super) release: Vec<Claim>,
}

/// Everything a service holds.
pub(super) fn claims_of(service: &Object) -> Vec<Claim> {
    let addresses = addresses(service).into_iter().map(Claim::Address);
    addresses.chain(ports::of(service).into_iter().map(Claim::Port)).collect()
}

fn addresses(service: &Object) -> Vec<IpAddr> {
    if service.str_at("spec.type") == "ExternalName" {
        return Vec::new();
    }
    let list = service.list_at("spec.clusterIPs").iter().filter_map(Value::as_str);
    let mut all: Vec<IpAddr> = list.filter_map(|text| text.parse().ok()).collect();
    if let Ok(ip) = service.str_at("spec.clusterIP").parse()
        && !all.contains(&ip)
    {
        all.insert(0, ip);
    }
    all
}

/// Plans a write.
pub(super) fn plan(
    new: &mut Object,
    old: Option<&Object>,
    config: &Config,
    taken: &dyn Taken,
) -> Result<Plan, FieldError> {
    if let Some(old) = old {
        inherit(new, old);
    }
    let held = old.map(claims_of).unwrap_or_default();
    let mut plan = Plan::default();
    cluster_ip(new, config, taken, &held, &mut plan)?;
    node_ports(new, config, taken, &held, &mut plan)?;
    let kept = claims_of(new);
    plan.release = held.into_iter().filter(|claim| !kept.contains(claim)).collect();
    Ok(plan)
}

/// Fills what the writer left out with what the service has: an update need not repeat allocated values.
fn inherit(new: &mut Object, old: &Object) {
    let (had_ip, has_ip) =
        (old.str_at("spec.type") != "ExternalName", new.str_at("spec.type") != "ExternalName");
    if had_ip
        && has_ip
        && new.str_at("spec.clusterIP").is_empty()
        && new.list_at("spec.clusterIPs").is_empty()
    {
        for field in ["spec.clusterIP", "spec.clusterIPs"] {
            if let Some(value) = old.get(field) {
                new.set(field, value.clone());
            }
        }
    }
    if !ports::wanted(new) {
        drop_old_ports(new, old);
    } else if ports::wanted(old) {
        inherit_ports(new, old);
    }
    let health = "spec.healthCheckNodePort";
    match (ports::wants_health_check(new), old.i64_at(health)) {
        (true, Some(port)) if new.i64_at(health).unwrap_or_default() == 0 => new.set(health, port),
        (false, Some(port)) if new.i64_at(health) == Some(port) => drop(new.remove(health)),
        _ => {}
    }
}

/// A service that is no longer reachable by node ports loses those it had.
fn drop_old_ports(new: &mut Object, old: &Object) {
    let had: BTreeSet<u16> = old.list_at("spec.ports").iter().filter_map(ports::node_port).collect();
    let ports = new.get_mut("spec.ports").and_then(Value::as_array_mut);
    for port in ports.into_iter().flatten().filter_map(Value::as_object_mut) {
        let own = port.get("nodePort").and_then(Value::as_u64).and_then(|n| u16::try_from(n).ok());
        if own.is_some_and(|own| own == 0 || had.contains(&own)) {
            port.remove("nodePort");
        }
    }
}

fn inherit_ports(new: &mut Object, old: &Object) {
    let key = |port: &Value| (port.get("port").cloned(), protocol(port));
    let mut used: BTreeSet<(u16, String)> = new
        .list_at("spec.ports")
        .iter()
        .filter_map(|port| Some((ports::node_port(port)?, protocol(port))))
        .collect();
    let old_ports = old.list_at("spec.ports").to_vec();
    let ports = new.get_mut("spec.ports").and_then(Value::as_array_mut);
    for port in ports.into_iter().flatten() {
        if ports::node_port(port).is_some() {
            continue;
        }
        let same = old_ports.iter().find(|other| key(other) == key(port)).and_then(ports::node_port);
        if let Some(number) = same
            && used.insert((number, protocol(port)))
        {
            port["nodePort"] = json!(number);
        }
    }
}

fn protocol(port: &Value) -> String {
    port.get("protocol").and_then(Value::as_str).unwrap_or("TCP").to_owned()
}

fn cluster_ip(
    new: &mut Object,
    config: &Config,
    taken: &dyn Taken,
    held: &[Claim],
    plan: &mut Plan,
) -> Result<(), FieldError> {
    if new.str_at("spec.type") == "ExternalName" {
        for field in ["spec.clusterIP", "spec.clusterIPs", "spec.ipFamilies", "spec.ipFamilyPolicy"] {
            new.remove(field);
        }
        return Ok(());
    }
    let first = new.list_at("spec.clusterIPs").first().and_then(Value::as_str).map(str::to_owned);
    let given = match new.str_at("spec.clusterIP") {
        "" => first.unwrap_or_default(),
        given => given.to_owned(),
    };
    let net = &config.service_cidr;
    let path = Path::new("spec").child("clusterIPs");
    let value = match given.as_str() {
        "None" => given.clone(),
        "" => {
            let random = rand::random();
            let Some(ip) = range::choose_address(net, random, |ip| taken.address(ip)) else {
                return Err(FieldError::internal(&path, "failed to allocate a serviceIP: range is full"));
            };
            plan.claim.push(Wanted { claim: Claim::Address(ip), explicit: false, path });
            ip.to_string()
        }
        text => {
            // Text that is no address is validation's business.
            if let Ok(ip) = text.parse() {
                explicit_address(new, ip, config, held, plan)?;
            }
            given.clone()
        }
    };
    new.set("spec.clusterIP", value.as_str());
    if new.list_at("spec.clusterIPs").is_empty() {
        new.set("spec.clusterIPs", json!([value]));
    }
    families(new, net.addr().is_ipv6());
    Ok(())
}

fn families(new: &mut Object, v6: bool) {
    if new.list_at("spec.ipFamilies").is_empty() {
        new.set("spec.ipFamilies", json!([if v6 { "IPv6" } else { "IPv4" }]));
    }
    if new.str_at("spec.ipFamilyPolicy").is_empty() {
        new.set("spec.ipFamilyPolicy", "SingleStack");
    }
}

fn explicit_address(
    new: &Object,
    ip: IpAddr,
    config: &Config,
    held: &[Claim],
    plan: &mut Plan,
) -> Result<(), FieldError> {
    let claim = Claim::Address(ip);
    if held.contains(&claim) {
        return Ok(());
    }
    let path = Path::new("spec").child("clusterIPs");
    let net = &config.service_cidr;
    if !range::contains(net, ip) {
        let given = match new.list_at("spec.clusterIPs") {
            [] => json!([ip.to_string()]),
            list => json!(list),
        };
        let detail = format!(
            "failed to allocate IP {ip}: the provided IP ({ip}) is not in the valid range. The range of valid IPs is {net}"
        );
        return Err(FieldError::invalid(&path, given, detail));
    }
    plan.claim.push(Wanted { claim, explicit: true, path });
    Ok(())
}

fn node_ports(
    new: &mut Object,
    config: &Config,
    taken: &dyn Taken,
    held: &[Claim],
    plan: &mut Plan,
) -> Result<(), FieldError> {
    let mut chosen = ports::of(new);
    let base = Path::new("spec").child("ports");
    for (index, port) in new.list_at("spec.ports").iter().enumerate() {
        let path = base.index(index).child("nodePort");
        explicit_port(ports::node_port(port), path, config, held, plan)?;
    }
    if ports::wanted(new) {
        let known = taken.ports();
        let ports = new.get_mut("spec.ports").and_then(Value::as_array_mut);
        for (index, port) in ports.into_iter().flatten().enumerate() {
            if ports::node_port(port).is_none() {
                let path = base.index(index).child("nodePort");
                port["nodePort"] = json!(fresh_port(config, &known, &mut chosen, path, plan)?);
            }
        }
    }
    health_check(new, config, taken, held, &mut chosen, plan)
}

fn health_check(
    new: &mut Object,
    config: &Config,
    taken: &dyn Taken,
    held: &[Claim],
    chosen: &mut BTreeSet<u16>,
    plan: &mut Plan,
) -> Result<(), FieldError> {
    if !ports::wants_health_check(new) {
        return Ok(());
    }
    let field = "spec.healthCheckNodePort";
    let path = Path::new("spec").child("healthCheckNodePort");
    let given = new.i64_at(field).and_then(|port| u16::try_from(port).ok()).filter(|port| *port != 0);
    explicit_port(given, path.clone(), config, held, plan)?;
    if given.is_none() {
        let port = fresh_port(config, &taken.ports(), chosen, path, plan)?;
        new.set(field, port);
    }
    Ok(())
}

fn explicit_port(
    port: Option<u16>,
    path: Path,
    config: &Config,
    held: &[Claim],
    plan: &mut Plan,
) -> Result<(), FieldError> {
    let Some(number) = port else { return Ok(()) };
    let claim = Claim::Port(number);
    // One service may use a port twice, for two protocols.
    if held.contains(&claim) || plan.claim.iter().any(|wanted| wanted.claim == claim) {
        return Ok(());
    }
    let (first, last) = config.node_ports;
    if !(first..=last).contains(&number) {
        let detail =
            format!("provided port is not in the valid range. The range of valid ports is {first}-{last}");
        return Err(FieldError::invalid(&path, number, detail));
    }
    plan.claim.push(Wanted { claim, explicit: true, path });
    Ok(())
}

fn fresh_port(
    config: &Config,
    known: &BTreeSet<u16>,
    chosen: &mut BTreeSet<u16>,
    path: Path,
    plan: &mut Plan,
) -> Result<u16, FieldError> {
    let taken = |port: u16| known.contains(&port) || chosen.contains(&port);
    let Some(port) = range::choose_port(config.node_ports, rand::random(), taken) else {
        return Err(FieldError::internal(&path, "failed to allocate a nodePort: range is full"));
    };
    chosen.insert(port);
    plan.claim.push(Wanted { claim: Claim::Port(port), explicit: false, path });
    Ok(port)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::flags::tests::flags;

    struct Known(Vec<&'static str>, Vec<u16>);

    impl Taken for Known {
        fn address(&self, ip: IpAddr) -> bool {
            self.0.contains(&ip.to_string().as_str())
        }

        fn ports(&self) -> BTreeSet<u16> {
            self.1.iter().copied().collect()
        }
    }

    fn object(spec: Value) -> Object {
        Object::try_from(json!({"metadata": {"name": "s", "namespace": "a"}, "spec": spec})).unwrap()
    }

    fn config() -> Config {
        Config::try_from(flags(&[
            "--service-cluster-ip-range=10.0.0.0/30",
            "--service-node-port-range=30000-30001",
        ]))
        .unwrap()
    }

    /// Claims and releases, or the error's text.
    type Planned = Result<(Vec<String>, Vec<String>), String>;

    /// Plans on a range of two addresses and two ports; claims and releases as texts.
    fn run(new: Value, old: Option<Value>, known: &Known) -> (Object, Planned) {
        let mut new = object(new);
        let old = old.map(object);
        let planned = plan(&mut new, old.as_ref(), &config(), known);
        let text = |claim: &Claim| match claim {
            Claim::Address(ip) => ip.to_string(),
            Claim::Port(port) => port.to_string(),
        };
        let planned = planned.map_err(|error| format!("{}: {}", error.field, error.detail)).map(|plan| {
            let claims = plan.claim.iter().map(|wanted| text(&wanted.claim)).collect();
            (claims, plan.release.iter().map(text).collect())
        });
        (new, planned)
    }

    fn check(
        new: Value,
        old: Option<Value>,
        known: Known,
        expect: Result<(&[&str], &[&str]), &str>,
    ) -> Object {
        let shown = format!("{new} {old:?}");
        let (object, planned) = run(new, old, &known);
        let own = |list: &[&str]| list.iter().map(|text| (*text).to_owned()).collect::<Vec<_>>();
        let expect = expect.map(|(claims, releases)| (own(claims), own(releases))).map_err(str::to_owned);
        assert_eq!(planned, expect, "{shown}");
        object
    }

    #[test]
    fn creations() {
        let none = || Known(vec![], vec![]);
        let new = check(json!({}), None, Known(vec!["10.0.0.1"], vec![]), Ok((&["10.0.0.2"], &[])));
        assert_eq!(new.str_at("spec.clusterIP"), "10.0.0.2");
        assert_eq!(new.list_at("spec.clusterIPs"), [json!("10.0.0.2")]);
        assert_eq!(new.str_at("spec.ipFamilyPolicy"), "SingleStack");
        let new = check(json!({"clusterIP": "None"}), None, none(), Ok((&[], &[])));
        assert_eq!(new.list_at("spec.clusterIPs"), [json!("None")]);
        check(json!({"clusterIP": "10.0.0.1"}), None, none(), Ok((&["10.0.0.1"], &[])));
        check(json!({"type": "ExternalName"}), None, none(), Ok((&[], &[])));
        check(
            json!({}),
            None,
            Known(vec!["10.0.0.1", "10.0.0.2"], vec![]),
            Err("spec.clusterIPs: failed to allocate a serviceIP: range is full"),
        );
        check(
            json!({"clusterIP": "10.0.0.3"}),
            None,
            none(),
            Err(
                "spec.clusterIPs: failed to allocate IP 10.0.0.3: the provided IP (10.0.0.3) is not in the valid range. The range of valid IPs is 10.0.0.0/30",
            ),
        );
    }

    #[test]
    fn node_ports_of_creations() {
        let known = || Known(vec!["10.0.0.1"], vec![30000]);
        let new = check(
            json!({"type": "NodePort", "ports": [{"port": 80}]}),
            None,
            known(),
            Ok((&["10.0.0.2", "30001"], &[])),
        );
        assert_eq!(new.list_at("spec.ports")[0]["nodePort"], 30001);
        check(
            json!({"type": "NodePort", "ports": [{"port": 80, "nodePort": 30000}]}),
            None,
            known(),
            Ok((&["10.0.0.2", "30000"], &[])),
        );
        check(
            json!({"type": "NodePort", "ports": [{"port": 80, "nodePort": 80}]}),
            None,
            known(),
            Err(
                "spec.ports[0].nodePort: provided port is not in the valid range. The range of valid ports is 30000-30001",
            ),
        );
        check(
            json!({"type": "NodePort", "ports": [{"port": 80}, {"port": 81}]}),
            None,
            known(),
            Err("spec.ports[1].nodePort: failed to allocate a nodePort: range is full"),
        );
        check(
            json!({"type": "NodePort", "ports": [
                {"port": 53, "protocol": "UDP", "nodePort": 30001}, {"port": 53, "nodePort": 30001},
            ]}),
            None,
            known(),
            Ok((&["10.0.0.2", "30001"], &[])),
        );
        check(
            json!({"type": "LoadBalancer", "ports": [{"port": 80}], "allocateLoadBalancerNodePorts": false}),
            None,
            known(),
            Ok((&["10.0.0.2"], &[])),
        );
    }

    #[test]
    fn updates() {
        let none = || Known(vec!["10.0.0.1"], vec![]);
        let ip = json!({"clusterIP": "10.0.0.1", "clusterIPs": ["10.0.0.1"]});
        let ports = json!({
            "type": "NodePort", "clusterIP": "10.0.0.1", "clusterIPs": ["10.0.0.1"],
            "ports": [{"port": 80, "nodePort": 30000}],
        });
        let new = check(json!({}), Some(ip.clone()), none(), Ok((&[], &[])));
        assert_eq!(new.str_at("spec.clusterIP"), "10.0.0.1");
        check(json!({"type": "ExternalName"}), Some(ip.clone()), none(), Ok((&[], &["10.0.0.1"])));
        check(json!({}), Some(json!({"type": "ExternalName"})), none(), Ok((&["10.0.0.2"], &[])));
        let new = check(
            json!({"type": "NodePort", "ports": [{"port": 80}]}),
            Some(ports.clone()),
            none(),
            Ok((&[], &[])),
        );
        assert_eq!(new.list_at("spec.ports")[0]["nodePort"], 30000);
        let mut back = ports.clone();
        back["type"] = json!("ClusterIP");
        let new = check(back, Some(ports.clone()), none(), Ok((&[], &["30000"])));
        assert_eq!(new.list_at("spec.ports")[0].get("nodePort"), None);
        let mut other = ports.clone();
        other["ports"][0]["nodePort"] = json!(30001);
        check(other, Some(ports.clone()), none(), Ok((&["30001"], &["30000"])));
        assert_eq!(claims_of(&object(ports)).len(), 2);
    }
}
