//! `/healthz`, `/livez`, `/readyz` and `/metrics` over HTTPS.
//!
//! Keeps true: health is open to everybody; metrics only to a client certificate of the configured CA or, without
//! such a CA, to this host. A self-signed certificate lives in a folder that only this user can read and that goes
//! with the process.

use std::{net::SocketAddr, path::PathBuf, sync::Arc, time::Duration};

use axum::{
    extract::{Extension, Request},
    http::StatusCode,
    middleware::{Next, from_fn},
    response::{IntoResponse, Response},
};
use prometheus_client::registry::Registry;
use serve::{Peer, ServerTls, Tls};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use crate::{Config, Error};

const GRACE: Duration = Duration::from_secs(2);

/// Binds, and returns the server as a future that ends some time after `stop`.
pub(crate) async fn start(
    config: &Config,
    checks: serve::health::Checks,
    registry: Registry,
    stop: CancellationToken,
) -> Result<impl Future<Output = ()> + use<>, Error> {
    let bound = match config.listen {
        Some(address) => Some(bind(config, address).await?),
        None => None,
    };
    let with_ca = config.flags.client_ca_file.is_some();
    let health = serve::health::router(checks);
    let metrics = serve::metrics::router(registry)
        .layer(from_fn(move |peer, request, next| allow(with_ca, peer, request, next)));
    Ok(async move {
        let Some((listener, tls, temporary)) = bound else { return };
        if let Err(error) = serve::https(listener, tls, health.merge(metrics), stop, GRACE).await {
            tracing::error!(error = &error as &dyn std::error::Error, "stopped serving health and metrics");
        }
        drop(temporary);
    })
}

type Bound = (TcpListener, Arc<Tls>, Option<Temporary>);

async fn bind(config: &Config, address: SocketAddr) -> Result<Bound, Error> {
    let listener = TcpListener::bind(address).await.map_err(|source| Error::Listen { address, source })?;
    let (certificate, key, temporary) =
        match (&config.flags.tls_cert_file, &config.flags.tls_private_key_file) {
            (Some(certificate), Some(key)) => (certificate.clone(), key.clone(), None),
            _ => {
                let made =
                    Temporary::self_signed(&config.host).map_err(|source| Error::SelfSigned { source })?;
                (made.0.join("tls.crt"), made.0.join("tls.key"), Some(made))
            }
        };
    let tls = ServerTls {
        client_ca_files: config.flags.client_ca_file.iter().cloned().collect(),
        ..ServerTls::new(certificate, key)
    };
    let tls = Tls::server(tls).map_err(|source| Error::Serve { source })?;
    Ok((listener, tls, temporary))
}

async fn allow(with_ca: bool, Extension(peer): Extension<Peer>, request: Request, next: Next) -> Response {
    let allowed = if with_ca { peer.identity().is_some() } else { peer.address.ip().is_loopback() };
    if allowed {
        return next.run(request).await;
    }
    (StatusCode::UNAUTHORIZED, "Unauthorized\n").into_response()
}

/// A folder that goes away with its owner.
struct Temporary(PathBuf);

impl Temporary {
    fn self_signed(host: &str) -> std::io::Result<Self> {
        let names = [host, "localhost", "127.0.0.1"].into_iter().filter(|n| !n.is_empty());
        let made = rcgen::generate_simple_self_signed(names.map(ToOwned::to_owned).collect::<Vec<_>>());
        let made = made.map_err(std::io::Error::other)?;
        let path = std::env::temp_dir().join(format!("trireme-{}", uuid::Uuid::new_v4()));
        let mut builder = std::fs::DirBuilder::new();
        std::os::unix::fs::DirBuilderExt::mode(&mut builder, 0o700).create(&path)?;
        let folder = Self(path);
        folder.write("tls.crt", &made.cert.pem())?;
        folder.write("tls.key", &made.signing_key.serialize_pem())?;
        Ok(folder)
    }

    fn write(&self, name: &str, text: &str) -> std::io::Result<()> {
        let mut options = std::fs::OpenOptions::new();
        std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
        let mut file = options.write(true).create_new(true).open(self.0.join(name))?;
        std::io::Write::write_all(&mut file, text.as_bytes())
    }
}

impl Drop for Temporary {
    fn drop(&mut self) {
        if let Err(error) = std::fs::remove_dir_all(&self.0) {
            tracing::debug!(%error, "could not remove the temporary certificate");
        }
    }
}
