//! The Maintenance service: how this member is.

use super::{Member, VERSION, errors, kv, pb};
use crate::{
    backup::file::Framing,
    command::{Alarm, AlarmKind, Command, Response as Response_},
    image,
    machine::Machine,
    node::NodeError,
    snapshot::{self, SnapshotData},
};
use bytes::Bytes;
use futures::{StreamExt, stream::BoxStream};
use openraft::async_runtime::watch::WatchReceiver;
use std::{io, sync::Arc};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status};

impl Member {
    /// The alarms raised of a kind, or all.
    async fn alarms(&self, kind: Option<pb::AlarmType>) -> Result<Vec<Alarm>, Status> {
        self.node.linearize().await?;
        let alarms = self.node.local.machine.alarms().into_iter();
        Ok(alarms.filter(|alarm| kind.is_none_or(|kind| wire(alarm.kind) == kind)).collect())
    }

    async fn change_alarm(&self, alarm: Alarm, raise: bool) -> Result<Vec<Alarm>, Status> {
        match self.propose(Command::Alarm { alarm, raise }).await? {
            (_, Response_::Alarm(alarm)) => Ok(alarm.into_iter().collect()),
            (_, other) => Err(kv::unexpected(&other)),
        }
    }

    /// Lifts a member's alarms of a kind. One about its disk comes again if the disk is still full.
    async fn lift(&self, kind: pb::AlarmType, member: u64) -> Result<Vec<Alarm>, Status> {
        let mut lifted = Vec::new();
        for alarm in self.alarms(Some(kind)).await?.into_iter().filter(|alarm| alarm.member == member) {
            lifted.extend(self.change_alarm(alarm, false).await?);
        }
        Ok(lifted)
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
        for alarm in self.node.local.machine.alarms() {
            let kind = wire(alarm.kind).as_str_name();
            errors.push(format!("memberID:{} alarm:{kind} ", alarm.member));
        }
        pb::StatusResponse {
            header: self.header_now(),
            version: VERSION.into(),
            db_size: i64::try_from(size).unwrap_or(i64::MAX),
            leader: leader.unwrap_or_default(),
            raft_index: metrics.last_log_index.unwrap_or_default(),
            raft_term: metrics.current_term,
            raft_applied_index: self.node.local.machine.applied(),
            errors,
            db_size_in_use: i64::try_from(used).unwrap_or(i64::MAX),
            is_learner: false,
        }
    }
}

fn wire(kind: AlarmKind) -> pb::AlarmType {
    match kind {
        AlarmKind::NoSpace | AlarmKind::DiskFull => pb::AlarmType::Nospace,
        AlarmKind::Corrupt => pb::AlarmType::Corrupt,
    }
}

/// The state of this moment as a file's bytes.
async fn stream_snapshot(
    machine: Arc<Machine>,
    header: Option<pb::ResponseHeader>,
    replies: &mpsc::Sender<Result<pb::SnapshotResponse, Status>>,
) -> io::Result<()> {
    let (estimate, _) = machine.size();
    let SnapshotData::Live(mut chunks) = snapshot::live(machine).await?.snapshot else {
        return Err(io::Error::other("a live snapshot is not a file"));
    };
    let mut framing = Framing::default();
    // The size is known at the end only: until then what remains is estimated, and never nothing.
    let send = async |blob: Bytes, remaining_bytes: u64| {
        replies.send(Ok(pb::SnapshotResponse { header, remaining_bytes, blob })).await.is_ok()
    };
    while let Some(chunk) = chunks.recv().await {
        let blob = framing.chunk(&chunk?)?;
        if !send(blob, estimate.saturating_sub(framing.bytes()).max(1)).await {
            return Ok(());
        }
    }
    send(framing.end(), 0).await;
    Ok(())
}

#[tonic::async_trait]
impl pb::maintenance_server::Maintenance for Member {
    async fn alarm(&self, request: Request<pb::AlarmRequest>) -> Result<Response<pb::AlarmResponse>, Status> {
        use pb::alarm_request::AlarmAction;
        self.require_leader(request.metadata())?;
        let request = request.into_inner();
        let unknown = || Status::invalid_argument("etcdserver: unknown alarm");
        let kind = pb::AlarmType::try_from(request.alarm).map_err(|_| unknown())?;
        let (member, wanted) = (request.member_id, (kind != pb::AlarmType::None).then_some(kind));
        let own = match kind {
            pb::AlarmType::None => None,
            pb::AlarmType::Nospace => Some(AlarmKind::NoSpace),
            pb::AlarmType::Corrupt => Some(AlarmKind::Corrupt),
        };
        let alarms = match (AlarmAction::try_from(request.action), own) {
            (Ok(AlarmAction::Get), _) => self.alarms(wanted).await?,
            (Ok(AlarmAction::Activate), Some(kind)) => {
                self.change_alarm(Alarm { kind, member }, true).await?
            }
            (Ok(AlarmAction::Deactivate), Some(_)) => self.lift(kind, member).await?,
            (Ok(AlarmAction::Deactivate), None) => Vec::new(),
            _ => return Err(unknown()),
        };
        let told = |alarm: Alarm| pb::AlarmMember { member_id: alarm.member, alarm: wire(alarm.kind).into() };
        let mut alarms: Vec<pb::AlarmMember> = alarms.into_iter().map(told).collect();
        alarms.sort_by_key(|alarm| (alarm.member_id, alarm.alarm));
        alarms.dedup();
        Ok(Response::new(pb::AlarmResponse { header: self.header_now(), alarms }))
    }

    async fn status(&self, _: Request<pb::StatusRequest>) -> Result<Response<pb::StatusResponse>, Status> {
        Ok(Response::new(self.status_response()))
    }

    /// RocksDB gives space back by itself; this has it done now, while reads and writes go on.
    async fn defragment(
        &self,
        _: Request<pb::DefragmentRequest>,
    ) -> Result<Response<pb::DefragmentResponse>, Status> {
        let machine = self.node.local.machine.clone();
        machine.scrubbed().await.map_err(NodeError::Disk)?;
        let shrunk = tokio::task::spawn_blocking(move || machine.engine.shrink(image::KV)).await;
        shrunk.map_err(io::Error::other).flatten().map_err(NodeError::Disk)?;
        self.measure();
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
        let header = self.header_now();
        Ok(Response::new(pb::HashKvResponse { header, hash, compact_revision, hash_revision }))
    }

    type SnapshotStream = BoxStream<'static, Result<pb::SnapshotResponse, Status>>;

    async fn snapshot(
        &self,
        request: Request<pb::SnapshotRequest>,
    ) -> Result<Response<Self::SnapshotStream>, Status> {
        self.require_leader(request.metadata())?;
        let (replies, stream) = mpsc::channel(2);
        let (machine, header) = (self.node.local.machine.clone(), self.header_now());
        tokio::spawn(async move {
            if let Err(error) = stream_snapshot(machine, header, &replies).await {
                // A client that is gone need not be told.
                let _ = replies.send(Err(NodeError::Disk(error).into())).await;
            }
        });
        Ok(Response::new(ReceiverStream::new(stream).boxed()))
    }

    async fn move_leader(
        &self,
        request: Request<pb::MoveLeaderRequest>,
    ) -> Result<Response<pb::MoveLeaderResponse>, Status> {
        let target = request.into_inner().target_id;
        if self.node.leader() != Some(self.config.id) {
            return Err(errors::NOT_LEADER.into());
        }
        if !self.node.local.voters().contains(&target) {
            return Err(errors::BAD_TRANSFEREE.into());
        }
        if target != self.config.id {
            self.node.hand_over(target).await?;
        }
        Ok(Response::new(pb::MoveLeaderResponse { header: self.header_now() }))
    }
}
