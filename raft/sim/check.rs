//! Whether what clients saw can have come from a store that keeps its promises.
//!
//! Keeps true: every write has a revision of its own, so the order in which everything happened is known, and the
//! check is one pass: the changes of all revisions, as members made them, are played back onto a plain map; every
//! answer must agree with that map at its revision, and revisions with real time. A call without an answer may have
//! had its effect or not, but not twice, and not before it began. Watches are `told.rs`.

use super::{
    client::TTL,
    told,
    truth::{Change, Truth},
    world::{Answer, Call, Failure, History, Op},
};
use crate::{command::KeyValue, etcd::pb};
use bytes::Bytes;
use std::{collections::BTreeMap, time::Duration};

/// The keys at one revision.
pub(super) type State = BTreeMap<Bytes, KeyValue>;

pub(super) type Checked = Result<(), String>;

pub(super) fn require(holds: bool, otherwise: impl FnOnce() -> String) -> Checked {
    if holds { Ok(()) } else { Err(otherwise()) }
}

/// Checks a history. Returns the keys at its end.
pub(super) fn history(history: &History, truth: &Truth) -> Result<State, String> {
    let states = replay(truth)?;
    let check = Check { history, truth, states: &states, written: written(truth)? };
    for (number, call) in history.calls.iter().enumerate() {
        check.call(call).map_err(|problem| format!("call {number} {call:?}: {problem}"))?;
    }
    check.deletions()?;
    check.real_time()?;
    told::check(&check)?;
    Ok(states.into_iter().next_back().unwrap_or_default())
}

/// Keys that still hang on leases.
pub(super) fn leases_left(truth: &Truth) -> Vec<KeyValue> {
    let mut left = BTreeMap::new();
    for kv in truth.commits.values().flat_map(|change| &change.kvs) {
        left.insert(&kv.key, kv);
    }
    left.into_values().filter(|kv| kv.lease != 0).cloned().collect()
}

/// The keys at every revision.
fn replay(truth: &Truth) -> Result<Vec<State>, String> {
    let mut states = vec![State::new(), State::new()];
    for (revision, change) in &truth.commits {
        let mut state = states.last().cloned().unwrap_or_default();
        for kv in &change.kvs {
            play(&mut state, *revision, kv).map_err(|problem| format!("{problem}: {kv:?}"))?;
        }
        states.push(state);
    }
    Ok(states)
}

fn play(state: &mut State, revision: i64, kv: &KeyValue) -> Checked {
    let before = state.get(&kv.key);
    require(kv.modified == revision, || "a change of another revision".into())?;
    if kv.is_deletion() {
        require(before.is_some(), || "a key was deleted that was not there".into())?;
        state.remove(&kv.key);
        return Ok(());
    }
    let (create, version) = before.map_or((revision, 1), |kv| (kv.create, kv.version + 1));
    require((kv.create, kv.version) == (create, version), || {
        format!("created at {create} with version {version} was expected")
    })?;
    state.insert(kv.key.clone(), kv.clone());
    Ok(())
}

/// The revision that wrote each value.
fn written(truth: &Truth) -> Result<BTreeMap<Bytes, i64>, String> {
    let mut written = BTreeMap::new();
    for (revision, change) in &truth.commits {
        for kv in change.kvs.iter().filter(|kv| !kv.is_deletion()) {
            let earlier = written.insert(kv.value.clone(), *revision);
            require(earlier.is_none_or(|earlier| earlier == *revision), || {
                format!("a write took effect twice, at {earlier:?} and {revision}: {kv:?}")
            })?;
        }
    }
    Ok(written)
}

/// Whether a client was told of this key.
pub(super) fn same(told: &pb::KeyValue, kv: &KeyValue) -> bool {
    (&told.key, &told.value, told.create_revision, told.mod_revision, told.version, told.lease)
        == (&kv.key, &kv.value, kv.create, kv.modified, kv.version, kv.lease)
}

fn all_same<'a>(told: &[pb::KeyValue], kvs: impl IntoIterator<Item = &'a KeyValue>) -> bool {
    let mut kvs = kvs.into_iter();
    told.iter().all(|told| kvs.next().is_some_and(|kv| same(told, kv))) && kvs.next().is_none()
}

/// What is checked, and what it is checked against.
pub(super) struct Check<'a> {
    pub(super) history: &'a History,
    pub(super) truth: &'a Truth,
    states: &'a [State],
    written: BTreeMap<Bytes, i64>,
}

impl Check<'_> {
    pub(super) fn state(&self, revision: i64) -> Result<&State, String> {
        let index = usize::try_from(revision).ok();
        let state = index.and_then(|index| self.states.get(index));
        state.ok_or_else(|| format!("revision {revision} does not exist: an acknowledged write was lost"))
    }

    pub(super) fn changes(&self, revision: i64) -> &[KeyValue] {
        self.truth.commits.get(&revision).map_or(&[], |change| &change.kvs)
    }

    /// Whether a compaction to a revision or beyond was asked for before an event.
    pub(super) fn compacted(&self, revision: i64, before: u64) -> bool {
        let asked = |call: &&Call| matches!(call.op, Op::Compact { revision: to } if to >= revision);
        self.history.calls.iter().take_while(|call| call.begun.0 < before).any(|call| asked(&call))
    }

    fn call(&self, call: &Call) -> Checked {
        match &call.ended {
            Some((_, Ok(answer))) => self.answer(call, answer),
            Some((ended, Err(Failure::Refused(why)))) => self.refused(call, *ended, why),
            None | Some((_, Err(Failure::Unknown))) => self.unknown(&call.op),
        }
    }

    fn answer(&self, call: &Call, answer: &Answer) -> Checked {
        let at = answer.revision;
        match &call.op {
            Op::Put { keys, value, lease } => self.wrote(keys, value, *lease, at),
            Op::Swap { key, expect, value } if answer.done => {
                self.swapped(key, *expect, at)?;
                self.wrote(std::slice::from_ref(key), value, 0, at)
            }
            Op::Swap { key, expect, value } => {
                let found = self.state(at)?.get(key);
                require(all_same(&answer.kvs, found), || format!("at {at} the key is {found:?}"))?;
                require(found.map_or(0, |kv| kv.modified) != *expect, || "the condition held".into())?;
                require(!self.written.contains_key(value), || "it was written all the same".into())
            }
            Op::Delete { key } if answer.done => {
                let before = self.state(at - 1)?.get(key);
                require(all_same(&answer.kvs, before), || format!("the key was {before:?}"))?;
                let [kv] = self.changes(at) else { return Err("more than one change".into()) };
                require(kv.is_deletion() && kv.key == *key, || format!("it was {kv:?}"))
            }
            Op::Delete { key } => {
                let found = self.state(at)?.get(key);
                require(found.is_none(), || format!("the key was {found:?}"))
            }
            Op::Read { revision, serializable } => {
                self.not_compacted(call, *revision, *serializable)?;
                self.read(if *revision > 0 { *revision } else { at }, answer)
            }
            Op::ReadAndPut { revision, key, value } => {
                self.not_compacted(call, *revision, false)?;
                self.wrote(std::slice::from_ref(key), value, 0, at)?;
                self.read(*revision, answer)
            }
            Op::Compact { .. } | Op::Grant { .. } | Op::KeepAlive { .. } | Op::Revoke { .. } => Ok(()),
        }
    }

    fn read(&self, at: i64, answer: &Answer) -> Checked {
        let state = self.state(at)?;
        require(all_same(&answer.kvs, state.values()), || format!("at {at} the keys were {state:?}"))
    }

    /// A read at a revision that was compacted for certain must be refused, unless it may be stale.
    fn not_compacted(&self, call: &Call, revision: i64, stale: bool) -> Checked {
        let compacted = |other: &&Call| {
            matches!(other.op, Op::Compact { revision: to } if to > revision)
                && matches!(other.ended, Some((ended, Ok(_))) if ended < call.begun.0)
        };
        let found = self.history.calls.iter().find(compacted).filter(|_| revision > 0 && !stale);
        require(found.is_none(), || format!("this had been compacted before: {found:?}"))
    }

    /// A revision holds exactly this write.
    fn wrote(&self, keys: &[Bytes], value: &Bytes, lease: i64, at: i64) -> Checked {
        let changes = self.changes(at);
        let mut expect = keys.iter();
        let wrote = changes.iter().all(|kv| {
            !kv.is_deletion() && kv.value == *value && kv.lease == lease && expect.next() == Some(&kv.key)
        });
        require(wrote && expect.next().is_none(), || {
            format!("acknowledged, but revision {at} holds {changes:?}")
        })
    }

    fn swapped(&self, key: &Bytes, expect: i64, at: i64) -> Checked {
        let found = self.state(at - 1)?.get(key).map_or(0, |kv| kv.modified);
        require(found == expect, || format!("the condition did not hold: {found}"))
    }

    fn refused(&self, call: &Call, ended: u64, why: &str) -> Checked {
        if let Op::Put { value, .. } | Op::Swap { value, .. } | Op::ReadAndPut { value, .. } = &call.op {
            require(!self.written.contains_key(value), || "refused, but written".into())?;
        }
        let (Op::Read { revision, .. } | Op::ReadAndPut { revision, .. }) = call.op else { return Ok(()) };
        let wrong = why.contains("compacted") && !self.compacted(revision + 1, ended);
        require(!wrong, || "nobody compacted so far".into())
    }

    fn unknown(&self, op: &Op) -> Checked {
        let (Op::Put { value, .. } | Op::Swap { value, .. } | Op::ReadAndPut { value, .. }) = op else {
            return Ok(());
        };
        let Some(at) = self.written.get(value).copied() else { return Ok(()) };
        match op {
            Op::Put { keys, value, lease } => self.wrote(keys, value, *lease, at),
            Op::Swap { key, expect, value } => {
                self.swapped(key, *expect, at)?;
                self.wrote(std::slice::from_ref(key), value, 0, at)
            }
            Op::ReadAndPut { key, value, .. } => self.wrote(std::slice::from_ref(key), value, 0, at),
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
        for (revision, change) in &self.truth.commits {
            let Some(kv) = change.kvs.iter().find(|kv| kv.is_deletion()) else { continue };
            if acknowledged.contains_key(revision) {
                continue;
            }
            let lease = self.state(revision - 1)?.get(&kv.key).map_or(0, |kv| kv.lease);
            if lease != 0 {
                self.lease_ended(lease, *revision, change)?;
                continue;
            }
            let left = open.entry(&kv.key).or_default();
            *left -= 1;
            require(*left >= 0, || format!("nobody asked for this: {kv:?}"))?;
        }
        Ok(())
    }

    /// A lease ends with all its keys, and not before its time unless somebody ended it.
    fn lease_ended(&self, lease: i64, revision: i64, change: &Change) -> Checked {
        let keys = self.state(revision - 1)?.values().filter(|kv| kv.lease == lease).map(|kv| &kv.key);
        require(keys.eq(change.kvs.iter().map(|kv| &kv.key)), || {
            format!("lease {lease} did not end with all its keys: {:?}", change.kvs)
        })?;
        let calls = || self.history.calls.iter().take_while(|call| call.begun.1 <= change.at);
        if calls().any(|call| matches!(call.op, Op::Revoke { id } if id == lease)) {
            return Ok(());
        }
        let renewed = |call: &&Call| {
            matches!(call.op, Op::Grant { id, .. } | Op::KeepAlive { id } if id == lease)
                && matches!(call.ended, Some((_, Ok(_))))
        };
        let last = calls().filter(renewed).map(|call| call.begun.1).max().unwrap_or_default();
        require(change.at >= last + Duration::from_secs(TTL.unsigned_abs()), || {
            format!("lease {lease}, renewed at {last:?}, had ended by {:?}: {:?}", change.at, change.kvs)
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
            (Op::Put { value, .. } | Op::Swap { value, .. } | Op::ReadAndPut { value, .. }, _) => {
                self.written.get(value).copied()
            }
            (Op::Delete { .. }, Some((_, Ok(answer)))) if answer.done => Some(answer.revision),
            _ => None,
        }
    }
}
