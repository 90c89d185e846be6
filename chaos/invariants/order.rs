//! The one order of all writes, put together from what clients were told.
//!
//! Keeps true: a write stands at the revision that its answer has, or, without an answer, at the one that a value
//! or event of it was seen with; what cannot stand there is a violation, not a guess. A revision that nobody saw
//! anything of belongs to the one write that fits, and is unclear if several do. Whether answers agree with the
//! order is left to the checkers.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};

use super::store::{Change, Store};
use super::{Rule, Violation};
use crate::history::{Answer, Call, History, Kv, Request, Write};

/// The revision of an empty store.
pub(super) const EMPTY: i64 = 1;

/// One revision.
#[derive(Clone, Debug)]
pub struct Commit {
    /// Its number.
    pub revision: i64,
    /// Which of the history's calls made it; `None` if no call can have.
    pub call: Option<usize>,
    /// What it did, in the order of keys or as its transaction has it.
    pub changes: Vec<Change>,
}

/// All revisions of a history.
#[derive(Clone, Debug, Default)]
pub struct Order {
    commits: Vec<Commit>,
}

impl Order {
    /// All revisions.
    pub fn commits(&self) -> &[Commit] {
        &self.commits
    }

    /// One revision, if there is such a one.
    pub fn commit(&self, revision: i64) -> Option<&Commit> {
        self.commits.get(usize::try_from(revision - EMPTY - 1).ok()?)
    }

    /// The latest revision.
    pub fn last(&self) -> i64 {
        self.commits.last().map_or(EMPTY, |commit| commit.revision)
    }

    /// Puts the writes of a history in order.
    pub fn reconstruct(history: &History) -> (Self, Vec<Violation>) {
        let mut evidence = Evidence::new(history);
        evidence.take_answers();
        evidence.take_values();
        evidence.take_times();
        let commits = evidence.walk();
        (Self { commits }, evidence.found)
    }
}

/// What became of a request, as far as its answer tells.
enum Fate {
    Wrote(i64),
    WroteNothing,
    Maybe,
}

fn fate(call: &Call) -> Fate {
    match (&call.answer, &call.request) {
        (Answer::Unknown { .. }, Request::Put { .. } | Request::Delete { .. } | Request::Txn { .. }) => {
            Fate::Maybe
        }
        (Answer::Put { revision, .. }, _) => Fate::Wrote(*revision),
        (Answer::Delete { revision, deleted, .. }, _) if *deleted > 0 => Fate::Wrote(*revision),
        (Answer::Txn { revision, succeeded: true, kvs }, Request::Txn { then, .. }) => {
            let changed = |(write, prev): (&Write, &Option<Kv>)| write.value().is_some() || prev.is_some();
            if then.iter().zip(kvs).any(changed) { Fate::Wrote(*revision) } else { Fate::WroteNothing }
        }
        _ => Fate::WroteNothing,
    }
}

/// The values that a request would write.
fn values(request: &Request) -> Vec<&str> {
    match request {
        Request::Put { value, .. } => vec![value],
        Request::Txn { then, .. } => then.iter().filter_map(Write::value).collect(),
        Request::Range { .. } | Request::Delete { .. } | Request::Compact { .. } => Vec::new(),
    }
}

struct Evidence<'a> {
    history: &'a History,
    /// Which call stands at a revision.
    placed: BTreeMap<i64, usize>,
    /// At which revision a call stands.
    places: HashMap<usize, i64>,
    /// Keys that events have as deleted.
    deletions: BTreeMap<i64, BTreeSet<&'a str>>,
    /// When this revision or a later one was first known to a client; the index is the revision.
    known: Vec<u64>,
    found: Vec<Violation>,
}

impl<'a> Evidence<'a> {
    fn new(history: &'a History) -> Self {
        Self {
            history,
            placed: BTreeMap::new(),
            places: HashMap::new(),
            deletions: BTreeMap::new(),
            known: Vec::new(),
            found: Vec::new(),
        }
    }

    fn wrong(&mut self, rule: Rule, text: String) {
        self.found.push(Violation::new(rule, text));
    }

    fn place(&mut self, call: usize, revision: i64) {
        let calls = &self.history.calls;
        match self.placed.insert(revision, call) {
            Some(other) if other != call => {
                let text = format!("revision {revision} is of {:?} and of {:?}", calls[other], calls[call]);
                self.wrong(Rule::OneRevision, text);
            }
            _ => {}
        }
        self.places.insert(call, revision);
    }

    fn take_answers(&mut self) {
        for (index, call) in self.history.calls.iter().enumerate() {
            if let Fate::Wrote(revision) = fate(call) {
                self.place(index, revision);
            }
        }
    }

    /// Every value that was seen anywhere tells where its write stands.
    fn take_values(&mut self) {
        let history = self.history;
        let mut writers = HashMap::new();
        for (index, call) in history.calls.iter().enumerate() {
            writers.extend(values(&call.request).into_iter().map(|value| (value, index)));
        }
        let mut seen: HashSet<&Kv> = history.calls.iter().flat_map(|call| call.answer.kvs()).collect();
        for event in history.watches.iter().flat_map(|w| &w.responses).flat_map(|r| &r.events) {
            seen.extend(&event.prev);
            if event.deleted {
                self.deletions.entry(event.kv.modified).or_default().insert(&event.kv.key);
            } else {
                seen.insert(&event.kv);
            }
        }
        let mut seen: Vec<&Kv> = seen.into_iter().collect();
        seen.sort_by_key(|kv| (kv.modified, &kv.key));
        for kv in seen {
            self.take_value(kv, writers.get(kv.value.as_str()).copied());
        }
    }

    fn take_value(&mut self, kv: &Kv, writer: Option<usize>) {
        let Some(index) = writer else {
            return self.wrong(Rule::Phantom, format!("nobody wrote {kv:?}"));
        };
        let call = &self.history.calls[index];
        match (self.places.get(&index), fate(call)) {
            (Some(place), _) if *place == kv.modified => {}
            (Some(place), _) => {
                let text = format!("seen as {kv:?}, but it stands at revision {place}: {call:?}");
                self.wrong(Rule::Once, text);
            }
            (None, Fate::Maybe) => self.place(index, kv.modified),
            (None, _) => self.wrong(Rule::Phantom, format!("seen as {kv:?}, but it wrote nothing: {call:?}")),
        }
    }

    fn take_times(&mut self) {
        let calls = self.history.calls.iter().filter_map(|c| Some((c.answer.revision()?, c.returned)));
        let responses = self.history.watches.iter().flat_map(|w| &w.responses);
        let responses = responses.map(|r| {
            let last = r.events.iter().map(|event| event.kv.modified).max();
            (r.revision.max(last.unwrap_or_default()), r.at)
        });
        let mut times: Vec<(i64, u64)> = calls.chain(responses).collect();
        let most = EMPTY + i64::try_from(self.history.calls.len()).unwrap_or(i64::MAX);
        if let Some((revision, at)) = times.iter().find(|(revision, _)| *revision > most).copied() {
            self.wrong(
                Rule::Gap,
                format!("revision {revision}, seen at {at}, is more than requests were made"),
            );
            times.retain(|(revision, _)| *revision <= most);
        }
        let last = times.iter().map(|(revision, _)| *revision).chain(self.placed.keys().copied()).max();
        let last = last.unwrap_or(EMPTY).clamp(EMPTY, most);
        self.known = vec![u64::MAX; usize::try_from(last).unwrap_or_default() + 1];
        for (revision, at) in times {
            if let Some(known) = usize::try_from(revision).ok().and_then(|r| self.known.get_mut(r)) {
                *known = at.min(*known);
            }
        }
        for revision in (1..self.known.len()).rev() {
            self.known[revision - 1] = self.known[revision - 1].min(self.known[revision]);
        }
    }

    fn known(&self, revision: i64) -> u64 {
        usize::try_from(revision).ok().and_then(|r| self.known.get(r)).copied().unwrap_or(u64::MAX)
    }

    /// Replays all revisions, each by the call that stands there.
    fn walk(&mut self) -> Vec<Commit> {
        let mut store = Store::new();
        let mut commits = Vec::new();
        let last = i64::try_from(self.known.len()).unwrap_or(i64::MAX) - 1;
        for revision in EMPTY + 1..=last {
            let call = self.placed.get(&revision).copied().or_else(|| self.fitting(&store, revision));
            let changes = call.map(|call| self.replay(&store, revision, call)).unwrap_or_default();
            store.commit(&changes);
            commits.push(Commit { revision, call, changes });
        }
        commits
    }

    fn replay(&mut self, store: &Store, revision: i64, index: usize) -> Vec<Change> {
        let call = &self.history.calls[index];
        if call.invoked > self.known(revision) {
            let known = self.known(revision);
            let text = format!("revision {revision} or a later one was known at {known}, before {call:?}");
            self.wrong(Rule::Causality, text);
        }
        if !may_write(store, &call.request) {
            let text = format!("it wrote revision {revision}, but the conditions did not hold: {call:?}");
            self.wrong(Rule::Condition, text);
        }
        store.changes(&call.request)
    }

    /// The call without an answer that can have written a revision of which no value was seen.
    fn fitting(&mut self, store: &Store, revision: i64) -> Option<usize> {
        let deleted = self.deletions.get(&revision).cloned().unwrap_or_default();
        let mut fitting: Vec<(usize, Vec<Change>)> = Vec::new();
        for (index, call) in self.history.calls.iter().enumerate() {
            let open = matches!(fate(call), Fate::Maybe) && !self.places.contains_key(&index);
            if open && call.invoked <= self.known(revision) && may_write(store, &call.request) {
                let changes = store.changes(&call.request);
                let gone: BTreeSet<&str> =
                    changes.iter().filter(|c| c.kv.is_none()).map(|c| c.key.as_str()).collect();
                if !changes.is_empty() && gone.is_superset(&deleted) {
                    fitting.push((index, changes));
                }
            }
        }
        // The one that did no more than was seen, and of those the one that could have stood nowhere else.
        let general = |request: &Request| !matches!(request, Request::Txn { .. });
        fitting.sort_by_key(|(index, changes)| (changes.len(), general(&self.history.calls[*index].request)));
        let Some((index, changes)) = fitting.first() else {
            self.wrong(Rule::Gap, format!("no request can have written revision {revision}"));
            return None;
        };
        if deleted.is_empty() && fitting.iter().any(|(_, other)| other != changes) {
            self.wrong(
                Rule::Unclear,
                format!("{} requests can have written revision {revision}", fitting.len()),
            );
        }
        self.places.insert(*index, revision);
        Some(*index)
    }
}

fn may_write(store: &Store, request: &Request) -> bool {
    match request {
        Request::Txn { expect, .. } => store.holds(expect),
        _ => true,
    }
}
