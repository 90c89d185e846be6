//! What is written together with an object: service allocations, and the epoch of an election Lease.

use super::Scope;
use crate::{
    alloc, registry,
    store::{self, Compare, Extra, Op},
};
use api::Object;

/// What a create or update of an object writes beside it; may fill in allocated values.
pub(super) async fn write(scope: &Scope<'_>, new: &mut Object, old: Option<&Object>) -> api::Result<Extra> {
    match (scope.resource.group.as_str(), scope.resource.plural.as_str()) {
        ("", "services") if scope.subresource.is_empty() => alloc::prepare(scope.server, new, old).await,
        ("coordination.k8s.io", "leases") if scope.namespace != "kube-node-lease" => {
            epoch(scope, new, old).await
        }
        _ => Ok(Extra::default()),
    }
}

/// What a delete of an object writes beside it.
pub(super) async fn delete(scope: &Scope<'_>, old: &Object) -> api::Result<Extra> {
    match (scope.resource.group.as_str(), scope.resource.plural.as_str()) {
        ("", "services") => alloc::release(scope.server, old).await,
        _ => Ok(Extra::default()),
    }
}

/// A new holder begins a new epoch: the number goes into the Lease and, in the same transaction, under a key
/// that fenced writes compare. The number is the server's: whatever the client wrote is replaced.
async fn epoch(scope: &Scope<'_>, new: &mut Object, old: Option<&Object>) -> api::Result<Extra> {
    const HOLDER: &str = "spec.holderIdentity";
    const EPOCH: &str = "spec.leaseTransitions";
    let holder = new.str_at(HOLDER);
    if holder.is_empty() || old.is_some_and(|old| old.str_at(HOLDER) == holder) {
        match old.and_then(|old| old.i64_at(EPOCH)) {
            Some(epoch) => new.set(EPOCH, epoch),
            None => drop(new.remove(EPOCH)),
        }
        return Ok(Extra::default());
    }
    let lease = format!("{}/{}", new.namespace(), new.name());
    let key = registry::epoch_key(scope.server.config(), &lease);
    let (stored, _) = store::get(scope.server.kv(), &key).await?;
    let last = stored.as_ref().and_then(|kv| std::str::from_utf8(&kv.value).ok()?.parse::<i64>().ok());
    let next = last.map_or(0, |last| last + 1);
    new.set(EPOCH, next);
    let revision = stored.map_or(0, |kv| kv.mod_revision);
    Ok(Extra {
        compare: vec![Compare::ModRevision { key: key.clone(), revision }],
        then: vec![Op::Put { key, value: next.to_string().into(), lease: 0 }],
    })
}
