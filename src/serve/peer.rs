//! Who is at the other end of a connection, as far as TLS proved it.

use rustls::pki_types::CertificateDer;
use std::{net::SocketAddr, sync::Arc};
use x509_parser::prelude::{FromDer, X509Certificate};

/// The other end of a connection; in the extensions of every request.
#[derive(Clone, Debug)]
pub struct Peer {
    /// Its address as this host sees it.
    pub address: SocketAddr,
    /// The verified client certificate chain, leaf first; empty when none was presented.
    pub certificates: Vec<CertificateDer<'static>>,
    identity: Option<Arc<Identity>>,
}

/// The subject of a verified client certificate.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Identity {
    /// CN: the user name.
    pub common_name: String,
    /// O, in order: the groups.
    pub organizations: Vec<String>,
}

impl Peer {
    /// A peer at `address` that presented `certificates` (already verified, leaf first).
    #[must_use]
    pub fn new(address: SocketAddr, certificates: Vec<CertificateDer<'static>>) -> Self {
        let identity = certificates.first().and_then(subject).map(Arc::new);
        Self { address, certificates, identity }
    }

    /// The subject of the verified leaf certificate, if one was presented.
    #[must_use]
    pub fn identity(&self) -> Option<&Identity> {
        self.identity.as_deref()
    }
}

fn subject(leaf: &CertificateDer<'_>) -> Option<Identity> {
    let (_, certificate) = X509Certificate::from_der(leaf).ok()?;
    let subject = certificate.subject();
    let common_name = subject.iter_common_name().next().and_then(|a| a.as_str().ok()).unwrap_or_default();
    let organizations = subject.iter_organization().filter_map(|a| a.as_str().ok());
    Some(Identity {
        common_name: common_name.to_owned(),
        organizations: organizations.map(str::to_owned).collect(),
    })
}
