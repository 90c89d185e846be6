//! A store of three members under faults, with clients outside it: after each fault everything that they were told
//! must fit etcd's promises, on ours and, as a control of the checkers, on Debian's etcd.
//!
//! Keeps true: every scenario prints its seed, and `TRIREME_SEED` repeats the clients' choices; a run in which too
//! little happened fails like one that broke a promise; a failed run leaves its history, logs and data in
//! `target/robustness`. `TRIREME_ROUNDS=N` goes through the table N times; `TRIREME_FAULT=NAME` keeps to one fault;
//! `TRIREME_HISTORY=FILE` judges a saved history again instead.

#![allow(clippy::unwrap_used, reason = "clippy knows test functions, but not their helpers")]

use std::path::{Path, PathBuf};
use std::time::Instant;

use chaos::faults::store::{Blow, Fault, Store};
use chaos::history::{Answer, Happening, History, Request};
use chaos::invariants::{Rule, Violation, check};
use chaos::members::Kind;
use chaos::workload::mix::{EVERYTHING, Mix, OPTIMISTIC};
use chaos::workload::{Counts, Workload};

/// Acknowledged writes before a fault, and after it.
const WRITES: usize = 250;
/// Violations that are printed; all are counted.
const SHOWN: usize = 20;

/// A row: what happens, what clients do meanwhile, and how the members are started.
type Scenario = (&'static str, Mix, &'static [&'static str]);

/// Snapshots every few entries, so that a member that was away gets one.
const SNAPSHOTS: &[&str] = &["--snapshot-count=100"];

const OURS: &[Scenario] = &[
    ("none", EVERYTHING, &[]),
    ("leader-killed", EVERYTHING, &[]),
    ("follower-killed", OPTIMISTIC, SNAPSHOTS),
    ("all-killed", EVERYTHING, &[]),
    ("leader-stopped", OPTIMISTIC, &[]),
    ("leader-paused", OPTIMISTIC, &[]),
    ("follower-paused", EVERYTHING, SNAPSHOTS),
    ("leader-isolated", EVERYTHING, SNAPSHOTS),
    ("follower-isolated", OPTIMISTIC, SNAPSHOTS),
    ("leader-cut-off", OPTIMISTIC, &[]),
    ("leader-mute", OPTIMISTIC, &[]),
    ("leader-deaf", EVERYTHING, &[]),
    ("follower-mute", EVERYTHING, &[]),
    ("follower-deaf", OPTIMISTIC, &[]),
    ("all-late", OPTIMISTIC, &[]),
];

const CONTROL: &[Scenario] = &[
    ("none", OPTIMISTIC, &[]),
    ("leader-killed", OPTIMISTIC, &[]),
    ("leader-paused", EVERYTHING, &[]),
    ("leader-isolated", EVERYTHING, &[]),
];

/// What came of a run.
struct Outcome {
    history: History,
    violations: Vec<Violation>,
    /// What did not happen often enough.
    vacuous: Vec<String>,
}

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
    let mut failed = Vec::new();
    for round in 0..number("TRIREME_ROUNDS").unwrap_or(1) {
        let chosen = scenarios.iter().filter(|(fault, ..)| only.as_deref().is_none_or(|only| only == *fault));
        for scenario in chosen {
            let (seed, start) = (first.wrapping_add(round), Instant::now());
            let name = format!("{} {} {} TRIREME_SEED={seed}", kind.name(), scenario.0, scenario.1.name);
            let folder = folder(kind, scenario, seed);
            let verdict = judge(run(kind, scenario, seed, &folder).await, &folder);
            println!("{:<70} {verdict} in {:.1} s", name, start.elapsed().as_secs_f64());
            if verdict.starts_with("ok") {
                std::fs::remove_dir_all(&folder).unwrap();
            } else {
                failed.push(format!("{name}: {verdict}, see {}", folder.display()));
            }
        }
    }
    failed
}

fn folder(kind: &Kind, (fault, mix, _): &Scenario, seed: u64) -> PathBuf {
    let target = Path::new(env!("CARGO_TARGET_TMPDIR")).parent().unwrap();
    let folder = target.join(format!("robustness/{}-{fault}-{}-{seed}", kind.name(), mix.name));
    let _ = std::fs::remove_dir_all(&folder);
    folder
}

/// One line that says what came of it.
fn judge(outcome: chaos::Result<Outcome>, folder: &Path) -> String {
    let outcome = match outcome {
        Ok(outcome) => outcome,
        Err(error) => return format!("FAILED: {error}: {:?}", std::error::Error::source(&error)),
    };
    outcome.history.save(&folder.join("history.jsonl")).unwrap();
    let History { calls, watches, .. } = &outcome.history;
    let unknown = calls.iter().filter(|call| call.answer.is_unknown()).count();
    let events: usize = watches.iter().flat_map(|w| &w.responses).map(|r| r.events.len()).sum();
    let size =
        format!("{} calls, {unknown} unknown, {} watches, {events} events", calls.len(), watches.len());
    show(&outcome.violations);
    match (outcome.violations.len(), outcome.vacuous) {
        (0, vacuous) if vacuous.is_empty() => format!("ok: {size}"),
        (0, vacuous) => format!("TOO LITTLE: {vacuous:?} ({size})"),
        (count, _) => format!("VIOLATED: {count} times ({size})"),
    }
}

fn show(violations: &[Violation]) {
    violations.iter().take(SHOWN).for_each(|violation| println!("  {violation}"));
}

async fn run(
    kind: &Kind,
    (fault, mix, flags): &Scenario,
    seed: u64,
    folder: &Path,
) -> chaos::Result<Outcome> {
    let fault = Fault::named(fault).expect("a row of the table of faults");
    let mut store = Store::start(kind.clone(), folder, flags).await?;
    let mut workload = Workload::start(store.members.client_urls(), *mix, seed);
    workload.writes(WRITES).await?;
    let before = workload.counts();
    store.suffer(fault, &mut workload).await?;
    let after = workload.counts();
    workload.writes(WRITES).await?;
    let end = workload.counts();
    let (history, last) = workload.finish().await?;
    let vacuous = vacuous(&history, last, fault, [before, after, end]);
    let mut violations = check(&history);
    violations.extend(differing(&store, last).await?);
    Ok(Outcome { history, violations, vacuous })
}

/// Members whose state at a revision is not that of the first.
async fn differing(store: &Store, revision: i64) -> chaos::Result<Option<Violation>> {
    let mut hashes = Vec::new();
    for member in 0..store.members.count() {
        let mut client = store.members.client(member).await?;
        let hash = client.hash_kv(revision).await.map_err(|error| chaos::Error::Api {
            action: format!("read the hash of member {member} at revision {revision}"),
            source: Box::new(error),
        })?;
        hashes.push((hash.compact_version(), hash.hash()));
    }
    let same = hashes.iter().all(|hash| *hash == hashes[0]);
    Ok((!same).then(|| Violation::new(Rule::Identical, format!("at revision {revision}: {hashes:?}"))))
}

/// What did not happen, or not often enough for the verdict to mean anything.
fn vacuous(history: &History, last: i64, fault: &Fault, counts: [Counts; 3]) -> Vec<String> {
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
    let rows = [
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
    ];
    let rows = rows.into_iter().filter(|(_, is, least)| is < least);
    rows.map(|(what, is, least)| format!("{what}: {is}, at least {least} are needed")).collect()
}
