//! Whether watchers were told what happened.
//!
//! Keeps true, or says what broke it: events come in the order of revisions, each once, whole revisions at a time, none
//! left out from the first revision wanted to the last one told of, by an event or by a progress notification; what a
//! key was before is right, and left out only when it may be compacted; a watch is ended only by a compaction that
//! somebody asked for.

use super::{
    check::{Check, Checked, require, same},
    world::{Told, Watch},
};
use crate::{command::KeyValue, etcd::pb};

/// Checks all watches.
pub(super) fn check(check: &Check<'_>) -> Checked {
    for (number, watch) in check.history.watches.iter().enumerate() {
        watched(check, watch)
            .map_err(|problem| format!("watch {number} of {:?} from {}: {problem}", watch.key, watch.from))?;
    }
    Ok(())
}

fn watched(check: &Check<'_>, watch: &Watch) -> Checked {
    let mut next = watch.from;
    for (at, told) in &watch.told {
        match told {
            Told::Events(events, header) => {
                next = heard(check, watch, next, events, *at)?;
                require(next <= header + 1, || format!("an answer of {header} with events of {}", next - 1))?;
            }
            Told::Progress(to) => {
                nothing(check, watch, next, *to)?;
                next = next.max(to + 1);
            }
            Told::Compacted(to) => {
                require(*to > next || *to > watch.from, || format!("ended, compacted at {to}"))?;
                require(check.compacted(*to, *at), || format!("ended, but nobody compacted to {to}"))?;
            }
        }
    }
    Ok(())
}

fn heard(
    check: &Check<'_>,
    watch: &Watch,
    mut next: i64,
    events: &[pb::Event],
    at: u64,
) -> Result<i64, String> {
    let revision = |event: &pb::Event| event.kv.as_ref().map_or(0, |kv| kv.mod_revision);
    for events in events.chunk_by(|a, b| revision(a) == revision(b)) {
        let told = revision(&events[0]);
        require(told >= next, || format!("revision {told} came, {next} was next"))?;
        nothing(check, watch, next, told - 1)?;
        let mut wanted = wanted(check, watch, told);
        for event in events {
            let kv = wanted.next().ok_or_else(|| format!("of revision {told} came {events:?}"))?;
            matches(check, event, kv, at)?;
        }
        require(wanted.next().is_none(), || format!("of revision {told} came only {events:?}"))?;
        next = told + 1;
    }
    Ok(next)
}

fn matches(check: &Check<'_>, event: &pb::Event, kv: &KeyValue, at: u64) -> Checked {
    let deletion = event.r#type == i32::from(pb::event::EventType::Delete);
    let right = event.kv.as_ref().is_some_and(|told| same(told, kv)) && deletion == kv.is_deletion();
    require(right, || format!("{event:?} came instead of {kv:?}"))?;
    let before = check.state(kv.modified - 1)?.get(&kv.key);
    let right = match (&event.prev_kv, before) {
        (Some(told), Some(before)) => same(told, before),
        (Some(_), None) => false,
        (None, before) => before.is_none() || check.compacted(kv.modified, at),
    };
    require(right, || format!("{event:?} has not the value of before, {before:?}"))
}

fn wanted<'a>(check: &'a Check<'_>, watch: &'a Watch, revision: i64) -> impl Iterator<Item = &'a KeyValue> {
    let wants = |kv: &&KeyValue| watch.key.as_ref().is_none_or(|key| *key == kv.key);
    check.changes(revision).iter().filter(wants)
}

/// Nothing was to be told of these revisions.
fn nothing(check: &Check<'_>, watch: &Watch, from: i64, to: i64) -> Checked {
    for revision in from..=to {
        let missed: Vec<_> = wanted(check, watch, revision).collect();
        require(missed.is_empty(), || format!("events were left out: {missed:?}"))?;
    }
    Ok(())
}
