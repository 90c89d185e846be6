//! The csrsigning controller: makes certificates of approved requests.
//!
//! Keeps true: a certificate says what its signer's rules allow and nothing that the request merely wished for; it
//! is not valid for longer than its CA. The CA's key never leaves this file's `Authority`.

use std::{collections::BTreeMap, time::Duration};

use jiff::Timestamp;
use k8s_openapi::{
    ByteString,
    api::certificates::v1::{CertificateSigningRequest, CertificateSigningRequestCondition},
    apimachinery::pkg::apis::meta::v1::Time,
};
use rcgen::{ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose};
use x509_parser::pem::parse_x509_pem;

use super::{CLIENT, KUBELET_CLIENT, KUBELET_SERVING, LEGACY, Parsed, is, is_issued, parse};
use crate::{
    Error,
    controller::{Context, Controller, Key, Plan, update},
    store::{Change, Stores},
};

/// Certificates are valid from a little earlier, for machines whose clocks are behind.
const BACKDATE: Duration = Duration::from_secs(5 * 60);
/// The shortest life that a request may ask for.
const SHORTEST: i32 = 600;

/// A certificate authority.
pub(crate) struct Authority {
    issuer: Issuer<'static, KeyPair>,
    not_after: i64,
}

impl Authority {
    /// Reads a CA from PEM texts.
    pub(crate) fn new(certificate: &str, key: &str) -> Result<Self, Error> {
        let wrong = |source| Error::Authority { source };
        let issuer =
            Issuer::from_ca_cert_pem(certificate, KeyPair::from_pem(key).map_err(wrong)?).map_err(wrong)?;
        let (_, pem) = parse_x509_pem(certificate.as_bytes())
            .map_err(|_| wrong(rcgen::Error::CouldNotParseCertificate))?;
        let parsed = pem.parse_x509().map_err(|_| wrong(rcgen::Error::CouldNotParseCertificate))?;
        Ok(Self { issuer, not_after: parsed.validity().not_after.timestamp() })
    }
}

/// The controller: an authority per signer.
pub(crate) struct Signing {
    /// By signer name.
    pub(crate) authorities: BTreeMap<&'static str, std::sync::Arc<Authority>>,
    /// `--cluster-signing-duration`.
    pub(crate) duration: Duration,
}

/// The signers that one CA serves when nothing else is said.
pub(crate) const SIGNERS: &[&str] = &[CLIENT, KUBELET_CLIENT, KUBELET_SERVING, LEGACY];

impl Controller for Signing {
    fn keys(&self, stores: &Stores) -> Vec<Key> {
        stores.csrs.keys()
    }

    fn wake(&self, _: &Stores, change: &Change) -> Vec<Key> {
        match change {
            Change::CertificateSigningRequest(d) if d.new.is_some() => vec![d.key()],
            _ => Vec::new(),
        }
    }

    fn reconcile(&self, context: &Context<'_>, key: &Key) -> Plan {
        let Some(csr) = context.stores.csrs.get(key) else { return Plan::none() };
        if !is(&csr, "Approved") || is(&csr, "Denied") || is(&csr, "Failed") || is_issued(&csr) {
            return Plan::none();
        }
        let Some(authority) = self.authorities.get(csr.spec.signer_name.as_str()) else {
            return Plan::none();
        };
        let mut done = (*csr).clone();
        let status = done.status.get_or_insert_default();
        match self.sign(authority, &csr, context.now) {
            Ok(pem) => status.certificate = Some(ByteString(pem.into_bytes())),
            Err(why) => status.conditions.get_or_insert_default().push(failed(why, context.now)),
        }
        Plan::of(vec![update(&done, "status")])
    }
}

fn failed(message: String, now: Timestamp) -> CertificateSigningRequestCondition {
    CertificateSigningRequestCondition {
        type_: "Failed".into(),
        status: "True".into(),
        reason: Some("SignerValidationFailure".into()),
        message: Some(message),
        last_update_time: Some(Time(now)),
        last_transition_time: Some(Time(now)),
    }
}

/// Why this signer does not sign this request.
fn refusal(signer: &str, parsed: &Parsed) -> Option<String> {
    let client_auth = parsed.usages.iter().any(|u| u == "client auth");
    let reason = match signer {
        KUBELET_CLIENT => parsed.not_kubelet_client(),
        KUBELET_SERVING => parsed.not_kubelet_serving(),
        CLIENT if !client_auth || !parsed.used_for(&[], super::CLIENT_USAGES) => {
            Some("usages did not match [key encipherment digital signature client auth]")
        }
        _ => None,
    };
    reason.map(Into::into)
}

impl Signing {
    fn sign(
        &self,
        authority: &Authority,
        csr: &CertificateSigningRequest,
        now: Timestamp,
    ) -> Result<String, String> {
        let mut parsed = parse(csr)?;
        if let Some(why) = refusal(&csr.spec.signer_name, &parsed) {
            return Err(why);
        }
        let life = csr.spec.expiration_seconds.map_or(self.duration, |s| {
            let asked = u64::try_from(s.max(SHORTEST)).unwrap_or(u64::MAX);
            Duration::from_secs(asked).min(self.duration)
        });
        let from = now.as_second().saturating_sub_unsigned(BACKDATE.as_secs());
        let until = now.as_second().saturating_add_unsigned(life.as_secs()).min(authority.not_after);
        let (key_usages, extended) = usages(&parsed.usages)?;
        let params = &mut parsed.params.params;
        params.is_ca = IsCa::ExplicitNoCa;
        params.key_usages = key_usages;
        params.extended_key_usages = extended;
        params.use_authority_key_identifier_extension = true;
        params.not_before = rcgen::date_time_ymd(1970, 1, 1) + since_epoch(from);
        params.not_after = rcgen::date_time_ymd(1970, 1, 1) + since_epoch(until);
        let certificate = parsed.params.signed_by(&authority.issuer).map_err(|e| e.to_string())?;
        Ok(certificate.pem())
    }
}

fn since_epoch(seconds: i64) -> Duration {
    Duration::from_secs(u64::try_from(seconds).unwrap_or(0))
}

type Usages = (Vec<KeyUsagePurpose>, Vec<ExtendedKeyUsagePurpose>);

/// Kubernetes' names of usages as X.509's.
fn usages(names: &[String]) -> Result<Usages, String> {
    let (mut plain, mut extended) = Usages::default();
    for name in names {
        match name.as_str() {
            "signing" | "digital signature" => plain.push(KeyUsagePurpose::DigitalSignature),
            "content commitment" => plain.push(KeyUsagePurpose::ContentCommitment),
            "key encipherment" => plain.push(KeyUsagePurpose::KeyEncipherment),
            "key agreement" => plain.push(KeyUsagePurpose::KeyAgreement),
            "data encipherment" => plain.push(KeyUsagePurpose::DataEncipherment),
            "any" => extended.push(ExtendedKeyUsagePurpose::Any),
            "server auth" => extended.push(ExtendedKeyUsagePurpose::ServerAuth),
            "client auth" => extended.push(ExtendedKeyUsagePurpose::ClientAuth),
            "code signing" => extended.push(ExtendedKeyUsagePurpose::CodeSigning),
            "email protection" | "s/mime" => extended.push(ExtendedKeyUsagePurpose::EmailProtection),
            "timestamping" => extended.push(ExtendedKeyUsagePurpose::TimeStamping),
            "ocsp signing" => extended.push(ExtendedKeyUsagePurpose::OcspSigning),
            other => return Err(format!("unrecognized key usage: {other}")),
        }
    }
    plain.sort_by_key(|u| format!("{u:?}"));
    plain.dedup();
    Ok((plain, extended))
}
