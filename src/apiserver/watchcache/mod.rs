//! The watch cache: one store watch feeds every list, get and watch of this server.
//!
//! Guarantees, checked by the model test in `tests.rs`:
//! 1. A resource's state here is the store's state at some revision; it never goes back, also not over a lost
//!    connection or a compaction.
//! 2. A list says which revision it shows, and a watch from that revision delivers every later change of the
//!    resource exactly once, in revision order. After a compaction overtook this server the changes in between
//!    are merged into one per object, and watches that begin before it are refused as too old.
//! 3. A bookmark's revision is never ahead of what its watcher has been given.
//! 4. [`WatchCache::fresh`] returns only when every write acknowledged before the call is visible here.
//! 5. A watcher that does not read costs nothing but itself: it falls out of the history and is ended.
//!
//! An object's JSON with its resourceVersion is made once, when it arrives, and shared from then on. Who may
//! see what, and how it is presented, is left to the verbs.

mod entry;
mod feed;
mod fresh;
mod shard;
#[cfg(test)]
mod tests;

pub(crate) use entry::{Entry, Event, Kind, line};
pub(crate) use shard::{Cursor, Shard, TooOld};

use crate::store::{KeyValue, Kv, KvError};
use api::catalog::{Catalog, Resource};
use std::{
    collections::{BTreeMap, HashMap},
    sync::{Arc, PoisonError, RwLock},
    time::{Duration, Instant},
};
use tokio::sync::watch;

/// How long a read waits for the cache before it goes to the store itself.
const CATCH_UP: Duration = Duration::from_secs(3);
/// After so long a waiting read asks the store's watch to say where it is.
const NUDGE: Duration = Duration::from_millis(50);

/// The cache.
pub(crate) struct WatchCache {
    kv: Arc<dyn Kv>,
    /// The store prefix with a slash at its end.
    root: String,
    shards: RwLock<Topology>,
    /// Everything up to this revision is in the shards; 0 until the first list is in.
    applied: watch::Sender<u64>,
    fresh: fresh::Fresh,
    /// When the store last answered anything.
    seen: RwLock<Instant>,
}

#[derive(Default)]
struct Topology {
    shards: HashMap<String, Arc<Shard>>,
    /// Keys that belong to no known resource; a CRD that appears later claims its own from here.
    raw: BTreeMap<String, KeyValue>,
}

impl Topology {
    /// The shard of a key below the root, and the key's part behind the resource prefix.
    fn find<'k>(&self, key: &'k str) -> Option<(&Arc<Shard>, &'k str)> {
        let first = key.find('/')?;
        let second = key[first + 1..].find('/').map(|at| first + 1 + at);
        second.into_iter().chain([first]).find_map(|at| Some((self.shards.get(&key[..at])?, &key[at + 1..])))
    }
}

impl WatchCache {
    /// An empty cache for a catalog's resources; `feed` fills it.
    pub(crate) fn new(kv: Arc<dyn Kv>, prefix: &str, catalog: &Catalog) -> Arc<Self> {
        let cache = WatchCache {
            fresh: fresh::Fresh::new(kv.clone(), format!("{prefix}/trireme/none")),
            kv,
            root: format!("{prefix}/"),
            shards: RwLock::default(),
            applied: watch::Sender::new(0),
            seen: RwLock::new(Instant::now()),
        };
        cache.register(catalog);
        Arc::new(cache)
    }

    /// Adds the resources of a catalog that are not there yet (a CRD was made).
    pub(crate) fn register(&self, catalog: &Catalog) {
        let mut guard = self.shards.write().unwrap_or_else(PoisonError::into_inner);
        let topology = &mut *guard;
        let applied = *self.applied.borrow();
        for resource in crate::registry::stored(catalog) {
            let prefix = resource.prefix.trim_matches('/').to_string();
            if let Some(shard) = topology.shards.get(&prefix) {
                shard.set_resource(resource);
                continue;
            }
            let shard = Arc::new(Shard::new(resource, applied));
            let first = format!("{prefix}/");
            let mine: Vec<String> = topology
                .raw
                .range(first.clone()..)
                .take_while(|(k, _)| k.starts_with(&first))
                .map(|(k, _)| k.clone())
                .collect();
            for key in mine {
                if let Some(kv) = topology.raw.remove(&key) {
                    shard.seed(&key[first.len()..], &kv);
                }
            }
            topology.shards.insert(prefix, shard);
        }
    }

    /// The shard of a resource.
    pub(crate) fn shard(&self, r: &Resource) -> Option<Arc<Shard>> {
        let topology = self.shards.read().unwrap_or_else(PoisonError::into_inner);
        topology.shards.get(r.prefix.trim_matches('/')).cloned()
    }

    /// One object as it is here now.
    pub(crate) fn get(&self, r: &Resource, namespace: &str, name: &str) -> Option<Arc<Entry>> {
        self.shard(r)?.get(&crate::registry::suffix(r, namespace, name))
    }

    /// All objects of a namespace (empty: of all) as they are here now, in key order, and the revision this
    /// shows.
    pub(crate) fn list(&self, r: &Resource, namespace: &str) -> (Vec<Arc<Entry>>, u64) {
        // Read before the shard: everything up to here is certainly in it.
        let applied = *self.applied.borrow();
        let Some(shard) = self.shard(r) else { return (Vec::new(), applied) };
        let (entries, version) = shard.list(&crate::registry::namespace_prefix(r, namespace));
        (entries, applied.max(version))
    }

    /// Revision of the last change of a resource.
    pub(crate) fn version(&self, r: &Resource) -> u64 {
        self.shard(r).map_or(0, |shard| shard.version())
    }

    /// The revision up to which everything is here.
    pub(crate) fn applied(&self) -> u64 {
        *self.applied.borrow()
    }

    /// Follows [`WatchCache::applied`].
    pub(crate) fn follow(&self) -> watch::Receiver<u64> {
        self.applied.subscribe()
    }

    /// Waits until everything acknowledged before the call is here; the error says that the store could not be
    /// asked, or that the cache did not catch up in time: read from the store instead.
    pub(crate) async fn fresh(&self) -> Result<u64, KvError> {
        let revision = self.fresh.revision().await?;
        *self.seen.write().unwrap_or_else(PoisonError::into_inner) = Instant::now();
        match self.reach(revision).await {
            true => Ok(revision),
            false => Err(KvError::Unavailable(format!(
                "the watch cache has not reached revision {revision} in time"
            ))),
        }
    }

    /// Waits until a revision is here; `false` when that takes too long.
    pub(crate) async fn reach(&self, revision: u64) -> bool {
        let mut applied = self.applied.subscribe();
        let end = tokio::time::Instant::now() + CATCH_UP;
        loop {
            let wait = async { applied.wait_for(|at| *at >= revision).await.is_ok() };
            match tokio::time::timeout(NUDGE, wait).await {
                Ok(reached) => return reached,
                Err(_) if tokio::time::Instant::now() >= end => return false,
                Err(_) => self.kv.request_progress().await,
            }
        }
    }

    /// Time since the store last answered.
    pub(crate) fn silence(&self) -> Duration {
        self.seen.read().unwrap_or_else(PoisonError::into_inner).elapsed()
    }

    /// Asks the store for a sign of life, for the health check.
    pub(crate) async fn probe(&self) {
        if self.fresh.revision().await.is_ok() {
            *self.seen.write().unwrap_or_else(PoisonError::into_inner) = Instant::now();
        }
    }
}
