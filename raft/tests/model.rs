//! The state machine against the simplest store there is: a list of all revisions, each a list of changes, from
//! which every answer is computed anew. It has no index, no history per key and never forgets.

use super::{Store, bytes};
use crate::command::{
    Command, Compare, Comparison, Delete, Fault, KeyValue, Op, Outcome, Put, Range, RangeResult, Response,
    Sort, SortBy, Target, Txn,
};
use crate::record::Record;
use bytes::Bytes;
use proptest::prelude::*;
use std::collections::{BTreeMap, BTreeSet};

/// A key's value and lease, or its deletion.
type Written = (Bytes, Option<(Bytes, i64)>);

#[derive(Clone, Default)]
struct Plain {
    /// The changes of revision 2, of revision 3, and so on.
    revisions: Vec<Vec<Written>>,
    compacted: Option<i64>,
    leases: BTreeSet<i64>,
}

fn within(key: &Bytes, start: &Bytes, end: &Bytes) -> bool {
    match end.as_ref() {
        b"" => key == start,
        b"\0" => key >= start,
        _ => key >= start && key < end,
    }
}

impl Plain {
    fn revision(&self) -> i64 {
        1 + i64::try_from(self.revisions.len()).unwrap()
    }

    /// Everything that is alive at a revision, with `more` after the last one.
    fn at(&self, revision: i64, more: &[Written]) -> BTreeMap<Bytes, KeyValue> {
        let mut alive: BTreeMap<Bytes, KeyValue> = BTreeMap::new();
        let last = std::iter::once(more);
        let all = self.revisions.iter().map(Vec::as_slice).chain(last).zip(2..=revision);
        for (changes, modified) in all {
            for (key, written) in changes {
                let old = alive.remove(key);
                let Some((value, lease)) = written.clone() else { continue };
                let (create, version) = old.map_or((modified, 1), |old| (old.create, old.version + 1));
                let kv = KeyValue { key: key.clone(), value, create, modified, version, lease };
                alive.insert(key.clone(), kv);
            }
        }
        alive
    }

    fn range(&self, query: &Range, more: &[Written]) -> RangeResult {
        let now = self.revision() + i64::from(!more.is_empty());
        let at = if query.revision > 0 { query.revision } else { now };
        let alive = self.at(at, more).into_values();
        let mut kvs: Vec<KeyValue> = alive.filter(|kv| within(&kv.key, &query.key, &query.end)).collect();
        let count = i64::try_from(kvs.len()).unwrap();
        if query.count_only {
            return RangeResult { kvs: Vec::new(), more: false, count };
        }
        let limit = usize::try_from(query.limit).ok().filter(|limit| *limit > 0).unwrap_or(usize::MAX);
        let bounds = [query.min_mod, query.max_mod, query.min_create, query.max_create];
        if query.sort.is_some_and(|sort| sort.after_limit) && bounds == [0; 4] {
            kvs.truncate(limit.saturating_add(1));
        }
        kvs.retain(|kv| bounds[0] == 0 || kv.modified >= bounds[0]);
        kvs.retain(|kv| bounds[1] == 0 || kv.modified <= bounds[1]);
        kvs.retain(|kv| bounds[2] == 0 || kv.create >= bounds[2]);
        kvs.retain(|kv| bounds[3] == 0 || kv.create <= bounds[3]);
        if let Some(sort) = query.sort {
            let number = |kv: &KeyValue| match sort.by {
                SortBy::Version => kv.version,
                SortBy::Create => kv.create,
                SortBy::Modified => kv.modified,
                SortBy::Key | SortBy::Value => 0,
            };
            let text = |kv: &KeyValue| match sort.by {
                SortBy::Key => kv.key.clone(),
                SortBy::Value => kv.value.clone(),
                _ => Bytes::new(),
            };
            kvs.sort_by(|a, b| {
                let order = (number(a), text(a)).cmp(&(number(b), text(b)));
                if sort.descending { order.reverse() } else { order }
            });
        }
        let more = kvs.len() > limit;
        kvs.truncate(limit);
        if query.keys_only {
            kvs.iter_mut().for_each(|kv| kv.value = Bytes::new());
        }
        RangeResult { kvs: kvs.iter().map(Record::from).collect(), more, count }
    }

    fn readable(&self, revision: i64) -> Result<(), Fault> {
        match revision {
            _ if revision > self.revision() => Err(Fault::FutureRevision),
            1.. if self.compacted.is_some_and(|compacted| revision < compacted) => Err(Fault::Compacted),
            _ => Ok(()),
        }
    }

    fn holds(&self, compare: &Compare) -> bool {
        let alive = self.at(self.revision(), &[]);
        let mut found: Vec<KeyValue> =
            alive.into_values().filter(|kv| within(&kv.key, &compare.key, &compare.end)).collect();
        if found.is_empty() {
            if matches!(compare.target, Target::Value(_)) {
                return false;
            }
            found.push(KeyValue::default());
        }
        found.iter().all(|kv| {
            let order = match &compare.target {
                Target::Version(version) => kv.version.cmp(version),
                Target::Create(create) => kv.create.cmp(create),
                Target::Modified(modified) => kv.modified.cmp(modified),
                Target::Lease(lease) => kv.lease.cmp(lease),
                Target::Value(value) => kv.value.cmp(value),
            };
            match compare.comparison {
                Comparison::Equal => order.is_eq(),
                Comparison::NotEqual => order.is_ne(),
                Comparison::Greater => order.is_gt(),
                Comparison::Less => order.is_lt(),
            }
        })
    }

    fn put(&self, put: &Put, changes: &mut Vec<Written>) -> Response {
        let alive = self.at(self.revision() + 1, changes);
        let old = alive.get(&put.key).cloned();
        let kept = old.clone().unwrap_or_default();
        let value = if put.ignore_value { kept.value } else { put.value.clone() };
        let lease = if put.ignore_lease { kept.lease } else { put.lease };
        changes.push((put.key.clone(), Some((value, lease))));
        Response::Put(old.filter(|_| put.prev_kv))
    }

    fn delete(&self, delete: &Delete, changes: &mut Vec<Written>) -> Response {
        let alive = self.at(self.revision() + 1, changes).into_values();
        let mut prev: Vec<KeyValue> = alive.filter(|kv| within(&kv.key, &delete.key, &delete.end)).collect();
        let deleted = i64::try_from(prev.len()).unwrap();
        changes.extend(prev.iter().map(|kv| (kv.key.clone(), None)));
        if !delete.prev_kv {
            prev.clear();
        }
        Response::Delete { deleted, prev }
    }

    fn check_put(&self, put: &Put, lease_first: bool) -> Result<(), Fault> {
        let lease = put.lease == 0 || self.leases.contains(&put.lease);
        let lease = if lease { Ok(()) } else { Err(Fault::LeaseNotFound) };
        let present = self.at(self.revision(), &[]).contains_key(&put.key);
        let present =
            if present || !(put.ignore_value || put.ignore_lease) { Ok(()) } else { Err(Fault::KeyNotFound) };
        if lease_first { lease.and(present) } else { present.and(lease) }
    }

    /// All operations that a transaction will do, without inner transactions around them.
    fn leaves<'a>(&self, txn: &'a Txn, found: &mut Vec<&'a Op>) {
        let ops = if txn.compare.iter().all(|c| self.holds(c)) { &txn.success } else { &txn.failure };
        for op in ops {
            match op {
                Op::Txn(inner) => self.leaves(inner, found),
                op => found.push(op),
            }
        }
    }

    fn run(&self, txn: &Txn, changes: &mut Vec<Written>) -> Response {
        let succeeded = txn.compare.iter().all(|compare| self.holds(compare));
        let ops = if succeeded { &txn.success } else { &txn.failure };
        let responses = ops.iter().map(|op| match op {
            Op::Range(range) => Response::Range(self.range(range, changes)),
            Op::Put(put) => self.put(put, changes),
            Op::Delete(delete) => self.delete(delete, changes),
            Op::Txn(inner) => self.run(inner, changes),
        });
        Response::Txn { succeeded, responses: responses.collect() }
    }

    fn txn(&self, txn: &Txn, changes: &mut Vec<Written>) -> Result<Response, Fault> {
        let mut leaves = Vec::new();
        self.leaves(txn, &mut leaves);
        for op in &leaves {
            if let Op::Put(put) = op {
                self.check_put(put, false)?;
            }
        }
        for op in leaves {
            if let Op::Range(range) = op {
                self.readable(range.revision)?;
            }
        }
        Ok(self.run(txn, changes))
    }

    fn revoke(&mut self, id: i64, changes: &mut Vec<Written>) -> Result<Response, Fault> {
        if !self.leases.remove(&id) {
            return Err(Fault::LeaseNotFound);
        }
        let alive = self.at(self.revision(), &[]).into_values();
        changes.extend(alive.filter(|kv| kv.lease == id).map(|kv| (kv.key, None)));
        Ok(Response::Done)
    }

    fn compact(&mut self, revision: i64) -> Result<Response, Fault> {
        if revision <= self.compacted.unwrap_or(-1) {
            return Err(Fault::Compacted);
        }
        if revision > self.revision() {
            return Err(Fault::FutureRevision);
        }
        self.compacted = Some(revision);
        Ok(Response::Done)
    }

    fn apply(&mut self, command: &Command) -> Outcome {
        let mut changes = Vec::new();
        let result = match command {
            Command::Put(put) => self.check_put(put, true).map(|()| self.put(put, &mut changes)),
            Command::Delete(delete) => Ok(self.delete(delete, &mut changes)),
            Command::Txn(txn) => self.txn(txn, &mut changes),
            Command::Compact(revision) => self.compact(*revision),
            Command::Grant { id, .. } if self.leases.insert(*id) => Ok(Response::Done),
            Command::Grant { .. } => Err(Fault::LeaseExists),
            Command::Revoke(id) => self.revoke(*id, &mut changes),
            Command::Member(_) | Command::Alarm { .. } => Ok(Response::Done),
            Command::At { command, .. } => return self.apply(command),
        };
        if !changes.is_empty() {
            self.revisions.push(changes);
        }
        Outcome { revision: self.revision(), result }
    }

    /// The changes of a revision, each with what the key was before it.
    fn events(&self, revision: i64) -> Vec<(Bytes, bool, Option<KeyValue>)> {
        let earlier = usize::try_from(revision - 2).unwrap();
        let past = Self { revisions: self.revisions[..earlier].to_vec(), ..Self::default() };
        let before = past.at(revision - 1, &[]);
        let changes = &self.revisions[earlier];
        let event = |(number, (key, new)): (usize, &Written)| {
            let now = past.at(revision, &changes[..=number]);
            let created = now.get(key).is_some_and(|kv| kv.create == revision);
            (key.clone(), new.is_none(), before.get(key).filter(|_| !created).cloned())
        };
        changes.iter().enumerate().map(event).collect()
    }
}

fn key() -> impl Strategy<Value = Bytes> {
    "[a-e]".prop_map(|key| bytes(&key))
}

fn end() -> impl Strategy<Value = Bytes> {
    prop_oneof![3 => Just(Bytes::new()), 3 => key(), 1 => Just(bytes("\0"))]
}

fn revision() -> impl Strategy<Value = i64> {
    prop_oneof![3 => Just(0), 2 => 1..30i64]
}

fn put() -> impl Strategy<Value = Put> {
    let flags = (prop::bool::ANY, prop::bool::weighted(0.2), prop::bool::weighted(0.2));
    let lease = prop_oneof![3 => Just(0), 1 => 1..4i64];
    (key(), "[x-z]?", lease, flags).prop_map(|(key, value, lease, (prev_kv, ignore_value, ignore_lease))| {
        let lease = if ignore_lease { 0 } else { lease };
        let value = if ignore_value { String::new() } else { value };
        Put { key, value: bytes(&value), lease, prev_kv, ignore_value, ignore_lease }
    })
}

fn delete() -> impl Strategy<Value = Delete> {
    (key(), end(), prop::bool::ANY).prop_map(|(key, end, prev_kv)| Delete { key, end, prev_kv })
}

fn sort() -> impl Strategy<Value = Option<Sort>> {
    let by = prop::sample::select(vec![
        SortBy::Key,
        SortBy::Version,
        SortBy::Create,
        SortBy::Modified,
        SortBy::Value,
    ]);
    let sort = (by, prop::sample::select(vec![(false, false), (true, false), (false, true)]));
    prop::option::of(sort.prop_map(|(by, (descending, after_limit))| Sort { descending, by, after_limit }))
}

fn range() -> impl Strategy<Value = Range> {
    let flags = (prop::bool::weighted(0.2), prop::bool::weighted(0.1));
    let bounds = prop::array::uniform4(prop_oneof![5 => Just(0), 1 => 1..20i64]);
    let place = (prop_oneof![key(), Just(bytes("\0"))], end());
    (place, -1..4i64, revision(), sort(), flags, bounds).prop_map(
        |((key, end), limit, revision, sort, (keys_only, count_only), bounds)| {
            let [min_mod, max_mod, min_create, max_create] = bounds;
            Range {
                key,
                end,
                limit,
                revision,
                sort,
                keys_only,
                count_only,
                min_mod,
                max_mod,
                min_create,
                max_create,
            }
        },
    )
}

fn compare() -> impl Strategy<Value = Compare> {
    let comparison = prop::sample::select(vec![
        Comparison::Equal,
        Comparison::Greater,
        Comparison::Less,
        Comparison::NotEqual,
    ]);
    let target = prop_oneof![
        (0..3i64).prop_map(Target::Version),
        (0..20i64).prop_map(Target::Create),
        (0..20i64).prop_map(Target::Modified),
        "[x-z]".prop_map(|value| Target::Value(bytes(&value))),
        (0..3i64).prop_map(Target::Lease),
    ];
    (key(), end(), comparison, target).prop_map(|(key, end, comparison, target)| Compare {
        key,
        end,
        comparison,
        target,
    })
}

fn txn() -> impl Strategy<Value = Txn> {
    let leaf =
        prop_oneof![range().prop_map(Op::Range), put().prop_map(Op::Put), delete().prop_map(Op::Delete)];
    let op = leaf.prop_recursive(2, 8, 3, |inner| txn_of(inner).prop_map(Op::Txn));
    txn_of(op)
}

fn txn_of(op: impl Strategy<Value = Op> + Clone) -> impl Strategy<Value = Txn> {
    let ops = || prop::collection::vec(op.clone(), 0..4);
    (prop::collection::vec(compare(), 0..2), ops(), ops()).prop_map(|(compare, success, failure)| Txn {
        compare,
        success,
        failure,
    })
}

#[derive(Clone, Debug)]
enum Step {
    Do(Command),
    Read(Range),
}

fn step() -> impl Strategy<Value = Step> {
    let command = prop_oneof![
        6 => put().prop_map(Command::Put),
        2 => delete().prop_map(Command::Delete),
        5 => txn().prop_map(Command::Txn),
        1 => (-1..30i64).prop_map(Command::Compact),
        1 => (1..4i64).prop_map(|id| Command::Grant { id, ttl: 9 }),
        1 => (1..4i64).prop_map(Command::Revoke),
    ];
    prop_oneof![3 => command.prop_map(Step::Do), 1 => range().prop_map(Step::Read)]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    /// The same answers, revisions and events as the list's, whatever is compacted meanwhile.
    #[test]
    fn the_store_answers_as_a_list_of_all_revisions_does(steps in prop::collection::vec(step(), 1..50)) {
        let (mut store, mut plain) = (Store::default(), Plain::default());
        for step in &steps {
            match step {
                Step::Do(command) => prop_assert_eq!(store.apply(command), plain.apply(command), "{:?}", command),
                Step::Read(query) => {
                    let expect = plain.readable(query.revision).map(|()| plain.range(query, &[]));
                    prop_assert_eq!(store.read(query), expect, "{:?}", query);
                }
            }
        }
        for commit in &store.commits {
            let events: Vec<_> = commit.changes.iter().map(|change| {
                // What a change replaced is read before anything is compacted: here it may be gone since.
                let prev = change.prev.and_then(|prev| store.records.get(&prev)).map(|kv| KeyValue::clone(kv));
                (change.kv.key.clone(), change.kv.is_deletion(), change.prev.is_some(), prev)
            }).collect();
            for ((key, deletion, had, prev), expect) in events.into_iter().zip(plain.events(commit.revision)) {
                prop_assert_eq!((key, deletion, had), (expect.0, expect.1, expect.2.is_some()));
                prop_assert!(prev.is_none() || prev == expect.2, "{:?}", prev);
            }
            prop_assert_eq!(commit.changes.len(), plain.events(commit.revision).len());
        }
    }
}
