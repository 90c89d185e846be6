//! Heals allocations: an address or port that a Service has without its key gets the key, a key without a Service
//! goes away. Nothing breaks them in normal work; a restored backup or `kubectl delete ipaddress` does.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use api::Object;
use tokio_util::sync::CancellationToken;

use super::{Claim, owner, parent, plan, ports_prefix};
use crate::server::Server;
use crate::store::{self, Compare, Op, Range, Txn, prefix_end};

/// Time between two passes.
const EVERY: Duration = Duration::from_secs(180);
/// Keys younger than this may belong to a Service that this server has not seen yet, seconds.
const GRACE: i64 = 60;

/// Repairs at start and from time to time, until `stop`. Several servers may do it at once.
pub(crate) async fn run(server: Arc<Server>, stop: CancellationToken) {
    let mut ticks = tokio::time::interval(EVERY);
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            _ = ticks.tick() => {}
        }
        if let Err(error) = pass(&server).await {
            tracing::warn!(message = error.message(), "could not repair the allocations of services");
        }
    }
}

/// One pass over all services and all keys.
pub(crate) async fn pass(server: &Server) -> api::Result<()> {
    let services = server.cached_list(&server.resource("", "services"), None);
    for service in &services {
        for claim in plan::claims_of(service) {
            restore(server, &claim, service).await?;
        }
    }
    let held: BTreeMap<String, Vec<Claim>> =
        services.iter().map(|service| (owner(service), plan::claims_of(service))).collect();
    let addresses = server.cached_list(&server.resource("networking.k8s.io", "ipaddresses"), None);
    for address in addresses.iter().filter(|address| orphan(address, &held)) {
        let Ok(ip) = address.name().parse::<IpAddr>() else { continue };
        forget(server, &Claim::Address(ip), &parent(address)).await?;
    }
    orphan_ports(server, &held).await
}

/// Gives the service the key of what it has, if nobody has it.
async fn restore(server: &Server, claim: &Claim, service: &Object) -> api::Result<()> {
    let key = claim.key(server);
    let (found, _) = store::get(server.kv(), &key).await?;
    match found {
        None => {
            // The service must still have it: its own key is compared, too.
            let resource = server.resource("", "services");
            let own = crate::registry::key(server.config(), &resource, service.namespace(), service.name());
            let revision = service.resource_version().parse().unwrap_or_default();
            let put = Op::Put { key: key.clone(), value: claim.value(service), lease: 0 };
            let compare =
                vec![Compare::ModRevision { key, revision: 0 }, Compare::ModRevision { key: own, revision }];
            let done = server.kv().txn(Txn { compare, then: vec![put], otherwise: Vec::new() }).await?;
            if done.succeeded {
                tracing::info!(service = owner(service), ?claim, "restored a lost allocation");
            }
        }
        Some(kv) if !claim.belongs_to(&kv.value, service) => {
            tracing::error!(
                service = owner(service),
                ?claim,
                "two services have the same allocation: recreate one"
            );
        }
        Some(_) => {}
    }
    Ok(())
}

fn orphan(address: &Object, held: &BTreeMap<String, Vec<Claim>>) -> bool {
    let managed = address.label("ipaddress.kubernetes.io/managed-by") == Some("ipallocator.k8s.io");
    let born = api::time::parse(address.creation_timestamp()).map_or(0, |at| at.as_second());
    let old = born + GRACE < api::time::now().as_second();
    let claim = address.name().parse().ok().map(Claim::Address);
    let used = held.get(&parent(address)).is_some_and(|claims| claim.is_some_and(|c| claims.contains(&c)));
    managed && old && !used
}

/// Deletes the key unless the service really has it.
async fn forget(server: &Server, claim: &Claim, service: &str) -> api::Result<()> {
    let key = claim.key(server);
    let (Some(kv), _) = store::get(server.kv(), &key).await? else { return Ok(()) };
    let (namespace, name) = service.split_once('/').unwrap_or_default();
    let resource = server.resource("", "services");
    let own = crate::registry::key(server.config(), &resource, namespace, name);
    let (stored, _) = store::get(server.kv(), &own).await?;
    let has = |kv: &store::KeyValue| {
        Object::from_slice(&kv.value).is_ok_and(|s| plan::claims_of(&s).contains(claim))
    };
    if stored.as_ref().is_some_and(has) {
        return Ok(());
    }
    let compare = vec![
        Compare::ModRevision { key: key.clone(), revision: kv.mod_revision },
        Compare::ModRevision { key: own, revision: stored.map_or(0, |kv| kv.mod_revision) },
    ];
    server.kv().txn(Txn { compare, then: vec![Op::Delete { key }], otherwise: Vec::new() }).await?;
    tracing::info!(service, ?claim, "released an allocation that nobody uses");
    Ok(())
}

async fn orphan_ports(server: &Server, held: &BTreeMap<String, Vec<Claim>>) -> api::Result<()> {
    let prefix = ports_prefix(server.config());
    let end = Some(prefix_end(&prefix));
    let page = server.kv().range(Range { key: prefix.clone(), end, ..Range::default() }).await?;
    for kv in page.kvs {
        let Some(port) = kv.key.strip_prefix(&prefix).and_then(|text| text.parse().ok()) else { continue };
        let service = String::from_utf8_lossy(&kv.value).into_owned();
        let claim = Claim::Port(port);
        if !held.get(&service).is_some_and(|claims| claims.contains(&claim)) {
            // Compares the service's own key: one that was just created is not robbed.
            forget(server, &claim, &service).await?;
        }
    }
    Ok(())
}
