//! Service rules in the kernel: nftables from Services and EndpointSlices, and the routes that pods need.
//!
//! ```text
//! informers ─► rules::plan ─► Ruleset ─► nft: one transaction ─► conntrack: stale UDP ─► routes
//! ```
//!
//! Keeps true: a connection to a service reaches a ready endpoint or is refused; an endpoint that is gone gets no
//! new connection once its slice has changed; the rules change atomically and stay when the program ends. Leaves
//! to others: which pods are endpoints (controllers), pods' own interfaces (CNI), network policy.

mod conntrack;
mod driver;
mod endpoints;
mod flags;
mod health;
mod nft;
mod routes;
mod rules;
mod ruleset;

use std::net::SocketAddr;

use axum::Router;
use prometheus_client::registry::Registry;
use tokio::net::TcpListener;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

pub use crate::conntrack::clean;
pub use crate::endpoints::NodeView;
pub use crate::flags::{Config, Flags};
pub use crate::nft::{Applied, Kernel};
pub use crate::routes::sync as sync_routes;
pub use crate::rules::{Options, plan};
pub use crate::ruleset::{Ruleset, TABLE, Udp};

/// Why the proxy could not start or go on.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A flag or the configuration file is wrong.
    #[error(transparent)]
    Config(#[from] serve::flags::ConfigError),
    /// A port is not to be had.
    #[error(
        "cannot listen on {address}: is another kube-proxy running here? Choose another address with {flag}"
    )]
    Listen {
        /// The address.
        address: SocketAddr,
        /// The flag that sets it.
        flag: &'static str,
        /// The operating system's reason.
        source: std::io::Error,
    },
    /// The API cannot be reached at all.
    #[error("cannot use the API server")]
    Client {
        /// The reason.
        source: client::Error,
    },
    /// `nft` cannot be run.
    #[error("cannot run nft: install the package nftables")]
    Nft {
        /// The operating system's reason.
        source: std::io::Error,
    },
    /// `ip` cannot be run.
    #[error("cannot run ip: install the package iproute2")]
    Ip {
        /// The operating system's reason.
        source: std::io::Error,
    },
    /// The kernel or a tool refused what was asked.
    #[error("refused: {message}")]
    Refused {
        /// What the tool said.
        message: String,
    },
}

/// Runs the proxy until `stop`; the rules stay. With `--cleanup`, removes them and returns.
pub async fn run(flags: Flags, stop: CancellationToken) -> Result<(), Error> {
    let config = Config::new(flags)?;
    if config.cleanup {
        nft::cleanup().await?;
        return routes::cleanup().await;
    }
    let why = "the API server is reached with it";
    let missing = || serve::flags::invalid("--kubeconfig is required", why);
    let path = config.kubeconfig.clone().ok_or_else(missing)?;
    let client = client::connect(&path, "kube-proxy").await.map_err(|source| Error::Client { source })?;
    let mut registry = Registry::default();
    let (health, metrics) = (health::Health::new(), health::Metrics::new(&mut registry));
    let mut tasks = JoinSet::new();
    listen(config.healthz, "--healthz-bind-address", health.router(), &mut tasks).await?;
    listen(config.metrics, "--metrics-bind-address", health::metrics_router(registry), &mut tasks).await?;
    let driver = driver::Driver::new(config, &client, &mut tasks, health, metrics);
    stop.run_until_cancelled(driver.run()).await;
    tasks.shutdown().await;
    Ok(())
}

async fn listen(
    address: Option<SocketAddr>,
    flag: &'static str,
    router: Router,
    tasks: &mut JoinSet<()>,
) -> Result<(), Error> {
    let Some(address) = address else { return Ok(()) };
    let listener =
        TcpListener::bind(address).await.map_err(|source| Error::Listen { address, flag, source })?;
    tasks.spawn(async move {
        if let Err(error) = serve::http(listener, router, CancellationToken::new()).await {
            tracing::error!(error = &error as &dyn std::error::Error, "stopped serving");
        }
    });
    Ok(())
}
