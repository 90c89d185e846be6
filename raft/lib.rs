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
pub mod etcd;
mod flags;
mod image;
mod index;
mod keys;
mod lease;
mod local;
mod log;
mod machine;
mod members;
mod metrics;
mod mvcc;
mod network;
mod node;
mod obituary;
mod query;
mod revision;
mod run;
mod snapshot;
mod types;
mod values;
mod watch;

pub use cli::{Cli, store};
pub use flags::{FlagError, Flags};
pub use run::{Error, run};
