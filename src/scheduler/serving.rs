//! `/healthz`, `/livez`, `/readyz` and `/metrics` over HTTPS.
//!
//! Keeps true: health is open to everybody; metrics only to a client certificate of the configured CA or, without
//! such a CA, to this host. A self-signed certificate lives in memory only.

use std::ffi::CStr;
use std::fs::File;
use std::io::Write;
use std::net::SocketAddr;
use std::os::fd::AsRawFd;
use std::path::PathBuf;
use std::time::Duration;

use axum::extract::{Extension, Request};
use axum::http::StatusCode;
use axum::middleware::{Next, from_fn};
use axum::response::{IntoResponse, Response};
use nix::sys::memfd::{MFdFlags, memfd_create};
use prometheus_client::registry::Registry;
use serve::{Peer, ServerTls, Tls};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use crate::{Config, Error};

const GRACE: Duration = Duration::from_secs(2);

/// Binds and serves until `stop`; the future returned is the server itself.
pub(crate) async fn start(
    config: &Config,
    checks: serve::health::Checks,
    registry: Registry,
    stop: CancellationToken,
) -> Result<impl Future<Output = ()> + use<>, Error> {
    let parts = match config.listen {
        Some(address) => Some(bind(config, address).await?),
        None => None,
    };
    let (with_ca, health) = (config.client_ca.is_some(), serve::health::router(checks));
    Ok(async move {
        let Some((listener, tls, temporary)) = parts else { return };
        let metrics = serve::metrics::router(registry)
            .layer(from_fn(move |peer, request, next| allow(with_ca, peer, request, next)));
        if let Err(error) = serve::https(listener, tls, health.merge(metrics), stop, GRACE).await {
            tracing::error!(error = &error as &dyn std::error::Error, "stopped serving health and metrics");
        }
        drop(temporary);
    })
}

type Bound = (TcpListener, std::sync::Arc<Tls>, Option<Temporary>);

async fn bind(config: &Config, address: SocketAddr) -> Result<Bound, Error> {
    let listener = TcpListener::bind(address).await.map_err(|source| Error::Listen { address, source })?;
    let (cert, key, temporary) = match &config.certificate {
        Some((cert, key)) => (cert.clone(), key.clone(), None),
        None => {
            let made = Temporary::self_signed(&config.host).map_err(|source| Error::SelfSigned { source })?;
            (Temporary::path(&made.cert), Temporary::path(&made.key), Some(made))
        }
    };
    let tls = ServerTls {
        client_ca_files: config.client_ca.iter().cloned().collect(),
        ..ServerTls::new(cert, key)
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

/// A certificate and its key in files that only this process can open and that end with it, however it ends.
struct Temporary {
    cert: File,
    key: File,
}

impl Temporary {
    fn self_signed(host: &str) -> std::io::Result<Self> {
        let names = [host, "localhost", "127.0.0.1"].into_iter().filter(|n| !n.is_empty()).map(str::to_owned);
        let made =
            rcgen::generate_simple_self_signed(names.collect::<Vec<_>>()).map_err(std::io::Error::other)?;
        Ok(Self {
            cert: in_memory(c"tls.crt", &made.cert.pem())?,
            key: in_memory(c"tls.key", &made.signing_key.serialize_pem())?,
        })
    }

    fn path(file: &File) -> PathBuf {
        format!("/proc/self/fd/{}", file.as_raw_fd()).into()
    }
}

fn in_memory(name: &CStr, text: &str) -> std::io::Result<File> {
    let mut file = File::from(memfd_create(name, MFdFlags::MFD_CLOEXEC)?);
    file.write_all(text.as_bytes())?;
    Ok(file)
}

#[cfg(test)]
mod tests {
    use super::{ServerTls, Temporary, Tls};

    #[test]
    fn a_self_signed_certificate_serves() {
        let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
        let made = Temporary::self_signed("m1").unwrap();
        for _ in 0..2 {
            // Twice: each reader starts at the beginning.
            Tls::server(ServerTls::new(Temporary::path(&made.cert), Temporary::path(&made.key))).unwrap();
        }
    }
}
