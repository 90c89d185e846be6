//! What a cluster saved is given to a new one, with the tools and the words that an operator uses: `etcdctl` saves,
//! `trireme store` restores, real members start from it, and clients of the old cluster are not fooled.

// Helpers of tests are tests, too.
#![allow(clippy::unwrap_used)]

mod archive;
#[path = "../cluster/harness.rs"]
#[allow(dead_code, reason = "the rest is for the tests beside it")]
mod harness;
mod refusals;
mod snapshot;

use clap::Parser;
use harness::Cluster;
use raft::backup::BackupError;
use std::path::PathBuf;
use tokio_util::sync::CancellationToken;

#[derive(Parser)]
struct Store {
    #[command(flatten)]
    cli: raft::Cli,
}

/// `trireme store …`
async fn store(words: &str) -> Result<String, BackupError> {
    let words = std::iter::once("store").chain(words.split_whitespace());
    let tool = Store::try_parse_from(words).unwrap().cli.tool.unwrap();
    raft::backup::perform(tool, CancellationToken::new()).await
}

/// `etcdctl …`, through a member.
async fn etcdctl(cluster: &Cluster, number: usize, words: &str) -> String {
    let done = tokio::process::Command::new("etcdctl")
        .arg(format!("--endpoints=http://127.0.0.1:{}", cluster.ports[number].0))
        .args(words.split_whitespace())
        .env("ETCDCTL_API", "3")
        .output()
        .await
        .expect("etcdctl is installed (Debian's package etcd-client)");
    assert!(done.status.success(), "etcdctl {words}: {}", String::from_utf8_lossy(&done.stderr));
    String::from_utf8(done.stdout).unwrap()
}

/// Saves the state as a member has it.
async fn save(cluster: &Cluster, number: usize) -> PathBuf {
    let file = cluster.folder.path().join("saved.db");
    etcdctl(cluster, number, &format!("snapshot save {}", file.display())).await;
    file
}

/// The flags of a restore for a member of a cluster, as it is started.
fn member(cluster: &Cluster, number: usize) -> String {
    let named = (0..cluster.first).map(|n| format!("m{n}={}", cluster.peer_url(n)));
    format!(
        "--name m{number} --initial-cluster {} --initial-advertise-peer-urls {} --data-dir {}",
        named.collect::<Vec<_>>().join(","),
        cluster.peer_url(number),
        cluster.data(number).display()
    )
}

/// Stops all members and puts their data directories aside.
async fn lose_all(cluster: &mut Cluster) {
    for number in cluster.running() {
        cluster.stop(number).await;
    }
    for number in 0..cluster.first {
        put_aside(cluster, number);
    }
}

fn put_aside(cluster: &Cluster, number: usize) {
    // That of an earlier loss.
    let _ = std::fs::remove_dir_all(old(cluster, number));
    std::fs::rename(cluster.data(number), old(cluster, number)).unwrap();
}

/// Where a data directory is that was put aside.
fn old(cluster: &Cluster, number: usize) -> PathBuf {
    cluster.folder.path().join(format!("old{number}"))
}
