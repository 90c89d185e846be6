//! The server's life: store, caches, bootstrap, serving; and the orderly end of it.

use crate::{
    authn::{self, Authenticator},
    authz::Authorizer,
    bootstrap, chain, crd,
    flags::{Config, Flags, Invalid},
    health, masters,
    server::Server,
    store::{self, Etcd, EtcdConfig, Kv},
};
use serve::{ServerTls, Tls};
use std::{net::SocketAddr, sync::Arc, time::Duration};
use tokio::{net::TcpListener, task::JoinSet};
use tokio_util::sync::CancellationToken;

/// How long requests may go on after serving has ended.
const DRAIN: Duration = Duration::from_secs(10);
/// Pause between attempts to bootstrap.
const RETRY: Duration = Duration::from_millis(500);

/// Why the server could not start or go on.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A flag's value cannot be used.
    #[error("the API server's configuration cannot be used")]
    Config(#[from] Invalid),
    /// The port cannot be listened on.
    #[error(
        "cannot listen on {address}: is the port taken by another process, or the address not of this host?"
    )]
    Listen {
        /// Where.
        address: SocketAddr,
        /// The system's reason.
        source: std::io::Error,
    },
    /// Certificates or the listener.
    #[error("cannot serve HTTPS")]
    Serve(#[from] serve::Error),
    /// Keys or certificates for authentication.
    #[error("cannot set up authentication")]
    Authentication(#[from] authn::Error),
    /// The store's certificates or endpoints.
    #[error("cannot set up the connection to the store")]
    Store(#[from] store::SetupError),
}

/// Runs an API server on the store named by its flags, until `stop`.
///
/// # Errors
/// When the configuration, a file or the port cannot be used. A store that is not there is waited for.
pub async fn run(flags: Flags, stop: CancellationToken) -> Result<(), Error> {
    let kv = Etcd::new(EtcdConfig {
        endpoints: flags.etcd_servers.clone(),
        ca_file: flags.etcd_cafile.clone(),
        cert_file: flags.etcd_certfile.clone(),
        key_file: flags.etcd_keyfile.clone(),
        keep_alive: Some(flags.etcd_keepalive_interval),
    })?;
    run_on(flags, Arc::new(kv), stop).await
}

/// Runs an API server on a given store, until `stop`.
///
/// # Errors
/// As [`run`].
pub async fn run_on(flags: Flags, kv: Arc<dyn Kv>, stop: CancellationToken) -> Result<(), Error> {
    let config = Config::try_from(flags)?;
    let address = SocketAddr::new(config.flags.bind_address, config.flags.secure_port);
    let mut tls = ServerTls::new(&config.flags.tls_cert_file, &config.flags.tls_private_key_file);
    tls.client_ca_files = client_cas(&config);
    let tls = Tls::server(tls)?;
    let listener = TcpListener::bind(address).await.map_err(|source| Error::Listen { address, source })?;
    let stopping = stop.child_token();
    let server = Server::new(config, kv, stopping);
    let authenticator = Authenticator::new(server.config(), &server)?;
    server.secure(authenticator, Authorizer::new(server.config(), &server));

    let served = CancellationToken::new();
    let mut tasks = JoinSet::new();
    tasks.spawn(server.cache().clone().feed(served.clone()));
    tasks.spawn(health::watch_store(server.clone(), served.clone()));
    tasks.spawn(crd::follow(server.clone(), served.clone()));
    tasks.spawn(start(server.clone(), stop.clone()));
    tasks.spawn(compaction(server.clone(), served.clone()));
    let accept = CancellationToken::new();
    let serving = serve::https(listener, tls, chain::router(server.clone()), accept.clone(), DRAIN);
    let ending = end(&server, &stop, &accept);
    let (result, ()) = tokio::join!(serving, ending);
    served.cancel();
    while tasks.join_next().await.is_some() {}
    Ok(result?)
}

/// Everything the client certificates may be vouched for by: the cluster's CA and the front proxies'. Who is
/// which is decided by the authenticator.
fn client_cas(config: &Config) -> Vec<std::path::PathBuf> {
    let flags = &config.flags;
    [&flags.client_ca_file, &flags.requestheader_client_ca_file].into_iter().flatten().cloned().collect()
}

/// What must be done once the store answers, before the server says that it is ready.
async fn start(server: Arc<Server>, stop: CancellationToken) {
    let mut applied = server.cache().follow();
    if !matches!(stop.run_until_cancelled(applied.wait_for(|at| *at > 0)).await, Some(Ok(_))) {
        return;
    }
    loop {
        match stop.run_until_cancelled(bootstrap::reconcile(&server)).await {
            None => return,
            Some(Ok(())) => break,
            Some(Err(error)) => tracing::warn!(%error, "bootstrap is not finished, trying again"),
        }
        if stop.run_until_cancelled(tokio::time::sleep(RETRY)).await.is_none() {
            return;
        }
    }
    server.started().cancel();
    tracing::info!("ready");
    masters::run(server, stop).await;
}

/// Compacts history that every cache has left behind, as upstream's API servers do.
async fn compaction(server: Arc<Server>, stop: CancellationToken) {
    let interval = server.config().flags.etcd_compaction_interval;
    if interval.is_zero() {
        return;
    }
    let mut last = 0;
    while stop.run_until_cancelled(tokio::time::sleep(interval)).await.is_some() {
        let now = server.cache().applied();
        if last > 0
            && let Err(error) = server.kv().compact(last).await
        {
            tracing::debug!(%error, revision = last, "not compacted, another server may have been first");
        }
        last = now;
    }
}

/// Waits for `stop`, lets the balancers notice, then ends serving.
async fn end(server: &Server, stop: &CancellationToken, accept: &CancellationToken) {
    stop.cancelled().await;
    server.stopping().cancel();
    tokio::time::sleep(server.config().flags.shutdown_delay_duration).await;
    server.draining().cancel();
    accept.cancel();
}
