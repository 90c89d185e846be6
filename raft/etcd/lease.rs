//! The Lease service.

use super::{Member, errors, has_leader, pb};
use crate::{
    command::Command,
    node::{self, NodeError},
};
use futures::{Stream, StreamExt, stream::BoxStream};
use std::sync::Arc;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status, Streaming};

/// The longest lease, in seconds, as in etcd.
const MAX_TTL: i64 = 9_000_000_000;

impl Member {
    /// Renews the leases that a client names, until it ends the stream. A lease that is gone is answered by a time
    /// of 0, as in etcd.
    async fn keep_alive_stream(
        self: Arc<Self>,
        mut requests: impl Stream<Item = Result<pb::LeaseKeepAliveRequest, Status>> + Unpin,
        needs_leader: bool,
        replies: mpsc::Sender<Result<pb::LeaseKeepAliveResponse, Status>>,
    ) {
        let mut leaders = self.node.leadership();
        loop {
            let request = tokio::select! {
                request = requests.next() => request,
                () = node::lost(&mut leaders), if needs_leader => {
                    drop(replies.send(Err(errors::NO_LEADER.into())).await);
                    return;
                }
                () = self.stop.cancelled() => return,
            };
            let Some(Ok(request)) = request else { return };
            let reply = match self.node.keep_alive(request.id).await {
                Ok(ttl) => Ok(self.kept(request.id, ttl)),
                Err(NodeError::LeaseNotFound) => Ok(self.kept(request.id, 0)),
                Err(error) => Err(error.into()),
            };
            let failed = reply.is_err();
            if replies.send(reply).await.is_err() || failed {
                return;
            }
        }
    }

    fn kept(&self, id: i64, ttl: i64) -> pb::LeaseKeepAliveResponse {
        pb::LeaseKeepAliveResponse { header: self.header_now(), id, ttl }
    }
}

#[tonic::async_trait]
impl pb::lease_server::Lease for Member {
    type LeaseKeepAliveStream = BoxStream<'static, Result<pb::LeaseKeepAliveResponse, Status>>;

    async fn lease_grant(
        &self,
        request: Request<pb::LeaseGrantRequest>,
    ) -> Result<Response<pb::LeaseGrantResponse>, Status> {
        self.require_leader(request.metadata())?;
        let request = request.into_inner();
        if request.ttl > MAX_TTL {
            return Err(errors::LEASE_TOO_LONG.into());
        }
        let ttl = request.ttl.max(self.config.min_lease());
        let id = if request.id == 0 { rand::random_range(1..=i64::MAX) } else { request.id };
        let (revision, _) = self.propose(Command::Grant { id, ttl }).await?;
        let header = self.header(revision);
        Ok(Response::new(pb::LeaseGrantResponse { header, id, ttl, error: String::new() }))
    }

    async fn lease_revoke(
        &self,
        request: Request<pb::LeaseRevokeRequest>,
    ) -> Result<Response<pb::LeaseRevokeResponse>, Status> {
        self.require_leader(request.metadata())?;
        let (revision, _) = self.propose(Command::Revoke(request.into_inner().id)).await?;
        Ok(Response::new(pb::LeaseRevokeResponse { header: self.header(revision) }))
    }

    async fn lease_keep_alive(
        &self,
        request: Request<Streaming<pb::LeaseKeepAliveRequest>>,
    ) -> Result<Response<Self::LeaseKeepAliveStream>, Status> {
        self.require_leader(request.metadata())?;
        let needs_leader = has_leader(request.metadata());
        let (replies, stream) = mpsc::channel(16);
        let member = self.arc();
        tokio::spawn(member.keep_alive_stream(request.into_inner(), needs_leader, replies));
        Ok(Response::new(ReceiverStream::new(stream).boxed()))
    }

    async fn lease_time_to_live(
        &self,
        request: Request<pb::LeaseTimeToLiveRequest>,
    ) -> Result<Response<pb::LeaseTimeToLiveResponse>, Status> {
        self.require_leader(request.metadata())?;
        let request = request.into_inner();
        let (ttl, granted_ttl) = match self.node.time_to_live(request.id).await {
            Ok(times) => times,
            Err(NodeError::LeaseNotFound) => (-1, 0),
            Err(error) => return Err(error.into()),
        };
        let mut keys = Vec::new();
        if request.keys && ttl >= 0 {
            self.node.linearize().await?;
            let lease = self.node.local.machine.lease(request.id).unwrap_or_default();
            keys.extend(lease.keys);
        }
        let header = self.header_now();
        Ok(Response::new(pb::LeaseTimeToLiveResponse { header, id: request.id, ttl, granted_ttl, keys }))
    }

    async fn lease_leases(
        &self,
        request: Request<pb::LeaseLeasesRequest>,
    ) -> Result<Response<pb::LeaseLeasesResponse>, Status> {
        self.require_leader(request.metadata())?;
        self.node.linearize().await?;
        let leases = self.node.local.machine.leases().await.map_err(NodeError::Disk)?;
        let leases = leases.into_iter().map(|(id, _)| pb::LeaseStatus { id }).collect();
        Ok(Response::new(pb::LeaseLeasesResponse { header: self.header_now(), leases }))
    }
}
