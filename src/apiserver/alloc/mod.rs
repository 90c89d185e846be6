//! ClusterIPs and NodePorts: never given twice, however many API servers race.
//!
//! An address is an IPAddress object (as upstream since 1.33), a port is a key `/registry/trireme/nodeports/PORT`.
//! Either is created by the Service's own transaction under the condition that it does not exist: the loser of a
//! race picks again, a failed write leaves nothing behind. [`prepare`] and [`release`] say what to add to the
//! transaction; `repair.rs` heals what was broken by hand.

mod plan;
mod ports;
mod range;
pub(crate) mod repair;

use api::Object;
use api::field::{FieldError, Path};
use api::status::Status;
use bytes::Bytes;
use serde_json::{Value, json};

pub(crate) use range::first_address;

use crate::flags::Config;
use crate::registry;
use crate::server::Server;
use crate::store::{self, Compare, Extra, KeyValue, Op};

/// How often a value is chosen before giving up: each attempt learns of one more that is taken.
const ATTEMPTS: usize = 64;

/// What one key stands for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Claim {
    Address(std::net::IpAddr),
    Port(u16),
}

impl Claim {
    fn key(&self, server: &Server) -> String {
        match self {
            Claim::Address(ip) => {
                let resource = server.resource("networking.k8s.io", "ipaddresses");
                registry::key(server.config(), &resource, "", &ip.to_string())
            }
            Claim::Port(port) => format!("{}{port}", ports_prefix(server.config())),
        }
    }

    fn value(&self, service: &Object) -> Bytes {
        match self {
            Claim::Address(ip) => address_object(*ip, service).to_bytes(),
            Claim::Port(_) => Bytes::from(owner(service)),
        }
    }

    /// Whether the stored value says that this service has it.
    fn belongs_to(&self, value: &[u8], service: &Object) -> bool {
        match self {
            Claim::Address(_) => {
                Object::from_slice(value).is_ok_and(|address| parent(&address) == owner(service))
            }
            Claim::Port(_) => value == owner(service).as_bytes(),
        }
    }
}

/// Prefix of the keys of taken NodePorts.
pub(crate) fn ports_prefix(config: &Config) -> String {
    format!("{}/trireme/nodeports/", config.prefix)
}

fn owner(service: &Object) -> String {
    format!("{}/{}", service.namespace(), service.name())
}

/// `NAMESPACE/NAME` of the service an IPAddress belongs to.
fn parent(address: &Object) -> String {
    format!("{}/{}", address.str_at("spec.parentRef.namespace"), address.str_at("spec.parentRef.name"))
}

fn address_object(ip: std::net::IpAddr, service: &Object) -> Object {
    let object = json!({
        "apiVersion": "networking.k8s.io/v1",
        "kind": "IPAddress",
        "metadata": {
            "name": ip.to_string(),
            "uid": uuid::Uuid::new_v4().to_string(),
            "creationTimestamp": api::time::now_text(),
            "labels": {
                "ipaddress.kubernetes.io/ip-family": if ip.is_ipv6() { "IPv6" } else { "IPv4" },
                "ipaddress.kubernetes.io/managed-by": "ipallocator.k8s.io",
            },
        },
        "spec": {"parentRef": {
            "group": "",
            "resource": "services",
            "namespace": service.namespace(),
            "name": service.name(),
        }},
    });
    Object::try_from(object).unwrap_or_default()
}

/// What a create or update of a Service writes beside it; fills the allocated values into `new`.
///
/// # Errors
/// 422 with upstream's texts when a wanted address or port is taken or out of range, 500 when none is left.
pub(crate) async fn prepare(server: &Server, new: &mut Object, old: Option<&Object>) -> api::Result<Extra> {
    let mut taken = Taken { server, seen: Vec::new() };
    for _ in 0..ATTEMPTS {
        let mut filled = new.clone();
        let plan =
            plan::plan(&mut filled, old, server.config(), &taken).map_err(|error| refuse(new, error))?;
        let mut extra = Extra::default();
        if let Some(claim) = claim_all(server, &plan, &filled, &mut extra).await? {
            // The choice was made on what the cache knew: choose again, knowing better.
            taken.seen.push(claim);
            continue;
        }
        for claim in &plan.release {
            give_back(server, claim, old.unwrap_or(&filled), &mut extra).await?;
        }
        *new = filled;
        return Ok(extra);
    }
    Err(Status::server_timeout(&server.resource("", "services").group_resource(), "allocate", 1))
}

/// Adds all claims of the plan, or returns one that was chosen and turns out to be taken.
async fn claim_all(
    server: &Server,
    plan: &plan::Plan,
    service: &Object,
    extra: &mut Extra,
) -> api::Result<Option<Claim>> {
    for wanted in &plan.claim {
        let key = wanted.claim.key(server);
        let (found, _) = store::get(server.kv(), &key).await?;
        match found {
            // A repair or an earlier attempt has it already for this very service.
            Some(kv) if wanted.claim.belongs_to(&kv.value, service) => {
                extra.compare.push(Compare::ModRevision { key, revision: kv.mod_revision });
            }
            Some(_) if wanted.explicit => {
                return Err(refuse(service, taken_error(&wanted.claim, &wanted.path, service)));
            }
            Some(_) => return Ok(Some(wanted.claim.clone())),
            None => {
                extra.compare.push(Compare::ModRevision { key: key.clone(), revision: 0 });
                extra.then.push(Op::Put { key, value: wanted.claim.value(service), lease: 0 });
            }
        }
    }
    Ok(None)
}

/// What a deletion of a Service writes beside it.
pub(crate) async fn release(server: &Server, old: &Object) -> api::Result<Extra> {
    let mut extra = Extra::default();
    for claim in plan::claims_of(old) {
        give_back(server, &claim, old, &mut extra).await?;
    }
    Ok(extra)
}

async fn give_back(server: &Server, claim: &Claim, service: &Object, extra: &mut Extra) -> api::Result<()> {
    let key = claim.key(server);
    let (found, _): (Option<KeyValue>, _) = store::get(server.kv(), &key).await?;
    if let Some(kv) = found.filter(|kv| claim.belongs_to(&kv.value, service)) {
        extra.compare.push(Compare::ModRevision { key: key.clone(), revision: kv.mod_revision });
        extra.then.push(Op::Delete { key });
    }
    Ok(())
}

/// What this server knows to be taken: its cache, which may lag behind, and what it ran into.
struct Taken<'a> {
    server: &'a Server,
    seen: Vec<Claim>,
}

impl plan::Taken for Taken<'_> {
    fn address(&self, ip: std::net::IpAddr) -> bool {
        let resource = self.server.resource("networking.k8s.io", "ipaddresses");
        self.seen.contains(&Claim::Address(ip))
            || self.server.cached_get(&resource, "", &ip.to_string()).is_some()
    }

    fn ports(&self) -> std::collections::BTreeSet<u16> {
        let services = self.server.cached_list(&self.server.resource("", "services"), None);
        let seen = self.seen.iter().filter_map(|claim| match claim {
            Claim::Port(port) => Some(*port),
            Claim::Address(_) => None,
        });
        services.iter().flat_map(|service| ports::of(service)).chain(seen).collect()
    }
}

fn taken_error(claim: &Claim, path: &Path, service: &Object) -> FieldError {
    match claim {
        Claim::Address(ip) => FieldError::invalid(
            path,
            json!(addresses(service)),
            format!("failed to allocate IP {ip}: provided IP is already allocated"),
        ),
        Claim::Port(port) => FieldError::invalid(path, json!(port), "provided port is already allocated"),
    }
}

fn addresses(service: &Object) -> Vec<Value> {
    service.list_at("spec.clusterIPs").to_vec()
}

fn refuse(service: &Object, error: FieldError) -> Status {
    let kind = api::catalog::GroupKind { group: String::new(), kind: "Service".into() };
    Status::invalid(&kind, service.name(), vec![error])
}
