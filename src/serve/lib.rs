//! How every component listens: HTTPS with client certificates, graceful drain, health checks, metrics; and what
//! flags and configuration files have in common.
//!
//! Keeps true: a request that reaches a router carries the [`Peer`] it came from, and a certificate in it was
//! verified against the listener's client CA; a listener that is told to stop answers what it has begun; a
//! replaced certificate file is used by the next connection. Knows nothing of Kubernetes; who a peer may be and
//! what it may do is decided by its users.

pub mod flags;
pub mod health;
mod listen;
pub mod metrics;
mod peer;
pub mod pem;
mod tls;
mod unverified;

pub use listen::{http, https};
pub use peer::{Identity, Peer};
pub use tls::{ServerTls, Tls};
pub use unverified::unverified;

use std::path::PathBuf;

/// Why a listener could not be set up.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A PEM file is missing or unreadable.
    #[error("cannot read {what} file {}: check that it exists and that this user may read it", path.display())]
    Read {
        /// What the file should hold.
        what: &'static str,
        /// The file.
        path: PathBuf,
        /// The operating system's reason.
        source: std::io::Error,
    },
    /// A PEM file holds nothing usable.
    #[error("{} holds no usable {what}: expected PEM", path.display())]
    Parse {
        /// What the file should hold.
        what: &'static str,
        /// The file.
        path: PathBuf,
    },
    /// Certificate and key do not make a TLS configuration.
    #[error("cannot use certificate {} for TLS", path.display())]
    Tls {
        /// The certificate file.
        path: PathBuf,
        /// The TLS library's reason.
        source: rustls::Error,
    },
    /// The client CA cannot be used to verify clients.
    #[error("cannot verify clients with CA file {}", path.display())]
    ClientCa {
        /// The CA file.
        path: PathBuf,
        /// The TLS library's reason.
        source: rustls::server::VerifierBuilderError,
    },
    /// The listening socket failed.
    #[error("cannot accept connections on {address}")]
    Accept {
        /// Where the socket listens.
        address: String,
        /// The operating system's reason.
        source: std::io::Error,
    },
}
