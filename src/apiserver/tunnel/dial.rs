//! Connections to kubelets, pods and services: TCP, TLS, with an end to every wait.
//!
//! A host name is resolved once and the address that was checked is the one connected to.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;
use x509_parser::prelude::{FromDer, X509Certificate};

use super::address;

/// How long a connection may take to come about. A node that lost its power never answers.
const DIAL: Duration = Duration::from_secs(5);
/// How long a TLS handshake may take.
const HANDSHAKE: Duration = Duration::from_secs(5);

/// A byte stream.
pub(super) trait Io: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Io for T {}

/// Where to connect to, and how.
pub(super) struct Target {
    /// An address or a name.
    pub(super) host: String,
    pub(super) port: u16,
    pub(super) tls: Option<Arc<ClientConfig>>,
    /// The node whose kubelet must be at the other end.
    pub(super) node: Option<String>,
}

impl Target {
    /// `HOST:PORT`, with brackets where they are needed.
    pub(super) fn authority(&self) -> String {
        match self.host.parse::<IpAddr>() {
            Ok(IpAddr::V6(ip)) => format!("[{ip}]:{}", self.port),
            _ => format!("{}:{}", self.host, self.port),
        }
    }

    /// `http` or `https`.
    pub(super) fn scheme(&self) -> &'static str {
        if self.tls.is_some() { "https" } else { "http" }
    }

    /// Connects. The error is a text in the words of Go's dialer, which clients know.
    pub(super) async fn dial(&self) -> Result<Box<dyn Io>, String> {
        let address = self.resolve().await?;
        let stream = match timeout(DIAL, TcpStream::connect(address)).await {
            Ok(Ok(stream)) => stream,
            Ok(Err(error)) => return Err(format!("dial tcp {address}: connect: {}", reason(&error))),
            Err(_) => return Err(format!("dial tcp {address}: i/o timeout")),
        };
        // Interactive sessions send single characters.
        let _ = stream.set_nodelay(true);
        match &self.tls {
            None => Ok(Box::new(stream)),
            Some(config) => self.handshake(config, stream).await,
        }
    }

    async fn resolve(&self) -> Result<SocketAddr, String> {
        let found: Vec<SocketAddr> = match self.host.parse::<IpAddr>() {
            Ok(ip) => vec![SocketAddr::new(ip, self.port)],
            Err(_) => timeout(DIAL, tokio::net::lookup_host((self.host.as_str(), self.port)))
                .await
                .map_err(|_| format!("lookup {}: i/o timeout", self.host))?
                .map_err(|_| format!("lookup {}: no such host", self.host))?
                .collect(),
        };
        let allowed = found.iter().find(|found| address::allowed(found.ip()));
        allowed.copied().ok_or_else(|| "address not allowed".to_owned())
    }

    async fn handshake(&self, config: &Arc<ClientConfig>, stream: TcpStream) -> Result<Box<dyn Io>, String> {
        let name = ServerName::try_from(self.host.clone())
            .map_err(|_| format!("tls: {} is no host name", self.host))?;
        let connecting = TlsConnector::from(config.clone()).connect(name, stream);
        let stream = timeout(HANDSHAKE, connecting)
            .await
            .map_err(|_| "net/http: TLS handshake timeout".to_owned())?
            .map_err(|error| format!("tls: failed to verify certificate: {error}"))?;
        if let Some(node) = &self.node {
            let leaf = stream.get_ref().1.peer_certificates().and_then(<[_]>::first);
            if !leaf.is_some_and(|leaf| is_kubelet(leaf, node)) {
                return Err(format!(
                    "tls: the certificate at {} is not that of the kubelet of node {node}: expected CN=system:node:{node}",
                    self.authority()
                ));
            }
        }
        Ok(Box::new(stream))
    }
}

/// The cluster's CA also vouches for this server: a node that gave out this server's address as its own would
/// turn our own rights against us. Only the node's own certificate will do.
fn is_kubelet(leaf: &[u8], node: &str) -> bool {
    let Ok((_, certificate)) = X509Certificate::from_der(leaf) else { return false };
    let name = certificate.subject().iter_common_name().next().and_then(|name| name.as_str().ok());
    name == Some(&format!("system:node:{node}"))
}

fn reason(error: &std::io::Error) -> String {
    use std::io::ErrorKind;
    match error.kind() {
        ErrorKind::ConnectionRefused => "connection refused".into(),
        ErrorKind::HostUnreachable => "no route to host".into(),
        ErrorKind::NetworkUnreachable => "network is unreachable".into(),
        ErrorKind::TimedOut => "connection timed out".into(),
        _ => error.to_string(),
    }
}
