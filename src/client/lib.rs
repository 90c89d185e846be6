//! How every component talks to the API server: a connection, informers, a work queue, leader election, events.
//!
//! Keeps true: everything a component knows of the cluster it learned through the API over TLS; what an
//! informer shows only moves forward; a component that lost an election writes nothing on the strength of it.
//! Leaves to others: what to decide (the components) and what is allowed (the API server).

mod clock;
mod connect;
mod elect;
mod events;
mod informer;
mod queue;

pub use clock::{Clock, Fake, System};
pub use connect::{Client, connect, in_cluster};
pub use elect::{ElectionConfig, Leadership, elect};
pub use events::{EventType, Recorder, reference};
pub use informer::{Change, Informer, NamespacedName};
pub use queue::{Backoff, WorkQueue};

/// The header by which a leader's writes are bound to its epoch: `NAMESPACE/NAME=N`.
pub const EPOCH_HEADER: &str = "trireme-epoch";

/// Why the API could not be reached or used.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The kubeconfig file is missing, unreadable or wrong.
    #[error("cannot use kubeconfig {path}: check that the file exists and names a cluster and a user")]
    Kubeconfig {
        /// The file.
        path: String,
        /// What is wrong with it.
        source: kube::config::KubeconfigError,
    },
    /// This process does not seem to run in a pod.
    #[error(
        "cannot find the in-cluster service account: is this a pod with automountServiceAccountToken? Otherwise give --kubeconfig"
    )]
    InCluster {
        /// What is missing.
        source: kube::config::InClusterError,
    },
    /// The connection's TLS or headers could not be set up.
    #[error("cannot set up a client of the API server")]
    Setup {
        /// The client library's reason.
        source: kube::Error,
    },
}
