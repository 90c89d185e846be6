//! The answer to a question about the cluster, after the Kubernetes DNS specification 1.1.
//!
//! | name | answers |
//! |---|---|
//! | `SVC.NS.svc.DOMAIN` | addresses of the service or of its endpoints, or an alias |
//! | `_PORT._PROTO.SVC.NS.svc.DOMAIN` | SRV |
//! | `HOST.SVC.NS.svc.DOMAIN` | address of one endpoint of a headless service |
//! | `A-B-C-D.NS.pod.DOMAIN` | that address |
//! | reverse names | services, endpoints of headless services |
//!
//! Keeps true: a name that exists but has no such record is no error (NODATA); one that does not exist, nor
//! anything below it, is NXDOMAIN. Pure.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use hickory_server::proto::rr::rdata::{CNAME, NS, PTR, SOA, SRV, TXT};
use hickory_server::proto::rr::{Name, RData, Record, RecordType};

use crate::index::{Endpoint, Index, Port, Target};

/// How long answers may be kept, in seconds; also for "there is no such name".
pub(crate) const TTL: u32 = 5;
/// Version of the specification.
const SCHEMA: &str = "1.1.0";
const SRV_WEIGHT: u16 = 100;

/// What is asked.
#[derive(Clone, Debug)]
pub struct Question {
    /// The name as the client wrote it.
    pub name: Name,
    /// The kind of record.
    pub kind: RecordType,
}

/// What is answered.
#[derive(Clone, Debug, PartialEq)]
pub enum Answer {
    /// Records, and others that the client will ask for next.
    Found {
        /// The answer.
        records: Vec<Record>,
        /// Addresses of names in the answer.
        additional: Vec<Record>,
    },
    /// The name exists, but has no such record.
    NoData,
    /// The name does not exist.
    NoName,
    /// Not a name of the cluster.
    Foreign,
}

/// Answers from the index. `domain` is the cluster's domain in lower case, without a final dot.
#[must_use]
pub fn answer(index: &Index, domain: &str, question: &Question) -> Answer {
    resolve(&Zone { index, domain, question }, true)
}

/// The zone's SOA, which goes with [`Answer::NoData`] and [`Answer::NoName`].
#[must_use]
pub fn authority(domain: &str) -> Option<Record> {
    let (zone, server) = (name(domain)?, name(&format!("ns.dns.{domain}"))?);
    let soa = SOA::new(server, name(&format!("hostmaster.{domain}"))?, 1, 7200, 1800, 86400, TTL);
    Some(Record::from_rdata(zone, TTL, RData::SOA(soa)))
}

struct Zone<'a> {
    index: &'a Index,
    domain: &'a str,
    question: &'a Question,
}

fn name(text: &str) -> Option<Name> {
    Name::from_ascii(format!("{text}.")).ok()
}

fn resolve(zone: &Zone<'_>, follow: bool) -> Answer {
    let text = zone.question.name.to_ascii().to_ascii_lowercase();
    let text = text.trim_end_matches('.');
    if let Some(address) = reverse_address(text) {
        return zone.reverse(address);
    }
    let Some(inside) = text.strip_suffix(zone.domain).filter(|i| i.is_empty() || i.ends_with('.')) else {
        return Answer::Foreign;
    };
    let mut labels: Vec<&str> = inside.trim_end_matches('.').split('.').filter(|l| !l.is_empty()).collect();
    labels.reverse();
    match labels.as_slice() {
        [] => zone.apex(),
        ["dns-version"] => zone.text(SCHEMA),
        ["svc" | "pod"] => Answer::NoData,
        ["svc" | "pod", namespace] => exists(zone.index.has_namespace(namespace)),
        ["pod", _, address] => zone.pod(address),
        ["svc", namespace, service, rest @ ..] => zone.service(namespace, service, rest, follow),
        ["dns"] => Answer::NoData,
        ["dns", "ns"] => zone.server(),
        _ => Answer::NoName,
    }
}

fn exists(there: bool) -> Answer {
    if there { Answer::NoData } else { Answer::NoName }
}

impl Zone<'_> {
    fn record(&self, data: RData) -> Record {
        Record::from_rdata(self.question.name.clone(), TTL, data)
    }

    fn wants(&self, kind: RecordType) -> bool {
        self.question.kind == kind || self.question.kind == RecordType::ANY
    }

    fn found(records: Vec<Record>) -> Answer {
        if records.is_empty() { Answer::NoData } else { Answer::Found { records, additional: Vec::new() } }
    }

    fn apex(&self) -> Answer {
        let mut records = Vec::new();
        if self.wants(RecordType::SOA) {
            records.extend(authority(self.domain));
        }
        if self.wants(RecordType::NS) {
            let server = name(&format!("ns.dns.{}", self.domain));
            records.extend(server.map(|n| self.record(RData::NS(NS(n)))));
        }
        Self::found(records)
    }

    fn text(&self, text: &str) -> Answer {
        let record =
            self.wants(RecordType::TXT).then(|| self.record(RData::TXT(TXT::new(vec![text.to_owned()]))));
        Self::found(record.into_iter().collect())
    }

    /// The name server is the service that people find it by.
    fn server(&self) -> Answer {
        match self.index.target("kube-system", "kube-dns") {
            Some(Target::Addresses(addresses, _)) => self.addresses(addresses.iter().copied()),
            _ => Answer::NoData,
        }
    }

    fn addresses(&self, addresses: impl Iterator<Item = IpAddr>) -> Answer {
        let records = addresses.filter_map(|address| {
            let (kind, data) = address_data(address);
            self.wants(kind).then(|| self.record(data))
        });
        Self::found(records.collect())
    }

    fn pod(&self, label: &str) -> Answer {
        let v4 = label.replace('-', ".").parse::<Ipv4Addr>().map(IpAddr::V4);
        let address = v4.or_else(|_| label.replace('-', ":").parse::<Ipv6Addr>().map(IpAddr::V6));
        address.map_or(Answer::NoName, |address| self.addresses(std::iter::once(address)))
    }

    fn service(&self, namespace: &str, service: &str, rest: &[&str], follow: bool) -> Answer {
        let Some(target) = self.index.target(namespace, service) else { return Answer::NoName };
        let base = format!("{service}.{namespace}.svc.{}", self.domain);
        match (target, rest) {
            (Target::External(other), []) => self.alias(other, follow),
            (Target::Addresses(addresses, ports), []) => {
                if self.question.kind == RecordType::SRV {
                    return self.services(&base, addresses, ports.iter().collect());
                }
                self.addresses(addresses.iter().copied())
            }
            (Target::Headless(endpoints), []) => {
                if self.question.kind == RecordType::SRV {
                    return self.endpoint_services(&base, endpoints, &|_| true);
                }
                self.addresses(endpoints.iter().map(|e| e.address))
            }
            (Target::Headless(endpoints), [label]) if !label.starts_with('_') => {
                let mine: Vec<_> =
                    endpoints.iter().filter(|e| e.label == *label).map(|e| e.address).collect();
                if mine.is_empty() { self.below(target, rest) } else { self.addresses(mine.into_iter()) }
            }
            (target, [protocol, port]) => self.port(&base, target, protocol, port),
            (target, rest) => self.below(target, rest),
        }
    }

    /// `_PROTO.SVC…` exists if a port is below it.
    fn below(&self, target: &Target, rest: &[&str]) -> Answer {
        let [protocol] = rest else { return Answer::NoName };
        let has = |ports: &[Port]| ports.iter().any(|p| protocol.strip_prefix('_') == Some(&p.protocol));
        exists(match target {
            Target::Addresses(_, ports) => has(ports),
            Target::Headless(endpoints) => endpoints.iter().any(|e| has(&e.ports)),
            Target::External(_) => false,
        })
    }

    fn port(&self, base: &str, target: &Target, protocol: &str, port: &str) -> Answer {
        let (Some(protocol), Some(port)) = (protocol.strip_prefix('_'), port.strip_prefix('_')) else {
            return Answer::NoName;
        };
        let wanted = |p: &Port| p.protocol == protocol && p.name == port && !port.is_empty();
        let (there, found) = match target {
            Target::Addresses(addresses, ports) => {
                let ports: Vec<&Port> = ports.iter().filter(|p| wanted(p)).collect();
                (!ports.is_empty(), self.services(base, addresses, ports))
            }
            Target::Headless(endpoints) => {
                let there = endpoints.iter().any(|e| e.ports.iter().any(wanted));
                (there, self.endpoint_services(base, endpoints, &wanted))
            }
            Target::External(_) => (false, Answer::NoName),
        };
        match (there, self.wants(RecordType::SRV)) {
            (false, _) => Answer::NoName,
            (true, false) => Answer::NoData,
            (true, true) => found,
        }
    }

    fn services(&self, base: &str, addresses: &[IpAddr], ports: Vec<&Port>) -> Answer {
        let Some(target) = name(base) else { return Answer::NoName };
        let srv = |p: &Port| self.record(RData::SRV(SRV::new(0, SRV_WEIGHT, p.number, target.clone())));
        let records: Vec<Record> = ports.into_iter().map(srv).collect();
        if records.is_empty() {
            return Answer::NoData;
        }
        let additional =
            addresses.iter().map(|a| Record::from_rdata(target.clone(), TTL, address_data(*a).1));
        Answer::Found { records, additional: additional.collect() }
    }

    fn endpoint_services(
        &self,
        base: &str,
        endpoints: &[Endpoint],
        wanted: &dyn Fn(&Port) -> bool,
    ) -> Answer {
        let (mut records, mut additional) = (Vec::new(), Vec::new());
        for endpoint in endpoints {
            let Some(target) = name(&format!("{}.{base}", endpoint.label)) else { continue };
            let before = records.len();
            for port in endpoint.ports.iter().filter(|p| wanted(p)) {
                records.push(self.record(RData::SRV(SRV::new(0, SRV_WEIGHT, port.number, target.clone()))));
            }
            if records.len() > before {
                additional.push(Record::from_rdata(target, TTL, address_data(endpoint.address).1));
            }
        }
        if records.is_empty() { Answer::NoData } else { Answer::Found { records, additional } }
    }

    /// An alias and, if it leads to another name of the cluster, what that stands for.
    fn alias(&self, other: &str, follow: bool) -> Answer {
        let Some(target) = name(other.trim_end_matches('.')) else { return Answer::NoData };
        let mut records = vec![self.record(RData::CNAME(CNAME(target.clone())))];
        if follow && self.question.kind != RecordType::CNAME {
            let question = Question { name: target, kind: self.question.kind };
            if let Answer::Found { records: more, .. } =
                resolve(&Zone { question: &question, ..*self }, false)
            {
                records.extend(more);
            }
        }
        Self::found(records)
    }

    fn reverse(&self, address: IpAddr) -> Answer {
        let mut known = false;
        let mut records = Vec::new();
        for ((namespace, service), label) in self.index.names_of(address) {
            known = true;
            let label = label.as_ref().map(|l| format!("{l}.")).unwrap_or_default();
            let target = name(&format!("{label}{service}.{namespace}.svc.{}", self.domain));
            records.extend(
                target.filter(|_| self.wants(RecordType::PTR)).map(|t| self.record(RData::PTR(PTR(t)))),
            );
        }
        if known { Self::found(records) } else { Answer::Foreign }
    }
}

fn address_data(address: IpAddr) -> (RecordType, RData) {
    match address {
        IpAddr::V4(a) => (RecordType::A, RData::A(a.into())),
        IpAddr::V6(a) => (RecordType::AAAA, RData::AAAA(a.into())),
    }
}

/// The address that a complete reverse name stands for.
fn reverse_address(text: &str) -> Option<IpAddr> {
    if let Some(octets) = text.strip_suffix(".in-addr.arpa") {
        let parts: Vec<&str> = octets.rsplit('.').collect();
        return parts.join(".").parse::<Ipv4Addr>().ok().map(IpAddr::V4);
    }
    let nibbles: String = text.strip_suffix(".ip6.arpa")?.rsplit('.').collect();
    let value = (nibbles.len() == 32).then(|| u128::from_str_radix(&nibbles, 16).ok()).flatten()?;
    Some(IpAddr::V6(Ipv6Addr::from(value)))
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use hickory_server::proto::rr::{Name, RecordType};
    use serde_json::{Value, json};

    use super::{Answer, Question, answer};
    use crate::index::Index;

    fn index() -> Index {
        let mut index = Index::default();
        let services = [
            json!({"metadata": {"name": "web", "namespace": "shop"}, "spec": {"clusterIP": "10.96.0.5",
                "ports": [{"name": "http", "port": 80}, {"name": "dns", "port": 53, "protocol": "UDP"}]}}),
            json!({"metadata": {"name": "db", "namespace": "shop"}, "spec": {"clusterIP": "None"}}),
            json!({"metadata": {"name": "all", "namespace": "shop"},
                "spec": {"clusterIP": "None", "publishNotReadyAddresses": true}}),
            json!({"metadata": {"name": "empty", "namespace": "shop"}, "spec": {"clusterIP": "None"}}),
            json!({"metadata": {"name": "out", "namespace": "shop"},
                "spec": {"type": "ExternalName", "externalName": "example.org"}}),
            json!({"metadata": {"name": "in", "namespace": "shop"},
                "spec": {"type": "ExternalName", "externalName": "web.shop.svc.cluster.local"}}),
        ];
        for service in services {
            let name = service["metadata"]["name"].as_str().unwrap().to_owned();
            index.service("shop", &name, Some(Arc::new(serde_json::from_value(service).unwrap())));
        }
        for name in ["db", "all"] {
            index.slice(None, Some(&slice(name)));
        }
        index
    }

    fn slice(service: &str) -> Arc<k8s_openapi::api::discovery::v1::EndpointSlice> {
        let slice: Value = json!({"metadata": {"name": format!("{service}-1"), "namespace": "shop",
            "labels": {"kubernetes.io/service-name": service}}, "addressType": "IPv4",
            "ports": [{"name": "sql", "port": 5432, "protocol": "TCP"}],
            "endpoints": [
                {"addresses": ["10.244.1.2"], "hostname": "db-0", "conditions": {"ready": true}},
                {"addresses": ["10.244.2.3"], "conditions": {"ready": true}},
                {"addresses": ["10.244.2.4"], "hostname": "db-2", "conditions": {"ready": false}}]});
        Arc::new(serde_json::from_value(slice).unwrap())
    }

    /// Records as `DATA` each, then `+ DATA` for additional ones; or the kind of nothing.
    fn ask(index: &Index, name: &str, kind: RecordType) -> Vec<String> {
        let question = Question { name: Name::from_ascii(name).unwrap(), kind };
        match answer(index, "cluster.local", &question) {
            Answer::Found { records, additional } => {
                let more = additional.iter().map(|r| format!("+ {}", r.data));
                records.iter().map(|r| r.data.to_string()).chain(more).collect()
            }
            nothing => vec![format!("{nothing:?}")],
        }
    }

    #[track_caller]
    fn check(name: &str, kind: RecordType, expect: &[&str]) {
        assert_eq!(ask(&index(), name, kind), expect, "{name} {kind}");
    }

    #[test]
    fn services() {
        use RecordType::{A, AAAA, PTR, SRV, TXT};
        check("web.shop.svc.cluster.local.", A, &["10.96.0.5"]);
        check("WEB.Shop.svc.Cluster.local.", A, &["10.96.0.5"]);
        check("web.shop.svc.cluster.local.", AAAA, &["NoData"]);
        check("web.shop.svc.cluster.local.", TXT, &["NoData"]);
        check(
            "_http._tcp.web.shop.svc.cluster.local.",
            SRV,
            &["0 100 80 web.shop.svc.cluster.local.", "+ 10.96.0.5"],
        );
        check(
            "_dns._udp.web.shop.svc.cluster.local.",
            SRV,
            &["0 100 53 web.shop.svc.cluster.local.", "+ 10.96.0.5"],
        );
        check("_http._udp.web.shop.svc.cluster.local.", SRV, &["NoName"]);
        check("_http._tcp.web.shop.svc.cluster.local.", A, &["NoData"]);
        check("_tcp.web.shop.svc.cluster.local.", A, &["NoData"]);
        check("_sctp.web.shop.svc.cluster.local.", A, &["NoName"]);
        check("5.0.96.10.in-addr.arpa.", PTR, &["web.shop.svc.cluster.local."]);
        check("5.0.96.10.in-addr.arpa.", A, &["NoData"]);
        check("9.9.9.9.in-addr.arpa.", PTR, &["Foreign"]);
    }

    #[test]
    fn headless_services() {
        use RecordType::{A, PTR, SRV};
        check("db.shop.svc.cluster.local.", A, &["10.244.1.2", "10.244.2.3"]);
        check("all.shop.svc.cluster.local.", A, &["10.244.1.2", "10.244.2.3", "10.244.2.4"]);
        check("empty.shop.svc.cluster.local.", A, &["NoData"]);
        check("db-0.db.shop.svc.cluster.local.", A, &["10.244.1.2"]);
        check("10-244-2-3.db.shop.svc.cluster.local.", A, &["10.244.2.3"]);
        check("db-2.db.shop.svc.cluster.local.", A, &["NoName"]);
        check("db-2.all.shop.svc.cluster.local.", A, &["10.244.2.4"]);
        let expect = [
            "0 100 5432 db-0.db.shop.svc.cluster.local.",
            "0 100 5432 10-244-2-3.db.shop.svc.cluster.local.",
            "+ 10.244.1.2",
            "+ 10.244.2.3",
        ];
        check("_sql._tcp.db.shop.svc.cluster.local.", SRV, &expect);
        let both = ["db-0.all.shop.svc.cluster.local.", "db-0.db.shop.svc.cluster.local."];
        check("2.1.244.10.in-addr.arpa.", PTR, &both);
    }

    #[test]
    fn names_that_are_there_and_names_that_are_not() {
        use RecordType::{A, NS, SOA, TXT};
        for there in ["cluster.local.", "svc.cluster.local.", "shop.svc.cluster.local.", "pod.cluster.local."]
        {
            check(there, A, &["NoData"]);
        }
        for not in [
            "web.cluster.local.",
            "none.svc.cluster.local.",
            "none.shop.svc.cluster.local.",
            "web.none.svc.cluster.local.",
            "x.web.shop.svc.cluster.local.",
            "web.shop.svc.cluster.local.shop.svc.cluster.local.",
            "example.org.shop.svc.cluster.local.",
        ] {
            check(not, A, &["NoName"]);
        }
        check("example.org.", A, &["Foreign"]);
        check("notcluster.local.", A, &["Foreign"]);
        check("dns-version.cluster.local.", TXT, &["1.1.0"]);
        check("cluster.local.", NS, &["ns.dns.cluster.local."]);
        assert!(ask(&index(), "cluster.local.", SOA)[0].starts_with("ns.dns.cluster.local."));
    }

    #[test]
    fn pods_and_aliases() {
        use RecordType::{A, AAAA, CNAME};
        check("10-244-1-2.shop.pod.cluster.local.", A, &["10.244.1.2"]);
        check("10-244-1-2.shop.pod.cluster.local.", AAAA, &["NoData"]);
        check("nonsense.shop.pod.cluster.local.", A, &["NoName"]);
        check("out.shop.svc.cluster.local.", A, &["example.org."]);
        check("out.shop.svc.cluster.local.", CNAME, &["example.org."]);
        check("in.shop.svc.cluster.local.", A, &["web.shop.svc.cluster.local.", "10.96.0.5"]);
    }

    #[test]
    fn the_index_follows_changes() {
        use RecordType::{A, PTR};
        let mut index = index();
        index.slice(Some(&slice("db")), None);
        assert_eq!(ask(&index, "db.shop.svc.cluster.local.", A), ["NoData"]);
        assert_eq!(ask(&index, "2.1.244.10.in-addr.arpa.", PTR), ["db-0.all.shop.svc.cluster.local."]);
        index.service("shop", "db", None);
        assert_eq!(ask(&index, "db.shop.svc.cluster.local.", A), ["NoName"]);
        index.slice(None, Some(&slice("db")));
        assert_eq!(ask(&index, "db.shop.svc.cluster.local.", A), ["NoName"], "a slice alone is no service");
    }
}
