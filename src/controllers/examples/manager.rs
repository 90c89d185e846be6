//! The controller manager on its own, to try things by hand: same flags as `trireme kube-controller-manager`.

use clap::Parser;
use tokio_util::sync::CancellationToken;

#[derive(Parser)]
struct Line {
    #[command(flatten)]
    flags: controllers::Flags,
}

#[tokio::main]
async fn main() -> Result<(), controllers::Error> {
    let filter = tracing_subscriber::EnvFilter::from_default_env();
    tracing_subscriber::fmt().with_writer(std::io::stderr).with_env_filter(filter).init();
    rustls::crypto::aws_lc_rs::default_provider().install_default().expect("installed once");
    let stop = CancellationToken::new();
    let ending = stop.clone();
    let signals = tokio::spawn(async move {
        let _ = tokio::signal::ctrl_c().await;
        ending.cancel();
    });
    let result = Box::pin(controllers::run(Line::parse().flags, stop)).await;
    signals.abort();
    result
}
