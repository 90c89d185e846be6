//! InterPodAffinity: pods that want to be near other pods, or away from them.

use std::collections::HashMap;

use super::{Context, MAX_SCORE, Plugin, Reject};
use crate::event::Event;
use crate::pod::{PodInfo, Term};
use crate::snapshot::{NodeInfo, Snapshot};

/// What a pod's required affinity counts when a later pod is placed.
const REQUIRED_WEIGHT: i64 = 1;

/// A topology key and a value of it, with how many pods (or how much weight) it holds.
type Pairs = HashMap<(String, String), i64>;

struct InterPod<'a> {
    snapshot: &'a Snapshot,
    pod: &'a PodInfo,
    /// Domains closed by the required anti-affinity of pods that run there.
    closed: Pairs,
    /// Domains that hold pods which the required affinity asks for.
    near: Pairs,
    /// Domains that hold pods which the required anti-affinity forbids.
    far: Pairs,
    weights: Pairs,
}

fn add(pairs: &mut Pairs, node: &NodeInfo, key: &str, amount: i64) {
    if let Some(value) = node.labels().get(key) {
        *pairs.entry((key.to_owned(), value.clone())).or_default() += amount;
    }
}

fn holds(pairs: &Pairs, node: &NodeInfo, key: &str) -> bool {
    node.labels().get(key).is_some_and(|v| pairs.get(&(key.to_owned(), v.clone())).is_some_and(|n| *n > 0))
}

pub(super) fn prepare<'a>(context: &Context<'a>) -> Option<Box<dyn Plugin + 'a>> {
    let Context { snapshot, pod } = *context;
    let (closed, near, far, weights) = (Pairs::new(), Pairs::new(), Pairs::new(), Pairs::new());
    let mut plugin = InterPod { snapshot, pod, closed, near, far, weights };
    let selective = !pod.terms.required.is_empty() || !pod.terms.required_anti.is_empty();
    let mut concerned = !pod.terms.is_empty();
    for node in snapshot.nodes() {
        concerned |= !node.wishing.is_empty();
        node.wishing.values().for_each(|other| plugin.count_existing(node, other));
        if selective {
            node.pods.values().for_each(|other| plugin.count_own(node, other));
        }
    }
    concerned.then(|| Box::new(plugin) as Box<dyn Plugin>)
}

impl InterPod<'_> {
    fn count_existing(&mut self, node: &NodeInfo, other: &PodInfo) {
        for term in &other.terms.required_anti {
            if self.matches(term, self.pod) {
                add(&mut self.closed, node, &term.topology_key, 1);
            }
        }
    }

    fn count_own(&mut self, node: &NodeInfo, other: &PodInfo) {
        let terms = &self.pod.terms;
        if !terms.required.is_empty() && terms.required.iter().all(|t| self.matches(t, other)) {
            for term in &terms.required {
                add(&mut self.near, node, &term.topology_key, 1);
            }
        }
        for term in &terms.required_anti {
            if self.matches(term, other) {
                add(&mut self.far, node, &term.topology_key, 1);
            }
        }
    }

    fn matches(&self, term: &Term, pod: &PodInfo) -> bool {
        term.matches(pod, self.snapshot.namespace_labels(pod.namespace()))
    }

    /// The first pod of a group that wants to be together may go anywhere that has the labels.
    fn is_first_of_its_kind(&self) -> bool {
        self.near.is_empty() && self.pod.terms.required.iter().all(|t| self.matches(t, self.pod))
    }

    fn near_enough(&self, node: &NodeInfo) -> bool {
        let terms = &self.pod.terms.required;
        terms.iter().all(|t| node.labels().contains_key(&t.topology_key))
            && (terms.iter().all(|t| holds(&self.near, node, &t.topology_key)) || self.is_first_of_its_kind())
    }

    /// What the pods of `node` make its domains worth for the pod.
    fn weigh(&mut self, node: &NodeInfo, other: &PodInfo) {
        let mine = &self.pod.terms;
        let theirs = &other.terms;
        let mut found: Vec<(&str, i64)> = Vec::new();
        for (terms, sign) in [(&mine.preferred, 1), (&mine.preferred_anti, -1)] {
            let matching = terms.iter().filter(|t| self.matches(t, other));
            found.extend(matching.map(|t| (t.topology_key.as_str(), sign * t.weight)));
        }
        for (terms, sign) in [(&theirs.preferred, 1), (&theirs.preferred_anti, -1)] {
            let matching = terms.iter().filter(|t| self.matches(t, self.pod));
            found.extend(matching.map(|t| (t.topology_key.as_str(), sign * t.weight)));
        }
        let required = theirs.required.iter().filter(|t| self.matches(t, self.pod));
        found.extend(required.map(|t| (t.topology_key.as_str(), REQUIRED_WEIGHT)));
        for (key, weight) in found {
            add(&mut self.weights, node, key, weight);
        }
    }
}

pub(super) fn hint(event: &Event, pod: &PodInfo) -> bool {
    match event {
        Event::NodeAdded(_) | Event::Other => true,
        Event::NodeChanged(old, new) => old.labels() != new.labels(),
        Event::PodAssigned(_) | Event::PodChanged(..) => {
            !pod.terms.required.is_empty() || matches!(event, Event::PodChanged(..))
        }
        Event::PodRemoved(gone) => {
            !gone.terms.required_anti.is_empty() || !pod.terms.required_anti.is_empty()
        }
    }
}

impl Plugin for InterPod<'_> {
    fn filter(&self, node: &NodeInfo) -> Result<(), Reject> {
        if !self.near_enough(node) {
            return Reject::for_good("node(s) didn't match pod affinity rules");
        }
        if self.pod.terms.required_anti.iter().any(|t| holds(&self.far, node, &t.topology_key)) {
            return Reject::new("node(s) didn't match pod anti-affinity rules");
        }
        let here = |(key, value): &(String, String)| node.labels().get(key) == Some(value);
        if self.closed.keys().any(here) {
            return Reject::new("node(s) didn't satisfy existing pods anti-affinity rules");
        }
        Ok(())
    }

    fn prescore(&mut self, _nodes: &[&NodeInfo]) -> bool {
        let snapshot = self.snapshot;
        let wishes = !self.pod.terms.preferred.is_empty() || !self.pod.terms.preferred_anti.is_empty();
        for node in snapshot.nodes() {
            let concerned = if wishes { &node.pods } else { &node.wishing };
            concerned.values().for_each(|other| self.weigh(node, other));
        }
        !self.weights.is_empty()
    }

    fn score(&self, node: &NodeInfo) -> i64 {
        let here = |(key, value): &(String, String)| node.labels().get(key) == Some(value);
        self.weights.iter().filter(|(pair, _)| here(pair)).map(|(_, weight)| weight).sum()
    }

    fn normalize(&self, _nodes: &[&NodeInfo], scores: &mut [i64]) {
        let (min, max) =
            (scores.iter().copied().min().unwrap_or(0), scores.iter().copied().max().unwrap_or(0));
        for score in scores {
            *score = if max == min { 0 } else { MAX_SCORE * (*score - min) / (max - min) };
        }
    }
}
