//! Histories that are right and histories in which one thing is wrong: what all checkers together say of them.

use std::collections::BTreeSet;

use super::{Digest, Rule, check, identical, search};
use crate::history::{Answer, Call, Expect, Happening, History, Kv, Mark, Request, Span, Write};

/// When a request was sent and its answer was there.
pub(super) type Time = (u64, u64);

pub(super) fn kv(key: &str, value: &str, create: i64, modified: i64, version: i64) -> Kv {
    Kv { key: key.into(), value: value.into(), create, modified, version }
}

fn call((invoked, returned): Time, request: Request, answer: Answer) -> Call {
    Call { client: 0, member: 0, invoked, returned, request, answer }
}

fn unknown(mut call: Call) -> Call {
    call.answer = Answer::Unknown { text: "timed out".into() };
    call
}

fn refused(mut call: Call, text: &str) -> Call {
    call.answer = Answer::Refused { text: text.into() };
    call
}

pub(super) fn put(time: Time, key: &str, value: &str, revision: i64, prev: Option<Kv>) -> Call {
    call(time, Request::Put { key: key.into(), value: value.into() }, Answer::Put { revision, prev })
}

pub(super) fn delete(time: Time, span: Span, revision: i64, prev: &[Kv]) -> Call {
    let (deleted, prev) = (i64::try_from(prev.len()).unwrap(), prev.to_vec());
    call(time, Request::Delete { span }, Answer::Delete { revision, deleted, prev })
}

fn range(time: Time, request: (i64, bool), revision: i64, kvs: &[Kv]) -> Call {
    let request = Request::Range {
        span: Span::range("a", "z"),
        limit: 0,
        revision: request.0,
        serializable: request.1,
    };
    let count = i64::try_from(kvs.len()).unwrap();
    call(time, request, Answer::Range { revision, kvs: kvs.to_vec(), count, more: false })
}

fn read(time: Time, revision: i64, kvs: &[Kv]) -> Call {
    range(time, (0, false), revision, kvs)
}

fn cas(
    time: Time,
    key: &str,
    found: Option<Kv>,
    value: Option<&str>,
    answer: (i64, bool, Option<Kv>),
) -> Call {
    let expect = vec![Expect { key: key.into(), found }];
    let key = key.to_string();
    let then = vec![match value {
        Some(value) => Write::Put { key, value: value.into() },
        None => Write::Delete { key },
    }];
    let answer = Answer::Txn { revision: answer.0, succeeded: answer.1, kvs: vec![answer.2] };
    call(time, Request::Txn { expect, then }, answer)
}

pub(super) fn both(time: Time, values: (&str, &str), revision: i64) -> Call {
    let put = |key: &str, value: &str| Write::Put { key: key.into(), value: value.into() };
    let then = vec![put("a", values.0), put("b", values.1)];
    let answer = Answer::Txn { revision, succeeded: true, kvs: vec![None, None] };
    call(time, Request::Txn { expect: Vec::new(), then }, answer)
}

pub(super) fn compact(time: Time, revision: i64, now: i64) -> Call {
    call(time, Request::Compact { revision }, Answer::Compact { revision: now })
}

pub(super) fn found(history: &History) -> BTreeSet<Rule> {
    check(history).iter().map(|violation| violation.rule).collect()
}

fn expect(name: &str, calls: Vec<Call>, rules: &[Rule]) {
    let history = History { calls, ..History::default() };
    assert_eq!(found(&history), rules.iter().copied().collect(), "{name}: {:#?}", check(&history));
}

#[test]
fn what_is_right() {
    let one = || kv("a", "1", 2, 2, 1);
    let fine = |name, calls| expect(name, calls, &[]);
    fine("nothing", vec![]);
    fine(
        "one after another",
        vec![
            put((1, 2), "a", "1", 2, None),
            put((3, 4), "a", "2", 3, Some(one())),
            read((5, 6), 3, &[kv("a", "2", 2, 3, 2)]),
            delete((7, 8), Span::range("a", "b"), 4, &[kv("a", "2", 2, 3, 2)]),
            read((9, 10), 4, &[]),
            delete((11, 12), Span::key("a"), 4, &[]),
            put((13, 14), "a", "3", 5, None),
            range((15, 16), (3, false), 5, &[kv("a", "2", 2, 3, 2)]),
        ],
    );
    fine(
        "a read beside a write sees it or not",
        vec![put((1, 9), "a", "1", 2, None), read((2, 3), 1, &[]), read((4, 5), 2, &[one()])],
    );
    fine(
        "an old serializable read",
        vec![
            put((1, 2), "a", "1", 2, None),
            put((3, 4), "b", "2", 3, None),
            Call { member: 1, ..range((5, 6), (0, true), 2, &[one()]) },
        ],
    );
    fine(
        "one of two conditions holds",
        vec![
            put((1, 2), "a", "1", 2, None),
            cas((3, 6), "a", Some(one()), Some("2"), (3, true, Some(one()))),
            cas((4, 5), "a", Some(one()), Some("3"), (3, false, Some(kv("a", "2", 2, 3, 2)))),
            cas((7, 8), "a", Some(kv("a", "2", 2, 3, 2)), None, (4, true, Some(kv("a", "2", 2, 3, 2)))),
            cas((9, 10), "a", None, Some("4"), (5, true, None)),
        ],
    );
}

#[test]
fn without_an_answer() {
    let lost = |time, key, value| unknown(put(time, key, value, 0, None));
    let fine = |name, calls| expect(name, calls, &[]);
    fine("it did not happen", vec![lost((1, 2), "a", "1"), read((3, 4), 1, &[])]);
    fine(
        "it happened later",
        vec![lost((1, 2), "a", "1"), read((3, 4), 1, &[]), read((5, 6), 2, &[kv("a", "1", 2, 2, 1)])],
    );
    fine(
        "nobody saw it, but there is only one it can have been",
        vec![
            lost((1, 2), "a", "1"),
            put((3, 4), "b", "2", 3, None),
            delete((5, 6), Span::key("a"), 4, &[kv("a", "1", 2, 2, 1)]),
        ],
    );
    fine(
        "a deletion that was seen by what is not there",
        vec![
            put((1, 2), "a", "1", 2, None),
            unknown(delete((3, 4), Span::key("a"), 0, &[])),
            read((5, 6), 2, &[kv("a", "1", 2, 2, 1)]),
            read((7, 8), 3, &[]),
        ],
    );
    fine(
        "a chain of two",
        vec![
            put((1, 2), "a", "1", 2, None),
            unknown(cas((3, 4), "a", Some(kv("a", "1", 2, 2, 1)), Some("2"), (0, true, None))),
            unknown(delete((3, 4), Span::key("a"), 0, &[])),
            range((5, 6), (3, false), 4, &[kv("a", "2", 2, 3, 2)]),
            read((7, 8), 4, &[]),
        ],
    );
    let only = |rule| [rule];
    expect(
        "two can have been it",
        vec![lost((1, 2), "a", "1"), lost((1, 2), "b", "2"), put((3, 4), "c", "3", 3, None)],
        &only(Rule::Unclear),
    );
    expect(
        "it happened twice",
        vec![
            lost((1, 2), "a", "1"),
            delete((5, 6), Span::key("a"), 3, &[kv("a", "1", 2, 2, 1)]),
            read((7, 8), 4, &[kv("a", "1", 4, 4, 1)]),
        ],
        &[Rule::Once, Rule::Gap, Rule::State, Rule::Linearizable],
    );
    expect(
        "its condition did not hold",
        vec![
            put((1, 2), "a", "1", 2, None),
            put((3, 4), "a", "2", 3, Some(kv("a", "1", 2, 2, 1))),
            unknown(cas((5, 6), "a", Some(kv("a", "1", 2, 2, 1)), Some("3"), (0, true, None))),
            read((7, 8), 4, &[kv("a", "3", 2, 4, 3)]),
        ],
        &[Rule::Condition, Rule::Linearizable],
    );
}

#[test]
fn what_is_wrong() {
    let one = || kv("a", "1", 2, 2, 1);
    let two = || kv("a", "2", 2, 3, 2);
    let start = || vec![put((1, 2), "a", "1", 2, None), put((3, 4), "a", "2", 3, Some(one()))];
    let after = |name, calls: Vec<Call>, rules: &[Rule]| expect(name, [start(), calls].concat(), rules);
    after("a lost write", vec![read((5, 6), 3, &[one()])], &[Rule::State, Rule::Linearizable]);
    after("a lost key", vec![read((5, 6), 3, &[])], &[Rule::State, Rule::Linearizable]);
    after("a stale read", vec![read((5, 6), 2, &[one()])], &[Rule::RealTime, Rule::Linearizable]);
    after(
        "reads that go back while a write is under way",
        vec![
            put((5, 20), "a", "3", 4, Some(two())),
            read((6, 7), 4, &[kv("a", "3", 2, 4, 3)]),
            read((8, 9), 3, &[two()]),
        ],
        &[Rule::RealTime, Rule::Linearizable],
    );
    after(
        "a revision that was there",
        vec![put((5, 6), "b", "3", 3, None)],
        &[Rule::OneRevision, Rule::RealTime, Rule::Causality],
    );
    expect(
        "a revision below another's",
        vec![put((1, 2), "a", "1", 3, None), put((3, 4), "b", "2", 2, None)],
        &[Rule::RealTime, Rule::Causality],
    );
    after("a revision left out", vec![put((5, 6), "b", "3", 5, None)], &[Rule::Gap]);
    after("a revision out of nowhere", vec![read((5, 6), 99, &[two()])], &[Rule::Gap]);
}

#[test]
fn what_cannot_have_been_seen() {
    let one = || kv("a", "1", 2, 2, 1);
    let two = || kv("a", "2", 2, 3, 2);
    let start = || vec![put((1, 2), "a", "1", 2, None), put((3, 4), "a", "2", 3, Some(one()))];
    let after = |name, calls: Vec<Call>, rules: &[Rule]| expect(name, [start(), calls].concat(), rules);
    after(
        "nobody's value",
        vec![read((5, 6), 3, &[kv("a", "x", 2, 3, 2)])],
        &[Rule::Phantom, Rule::State, Rule::Linearizable],
    );
    after(
        "a refused write",
        vec![refused(put((5, 6), "a", "3", 0, None), "no"), read((7, 8), 4, &[kv("a", "3", 2, 4, 3)])],
        &[Rule::Phantom, Rule::Gap, Rule::State, Rule::Linearizable],
    );
    after(
        "a wrong former value",
        vec![put((5, 6), "a", "3", 4, Some(one()))],
        &[Rule::Former, Rule::Linearizable],
    );
    after("a wrong version", vec![read((5, 6), 3, &[kv("a", "2", 2, 3, 1)])], &[Rule::State]);
    after(
        "nothing deleted",
        vec![delete((5, 6), Span::key("a"), 3, &[])],
        &[Rule::State, Rule::Linearizable],
    );
    after(
        "the wrong one deleted",
        vec![delete((5, 6), Span::key("a"), 4, &[one()])],
        &[Rule::Former, Rule::Linearizable],
    );
    after(
        "two conditions that exclude each other",
        vec![
            cas((5, 8), "a", Some(two()), Some("3"), (4, true, Some(two()))),
            cas((6, 7), "a", Some(two()), Some("4"), (5, true, Some(two()))),
        ],
        &[Rule::Condition, Rule::Former, Rule::Linearizable],
    );
    after(
        "a condition that held",
        vec![cas((5, 6), "a", Some(two()), Some("3"), (3, false, Some(two())))],
        &[Rule::Condition, Rule::Linearizable],
    );
    after(
        "a write seen before it was asked for",
        vec![range((5, 6), (0, true), 4, &[kv("a", "3", 2, 4, 3)]), put((7, 8), "a", "3", 4, Some(two()))],
        &[Rule::Causality, Rule::RealTime],
    );
    expect(
        "a torn read",
        vec![
            put((1, 2), "a", "1", 2, None),
            put((3, 8), "b", "2", 3, None),
            read((9, 10), 3, &[kv("b", "2", 3, 3, 1)]),
        ],
        &[Rule::State, Rule::Linearizable],
    );
    expect(
        "two reads in two orders, each key right by itself",
        vec![
            put((1, 20), "a", "1", 2, None),
            put((1, 20), "b", "2", 3, None),
            read((2, 9), 2, &[kv("a", "1", 2, 2, 1)]),
            read((3, 8), 3, &[kv("b", "2", 3, 3, 1)]),
        ],
        &[Rule::State, Rule::Linearizable],
    );
}

#[test]
fn history_and_members() {
    let start = || vec![put((1, 2), "a", "1", 2, None), put((3, 4), "b", "2", 3, None)];
    let one = kv("a", "1", 2, 2, 1);
    let after = |name, calls: Vec<Call>, rules: &[Rule]| expect(name, [start(), calls].concat(), rules);
    let old = |time| range(time, (2, false), 3, std::slice::from_ref(&one));
    after("a wrong state of old", vec![range((5, 6), (2, false), 3, &[])], &[Rule::State]);
    after("history at the compacted revision", vec![compact((5, 6), 2, 3), old((7, 8))], &[]);
    after("history after compaction", vec![compact((5, 6), 3, 3), old((7, 8))], &[Rule::Compaction]);
    let compacted = "mvcc: required revision has been compacted";
    after("refused while being compacted", vec![compact((5, 9), 3, 3), refused(old((6, 8)), compacted)], &[]);
    after("refused without compaction", vec![refused(old((5, 6)), compacted)], &[Rule::Compaction]);
    let back = [
        start(),
        vec![
            range((5, 6), (0, true), 3, &[one.clone(), kv("b", "2", 3, 3, 1)]),
            range((7, 8), (0, true), 2, &[one]),
        ],
    ];
    let mut history = History { calls: back.concat(), ..History::default() };
    assert_eq!(found(&history), BTreeSet::from([Rule::Backwards]));
    history.marks.push(Mark { at: 6, member: 1, what: Happening::Ended });
    assert_eq!(found(&history), BTreeSet::from([Rule::Backwards]));
    history.marks.push(Mark { at: 6, member: 0, what: Happening::Ended });
    assert_eq!(found(&history), BTreeSet::new(), "another process may be behind");
}

#[test]
fn a_search_that_would_not_end_is_told() {
    let calls: Vec<Call> =
        (0..30).map(|n| put((2 * n, 2 * n + 1), &format!("k{n}"), &format!("v{n}"), 0, None)).collect();
    let history = History { calls, ..History::default() };
    let rules = |steps| -> BTreeSet<Rule> {
        search::check_within(&history, steps).iter().map(|violation| violation.rule).collect()
    };
    assert_eq!(rules(10), BTreeSet::from([Rule::Undecided]));
    assert_eq!(rules(1000), BTreeSet::new());
}

#[test]
fn members_differ_or_not() {
    let check = |members: &[Digest], same: bool| {
        let rules = identical(7, members).map(|violation| violation.rule);
        assert_eq!(rules, (!same).then_some(Rule::Identical), "{members:?}");
    };
    check(&[(3, 9), (3, 9), (3, 9)], true);
    check(&[(3, 9), (3, 9), (3, 8)], false);
    check(&[(3, 9), (2, 9), (3, 9)], false);
}
