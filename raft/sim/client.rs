//! The simulated clients: writers, readers, watchers and lease holders, who use a member's own services.
//!
//! Keeps true: everything asked and answered is in the history; a value is written once, so whoever sees it knows
//! which call wrote it; nothing is compacted that no watcher has seen yet, so that the history can be checked
//! whole. What may come out is left to `check.rs`.

use super::world::{Answer, Failure, Op, Told, Watch, World};
use crate::etcd::{
    Member,
    pb::{self, kv_server::Kv, lease_server::Lease},
};
use bytes::Bytes;
use futures::StreamExt;
use rand::{Rng, SeedableRng, rngs::SmallRng};
use std::{rc::Rc, sync::Arc, time::Duration};
use tokio::{
    sync::mpsc,
    time::{sleep, timeout},
};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Request, Status};

/// Keys that are written.
const KEYS: [&str; 5] = ["a", "b", "c", "d", "e"];
/// Writers at each member.
const WRITERS: u64 = 2;
/// Seconds of a lease.
pub(super) const TTL: i64 = 2;

/// A client at a member, with its own randomness.
struct Client {
    world: Rc<World>,
    member: usize,
    server: Arc<Member>,
    random: SmallRng,
}

/// All clients of a member, until they are to be quiet.
pub(super) async fn all(world: &Rc<World>, member: usize, server: &Arc<Member>) {
    let start = world.starts.borrow()[member];
    let client = |number: u64| Client {
        world: world.clone(),
        member,
        server: server.clone(),
        random: SmallRng::seed_from_u64(world.seed ^ (((member as u64) << 40) | (start << 20) | number)),
    };
    let writers = futures::future::join_all((0..WRITERS).map(|number| client(number).write()));
    tokio::join!(
        writers,
        client(10).read(),
        client(11).watch_all(),
        client(12).watch_some(),
        client(13).compact(),
        client(14).lease(),
        client(15).hand_over(),
    );
}

impl Client {
    async fn think(&mut self, most: u64) {
        let pause = self.random.random_range(1..=most);
        sleep(Duration::from_millis(pause)).await;
    }

    fn key(&mut self) -> Bytes {
        Bytes::from_static(KEYS[self.random.random_range(0..KEYS.len())].as_bytes())
    }

    /// A value that nobody has written and nobody will write again.
    fn value(&mut self) -> Bytes {
        format!("{}-{:x}", self.member, self.random.random::<u64>()).into()
    }

    fn quiet(&self) -> bool {
        self.world.quiet.get()
    }

    /// Makes a call and records it. Whoever crashes meanwhile leaves it without an end.
    async fn call(&self, op: Op) -> Result<Answer, Failure> {
        let call = self.world.history.borrow_mut().begin(self.member, op.clone());
        let result = self.serve(op).await.map_err(|status| failure(&status));
        self.world.history.borrow_mut().end(call, result.clone());
        result
    }

    async fn serve(&self, op: Op) -> Result<Answer, Status> {
        let server = &*self.server;
        match op {
            Op::Put { keys, value, lease } => self.put(&keys, &value, lease).await,
            Op::Delete { key } => {
                let request = pb::DeleteRangeRequest { key, prev_kv: true, ..Default::default() };
                let reply = server.delete_range(Request::new(request)).await?.into_inner();
                Ok(Answer { revision: revision(reply.header), done: reply.deleted > 0, kvs: reply.prev_kvs })
            }
            Op::Swap { key, expect, value } => {
                let reply = server.txn(Request::new(swap(&key, expect, value))).await?.into_inner();
                let kvs = reply.responses.into_iter().flat_map(read_by).collect();
                Ok(Answer { revision: revision(reply.header), done: reply.succeeded, kvs })
            }
            Op::Read { revision: at, serializable } => {
                let all = Bytes::from_static(&[0]);
                let request = pb::RangeRequest {
                    key: all.clone(),
                    range_end: all,
                    revision: at,
                    serializable,
                    ..Default::default()
                };
                let reply = server.range(Request::new(request)).await?.into_inner();
                Ok(Answer { revision: revision(reply.header), done: true, kvs: reply.kvs })
            }
            Op::Compact { revision: at } => {
                let request = pb::CompactionRequest { revision: at, ..Default::default() };
                let reply = server.compact(Request::new(request)).await?.into_inner();
                Ok(Answer { revision: revision(reply.header), done: true, kvs: Vec::new() })
            }
            Op::Grant { id, ttl } => {
                let request = pb::LeaseGrantRequest { id, ttl };
                let reply = server.lease_grant(Request::new(request)).await?.into_inner();
                Ok(Answer { revision: revision(reply.header), done: true, kvs: Vec::new() })
            }
            Op::KeepAlive { id } => {
                self.server.node.keep_alive(id).await?;
                Ok(Answer { revision: 0, done: true, kvs: Vec::new() })
            }
        }
    }

    async fn put(&self, keys: &[Bytes], value: &Bytes, lease: i64) -> Result<Answer, Status> {
        let put = |key: &Bytes| pb::PutRequest {
            key: key.clone(),
            value: value.clone(),
            lease,
            ..Default::default()
        };
        let header = if let [key] = keys {
            self.server.put(Request::new(put(key))).await?.into_inner().header
        } else {
            let ops = keys.iter().map(|key| operation(pb::request_op::Request::RequestPut(put(key))));
            let request = pb::TxnRequest { success: ops.collect(), ..Default::default() };
            self.server.txn(Request::new(request)).await?.into_inner().header
        };
        Ok(Answer { revision: revision(header), done: true, kvs: Vec::new() })
    }

    async fn write(mut self) {
        let mut known = 0;
        while !self.quiet() {
            self.think(40).await;
            let key = self.key();
            let value = self.value();
            let op = match self.random.random_range(0..10) {
                0..4 => Op::Put { keys: vec![key], value, lease: 0 },
                4..7 => Op::Delete { key },
                7..9 => Op::Swap { key, expect: known, value },
                _ => Op::Put { keys: vec![KEYS[0].into(), KEYS[4].into()], value, lease: 0 },
            };
            if let Ok(answer) = self.call(op).await {
                known = answer.kvs.first().map_or(answer.revision, |kv| kv.mod_revision);
            }
        }
    }

    async fn read(mut self) {
        while !self.quiet() {
            self.think(30).await;
            let newest = self.world.history.borrow().frontier;
            let past = (newest - self.random.random_range(0..30)).max(1);
            let op = match self.random.random_range(0..4) {
                0 => Op::Read { revision: 0, serializable: true },
                1 => Op::Read { revision: past, serializable: true },
                _ => Op::Read { revision: 0, serializable: false },
            };
            let _ = self.call(op).await;
        }
    }

    async fn compact(mut self) {
        while !self.quiet() {
            self.think(1200).await;
            let seen = self.world.history.borrow().frontier;
            let revision = seen - self.random.random_range(0..4) * self.random.random_range(0..4);
            if revision > 1 && !self.quiet() {
                let _ = self.call(Op::Compact { revision }).await;
            }
        }
    }

    /// Holds a lease with a key for a while, then lets it end.
    async fn lease(mut self) {
        while !self.quiet() {
            self.think(400).await;
            let id = self.random.random_range(1..i64::MAX);
            if self.call(Op::Grant { id, ttl: TTL }).await.is_err() {
                continue;
            }
            let (key, value) = (Bytes::from(format!("lease-{id}")), self.value());
            let _ = self.call(Op::Put { keys: vec![key], value, lease: id }).await;
            for _ in 0..self.random.random_range(0..8) {
                sleep(Duration::from_millis(700)).await;
                if self.quiet() || self.call(Op::KeepAlive { id }).await.is_err() {
                    break;
                }
            }
        }
    }

    async fn hand_over(mut self) {
        while !self.quiet() {
            self.think(5000).await;
            if !self.quiet() && self.server.node.leader() == Some(self.server.config.id) {
                self.world.fault("hand-over");
                let _ = self.server.node.hand_over(None).await;
            }
        }
    }

    /// Watches all keys, without a gap over all starts of this member, until everything has been seen.
    async fn watch_all(mut self) {
        loop {
            let from = self.world.history.borrow().frontier + 1;
            let from = (from - self.random.random_range(0..10)).max(2);
            self.watch(from, None, None).await;
            sleep(Duration::from_millis(5)).await;
        }
    }

    /// Opens watches here and there, in the past and in the future.
    async fn watch_some(mut self) {
        while !self.quiet() {
            self.think(200).await;
            let newest = self.server.node.local.machine.revision();
            let compacted = self.server.node.local.machine.compacted();
            let from = match self.random.random_range(0..4) {
                0 => newest - self.random.random_range(0..60),
                1 => newest + self.random.random_range(1..15),
                2 => compacted,
                _ => 0,
            };
            let key = self.random.random::<bool>().then(|| self.key());
            let most = Duration::from_millis(self.random.random_range(50..800));
            self.watch(from.max(0), key, Some(most)).await;
        }
    }

    async fn watch(&mut self, from: i64, key: Option<Bytes>, most: Option<Duration>) {
        let (requests, stream) = mpsc::channel(4);
        let end = if key.is_some() { Bytes::new() } else { Bytes::from_static(&[0]) };
        let create = pb::WatchCreateRequest {
            key: key.clone().unwrap_or(Bytes::from_static(&[0])),
            range_end: end,
            start_revision: from,
            progress_notify: true,
            prev_kv: true,
            ..Default::default()
        };
        let mut responses = self.server.watch_session(ReceiverStream::new(stream).map(Ok).boxed(), false);
        let _ = requests.send(request(pb::watch_request::RequestUnion::CreateRequest(create))).await;
        let Some(Ok(created)) = responses.recv().await else { return };
        let from = if from == 0 { revision(created.header) + 1 } else { from };
        let watch = {
            let mut history = self.world.history.borrow_mut();
            history.tick(&("watch", self.member, from, &key));
            history.watches.push(Watch { from, key, told: Vec::new() });
            history.watches.len() - 1
        };
        let told = self.listen(watch, &requests, &mut responses);
        match most {
            Some(most) => drop(timeout(most, told).await),
            None => told.await,
        }
    }

    /// Records what a watch is told, asking for its progress now and then, until it ends.
    async fn listen(
        &mut self,
        watch: usize,
        requests: &mpsc::Sender<pb::WatchRequest>,
        responses: &mut mpsc::Receiver<Result<pb::WatchResponse, Status>>,
    ) {
        loop {
            let pause = Duration::from_millis(self.random.random_range(10..150));
            let Ok(response) = timeout(pause, responses.recv()).await else {
                let asked = pb::watch_request::RequestUnion::ProgressRequest(pb::WatchProgressRequest {});
                let _ = requests.send(request(asked)).await;
                continue;
            };
            let Some(Ok(response)) = response else { return };
            let ends = response.canceled;
            let told = match response {
                _ if ends => Told::Compacted(response.compact_revision),
                pb::WatchResponse { events, header, .. } if events.is_empty() => {
                    Told::Progress(revision(header))
                }
                pb::WatchResponse { events, .. } => Told::Events(events),
            };
            self.world.history.borrow_mut().told(watch, told);
            if ends {
                return;
            }
        }
    }
}

fn revision(header: Option<pb::ResponseHeader>) -> i64 {
    header.map_or(0, |header| header.revision)
}

fn operation(request: pb::request_op::Request) -> pb::RequestOp {
    pb::RequestOp { request: Some(request) }
}

fn request(union: pb::watch_request::RequestUnion) -> pb::WatchRequest {
    pb::WatchRequest { request_union: Some(union) }
}

fn swap(key: &Bytes, expect: i64, value: Bytes) -> pb::TxnRequest {
    use pb::{compare, request_op::Request};
    let compare = pb::Compare {
        result: compare::CompareResult::Equal.into(),
        target: compare::CompareTarget::Mod.into(),
        key: key.clone(),
        target_union: Some(compare::TargetUnion::ModRevision(expect)),
        ..Default::default()
    };
    let put = pb::PutRequest { key: key.clone(), value, ..Default::default() };
    let get = pb::RangeRequest { key: key.clone(), ..Default::default() };
    pb::TxnRequest {
        compare: vec![compare],
        success: vec![operation(Request::RequestPut(put))],
        failure: vec![operation(Request::RequestRange(get))],
    }
}

fn read_by(op: pb::ResponseOp) -> Vec<pb::KeyValue> {
    match op.response {
        Some(pb::response_op::Response::ResponseRange(range)) => range.kvs,
        _ => Vec::new(),
    }
}

fn failure(status: &Status) -> Failure {
    match status.code() {
        Code::Unavailable | Code::Internal | Code::Unknown => Failure::Unknown,
        _ => Failure::Refused(status.message().into()),
    }
}
