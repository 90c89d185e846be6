//! The members of one cluster in this process, over real sockets and disks and mutual TLS between them.

#[path = "../ports.rs"]
mod ports;

use clap::Parser;
pub(crate) use ports::free_port;
use raft::etcd::pb::{self, kv_client::KvClient, maintenance_client::MaintenanceClient};
use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
use std::{
    path::{Path, PathBuf},
    time::{Duration, Instant},
};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use tonic::transport::Channel;

#[derive(Parser)]
pub(crate) struct Command {
    #[command(flatten)]
    pub(crate) flags: raft::Flags,
}

pub(crate) struct Running {
    pub(crate) stop: CancellationToken,
    pub(crate) task: JoinHandle<Result<(), raft::Error>>,
}

/// A member's process, ended with the test.
struct Process(std::process::Child);

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Times mean nothing when several clusters share the machine.
pub(crate) static ALONE: tokio::sync::Mutex<()> = tokio::sync::Mutex::const_new(());

pub(crate) struct Cluster {
    _alone: tokio::sync::MutexGuard<'static, ()>,
    pub(crate) folder: tempfile::TempDir,
    pub(crate) ports: Vec<(u16, u16)>,
    pub(crate) members: Vec<Option<Running>>,
    pub(crate) flags: &'static str,
    /// The members that the cluster began with; those after them were added.
    pub(crate) first: usize,
}

pub(crate) fn write_certificates(folder: &Path) {
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
    pub(crate) async fn new(size: usize, flags: &'static str) -> Self {
        // Another test of this process may have set it.
        let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
        let folder = tempfile::tempdir().unwrap();
        write_certificates(folder.path());
        let ports = (0..size).map(|_| (free_port(), free_port())).collect();
        Self {
            _alone: ALONE.lock().await,
            folder,
            ports,
            members: (0..size).map(|_| None).collect(),
            flags,
            first: size,
        }
    }

    pub(crate) async fn started(size: usize, flags: &'static str) -> Self {
        let mut cluster = Self::new(size, flags).await;
        for number in 0..size {
            cluster.start(number);
        }
        cluster.leader().await;
        cluster
    }

    pub(crate) fn data(&self, number: usize) -> PathBuf {
        self.folder.path().join(format!("m{number}"))
    }

    /// Where peers reach a member.
    pub(crate) fn peer_url(&self, number: usize) -> String {
        format!("https://127.0.0.1:{}", self.ports[number].1)
    }

    /// Room for a member that is added to the cluster.
    pub(crate) fn room(&mut self) -> usize {
        self.ports.push((free_port(), free_port()));
        self.members.push(None);
        self.members.len() - 1
    }

    /// A member's command line.
    fn command(&self, number: usize) -> String {
        let added = (number >= self.first).then_some(number);
        let named = (0..self.first).chain(added).map(|n| format!("m{n}={}", self.peer_url(n)));
        let cluster: Vec<String> = named.collect();
        let state = if added.is_some() { "existing" } else { "new" };
        let (client, peer) = self.ports[number];
        let (data, folder) = (self.data(number), self.folder.path().display().to_string());
        format!(
            "store --name m{number} --data-dir {} --listen-client-urls http://127.0.0.1:{client} \
             --listen-peer-urls https://127.0.0.1:{peer} --initial-cluster {} --peer-cert-file {folder}/peer.crt \
             --peer-key-file {folder}/peer.key --peer-trusted-ca-file {folder}/ca.crt --peer-client-cert-auth \
             --initial-cluster-state {state} {}",
            data.display(),
            cluster.join(","),
            self.flags,
        )
    }

    pub(crate) fn start(&mut self, number: usize) {
        let args = self.command(number);
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

    /// Starts a member as a process of its own, with these variables in its environment.
    pub(crate) fn start_process(&mut self, number: usize, environment: &[(&str, &Path)]) {
        let log = std::fs::File::create(self.data(number).with_extension("log")).unwrap();
        let child = std::process::Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "stall::member_process", "--ignored", "--nocapture"])
            .env("MEMBER", self.command(number))
            .envs(environment.iter().copied())
            .stdout(std::process::Stdio::null())
            .stderr(log)
            .spawn()
            .unwrap();
        let (stop, child) = (CancellationToken::new(), Process(child));
        let token = stop.clone();
        let task = tokio::spawn(async move {
            token.cancelled().await;
            drop(child);
            Ok(())
        });
        self.members[number] = Some(Running { stop, task });
    }

    /// As a power cut: nothing is said to anybody.
    pub(crate) async fn kill(&mut self, number: usize) {
        let member = self.members[number].take().unwrap();
        member.task.abort();
        assert!(member.task.await.unwrap_err().is_cancelled());
    }

    pub(crate) async fn stop(&mut self, number: usize) {
        let member = self.members[number].take().unwrap();
        member.stop.cancel();
        member.task.await.unwrap().unwrap();
    }

    pub(crate) fn channel(&self, number: usize) -> Channel {
        let url = format!("http://127.0.0.1:{}", self.ports[number].0);
        Channel::from_shared(url).unwrap().connect_timeout(Duration::from_secs(1)).connect_lazy()
    }

    pub(crate) fn kv(&self, number: usize) -> KvClient<Channel> {
        KvClient::new(self.channel(number))
    }

    pub(crate) fn running(&self) -> Vec<usize> {
        (0..self.members.len()).filter(|number| self.members[*number].is_some()).collect()
    }

    /// The member that leads, once all that run agree.
    pub(crate) async fn leader(&self) -> usize {
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
    pub(crate) async fn agree(&self) {
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

pub(crate) fn put(key: &str, value: &str) -> pb::PutRequest {
    pb::PutRequest { key: key.to_owned().into(), value: value.to_owned().into(), ..Default::default() }
}

pub(crate) fn all() -> pb::RangeRequest {
    pb::RangeRequest { key: vec![0].into(), range_end: vec![0].into(), ..Default::default() }
}

pub(crate) async fn keys(kv: &mut KvClient<Channel>) -> Vec<String> {
    let found = kv.range(all()).await.unwrap().into_inner();
    found.key_values().unwrap().iter().map(|kv| String::from_utf8_lossy(&kv.key).into_owned()).collect()
}
