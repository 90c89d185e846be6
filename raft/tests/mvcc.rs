//! The state machine against tables and against a model that keeps everything.

mod model;

use super::*;
use crate::{
    command::{Compare, Comparison, RangeResult, Sort, SortBy, Target},
    query::{check_revision, find},
};
use proptest::prelude::*;
use std::collections::BTreeMap;

/// Values in memory, and the state over them.
#[derive(Default)]
struct Store {
    state: State,
    records: BTreeMap<Revision, Arc<KeyValue>>,
    commits: Vec<Commit>,
}

struct Memory<'a>(&'a BTreeMap<Revision, Arc<KeyValue>>);

impl Values for Memory<'_> {
    fn load(&self, revision: Revision) -> io::Result<Option<Arc<KeyValue>>> {
        Ok(self.0.get(&revision).cloned())
    }
}

impl Store {
    fn apply(&mut self, command: &Command) -> Outcome {
        let mut effects = Effects::default();
        let outcome = apply(&mut self.state, &Memory(&self.records), command, &mut effects).unwrap();
        self.records.append(&mut effects.records);
        for removed in effects.removed {
            self.records.remove(&removed);
        }
        self.commits.append(&mut effects.commits);
        outcome
    }

    fn read(&self, query: &Range) -> Result<RangeResult, Fault> {
        check_revision(&self.state, query.revision)?;
        let at = if query.revision > 0 { query.revision } else { self.state.revision };
        Ok(find(&self.state.index, query, at).read(query, &Memory(&self.records)).unwrap())
    }
}

fn open(found: &RangeResult) -> Vec<KeyValue> {
    found.kvs.iter().map(|record| record.open().unwrap()).collect()
}

fn bytes(text: &str) -> Bytes {
    Bytes::copy_from_slice(text.as_bytes())
}

fn put(key: &str, value: &str) -> Put {
    Put { key: bytes(key), value: bytes(value), ..Put::default() }
}

fn all() -> Range {
    Range { key: bytes("\0"), end: bytes("\0"), ..Range::default() }
}

fn delete(key: &str, end: &str) -> Delete {
    Delete { key: bytes(key), end: bytes(end), prev_kv: false }
}

fn compare(key: &str, comparison: Comparison, target: Target) -> Compare {
    Compare { key: bytes(key), end: Bytes::new(), comparison, target }
}

fn filled() -> Store {
    let mut store = Store::default();
    for (key, value) in [("a", "3"), ("b", "2"), ("c", "1"), ("a", "4")] {
        store.apply(&Command::Put(put(key, value)));
    }
    store
}

#[test]
fn revisions_move_only_with_changes() {
    let mut store = Store::default();
    let mut check = |command: Command, revision: i64, fine: bool| {
        let outcome = store.apply(&command);
        assert_eq!((outcome.revision, outcome.result.is_ok()), (revision, fine), "{command:?}");
    };
    check(Command::Put(put("a", "1")), 2, true);
    check(Command::Delete(delete("x", "")), 2, true);
    check(Command::Delete(delete("a", "")), 3, true);
    check(Command::Delete(delete("a", "")), 3, true);
    check(Command::Put(Put { ignore_value: true, ..put("a", "") }), 3, false);
    check(Command::Put(Put { lease: 5, ..put("a", "") }), 3, false);
    check(Command::Grant { id: 5, ttl: 9 }, 3, true);
    check(Command::Grant { id: 5, ttl: 9 }, 3, false);
    check(Command::Put(Put { lease: 5, ..put("a", "") }), 4, true);
    check(Command::Put(Put { lease: 5, ..put("b", "") }), 5, true);
    check(Command::Txn(Txn::default()), 5, true);
    check(Command::Revoke(5), 6, true);
    check(Command::Revoke(5), 6, false);
    check(Command::Compact(7), 6, false);
    check(Command::Compact(4), 6, true);
    check(Command::Compact(4), 6, false);
    let last = store.commits.last().unwrap();
    let gone: Vec<_> = last.changes.iter().map(|c| (c.kv.key.clone(), c.kv.is_deletion())).collect();
    assert_eq!(gone, [(bytes("a"), true), (bytes("b"), true)]);
}

#[test]
fn versions_and_revisions_of_a_key_follow_etcd() {
    let mut store = filled();
    let read = |store: &Store| open(&store.read(&Range { key: bytes("a"), ..Range::default() }).unwrap());
    let a = read(&store).remove(0);
    assert_eq!((a.create, a.modified, a.version, &a.value[..]), (2, 5, 2, &b"4"[..]));
    store.apply(&Command::Delete(delete("a", "")));
    assert!(read(&store).is_empty());
    store.apply(&Command::Put(put("a", "5")));
    let a = read(&store).remove(0);
    assert_eq!((a.create, a.modified, a.version), (7, 7, 1));
}

#[test]
fn a_transaction_takes_effect_whole_or_not_at_all() {
    let mut store = filled();
    let check = |store: &mut Store, txn: Txn, expect: Result<Vec<(&str, i64)>, Fault>| {
        let before = store.state.revision;
        let outcome = store.apply(&Command::Txn(txn.clone()));
        assert_eq!(outcome.result.as_ref().err(), expect.as_ref().err(), "{txn:?}");
        let changes = match expect {
            Ok(changes) => changes,
            Err(_) => return assert_eq!(store.state.revision, before),
        };
        let made: Vec<_> =
            store.commits.iter().filter(|c| c.revision > before).flat_map(|c| &c.changes).collect();
        let made: Vec<_> = made.iter().map(|c| (c.kv.key.clone(), c.kv.version)).collect();
        let changes: Vec<_> = changes.into_iter().map(|(key, version)| (bytes(key), version)).collect();
        assert_eq!(made, changes, "{txn:?}");
    };
    let txn = |compare: Vec<Compare>, success: Vec<Op>, failure: Vec<Op>| Txn { compare, success, failure };
    let equal = |key: &str, target| compare(key, Comparison::Equal, target);
    let (x, y) = (Op::Put(put("x", "1")), Op::Put(put("y", "1")));
    check(
        &mut store,
        txn(vec![equal("x", Target::Version(0))], vec![x.clone(), y.clone()], vec![]),
        Ok(vec![("x", 1), ("y", 1)]),
    );
    check(
        &mut store,
        txn(vec![equal("x", Target::Version(0))], vec![x.clone()], vec![Op::Delete(delete("y", ""))]),
        Ok(vec![("y", 0)]),
    );
    check(
        &mut store,
        txn(vec![equal("none", Target::Value(bytes("")))], vec![x.clone()], vec![]),
        Ok(vec![]),
    );
    check(
        &mut store,
        txn(vec![compare("a", Comparison::Greater, Target::Modified(4))], vec![x.clone()], vec![]),
        Ok(vec![("x", 2)]),
    );
    check(
        &mut store,
        txn(vec![compare("a", Comparison::NotEqual, Target::Create(2))], vec![x.clone()], vec![]),
        Ok(vec![]),
    );
    check(
        &mut store,
        txn(vec![compare("b", Comparison::Less, Target::Value(bytes("3")))], vec![x.clone()], vec![]),
        Ok(vec![("x", 3)]),
    );
    let every = Compare { end: bytes("d"), ..equal("a", Target::Lease(0)) };
    check(&mut store, txn(vec![every], vec![x.clone()], vec![]), Ok(vec![("x", 4)]));
    let bad = Op::Put(Put { lease: 77, ..put("z", "") });
    check(&mut store, txn(vec![], vec![x.clone(), bad.clone()], vec![]), Err(Fault::LeaseNotFound));
    let future = Op::Range(Range { revision: 99, ..all() });
    check(&mut store, txn(vec![], vec![x.clone(), future], vec![]), Err(Fault::FutureRevision));
    let inner = Op::Txn(txn(vec![equal("q", Target::Version(0))], vec![y], vec![bad]));
    check(&mut store, txn(vec![], vec![Op::Put(put("q", "")), inner], vec![]), Ok(vec![("q", 1), ("y", 1)]));
}

#[test]
fn a_read_within_a_transaction_sees_what_it_wrote() {
    let mut store = filled();
    let success = vec![Op::Put(put("a", "new")), Op::Range(Range { key: bytes("a"), ..Range::default() })];
    let outcome = store.apply(&Command::Txn(Txn { success, ..Txn::default() }));
    let Ok(Response::Txn { responses, .. }) = outcome.result else { panic!("{outcome:?}") };
    let Response::Range(found) = &responses[1] else { panic!("{responses:?}") };
    let found = open(found);
    assert_eq!((&found[0].value[..], found[0].modified), (&b"new"[..], 6));
}

#[test]
fn ranges_are_limited_sorted_and_filtered() {
    let store = filled();
    let check = |query: Range, keys: &str, more: bool, count: i64| {
        let found = store.read(&query).unwrap();
        let found_keys: String = open(&found).iter().map(|kv| String::from_utf8_lossy(&kv.key)).collect();
        assert_eq!((found_keys.as_str(), found.more, found.count), (keys, more, count), "{query:?}");
    };
    let by = |by, descending| Some(Sort { by, descending, after_limit: false });
    check(all(), "abc", false, 3);
    check(Range { limit: 2, ..all() }, "ab", true, 3);
    check(Range { limit: 3, ..all() }, "abc", false, 3);
    check(Range { count_only: true, ..all() }, "", false, 3);
    check(Range { sort: by(SortBy::Key, true), limit: 1, ..all() }, "c", true, 3);
    check(Range { sort: by(SortBy::Value, false), ..all() }, "cba", false, 3);
    check(Range { sort: by(SortBy::Value, false), keys_only: true, ..all() }, "cba", false, 3);
    check(Range { sort: by(SortBy::Modified, true), ..all() }, "acb", false, 3);
    check(Range { min_mod: 4, ..all() }, "ac", false, 3);
    check(Range { max_create: 3, limit: 1, ..all() }, "a", true, 3);
    check(Range { revision: 3, ..all() }, "ab", false, 2);
    assert_eq!(store.read(&Range { revision: 9, ..all() }), Err(Fault::FutureRevision));
}

fn key() -> impl Strategy<Value = String> {
    "[a-d]"
}

fn command() -> impl Strategy<Value = Command> {
    let put_op = (key(), "[x-z]").prop_map(|(k, v)| Op::Put(put(&k, &v)));
    let delete_op = (key(), key()).prop_map(|(k, e)| Op::Delete(delete(&k, &e)));
    let txn = (key(), 0..3i64, put_op, delete_op).prop_map(|(k, version, success, failure)| {
        let compare = vec![compare(&k, Comparison::Equal, Target::Version(version))];
        Command::Txn(Txn { compare, success: vec![success], failure: vec![failure] })
    });
    prop_oneof![
        4 => (key(), "[x-z]").prop_map(|(k, v)| Command::Put(put(&k, &v))),
        2 => key().prop_map(|k| Command::Delete(delete(&k, ""))),
        2 => txn,
        1 => (1..40i64).prop_map(Command::Compact),
    ]
}

proptest! {
    /// A store that forgot nothing answers every readable revision the same; and a store taken back from its
    /// records goes on the same.
    #[test]
    fn compaction_and_restart_change_no_answer(commands in prop::collection::vec(command(), 1..60)) {
        let (mut store, mut model) = (Store::default(), Store::default());
        for command in &commands {
            let outcome = store.apply(command);
            if !matches!(command, Command::Compact(_)) {
                prop_assert_eq!(&outcome, &model.apply(command));
            }
        }
        let mut restored = Index::default();
        for (at, record) in &store.records {
            restored.restore(*at, record);
        }
        prop_assert_eq!(restored.compact(store.state.compacted), vec![]);
        for revision in store.state.compacted.max(1)..=store.state.revision {
            let query = Range { revision, ..all() };
            let expect = model.read(&query).unwrap();
            prop_assert_eq!(store.read(&query).unwrap(), expect.clone());
            prop_assert_eq!(find(&restored, &query, revision).read(&query, &Memory(&store.records)).unwrap(), expect);
        }
        prop_assert_eq!(store.commits.len(), usize::try_from(store.state.revision - 1).unwrap());
    }
}
