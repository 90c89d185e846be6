//! Requests against the replay: every answer carries a revision of the one order, so strict serializability can be
//! checked in O(n log n).
//!
//! Keeps true: real-time order is the order of revisions; a read is the state at its revision; a condition held or
//! not as the state before says; former values are the former values; history is refused only when a compaction
//! was asked for that takes it away. Serializable reads may be old but not from nowhere, and one member's do not go
//! back while its process lives.

use std::collections::BTreeMap;

use super::order::Order;
use super::store::Store;
use super::{Commit, Rule, Violation};
use crate::history::{Answer, Call, Expect, Happening, History, Kv, Request, Span};

pub(super) fn check(history: &History, order: &Order) -> Vec<Violation> {
    let mut found = real_time(history, order);
    found.extend(backwards(history));
    found.extend(states(history, order));
    found.extend(compaction(history));
    found
}

/// A revision that a client knew at a time.
#[derive(Clone, Copy)]
struct Known {
    at: u64,
    revision: i64,
}

/// A request that must see what was known before it.
struct Bound<'a> {
    call: &'a Call,
    revision: i64,
    /// It wrote: its revision is a new one.
    wrote: bool,
}

/// Requests whose revision is older than one that was known before they were made.
fn stale<'a>(mut known: Vec<Known>, mut bound: Vec<Bound<'a>>) -> Vec<(Bound<'a>, Known)> {
    known.sort_by_key(|known| known.at);
    bound.sort_by_key(|bound| bound.call.invoked);
    let mut known = known.into_iter().peekable();
    let mut newest = Known { at: 0, revision: 0 };
    let mut found = Vec::new();
    for bound in bound {
        while let Some(next) = known.next_if(|known| known.at < bound.call.invoked) {
            newest = if next.revision > newest.revision { next } else { newest };
        }
        if bound.revision < newest.revision + i64::from(bound.wrote) {
            found.push((bound, newest));
        }
    }
    found
}

fn real_time(history: &History, order: &Order) -> Vec<Violation> {
    let answered = |(index, call): (usize, &'_ Call)| Some((index, call.answer.revision()?));
    let calls = history.calls.iter().enumerate().filter_map(answered);
    let known = calls.clone().map(|(index, revision)| Known { at: history.calls[index].returned, revision });
    let watched = history.watches.iter().flat_map(|watch| &watch.responses);
    let watched = watched.flat_map(|r| r.events.iter().map(|e| Known { at: r.at, revision: e.kv.modified }));
    let known = known.chain(watched).collect();
    let bound = calls.map(|(index, revision)| {
        let wrote = order.commit(revision).is_some_and(|commit| commit.call == Some(index));
        Bound { call: &history.calls[index], revision, wrote }
    });
    let bound = bound.filter(|bound| !is_serializable(&bound.call.request));
    let text = |(bound, newest): (Bound<'_>, Known)| {
        let Known { at, revision } = newest;
        Violation::new(
            Rule::RealTime,
            format!("revision {revision} was known at {at}, then: {:?}", bound.call),
        )
    };
    stale(known, bound.collect()).into_iter().map(text).collect()
}

fn is_serializable(request: &Request) -> bool {
    matches!(request, Request::Range { serializable: true, .. })
}

/// Serializable reads that are older than what the same process had answered before.
fn backwards(history: &History) -> Vec<Violation> {
    let mut processes: BTreeMap<(usize, usize), Vec<(&Call, i64)>> = BTreeMap::new();
    for call in &history.calls {
        let (first, last) = (process(history, call, call.invoked), process(history, call, call.returned));
        if let (Some(revision), true) = (call.answer.revision(), first == last) {
            processes.entry((call.member, first)).or_default().push((call, revision));
        }
    }
    let mut found = Vec::new();
    for ((member, _), calls) in processes {
        let known = calls.iter().map(|(call, revision)| Known { at: call.returned, revision: *revision });
        let serializable = calls.iter().filter(|(call, _)| is_serializable(&call.request));
        let bound = serializable.map(|(call, revision)| Bound { call, revision: *revision, wrote: false });
        for (bound, newest) in stale(known.collect(), bound.collect()) {
            let (revision, call) = (newest.revision, bound.call);
            let text = format!("member {member} had answered with revision {revision}, then: {call:?}");
            found.push(Violation::new(Rule::Backwards, text));
        }
    }
    found
}

/// How many processes the member had had at that time.
fn process(history: &History, call: &Call, at: u64) -> usize {
    let ended = |what| matches!(what, Happening::Ended | Happening::Started);
    history.marks.iter().filter(|m| m.member == call.member && m.at <= at && ended(m.what)).count()
}

/// Every answer against the state that it is about.
fn states(history: &History, order: &Order) -> Vec<Violation> {
    let mut at: BTreeMap<i64, Vec<usize>> = BTreeMap::new();
    for (index, call) in history.calls.iter().enumerate() {
        if let Some(revision) = state_of(call) {
            at.entry(revision).or_default().push(index);
        }
    }
    let mut found = Vec::new();
    let mut store = Store::new();
    let mut commits = order.commits().iter();
    for (revision, calls) in at {
        while store.revision < revision {
            let Some(commit) = commits.next() else { break };
            store.commit(&commit.changes);
        }
        for index in calls {
            let call = &history.calls[index];
            let commit = order.commit(revision).filter(|commit| commit.call == Some(index));
            if let Some((rule, is)) = differs(&store, commit, call) {
                found.push(Violation::new(rule, format!("at revision {revision} {is}: {call:?}")));
            }
        }
    }
    found
}

/// The revision whose state an answer is about.
fn state_of(call: &Call) -> Option<i64> {
    match (&call.request, &call.answer) {
        (Request::Range { revision, .. }, Answer::Range { .. }) if *revision > 0 => Some(*revision),
        (_, Answer::Compact { .. }) => None,
        (_, answer) => answer.revision(),
    }
}

/// How an answer differs from the state after its revision, or from its commit if it made one.
fn differs(store: &Store, commit: Option<&Commit>, call: &Call) -> Option<(Rule, String)> {
    match (&call.request, &call.answer) {
        (Request::Range { span, limit, .. }, Answer::Range { kvs, count, more, .. }) => {
            let (is, all) = store.read(span, *limit);
            let rest = usize::try_from(all).is_ok_and(|all| all > is.len());
            let same = (&is, all, rest) == (kvs, *count, *more);
            (!same).then(|| (Rule::State, format!("there are {all}: {is:?}")))
        }
        (Request::Put { key, .. }, Answer::Put { prev, .. }) => {
            former(commit, &[key.as_str()], std::slice::from_ref(prev))
        }
        (Request::Delete { span }, Answer::Delete { deleted, prev, .. }) => {
            deletion(store, commit, span, *deleted, prev)
        }
        (Request::Txn { expect, then }, Answer::Txn { succeeded: true, kvs, .. }) => {
            let nothing = then.iter().all(|w| w.value().is_none()) && kvs.iter().all(Option::is_none);
            if nothing && !store.holds(expect) {
                return Some((Rule::Condition, "the conditions do not hold, but it succeeded".into()));
            }
            let keys: Vec<&str> = then.iter().map(|write| write.key()).collect();
            former(commit, &keys, kvs)
        }
        (Request::Txn { expect, .. }, Answer::Txn { succeeded: false, kvs, .. }) => {
            failed(store, expect, kvs)
        }
        (_, Answer::Compact { .. } | Answer::Refused { .. } | Answer::Unknown { .. }) => None,
        _ => Some((Rule::State, "the answer is to another question".into())),
    }
}

/// What the keys were before a commit.
fn former(commit: Option<&Commit>, keys: &[&str], answer: &[Option<Kv>]) -> Option<(Rule, String)> {
    // Without a commit of its own it changed nothing, or its revision is another's, which has been found.
    let commit = commit?;
    let change = |key: &&str| commit.changes.iter().find(|change| change.key == *key);
    let is: Vec<Option<Kv>> = keys.iter().map(|key| change(key).and_then(|c| c.prev.clone())).collect();
    (is != answer).then(|| (Rule::Former, format!("the former values are {is:?}")))
}

fn deletion(
    store: &Store,
    commit: Option<&Commit>,
    span: &Span,
    deleted: i64,
    answer: &[Kv],
) -> Option<(Rule, String)> {
    if deleted == 0 {
        let (left, count) = store.read(span, 0);
        return (count > 0).then(|| (Rule::State, format!("there are {left:?}")));
    }
    let is: Vec<Kv> = commit?.changes.iter().filter_map(|change| change.prev.clone()).collect();
    let same = is == answer && usize::try_from(deleted).is_ok_and(|deleted| deleted == is.len());
    (!same).then(|| (Rule::Former, format!("the former values are {is:?}")))
}

fn failed(store: &Store, expect: &[Expect], answer: &[Option<Kv>]) -> Option<(Rule, String)> {
    if store.holds(expect) {
        return Some((Rule::Condition, "the conditions hold, but it failed".into()));
    }
    let is: Vec<Option<Kv>> = expect.iter().map(|e| store.get(&e.key).cloned()).collect();
    (is != answer).then(|| (Rule::State, format!("the keys are {is:?}")))
}

/// Reads of history: refused only after a compaction was asked for, answered only before one was done.
fn compaction(history: &History) -> Vec<Violation> {
    let mut found = Vec::new();
    for call in &history.calls {
        let Request::Range { revision, serializable, .. } = call.request else { continue };
        if revision == 0 {
            continue;
        }
        let takes = |c: &&Call| matches!(c.request, Request::Compact { revision: c } if c > revision);
        let mut compactions = history.calls.iter().filter(takes);
        let text = match &call.answer {
            Answer::Refused { text } if text.contains("compacted") => compactions
                .all(|c| c.invoked > call.returned)
                .then_some("no compaction was asked for that takes it away"),
            Answer::Range { .. } if !serializable => compactions
                .find(|c| matches!(c.answer, Answer::Compact { .. }) && c.returned < call.invoked)
                .map(|_| "it was compacted before"),
            _ => None,
        };
        found.extend(text.map(|text| Violation::new(Rule::Compaction, format!("{text}: {call:?}"))));
    }
    found
}
