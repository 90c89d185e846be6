//! PodTopologySpread: pods that belong together spread over nodes and zones.
//!
//! A pod without constraints of its own that belongs to a controller or a Service gets the system's default:
//! spread over hosts (skew 3) and zones (skew 5), as a wish.

use std::collections::{BTreeMap, BTreeSet};

use k8s_openapi::api::core::v1::TopologySpreadConstraint;

use super::{Context, MAX_SCORE, Plugin, Reject, affinity, taint};
use crate::event::Event;
use crate::pod::PodInfo;
use crate::selector::{Labels, Selector};
use crate::snapshot::{NodeInfo, Snapshot};

const HOSTNAME: &str = "kubernetes.io/hostname";
const ZONE: &str = "topology.kubernetes.io/zone";
/// Controllers whose pods are spread by default.
const SPREAD_OWNERS: [&str; 3] = ["ReplicaSet", "ReplicationController", "StatefulSet"];

/// Which pods count.
#[derive(Clone)]
enum Peers {
    Selected(Selector),
    /// Pods of the same controller, by its unique id.
    Owned(String),
    /// Pods behind all these Services.
    Served(Vec<Selector>),
}

impl Peers {
    fn contains(&self, pod: &PodInfo) -> bool {
        match self {
            Self::Selected(selector) => selector.matches(pod.labels()),
            Self::Owned(uid) => controller(pod).is_some_and(|(_, owner)| owner == uid),
            Self::Served(selectors) => selectors.iter().all(|s| s.matches(pod.labels())),
        }
    }
}

fn controller(pod: &PodInfo) -> Option<(&str, &str)> {
    let owners = pod.pod().metadata.owner_references.as_deref().unwrap_or(&[]);
    owners.iter().find(|o| o.controller == Some(true)).map(|o| (o.kind.as_str(), o.uid.as_str()))
}

#[derive(Clone)]
struct Constraint {
    key: String,
    skew: i64,
    min_domains: Option<i64>,
    peers: Peers,
    hard: bool,
    honor_affinity: bool,
    honor_taints: bool,
}

impl Constraint {
    fn new(constraint: &TopologySpreadConstraint, labels: &Labels) -> Self {
        let mut selector = Selector::new(constraint.label_selector.as_ref());
        for key in constraint.match_label_keys.iter().flatten() {
            if let Some(value) = labels.get(key) {
                selector = selector.and(key, value, true);
            }
        }
        Self {
            key: constraint.topology_key.clone(),
            skew: constraint.max_skew.into(),
            min_domains: constraint.min_domains.map(i64::from),
            peers: Peers::Selected(selector),
            hard: constraint.when_unsatisfiable != "ScheduleAnyway",
            honor_affinity: constraint.node_affinity_policy.as_deref() != Some("Ignore"),
            honor_taints: constraint.node_taints_policy.as_deref() == Some("Honor"),
        }
    }

    fn wish(key: &str, skew: i64, peers: &Peers) -> Self {
        let key = key.to_owned();
        let peers = peers.clone();
        Self { key, skew, min_domains: None, peers, hard: false, honor_affinity: true, honor_taints: false }
    }

    fn counts_node(&self, pod: &PodInfo, node: &NodeInfo) -> bool {
        (!self.honor_affinity || affinity::admits(pod, node))
            && (!self.honor_taints || taint::admits(node, pod.tolerations()))
    }

    fn count(&self, pod: &PodInfo, node: &NodeInfo) -> i64 {
        let peers = node.pods.values().filter(|other| {
            !other.terminating() && other.namespace() == pod.namespace() && self.peers.contains(other)
        });
        i64::try_from(peers.count()).unwrap_or(i64::MAX)
    }
}

/// Pods per domain.
type Domains = BTreeMap<String, i64>;

struct Spread<'a> {
    snapshot: &'a Snapshot,
    pod: &'a PodInfo,
    hard: Vec<(Constraint, Domains)>,
    soft: Vec<Constraint>,
    /// Whether nodes without one of the labels are left out of scoring.
    all_labels: bool,
    /// For each soft constraint: pods per domain and the weight of one pod.
    counts: Vec<(Domains, f64)>,
    ignored: BTreeSet<String>,
}

pub(super) fn prepare<'a>(context: &Context<'a>) -> Option<Box<dyn Plugin + 'a>> {
    let Context { snapshot, pod } = *context;
    let own = pod.spec().topology_spread_constraints.as_deref().unwrap_or(&[]);
    let constraints: Vec<Constraint> = match own {
        [] => defaults(context),
        own => own.iter().map(|c| Constraint::new(c, pod.labels())).collect(),
    };
    if constraints.is_empty() {
        return None;
    }
    let (hard, soft): (Vec<_>, Vec<_>) = constraints.into_iter().partition(|c| c.hard);
    let keys: Vec<String> = hard.iter().map(|c| c.key.clone()).collect();
    let hard = hard.into_iter().map(|c| {
        let domains = domains(snapshot, pod, &c, &keys);
        (c, domains)
    });
    Some(Box::new(Spread {
        snapshot,
        pod,
        hard: hard.collect(),
        soft,
        all_labels: !own.is_empty(),
        counts: Vec::new(),
        ignored: BTreeSet::new(),
    }))
}

fn defaults(context: &Context<'_>) -> Vec<Constraint> {
    let Context { snapshot, pod } = context;
    let owner = controller(pod).filter(|(kind, _)| SPREAD_OWNERS.contains(kind));
    let peers = match owner {
        Some((_, uid)) => Peers::Owned(uid.to_owned()),
        None => {
            let selectors: Vec<Selector> = snapshot.services_of(pod).cloned().collect();
            if selectors.is_empty() {
                return Vec::new();
            }
            Peers::Served(selectors)
        }
    };
    vec![Constraint::wish(HOSTNAME, 3, &peers), Constraint::wish(ZONE, 5, &peers)]
}

/// Pods per domain over the nodes that have all the `keys`.
fn domains(snapshot: &Snapshot, pod: &PodInfo, constraint: &Constraint, keys: &[String]) -> Domains {
    let mut domains = Domains::new();
    let nodes = snapshot.nodes().filter(|n| keys.iter().all(|k| n.labels().contains_key(k)));
    for node in nodes.filter(|n| constraint.counts_node(pod, n)) {
        if let Some(value) = node.labels().get(&constraint.key) {
            *domains.entry(value.clone()).or_default() += constraint.count(pod, node);
        }
    }
    domains
}

pub(super) fn hint(event: &Event, pod: &PodInfo) -> bool {
    match event {
        Event::NodeAdded(_) | Event::Other => true,
        Event::NodeChanged(old, new) => old.labels() != new.labels() || old.taints() != new.taints(),
        Event::PodAssigned(other) | Event::PodRemoved(other) | Event::PodChanged(_, other) => {
            other.namespace() == pod.namespace()
        }
    }
}

impl Plugin for Spread<'_> {
    fn filter(&self, node: &NodeInfo) -> Result<(), Reject> {
        for (constraint, domains) in &self.hard {
            let Some(domain) = node.labels().get(&constraint.key) else {
                return Reject::for_good(
                    "node(s) didn't match pod topology spread constraints (missing required label)",
                );
            };
            let few =
                constraint.min_domains.is_some_and(|min| i64::try_from(domains.len()).unwrap_or(0) < min);
            let least = if few { 0 } else { domains.values().copied().min().unwrap_or(0) };
            let here = domains.get(domain).copied().unwrap_or(0);
            let itself = i64::from(constraint.peers.contains(self.pod));
            if here + itself - least > constraint.skew {
                return Reject::new("node(s) didn't match pod topology spread constraints");
            }
        }
        Ok(())
    }

    fn prescore(&mut self, nodes: &[&NodeInfo]) -> bool {
        if self.soft.is_empty() {
            return false;
        }
        let lacks =
            |n: &&&NodeInfo| self.all_labels && self.soft.iter().any(|c| !n.labels().contains_key(&c.key));
        self.ignored = nodes.iter().filter(lacks).map(|n| n.name().to_owned()).collect();
        let counts = self.soft.iter().map(|constraint| self.weigh(constraint, nodes));
        self.counts = counts.collect();
        true
    }

    #[expect(clippy::cast_precision_loss, clippy::cast_possible_truncation, reason = "pod counts are small")]
    fn score(&self, node: &NodeInfo) -> i64 {
        if self.ignored.contains(node.name()) {
            return 0;
        }
        let mut score = 0.0;
        for (constraint, (domains, weight)) in self.soft.iter().zip(&self.counts) {
            let Some(domain) = node.labels().get(&constraint.key) else { continue };
            let pods = domains.get(domain).copied().unwrap_or(0);
            score += pods as f64 * weight + (constraint.skew - 1) as f64;
        }
        score.round() as i64
    }

    fn normalize(&self, nodes: &[&NodeInfo], scores: &mut [i64]) {
        let counted = |i: usize| !self.ignored.contains(nodes[i].name());
        let known = || scores.iter().enumerate().filter(|(i, _)| counted(*i)).map(|(_, s)| *s);
        let (min, max) = (known().min().unwrap_or(0), known().max().unwrap_or(0));
        for (i, score) in scores.iter_mut().enumerate() {
            *score = match (counted(i), max) {
                (false, _) => 0,
                (true, 0) => MAX_SCORE,
                (true, max) => MAX_SCORE * (max + min - *score) / max,
            };
        }
    }
}

impl Spread<'_> {
    /// Pods per domain, for the domains that are left, and the weight of a pod: the more domains, the more.
    #[expect(clippy::cast_precision_loss, reason = "node counts are small")]
    fn weigh(&self, constraint: &Constraint, nodes: &[&NodeInfo]) -> (Domains, f64) {
        let left = nodes.iter().filter(|n| !self.ignored.contains(n.name()));
        let wanted: BTreeSet<&String> = left.filter_map(|n| n.labels().get(&constraint.key)).collect();
        let keys: Vec<String> =
            if self.all_labels { self.soft.iter().map(|c| c.key.clone()).collect() } else { Vec::new() };
        let mut domains = domains(self.snapshot, self.pod, constraint, &keys);
        domains.retain(|domain, _| wanted.contains(domain));
        (domains, (wanted.len() as f64 + 2.0).ln())
    }
}
