//! The etcd v3 gRPC services over the group: what etcdctl, API servers and every etcd client library speak.
//!
//! Keeps true: etcd's semantics, error codes and texts, request for request; every answer's header is this member's.
//! The stubs of [`pb`] are for clients in other crates as well. What requests do is `mvcc.rs`, where they are done
//! is `node.rs`.

mod auth;
mod bind;
mod cluster;
mod convert;
mod errors;
mod fitting;
mod health;
mod kv;
mod lease;
mod maintenance;
mod watch;

pub(crate) use bind::bind;

use crate::{
    flags::Config,
    metrics::Metrics,
    node::{Node, NodeError},
};
use std::sync::{
    Arc, Weak,
    atomic::{AtomicU64, Ordering},
};
use tokio_util::sync::CancellationToken;
use tonic::{Status, metadata::MetadataMap};

/// The wire's types and stubs, compiled from `rpc.proto`.
#[allow(missing_docs, clippy::all, clippy::pedantic)]
pub mod pb {
    tonic::include_proto!("etcdserverpb");

    impl RangeResponse {
        /// The keys, of which the answer has the bytes.
        ///
        /// # Errors
        /// When the bytes of one are no `KeyValue`.
        pub fn key_values(&self) -> Result<Vec<KeyValue>, prost::DecodeError> {
            self.kvs.iter().map(|bytes| prost::Message::decode(bytes.clone())).collect()
        }
    }

    /// gRPC's health protocol, compiled from `health.proto`.
    pub mod health {
        tonic::include_proto!("grpc.health.v1");
    }
}

/// The version told to clients: that of the etcd whose API this is.
pub(crate) const VERSION: &str = "3.5.21";

/// Bytes of the state, for the quota.
#[derive(Default)]
struct Used {
    measured: AtomicU64,
    /// Of requests since then.
    since: AtomicU64,
}

/// This member, as its clients see it. It implements all services.
pub(crate) struct Member {
    pub(crate) config: Arc<Config>,
    pub(crate) node: Arc<Node>,
    pub(crate) metrics: Metrics,
    pub(crate) stop: CancellationToken,
    used: Used,
    this: Weak<Self>,
}

impl Member {
    pub(crate) fn new(
        config: Arc<Config>,
        node: Arc<Node>,
        metrics: Metrics,
        stop: CancellationToken,
    ) -> Arc<Self> {
        let used = Used::default();
        Arc::new_cyclic(|this| Self { config, node, metrics, stop, used, this: this.clone() })
    }

    /// For tasks that outlive the call they began in.
    fn arc(&self) -> Arc<Self> {
        self.this.upgrade().expect("a member that is called is there")
    }

    /// The header of an answer given at a revision.
    fn header(&self, revision: i64) -> Option<pb::ResponseHeader> {
        Some(pb::ResponseHeader {
            cluster_id: self.config.cluster,
            member_id: self.config.id,
            revision,
            raft_term: self.node.term(),
        })
    }

    /// The header of an answer that is about now.
    fn header_now(&self) -> Option<pb::ResponseHeader> {
        self.header(self.node.local.machine.revision())
    }

    /// Refuses a request that asks for a leader when there is none.
    fn require_leader(&self, metadata: &MetadataMap) -> Result<(), Status> {
        let asks = has_leader(metadata);
        if asks && self.node.leader().is_none() { Err(errors::NO_LEADER.into()) } else { Ok(()) }
    }

    /// Whether there is no space for more, in the group or on this member's disk.
    pub(crate) fn is_full(&self) -> bool {
        self.node.local.machine.is_full(self.config.id)
    }

    /// Whether the state has outgrown its quota here.
    fn over_quota(&self) -> bool {
        let used = &self.used;
        used.measured.load(Ordering::Relaxed) + used.since.load(Ordering::Relaxed) > self.config.quota
    }

    /// Looks at how large the state is. Between two looks requests are added up.
    fn measure(&self) {
        let (size, _) = self.node.local.machine.size();
        self.used.measured.store(size, Ordering::Relaxed);
        self.used.since.store(0, Ordering::Relaxed);
    }

    /// Whether linearizable reads work here.
    pub(crate) async fn healthy(&self) -> Result<(), NodeError> {
        self.node.linearize().await
    }
}

/// Whether a client wants an error rather than a member without a leader.
fn has_leader(metadata: &MetadataMap) -> bool {
    metadata.get("hasleader").is_some_and(|value| value.as_bytes() == b"true")
}
