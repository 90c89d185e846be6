//! The API server: the only gateway to the store.
//!
//! It keeps no state of its own: everything it knows is in the store, its watch cache is a copy. Several run
//! side by side and a client may switch between them at any request: reads without a resourceVersion see every
//! write acknowledged before they began, on whichever server. It leaves what a kind *means* to `strategy`, who
//! may do what to `authn`, `authz` and `admission`, and bytes and revisions to the store.

pub mod store;

mod admission;
mod alloc;
mod authn;
mod authz;
mod body;
mod bootstrap;
mod chain;
mod crd;
mod discovery;
mod flags;
mod health;
mod masters;
mod metrics;
mod openapi;
mod registry;
mod request;
mod respond;
mod router;
mod run;
mod server;
mod strategy;
mod subresource;
mod table;
mod tunnel;
mod verbs;
mod watchcache;

pub use flags::{Config, Flags};
pub use run::{Error, run, run_on};
