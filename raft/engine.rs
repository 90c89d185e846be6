//! Where bytes rest: databases with named parts.
//!
//! Keeps true: a batch is written whole or not at all; what was synced survives a power cut, what was not is lost
//! from its end. The log's database is written by `log.rs` only and synced before anything is acknowledged. The
//! state's loses its newest batches when the process ends without closing it, because the log can repeat them; it is
//! synced before the log is cut. What the bytes mean is left to the callers. Programs use RocksDB and nothing else; tests may have a memory that fails like a disk.

#[cfg(test)]
mod either;
#[cfg(test)]
pub(crate) mod memory;
mod rocksdb;

#[cfg(test)]
pub(crate) use either::{Batch, Engine};
#[cfg(not(test))]
pub(crate) use rocksdb::{Batch, Engine};

/// Kept by whatever must be closed before the process may end. The last to let go of it ends the wait of who made it.
pub(crate) type Open = tokio::sync::mpsc::Sender<std::convert::Infallible>;

/// What a database is for.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Use {
    /// The log: what is written is in the file, and safe, once it is synced.
    Log,
    /// The state: what is written is safe at some time, and at the latest once it is synced.
    State,
}

/// One part of a database.
pub(crate) type Part = &'static str;
