//! Certificates and keys from PEM files. Leaves their meaning to the caller.

use crate::Error;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject};
use std::path::Path;

/// All certificates of a PEM file, in the file's order; at least one.
pub fn certs(path: &Path) -> Result<Vec<CertificateDer<'static>>, Error> {
    let bytes = read(path, "certificate")?;
    let certs: Vec<_> = CertificateDer::pem_slice_iter(&bytes).filter_map(Result::ok).collect();
    if certs.is_empty() {
        return Err(Error::Parse { what: "certificate", path: path.into() });
    }
    Ok(certs)
}

/// The first private key of a PEM file (PKCS#8, PKCS#1 or SEC1).
pub fn key(path: &Path) -> Result<PrivateKeyDer<'static>, Error> {
    let bytes = read(path, "private key")?;
    PrivateKeyDer::from_pem_slice(&bytes).map_err(|_| Error::Parse { what: "private key", path: path.into() })
}

/// A store of trusted roots from a PEM file.
pub fn roots(path: &Path) -> Result<rustls::RootCertStore, Error> {
    let mut roots = rustls::RootCertStore::empty();
    let (added, _) = roots.add_parsable_certificates(certs(path)?);
    if added == 0 {
        return Err(Error::Parse { what: "CA certificate", path: path.into() });
    }
    Ok(roots)
}

/// The bytes of a PEM file, with an error that says what it should have held.
pub fn read(path: &Path, what: &'static str) -> Result<Vec<u8>, Error> {
    std::fs::read(path).map_err(|source| Error::Read { what, path: path.into(), source })
}
