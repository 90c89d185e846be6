//! Whether what clients saw can have come from a store that keeps its promises.
//!
//! Keeps true: every write returns a revision of its own, so the order in which everything happened is known, and
//! the check is one pass: the changes of all revisions, as watchers saw them, are played back onto a plain map;
//! every answer must agree with that map at its revision, and revisions with real time. A call without an answer
//! may have had its effect or not, but not twice, and not before it began.

use super::{
    client::TTL,
    world::{Answer, Call, Failure, History, Op, Seen, Told, Watch},
};
use crate::etcd::pb;
use bytes::Bytes;
use std::{collections::BTreeMap, time::Duration};

/// The keys at one revision.
pub(super) type State = BTreeMap<Bytes, pb::KeyValue>;

type Checked = Result<(), String>;

fn require(holds: bool, otherwise: impl FnOnce() -> String) -> Checked {
    if holds { Ok(()) } else { Err(otherwise()) }
}

/// Checks a history up to its last revision. Returns the keys there.
pub(super) fn history(history: &History, last: i64) -> Result<State, String> {
    let states = replay(history, last)?;
    let check = Check { history, states: &states, written: written(history)? };
    for (number, call) in history.calls.iter().enumerate() {
        check.call(call).map_err(|problem| format!("call {number} {call:?}: {problem}"))?;
    }
    check.deletions()?;
    check.real_time()?;
    for (number, watch) in history.watches.iter().enumerate() {
        check
            .watch(watch)
            .map_err(|problem| format!("watch {number} of {:?} from {}: {problem}", watch.key, watch.from))?;
    }
    Ok(states.into_iter().next_back().unwrap_or_default())
}

fn is_deletion(event: &pb::Event) -> bool {
    event.r#type == i32::from(pb::event::EventType::Delete)
}

fn kv(event: &pb::Event) -> &pb::KeyValue {
    event.kv.as_ref().expect("an event has a key")
}

/// The keys at every revision.
fn replay(history: &History, last: i64) -> Result<Vec<State>, String> {
    let mut states = vec![State::new(), State::new()];
    for revision in 2..=last {
        let seen = history.seen.get(&revision).ok_or_else(|| format!("nobody saw revision {revision}"))?;
        let mut state = states.last().cloned().unwrap_or_default();
        for event in &seen.events {
            play(&mut state, revision, event).map_err(|problem| format!("{problem}: {event:?}"))?;
        }
        states.push(state);
    }
    require(history.seen.keys().all(|revision| *revision <= last), || {
        format!("a revision after the last one, {last}, was seen: revisions went back")
    })?;
    Ok(states)
}

fn play(state: &mut State, revision: i64, event: &pb::Event) -> Checked {
    let kv = kv(event);
    let before = state.get(&kv.key);
    require(kv.mod_revision == revision, || "an event of another revision".into())?;
    if let Some(prev) = &event.prev_kv {
        require(before == Some(prev), || format!("the value before is wrong, it was {before:?}"))?;
    }
    if is_deletion(event) {
        require(before.is_some(), || "a key was deleted that was not there".into())?;
        state.remove(&kv.key);
        return Ok(());
    }
    let (create, version) = before.map_or((revision, 1), |kv| (kv.create_revision, kv.version + 1));
    require((kv.create_revision, kv.version) == (create, version), || {
        format!("created at {create} with version {version} was expected")
    })?;
    state.insert(kv.key.clone(), kv.clone());
    Ok(())
}

/// The revision that wrote each value.
fn written(history: &History) -> Result<BTreeMap<Bytes, i64>, String> {
    let mut written = BTreeMap::new();
    for (revision, seen) in &history.seen {
        for event in seen.events.iter().filter(|event| !is_deletion(event)) {
            let earlier = written.insert(kv(event).value.clone(), *revision);
            require(earlier.is_none_or(|earlier| earlier == *revision), || {
                format!("a write took effect twice, at {earlier:?} and {revision}: {event:?}")
            })?;
        }
    }
    Ok(written)
}

struct Check<'a> {
    history: &'a History,
    states: &'a [State],
    written: BTreeMap<Bytes, i64>,
}

impl Check<'_> {
    fn state(&self, revision: i64) -> Result<&State, String> {
        let index = usize::try_from(revision).ok();
        let state = index.and_then(|index| self.states.get(index));
        state.ok_or_else(|| format!("revision {revision} does not exist: an acknowledged write was lost"))
    }

    fn events(&self, revision: i64) -> &[pb::Event] {
        self.history.seen.get(&revision).map_or(&[], |seen| &seen.events)
    }

    fn call(&self, call: &Call) -> Checked {
        match &call.ended {
            Some((_, Ok(answer))) => self.answer(&call.op, answer),
            Some((_, Err(Failure::Refused(why)))) => self.refused(call, why),
            None | Some((_, Err(Failure::Unknown))) => self.unknown(&call.op),
        }
    }

    fn answer(&self, op: &Op, answer: &Answer) -> Checked {
        let at = answer.revision;
        match op {
            Op::Put { keys, value, lease } => self.wrote(keys, value, *lease, at),
            Op::Swap { key, expect, value } if answer.done => {
                self.swapped(key, *expect, at)?;
                self.wrote(std::slice::from_ref(key), value, 0, at)
            }
            Op::Swap { key, expect, value } => {
                let found = self.state(at)?.get(key);
                let same = answer.kvs.iter().eq(found);
                require(same, || format!("at {at} the key is {found:?}"))?;
                require(found.map_or(0, |kv| kv.mod_revision) != *expect, || "the condition held".into())?;
                require(!self.written.contains_key(value), || "it was written all the same".into())
            }
            Op::Delete { key } if answer.done => {
                let before = self.state(at - 1)?.get(key);
                require(answer.kvs.iter().eq(before), || format!("the key was {before:?}"))?;
                let [event] = self.events(at) else { return Err("more than one change".into()) };
                require(is_deletion(event) && kv(event).key == *key, || format!("it was {event:?}"))
            }
            Op::Delete { key } => {
                let found = self.state(at)?.get(key);
                require(found.is_none(), || format!("the key was {found:?}"))
            }
            Op::Read { revision, .. } => {
                let state = self.state(if *revision > 0 { *revision } else { at })?;
                require(answer.kvs.iter().eq(state.values()), || format!("the keys were {state:?}"))
            }
            Op::Compact { .. } | Op::Grant { .. } | Op::KeepAlive { .. } => Ok(()),
        }
    }

    /// A revision holds exactly this write.
    fn wrote(&self, keys: &[Bytes], value: &Bytes, lease: i64, at: i64) -> Checked {
        let wrote = |event: &pb::Event| {
            let kv = kv(event);
            (is_deletion(event), kv.value.clone(), kv.lease, kv.key.clone())
        };
        let expect = keys.iter().map(|key| (false, value.clone(), lease, key.clone()));
        require(self.events(at).iter().map(wrote).eq(expect), || {
            format!("acknowledged, but revision {at} holds {:?}", self.events(at))
        })
    }

    fn swapped(&self, key: &Bytes, expect: i64, at: i64) -> Checked {
        let found = self.state(at - 1)?.get(key).map_or(0, |kv| kv.mod_revision);
        require(found == expect, || format!("the condition did not hold: {found}"))
    }

    fn refused(&self, call: &Call, why: &str) -> Checked {
        if let Op::Put { value, .. } | Op::Swap { value, .. } = &call.op {
            return require(!self.written.contains_key(value), || "refused, but written".into());
        }
        let Op::Read { revision, .. } = call.op else { return Ok(()) };
        let compacted = |other: &Call| {
            matches!(other.op, Op::Compact { revision: to } if to > revision)
                && other.begun.0 < call.ended_at()
        };
        let wrong = why.contains("compacted") && !self.history.calls.iter().any(compacted);
        require(!wrong, || "nobody compacted so far".into())
    }

    fn unknown(&self, op: &Op) -> Checked {
        match op {
            Op::Put { keys, value, lease } => match self.written.get(value) {
                Some(at) => self.wrote(keys, value, *lease, *at),
                None => Ok(()),
            },
            Op::Swap { key, expect, value } => match self.written.get(value) {
                Some(at) => {
                    self.swapped(key, *expect, *at)?;
                    self.wrote(std::slice::from_ref(key), value, 0, *at)
                }
                None => Ok(()),
            },
            _ => Ok(()),
        }
    }

    /// Every deletion is somebody's: acknowledged, of unknown outcome, or the end of a lease in its time.
    fn deletions(&self) -> Checked {
        let mut open: BTreeMap<&Bytes, i64> = BTreeMap::new();
        let mut acknowledged = BTreeMap::new();
        for call in &self.history.calls {
            let Op::Delete { key } = &call.op else { continue };
            match &call.ended {
                Some((_, Ok(answer))) if answer.done => {
                    let other = acknowledged.insert(answer.revision, key);
                    require(other.is_none(), || format!("two deletions at {}", answer.revision))?;
                }
                None | Some((_, Err(Failure::Unknown))) => *open.entry(key).or_default() += 1,
                _ => {}
            }
        }
        for (revision, seen) in &self.history.seen {
            for event in seen.events.iter().filter(|event| is_deletion(event)) {
                let key = &kv(event).key;
                if acknowledged.contains_key(revision) {
                    continue;
                }
                let lease = self.state(revision - 1)?.get(key).map_or(0, |kv| kv.lease);
                if lease != 0 {
                    self.lease_ended(lease, seen)?;
                    continue;
                }
                let left = open.entry(key).or_default();
                *left -= 1;
                require(*left >= 0, || format!("nobody asked for this: {event:?}"))?;
            }
        }
        Ok(())
    }

    fn lease_ended(&self, lease: i64, seen: &Seen) -> Checked {
        let ttl = Duration::from_secs(TTL.unsigned_abs());
        let renewed = |call: &&Call| {
            matches!(call.op, Op::Grant { id, .. } | Op::KeepAlive { id } if id == lease)
                && matches!(call.ended, Some((_, Ok(_))))
        };
        let last =
            self.history.calls.iter().filter(renewed).map(|call| call.begun.1).max().unwrap_or_default();
        require(seen.at >= last + ttl, || {
            format!("lease {lease}, renewed at {last:?}, had ended by {:?}: {:?}", seen.at, seen.events)
        })
    }

    /// What ended before something else began, came before it.
    fn real_time(&self) -> Checked {
        let mut points: Vec<(u64, bool, &Call)> = Vec::new();
        for call in &self.history.calls {
            points.push((call.begun.0, true, call));
            points.extend(call.ended.as_ref().map(|(at, _)| (*at, false, call)));
        }
        points.sort_by_key(|(at, ..)| *at);
        let mut floors = BTreeMap::new();
        let mut newest = 0;
        for (_, begins, call) in points {
            if begins {
                floors.insert(call.begun.0, newest);
                if let Some(at) = self.effect(call) {
                    require(at > newest, || format!("{call:?} took effect at {at}, before it began"))?;
                }
            } else if let Some((_, Ok(answer))) = &call.ended {
                let floor = floors.get(&call.begun.0).copied().unwrap_or_default();
                let stale = matches!(call.op, Op::Read { serializable: true, .. } | Op::KeepAlive { .. });
                require(stale || answer.revision >= floor, || {
                    format!("{call:?} is behind revision {floor}, which was known before it began")
                })?;
                newest = newest.max(answer.revision);
            }
        }
        Ok(())
    }

    /// The revision that a call made, if it is known.
    fn effect(&self, call: &Call) -> Option<i64> {
        match (&call.op, &call.ended) {
            (Op::Put { value, .. } | Op::Swap { value, .. }, _) => self.written.get(value).copied(),
            (Op::Delete { .. }, Some((_, Ok(answer)))) if answer.done => Some(answer.revision),
            _ => None,
        }
    }

    fn watch(&self, watch: &Watch) -> Checked {
        let mut next = watch.from;
        for told in &watch.told {
            match told {
                Told::Events(events) => next = self.told(watch, next, events)?,
                Told::Progress(to) => {
                    self.nothing(watch, next, *to)?;
                    next = next.max(to + 1);
                }
                Told::Compacted(to) => {
                    require(*to > watch.from, || {
                        format!("ended, compacted at {to}, which it does not need")
                    })?;
                }
            }
        }
        Ok(())
    }

    fn told(&self, watch: &Watch, mut next: i64, events: &[pb::Event]) -> Result<i64, String> {
        let revision = |event: &pb::Event| kv(event).mod_revision;
        for events in events.chunk_by(|a, b| revision(a) == revision(b)) {
            let at = revision(&events[0]);
            require(at >= next, || format!("revision {at} came after {next} or before the watch began"))?;
            self.nothing(watch, next, at - 1)?;
            let same = self.wanted(watch, at).map(essence).eq(events.iter().map(essence));
            require(same, || format!("of revision {at} came {events:?}"))?;
            next = at + 1;
        }
        Ok(next)
    }

    fn wanted<'a>(&'a self, watch: &'a Watch, at: i64) -> impl Iterator<Item = &'a pb::Event> {
        let wants = |event: &&pb::Event| watch.key.as_ref().is_none_or(|key| *key == kv(event).key);
        self.events(at).iter().filter(wants)
    }

    /// Nothing was to be told of these revisions.
    fn nothing(&self, watch: &Watch, from: i64, to: i64) -> Checked {
        for at in from..=to {
            let missed: Vec<_> = self.wanted(watch, at).collect();
            require(missed.is_empty(), || format!("events were left out: {missed:?}"))?;
        }
        Ok(())
    }
}

/// What two watchers must agree on. The value before may be compacted for one of them.
fn essence(event: &pb::Event) -> (i32, &pb::KeyValue) {
    (event.r#type, kv(event))
}

impl Call {
    fn ended_at(&self) -> u64 {
        self.ended.as_ref().map_or(u64::MAX, |(at, _)| *at)
    }
}
