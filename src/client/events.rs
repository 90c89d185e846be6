//! Events: what a component tells people about an object.
//!
//! Keeps true: telling never blocks or fails the teller; the same message about the same object becomes one
//! Event with a count. Events are best effort: when the API server is away for long, the oldest are dropped.

use crate::Client;
use jiff::Timestamp;
use k8s_openapi::{
    api::core::v1::{Event, EventSource, ObjectReference},
    apimachinery::pkg::apis::meta::v1::{ObjectMeta, Time},
};
use kube::{
    Api, Resource,
    api::{Patch, PatchParams, PostParams},
};
use std::{collections::HashMap, time::Duration};
use tokio::{sync::mpsc, task::JoinSet};

/// Events that wait to be sent; beyond this new ones are dropped.
const BACKLOG: usize = 1000;
/// Distinct messages whose counts are remembered.
const REMEMBERED: usize = 4096;
/// A message that was not repeated for this long starts a new Event.
const FORGET_AFTER: Duration = Duration::from_secs(10 * 60);
/// Tries to send one Event.
const TRIES: u32 = 5;

/// Whether people should worry.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum EventType {
    /// Something expected happened.
    Normal,
    /// Something may be wrong.
    Warning,
}

impl EventType {
    /// The name in the API.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Normal => "Normal",
            Self::Warning => "Warning",
        }
    }
}

/// A component's voice; cheap to clone.
#[derive(Clone)]
pub struct Recorder {
    sender: mpsc::Sender<Told>,
}

struct Told {
    about: ObjectReference,
    kind: EventType,
    reason: String,
    message: String,
}

#[derive(Clone, PartialEq, Eq, Hash)]
struct Key {
    uid: String,
    field: String,
    reason: String,
    message: String,
}

struct Sent {
    name: String,
    count: i32,
    last: Timestamp,
}

/// A reference to `object`, as Events and owner-like fields name it.
pub fn reference<K: Resource>(object: &K) -> ObjectReference
where
    K::DynamicType: Default,
{
    let (dynamic, meta) = (K::DynamicType::default(), object.meta());
    ObjectReference {
        api_version: Some(K::api_version(&dynamic).into_owned()),
        kind: Some(K::kind(&dynamic).into_owned()),
        name: meta.name.clone(),
        namespace: meta.namespace.clone(),
        resource_version: meta.resource_version.clone(),
        uid: meta.uid.clone(),
        field_path: None,
    }
}

impl Recorder {
    /// A recorder for `component` on `host` (may be empty), sending from a task of `tasks`.
    pub fn new(client: &Client, component: &str, host: &str, tasks: &mut JoinSet<()>) -> Self {
        let (sender, mut receiver) = mpsc::channel(BACKLOG);
        let source = EventSource {
            component: Some(component.to_owned()),
            host: (!host.is_empty()).then(|| host.to_owned()),
        };
        let mut writer = Writer { kube: client.kube(), source, host: host.to_owned(), sent: HashMap::new() };
        tasks.spawn(async move {
            while let Some(told) = receiver.recv().await {
                writer.write(told).await;
            }
        });
        Self { sender }
    }

    /// A recorder that tells nobody; for tests.
    #[must_use]
    pub fn silent() -> Self {
        Self { sender: mpsc::channel(1).0 }
    }

    /// Tells people about an object. Returns at once.
    pub fn event(
        &self,
        about: &ObjectReference,
        kind: EventType,
        reason: impl Into<String>,
        message: impl Into<String>,
    ) {
        let told = Told { about: about.clone(), kind, reason: reason.into(), message: message.into() };
        if let Err(error) = self.sender.try_send(told) {
            tracing::debug!(%error, "dropped an event");
        }
    }
}

struct Writer {
    kube: kube::Client,
    source: EventSource,
    host: String,
    sent: HashMap<Key, Sent>,
}

impl Writer {
    async fn write(&mut self, told: Told) {
        let key = Key {
            uid: told.about.uid.clone().unwrap_or_default(),
            field: told.about.field_path.clone().unwrap_or_default(),
            reason: told.reason.clone(),
            message: told.message.clone(),
        };
        let now = Timestamp::now();
        self.forget_old(now);
        for attempt in 1..=TRIES {
            match self.send(&told, &key, now).await {
                Ok(()) => return,
                // Refused for good: the namespace is going away, or this component may not.
                Err(kube::Error::Api(status)) if status.code < 500 && status.code != 429 => {
                    tracing::debug!(reason = told.reason, message = status.message, "event refused");
                    return;
                }
                Err(error) => {
                    tracing::debug!(%error, attempt, "cannot send an event yet");
                    tokio::time::sleep(Duration::from_millis(200) * attempt).await;
                }
            }
        }
    }

    async fn send(&mut self, told: &Told, key: &Key, now: Timestamp) -> kube::Result<()> {
        let namespace = told.about.namespace.as_deref().filter(|n| !n.is_empty()).unwrap_or("default");
        let api: Api<Event> = Api::namespaced(self.kube.clone(), namespace);
        if let Some(sent) = self.sent.get_mut(key) {
            let patch = serde_json::json!({ "count": sent.count + 1, "lastTimestamp": Time(now) });
            match api.patch(&sent.name, &PatchParams::default(), &Patch::Merge(patch)).await {
                Ok(_) => {
                    (sent.count, sent.last) = (sent.count + 1, now);
                    return Ok(());
                }
                Err(kube::Error::Api(status)) if status.code == 404 => self.sent.remove(key),
                Err(error) => return Err(error),
            };
        }
        let event = self.first(told, namespace, now);
        let name = event.metadata.name.clone().unwrap_or_default();
        api.create(&PostParams::default(), &event).await?;
        self.sent.insert(key.clone(), Sent { name, count: 1, last: now });
        Ok(())
    }

    fn first(&self, told: &Told, namespace: &str, now: Timestamp) -> Event {
        let object = told.about.name.clone().unwrap_or_default();
        Event {
            metadata: ObjectMeta {
                name: Some(format!("{object}.{:016x}", now.as_nanosecond())),
                namespace: Some(namespace.to_owned()),
                ..Default::default()
            },
            involved_object: told.about.clone(),
            reason: Some(told.reason.clone()),
            message: Some(told.message.clone()),
            type_: Some(told.kind.as_str().to_owned()),
            source: Some(self.source.clone()),
            reporting_component: self.source.component.clone(),
            reporting_instance: Some(self.host.clone()),
            first_timestamp: Some(Time(now)),
            last_timestamp: Some(Time(now)),
            count: Some(1),
            ..Default::default()
        }
    }

    fn forget_old(&mut self, now: Timestamp) {
        if self.sent.len() >= REMEMBERED {
            let limit = i64::try_from(FORGET_AFTER.as_secs()).unwrap_or(i64::MAX);
            self.sent.retain(|_, sent| now.as_second() - sent.last.as_second() < limit);
        }
        if self.sent.len() >= REMEMBERED {
            self.sent.clear();
        }
    }
}
