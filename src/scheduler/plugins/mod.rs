//! The rules of scheduling, one file each, and the table of them.
//!
//! Keeps true: a rule sees only the snapshot and the pod, and holds no state between decisions. A rule is
//! prepared once per decision (where it works out what all nodes share), then asked node by node.
//! Leaves to others: the order of events, time, and the API.

mod affinity;
mod image;
mod interpod;
mod name;
mod ports;
mod resources;
mod spread;
mod taint;
mod unschedulable;

use std::borrow::Cow;

use crate::event::Event;
use crate::pod::PodInfo;
use crate::snapshot::{NodeInfo, Snapshot};

/// The best score of a node under one rule.
pub(crate) const MAX_SCORE: i64 = 100;

/// What a decision is about.
#[derive(Clone, Copy)]
pub(crate) struct Context<'a> {
    pub(crate) snapshot: &'a Snapshot,
    pub(crate) pod: &'a PodInfo,
}

/// Why a node will not do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Reject {
    /// As people read it in the event.
    pub(crate) reasons: Vec<Cow<'static, str>>,
    /// Whether removing pods from the node could help.
    pub(crate) resolvable: bool,
}

impl Reject {
    /// Removing pods may help.
    pub(crate) fn new(reason: &'static str) -> Result<(), Self> {
        Err(Self { reasons: vec![reason.into()], resolvable: true })
    }

    /// Removing pods cannot help.
    pub(crate) fn for_good(reason: &'static str) -> Result<(), Self> {
        Err(Self { reasons: vec![reason.into()], resolvable: false })
    }
}

/// One rule, prepared for one pod.
pub(crate) trait Plugin {
    /// Whether the pod may run on the node.
    fn filter(&self, _node: &NodeInfo) -> Result<(), Reject> {
        Ok(())
    }

    /// Told which nodes are left, before scores are asked for; `false`: has nothing to say about them.
    fn prescore(&mut self, _nodes: &[&NodeInfo]) -> bool {
        false
    }

    /// How good the node is, on a scale of the rule's own.
    fn score(&self, _node: &NodeInfo) -> i64 {
        0
    }

    /// Brings the scores of all nodes to 0..=[`MAX_SCORE`], more is better.
    fn normalize(&self, _nodes: &[&NodeInfo], _scores: &mut [i64]) {}
}

/// A rule of the family.
pub(crate) struct Row {
    /// Upstream's name.
    pub(crate) name: &'static str,
    /// How much its score counts.
    pub(crate) weight: i64,
    /// The rule for one pod; `None`: it does not concern this pod.
    pub(crate) prepare: for<'a> fn(&Context<'a>) -> Option<Box<dyn Plugin + 'a>>,
    /// Whether the event may help a pod that this rule rejected. When in doubt: yes.
    pub(crate) hint: fn(&Event, &PodInfo) -> bool,
}

/// All rules: cheap filters first.
pub(crate) const ROWS: &[Row] = &[
    Row { name: "NodeUnschedulable", weight: 0, prepare: unschedulable::prepare, hint: unschedulable::hint },
    Row { name: "NodeName", weight: 0, prepare: name::prepare, hint: name::hint },
    Row { name: "TaintToleration", weight: 3, prepare: taint::prepare, hint: taint::hint },
    Row { name: "NodeAffinity", weight: 2, prepare: affinity::prepare, hint: affinity::hint },
    Row { name: "NodePorts", weight: 0, prepare: ports::prepare, hint: ports::hint },
    Row { name: "NodeResourcesFit", weight: 1, prepare: resources::prepare_fit, hint: resources::hint },
    Row { name: "PodTopologySpread", weight: 2, prepare: spread::prepare, hint: spread::hint },
    Row { name: "InterPodAffinity", weight: 2, prepare: interpod::prepare, hint: interpod::hint },
    Row {
        name: "NodeResourcesBalancedAllocation",
        weight: 1,
        prepare: resources::prepare_balanced,
        hint: never,
    },
    Row { name: "ImageLocality", weight: 1, prepare: image::prepare, hint: never },
];

/// For rules that reject nothing.
fn never(_event: &Event, _pod: &PodInfo) -> bool {
    false
}

/// Scales scores so that the best is [`MAX_SCORE`]; `reverse`: the smallest is the best.
pub(crate) fn scale(scores: &mut [i64], reverse: bool) {
    let max = scores.iter().copied().max().unwrap_or(0);
    for score in scores {
        let scaled = if max == 0 { 0 } else { *score * MAX_SCORE / max };
        *score = if reverse { MAX_SCORE - scaled } else { scaled };
    }
}
