//! The Watch service: one task per stream, which drives all watchers on it.
//!
//! Keeps true, per watcher: events in the order of revisions, each once, none left out; a response holds whole
//! revisions only, unless the client asked for fragments; a progress notification is sent after every event up to
//! its revision; a watcher that needs compacted history is cancelled with the compacted revision. A slow client
//! slows only its own stream.

use super::{Member, convert, errors, has_leader, pb};
use crate::{
    command::KeyValue,
    machine::HistoryError,
    mvcc::{Change, Commit},
    node::{self, NodeError},
    revision::KeyRange,
    work::{self, mutant},
};
use bytes::Bytes;
use futures::{Stream, StreamExt, stream::BoxStream};
use prost::Message;
use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};
use tokio::{sync::mpsc, time::MissedTickBehavior};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status, Streaming};

/// Bytes of events after which a response ends with the revision.
const RESPONSE_BYTES: usize = 1 << 20;
/// Responses in line for a client.
const AHEAD: usize = 4;
/// The number under which etcd answers for the whole stream.
const WHOLE_STREAM: i64 = -1;

struct Watcher {
    keys: KeyRange,
    /// The next revision that the client has not seen.
    next: i64,
    prev_kv: bool,
    puts: bool,
    deletions: bool,
    fragment: bool,
    progress: bool,
    /// Nothing was sent since the last tick.
    quiet: bool,
}

struct Session {
    member: Arc<Member>,
    replies: mpsc::Sender<Result<pb::WatchResponse, Status>>,
    watchers: BTreeMap<i64, Watcher>,
    /// Numbers of watches that compaction ended. As in etcd they are taken until the client cancels them.
    ended: BTreeSet<i64>,
    next_id: i64,
    progress_wanted: bool,
}

/// Ends the session: the client is gone, or is told why.
enum End {
    Gone,
    Told(Status),
}

impl From<mpsc::error::SendError<Result<pb::WatchResponse, Status>>> for End {
    fn from(_: mpsc::error::SendError<Result<pb::WatchResponse, Status>>) -> Self {
        Self::Gone
    }
}

#[tonic::async_trait]
impl pb::watch_server::Watch for Member {
    type WatchStream = BoxStream<'static, Result<pb::WatchResponse, Status>>;

    async fn watch(
        &self,
        request: Request<Streaming<pb::WatchRequest>>,
    ) -> Result<Response<Self::WatchStream>, Status> {
        self.require_leader(request.metadata())?;
        let needs_leader = has_leader(request.metadata());
        let responses = self.watch_session(request.into_inner(), needs_leader);
        Ok(Response::new(ReceiverStream::new(responses).boxed()))
    }
}

/// What a client asks on a stream.
pub(crate) trait Requests:
    Stream<Item = Result<pb::WatchRequest, Status>> + Send + Unpin + 'static
{
}
impl<T: Stream<Item = Result<pb::WatchRequest, Status>> + Send + Unpin + 'static> Requests for T {}

impl Member {
    /// Serves a stream of requests. The answers come to the receiver.
    pub(crate) fn watch_session(
        &self,
        requests: impl Requests,
        needs_leader: bool,
    ) -> mpsc::Receiver<Result<pb::WatchResponse, Status>> {
        let (replies, responses) = mpsc::channel(AHEAD);
        let session = Session {
            member: self.arc(),
            replies: replies.clone(),
            watchers: BTreeMap::new(),
            ended: BTreeSet::new(),
            next_id: 0,
            progress_wanted: false,
        };
        tokio::spawn(async move {
            if let Err(End::Told(status)) = session.run(requests, needs_leader).await {
                // A client that is gone need not be told.
                let _ = replies.send(Err(status)).await;
            }
        });
        responses
    }
}

impl Session {
    async fn run(mut self, mut requests: impl Requests, needs_leader: bool) -> Result<(), End> {
        let mut revisions = self.member.node.local.machine.hub().subscribe();
        let mut leaders = self.member.node.leadership();
        let mut tick = tokio::time::interval(self.member.config.flags.watch_progress_notify_interval);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        tick.tick().await;
        let stop = self.member.stop.clone();
        loop {
            let now = *revisions.borrow_and_update();
            let behind = self.pump(now).await?;
            if !behind && std::mem::take(&mut self.progress_wanted) && !self.watchers.is_empty() {
                self.progress(WHOLE_STREAM, now).await?;
            }
            tokio::select! {
                request = requests.next() => match request {
                    Some(Ok(request)) => {
                        // A write that was acknowledged before the request came is older than the watch.
                        let now = self.member.node.local.machine.revision();
                        self.request(request, now).await?;
                    }
                    _ => return Ok(()),
                },
                changed = revisions.changed(), if !behind => changed.map_err(|_| End::Gone)?,
                _ = tick.tick() => self.tick(now).await?,
                () = node::lost(&mut leaders), if needs_leader => {
                    return Err(End::Told(errors::NO_LEADER.into()));
                }
                () = stop.cancelled() => return Err(End::Told(errors::STOPPED.into())),
                () = std::future::ready(()), if behind => {}
            }
        }
    }

    async fn request(&mut self, request: pb::WatchRequest, now: i64) -> Result<(), End> {
        use pb::watch_request::RequestUnion;
        match request.request_union {
            Some(RequestUnion::CreateRequest(create)) => self.create(create, now).await,
            Some(RequestUnion::CancelRequest(cancel)) => {
                let id = cancel.watch_id;
                if self.watchers.remove(&id).is_none() && !self.ended.remove(&id) {
                    return Ok(());
                }
                self.send(pb::WatchResponse { watch_id: id, canceled: true, ..self.response(now) }).await
            }
            Some(RequestUnion::ProgressRequest(_)) => {
                if mutant!(ProgressBeforeEvents) {
                    return self.progress(WHOLE_STREAM, self.member.node.local.machine.revision()).await;
                }
                self.progress_wanted = true;
                Ok(())
            }
            None => Ok(()),
        }
    }

    async fn create(&mut self, create: pb::WatchCreateRequest, now: i64) -> Result<(), End> {
        let empty = create.range_end.as_ref() != [0]
            && !create.range_end.is_empty()
            && create.key >= create.range_end;
        let id = match self.number(create.watch_id, empty) {
            Ok(id) => id,
            Err(reason) => return self.refused(reason, now).await,
        };
        self.send(pb::WatchResponse { watch_id: id, created: true, ..self.response(now) }).await?;
        let compacted = self.member.node.local.machine.compacted();
        if create.start_revision > 0 && create.start_revision < compacted {
            return self.compacted(id, compacted).await;
        }
        self.watchers.insert(id, watcher(create, now));
        Ok(())
    }

    async fn refused(&self, reason: &str, now: i64) -> Result<(), End> {
        self.send(pb::WatchResponse {
            watch_id: WHOLE_STREAM,
            created: true,
            canceled: true,
            cancel_reason: reason.into(),
            ..self.response(now)
        })
        .await
    }

    /// The number a client chose, or the next free one; the error says why there can be no such watch.
    fn number(&mut self, chosen: i64, empty: bool) -> Result<i64, &'static str> {
        if empty {
            return Err(errors::WATCH_EMPTY);
        }
        if chosen != 0 {
            return if self.taken(chosen) { Err(errors::WATCH_ID_TAKEN) } else { Ok(chosen) };
        }
        while self.taken(self.next_id) {
            self.next_id += 1;
        }
        self.next_id += 1;
        Ok(self.next_id - 1)
    }

    fn taken(&self, id: i64) -> bool {
        self.watchers.contains_key(&id) || self.ended.contains(&id)
    }

    /// Sends every watcher a portion of what it has not seen. Returns whether one is still behind.
    async fn pump(&mut self, now: i64) -> Result<bool, End> {
        let due: Vec<i64> = self.watchers.iter().filter(|(_, w)| w.next <= now).map(|(id, _)| *id).collect();
        let mut taken: Option<(i64, Arc<Vec<Arc<Commit>>>)> = None;
        let mut behind = false;
        for id in due {
            let next = self.watchers[&id].next;
            let commits = match &taken {
                Some((from, commits)) if *from == next => commits.clone(),
                _ => match self.commits(next).await? {
                    Ok(commits) => {
                        let commits = Arc::new(commits);
                        taken = Some((next, commits.clone()));
                        commits
                    }
                    Err(compacted) => {
                        self.watchers.remove(&id);
                        self.compacted(id, compacted).await?;
                        continue;
                    }
                },
            };
            let seen = commits.last().map_or(now, |commit| commit.revision);
            self.deliver(id, &commits).await?;
            behind |= seen < now;
            if let Some(watcher) = self.watchers.get_mut(&id) {
                watcher.next = seen + 1;
            }
        }
        Ok(behind)
    }

    /// Changes from a revision on; the inner error is the revision up to which they are compacted.
    async fn commits(&self, from: i64) -> Result<Result<Vec<Arc<Commit>>, i64>, End> {
        let machine = self.member.node.local.machine.clone();
        if let Some(commits) = machine.hub().since(from) {
            return Ok(Ok(commits));
        }
        let read = work::blocking(move || machine.history(from)).await;
        match read.map_err(HistoryError::Disk).flatten() {
            Ok(commits) => Ok(Ok(commits.into_iter().map(Arc::new).collect())),
            Err(HistoryError::Compacted(revision)) => Ok(Err(revision)),
            Err(HistoryError::Disk(error)) => Err(End::Told(NodeError::Disk(error).into())),
        }
    }

    async fn deliver(&mut self, id: i64, commits: &[Arc<Commit>]) -> Result<(), End> {
        let mut events = Vec::new();
        let mut bytes = 0;
        for commit in commits {
            let Some(watcher) = self.watchers.get(&id) else { return Ok(()) };
            for change in commit.changes.iter().filter(|change| watcher.wants(change)) {
                let event = self.event(change, watcher.prev_kv)?;
                bytes += event.encoded_len();
                events.push(event);
            }
            if bytes >= RESPONSE_BYTES {
                bytes = 0;
                self.events(id, std::mem::take(&mut events)).await?;
            }
        }
        if events.is_empty() { Ok(()) } else { self.events(id, events).await }
    }

    fn event(&self, change: &Change, prev_kv: bool) -> Result<pb::Event, End> {
        let prev = match prev_kv {
            true => self.member.node.local.machine.former(change),
            false => Ok(None),
        };
        let prev = prev.map_err(|error| End::Told(NodeError::Disk(error).into()))?;
        let wire = |kv: &KeyValue| convert::key_value(kv.clone());
        let kind =
            if change.kv.is_deletion() { pb::event::EventType::Delete } else { pb::event::EventType::Put };
        Ok(pb::Event { r#type: kind.into(), kv: Some(wire(&change.kv)), prev_kv: prev.as_deref().map(wire) })
    }

    async fn events(&mut self, id: i64, mut events: Vec<pb::Event>) -> Result<(), End> {
        let limit = self.member.config.flags.max_request_bytes;
        let Some(watcher) = self.watchers.get_mut(&id) else { return Ok(()) };
        watcher.quiet = false;
        let fragment = watcher.fragment;
        let count = |events: &[pb::Event]| match fragment {
            true => fitting(events, limit),
            false if mutant!(SplitsRevision) => 1,
            false => events.len(),
        };
        while count(&events) < events.len() {
            let rest = events.split_off(count(&events));
            let part = pb::WatchResponse { watch_id: id, fragment: true, events, ..self.response_now() };
            self.send(part).await?;
            events = rest;
        }
        self.send(pb::WatchResponse { watch_id: id, events, ..self.response_now() }).await
    }

    async fn tick(&mut self, now: i64) -> Result<(), End> {
        let quiet: Vec<i64> = self
            .watchers
            .iter_mut()
            .filter_map(|(id, w)| {
                let due = w.progress && std::mem::replace(&mut w.quiet, true) && w.next == now + 1;
                due.then_some(*id)
            })
            .collect();
        for id in quiet {
            self.progress(id, now).await?;
        }
        Ok(())
    }

    async fn progress(&self, id: i64, now: i64) -> Result<(), End> {
        self.send(pb::WatchResponse { watch_id: id, ..self.response(now) }).await
    }

    /// As etcd tells it: without a reason or a revision, `compact_revision` says it all.
    async fn compacted(&mut self, id: i64, revision: i64) -> Result<(), End> {
        self.ended.insert(id);
        self.send(pb::WatchResponse {
            watch_id: id,
            canceled: true,
            compact_revision: revision,
            ..self.response(0)
        })
        .await
    }

    fn response(&self, revision: i64) -> pb::WatchResponse {
        pb::WatchResponse { header: self.member.header(revision), ..pb::WatchResponse::default() }
    }

    fn response_now(&self) -> pb::WatchResponse {
        self.response(self.member.node.local.machine.revision())
    }

    async fn send(&self, response: pb::WatchResponse) -> Result<(), End> {
        Ok(self.replies.send(Ok(response)).await?)
    }
}

impl Watcher {
    fn wants(&self, change: &Change) -> bool {
        // A new watcher's portion may begin before its first revision.
        (change.kv.modified >= self.next || mutant!(FutureGetsPast))
            && (if change.kv.is_deletion() { self.deletions } else { self.puts })
            && self.keys.contains(&change.kv.key)
    }
}

fn watcher(create: pb::WatchCreateRequest, now: i64) -> Watcher {
    use pb::watch_create_request::FilterType;
    let key = if create.key.is_empty() { Bytes::from_static(&[0]) } else { create.key };
    let without = |filter: FilterType| create.filters.contains(&i32::from(filter));
    Watcher {
        keys: KeyRange::new(&key, &create.range_end),
        next: match create.start_revision {
            from if from > now && mutant!(FutureGetsPast) => now + 1,
            from if from > 0 => from,
            _ => now + 1,
        },
        prev_kv: create.prev_kv,
        puts: !without(FilterType::Noput),
        deletions: !without(FilterType::Nodelete),
        fragment: create.fragment,
        progress: create.progress_notify,
        quiet: true,
    }
}

/// How many events fit into a message, at least one.
fn fitting(events: &[pb::Event], limit: usize) -> usize {
    let mut bytes = 0;
    let fits = |event: &&pb::Event| {
        bytes += event.encoded_len();
        bytes <= limit
    };
    events.iter().take_while(fits).count().max(1)
}
