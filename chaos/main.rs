//! `deploy/sandbox`: the harness on the command line.

use std::path::PathBuf;
use std::process::ExitCode;

use chaos::{Options, Sandbox, Spec, State, Steps, api};
use clap::{Parser, Subcommand};

/// A cluster on this machine, every host a network namespace.
#[derive(Parser)]
#[command(name = "deploy/sandbox")]
struct Arguments {
    /// Which sandbox.
    #[arg(long, global = true, default_value = "default")]
    name: String,
    /// The repository's folder.
    #[arg(long, global = true, env = "TRIREME_ROOT", default_value = ".", hide = true)]
    root: PathBuf,
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Subcommand)]
enum Verb {
    /// Make the sandbox or complete what is there, and wait until it is ready.
    Up {
        /// How many masters.
        #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u8).range(1..=9))]
        masters: u8,
        /// How many workers.
        #[arg(long, default_value_t = 2, value_parser = clap::value_parser!(u8).range(0..=99))]
        workers: u8,
        /// The port of 127.0.0.1 on which the API answers.
        #[arg(long, default_value_t = 6443)]
        port: u16,
        /// Do not deploy the demo app.
        #[arg(long)]
        no_demo: bool,
        /// The binary under test.
        #[arg(long, env = "TRIREME_BIN")]
        binary: PathBuf,
    },
    /// Remove the sandbox and everything that belongs to it.
    Down,
    /// What runs where.
    Status,
    /// kill -9 a component.
    Kill { host: String, component: String },
    /// Ask a component to end, and wait until it has.
    Stop { host: String, component: String },
    /// Start a component.
    Start { host: String, component: String },
    /// SIGSTOP a component.
    Pause { host: String, component: String },
    /// SIGCONT a component.
    Resume { host: String, component: String },
    /// Take a host's power: link down, then everything on it dies.
    Poweroff { host: String },
    /// Give it back: run state cleared, disks kept.
    Poweron { host: String },
    /// Separate hosts from all others.
    Partition {
        #[arg(required = true)]
        hosts: Vec<String>,
    },
    /// End the partition.
    Heal,
    /// Run a command inside a host.
    Exec {
        host: String,
        #[arg(last = true, required = true)]
        command: Vec<String>,
    },
    /// Bring an image archive into all workers.
    Import { file: PathBuf },
    /// Who leads: the store, the schedulers, the controller managers.
    Leader,
}

fn main() -> ExitCode {
    let Arguments { name, root, verb } = Arguments::parse();
    let done =
        root.canonicalize().map_err(|source| chaos::Error::File { action: "find", path: root, source });
    match done.and_then(|root| perform(&root, &name, verb)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {}", api::text(&error));
            ExitCode::FAILURE
        }
    }
}

fn perform(root: &std::path::Path, name: &str, verb: Verb) -> chaos::Result<()> {
    match verb {
        Verb::Up { masters, workers, port, no_demo, binary } => {
            let found = binary.canonicalize();
            let binary =
                found.map_err(|source| chaos::Error::File { action: "find", path: binary, source })?;
            let options = Options { spec: Spec { masters, workers, port, binary }, demo: !no_demo };
            return Sandbox::up(root, name, &options, &Steps::printed()).map(|s| greet(&s, !no_demo));
        }
        Verb::Down => return Sandbox::down(root, name),
        _ => {}
    }
    let sandbox = Sandbox::open(root, name)?;
    match verb {
        Verb::Kill { host, component } => sandbox.kill(&host, &component),
        Verb::Stop { host, component } => sandbox.stop(&host, &component),
        Verb::Start { host, component } => sandbox.start(&host, &component),
        Verb::Pause { host, component } => sandbox.pause(&host, &component),
        Verb::Resume { host, component } => sandbox.resume(&host, &component),
        Verb::Poweroff { host } => sandbox.poweroff(&host),
        Verb::Poweron { host } => sandbox.poweron(&host),
        Verb::Partition { hosts } => sandbox.partition(&hosts),
        Verb::Heal => sandbox.heal(),
        Verb::Exec { host, command } => Err(sandbox.exec(&host, &command)),
        Verb::Import { file } => sandbox.import(&file),
        Verb::Leader => leader(&sandbox),
        Verb::Status | Verb::Up { .. } | Verb::Down => {
            status(&sandbox);
            Ok(())
        }
    }
}

fn status(sandbox: &Sandbox) {
    println!("{:<5} {:<20} STATE", "HOST", "COMPONENT");
    for line in sandbox.status() {
        let state = match line.state {
            State::Running(pid) => format!("running, pid {pid}"),
            State::Paused(pid) => format!("paused, pid {pid}"),
            State::Dead if !line.on => "host is off".into(),
            State::Dead => "not running".into(),
        };
        println!("{:<5} {:<20} {state}", line.host, line.component);
    }
    if sandbox.partitioned() {
        println!("a partition is in force; deploy/sandbox heal ends it");
    }
}

fn leader(sandbox: &Sandbox) -> chaos::Result<()> {
    let show =
        |role: &str, host: Option<String>| println!("{role:<20} {}", host.as_deref().unwrap_or("nobody"));
    show("store", sandbox.store_leader());
    show("scheduler", sandbox.scheduler()?);
    show("controller-manager", sandbox.controller_manager()?);
    Ok(())
}

fn greet(sandbox: &Sandbox, demo: bool) {
    println!("\nThe cluster is ready. Go on with:\n");
    println!("  export KUBECONFIG={}", sandbox.kubeconfig().display());
    println!("  kubectl get nodes,pods -A -o wide");
    if demo {
        println!("  deploy/sandbox exec m1 -- busybox wget -qO- http://10.90.0.21:30080   # the demo app");
        println!("  kubectl scale deployment web --replicas=6");
    }
    println!("  deploy/sandbox leader; deploy/sandbox poweroff m1; deploy/sandbox poweron m1");
    println!("  deploy/down   # removes all of it");
}
