//! The sandbox: a whole cluster on one machine, every host a network namespace, and the faults to try on it.
//!
//! Keeps true: no packet of the cluster can reach the machine's own interfaces (the hosts are joined by a bridge
//! in a namespace of its own that has no way out); only processes that belong to the sandbox are ever signalled
//! (they are recognised by namespace, control group or command line, never by a remembered number alone); `up`
//! and `down` can be run again after any crash and finish the work.
//! Leaves to others: building the binary and installing packages (`deploy/up`), everything inside the cluster.

pub mod api;
mod cgroups;
mod command;
mod component;
mod containerd;
mod error;
pub mod faults;
mod haproxy;
pub mod history;
pub mod images;
pub mod invariants;
pub mod isolated;
mod layout;
pub mod members;
mod mounts;
mod namespace;
mod network;
mod process;
mod sandbox;
mod steps;
pub mod workload;
mod writer;

pub use command::{Output, output};
pub use component::names as component_names;
pub use error::Error;
pub use layout::{Host, Role, Spec};
pub use sandbox::{Options, Sandbox, State, Status};
pub use steps::{Say, Steps};
pub use writer::{Written, writing};

/// `Result` with this crate's error.
pub type Result<T> = std::result::Result<T, Error>;
