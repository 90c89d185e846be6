//! Keeps the cache fed: lists once, then follows the store's watch; resumes behind the last revision after a
//! lost connection, and lists again only when that revision is compacted.

use super::{Topology, WatchCache};
use crate::store::{self, KeyValue, KvError, KvResult, Range, Watched, prefix_end};
use futures::StreamExt;
use std::{
    collections::{BTreeMap, HashMap},
    sync::{Arc, PoisonError},
    time::{Duration, Instant},
};
use tokio_util::sync::CancellationToken;

/// Keys per request of the first list.
const PAGE: u64 = 1000;
const FIRST_PAUSE: Duration = Duration::from_millis(20);
const LONGEST_PAUSE: Duration = Duration::from_secs(1);

/// The changes of one resource, each with its key behind the resource prefix.
type Group<'a> = (&'a Arc<super::Shard>, Vec<(&'a str, &'a store::Event)>);

impl WatchCache {
    /// Runs until `stop`.
    pub(crate) async fn feed(self: Arc<Self>, stop: CancellationToken) {
        stop.run_until_cancelled(async {
            let mut pause = FIRST_PAUSE;
            let mut listed = false;
            loop {
                let before = self.applied();
                let error = match self.follow_store(&mut listed).await {
                    Ok(()) => KvError::Unavailable("the watch ended".into()),
                    Err(error) => error,
                };
                tracing::info!(%error, revision = self.applied(), "the store's watch is lost, resuming");
                listed &= !matches!(error, KvError::Compacted(_) | KvError::Future);
                pause = if self.applied() > before { FIRST_PAUSE } else { (pause * 2).min(LONGEST_PAUSE) };
                tokio::time::sleep(pause.mul_f64(0.5 + rand::random::<f64>() / 2.0)).await;
            }
        })
        .await;
    }

    async fn follow_store(&self, listed: &mut bool) -> KvResult<()> {
        if !*listed {
            self.relist().await?;
            *listed = true;
        }
        let mut watch = self.kv.watch(&self.root, self.applied() + 1).await?;
        while let Some(said) = watch.next().await {
            match said? {
                Watched::Events(events) => self.apply(&events),
                Watched::Progress(revision) => self.advance(revision),
            }
            *self.seen.write().unwrap_or_else(PoisonError::into_inner) = Instant::now();
        }
        Ok(())
    }

    fn advance(&self, revision: u64) {
        self.applied.send_if_modified(|at| {
            let newer = revision > *at;
            *at = revision.max(*at);
            newer
        });
    }

    fn apply(&self, events: &[store::Event]) {
        let guard = self.shards.read().unwrap_or_else(PoisonError::into_inner);
        let mut strangers = Vec::new();
        let mut groups: Vec<Group<'_>> = Vec::new();
        for event in events {
            let Some(key) = event.key.strip_prefix(&self.root) else { continue };
            match guard.find(key) {
                None => strangers.push((key.to_string(), event)),
                Some((shard, suffix)) => match groups.iter_mut().find(|(s, _)| Arc::ptr_eq(s, shard)) {
                    Some((_, list)) => list.push((suffix, event)),
                    None => groups.push((shard, vec![(suffix, event)])),
                },
            }
        }
        for (shard, changes) in groups {
            shard.apply(&changes);
        }
        drop(guard);
        self.keep(strangers);
        if let Some(last) = events.last() {
            self.advance(last.revision);
        }
    }

    fn keep(&self, strangers: Vec<(String, &store::Event)>) {
        if strangers.is_empty() {
            return;
        }
        let mut topology = self.shards.write().unwrap_or_else(PoisonError::into_inner);
        for (key, event) in strangers {
            topology.place(key, event);
        }
    }

    async fn relist(&self) -> KvResult<()> {
        let mut keys = Vec::new();
        let mut range = Range {
            key: self.root.clone(),
            end: Some(prefix_end(&self.root)),
            limit: PAGE,
            ..Range::default()
        };
        loop {
            let page = self.kv.range(range.clone()).await?;
            if range.revision == 0 {
                range.revision = page.revision;
            }
            if let Some(last) = page.kvs.last() {
                range.key = format!("{}\0", last.key);
            }
            keys.extend(page.kvs);
            if !page.more {
                break;
            }
        }
        self.replace(keys, range.revision);
        self.advance(range.revision);
        Ok(())
    }

    fn replace(&self, keys: Vec<KeyValue>, revision: u64) {
        let mut topology = self.shards.write().unwrap_or_else(PoisonError::into_inner);
        let mut lists: HashMap<String, BTreeMap<String, KeyValue>> = HashMap::new();
        topology.raw.clear();
        for kv in keys {
            let Some(key) = kv.key.strip_prefix(&self.root).map(str::to_string) else { continue };
            match topology.find(&key).map(|(_, suffix)| suffix.len()) {
                None => drop(topology.raw.insert(key, kv)),
                Some(len) => {
                    let at = key.len() - len;
                    lists.entry(key[..at - 1].to_string()).or_default().insert(key[at..].to_string(), kv);
                }
            }
        }
        for (prefix, shard) in &topology.shards {
            shard.reset(lists.get(prefix).unwrap_or(&BTreeMap::new()), revision);
        }
    }
}

impl Topology {
    /// Keeps a key that had no shard when it was looked up; one may have been registered since.
    fn place(&mut self, key: String, event: &store::Event) {
        if let Some((shard, suffix)) = self.find(&key) {
            shard.apply(&[(suffix, event)]);
            return;
        }
        match &event.value {
            Some(kv) => drop(self.raw.insert(key, kv.clone())),
            None => drop(self.raw.remove(&key)),
        }
    }
}
