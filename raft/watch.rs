//! The latest changes, for everybody who watches.
//!
//! Keeps true, for every watcher: changes come in the order of their revisions, each once, none left out while the
//! revision is not compacted, and a revision is never split. It holds because nobody is sent anything: a watcher
//! keeps the next revision it needs and takes what follows, from this ring of the newest changes or, when it has
//! fallen behind it, from the history on disk; there is no queue that could overflow. What a client asked to see
//! and how it is told is left to `etcd/watch.rs`.

use crate::{mvcc::Commit, work::mutant};
use std::{
    collections::VecDeque,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};
use tokio::sync::watch;

/// Bytes of changes kept in memory.
const RING_BYTES: usize = 4 << 20;
/// Bytes that a change costs besides its key and value.
const CHANGE_BYTES: usize = 200;
/// Commits handed out at a time.
const TAKE: usize = 1024;

/// The newest changes and the revision they lead to.
pub(crate) struct Hub {
    ring: Mutex<Ring>,
    revision: watch::Sender<i64>,
}

struct Ring {
    commits: VecDeque<Arc<Commit>>,
    bytes: usize,
    /// Every change from this revision on is in the ring.
    floor: i64,
}

impl Hub {
    /// For a store at a revision.
    pub(crate) fn new(revision: i64) -> Self {
        let ring = Ring { commits: VecDeque::new(), bytes: 0, floor: revision + 1 };
        Self { ring: Mutex::new(ring), revision: watch::Sender::new(revision) }
    }

    /// Adds changes; they follow those that are there.
    pub(crate) fn publish(&self, commits: Vec<Commit>) {
        let Some(revision) = commits.last().map(|commit| commit.revision) else { return };
        let mut ring = self.ring();
        for commit in commits {
            ring.push(Arc::new(commit));
        }
        drop(ring);
        self.revision.send_replace(revision);
    }

    /// The store was replaced by another member's, at this revision: what lies between is on disk only.
    pub(crate) fn reset(&self, revision: i64) {
        *self.ring() = Ring { commits: VecDeque::new(), bytes: 0, floor: revision + 1 };
        self.revision.send_replace(revision);
    }

    /// Follows the revision up to which changes can be taken.
    pub(crate) fn subscribe(&self) -> watch::Receiver<i64> {
        self.revision.subscribe()
    }

    /// The revision up to which changes can be taken.
    pub(crate) fn revision(&self) -> i64 {
        *self.revision.borrow()
    }

    /// Changes from a revision on, the oldest first, not necessarily all; `None` when the ring does not reach back
    /// so far.
    pub(crate) fn since(&self, revision: i64) -> Option<Vec<Arc<Commit>>> {
        let ring = self.ring();
        if revision < ring.floor && !mutant!(StarvedLosesEvents) {
            return None;
        }
        let skip = ring.commits.partition_point(|commit| commit.revision < revision);
        Some(ring.commits.iter().skip(skip).take(TAKE).cloned().collect())
    }

    fn ring(&self) -> MutexGuard<'_, Ring> {
        self.ring.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Ring {
    fn push(&mut self, commit: Arc<Commit>) {
        self.bytes += size(&commit);
        self.commits.push_back(commit);
        while self.bytes > RING_BYTES {
            let Some(oldest) = self.commits.pop_front() else { break };
            self.bytes -= size(&oldest);
            self.floor = oldest.revision + 1;
        }
    }
}

fn size(commit: &Commit) -> usize {
    commit.changes.iter().map(|change| change.kv.key.len() + change.kv.value.len() + CHANGE_BYTES).sum()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{command::KeyValue, mvcc::Change};

    fn commit(revision: i64, bytes: usize) -> Commit {
        let kv = KeyValue { value: vec![0; bytes].into(), modified: revision, ..KeyValue::default() };
        Commit { revision, changes: vec![Change { kv: Arc::new(kv), prev: None }] }
    }

    fn taken(hub: &Hub, from: i64) -> Option<Vec<i64>> {
        hub.since(from).map(|commits| commits.iter().map(|commit| commit.revision).collect())
    }

    #[test]
    fn the_ring_tells_when_it_does_not_reach_back() {
        let hub = Hub::new(5);
        assert_eq!(taken(&hub, 5), None);
        assert_eq!(taken(&hub, 6), Some(vec![]));
        hub.publish(vec![commit(6, 10), commit(7, 10)]);
        assert_eq!(taken(&hub, 6), Some(vec![6, 7]));
        assert_eq!(taken(&hub, 7), Some(vec![7]));
        assert_eq!(hub.revision(), 7);
        hub.publish(vec![commit(8, RING_BYTES - 500)]);
        assert_eq!(taken(&hub, 6), None);
        assert_eq!(taken(&hub, 8), Some(vec![8]));
        hub.reset(20);
        assert_eq!((taken(&hub, 20), taken(&hub, 21)), (None, Some(vec![])));
    }
}
