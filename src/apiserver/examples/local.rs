//! An API server on a store in memory (or on `--etcd URL`), to try things by hand: prints the kubeconfig's path
//! and runs until Ctrl-C.

#![allow(clippy::unwrap_used, reason = "for trying things by hand")]

#[path = "../tests/common/mod.rs"]
mod common;

use apiserver::store::{Etcd, EtcdConfig, Kv, memory::Memory};
use std::sync::Arc;

#[tokio::main]
async fn main() {
    tracing_subscriber::fmt()
        .with_writer(std::io::stderr)
        .with_env_filter(tracing_subscriber::EnvFilter::from_default_env())
        .init();
    let kv: Arc<dyn Kv> = match std::env::args().nth(1) {
        Some(url) => {
            let config = EtcdConfig {
                endpoints: url.split(',').map(String::from).collect(),
                keep_alive: Some(std::time::Duration::from_secs(6)),
                ..EtcdConfig::default()
            };
            Arc::new(Etcd::new(config).expect("the endpoints are URLs"))
        }
        None => Arc::new(Memory::new()),
    };
    let api = common::Api::start(kv, &[]).await;
    println!("{}", api.folder().join("admin.conf").display());
    let _ = tokio::signal::ctrl_c().await;
    api.stop().await;
}
