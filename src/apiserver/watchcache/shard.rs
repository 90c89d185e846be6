//! One resource in the cache: its objects, and a window of its latest changes that watches read from.

use super::entry::{Entry, Event};
use crate::store::{self, KeyValue};
use api::catalog::Resource;
use std::{
    collections::{BTreeMap, VecDeque},
    sync::{Arc, PoisonError, RwLock},
};
use tokio::sync::watch;

/// The window holds at most so many changes …
const MOST_EVENTS: usize = 10_000;
/// … and so many bytes of objects, but always the last [`FEWEST_EVENTS`].
const MOST_BYTES: usize = 16 << 20;
const FEWEST_EVENTS: usize = 256;

/// The revision asked for is older than the window; this is where it begins.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct TooOld(pub(crate) u64);

/// One resource.
pub(crate) struct Shard {
    state: RwLock<State>,
    /// Number of changes so far: wakes the watchers.
    signal: watch::Sender<u64>,
}

struct State {
    resource: Arc<Resource>,
    entries: BTreeMap<String, Arc<Entry>>,
    window: VecDeque<Arc<Event>>,
    /// Sequence number of the window's first change.
    first: u64,
    /// The window holds every change after this revision.
    start: u64,
    /// Revision of the last change.
    version: u64,
    bytes: usize,
}

impl Shard {
    pub(crate) fn new(resource: Arc<Resource>, start: u64) -> Self {
        let state = State {
            resource,
            entries: BTreeMap::new(),
            window: VecDeque::new(),
            first: 0,
            start,
            version: 0,
            bytes: 0,
        };
        Shard { state: RwLock::new(state), signal: watch::Sender::new(0) }
    }

    fn read(&self) -> std::sync::RwLockReadGuard<'_, State> {
        self.state.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> std::sync::RwLockWriteGuard<'_, State> {
        self.state.write().unwrap_or_else(PoisonError::into_inner)
    }

    /// A CRD changed.
    pub(crate) fn set_resource(&self, resource: Arc<Resource>) {
        self.write().resource = resource;
    }

    pub(crate) fn get(&self, suffix: &str) -> Option<Arc<Entry>> {
        self.read().entries.get(suffix).cloned()
    }

    /// The objects below a prefix, and the revision of the last change.
    pub(crate) fn list(&self, prefix: &str) -> (Vec<Arc<Entry>>, u64) {
        let state = self.read();
        (state.below(prefix), state.version)
    }

    pub(crate) fn version(&self) -> u64 {
        self.read().version
    }

    /// Takes an object over without an event (first list, late registration).
    pub(super) fn seed(&self, suffix: &str, kv: &KeyValue) {
        let mut state = self.write();
        let entry = Arc::new(Entry::new(&state.resource, suffix, kv));
        state.version = state.version.max(kv.mod_revision);
        state.entries.insert(suffix.to_string(), entry);
    }

    /// Applies changes in revision order; those that are known already are skipped.
    pub(super) fn apply(&self, changes: &[(&str, &store::Event)]) {
        let mut state = self.write();
        for (suffix, change) in changes {
            state.apply(suffix, change);
        }
        state.trim();
        let count = state.first + state.window.len() as u64;
        drop(state);
        self.signal.send_replace(count);
    }

    /// Takes over a complete list read at `revision`: what differs becomes changes, and the window begins anew
    /// for whoever asks for an older revision.
    pub(super) fn reset(&self, list: &BTreeMap<String, KeyValue>, revision: u64) {
        let mut state = self.write();
        state.reset(list, revision);
        let count = state.first + state.window.len() as u64;
        drop(state);
        self.signal.send_replace(count);
    }

    /// A reader of the changes after a revision.
    pub(crate) fn since(self: &Arc<Self>, revision: u64) -> Result<Cursor, TooOld> {
        let state = self.read();
        if revision < state.start {
            return Err(TooOld(state.start));
        }
        let skip = state.window.partition_point(|event| event.revision <= revision) as u64;
        Ok(self.cursor(state.first + skip))
    }

    /// The state now, its revision, and a reader of everything after it.
    pub(crate) fn snapshot(self: &Arc<Self>, prefix: &str) -> (Vec<Arc<Entry>>, u64, Cursor) {
        let state = self.read();
        (state.below(prefix), state.version, self.cursor(state.first + state.window.len() as u64))
    }

    fn cursor(self: &Arc<Self>, next: u64) -> Cursor {
        Cursor { shard: self.clone(), next, signal: self.signal.subscribe() }
    }
}

impl State {
    fn below(&self, prefix: &str) -> Vec<Arc<Entry>> {
        match prefix.is_empty() {
            true => self.entries.values().cloned().collect(),
            false => {
                let range = self.entries.range(prefix.to_string()..);
                range.take_while(|(key, _)| key.starts_with(prefix)).map(|(_, entry)| entry.clone()).collect()
            }
        }
    }

    fn apply(&mut self, suffix: &str, change: &store::Event) {
        let known = self.entries.get(suffix).map_or(0, |entry| entry.revision);
        if change.revision <= known || change.revision < self.version {
            return;
        }
        match &change.value {
            Some(kv) => {
                let new = Arc::new(Entry::new(&self.resource, suffix, kv));
                let old = self.entries.insert(suffix.to_string(), new.clone());
                self.push(Event::new(change.revision, old, Some(new)));
            }
            None => {
                if let Some(old) = self.entries.remove(suffix) {
                    self.push(Event::new(change.revision, Some(old), None));
                }
            }
        }
    }

    fn push(&mut self, event: Event) {
        self.version = self.version.max(event.revision);
        self.bytes += weight(&event);
        self.window.push_back(Arc::new(event));
    }

    fn trim(&mut self) {
        while self.window.len() > MOST_EVENTS
            || (self.bytes > MOST_BYTES && self.window.len() > FEWEST_EVENTS)
        {
            self.drop_first();
        }
    }

    fn drop_first(&mut self) {
        if let Some(event) = self.window.pop_front() {
            self.bytes -= weight(&event);
            self.start = event.revision;
            self.first += 1;
        }
    }

    fn reset(&mut self, list: &BTreeMap<String, KeyValue>, revision: u64) {
        let mut events = Vec::new();
        for suffix in self.entries.keys().filter(|suffix| !list.contains_key(*suffix)) {
            events.push(gone(suffix, revision));
        }
        for (suffix, kv) in list {
            let known = self.entries.get(suffix);
            if known.is_some_and(|entry| entry.revision == kv.mod_revision) {
                continue;
            }
            if known.is_some_and(|entry| entry.revision < kv.create_revision) {
                events.push(gone(suffix, kv.create_revision - 1));
            }
            let value = Some(kv.clone());
            events.push(store::Event { value, key: suffix.clone(), revision: kv.mod_revision });
        }
        events.sort_by_key(|event| event.revision);
        for event in &events {
            self.apply(&event.key, event);
        }
        self.trim();
        self.start = revision;
    }
}

fn gone(suffix: &str, revision: u64) -> store::Event {
    store::Event { value: None, key: suffix.to_string(), revision }
}

fn weight(event: &Event) -> usize {
    event.new.as_ref().or(event.old.as_ref()).map_or(0, |entry| entry.bytes.len()) + 200
}

/// Where one watcher is in a resource's changes.
pub(crate) struct Cursor {
    shard: Arc<Shard>,
    next: u64,
    signal: watch::Receiver<u64>,
}

impl Cursor {
    /// The next changes, at most `most`; empty when there are none yet.
    pub(crate) fn read(&mut self, most: usize) -> Result<Vec<Arc<Event>>, TooOld> {
        self.signal.mark_unchanged();
        let state = self.shard.read();
        let Some(skip) = self.next.checked_sub(state.first) else { return Err(TooOld(state.start)) };
        let events: Vec<_> = state.window.iter().skip(skip as usize).take(most).cloned().collect();
        self.next += events.len() as u64;
        Ok(events)
    }

    /// Waits until there may be more; never again when the cache is gone.
    pub(crate) async fn wait(&mut self) {
        if self.signal.changed().await.is_err() {
            std::future::pending::<()>().await;
        }
    }
}
