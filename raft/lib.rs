//! A replicated, revisioned key-value store that speaks the etcd v3 protocol. Knows bytes and revisions, never kinds.
//!
//! One member is [`run`] with etcd's [`Flags`]; clients in other crates use the stubs in [`etcd::pb`]. A request goes
//! `etcd/` (the wire) → `node.rs` (find the leader) → `local.rs` (propose) → openraft over `log.rs` and `network/`
//! → `machine.rs` (one thread, one atomic batch) → `mvcc.rs` (what it means, pure) → `watch.rs` (who hears of it).

mod applier;
mod archive;
pub mod backup;
mod cli;
mod codec;
mod command;
mod engine;
mod error;
pub mod etcd;
mod flags;
mod heads;
mod identity;
mod image;
mod index;
mod keys;
mod lease;
mod local;
mod log;
mod machine;
mod mark;
mod members;
mod metrics;
mod mvcc;
mod network;
mod node;
mod obituary;
mod pulse;
mod query;
mod record;
mod rejoin;
mod revision;
mod run;
#[cfg(test)]
mod sim;
mod snapshot;
mod space;
mod tail;
mod types;
mod values;
mod watch;
mod work;

pub use cli::{Cli, store};
pub use error::Error;
pub use flags::{FlagError, Flags};
pub use run::run;
