//! What is counted, under upstream's names.

use crate::request::RequestInfo;
use axum::response::Response;
use prometheus_client::{
    encoding::EncodeLabelSet,
    metrics::{
        counter::Counter,
        family::Family,
        gauge::Gauge,
        histogram::{Histogram, exponential_buckets},
    },
    registry::Registry,
};
use std::{sync::Arc, time::Duration};

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Request {
    verb: String,
    group: String,
    version: String,
    resource: String,
    subresource: String,
    scope: String,
    code: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Duty {
    verb: String,
    group: String,
    resource: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Flight {
    request_kind: String,
}

/// The server's metrics.
pub(crate) struct Metrics {
    registry: Arc<Registry>,
    requests: Family<Request, Counter>,
    durations: Family<Duty, Histogram>,
    inflight: Family<Flight, Gauge>,
    /// Watches being served.
    pub(crate) watchers: Gauge,
}

impl Metrics {
    pub(crate) fn new() -> Self {
        let mut registry = Registry::default();
        let requests = Family::<Request, Counter>::default();
        let durations = Family::<Duty, Histogram>::new_with_constructor(|| {
            Histogram::new(exponential_buckets(0.001, 2.0, 16))
        });
        let inflight = Family::<Flight, Gauge>::default();
        let watchers = Gauge::default();
        // The library adds `_total` to counters.
        registry.register("apiserver_request", "Requests by verb, resource and code", requests.clone());
        registry.register(
            "apiserver_request_duration_seconds",
            "Seconds until the answer began, by verb and resource",
            durations.clone(),
        );
        registry.register("apiserver_current_inflight_requests", "Requests in flight", inflight.clone());
        registry.register("apiserver_longrunning_requests", "Watches being served", watchers.clone());
        Metrics { registry: Arc::new(registry), requests, durations, inflight, watchers }
    }

    /// Counts a request that was answered.
    pub(crate) fn observe(&self, info: &RequestInfo, code: u16, took: Duration) {
        let known = info.is_resource && code != 404;
        let text = |s: &str| if known { s.to_string() } else { String::new() };
        let scope = match (known, info.name.is_empty(), info.namespace.is_empty()) {
            (false, ..) => "",
            (_, false, _) => "resource",
            (_, _, false) => "namespace",
            _ => "cluster",
        };
        let verb = info.verb.to_uppercase();
        let labels = Request {
            verb: verb.clone(),
            group: text(&info.group),
            version: text(&info.version),
            resource: text(&info.resource),
            subresource: text(&info.subresource),
            scope: scope.to_string(),
            code: code.to_string(),
        };
        self.requests.get_or_create(&labels).inc();
        if info.verb != "watch" {
            let duty = Duty { verb, group: text(&info.group), resource: text(&info.resource) };
            self.durations.get_or_create(&duty).observe(took.as_secs_f64());
        }
    }

    /// Notes how many requests are in flight.
    pub(crate) fn inflight(&self, reads: bool, count: usize) {
        let kind = if reads { "readOnly" } else { "mutating" };
        self.inflight.get_or_create(&Flight { request_kind: kind.into() }).set(count as i64);
    }

    /// The scrape.
    pub(crate) fn render(&self) -> Response {
        serve::metrics::render(&self.registry)
    }
}
