//! Where bytes rest: databases with named parts.
//!
//! Keeps true: a batch is written whole or not at all; what was synced survives a power cut, what was not is lost
//! from its end. The log's database is written by `log.rs` only and synced before anything is acknowledged; the
//! state's is never synced by itself, because the log can repeat it, except before the log is cut. What the bytes
//! mean is left to the callers. Programs use RocksDB and nothing else; tests may have a memory that fails like a disk.

#[cfg(test)]
mod either;
#[cfg(test)]
pub(crate) mod memory;
mod rocksdb;

#[cfg(test)]
pub(crate) use either::{Batch, Engine, View};
#[cfg(not(test))]
pub(crate) use rocksdb::{Batch, Engine, View};

/// Kept by whatever must be closed before the process may end. The last to let go of it ends the wait of who made it.
pub(crate) type Open = tokio::sync::mpsc::Sender<std::convert::Infallible>;

/// One part of a database.
pub(crate) type Part = &'static str;
