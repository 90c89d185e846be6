//! Events, in both of their versions.

use jiff::Timestamp;
use serde_json::Value;

use super::{
    NAME,
    cells::{int_of, number, or, str_of, text, wide},
};
use crate::{Object, catalog::Col, time};

pub(crate) const EVENTS: &[Col] = &[
    text(
        "Last Seen",
        "The time at which the most recent occurrence of this event was recorded.",
        |o, now| last_seen(o, "lastTimestamp", "firstTimestamp", now),
    ),
    TYPE,
    REASON,
    text("Object", "The object that this event is about.", |o, _| object(o, "involvedObject")),
    wide(text("Subobject", "The part of the object.", |o, _| or(o, "involvedObject.fieldPath", ""))),
    wide(text("Source", "The component reporting this event.", |o, _| source(o, "source"))),
    text("Message", "A human-readable description of the status of this operation.", |o, _| {
        or_trim(o, "message")
    }),
    wide(text("First Seen", "The time at which the event was first recorded.", |o, now| {
        first_seen(o, "firstTimestamp", now)
    })),
    wide(number("Count", "The number of times this event has occurred.", |o, _| count(o, "count"))),
    wide(NAME),
];

pub(crate) const EVENTS_V1: &[Col] = &[
    text(
        "Last Seen",
        "The time at which the most recent occurrence of this event was recorded.",
        |o, now| last_seen(o, "deprecatedLastTimestamp", "deprecatedFirstTimestamp", now),
    ),
    TYPE,
    REASON,
    text("Object", "The object that this event is about.", |o, _| object(o, "regarding")),
    wide(text("Subobject", "The part of the object.", |o, _| or(o, "regarding.fieldPath", ""))),
    wide(text("Source", "The component reporting this event.", |o, _| source(o, "deprecatedSource"))),
    text("Message", "A human-readable description of the status of this operation.", |o, _| {
        or_trim(o, "note")
    }),
    wide(text("First Seen", "The time at which the event was first recorded.", |o, now| {
        first_seen(o, "deprecatedFirstTimestamp", now)
    })),
    wide(number("Count", "The number of times this event has occurred.", |o, _| count(o, "deprecatedCount"))),
    wide(NAME),
];

const TYPE: Col =
    text("Type", "Type of this event (Normal, Warning), new types could be added.", |o, _| or(o, "type", ""));
const REASON: Col =
    text("Reason", "Why the object came into its current status.", |o, _| or(o, "reason", ""));

fn at(event: &Object, path: &str) -> Option<Timestamp> {
    event.get(path).and_then(Value::as_str).and_then(time::parse)
}

fn ago(at: Option<Timestamp>, now: Timestamp) -> Value {
    match at {
        Some(at) => time::human_duration(now.as_second() - at.as_second()).into(),
        None => super::cells::UNKNOWN.into(),
    }
}

fn first_seen(event: &Object, path: &str, now: Timestamp) -> Value {
    ago(at(event, path).or_else(|| at(event, "eventTime")), now)
}

fn last_seen(event: &Object, last: &str, first: &str, now: Timestamp) -> Value {
    let series = at(event, "series.lastObservedTime");
    let single = at(event, last).or_else(|| at(event, first)).or_else(|| at(event, "eventTime"));
    ago(series.or(single), now)
}

fn count(event: &Object, path: &str) -> Value {
    let single = event.i64_at(path).filter(|n| *n > 0).unwrap_or(1);
    event.get("series").map_or(single, |s| int_of(s, "count")).into()
}

fn object(event: &Object, field: &str) -> Value {
    let Some(reference) = event.get(field) else { return "".into() };
    let (kind, name) = (str_of(reference, "kind").to_lowercase(), str_of(reference, "name"));
    if name.is_empty() { kind.into() } else { format!("{kind}/{name}").into() }
}

fn source(event: &Object, field: &str) -> Value {
    let of = |name: &str| event.get(field).map(|s| str_of(s, name)).unwrap_or_default();
    let (mut component, mut host) = (of("component"), of("host"));
    if component.is_empty() {
        component = match event.str_at("reportingComponent") {
            "" => event.str_at("reportingController"),
            c => c,
        };
    }
    if host.is_empty() {
        host = event.str_at("reportingInstance");
    }
    if host.is_empty() { component.into() } else { format!("{component}, {host}").into() }
}

fn or_trim(event: &Object, path: &str) -> Value {
    event.str_at(path).trim().into()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn an_event() {
        let event = json!({"metadata": {"name": "p.1"}, "lastTimestamp": "2026-01-01T00:59:00Z", "firstTimestamp": "2026-01-01T00:00:00Z",
            "type": "Warning", "reason": "FailedScheduling", "message": "no\n", "count": 3,
            "involvedObject": {"kind": "Pod", "name": "p"}, "source": {"component": "s"}});
        let event = Object::try_from(event).unwrap();
        let now = time::parse("2026-01-01T01:00:00Z").unwrap();
        let cells: Vec<_> = EVENTS.iter().map(|c| (c.cell)(&event, now)).collect();
        assert_eq!(
            json!(cells),
            json!(["60s", "Warning", "FailedScheduling", "pod/p", "", "s", "no", "60m", 3, "p.1"])
        );
    }
}
