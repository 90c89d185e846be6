//! A server's TLS configuration that follows its files: a certificate that was renewed on disk is used by the
//! next connection within [`CHECK_EVERY`]. A broken new file keeps the old configuration and is logged.

use crate::{Error, pem};
use rustls::{ServerConfig, server::WebPkiClientVerifier};
use std::{
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant, SystemTime},
};

/// How often the files' times are looked at, at most.
const CHECK_EVERY: Duration = Duration::from_secs(5);

/// What a TLS listener is made of.
#[derive(Clone, Debug)]
pub struct ServerTls {
    /// PEM chain, leaf first.
    pub cert_file: PathBuf,
    /// PEM private key of the leaf.
    pub key_file: PathBuf,
    /// Files of CAs that may vouch for clients; none: client certificates are not asked for.
    pub client_ca_files: Vec<PathBuf>,
    /// Refuse a connection without a client certificate (needs `client_ca_files`).
    pub require_client_cert: bool,
    /// Protocols offered, best first, e.g. `["h2", "http/1.1"]`.
    pub alpn: Vec<&'static str>,
}

impl ServerTls {
    /// HTTP/2 and HTTP/1.1 with this certificate, no client certificates.
    #[must_use]
    pub fn new(cert_file: impl Into<PathBuf>, key_file: impl Into<PathBuf>) -> Self {
        Self {
            cert_file: cert_file.into(),
            key_file: key_file.into(),
            client_ca_files: Vec::new(),
            require_client_cert: false,
            alpn: vec!["h2", "http/1.1"],
        }
    }

    fn files(&self) -> impl Iterator<Item = &Path> {
        [&self.cert_file, &self.key_file].into_iter().chain(&self.client_ca_files).map(PathBuf::as_path)
    }

    fn load(&self) -> Result<ServerConfig, Error> {
        let builder = ServerConfig::builder();
        let builder = match self.client_ca_files.first() {
            None => builder.with_no_client_auth(),
            Some(first) => {
                let mut roots = rustls::RootCertStore::empty();
                for path in &self.client_ca_files {
                    roots.roots.extend(pem::roots(path)?.roots);
                }
                let verifier = WebPkiClientVerifier::builder(Arc::new(roots));
                let verifier =
                    if self.require_client_cert { verifier } else { verifier.allow_unauthenticated() };
                let refused = |source| Error::ClientCa { path: first.clone(), source };
                builder.with_client_cert_verifier(verifier.build().map_err(refused)?)
            }
        };
        let mut config = builder
            .with_single_cert(pem::certs(&self.cert_file)?, pem::key(&self.key_file)?)
            .map_err(|source| Error::Tls { path: self.cert_file.clone(), source })?;
        config.alpn_protocols = self.alpn.iter().map(|name| name.as_bytes().to_vec()).collect();
        Ok(config)
    }

    fn stamp(&self) -> Vec<Option<SystemTime>> {
        self.files().map(|path| std::fs::metadata(path).and_then(|m| m.modified()).ok()).collect()
    }
}

/// A listener's current TLS configuration.
#[derive(Debug)]
pub struct Tls {
    source: ServerTls,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    config: Arc<ServerConfig>,
    stamp: Vec<Option<SystemTime>>,
    checked: Instant,
}

impl Tls {
    /// Reads the files once; an error here is a configuration error.
    pub fn server(source: ServerTls) -> Result<Arc<Self>, Error> {
        let state =
            State { config: Arc::new(source.load()?), stamp: source.stamp(), checked: Instant::now() };
        Ok(Arc::new(Self { source, state: Mutex::new(state) }))
    }

    /// The configuration for the next connection.
    #[must_use]
    pub fn current(&self) -> Arc<ServerConfig> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        if state.checked.elapsed() >= CHECK_EVERY {
            state.checked = Instant::now();
            self.reload(&mut state);
        }
        state.config.clone()
    }

    fn reload(&self, state: &mut State) {
        let stamp = self.source.stamp();
        if stamp == state.stamp {
            return;
        }
        match self.source.load() {
            Ok(config) => (state.config, state.stamp) = (Arc::new(config), stamp),
            Err(error) => tracing::warn!(
                error = &error as &dyn std::error::Error,
                "the changed certificate is not usable, the old one stays"
            ),
        }
    }
}
