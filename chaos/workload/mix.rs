//! What a client asks next: pure, from random numbers, what the client has seen, and the newest revision.
//!
//! Keeps true: the same seed and the same answers give the same requests; every value is written once.

use std::collections::BTreeMap;

use rand::Rng;
use rand::rngs::StdRng;
use rand::seq::IndexedRandom;

use crate::history::{Answer, Call, Expect, Kv, Request, Span, Write};

/// How many keys there are.
const KEYS: usize = 10;
/// How far back reads of history go.
const BACK: i64 = 100;

/// A kind of request.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Kind {
    /// Reads a key.
    Get,
    /// Reads a key as the member has it.
    StaleGet,
    /// Reads all keys.
    List,
    /// Reads some keys, with a limit.
    Page,
    /// Reads all keys as the member has them.
    StaleList,
    /// Reads all keys at an old revision.
    OldList,
    /// Writes a key.
    Put,
    /// Deletes a key.
    Delete,
    /// Deletes some keys.
    DeleteRange,
    /// Writes a key if it is unchanged since the client has seen it.
    CasPut,
    /// Deletes a key if it is unchanged since the client has seen it.
    CasDelete,
    /// Writes a key and deletes or writes another, if both are unchanged.
    CasPair,
    /// Writes three keys in one transaction.
    PutMany,
}

/// Which requests there are, and how often.
#[derive(Clone, Copy, Debug)]
pub struct Mix {
    /// Its name.
    pub name: &'static str,
    /// Kinds with their weights.
    pub kinds: &'static [(Kind, u32)],
    /// Whether watchers ask how far they have come; otherwise they are told only when the member thinks of it.
    pub progress: bool,
    /// Whether clients record reads as linearizable that they did not ask for as such: a control of the checkers.
    pub lies: bool,
}

/// As Kubernetes does it: lists, and writes on the condition that nothing has changed.
pub const OPTIMISTIC: Mix = Mix {
    name: "optimistic",
    kinds: &[
        (Kind::Get, 15),
        (Kind::List, 10),
        (Kind::StaleGet, 5),
        (Kind::StaleList, 5),
        (Kind::CasPut, 45),
        (Kind::CasDelete, 10),
        (Kind::CasPair, 10),
    ],
    progress: true,
    lies: false,
};

/// Everything that the store can do, on few keys.
pub const EVERYTHING: Mix = Mix {
    name: "everything",
    kinds: &[
        (Kind::Get, 15),
        (Kind::StaleGet, 6),
        (Kind::List, 6),
        (Kind::Page, 4),
        (Kind::StaleList, 4),
        (Kind::OldList, 8),
        (Kind::Put, 25),
        (Kind::Delete, 7),
        (Kind::DeleteRange, 2),
        (Kind::CasPut, 10),
        (Kind::CasDelete, 4),
        (Kind::CasPair, 4),
        (Kind::PutMany, 5),
    ],
    progress: true,
    lies: false,
};

/// Reads that must not be stale.
pub const READS: Mix = Mix { name: "reads", kinds: &[(Kind::Get, 1), (Kind::List, 1)], ..OPTIMISTIC };

/// All keys of a workload.
pub fn all_keys() -> Span {
    Span::range("k0", "k:")
}

/// Some of the keys: one, a few, or all.
pub fn some_keys(random: &mut StdRng) -> Span {
    match random.random_range(0..3) {
        0 => Span::key(key(random)),
        1 => {
            let first = random.random_range(0..KEYS - 2);
            Span::range(name(first), name(random.random_range(first + 2..KEYS)))
        }
        _ => all_keys(),
    }
}

fn name(number: usize) -> String {
    format!("k{number}")
}

fn key(random: &mut StdRng) -> String {
    name(random.random_range(0..KEYS))
}

/// A client's mind.
pub struct Mind {
    client: usize,
    mix: Mix,
    random: StdRng,
    written: usize,
    /// What it has seen last of each key.
    seen: BTreeMap<String, Option<Kv>>,
}

impl Mind {
    /// A client that has seen nothing.
    pub fn new(client: usize, mix: Mix, random: StdRng) -> Self {
        Self { client, mix, random, written: 0, seen: BTreeMap::new() }
    }

    /// Its random numbers.
    pub fn random(&mut self) -> &mut StdRng {
        &mut self.random
    }

    /// What it asks next.
    pub fn next(&mut self, newest: i64) -> Request {
        let chosen = self.mix.kinds.choose_weighted(&mut self.random, |(_, weight)| *weight);
        let kind = chosen.map_or(Kind::Get, |(kind, _)| *kind);
        let key = key(&mut self.random);
        let read = |span, serializable| Request::Range { span, limit: 0, revision: 0, serializable };
        match kind {
            Kind::Get => read(Span::key(key), false),
            Kind::StaleGet => read(Span::key(key), true),
            Kind::List => read(all_keys(), false),
            Kind::StaleList => read(all_keys(), true),
            Kind::Page => {
                let limit = self.random.random_range(1..4);
                Request::Range { span: some_keys(&mut self.random), limit, revision: 0, serializable: false }
            }
            Kind::OldList => {
                let revision = (newest - self.random.random_range(0..BACK)).max(1);
                let serializable = self.random.random();
                Request::Range { span: some_keys(&mut self.random), limit: 0, revision, serializable }
            }
            Kind::Put => Request::Put { value: self.value(), key },
            Kind::Delete => Request::Delete { span: Span::key(key) },
            Kind::DeleteRange => Request::Delete { span: some_keys(&mut self.random) },
            Kind::CasPut => {
                let then = vec![Write::Put { key: key.clone(), value: self.value() }];
                Request::Txn { expect: vec![self.expect(key)], then }
            }
            Kind::CasDelete => {
                let then = vec![Write::Delete { key: key.clone() }];
                Request::Txn { expect: vec![self.expect(key)], then }
            }
            Kind::CasPair => self.pair(),
            Kind::PutMany => Request::Txn { expect: Vec::new(), then: self.puts(3) },
        }
    }

    fn value(&mut self) -> String {
        self.written += 1;
        format!("{}.{}", self.client, self.written)
    }

    fn expect(&self, key: String) -> Expect {
        Expect { found: self.seen.get(&key).cloned().flatten(), key }
    }

    /// Puts of keys that differ.
    fn puts(&mut self, count: usize) -> Vec<Write> {
        let keys = rand::seq::index::sample(&mut self.random, KEYS, count);
        keys.into_iter().map(|key| Write::Put { key: name(key), value: self.value() }).collect()
    }

    fn pair(&mut self) -> Request {
        let mut then = self.puts(2);
        let expect = then.iter().map(|write| self.expect(write.key().into())).collect();
        if self.random.random() {
            then[1] = Write::Delete { key: then[1].key().into() };
        }
        Request::Txn { expect, then }
    }

    /// Learns from an answer.
    pub fn learn(&mut self, call: &Call) {
        match (&call.request, &call.answer) {
            (Request::Range { span, revision: 0, limit: 0, .. }, Answer::Range { kvs, .. }) => {
                let keys = (0..KEYS).map(name).filter(|key| span.contains(key));
                let found = |key: String| (key.clone(), kvs.iter().find(|kv| kv.key == key).cloned());
                self.seen.extend(keys.map(found));
            }
            (Request::Put { key, value }, Answer::Put { revision, prev }) => {
                self.wrote(key, Some(value), *revision, prev.as_ref());
            }
            (Request::Txn { then, .. }, Answer::Txn { revision, succeeded: true, kvs }) => {
                for (write, prev) in then.iter().zip(kvs) {
                    self.wrote(write.key(), write.value(), *revision, prev.as_ref());
                }
            }
            (Request::Txn { expect, .. }, Answer::Txn { succeeded: false, kvs, .. }) => {
                self.seen.extend(expect.iter().map(|e| e.key.clone()).zip(kvs.iter().cloned()));
            }
            _ => {}
        }
    }

    fn wrote(&mut self, key: &str, value: Option<&str>, modified: i64, prev: Option<&Kv>) {
        let kv = value.map(|value| Kv {
            key: key.into(),
            value: value.into(),
            create: prev.map_or(modified, |prev| prev.create),
            modified,
            version: prev.map_or(1, |prev| prev.version + 1),
        });
        self.seen.insert(key.into(), kv);
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use rand::SeedableRng;

    use super::*;

    fn requests(seed: u64, mix: Mix) -> Vec<Request> {
        let mut mind = Mind::new(1, mix, StdRng::seed_from_u64(seed));
        (0..500).map(|_| mind.next(200)).collect()
    }

    #[test]
    fn a_seed_says_all() {
        assert_eq!(requests(7, EVERYTHING), requests(7, EVERYTHING));
        assert_ne!(requests(7, EVERYTHING), requests(8, EVERYTHING));
    }

    #[test]
    fn values_and_the_keys_of_a_transaction_differ() {
        let mut values = HashSet::new();
        for request in requests(1, EVERYTHING) {
            match request {
                Request::Put { value, .. } => assert!(values.insert(value)),
                Request::Txn { then, .. } => {
                    let keys: HashSet<&str> = then.iter().map(Write::key).collect();
                    assert_eq!(keys.len(), then.len());
                    for value in then.iter().filter_map(Write::value) {
                        assert!(values.insert(value.into()));
                    }
                }
                _ => {}
            }
        }
        assert!(values.len() > 100);
    }

    #[test]
    fn a_condition_is_what_was_seen() {
        let kv = Kv { key: "k3".into(), value: "x".into(), create: 2, modified: 9, version: 4 };
        let mut mind = Mind::new(1, OPTIMISTIC, StdRng::seed_from_u64(1));
        let answer = Answer::Range { revision: 9, kvs: vec![kv.clone()], count: 1, more: false };
        let request = Request::Range { span: all_keys(), limit: 0, revision: 0, serializable: false };
        mind.learn(&Call { client: 1, member: 0, invoked: 1, returned: 2, request, answer });
        assert_eq!(mind.expect("k3".into()).found, Some(kv));
        assert_eq!(mind.expect("k4".into()).found, None);
    }
}
