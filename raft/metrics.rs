//! What is measured, under etcd's names where they mean the same, and the HTTP side of health.

use crate::{archive::Position, etcd::Member};
use axum::{
    Router,
    http::StatusCode,
    response::{IntoResponse, Response},
    routing::get,
};
use openraft::async_runtime::watch::WatchReceiver;
use prometheus_client::{
    metrics::{
        counter::Counter,
        gauge::Gauge,
        histogram::{Histogram, exponential_buckets},
    },
    registry::Registry,
};
use std::{sync::Arc, time::Duration};

/// Counters that are fed where things happen.
#[derive(Clone)]
pub(crate) struct Metrics {
    fsyncs: Histogram,
    pending: Gauge,
    failed: Counter,
    archived_revision: Gauge,
    archived_time: Gauge,
    archive_failures: Counter,
}

impl Default for Metrics {
    fn default() -> Self {
        // etcd's buckets.
        let fsyncs = Histogram::new(exponential_buckets(0.001, 2.0, 14));
        Self {
            fsyncs,
            pending: Gauge::default(),
            failed: Counter::default(),
            archived_revision: Gauge::default(),
            archived_time: Gauge::default(),
            archive_failures: Counter::default(),
        }
    }
}

/// A proposal under way; counted until dropped.
pub(crate) struct Pending(Gauge);

impl Drop for Pending {
    fn drop(&mut self) {
        self.0.dec();
    }
}

impl Metrics {
    /// An fsync of the log took so long.
    pub(crate) fn fsync(&self, took: Duration) {
        self.fsyncs.observe(took.as_secs_f64());
    }

    /// A proposal begins.
    pub(crate) fn pending(&self) -> Pending {
        self.pending.inc();
        Pending(self.pending.clone())
    }

    /// The archive is complete up to here.
    pub(crate) fn archived(&self, at: Position) {
        self.archived_revision.set(at.revision);
        self.archived_time.set(at.time / 1000);
    }

    /// The archive could not be written.
    pub(crate) fn archive_failed(&self) {
        self.archive_failures.inc();
    }

    /// A proposal failed.
    pub(crate) fn failed(&self) {
        self.failed.inc();
    }
}

/// `/metrics`, `/health`, `/livez` and `/readyz`.
pub(crate) fn router(member: Arc<Member>) -> Router {
    let (metrics, health, ready) = (member.clone(), member.clone(), member);
    Router::new()
        .route("/metrics", get(move || std::future::ready(serve::metrics::render(&registry(&metrics)))))
        .route("/health", get(move || answer(health.clone())))
        .route("/readyz", get(move || answer(ready.clone())))
        .route("/livez", get(|| std::future::ready("ok")))
}

/// Exercises the path that reads take: a member that cannot confirm a read is not healthy.
async fn answer(member: Arc<Member>) -> Response {
    let confirmed = tokio::time::timeout(Duration::from_secs(2), member.healthy()).await;
    let (code, reason) = match confirmed {
        Ok(Ok(())) if member.is_full() => (StatusCode::SERVICE_UNAVAILABLE, "ALARM NOSPACE"),
        Ok(Ok(())) => (StatusCode::OK, ""),
        _ => (StatusCode::SERVICE_UNAVAILABLE, "QGET ERROR:etcdserver: request timed out"),
    };
    let body = serde_json::json!({ "health": (code == StatusCode::OK).to_string(), "reason": reason });
    (code, axum::Json(body)).into_response()
}

fn registry(member: &Member) -> Registry {
    let mut registry = Registry::default();
    let raft = member.node.local.raft.metrics().borrow_watched().clone();
    let (size, used) = member.node.local.machine.size();
    let leader = member.node.leader();
    let mut gauge = |name: &str, help: &str, value: i64| {
        let gauge: Gauge = Gauge::default();
        gauge.set(value);
        registry.register(name, help, gauge);
    };
    let number = |value: u64| i64::try_from(value).unwrap_or(i64::MAX);
    gauge("etcd_server_has_leader", "Whether a leader is known", i64::from(leader.is_some()));
    gauge("etcd_server_is_leader", "Whether this member leads", i64::from(leader == Some(member.config.id)));
    gauge(
        "etcd_server_proposals_applied_total",
        "Last entry applied",
        number(member.node.local.machine.applied()),
    );
    gauge(
        "etcd_server_proposals_committed_total",
        "Last entry committed",
        number(raft.local_committed.map_or(0, |id| id.index)),
    );
    gauge("etcd_server_term", "The term", number(raft.current_term));
    gauge("etcd_mvcc_db_total_size_in_bytes", "Bytes of keys and values", number(size));
    gauge("etcd_mvcc_db_total_size_in_use_in_bytes", "Bytes of them in use", number(used));
    gauge("etcd_debugging_mvcc_current_revision", "The revision", member.node.local.machine.revision());
    gauge(
        "etcd_debugging_mvcc_compact_revision",
        "The compacted revision",
        member.node.local.machine.compacted(),
    );
    let metrics = &member.metrics;
    registry.register("etcd_server_proposals_pending", "Proposals under way", metrics.pending.clone());
    registry.register("etcd_server_proposals_failed", "Proposals failed", metrics.failed.clone());
    registry.register(
        "trireme_store_archive_revision",
        "The archive is complete up to this revision",
        metrics.archived_revision.clone(),
    );
    registry.register(
        "trireme_store_archive_time_seconds",
        "The archive is complete up to this time",
        metrics.archived_time.clone(),
    );
    registry.register(
        "trireme_store_archive_failures",
        "The archive could not be written",
        metrics.archive_failures.clone(),
    );
    registry.register("etcd_disk_wal_fsync_duration_seconds", "Syncs of the log", metrics.fsyncs.clone());
    registry
}
