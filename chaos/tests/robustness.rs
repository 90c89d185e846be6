//! A store of three members under faults, with clients outside it: after each fault everything that they were told
//! must fit etcd's promises, on ours and, as a control of the checkers, on Debian's etcd.
//!
//! Keeps true: every scenario prints its seed, and `TRIREME_SEED` repeats the clients' choices; a run in which too
//! little happened fails like one that broke a promise; ours may break none, etcd 3.4.23 only those that its row
//! names, which are bugs known to its makers. Two rows of etcd's must be seen to break a promise, one by such a bug,
//! one by clients that lie: the checkers see what is wrong at a real store. What the search for an order does not
//! decide fails the run as well. A failed run leaves its history, logs and data in `target/robustness`; with
//! `TRIREME_KEEP=1` every run does. `TRIREME_ROUNDS=N` goes through the table N times, each with a seed of its own;
//! `TRIREME_FAULT=NAME` keeps to one fault; `TRIREME_HISTORY=FILE` judges a saved history again instead.

#![allow(clippy::unwrap_used, reason = "clippy knows test functions, but not their helpers")]

use std::path::{Path, PathBuf};
use std::time::Instant;

use chaos::faults::store::{Blow, Fault, Store};
use chaos::history::{Answer, Happening, History, Request};
use chaos::invariants::{Rule, Violation, check, identical};
use chaos::members::Kind;
use chaos::workload::mix::{EVERYTHING, Mix, OPTIMISTIC};
use chaos::workload::{Counts, Workload};

/// Acknowledged writes before a fault, and after it.
const WRITES: usize = 250;
/// Violations that are printed; all are counted.
const SHOWN: usize = 20;

/// A row of a table.
struct Scenario {
    /// What happens.
    fault: &'static str,
    /// What clients do meanwhile.
    mix: Mix,
    /// How the members are started.
    flags: &'static [&'static str],
    /// Promises that this store is known to break.
    known: &'static [Rule],
    /// Those that it must be seen to break.
    finds: &'static [Rule],
}

/// A row of our own store, which breaks nothing.
const fn ours(fault: &'static str, mix: Mix, flags: &'static [&'static str]) -> Scenario {
    Scenario { fault, mix, flags, known: &[], finds: &[] }
}

/// A row of etcd 3.4.23, which forgets a deletion when exactly its revision is compacted (etcd-io/etcd#18089).
const fn etcd(fault: &'static str, mix: Mix) -> Scenario {
    let mix = Mix { progress: false, ..mix };
    Scenario { fault, mix, flags: NOTIFYING, known: &[Rule::Tombstone], finds: &[] }
}

/// Snapshots every few entries, so that a member that was away gets one.
const SNAPSHOTS: &[&str] = &["--snapshot-count=100"];

/// Watches are told how far they have come without asking.
const NOTIFYING: &[&str] = &["--experimental-watch-progress-notify-interval=100ms"];

const OURS: &[Scenario] = &[
    ours("none", EVERYTHING, &[]),
    ours("leader-killed", EVERYTHING, &[]),
    ours("follower-killed", OPTIMISTIC, SNAPSHOTS),
    ours("all-killed", EVERYTHING, &[]),
    ours("leader-stopped", OPTIMISTIC, &[]),
    ours("leader-paused", OPTIMISTIC, &[]),
    ours("follower-paused", EVERYTHING, SNAPSHOTS),
    ours("leader-isolated", EVERYTHING, SNAPSHOTS),
    ours("follower-isolated", OPTIMISTIC, SNAPSHOTS),
    ours("leader-cut-off", OPTIMISTIC, &[]),
    ours("leader-mute", OPTIMISTIC, &[]),
    ours("leader-deaf", EVERYTHING, &[]),
    ours("follower-mute", EVERYTHING, &[]),
    ours("follower-deaf", OPTIMISTIC, &[]),
    ours("all-late", OPTIMISTIC, &[]),
];

const CONTROL: &[Scenario] = &[
    etcd("none", EVERYTHING),
    etcd("leader-killed", OPTIMISTIC),
    etcd("leader-paused", EVERYTHING),
    etcd("leader-isolated", EVERYTHING),
    // Asked how far a watch has come, it answers before it has sent the events up to there (etcd-io/etcd#15220).
    // A watch that was told so seems to need nothing of what is compacted then.
    Scenario {
        fault: "none",
        mix: OPTIMISTIC,
        flags: &[],
        known: &[Rule::Bookmarkable, Rule::Canceled, Rule::Tombstone],
        finds: &[Rule::Bookmarkable],
    },
    // A member that is cut off gives old answers to readers that only say that they asked for new ones. To rule out
    // every order can take the search too long.
    Scenario {
        fault: "follower-isolated",
        mix: Mix { name: "lies", progress: false, lies: true, ..OPTIMISTIC },
        flags: NOTIFYING,
        known: &[Rule::RealTime, Rule::Linearizable, Rule::Undecided, Rule::Tombstone],
        finds: &[Rule::RealTime, Rule::Linearizable],
    },
];

/// What came of a run.
struct Outcome {
    history: History,
    violations: Vec<Violation>,
    reached: Vec<Reached>,
}

/// What happened, how often, and how often at least it must.
type Reached = (&'static str, usize, usize);

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs a built trireme: TRIREME_BIN"]
async fn the_store_keeps_its_promises() {
    if let Some(file) = std::env::var_os("TRIREME_HISTORY") {
        let violations = check(&History::load(Path::new(&file)).unwrap());
        show(&violations);
        assert!(violations.is_empty(), "{} violations", violations.len());
        return;
    }
    let binary = std::env::var_os("TRIREME_BIN").expect("TRIREME_BIN is the path of a built trireme");
    let failed = all(&Kind::Ours(PathBuf::from(binary)), OURS).await;
    assert!(failed.is_empty(), "failed: {failed:#?}");
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs Debian's etcd"]
async fn etcd_is_judged_by_the_same_rules() {
    let failed = all(&Kind::Etcd("/usr/bin/etcd".into()), CONTROL).await;
    assert!(failed.is_empty(), "failed: {failed:#?}");
}

/// Runs the table, as often as was asked for. Gives the names of those that failed.
async fn all(kind: &Kind, scenarios: &[Scenario]) -> Vec<String> {
    let number = |name: &str| std::env::var(name).ok().map(|text| text.parse::<u64>().expect(name));
    let first = number("TRIREME_SEED").unwrap_or_else(rand::random);
    let only = std::env::var("TRIREME_FAULT").ok();
    let (mut failed, mut tried) = (Vec::new(), 0);
    for round in 0..number("TRIREME_ROUNDS").unwrap_or(1) {
        let chosen = scenarios.iter().filter(|s| only.as_deref().is_none_or(|only| only == s.fault));
        for scenario in chosen {
            let (seed, start) = (first.wrapping_add(round), Instant::now());
            tried += 1;
            let what = format!("{} {} {}", kind.name(), scenario.fault, scenario.mix.name);
            let name = format!("{what} TRIREME_SEED={seed}");
            let folder = folder(&what, seed);
            let verdict = judge(run(kind, scenario, seed, &folder).await, scenario, &folder);
            println!("{:<70} {verdict} in {:.1} s", name, start.elapsed().as_secs_f64());
            if verdict.starts_with("ok") && std::env::var_os("TRIREME_KEEP").is_none() {
                std::fs::remove_dir_all(&folder).unwrap();
            } else if !verdict.starts_with("ok") {
                failed.push(format!("{name}: {verdict}, see {}", folder.display()));
            }
        }
    }
    assert!(tried > 0, "no row of the table was run: TRIREME_FAULT={only:?}, TRIREME_ROUNDS");
    failed
}

fn folder(what: &str, seed: u64) -> PathBuf {
    let target = Path::new(env!("CARGO_TARGET_TMPDIR")).parent().unwrap();
    let folder = target.join(format!("robustness/{}-{seed}", what.replace(' ', "-")));
    let _ = std::fs::remove_dir_all(&folder);
    folder
}

/// One line that says what came of it.
fn judge(outcome: chaos::Result<Outcome>, scenario: &Scenario, folder: &Path) -> String {
    let Outcome { history, violations, reached } = match outcome {
        Ok(outcome) => outcome,
        Err(error) => return format!("FAILED: {error}: {:?}", std::error::Error::source(&error)),
    };
    history.save(&folder.join("history.jsonl")).unwrap();
    let (known, new): (Vec<Violation>, Vec<Violation>) =
        violations.into_iter().partition(|violation| scenario.known.contains(&violation.rule));
    let missed = reached.iter().filter(|(_, is, least)| is < least);
    let mut missed: Vec<String> =
        missed.map(|(what, is, least)| format!("{what}: {is}, at least {least} are needed")).collect();
    let hidden = scenario.finds.iter().filter(|rule| known.iter().all(|found| found.rule != **rule));
    missed.extend(hidden.map(|rule| format!("{rule:?} is broken, and it was not found")));
    let size = size(&history, &known);
    show(&new);
    match (new.len(), missed) {
        (0, missed) if missed.is_empty() => format!("ok: {size}, {}", closest(&reached)),
        (0, missed) => format!("TOO LITTLE: {missed:?} ({size})"),
        (count, _) => format!("VIOLATED: {count} times ({size})"),
    }
}

fn size(History { calls, watches, .. }: &History, known: &[Violation]) -> String {
    let unknown = calls.iter().filter(|call| call.answer.is_unknown()).count();
    let events: usize = watches.iter().flat_map(|w| &w.responses).map(|r| r.events.len()).sum();
    let size =
        format!("{} calls, {unknown} unknown, {} watches, {events} events", calls.len(), watches.len());
    match known.len() {
        0 => size,
        count => format!("{size}, {count} known violations"),
    }
}

/// The counts that were nearest to too little.
fn closest(reached: &[Reached]) -> String {
    let mut open: Vec<&Reached> = reached.iter().filter(|(_, _, least)| *least != WRITES).collect();
    open.sort_by_key(|(_, is, least)| 100 * is / least);
    let word = |(what, is, least): &&Reached| format!("{what} {is}/{least}");
    format!("closest: {}", open.iter().take(5).map(word).collect::<Vec<_>>().join(", "))
}

fn show(violations: &[Violation]) {
    violations.iter().take(SHOWN).for_each(|violation| println!("  {violation}"));
}

async fn run(kind: &Kind, scenario: &Scenario, seed: u64, folder: &Path) -> chaos::Result<Outcome> {
    let fault = Fault::named(scenario.fault).expect("a row of the table of faults");
    let mut store = Store::start(kind.clone(), folder, scenario.flags).await?;
    let mut workload = Workload::start(store.members.client_urls(), scenario.mix, seed);
    workload.writes(WRITES).await?;
    let before = workload.counts();
    store.suffer(fault, &mut workload).await?;
    let after = workload.counts();
    workload.writes(WRITES).await?;
    let end = workload.counts();
    let (history, last) = workload.finish().await?;
    let reached = reached(&history, last, fault, [before, after, end]);
    let mut violations = check(&history);
    violations.extend(identical(last, &store.members.digests(last).await?));
    Ok(Outcome { history, violations, reached })
}

/// What must have happened for the verdict to mean anything: how often it did, and how often at least.
fn reached(history: &History, last: i64, fault: &Fault, counts: [Counts; 3]) -> Vec<Reached> {
    let [before, after, end] = counts;
    let calls = |fits: &dyn Fn(&Request, &Answer) -> bool| {
        history.calls.iter().filter(|call| fits(&call.request, &call.answer)).count()
    };
    let condition = |wanted: bool| {
        calls(&|_, answer| matches!(answer, Answer::Txn { succeeded, .. } if *succeeded == wanted))
    };
    let read = |wanted: bool| {
        calls(&|request, answer| {
            let range = matches!(request, Request::Range { serializable, .. } if *serializable == wanted);
            range && matches!(answer, Answer::Range { .. })
        })
    };
    let responses = || history.watches.iter().flat_map(|watch| &watch.responses);
    let marks = |what: &[Happening]| history.marks.iter().filter(|mark| what.contains(&mark.what)).count();
    let done = match fault.blow {
        Blow::None => 1,
        Blow::Kill | Blow::Stop => marks(&[Happening::Ended]).min(marks(&[Happening::Started])),
        Blow::Pause(_) => marks(&[Happening::Paused]).min(marks(&[Happening::Resumed])),
        Blow::Ways(_) | Blow::Sends(_) | Blow::Receives(_) => {
            marks(&[Happening::Disturbed]).min(marks(&[Happening::Healed]))
        }
    };
    let witnessed = history.watches.iter().filter(|watch| watch.until == last).count();
    vec![
        ("writes before the fault", before.written, WRITES),
        ("writes after the fault", end.written - after.written, WRITES),
        ("requests before the fault", before.answered, 2 * WRITES),
        ("linearizable reads", read(false), 200),
        ("serializable reads", read(true), 40),
        ("conditions that held", condition(true), 30),
        ("conditions that did not hold", condition(false), 10),
        ("compactions", calls(&|_, answer| matches!(answer, Answer::Compact { .. })), 3),
        ("events", end.events, 1000),
        ("watches", history.watches.len(), 20),
        ("watches of what was compacted", responses().filter(|r| r.compacted > 0).count(), 1),
        ("progress notifications", responses().filter(|r| r.is_progress()).count(), 30),
        ("witnesses that saw the end", witnessed, 3),
        ("the fault", done, 1),
    ]
}
