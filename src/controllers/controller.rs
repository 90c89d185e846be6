//! What a reconciler may see and ask for.
//!
//! Keeps true: a reconciler is a function of a [`Context`] (informer stores, the time, what it asked the API
//! server before) and a [`Key`]; it returns a [`Plan`] and touches nothing else. Leaves to others: performing the
//! plan, retries and waiting for one's own writes to show up (`runner.rs`).

use std::{borrow::Cow, collections::HashMap, time::Duration};

use jiff::Timestamp;
use k8s_openapi::{
    api::core::v1::ObjectReference,
    apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference},
};
use serde_json::Value;

use crate::store::{Change, Stores, Watched};

/// Names one object of the kind that a controller looks after; the namespace is empty for cluster-scoped kinds.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct Key {
    /// Namespace, or empty.
    pub(crate) namespace: String,
    /// Name.
    pub(crate) name: String,
}

impl Key {
    /// A key from its two halves.
    pub(crate) fn new(namespace: impl Into<String>, name: impl Into<String>) -> Self {
        Self { namespace: namespace.into(), name: name.into() }
    }

    /// The key of an object.
    #[must_use]
    pub(crate) fn of(meta: &ObjectMeta) -> Self {
        Self::new(meta.namespace.as_deref().unwrap_or_default(), meta.name.as_deref().unwrap_or_default())
    }
}

impl std::fmt::Display for Key {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        if self.namespace.is_empty() {
            return f.write_str(&self.name);
        }
        write!(f, "{}/{}", self.namespace, self.name)
    }
}

/// A served resource, enough of it to build paths.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct Resource {
    /// API group, empty for the core group.
    pub(crate) group: Cow<'static, str>,
    /// API version.
    pub(crate) version: Cow<'static, str>,
    /// Kind.
    pub(crate) kind: Cow<'static, str>,
    /// Plural name, as in paths.
    pub(crate) plural: Cow<'static, str>,
    /// Whether objects live in namespaces.
    pub(crate) namespaced: bool,
}

impl Resource {
    /// The resource of a typed kind.
    #[must_use]
    pub(crate) fn of<K: Watched>() -> Self {
        Self {
            group: K::GROUP.into(),
            version: K::VERSION.into(),
            kind: K::KIND.into(),
            plural: K::URL_PATH_SEGMENT.into(),
            namespaced: K::NAMESPACED,
        }
    }

    /// `group/version`, or just the version for the core group.
    #[must_use]
    pub(crate) fn api_version(&self) -> String {
        if self.group.is_empty() {
            return self.version.to_string();
        }
        format!("{}/{}", self.group, self.version)
    }

    /// Path of the collection (in a namespace, unless that is empty).
    #[must_use]
    pub(crate) fn collection(&self, namespace: &str) -> String {
        let root = if self.group.is_empty() { "/api" } else { "/apis" };
        let version = self.api_version();
        if namespace.is_empty() {
            return format!("{root}/{version}/{}", self.plural);
        }
        format!("{root}/{version}/namespaces/{namespace}/{}", self.plural)
    }

    /// Path of an object.
    #[must_use]
    pub(crate) fn path(&self, key: &Key) -> String {
        format!("{}/{}", self.collection(&key.namespace), key.name)
    }
}

/// An object to act on.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct Target {
    /// Its resource.
    pub(crate) resource: Resource,
    /// Its name.
    pub(crate) key: Key,
}

impl Target {
    /// The target that an object is.
    pub(crate) fn of<K: Watched>(object: &K) -> Self {
        Self { resource: Resource::of::<K>(), key: Key::of(object.metadata()) }
    }
}

/// How dependents of a deleted object are treated.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Propagation {
    /// Delete dependents after the owner.
    Background,
    /// Delete blocking dependents first.
    Foreground,
    /// Leave dependents, without their owner reference.
    Orphan,
}

/// Severity of an event.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Severity {
    /// Something normal happened.
    Normal,
    /// Somebody should look.
    Warning,
}

/// An event to record about an object.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Event {
    /// What it is about.
    pub(crate) about: ObjectReference,
    /// Normal or Warning.
    pub(crate) severity: Severity,
    /// Machine-readable reason.
    pub(crate) reason: &'static str,
    /// Text for people.
    pub(crate) message: String,
}

/// What to announce, and to remember, about the outcome of a create or delete. `{}` in a text is the object's
/// name (success) or the server's message (failure).
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Announce {
    /// The object that the events are about.
    pub(crate) about: ObjectReference,
    /// Reason and text when it worked.
    pub(crate) done: (&'static str, &'static str),
    /// Reason and text when it failed.
    pub(crate) failed: (&'static str, &'static str),
}

/// One thing that a reconciler wants done.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Action {
    /// Create an object; a `generateName` gets its suffix from the runner, so that a lost answer can be retried
    /// without making a second object.
    Create {
        /// What it is.
        resource: Resource,
        /// The whole object.
        object: Value,
        /// Events.
        announce: Option<Announce>,
        /// Whether "already exists" is a success.
        exists_ok: bool,
    },
    /// Replace an object or a subresource; the object carries uid and resourceVersion.
    Update {
        /// What.
        target: Target,
        /// Subresource or empty.
        subresource: &'static str,
        /// The whole object.
        object: Value,
    },
    /// Merge patch; preconditions are in its `metadata`.
    Patch {
        /// What.
        target: Target,
        /// Subresource or empty.
        subresource: &'static str,
        /// RFC 7386 patch.
        patch: Value,
    },
    /// Delete with preconditions.
    Delete {
        /// What.
        target: Target,
        /// Only if it still has this uid.
        uid: Option<String>,
        /// Only if it is still at this version.
        resource_version: Option<String>,
        /// Dependents; `None` is the server's default.
        propagation: Option<Propagation>,
        /// Grace period in seconds; `None` is the object's own.
        grace: Option<i64>,
        /// Events.
        announce: Option<Announce>,
    },
    /// Delete everything of a resource in a namespace.
    DeleteCollection {
        /// Which.
        resource: Resource,
        /// Where.
        namespace: String,
    },
    /// Independent actions, performed concurrently in batches of 1, 2, 4 … that stop at the first failure, so a
    /// thousand creates that a quota refuses cost one request.
    Batch(Vec<Action>),
    /// Record an event.
    Event(Event),
}

/// A read of the live API that a decision needs; the answer comes with the next call of the same reconcile.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Question {
    /// The object's metadata.
    Get(Target),
    /// Names of (some) objects of a resource in a namespace.
    List {
        /// Which.
        resource: Resource,
        /// Where.
        namespace: String,
    },
    /// Texts at a JSON pointer in every object of a cluster-scoped resource (lists of texts are flattened).
    Texts {
        /// Which.
        resource: Resource,
        /// Where in each object.
        pointer: &'static str,
    },
    /// All resources that the server has now, with the verbs list and delete.
    Discover,
    /// A SubjectAccessReview; the text is its spec as JSON.
    Review(String),
}

/// The server's answer to a [`Question`].
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Answer {
    /// Not there (404).
    Absent,
    /// The metadata of an object.
    Meta(Box<ObjectMeta>),
    /// Metadata of objects; a few hundred at most.
    Metas(Vec<ObjectMeta>),
    /// What [`Question::Texts`] found.
    Texts(Vec<String>),
    /// Resources, and the groups that could not be discovered.
    Resources(Vec<Resource>, Vec<String>),
    /// Whether the review allowed it.
    Allowed(bool),
    /// The server said no, or could not be asked: a text for people.
    Failed(String),
}

/// What a reconciler sees.
pub(crate) struct Context<'a> {
    /// The informer stores.
    pub(crate) stores: &'a Stores,
    /// The time now.
    pub(crate) now: Timestamp,
    /// Message of the last failed [`Action::Batch`] for this key.
    pub(crate) failure: Option<&'a str>,
    /// Answers so far.
    pub(crate) answers: &'a HashMap<Question, Answer>,
}

/// What a reconciler wants.
#[derive(Debug, Default, PartialEq)]
pub(crate) struct Plan {
    /// In this order; the first failure ends the plan and the key comes back with back-off.
    pub(crate) actions: Vec<Action>,
    /// If not empty, nothing is performed: the reconcile is called again with these answered.
    pub(crate) questions: Vec<Question>,
    /// Look again after this long, also if nothing changes.
    pub(crate) requeue: Option<Duration>,
}

impl Plan {
    /// Nothing to do.
    #[must_use]
    pub(crate) fn none() -> Self {
        Self::default()
    }

    /// Just these actions.
    #[must_use]
    pub(crate) fn of(actions: Vec<Action>) -> Self {
        Self { actions, ..Self::default() }
    }

    /// First answer this.
    #[must_use]
    pub(crate) fn ask(questions: Vec<Question>) -> Self {
        Self { questions, ..Self::default() }
    }

    /// Adds an action.
    pub(crate) fn act(&mut self, action: Action) {
        self.actions.push(action);
    }

    /// Look again after this long at the latest (the shortest wins).
    pub(crate) fn requeue_in(&mut self, after: Duration) {
        self.requeue = Some(self.requeue.map_or(after, |d| d.min(after)));
    }
}

/// One controller. Stateless ones implement three methods.
pub(crate) trait Controller: Send + Sync {
    /// Sees every change, also on a standby; only for controllers that keep a picture of their own.
    fn observe(&self, _stores: &Stores, _change: &Change, _now: Timestamp) {}

    /// A term as leader begins.
    fn begin(&self, _stores: &Stores, _now: Timestamp) {}

    /// Everything that it looks after, to be looked at when a term begins.
    fn keys(&self, stores: &Stores) -> Vec<Key>;

    /// Which keys a change concerns.
    fn wake(&self, stores: &Stores, change: &Change) -> Vec<Key>;

    /// Decides.
    fn reconcile(&self, context: &Context<'_>, key: &Key) -> Plan;
}

/// A reference for events.
pub(crate) fn reference<K: Watched>(object: &K) -> ObjectReference {
    let meta = object.metadata();
    ObjectReference {
        api_version: Some(K::API_VERSION.into()),
        kind: Some(K::KIND.into()),
        namespace: meta.namespace.clone(),
        name: meta.name.clone(),
        uid: meta.uid.clone(),
        resource_version: meta.resource_version.clone(),
        field_path: None,
    }
}

/// The controller owner reference that an owner's children carry.
pub(crate) fn owned_by<K: Watched>(owner: &K) -> OwnerReference {
    let meta = owner.metadata();
    OwnerReference {
        api_version: K::API_VERSION.into(),
        kind: K::KIND.into(),
        name: meta.name.clone().unwrap_or_default(),
        uid: meta.uid.clone().unwrap_or_default(),
        controller: Some(true),
        block_owner_deletion: Some(true),
    }
}

/// The reference to an object's controller, if it has one.
#[must_use]
pub(crate) fn controller_of(meta: &ObjectMeta) -> Option<&OwnerReference> {
    meta.owner_references.iter().flatten().find(|r| r.controller == Some(true))
}

/// A typed object as JSON.
pub(crate) fn json<T: serde::Serialize>(object: &T) -> Value {
    serde_json::to_value(object).expect("Kubernetes types have string keys only and serialise infallibly")
}

/// Replace an object or one of its subresources.
pub(crate) fn update<K: Watched>(object: &K, subresource: &'static str) -> Action {
    Action::Update { target: Target::of(object), subresource, object: json(object) }
}

/// An event about an object.
pub(crate) fn event<K: Watched>(
    about: &K,
    severity: Severity,
    reason: &'static str,
    message: String,
) -> Action {
    Action::Event(Event { about: reference(about), severity, reason, message })
}

/// Delete this very object.
pub(crate) fn delete<K: Watched>(object: &K) -> Action {
    Action::Delete {
        target: Target::of(object),
        uid: object.metadata().uid.clone(),
        resource_version: None,
        propagation: None,
        grace: None,
        announce: None,
    }
}

/// Seconds from `since` until `now`, never negative.
#[must_use]
pub(crate) fn elapsed(since: Timestamp, now: Timestamp) -> Duration {
    Duration::try_from(now.duration_since(since)).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use k8s_openapi::api::{apps::v1::Deployment, core::v1::Pod};

    use super::*;

    #[test]
    fn paths() {
        let key = Key::new("ns", "a");
        assert_eq!(Resource::of::<Pod>().path(&key), "/api/v1/namespaces/ns/pods/a");
        assert_eq!(Resource::of::<Deployment>().path(&key), "/apis/apps/v1/namespaces/ns/deployments/a");
        assert_eq!(Resource::of::<Pod>().collection(""), "/api/v1/pods");
    }
}
