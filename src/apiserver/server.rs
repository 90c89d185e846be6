//! The state every request shares: configuration, store, watch cache, catalog, and the way to the objects for
//! the server's own parts (authorisation, admission, bootstrap, controllers inside the server).
//!
//! [`Server::cached_get`] and [`Server::cached_list`] never wait and may lag behind; [`Server::get`] sees every
//! write that was acknowledged before it began. The writing methods act as the server itself: defaults and
//! validation apply, authorisation and admission do not.

use crate::{
    authn::Authenticator, authz::Authorizer, flags::Config, metrics::Metrics, registry, store, verbs,
    watchcache::WatchCache,
};
use api::{
    Object,
    catalog::{Catalog, Resource},
    status::Status,
};
use std::{
    sync::{Arc, OnceLock, PoisonError, RwLock},
    time::{Duration, Instant},
};
use tokio_util::sync::CancellationToken;

/// The shared state. Lives in an `Arc`.
pub(crate) struct Server {
    config: Config,
    kv: Arc<dyn store::Kv>,
    cache: Arc<WatchCache>,
    catalog: RwLock<Arc<Catalog>>,
    authenticator: OnceLock<Authenticator>,
    authorizer: OnceLock<Authorizer>,
    metrics: Metrics,
    documents: crate::openapi::Documents,
    event_lease: tokio::sync::Mutex<Option<(i64, Instant)>>,
    /// Set as soon as the server is asked to stop: `/readyz` fails from then on.
    stopping: CancellationToken,
    /// Set when serving ends: watches end with it.
    draining: CancellationToken,
    /// Set when bootstrap is done: `/readyz` may succeed from then on.
    started: CancellationToken,
}

impl Server {
    /// A server over a store; the cache is started by `run`.
    pub(crate) fn new(config: Config, kv: Arc<dyn store::Kv>, stopping: CancellationToken) -> Arc<Self> {
        let catalog = Arc::new(registry::builtin(&config));
        let cache = WatchCache::new(kv.clone(), &config.prefix, &catalog);
        Arc::new(Server {
            config,
            kv,
            cache,
            catalog: RwLock::new(catalog),
            authenticator: OnceLock::new(),
            authorizer: OnceLock::new(),
            metrics: Metrics::new(),
            documents: Default::default(),
            event_lease: tokio::sync::Mutex::default(),
            stopping,
            draining: CancellationToken::new(),
            started: CancellationToken::new(),
        })
    }

    /// The validated configuration.
    pub(crate) fn config(&self) -> &Config {
        &self.config
    }

    /// The resources served now, CRDs included.
    pub(crate) fn catalog(&self) -> Arc<Catalog> {
        self.catalog.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Replaces the catalog (a CRD came, changed or went).
    pub(crate) fn set_catalog(&self, catalog: Arc<Catalog>) {
        self.cache.register(&catalog);
        *self.catalog.write().unwrap_or_else(PoisonError::into_inner) = catalog;
    }

    /// A built-in resource in its storage version.
    ///
    /// # Panics
    /// When there is no such built-in resource: a misspelt constant.
    pub(crate) fn resource(&self, group: &str, plural: &str) -> Arc<Resource> {
        registry::storage_version(&self.catalog(), group, plural)
            .unwrap_or_else(|| panic!("{plural}.{group} is not in the built-in catalog"))
    }

    /// The watch cache.
    pub(crate) fn cache(&self) -> &Arc<WatchCache> {
        &self.cache
    }

    /// Raw keys.
    pub(crate) fn kv(&self) -> &dyn store::Kv {
        &*self.kv
    }

    /// The authenticator; `None` only before `run` has made it.
    pub(crate) fn authenticator(&self) -> Option<&Authenticator> {
        self.authenticator.get()
    }

    /// The authorizer; `None` only before `run` has made it.
    pub(crate) fn authorizer(&self) -> Option<&Authorizer> {
        self.authorizer.get()
    }

    /// Sets authenticator and authorizer, once.
    pub(crate) fn secure(&self, authenticator: Authenticator, authorizer: Authorizer) {
        let _ = self.authenticator.set(authenticator);
        let _ = self.authorizer.set(authorizer);
    }

    /// What is counted.
    pub(crate) fn metrics(&self) -> &Metrics {
        &self.metrics
    }

    /// The OpenAPI documents made so far.
    pub(crate) fn documents(&self) -> &crate::openapi::Documents {
        &self.documents
    }

    /// Cancelled as soon as the server is asked to stop.
    pub(crate) fn stopping(&self) -> &CancellationToken {
        &self.stopping
    }

    /// Cancelled when serving ends, after balancers had time to notice.
    pub(crate) fn draining(&self) -> &CancellationToken {
        &self.draining
    }

    /// Cancelled (sic) when bootstrap is done.
    pub(crate) fn started(&self) -> &CancellationToken {
        &self.started
    }

    /// An object from the watch cache as it is now; never waits.
    pub(crate) fn cached_get(&self, r: &Resource, namespace: &str, name: &str) -> Option<Arc<Object>> {
        self.cache.get(r, namespace, name).map(|entry| entry.object())
    }

    /// All objects of a resource, or of one namespace, from the watch cache as it is now; never waits.
    pub(crate) fn cached_list(&self, r: &Resource, namespace: Option<&str>) -> Vec<Arc<Object>> {
        self.cache.list(r, namespace.unwrap_or_default()).0.iter().map(|entry| entry.object()).collect()
    }

    /// Revision of the last change of a resource that the watch cache has seen: an index built from
    /// [`Server::cached_list`] is up to date while this stays the same.
    pub(crate) fn cached_version(&self, r: &Resource) -> u64 {
        self.cache.version(r)
    }

    /// An object, at least as new as every write acknowledged before the call.
    pub(crate) async fn get(&self, r: &Resource, namespace: &str, name: &str) -> api::Result<Object> {
        registry::read(self, r, namespace, name).await.map(|(object, _)| object)
    }

    /// Creates an object as the server itself.
    pub(crate) async fn create(&self, r: &Resource, object: Object) -> api::Result<Object> {
        verbs::create::as_server(self, r, object).await
    }

    /// A store lease that ends when Events made now are to be forgotten; one for all Events of a minute.
    pub(crate) async fn event_lease(&self) -> Result<i64, store::KvError> {
        const SHARED: Duration = Duration::from_secs(60);
        let mut lease = self.event_lease.lock().await;
        if let Some((id, made)) = *lease
            && made.elapsed() < SHARED
        {
            return Ok(id);
        }
        let id = self.kv.lease_grant((self.config.flags.event_ttl + SHARED).as_secs() as i64).await?;
        *lease = Some((id, Instant::now()));
        Ok(id)
    }

    /// Reads, changes and writes an object as the server itself, again until nobody else was faster. An
    /// unchanged object is not written.
    pub(crate) async fn update_with(
        &self,
        r: &Resource,
        namespace: &str,
        name: &str,
        f: impl Fn(Object) -> api::Result<Object> + Send + Sync,
    ) -> api::Result<Object> {
        verbs::update::as_server(self, r, namespace, name, &f).await
    }

    /// Deletes an object as the server itself: at once, whatever its kind's grace is, but finalizers are kept.
    pub(crate) async fn delete(
        &self,
        r: &Resource,
        namespace: &str,
        name: &str,
        preconditions: Preconditions,
    ) -> api::Result<()> {
        verbs::delete::as_server(self, r, namespace, name, preconditions).await
    }
}

/// What must hold of an object for its deletion.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Preconditions {
    /// Its uid.
    pub(crate) uid: Option<String>,
    /// Its resourceVersion.
    pub(crate) resource_version: Option<String>,
}

impl Preconditions {
    /// Checks them against an object, with upstream's texts.
    pub(crate) fn check(&self, r: &Resource, object: &Object) -> api::Result<()> {
        let fail = |what: &str, wanted: &str, found: &str| {
            let why = format!(
                "Precondition failed: {what} in precondition: {wanted}, {what} in object meta: {found}"
            );
            Err(Status::conflict(&r.group_resource(), object.name(), &why))
        };
        match (&self.uid, &self.resource_version) {
            (Some(uid), _) if uid != object.uid() => fail("UID", uid, object.uid()),
            (_, Some(rv)) if rv != object.resource_version() => {
                fail("ResourceVersion", rv, object.resource_version())
            }
            _ => Ok(()),
        }
    }
}
