//! Which CA vouches for a client certificate. TLS has verified it once, at the handshake; this tells client CA
//! and front-proxy CA apart, and notices a certificate that expires during a long connection or a CA file that
//! was replaced.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use rustls::RootCertStore;
use rustls::pki_types::{CertificateDer, UnixTime};
use rustls::server::WebPkiClientVerifier;
use rustls::server::danger::ClientCertVerifier;
use sha2::{Digest, Sha256};

use super::Error;

/// How long a verdict about a certificate, and the CA file's time stamp, are believed.
const BELIEVED: Duration = Duration::from_secs(10);
/// Verdicts kept at most; the map is emptied when it is full.
const KEPT: usize = 4096;

/// A CA file.
pub(crate) struct Ca {
    path: PathBuf,
    state: Mutex<State>,
}

struct State {
    roots: Arc<RootCertStore>,
    verifier: Arc<dyn ClientCertVerifier>,
    stamp: Option<SystemTime>,
    checked: Instant,
    verdicts: HashMap<[u8; 32], (Instant, bool)>,
}

fn stamp(path: &Path) -> Option<SystemTime> {
    std::fs::metadata(path).and_then(|meta| meta.modified()).ok()
}

fn load(path: &Path) -> Result<(Arc<RootCertStore>, Arc<dyn ClientCertVerifier>), serve::Error> {
    let roots = Arc::new(serve::pem::roots(path)?);
    let verifier = WebPkiClientVerifier::builder(roots.clone())
        .build()
        .map_err(|source| serve::Error::ClientCa { path: path.into(), source })?;
    Ok((roots, verifier))
}

impl Ca {
    /// Reads the file.
    pub(crate) fn new(path: &Path) -> Result<Self, Error> {
        let (roots, verifier) = load(path)?;
        let state =
            State { roots, verifier, stamp: stamp(path), checked: Instant::now(), verdicts: HashMap::new() };
        Ok(Self { path: path.into(), state: Mutex::new(state) })
    }

    /// Whether the chain (leaf first) ends at this CA now.
    pub(crate) fn trusts(&self, chain: &[CertificateDer<'static>]) -> bool {
        let Some((leaf, intermediates)) = chain.split_first() else { return false };
        let key: [u8; 32] = Sha256::digest(leaf).into();
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        self.refresh(&mut state);
        if let Some((at, verdict)) = state.verdicts.get(&key)
            && at.elapsed() < BELIEVED
        {
            return *verdict;
        }
        let verdict = state.verifier.verify_client_cert(leaf, intermediates, UnixTime::now()).is_ok();
        if state.verdicts.len() >= KEPT {
            state.verdicts.clear();
        }
        state.verdicts.insert(key, (Instant::now(), verdict));
        verdict
    }

    fn refresh(&self, state: &mut State) {
        if state.checked.elapsed() < BELIEVED {
            return;
        }
        state.checked = Instant::now();
        let stamp = stamp(&self.path);
        if stamp == state.stamp {
            return;
        }
        match load(&self.path) {
            Ok((roots, verifier)) => {
                (state.roots, state.verifier, state.stamp) = (roots, verifier, stamp);
                state.verdicts.clear();
            }
            Err(error) => tracing::warn!(
                error = &error as &dyn std::error::Error,
                "the changed CA file is not usable, the old CAs stay"
            ),
        }
    }

    fn roots(&self) -> Arc<RootCertStore> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner).roots.clone()
    }

    /// Whether a CA key is in both files.
    pub(crate) fn shares_a_root_with(&self, other: &Ca) -> bool {
        let (own, others) = (self.roots(), other.roots());
        own.roots.iter().any(|root| {
            others.roots.iter().any(|other| other.subject_public_key_info == root.subject_public_key_info)
        })
    }
}

/// SHA-256 of a certificate in hexadecimal.
pub(crate) fn fingerprint(certificate: &CertificateDer<'_>) -> String {
    Sha256::digest(certificate).iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};

    fn ca(name: &str) -> (String, Issuer<'static, KeyPair>) {
        let mut params = CertificateParams::default();
        params.distinguished_name.push(rcgen::DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate().unwrap();
        let certificate = params.self_signed(&key).unwrap();
        (certificate.pem(), Issuer::new(params, key))
    }

    fn leaf(issuer: &Issuer<'static, KeyPair>, valid_years: (i32, i32)) -> Vec<CertificateDer<'static>> {
        let mut params = CertificateParams::default();
        params.distinguished_name.push(rcgen::DnType::CommonName, "bob");
        params.extended_key_usages = vec![rcgen::ExtendedKeyUsagePurpose::ClientAuth];
        params.not_before = rcgen::date_time_ymd(valid_years.0, 1, 1);
        params.not_after = rcgen::date_time_ymd(valid_years.1, 1, 1);
        vec![params.signed_by(&KeyPair::generate().unwrap(), issuer).unwrap().der().clone()]
    }

    #[test]
    fn chains_are_told_apart() {
        let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
        let folder = tempfile();
        let (one_pem, one) = ca("one");
        let (two_pem, two) = ca("two");
        std::fs::write(folder.join("one"), one_pem).unwrap();
        std::fs::write(folder.join("two"), two_pem).unwrap();
        let ca_one = Ca::new(&folder.join("one")).unwrap();
        let ca_two = Ca::new(&folder.join("two")).unwrap();
        let good = leaf(&one, (2020, 2100));
        assert!(ca_one.trusts(&good));
        assert!(ca_one.trusts(&good), "the cached verdict");
        assert!(!ca_two.trusts(&good));
        assert!(!ca_one.trusts(&leaf(&two, (2020, 2100))));
        assert!(!ca_one.trusts(&leaf(&one, (2010, 2011))), "expired");
        assert!(!ca_one.trusts(&leaf(&one, (2099, 2100))), "not yet valid");
        assert!(!ca_one.trusts(&[]));
        assert!(ca_one.shares_a_root_with(&ca_one));
        assert!(!ca_one.shares_a_root_with(&ca_two));
        std::fs::remove_dir_all(folder).unwrap();
    }

    fn tempfile() -> PathBuf {
        let folder = std::env::temp_dir().join(format!("trireme-authn-{}", uuid::Uuid::new_v4()));
        std::fs::create_dir_all(&folder).unwrap();
        folder
    }
}
