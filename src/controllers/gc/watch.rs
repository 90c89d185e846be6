//! Feeds the garbage collector with the metadata of every resource that has no store of its own.
//!
//! Keeps true: every deletable resource that discovery shows is watched soon after it appears (CRDs too), and left
//! when it is gone; what a new list does not show any more is reported as deleted.

use std::{
    collections::{BTreeSet, HashMap},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use futures::StreamExt;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::{
    api::{Api as Objects, ApiResource, DynamicObject, PartialObjectMeta},
    runtime::{
        WatchStreamExt,
        watcher::{Config, Event, watcher},
    },
};
use tokio::task::{AbortHandle, JoinSet};

use super::GarbageCollector;
use crate::{
    api::Api,
    controller::Resource,
    store::{Change, MetaDelta, Stores},
};

/// Between two looks at what the server serves.
const DISCOVER: Duration = Duration::from_secs(15);
/// While something is missing.
const SOON: Duration = Duration::from_secs(1);

/// Follows all resources until dropped. `tell` hears of every change.
pub(crate) async fn follow(
    collector: Arc<GarbageCollector>,
    client: kube::Client,
    api: Api,
    tell: impl Fn(&Change) + Clone + Send + 'static,
) {
    let mut watches: HashMap<Resource, AbortHandle> = HashMap::new();
    let mut tasks = JoinSet::new();
    let open = Arc::new(AtomicUsize::new(0));
    loop {
        let mut pause = SOON;
        match api.discover().await {
            Ok((found, failed)) => {
                collector.know(&found);
                let wanted: BTreeSet<Resource> = found.into_iter().filter(needs_watch).collect();
                watches.retain(|resource, watch| {
                    let keep = wanted.contains(resource) || !failed.is_empty();
                    if !keep {
                        watch.abort();
                    }
                    keep
                });
                for resource in wanted {
                    watches.entry(resource).or_insert_with_key(|resource| {
                        open.fetch_add(1, Ordering::AcqRel);
                        tasks.spawn(watch(client.clone(), resource.clone(), open.clone(), tell.clone()))
                    });
                }
                if open.load(Ordering::Acquire) == 0 && !watches.is_empty() {
                    collector.set_complete();
                }
                if collector.is_complete() {
                    pause = DISCOVER;
                }
            }
            Err(error) => tracing::debug!(%error, "cannot discover what to collect"),
        }
        tokio::time::sleep(pause).await;
        while tasks.try_join_next().is_some() {}
    }
}

/// Everything except what a store delivers anyway, and Events, which own nothing and go by themselves.
fn needs_watch(resource: &Resource) -> bool {
    let partial = crate::store::only_name(&resource.kind).is_some();
    let stored = Stores::resources().iter().any(|r| r.group == resource.group && r.plural == resource.plural);
    (!stored || partial) && resource.plural != "events"
}

/// One watch; reports every difference.
async fn watch(client: kube::Client, resource: Resource, open: Arc<AtomicUsize>, tell: impl Fn(&Change)) {
    let described = ApiResource {
        group: resource.group.to_string(),
        version: resource.version.to_string(),
        api_version: resource.api_version(),
        kind: resource.kind.to_string(),
        plural: resource.plural.to_string(),
    };
    let objects: Objects<Meta> = Objects::all_with(client, &described);
    let events = watcher(objects, Config::default()).default_backoff();
    tokio::pin!(events);
    let mut follower = Follower { resource: Arc::new(resource), known: HashMap::new(), listing: None };
    let mut first = true;
    while let Some(event) = events.next().await {
        let Ok(event) = event else { continue };
        let done = matches!(event, Event::InitDone);
        for delta in follower.handle(event) {
            tell(&Change::Meta(delta));
        }
        if done && std::mem::take(&mut first) {
            open.fetch_sub(1, Ordering::AcqRel);
        }
    }
}

struct Follower {
    resource: Arc<Resource>,
    known: HashMap<String, Arc<ObjectMeta>>,
    listing: Option<HashMap<String, Arc<ObjectMeta>>>,
}

type Meta = PartialObjectMeta<DynamicObject>;

impl Follower {
    fn handle(&mut self, event: Event<Meta>) -> Vec<MetaDelta> {
        match event {
            Event::Init => {
                self.listing = Some(HashMap::new());
                Vec::new()
            }
            Event::InitApply(object) => {
                let meta = slim(object.metadata);
                self.listing.get_or_insert_default().insert(uid(&meta), meta.clone());
                self.put(meta).into_iter().collect()
            }
            Event::InitDone => self.replace(),
            Event::Apply(object) => self.put(slim(object.metadata)).into_iter().collect(),
            Event::Delete(object) => {
                let meta = slim(object.metadata);
                self.known.remove(&uid(&meta)).map(|_| self.delta(Some(meta), None)).into_iter().collect()
            }
        }
    }

    fn put(&mut self, meta: Arc<ObjectMeta>) -> Option<MetaDelta> {
        let old = self.known.insert(uid(&meta), meta.clone());
        (old.as_ref() != Some(&meta)).then(|| self.delta(old, Some(meta)))
    }

    fn replace(&mut self) -> Vec<MetaDelta> {
        let listed = self.listing.take().unwrap_or_default();
        let gone: Vec<String> = self.known.keys().filter(|uid| !listed.contains_key(*uid)).cloned().collect();
        let old = gone.into_iter().filter_map(|uid| self.known.remove(&uid)).collect::<Vec<_>>();
        old.into_iter().map(|old| self.delta(Some(old), None)).collect()
    }

    fn delta(&self, old: Option<Arc<ObjectMeta>>, new: Option<Arc<ObjectMeta>>) -> MetaDelta {
        MetaDelta { resource: self.resource.clone(), old, new }
    }
}

fn uid(meta: &ObjectMeta) -> String {
    meta.uid.clone().unwrap_or_default()
}

/// Only what the graph needs.
fn slim(meta: ObjectMeta) -> Arc<ObjectMeta> {
    Arc::new(ObjectMeta {
        name: meta.name,
        namespace: meta.namespace,
        uid: meta.uid,
        resource_version: meta.resource_version,
        owner_references: meta.owner_references,
        finalizers: meta.finalizers,
        deletion_timestamp: meta.deletion_timestamp,
        ..Default::default()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn object(uid: &str, version: &str) -> Meta {
        let (uid, version) = (Some(uid.to_owned()), Some(version.to_owned()));
        let metadata = ObjectMeta { uid, resource_version: version, ..Default::default() };
        PartialObjectMeta { metadata, types: None, _phantom: std::marker::PhantomData }
    }

    #[test]
    fn lists_report_what_is_gone() {
        let resource = Arc::new(Resource::of::<k8s_openapi::api::core::v1::Pod>());
        let mut follower = Follower { resource, known: HashMap::new(), listing: None };
        let mut check = |events: Vec<Event<Meta>>, expect: &[(bool, bool)]| {
            let deltas = events.into_iter().flat_map(|e| follower.handle(e));
            let got: Vec<_> = deltas.map(|d| (d.old.is_some(), d.new.is_some())).collect();
            assert_eq!(got, expect);
        };
        check(vec![Event::Init, Event::InitApply(object("a", "1")), Event::InitDone], &[(false, true)]);
        check(vec![Event::Apply(object("a", "2"))], &[(true, true)]);
        check(
            vec![Event::Init, Event::InitApply(object("b", "3")), Event::InitDone],
            &[(false, true), (true, false)],
        );
        check(vec![Event::Delete(object("b", "4")), Event::Delete(object("x", "5"))], &[(true, false)]);
    }
}
