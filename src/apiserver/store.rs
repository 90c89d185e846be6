//! The seam to the store: keys, revisions and bytes, as etcd v3 has them.
//!
//! What every implementation keeps true: a transaction is atomic and its compares are evaluated against the
//! latest state; a range without a revision is linearizable; a watch delivers every change after its start
//! revision once, in revision order, or ends with an error; a write whose outcome is unknown is reported as
//! [`KvError::Unknown`] and never sent again behind the caller's back. It leaves objects to `registry`.

mod etcd;
pub mod memory;
mod wire;

use bytes::Bytes;
use futures::stream::BoxStream;

pub use etcd::{Etcd, EtcdConfig, SetupError};

/// One key with its value, as stored.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct KeyValue {
    /// The full key.
    pub key: String,
    /// The bytes; empty when the range asked for keys only.
    pub value: Bytes,
    /// Revision at which the key was made.
    pub create_revision: u64,
    /// Revision of the last change.
    pub mod_revision: u64,
    /// Number of changes since it was made, from 1.
    pub version: u64,
    /// The store lease it hangs on, 0 for none.
    pub lease: i64,
}

/// A condition of a transaction.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Compare {
    /// The key's last change is exactly this revision; 0 means that the key does not exist.
    ModRevision {
        /// The key.
        key: String,
        /// The revision.
        revision: u64,
    },
    /// The key exists and has exactly this value.
    Value {
        /// The key.
        key: String,
        /// The bytes.
        value: Bytes,
    },
}

/// A step of a transaction.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Op {
    /// Writes a key.
    Put {
        /// The key.
        key: String,
        /// The bytes.
        value: Bytes,
        /// The store lease to hang it on, 0 for none.
        lease: i64,
    },
    /// Deletes a key; deleting an absent key changes nothing.
    Delete {
        /// The key.
        key: String,
    },
    /// Reads a key.
    Get {
        /// The key.
        key: String,
    },
}

/// A transaction: if all compares hold, `then`, otherwise `otherwise`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Txn {
    /// The conditions.
    pub compare: Vec<Compare>,
    /// Done when all hold.
    pub then: Vec<Op>,
    /// Done when one does not.
    pub otherwise: Vec<Op>,
}

/// Compares and operations that join an object's own transaction (allocations, epochs).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Extra {
    /// Must hold as well, or the whole write is tried again from the start.
    pub compare: Vec<Compare>,
    /// Done together with the object's write.
    pub then: Vec<Op>,
}

/// The answer to one [`Op`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum OpResult {
    /// A key was written.
    Put,
    /// So many keys were deleted (0 or 1).
    Delete(u64),
    /// What was read.
    Get(Option<KeyValue>),
}

/// The answer to a [`Txn`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Done {
    /// Whether all compares held.
    pub succeeded: bool,
    /// The store's revision after it.
    pub revision: u64,
    /// One result per operation of the branch that ran.
    pub results: Vec<OpResult>,
}

/// A read of one key or of a range of keys.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Range {
    /// The key, or the first key of the range.
    pub key: String,
    /// One past the last key; `None` reads the single key.
    pub end: Option<String>,
    /// At most so many, 0 for all.
    pub limit: u64,
    /// Read the state of this revision, 0 for the latest (linearizable).
    pub revision: u64,
    /// Only count.
    pub count_only: bool,
    /// Leave the values out.
    pub keys_only: bool,
}

/// The answer to a [`Range`].
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Page {
    /// The keys in order.
    pub kvs: Vec<KeyValue>,
    /// Whether the limit cut it off.
    pub more: bool,
    /// How many keys the whole range has.
    pub count: u64,
    /// The store's revision when it was read.
    pub revision: u64,
}

/// A change that a watch reports.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Event {
    /// `None` for a deletion, the new state otherwise.
    pub value: Option<KeyValue>,
    /// The key.
    pub key: String,
    /// Revision of the change.
    pub revision: u64,
}

/// What a watch says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Watched {
    /// Changes, in revision order; all changes of one revision are in one batch.
    Events(Vec<Event>),
    /// Everything up to this revision has been reported.
    Progress(u64),
}

/// A watch: ends after its first error.
pub type WatchStream = BoxStream<'static, Result<Watched, KvError>>;

/// Why the store did not do what was asked.
#[derive(Debug, thiserror::Error)]
pub enum KvError {
    /// Nothing was done; trying again later is safe.
    #[error("the store is not available: {0}")]
    Unavailable(String),
    /// A write was sent and its outcome is not known.
    #[error("the store did not say whether the write happened: {0}")]
    Unknown(String),
    /// The revision asked for is compacted; this is the oldest one left (0 when not said).
    #[error("the revision asked for has been compacted")]
    Compacted(u64),
    /// The revision asked for lies in the future.
    #[error("the revision asked for is not there yet")]
    Future,
    /// The store refused: a request it cannot take (too large, lease not found …).
    #[error("the store refused the request: {0}")]
    Refused(String),
}

/// Shorthand.
pub type KvResult<T> = Result<T, KvError>;

/// A store.
#[async_trait::async_trait]
pub trait Kv: Send + Sync + 'static {
    /// Reads.
    async fn range(&self, range: Range) -> KvResult<Page>;
    /// Writes atomically.
    async fn txn(&self, txn: Txn) -> KvResult<Done>;
    /// Watches all keys with a prefix, from a revision on (inclusive; 0: from now).
    async fn watch(&self, prefix: &str, from: u64) -> KvResult<WatchStream>;
    /// Asks running watches for a [`Watched::Progress`] soon. Best effort.
    async fn request_progress(&self);
    /// Makes a store lease that lives `ttl` seconds without a keep-alive.
    async fn lease_grant(&self, ttl: i64) -> KvResult<i64>;
    /// Renews a lease; returns the seconds it lives on, `Refused` when it is gone.
    async fn lease_keep_alive(&self, id: i64) -> KvResult<i64>;
    /// Ends a lease and deletes its keys.
    async fn lease_revoke(&self, id: i64) -> KvResult<()>;
    /// Forgets history before a revision.
    async fn compact(&self, revision: u64) -> KvResult<()>;
}

/// One past the last key that starts with the prefix.
pub fn prefix_end(prefix: &str) -> String {
    let mut end = prefix.to_string();
    // Keys are printable ASCII; the successor of the last character stays ASCII.
    match end.pop() {
        Some(last) => end.push(char::from_u32(last as u32 + 1).unwrap_or(char::MAX)),
        None => end.push(char::MAX),
    }
    end
}

/// Reads one key, linearizably.
pub async fn get(kv: &dyn Kv, key: &str) -> KvResult<(Option<KeyValue>, u64)> {
    let page = kv.range(Range { key: key.to_string(), ..Range::default() }).await?;
    Ok((page.kvs.into_iter().next(), page.revision))
}

impl From<KvError> for api::status::Status {
    fn from(error: KvError) -> Self {
        use api::status::Status;
        match error {
            KvError::Unavailable(why) => {
                Status::service_unavailable(format!("the store is not available: {why}"))
            }
            KvError::Unknown(_) => {
                Status::timeout("the store did not answer in time, the write may or may not have happened", 0)
            }
            KvError::Compacted(_) => Status::expired("The provided resource version is too old"),
            KvError::Future => Status::timeout("Too large resource version", 1),
            KvError::Refused(why) => Status::internal(format!("the store refused the request: {why}")),
        }
    }
}
