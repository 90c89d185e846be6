//! The snapshot and the queue together: how they follow what informers tell, and one step of the loop.
//!
//! Keeps true: a pod that is not bound and is ours is in the queue or assumed, never both; whatever changes the
//! snapshot is told to the queue. No I/O; time is a parameter.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::{Node, Pod};

use crate::cycle::{Decision, Diagnosis, Options, decide};
use crate::event::Event;
use crate::pod::PodInfo;
use crate::preempt::{Plan, preempt};
use crate::queue::Queue;
use crate::snapshot::Snapshot;

/// What one step of the loop asks for.
#[derive(Debug)]
pub(crate) enum Act {
    /// Bind the pod; it is assumed already.
    Bind { pod: Arc<PodInfo>, node: String },
    /// Say why it fits nowhere, and make room if there is a plan.
    Refuse { pod: Arc<PodInfo>, message: String, plan: Option<Plan> },
}

/// Everything the scheduler knows.
#[derive(Debug, Default)]
pub(crate) struct State {
    pub(crate) snapshot: Snapshot,
    pub(crate) queue: Queue,
    profiles: BTreeSet<String>,
    start: usize,
}

impl State {
    pub(crate) fn new(profiles: BTreeSet<String>) -> Self {
        Self { profiles, ..Self::default() }
    }

    fn ours(&self, pod: &PodInfo) -> bool {
        let name = pod.spec().scheduler_name.as_deref().filter(|n| !n.is_empty());
        self.profiles.contains(name.unwrap_or("default-scheduler"))
    }

    /// A pod came, changed or went.
    pub(crate) fn pod(&mut self, old: Option<&Arc<Pod>>, new: Option<&Arc<Pod>>, now: Duration) {
        let replaced = |old: &Arc<Pod>| new.is_none_or(|new| new.metadata.uid != old.metadata.uid);
        if let Some(old) = old.filter(|old| replaced(old)) {
            self.gone(old.metadata.uid.as_deref().unwrap_or_default(), now);
        }
        let Some(new) = new else { return };
        let info = Arc::new(PodInfo::new(new.clone()));
        if info.finished() {
            self.gone(info.uid(), now);
        } else if info.node_name().is_some() {
            self.bound(info, now);
        } else if info.terminating() {
            self.queue.remove(info.uid());
        } else if self.ours(&info) && !self.snapshot.is_assumed(info.uid()) {
            if let Some(node) = info.nominated() {
                self.snapshot.nominate(&info, Some(node));
            }
            self.queue.set(info, now);
        }
    }

    fn gone(&mut self, uid: &str, now: Duration) {
        self.queue.remove(uid);
        if let Some(pod) = self.snapshot.remove_pod(uid) {
            self.queue.event(&Event::PodRemoved(pod), now);
        }
    }

    fn bound(&mut self, pod: Arc<PodInfo>, now: Duration) {
        self.queue.remove(pod.uid());
        let before = pod.node_name().and_then(|n| self.snapshot.node(n)?.pods.get(pod.uid()).cloned());
        self.snapshot.set_pod(pod.clone());
        match before {
            None => self.queue.event(&Event::PodAssigned(pod), now),
            Some(before) if before.labels() != pod.labels() || before.requests != pod.requests => {
                self.queue.event(&Event::PodChanged(before, pod), now);
            }
            Some(_) => {}
        }
    }

    /// A node came, changed or went.
    pub(crate) fn node(&mut self, old: Option<&Arc<Node>>, new: Option<&Arc<Node>>, now: Duration) {
        match (old, new) {
            (_, Some(new)) => {
                self.snapshot.set_node(new.clone());
                if let Some(event) = Event::of_node(old, new) {
                    self.queue.event(&event, now);
                }
            }
            (Some(old), None) => {
                self.snapshot.remove_node(old.metadata.name.as_deref().unwrap_or_default());
                self.queue.event(&Event::Other, now);
            }
            (None, None) => {}
        }
    }

    /// Something else changed that rules look at.
    pub(crate) fn other(&mut self, now: Duration) {
        self.queue.event(&Event::Other, now);
    }

    /// A new term of leadership: nothing that an earlier one began is under way.
    pub(crate) fn recover(&mut self, now: Duration) {
        for uid in self.snapshot.assumed() {
            self.snapshot.forget(&uid);
        }
        self.queue.recover(now);
    }

    /// Decides about the next pod.
    pub(crate) fn step(&mut self, tie: u64, now: Duration) -> Option<Act> {
        let pod = self.queue.pop(now)?;
        let options = Options { start: self.start, tie };
        match decide(&self.snapshot, &pod, options) {
            Decision::Node { name, evaluated } => {
                self.start = self.start.wrapping_add(evaluated);
                self.snapshot.assume(&pod, &name);
                self.assumed(&pod, &name, now);
                Some(Act::Bind { pod, node: name })
            }
            Decision::Unschedulable(diagnosis) => Some(self.refuse(pod, &diagnosis, now)),
        }
    }

    /// Pods that wait to be near another one need not wait until the binding is seen.
    fn assumed(&mut self, pod: &Arc<PodInfo>, node: &str, now: Duration) {
        let bound = self.snapshot.node(node).and_then(|n| n.pods.get(pod.uid())).cloned();
        self.queue.event(&Event::PodAssigned(bound.unwrap_or_else(|| pod.clone())), now);
    }

    fn refuse(&mut self, pod: Arc<PodInfo>, diagnosis: &Diagnosis, now: Duration) -> Act {
        let mut message = diagnosis.message();
        let found =
            if diagnosis.nodes == 0 { Err(String::new()) } else { preempt(&self.snapshot, &pod, diagnosis) };
        let plan = match found {
            Ok(plan) => Some(plan),
            Err(why) => {
                message = format!("{message} {why}").trim_end().to_owned();
                None
            }
        };
        if let Some(plan) = &plan {
            for other in self.snapshot.nominated_after(&pod, &plan.node) {
                self.snapshot.nominate(&other, None);
            }
            self.snapshot.nominate(&pod, Some(&plan.node));
        }
        self.queue.unschedulable(pod.uid(), diagnosis.plugins(), now);
        Act::Refuse { pod, message, plan }
    }

    /// The binding failed.
    pub(crate) fn not_bound(&mut self, uid: &str, now: Duration) {
        self.queue.failed(uid, now);
        if let Some(pod) = self.snapshot.forget(uid) {
            self.queue.event(&Event::PodRemoved(pod), now);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::{Act, State};
    use crate::testing::{MakePod, node, pod};

    const NOW: Duration = Duration::ZERO;

    fn state() -> State {
        State::new(["default-scheduler".to_owned()].into())
    }

    fn add(state: &mut State, pod: &MakePod) {
        state.pod(None, Some(&pod.clone().build()), NOW);
    }

    fn bound(state: &mut State) -> Option<(String, String)> {
        match state.step(0, NOW)? {
            Act::Bind { pod, node } => Some((pod.name().to_owned(), node)),
            Act::Refuse { .. } => None,
        }
    }

    #[test]
    fn a_pod_is_bound_once() {
        let mut state = state();
        state.node(None, Some(&node("w1").build()), NOW);
        add(&mut state, &pod("p"));
        assert_eq!(bound(&mut state), Some(("p".to_owned(), "w1".to_owned())));
        // The informer is behind: it still shows the pod as it was.
        add(&mut state, &pod("p").label("a", "b"));
        assert!(state.step(0, NOW).is_none());
        add(&mut state, &pod("p").on("w1"));
        assert!(state.queue.history("p").is_none());
    }

    #[test]
    fn a_failed_binding_is_tried_again() {
        let mut state = state();
        state.node(None, Some(&node("w1").cpu("1").build()), NOW);
        add(&mut state, &pod("p").cpu("1"));
        assert!(bound(&mut state).is_some());
        state.not_bound("p", NOW);
        assert!(state.step(0, NOW).is_none(), "it waits out its back-off");
        let later = Duration::from_secs(1);
        assert!(matches!(state.step(0, later), Some(Act::Bind { .. })));
    }

    #[test]
    fn a_new_term_starts_over() {
        let mut state = state();
        state.node(None, Some(&node("w1").cpu("1").build()), NOW);
        add(&mut state, &pod("p").cpu("1"));
        assert!(bound(&mut state).is_some());
        state.recover(NOW);
        assert!(matches!(state.step(0, Duration::from_secs(1)), Some(Act::Bind { .. })));
    }

    #[test]
    fn others_pods_are_left_alone() {
        let mut state = state();
        add(&mut state, &pod("p").set("/spec/schedulerName", "other"));
        add(&mut state, &pod("q").set("/metadata/deletionTimestamp", "2026-01-01T00:00:00Z"));
        assert!(state.step(0, NOW).is_none());
    }

    #[test]
    fn preemption_waits_for_its_victims() {
        let mut state = state();
        state.node(None, Some(&node("w1").cpu("1").build()), NOW);
        let victim = pod("small").cpu("1").on("w1");
        add(&mut state, &victim);
        add(&mut state, &pod("vip").cpu("1").priority(9));
        let Some(Act::Refuse { plan: Some(plan), .. }) = state.step(0, NOW) else { panic!("no plan") };
        assert_eq!((plan.node.as_str(), plan.victims[0].name()), ("w1", "small"));
        state.pod(Some(&victim.build()), None, NOW);
        add(&mut state, &pod("usurper").cpu("1"));
        assert!(matches!(state.step(0, NOW), Some(Act::Refuse { .. })), "the room is the vip's");
        let later = Duration::from_secs(1);
        assert!(matches!(state.step(0, later), Some(Act::Bind { pod, .. }) if pod.name() == "vip"));
    }
}
