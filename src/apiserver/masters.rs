//! Which API servers are alive, and the Service `default/kubernetes` that leads to them.
//!
//! Each server holds a key `/registry/masterleases/ADDRESS` on a store lease of three seconds and renews it every
//! second; every server keeps the endpoints equal to the keys that exist. A server that dies is gone from the
//! endpoints when its lease ends; one that stops takes its key away itself. Without a store nothing changes:
//! endpoints that were right stay.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use api::Object;
use api::status::Reason;
use serde_json::{Value, json};
use tokio::time::MissedTickBehavior;
use tokio_util::sync::CancellationToken;

use crate::alloc;
use crate::flags::Config;
use crate::server::Server;
use crate::store::{KvError, KvResult, Op, Range, Txn, prefix_end};

/// Seconds a master lives in the endpoints without a sign of life.
const LEASE: i64 = 3;
/// Time between two signs of life.
const EVERY: Duration = Duration::from_secs(1);

fn prefix(config: &Config) -> String {
    format!("{}/masterleases/", config.prefix)
}

/// What servers do for all of them together, until `stop`: the endpoints of `default/kubernetes` (unless
/// `--endpoint-reconciler-type=none`) and the repair of allocations. Starts after bootstrap.
pub(crate) async fn run(server: Arc<Server>, stop: CancellationToken) {
    let repair = alloc::repair::run(server.clone(), stop.clone());
    match server.config().flags.endpoint_reconciler_type.as_str() {
        "none" => repair.await,
        _ => drop(tokio::join!(repair, announce(&server, &stop))),
    }
}

/// Keeps this server in the endpoints, and dead ones out of them.
async fn announce(server: &Server, stop: &CancellationToken) {
    let mut lease = 0;
    let mut ticks = tokio::time::interval(EVERY);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            () = stop.cancelled() => break,
            _ = ticks.tick() => {}
        }
        if let Err(error) = beat(server, &mut lease).await {
            tracing::warn!(error = &error as &dyn std::error::Error, "could not renew the master lease");
            continue;
        }
        if let Err(error) = reconcile(server).await {
            tracing::warn!(
                message = error.message(),
                "could not reconcile the endpoints of default/kubernetes"
            );
        }
    }
    // A clean stop: out of the endpoints now, not in three seconds.
    let goodbye = async {
        let _ = server.kv().lease_revoke(lease).await;
        let _ = reconcile(server).await;
    };
    let _ = tokio::time::timeout(EVERY, goodbye).await;
}

async fn beat(server: &Server, lease: &mut i64) -> KvResult<()> {
    if *lease != 0 {
        match server.kv().lease_keep_alive(*lease).await {
            Ok(left) if left > 0 => return Ok(()),
            Ok(_) | Err(KvError::Refused(_)) => *lease = 0,
            Err(error) => return Err(error),
        }
    }
    let granted = server.kv().lease_grant(LEASE).await?;
    let address = server.config().advertise_address;
    let value = endpoints(&BTreeSet::from([address]), server.config()).to_bytes();
    let key = format!("{}{address}", prefix(server.config()));
    let put = Op::Put { key, value, lease: granted };
    server.kv().txn(Txn { compare: Vec::new(), then: vec![put], otherwise: Vec::new() }).await?;
    *lease = granted;
    Ok(())
}

/// Addresses of all masters with a living lease.
async fn alive(server: &Server) -> KvResult<BTreeSet<IpAddr>> {
    let key = prefix(server.config());
    let end = Some(prefix_end(&key));
    let page =
        server.kv().range(Range { key: key.clone(), end, keys_only: true, ..Range::default() }).await?;
    Ok(page.kvs.iter().filter_map(|kv| kv.key.strip_prefix(&key)?.parse().ok()).collect())
}

async fn reconcile(server: &Server) -> api::Result<()> {
    let masters = alive(server).await?;
    if masters.is_empty() {
        // Nobody to lead to: better old endpoints than none.
        return Ok(());
    }
    let config = server.config();
    ensure(server, "", "services", service(config), |existing| existing).await?;
    let wanted = endpoints(&masters, config);
    let subsets = wanted.list_at("subsets").to_vec();
    ensure(server, "", "endpoints", wanted, |mut existing| {
        existing.set("subsets", subsets.clone());
        existing
    })
    .await?;
    let wanted = slice(&masters, config);
    let (ends, ports) = (wanted.list_at("endpoints").to_vec(), wanted.list_at("ports").to_vec());
    ensure(server, "discovery.k8s.io", "endpointslices", wanted, |mut existing| {
        existing.set("endpoints", ends.clone());
        existing.set("ports", ports.clone());
        existing
    })
    .await
}

/// Creates the object, or changes the existing one. What the cache shows to be right is not touched.
async fn ensure(
    server: &Server,
    group: &str,
    plural: &str,
    wanted: Object,
    change: impl Fn(Object) -> Object + Send + Sync,
) -> api::Result<()> {
    let resource = server.resource(group, plural);
    let (namespace, name) = (wanted.namespace().to_owned(), wanted.name().to_owned());
    match server.cached_get(&resource, &namespace, &name) {
        Some(existing) if change((*existing).clone()) == *existing => return Ok(()),
        Some(_) => {}
        None => match server.create(&resource, wanted).await {
            Ok(_) => return Ok(()),
            Err(error) if error.reason() == Reason::AlreadyExists => {}
            Err(error) => return Err(error),
        },
    }
    server.update_with(&resource, &namespace, &name, |existing| Ok(change(existing))).await.map(drop)
}

fn object(value: Value) -> Object {
    Object::try_from(value).unwrap_or_default()
}

fn service(config: &Config) -> Object {
    let address = alloc::first_address(&config.service_cidr).to_string();
    object(json!({
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {
            "name": "kubernetes",
            "namespace": "default",
            "labels": {"component": "apiserver", "provider": "kubernetes"},
        },
        "spec": {
            "type": "ClusterIP",
            "clusterIP": address,
            "clusterIPs": [address],
            "ports": [{"name": "https", "port": 443, "protocol": "TCP", "targetPort": config.flags.secure_port}],
            "sessionAffinity": "None",
        },
    }))
}

fn endpoints(masters: &BTreeSet<IpAddr>, config: &Config) -> Object {
    let addresses: Vec<Value> = masters.iter().map(|ip| json!({"ip": ip.to_string()})).collect();
    object(json!({
        "apiVersion": "v1",
        "kind": "Endpoints",
        "metadata": {
            "name": "kubernetes",
            "namespace": "default",
            "labels": {"endpointslice.kubernetes.io/skip-mirror": "true"},
        },
        "subsets": [{"addresses": addresses, "ports": [port(config)]}],
    }))
}

fn slice(masters: &BTreeSet<IpAddr>, config: &Config) -> Object {
    let v6 = config.advertise_address.is_ipv6();
    let ends = masters.iter().filter(|ip| ip.is_ipv6() == v6);
    let ends: Vec<Value> =
        ends.map(|ip| json!({"addresses": [ip.to_string()], "conditions": {"ready": true}})).collect();
    object(json!({
        "apiVersion": "discovery.k8s.io/v1",
        "kind": "EndpointSlice",
        "metadata": {
            "name": "kubernetes",
            "namespace": "default",
            "labels": {"kubernetes.io/service-name": "kubernetes"},
        },
        "addressType": if v6 { "IPv6" } else { "IPv4" },
        "endpoints": ends,
        "ports": [port(config)],
    }))
}

fn port(config: &Config) -> Value {
    json!({"name": "https", "port": config.flags.secure_port, "protocol": "TCP"})
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::flags::tests::flags;

    #[test]
    fn objects_for_masters() {
        let config = Config::try_from(flags(&["--advertise-address=10.90.0.11"])).unwrap();
        let masters: BTreeSet<IpAddr> = ["10.90.0.12", "10.90.0.11"].map(|ip| ip.parse().unwrap()).into();
        let ips: Vec<Value> =
            endpoints(&masters, &config).list_at("subsets")[0]["addresses"].as_array().unwrap().clone();
        assert_eq!(json!(ips), json!([{"ip": "10.90.0.11"}, {"ip": "10.90.0.12"}]));
        assert_eq!(slice(&masters, &config).list_at("endpoints").len(), 2);
        assert_eq!(service(&config).str_at("spec.clusterIP"), "10.96.0.1");
        assert_eq!(slice(&masters, &config).list_at("ports")[0]["port"], 6443);
    }
}
