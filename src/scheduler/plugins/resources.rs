//! NodeResourcesFit (filter, and the least used node scores best) and NodeResourcesBalancedAllocation.

use std::borrow::Cow;

use super::{Context, MAX_SCORE, Plugin, Reject};
use crate::event::Event;
use crate::pod::PodInfo;
use crate::resources::Resources;
use crate::snapshot::NodeInfo;

struct Fit<'a> {
    pod: &'a PodInfo,
}

pub(super) fn prepare_fit<'a>(context: &Context<'a>) -> Option<Box<dyn Plugin + 'a>> {
    Some(Box::new(Fit { pod: context.pod }))
}

/// What is missing on a node with these amounts, as reasons; and whether an empty node would do.
fn missing(
    wanted: &Resources,
    requested: &Resources,
    allocatable: &Resources,
) -> (Vec<Cow<'static, str>>, bool) {
    let mut reasons = Vec::new();
    let mut resolvable = true;
    let mut check = |name: &str, wanted: i64, requested: i64, allocatable: i64| {
        if wanted > 0 && wanted > allocatable.saturating_sub(requested) {
            reasons.push(format!("Insufficient {name}").into());
            resolvable &= wanted <= allocatable;
        }
    };
    check("cpu", wanted.milli_cpu, requested.milli_cpu, allocatable.milli_cpu);
    check("memory", wanted.memory, requested.memory, allocatable.memory);
    check(
        "ephemeral-storage",
        wanted.ephemeral_storage,
        requested.ephemeral_storage,
        allocatable.ephemeral_storage,
    );
    for (name, amount) in &wanted.other {
        let of = |r: &Resources| r.other.get(name).copied().unwrap_or(0);
        check(name, *amount, of(requested), of(allocatable));
    }
    (reasons, resolvable)
}

pub(super) fn hint(event: &Event, pod: &PodInfo) -> bool {
    let fits_empty =
        |node: &NodeInfo| missing(&pod.requests, &Resources::default(), &node.allocatable).0.is_empty();
    match event {
        Event::NodeAdded(node) => fits_empty(node),
        Event::NodeChanged(old, new) => {
            (old.allocatable != new.allocatable || old.max_pods != new.max_pods) && fits_empty(new)
        }
        Event::PodRemoved(_) => true,
        Event::PodChanged(old, new) => old.requests != new.requests,
        Event::PodAssigned(_) | Event::Other => false,
    }
}

impl Plugin for Fit<'_> {
    fn filter(&self, node: &NodeInfo) -> Result<(), Reject> {
        let (mut reasons, resolvable) = missing(&self.pod.requests, &node.requested, &node.allocatable);
        let count = i64::try_from(node.pods.len()).unwrap_or(i64::MAX);
        if count >= node.max_pods {
            reasons.insert(0, "Too many pods".into());
        }
        if reasons.is_empty() { Ok(()) } else { Err(Reject { reasons, resolvable }) }
    }

    fn prescore(&mut self, _nodes: &[&NodeInfo]) -> bool {
        true
    }

    /// The mean share of CPU and memory that stays free.
    fn score(&self, node: &NodeInfo) -> i64 {
        let free = |wanted: i64, requested: i64, allocatable: i64| {
            if allocatable <= 0 {
                return None;
            }
            let left = allocatable.saturating_sub(requested.saturating_add(wanted)).max(0);
            i64::try_from(i128::from(left) * i128::from(MAX_SCORE) / i128::from(allocatable)).ok()
        };
        let (pod, used, all) = (&self.pod.scored, &node.scored, &node.allocatable);
        mean(&[free(pod.milli_cpu, used.milli_cpu, all.milli_cpu), free(pod.memory, used.memory, all.memory)])
    }
}

fn mean(scores: &[Option<i64>]) -> i64 {
    let known: Vec<i64> = scores.iter().flatten().copied().collect();
    known.iter().sum::<i64>().checked_div(i64::try_from(known.len()).unwrap_or(1)).unwrap_or(0)
}

struct Balanced<'a> {
    pod: &'a PodInfo,
}

/// A pod that asks for nothing cannot unbalance a node.
pub(super) fn prepare_balanced<'a>(context: &Context<'a>) -> Option<Box<dyn Plugin + 'a>> {
    let requests = &context.pod.requests;
    let asks = requests.milli_cpu > 0 || requests.memory > 0;
    asks.then(|| Box::new(Balanced { pod: context.pod }) as Box<dyn Plugin>)
}

impl Plugin for Balanced<'_> {
    fn prescore(&mut self, _nodes: &[&NodeInfo]) -> bool {
        true
    }

    /// The closer the used shares of CPU and memory, the better. Of two shares, the standard deviation is half
    /// their distance.
    #[expect(
        clippy::cast_precision_loss,
        clippy::cast_possible_truncation,
        reason = "shares between 0 and 1"
    )]
    fn score(&self, node: &NodeInfo) -> i64 {
        let share = |wanted: i64, requested: i64, allocatable: i64| {
            (allocatable > 0).then(|| (requested.saturating_add(wanted) as f64 / allocatable as f64).min(1.0))
        };
        let (pod, used, all) = (&self.pod.requests, &node.requested, &node.allocatable);
        let cpu = share(pod.milli_cpu, used.milli_cpu, all.milli_cpu);
        let memory = share(pod.memory, used.memory, all.memory);
        let deviation = cpu.zip(memory).map_or(0.0, |(a, b)| (a - b).abs() / 2.0);
        ((1.0 - deviation) * MAX_SCORE as f64) as i64
    }
}
