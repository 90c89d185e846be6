//! Which keys there are, and at which revisions they changed: in memory, over values on disk.
//!
//! Keeps true: for every revision from the compacted one on, a lookup finds exactly the keys that were alive then;
//! compaction removes the same revisions on every member, because it is a pure function of the changes and the
//! compacted revision. Values are left to the disk.

use crate::{
    command::KeyValue,
    keys::Keys,
    revision::{KeyRange, Revision},
    work::mutant,
};
use bytes::Bytes;

/// All keys with their history.
#[derive(Default)]
pub(crate) struct Index {
    keys: Keys,
}

/// What a key is now.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub(crate) struct Live {
    /// The revision that created it.
    pub(crate) create: i64,
    /// The revision that wrote it last.
    pub(crate) modified: Revision,
    /// Writes since it was created.
    pub(crate) version: i64,
    /// Its lease, or 0.
    pub(crate) lease: i64,
}

/// What a write did to a key.
pub(crate) struct Written {
    /// What the key was, if it was alive.
    pub(crate) old: Option<Live>,
    /// Where its value of before the write's revision lies.
    pub(crate) before: Option<Revision>,
    /// What it is now.
    pub(crate) live: Live,
}

/// A key's changes.
#[derive(Default)]
pub(crate) struct History {
    /// In order; never empty while the key is in the index.
    points: Vec<Point>,
    live: Option<Live>,
}

#[derive(Clone, Copy)]
struct Point {
    at: Revision,
    deletion: bool,
}

impl History {
    /// What the key is now, if it is alive.
    pub(crate) fn live(&self) -> Option<Live> {
        self.live
    }

    /// The revision of its newest change; 0 if it has none.
    pub(crate) fn newest(&self) -> i64 {
        self.points.last().map_or(0, |point| point.at.main)
    }

    /// The last change that a reader at `main` sees, if it left the key alive.
    pub(crate) fn at(&self, main: i64) -> Option<Revision> {
        let seen = self.points.partition_point(|point| point.at.main <= main);
        self.points[..seen].last().filter(|point| !point.deletion).map(|point| point.at)
    }

    /// Where the key's value of before a revision lies, whatever else that revision does to the key.
    fn before(&self, revision: Revision) -> Option<Revision> {
        let earlier = self.points.partition_point(|point| point.at.main < revision.main);
        self.points[..earlier].last().filter(|point| !point.deletion).map(|point| point.at)
    }

    fn push(&mut self, at: Revision, live: Option<Live>) {
        self.points.push(Point { at, deletion: live.is_none() });
        self.live = live;
    }

    /// Drops what no reader at or after `main` can see; a deletion made exactly at `main` stays, for a watch may
    /// still begin there.
    fn compact(&mut self, main: i64, removed: &mut Vec<Revision>) {
        let superseded = self.points.partition_point(|point| point.at.main <= main).saturating_sub(1);
        removed.extend(self.points.drain(..superseded).map(|point| point.at));
        let main = main + i64::from(mutant!(CompactsDeletion)).max(i64::from(mutant!(RevisionFromRecords)));
        if self.points.first().is_some_and(|point| point.deletion && point.at.main < main) {
            removed.push(self.points.remove(0).at);
        }
    }
}

impl Index {
    /// What a key is now, if it is alive.
    pub(crate) fn live(&self, key: &[u8]) -> Option<Live> {
        self.keys.get(key)?.live
    }

    /// Where the key's value of before a change's revision lies, if it was alive and is not compacted.
    pub(crate) fn before(&self, key: &[u8], revision: Revision) -> Option<Revision> {
        self.keys.get(key)?.before(revision)
    }

    /// Whether a revision of a key is still known: what is not is garbage on disk.
    pub(crate) fn knows(&self, key: &[u8], revision: Revision) -> bool {
        self.keys
            .get(key)
            .is_some_and(|history| history.points.binary_search_by_key(&revision, |p| p.at).is_ok())
    }

    /// The keys alive at a revision, in order, with where their values lie.
    pub(crate) fn range(&self, range: &KeyRange, main: i64) -> impl Iterator<Item = (&Bytes, Revision)> {
        self.keys.range(range).filter_map(move |(key, history)| Some((key, history.at(main)?)))
    }

    /// How many keys are alive at a revision.
    pub(crate) fn count(&self, range: &KeyRange, main: i64) -> usize {
        self.keys.count(range, main)
    }

    /// The keys alive now, in order.
    pub(crate) fn alive(&self, range: &KeyRange) -> impl Iterator<Item = (&Bytes, Live)> {
        self.keys.range(range).filter_map(|(key, history)| Some((key, history.live?)))
    }

    /// Writes a key; without a lease it keeps the one it has.
    pub(crate) fn put(&mut self, key: &[u8], at: Revision, lease: Option<i64>) -> Written {
        self.keys.change(key, at.main, |history| {
            let (old, before) = (history.live, history.before(at));
            let lease = lease.unwrap_or(old.map_or(0, |old| old.lease));
            let live = match old {
                Some(old) => Live { modified: at, version: old.version + 1, lease, ..old },
                None => Live { create: at.main, modified: at, version: 1, lease },
            };
            history.push(at, Some(live));
            Written { old, before, live }
        })
    }

    /// Deletes a key that is in the index; returns where its value of before lies.
    pub(crate) fn delete(&mut self, key: &[u8], at: Revision) -> Option<Revision> {
        self.keys.change(key, at.main, |history| {
            let before = history.before(at);
            history.push(at, None);
            before
        })
    }

    /// Takes a record back from disk; records come in the order of their revisions.
    pub(crate) fn restore(&mut self, at: Revision, record: &KeyValue) {
        let live = (!record.is_deletion()).then_some(Live {
            create: record.create,
            modified: at,
            version: record.version,
            lease: record.lease,
        });
        self.keys.change(&record.key, at.main, |history| history.push(at, live));
    }

    /// Forgets what no reader at or after `main` can see; returns the revisions to remove from disk, in order.
    pub(crate) fn compact(&mut self, main: i64) -> Vec<Revision> {
        let mut removed = Vec::new();
        self.keys.retain(|history| {
            history.compact(main, &mut removed);
            !history.points.is_empty()
        });
        removed.sort_unstable();
        removed
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(main: i64) -> Revision {
        Revision { main, sub: 0 }
    }

    fn sample() -> Index {
        let mut index = Index::default();
        let (a, b) = (Bytes::from_static(b"a"), Bytes::from_static(b"b"));
        index.put(&a, at(2), None);
        index.put(&b, at(3), None);
        index.put(&a, at(4), None);
        index.delete(b"a", at(5));
        index.put(&a, at(6), Some(9));
        index
    }

    fn keys(index: &Index, main: i64) -> Vec<(Bytes, i64)> {
        let all = KeyRange::new(&Bytes::from_static(b"\0"), &Bytes::from_static(b"\0"));
        index.range(&all, main).map(|(key, at)| (key.clone(), at.main)).collect()
    }

    #[test]
    fn history_is_seen_as_of_a_revision() {
        let index = sample();
        let check = |main: i64, expect: &[(&'static str, i64)]| {
            let expect: Vec<_> = expect.iter().map(|&(key, at)| (Bytes::from(key), at)).collect();
            assert_eq!(keys(&index, main), expect, "at {main}");
        };
        check(1, &[]);
        check(2, &[("a", 2)]);
        check(4, &[("a", 4), ("b", 3)]);
        check(5, &[("b", 3)]);
        check(6, &[("a", 6), ("b", 3)]);
        assert_eq!(index.live(b"a"), Some(Live { create: 6, modified: at(6), version: 1, lease: 9 }));
        assert_eq!(index.before(b"a", at(6)), None);
        assert_eq!(index.before(b"a", at(5)), Some(at(4)));
    }

    #[test]
    fn compaction_keeps_what_readers_from_there_on_see() {
        let check = |main: i64, expect: &[i64]| {
            let mut index = sample();
            let before = keys(&index, main);
            let removed: Vec<_> = index.compact(main).into_iter().map(|r| r.main).collect();
            assert_eq!(removed, expect, "at {main}");
            assert_eq!(keys(&index, main), before);
            assert_eq!(keys(&index, 6), [("a".into(), 6), ("b".into(), 3)]);
        };
        check(3, &[]);
        check(4, &[2]);
        check(5, &[2, 4]);
        check(6, &[2, 4, 5]);
    }

    /// Against counting one by one: keys that come in order and in disorder, deleted, written again, compacted.
    #[test]
    fn a_count_is_exact_at_every_revision() {
        let mut index = Index::default();
        let mut random = 1u64;
        let mut draw = |below: u64| {
            random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (random >> 33) % below
        };
        let key = |number: u64| Bytes::from(format!("{number:05}"));
        let mut compacted = 0;
        for main in 2..6000 {
            match draw(8) {
                0 | 1 => _ = index.put(&key(10_000 + u64::try_from(main).unwrap()), at(main), None),
                2..=5 => _ = index.put(&key(draw(2000)), at(main), None),
                _ => {
                    let key = key(draw(2000));
                    if index.live(&key).is_some() {
                        index.delete(&key, at(main));
                    }
                }
            }
            if main % 1500 == 0 {
                compacted = main - 700;
                index.compact(compacted);
            }
            if main % 50 == 0 {
                let (start, end) = (key(draw(20_000)), key(draw(20_000)));
                let reader = compacted.max(2)
                    + i64::try_from(draw(1 + u64::try_from(main - compacted).unwrap())).unwrap();
                for range in [KeyRange::new(&start, &end), KeyRange::new(&start, &Bytes::from_static(&[0]))] {
                    for reader in [main, reader] {
                        let expect = index.range(&range, reader).count();
                        assert_eq!(index.count(&range, reader), expect, "{range:?} at {reader} of {main}");
                    }
                }
            }
        }
        assert!(keys(&index, 6000).is_sorted());
        assert!(keys(&index, 6000).len() > 2000);
    }
}
