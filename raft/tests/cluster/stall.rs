//! Members as processes of their own whose disks take their time, and what they sync: `fsync.c` stands between a
//! member and its disk.

use crate::{
    harness::{Cluster, Command, all, keys, put},
    members::id,
    write,
};
use clap::Parser;
use raft::etcd::pb::{self, maintenance_client::MaintenanceClient};
use std::{
    path::{Path, PathBuf},
    time::{Duration, Instant},
};
use tokio_util::sync::CancellationToken;

const PATIENCE: Duration = Duration::from_secs(30);

/// This program as a member.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "started by other tests"]
async fn member_process() {
    let Ok(command) = std::env::var("MEMBER") else { return };
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    tracing_subscriber::fmt().with_writer(std::io::stderr).with_ansi(false).init();
    let flags = Command::try_parse_from(command.split_whitespace()).unwrap().flags;
    raft::run(flags, CancellationToken::new()).await.unwrap();
}

/// What stands between a member and its disk.
fn shim(folder: &Path) -> PathBuf {
    let (source, shim) =
        (concat!(env!("CARGO_MANIFEST_DIR"), "/tests/cluster/fsync.c"), folder.join("fsync.so"));
    let built =
        std::process::Command::new("cc").args(["-shared", "-fPIC", "-o"]).arg(&shim).arg(source).status();
    assert!(built.unwrap().success(), "this test needs a C compiler");
    shim
}

fn stall(cluster: &Cluster, number: usize) -> PathBuf {
    cluster.data(number).with_extension("stall")
}

async fn slow_cluster() -> Cluster {
    let mut cluster = Cluster::new(3, "").await;
    let shim = shim(cluster.folder.path());
    for number in 0..3 {
        let stall = stall(&cluster, number);
        cluster.start_process(number, &[("LD_PRELOAD", &shim), ("FSYNC_STALL", &stall)]);
    }
    cluster.leader().await;
    cluster
}

/// The member that the others follow, as one of them says, and its term.
async fn led_by(cluster: &Cluster, through: usize) -> (u64, u64) {
    let status = MaintenanceClient::new(cluster.channel(through)).status(pb::StatusRequest {}).await;
    let status = status.unwrap().into_inner();
    (status.leader, status.raft_term)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_leader_whose_disk_stalls_hands_over_and_does_not_come_back() {
    let cluster = slow_cluster().await;
    let leader = cluster.leader().await;
    let number = id(&cluster, leader).await;
    let others: Vec<usize> = (0..3).filter(|n| *n != leader).collect();
    let stop = CancellationToken::new();
    let writer = tokio::spawn(write(others.iter().map(|n| cluster.kv(*n)).collect(), stop.clone()));
    std::fs::write(stall(&cluster, leader), "2000").unwrap();
    let begun = Instant::now();
    while [0, number].contains(&led_by(&cluster, others[0]).await.0) {
        assert!(begun.elapsed() < PATIENCE, "it leads although its disk stalls");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    println!("handed over {:?} after the disk began to stall", begun.elapsed());
    // It does not take it back, not even when it is asked to.
    let new = cluster.leader().await;
    let request = pb::MoveLeaderRequest { target_id: number };
    // It says so, or somebody else has taken leadership instead.
    let _ = MaintenanceClient::new(cluster.channel(new)).move_leader(request).await;
    let begun = Instant::now();
    while begun.elapsed() < Duration::from_secs(4) {
        assert_ne!(led_by(&cluster, others[0]).await.0, number, "it leads again");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    std::fs::remove_file(stall(&cluster, leader)).unwrap();
    cluster.leader().await;
    stop.cancel();
    let (acknowledged, gap) = writer.await.unwrap();
    println!("{} writes, longest gap {gap:?}", acknowledged.len());
    assert!(acknowledged.len() > 100 && gap < Duration::from_secs(5), "{} {gap:?}", acknowledged.len());
    cluster.agree().await;
    let there = keys(&mut cluster.kv(leader)).await;
    assert!(acknowledged.iter().all(|key| there.contains(key)), "an acknowledged write is lost");
}

#[tokio::test(flavor = "multi_thread")]
async fn when_all_disks_stall_alike_leadership_stays() {
    let cluster = slow_cluster().await;
    let leader = cluster.leader().await;
    let (_, term) = led_by(&cluster, leader).await;
    let mut kv = cluster.kv(leader);
    kv.put(put("before", "")).await.unwrap();
    for member in 0..3 {
        std::fs::write(stall(&cluster, member), "1500").unwrap();
    }
    for key in ["a", "b", "c"] {
        kv.put(put(key, "")).await.unwrap();
        assert_eq!(led_by(&cluster, leader).await.1, term, "there was an election");
    }
    for member in 0..3 {
        std::fs::remove_file(stall(&cluster, member)).unwrap();
    }
    assert_eq!(kv.range(all()).await.unwrap().into_inner().count, 4);
}

/// What its disk had not confirmed when its process died, and the others had, is no loss.
#[tokio::test(flavor = "multi_thread")]
async fn a_member_killed_while_its_disk_stalls_keeps_its_number() {
    let mut cluster = slow_cluster().await;
    let follower = (cluster.leader().await + 1) % 3;
    let number = id(&cluster, follower).await;
    std::fs::write(stall(&cluster, follower), "60000").unwrap();
    let mut kv = cluster.kv((follower + 1) % 3);
    // As many as a leader sends to one that confirms nothing.
    for key in 0..20 {
        kv.put(put(&format!("k{key}"), "")).await.unwrap();
    }
    // It has applied what the others confirmed, and confirmed nothing itself.
    let begun = Instant::now();
    let here = pb::RangeRequest { serializable: true, ..all() };
    while cluster.kv(follower).range(here.clone()).await.unwrap().into_inner().count < 10 {
        assert!(begun.elapsed() < PATIENCE, "it does not follow");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    cluster.kill(follower).await;
    std::fs::remove_file(stall(&cluster, follower)).unwrap();
    cluster.start(follower);
    cluster.leader().await;
    cluster.agree().await;
    assert_eq!(keys(&mut cluster.kv(follower)).await.len(), 20);
    assert_eq!(id(&cluster, follower).await, number);
}

/// The marker that a snapshot is being installed names the file: its name must be on the disk before.
#[tokio::test(flavor = "multi_thread")]
async fn the_folder_of_a_received_snapshot_is_synced_with_it() {
    let mut cluster = Cluster::new(3, "--snapshot-count=40").await;
    cluster.start(0);
    cluster.start(1);
    cluster.leader().await;
    let mut kv = cluster.kv(0);
    for number in 0..200 {
        kv.put(put(&format!("k{}", number % 50), &format!("v{number}"))).await.unwrap();
    }
    let (shim, log) = (shim(cluster.folder.path()), cluster.data(2).with_extension("synced"));
    cluster.start_process(2, &[("LD_PRELOAD", &shim), ("FSYNC_LOG", &log)]);
    cluster.leader().await;
    cluster.agree().await;
    let synced = std::fs::read_to_string(log).unwrap();
    let mut lines = synced.lines();
    assert!(lines.any(|line| line.ends_with(".recv")), "a snapshot was received: {synced}");
    assert!(lines.any(|line| line.ends_with("/member/snap")), "{synced}");
}
