//! The simulator: a group in one thread, on simulated disks, wires and clocks, driven by a seed.
//!
//! Keeps true: a seed replays exactly (a process runs one seed, and takes all randomness from it), so a failure is
//! found again by its number: `TRIREME_SIM_SEED=N cargo test -p raft --lib -- sim::one_seed --exact --ignored`,
//! with `TRIREME_SIM_TRACE=1` to see everything. A set of seeds that did too little fails. `TRIREME_SIM_SEEDS` sets
//! how many run, `TRIREME_SIM_FIRST` the first one.
//!
//! `drive.rs` is one run, `member.rs` a member, `client.rs` its clients, `faults.rs` what happens to them,
//! `world.rs` what all know, `check.rs` what must hold, `mutant.rs` the bugs that must be found.

mod check;
mod client;
mod drive;
mod faults;
mod member;
pub(crate) mod mutant;
pub(crate) mod net;
mod random;
mod world;

use std::{
    collections::BTreeMap,
    process::{Command, Stdio},
    sync::{
        Mutex,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
};

const SEED: &str = "TRIREME_SIM_SEED";

/// A task panicked. tokio would keep it to itself.
static PANICKED: AtomicBool = AtomicBool::new(false);

fn panicked() -> Result<(), String> {
    if PANICKED.load(Ordering::Relaxed) { Err("a task panicked".into()) } else { Ok(()) }
}

fn number(variable: &str, default: u64) -> u64 {
    std::env::var(variable).map_or(default, |text| text.parse().expect("a number"))
}

/// What a process that ran a seed says.
fn one(seed: u64, mutant: Option<mutant::Mutant>) -> Result<String, String> {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(["sim::one_seed", "--exact", "--ignored", "--nocapture"]).env(SEED, seed.to_string());
    command.stdin(Stdio::null()).env_remove(mutant::VARIABLE);
    if let Some(mutant) = mutant {
        command.env(mutant::VARIABLE, format!("{mutant:?}"));
    }
    let output = command.output().unwrap();
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
        PANICKED.store(true, Ordering::Relaxed);
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
    let (first, count) = (number("TRIREME_SIM_FIRST", 0), number("TRIREME_SIM_SEEDS", 1000));
    let sums: Mutex<BTreeMap<String, u64>> = Mutex::default();
    let broken = Mutex::new(Vec::new());
    each(first..first + count, |seed| match one(seed, None) {
        Ok(line) => {
            let mut sums = sums.lock().unwrap();
            for (name, value) in line.split_whitespace().filter_map(|part| part.split_once('=')) {
                *sums.entry(name.into()).or_default() += value.parse().unwrap_or(0);
            }
        }
        Err(problem) => broken.lock().unwrap().push(problem),
    });
    let (sums, broken) = (sums.into_inner().unwrap(), broken.into_inner().unwrap());
    println!("{count} seeds from {first}: {sums:?}");
    assert!(broken.is_empty(), "{} of {count} seeds:\n{}", broken.len(), broken.join("\n"));
    for (what, each) in [("acknowledged", 100), ("watches", 20), ("terms", 2), ("lost-writes", 1)] {
        let reached = sums.get(what).copied().unwrap_or_default();
        assert!(reached >= each * count, "{count} seeds reached only {reached} {what}");
    }
}

#[test]
fn a_seed_replays_exactly() {
    for seed in 0..4 {
        assert_eq!(one(seed, None).unwrap(), one(seed, None).unwrap());
    }
}

#[test]
fn mutants_are_caught() {
    let (tries, caught) = (number("TRIREME_SIM_TRIES", 40), AtomicU64::new(0));
    let verdicts = Mutex::new(Vec::new());
    each(mutant::ALL.iter(), |mutant| {
        let found = (0..tries).find_map(|seed| one(seed, Some(*mutant)).err());
        caught.fetch_add(u64::from(found.is_some()), Ordering::Relaxed);
        verdicts.lock().unwrap().push(format!("{mutant:?}: {}", found.unwrap_or_else(|| "SURVIVED".into())));
    });
    let (verdicts, all) = (verdicts.into_inner().unwrap().join("\n"), mutant::ALL.len() as u64);
    println!("{verdicts}");
    assert!(all >= 12 && caught.load(Ordering::Relaxed) * 100 >= all * 95, "too many survived:\n{verdicts}");
}
