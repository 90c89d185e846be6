//! Cluster DNS: answers names of services and pods.
//!
//! ```text
//! informers ─► Index ─► answer(index, question) ─► UDP and TCP      foreign names ─► other resolvers
//! ```
//!
//! Keeps true: an answer is what the API last told; while the API is away, what was known goes on being answered.
//! Leaves to others: resolving the world's names.

mod answer;
mod flags;
mod forward;
mod index;
mod server;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use axum::Router;
use axum::http::StatusCode;
use axum::routing::get;
use client::{Change, Informer, NamespacedName};
use hickory_server::Server;
use k8s_openapi::api::core::v1::Service;
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::Api;
use kube::runtime::watcher;
use prometheus_client::registry::Registry;
use tokio::net::{TcpListener, UdpSocket};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

pub use crate::answer::{Answer, Question, answer, authority};
pub use crate::flags::{Config, Flags};
pub use crate::index::Index;

/// A TCP client that is silent for this long is cut off.
const TCP_TIMEOUT: Duration = Duration::from_secs(10);
/// Responses of one TCP connection that may wait.
const TCP_BUFFER: usize = 32;

/// Why the name server could not start or go on.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A flag is wrong.
    #[error("{what}")]
    Config {
        /// What is wrong.
        what: String,
    },
    /// The file with resolvers cannot be read.
    #[error("cannot read resolvers from {}: check --forward", path.display())]
    Resolvers {
        /// The file.
        path: PathBuf,
        /// The operating system's reason.
        source: std::io::Error,
    },
    /// A port is not to be had.
    #[error("cannot listen on {address}: is another server running there, and may this user use the port?")]
    Listen {
        /// The address.
        address: SocketAddr,
        /// The operating system's reason.
        source: std::io::Error,
    },
    /// The API cannot be reached at all.
    #[error("cannot use the API server")]
    Client {
        /// The reason.
        source: client::Error,
    },
}

/// Runs the name server until `stop`, then answers for a little longer while others learn of it.
pub async fn run(flags: Flags, stop: CancellationToken) -> Result<(), Error> {
    let config = Config::new(flags)?;
    let client = match &config.kubeconfig {
        Some(path) => client::connect(path, "dns").await,
        None => client::in_cluster("dns"),
    };
    let client = client.map_err(|source| Error::Client { source })?;
    let mut registry = Registry::default();
    let handler = server::Handler {
        index: Arc::default(),
        synced: Arc::default(),
        domain: config.domain.as_str().into(),
        forward: forward::Forward(config.forward.clone()),
        metrics: server::Metrics::new(&mut registry),
    };
    let mut tasks = JoinSet::new();
    side_servers(&config, &handler.synced, &stop, registry, &mut tasks).await?;
    let mut server = Server::new(handler.clone());
    listen(&mut server, config.listen).await?;
    tracing::info!(address = %config.listen, domain = config.domain, "answering");
    follow(&client, &handler, &mut tasks);
    stop.cancelled().await;
    tokio::time::sleep(config.lameduck).await;
    if let Err(error) = server.shutdown_gracefully().await {
        tracing::debug!(%error, "a connection did not end well");
    }
    tasks.shutdown().await;
    Ok(())
}

async fn listen(server: &mut Server<server::Handler>, address: SocketAddr) -> Result<(), Error> {
    let failed = |source| Error::Listen { address, source };
    server.register_socket(UdpSocket::bind(address).await.map_err(failed)?);
    server.register_listener(TcpListener::bind(address).await.map_err(failed)?, TCP_TIMEOUT, TCP_BUFFER);
    Ok(())
}

fn follow(client: &client::Client, handler: &server::Handler, tasks: &mut JoinSet<()>) {
    let index = handler.index.clone();
    let all = watcher::Config::default;
    let services = Informer::start(Api::all(client.kube()), all(), tasks, move |change: Change<Service>| {
        let name = NamespacedName::of(&**change.latest());
        write(&index, |index| index.service(&name.namespace, &name.name, change.new));
    });
    let index = handler.index.clone();
    let slices =
        Informer::start(Api::all(client.kube()), all(), tasks, move |change: Change<EndpointSlice>| {
            write(&index, |index| index.slice(change.old.as_ref(), change.new.as_ref()));
        });
    let synced = handler.synced.clone();
    tasks.spawn(async move {
        tokio::join!(services.synced(), slices.synced());
        synced.store(true, Ordering::Release);
        tracing::info!(services = services.len(), "knows the cluster's services");
    });
}

fn write(index: &Arc<RwLock<Index>>, change: impl FnOnce(&mut Index)) {
    change(&mut index.write().unwrap_or_else(PoisonError::into_inner));
}

async fn side_servers(
    config: &Config,
    synced: &Arc<AtomicBool>,
    stop: &CancellationToken,
    registry: Registry,
    tasks: &mut JoinSet<()>,
) -> Result<(), Error> {
    let (synced, stop) = (synced.clone(), stop.clone());
    let is_ready = move || synced.load(Ordering::Acquire) && !stop.is_cancelled();
    let asked = is_ready.clone();
    let ready = move || {
        let answer =
            if asked() { (StatusCode::OK, "OK") } else { (StatusCode::SERVICE_UNAVAILABLE, "kubernetes") };
        std::future::ready(answer)
    };
    let known =
        move || if is_ready() { Ok(()) } else { Err("services are not known yet, or stopping".to_owned()) };
    // CoreDNS's paths for those who come from there, Kubernetes' own for everybody else.
    let checks = serve::health::router(serve::health::Checks::new().ready("kubernetes", known));
    let health = Router::new().route("/health", get(|| std::future::ready("OK")));
    let servers = [
        (config.ports.health, health),
        (config.ports.ready, checks.route("/ready", get(ready))),
        (config.ports.metrics, serve::metrics::router(registry)),
    ];
    for (port, router) in servers.into_iter().filter(|(port, _)| *port != 0) {
        let address = SocketAddr::new(config.listen.ip(), port);
        let listener =
            TcpListener::bind(address).await.map_err(|source| Error::Listen { address, source })?;
        tasks.spawn(async move {
            if let Err(error) = serve::http(listener, router, CancellationToken::new()).await {
                tracing::error!(error = &error as &dyn std::error::Error, "stopped serving");
            }
        });
    }
    Ok(())
}
