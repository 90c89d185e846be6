//! The answering side of the wire between members.
//!
//! Keeps true: a connection is of use only after a greeting that names this cluster and this member; pings are
//! answered by the reader itself, whatever else is going on; appends enter the group in the order they came.

use super::{
    Hello, Listed, Refusal, Replacement, Reply, Request, Roster, Transport,
    lane::{Frames, frame, framed, parse},
    transport::{Listener, Shown, Socket},
};
use crate::{
    codec,
    local::Local,
    members::{self, Change, MemberFault},
    mvcc::State,
    obituary,
    snapshot::Spool,
    types::{PeerNode, Snapshot, SnapshotMeta, Vote},
    work,
};
use bytes::Bytes;
use futures::{SinkExt, StreamExt, poll, stream::SplitStream};
use std::{collections::BTreeMap, io, pin::pin, sync::Arc, task::Poll, time::Duration};
use tokio::{sync::mpsc, time::timeout};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

/// Replies in line to be written; a peer that does not read them is not read from either.
const REPLIES: usize = 1024;
/// How long a majority may take to confirm that this member leads.
const CONFIRM: Duration = Duration::from_millis(500);
/// Pause after a failed accept, so that the loop does not spin.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// Answers peers until stopped.
pub(crate) async fn serve(
    listener: impl Listener,
    transport: Arc<Transport>,
    local: Arc<Local>,
    stop: CancellationToken,
) {
    let tasks = TaskTracker::new();
    loop {
        let accepted = tokio::select! {
            () = stop.cancelled() => break,
            accepted = listener.accept() => accepted,
        };
        match accepted {
            Ok(stream) => {
                let (transport, local, stop) = (transport.clone(), local.clone(), stop.clone());
                let inner = tasks.clone();
                tasks.spawn(async move {
                    let ended = tokio::select! {
                        () = stop.cancelled() => Ok(()),
                        ended = connection(stream, &transport, &local, &inner) => ended,
                    };
                    if let Err(error) = ended {
                        tracing::debug!(%error, "a peer's connection ended");
                    }
                });
            }
            Err(error) => {
                tracing::warn!(%error, "cannot accept a peer's connection");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
    tasks.close();
}

async fn connection(
    stream: impl Socket,
    transport: &Arc<Transport>,
    local: &Arc<Local>,
    tasks: &TaskTracker,
) -> io::Result<()> {
    let (stream, shown) = transport.accept(stream).await?;
    let mut frames = framed(stream);
    let first = frames.next().await.ok_or(io::ErrorKind::UnexpectedEof)??;
    let greeted = match parse(&first)?.1 {
        Request::Roster => Err(roster(local).await?),
        Request::Replace(wanted) => Err(replace(wanted, &shown, transport, local).await),
        first => greet(&first, local),
    };
    let from = match greeted {
        Ok(from) => from,
        Err(reply) => {
            if let Reply::Refused(refusal) = &reply {
                tracing::warn!(?refusal, "refused a peer");
            }
            return frames.send(frame(0, &codec::encode(&reply))).await;
        }
    };
    frames.send(frame(0, &codec::encode(&Reply::Done))).await?;
    let (mut sink, mut requests) = frames.split();
    let (replies, mut queue) = mpsc::channel::<Bytes>(REPLIES);
    let writer = async move {
        while let Some(reply) = queue.recv().await {
            sink.feed(reply).await?;
            while let Ok(reply) = queue.try_recv() {
                sink.feed(reply).await?;
            }
            sink.flush().await?;
        }
        io::Result::Ok(())
    };
    let reader = async {
        let session = Session { local, tasks, replies, from, spool: None };
        let ended = session.run(&mut requests).await;
        tasks.spawn(obituary::connection_ended(local.clone(), transport.clone(), from));
        ended
    };
    tokio::try_join!(writer, reader).map(|_| ())
}

/// Who calls, or what it is told instead. A member that this one has not heard of yet is let in: it may be the new
/// leader from which this one is to hear of it.
fn greet(request: &Request, local: &Local) -> Result<u64, Reply> {
    let refused = |text: String| Err(Reply::Refused(Refusal::Failed(text)));
    let Hello { cluster, from, to } = match request {
        Request::Hello(hello) => hello,
        _ => return refused("a peer did not greet first".into()),
    };
    if *cluster != local.cluster {
        return refused(format!(
            "cluster ID mismatch: a peer of cluster {cluster:x} called a member of cluster {:x}: its \
             --initial-cluster or --initial-cluster-token differs",
            local.cluster
        ));
    }
    if *to != local.id {
        return refused(format!("member {from:x} meant member {to:x}, but this is {:x}", local.id));
    }
    if local.machine.is_removed(*from) {
        return Err(Reply::Refused(Refusal::Removed));
    }
    Ok(*from)
}

/// Who the members are, for one who is none yet.
async fn roster(local: &Arc<Local>) -> io::Result<Reply> {
    let certain = timeout(CONFIRM, local.linearizable()).await.is_ok_and(|confirmed| confirmed.is_ok());
    let told = |state: &State| state.members.values().map(|member| (member.id, member.instance)).collect();
    let told: BTreeMap<u64, u64> = local.machine.look(told).await?;
    let members = members::known(&local.membership()).into_iter();
    let listed = |m: members::Known| Listed { instance: told.get(&m.id).copied(), id: m.id, urls: m.urls };
    let members = members.map(listed).collect();
    Ok(Reply::Roster(Roster { cluster: local.cluster, members, certain }))
}

/// Gives a new number to a member that lost its data. Only who is at its URLs may ask for that.
async fn replace(wanted: Replacement, shown: &Shown, transport: &Transport, local: &Local) -> Reply {
    let Replacement { cluster, old, id, urls } = wanted;
    let refused = |text: &str| Reply::Refused(Refusal::Failed(text.into()));
    if cluster != local.cluster {
        return refused("the others are of another cluster");
    }
    if !transport.is_at(shown, &urls) {
        tracing::warn!(
            member = format!("{old:x}"),
            ?urls,
            "refused to replace a member: its caller is another"
        );
        return refused(
            "the caller's certificate is not for its URLs, or it has shown none (--peer-client-cert-auth)",
        );
    }
    let node = PeerNode { urls, joining: true };
    match local.change(Change::Replace { old, id, node }).await {
        Reply::Refused(Refusal::Member(MemberFault::Answers)) => {
            refused("the member to be replaced still answers")
        }
        Reply::Refused(Refusal::Member(fault)) => {
            refused(&format!("the members cannot be changed: {fault:?}"))
        }
        Reply::Done => {
            let (old, id) = (format!("{old:x}"), format!("{id:x}"));
            tracing::warn!(old, id, "a member lost its data: it comes back as a learner under a new number");
            Reply::Done
        }
        other => other,
    }
}

struct Session<'a> {
    local: &'a Arc<Local>,
    tasks: &'a TaskTracker,
    replies: mpsc::Sender<Bytes>,
    from: u64,
    spool: Option<Spool>,
}

impl Session<'_> {
    async fn run(mut self, requests: &mut SplitStream<Frames>) -> io::Result<()> {
        while let Some(request) = requests.next().await {
            let (id, request) = parse(&request?)?;
            if self.local.machine.is_removed(self.from) {
                // It is told when it greets again.
                return Err(io::Error::other(format!("member {:x} was removed", self.from)));
            }
            if self.local.has_joined() || matches!(request, Request::Ping) {
                self.handle(id, request).await;
            } else {
                let reply =
                    Reply::Refused(Refusal::Failed("this member has not asked the others yet".into()));
                self.reply(id, &reply).await;
            }
        }
        Ok(())
    }

    async fn handle(&mut self, id: u64, request: Request) {
        let local = self.local.clone();
        match request {
            Request::Ping | Request::Hello(_) => self.reply(id, &Reply::Done).await,
            Request::SnapshotBegin => {
                let begun = work::here(|| Spool::new(&local.machine.spool));
                let reply = self.spooled(begun);
                self.reply(id, &reply).await;
            }
            Request::SnapshotChunk(chunk) => {
                let reply = self.chunk(&chunk);
                self.reply(id, &reply).await;
            }
            Request::SnapshotEnd { vote, meta } => {
                let spool = self.spool.take();
                self.start(id, async move { install(&local, vote, meta, spool).await }).await;
            }
            request => {
                self.start(id, async move { local.answer(request).await }).await;
            }
        }
    }

    /// Begins a task here, so that tasks reach the group in the order of their requests, and leaves the rest of it
    /// to itself.
    async fn start(&self, id: u64, task: impl Future<Output = Reply> + Send + 'static) {
        let mut task = Box::pin(task);
        match poll!(&mut task) {
            Poll::Ready(reply) => self.reply(id, &reply).await,
            Poll::Pending => {
                let replies = self.replies.clone();
                self.tasks.spawn(async move {
                    let reply = pin!(task).await;
                    // A connection that is gone needs no reply.
                    let _ = replies.send(frame(id, &codec::encode(&reply))).await;
                });
            }
        }
    }

    async fn reply(&self, id: u64, reply: &Reply) {
        // A connection that is gone needs no reply.
        let _ = self.replies.send(frame(id, &codec::encode(reply))).await;
    }

    fn spooled(&mut self, begun: io::Result<Spool>) -> Reply {
        match begun {
            Ok(spool) => {
                self.spool = Some(spool);
                Reply::Done
            }
            Err(error) => failed(&error),
        }
    }

    fn chunk(&mut self, chunk: &[u8]) -> Reply {
        match self.spool.as_mut().map(|spool| work::here(|| spool.add(chunk))) {
            Some(Ok(())) => Reply::Done,
            Some(Err(error)) => failed(&error),
            None => Reply::Refused(Refusal::Failed("a snapshot's chunk before its beginning".into())),
        }
    }
}

fn failed(error: &dyn std::fmt::Display) -> Reply {
    Reply::Refused(Refusal::Failed(error.to_string()))
}

async fn install(local: &Local, vote: Vote, meta: SnapshotMeta, spool: Option<Spool>) -> Reply {
    let Some(spool) = spool else {
        return Reply::Refused(Refusal::Failed("a snapshot's end before its beginning".into()));
    };
    let snapshot = match work::blocking(move || spool.finish()).await.flatten() {
        Ok(snapshot) => snapshot,
        Err(error) => return failed(&error),
    };
    match local.raft.install_full_snapshot(vote, Snapshot { meta, snapshot }).await {
        Ok(response) => Reply::Snapshot(response),
        Err(error) => failed(&error),
    }
}
