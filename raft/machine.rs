//! The state on disk and in memory, and the one thread that changes it.
//!
//! Keeps true: a batch of log entries, the number of the last of them and the revision are written in one atomic
//! batch, so a restart repeats none and leaves none out; readers see a batch whole or not at all; watchers hear of
//! a change after readers can see it. Nothing is safe on the disk here: the log can repeat what a crash takes. What
//! commands mean is `mvcc.rs`, what lies on disk `image.rs`; moving the state to another member is `snapshot.rs`.

use crate::{
    applier::{self, Applier, Item},
    archive::Position,
    command::{Alarm, AlarmKind, Fault, KeyValue, Member, Outcome, Range, RangeResult, Response},
    engine::Engine,
    image::{self, KV, META, SNAPSHOT, Saved, revision_of},
    lease::{Grant, Lease},
    mvcc::{self, Change, Commit, Effects, State, Values},
    query, record,
    revision::Revision,
    snapshot::{self, SnapshotData},
    types::{Entry, Membership, SnapshotMeta},
    values::Disk,
    watch::Hub,
    work::{self, More, Sender, mutant},
};
use openraft::{EntryPayload, entry::RaftEntry};
use std::{
    collections::BTreeSet,
    io,
    ops::ControlFlow,
    path::{Path, PathBuf},
    sync::{Arc, OnceLock, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard},
};
use tokio::sync::{oneshot, watch};

/// Records removed in one batch after a compaction, at most.
const SCRUB: usize = 1000;
/// Bytes of history read for a watcher that is behind.
const HISTORY_BYTES: usize = 1 << 20;
/// Values read while the lock on the state is held; more are read without it.
const INLINE: usize = 16;

/// The state, shared by everybody who reads it.
pub(crate) struct Machine {
    pub(crate) engine: Engine,
    inner: RwLock<Inner>,
    /// Held by who reads records without `inner`, and alone by who removes records. Never taken before `inner`.
    removing: Arc<RwLock<()>>,
    hub: Hub,
    applied: watch::Sender<u64>,
    /// As saved, for those who may not wait behind a batch.
    removed: RwLock<BTreeSet<u64>>,
    /// Where snapshots of other members are received.
    pub(crate) spool: PathBuf,
    scrub: Sender<Scrub>,
    /// Why nothing is applied any more.
    failure: OnceLock<String>,
}

/// Records to remove, and who waits until all asked for before are removed.
struct Scrub {
    removed: Vec<Revision>,
    done: Option<oneshot::Sender<()>>,
}

struct Inner {
    state: State,
    saved: Saved,
}

/// Why history cannot be read.
#[derive(Debug)]
pub(crate) enum HistoryError {
    /// It is compacted up to this revision.
    Compacted(i64),
    /// The disk fails.
    Disk(io::Error),
}

impl From<io::Error> for HistoryError {
    fn from(error: io::Error) -> Self {
        Self::Disk(error)
    }
}

impl Machine {
    /// Opens or makes the state under a folder and starts its threads.
    pub(crate) fn open(folder: &Path) -> io::Result<(Arc<Self>, Applier)> {
        let spool = folder.join("snap");
        std::fs::create_dir_all(&spool)?;
        let engine = image::open(folder)?;
        snapshot::resume(&engine, &spool)?;
        let (state, saved) = image::load(&engine)?;
        let mut inner = Inner { state, saved };
        let garbage = inner.state.index.compact(inner.state.compacted);
        let removing: Arc<RwLock<()>> = Arc::default();
        let (scrubbed, alone) = (engine.clone(), removing.clone());
        let scrub = work::spawn("scrub", move |first, _: More<'_, _>| scrub_turn(&scrubbed, &alone, first))?;
        let machine = Arc::new(Self {
            removed: RwLock::new(inner.saved.removed.clone()),
            hub: Hub::new(inner.state.revision),
            applied: watch::Sender::new(inner.saved.applied.map_or(0, |id| id.index)),
            engine,
            inner: RwLock::new(inner),
            removing,
            spool,
            scrub,
            failure: OnceLock::new(),
        });
        machine.scrub(garbage);
        let thread = machine.clone();
        let jobs = work::spawn("apply", move |first, more| applier::job_turn(&thread, first, more))?;
        Ok((machine.clone(), Applier::new(machine, jobs)))
    }

    fn scrub(&self, removed: Vec<Revision>) {
        if !removed.is_empty() {
            // The thread ends only with this struct.
            let _ = self.scrub.send(Scrub { removed, done: None });
        }
    }

    /// Waits until what earlier compactions left over is removed.
    pub(crate) async fn scrubbed(&self) -> io::Result<()> {
        let (done, waiter) = oneshot::channel();
        let stopped = || io::Error::other("compacted records cannot be removed");
        self.scrub.send(Scrub { removed: Vec::new(), done: Some(done) }).map_err(|_| stopped())?;
        waiter.await.map_err(|_| stopped())
    }

    fn read(&self) -> RwLockReadGuard<'_, Inner> {
        self.inner.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> RwLockWriteGuard<'_, Inner> {
        self.inner.write().unwrap_or_else(PoisonError::into_inner)
    }

    /// While this is held no record is removed.
    fn keep(&self) -> RwLockReadGuard<'_, ()> {
        self.removing.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether a reader would not have to wait now.
    pub(crate) fn is_idle(&self) -> bool {
        self.inner.try_read().is_ok() && self.removing.try_read().is_ok()
    }

    /// Remembers that nothing can be applied any more.
    pub(crate) fn fail(&self, error: &io::Error) {
        // The first error is the reason for all others.
        let _ = self.failure.set(error.to_string());
    }

    /// Why nothing is applied any more.
    pub(crate) fn failure(&self) -> Option<&str> {
        self.failure.get().map(String::as_str)
    }

    /// Waits until an entry is applied.
    pub(crate) async fn wait_applied(&self, index: u64) {
        let mut applied = self.applied.subscribe();
        // The sender lives as long as this.
        let _ = applied.wait_for(|applied| *applied >= index).await;
    }

    /// The newest changes.
    pub(crate) fn hub(&self) -> &Hub {
        &self.hub
    }

    /// The index of the last entry applied.
    pub(crate) fn applied(&self) -> u64 {
        *self.applied.borrow()
    }

    /// The store's revision.
    pub(crate) fn revision(&self) -> i64 {
        self.hub.revision()
    }

    /// The compacted revision.
    pub(crate) fn compacted(&self) -> i64 {
        self.read().state.compacted
    }

    /// Answers a read, with the revision it was answered at.
    pub(crate) fn range(&self, query: &Range) -> io::Result<(i64, Result<RangeResult, Fault>)> {
        let inner = self.read();
        let revision = inner.state.revision;
        if let Err(fault) = query::check_revision(&inner.state, query.revision) {
            return Ok((revision, Err(fault)));
        }
        let at = if query.revision > 0 { query.revision } else { revision };
        let found = query::find(&inner.state.index, query, at);
        if found.len() <= INLINE {
            return Ok((revision, Ok(found.read(query, &Disk(&self.engine))?)));
        }
        let _kept = self.keep();
        drop(inner);
        Ok((revision, Ok(found.read(query, &Disk(&self.engine))?)))
    }

    /// The value of a key before a change; `None` when there was none or it is compacted.
    pub(crate) fn former(&self, change: &Change) -> io::Result<Option<Arc<KeyValue>>> {
        change.prev.map_or(Ok(None), |prev| Disk(&self.engine).load(prev))
    }

    /// Changes from a revision on, whole revisions, as much as is read at a time.
    pub(crate) fn history(&self, from: i64) -> Result<Vec<Commit>, HistoryError> {
        let inner = self.read();
        if from < inner.state.compacted {
            return Err(HistoryError::Compacted(inner.state.compacted));
        }
        let mut commits: Vec<Commit> = Vec::new();
        let mut bytes = 0;
        let from = from + i64::from(mutant!(SkipsCompacted) && from == inner.state.compacted);
        self.engine.scan(KV, &Revision { main: from, sub: 0 }.to_bytes(), |key, value| {
            let at = revision_of(key)?;
            if commits.last().is_none_or(|last| last.revision != at.main) {
                if bytes > HISTORY_BYTES {
                    return Ok(false);
                }
                commits.push(Commit { revision: at.main, changes: Vec::new() });
            }
            bytes += value.len();
            let kv = record::decode(value)?;
            let prev = inner.state.index.before(&kv.key, at).filter(|_| kv.create < at.main);
            if let Some(commit) = commits.last_mut().filter(|_| inner.state.index.knows(&kv.key, at)) {
                commit.changes.push(Change { kv: Arc::new(kv), prev });
            }
            Ok(true)
        })?;
        Ok(commits)
    }

    /// All leases with what was granted.
    pub(crate) async fn leases(self: &Arc<Self>) -> io::Result<Vec<(i64, Grant)>> {
        self.look(|state| state.leases.iter().map(|(id, lease)| (*id, lease.grant)).collect()).await
    }

    /// One lease.
    pub(crate) fn lease(&self, id: i64) -> Option<Lease> {
        self.read().state.leases.get(&id).cloned()
    }

    /// Looks at the state; if it is being changed now, on a thread that may wait.
    pub(crate) async fn look<T: Send + 'static>(
        self: &Arc<Self>,
        look: impl FnOnce(&State) -> T + Send + 'static,
    ) -> io::Result<T> {
        if let Ok(inner) = self.inner.try_read() {
            return Ok(look(&inner.state));
        }
        let machine = self.clone();
        work::blocking(move || look(&machine.read().state)).await
    }

    /// The members that have told who they are.
    pub(crate) fn members(&self) -> Vec<Member> {
        self.read().state.members.values().cloned().collect()
    }

    /// Whether a member was removed.
    pub(crate) fn is_removed(&self, id: u64) -> bool {
        self.removed.read().unwrap_or_else(PoisonError::into_inner).contains(&id)
    }

    /// The alarms that are raised.
    pub(crate) fn alarms(&self) -> Vec<Alarm> {
        self.read().state.alarms.iter().copied().collect()
    }

    /// Whether nothing may be added, or there is no room here.
    pub(crate) fn is_full(&self, id: u64) -> bool {
        let state = &self.read().state;
        state.is_full() || state.alarms.contains(&Alarm { kind: AlarmKind::DiskFull, member: id })
    }

    /// What is saved with the latest batch.
    pub(crate) fn saved(&self) -> Saved {
        self.read().saved.clone()
    }

    /// The last entry applied, with the revision and the time that it led to.
    pub(crate) fn position(&self) -> Position {
        let inner = self.read();
        let index = inner.saved.applied.map_or(0, |id| id.index);
        Position { index, revision: inner.state.revision, time: inner.state.time }
    }

    /// Bytes of keys and values on disk, and bytes of them in use.
    pub(crate) fn size(&self) -> (u64, u64) {
        self.engine.size(KV)
    }

    /// A hash over all records that readers from the compacted revision to `revision` (0: now) can see. Returns it
    /// with the revision hashed and the compacted revision.
    pub(crate) fn hash(&self, revision: i64) -> io::Result<Result<(u32, i64, i64), Fault>> {
        use sha2::Digest;
        let inner = self.read();
        if let Err(fault) = query::check_revision(&inner.state, revision) {
            return Ok(Err(fault));
        }
        let at = if revision > 0 { revision } else { inner.state.revision };
        let compacted = inner.state.compacted;
        let mut hash = sha2::Sha256::new();
        self.engine.scan(KV, &[], |key, value| {
            let place = revision_of(key)?;
            if place.main > at {
                return Ok(false);
            }
            let kept = place.main > compacted || {
                let kv = record::decode(value)?;
                inner.state.index.knows(&kv.key, place)
            };
            if kept {
                hash.update(key);
                hash.update(value);
            }
            Ok(true)
        })?;
        let digest = hash.finalize();
        Ok(Ok((u32::from_be_bytes([digest[0], digest[1], digest[2], digest[3]]), at, compacted)))
    }

    /// Applies log entries in one atomic batch, and answers those who wait for them.
    pub(crate) fn apply(&self, entries: Vec<Item>) -> io::Result<()> {
        self.apply_to(self.write(), entries)
    }

    /// The same if that takes no waiting for readers; otherwise the entries come back.
    pub(crate) fn try_apply(&self, entries: Vec<Item>) -> io::Result<Option<Vec<Item>>> {
        match self.inner.try_write() {
            Ok(inner) => self.apply_to(inner, entries).map(|()| None),
            Err(_) => Ok(Some(entries)),
        }
    }

    fn apply_to(&self, mut inner: RwLockWriteGuard<'_, Inner>, entries: Vec<Item>) -> io::Result<()> {
        let mut effects = Effects::default();
        let mut replies = Vec::new();
        for (entry, responder) in entries {
            #[cfg(test)]
            let (before, id) = (inner.saved.applied, entry.log_id());
            let outcome = self.apply_entry(&mut inner, entry, &mut effects)?;
            #[cfg(test)]
            crate::sim::truth::applied(&self.spool, before, id, &outcome);
            replies.extend(responder.map(|responder| (responder, outcome)));
        }
        inner.saved.revision = inner.state.revision;
        inner.saved.compacted = inner.state.compacted;
        image::write(&self.engine, &effects, &inner.saved)?;
        let index = inner.saved.applied.map_or(0, |id| id.index);
        if !effects.removed_members.is_empty() {
            self.tell_removed(&inner.saved);
        }
        #[cfg(test)]
        crate::sim::truth::changed(&self.spool, &effects.commits);
        drop(inner);
        self.hub.publish(effects.commits);
        self.scrub(effects.removed);
        self.applied.send_replace(index);
        for (responder, outcome) in replies {
            responder.send(outcome);
        }
        Ok(())
    }

    fn tell_removed(&self, saved: &Saved) {
        *self.removed.write().unwrap_or_else(PoisonError::into_inner) = saved.removed.clone();
    }

    fn apply_entry(&self, inner: &mut Inner, entry: Entry, effects: &mut Effects) -> io::Result<Outcome> {
        let id = entry.log_id();
        let outcome = match entry.payload {
            EntryPayload::Normal(command) => {
                mvcc::apply(&mut inner.state, &Disk(&self.engine), &command, effects)?
            }
            EntryPayload::Membership(members) => {
                let membership = Membership::new(Some(id), members);
                let left: BTreeSet<u64> = membership.nodes().map(|(id, _)| *id).collect();
                let before = inner.saved.membership.nodes().map(|(id, _)| *id);
                let removed: Vec<u64> = before.filter(|id| !left.contains(id)).collect();
                for id in &removed {
                    inner.state.members.remove(id);
                    // Nobody else would take it back.
                    let alarm = Alarm { kind: AlarmKind::DiskFull, member: *id };
                    effects.alarms.extend(inner.state.alarms.remove(&alarm).then_some((alarm, false)));
                }
                inner.state.voters = membership.voter_ids().collect();
                effects.removed_members.extend(&removed);
                inner.saved.removed.extend(removed);
                inner.saved.membership = membership;
                Outcome { revision: inner.state.revision, result: Ok(Response::Done) }
            }
            EntryPayload::Blank => Outcome { revision: inner.state.revision, result: Ok(Response::Done) },
        };
        inner.saved.applied = Some(id);
        Ok(outcome)
    }

    /// Replaces everything by another member's state. Readers wait.
    pub(crate) fn install(&self, meta: &SnapshotMeta, data: SnapshotData) -> io::Result<()> {
        let file = snapshot::spool(data, &self.spool)?;
        let mut inner = self.write();
        let alone = self.removing.write().unwrap_or_else(PoisonError::into_inner);
        snapshot::install(&self.engine, meta, &file)?;
        drop(alone);
        let (state, saved) = image::load(&self.engine)?;
        let index = saved.applied.map_or(0, |id| id.index);
        *inner = Inner { state, saved };
        let garbage = {
            let compacted = inner.state.compacted;
            inner.state.index.compact(compacted)
        };
        let revision = inner.state.revision;
        self.tell_removed(&inner.saved);
        drop(inner);
        self.scrub(garbage);
        #[cfg(test)]
        crate::sim::truth::installed(&self.spool);
        if !mutant!(InstallsSilently) {
            self.hub.reset(revision);
        }
        self.applied.send_replace(index);
        Ok(())
    }

    /// Makes sure that everything applied is on the disk, so that the log before it may go.
    pub(crate) fn settle(&self) -> io::Result<Saved> {
        let saved = self.saved();
        let mut batch = self.engine.batch();
        batch.put(META, SNAPSHOT, &[])?;
        batch.write()?;
        if !mutant!(CutsUnsettled) {
            self.engine.sync()?;
        }
        Ok(saved)
    }

    /// Whether the log may have been cut: then another member may need the whole state.
    pub(crate) fn has_snapshot(&self) -> io::Result<bool> {
        Ok(self.engine.get(META, SNAPSHOT)?.is_some())
    }
}

/// Removes records in the order of their revisions: a key's deletion never goes before what it deleted, so a crash
/// in between brings no key back.
fn scrub_turn(engine: &Engine, removing: &RwLock<()>, Scrub { removed, done }: Scrub) -> ControlFlow<()> {
    for chunk in removed.chunks(SCRUB) {
        let alone = removing.write().unwrap_or_else(PoisonError::into_inner);
        let removed = image::remove(engine, chunk);
        drop(alone);
        if let Err(error) = removed {
            tracing::error!(%error, "compacted records cannot be removed; they go after a restart");
            return ControlFlow::Break(());
        }
    }
    // Nobody waiting any more is no reason to stop.
    done.map(|done| done.send(()));
    ControlFlow::Continue(())
}

#[cfg(test)]
#[path = "tests/storage.rs"]
mod tests;
