//! Three members in one process, over real sockets, disks and mutual TLS between them, seen through the etcd API:
//! leaders that die, disks that are lost, followers that are far behind. Times are printed.

// Helpers of tests are tests, too.
#![allow(clippy::unwrap_used)]

use clap::Parser;
use raft::etcd::pb::{
    self, kv_client::KvClient, lease_client::LeaseClient, maintenance_client::MaintenanceClient,
    watch_client::WatchClient,
};
use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
use std::{
    path::{Path, PathBuf},
    time::{Duration, Instant},
};
use tokio::{sync::mpsc, task::JoinHandle};
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tonic::{Code, Request, Streaming, transport::Channel};

#[derive(Parser)]
struct Command {
    #[command(flatten)]
    flags: raft::Flags,
}

struct Running {
    stop: CancellationToken,
    task: JoinHandle<Result<(), raft::Error>>,
}

/// Times mean nothing when several clusters share the machine.
static ALONE: tokio::sync::Mutex<()> = tokio::sync::Mutex::const_new(());

struct Cluster {
    _alone: tokio::sync::MutexGuard<'static, ()>,
    folder: tempfile::TempDir,
    ports: Vec<(u16, u16)>,
    members: Vec<Option<Running>>,
    flags: &'static str,
}

fn free_port() -> u16 {
    std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

fn write_certificates(folder: &Path) {
    let mut params = CertificateParams::new(Vec::new()).unwrap();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let key = KeyPair::generate().unwrap();
    let ca = params.self_signed(&key).unwrap();
    let issuer = Issuer::new(params, key);
    let peer_key = KeyPair::generate().unwrap();
    let names = vec!["localhost".to_owned(), "127.0.0.1".to_owned()];
    let peer = CertificateParams::new(names).unwrap().signed_by(&peer_key, &issuer).unwrap();
    std::fs::write(folder.join("ca.crt"), ca.pem()).unwrap();
    std::fs::write(folder.join("peer.crt"), peer.pem()).unwrap();
    std::fs::write(folder.join("peer.key"), peer_key.serialize_pem()).unwrap();
}

/// A process that ends while a database is being closed crashes in it, so the members are stopped, and waited for.
impl Drop for Cluster {
    fn drop(&mut self) {
        let members: Vec<Running> = self.members.iter_mut().filter_map(Option::take).collect();
        members.iter().for_each(|member| member.stop.cancel());
        let ended = futures::future::join_all(members.into_iter().map(|member| member.task));
        tokio::task::block_in_place(|| tokio::runtime::Handle::current().block_on(ended));
    }
}

impl Cluster {
    async fn new(size: usize, flags: &'static str) -> Self {
        // Another test of this process may have set it.
        let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
        let folder = tempfile::tempdir().unwrap();
        write_certificates(folder.path());
        let ports = (0..size).map(|_| (free_port(), free_port())).collect();
        Self { _alone: ALONE.lock().await, folder, ports, members: (0..size).map(|_| None).collect(), flags }
    }

    async fn started(size: usize, flags: &'static str) -> Self {
        let mut cluster = Self::new(size, flags).await;
        for number in 0..size {
            cluster.start(number);
        }
        cluster.leader().await;
        cluster
    }

    fn data(&self, number: usize) -> PathBuf {
        self.folder.path().join(format!("m{number}"))
    }

    fn start(&mut self, number: usize) {
        let cluster: Vec<String> = self
            .ports
            .iter()
            .enumerate()
            .map(|(n, port)| format!("m{n}=https://127.0.0.1:{}", port.1))
            .collect();
        let (client, peer) = self.ports[number];
        let (data, folder) = (self.data(number), self.folder.path().display().to_string());
        let args = format!(
            "store --name m{number} --data-dir {} --listen-client-urls http://127.0.0.1:{client} \
             --listen-peer-urls https://127.0.0.1:{peer} --initial-cluster {} --peer-cert-file {folder}/peer.crt \
             --peer-key-file {folder}/peer.key --peer-trusted-ca-file {folder}/ca.crt --peer-client-cert-auth {}",
            data.display(),
            cluster.join(","),
            self.flags,
        );
        let flags = Command::try_parse_from(args.split_whitespace()).unwrap().flags;
        let stop = CancellationToken::new();
        let token = stop.clone();
        let task = tokio::spawn(async move {
            loop {
                match raft::run(flags.clone(), token.clone()).await {
                    // The threads of the one before let go of its files and ports a moment after it.
                    Err(raft::Error::Disk { .. } | raft::Error::Listen { .. }) => {
                        tokio::time::sleep(Duration::from_millis(20)).await;
                    }
                    ended => return ended,
                }
            }
        });
        self.members[number] = Some(Running { stop, task });
    }

    /// As a power cut: nothing is said to anybody.
    async fn kill(&mut self, number: usize) {
        let member = self.members[number].take().unwrap();
        member.task.abort();
        assert!(member.task.await.unwrap_err().is_cancelled());
    }

    async fn stop(&mut self, number: usize) {
        let member = self.members[number].take().unwrap();
        member.stop.cancel();
        member.task.await.unwrap().unwrap();
    }

    fn channel(&self, number: usize) -> Channel {
        let url = format!("http://127.0.0.1:{}", self.ports[number].0);
        Channel::from_shared(url).unwrap().connect_timeout(Duration::from_secs(1)).connect_lazy()
    }

    fn kv(&self, number: usize) -> KvClient<Channel> {
        KvClient::new(self.channel(number))
    }

    fn running(&self) -> Vec<usize> {
        (0..self.members.len()).filter(|number| self.members[*number].is_some()).collect()
    }

    /// The member that leads, once all that run agree.
    async fn leader(&self) -> usize {
        let deadline = Instant::now() + Duration::from_secs(30);
        loop {
            let mut seen = Vec::new();
            for number in self.running() {
                let status = MaintenanceClient::new(self.channel(number)).status(pb::StatusRequest {}).await;
                let Ok(status) = status.map(tonic::Response::into_inner) else { continue };
                let own = status.header.unwrap().member_id;
                seen.push((number, own, status.leader));
            }
            let leader = seen.iter().find(|(_, own, leader)| own == leader);
            if let Some((number, own, _)) = leader
                && seen.len() == self.running().len()
                && seen.iter().all(|(_, _, leader)| leader == own)
            {
                return *number;
            }
            assert!(Instant::now() < deadline, "no leader: {seen:?}");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// Waits until all members that run have the same keys and values at the same revision.
    async fn agree(&self) {
        let deadline = Instant::now() + Duration::from_secs(30);
        loop {
            let mut hashes = Vec::new();
            for number in self.running() {
                let mut client = MaintenanceClient::new(self.channel(number));
                let asked = client.hash_kv(pb::HashKvRequest { revision: 0 }).await;
                hashes.extend(asked.map(|h| h.into_inner()).map(|h| (h.hash_revision, h.hash)).ok());
            }
            hashes.dedup();
            if hashes.len() == 1 {
                return;
            }
            assert!(Instant::now() < deadline, "members differ: {hashes:?}");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
}

fn put(key: &str, value: &str) -> pb::PutRequest {
    pb::PutRequest { key: key.to_owned().into(), value: value.to_owned().into(), ..Default::default() }
}

fn all() -> pb::RangeRequest {
    pb::RangeRequest { key: vec![0].into(), range_end: vec![0].into(), ..Default::default() }
}

async fn keys(kv: &mut KvClient<Channel>) -> Vec<String> {
    let found = kv.range(all()).await.unwrap().into_inner();
    found.kvs.iter().map(|kv| String::from_utf8_lossy(&kv.key).into_owned()).collect()
}

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
    let granted = lease.lease_grant(pb::LeaseGrantRequest { ttl: 2, id: 0 }).await.unwrap().into_inner();
    let kept = lease.lease_grant(pb::LeaseGrantRequest { ttl: 60, id: 0 }).await.unwrap().into_inner();
    let mut kv = cluster.kv(other);
    kv.put(pb::PutRequest { lease: granted.id, ..put("short", "") }).await.unwrap();
    kv.put(pb::PutRequest { lease: kept.id, ..put("long", "") }).await.unwrap();
    cluster.kill(leader).await;
    cluster.leader().await;
    let start = Instant::now();
    while keys(&mut kv).await != ["long"] {
        assert!(start.elapsed() < Duration::from_secs(20), "a lease did not end");
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

#[tokio::test(flavor = "multi_thread")]
async fn a_member_whose_disk_was_lost_is_not_let_in() {
    let mut cluster = Cluster::started(3, "").await;
    cluster.kv(0).put(put("k", "v")).await.unwrap();
    cluster.kill(2).await;
    // Its threads still write for a moment.
    while std::fs::remove_dir_all(cluster.data(2)).is_err() {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    cluster.start(2);
    let ended = cluster.members[2].take().unwrap().task.await.unwrap();
    assert!(matches!(ended, Err(raft::Error::AlreadyBootstrapped { .. })), "{ended:?}");
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
