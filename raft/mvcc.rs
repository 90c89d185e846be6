//! The state machine: what a command does to the store.
//!
//! Keeps true: pure but for reading values through the [`Values`] seam; the same commands give the same state,
//! revisions, events and answers on every member. A command is checked whole before anything changes, so it takes
//! effect whole or not at all. A command that changes no key keeps the revision. Writing to disk is left to
//! `machine.rs`, which takes it from [`Effects`].

use crate::{
    command::{
        Alarm, AlarmKind, Command, Delete, Fault, KeyValue, Member, Op, Outcome, Put, Range, Response, Txn,
    },
    index::{Index, Live, Written},
    lease::{self, Grant, Lease, Leases},
    query::{check_revision_in_txn, find, holds},
    record::Record,
    revision::{KeyRange, Revision},
};
use bytes::Bytes;
use std::{
    collections::{BTreeMap, BTreeSet},
    io,
    sync::Arc,
};

/// Where values are read.
pub(crate) trait Values {
    /// The record of a revision; `None` when it is not there (any more).
    fn load(&self, revision: Revision) -> io::Result<Option<Arc<KeyValue>>>;

    /// The records of many revisions, in their order.
    fn records(&self, revisions: &[Revision]) -> io::Result<Vec<Option<Record>>> {
        let load = |revision: &Revision| Ok(self.load(*revision)?.as_deref().map(Record::from));
        revisions.iter().map(load).collect()
    }
}

/// The replicated state, without the values.
pub(crate) struct State {
    /// The keys.
    pub(crate) index: Index,
    /// The latest revision; an empty store is at 1.
    pub(crate) revision: i64,
    /// Reads before this revision are refused; -1 as long as nothing is compacted, as in etcd.
    pub(crate) compacted: i64,
    /// The leases.
    pub(crate) leases: Leases,
    /// Grants since the process started.
    pub(crate) grants: u64,
    /// The members that have told who they are.
    pub(crate) members: BTreeMap<u64, Member>,
    /// The alarms that are raised.
    pub(crate) alarms: BTreeSet<Alarm>,
    /// The members that vote.
    pub(crate) voters: BTreeSet<u64>,
    /// When its newest change was proposed, in milliseconds since 1970; it never goes back. 0 if that is not known.
    pub(crate) time: i64,
}

impl State {
    /// Whether nothing may be added: the quota is used up, or so many disks are full that no majority has room. One
    /// full disk is one member less, no more: the others go on.
    pub(crate) fn is_full(&self) -> bool {
        let of_disk = |member: &&u64| {
            let alarm = Alarm { kind: AlarmKind::DiskFull, member: **member };
            self.alarms.contains(&alarm)
        };
        let full = self.voters.iter().filter(of_disk).count();
        let quota = self.alarms.iter().any(|alarm| alarm.kind == AlarmKind::NoSpace);
        quota || (full > 0 && self.voters.len() - full <= self.voters.len() / 2)
    }
}

impl Default for State {
    fn default() -> Self {
        Self {
            index: Index::default(),
            revision: 1,
            compacted: -1,
            leases: Leases::new(),
            grants: 0,
            members: BTreeMap::new(),
            alarms: BTreeSet::new(),
            voters: BTreeSet::new(),
            time: 0,
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
    /// Members that are none any more.
    pub(crate) removed_members: Vec<u64>,
    /// Alarms raised (`true`) or lifted.
    pub(crate) alarms: Vec<(Alarm, bool)>,
    /// Records that compaction leaves without a reader.
    pub(crate) removed: Vec<Revision>,
    /// The state's time, if it was told.
    pub(crate) time: Option<i64>,
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
    /// Where its value of before this revision lies, if it had one.
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
        self.check_alarms(command)?;
        match command {
            Command::Put(put) => {
                self.check_lease(put)?;
                self.check_present(put)?;
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
            Command::Alarm { alarm, raise } => Ok(self.alarm(*alarm, *raise)),
            Command::At { time, command } => {
                // The clock of a new leader may be behind that of the one before.
                self.state.time = self.state.time.max(*time);
                self.effects.time = Some(self.state.time);
                self.command(command)
            }
        }
    }

    /// While members differ no key may change; while there is no space nothing may grow.
    fn check_alarms(&self, command: &Command) -> Result<(), Fault> {
        let corrupt = || self.state.alarms.iter().any(|alarm| alarm.kind == AlarmKind::Corrupt);
        match command {
            Command::Member(_) | Command::Alarm { .. } => Ok(()),
            command if command.writes() && corrupt() => Err(Fault::Corrupt),
            command if command.grows() && self.state.is_full() => Err(Fault::NoSpace),
            _ => Ok(()),
        }
    }

    fn alarm(&mut self, alarm: Alarm, raise: bool) -> Response {
        let was = self.state.alarms.contains(&alarm);
        if was != raise {
            self.effects.alarms.push((alarm, raise));
        }
        if raise {
            self.state.alarms.insert(alarm);
        } else {
            self.state.alarms.remove(&alarm);
        }
        Response::Alarm((raise || was).then_some(alarm))
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

    fn check_present(&self, put: &Put) -> Result<(), Fault> {
        let keeps = put.ignore_value || put.ignore_lease;
        if keeps && self.state.index.live(&put.key).is_none() { Err(Fault::KeyNotFound) } else { Ok(()) }
    }

    fn check_lease(&self, put: &Put) -> Result<(), Fault> {
        let known = put.lease == 0 || self.state.leases.contains_key(&put.lease);
        if known { Ok(()) } else { Err(Fault::LeaseNotFound) }
    }

    fn put(&mut self, put: &Put) -> Result<Response, Stop> {
        let wanted = put.prev_kv || put.ignore_value;
        let old = if wanted { self.state.index.live(&put.key) } else { None };
        let old_kv = old.map_or(Ok(None), |live| self.load(live.modified))?;
        let value = match &old_kv {
            Some(kv) if put.ignore_value => kv.value.clone(),
            _ => put.value.clone(),
        };
        let at = self.next();
        let lease = (!put.ignore_lease).then_some(put.lease);
        let Written { old, before, live } = self.state.index.put(&put.key, at, lease);
        // What a revision creates replaces nothing, also when the same revision deleted it before.
        let before = before.filter(|_| live.create < at.main);
        lease::attach(&mut self.state.leases, &put.key, old.map_or(0, |old| old.lease), live.lease);
        self.record(at, key_value(&put.key, live, value), before);
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
        let before = self.state.index.delete(key, at);
        lease::attach(&mut self.state.leases, key, live.lease, 0);
        let kv = KeyValue { key: key.clone(), modified: at.main, ..KeyValue::default() };
        self.record(at, kv, before);
    }

    fn txn(&mut self, txn: &Txn) -> Result<Response, Stop> {
        // Which way each transaction goes, inner ones too, is decided before anything changes, as etcd does.
        let mut path = Vec::new();
        self.decide(txn, &mut path)?;
        self.check_txn(txn, &mut path.iter(), &|write, op| match op {
            Op::Put(put) => write.check_present(put).and_then(|()| write.check_lease(put)),
            _ => Ok(()),
        })?;
        self.check_txn(txn, &mut path.iter(), &|write, op| match op {
            Op::Range(range) => check_revision_in_txn(write.state, range.revision),
            _ => Ok(()),
        })?;
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

    /// Checks each operation that will be done.
    fn check_txn(
        &self,
        txn: &Txn,
        path: &mut std::slice::Iter<'_, bool>,
        check: &dyn Fn(&Self, &Op) -> Result<(), Fault>,
    ) -> Result<(), Fault> {
        for op in chosen(txn, path.next().copied().unwrap_or_default()) {
            match op {
                Op::Txn(inner) => self.check_txn(inner, path, check)?,
                op => check(self, op)?,
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
        self.state.grants += 1;
        let grant = Grant { ttl, number: self.state.grants };
        self.state.leases.insert(id, Lease { grant, ..Lease::default() });
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

#[cfg(test)]
#[path = "tests/mvcc.rs"]
mod tests;
