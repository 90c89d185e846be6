//! The connection: kube's client, made from a kubeconfig, and a fenced copy of it for an elected leader.

use crate::{EPOCH_HEADER, Error, Leadership};
use http::{HeaderName, HeaderValue, header::USER_AGENT};
use kube::config::{Config, KubeConfigOptions, Kubeconfig};
use std::{path::Path, time::Duration};

/// A host that is gone must be noticed before a lease of two seconds runs out.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);

/// A client of the API server; cheap to clone.
#[derive(Clone)]
pub struct Client {
    kube: kube::Client,
    config: Config,
}

/// Connects with the current context of the kubeconfig file at `path`. Nothing is sent yet.
/// `agent` is the component's name for the User-Agent header, e.g. `kube-scheduler`.
pub async fn connect(path: &Path, agent: &str) -> Result<Client, Error> {
    let kubeconfig = |source| Error::Kubeconfig { path: path.display().to_string(), source };
    let file = Kubeconfig::read_from(path).map_err(kubeconfig)?;
    let options = KubeConfigOptions::default();
    let config = Config::from_custom_kubeconfig(file, &options).await.map_err(kubeconfig)?;
    Client::new(config, agent)
}

/// Connects as the service account of the pod that this process runs in.
pub fn in_cluster(agent: &str) -> Result<Client, Error> {
    let config = Config::incluster_env().map_err(|source| Error::InCluster { source })?;
    Client::new(config, agent)
}

impl Client {
    /// A client of `config`, with this component's name as User-Agent.
    pub fn new(mut config: Config, agent: &str) -> Result<Self, Error> {
        config.connect_timeout = Some(CONNECT_TIMEOUT);
        let agent = format!("{agent}/v{} (linux/amd64) trireme", env!("CARGO_PKG_VERSION"));
        if let Ok(value) = HeaderValue::from_str(&agent) {
            config.headers.push((USER_AGENT, value));
        }
        Self::build(config)
    }

    fn build(config: Config) -> Result<Self, Error> {
        let kube = kube::Client::try_from(config.clone()).map_err(|source| Error::Setup { source })?;
        Ok(Self { kube, config })
    }

    /// The library's client, for `kube::Api`.
    #[must_use]
    pub fn kube(&self) -> kube::Client {
        self.kube.clone()
    }

    /// The configuration behind this client (endpoint, CA, credentials).
    #[must_use]
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// A client whose every write fails once the given leadership is over (409 Conflict).
    pub fn fenced(&self, leadership: &Leadership) -> Result<Self, Error> {
        let mut config = self.config.clone();
        let value = HeaderValue::from_str(&leadership.claim())
            .map_err(|source| Error::Setup { source: kube::Error::HttpError(http::Error::from(source)) })?;
        config.headers.push((HeaderName::from_static(EPOCH_HEADER), value));
        Self::build(config)
    }

    /// A client for other work of the same component that should not share connections with this one,
    /// such as lease renewals, which must never wait behind bulk requests.
    pub fn separate(&self) -> Result<Self, Error> {
        Self::build(self.config.clone())
    }
}
