//! NodeAffinity: node selector, required and preferred node affinity.

use k8s_openapi::api::core::v1::NodeAffinity;

use super::{Context, Plugin, Reject, scale};
use crate::event::Event;
use crate::pod::PodInfo;
use crate::selector::{node_selector_matches, node_term_matches};
use crate::snapshot::NodeInfo;

struct Affinity<'a> {
    pod: &'a PodInfo,
}

fn of(pod: &PodInfo) -> Option<&NodeAffinity> {
    pod.spec().affinity.as_ref()?.node_affinity.as_ref()
}

/// Whether the node satisfies what the pod requires of nodes.
pub(super) fn admits(pod: &PodInfo, node: &NodeInfo) -> bool {
    let selector = pod.spec().node_selector.iter().flatten();
    let required = of(pod).and_then(|a| a.required_during_scheduling_ignored_during_execution.as_ref());
    selector.into_iter().all(|(key, value)| node.labels().get(key) == Some(value))
        && required.is_none_or(|r| node_selector_matches(r, node.name(), node.labels()))
}

pub(super) fn prepare<'a>(context: &Context<'a>) -> Option<Box<dyn Plugin + 'a>> {
    let spec = context.pod.spec();
    let selects = spec.node_selector.as_ref().is_some_and(|s| !s.is_empty());
    (selects || of(context.pod).is_some()).then(|| Box::new(Affinity { pod: context.pod }) as Box<dyn Plugin>)
}

pub(super) fn hint(event: &Event, pod: &PodInfo) -> bool {
    event.node().is_some_and(|node| admits(pod, node))
}

impl Plugin for Affinity<'_> {
    fn filter(&self, node: &NodeInfo) -> Result<(), Reject> {
        if admits(self.pod, node) {
            return Ok(());
        }
        Reject::for_good("node(s) didn't match Pod's node affinity/selector")
    }

    fn prescore(&mut self, _nodes: &[&NodeInfo]) -> bool {
        of(self.pod).is_some_and(|a| a.preferred_during_scheduling_ignored_during_execution.is_some())
    }

    fn score(&self, node: &NodeInfo) -> i64 {
        let preferred =
            of(self.pod).and_then(|a| a.preferred_during_scheduling_ignored_during_execution.as_ref());
        let matching = preferred
            .into_iter()
            .flatten()
            .filter(|t| node_term_matches(&t.preference, node.name(), node.labels()));
        matching.map(|t| i64::from(t.weight)).sum()
    }

    fn normalize(&self, _nodes: &[&NodeInfo], scores: &mut [i64]) {
        scale(scores, false);
    }
}
