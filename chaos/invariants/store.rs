//! etcd's keys and revisions in a few lines: what the replay of a history is compared with.
//!
//! Keeps true: it does what etcd's documentation says and nothing else; it never forgets, so compaction is left to
//! those who ask.

use std::collections::BTreeMap;

use crate::history::{Expect, Kv, Request, Span, Write};

/// What a write did to a key.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Change {
    /// The key.
    pub key: String,
    /// What it is now; `None`: deleted.
    pub kv: Option<Kv>,
    /// What it was before.
    pub prev: Option<Kv>,
}

/// All keys at a revision.
#[derive(Clone, Debug)]
pub(super) struct Store {
    pub(super) revision: i64,
    kvs: BTreeMap<String, Kv>,
}

impl Store {
    /// An empty store, which is at revision 1.
    pub(super) fn new() -> Self {
        Self { revision: 1, kvs: BTreeMap::new() }
    }

    pub(super) fn get(&self, key: &str) -> Option<&Kv> {
        self.kvs.get(key)
    }

    pub(super) fn holds(&self, expect: &[Expect]) -> bool {
        let modified = |kv: Option<&Kv>| kv.map(|kv| kv.modified);
        expect.iter().all(|e| modified(self.get(&e.key)) == modified(e.found.as_ref()))
    }

    /// The keys of a span, at most `limit` of them unless it is 0, and how many there are.
    pub(super) fn read(&self, span: &Span, limit: i64) -> (Vec<Kv>, i64) {
        let found: Vec<&Kv> = self.kvs.values().filter(|kv| span.contains(&kv.key)).collect();
        let take = usize::try_from(limit).ok().filter(|limit| *limit > 0).unwrap_or(found.len());
        let count = i64::try_from(found.len()).unwrap_or(i64::MAX);
        (found.into_iter().take(take).cloned().collect(), count)
    }

    /// What a request would write now; the conditions of a transaction are not looked at.
    pub(super) fn changes(&self, request: &Request) -> Vec<Change> {
        match request {
            Request::Put { key, value } => vec![self.put(key, value)],
            Request::Delete { span } => {
                self.kvs.keys().filter(|key| span.contains(key)).filter_map(|key| self.delete(key)).collect()
            }
            Request::Txn { then, .. } => then.iter().filter_map(|write| self.write(write)).collect(),
            Request::Range { .. } | Request::Compact { .. } => Vec::new(),
        }
    }

    /// Makes the changes, which are one revision.
    pub(super) fn commit(&mut self, changes: &[Change]) {
        self.revision += 1;
        for change in changes {
            match &change.kv {
                Some(kv) => self.kvs.insert(change.key.clone(), kv.clone()),
                None => self.kvs.remove(&change.key),
            };
        }
    }

    fn write(&self, write: &Write) -> Option<Change> {
        match write {
            Write::Put { key, value } => Some(self.put(key, value)),
            Write::Delete { key } => self.delete(key),
        }
    }

    fn put(&self, key: &str, value: &str) -> Change {
        let prev = self.get(key).cloned();
        let revision = self.revision + 1;
        let kv = Kv {
            key: key.into(),
            value: value.into(),
            create: prev.as_ref().map_or(revision, |prev| prev.create),
            modified: revision,
            version: prev.as_ref().map_or(1, |prev| prev.version + 1),
        };
        Change { key: key.into(), kv: Some(kv), prev }
    }

    fn delete(&self, key: &str) -> Option<Change> {
        self.get(key).map(|prev| Change { key: key.into(), kv: None, prev: Some(prev.clone()) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_and_revisions() {
        let mut store = Store::new();
        let mut write = |request: &Request| {
            let changes = store.changes(request);
            store.commit(&changes);
            changes
        };
        let put = |value: &str| Request::Put { key: "a".into(), value: value.into() };
        let kv = |value: &str, create, modified, version| Kv {
            key: "a".into(),
            value: value.into(),
            create,
            modified,
            version,
        };
        assert_eq!(write(&put("1"))[0].kv, Some(kv("1", 2, 2, 1)));
        assert_eq!(write(&put("2"))[0].kv, Some(kv("2", 2, 3, 2)));
        let deleted = write(&Request::Delete { span: Span::range("a", "b") });
        assert_eq!((&deleted[0].kv, &deleted[0].prev), (&None, &Some(kv("2", 2, 3, 2))));
        assert_eq!(write(&put("3"))[0].kv, Some(kv("3", 5, 5, 1)));
        assert_eq!(store.read(&Span::key("a"), 0), (vec![kv("3", 5, 5, 1)], 1));
        let expect = |found| vec![Expect { key: "a".into(), found }];
        assert!(store.holds(&expect(Some(kv("3", 5, 5, 1)))) && !store.holds(&expect(None)));
        assert!(store.changes(&Request::Delete { span: Span::key("b") }).is_empty());
    }
}
