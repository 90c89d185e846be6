//! A model of the cache's guarantees: whatever happens to the store and to the connection, a client that lists
//! and watches ends with the store's state, having seen every change in order.

use super::{Kind, WatchCache};
use crate::store::{Kv, Op, Txn, memory::Memory};
use api::catalog::{Catalog, Resource};
use bytes::Bytes;
use proptest::prelude::*;
use std::{collections::BTreeMap, sync::Arc};
use tokio_util::sync::CancellationToken;

fn resource(plural: &str) -> Arc<Resource> {
    Catalog::builtin().preferred("", plural).unwrap().clone()
}

#[derive(Clone, Debug)]
enum Step {
    Put(u8, u8),
    Delete(u8),
    Break,
    /// Compacts everything but the last changes: a cache that is behind must list again.
    Compact,
    /// A client reads what there is.
    Read,
    /// A client comes back with its last revision.
    Resume,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        6 => (0..4u8, any::<u8>()).prop_map(|(key, value)| Step::Put(key, value)),
        3 => (0..4u8).prop_map(Step::Delete),
        1 => Just(Step::Break),
        1 => Just(Step::Compact),
        3 => Just(Step::Read),
        2 => Just(Step::Resume),
    ];
    proptest::collection::vec(step, 1..40)
}

/// A client as informers are: a list, then changes.
struct Client {
    state: BTreeMap<String, u64>,
    revision: u64,
    cursor: super::Cursor,
}

impl Client {
    fn list(cache: &WatchCache, r: &Resource) -> Self {
        let shard = cache.shard(r).unwrap();
        let (entries, revision, cursor) = shard.snapshot("");
        let state = entries.iter().map(|e| (e.key.clone(), e.revision)).collect();
        Client { state, revision, cursor }
    }

    fn read(&mut self) {
        for event in self.cursor.read(1000).expect("the window is larger than the test") {
            assert!(event.revision >= self.revision, "changes go back");
            self.revision = event.revision;
            let kind = match (&event.old, &event.new) {
                (None, Some(_)) => Kind::Added,
                (Some(_), Some(_)) => Kind::Modified,
                _ => Kind::Deleted,
            };
            let key = event.new.as_ref().or(event.old.as_ref()).unwrap().key.clone();
            match kind {
                Kind::Added => {
                    let known = self.state.insert(key, event.revision);
                    assert!(known.is_none(), "an object was added twice");
                }
                Kind::Modified => {
                    let known = self.state.insert(key, event.revision).expect("it was added before");
                    assert!(known < event.revision, "a change came twice");
                }
                Kind::Deleted => assert!(self.state.remove(&key).is_some(), "an unknown object was deleted"),
            }
        }
    }
}

fn key(key: u8) -> String {
    format!("/registry/configmaps/a/{key}")
}

async fn play(steps: Vec<Step>) {
    let kv = Arc::new(Memory::new());
    let cache = WatchCache::new(kv.clone(), "/registry", &Catalog::builtin());
    let stop = CancellationToken::new();
    let feed = tokio::spawn(cache.clone().feed(stop.clone()));
    cache.fresh().await.unwrap();
    let r = resource("configmaps");
    let mut client = Client::list(&cache, &r);
    let mut model = BTreeMap::new();
    for step in steps {
        match step {
            Step::Put(k, value) => {
                let value = Bytes::from(format!(
                    "{{\"metadata\":{{\"name\":\"{k}\"}},\"data\":{{\"v\":\"{value}\"}}}}"
                ));
                let then = vec![Op::Put { key: key(k), value, lease: 0 }];
                let done = kv.txn(Txn { then, ..Txn::default() }).await.unwrap();
                model.insert(format!("a/{k}"), done.revision);
            }
            Step::Delete(k) => {
                let then = vec![Op::Delete { key: key(k) }];
                kv.txn(Txn { then, ..Txn::default() }).await.unwrap();
                model.remove(&format!("a/{k}"));
            }
            Step::Break => kv.break_watches(),
            Step::Compact => kv.compact(kv.revision()).await.unwrap(),
            Step::Read => client.read(),
            Step::Resume => match cache.shard(&r).unwrap().since(client.revision) {
                Ok(cursor) => client.cursor = cursor,
                Err(super::TooOld(start)) => {
                    assert!(start > client.revision);
                    client = Client::list(&cache, &r);
                }
            },
        }
    }
    let revision = cache.fresh().await.unwrap();
    assert!(revision >= kv.revision());
    let listed: BTreeMap<String, u64> =
        cache.list(&r, "").0.iter().map(|e| (e.key.clone(), e.revision)).collect();
    assert_eq!(listed, model, "a fresh list is the store's state");
    client.read();
    assert_eq!(client.state, model, "a watcher ends with the store's state");
    stop.cancel();
    feed.await.unwrap();
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]
    #[test]
    fn every_client_ends_with_the_stores_state(steps in steps()) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(play(steps));
    }
}

#[tokio::test]
async fn a_custom_resource_claims_what_was_there_before_it() {
    let kv = Arc::new(Memory::new());
    let value = Bytes::from_static(b"{\"metadata\":{\"name\":\"w\",\"namespace\":\"a\"}}");
    let then = vec![Op::Put { key: "/registry/example.com/widgets/a/w".into(), value, lease: 0 }];
    kv.txn(Txn { then, ..Txn::default() }).await.unwrap();
    let cache = WatchCache::new(kv.clone(), "/registry", &Catalog::builtin());
    let stop = CancellationToken::new();
    let feed = tokio::spawn(cache.clone().feed(stop.clone()));
    cache.fresh().await.unwrap();
    let mut widget = (*resource("configmaps")).clone();
    (widget.group, widget.plural, widget.kind) = ("example.com".into(), "widgets".into(), "Widget".into());
    (widget.prefix, widget.custom) = ("example.com/widgets".into(), true);
    widget.storage = widget.gvk();
    let widget = Arc::new(widget);
    cache.register(&Catalog::builtin().with([widget.clone()]));
    assert_eq!(cache.list(&widget, "a").0.len(), 1);
    assert!(cache.get(&widget, "a", "w").is_some());
    stop.cancel();
    feed.await.unwrap();
}
