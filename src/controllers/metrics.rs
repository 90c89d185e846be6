//! `workqueue_*`, as dashboards for Kubernetes expect them.

use std::time::Duration;

use prometheus_client::{
    encoding::EncodeLabelSet,
    metrics::{counter::Counter, family::Family, gauge::Gauge, histogram::Histogram},
    registry::Registry,
};
use tokio::time::Instant;

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct Labels {
    name: String,
}

impl Labels {
    fn of(name: &str) -> Self {
        Self { name: name.to_owned() }
    }
}

/// Seconds, from 10 µs to 10 s.
const BUCKETS: [f64; 7] = [1e-5, 1e-4, 1e-3, 1e-2, 1e-1, 1.0, 10.0];

fn histogram() -> Histogram {
    Histogram::new(BUCKETS)
}

/// The metrics of all work queues.
#[derive(Clone)]
pub(crate) struct Metrics {
    adds: Family<Labels, Counter>,
    depth: Family<Labels, Gauge>,
    retries: Family<Labels, Counter>,
    work: Family<Labels, Histogram, fn() -> Histogram>,
    leader: Gauge,
}

impl Metrics {
    pub(crate) fn new(registry: &mut Registry) -> Self {
        let metrics = Self {
            adds: Family::default(),
            depth: Family::default(),
            retries: Family::default(),
            work: Family::new_with_constructor(histogram),
            leader: Gauge::default(),
        };
        registry.register("workqueue_adds", "Adds handled by workqueue", metrics.adds.clone());
        registry.register("workqueue_depth", "Current depth of workqueue", metrics.depth.clone());
        registry.register("workqueue_retries", "Retries handled by workqueue", metrics.retries.clone());
        let help = "How long in seconds processing an item from workqueue takes";
        registry.register("workqueue_work_duration_seconds", help, metrics.work.clone());
        let help = "Whether this process is the active controller manager";
        registry.register("leader_election_master_status", help, metrics.leader.clone());
        metrics
    }

    pub(crate) fn added(&self, name: &str) {
        self.adds.get_or_create(&Labels::of(name)).inc();
    }

    pub(crate) fn retried(&self, name: &str) {
        self.retries.get_or_create(&Labels::of(name)).inc();
    }

    pub(crate) fn depth(&self, name: &str, depth: usize) {
        self.depth.get_or_create(&Labels::of(name)).set(i64::try_from(depth).unwrap_or(i64::MAX));
    }

    pub(crate) fn leading(&self, leads: bool) {
        self.leader.set(i64::from(leads));
    }

    /// Measures until dropped.
    pub(crate) fn work<'a>(&'a self, name: &'a str) -> Timer<'a> {
        Timer { metrics: self, name, since: Instant::now() }
    }
}

/// Time spent on one item.
pub(crate) struct Timer<'a> {
    metrics: &'a Metrics,
    name: &'a str,
    since: Instant,
}

impl Drop for Timer<'_> {
    fn drop(&mut self) {
        let spent: Duration = self.since.elapsed();
        self.metrics.work.get_or_create(&Labels::of(self.name)).observe(spent.as_secs_f64());
    }
}
