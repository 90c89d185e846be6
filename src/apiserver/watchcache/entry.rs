//! One object and one change as the cache keeps them: bytes made once, selectors' input beside them.

use crate::store::KeyValue;
use api::{Object, catalog::Resource};
use bytes::{BufMut, Bytes, BytesMut};
use serde_json::{Map, Value};
use std::sync::{Arc, OnceLock};

/// One object at one revision.
#[derive(Debug)]
pub(crate) struct Entry {
    /// `NAMESPACE/NAME` or `NAME`.
    pub(crate) key: String,
    /// Its resourceVersion.
    pub(crate) revision: u64,
    /// Its JSON in the storage version, resourceVersion included.
    pub(crate) bytes: Bytes,
    /// `metadata.labels`.
    pub(crate) labels: Map<String, Value>,
    /// What field selectors may ask for.
    pub(crate) fields: Vec<(String, String)>,
    /// `metadata.uid`.
    pub(crate) uid: String,
    /// The parsed form, made when somebody first wants it.
    object: OnceLock<Arc<Object>>,
}

impl Entry {
    /// From what the store holds. Bytes that are no JSON object become an empty object: one damaged key must
    /// not take a whole resource away.
    pub(crate) fn new(resource: &Resource, key: &str, kv: &KeyValue) -> Self {
        let object = Object::from_slice(&kv.value).unwrap_or_else(|error| {
            tracing::error!(key = kv.key, %error, "the store holds something that is not a JSON object");
            Object::default()
        });
        Self::of(resource, key, object, kv.mod_revision)
    }

    /// From an object, at a revision.
    pub(crate) fn of(resource: &Resource, key: &str, mut object: Object, revision: u64) -> Self {
        object.set_resource_version(&revision.to_string());
        Entry {
            key: key.to_string(),
            revision,
            bytes: object.to_bytes(),
            labels: object.labels().cloned().unwrap_or_default(),
            fields: api::fields::selectable(resource, &object)
                .into_iter()
                .map(|(n, v)| (n.to_string(), v))
                .collect(),
            uid: object.uid().to_string(),
            object: OnceLock::new(),
        }
    }

    /// The parsed object.
    pub(crate) fn object(&self) -> Arc<Object> {
        self.object.get_or_init(|| Arc::new(Object::from_slice(&self.bytes).unwrap_or_default())).clone()
    }
}

/// What a change is to a watcher.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// It came, or came into the watcher's selection.
    Added,
    /// It changed.
    Modified,
    /// It went, or left the watcher's selection.
    Deleted,
}

impl Kind {
    /// As on the wire.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Kind::Added => "ADDED",
            Kind::Modified => "MODIFIED",
            Kind::Deleted => "DELETED",
        }
    }
}

/// One change.
#[derive(Debug)]
pub(crate) struct Event {
    /// Its revision.
    pub(crate) revision: u64,
    /// The state before, `None` when it was made.
    pub(crate) old: Option<Arc<Entry>>,
    /// The state after, `None` when it was deleted.
    pub(crate) new: Option<Arc<Entry>>,
    /// The last state with the revision of its end, for watchers that must see it go.
    last: OnceLock<Arc<Entry>>,
    frames: [OnceLock<Bytes>; 3],
}

impl Event {
    pub(crate) fn new(revision: u64, old: Option<Arc<Entry>>, new: Option<Arc<Entry>>) -> Self {
        Event { revision, old, new, last: OnceLock::new(), frames: Default::default() }
    }

    /// The object to show for a kind of change: for `Deleted` the last state that was seen, with the revision
    /// of its end.
    pub(crate) fn shown(&self, kind: Kind, resource: &Resource) -> Option<Arc<Entry>> {
        match (kind, &self.old) {
            (Kind::Deleted, Some(old)) => Some(self.last.get_or_init(|| self.end(old, resource)).clone()),
            _ => self.new.clone(),
        }
    }

    /// The finished line for a watch in the storage version.
    pub(crate) fn frame(&self, kind: Kind, resource: &Resource) -> Bytes {
        let slot = &self.frames[kind as usize];
        slot.get_or_init(|| {
            self.shown(kind, resource).map(|e| line(kind.name(), &e.bytes)).unwrap_or_default()
        })
        .clone()
    }

    fn end(&self, old: &Entry, resource: &Resource) -> Arc<Entry> {
        let object = Object::from_slice(&old.bytes).unwrap_or_default();
        Arc::new(Entry::of(resource, &old.key, object, self.revision))
    }
}

/// A line of a watch.
pub(crate) fn line(kind: &str, object: &[u8]) -> Bytes {
    let mut out = BytesMut::with_capacity(object.len() + 40);
    out.put_slice(b"{\"type\":\"");
    out.put_slice(kind.as_bytes());
    out.put_slice(b"\",\"object\":");
    out.put_slice(object);
    out.put_slice(b"}\n");
    out.freeze()
}
