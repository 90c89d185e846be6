//! The store's latest revision, asked for once for all readers who came before the question was sent.

use crate::store::{Kv, KvResult, Range};
use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering},
};
use tokio::sync::Mutex;

pub(super) struct Fresh {
    kv: Arc<dyn Kv>,
    key: String,
    /// Number of readers so far.
    arrived: AtomicU64,
    /// The last answer, and how many readers had arrived before its question was sent.
    answered: Mutex<(u64, u64)>,
}

impl Fresh {
    pub(super) fn new(kv: Arc<dyn Kv>, key: String) -> Self {
        Fresh { kv, key, arrived: AtomicU64::new(0), answered: Mutex::new((0, 0)) }
    }

    /// A revision that is at least that of every write acknowledged before the call.
    pub(super) async fn revision(&self) -> KvResult<u64> {
        let ticket = self.arrived.fetch_add(1, Ordering::SeqCst) + 1;
        let mut answered = self.answered.lock().await;
        if answered.0 >= ticket {
            return Ok(answered.1);
        }
        let before = self.arrived.load(Ordering::SeqCst);
        let range = Range { key: self.key.clone(), count_only: true, ..Range::default() };
        let revision = self.kv.range(range).await?.revision;
        *answered = (before, revision);
        Ok(revision)
    }
}
