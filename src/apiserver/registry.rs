//! Objects ↔ keys and bytes, and the conditional writes every verb goes through.
//!
//! Keeps true: an object is written only over the state its change was planned on; a plan is made again when
//! somebody else was faster; a write of unknown outcome is reported as a timeout and not repeated; operations
//! that belong to an object (allocations, epochs) are in the same transaction as the object. What a change
//! should be is left to the verbs.

use crate::{
    flags::Config,
    request::RequestInfo,
    server::Server,
    store::{self, Compare, Done, Extra, KeyValue, Op, OpResult, Txn},
};
use api::{
    Object,
    catalog::{Catalog, Resource},
    status::{Reason, Status},
};
use bytes::Bytes;
use http::HeaderMap;
use std::{sync::Arc, time::Duration};

/// How often a change is planned again before its caller is told to try later.
const ATTEMPTS: usize = 200;
/// The longest pause after a lost race for something that many objects share.
const PAUSE: Duration = Duration::from_millis(20);
/// The header that ties a write to a leader's epoch.
const EPOCH_HEADER: &str = "trireme-epoch";

/// The built-in resources that this configuration serves.
pub(crate) fn builtin(config: &Config) -> Catalog {
    Catalog::builtin().only(|r| config.serves(&r.group_version(), &r.plural, r.default_on))
}

/// One resource per kind of stored object: the one in the storage version.
pub(crate) fn stored(catalog: &Catalog) -> Vec<Arc<Resource>> {
    let is_stored = |r: &&Arc<Resource>| !r.prefix.is_empty() && r.gvk() == r.storage;
    catalog.iter().filter(is_stored).cloned().collect()
}

/// A resource in its storage version.
pub(crate) fn storage_version(catalog: &Catalog, group: &str, plural: &str) -> Option<Arc<Resource>> {
    let fits = |r: &&Arc<Resource>| r.group == group && r.plural == plural;
    let any = catalog.iter().find(|r| fits(r) && r.gvk() == r.storage);
    any.or_else(|| catalog.iter().find(fits)).cloned()
}

/// The part of an object's key behind the resource prefix.
pub(crate) fn suffix(r: &Resource, namespace: &str, name: &str) -> String {
    if r.namespaced { format!("{namespace}/{name}") } else { name.to_string() }
}

/// The part of the key behind the resource prefix that all objects of a namespace share; empty for all.
pub(crate) fn namespace_prefix(r: &Resource, namespace: &str) -> String {
    if r.namespaced && !namespace.is_empty() { format!("{namespace}/") } else { String::new() }
}

/// The key below which all objects of a resource lie.
pub(crate) fn root(config: &Config, r: &Resource) -> String {
    format!("{}/{}/", config.prefix, r.prefix.trim_matches('/'))
}

/// An object's key.
pub(crate) fn key(config: &Config, r: &Resource, namespace: &str, name: &str) -> String {
    root(config, r) + &suffix(r, namespace, name)
}

/// What the store holds, as an object with its resourceVersion.
pub(crate) fn decode(kv: &KeyValue) -> api::Result<Object> {
    let mut object = Object::from_slice(&kv.value)
        .map_err(|error| Status::internal(format!("key {} holds no JSON object: {error}", kv.key)))?;
    object.set_resource_version(&kv.mod_revision.to_string());
    Ok(object)
}

/// An object as it is stored: without what only the answer carries.
pub(crate) fn encode(object: &Object) -> Bytes {
    let mut object = object.clone();
    for field in ["resourceVersion", "selfLink", "managedFields"] {
        object.metadata_mut().remove(field);
    }
    object.to_bytes()
}

/// Reads an object, linearizably: from the cache when it has caught up, from the store otherwise. Also returns
/// its revision.
pub(crate) async fn read(
    server: &Server,
    r: &Resource,
    namespace: &str,
    name: &str,
) -> api::Result<(Object, u64)> {
    match server.cache().fresh().await {
        Ok(_) => match server.cache().get(r, namespace, name) {
            Some(entry) => Ok(((*entry.object()).clone(), entry.revision)),
            None => Err(Status::not_found(&r.group_resource(), name)),
        },
        Err(_) => read_store(server, r, namespace, name).await,
    }
}

/// Reads an object from the store.
pub(crate) async fn read_store(
    server: &Server,
    r: &Resource,
    namespace: &str,
    name: &str,
) -> api::Result<(Object, u64)> {
    let (found, _) = store::get(server.kv(), &key(server.config(), r, namespace, name)).await?;
    let kv = found.ok_or_else(|| Status::not_found(&r.group_resource(), name))?;
    Ok((decode(&kv)?, kv.mod_revision))
}

/// A leader's claim that a write is made in its epoch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Fence {
    lease: String,
    epoch: String,
}

impl Fence {
    /// Reads the header `Trireme-Epoch: NAMESPACE/NAME=N`.
    pub(crate) fn from_headers(headers: &HeaderMap) -> api::Result<Option<Fence>> {
        let Some(value) = headers.get(EPOCH_HEADER) else { return Ok(None) };
        let malformed =
            || Status::bad_request("the Trireme-Epoch header must have the form NAMESPACE/NAME=NUMBER");
        let text = value.to_str().map_err(|_| malformed())?;
        let (lease, epoch) = text.split_once('=').ok_or_else(malformed)?;
        let well_formed = lease.split('/').count() == 2 && epoch.parse::<u64>().is_ok();
        well_formed.then(|| Some(Fence { lease: lease.into(), epoch: epoch.into() })).ok_or_else(malformed)
    }

    fn compare(&self, config: &Config) -> Compare {
        Compare::Value { key: epoch_key(config, &self.lease), value: Bytes::from(self.epoch.clone()) }
    }

    fn over(&self) -> Status {
        let (lease, epoch) = (&self.lease, &self.epoch);
        Status::new(Reason::Conflict, format!("leader election lease {lease}: epoch {epoch} is over"))
    }
}

/// The key that holds the epoch of an election Lease (`NAMESPACE/NAME`).
pub(crate) fn epoch_key(config: &Config, lease: &str) -> String {
    format!("{}/trireme/epochs/{lease}", config.prefix)
}

/// One object and how it may be written.
pub(crate) struct Target<'a> {
    /// The server.
    pub(crate) server: &'a Server,
    /// The resource in its storage version.
    pub(crate) resource: &'a Resource,
    /// Namespace, empty for cluster-scoped resources.
    pub(crate) namespace: &'a str,
    /// Name.
    pub(crate) name: &'a str,
    /// The epoch the writer claims.
    pub(crate) fence: Option<&'a Fence>,
    /// Do everything but write.
    pub(crate) dry_run: bool,
}

/// What to do with an object.
#[derive(Debug)]
pub(crate) enum Plan {
    /// Write it.
    Put(Box<Object>, Extra),
    /// Delete it.
    Delete(Extra),
    /// Leave it as it is.
    Keep,
}

/// What was done with an object.
#[derive(Debug)]
pub(crate) enum Outcome {
    /// It was written; with its new resourceVersion.
    Written(Object),
    /// It was deleted; its last state, with the revision of its end.
    Deleted(Object),
    /// It is as it was.
    Kept(Object),
}

impl Outcome {
    /// The object, whatever happened.
    pub(crate) fn object(self) -> Object {
        match self {
            Outcome::Written(object) | Outcome::Deleted(object) | Outcome::Kept(object) => object,
        }
    }
}

/// A change of an object, planned on its current state; planned again when that state turns out to be old.
#[async_trait::async_trait]
pub(crate) trait Change: Send + Sync {
    /// Says what to do with the object.
    async fn plan(&self, current: &Object) -> api::Result<Plan>;
}

impl Target<'_> {
    fn key(&self) -> String {
        key(self.server.config(), self.resource, self.namespace, self.name)
    }

    fn not_found(&self) -> Status {
        Status::not_found(&self.resource.group_resource(), self.name)
    }

    /// Writes a new object; `None` when one of the extra compares failed: plan again.
    pub(crate) async fn insert(&self, object: Object, extra: Extra) -> api::Result<Option<Object>> {
        let exists = || Status::already_exists(&self.resource.group_resource(), self.name);
        if self.dry_run {
            let (found, _) = store::get(self.server.kv(), &self.key()).await?;
            return if found.is_some() { Err(exists()) } else { Ok(Some(object)) };
        }
        let put = Op::Put { key: self.key(), value: encode(&object), lease: self.lease(&object).await? };
        let (done, found) = self.commit(0, put, extra).await?;
        if done.succeeded {
            return Ok(Some(stamped(object, done.revision)));
        }
        if found.is_some() { Err(exists()) } else { Ok(None) }
    }

    /// Plans and does a change, again until nobody was faster.
    pub(crate) async fn change(&self, change: &dyn Change) -> api::Result<Outcome> {
        let cached = self.server.cache().get(self.resource, self.namespace, self.name);
        let mut guess = cached.map(|entry| ((*entry.object()).clone(), entry.revision));
        for _ in 0..ATTEMPTS {
            let cached = guess.is_some();
            let (current, revision) = match guess.take() {
                Some(current) => current,
                None => read_store(self.server, self.resource, self.namespace, self.name).await?,
            };
            let (op, extra, object) = match change.plan(&current).await {
                // Planned on what the cache had, which may be old: only the store's state can refuse.
                Err(_) | Ok(Plan::Keep) if cached => continue,
                Err(status) => return Err(status),
                Ok(Plan::Keep) => return Ok(Outcome::Kept(current)),
                Ok(Plan::Put(object, _)) if self.dry_run => return Ok(Outcome::Written(*object)),
                Ok(Plan::Delete(_)) if self.dry_run => return Ok(Outcome::Deleted(current)),
                Ok(Plan::Put(object, extra)) => {
                    let lease = self.lease(&object).await?;
                    (Op::Put { key: self.key(), value: encode(&object), lease }, extra, Some(object))
                }
                Ok(Plan::Delete(extra)) => (Op::Delete { key: self.key() }, extra, None),
            };
            let (done, found) = self.commit(revision, op, extra).await?;
            match (done.succeeded, object) {
                (true, Some(object)) => return Ok(Outcome::Written(stamped(*object, done.revision))),
                (true, None) => return Ok(Outcome::Deleted(stamped(current, done.revision))),
                (false, _) => {
                    let kv = found.ok_or_else(|| self.not_found())?;
                    guess = None;
                    if kv.mod_revision == revision {
                        // One of the extra compares failed: plan again on the same state.
                        tokio::time::sleep(PAUSE.mul_f64(rand::random())).await;
                    }
                }
            }
        }
        Err(Status::server_timeout(&self.resource.group_resource(), "update", 1))
    }

    /// One transaction on the object's key; when it did not succeed, with what the key holds.
    async fn commit(&self, revision: u64, op: Op, extra: Extra) -> api::Result<(Done, Option<KeyValue>)> {
        let mut compare = vec![Compare::ModRevision { key: self.key(), revision }];
        compare.extend(extra.compare);
        compare.extend(self.fence.map(|fence| fence.compare(self.server.config())));
        let then = [op].into_iter().chain(extra.then).collect();
        let mut otherwise = vec![Op::Get { key: self.key() }];
        otherwise.extend(self.fence.map(|f| Op::Get { key: epoch_key(self.server.config(), &f.lease) }));
        let done = self.server.kv().txn(Txn { compare, then, otherwise }).await?;
        if done.succeeded {
            return Ok((done, None));
        }
        if let (Some(fence), Some(OpResult::Get(epoch))) = (self.fence, done.results.get(1))
            && epoch.as_ref().is_none_or(|kv| kv.value != fence.epoch.as_bytes())
        {
            return Err(fence.over());
        }
        let found = done.results.first().and_then(|r| match r {
            OpResult::Get(kv) => kv.clone(),
            _ => None,
        });
        Ok((done, found))
    }

    /// Events are kept for a while only: they hang on a store lease.
    async fn lease(&self, _object: &Object) -> api::Result<i64> {
        if self.resource.kind != "Event" {
            return Ok(0);
        }
        Ok(self.server.event_lease().await?)
    }
}

fn stamped(mut object: Object, revision: u64) -> Object {
    object.set_resource_version(&revision.to_string());
    object
}

/// The resource a request names, in the version it names.
pub(crate) fn requested(catalog: &Catalog, info: &RequestInfo) -> Option<Arc<Resource>> {
    catalog.find(&info.group, &info.version, &info.resource).cloned()
}
