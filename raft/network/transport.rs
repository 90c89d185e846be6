//! How members reach each other: mutual TLS, or in the clear on loopback for tests.
//!
//! Keeps true: with TLS both sides show a certificate of the peers' CA; certificates renewed on disk are used by
//! the next connection; a plain `http` URL leads nowhere but to this machine.

use rustls::{
    ClientConfig,
    client::verify_server_name,
    pki_types::{CertificateDer, ServerName},
    server::ParsedCertificate,
};
use serve::{ServerTls, Tls, pem};
use std::{io, net::IpAddr, path::PathBuf, sync::Arc, time::Duration};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpListener, TcpStream},
};
use tokio_rustls::{TlsAcceptor, TlsConnector};

/// A peer that has not accepted a connection by then is not there.
const CONNECT: Duration = Duration::from_millis(400);
/// A TLS handshake takes longer only on a machine that is badly overloaded.
const HANDSHAKE: Duration = Duration::from_secs(3);

/// A connection, encrypted or not.
pub(crate) trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Stream for T {}

/// A connection as it comes from the network.
pub(crate) trait Socket: Stream + 'static {
    /// Sends small messages at once.
    fn set_nodelay(&self) -> io::Result<()>;
}

impl Socket for TcpStream {
    fn set_nodelay(&self) -> io::Result<()> {
        Self::set_nodelay(self, true)
    }
}

/// Where connections come from.
pub(crate) trait Listener: Send + Sync + 'static {
    /// What comes.
    type Socket: Socket;

    /// The next one.
    fn accept(&self) -> impl Future<Output = io::Result<Self::Socket>> + Send;
}

impl Listener for TcpListener {
    type Socket = TcpStream;

    async fn accept(&self) -> io::Result<TcpStream> {
        Self::accept(self).await.map(|(stream, _)| stream)
    }
}

/// The certificate that a caller has shown.
pub(crate) type Shown = Option<CertificateDer<'static>>;

/// The files with which members prove who they are.
#[derive(Clone, Debug)]
pub(crate) struct PeerTls {
    /// This member's certificate, for serving and for calling.
    pub(crate) cert: PathBuf,
    /// Its key.
    pub(crate) key: PathBuf,
    /// The peers' CA.
    pub(crate) ca: PathBuf,
    /// Whether callers must show a certificate.
    pub(crate) client_cert_auth: bool,
}

/// Makes and accepts connections between members.
pub(crate) struct Transport {
    files: Option<PeerTls>,
    server: Option<Arc<Tls>>,
}

impl Transport {
    /// With TLS by these files, or without.
    pub(crate) fn new(files: Option<PeerTls>) -> Result<Self, serve::Error> {
        let server = files.as_ref().map(|files| {
            Tls::server(ServerTls {
                cert_file: files.cert.clone(),
                key_file: files.key.clone(),
                client_ca_files: vec![files.ca.clone()],
                require_client_cert: files.client_cert_auth,
                alpn: Vec::new(),
            })
        });
        Ok(Self { server: server.transpose()?, files })
    }

    /// Takes a caller's connection, with the certificate it has shown, if it has.
    pub(crate) async fn accept(&self, stream: impl Socket) -> io::Result<(Box<dyn Stream>, Shown)> {
        stream.set_nodelay()?;
        match &self.server {
            None => Ok((Box::new(stream), None)),
            Some(tls) => {
                let accept = TlsAcceptor::from(tls.current()).accept(stream);
                let stream = tokio::time::timeout(HANDSHAKE, accept).await??;
                let shown = stream.get_ref().1.peer_certificates().and_then(<[_]>::first);
                let shown = shown.map(|certificate| certificate.clone().into_owned());
                Ok((Box::new(stream), shown))
            }
        }
    }

    /// Whether a caller is whoever is to be reached at these URLs: its certificate, which was checked when it called, is
    /// one for their hosts. Without TLS it is on this machine.
    pub(crate) fn is_at(&self, shown: &Shown, urls: &[String]) -> bool {
        if self.server.is_none() {
            return urls.iter().all(|url| is_loopback(url));
        }
        let Some(certificate) = shown.as_ref().and_then(|shown| ParsedCertificate::try_from(shown).ok())
        else {
            return false;
        };
        let names = |url: &String| ServerName::try_from(host_port(url).ok()?.0).ok();
        let is_for = |url| names(url).is_some_and(|name| verify_server_name(&certificate, &name).is_ok());
        !urls.is_empty() && urls.iter().all(is_for)
    }

    /// Whether somebody accepts connections where a peer should.
    pub(crate) async fn probe(&self, url: &str) -> io::Result<()> {
        #[cfg(test)]
        if turmoil::in_simulation() {
            return crate::sim::net::reach(url, CONNECT).await.map(drop);
        }
        reach(url).await.map(drop)
    }

    /// Calls a peer.
    pub(crate) async fn connect(&self, url: &str) -> io::Result<Box<dyn Stream>> {
        #[cfg(test)]
        if turmoil::in_simulation() {
            return Ok(Box::new(crate::sim::net::reach(url, CONNECT).await?));
        }
        let stream = reach(url).await?;
        let Some(files) = &self.files else { return Ok(Box::new(stream)) };
        let name = ServerName::try_from(host_port(url)?.0).map_err(io::Error::other)?;
        let connect = TlsConnector::from(client_config(files)?).connect(name, stream);
        Ok(Box::new(tokio::time::timeout(HANDSHAKE, connect).await??))
    }
}

async fn reach(url: &str) -> io::Result<TcpStream> {
    let (host, port) = host_port(url)?;
    let stream = tokio::time::timeout(CONNECT, TcpStream::connect((host.as_str(), port))).await??;
    stream.set_nodelay(true)?;
    Ok(stream)
}

fn client_config(files: &PeerTls) -> io::Result<Arc<ClientConfig>> {
    let roots = pem::roots(&files.ca).map_err(io::Error::other)?;
    let certs = pem::certs(&files.cert).map_err(io::Error::other)?;
    let key = pem::key(&files.key).map_err(io::Error::other)?;
    let config = ClientConfig::builder()
        .with_root_certificates(roots)
        .with_client_auth_cert(certs, key)
        .map_err(io::Error::other)?;
    Ok(Arc::new(config))
}

/// The host and the port of a URL.
pub(crate) fn host_port(url: &str) -> io::Result<(String, u16)> {
    let invalid = || io::Error::new(io::ErrorKind::InvalidInput, format!("{url} has no host and port"));
    let uri: http::Uri = url.parse().map_err(|_| invalid())?;
    let host = uri.host().ok_or_else(invalid)?.trim_start_matches('[').trim_end_matches(']');
    Ok((host.into(), uri.port_u16().ok_or_else(invalid)?))
}

/// Whether it is a URL at which a member can be reached: scheme, host and port.
pub(crate) fn is_url(url: &str) -> bool {
    (url.starts_with("https://") || url.starts_with("http://")) && host_port(url).is_ok()
}

/// Whether members may reach each other there: in the clear on this machine only.
pub(crate) fn is_peer_url(url: &str) -> bool {
    is_url(url) && (url.starts_with("https://") || is_loopback(url))
}

/// Whether a URL leads to this machine only.
pub(crate) fn is_loopback(url: &str) -> bool {
    host_port(url).is_ok_and(|(host, _)| {
        host == "localhost" || host.parse::<IpAddr>().is_ok_and(|address| address.is_loopback())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_caller_is_where_its_certificate_says() {
        let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
        let folder = tempfile::tempdir().unwrap();
        let key = rcgen::KeyPair::generate().unwrap();
        let names = vec!["10.0.0.1".to_owned(), "m1".to_owned()];
        let made = rcgen::CertificateParams::new(names).unwrap().self_signed(&key).unwrap();
        let path = |name: &str| folder.path().join(name);
        std::fs::write(path("crt"), made.pem()).unwrap();
        std::fs::write(path("key"), key.serialize_pem()).unwrap();
        let files = PeerTls { cert: path("crt"), key: path("key"), ca: path("crt"), client_cert_auth: false };
        let transport = Transport::new(Some(files)).unwrap();
        let shown = Some(made.der().clone());
        let check = |shown: &Shown, urls: &[&str], expect| {
            let urls: Vec<String> = urls.iter().map(ToString::to_string).collect();
            assert_eq!(transport.is_at(shown, &urls), expect, "{urls:?}");
        };
        check(&shown, &["https://10.0.0.1:2380"], true);
        check(&shown, &["https://10.0.0.1:2380", "https://m1:2380"], true);
        check(&shown, &["https://10.0.0.1:2380", "https://10.0.0.2:2380"], false);
        check(&shown, &["https://m2:2380"], false);
        check(&shown, &[], false);
        check(&None, &["https://10.0.0.1:2380"], false);
        let clear = Transport::new(None).unwrap();
        assert!(clear.is_at(&None, &["http://127.0.0.1:2380".into()]));
        assert!(!clear.is_at(&None, &["https://10.0.0.1:2380".into()]));
    }
}
