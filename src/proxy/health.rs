//! `/healthz` and `/livez` for load balancers and probes, and the metrics' server.
//!
//! Keeps true: healthy means that what was learned is in the kernel, or has been waiting for less than
//! [`PATIENCE`]; `/healthz` (not `/livez`) also says no when the node is going away.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use axum::Router;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use jiff::Timestamp;
use k8s_openapi::api::core::v1::Node;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::Registry;
use serde_json::json;

/// A change that waits for longer than this is a problem.
const PATIENCE: Duration = Duration::from_secs(60);
/// Taint of the cluster autoscaler on nodes that it is about to delete.
const DOOMED: &str = "ToBeDeletedByClusterAutoscaler";

#[derive(Debug)]
struct Facts {
    /// A change waits since then.
    waiting: Option<Instant>,
    updated: Option<Timestamp>,
    eligible: bool,
}

/// What the health endpoints answer from; cheap to clone.
#[derive(Clone, Debug)]
pub(crate) struct Health(Arc<Mutex<Facts>>);

impl Health {
    pub(crate) fn new() -> Self {
        Self(Arc::new(Mutex::new(Facts { waiting: Some(Instant::now()), updated: None, eligible: true })))
    }

    fn with<T>(&self, f: impl FnOnce(&mut Facts) -> T) -> T {
        f(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// A change was learned.
    pub(crate) fn queued(&self) {
        self.with(|f| f.waiting = f.waiting.or_else(|| Some(Instant::now())));
    }

    /// All that was learned is in the kernel.
    pub(crate) fn updated(&self) {
        self.with(|f| (f.waiting, f.updated) = (None, Some(Timestamp::now())));
    }

    /// Looks at this node's object.
    pub(crate) fn node(&self, node: Option<&Node>) {
        let taints = |n: &Node| n.spec.as_ref().and_then(|s| s.taints.clone()).unwrap_or_default();
        let doomed =
            |n: &Node| n.metadata.deletion_timestamp.is_some() || taints(n).iter().any(|t| t.key == DOOMED);
        self.with(|f| f.eligible = !node.is_some_and(doomed));
    }

    pub(crate) fn router(&self) -> Router {
        let (all, live) = (self.clone(), self.clone());
        Router::new()
            .route("/healthz", get(move || std::future::ready(all.answer(true))))
            .route("/livez", get(move || std::future::ready(live.answer(false))))
    }

    fn answer(&self, with_node: bool) -> Response {
        let now = Timestamp::now();
        let (healthy, updated, eligible) = self.with(|f| {
            let fresh = f.waiting.is_none_or(|since| since.elapsed() < PATIENCE);
            (fresh, f.updated, f.eligible)
        });
        let ok = healthy && (eligible || !with_node);
        let code = if ok { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
        let updated = updated.map_or_else(String::new, |t| t.to_string());
        let mut body = json!({"lastUpdated": updated, "currentTime": now.to_string()});
        if with_node {
            body["nodeEligible"] = eligible.into();
        }
        (code, [(header::CONTENT_TYPE, "application/json")], body.to_string()).into_response()
    }
}

/// Metrics under upstream's names.
#[derive(Clone)]
pub(crate) struct Metrics {
    pub(crate) sync: Histogram,
    pub(crate) last: Gauge<f64, std::sync::atomic::AtomicU64>,
    pub(crate) failures: Counter,
    pub(crate) services: Gauge,
    pub(crate) endpoints: Gauge,
    pub(crate) stale: Counter,
}

impl Metrics {
    pub(crate) fn new(registry: &mut Registry) -> Self {
        let metrics = Self {
            sync: Histogram::new(exponential_buckets(0.001, 2.0, 15)),
            last: Gauge::default(),
            failures: Counter::default(),
            services: Gauge::default(),
            endpoints: Gauge::default(),
            stale: Counter::default(),
        };
        let m = metrics.clone();
        registry.register(
            "kubeproxy_sync_proxy_rules_duration_seconds",
            "Time to bring rules to the kernel",
            m.sync,
        );
        registry.register(
            "kubeproxy_sync_proxy_rules_last_timestamp_seconds",
            "When that was last done",
            m.last,
        );
        registry.register(
            "kubeproxy_sync_proxy_rules_nftables_sync_failures",
            "How often it failed",
            m.failures,
        );
        registry.register("kubeproxy_sync_proxy_rules_services", "Services known", m.services);
        registry.register("kubeproxy_sync_proxy_rules_endpointslices", "EndpointSlices known", m.endpoints);
        registry.register(
            "kubeproxy_conntrack_reconciler_deleted_entries",
            "Stale UDP connections deleted",
            m.stale,
        );
        metrics
    }
}

/// `/metrics` and `/proxyMode`.
pub(crate) fn metrics_router(registry: Registry) -> Router {
    serve::metrics::router(registry).route("/proxyMode", get(|| std::future::ready("nftables")))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::Health;

    #[test]
    fn a_doomed_node_is_not_eligible_but_alive() {
        let health = Health::new();
        let node = |spec| serde_json::from_value(json!({"metadata": {"name": "n"}, "spec": spec})).unwrap();
        health.updated();
        health.node(Some(&node(json!({}))));
        assert_eq!(health.answer(true).status(), 200);
        health.node(Some(&node(json!({"taints": [{"key": super::DOOMED, "effect": "NoSchedule"}]}))));
        assert_eq!(health.answer(true).status(), 503);
        assert_eq!(health.answer(false).status(), 200);
    }
}
