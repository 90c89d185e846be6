//! The wire between members: messages, and openraft's view of it.
//!
//! Keeps true: each peer is reached over four connections, so that heartbeats and votes never wait behind bulk
//! appends, snapshots or forwarded requests; messages of one connection are handled in the order they were sent;
//! a request whose connection broke after it was written has an unknown outcome and is never sent again from here.
//! Frames and reconnecting are `lane.rs`, the answering side is `server.rs`, TLS is `transport.rs`.

mod lane;
mod server;
mod transport;

pub(crate) use lane::{Lane, LaneError, replace, roster};
pub(crate) use server::serve;
#[cfg(test)]
pub(crate) use transport::{Listener, Socket};
pub(crate) use transport::{PeerTls, Transport, host_port, is_loopback, is_peer_url, is_url};

use crate::{
    command::{Command, Outcome},
    members::{Change, MemberFault},
    snapshot::SnapshotData,
    types::{PeerNode, Snapshot, SnapshotMeta, TypeConfig, Vote},
};
use bytes::Bytes;
use futures::{Stream, StreamExt, stream};
use openraft::{
    errors::{NetworkError, RPCError, ReplicationClosed, StreamingError, Unreachable},
    network::{RPCOption, RaftNetworkFactory, v2::RaftNetworkV2},
    raft::{
        AppendEntriesRequest, AppendEntriesResponse, SnapshotResponse, StreamAppendResult,
        TransferLeaderRequest, TransferLeaderResponse, VoteRequest, VoteResponse,
    },
};
use serde::{Deserialize, Serialize};
use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};
use tokio::{runtime::Handle, sync::Notify};
use tokio_util::sync::CancellationToken;

/// Append requests under way to one follower.
const PIPELINE: usize = 32;
/// How long a follower may be left untold of what is committed, when nothing else is to be sent to it.
const HOLD: Duration = Duration::from_millis(1);

/// The first message of a connection: both sides must mean the same cluster and member.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub(crate) struct Hello {
    /// The cluster.
    pub(crate) cluster: u64,
    /// The member that calls.
    pub(crate) from: u64,
    /// The member that is meant.
    pub(crate) to: u64,
}

/// What is asked of a peer.
#[derive(Deserialize, Serialize)]
pub(crate) enum Request {
    Hello(Hello),
    Ping,
    Append(Append),
    Vote(VoteRequest<TypeConfig>),
    PreVote(VoteRequest<TypeConfig>),
    Transfer(TransferLeaderRequest<TypeConfig>),
    SnapshotBegin,
    SnapshotChunk(Bytes),
    SnapshotEnd {
        vote: Vote,
        meta: SnapshotMeta,
    },
    Propose(Command),
    ReadIndex,
    KeepAlive(i64),
    TimeToLive(i64),
    Change(Change),
    /// In place of a greeting, by who does not know yet which cluster and which member this is.
    Roster,
    /// In place of a greeting, by who has lost its data.
    Replace(Replacement),
}

/// What a peer answers.
#[derive(Debug, Deserialize, Serialize)]
pub(crate) enum Reply {
    Done,
    Append(AppendEntriesResponse<TypeConfig>),
    Vote(VoteResponse<TypeConfig>),
    Transfer(TransferLeaderResponse<TypeConfig>),
    Snapshot(SnapshotResponse<TypeConfig>),
    Proposed {
        index: u64,
        outcome: Outcome,
    },
    ReadIndex(u64),
    /// Seconds left and seconds granted.
    Lease {
        remaining: i64,
        granted: i64,
    },
    Refused(Refusal),
    Roster(Roster),
}

/// Why a peer does not do what it is asked.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub(crate) enum Refusal {
    /// It is not the leader (any more), or cannot be sure of it now. Nothing was proposed.
    NotLeader,
    /// Something was proposed, and what came of it is not known.
    Unknown,
    /// It knows no such lease.
    LeaseNotFound,
    /// The members cannot be changed like that.
    Member(MemberFault),
    /// Whoever asks was a member and is none any more.
    Removed,
    /// Anything else, for the log.
    Failed(String),
}

/// What a member that lost its data asks for: that its number goes, and that it may come back under another.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub(crate) struct Replacement {
    /// The cluster.
    pub(crate) cluster: u64,
    /// The number that goes.
    pub(crate) old: u64,
    /// The new one.
    pub(crate) id: u64,
    /// Where peers reach it, as the group knows it.
    pub(crate) urls: Vec<String>,
}

/// Which cluster it is, and who is in it.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub(crate) struct Roster {
    /// The cluster.
    pub(crate) cluster: u64,
    /// Its members; none before the group is formed.
    pub(crate) members: Vec<Listed>,
    /// Whoever says this leads, and a majority has just confirmed it. Others may lag behind.
    pub(crate) certain: bool,
}

/// A member in a roster.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub(crate) struct Listed {
    /// Its number.
    pub(crate) id: u64,
    /// Where peers reach it.
    pub(crate) urls: Vec<String>,
    /// What its data directory is known by. It has taken part then: it has told the group who it is.
    pub(crate) instance: Option<u64>,
}

/// The four connections to a peer.
pub(crate) struct Peer {
    url: String,
    control: Lane,
    append: Lane,
    snapshot: Lane,
    /// For requests that clients made of this member.
    pub(crate) forward: Lane,
}

/// The connections to all peers. Clones share them.
#[derive(Clone)]
pub(crate) struct Peers {
    cluster: u64,
    this: u64,
    transport: Arc<Transport>,
    runtime: Handle,
    peers: Arc<Mutex<BTreeMap<u64, Arc<Peer>>>>,
    removed: CancellationToken,
    /// Somebody at a follower waits for what is committed.
    pub(crate) awaited: Arc<Notify>,
}

impl Peers {
    /// For this member of this cluster. Connections are made when they are first used, and carried by `runtime`.
    pub(crate) fn new(cluster: u64, this: u64, transport: Arc<Transport>, runtime: Handle) -> Self {
        let (peers, removed, awaited) = (Arc::default(), CancellationToken::new(), Arc::default());
        Self { cluster, this, transport, runtime, peers, removed, awaited }
    }

    /// Cancelled when another member has said that this one is no member any more.
    pub(crate) fn removed(&self) -> &CancellationToken {
        &self.removed
    }

    /// The connections to a peer at a URL; new ones when it has moved.
    pub(crate) fn get(&self, id: u64, url: &str) -> Arc<Peer> {
        let mut peers = self.peers.lock().unwrap_or_else(PoisonError::into_inner);
        let lane = || {
            let hello = Hello { cluster: self.cluster, from: self.this, to: id };
            Lane::start(url.into(), hello, self.transport.clone(), self.removed.clone(), &self.runtime)
        };
        let make = || {
            let url = url.into();
            Arc::new(Peer { url, control: lane(), append: lane(), snapshot: lane(), forward: lane() })
        };
        match peers.get(&id) {
            Some(peer) if peer.url == url => peer.clone(),
            _ => {
                let peer = make();
                peers.insert(id, peer.clone());
                peer
            }
        }
    }
}

impl RaftNetworkFactory<TypeConfig> for Peers {
    type Network = Link;

    async fn new_client(&mut self, target: u64, node: &PeerNode) -> Link {
        Link { peer: self.get(target, url(node)), awaited: self.awaited.clone(), heartbeats: false }
    }

    async fn new_heartbeat_client(&mut self, target: u64, node: &PeerNode) -> Link {
        Link { peer: self.get(target, url(node)), awaited: self.awaited.clone(), heartbeats: true }
    }
}

fn url(node: &PeerNode) -> &str {
    node.urls.first().map(String::as_str).unwrap_or_default()
}

/// openraft's client of one peer.
pub(crate) struct Link {
    peer: Arc<Peer>,
    awaited: Arc<Notify>,
    heartbeats: bool,
}

type Append = AppendEntriesRequest<TypeConfig>;
type RpcResult<T> = Result<T, RPCError<TypeConfig>>;

fn rpc_error(error: LaneError) -> RPCError<TypeConfig> {
    match error {
        LaneError::NotSent(text) => RPCError::Unreachable(Unreachable::from_string(text)),
        LaneError::Lost(text) => RPCError::Network(NetworkError::from_string(text)),
    }
}

fn unexpected(reply: &Reply) -> RPCError<TypeConfig> {
    RPCError::Unreachable(Unreachable::from_string(format!("the peer answered {reply:?}")))
}

/// Sends a request and takes the one kind of reply that fits it.
macro_rules! call {
    ($lane:expr, $request:expr, $kind:path) => {
        match $lane.call(&$request).await.map_err(rpc_error)? {
            $kind(reply) => Ok(reply),
            other => Err(unexpected(&other)),
        }
    };
}

impl Link {
    fn bulk(&self) -> &Lane {
        if self.heartbeats { &self.peer.control } else { &self.peer.append }
    }

    async fn send_snapshot(&self, vote: Vote, snapshot: Snapshot) -> RpcResult<SnapshotResponse<TypeConfig>> {
        let lane = &self.peer.snapshot;
        let SnapshotData::Live(mut chunks) = snapshot.snapshot else {
            return Err(unexpected(&Reply::Done));
        };
        done(lane.call(&Request::SnapshotBegin).await)?;
        while let Some(chunk) = chunks.recv().await {
            let chunk = chunk.map_err(|error| RPCError::Network(NetworkError::new(&error)))?;
            done(lane.call(&Request::SnapshotChunk(chunk)).await)?;
        }
        call!(lane, Request::SnapshotEnd { vote, meta: snapshot.meta }, Reply::Snapshot)
    }
}

/// Leaves out a request that only tells what is committed if the next one, which tells it as well, follows within
/// [`HOLD`], unless somebody waits for it. openraft takes the reply to the next one for both.
fn thinned<S>(input: S, awaited: Arc<Notify>) -> impl Stream<Item = Append> + Send
where
    S: Stream<Item = Append> + Send + Unpin + 'static,
{
    stream::unfold((input.fuse(), awaited), |(mut input, awaited)| async move {
        let mut request = input.next().await?;
        if !request.entries.is_empty() {
            return Some((request, (input, awaited)));
        }
        let asked = awaited.clone();
        let over = async {
            tokio::select! {
                () = asked.notified() => {}
                () = tokio::time::sleep(HOLD) => {}
            }
        };
        let mut over = std::pin::pin!(over);
        while request.entries.is_empty() {
            tokio::select! {
                biased;
                next = input.next() => match next {
                    Some(next) => request = next,
                    None => break,
                },
                () = &mut over => break,
            }
        }
        Some((request, (input, awaited)))
    })
}

fn done(reply: Result<Reply, LaneError>) -> RpcResult<()> {
    match reply.map_err(rpc_error)? {
        Reply::Done => Ok(()),
        other => Err(unexpected(&other)),
    }
}

impl RaftNetworkV2<TypeConfig> for Link {
    type SnapshotData = SnapshotData;

    async fn append_entries(
        &mut self,
        request: Append,
        _: RPCOption,
    ) -> RpcResult<AppendEntriesResponse<TypeConfig>> {
        call!(self.bulk(), Request::Append(request), Reply::Append)
    }

    fn stream_append<'s, S>(
        &'s mut self,
        input: S,
        _: RPCOption,
    ) -> futures::future::BoxFuture<
        's,
        RpcResult<stream::BoxStream<'s, RpcResult<StreamAppendResult<TypeConfig>>>>,
    >
    where
        S: Stream<Item = Append> + Send + Unpin + 'static,
    {
        let lane = self.bulk().clone();
        // Each request is written to the lane, in order, when it is taken from the input; the replies come back in
        // the same order.
        let input: stream::BoxStream<'s, _> =
            if self.heartbeats { input.boxed() } else { thinned(input, self.awaited.clone()).boxed() };
        let replies = input.map(move |request| {
            let prev = request.prev_log_id;
            let last = request.entries.last().map(|entry| entry.log_id).or(prev);
            let reply = lane.start_call(&Request::Append(request));
            async move {
                match reply.await.map_err(rpc_error)? {
                    Reply::Append(reply) => Ok(reply.into_stream_result(prev, last)),
                    other => Err(unexpected(&other)),
                }
            }
        });
        let replies: stream::BoxStream<'s, _> = replies.buffered(PIPELINE).boxed();
        Box::pin(std::future::ready(Ok(replies)))
    }

    async fn vote(
        &mut self,
        request: VoteRequest<TypeConfig>,
        _: RPCOption,
    ) -> RpcResult<VoteResponse<TypeConfig>> {
        call!(self.peer.control, Request::Vote(request), Reply::Vote)
    }

    async fn pre_vote(
        &mut self,
        request: VoteRequest<TypeConfig>,
        _: RPCOption,
    ) -> RpcResult<VoteResponse<TypeConfig>> {
        call!(self.peer.control, Request::PreVote(request), Reply::Vote)
    }

    async fn transfer_leader(
        &mut self,
        request: TransferLeaderRequest<TypeConfig>,
        _: RPCOption,
    ) -> RpcResult<TransferLeaderResponse<TypeConfig>> {
        call!(self.peer.control, Request::Transfer(request), Reply::Transfer)
    }

    async fn full_snapshot(
        &mut self,
        vote: Vote,
        snapshot: Snapshot,
        cancel: impl Future<Output = ReplicationClosed> + Send + 'static,
        _: RPCOption,
    ) -> Result<SnapshotResponse<TypeConfig>, StreamingError<TypeConfig>> {
        tokio::select! {
            closed = cancel => Err(StreamingError::Closed(closed)),
            sent = self.send_snapshot(vote, snapshot) => Ok(sent?),
        }
    }
}
