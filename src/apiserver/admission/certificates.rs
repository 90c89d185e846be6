//! Certificate signing requests: who asked is recorded, and approving or signing needs leave for the signer.
//!
//! Requester: `spec.username`, `uid`, `groups` and `extra`, by which the controllers decide, are written once, by
//! the create verb, from the request's user, and never changed. The others are upstream's plug-ins.

use api::Object;
use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use rustls::pki_types::CertificateSigningRequestDer;
use rustls::pki_types::pem::PemObject;
use serde_json::Value;
use x509_parser::prelude::{FromDer, X509CertificationRequest};

use super::{Operation, Plugin, Review};
use crate::authn::MASTERS;
use crate::authz::Ask;

const GROUP: &str = "certificates.k8s.io";
const PLURAL: &str = "certificatesigningrequests";
const CLIENT_SIGNER: &str = "kubernetes.io/kube-apiserver-client";
const WHO: [&str; 4] = ["spec.username", "spec.uid", "spec.groups", "spec.extra"];

pub(crate) struct Requester;
pub(crate) struct Approval;
pub(crate) struct Signing;
pub(crate) struct SubjectRestriction;

#[async_trait::async_trait]
impl Plugin for Requester {
    async fn admit(&self, review: &mut Review<'_>) -> api::Result<()> {
        if !review.is_any(GROUP, PLURAL) {
            return Ok(());
        }
        let old = review.old;
        if let (Operation::Update, Some(request)) = (review.operation, review.object.as_deref_mut()) {
            keep(request, old);
        }
        Ok(())
    }
}

fn keep(request: &mut Object, old: Option<&Object>) {
    for field in WHO {
        match old.and_then(|old| old.get(field)) {
            Some(value) => request.set(field, value.clone()),
            None => {
                request.remove(field);
            }
        }
    }
}

#[async_trait::async_trait]
impl Plugin for Approval {
    async fn validate(&self, review: &Review<'_>) -> api::Result<()> {
        let applies = review.is_any(GROUP, PLURAL)
            && review.subresource == "approval"
            && review.operation == Operation::Update;
        match review.old.filter(|_| applies) {
            Some(old) => demand(review, "approve", old.str_at("spec.signerName")),
            None => Ok(()),
        }
    }
}

#[async_trait::async_trait]
impl Plugin for Signing {
    async fn validate(&self, review: &Review<'_>) -> api::Result<()> {
        let applies = review.is_any(GROUP, PLURAL)
            && review.subresource == "status"
            && review.operation == Operation::Update;
        match (review.old.filter(|_| applies), review.object.as_deref()) {
            (Some(old), Some(new)) if is_signed(old, new) => {
                demand(review, "sign", old.str_at("spec.signerName"))
            }
            _ => Ok(()),
        }
    }
}

/// Whether the certificate or the failure is set by this update: only a signer may.
fn is_signed(old: &Object, new: &Object) -> bool {
    let failed = |request: &Object| {
        let conditions = request.list_at("status.conditions").iter();
        conditions
            .filter(|c| c.get("type").and_then(Value::as_str) == Some("Failed"))
            .cloned()
            .collect::<Vec<_>>()
    };
    old.get("status.certificate") != new.get("status.certificate") || failed(old) != failed(new)
}

fn demand(review: &Review<'_>, verb: &str, signer: &str) -> api::Result<()> {
    let domain = format!("{}/*", signer.split('/').next().unwrap_or_default());
    let allowed = review.server.authorizer().is_some_and(|authorizer| {
        [signer, &domain].iter().any(|name| {
            let ask = Ask { name, ..Ask::resource(verb, GROUP, "signers") };
            authorizer.allows(review.user, &ask)
        })
    });
    match allowed {
        true => Ok(()),
        false => {
            Err(review.forbidden(format!("user not permitted to {verb} requests with signerName {signer:?}")))
        }
    }
}

#[async_trait::async_trait]
impl Plugin for SubjectRestriction {
    async fn validate(&self, review: &Review<'_>) -> api::Result<()> {
        let applies = review.is(GROUP, PLURAL) && review.operation == Operation::Create;
        let Some(request) = review.object.as_deref().filter(|_| applies) else { return Ok(()) };
        if request.str_at("spec.signerName") != CLIENT_SIGNER {
            return Ok(());
        }
        match subject(request) {
            None => Err(review.forbidden("unable to parse the PKCS#10 request")),
            Some((_, organizations)) if organizations.iter().any(|group| group == MASTERS) => Err(review
                .forbidden(format!("use of {CLIENT_SIGNER} signer with {MASTERS} group is not allowed"))),
            Some(_) => Ok(()),
        }
    }
}

/// Common name and organizations that a CertificateSigningRequest asks for.
pub(super) fn subject(request: &Object) -> Option<(String, Vec<String>)> {
    let pem = BASE64_STANDARD.decode(request.str_at("spec.request")).ok()?;
    let der = CertificateSigningRequestDer::from_pem_slice(&pem).ok()?;
    let (_, parsed) = X509CertificationRequest::from_der(&der).ok()?;
    let subject = &parsed.certification_request_info.subject;
    let name = subject.iter_common_name().next().and_then(|name| name.as_str().ok()).unwrap_or_default();
    let organizations =
        subject.iter_organization().filter_map(|o| o.as_str().ok()).map(str::to_owned).collect();
    Some((name.to_owned(), organizations))
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use rcgen::{CertificateParams, DnType, KeyPair};
    use serde_json::json;

    /// A CertificateSigningRequest with this subject.
    pub(crate) fn request(name: &str, organization: &str, signer: &str) -> Object {
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, name);
        params.distinguished_name.push(DnType::OrganizationName, organization);
        let pem = params.serialize_request(&KeyPair::generate().unwrap()).unwrap().pem().unwrap();
        let mut request = Object::new("certificates.k8s.io/v1", "CertificateSigningRequest");
        request.set("spec.request", BASE64_STANDARD.encode(pem));
        request.set("spec.signerName", signer);
        request
    }

    #[test]
    fn subjects_are_read() {
        let found = subject(&request("system:node:w1", "system:nodes", "x/y"));
        assert_eq!(found, Some(("system:node:w1".into(), vec!["system:nodes".into()])));
        assert_eq!(subject(&Object::new("v1", "X")), None);
    }

    #[test]
    fn the_requester_stays() {
        let mut request = request("a", "b", "x/y");
        request.set("spec.username", "bob");
        let mut changed = request.clone();
        changed.set("spec.username", "eve");
        changed.set("spec.uid", "1");
        keep(&mut changed, Some(&request));
        assert_eq!(changed, request);
    }

    #[test]
    fn signing_is_noticed() {
        let old = request("a", "b", "x/y");
        let check = |field: &str, value: Value, expect: bool| {
            let mut new = old.clone();
            new.set(field, value);
            assert_eq!(is_signed(&old, &new), expect, "{field}");
        };
        check("status.certificate", json!("abc"), true);
        check("status.conditions", json!([{"type": "Failed", "status": "True"}]), true);
        check("status.conditions", json!([{"type": "Other", "status": "True"}]), false);
    }
}
