//! Certificates that end a chain: issuing one, and judging whether one on disk still serves.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::time::{Duration, SystemTime};

use rcgen::{
    CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, KeyPair, KeyUsagePurpose,
    PublicKeyData, SanType,
};
use x509_parser::extensions::GeneralName;
use x509_parser::pem::parse_x509_pem;
use x509_parser::prelude::{FromDer, X509Certificate};

use super::Authority;
use crate::Error;

/// Years that a certificate lives.
const LEAF_YEARS: u32 = 1;
/// A certificate with less life left than this is made again.
const RENEW_BEFORE: Duration = Duration::from_secs(90 * DAY);
/// Clocks of a cluster differ by less than this.
const CLOCK_SKEW: Duration = Duration::from_secs(600);
const DAY: u64 = 24 * 3600;

/// What a certificate may be used for on the wire.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Usage {
    Server,
    Client,
    Both,
}

impl Usage {
    fn purposes(self) -> Vec<ExtendedKeyUsagePurpose> {
        match self {
            Self::Server => vec![ExtendedKeyUsagePurpose::ServerAuth],
            Self::Client => vec![ExtendedKeyUsagePurpose::ClientAuth],
            Self::Both => vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth],
        }
    }
}

/// What a certificate says about its holder.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Subject {
    pub(crate) common_name: String,
    /// The user's group; empty for none.
    pub(crate) organization: String,
    /// DNS names and addresses as text.
    pub(crate) names: Vec<String>,
    pub(crate) usage: Usage,
}

/// A fresh key and its certificate: (certificate, key), both PEM.
pub(crate) fn issue(authority: &Authority, subject: &Subject) -> Result<(String, String), Error> {
    let failed =
        |source| Error::Issue { what: format!("the certificate of {}", subject.common_name), source };
    let mut params = CertificateParams::new(Vec::new()).map_err(failed)?;
    let mut parts = vec![(DnType::CommonName, subject.common_name.as_str())];
    if !subject.organization.is_empty() {
        parts.push((DnType::OrganizationName, subject.organization.as_str()));
    }
    params.distinguished_name = name(&parts);
    params.subject_alt_names = subject.names.iter().map(|n| san(n)).collect::<Result<_, _>>()?;
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature, KeyUsagePurpose::KeyEncipherment];
    params.extended_key_usages = subject.usage.purposes();
    params.use_authority_key_identifier_extension = true;
    (params.not_before, params.not_after) = validity(LEAF_YEARS);
    let key = KeyPair::generate().map_err(failed)?;
    let certificate = params.signed_by(&key, &authority.issuer).map_err(failed)?;
    Ok((certificate.pem(), key.serialize_pem()))
}

pub(crate) fn name(parts: &[(DnType, &str)]) -> DistinguishedName {
    let mut name = DistinguishedName::new();
    for (kind, value) in parts {
        name.push(kind.clone(), *value);
    }
    name
}

fn san(text: &str) -> Result<SanType, Error> {
    match text.parse::<IpAddr>() {
        Ok(address) => Ok(SanType::IpAddress(address)),
        Err(_) => {
            let name = text.try_into().map_err(|_| Error::BadName { name: text.into() })?;
            Ok(SanType::DnsName(name))
        }
    }
}

/// From a little before now (clocks differ) until `years` later; the fields that rcgen wants them for.
pub(crate) fn validity<T: From<SystemTime>>(years: u32) -> (T, T) {
    let start = SystemTime::now() - CLOCK_SKEW;
    (start.into(), (start + Duration::from_secs(u64::from(years) * 365 * DAY)).into())
}

/// Whether a certificate on disk still is what `issue` would make: key, authority, names, use, life.
pub(crate) fn fresh(certificate: &str, key: &str, authority: &Authority, subject: &Subject) -> bool {
    let (Ok(key), Ok((_, pem))) = (KeyPair::from_pem(key), parse_x509_pem(certificate.as_bytes())) else {
        return false;
    };
    let Ok((_, there)) = X509Certificate::from_der(&pem.contents) else { return false };
    there.public_key().subject_public_key.data.as_ref() == key.der_bytes()
        && signed_by(&there, authority)
        && says(&there, subject)
        && lives(&there, SystemTime::now())
}

/// Whether the certificate carries the key identifier of the authority's key.
fn signed_by(certificate: &X509Certificate<'_>, authority: &Authority) -> bool {
    let Ok((_, pem)) = parse_x509_pem(authority.certificate.as_bytes()) else { return false };
    let Ok((_, ca)) = X509Certificate::from_der(&pem.contents) else { return false };
    use x509_parser::extensions::ParsedExtension::{AuthorityKeyIdentifier, SubjectKeyIdentifier};
    let wanted = ca.iter_extensions().find_map(|e| match e.parsed_extension() {
        SubjectKeyIdentifier(id) => Some(id.0),
        _ => None,
    });
    let claimed = certificate.iter_extensions().find_map(|e| match e.parsed_extension() {
        AuthorityKeyIdentifier(id) => id.key_identifier.as_ref().map(|k| k.0),
        _ => None,
    });
    wanted.is_some() && wanted == claimed
}

fn says(certificate: &X509Certificate<'_>, subject: &Subject) -> bool {
    let name = certificate.subject();
    let common = name.iter_common_name().next().and_then(|a| a.as_str().ok());
    let organizations: Vec<&str> = name.iter_organization().filter_map(|a| a.as_str().ok()).collect();
    let names: BTreeSet<String> = certificate
        .subject_alternative_name()
        .ok()
        .flatten()
        .map(|e| e.value.general_names.iter().filter_map(text).collect())
        .unwrap_or_default();
    let (server, client) = certificate
        .extended_key_usage()
        .ok()
        .flatten()
        .map_or((false, false), |e| (e.value.server_auth, e.value.client_auth));
    common == Some(subject.common_name.as_str())
        && organizations.concat() == subject.organization
        && names == subject.names.iter().cloned().collect()
        && server == (subject.usage != Usage::Client)
        && client == (subject.usage != Usage::Server)
}

fn text(name: &GeneralName<'_>) -> Option<String> {
    match name {
        GeneralName::DNSName(name) => Some((*name).to_string()),
        GeneralName::IPAddress(bytes) => match bytes.len() {
            4 => <[u8; 4]>::try_from(*bytes).ok().map(|b| IpAddr::from(b).to_string()),
            _ => <[u8; 16]>::try_from(*bytes).ok().map(|b| IpAddr::from(b).to_string()),
        },
        _ => None,
    }
}

fn lives(certificate: &X509Certificate<'_>, now: SystemTime) -> bool {
    let limit = now + RENEW_BEFORE;
    let seconds = limit.duration_since(SystemTime::UNIX_EPOCH).map_or(i64::MAX, |d| d.as_secs() as i64);
    certificate.validity().not_after.timestamp() > seconds
}
