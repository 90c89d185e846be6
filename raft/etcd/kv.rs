//! The KV service.

use super::{Member, convert, errors, pb};
use crate::{
    command::{Alarm, AlarmKind, Command, Op, Outcome, Response as Result_, Txn},
    node::NodeError,
};
use prost::Message;
use std::sync::atomic::Ordering;
use tonic::{Request, Response, Status};

/// Bytes that etcd adds to a request on its way into the log.
const ENTRY_OVERHEAD: usize = 16;

impl Member {
    fn check_size(&self, bytes: usize) -> Result<(), Status> {
        // etcd limits what it puts into its log: the request and some bytes around it.
        let limit = self.config.flags.max_request_bytes.saturating_sub(ENTRY_OVERHEAD);
        if bytes > limit {
            return Err(errors::TOO_LARGE.into());
        }
        self.used.since.fetch_add(bytes as u64, Ordering::Relaxed);
        Ok(())
    }

    /// Refuses what would grow the state over its quota, and tells all members. It is the state machine that
    /// refuses from then on, until the alarm is lifted.
    async fn check_space(&self) -> Result<(), Status> {
        if !self.over_quota() {
            return Ok(());
        }
        let alarm = Alarm { kind: AlarmKind::NoSpace, member: self.config.id };
        if !self.node.local.machine.alarms().contains(&alarm) {
            self.node.propose(Command::Alarm { alarm, raise: true }).await?;
            tracing::warn!(quota = self.config.quota, "the state has outgrown its quota: writes are refused");
        }
        Err(errors::NO_SPACE.into())
    }

    /// Has a command done; a refusal is the client's error.
    pub(super) async fn propose(&self, command: Command) -> Result<(i64, Result_), Status> {
        if command.grows() {
            self.check_space().await?;
        }
        let _pending = self.metrics.pending();
        match self.node.propose(command).await {
            Ok(Outcome { revision, result }) => Ok((revision, result?)),
            Err(error) => {
                self.metrics.failed();
                Err(error.into())
            }
        }
    }

    /// A transaction that writes nothing is a read. What it compares and reads must be of one moment, so it goes
    /// through the log all the same when it has more than one read or comparison.
    async fn read_txn(&self, txn: Txn, serializable: bool) -> Result<pb::TxnResponse, Status> {
        let single = txn.compare.is_empty() && txn.success.len() == 1;
        if let (true, Some(Op::Range(range))) = (single, txn.success.first())
            && range.revision >= 0
        {
            if !serializable {
                self.node.linearize().await?;
            }
            let (revision, found) = self.node.range(range.clone()).await?;
            let responses = vec![Result_::Range(found?)];
            return Ok(convert::txn_response(self.header(revision), revision, true, responses));
        }
        self.write_txn(txn).await
    }

    async fn write_txn(&self, txn: Txn) -> Result<pb::TxnResponse, Status> {
        match self.propose(Command::Txn(txn)).await? {
            (revision, Result_::Txn { succeeded, responses }) => {
                Ok(convert::txn_response(self.header(revision), revision, succeeded, responses))
            }
            (_, other) => Err(unexpected(&other)),
        }
    }
}

pub(super) fn unexpected(response: &Result_) -> Status {
    Status::internal(format!("etcdserver: unexpected result {response:?}"))
}

fn serializable(request: &pb::TxnRequest) -> bool {
    use pb::request_op::Request;
    let ops = request.success.iter().chain(&request.failure);
    let mut ranges = ops.map(|op| match &op.request {
        Some(Request::RequestRange(range)) => range.serializable,
        _ => false,
    });
    ranges.all(|serializable| serializable)
}

#[tonic::async_trait]
impl pb::kv_server::Kv for Member {
    async fn range(&self, request: Request<pb::RangeRequest>) -> Result<Response<pb::RangeResponse>, Status> {
        self.require_leader(request.metadata())?;
        let request = request.into_inner();
        let serializable = request.serializable;
        let query = convert::range(request)?;
        if !serializable {
            self.node.linearize().await?;
        }
        let (revision, found) = self.node.range(query).await?;
        Ok(Response::new(convert::range_response(self.header(revision), found?)))
    }

    async fn put(&self, request: Request<pb::PutRequest>) -> Result<Response<pb::PutResponse>, Status> {
        self.require_leader(request.metadata())?;
        let size = request.get_ref().encoded_len();
        let put = convert::put(request.into_inner())?;
        self.check_size(size)?;
        match self.propose(Command::Put(put)).await? {
            (revision, Result_::Put(prev)) => Ok(Response::new(pb::PutResponse {
                header: self.header(revision),
                prev_kv: prev.map(convert::key_value),
            })),
            (_, other) => Err(unexpected(&other)),
        }
    }

    async fn delete_range(
        &self,
        request: Request<pb::DeleteRangeRequest>,
    ) -> Result<Response<pb::DeleteRangeResponse>, Status> {
        self.require_leader(request.metadata())?;
        let size = request.get_ref().encoded_len();
        let delete = convert::delete(request.into_inner())?;
        self.check_size(size)?;
        match self.propose(Command::Delete(delete)).await? {
            (revision, Result_::Delete { deleted, prev }) => {
                Ok(Response::new(convert::delete_response(self.header(revision), deleted, prev)))
            }
            (_, other) => Err(unexpected(&other)),
        }
    }

    async fn txn(&self, request: Request<pb::TxnRequest>) -> Result<Response<pb::TxnResponse>, Status> {
        self.require_leader(request.metadata())?;
        let size = request.get_ref().encoded_len();
        let serializable = serializable(request.get_ref());
        let txn = convert::txn(request.into_inner(), self.config.flags.max_txn_ops)?;
        let done = if convert::reads_only(&txn) {
            self.read_txn(txn, serializable).await?
        } else {
            self.check_size(size)?;
            self.write_txn(txn).await?
        };
        Ok(Response::new(done))
    }

    async fn compact(
        &self,
        request: Request<pb::CompactionRequest>,
    ) -> Result<Response<pb::CompactionResponse>, Status> {
        self.require_leader(request.metadata())?;
        let request = request.into_inner();
        let (revision, _) = self.propose(Command::Compact(request.revision)).await?;
        if request.physical {
            self.node.local.machine.scrubbed().await.map_err(NodeError::Disk)?;
        }
        Ok(Response::new(pb::CompactionResponse { header: self.header(revision) }))
    }
}
