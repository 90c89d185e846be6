//! The csrcleaner controller: requests that nobody needs any more.

use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::certificates::v1::CertificateSigningRequest;
use x509_parser::pem::parse_x509_pem;

use super::{is, is_issued};
use crate::{
    controller::{Context, Controller, Key, Plan, delete, elapsed},
    store::{Change, Stores},
};

const HOUR: Duration = Duration::from_secs(3600);
const DAY: Duration = Duration::from_secs(24 * 3600);

/// The controller; it keeps nothing.
pub(crate) struct Cleaning;

impl Controller for Cleaning {
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
        let left = left(&csr, context.now);
        if left.is_zero() {
            return Plan::of(vec![delete(&*csr)]);
        }
        Plan { requeue: Some(left), ..Plan::none() }
    }
}

/// How long a request stays.
fn left(csr: &CertificateSigningRequest, now: Timestamp) -> Duration {
    let created = csr.metadata.creation_timestamp.as_ref().map_or(now, |t| t.0);
    let conditions = csr.status.iter().flat_map(|s| s.conditions.iter().flatten());
    let decided =
        conditions.filter_map(|c| c.last_update_time.as_ref()).map(|t| t.0).max().unwrap_or(created);
    let decided_long = HOUR.saturating_sub(elapsed(decided, now));
    if expired(csr, now) {
        return Duration::ZERO;
    }
    if is_issued(csr) || is(csr, "Denied") || is(csr, "Failed") {
        return decided_long;
    }
    DAY.saturating_sub(elapsed(created, now))
}

fn expired(csr: &CertificateSigningRequest, now: Timestamp) -> bool {
    let Some(certificate) = csr.status.as_ref().and_then(|s| s.certificate.as_ref()) else { return false };
    let Ok((_, pem)) = parse_x509_pem(&certificate.0) else { return false };
    pem.parse_x509().is_ok_and(|c| c.validity().not_after.timestamp() < now.as_second())
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::testing::{at, cluster_meta};

    #[test]
    fn how_long() {
        let check = |status: Value, now: &str, hours: u64| {
            let spec = json!({"request": "", "signerName": "a/b"});
            let value = json!({"metadata": cluster_meta("c"), "spec": spec, "status": status});
            let csr: CertificateSigningRequest = serde_json::from_value(value).unwrap();
            assert_eq!(left(&csr, at(now)).as_secs(), hours * 3600);
        };
        let condition =
            |kind: &str| json!({"type": kind, "status": "True", "lastUpdateTime": "2026-01-01T00:00:00Z"});
        check(json!({}), "2026-01-01T01:00:00Z", 23);
        check(json!({}), "2026-01-03T01:00:00Z", 0);
        check(json!({"conditions": [condition("Denied")]}), "2026-01-01T00:00:00Z", 1);
        check(json!({"conditions": [condition("Failed")]}), "2026-01-01T01:00:00Z", 0);
        check(json!({"conditions": [condition("Approved")]}), "2026-01-01T01:00:00Z", 23);
        check(
            json!({"conditions": [condition("Approved")], "certificate": "eA=="}),
            "2026-01-01T00:00:00Z",
            1,
        );
    }
}
