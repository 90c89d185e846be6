//! An informer: a local copy of a collection that follows the API server's watch.
//!
//! Keeps true: after [`Informer::synced`] the copy has held at least everything that existed when it started;
//! every difference, also one found only by listing again after a broken watch, is reported exactly once as a
//! [`Change`] with the old and the new object, after the copy shows it. Objects are shared, never cloned.

use futures::StreamExt;
use kube::{
    Api, Resource,
    runtime::{
        WatchStreamExt,
        watcher::{self, Event},
    },
};
use serde::de::DeserializeOwned;
use std::{
    collections::HashMap,
    fmt::{self, Debug},
    sync::{Arc, PoisonError, RwLock},
};
use tokio::{sync::watch, task::JoinSet};

/// The name of an object within its kind; the namespace is empty for cluster-scoped kinds.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct NamespacedName {
    /// The namespace, or empty.
    pub namespace: String,
    /// The name.
    pub name: String,
}

impl NamespacedName {
    /// Names an object.
    pub fn new(namespace: impl Into<String>, name: impl Into<String>) -> Self {
        Self { namespace: namespace.into(), name: name.into() }
    }

    /// The name of `object`.
    pub fn of<K: Resource>(object: &K) -> Self {
        let meta = object.meta();
        Self::new(meta.namespace.clone().unwrap_or_default(), meta.name.clone().unwrap_or_default())
    }
}

impl fmt::Display for NamespacedName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.namespace.is_empty() {
            return f.write_str(&self.name);
        }
        write!(f, "{}/{}", self.namespace, self.name)
    }
}

/// One object's difference: added (`old` is none), changed (both), or deleted (`new` is none).
pub struct Change<K> {
    /// What the copy showed before.
    pub old: Option<Arc<K>>,
    /// What it shows now.
    pub new: Option<Arc<K>>,
}

impl<K> Change<K> {
    /// The newest known state, also of a deleted object.
    #[must_use]
    pub fn latest(&self) -> &Arc<K> {
        self.new.as_ref().or(self.old.as_ref()).expect("a change has an old or a new side")
    }
}

/// A shared local copy of a collection; cheap to clone.
pub struct Informer<K> {
    objects: Arc<RwLock<HashMap<NamespacedName, Arc<K>>>>,
    synced: watch::Receiver<bool>,
}

impl<K> Clone for Informer<K> {
    fn clone(&self) -> Self {
        Self { objects: self.objects.clone(), synced: self.synced.clone() }
    }
}

impl<K> Informer<K>
where
    K: Resource + Clone + DeserializeOwned + Debug + Send + Sync + 'static,
    K::DynamicType: Default,
{
    /// Starts following `api` with the selectors of `config`; `on_change` is called for each difference, in
    /// order, from the informer's own task (it must not block). The task ends with the set that owns it.
    pub fn start(
        api: Api<K>,
        config: watcher::Config,
        tasks: &mut JoinSet<()>,
        on_change: impl Fn(Change<K>) + Send + 'static,
    ) -> Self {
        let (synced_tx, synced) = watch::channel(false);
        let objects = Arc::new(RwLock::new(HashMap::new()));
        let mut follower = Follower { objects: objects.clone(), listing: None, on_change };
        tasks.spawn(async move {
            let events = watcher::watcher(api, config).default_backoff();
            tokio::pin!(events);
            while let Some(event) = events.next().await {
                match event {
                    Ok(event) => {
                        if follower.handle(event) {
                            synced_tx.send_replace(true);
                        }
                    }
                    Err(error) => tracing::debug!(
                        kind = %K::kind(&K::DynamicType::default()),
                        error = &error as &dyn std::error::Error,
                        "watch interrupted, trying again"
                    ),
                }
            }
        });
        Self { objects, synced }
    }
}

impl<K> Informer<K> {
    /// An informer that shows these objects and follows nothing; for tests and for pure functions.
    pub fn fixed(objects: impl IntoIterator<Item = K>) -> Self
    where
        K: Resource,
    {
        let objects = objects.into_iter().map(|o| (NamespacedName::of(&o), Arc::new(o))).collect();
        let (_, synced) = watch::channel(true);
        Self { objects: Arc::new(RwLock::new(objects)), synced }
    }

    /// Waits until the first complete list has arrived.
    pub async fn synced(&self) {
        // The sender goes away only with the informer's task, that is at shutdown.
        let _ = self.synced.clone().wait_for(|synced| *synced).await;
    }

    /// Whether the first complete list has arrived.
    #[must_use]
    pub fn is_synced(&self) -> bool {
        *self.synced.borrow()
    }

    /// The object of this name; `namespace` is empty for cluster-scoped kinds.
    #[must_use]
    pub fn get(&self, namespace: &str, name: &str) -> Option<Arc<K>> {
        self.find(&NamespacedName::new(namespace, name))
    }

    /// The object of this name.
    #[must_use]
    pub fn find(&self, name: &NamespacedName) -> Option<Arc<K>> {
        self.objects.read().unwrap_or_else(PoisonError::into_inner).get(name).cloned()
    }

    /// All objects, in no order. Keep an index by `on_change` instead of calling this per item.
    #[must_use]
    pub fn list(&self) -> Vec<Arc<K>> {
        self.objects.read().unwrap_or_else(PoisonError::into_inner).values().cloned().collect()
    }

    /// How many objects there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.objects.read().unwrap_or_else(PoisonError::into_inner).len()
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

struct Follower<K, F> {
    objects: Arc<RwLock<HashMap<NamespacedName, Arc<K>>>>,
    listing: Option<HashMap<NamespacedName, Arc<K>>>,
    on_change: F,
}

impl<K: Resource, F: Fn(Change<K>)> Follower<K, F> {
    /// Takes in one watch event; true when a complete list has just been taken in.
    fn handle(&mut self, event: Event<K>) -> bool {
        match event {
            Event::Init => self.listing = Some(HashMap::new()),
            Event::InitApply(mut object) => {
                object.meta_mut().managed_fields = None;
                let name = NamespacedName::of(&object);
                self.listing.get_or_insert_default().insert(name, Arc::new(object));
            }
            Event::InitDone => {
                self.replace();
                return true;
            }
            Event::Apply(mut object) => {
                object.meta_mut().managed_fields = None;
                let (name, new) = (NamespacedName::of(&object), Arc::new(object));
                let old = self.write(|objects| objects.insert(name, new.clone()));
                (self.on_change)(Change { old, new: Some(new) });
            }
            Event::Delete(object) => {
                let old = self.write(|objects| objects.remove(&NamespacedName::of(&object)));
                // The last state travels with the event; it may be newer than what the copy showed.
                let old = old.map(|_| Arc::new(object));
                if old.is_some() {
                    (self.on_change)(Change { old, new: None });
                }
            }
        }
        false
    }

    /// Makes the list that has just ended the copy, and reports what differs.
    fn replace(&mut self) {
        let listed = self.listing.take().unwrap_or_default();
        let before = self.write(|objects| std::mem::replace(objects, listed.clone()));
        for (name, old) in &before {
            // A deleted object that was made again under its name is two changes.
            if listed.get(name).is_none_or(|new| new.meta().uid != old.meta().uid) {
                (self.on_change)(Change { old: Some(old.clone()), new: None });
            }
        }
        for (name, new) in listed {
            let old = before.get(&name).filter(|old| old.meta().uid == new.meta().uid).cloned();
            let same = |old: &Arc<K>| old.meta().resource_version == new.meta().resource_version;
            if !old.as_ref().is_some_and(same) {
                (self.on_change)(Change { old, new: Some(new) });
            }
        }
    }

    fn write<T>(&self, change: impl FnOnce(&mut HashMap<NamespacedName, Arc<K>>) -> T) -> T {
        change(&mut self.objects.write().unwrap_or_else(PoisonError::into_inner))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use k8s_openapi::{api::core::v1::ConfigMap, apimachinery::pkg::apis::meta::v1::ObjectMeta};
    use std::sync::Mutex;

    fn map(name: &str, uid: &str, version: &str) -> ConfigMap {
        let (name, uid) = (Some(name.to_owned()), Some(uid.to_owned()));
        let metadata = ObjectMeta { name, uid, resource_version: Some(version.into()), ..Default::default() };
        ConfigMap { metadata, ..Default::default() }
    }

    fn show(object: Option<&Arc<ConfigMap>>) -> String {
        let version = object.and_then(|o| o.metadata.resource_version.clone());
        version.unwrap_or_else(|| "-".into())
    }

    #[test]
    fn a_second_list_reports_only_differences() {
        let seen = Arc::new(Mutex::new(Vec::new()));
        let sink = seen.clone();
        let on_change = move |c: Change<ConfigMap>| {
            let name = c.latest().metadata.name.clone().unwrap();
            sink.lock().unwrap().push(format!("{name} {}>{}", show(c.old.as_ref()), show(c.new.as_ref())));
        };
        let mut follower = Follower { objects: Arc::default(), listing: None, on_change };
        let mut check = |events: Vec<Event<ConfigMap>>, expect: &[&str]| {
            for event in events {
                follower.handle(event);
            }
            let mut got = std::mem::take(&mut *seen.lock().unwrap());
            got.sort();
            assert_eq!(got, expect);
        };
        let list = |objects: Vec<ConfigMap>| {
            let applied = objects.into_iter().map(Event::InitApply);
            std::iter::once(Event::Init).chain(applied).chain([Event::InitDone]).collect::<Vec<_>>()
        };
        check(list(vec![map("a", "1", "1"), map("b", "2", "2")]), &["a ->1", "b ->2"]);
        check(vec![Event::Apply(map("a", "1", "3"))], &["a 1>3"]);
        check(list(vec![map("a", "1", "3"), map("b", "9", "5")]), &["b ->5", "b 2>-"]);
        check(vec![Event::Delete(map("a", "1", "6")), Event::Delete(map("x", "7", "7"))], &["a 6>-"]);
    }
}
