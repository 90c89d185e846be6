//! The simulator: a group in one thread, on simulated disks, wires and clocks, driven by a seed.
//!
//! Keeps true: a seed replays exactly (a process runs one seed, and takes all randomness from it), so a failure is
//! found again by its number, with the command that is printed; `TRIREME_SIM_TRACE=1` shows everything that happened,
//! `TRIREME_SIM_LOG=1` what the members logged. A set of seeds that did too little fails. `TRIREME_SIM_SEEDS` sets how
//! many run, `TRIREME_SIM_FIRST` the first one; the profile `sim` is ten times faster than `dev`.
//!
//! `drive.rs` is one run, `member.rs` a member, `client.rs` its clients, `faults.rs` what happens to them, `world.rs`
//! what all know, `truth.rs`, `check.rs` and `told.rs` what must hold, `mutant.rs` the bugs that must be found. Not
//! simulated: TLS, gRPC, a process that is paused, clocks that run at different speeds; `chaos/` has those.

mod call;
mod check;
mod client;
mod drive;
mod faults;
mod member;
pub(crate) mod mutant;
pub(crate) mod net;
mod random;
mod told;
pub(crate) mod truth;
pub(crate) mod work;
mod world;

use std::{
    collections::BTreeMap,
    process::{Command, Stdio},
    sync::{
        Mutex, OnceLock,
        atomic::{AtomicU64, Ordering},
    },
};

const SEED: &str = "TRIREME_SIM_SEED";
/// How one seed is run again.
const REPLAY: &str = "cargo test --profile sim -p raft --lib -- sim::one_seed --exact --ignored --nocapture";
/// Seeds that once found a bug run always: a log that ended before the state (6), stale numbers for members that were
/// added again (20, 38), a leader that removed itself (142), a leader that handed over to a learner (685). Each meant something only as long as nothing else drew
/// another random number.
const FOUND: [u64; 5] = [6, 20, 38, 142, 685];

/// What ten seeds together must have had.
const RARE: [&str; 19] = [
    "added-members",
    "compactions",
    "crashes-of-leader",
    "deaf",
    "delayed",
    "disk-errors",
    "hand-overs",
    "held",
    "installed-snapshots",
    "kills",
    "lost-writes",
    "mute",
    "partitions",
    "power-cuts",
    "power-cuts-of-all",
    "power-cuts-of-most",
    "removed-members",
    "revisions",
    "slow-disks",
];

/// A task panicked. tokio would keep it to itself.
static PANIC: Mutex<Option<String>> = Mutex::new(None);

/// Panics that mean nothing: openraft's debug assertion about a leader that its own change of members has removed. In
/// a program that member ends a moment later, for it is none any more.
const HARMLESS: &str = "Only leader is allowed to call update_effective_membership()";

fn panicked() -> Result<(), String> {
    let panic = PANIC.lock().unwrap().take().filter(|panic| !panic.contains(HARMLESS));
    panic.map_or(Ok(()), |panic| Err(format!("a task panicked: {panic}")))
}

/// Whether everything that happens is to be shown.
fn traced() -> bool {
    static TRACED: OnceLock<bool> = OnceLock::new();
    *TRACED.get_or_init(|| std::env::var_os("TRIREME_SIM_TRACE").is_some())
}

fn number(variable: &str, default: u64) -> u64 {
    std::env::var(variable).map_or(default, |text| text.parse().expect("a number"))
}

/// What a process that ran a seed says.
fn one(seed: u64, mutant: Option<mutant::Mutant>) -> Result<String, String> {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(["sim::one_seed", "--exact", "--ignored", "--nocapture"]).env(SEED, seed.to_string());
    command.env_remove(mutant::VARIABLE);
    if let Some(mutant) = mutant {
        command.env(mutant::VARIABLE, format!("{mutant:?}"));
    }
    let output = command.stdin(Stdio::null()).output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let line = text.lines().find_map(|line| line.split_once("SIM ")).map(|(_, line)| line.to_owned());
    match line {
        Some(line) if output.status.success() => Ok(line),
        line => Err(line.unwrap_or_else(|| String::from_utf8_lossy(&output.stderr).into_owned())),
    }
}

#[test]
#[ignore = "one seed in a process of its own: the other tests start it"]
fn one_seed() {
    let seed = number(SEED, 0);
    if std::env::var_os("TRIREME_SIM_LOG").is_some() {
        tracing_subscriber::fmt().with_max_level(tracing::Level::DEBUG).with_writer(std::io::stderr).init();
    }
    let shown = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |info| {
        PANIC.lock().unwrap().get_or_insert(info.to_string().replace('\n', " "));
        shown(info);
    }));
    let memory = std::path::Path::new("/dev/shm");
    let folder = if memory.is_dir() { tempfile::tempdir_in(memory) } else { tempfile::tempdir() }.unwrap();
    let path = folder.path().to_owned();
    let run = move || {
        random::seed(seed);
        drive::run(seed, &path).map(|report| report.to_string())
    };
    match std::thread::spawn(run).join().unwrap() {
        Ok(report) => println!("SIM {report}"),
        Err(problem) => {
            println!("SIM seed={seed} broken: {problem}");
            panic!("seed {seed}: {problem}");
        }
    }
}

/// Runs something for each number, on all processors.
fn each<T: Send>(numbers: impl Iterator<Item = T> + Send, act: impl Fn(T) + Sync) {
    let numbers = Mutex::new(numbers);
    let workers = std::thread::available_parallelism().map_or(2, usize::from);
    let take = || numbers.lock().unwrap().next();
    std::thread::scope(|scope| {
        for _ in 0..workers {
            scope.spawn(|| {
                while let Some(number) = take() {
                    act(number);
                }
            });
        }
    });
}

#[test]
fn seeds_break_no_promise() {
    let (first, count) = (number("TRIREME_SIM_FIRST", 0), number("TRIREME_SIM_SEEDS", 10));
    let sums: Mutex<BTreeMap<String, u64>> = Mutex::default();
    let broken = Mutex::new(Vec::new());
    let seeds =
        (first..first + count).chain(FOUND.into_iter().filter(|seed| !(first..first + count).contains(seed)));
    each(seeds, |seed| match one(seed, None) {
        Ok(line) => {
            let mut sums = sums.lock().unwrap();
            for (name, value) in line.split_whitespace().filter_map(|part| part.split_once('=')) {
                *sums.entry(name.into()).or_default() += value.parse().unwrap_or(0);
            }
        }
        Err(problem) => {
            let problem = format!("{problem}\n    {SEED}={seed} {REPLAY}");
            println!("{problem}");
            broken.lock().unwrap().push(problem);
        }
    });
    let (sums, broken) = (sums.into_inner().unwrap(), broken.into_inner().unwrap());
    println!("{count} seeds from {first}: {sums:?}");
    assert!(broken.is_empty(), "{} of {count} seeds:\n{}", broken.len(), broken.join("\n"));
    vacuous(&sums, count);
}

/// Fails when seeds did too little: per seed so many of these, and in ten seeds one of those.
fn vacuous(sums: &BTreeMap<String, u64>, seeds: u64) {
    let reached = |what: &str| sums.get(what).copied().unwrap_or_default();
    for (what, each) in [("acknowledged", 300), ("watches", 20), ("told", 300), ("leaders", 2), ("leases", 5)]
    {
        let all = reached(what);
        assert!(all >= each * seeds, "{seeds} seeds reached only {all} {what}");
    }
    for what in RARE {
        let all = reached(what);
        assert!(all * 10 >= seeds, "{seeds} seeds reached only {all} {what}");
    }
}

#[test]
fn a_seed_replays_exactly() {
    for seed in 0..2 {
        assert_eq!(one(seed, None).unwrap(), one(seed, None).unwrap());
    }
}

/// The first seed that breaks only because of a mutant: how many were tried, and what broke.
fn hunt(mutant: mutant::Mutant, tries: u64) -> Option<(u64, String)> {
    (0..tries).find_map(|seed| {
        let broken = one(seed, Some(mutant)).err()?;
        one(seed, None).ok().map(|_| (seed + 1, broken))
    })
}

#[test]
#[ignore = "for the profile sim: tests/run simulator"]
fn mutants_are_caught() {
    let (tries, caught) = (number("TRIREME_SIM_TRIES", 60), AtomicU64::new(0));
    let verdicts = Mutex::new(Vec::new());
    each(mutant::ALL.iter(), |mutant| {
        let found = hunt(*mutant, tries);
        caught.fetch_add(u64::from(found.is_some()), Ordering::Relaxed);
        let verdict = found.map_or("SURVIVED".into(), |(seeds, how)| format!("{seeds:2} seeds: {how:.200}"));
        verdicts.lock().unwrap().push(format!("{:20} {verdict}", format!("{mutant:?}")));
    });
    let (verdicts, all) = (verdicts.into_inner().unwrap().join("\n"), mutant::ALL.len() as u64);
    println!("{verdicts}");
    assert!(caught.load(Ordering::Relaxed) * 100 >= all * 95, "too many survived:\n{verdicts}");
}
