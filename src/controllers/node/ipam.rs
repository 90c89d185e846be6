//! Node IPAM: every node gets a range of pod addresses of its own.
//!
//! Keeps true: no range is given twice. Allocation asks the API server which ranges are taken (a consistent read),
//! adds those that this process has just given, and writes under the leader's epoch: a deposed leader, however
//! late, cannot write any more once its successor's first read has begun.

use std::{
    collections::HashMap,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    sync::{Mutex, PoisonError},
};

use ipnet::IpNet;
use jiff::Timestamp;
use k8s_openapi::api::core::v1::Node;
use serde_json::json;

use crate::{
    controller::{
        Action, Answer, Context, Controller, Key, Plan, Question, Resource, Severity, Target, event,
    },
    store::{Change, Stores},
};

/// The controller, and the ranges that it gave to nodes and has not yet seen there.
pub(crate) struct Ipam {
    cluster: Vec<(IpNet, u8)>,
    given: Mutex<HashMap<String, Vec<IpNet>>>,
}

impl Ipam {
    /// Ranges of a size each, from the cluster's; one of each family at most.
    #[must_use]
    pub(crate) fn new(cluster: Vec<(IpNet, u8)>) -> Self {
        Self { cluster, given: Mutex::default() }
    }
}

impl Controller for Ipam {
    fn begin(&self, _: &Stores, _: Timestamp) {
        self.given.lock().unwrap_or_else(PoisonError::into_inner).clear();
    }

    fn keys(&self, stores: &Stores) -> Vec<Key> {
        stores.nodes.keys()
    }

    fn wake(&self, _: &Stores, change: &Change) -> Vec<Key> {
        match change {
            Change::Node(d) => vec![d.key()],
            _ => Vec::new(),
        }
    }

    fn reconcile(&self, context: &Context<'_>, key: &Key) -> Plan {
        let mut given = self.given.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(node) = context.stores.nodes.get(key) else {
            given.remove(&key.name);
            return Plan::none();
        };
        if has_range(&node) || node.metadata.deletion_timestamp.is_some() {
            given.remove(&key.name);
            return Plan::none();
        }
        let question = Question::Texts { resource: Resource::of::<Node>(), pointer: "/spec/podCIDRs" };
        let taken = match context.answers.get(&question) {
            None => return Plan::ask(vec![question]),
            Some(Answer::Texts(list)) => list.iter().filter_map(|t| t.parse().ok()).collect::<Vec<IpNet>>(),
            Some(_) => return Plan { requeue: Some(std::time::Duration::from_secs(1)), ..Plan::none() },
        };
        let mine = given.get(&key.name).cloned();
        let reserved = given.iter().filter(|(n, _)| **n != key.name).flat_map(|(_, r)| r);
        let taken: Vec<IpNet> = taken.into_iter().chain(reserved.copied()).collect();
        let still_free = |list: &Vec<IpNet>| list.iter().all(|r| !taken.iter().any(|t| overlap(t, r)));
        let ranges = mine.filter(still_free).or_else(|| choose(&self.cluster, &taken));
        let Some(ranges) = ranges else {
            let text = format!("Node {} status is now: CIDRNotAvailable", key.name);
            return Plan::of(vec![event(&*node, Severity::Normal, "CIDRNotAvailable", text)]);
        };
        given.insert(key.name.clone(), ranges.clone());
        Plan::of(vec![assign(&node, &ranges)])
    }
}

fn has_range(node: &Node) -> bool {
    node.spec.as_ref().and_then(|s| s.pod_cidr.as_deref()).is_some_and(|c| !c.is_empty())
}

fn assign(node: &Node, ranges: &[IpNet]) -> Action {
    let texts: Vec<String> = ranges.iter().map(ToString::to_string).collect();
    let meta = &node.metadata;
    let patch = json!({
        "metadata": {"uid": meta.uid, "resourceVersion": meta.resource_version},
        "spec": {"podCIDR": texts.first(), "podCIDRs": texts},
    });
    Action::Patch { target: Target::of(node), subresource: "", patch }
}

fn overlap(a: &IpNet, b: &IpNet) -> bool {
    a.contains(&b.network()) || b.contains(&a.network())
}

/// The first free range of every family; `None` when one has none left.
fn choose(cluster: &[(IpNet, u8)], taken: &[IpNet]) -> Option<Vec<IpNet>> {
    cluster.iter().map(|(net, size)| first_free(net, *size, taken)).collect()
}

fn first_free(net: &IpNet, size: u8, taken: &[IpNet]) -> Option<IpNet> {
    let bits = if net.addr().is_ipv4() { 32 } else { 128 };
    let step = 1_u128.checked_shl(u32::from(bits - size))?;
    let count = 1_u128.checked_shl(u32::from(size.checked_sub(net.prefix_len())?))?;
    let start = number(net.network());
    // A taken range rules out at most a handful of candidates, so this ends after `taken.len() + 1` tries unless
    // ranges of other sizes were given by hand.
    (0..count).find_map(|i| {
        let candidate = IpNet::new(address(net.addr().is_ipv4(), start + i * step), size).ok()?;
        (!taken.iter().any(|t| overlap(t, &candidate))).then_some(candidate)
    })
}

fn number(ip: IpAddr) -> u128 {
    match ip {
        IpAddr::V4(ip) => u32::from(ip).into(),
        IpAddr::V6(ip) => ip.into(),
    }
}

fn address(v4: bool, number: u128) -> IpAddr {
    match u32::try_from(number) {
        Ok(number) if v4 => Ipv4Addr::from(number).into(),
        _ => Ipv6Addr::from(number).into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{NOON, at, cluster_meta, context, load};

    fn nets(list: &[&str]) -> Vec<IpNet> {
        list.iter().map(|n| n.parse().unwrap()).collect()
    }

    #[test]
    fn first_free_range() {
        let check = |cluster: &str, size, taken: &[&str], expect: Option<&str>| {
            let got = first_free(&cluster.parse().unwrap(), size, &nets(taken));
            assert_eq!(got.map(|n| n.to_string()).as_deref(), expect);
        };
        check("10.244.0.0/16", 24, &[], Some("10.244.0.0/24"));
        check("10.244.0.0/16", 24, &["10.244.0.0/24", "10.244.2.0/24"], Some("10.244.1.0/24"));
        check("10.244.0.0/16", 24, &["10.244.0.0/23"], Some("10.244.2.0/24"));
        check("10.244.0.0/23", 24, &["10.244.0.0/24", "10.244.1.0/24"], None);
        check("10.244.0.0/24", 24, &[], Some("10.244.0.0/24"));
        check("fd00::/48", 64, &["fd00::/64"], Some("fd00:0:0:1::/64"));
    }

    #[test]
    fn two_nodes_at_once_get_two_ranges() {
        let stores = Stores::default();
        let controller = Ipam::new(vec![("10.244.0.0/16".parse().unwrap(), 24)]);
        let question = Question::Texts { resource: Resource::of::<Node>(), pointer: "/spec/podCIDRs" };
        let answers = HashMap::from([(question, Answer::Texts(vec!["10.244.0.0/24".into()]))]);
        let mut got = Vec::new();
        for name in ["a", "b", "a"] {
            load::<Node>(&stores, json!({"metadata": cluster_meta(name)}));
            let plan = controller.reconcile(&context(&stores, &answers, at(NOON)), &Key::new("", name));
            let [Action::Patch { patch, .. }] = &plan.actions[..] else { panic!("{plan:?}") };
            got.push(patch["spec"]["podCIDR"].as_str().unwrap().to_owned());
        }
        assert_eq!(got, ["10.244.1.0/24", "10.244.2.0/24", "10.244.1.0/24"]);
    }
}
