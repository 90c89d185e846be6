//! A store in memory, for tests: the same semantics as etcd's, history and compaction included. Nothing is
//! kept when the process ends.
//!
//! Leases expire when anything is done with the store after their time.

use super::{
    Compare, Done, Event, KeyValue, Kv, KvError, KvResult, Op, OpResult, Page, Range, Txn, WatchStream,
    Watched,
};
use futures::StreamExt;
use std::{
    collections::{BTreeMap, HashMap},
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};
use tokio::{
    sync::mpsc::{UnboundedSender, unbounded_channel},
    time::Instant,
};
use tokio_stream::wrappers::UnboundedReceiverStream;

/// The store.
pub struct Memory {
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    revision: u64,
    compacted: u64,
    /// Per key every state it ever had, oldest first; a deletion is a state without a value.
    keys: BTreeMap<String, Vec<(u64, Option<KeyValue>)>>,
    log: Vec<Event>,
    watchers: Vec<Watcher>,
    leases: HashMap<i64, Lease>,
    next_lease: i64,
}

struct Watcher {
    prefix: String,
    sender: UnboundedSender<KvResult<Watched>>,
}

struct Lease {
    ttl: i64,
    until: Instant,
}

impl Default for Memory {
    fn default() -> Self {
        Self::new()
    }
}

impl Memory {
    /// An empty store at revision 1, as etcd starts.
    #[must_use]
    pub fn new() -> Self {
        Memory { state: Mutex::new(State { revision: 1, next_lease: 1, ..State::default() }) }
    }

    /// Ends all watches as a lost connection would.
    pub fn break_watches(&self) {
        for watcher in self.lock().watchers.drain(..) {
            let _ = watcher.sender.send(Err(KvError::Unavailable("the connection was lost".into())));
        }
    }

    /// The present revision.
    pub fn revision(&self) -> u64 {
        self.lock().revision
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.expire();
        state
    }
}

impl State {
    fn at(&self, key: &str, revision: u64) -> Option<&KeyValue> {
        let history = self.keys.get(key)?;
        history.iter().rev().find(|(at, _)| *at <= revision).and_then(|(_, value)| value.as_ref())
    }

    fn holds(&self, compare: &Compare) -> bool {
        match compare {
            Compare::ModRevision { key, revision } => {
                self.at(key, self.revision).map_or(0, |kv| kv.mod_revision) == *revision
            }
            Compare::Value { key, value } => self.at(key, self.revision).is_some_and(|kv| kv.value == *value),
        }
    }

    fn expire(&mut self) {
        let now = Instant::now();
        let dead: Vec<i64> = self.leases.iter().filter(|(_, l)| l.until <= now).map(|(id, _)| *id).collect();
        for id in dead {
            self.revoke(id);
        }
    }

    fn revoke(&mut self, id: i64) {
        self.leases.remove(&id);
        let newest = |history: &Vec<(u64, Option<KeyValue>)>| history.last().and_then(|(_, kv)| kv.clone());
        let keys: Vec<String> =
            self.keys.values().filter_map(newest).filter(|kv| kv.lease == id).map(|kv| kv.key).collect();
        self.apply(&keys.into_iter().map(|key| Op::Delete { key }).collect::<Vec<_>>());
    }

    fn apply(&mut self, ops: &[Op]) -> Vec<OpResult> {
        let revision = self.revision + 1;
        let mut events = Vec::new();
        let results = ops.iter().map(|op| self.step(op, revision, &mut events)).collect();
        if !events.is_empty() {
            self.revision = revision;
            self.watchers.retain(|watcher| watcher.tell(&events));
            self.log.extend(events);
        }
        results
    }

    fn step(&mut self, op: &Op, revision: u64, events: &mut Vec<Event>) -> OpResult {
        match op {
            Op::Get { key } => OpResult::Get(self.at(key, revision).cloned()),
            Op::Put { key, value, lease } => {
                let old = self.at(key, revision);
                let kv = KeyValue {
                    key: key.clone(),
                    value: value.clone(),
                    create_revision: old.map_or(revision, |kv| kv.create_revision),
                    mod_revision: revision,
                    version: old.map_or(1, |kv| kv.version + 1),
                    lease: *lease,
                };
                self.record(key, revision, Some(kv), events);
                OpResult::Put
            }
            Op::Delete { key } if self.at(key, revision).is_some() => {
                self.record(key, revision, None, events);
                OpResult::Delete(1)
            }
            Op::Delete { .. } => OpResult::Delete(0),
        }
    }

    fn record(&mut self, key: &str, revision: u64, value: Option<KeyValue>, events: &mut Vec<Event>) {
        self.keys.entry(key.to_string()).or_default().push((revision, value.clone()));
        events.push(Event { value, key: key.to_string(), revision });
    }
}

impl Watcher {
    fn tell(&self, events: &[Event]) -> bool {
        let wanted: Vec<Event> = events.iter().filter(|e| e.key.starts_with(&self.prefix)).cloned().collect();
        match wanted.is_empty() {
            true => !self.sender.is_closed(),
            false => self.sender.send(Ok(Watched::Events(wanted))).is_ok(),
        }
    }
}

#[async_trait::async_trait]
impl Kv for Memory {
    async fn range(&self, range: Range) -> KvResult<Page> {
        let state = self.lock();
        let revision = if range.revision == 0 { state.revision } else { range.revision };
        if revision > state.revision {
            return Err(KvError::Future);
        }
        if revision < state.compacted {
            return Err(KvError::Compacted(state.compacted));
        }
        let end = range.end.clone().unwrap_or_else(|| format!("{}\0", range.key));
        let all: Vec<&KeyValue> = match range.key < end {
            true => state.keys.range(range.key..end).filter_map(|(key, _)| state.at(key, revision)).collect(),
            false => Vec::new(),
        };
        let limit = if range.limit == 0 { usize::MAX } else { range.limit as usize };
        let mut kvs: Vec<KeyValue> = match range.count_only {
            true => Vec::new(),
            false => all.iter().take(limit).map(|kv| (*kv).clone()).collect(),
        };
        if range.keys_only {
            kvs.iter_mut().for_each(|kv| kv.value.clear());
        }
        let more = !range.count_only && kvs.len() < all.len();
        Ok(Page { kvs, more, count: all.len() as u64, revision: state.revision })
    }

    async fn txn(&self, txn: Txn) -> KvResult<Done> {
        let mut state = self.lock();
        let succeeded = txn.compare.iter().all(|compare| state.holds(compare));
        let ops = if succeeded { &txn.then } else { &txn.otherwise };
        let unknown = |op: &&Op| matches!(op, Op::Put { lease, .. } if *lease != 0 && !state.leases.contains_key(lease));
        if ops.iter().any(|op| unknown(&op)) {
            return Err(KvError::Refused("etcdserver: requested lease not found".into()));
        }
        let results = state.apply(ops);
        Ok(Done { succeeded, revision: state.revision, results })
    }

    async fn watch(&self, prefix: &str, from: u64) -> KvResult<WatchStream> {
        let mut state = self.lock();
        if from != 0 && from <= state.compacted {
            return Err(KvError::Compacted(state.compacted));
        }
        let (sender, receiver) = unbounded_channel();
        let watcher = Watcher { prefix: prefix.to_string(), sender };
        if from != 0 {
            let missed: Vec<Event> = state.log.iter().filter(|e| e.revision >= from).cloned().collect();
            for batch in missed.chunk_by(|a, b| a.revision == b.revision) {
                watcher.tell(batch);
            }
        }
        state.watchers.push(watcher);
        Ok(UnboundedReceiverStream::new(receiver).boxed())
    }

    async fn request_progress(&self) {
        let state = self.lock();
        for watcher in &state.watchers {
            let _ = watcher.sender.send(Ok(Watched::Progress(state.revision)));
        }
    }

    async fn lease_grant(&self, ttl: i64) -> KvResult<i64> {
        let mut state = self.lock();
        state.next_lease += 1;
        let id = state.next_lease;
        let until = Instant::now() + Duration::from_secs(ttl.max(1) as u64);
        state.leases.insert(id, Lease { ttl: ttl.max(1), until });
        Ok(id)
    }

    async fn lease_keep_alive(&self, id: i64) -> KvResult<i64> {
        let mut state = self.lock();
        let lease = state.leases.get_mut(&id);
        let lease = lease.ok_or_else(|| KvError::Refused("etcdserver: requested lease not found".into()))?;
        lease.until = Instant::now() + Duration::from_secs(lease.ttl as u64);
        Ok(lease.ttl)
    }

    async fn lease_revoke(&self, id: i64) -> KvResult<()> {
        self.lock().revoke(id);
        Ok(())
    }

    async fn compact(&self, revision: u64) -> KvResult<()> {
        let mut state = self.lock();
        if revision > state.revision {
            return Err(KvError::Future);
        }
        state.compacted = state.compacted.max(revision);
        state.log.retain(|event| event.revision > revision);
        state.keys.retain(|_, history| {
            let keep = history.iter().rposition(|(at, _)| *at <= revision).unwrap_or(0);
            history.drain(..keep);
            !matches!(history.as_slice(), [(at, None)] if *at <= revision)
        });
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use bytes::Bytes;

    fn put(key: &str, value: &'static str) -> Txn {
        let op = Op::Put { key: key.into(), value: Bytes::from_static(value.as_bytes()), lease: 0 };
        Txn { then: vec![op], ..Txn::default() }
    }

    #[tokio::test]
    async fn history_and_compaction() {
        let kv = Memory::new();
        for value in ["1", "2"] {
            kv.txn(put("/a", value)).await.unwrap();
        }
        kv.txn(Txn { then: vec![Op::Delete { key: "/a".into() }], ..Txn::default() }).await.unwrap();
        let at = async |revision| {
            let range = Range { key: "/a".into(), revision, ..Range::default() };
            kv.range(range).await.map(|p| p.kvs.first().map(|kv| kv.value.clone()))
        };
        assert_eq!(at(2).await.unwrap(), Some(Bytes::from("1")));
        assert_eq!(at(3).await.unwrap(), Some(Bytes::from("2")));
        assert_eq!(at(0).await.unwrap(), None);
        kv.compact(3).await.unwrap();
        assert!(matches!(at(2).await, Err(KvError::Compacted(3))));
        assert_eq!(at(3).await.unwrap(), Some(Bytes::from("2")));
        assert!(matches!(kv.watch("/", 3).await, Err(KvError::Compacted(3))));
        let mut watch = kv.watch("/", 4).await.unwrap();
        let expect = vec![Event { value: None, key: "/a".into(), revision: 4 }];
        assert_eq!(watch.next().await.unwrap().unwrap(), Watched::Events(expect));
    }
}
