//! One binary, many names: runs the component that the subcommand, or the name it was called by, says.
//!
//! Owns what a process has once: signals, logging, the cryptography provider, the exit code. Everything else
//! belongs to the components.

use std::path::Path;
use std::pin::Pin;
use std::process::ExitCode;

use clap::{CommandFactory, FromArgMatches, Parser, Subcommand};
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;
use tracing_subscriber::EnvFilter;

/// Rust's and RocksDB's: a put costs the store's members 5 to 10 % less processor time than with glibc's, a member's memory
/// is 7 % more (`tests/bench`).
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// The Kubernetes release whose API this build serves.
const VERSION: &str = "v1.35.0+trireme";

/// Kubernetes in Rust, around its own replicated store.
#[derive(Parser)]
#[command(name = "Kubernetes", bin_name = "trireme", version = VERSION, disable_version_flag = true)]
struct Arguments {
    #[command(subcommand)]
    component: Component,
    /// Number for the log level verbosity: 0 warnings, 1 and 2 what happens, 4 why, 6 and above everything.
    #[arg(short, long, global = true, default_value_t = 2)]
    v: u8,
    /// Print the version.
    #[arg(long, action = clap::ArgAction::Version)]
    version: (),
}

/// The components by their upstream names.
#[derive(Subcommand)]
enum Component {
    /// The replicated store (the etcd role).
    Store(Box<raft::Cli>),
    /// The API server.
    KubeApiserver(Box<apiserver::Flags>),
    /// The scheduler.
    KubeScheduler(scheduler::Flags),
    /// The controllers.
    KubeControllerManager(Box<controllers::Flags>),
    /// The node agent.
    Kubelet(kubelet::Flags),
    /// The service proxy.
    KubeProxy(proxy::Flags),
    /// Cluster DNS.
    Dns(dns::Flags),
    /// What an operator does to a cluster.
    Admin(admin::Flags),
}

type Failure = Box<dyn std::error::Error + Send + Sync>;
type Work = Pin<Box<dyn Future<Output = Result<(), Failure>>>>;

/// A component's work, whatever its errors are called.
fn boxed<E: Into<Failure>>(work: impl Future<Output = Result<(), E>> + 'static) -> Work {
    Box::pin(async { work.await.map_err(Into::into) })
}

impl Component {
    fn run(self, stop: CancellationToken) -> Work {
        match self {
            Self::Store(flags) => boxed(raft::store(*flags, stop)),
            Self::KubeApiserver(flags) => boxed(apiserver::run(*flags, stop)),
            Self::KubeScheduler(flags) => boxed(scheduler::run(flags, stop)),
            Self::KubeControllerManager(flags) => boxed(controllers::run(*flags, stop)),
            Self::Kubelet(flags) => boxed(kubelet::run(flags, stop)),
            Self::KubeProxy(flags) => boxed(proxy::run(flags, stop)),
            Self::Dns(flags) => boxed(dns::run(flags, stop)),
            Self::Admin(flags) => boxed(admin::run(flags, stop)),
        }
    }

    /// Threads that run the component's tasks. The few that carry load get two; memory follows threads.
    fn threads(&self) -> usize {
        match self {
            Self::Store(_) | Self::KubeApiserver(_) => 2,
            _ => 1,
        }
    }
}

fn main() -> ExitCode {
    let Arguments { component, v, .. } = parse(std::env::args().collect());
    log(v);
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(component.threads())
        .thread_name("trireme")
        .enable_all()
        .build();
    let done = runtime.map_err(Failure::from).and_then(|runtime| runtime.block_on(supervise(component)));
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            tracing::error!("{}", chain(failure.as_ref()));
            ExitCode::FAILURE
        }
    }
}

/// Called as `kubelet --x` or as `trireme kubelet --x`, the same is meant.
fn parse(mut arguments: Vec<String>) -> Arguments {
    let called =
        arguments.first().and_then(|a| Path::new(a).file_name()).map(|n| n.to_string_lossy().into_owned());
    let command = Arguments::command();
    if let Some(name) = called.filter(|name| command.find_subcommand(name).is_some()) {
        arguments.splice(..1, ["trireme".to_string(), name]);
    }
    Arguments::from_arg_matches(&command.get_matches_from(arguments)).unwrap_or_else(|error| error.exit())
}

/// Runs the component until it is done or a signal tells it to stop.
async fn supervise(component: Component) -> Result<(), Failure> {
    let stop = CancellationToken::new();
    let (mut terminate, mut interrupt) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    let told = stop.clone();
    let signals = async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
        tracing::info!("stopping");
        told.cancel();
        std::future::pending::<()>().await;
    };
    tokio::select! {
        done = component.run(stop) => done,
        () = signals => Ok(()),
    }
}

/// To the standard error; `RUST_LOG` overrides the level that `-v` gives.
fn log(verbosity: u8) {
    let level = match verbosity {
        0 => "warn",
        1..=3 => "info,tower=warn,hyper=warn,h2=warn,openraft=warn",
        4..=5 => "debug,hyper=info,h2=info,openraft=info",
        _ => "trace",
    };
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new(level));
    tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).with_ansi(false).init();
}

/// An error and everything that caused it, on one line.
fn chain(failure: &dyn std::error::Error) -> String {
    let causes = std::iter::successors(failure.source(), |e| e.source());
    causes.fold(failure.to_string(), |text, cause| format!("{text}: {cause}"))
}
