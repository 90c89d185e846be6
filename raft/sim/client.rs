//! The simulated clients: writers, readers, watchers, lease holders and an administrator, who use a member's own
//! services.
//!
//! Keeps true: everything asked and answered is in the history; a value is written once, so whoever sees it knows
//! which call wrote it. What may come out is left to `check.rs`; the services' calls are `call.rs`.

use super::{
    call,
    world::{Answer, Failure, History, Op, SEATS, Seat, Told, World, url},
};
use crate::etcd::{
    Member,
    pb::{self, cluster_server::Cluster, watch_request::RequestUnion},
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
use tonic::{Request, Status};

/// Keys that are written.
const KEYS: [&str; 5] = ["a", "b", "c", "d", "e"];
/// Writers at each member.
const WRITERS: u64 = 2;
/// Seconds of a lease.
pub(super) const TTL: i64 = 2;

/// A client at a member, with its own randomness.
struct Client {
    world: Rc<World>,
    seat: usize,
    server: Arc<Member>,
    random: SmallRng,
}

/// All clients of a member, until they are to be quiet.
pub(super) async fn all(world: &Rc<World>, seat: usize, server: &Arc<Member>) {
    let start = world.starts.borrow()[seat];
    let client = |number: u64| Client {
        world: world.clone(),
        seat,
        server: server.clone(),
        random: SmallRng::seed_from_u64(world.seed ^ (((seat as u64) << 40) | (start << 20) | number)),
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
        client(16).administer(),
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
        format!("{}-{:x}", self.seat, self.random.random::<u64>()).into()
    }

    fn quiet(&self) -> bool {
        self.world.quiet.get()
    }

    /// A revision that may be known, some way back.
    fn earlier(&mut self, most: i64) -> i64 {
        let newest = self.world.truth.borrow().revision();
        (newest - self.random.random_range(0..=most)).max(1)
    }

    /// Makes a call and records it. Whoever crashes meanwhile leaves it without an end.
    async fn call(&self, op: Op) -> Result<Answer, Failure> {
        let call = self.world.history.borrow_mut().begin(self.seat, op.clone());
        let _ending = Ending {
            world: self.world.clone(),
            end: move |history: &mut History| history.calls[call].given_up = true,
        };
        let result = call::serve(&self.server, op).await.map_err(|status| call::failure(&status));
        self.world.history.borrow_mut().end(call, result.clone());
        result
    }

    async fn write(mut self) {
        let mut known = 0;
        while !self.quiet() {
            self.think(40).await;
            let (key, value) = (self.key(), self.value());
            let op = match self.random.random_range(0..11) {
                0..4 => Op::Put { keys: vec![key], value, lease: 0 },
                4..7 => Op::Delete { key },
                7..9 => Op::Swap { key, expect: known, value },
                9 => Op::ReadAndPut { revision: self.earlier(40), key, value },
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
            let op = match self.random.random_range(0..4) {
                0 => Op::Read { revision: 0, serializable: true },
                1 => Op::Read { revision: self.earlier(30), serializable: self.random.random() },
                _ => Op::Read { revision: 0, serializable: false },
            };
            let _ = self.call(op).await;
        }
    }

    async fn compact(mut self) {
        while !self.quiet() {
            self.think(1200).await;
            let back = self.random.random_range(0..5) * self.random.random_range(0..5);
            let revision = self.earlier(back);
            if revision > 1 && !self.quiet() {
                let _ = self.call(Op::Compact { revision }).await;
            }
        }
    }

    /// Holds a lease with keys for a while, then lets it end or ends it.
    async fn lease(mut self) {
        while !self.quiet() {
            self.think(400).await;
            let id = self.random.random_range(1..i64::MAX);
            if self.call(Op::Grant { id, ttl: TTL }).await.is_err() {
                continue;
            }
            let keys = ["", "'"].map(|part| Bytes::from(format!("lease-{id}{part}")));
            let value = self.value();
            let _ = self.call(Op::Put { keys: keys.into(), value, lease: id }).await;
            for _ in 0..self.random.random_range(0..8) {
                // The latter is when a lease is about to end.
                let pause = if self.random.random() { 700 } else { self.random.random_range(1950..2150) };
                sleep(Duration::from_millis(pause)).await;
                if self.quiet() || self.call(Op::KeepAlive { id }).await.is_err() {
                    break;
                }
            }
            if self.random.random_range(0..3) == 0 {
                let _ = self.call(Op::Revoke { id }).await;
            }
        }
    }

    async fn hand_over(mut self) {
        while !self.quiet() {
            self.think(5000).await;
            if !self.quiet() && self.server.node.leader() == Some(self.server.config.id) {
                let Some(next) = self.server.node.local.furthest() else { continue };
                self.world.count("hand-overs");
                let _ = self.server.node.hand_over(next).await;
            }
        }
    }

    /// Adds and removes members, one change at a time.
    async fn administer(mut self) {
        while !self.quiet() {
            self.think(6000).await;
            if self.quiet() || self.world.changing.get().is_some() {
                continue;
            }
            self.world.changing.set(Some(self.seat));
            let members = self.world.members();
            let free = (0..SEATS).find(|seat| !members.contains(seat));
            match free {
                Some(seat) if members.len() <= 3 || self.random.random() => self.add(seat, members).await,
                _ => {
                    let seat = members[self.random.random_range(0..members.len())];
                    self.remove(seat).await;
                }
            }
            self.world.changing.set(None);
        }
    }

    async fn add(&self, seat: usize, mut members: Vec<usize>) {
        let request = pb::MemberAddRequest { peer_ur_ls: vec![url(seat)], is_learner: false };
        let added = self.server.member_add(Request::new(request)).await;
        self.world.history.borrow_mut().tick(&("added", seat, added.is_ok()));
        // If it is not known whether it was added, it will find out when it starts.
        if added.as_ref().map_err(call::failure).err().is_none_or(|failure| failure == Failure::Unknown) {
            members.push(seat);
            self.world.seats.borrow_mut()[seat] = Seat::Member { joined: Some(members) };
            self.world.count("added-members");
        }
    }

    async fn remove(&self, seat: usize) {
        let list = pb::MemberListRequest { linearizable: true };
        let Ok(list) = self.server.member_list(Request::new(list)).await else { return };
        let members = list.into_inner().members;
        let found = members.iter().find(|member| member.peer_ur_ls.contains(&url(seat)));
        let Some(id) = found.map(|member| member.id).filter(|_| members.len() > 3) else { return };
        let removed = self.server.member_remove(Request::new(pb::MemberRemoveRequest { id })).await;
        self.world.history.borrow_mut().tick(&("removed", seat, removed.is_ok()));
    }

    /// Watches all keys, without a gap over all starts of this member.
    async fn watch_all(mut self) {
        let mut from = self.earlier(10) + 1;
        loop {
            let watch = self.watch(from, None, None).await;
            from = watch.map_or(from, |watch| self.world.history.borrow().watches[watch].seen + 1);
            if let Some(compacted) = watch.and_then(|watch| self.compacted(watch)) {
                from = from.max(compacted);
            }
            sleep(Duration::from_millis(5)).await;
        }
    }

    fn compacted(&self, watch: usize) -> Option<i64> {
        match self.world.history.borrow().watches[watch].told.last() {
            Some((_, Told::Compacted(revision))) => Some(*revision),
            _ => None,
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

    async fn watch(&mut self, from: i64, key: Option<Bytes>, most: Option<Duration>) -> Option<usize> {
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
        let asked = pb::WatchRequest { request_union: Some(RequestUnion::CreateRequest(create)) };
        requests.send(asked).await.ok()?;
        let created = responses.recv().await?.ok()?;
        let from = if from == 0 { call::revision(created.header) + 1 } else { from };
        let watch = self.world.history.borrow_mut().watch(self.seat, from, key);
        let _ending = Ending {
            world: self.world.clone(),
            end: move |history: &mut History| history.watches[watch].open = false,
        };
        let told = self.listen(watch, &requests, &mut responses);
        match most {
            Some(most) => drop(timeout(most, told).await),
            None => told.await,
        }
        Some(watch)
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
            let response = match self.random.random_range(0..40) {
                // One who does not listen for a while, and then asks.
                0 => {
                    sleep(pause * 3).await;
                    None
                }
                _ => timeout(pause, responses.recv()).await.ok(),
            };
            let Some(response) = response else {
                let asked = RequestUnion::ProgressRequest(pb::WatchProgressRequest {});
                let _ = requests.try_send(pb::WatchRequest { request_union: Some(asked) });
                continue;
            };
            let Some(Ok(response)) = response else { return };
            let ends = response.canceled;
            let revision = call::revision(response.header);
            let told = match response {
                _ if ends => Told::Compacted(response.compact_revision),
                pb::WatchResponse { events, .. } if events.is_empty() => Told::Progress(revision),
                pb::WatchResponse { events, .. } => Told::Events(events, revision),
            };
            self.world.history.borrow_mut().told(watch, told);
            if ends {
                return;
            }
        }
    }
}

/// Notes that a client does not wait any more, also when it crashes.
struct Ending<F: Fn(&mut History)> {
    world: Rc<World>,
    end: F,
}

impl<F: Fn(&mut History)> Drop for Ending<F> {
    fn drop(&mut self) {
        (self.end)(&mut self.world.history.borrow_mut());
    }
}
