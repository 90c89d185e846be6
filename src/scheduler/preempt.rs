//! Preemption: which less important pods must go so that a pod fits.
//!
//! Keeps true: every victim is less important than the pod; without the victims the pod fits on the node; no
//! victim is taken that could stay; disruption budgets are violated only when there is no other way. Pure:
//! deleting the victims is the driver's business.

use std::borrow::Cow;
use std::cmp::Reverse;
use std::collections::HashMap;
use std::sync::Arc;

use jiff::Timestamp;

use crate::cycle::{Diagnosis, Rules, tally};
use crate::pod::PodInfo;
use crate::snapshot::{NodeInfo, Snapshot};

/// At most this many nodes are tried: each try copies the snapshot.
const MAX_CANDIDATES: usize = 100;

/// Room can be made.
#[derive(Clone, Debug)]
pub struct Plan {
    /// On this node.
    pub node: String,
    /// By deleting these.
    pub victims: Vec<Arc<PodInfo>>,
}

struct Candidate {
    plan: Plan,
    violations: usize,
}

/// Looks for room for a pod that fits nowhere; `Err` says why there is none, as it goes into the event.
pub fn preempt(snapshot: &Snapshot, pod: &PodInfo, diagnosis: &Diagnosis) -> Result<Plan, String> {
    eligible(snapshot, pod)?;
    let mut refusals: Vec<Cow<'static, str>> = Vec::new();
    let mut candidates = Vec::new();
    for (name, rejection) in &diagnosis.rejected {
        let Some(node) = snapshot.node(name).filter(|_| rejection.reject.resolvable) else {
            refusals.push("Preemption is not helpful for scheduling".into());
            continue;
        };
        if candidates.len() >= MAX_CANDIDATES {
            break;
        }
        match clear(snapshot, pod, node) {
            Some(candidate) => candidates.push(candidate),
            None => refusals.push("No preemption victims found for incoming pod".into()),
        }
    }
    let best = candidates.into_iter().min_by_key(cost);
    best.map(|c| c.plan).ok_or_else(|| {
        format!("preemption: 0/{} nodes are available: {}.", diagnosis.nodes, tally(refusals.iter()))
    })
}

fn eligible(snapshot: &Snapshot, pod: &PodInfo) -> Result<(), String> {
    if pod.spec().preemption_policy.as_deref() == Some("Never") {
        return Err("preemption: not eligible due to preemptionPolicy=Never.".to_owned());
    }
    let nominated = snapshot.nomination(pod.uid()).and_then(|n| snapshot.node(n));
    let leaving =
        |node: &NodeInfo| node.pods.values().any(|p| p.terminating() && p.priority() < pod.priority());
    if nominated.is_some_and(leaving) {
        return Err("preemption: not eligible due to a terminating pod on the nominated node.".to_owned());
    }
    Ok(())
}

/// Fewest violated budgets, then the least important victims, then the fewest, then the youngest.
fn cost(candidate: &Candidate) -> (usize, i32, i64, usize, Reverse<Option<Timestamp>>) {
    let victims = &candidate.plan.victims;
    let highest = victims.iter().map(|v| v.priority()).max().unwrap_or(i32::MIN);
    // Shifted so that each victim costs something, also with a negative priority.
    let sum = victims.iter().map(|v| i64::from(v.priority()) - i64::from(i32::MIN)).sum();
    let oldest = victims.iter().filter(|v| v.priority() == highest).map(|v| started(v)).min().flatten();
    (candidate.violations, highest, sum, victims.len(), Reverse(oldest))
}

fn started(pod: &PodInfo) -> Option<Timestamp> {
    pod.pod().status.as_ref()?.start_time.as_ref().map(|t| t.0)
}

/// The victims that make room on one node: all less important pods, but those that can stay after all.
fn clear(snapshot: &Snapshot, pod: &PodInfo, node: &NodeInfo) -> Option<Candidate> {
    let lesser: Vec<Arc<PodInfo>> =
        node.pods.values().filter(|p| p.priority() < pod.priority()).cloned().collect();
    if lesser.is_empty() {
        return None;
    }
    let mut trial = snapshot.clone();
    for victim in &lesser {
        trial.remove_pod(victim.uid());
    }
    if !fits(&trial, pod, node.name()) {
        return None;
    }
    let (mut guarded, mut free) = partition(snapshot, lesser);
    for group in [&mut guarded, &mut free] {
        group.sort_by_key(|p| (Reverse(p.priority()), started(p)));
    }
    let violations_before = guarded.len();
    let mut victims = Vec::new();
    let mut violations = 0;
    for (i, candidate) in guarded.into_iter().chain(free).enumerate() {
        trial.set_pod(candidate.clone());
        if !fits(&trial, pod, node.name()) {
            trial.remove_pod(candidate.uid());
            violations += usize::from(i < violations_before);
            victims.push(candidate);
        }
    }
    Some(Candidate { plan: Plan { node: node.name().to_owned(), victims }, violations })
}

fn fits(snapshot: &Snapshot, pod: &PodInfo, node: &str) -> bool {
    snapshot.node(node).is_some_and(|node| Rules::new(snapshot, pod).filter(node).is_ok())
}

/// Splits pods into those whose loss would violate a disruption budget and the others.
fn partition(snapshot: &Snapshot, pods: Vec<Arc<PodInfo>>) -> (Vec<Arc<PodInfo>>, Vec<Arc<PodInfo>>) {
    let budgets: Vec<_> = snapshot.budgets().collect();
    let mut left: HashMap<usize, i32> = budgets.iter().enumerate().map(|(i, b)| (i, b.allowed)).collect();
    pods.into_iter().partition(|pod| {
        let mut violates = false;
        for (i, budget) in budgets.iter().enumerate() {
            let concerns = budget.namespace == pod.namespace() && budget.selector.matches(pod.labels());
            if concerns && !budget.disrupted.iter().any(|name| name == pod.name()) {
                let allowed = left.entry(i).or_default();
                *allowed -= 1;
                violates |= *allowed < 0;
            }
        }
        violates
    })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::preempt;
    use crate::cycle::{Decision, Options, decide};
    use crate::snapshot::Snapshot;
    use crate::testing::{MakePod, node, pod};

    fn cluster(pods: &[MakePod]) -> Snapshot {
        let mut snapshot = Snapshot::default();
        for name in ["w1", "w2"] {
            snapshot.set_node(node(name).cpu("2").build());
        }
        pods.iter().for_each(|p| snapshot.set_pod(p.clone().info()));
        snapshot
    }

    fn check(snapshot: &Snapshot, wanted: MakePod, expect: Result<(&str, &[&str]), &str>) {
        let wanted = wanted.info();
        let Decision::Unschedulable(diagnosis) = decide(snapshot, &wanted, Options::default()) else {
            panic!("fits without preemption")
        };
        let got = preempt(snapshot, &wanted, &diagnosis);
        match (got, expect) {
            (Ok(plan), Ok((node, victims))) => {
                let names: Vec<&str> = plan.victims.iter().map(|v| v.name()).collect();
                assert_eq!((plan.node.as_str(), names.as_slice()), (node, victims));
            }
            (Err(text), Err(expect)) => assert_eq!(text, expect),
            (got, _) => panic!("{got:?}"),
        }
    }

    #[test]
    fn the_least_important_go_and_no_more_than_needed() {
        let snapshot = cluster(&[
            pod("a").cpu("1").priority(1).on("w1"),
            pod("b").cpu("1").priority(5).on("w1"),
            pod("c").cpu("1").priority(3).on("w2"),
            pod("d").cpu("1").priority(5).on("w2"),
        ]);
        check(&snapshot, pod("vip").cpu("1").priority(10), Ok(("w1", &["a"])));
        check(&snapshot, pod("vip").cpu("2").priority(10), Ok(("w1", &["b", "a"])));
        check(
            &snapshot,
            pod("peer").cpu("1").priority(1),
            Err("preemption: 0/2 nodes are available: 2 No preemption victims found for incoming pod."),
        );
        check(
            &snapshot,
            pod("huge").cpu("9").priority(10),
            Err("preemption: 0/2 nodes are available: 2 Preemption is not helpful for scheduling."),
        );
        let never = pod("never").cpu("1").priority(9).set("/spec/preemptionPolicy", "Never");
        check(&snapshot, never, Err("preemption: not eligible due to preemptionPolicy=Never."));
    }

    #[test]
    fn budgets_are_respected_where_possible() {
        let mut snapshot = cluster(&[
            pod("a").cpu("2").priority(1).label("app", "db").on("w1"),
            pod("b").cpu("2").priority(2).on("w2"),
        ]);
        let budget = json!({"metadata": {"name": "db", "namespace": "default"},
            "spec": {"selector": {"matchLabels": {"app": "db"}}},
            "status": {"disruptionsAllowed": 0, "currentHealthy": 1, "desiredHealthy": 1, "expectedPods": 1}});
        snapshot.set_budget(&serde_json::from_value(budget).unwrap());
        check(&snapshot, pod("vip").cpu("1").priority(10), Ok(("w2", &["b"])));
    }
}
