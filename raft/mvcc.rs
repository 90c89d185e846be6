//! The state machine: what a command does to the store.
//!
//! Keeps true: pure but for reading values through the [`Values`] seam; the same commands give the same state,
//! revisions, events and answers on every member. A command is checked whole before anything changes, so it takes
//! effect whole or not at all. A command that changes no key keeps the revision. Writing to disk is left to
//! `machine.rs`, which takes it from [`Effects`].

use crate::{
    command::{
        Command, Compare, Comparison, Delete, Fault, KeyValue, Member, Op, Outcome, Put, Range, RangeResult,
        Response, Sort, SortBy, Target, Txn,
    },
    index::{Index, Live},
    lease::{self, Lease, Leases},
    revision::{KeyRange, Revision},
};
use bytes::Bytes;
use std::{cmp::Ordering, collections::BTreeMap, io, sync::Arc};

/// Where values are read.
pub(crate) trait Values {
    /// The record of a revision; `None` when it is not there (any more).
    fn load(&self, revision: Revision) -> io::Result<Option<Arc<KeyValue>>>;
}

/// The replicated state, without the values.
pub(crate) struct State {
    /// The keys.
    pub(crate) index: Index,
    /// The latest revision; an empty store is at 1.
    pub(crate) revision: i64,
    /// Reads before this revision are refused.
    pub(crate) compacted: i64,
    /// The leases.
    pub(crate) leases: Leases,
    /// The members that have told who they are.
    pub(crate) members: BTreeMap<u64, Member>,
}

impl Default for State {
    fn default() -> Self {
        Self {
            index: Index::default(),
            revision: 1,
            compacted: 0,
            leases: Leases::new(),
            members: BTreeMap::new(),
        }
    }
}

/// What a batch of commands changes, for the disk and for watchers.
#[derive(Default)]
pub(crate) struct Effects {
    /// New records, in order.
    pub(crate) records: BTreeMap<Revision, Arc<KeyValue>>,
    /// Changes by revision, in order.
    pub(crate) commits: Vec<Commit>,
    /// Leases made (`Some` of the seconds) or ended.
    pub(crate) leases: Vec<(i64, Option<i64>)>,
    /// Members that told who they are.
    pub(crate) members: Vec<Member>,
    /// Records that compaction leaves without a reader.
    pub(crate) removed: Vec<Revision>,
}

/// The changes of one revision.
#[derive(Debug)]
pub(crate) struct Commit {
    /// The revision.
    pub(crate) revision: i64,
    /// Its changes, in the transaction's order.
    pub(crate) changes: Vec<Change>,
}

/// One change of a key.
#[derive(Clone, Debug)]
pub(crate) struct Change {
    /// What the key is since (a deletion has no version).
    pub(crate) kv: Arc<KeyValue>,
    /// Where its former value lies, if it had one.
    pub(crate) prev: Option<Revision>,
}

/// Values of this batch first, then those on disk.
struct Overlay<'a> {
    records: &'a BTreeMap<Revision, Arc<KeyValue>>,
    disk: &'a dyn Values,
}

impl Values for Overlay<'_> {
    fn load(&self, revision: Revision) -> io::Result<Option<Arc<KeyValue>>> {
        match self.records.get(&revision) {
            Some(record) => Ok(Some(record.clone())),
            None => self.disk.load(revision),
        }
    }
}

/// A command refused, or the disk failing under it.
enum Stop {
    Fault(Fault),
    Disk(io::Error),
}

impl From<Fault> for Stop {
    fn from(fault: Fault) -> Self {
        Self::Fault(fault)
    }
}

impl From<io::Error> for Stop {
    fn from(error: io::Error) -> Self {
        Self::Disk(error)
    }
}

/// Applies one command. The error is the disk's; a refused command is an outcome like any other.
pub(crate) fn apply(
    state: &mut State,
    disk: &dyn Values,
    command: &Command,
    effects: &mut Effects,
) -> io::Result<Outcome> {
    let mut write = Write { changes: Vec::new(), state, disk, effects };
    let result = match write.command(command) {
        Ok(response) => Ok(response),
        Err(Stop::Fault(fault)) => Err(fault),
        Err(Stop::Disk(error)) => return Err(error),
    };
    write.finish();
    Ok(Outcome { revision: state.revision, result })
}

/// One command on its way.
struct Write<'a> {
    state: &'a mut State,
    disk: &'a dyn Values,
    effects: &'a mut Effects,
    changes: Vec<Change>,
}

impl Write<'_> {
    fn command(&mut self, command: &Command) -> Result<Response, Stop> {
        match command {
            Command::Put(put) => {
                self.check_put(put)?;
                self.put(put)
            }
            Command::Delete(delete) => self.delete(delete),
            Command::Txn(txn) => self.txn(txn),
            Command::Compact(revision) => self.compact(*revision),
            Command::Grant { id, ttl } => self.grant(*id, *ttl),
            Command::Revoke(id) => self.revoke(*id),
            Command::Member(member) => {
                self.state.members.insert(member.id, member.clone());
                self.effects.members.push(member.clone());
                Ok(Response::Done)
            }
        }
    }

    fn finish(self) {
        if !self.changes.is_empty() {
            self.state.revision += 1;
            self.effects.commits.push(Commit { revision: self.state.revision, changes: self.changes });
        }
    }

    fn next(&self) -> Revision {
        let sub = u32::try_from(self.changes.len()).expect("a transaction is bounded far below 2^32 changes");
        Revision { main: self.state.revision + 1, sub }
    }

    fn load(&self, revision: Revision) -> io::Result<Option<Arc<KeyValue>>> {
        Overlay { records: &self.effects.records, disk: self.disk }.load(revision)
    }

    fn record(&mut self, at: Revision, kv: KeyValue, prev: Option<Revision>) {
        let kv = Arc::new(kv);
        self.effects.records.insert(at, kv.clone());
        self.changes.push(Change { kv, prev });
    }

    fn check_put(&self, put: &Put) -> Result<(), Fault> {
        if (put.ignore_value || put.ignore_lease) && self.state.index.live(&put.key).is_none() {
            return Err(Fault::KeyNotFound);
        }
        if put.lease != 0 && !self.state.leases.contains_key(&put.lease) {
            return Err(Fault::LeaseNotFound);
        }
        Ok(())
    }

    fn put(&mut self, put: &Put) -> Result<Response, Stop> {
        let old = self.state.index.live(&put.key);
        let old_kv = match old {
            Some(live) if put.prev_kv || put.ignore_value => self.load(live.modified)?,
            _ => None,
        };
        let old_lease = old.map_or(0, |live| live.lease);
        let lease = if put.ignore_lease { old_lease } else { put.lease };
        let value = match &old_kv {
            Some(kv) if put.ignore_value => kv.value.clone(),
            _ => put.value.clone(),
        };
        let at = self.next();
        let live = self.state.index.put(&put.key, at, lease);
        lease::attach(&mut self.state.leases, &put.key, old_lease, lease);
        self.record(at, key_value(&put.key, live, value), old.map(|live| live.modified));
        let prev = old_kv.filter(|_| put.prev_kv).map(|kv| KeyValue::clone(&kv));
        Ok(Response::Put(prev))
    }

    fn delete(&mut self, delete: &Delete) -> Result<Response, Stop> {
        let range = KeyRange::new(&delete.key, &delete.end);
        let found: Vec<(Bytes, Live)> =
            self.state.index.alive(&range).map(|(key, live)| (key.clone(), live)).collect();
        let mut prev = Vec::new();
        for (_, live) in &found {
            if delete.prev_kv {
                prev.extend(self.load(live.modified)?.map(|kv| KeyValue::clone(&kv)));
            }
        }
        for (key, live) in &found {
            self.delete_key(key, *live);
        }
        Ok(Response::Delete { deleted: i64::try_from(found.len()).unwrap_or(i64::MAX), prev })
    }

    fn delete_key(&mut self, key: &Bytes, live: Live) {
        let at = self.next();
        self.state.index.delete(key, at);
        lease::attach(&mut self.state.leases, key, live.lease, 0);
        let kv = KeyValue { key: key.clone(), modified: at.main, ..KeyValue::default() };
        self.record(at, kv, Some(live.modified));
    }

    fn txn(&mut self, txn: &Txn) -> Result<Response, Stop> {
        // Which way each transaction goes, inner ones too, is decided before anything changes, as etcd does.
        let mut path = Vec::new();
        self.decide(txn, &mut path)?;
        self.check_txn(txn, &mut path.iter())?;
        self.run_txn(txn, &mut path.iter())
    }

    fn decide(&self, txn: &Txn, path: &mut Vec<bool>) -> Result<(), Stop> {
        let overlay = Overlay { records: &self.effects.records, disk: self.disk };
        let mut succeeded = true;
        for compare in &txn.compare {
            succeeded = succeeded && holds(&self.state.index, &overlay, compare)?;
        }
        path.push(succeeded);
        for op in chosen(txn, succeeded) {
            if let Op::Txn(inner) = op {
                self.decide(inner, path)?;
            }
        }
        Ok(())
    }

    fn check_txn(&self, txn: &Txn, path: &mut std::slice::Iter<'_, bool>) -> Result<(), Fault> {
        for op in chosen(txn, path.next().copied().unwrap_or_default()) {
            match op {
                Op::Range(range) => check_revision(self.state, range.revision)?,
                Op::Put(put) => self.check_put(put)?,
                Op::Delete(_) => {}
                Op::Txn(inner) => self.check_txn(inner, path)?,
            }
        }
        Ok(())
    }

    fn run_txn(&mut self, txn: &Txn, path: &mut std::slice::Iter<'_, bool>) -> Result<Response, Stop> {
        let succeeded = path.next().copied().unwrap_or_default();
        let mut responses = Vec::new();
        for op in chosen(txn, succeeded) {
            responses.push(match op {
                Op::Range(range) => self.range(range)?,
                Op::Put(put) => self.put(put)?,
                Op::Delete(delete) => self.delete(delete)?,
                Op::Txn(inner) => self.run_txn(inner, path)?,
            });
        }
        Ok(Response::Txn { succeeded, responses })
    }

    /// A read within a transaction sees what the transaction has written so far.
    fn range(&self, query: &Range) -> Result<Response, Stop> {
        let overlay = Overlay { records: &self.effects.records, disk: self.disk };
        let at = if query.revision > 0 { query.revision } else { self.next().main };
        Ok(Response::Range(find(&self.state.index, query, at).read(query, &overlay)?))
    }

    fn compact(&mut self, revision: i64) -> Result<Response, Stop> {
        if revision <= self.state.compacted {
            return Err(Fault::Compacted.into());
        }
        if revision > self.state.revision {
            return Err(Fault::FutureRevision.into());
        }
        self.state.compacted = revision;
        self.effects.removed.extend(self.state.index.compact(revision));
        Ok(Response::Done)
    }

    fn grant(&mut self, id: i64, ttl: i64) -> Result<Response, Stop> {
        if self.state.leases.contains_key(&id) {
            return Err(Fault::LeaseExists.into());
        }
        self.state.leases.insert(id, Lease { ttl, ..Lease::default() });
        self.effects.leases.push((id, Some(ttl)));
        Ok(Response::Done)
    }

    fn revoke(&mut self, id: i64) -> Result<Response, Stop> {
        let lease = self.state.leases.remove(&id).ok_or(Fault::LeaseNotFound)?;
        self.effects.leases.push((id, None));
        for key in &lease.keys {
            if let Some(live) = self.state.index.live(key) {
                self.delete_key(key, live);
            }
        }
        Ok(Response::Done)
    }
}

fn chosen(txn: &Txn, succeeded: bool) -> &[Op] {
    if succeeded { &txn.success } else { &txn.failure }
}

fn key_value(key: &Bytes, live: Live, value: Bytes) -> KeyValue {
    KeyValue {
        key: key.clone(),
        value,
        create: live.create,
        modified: live.modified.main,
        version: live.version,
        lease: live.lease,
    }
}

/// Whether reads at this revision (0 for now) can be answered.
pub(crate) fn check_revision(state: &State, revision: i64) -> Result<(), Fault> {
    if revision > state.revision {
        return Err(Fault::FutureRevision);
    }
    if revision > 0 && revision < state.compacted {
        return Err(Fault::Compacted);
    }
    Ok(())
}

/// Whether every key of a comparison's range satisfies it; a key that is not there counts as one of zeros, but has
/// no value to compare.
fn holds(index: &Index, values: &dyn Values, compare: &Compare) -> io::Result<bool> {
    let range = KeyRange::new(&compare.key, &compare.end);
    let mut found = index.alive(&range).peekable();
    if found.peek().is_none() {
        let absent = Live::default();
        return Ok(match &compare.target {
            Target::Value(_) => false,
            target => related(absent_or(absent, target), compare.comparison),
        });
    }
    for (_, live) in found {
        let order = match &compare.target {
            Target::Value(value) => match values.load(live.modified)? {
                Some(kv) => kv.value.cmp(value),
                None => return Ok(false),
            },
            target => absent_or(live, target),
        };
        if !related(order, compare.comparison) {
            return Ok(false);
        }
    }
    Ok(true)
}

fn absent_or(live: Live, target: &Target) -> Ordering {
    match target {
        Target::Version(version) => live.version.cmp(version),
        Target::Create(revision) => live.create.cmp(revision),
        Target::Modified(revision) => live.modified.main.cmp(revision),
        Target::Lease(lease) => live.lease.cmp(lease),
        Target::Value(_) => Ordering::Less,
    }
}

fn related(order: Ordering, comparison: Comparison) -> bool {
    match comparison {
        Comparison::Equal => order.is_eq(),
        Comparison::Greater => order.is_gt(),
        Comparison::Less => order.is_lt(),
        Comparison::NotEqual => order.is_ne(),
    }
}

/// Where the values of an answer lie. Found under the lock, read after it.
pub(crate) struct Found {
    places: Vec<Revision>,
    count: i64,
    more: bool,
}

impl Found {
    /// How many values are to be read.
    pub(crate) fn len(&self) -> usize {
        self.places.len()
    }

    /// Reads the values and puts them in order.
    pub(crate) fn read(self, query: &Range, values: &dyn Values) -> io::Result<RangeResult> {
        let mut kvs = Vec::with_capacity(self.places.len());
        for place in self.places {
            let kv = values.load(place)?.ok_or_else(|| {
                io::Error::new(io::ErrorKind::InvalidData, "a value that the index knows is not on disk")
            })?;
            if !matches(query, &kv) {
                continue;
            }
            let mut kv = Arc::unwrap_or_clone(kv);
            if query.keys_only && query.sort.is_none_or(|sort| sort.by != SortBy::Value) {
                kv.value = Bytes::new();
            }
            kvs.push(kv);
        }
        let mut more = self.more;
        if let Some(sort) = query.sort {
            order(&mut kvs, sort);
        }
        if let Some(limit) = limit(query).filter(|limit| kvs.len() > *limit) {
            kvs.truncate(limit);
            more = true;
        }
        if query.keys_only {
            kvs.iter_mut().for_each(|kv| kv.value = Bytes::new());
        }
        Ok(RangeResult { kvs, more, count: self.count })
    }
}

/// Finds what a query asks for at a revision. Without order and filters only as many as the limit are collected,
/// but all are counted.
pub(crate) fn find(index: &Index, query: &Range, at: i64) -> Found {
    let range = KeyRange::new(&query.key, &query.end);
    let collect = match limit(query) {
        _ if query.count_only => 0,
        Some(limit) if query.sort.is_none() && !filtered(query) => limit,
        _ => usize::MAX,
    };
    let mut places = Vec::new();
    let mut count = 0;
    for (_, place) in index.range(&range, at) {
        count += 1;
        if places.len() < collect {
            places.push(place);
        }
    }
    let more = !query.count_only && places.len() < usize::try_from(count).unwrap_or(usize::MAX);
    Found { places, count, more }
}

fn limit(query: &Range) -> Option<usize> {
    usize::try_from(query.limit).ok().filter(|limit| *limit > 0)
}

fn filtered(query: &Range) -> bool {
    [query.min_mod, query.max_mod, query.min_create, query.max_create].iter().any(|bound| *bound != 0)
}

fn matches(query: &Range, kv: &KeyValue) -> bool {
    let within = |value: i64, min: i64, max: i64| (min == 0 || value >= min) && (max == 0 || value <= max);
    within(kv.modified, query.min_mod, query.max_mod) && within(kv.create, query.min_create, query.max_create)
}

fn order(kvs: &mut [KeyValue], sort: Sort) {
    let ascending = |a: &KeyValue, b: &KeyValue| match sort.by {
        SortBy::Key => a.key.cmp(&b.key),
        SortBy::Version => a.version.cmp(&b.version),
        SortBy::Create => a.create.cmp(&b.create),
        SortBy::Modified => a.modified.cmp(&b.modified),
        SortBy::Value => a.value.cmp(&b.value),
    };
    if sort.descending {
        kvs.sort_by(|a, b| ascending(b, a));
    } else {
        kvs.sort_by(ascending);
    }
}

#[cfg(test)]
#[path = "tests/mvcc.rs"]
mod tests;
