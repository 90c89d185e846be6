//! The state as it lies on disk.
//!
//! Keeps true: a batch of log entries, what it changed and the number of its last entry are one atomic write, and
//! what is read back is the state after the last such write. When that happens is left to `machine.rs`.

use crate::{
    codec,
    command::Member,
    engine::{Batch, Engine, Use},
    lease::{Grant, Lease},
    mvcc::{Effects, State},
    record,
    revision::{KeyRange, Revision},
    types::{LogId, Membership},
    work::mutant,
};
use bytes::Bytes;
use serde::{Deserialize, Serialize};
use std::{collections::BTreeSet, io, path::Path};

pub(crate) const KV: &str = "kv";
pub(crate) const LEASE: &str = "lease";
pub(crate) const MEMBER: &str = "member";
pub(crate) const META: &str = "meta";
pub(crate) const ALARM: &str = "alarm";
pub(crate) const STATE: &[u8] = b"state";
pub(crate) const TIME: &[u8] = b"time";
pub(crate) const INSTALLING: &[u8] = b"installing";
pub(crate) const SNAPSHOT: &[u8] = b"snapshot";

/// What is saved with every batch.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub(crate) struct Saved {
    /// The last log entry applied.
    pub(crate) applied: Option<LogId>,
    /// The members as of then.
    pub(crate) membership: Membership,
    /// The store's revision.
    pub(crate) revision: i64,
    /// The compacted revision.
    pub(crate) compacted: i64,
    /// Who was a member and is none any more.
    pub(crate) removed: BTreeSet<u64>,
}

impl Default for Saved {
    fn default() -> Self {
        let State { revision, compacted, .. } = State::default();
        Self {
            applied: None,
            membership: Membership::default(),
            revision,
            compacted,
            removed: BTreeSet::new(),
        }
    }
}

/// Marks in a batch that the state is a snapshot's.
pub(crate) fn mark_snapshot(batch: &mut Batch<'_>) -> io::Result<()> {
    batch.put(META, SNAPSHOT, &[])
}

/// Opens or makes the state's database in a member's folder.
pub(crate) fn open(folder: &Path) -> io::Result<Engine> {
    Engine::open(&folder.join("state"), &[KV, LEASE, MEMBER, META, ALARM], Use::State)
}

/// Removes records, all or none of them.
pub(crate) fn remove(engine: &Engine, records: &[Revision]) -> io::Result<()> {
    let mut batch = engine.batch();
    records.iter().try_for_each(|revision| batch.delete(KV, &revision.to_bytes()))?;
    batch.write()
}

/// The revision of a record by its key.
pub(crate) fn revision_of(key: &[u8]) -> io::Result<Revision> {
    Revision::from_bytes(key).ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, "bad key of a record"))
}

/// Writes what a batch of entries changes, in one atomic batch.
pub(crate) fn write(engine: &Engine, effects: &Effects, saved: &Saved) -> io::Result<()> {
    let mut batch = engine.batch();
    if mutant!(AppliedApart) {
        batch.put(META, STATE, &codec::encode(saved))?;
        std::mem::replace(&mut batch, engine.batch()).write()?;
    }
    for (revision, kv) in &effects.records {
        batch.put(KV, &revision.to_bytes(), &record::encode(kv))?;
    }
    for (id, ttl) in &effects.leases {
        match ttl {
            Some(ttl) => batch.put(LEASE, &id.to_be_bytes(), &codec::encode(ttl))?,
            None => batch.delete(LEASE, &id.to_be_bytes())?,
        }
    }
    for member in &effects.members {
        batch.put(MEMBER, &member.id.to_be_bytes(), &codec::encode(member))?;
    }
    for id in &effects.removed_members {
        batch.delete(MEMBER, &id.to_be_bytes())?;
    }
    for (alarm, raised) in &effects.alarms {
        match codec::encode(alarm) {
            key if *raised => batch.put(ALARM, &key, &[])?,
            key => batch.delete(ALARM, &key)?,
        }
    }
    if let Some(time) = effects.time {
        batch.put(META, TIME, &codec::encode(&time))?;
    }
    batch.put(META, STATE, &codec::encode(saved))?;
    batch.write()
}

/// Reads the state back.
pub(crate) fn load(engine: &Engine) -> io::Result<(State, Saved)> {
    let mut saved: Saved = match engine.get(META, STATE)? {
        Some(bytes) => codec::decode(&bytes)?,
        None => Saved::default(),
    };
    if let Some(last) = saved.applied.as_mut().filter(|_| mutant!(AppliesTwice)) {
        last.index = last.index.saturating_sub(1);
    }
    let mut state = State { revision: saved.revision, compacted: saved.compacted, ..State::default() };
    state.voters = saved.membership.voter_ids().collect();
    if let Some(bytes) = engine.get(META, TIME)? {
        state.time = codec::decode(&bytes)?;
    }
    engine.scan(LEASE, &[], |key, value| {
        let id = key.try_into().map(i64::from_be_bytes).map_err(io::Error::other)?;
        let grant = Grant { ttl: codec::decode(value)?, number: 0 };
        state.leases.insert(id, Lease { grant, ..Lease::default() });
        Ok(true)
    })?;
    engine.scan(MEMBER, &[], |_, value| {
        let member: Member = codec::decode(value)?;
        state.members.insert(member.id, member);
        Ok(true)
    })?;
    engine.scan(ALARM, &[], |key, _| {
        state.alarms.insert(codec::decode(key)?);
        Ok(true)
    })?;
    engine.scan(KV, &[], |key, value| {
        state.index.restore(revision_of(key)?, &record::decode(value)?);
        Ok(true)
    })?;
    if mutant!(RevisionFromKeys) {
        state.revision = state.index.alive(&all()).map(|(_, live)| live.modified.main).max().unwrap_or(1);
    }
    attach_leases(&mut state);
    Ok((state, saved))
}

fn all() -> KeyRange {
    KeyRange::new(&Bytes::from_static(&[0]), &Bytes::from_static(&[0]))
}

fn attach_leases(state: &mut State) {
    let all = all();
    for (key, live) in state.index.alive(&all) {
        if let Some(lease) = state.leases.get_mut(&live.lease) {
            lease.keys.insert(key.clone());
        }
    }
}
