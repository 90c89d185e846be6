//! The scheduler: which node a pod runs on.
//!
//! ```text
//! informers ─► State { Snapshot, Queue } ─► cycle::decide ─► Driver: bind │ report │ preempt
//! ```
//!
//! Keeps true: no node is promised more than it has; a pod is never lost between queue, assumption and binding;
//! only the elected leader writes, through a client that is fenced by its epoch; a standby is as warm as the
//! leader. Leaves to others: starting pods (the kubelet) and what a binding means (the API server).

mod cycle;
mod driver;
mod event;
mod flags;
mod metrics;
mod plugins;
mod pod;
mod preempt;
mod queue;
mod resources;
mod selector;
mod serving;
mod snapshot;
mod state;
#[cfg(test)]
mod testing;

use std::net::SocketAddr;
use std::sync::Arc;

use client::Recorder;
use prometheus_client::registry::Registry;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

pub use crate::cycle::{Decision, Diagnosis, Options, decide};
pub use crate::event::Event;
pub use crate::flags::{Config, Flags};
pub use crate::pod::{HostPort, PodInfo};
pub use crate::preempt::{Plan, preempt};
pub use crate::queue::{Lengths, Queue};
pub use crate::resources::Resources;
pub use crate::snapshot::{NodeInfo, Snapshot};

/// Why the scheduler could not start or go on.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A flag or the configuration file is wrong.
    #[error(transparent)]
    Config(#[from] serve::flags::ConfigError),
    /// The port for health and metrics is not to be had.
    #[error("cannot listen on {address}: is another scheduler running here? Choose another --secure-port")]
    Listen {
        /// The address.
        address: SocketAddr,
        /// The operating system's reason.
        source: std::io::Error,
    },
    /// No certificate was given and none could be made.
    #[error("cannot make a self-signed serving certificate: give --tls-cert-file and --tls-private-key-file")]
    SelfSigned {
        /// The reason.
        source: std::io::Error,
    },
    /// The serving certificate or client CA is not usable.
    #[error("cannot serve health and metrics")]
    Serve {
        /// The reason.
        source: serve::Error,
    },
    /// The API cannot be reached at all.
    #[error("cannot use the API server")]
    Client {
        /// The reason.
        source: client::Error,
    },
}

/// Runs the scheduler until `stop`.
pub async fn run(flags: Flags, stop: CancellationToken) -> Result<(), Error> {
    let config = Config::new(flags)?;
    let client = client::connect(&config.kubeconfig, "kube-scheduler").await;
    let client = client.map_err(|source| Error::Client { source })?;
    let mut tasks = JoinSet::new();
    let recorder = Recorder::new(&client, "default-scheduler", &config.host, &mut tasks);
    let mut registry = Registry::default();
    let metrics = metrics::Metrics::new(&mut registry);
    let driver = driver::Driver::new(config.profiles.clone(), recorder, metrics);
    let informers = Arc::new(driver.follow(&client, &mut tasks));
    let seen = informers.clone();
    let synced =
        move || if seen.is_synced() { Ok(()) } else { Err("informers are not synced yet".to_owned()) };
    let checks = serve::health::Checks::new().ready("informer-sync", synced);
    let serving_stop = CancellationToken::new();
    let server = serving::start(&config, checks, registry, serving_stop.clone()).await?;
    let server = tokio::spawn(server);
    let result = match stop.run_until_cancelled(informers.synced()).await {
        Some(()) => schedule(&config, client, driver, stop).await,
        None => Ok(()),
    };
    serving_stop.cancel();
    if let Err(error) = server.await {
        tracing::warn!(%error, "the server of health and metrics failed");
    }
    tasks.shutdown().await;
    result
}

async fn schedule(
    config: &Config,
    client: client::Client,
    driver: driver::Driver,
    stop: CancellationToken,
) -> Result<(), Error> {
    let Some(election) = config.election.clone() else {
        stop.run_until_cancelled(driver.lead(client, String::new())).await;
        return Ok(());
    };
    let lease = election.name.clone();
    let lead = |fenced, _leadership| driver.clone().lead(fenced, lease.clone());
    client::elect(election, client, stop, lead).await.map_err(|source| Error::Client { source })
}
