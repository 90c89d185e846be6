//! Certificate signing requests: what is in one, and who may have which certificate.
//!
//! Keeps true: approving and signing judge the same parsed request; the request's own wishes for being a CA or for
//! other extensions never reach a certificate.

pub(crate) mod approving;
pub(crate) mod cleaning;
pub(crate) mod signing;
#[cfg(test)]
pub(crate) mod tests;

use std::net::IpAddr;

use k8s_openapi::api::certificates::v1::CertificateSigningRequest;
use rcgen::{CertificateSigningRequestParams, DnType, DnValue, SanType};
use x509_parser::{certification_request::X509CertificationRequest, pem::parse_x509_pem, prelude::FromDer};

pub(crate) const CLIENT: &str = "kubernetes.io/kube-apiserver-client";
pub(crate) const KUBELET_CLIENT: &str = "kubernetes.io/kube-apiserver-client-kubelet";
pub(crate) const KUBELET_SERVING: &str = "kubernetes.io/kubelet-serving";
pub(crate) const LEGACY: &str = "kubernetes.io/legacy-unknown";

/// What a request asks for.
pub(crate) struct Parsed {
    pub(crate) params: CertificateSigningRequestParams,
    pub(crate) common_name: String,
    pub(crate) organizations: Vec<String>,
    pub(crate) dns: Vec<String>,
    pub(crate) ips: Vec<IpAddr>,
    /// Other kinds of names: e-mail, URI.
    pub(crate) others: usize,
    pub(crate) usages: Vec<String>,
}

/// Reads a request; the error is a text for people.
pub(crate) fn parse(csr: &CertificateSigningRequest) -> Result<Parsed, String> {
    let (_, pem) = parse_x509_pem(&csr.spec.request.0).map_err(|e| format!("not PEM: {e}"))?;
    let (_, request) =
        X509CertificationRequest::from_der(&pem.contents).map_err(|e| format!("not PKCS#10: {e}"))?;
    let subject = &request.certification_request_info.subject;
    let texts = |list: Vec<&str>| list.into_iter().map(ToOwned::to_owned).collect::<Vec<String>>();
    let common_names = texts(subject.iter_common_name().filter_map(|a| a.as_str().ok()).collect());
    let organizations = texts(subject.iter_organization().filter_map(|a| a.as_str().ok()).collect());
    let params = CertificateSigningRequestParams::from_der(&pem.contents.as_slice().into())
        .map_err(|e| format!("cannot use the request: {e}"))?;
    let named = |kind: &DnType| params.params.distinguished_name.get(kind).map(text);
    // The certificate is made from these; if they say less or something else, somebody would be misled.
    if common_names.len() > 1
        || organizations.len() > 1
        || named(&DnType::CommonName) != common_names.first().cloned()
    {
        return Err("more than one common name or organization".into());
    }
    let mut parsed = Parsed {
        common_name: common_names.into_iter().next().unwrap_or_default(),
        organizations,
        dns: Vec::new(),
        ips: Vec::new(),
        others: 0,
        usages: csr.spec.usages.clone().unwrap_or_default(),
        params,
    };
    for name in &parsed.params.params.subject_alt_names {
        match name {
            SanType::DnsName(name) => parsed.dns.push(name.to_string()),
            SanType::IpAddress(ip) => parsed.ips.push(*ip),
            _ => parsed.others += 1,
        }
    }
    Ok(parsed)
}

fn text(value: &DnValue) -> String {
    match value {
        DnValue::Utf8String(s) => s.clone(),
        DnValue::PrintableString(s) => s.to_string(),
        DnValue::Ia5String(s) => s.to_string(),
        other => format!("{other:?}"),
    }
}

impl Parsed {
    fn has_names(&self) -> bool {
        !self.dns.is_empty() || !self.ips.is_empty() || self.others > 0
    }

    fn is_node(&self) -> bool {
        self.organizations == ["system:nodes"] && self.common_name.starts_with("system:node:")
    }

    /// Usages are among `allowed` and contain `required`.
    fn used_for(&self, required: &[&str], allowed: &[&str]) -> bool {
        self.usages.iter().all(|u| allowed.contains(&u.as_str()))
            && required.iter().all(|r| self.usages.iter().any(|u| u == r))
    }

    /// Why this is not a kubelet's client certificate.
    pub(crate) fn not_kubelet_client(&self) -> Option<&'static str> {
        match () {
            () if !self.is_node() => Some(
                "subject organization is not system:nodes or subject common name does not begin with \"system:node:\"",
            ),
            () if self.has_names() => Some("DNS, email, IP and URI subjectAltNames are not allowed"),
            () if !self.used_for(&["digital signature", "client auth"], CLIENT_USAGES) => {
                Some("usages did not match [key encipherment digital signature client auth]")
            }
            () => None,
        }
    }

    /// Why this is not a kubelet's serving certificate.
    pub(crate) fn not_kubelet_serving(&self) -> Option<&'static str> {
        match () {
            () if !self.is_node() => Some(
                "subject organization is not system:nodes or subject common name does not begin with \"system:node:\"",
            ),
            () if self.others > 0 => Some("email and URI subjectAltNames are not allowed"),
            () if self.dns.is_empty() && self.ips.is_empty() => Some("DNS or IP subjectAltName is required"),
            () if !self.used_for(&["digital signature", "server auth"], SERVER_USAGES) => {
                Some("usages did not match [key encipherment digital signature server auth]")
            }
            () => None,
        }
    }
}

const CLIENT_USAGES: &[&str] = &["key encipherment", "digital signature", "client auth"];
const SERVER_USAGES: &[&str] = &["key encipherment", "digital signature", "server auth"];

/// Whether a condition of this type is set.
pub(crate) fn is(csr: &CertificateSigningRequest, kind: &str) -> bool {
    csr.status
        .iter()
        .flat_map(|s| s.conditions.iter().flatten())
        .any(|c| c.type_ == kind && c.status == "True")
}

/// Whether a certificate has been issued.
pub(crate) fn is_issued(csr: &CertificateSigningRequest) -> bool {
    csr.status.as_ref().and_then(|s| s.certificate.as_ref()).is_some_and(|c| !c.0.is_empty())
}
