//! What a user waits for, on a cluster of three masters and two workers: medians and ranges of several rounds.
//!
//! `tests/bench cluster` builds and runs it; each round makes a sandbox of its own and removes it. The targets are the
//! project's promises and hold for medians on a quiet machine, so the load is printed as well. Figures only: what
//! must be right is the end-to-end test's.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use chaos::{Options, Result, Sandbox, Spec, Steps, api, writing};
use clap::Parser;

const NAME: &str = "bench";
const LIMIT: Duration = Duration::from_secs(90);

/// Seconds, or megabytes, that a median should not exceed.
const TARGETS: [(&str, f64); 9] = [
    ("deploy/up, all nodes Ready (s)", 15.0),
    ("pod Running after kubectl run (s)", 1.0),
    ("pod bound after kill -9 of the active scheduler (s)", 3.0),
    ("pod bound after its clean stop (s)", 0.5),
    ("write gap, the store leader's master loses its power (s)", 1.5),
    ("write gap, another master loses its power (s)", 1.5),
    ("write gap, kill -9 of the store's leader (s)", 1.5),
    ("a master's four processes, Pss (MB)", 150.0),
    ("kubelet and proxy of a worker, Pss (MB)", 60.0),
];

/// Measures a cluster.
#[derive(Parser)]
struct Arguments {
    /// How often everything is measured.
    #[arg(long, default_value_t = 5)]
    rounds: u32,
    /// The binary under test, a release build.
    #[arg(long, env = "TRIREME_BIN")]
    binary: PathBuf,
    /// The API's port on 127.0.0.1.
    #[arg(long, default_value_t = 16543)]
    port: u16,
    /// The repository's folder.
    #[arg(long, env = "TRIREME_ROOT", default_value = ".")]
    root: PathBuf,
}

type Figures = BTreeMap<usize, Vec<f64>>;

fn main() -> std::process::ExitCode {
    let arguments = Arguments::parse();
    let mut figures = Figures::new();
    let done = (1..=arguments.rounds).try_for_each(|number| {
        println!("round {number}, load {}", load());
        round(&arguments, &mut figures)
    });
    print(&figures);
    match done {
        Ok(()) => std::process::ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {}; logs are in .sandbox/{NAME}", api::text(&error));
            std::process::ExitCode::FAILURE
        }
    }
}

fn load() -> String {
    std::fs::read_to_string("/proc/loadavg").unwrap_or_default().trim().to_string()
}

fn print(figures: &Figures) {
    println!("{:<60} {:>8} {:>17} {:>8}", "", "median", "range", "target");
    for (row, values) in figures {
        let mut values = values.clone();
        values.sort_by(f64::total_cmp);
        let (what, target) = TARGETS[*row];
        let (median, last) = (values[values.len() / 2], values[values.len() - 1]);
        let verdict = if median <= target { "" } else { "  MISSED" };
        println!("{what:<60} {median:>8.2} {:>8.2}…{last:<8.2} {target:>8}{verdict}", values[0]);
    }
}

struct Round<'a> {
    sandbox: Sandbox,
    cluster: api::Cluster,
    figures: &'a mut Figures,
}

fn round(arguments: &Arguments, figures: &mut Figures) -> Result<()> {
    let file = |source| chaos::Error::File { action: "find", path: arguments.binary.clone(), source };
    let binary = arguments.binary.canonicalize().map_err(file)?;
    let root: &Path = &arguments.root.canonicalize().map_err(file)?;
    Sandbox::down(root, NAME)?;
    let options =
        Options { spec: Spec { masters: 3, workers: 2, port: arguments.port, binary }, demo: false };
    let start = Instant::now();
    // The images are brought in at the same time, so Ready comes before `up` returns: its own line says when.
    let sandbox = Sandbox::make(root, NAME, &options.spec, &Steps::quiet())?;
    let completing = std::thread::scope(|scope| {
        let rest = scope.spawn(|| Sandbox::up(root, NAME, &options, &Steps::quiet()));
        let cluster = sandbox.cluster()?;
        until("all nodes Ready", || Ok(cluster.ready_nodes()?.len() == 2))?;
        figures.entry(0).or_default().push(start.elapsed().as_secs_f64());
        rest.join().expect("a panic is passed on")
    })?;
    let cluster = completing.cluster()?;
    let mut round = Round { sandbox: completing, cluster, figures };
    round.pods()?;
    round.schedulers()?;
    round.masters()?;
    round.memory()?;
    Sandbox::down(root, NAME)
}

fn until(what: &str, mut look: impl FnMut() -> Result<bool>) -> Result<()> {
    api::wait(what, LIMIT, &mut Steps::quiet().say(), || {
        Ok(if look()? { Ok(()) } else { Err("not yet".into()) })
    })
}

impl Round<'_> {
    fn note(&mut self, row: usize, value: f64) {
        println!("  {:<60} {value:.2}", TARGETS[row].0);
        self.figures.entry(row).or_default().push(value);
    }

    fn pods(&mut self) -> Result<()> {
        for number in 0..3 {
            let name = format!("quick-{number}");
            let took = self.run(&name, |pod| pod.phase == "Running")?;
            self.note(1, took);
        }
        Ok(())
    }

    /// From `kubectl run` until the pod is as wanted, in seconds.
    fn run(&self, name: &str, wanted: impl Fn(&api::PodView) -> bool) -> Result<f64> {
        let start = Instant::now();
        // While something fails, a request may fail, too, and what failed may have happened all the same.
        until(name, || {
            match self.sandbox.kubectl(&["run", name, "--image=demo.local/web:1", "--labels=app=bench"]) {
                Err(error) if !api::text(&error).contains("AlreadyExists") => Err(error),
                _ => Ok(true),
            }
        })?;
        until(name, || {
            Ok(self.cluster.pods("default", "app=bench")?.iter().any(|p| p.name == name && wanted(p)))
        })?;
        Ok(start.elapsed().as_secs_f64())
    }

    fn schedulers(&mut self) -> Result<()> {
        for (row, end) in [(2, Sandbox::kill as fn(&Sandbox, &str, &str) -> Result<()>), (3, Sandbox::stop)] {
            let active = self.holder()?;
            end(&self.sandbox, &active, "scheduler")?;
            let took = self.run(&format!("bound-{row}"), |pod| !pod.node.is_empty())?;
            self.note(row, took);
            self.sandbox.start(&active, "scheduler")?;
        }
        Ok(())
    }

    fn holder(&self) -> Result<String> {
        let look = || Ok(self.sandbox.scheduler()?.ok_or_else(|| "no active scheduler".to_string()));
        api::wait("an active scheduler", LIMIT, &mut Steps::quiet().say(), look)
    }

    fn leader(&self) -> Result<String> {
        let look = || Ok(self.sandbox.store_leader().ok_or_else(|| "nobody leads the store".to_string()));
        api::wait("a leader of the store", LIMIT, &mut Steps::quiet().say(), look)
    }

    fn masters(&mut self) -> Result<()> {
        let leader = self.leader()?;
        self.lose(4, &leader, Sandbox::poweroff, Sandbox::poweron)?;
        let leader = self.leader()?;
        let other = ["m1", "m2", "m3"].into_iter().find(|m| *m != leader).expect("there are three");
        self.lose(5, other, Sandbox::poweroff, Sandbox::poweron)?;
        let leader = self.leader()?;
        self.lose(6, &leader, |s, m| s.kill(m, "store"), |s, m| s.start(m, "store"))
    }

    fn lose(
        &mut self,
        row: usize,
        master: &str,
        take: fn(&Sandbox, &str) -> Result<()>,
        give: fn(&Sandbox, &str) -> Result<()>,
    ) -> Result<()> {
        let written = writing(&self.sandbox, "bench", || {
            take(&self.sandbox, master)?;
            // A new pod needs the store, the scheduler and the API; then a little more, for what notices late.
            self.run(&format!("without-{master}-{row}"), |pod| pod.phase == "Running").map(drop)
        })?;
        self.note(row, written.gap.as_secs_f64());
        for (after, failure) in &written.failures {
            println!("    a write failed {:.2} s into the gap: {failure}", after.as_secs_f64());
        }
        give(&self.sandbox, master)?;
        // All API servers and store members are back before the next one goes.
        until("three API servers", || Ok(self.cluster.masters()? == 3))
    }

    fn memory(&mut self) -> Result<()> {
        let megabytes = |host: &str, names: &[&str]| -> Result<f64> {
            let bytes: Result<u64> = names.iter().map(|name| self.sandbox.memory(host, name)).sum();
            Ok(bytes? as f64 / 1e6)
        };
        let mut found = Vec::new();
        for host in ["m1", "m2", "m3"] {
            found.push((7, megabytes(host, &["store", "apiserver", "scheduler", "controller-manager"])?));
        }
        for host in ["w1", "w2"] {
            found.push((8, megabytes(host, &["kubelet", "proxy"])?));
        }
        found.into_iter().for_each(|(row, value)| self.note(row, value));
        Ok(())
    }
}
