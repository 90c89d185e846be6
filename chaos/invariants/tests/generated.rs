//! Random histories of a store that keeps all promises, and the same ones with one thing broken.
//!
//! Keeps true: the store here is the model itself, asked by the workload's own clients, whose answers come late or
//! never; so the checkers are shown everything that can happen without being wrong, and nothing wrong that they
//! were not made for.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use rand::rngs::StdRng;
use rand::seq::IndexedRandom;
use rand::{Rng, SeedableRng};

use super::store::{Change, Store};
use super::{Rule, check, search};
use crate::history::{Answer, Call, Event, History, Kv, Request, Response, Watch};
use crate::workload::mix::{EVERYTHING, Mind, all_keys, some_keys};

const CLIENTS: usize = 9;
const MEMBERS: usize = 3;
const CALLS: usize = 700;

/// The store at a moment.
struct Moment {
    at: u64,
    store: Store,
    changes: Vec<Change>,
}

struct World {
    random: StdRng,
    /// Of so many answers one is lost.
    lossy: u32,
    /// The store after each revision.
    past: Vec<Moment>,
    /// How far each member has come at least.
    members: [i64; MEMBERS],
    calls: Vec<Call>,
}

/// What is due: a call is sent, takes effect, or takes effect after its client has given up.
#[derive(Clone, Copy, Eq, Ord, PartialEq, PartialOrd)]
enum Due {
    Send,
    Effect,
    Late(usize),
}

impl World {
    fn new(seed: u64, lossy: u32) -> Self {
        let past = vec![Moment { at: 0, store: Store::new(), changes: Vec::new() }];
        Self { random: StdRng::seed_from_u64(seed), lossy, past, members: [1; MEMBERS], calls: Vec::new() }
    }

    fn now(&self) -> &Store {
        &self.past[self.past.len() - 1].store
    }

    fn time(&mut self) -> u64 {
        self.random.random_range(1..60)
    }

    fn run(mut self) -> (History, Vec<Moment>) {
        let mut minds: Vec<Mind> =
            (0..CLIENTS).map(|c| Mind::new(c, EVERYTHING, StdRng::from_rng(&mut self.random))).collect();
        let mut sent: Vec<Option<(u64, Request)>> = vec![None; CLIENTS];
        let mut due: BinaryHeap<Reverse<(u64, usize, Due)>> =
            (0..CLIENTS).map(|client| Reverse((1, client, Due::Send))).collect();
        while let Some(Reverse((at, client, what))) = due.pop() {
            match what {
                Due::Send if self.calls.len() < CALLS => {
                    sent[client] = Some((at, minds[client].next(self.now().revision)));
                    due.push(Reverse((at + self.time(), client, Due::Effect)));
                }
                Due::Send => {}
                Due::Effect => {
                    let (invoked, request) = sent[client].take().unwrap();
                    let call = self.answer(client, (invoked, at), request);
                    minds[client].learn(&call);
                    due.push(Reverse((call.returned + self.time(), client, Due::Send)));
                    if call.answer.is_unknown() && self.random.random() {
                        due.push(Reverse((at + 10 * self.time(), client, Due::Late(self.calls.len()))));
                    }
                    self.calls.push(call);
                }
                Due::Late(call) => {
                    let request = self.calls[call].request.clone();
                    self.done(at, &request, 0);
                }
            }
        }
        (History { calls: self.calls, ..History::default() }, self.past)
    }

    fn answer(&mut self, client: usize, (invoked, at): (u64, u64), request: Request) -> Call {
        let member = client % MEMBERS;
        let lost = self.random.random_range(0..self.lossy) == 0;
        let answer = match lost {
            true => Answer::Unknown { text: String::new() },
            false => self.done(at, &request, member),
        };
        Call { client, member, invoked, returned: at + self.time(), request, answer }
    }

    fn done(&mut self, at: u64, request: &Request, member: usize) -> Answer {
        if let Request::Range { span, limit, revision, serializable } = request {
            return self.read((span, *limit, *revision, *serializable), member);
        }
        let store = self.now();
        let holds = match request {
            Request::Txn { expect, .. } => store.holds(expect),
            _ => true,
        };
        let changes = if holds { store.changes(request) } else { Vec::new() };
        let answer = told(store, request, &changes, holds);
        if !changes.is_empty() {
            let mut store = store.clone();
            store.commit(&changes);
            self.past.push(Moment { at, store, changes });
        }
        self.members[member] = self.now().revision;
        answer
    }

    fn read(&mut self, query: (&crate::history::Span, i64, i64, bool), member: usize) -> Answer {
        let (span, limit, revision, serializable) = query;
        let now = self.now().revision;
        let least = self.members[member].max(now - 5).max(revision);
        let header = if serializable { self.random.random_range(least..=now) } else { now };
        self.members[member] = header;
        let at = if revision > 0 { revision } else { header };
        let (kvs, count) = self.past[usize::try_from(at).unwrap() - 1].store.read(span, limit);
        let more = usize::try_from(count).unwrap() > kvs.len();
        Answer::Range { revision: header, kvs, count, more }
    }

    /// A watch of everything that happened, in pieces.
    fn watch(random: &mut StdRng, past: &[Moment]) -> Watch {
        let (span, start) = match random.random_range(0..3) {
            0 => (all_keys(), 1),
            _ => (some_keys(random), random.random_range(1..=i64::try_from(past.len()).unwrap())),
        };
        let prev_kv = random.random();
        let mut responses = vec![Response { at: 1, revision: 1, created: true, ..Response::default() }];
        let (mut at, mut events) = (1, Vec::new());
        for moment in &past[usize::try_from(start).unwrap() - 1..] {
            let revision = moment.store.revision;
            let wanted = moment.changes.iter().filter(|change| span.contains(&change.key));
            events.extend(wanted.map(|change| event(change, revision, prev_kv)));
            at = at.max(moment.at) + random.random_range(1..9);
            if !events.is_empty() && random.random() {
                let events = std::mem::take(&mut events);
                responses.push(Response { at, revision, events, ..Response::default() });
            }
            if events.is_empty() && random.random_range(0..8) == 0 {
                responses.push(Response { at, revision, ..Response::default() });
            }
        }
        let revision = past[past.len() - 1].store.revision;
        if !events.is_empty() {
            responses.push(Response { at, revision, events, ..Response::default() });
        }
        Watch { client: 99, member: 0, invoked: 0, span, start, prev_kv, responses, until: revision }
    }
}

fn event(change: &Change, modified: i64, prev_kv: bool) -> Event {
    let gone = Kv { key: change.key.clone(), modified, ..Kv::default() };
    let prev = change.prev.clone().filter(|_| prev_kv);
    Event { kv: change.kv.clone().unwrap_or(gone), deleted: change.kv.is_none(), prev }
}

/// What a client is told of a write that finds the store like this.
fn told(store: &Store, request: &Request, changes: &[Change], holds: bool) -> Answer {
    let revision = store.revision + i64::from(!changes.is_empty());
    let prev: Vec<Kv> = changes.iter().filter_map(|change| change.prev.clone()).collect();
    let get = |key: &str| store.get(key).cloned();
    match request {
        Request::Put { key, .. } => Answer::Put { revision, prev: get(key) },
        Request::Delete { .. } => {
            Answer::Delete { revision, deleted: i64::try_from(prev.len()).unwrap(), prev }
        }
        Request::Txn { expect, then } => {
            let kvs = match holds {
                true => then.iter().map(|write| get(write.key())).collect(),
                false => expect.iter().map(|e| get(&e.key)).collect(),
            };
            Answer::Txn { revision, succeeded: holds, kvs }
        }
        Request::Range { .. } | Request::Compact { .. } => unreachable!("the mix has none that get here"),
    }
}

fn history(seed: u64) -> History {
    lossy(seed, 12)
}

fn lossy(seed: u64, one_of: u32) -> History {
    let mut world = World::new(seed, one_of);
    let mut random = StdRng::from_rng(&mut world.random);
    let (mut history, past) = world.run();
    let mut everything = World::watch(&mut random, &past);
    while everything.span != all_keys() || everything.start > 1 {
        everything = World::watch(&mut random, &past);
    }
    history.watches = vec![everything];
    history.watches.extend((0..5).map(|_| World::watch(&mut random, &past)));
    history
}

#[test]
fn what_can_happen_is_not_wrong() {
    for seed in 0..40 {
        let history = history(seed);
        assert!(history.calls.iter().filter(|call| call.answer.is_unknown()).count() > 20);
        let found = check(&history);
        assert!(found.is_empty(), "seed {seed}: {:#?}", &found[..found.len().min(5)]);
    }
}

/// Breaks one thing of a history; `None` if there is nothing like it.
type Break = fn(&mut History, &mut StdRng) -> Option<()>;

/// Things that can be broken, and a rule that must notice.
const BREAKS: &[(&str, Break, &[Rule])] = &[
    ("a key is left out of a read", leave_out, &[Rule::State]),
    ("a read is as old as the one before it", go_back, &[Rule::RealTime]),
    ("a former value is another's", wrong_former, &[Rule::Former, Rule::Phantom]),
    ("a failed transaction is told to have succeeded", flip, &[Rule::OneRevision, Rule::Condition]),
    ("a write is forgotten", forget, &[Rule::State, Rule::Former]),
    ("a write is told another revision", renumber, &[Rule::OneRevision, Rule::Once, Rule::Gap]),
    ("an event is left out", drop_event, &[Rule::Reliable, Rule::Atomic]),
    ("the events before a notification are left out", drop_before_progress, &[Rule::Bookmarkable]),
    ("an event is of a key that was not asked for", widen, &[Rule::Filtered]),
    ("an event has another value", wrong_content, &[Rule::Content]),
    ("an event comes twice", repeat_event, &[Rule::Unique]),
    ("two events change places", swap_events, &[Rule::Ordered]),
    ("a notification comes early", early_progress, &[Rule::Bookmarkable]),
    ("an event has another's former value", wrong_prev, &[Rule::PrevKv]),
    ("the events of a revision come apart", split, &[Rule::Atomic]),
];

#[test]
fn what_is_broken_is_found() {
    for (name, broken, rules) in BREAKS {
        let mut tried = 0;
        for seed in 0..12 {
            let mut history = history(seed);
            if broken(&mut history, &mut StdRng::seed_from_u64(seed)).is_some() {
                tried += 1;
                let found = check(&history);
                assert!(found.iter().any(|v| rules.contains(&v.rule)), "{name}, seed {seed}: {found:#?}");
            }
        }
        assert!(tried >= 6, "{name}: only {tried} histories had something to break");
    }
}

/// Things that values alone tell, in half of all cases: a write beside it, or one whose answer was lost, can explain some.
const UNEXPLAINED: &[(&str, Break)] = &[
    ("a key is left out of a read of now", leave_out_now),
    ("a read is as old as the one before it", go_back),
    ("a failed transaction is told to have succeeded", flip),
    ("a write is forgotten", forget),
];

#[test]
fn the_search_needs_no_revisions() {
    for (name, broken) in UNEXPLAINED {
        let (mut tried, mut found) = (0, 0);
        for seed in 0..24 {
            let mut history = history(seed);
            if broken(&mut history, &mut StdRng::seed_from_u64(seed)).is_some() {
                tried += 1;
                found += usize::from(search::check(&history).iter().any(|v| v.rule == Rule::Linearizable));
            }
        }
        assert!(tried >= 12, "{name}: only {tried} histories had something to break");
        assert!(found * 2 >= tried, "{name}: found in {found} of {tried} histories");
    }
}

/// What an election costs clients: of many requests nobody knows whether they were done. Steps are counted, not time.
#[test]
fn many_unknown_outcomes_are_decided() {
    let (mut broken, mut told) = (0, 0);
    for seed in 0..12 {
        let history = lossy(seed, 4);
        let unknown =
            |call: &&Call| call.answer.is_unknown() && !matches!(call.request, Request::Range { .. });
        assert!(history.calls.iter().filter(unknown).count() > 60);
        let found = search::check_within(&history, 2 * history.calls.len());
        assert!(found.is_empty(), "seed {seed}: {found:#?}");
        for (name, damage) in UNEXPLAINED {
            let mut history = history.clone();
            if damage(&mut history, &mut StdRng::seed_from_u64(seed)).is_some() {
                let found = search::check(&history);
                let is_told = found.iter().any(|violation| violation.rule == Rule::Linearizable);
                assert!(is_told || found.is_empty(), "{name}, seed {seed}: {found:#?}");
                (broken, told) = (broken + 1, told + usize::from(is_told));
            }
        }
    }
    assert!(broken > 30 && told * 3 > broken * 2, "{told} of {broken}");
}

/// Some call that fits.
fn some(history: &mut History, random: &mut StdRng, fits: impl Fn(&Call) -> bool) -> Option<usize> {
    let all: Vec<usize> = (0..history.calls.len()).filter(|index| fits(&history.calls[*index])).collect();
    all.choose(random).copied()
}

fn leave_out(history: &mut History, random: &mut StdRng) -> Option<()> {
    let fits = |call: &Call| matches!(&call.answer, Answer::Range { kvs, .. } if !kvs.is_empty());
    let index = some(history, random, fits)?;
    if let Answer::Range { kvs, .. } = &mut history.calls[index].answer {
        kvs.remove(0);
    }
    Some(())
}

fn is_of_now(call: &Call) -> bool {
    matches!(call.request, Request::Range { serializable: false, revision: 0, .. })
}

fn leave_out_now(history: &mut History, random: &mut StdRng) -> Option<()> {
    let fits = |call: &Call| is_of_now(call) && !call.answer.kvs().is_empty();
    let index = some(history, random, fits)?;
    if let Answer::Range { kvs, .. } = &mut history.calls[index].answer {
        kvs.remove(0);
    }
    Some(())
}

/// The last read that shows a key shows it as it was before its last write.
fn forget(history: &mut History, _: &mut StdRng) -> Option<()> {
    for index in (0..history.calls.len()).rev() {
        let read = &history.calls[index];
        let written = history.calls.iter().filter(|call| call.returned < read.invoked);
        let lost = written.filter_map(|call| match (&call.request, &call.answer) {
            (Request::Put { value, .. }, Answer::Put { prev: Some(prev), .. }) => Some((value, prev)),
            _ => None,
        });
        let lost: Vec<(String, Kv)> = lost.map(|(value, prev)| (value.clone(), prev.clone())).collect();
        let now = is_of_now(read);
        let Answer::Range { kvs, .. } = &mut history.calls[index].answer else { continue };
        for kv in kvs.iter_mut().filter(|_| now) {
            if let Some((_, prev)) = lost.iter().find(|(value, _)| *value == kv.value) {
                *kv = prev.clone();
                return Some(());
            }
        }
    }
    None
}

fn go_back(history: &mut History, random: &mut StdRng) -> Option<()> {
    let late = |call: &Call| is_of_now(call) && call.answer.revision() > Some(50);
    let index = some(history, random, late)?;
    let (request, invoked) = (history.calls[index].request.clone(), history.calls[index].invoked);
    let same = |call: &&Call| call.request == request && call.returned < invoked;
    let old = history.calls.iter().filter(same).filter(|c| c.answer.revision() < Some(40));
    let is = history.calls[index].answer.kvs();
    let answer = old.map(|c| &c.answer).find(|old| old.revision().is_some() && old.kvs() != is)?.clone();
    history.calls[index].answer = answer;
    Some(())
}

fn wrong_former(history: &mut History, random: &mut StdRng) -> Option<()> {
    let index = some(history, random, |call| matches!(&call.answer, Answer::Put { prev: Some(_), .. }))?;
    if let Answer::Put { prev: Some(prev), .. } = &mut history.calls[index].answer {
        prev.version += 1;
    }
    Some(())
}

fn flip(history: &mut History, random: &mut StdRng) -> Option<()> {
    let index = some(history, random, |call| matches!(call.answer, Answer::Txn { succeeded: false, .. }))?;
    if let Answer::Txn { succeeded, .. } = &mut history.calls[index].answer {
        *succeeded = true;
    }
    Some(())
}

fn renumber(history: &mut History, random: &mut StdRng) -> Option<()> {
    let index = some(history, random, |call| matches!(call.answer, Answer::Put { .. }))?;
    if let Answer::Put { revision, .. } = &mut history.calls[index].answer {
        *revision += 1;
    }
    Some(())
}

/// The responses of the watch of everything that have at least so many events.
fn responses(history: &mut History, least: usize) -> Vec<&mut Response> {
    history.watches[0].responses.iter_mut().filter(|r| r.events.len() >= least).collect()
}

/// One event of several: without it the response still leads to the revision of its last one.
fn drop_event(history: &mut History, random: &mut StdRng) -> Option<()> {
    let mut all = responses(history, 2);
    let index = random.random_range(0..all.len());
    all[index].events.remove(0);
    Some(())
}

fn drop_before_progress(history: &mut History, _: &mut StdRng) -> Option<()> {
    let responses = &mut history.watches[0].responses;
    let index = responses.windows(2).position(|two| !two[0].events.is_empty() && two[1].is_progress())?;
    responses.remove(index);
    Some(())
}

/// The watch of everything claims to have asked for less.
fn widen(history: &mut History, _: &mut StdRng) -> Option<()> {
    history.watches[0].span = crate::history::Span::range("k0", "k5");
    Some(())
}

fn wrong_content(history: &mut History, random: &mut StdRng) -> Option<()> {
    let mut all = responses(history, 1);
    let index = random.random_range(0..all.len());
    all[index].events[0].kv.create += 1;
    Some(())
}

fn repeat_event(history: &mut History, random: &mut StdRng) -> Option<()> {
    let mut all = responses(history, 1);
    let index = random.random_range(0..all.len());
    let again = all[index].events[0].clone();
    all[index].events.push(again);
    Some(())
}

fn swap_events(history: &mut History, _: &mut StdRng) -> Option<()> {
    let mut all = responses(history, 2);
    let apart = |events: &[Event]| events[0].kv.modified < events[events.len() - 1].kv.modified;
    all.iter_mut().find(|response| apart(&response.events))?.events.reverse();
    Some(())
}

fn early_progress(history: &mut History, random: &mut StdRng) -> Option<()> {
    let last = history.watches[0].until;
    let responses = &mut history.watches[0].responses;
    let at = random.random_range(1..responses.len() / 2);
    let early = Response { at: responses[at].at, revision: last, ..Response::default() };
    responses.insert(at, early);
    Some(())
}

fn wrong_prev(history: &mut History, _: &mut StdRng) -> Option<()> {
    let asked = history.watches.iter_mut().filter(|watch| watch.prev_kv);
    let mut events = asked.flat_map(|w| &mut w.responses).flat_map(|r| &mut r.events);
    events.find_map(|event| event.prev.as_mut())?.version += 1;
    Some(())
}

fn split(history: &mut History, _: &mut StdRng) -> Option<()> {
    let responses = &mut history.watches[0].responses;
    for index in 0..responses.len() {
        let events = &mut responses[index].events;
        let same = events.windows(2).position(|two| two[0].kv.modified == two[1].kv.modified);
        if let Some(same) = same {
            let rest = events.split_off(same + 1);
            let rest = Response { events: rest, ..responses[index].clone() };
            responses.insert(index + 1, rest);
            return Some(());
        }
    }
    None
}
