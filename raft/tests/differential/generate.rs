//! Random operations, the same for the same seed.
//!
//! Keeps true: everything is drawn from a small pool, so that operations meet: keys that exist and not, revisions
//! before, at and after the compacted and the current one, leases that are there and not. There are at most twelve
//! keys: up to so many etcd puts equal ones in the order of their keys, above it that order is arbitrary.

use raft::etcd::pb::{self, compare, request_op::Request, watch_create_request::FilterType};
use rand::{Rng, SeedableRng, rngs::StdRng};

/// What is known of the store while operations are drawn.
#[derive(Clone, Copy, Default)]
pub(crate) struct Now {
    pub(crate) revision: i64,
    pub(crate) compacted: i64,
}

/// One operation. Watches are of the stream of the number.
#[derive(Clone, Debug)]
pub(crate) enum Op {
    Put(pb::PutRequest),
    Range(pb::RangeRequest),
    Delete(pb::DeleteRangeRequest),
    Txn(pb::TxnRequest),
    Compact(pb::CompactionRequest),
    Grant(pb::LeaseGrantRequest),
    /// A lease of the shortest time, ended at once.
    GrantShort(pb::LeaseGrantRequest),
    Revoke(i64),
    KeepAlive(i64),
    TimeToLive(pb::LeaseTimeToLiveRequest),
    Leases,
    HashKv(i64),
    Watch(usize, pb::WatchCreateRequest),
    Cancel(usize),
    Progress(usize),
}

pub(crate) struct Generator {
    rng: StdRng,
}

const KEYS: [&str; 12] = ["a", "b", "c", "d", "e", "f", "g", "h", "i", "j", "k", "l"];
const TOO_MANY: usize = 129;

impl Generator {
    pub(crate) fn new(seed: u64) -> Self {
        Self { rng: StdRng::seed_from_u64(seed) }
    }

    fn below(&mut self, end: u32) -> u32 {
        self.rng.random_range(0..end)
    }

    fn one_in(&mut self, n: u32) -> bool {
        self.below(n) == 0
    }

    fn pick<T: Clone>(&mut self, from: &[T]) -> T {
        from[self.rng.random_range(0..from.len())].clone()
    }

    pub(crate) fn op(&mut self, now: Now, streams: usize) -> Op {
        let stream = self.rng.random_range(0..streams);
        match self.below(1000) {
            0..250 => Op::Put(self.put()),
            250..500 => Op::Range(self.range(now)),
            500..600 => Op::Delete(self.delete()),
            600..860 => Op::Txn(survivable(self.txn(now, 2))),
            860..868 => Op::Compact(self.compact(now)),
            868..890 => Op::Grant(self.grant()),
            890..892 => Op::GrantShort(pb::LeaseGrantRequest { ttl: self.pick(&[-5, 0, 1, 2]), id: 50 }),
            892..912 => Op::Revoke(self.lease()),
            912..927 => Op::KeepAlive(self.lease()),
            927..942 => {
                let keys = self.one_in(2);
                Op::TimeToLive(pb::LeaseTimeToLiveRequest { id: self.lease(), keys })
            }
            942..947 => Op::Leases,
            947..957 => Op::HashKv(self.hash_revision(now)),
            957..980 => Op::Watch(stream, self.watch(now)),
            980..992 => Op::Cancel(stream),
            _ => Op::Progress(stream),
        }
    }

    fn key(&mut self) -> String {
        if self.one_in(150) { String::new() } else { self.pick(&KEYS).into() }
    }

    fn end(&mut self) -> String {
        match self.below(10) {
            0..4 => String::new(),
            4..9 => self.pick(&KEYS).into(),
            _ => "\0".into(),
        }
    }

    fn value(&mut self) -> String {
        match self.below(8) {
            0 => String::new(),
            1 => "long ".repeat(50),
            _ => self.pick(&["x", "y", "z"]).into(),
        }
    }

    fn lease(&mut self) -> i64 {
        if self.one_in(12) { self.pick(&[0, 99, -1, i64::MAX]) } else { self.rng.random_range(1..=5) }
    }

    /// Around what readers can see; 0 is now.
    fn revision(&mut self, now: Now) -> i64 {
        match self.below(12) {
            0..5 => 0,
            5..7 => self.rng.random_range((now.compacted - 2).max(1)..=now.revision + 2),
            7 => self.pick(&[now.compacted, now.compacted - 1, -1, -7]),
            _ => self.rng.random_range((now.revision - 15).max(1)..=now.revision),
        }
    }

    /// etcd 3.4 gives no hash at the compacted revision, later versions do.
    fn hash_revision(&mut self, now: Now) -> i64 {
        Some(self.revision(now)).filter(|revision| *revision != now.compacted).unwrap_or_default()
    }

    fn put(&mut self) -> pb::PutRequest {
        let (ignore_value, ignore_lease) = (self.one_in(10), self.one_in(10));
        let lease = if self.one_in(3) { self.lease() } else { 0 };
        let wrong = self.one_in(20);
        pb::PutRequest {
            key: self.key().into(),
            value: if ignore_value && !wrong { "".into() } else { self.value().into() },
            lease: if ignore_lease && !wrong { 0 } else { lease },
            prev_kv: self.one_in(3),
            ignore_value,
            ignore_lease,
        }
    }

    fn range(&mut self, now: Now) -> pb::RangeRequest {
        let bound = |this: &mut Self| if this.one_in(8) { this.revision(now) } else { 0 };
        pb::RangeRequest {
            key: if self.one_in(6) { "\0".into() } else { self.key().into() },
            range_end: if self.one_in(4) { "\0".into() } else { self.end().into() },
            limit: self.pick(&[0, 0, 0, 1, 2, 3, 5, 20, -1, i64::MAX]),
            revision: self.revision(now),
            sort_order: self.pick(&[0, 0, 0, 1, 2]),
            sort_target: self.pick(&[0, 0, 1, 2, 3, 4]),
            serializable: self.one_in(4),
            keys_only: self.one_in(5),
            count_only: self.one_in(8),
            min_mod_revision: bound(self),
            max_mod_revision: bound(self),
            min_create_revision: bound(self),
            max_create_revision: bound(self),
        }
    }

    fn delete(&mut self) -> pb::DeleteRangeRequest {
        // Rarely many: most keys should be there most of the time.
        let end = if self.one_in(4) { self.end() } else { String::new() };
        pb::DeleteRangeRequest { key: self.key().into(), range_end: end.into(), prev_kv: self.one_in(2) }
    }

    fn txn(&mut self, now: Now, depth: u32) -> pb::TxnRequest {
        let ops = |this: &mut Self| {
            let many = if this.one_in(150) { TOO_MANY } else { this.below(4) as usize };
            (0..many).map(|_| this.request_op(now, depth)).collect()
        };
        let (success, failure) = (ops(self), ops(self));
        let compares = if self.one_in(200) { TOO_MANY } else { self.below(3) as usize };
        pb::TxnRequest { compare: (0..compares).map(|_| self.compare(now)).collect(), success, failure }
    }

    fn request_op(&mut self, now: Now, depth: u32) -> pb::RequestOp {
        let request = match self.below(100) {
            0..35 => Request::RequestRange(self.range(now)),
            35..70 => Request::RequestPut(self.put()),
            70..85 => Request::RequestDeleteRange(self.delete()),
            85..99 if depth > 0 => Request::RequestTxn(self.txn(now, depth - 1)),
            85..99 => Request::RequestRange(self.range(now)),
            _ => return pb::RequestOp { request: None },
        };
        pb::RequestOp { request: Some(request) }
    }

    fn compare(&mut self, now: Now) -> pb::Compare {
        use compare::TargetUnion as Given;
        let number = if self.one_in(2) { self.revision(now) } else { self.rng.random_range(0..4) };
        let given = match self.below(6) {
            0 => Given::Version(self.rng.random_range(0..4)),
            1 => Given::CreateRevision(number),
            2 => Given::ModRevision(number),
            3 => Given::Value(self.value().into()),
            _ => Given::Lease(self.lease()),
        };
        // Mostly the target that fits what is given.
        let fitting = match given {
            Given::Version(_) => 0,
            Given::CreateRevision(_) => 1,
            Given::ModRevision(_) => 2,
            Given::Value(_) => 3,
            Given::Lease(_) => 4,
        };
        pb::Compare {
            result: self.pick(&[0, 0, 1, 2, 3]),
            target: if self.one_in(10) { self.pick(&[0, 1, 2, 3, 4]) } else { fitting },
            key: self.key().into(),
            range_end: if self.one_in(3) { self.end().into() } else { "".into() },
            target_union: if self.one_in(12) { None } else { Some(given) },
        }
    }

    fn compact(&mut self, now: Now) -> pb::CompactionRequest {
        let revision = match self.below(6) {
            0 => self.pick(&[0, -1, now.compacted, now.revision + 1, now.revision]),
            _ => self.rng.random_range((now.revision - 60).max(1)..=now.revision),
        };
        pb::CompactionRequest { revision, physical: self.one_in(2) }
    }

    fn grant(&mut self) -> pb::LeaseGrantRequest {
        let ttl = if self.one_in(10) { 9_000_000_001 } else { self.rng.random_range(5_000..6_000) };
        pb::LeaseGrantRequest { ttl, id: self.rng.random_range(1..=5) }
    }

    /// Not from the compacted revision itself: etcd 3.4 forgets a deletion there (etcd issue 19179).
    fn watch(&mut self, now: Now) -> pb::WatchCreateRequest {
        let start_revision = match self.below(8) {
            0 | 1 => 0,
            2 | 3 => now.revision + self.rng.random_range(1..20),
            4 if now.compacted > 1 => self.rng.random_range(1..now.compacted),
            _ => self.revision(now).max(0),
        };
        let mut filters: Vec<i32> = Vec::new();
        filters.extend(self.one_in(6).then_some(i32::from(FilterType::Noput)));
        filters.extend(self.one_in(6).then_some(i32::from(FilterType::Nodelete)));
        pb::WatchCreateRequest {
            key: self.key().into(),
            range_end: self.end().into(),
            start_revision: if start_revision == now.compacted { 0 } else { start_revision },
            progress_notify: self.one_in(4),
            filters,
            prev_kv: self.one_in(2),
            watch_id: if self.one_in(3) { self.rng.random_range(1..8) } else { 0 },
            fragment: self.one_in(4),
        }
    }
}

/// etcd itself dies of a put that keeps the value or lease of a key that the same transaction deletes before, where
/// its check for duplicates does not see that (a deletion from a key on, an inner transaction).
fn survivable(mut txn: pb::TxnRequest) -> pb::TxnRequest {
    if deletes(&txn) {
        keep_nothing(&mut txn);
    }
    txn
}

fn deletes(txn: &pb::TxnRequest) -> bool {
    txn.success.iter().chain(&txn.failure).any(|op| match &op.request {
        Some(Request::RequestDeleteRange(_)) => true,
        Some(Request::RequestTxn(inner)) => deletes(inner),
        _ => false,
    })
}

fn keep_nothing(txn: &mut pb::TxnRequest) {
    for op in txn.success.iter_mut().chain(&mut txn.failure) {
        match &mut op.request {
            Some(Request::RequestPut(put)) => (put.ignore_value, put.ignore_lease) = (false, false),
            Some(Request::RequestTxn(inner)) => keep_nothing(inner),
            _ => {}
        }
    }
}
