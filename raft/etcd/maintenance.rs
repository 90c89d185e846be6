//! The Maintenance service: how this member is.

use super::{Member, VERSION, errors, pb};
use crate::node::NodeError;
use openraft::async_runtime::watch::WatchReceiver;
use std::io;
use tonic::{Request, Response, Status};

impl Member {
    fn alarms(&self) -> Vec<pb::AlarmMember> {
        let alarm = pb::AlarmMember { member_id: self.config.id, alarm: pb::AlarmType::Nospace.into() };
        self.is_full().then_some(alarm).into_iter().collect()
    }

    async fn hash_at(&self, revision: i64) -> Result<(u32, i64, i64), Status> {
        let machine = self.node.local.machine.clone();
        let hashed = tokio::task::spawn_blocking(move || machine.hash(revision)).await;
        Ok(hashed.map_err(io::Error::other).flatten().map_err(NodeError::Disk)??)
    }

    fn status_response(&self) -> pb::StatusResponse {
        let metrics = self.node.local.raft.metrics().borrow_watched().clone();
        let (size, used) = self.node.local.machine.size();
        let leader = self.node.leader();
        let mut errors: Vec<String> = Vec::new();
        if leader.is_none() {
            errors.push(errors::NO_LEADER.text.into());
        }
        if self.is_full() {
            errors.push(format!("memberID:{} alarm:NOSPACE ", self.config.id));
        }
        pb::StatusResponse {
            header: self.header_now(),
            version: VERSION.into(),
            db_size: i64::try_from(size).unwrap_or(i64::MAX),
            leader: leader.unwrap_or_default(),
            raft_index: metrics.last_log_index.unwrap_or_default(),
            raft_term: metrics.current_term,
            raft_applied_index: metrics.last_applied.map_or(0, |id| id.index),
            errors,
            db_size_in_use: i64::try_from(used).unwrap_or(i64::MAX),
            is_learner: false,
        }
    }
}

#[tonic::async_trait]
impl pb::maintenance_server::Maintenance for Member {
    async fn alarm(&self, request: Request<pb::AlarmRequest>) -> Result<Response<pb::AlarmResponse>, Status> {
        self.require_leader(request.metadata())?;
        // Alarms follow from the state; there is nothing to raise or to lift by hand.
        Ok(Response::new(pb::AlarmResponse { header: self.header_now(), alarms: self.alarms() }))
    }

    async fn status(&self, _: Request<pb::StatusRequest>) -> Result<Response<pb::StatusResponse>, Status> {
        Ok(Response::new(self.status_response()))
    }

    /// Nothing to do: RocksDB gives space back by itself.
    async fn defragment(
        &self,
        _: Request<pb::DefragmentRequest>,
    ) -> Result<Response<pb::DefragmentResponse>, Status> {
        Ok(Response::new(pb::DefragmentResponse { header: self.header_now() }))
    }

    async fn hash(&self, _: Request<pb::HashRequest>) -> Result<Response<pb::HashResponse>, Status> {
        let (hash, revision, _) = self.hash_at(0).await?;
        Ok(Response::new(pb::HashResponse { header: self.header(revision), hash }))
    }

    async fn hash_kv(
        &self,
        request: Request<pb::HashKvRequest>,
    ) -> Result<Response<pb::HashKvResponse>, Status> {
        let (hash, hash_revision, compact_revision) = self.hash_at(request.into_inner().revision).await?;
        // etcd gives -1 where nothing was compacted yet.
        let compact_revision = if compact_revision == 0 { -1 } else { compact_revision };
        let header = self.header_now();
        Ok(Response::new(pb::HashKvResponse { header, hash, compact_revision, hash_revision }))
    }

    async fn move_leader(
        &self,
        request: Request<pb::MoveLeaderRequest>,
    ) -> Result<Response<pb::MoveLeaderResponse>, Status> {
        let target = request.into_inner().target_id;
        if self.node.leader() != Some(self.config.id) {
            return Err(errors::NOT_LEADER.into());
        }
        if !self.config.peers.contains_key(&target) {
            return Err(errors::BAD_TRANSFEREE.into());
        }
        if target != self.config.id {
            self.node.hand_over(Some(target)).await?;
        }
        Ok(Response::new(pb::MoveLeaderResponse { header: self.header_now() }))
    }
}
