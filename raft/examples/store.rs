//! The store as a program of its own, for trying it out: `cargo run -p raft --example store -- --name m1 …` is a member,
//! `… -- snapshot status FILE` a tool.

use clap::Parser;
use tokio_util::sync::CancellationToken;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

#[derive(Parser)]
struct Command {
    #[command(flatten)]
    cli: raft::Cli,
}

#[tokio::main]
async fn main() -> Result<(), raft::Error> {
    tracing_subscriber::fmt()
        .with_env_filter(tracing_subscriber::EnvFilter::from_default_env())
        .with_writer(std::io::stderr)
        .init();
    // Set before anything else uses TLS; a second provider would be a bug here.
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    let cli = Command::parse().cli;
    let stop = CancellationToken::new();
    let asked = stop.clone();
    tokio::spawn(async move {
        let mut term = tokio::signal::unix::signal(tokio::signal::unix::SignalKind::terminate())
            .expect("signals can be listened for");
        tokio::select! {
            _ = term.recv() => {}
            _ = tokio::signal::ctrl_c() => {}
        }
        asked.cancel();
    });
    raft::store(cli, stop)
        .await
        .inspect_err(|error| eprintln!("{error}: {:?}", std::error::Error::source(error)))
}
