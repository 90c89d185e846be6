//! The authorities of a cluster and the service-account key: made once, then only read.

use std::path::{Path, PathBuf};

use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair, KeyUsagePurpose};

use super::{By, leaf};
use crate::files::{self, Mode};
use crate::{Error, Role, Token};

/// File (without its end) and name of each authority, in the order of `By`.
const AUTHORITIES: [(By, &str, &str); 3] = [
    (By::Cluster, "ca", "kubernetes"),
    (By::Store, "etcd/ca", "etcd-ca"),
    (By::FrontProxy, "front-proxy-ca", "front-proxy-ca"),
];

/// Years that an authority lives.
const AUTHORITY_YEARS: u32 = 10;

/// One authority: its certificate as PEM, and what signs with its key.
pub(crate) struct Authority {
    by: By,
    pub(crate) certificate: String,
    pub(crate) issuer: Issuer<'static, KeyPair>,
}

/// Everything that all hosts of a cluster have in common.
pub(crate) struct Shared {
    folder: PathBuf,
    authorities: Vec<Authority>,
    pub(crate) token: Token,
}

impl Shared {
    /// Reads the shared folder, making what is missing.
    pub(crate) fn ensure(folder: &Path) -> Result<Self, Error> {
        let authorities = AUTHORITIES
            .iter()
            .map(|(by, file, name)| authority(folder, *by, file, name))
            .collect::<Result<_, _>>()?;
        service_account_key(folder)?;
        Ok(Self { folder: folder.into(), authorities, token: Token::ensure(folder)? })
    }

    pub(crate) fn authority(&self, by: By) -> &Authority {
        self.authorities.iter().find(|a| a.by == by).expect("AUTHORITIES has a row for every By")
    }

    /// Copies to a host's folder what its role uses: a worker gets no key at all.
    pub(crate) fn publish(&self, pki: &Path, role: Role) -> Result<(), Error> {
        let (public, secret): (&[&str], &[&str]) = match role {
            Role::Master => {
                (&["ca.crt", "etcd/ca.crt", "front-proxy-ca.crt", "sa.pub"], &["ca.key", "sa.key"])
            }
            Role::Worker => (&["ca.crt"], &[]),
        };
        public.iter().try_for_each(|file| self.copy(pki, file, Mode::Public))?;
        secret.iter().try_for_each(|file| self.copy(pki, file, Mode::Secret))
    }

    fn copy(&self, pki: &Path, file: &str, mode: Mode) -> Result<(), Error> {
        let path = self.folder.join(file);
        let Some(text) = files::read(&path)? else { return Err(Error::HalfAuthority { path }) };
        match files::read(&pki.join(file))? {
            Some(there) if there == text => Ok(()),
            _ => files::write(&pki.join(file), &text, mode),
        }
    }
}

fn authority(folder: &Path, by: By, file: &str, name: &str) -> Result<Authority, Error> {
    let (crt, key) = (folder.join(format!("{file}.crt")), folder.join(format!("{file}.key")));
    match (files::read(&crt)?, files::read(&key)?) {
        (Some(certificate), Some(pem)) => load(by, certificate, &pem, crt, key),
        (None, Some(_)) => Err(Error::HalfAuthority { path: crt }),
        (Some(_), None) => Err(Error::HalfAuthority { path: key }),
        (None, None) => make(by, name, &crt, &key),
    }
}

fn load(by: By, certificate: String, pem: &str, crt: PathBuf, key: PathBuf) -> Result<Authority, Error> {
    let key =
        KeyPair::from_pem(pem).map_err(|_| Error::Malformed { path: key, expected: "a private key" })?;
    let issuer = Issuer::from_ca_cert_pem(&certificate, key)
        .map_err(|_| Error::Malformed { path: crt, expected: "an authority's certificate" })?;
    Ok(Authority { by, certificate, issuer })
}

fn make(by: By, name: &str, crt: &Path, key: &Path) -> Result<Authority, Error> {
    let failed = |source| Error::Issue { what: format!("the authority {name}"), source };
    let mut params = CertificateParams::new(Vec::new()).map_err(failed)?;
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.distinguished_name = leaf::name(&[(DnType::CommonName, name)]);
    params.key_usages =
        vec![KeyUsagePurpose::DigitalSignature, KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    (params.not_before, params.not_after) = leaf::validity(AUTHORITY_YEARS);
    let pair = KeyPair::generate().map_err(failed)?;
    let certificate = params.self_signed(&pair).map_err(failed)?.pem();
    // The key first: a certificate without its key could never be completed.
    files::write(key, &pair.serialize_pem(), Mode::Secret)?;
    files::write(crt, &certificate, Mode::Public)?;
    Ok(Authority { by, certificate, issuer: Issuer::new(params, pair) })
}

/// The key that signs service-account tokens (ES256); its public half can always be made again.
fn service_account_key(folder: &Path) -> Result<(), Error> {
    let (key, public) = (folder.join("sa.key"), folder.join("sa.pub"));
    let pair = match files::read(&key)? {
        Some(pem) => {
            let path = key.clone();
            KeyPair::from_pem(&pem).map_err(|_| Error::Malformed { path, expected: "a private key" })?
        }
        None => {
            let failed = |source| Error::Issue { what: "the service-account key".into(), source };
            let pair = KeyPair::generate().map_err(failed)?;
            files::write(&key, &pair.serialize_pem(), Mode::Secret)?;
            pair
        }
    };
    if files::read(&public)?.is_none_or(|there| there != pair.public_key_pem()) {
        files::write(&public, &pair.public_key_pem(), Mode::Public)?;
    }
    Ok(())
}
