//! The informer stores that reconcilers read, with the indexes they need.
//!
//! Keeps true: an index finds exactly the objects that a scan would find; `observed` never runs ahead of what the
//! store holds. Leaves to others: filling the stores from watches (`runner.rs`).

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    fmt::Debug,
    sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard},
};

use k8s_openapi::{
    api::{
        apps::v1::{Deployment, ReplicaSet},
        batch::v1::Job,
        certificates::v1::CertificateSigningRequest,
        coordination::v1::Lease,
        core::v1::{
            ConfigMap, Endpoints, Namespace, Node, Pod, ReplicationController, Service, ServiceAccount,
        },
        discovery::v1::EndpointSlice,
        policy::v1::PodDisruptionBudget,
        rbac::v1::ClusterRole,
    },
    apimachinery::pkg::apis::meta::v1::ObjectMeta,
};

use crate::controller::{Key, Resource, controller_of};

/// What an index is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Index {
    /// uid of the controller that owns it.
    Owner,
    /// Namespace of an object that no controller owns.
    Orphan,
    /// Node that a pod is bound to.
    Node,
    /// Namespace and service (`ns/service`) that an EndpointSlice belongs to.
    Service,
}

/// A kind with an informer.
pub(crate) trait Watched:
    k8s_openapi::Resource
    + k8s_openapi::Metadata<Ty = ObjectMeta>
    + serde::Serialize
    + serde::de::DeserializeOwned
    + Clone
    + Debug
    + Send
    + Sync
    + 'static
{
    /// Whether it lives in namespaces.
    const NAMESPACED: bool;

    /// Its store.
    fn store(stores: &Stores) -> &Store<Self>;

    /// A change of it, as all controllers see it.
    fn change(delta: Delta<Self>) -> Change;

    /// Index entries of this object.
    fn indexes(&self) -> Vec<(Index, String)> {
        default_indexes(self.metadata())
    }
}

fn default_indexes(meta: &ObjectMeta) -> Vec<(Index, String)> {
    match controller_of(meta) {
        Some(owner) => vec![(Index::Owner, owner.uid.clone())],
        None => vec![(Index::Orphan, meta.namespace.clone().unwrap_or_default())],
    }
}

/// Before and after.
#[derive(Clone, Debug)]
pub(crate) struct Delta<K> {
    /// What was in the store.
    pub(crate) old: Option<Arc<K>>,
    /// What is now.
    pub(crate) new: Option<Arc<K>>,
}

impl<K: Watched> Delta<K> {
    /// The object: as it is, or as it was when it went.
    #[must_use]
    pub(crate) fn any(&self) -> Option<&Arc<K>> {
        self.new.as_ref().or(self.old.as_ref())
    }

    /// Its key.
    #[must_use]
    pub(crate) fn key(&self) -> Key {
        self.any().map(|o| Key::of(o.metadata())).unwrap_or_default()
    }

    /// Old and new, where there is one.
    pub(crate) fn both(&self) -> impl Iterator<Item = &Arc<K>> {
        self.old.iter().chain(self.new.iter())
    }
}

struct Inner<K> {
    objects: BTreeMap<Arc<Key>, Arc<K>>,
    indexes: HashMap<(Index, String), BTreeSet<Arc<Key>>>,
    observed: u64,
}

impl<K> Default for Inner<K> {
    fn default() -> Self {
        Self { objects: BTreeMap::new(), indexes: HashMap::new(), observed: 0 }
    }
}

/// All objects of a kind that a watch has delivered.
pub(crate) struct Store<K>(RwLock<Inner<K>>);

impl<K> Default for Store<K> {
    fn default() -> Self {
        Self(RwLock::default())
    }
}

/// A resourceVersion as a number: revisions of the store are comparable, and are so by Kubernetes' own rules
/// since 1.35.
#[must_use]
pub(crate) fn version(meta: &ObjectMeta) -> u64 {
    meta.resource_version.as_deref().and_then(|v| v.parse().ok()).unwrap_or(0)
}

impl<K: Watched> Store<K> {
    fn read(&self) -> RwLockReadGuard<'_, Inner<K>> {
        self.0.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> RwLockWriteGuard<'_, Inner<K>> {
        self.0.write().unwrap_or_else(PoisonError::into_inner)
    }

    /// Puts an object in; returns what was there.
    pub(crate) fn put(&self, object: Arc<K>) -> Option<Arc<K>> {
        let key = Arc::new(Key::of(object.metadata()));
        let mut inner = self.write();
        inner.observed = inner.observed.max(version(object.metadata()));
        let old = inner.objects.insert(key.clone(), object.clone());
        let before = old.as_ref().map(|o| o.indexes()).unwrap_or_default();
        let after = object.indexes();
        for entry in before.iter().filter(|e| !after.contains(e)) {
            inner.drop_entry(entry, &key);
        }
        for entry in after {
            inner.indexes.entry(entry).or_default().insert(key.clone());
        }
        old
    }

    /// Takes an object out; `gone` is its last state, whose version is the deletion's.
    pub(crate) fn remove(&self, gone: &K) -> Option<Arc<K>> {
        let key = Key::of(gone.metadata());
        let mut inner = self.write();
        inner.observed = inner.observed.max(version(gone.metadata()));
        let old = inner.objects.remove(&key)?;
        for entry in old.indexes() {
            inner.drop_entry(&entry, &key);
        }
        Some(old)
    }

    /// The object with this key.
    pub(crate) fn get(&self, key: &Key) -> Option<Arc<K>> {
        self.read().objects.get(key).cloned()
    }

    /// The object with this namespace and name.
    pub(crate) fn named(&self, namespace: &str, name: &str) -> Option<Arc<K>> {
        self.get(&Key::new(namespace, name))
    }

    /// Objects under an index entry, in the order of their names.
    pub(crate) fn by(&self, index: Index, value: &str) -> Vec<Arc<K>> {
        let inner = self.read();
        let keys = inner.indexes.get(&(index, value.to_owned()));
        keys.into_iter().flatten().filter_map(|key| inner.objects.get(key).cloned()).collect()
    }

    /// Objects of a namespace.
    pub(crate) fn within(&self, namespace: &str) -> Vec<Arc<K>> {
        let inner = self.read();
        let from = Key::new(namespace, "");
        inner
            .objects
            .range::<Key, _>(from..)
            .take_while(|(key, _)| key.namespace == namespace)
            .map(|(_, o)| o.clone())
            .collect()
    }

    /// All keys.
    pub(crate) fn keys(&self) -> Vec<Key> {
        self.read().objects.keys().map(|key| (**key).clone()).collect()
    }

    /// All objects.
    pub(crate) fn all(&self) -> Vec<Arc<K>> {
        self.read().objects.values().cloned().collect()
    }

    /// Whether a write of this version by ourselves has arrived here.
    pub(crate) fn has_seen(&self, key: &Key, written: u64) -> bool {
        let inner = self.read();
        inner.observed >= written || inner.objects.get(key).is_some_and(|o| version(o.metadata()) >= written)
    }

    /// Whether the object with this uid is gone or going.
    pub(crate) fn is_leaving(&self, key: &Key, uid: &str) -> bool {
        self.read().objects.get(key).is_none_or(|o| {
            let meta = o.metadata();
            meta.deletion_timestamp.is_some() || meta.uid.as_deref() != Some(uid)
        })
    }
}

impl<K> Inner<K> {
    fn drop_entry(&mut self, entry: &(Index, String), key: &Key) {
        if let Some(keys) = self.indexes.get_mut(entry) {
            keys.remove(key);
            if keys.is_empty() {
                self.indexes.remove(entry);
            }
        }
    }
}

/// A change of the metadata of an object of any resource, for the garbage collector.
#[derive(Clone, Debug)]
pub(crate) struct MetaDelta {
    /// What it is.
    pub(crate) resource: Arc<Resource>,
    /// Before and after.
    pub(crate) old: Option<Arc<ObjectMeta>>,
    /// After.
    pub(crate) new: Option<Arc<ObjectMeta>>,
}

/// Kinds of which only objects with one name have a store entry.
pub(crate) fn only_name(kind: &str) -> Option<&'static str> {
    (kind == "ConfigMap").then_some("kube-root-ca.crt")
}

/// Calls a macro with every kind that has a store: field, type, namespaced, indexes.
macro_rules! kinds {
    ($($field:ident: $kind:ident, $namespaced:literal $(, $indexes:expr)?;)*) => {
        /// One store per kind.
        #[derive(Default)]
        pub(crate) struct Stores {
            $(
                #[doc = concat!("All of kind ", stringify!($kind), ".")]
                pub(crate) $field: Store<$kind>,
            )*
        }

        /// A change in one of the stores.
        #[derive(Clone, Debug)]
        pub(crate) enum Change {
            $(
                #[doc = concat!("Of a ", stringify!($kind), ".")]
                $kind(Delta<$kind>),
            )*
            /// Of the metadata of something without a store.
            Meta(MetaDelta),
        }

        impl Change {
            /// What changed, as the garbage collector sees it.
            #[must_use]
            pub(crate) fn meta(&self) -> (Resource, Option<&ObjectMeta>, Option<&ObjectMeta>) {
                match self {
                    $(Change::$kind(d) => (
                        Resource::of::<$kind>(),
                        d.old.as_deref().map(k8s_openapi::Metadata::metadata),
                        d.new.as_deref().map(k8s_openapi::Metadata::metadata),
                    ),)*
                    Change::Meta(d) => ((*d.resource).clone(), d.old.as_deref(), d.new.as_deref()),
                }
            }
        }

        impl Stores {
            /// See [`Store::has_seen`]; a resource without a store is never waited for.
            #[must_use]
            pub(crate) fn has_seen(&self, resource: &Resource, key: &Key, written: u64) -> bool {
                if only_name(&resource.kind).is_some_and(|name| name != key.name) {
                    return true;
                }
                match (&*resource.group, &*resource.plural) {
                    $((<$kind as k8s_openapi::Resource>::GROUP, <$kind as k8s_openapi::Resource>::URL_PATH_SEGMENT)
                        => self.$field.has_seen(key, written),)*
                    _ => true,
                }
            }

            /// See [`Store::is_leaving`].
            #[must_use]
            pub(crate) fn is_leaving(&self, resource: &Resource, key: &Key, uid: &str) -> bool {
                match (&*resource.group, &*resource.plural) {
                    $((<$kind as k8s_openapi::Resource>::GROUP, <$kind as k8s_openapi::Resource>::URL_PATH_SEGMENT)
                        => self.$field.is_leaving(key, uid),)*
                    _ => true,
                }
            }

            /// Resources that have a full store here.
            #[must_use]
            pub(crate) fn resources() -> Vec<Resource> {
                vec![$(Resource::of::<$kind>()),*]
            }
        }

        /// Starts an informer for every store.
        pub(crate) fn start_all(start: &mut crate::Start<'_>) -> Vec<Box<dyn crate::Filled>> {
            vec![$(start.start::<$kind>()),*]
        }

        $(impl Watched for $kind {
            const NAMESPACED: bool = $namespaced;

            fn store(stores: &Stores) -> &Store<Self> {
                &stores.$field
            }

            fn change(delta: Delta<Self>) -> Change {
                Change::$kind(delta)
            }

            $(fn indexes(&self) -> Vec<(Index, String)> {
                let indexes: fn(&$kind) -> Vec<(Index, String)> = $indexes;
                indexes(self)
            })?
        })*
    };
}

kinds! {
    cluster_roles: ClusterRole, false, |_| Vec::new();
    config_maps: ConfigMap, true, |_| Vec::new();
    csrs: CertificateSigningRequest, false, |_| Vec::new();
    deployments: Deployment, true, |_| Vec::new();
    endpoints: Endpoints, true, |_| Vec::new();
    jobs: Job, true;
    leases: Lease, true, |_| Vec::new();
    namespaces: Namespace, false, |_| Vec::new();
    nodes: Node, false, |_| Vec::new();
    pods: Pod, true, pod_indexes;
    pdbs: PodDisruptionBudget, true, |_| Vec::new();
    replica_sets: ReplicaSet, true;
    replication_controllers: ReplicationController, true;
    service_accounts: ServiceAccount, true, |_| Vec::new();
    services: Service, true, |_| Vec::new();
    slices: EndpointSlice, true, slice_indexes;
}

fn pod_indexes(pod: &Pod) -> Vec<(Index, String)> {
    let mut entries = default_indexes(&pod.metadata);
    if let Some(node) = pod.spec.as_ref().and_then(|s| s.node_name.as_ref()) {
        entries.push((Index::Node, node.clone()));
    }
    entries
}

/// The label by which an EndpointSlice says whose it is.
pub(crate) const SERVICE_NAME: &str = "kubernetes.io/service-name";

fn slice_indexes(slice: &EndpointSlice) -> Vec<(Index, String)> {
    let service = slice.metadata.labels.as_ref().and_then(|l| l.get(SERVICE_NAME));
    let namespace = slice.metadata.namespace.as_deref().unwrap_or_default();
    service.map(|s| (Index::Service, format!("{namespace}/{s}"))).into_iter().collect()
}

#[cfg(test)]
impl Stores {
    /// Puts an object of any kind into its store.
    pub(crate) fn put<K: Watched>(&self, object: K) -> Change {
        let new = Arc::new(object);
        let old = K::store(self).put(new.clone());
        K::change(Delta { old, new: Some(new) })
    }
}

#[cfg(test)]
mod tests {
    use k8s_openapi::{api::core::v1::PodSpec, apimachinery::pkg::apis::meta::v1::OwnerReference};

    use super::*;

    fn pod(name: &str, version: &str, node: Option<&str>, owner: Option<&str>) -> Pod {
        Pod {
            metadata: ObjectMeta {
                name: Some(name.into()),
                namespace: Some("ns".into()),
                resource_version: Some(version.into()),
                owner_references: owner.map(|uid| {
                    vec![OwnerReference { uid: uid.into(), controller: Some(true), ..Default::default() }]
                }),
                ..Default::default()
            },
            spec: Some(PodSpec { node_name: node.map(Into::into), ..Default::default() }),
            status: None,
        }
    }

    #[test]
    fn indexes_follow_changes() {
        let stores = Stores::default();
        stores.put(pod("a", "1", None, None));
        stores.put(pod("b", "2", Some("n1"), Some("u1")));
        assert_eq!(stores.pods.by(Index::Orphan, "ns").len(), 1);
        stores.put(pod("a", "3", Some("n1"), Some("u1")));
        assert_eq!(stores.pods.by(Index::Orphan, "ns").len(), 0);
        assert_eq!(stores.pods.by(Index::Owner, "u1").len(), 2);
        assert_eq!(stores.pods.by(Index::Node, "n1").len(), 2);
        stores.pods.remove(&pod("b", "4", None, None));
        assert_eq!(stores.pods.by(Index::Node, "n1").len(), 1);
        assert_eq!(stores.pods.within("ns").len(), 1);
        assert_eq!(stores.pods.within("n").len(), 0);
    }

    #[test]
    fn own_writes_are_seen_when_the_watch_has_passed_them() {
        let stores = Stores::default();
        let key = Key::new("ns", "a");
        assert!(!stores.pods.has_seen(&key, 5));
        stores.put(pod("a", "5", None, None));
        assert!(stores.pods.has_seen(&key, 5));
        assert!(!stores.pods.has_seen(&key, 7));
        stores.pods.remove(&pod("a", "9", None, None));
        assert!(stores.pods.has_seen(&key, 7));
        assert!(stores.pods.is_leaving(&key, "x"));
    }
}
