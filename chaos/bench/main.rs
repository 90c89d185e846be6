//! The store's speed beside etcd's: the same work, done by the same client, on three members each, in turn.
//!
//! `tests/bench [ROW…] [--rounds N] [--seconds N]` builds and runs it. `bench --list` prints the rows. What comes
//! out: a line `row=… round=… store=…` per measurement with every figure, and at the end a table with the medians,
//! their ranges and the goals. Ten minutes at full load, for elections that nobody provoked:
//! `tests/bench puts-1000 --rounds 1 --seconds 600`.
//!
//! Keeps true: every measurement begins with fresh members and an empty folder on a disk; rounds are interleaved
//! (ours, etcd, ours, etcd …); both kinds get the same flags, so both sync every write to a majority's disks before
//! they answer; a run in which a request failed or too little was done counts as failed, whatever its figures; no
//! member outlives it when it is told to end (SIGINT, SIGTERM).
//! Leaves to others: what is measured (`rows`), starting members (`chaos::members`), judging whether the machine
//! was quiet enough (each line has the load).

mod connect;
mod faults;
mod load;
mod memory;
mod op;
mod report;
mod rows;
mod sample;
mod watchers;

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use chaos::members::{Kind, Members};
use clap::{Parser, ValueEnum};
use tokio::signal::unix::{SignalKind, signal};

use report::Report;
use rows::{ROWS, Row, Work};
use sample::Sample;

/// Threads of the client. The members share the machine with it.
const THREADS: usize = 2;

/// Members of each store.
const MEMBERS: usize = 3;

type Failure = Box<dyn std::error::Error + Send + Sync>;
type Result<T> = std::result::Result<T, Failure>;

/// Measures this project's store beside etcd.
#[derive(Parser)]
struct Arguments {
    /// What to measure: names of rows, all of them when none is given.
    rows: Vec<String>,
    /// How often to measure each row on each store.
    #[arg(long, default_value_t = 5)]
    rounds: usize,
    /// How long to measure, after a warm-up.
    #[arg(long, default_value_t = 10)]
    seconds: u64,
    /// Measure one of the stores only.
    #[arg(long)]
    store: Option<Store>,
    /// The binary under test.
    #[arg(long, env = "TRIREME_BIN", default_value = "target/release/trireme")]
    trireme: PathBuf,
    /// The etcd beside it.
    #[arg(long, default_value = "/usr/bin/etcd")]
    etcd: PathBuf,
    /// Where the members' data goes while they run. It must be on a disk, not in memory.
    #[arg(long, default_value = "/var/tmp/trireme-bench")]
    folder: PathBuf,
    /// Print the rows and end.
    #[arg(long)]
    list: bool,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Store {
    Trireme,
    Etcd,
}

impl Arguments {
    fn kinds(&self) -> Vec<Kind> {
        let ours = (self.store != Some(Store::Etcd)).then(|| Kind::Ours(self.trireme.clone()));
        let etcd = (self.store != Some(Store::Trireme)).then(|| Kind::Etcd(self.etcd.clone()));
        ours.into_iter().chain(etcd).collect()
    }

    fn rows(&self) -> Result<Vec<&'static Row>> {
        if self.rows.is_empty() {
            return Ok(ROWS.iter().collect());
        }
        let find = |name: &String| {
            let unknown = || format!("there is no row {name:?}: bench --list prints them");
            ROWS.iter().find(|row| row.name == name).ok_or_else(|| unknown().into())
        };
        self.rows.iter().map(find).collect()
    }
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    if arguments.list {
        ROWS.iter().for_each(|row| println!("{:<10} {}", row.name, row.text));
        return ExitCode::SUCCESS;
    }
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(THREADS).enable_all().build();
    let work = async {
        tokio::select! {
            done = measure_all(&arguments) => done,
            // What was begun is dropped with the other branch, members first of all.
            told = told_to_end() => Err(told.err().unwrap_or_else(|| "told to end".into())),
        }
    };
    let done = runtime.map_err(Failure::from).and_then(|runtime| runtime.block_on(work));
    match done {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("bench: {error}{}", causes(&*error));
            ExitCode::FAILURE
        }
    }
}

/// Waits until somebody wants this process to end.
async fn told_to_end() -> Result<()> {
    let (mut term, mut interrupt) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    tokio::select! {
        _ = term.recv() => {}
        _ = interrupt.recv() => {}
    }
    Ok(())
}

/// An error's sources, each after a colon.
fn causes(error: &(dyn std::error::Error + 'static)) -> String {
    let causes = std::iter::successors(error.source(), |error| error.source());
    causes.map(|cause| format!(": {cause}")).collect()
}

/// Measures all rows, and prints; whether every run was a good one.
async fn measure_all(arguments: &Arguments) -> Result<bool> {
    let mut report = Report::default();
    for row in arguments.rows()? {
        for round in 1..=arguments.rounds {
            for kind in arguments.kinds() {
                let done = measure(row, &kind, arguments).await;
                report.add(row, round, &kind, done.map_err(|error| format!("{error}{}", causes(&*error))));
            }
        }
    }
    print!("{}", report.table());
    Ok(report.good())
}

/// One measurement on fresh members. Their folder stays when it fails: their logs are in it.
async fn measure(row: &Row, kind: &Kind, arguments: &Arguments) -> Result<Vec<Sample>> {
    let folder = arguments.folder.join(format!("{}-{}", std::process::id(), kind.name()));
    clear(&folder)?;
    let mut members = Members::start(kind.clone(), &folder, MEMBERS, &[]).await?;
    let time = Duration::from_secs(arguments.seconds);
    let samples = match row.work {
        Work::Load(load) => vec![load::measure(&members, load, time).await?],
        Work::Watch(watch) => vec![watchers::measure(&members, watch, time).await?],
        Work::Fault(fault) => faults::measure(&mut members, fault).await?,
        Work::Memory(fill) => vec![memory::measure(&members, fill).await?],
    };
    drop(members);
    clear(&folder)?;
    Ok(samples)
}

fn clear(folder: &Path) -> Result<()> {
    match std::fs::remove_dir_all(folder) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(format!("cannot remove {}: {error}", folder.display()).into())
        }
        _ => Ok(()),
    }
}
