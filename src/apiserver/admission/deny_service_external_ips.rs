//! DenyServiceExternalIPs: no new use of `spec.externalIPs` (CVE-2020-8554). Off by default, as upstream.

use api::Object;
use serde_json::Value;

use super::{Operation, Plugin, Review};

pub(crate) struct DenyServiceExternalIps;

#[async_trait::async_trait]
impl Plugin for DenyServiceExternalIps {
    async fn validate(&self, review: &Review<'_>) -> api::Result<()> {
        let applies =
            review.is("", "services") && matches!(review.operation, Operation::Create | Operation::Update);
        match (applies, review.object.as_deref()) {
            (true, Some(new)) if adds_addresses(new, review.old) => {
                Err(review.forbidden("Use of external IPs is denied by admission control"))
            }
            _ => Ok(()),
        }
    }
}

fn adds_addresses(new: &Object, old: Option<&Object>) -> bool {
    let had: &[Value] = old.map_or(&[], |old| old.list_at("spec.externalIPs"));
    new.list_at("spec.externalIPs").iter().any(|address| !had.contains(address))
}
