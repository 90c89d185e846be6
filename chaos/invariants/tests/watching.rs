//! Watches that are right and watches in which one thing is wrong.

use super::histories::{Time, both, compact, delete, found, kv, put};
use super::{Rule, check};
use crate::history::{Answer, Call, Event, History, Kv, Response, Span, Watch};

fn at(at: u64, events: Vec<Event>) -> Response {
    let revision = events.iter().map(|event| event.kv.modified).max().unwrap_or_default();
    Response { at, revision, events, ..Response::default() }
}

fn created(at: u64, revision: i64) -> Response {
    Response { at, revision, created: true, ..Response::default() }
}

fn progress(at: u64, revision: i64) -> Response {
    Response { at, revision, ..Response::default() }
}

fn happened(kv: Kv, prev: Option<Kv>) -> Event {
    Event { kv, deleted: false, prev }
}

fn gone(key: &str, revision: i64, prev: Option<Kv>) -> Event {
    Event { kv: kv(key, "", 0, revision, 0), deleted: true, prev }
}

/// Writes of which every watch below tells: a, b, both, and the end of a; then nothing but compaction.
fn written() -> Vec<Call> {
    vec![
        put((1, 2), "a", "1", 2, None),
        put((3, 4), "b", "2", 3, None),
        both_again((5, 6)),
        delete((7, 8), Span::key("a"), 5, &[kv("a", "3", 2, 4, 2)]),
    ]
}

fn both_again(time: Time) -> Call {
    let mut call = both(time, ("3", "4"), 4);
    let kvs = vec![Some(kv("a", "1", 2, 2, 1)), Some(kv("b", "2", 3, 3, 1))];
    call.answer = Answer::Txn { revision: 4, succeeded: true, kvs };
    call
}

fn first() -> Event {
    happened(kv("a", "1", 2, 2, 1), None)
}

fn second() -> Event {
    happened(kv("b", "2", 3, 3, 1), None)
}

fn third() -> [Event; 2] {
    [
        happened(kv("a", "3", 2, 4, 2), Some(kv("a", "1", 2, 2, 1))),
        happened(kv("b", "4", 3, 4, 2), Some(kv("b", "2", 3, 3, 1))),
    ]
}

fn fourth() -> Event {
    gone("a", 5, Some(kv("a", "3", 2, 4, 2)))
}

fn watch(start: i64, responses: Vec<Response>) -> Watch {
    let span = Span::range("a", "z");
    Watch { client: 9, member: 0, invoked: 0, span, start, prev_kv: true, responses, until: 0 }
}

fn watched(name: &str, watch: Watch, rules: &[Rule]) {
    let history = History { calls: written(), watches: vec![watch], ..History::default() };
    assert_eq!(found(&history), rules.iter().copied().collect(), "{name}: {:#?}", check(&history));
}

#[test]
fn watches_that_are_right() {
    let all = || [vec![first(), second()], third().to_vec(), vec![fourth()]].concat();
    let fine = |name, watch| watched(name, watch, &[]);
    fine("never created", watch(2, vec![]));
    fine("everything at once", Watch { until: 5, ..watch(1, vec![created(1, 1), at(20, all())]) });
    fine("from now on", watch(0, vec![created(4, 3), at(20, all()[2..].to_vec())]));
    fine(
        "in pieces, with progress",
        watch(
            2,
            vec![
                created(1, 1),
                at(20, vec![first()]),
                at(21, vec![second()]),
                progress(22, 3),
                at(23, third().to_vec()),
                progress(24, 4),
                at(25, vec![fourth()]),
                progress(26, 5),
            ],
        ),
    );
    fine("from the future", watch(5, vec![created(1, 1), at(20, vec![fourth()])]));
    let only = |event: Event| Watch { prev_kv: false, ..watch(5, vec![created(9, 5), at(20, vec![event])]) };
    fine("without former values", only(gone("a", 5, None)));
    fine(
        "of one key",
        Watch {
            span: Span::key("b"),
            until: 5,
            ..watch(1, vec![created(1, 1), at(20, vec![second(), third()[1].clone()])])
        },
    );
}

#[test]
fn watches_that_are_wrong() {
    let bad = |name, responses: Vec<Response>, rule| {
        watched(name, watch(2, [vec![created(1, 1)], responses].concat()), &[rule]);
    };
    bad("out of order", vec![at(20, vec![second(), first()])], Rule::Ordered);
    bad("twice", vec![at(20, vec![first()]), at(21, vec![first(), second()])], Rule::Unique);
    bad("one left out", vec![at(20, vec![first()]), at(21, third().to_vec())], Rule::Reliable);
    bad(
        "split",
        vec![at(20, vec![first(), second(), third()[0].clone()]), at(21, third()[1..].to_vec())],
        Rule::Atomic,
    );
    bad("half", vec![at(20, vec![first(), second(), third()[0].clone(), fourth()])], Rule::Atomic);
    bad(
        "progress before its events",
        vec![progress(20, 3), at(21, vec![first(), second()])],
        Rule::Bookmarkable,
    );
    bad("progress instead of events", vec![at(20, vec![first()]), progress(21, 3)], Rule::Bookmarkable);
    let mut wrong = second();
    wrong.kv.version = 2;
    bad("a wrong version", vec![at(20, vec![first(), wrong])], Rule::Content);
    bad("not that key", vec![at(20, vec![first(), happened(kv("b", "1", 2, 2, 1), None)])], Rule::Content);
    let mut former = third();
    former[0].prev = Some(kv("a", "0", 2, 2, 1));
    watched(
        "a former value that never was",
        watch(4, vec![created(1, 1), at(20, former.to_vec())]),
        &[Rule::PrevKv, Rule::Phantom],
    );
    let mut former = third();
    former[0].prev = None;
    watched("no former value", watch(4, vec![created(1, 1), at(20, former.to_vec())]), &[Rule::PrevKv]);
    watched(
        "an event for the future",
        watch(4, vec![created(1, 1), at(20, [vec![second()], third().to_vec()].concat())]),
        &[Rule::Filtered],
    );
    let span = Span::key("a");
    watched(
        "another key",
        Watch { span, ..watch(3, vec![created(1, 1), at(20, vec![second()])]) },
        &[Rule::Filtered],
    );
    watched(
        "the last one never came",
        Watch { until: 5, ..watch(4, vec![created(1, 1), at(20, third().to_vec())]) },
        &[Rule::Reliable],
    );
    watched(
        "told before it was asked for",
        watch(5, vec![created(1, 1), at(6, vec![fourth()])]),
        &[Rule::Causality, Rule::RealTime],
    );
}

#[test]
fn watches_and_compaction() {
    let canceled =
        |at, compacted| Response { at, revision: 5, canceled: true, compacted, ..Response::default() };
    let check_at = |name: &str, watch: Watch, rules: &[Rule]| {
        let calls = [written(), vec![compact((9, 10), 5, 5)]].concat();
        let history = History { calls, watches: vec![watch], ..History::default() };
        assert_eq!(found(&history), rules.iter().copied().collect(), "{name}: {:#?}", check(&history));
    };
    check_at("it needs what is gone", watch(4, vec![created(11, 5), canceled(12, 5)]), &[]);
    check_at("it does not", watch(5, vec![created(11, 5), canceled(12, 5)]), &[Rule::Canceled]);
    check_at("nobody compacted", watch(2, vec![created(11, 5), canceled(12, 4)]), &[Rule::Canceled]);
    check_at(
        "at the compacted revision",
        Watch { until: 5, ..watch(5, vec![created(11, 5), at(12, vec![fourth()])]) },
        &[],
    );
    check_at(
        "its deletion is missing",
        Watch { until: 5, ..watch(5, vec![created(11, 5)]) },
        &[Rule::Tombstone],
    );
    check_at(
        "what came before its deletion is missing",
        Watch { until: 5, ..watch(4, vec![created(1, 1), at(20, vec![fourth()])]) },
        &[Rule::Reliable],
    );
    check_at(
        "the former value is gone",
        watch(5, vec![created(11, 5), at(12, vec![gone("a", 5, None)])]),
        &[],
    );
    check_at("not yet", watch(5, vec![created(1, 1), at(9, vec![gone("a", 5, None)])]), &[Rule::PrevKv]);
}
