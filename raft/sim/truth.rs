//! What the members did, as told by their state machines: the measure for what clients see.
//!
//! Keeps true, or says what broke it: members apply the same log entries, each at its place and once, with the same
//! outcome and the same changes; revisions have no gap; a vote that was given is remembered.

use super::world::World;
use crate::{
    command::{KeyValue, Outcome},
    mvcc::Commit,
    types::{LogId, TypeConfig, Vote},
};
use openraft::{errors::RaftError, raft::VoteResponse};
use std::{
    collections::BTreeMap,
    hash::{DefaultHasher, Hash, Hasher},
    path::Path,
    rc::Rc,
    time::Duration,
};

/// The changes of a revision, as the first member made them.
#[derive(Clone, Debug)]
pub(super) struct Change {
    /// When.
    pub(super) at: Duration,
    /// The keys, as they are since; what is deleted has no version.
    pub(super) kvs: Vec<KeyValue>,
}

/// What is known of what members did.
#[derive(Default)]
pub(super) struct Truth {
    /// What came of each log entry.
    entries: BTreeMap<u64, (LogId, u64)>,
    /// What each revision changed.
    pub(super) commits: BTreeMap<i64, Change>,
    /// The newest vote that each member told another.
    votes: BTreeMap<u64, Vote>,
}

impl Truth {
    /// The newest revision.
    pub(super) fn revision(&self) -> i64 {
        self.commits.last_key_value().map_or(1, |(revision, _)| *revision)
    }

    fn entry(&mut self, before: Option<LogId>, id: LogId, outcome: &Outcome) -> Result<(), String> {
        let expect = before.map_or(0, |before| before.index + 1);
        if id.index != expect {
            return Err(format!("entry {id} was applied after {before:?}"));
        }
        let mut hash = DefaultHasher::new();
        format!("{outcome:?}").hash(&mut hash);
        let now = (id, hash.finish());
        let first = self.entries.entry(id.index).or_insert(now);
        if *first == now { Ok(()) } else { Err(format!("entry {id} came out differently than {}", first.0)) }
    }

    fn commit(&mut self, commit: &Commit, at: Duration) -> Result<(), String> {
        let kvs: Vec<KeyValue> = commit.changes.iter().map(|change| KeyValue::clone(&change.kv)).collect();
        let next = self.revision() + 1;
        if commit.revision > next {
            return Err(format!("revision {} came after {}", commit.revision, next - 1));
        }
        let first = self.commits.entry(commit.revision).or_insert_with(|| Change { at, kvs: kvs.clone() });
        if first.kvs == kvs {
            return Ok(());
        }
        Err(format!("revision {} was {:?} and then {kvs:?}", commit.revision, first.kvs))
    }
}

impl Truth {
    /// A member starts with the vote that is on its disk.
    pub(super) fn remembers(&self, member: u64, vote: Option<Vote>) -> Result<(), String> {
        let told = self.votes.get(&member).copied();
        if vote >= told { Ok(()) } else { Err(format!("{member:x} told {told:?} and remembers {vote:?}")) }
    }
}

/// A member answers another that wants its vote.
pub(crate) fn voted(member: u64, reply: &Result<VoteResponse<TypeConfig>, RaftError<TypeConfig>>) {
    let (Some(world), Ok(reply)) = (World::current(), reply) else { return };
    let mut truth = world.truth.borrow_mut();
    let told = truth.votes.entry(member).or_insert(reply.vote);
    if *told < reply.vote {
        *told = reply.vote;
    }
}

fn told(path: &Path, tell: impl FnOnce(&Rc<World>) -> Result<(), String>) {
    let Some(world) = World::current() else { return };
    if let Err(problem) = tell(&world) {
        world.broke(format!("seat {:?}: {problem}", world.seat_of(path)));
    }
}

/// A member has applied an entry after another.
pub(crate) fn applied(path: &Path, before: Option<LogId>, id: LogId, outcome: &Outcome) {
    told(path, |world| world.truth.borrow_mut().entry(before, id, outcome));
}

/// A member has got its state from another.
pub(crate) fn installed(path: &Path) {
    told(path, |world| {
        world.count("installed-snapshots");
        Ok(())
    });
}

/// A member has made changes.
pub(crate) fn changed(path: &Path, commits: &[Commit]) {
    let at = turmoil::sim_elapsed().unwrap_or_default();
    told(path, |world| commits.iter().try_for_each(|commit| world.truth.borrow_mut().commit(commit, at)));
}
