//! Metrics under upstream's names.

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::Registry;

use crate::queue::Lengths;

/// Labels of an attempt.
#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
pub(crate) struct Attempt {
    result: &'static str,
    profile: String,
}

/// Label of a part of the queue.
#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
pub(crate) struct Part {
    queue: &'static str,
}

/// Label of an election.
#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
pub(crate) struct Election {
    name: String,
}

type Durations = Family<Attempt, Histogram, fn() -> Histogram>;

/// All of the scheduler's metrics.
#[derive(Clone)]
pub(crate) struct Metrics {
    attempts: Family<Attempt, Counter>,
    durations: Durations,
    pending: Family<Part, Gauge>,
    sli: Histogram,
    tries: Histogram,
    preemptions: Counter,
    victims: Histogram,
    leader: Family<Election, Gauge>,
}

fn seconds() -> Histogram {
    Histogram::new(exponential_buckets(0.001, 2.0, 15))
}

impl Metrics {
    pub(crate) fn new(registry: &mut Registry) -> Self {
        let metrics = Self {
            attempts: Family::default(),
            durations: Family::new_with_constructor(seconds),
            pending: Family::default(),
            sli: Histogram::new(exponential_buckets(0.01, 2.0, 20)),
            tries: Histogram::new(exponential_buckets(1.0, 2.0, 5)),
            preemptions: Counter::default(),
            victims: Histogram::new(exponential_buckets(1.0, 2.0, 7)),
            leader: Family::default(),
        };
        let registry_of = |r: &mut Registry, m: &Self| {
            r.register(
                "scheduler_schedule_attempts",
                "Attempts to schedule pods, by the result",
                m.attempts.clone(),
            );
            let help = "Scheduling attempt latency in seconds (algorithm and, if scheduled, binding)";
            r.register("scheduler_scheduling_attempt_duration_seconds", help, m.durations.clone());
            r.register("scheduler_pending_pods", "Pending pods, by the queue", m.pending.clone());
            let help = "Time from a pod's first arrival in the queue until it is bound";
            r.register("scheduler_pod_scheduling_sli_duration_seconds", help, m.sli.clone());
            r.register("scheduler_pod_scheduling_attempts", "Attempts until a pod is bound", m.tries.clone());
            r.register("scheduler_preemption_attempts", "Preemptions planned", m.preemptions.clone());
            r.register("scheduler_preemption_victims", "Pods deleted by a preemption", m.victims.clone());
            let help = "Whether this process leads, by the name of the lease";
            r.register("leader_election_master_status", help, m.leader.clone());
        };
        registry_of(registry, &metrics);
        metrics
    }

    /// One attempt has ended.
    pub(crate) fn attempt(&self, result: &'static str, profile: &str, seconds: f64) {
        let labels = Attempt { result, profile: profile.to_owned() };
        self.attempts.get_or_create(&labels).inc();
        self.durations.get_or_create(&labels).observe(seconds);
    }

    /// A pod is bound, this long after it came and after so many attempts.
    pub(crate) fn bound(&self, seconds: f64, attempts: u32) {
        self.sli.observe(seconds);
        self.tries.observe(f64::from(attempts));
    }

    /// A preemption was planned.
    #[expect(clippy::cast_precision_loss, reason = "a node holds few pods")]
    pub(crate) fn preempted(&self, victims: usize) {
        self.preemptions.inc();
        self.victims.observe(victims as f64);
    }

    /// The queue is this long.
    pub(crate) fn queue(&self, lengths: Lengths) {
        let parts = [
            ("active", lengths.active),
            ("backoff", lengths.backoff),
            ("unschedulable", lengths.unschedulable),
            ("gated", lengths.gated),
        ];
        for (queue, length) in parts {
            self.pending.get_or_create(&Part { queue }).set(i64::try_from(length).unwrap_or(i64::MAX));
        }
    }

    /// Whether this process leads.
    pub(crate) fn leading(&self, name: &str, leads: bool) {
        self.leader.get_or_create(&Election { name: name.to_owned() }).set(i64::from(leads));
    }
}
