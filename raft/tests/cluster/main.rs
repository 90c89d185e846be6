//! Three members in one process, over real sockets, disks and mutual TLS between them, seen through the etcd API:
//! leaders that die, disks that are lost, followers that are far behind. Times are printed.

// Helpers of tests are tests, too.
#![allow(clippy::unwrap_used)]

mod harness;
mod loss;
mod members;
mod space;
mod stall;

use harness::{Cluster, all, keys, put};
use raft::etcd::pb::{self, kv_client::KvClient, lease_client::LeaseClient, watch_client::WatchClient};
use std::time::{Duration, Instant};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tonic::{Code, Request, Streaming, transport::Channel};

async fn watch(
    cluster: &Cluster,
    number: usize,
    start_revision: i64,
    has_leader: bool,
) -> (mpsc::Sender<pb::WatchRequest>, Streaming<pb::WatchResponse>) {
    let (requests, stream) = mpsc::channel(4);
    let create = pb::WatchCreateRequest {
        key: vec![0].into(),
        range_end: vec![0].into(),
        start_revision,
        prev_kv: true,
        ..Default::default()
    };
    let union = pb::watch_request::RequestUnion::CreateRequest(create);
    requests.send(pb::WatchRequest { request_union: Some(union) }).await.unwrap();
    let mut request = Request::new(ReceiverStream::new(stream));
    if has_leader {
        request.metadata_mut().insert("hasleader", "true".parse().unwrap());
    }
    let mut responses = WatchClient::new(cluster.channel(number)).watch(request).await.unwrap().into_inner();
    assert!(responses.message().await.unwrap().unwrap().created);
    (requests, responses)
}

/// Writes through the given members until told to stop; returns what was acknowledged and the longest gap.
async fn write(mut clients: Vec<KvClient<Channel>>, stop: CancellationToken) -> (Vec<String>, Duration) {
    let (mut acknowledged, mut gap, mut last) = (Vec::new(), Duration::ZERO, Instant::now());
    for number in 0.. {
        if stop.is_cancelled() {
            break;
        }
        let key = format!("w{number:06}");
        let client = number % clients.len();
        let written =
            tokio::time::timeout(Duration::from_secs(10), clients[client].put(put(&key, "x"))).await;
        if written.unwrap().is_ok() {
            acknowledged.push(key);
            gap = gap.max(last.elapsed());
            last = Instant::now();
        }
    }
    (acknowledged, gap)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dead_leader_costs_a_gap_and_nothing_else() {
    let mut cluster = Cluster::started(3, "").await;
    let leader = cluster.leader().await;
    let others: Vec<usize> = (0..3).filter(|number| *number != leader).collect();
    let (_requests, mut events) = watch(&cluster, others[0], 2, true).await;
    let stop = CancellationToken::new();
    let writer = tokio::spawn(write(others.iter().map(|n| cluster.kv(*n)).collect(), stop.clone()));
    tokio::time::sleep(Duration::from_millis(500)).await;
    cluster.kill(leader).await;
    let new = cluster.leader().await;
    assert_ne!(new, leader);
    tokio::time::sleep(Duration::from_millis(500)).await;
    cluster.start(leader);
    cluster.leader().await;
    stop.cancel();
    let (acknowledged, gap) = writer.await.unwrap();
    println!("longest gap between two acknowledged writes: {gap:?}, {} writes", acknowledged.len());
    assert!(gap < Duration::from_millis(5 * 1500), "{gap:?}");
    for number in 0..3 {
        let present = keys(&mut cluster.kv(number)).await;
        assert!(acknowledged.iter().all(|key| present.contains(key)), "member {number} lost a write");
    }
    cluster.agree().await;
    let (mut seen, mut revision) = (Vec::new(), 1);
    while seen.last() != acknowledged.last() {
        let response = events.message().await.unwrap_or(None);
        let Some(response) = response else { break };
        for event in response.events {
            let kv = event.kv.unwrap();
            assert_eq!(kv.mod_revision, revision + 1, "a watch left something out");
            revision = kv.mod_revision;
            seen.push(String::from_utf8_lossy(&kv.key).into_owned());
        }
    }
    // The stream may have ended with the leader; what it gave has no hole.
    assert!(!seen.is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_leader_whose_process_dies_is_not_waited_for() {
    let mut cluster = Cluster::started(3, "--heartbeat-interval 500 --election-timeout 60000").await;
    let leader = cluster.leader().await;
    let start = Instant::now();
    cluster.kill(leader).await;
    let new = cluster.leader().await;
    assert_ne!(new, leader);
    println!("another leader after {:?}", start.elapsed());
    // The timers alone would have taken at least 48 s.
    assert!(start.elapsed() < Duration::from_secs(20));
    cluster.kv(new).put(put("after", "x")).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_leader_that_is_stopped_hands_over_first() {
    let mut cluster = Cluster::started(3, "").await;
    let leader = cluster.leader().await;
    let follower = (leader + 1) % 3;
    let stop = CancellationToken::new();
    let writer = tokio::spawn(write(vec![cluster.kv(follower)], stop.clone()));
    tokio::time::sleep(Duration::from_millis(300)).await;
    cluster.stop(leader).await;
    cluster.leader().await;
    tokio::time::sleep(Duration::from_millis(300)).await;
    stop.cancel();
    let (acknowledged, gap) = writer.await.unwrap();
    println!("longest gap at a clean stop: {gap:?}, {} writes", acknowledged.len());
    assert!(gap < Duration::from_millis(5 * 100), "{gap:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restart_of_all_keeps_everything() {
    let mut cluster = Cluster::started(3, "").await;
    let mut kv = cluster.kv(0);
    let mut lease = LeaseClient::new(cluster.channel(1));
    lease.lease_grant(pb::LeaseGrantRequest { ttl: 600, id: 77 }).await.unwrap();
    for number in 0..20 {
        kv.put(pb::PutRequest { lease: 77, ..put(&format!("k{number}"), "v") }).await.unwrap();
    }
    for number in 0..3 {
        cluster.kill(number).await;
    }
    for number in 0..3 {
        cluster.start(number);
    }
    cluster.leader().await;
    assert_eq!(keys(&mut cluster.kv(2)).await.len(), 20);
    let mut lease = LeaseClient::new(cluster.channel(2));
    let ttl = lease
        .lease_time_to_live(pb::LeaseTimeToLiveRequest { id: 77, keys: true })
        .await
        .unwrap()
        .into_inner();
    assert_eq!((ttl.granted_ttl, ttl.keys.len(), ttl.ttl > 500), (600, 20, true));
    cluster.agree().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn leases_end_by_the_leader_and_outlive_it() {
    let mut cluster = Cluster::started(3, "").await;
    let leader = cluster.leader().await;
    let other = (leader + 1) % 3;
    let mut lease = LeaseClient::new(cluster.channel(other));
    let granted = lease.lease_grant(pb::LeaseGrantRequest { ttl: 10, id: 0 }).await.unwrap().into_inner();
    let kept = lease.lease_grant(pb::LeaseGrantRequest { ttl: 60, id: 0 }).await.unwrap().into_inner();
    let mut kv = cluster.kv(other);
    kv.put(pb::PutRequest { lease: granted.id, ..put("short", "") }).await.unwrap();
    kv.put(pb::PutRequest { lease: kept.id, ..put("long", "") }).await.unwrap();
    cluster.kill(leader).await;
    cluster.leader().await;
    let start = Instant::now();
    while keys(&mut kv).await != ["long"] {
        assert!(start.elapsed() < Duration::from_secs(60), "a lease did not end");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let again = kv.put(pb::PutRequest { lease: granted.id, ..put("short", "") }).await.unwrap_err();
    assert_eq!((again.code(), again.message()), (Code::NotFound, "etcdserver: requested lease not found"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_member_that_comes_late_gets_a_snapshot() {
    let mut cluster = Cluster::new(3, "--snapshot-count=40").await;
    cluster.start(0);
    cluster.start(1);
    cluster.leader().await;
    let mut kv = cluster.kv(0);
    for number in 0..400 {
        kv.put(put(&format!("k{}", number % 50), &format!("v{number}"))).await.unwrap();
    }
    cluster.start(2);
    cluster.leader().await;
    cluster.agree().await;
    assert_eq!(keys(&mut cluster.kv(2)).await.len(), 50);
    let (_requests, mut events) = watch(&cluster, 2, 2, false).await;
    let first = events.message().await.unwrap().unwrap();
    assert_eq!(first.events[0].kv.as_ref().unwrap().mod_revision, 2);
    cluster.kill(2).await;
    cluster.start(2);
    cluster.leader().await;
    cluster.agree().await;
}

/// A member whose disk went back in time lacks what it has confirmed. Its leader cannot go on; it must not stay and
/// refuse everything either.
#[cfg(debug_assertions)] // The Raft library asserts it only then.
#[tokio::test(flavor = "multi_thread")]
async fn a_member_whose_raft_task_panics_ends() {
    let mut cluster = Cluster::started(3, "").await;
    let leader = cluster.leader().await;
    let follower = (leader + 1) % 3;
    let (data, old) = (cluster.data(follower), cluster.folder.path().join("old"));
    cluster.stop(follower).await;
    let copied = std::process::Command::new("cp").arg("-a").args([&data, &old]).status().unwrap();
    assert!(copied.success());
    cluster.start(follower);
    assert_eq!(cluster.leader().await, leader);
    for number in 0..20 {
        cluster.kv(leader).put(put(&format!("k{number}"), "v")).await.unwrap();
    }
    cluster.agree().await;
    cluster.stop(follower).await;
    std::fs::remove_dir_all(&data).unwrap();
    std::fs::rename(&old, &data).unwrap();
    cluster.start(follower);
    let ended = cluster.members[leader].take().unwrap().task;
    let ended = tokio::time::timeout(Duration::from_secs(30), ended).await.expect("it ends").unwrap();
    assert!(matches!(ended, Err(raft::Error::Stopped(_))), "{ended:?}");
    cluster.leader().await;
    assert_eq!(keys(&mut cluster.kv(follower)).await.len(), 20);
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_quorum_nobody_waits_for_ever() {
    let mut cluster = Cluster::started(3, "").await;
    let leader = cluster.leader().await;
    let left = (leader + 1) % 3;
    let (_requests, mut events) = watch(&cluster, left, 0, true).await;
    cluster.kill(leader).await;
    cluster.kill((leader + 2) % 3).await;
    let start = Instant::now();
    let ended = events.message().await.unwrap_err();
    println!("a watch that wants a leader ended after {:?}", start.elapsed());
    assert_eq!((ended.code(), ended.message()), (Code::Unavailable, "etcdserver: no leader"));
    assert!(start.elapsed() < Duration::from_secs(5));
    let mut kv = cluster.kv(left);
    let mut request = Request::new(put("k", "v"));
    request.metadata_mut().insert("hasleader", "true".parse().unwrap());
    assert_eq!(kv.put(request).await.unwrap_err().message(), "etcdserver: no leader");
    let timed_out = kv.put(put("k", "v")).await.unwrap_err();
    assert_eq!((timed_out.code(), timed_out.message()), (Code::Unavailable, "etcdserver: request timed out"));
    assert!(start.elapsed() < Duration::from_secs(15));
    let local = kv.range(pb::RangeRequest { serializable: true, ..all() }).await.unwrap().into_inner();
    assert_eq!(local.count, 0);
}
