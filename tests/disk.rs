//! The store's data directory when it is not what it should be, with the real binary: full, somebody else's, not a
//! directory, in use. The member says what is wrong and what to do, and what was acknowledged is still there.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

#[path = "../raft/tests/ports.rs"]
mod ports;

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use apiserver::store::{Etcd, EtcdConfig, Kv, Op, Range, Txn};

/// How long a member may take to start or to end.
const PATIENCE: Duration = Duration::from_secs(30);

/// A store of one member, ended with the test.
struct Member {
    child: Child,
    log: PathBuf,
    client: String,
}

impl Drop for Member {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn free_url() -> String {
    format!("http://127.0.0.1:{}", ports::free_port())
}

impl Member {
    /// Starts a member on a data directory; its log goes to a file in `logs`.
    fn start(logs: &Path, data: &Path, extra: &[&str]) -> Self {
        let (client, peer, metrics) = (free_url(), free_url(), free_url());
        // What makes the cluster's id, so it stays the same over restarts. Nobody calls a member that is alone.
        let address = "http://127.0.0.1:1";
        let log = logs.join("store.log");
        let child = Command::new(env!("CARGO_BIN_EXE_trireme"))
            .args(["store", "--name=m1", &format!("--data-dir={}", data.display())])
            .args([format!("--listen-client-urls={client}"), format!("--advertise-client-urls={client}")])
            .args([format!("--listen-peer-urls={peer}"), format!("--initial-advertise-peer-urls={address}")])
            .args([format!("--initial-cluster=m1={address}"), format!("--listen-metrics-urls={metrics}")])
            .args(extra)
            .stdout(Stdio::null())
            .stderr(std::fs::File::create(&log).unwrap())
            .spawn()
            .unwrap();
        Self { child, log, client }
    }

    fn log(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap()
    }

    /// Whether it has stopped for want of space, and says where it lacks what.
    fn waits(&self, data: &Path) -> bool {
        let log = self.log();
        let mut lines = log.lines().filter(|line| line.contains("this member waits until there is space"));
        let data = data.display().to_string();
        lines.any(|line| line.contains("No space left on device") && line.contains(&data))
    }

    /// A connection, once the member answers.
    async fn ready(&mut self) -> Etcd {
        let config = EtcdConfig {
            endpoints: vec![self.client.clone()],
            ca_file: None,
            cert_file: None,
            key_file: None,
            keep_alive: None,
        };
        let kv = Etcd::new(config).unwrap();
        let begun = Instant::now();
        while kv.range(Range { key: "a".into(), ..Range::default() }).await.is_err() {
            assert!(self.child.try_wait().unwrap().is_none(), "it ended: {}", self.log());
            assert!(begun.elapsed() < PATIENCE, "it does not answer: {}", self.log());
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        kv
    }

    /// Waits until it has ended by itself, with an error; what it said.
    fn failure(mut self) -> String {
        let begun = Instant::now();
        let status = loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                break status;
            }
            assert!(begun.elapsed() < PATIENCE, "it goes on: {}", self.log());
            std::thread::sleep(Duration::from_millis(20));
        };
        assert_eq!(status.code(), Some(1), "{}", self.log());
        assert!(!self.log().contains("panicked"), "{}", self.log());
        self.log()
    }
}

async fn put(kv: &Etcd, key: &str, value: Vec<u8>) -> bool {
    let op = Op::Put { key: key.into(), value: value.into(), lease: 0 };
    kv.txn(Txn { then: vec![op], ..Txn::default() }).await.is_ok()
}

async fn get(kv: &Etcd, key: &str) -> Option<Vec<u8>> {
    let page = kv.range(Range { key: key.into(), ..Range::default() }).await.unwrap();
    page.kvs.first().map(|kv| kv.value.to_vec())
}

/// Bytes that no compression makes smaller.
fn noise(seed: usize) -> Vec<u8> {
    let mut state = seed as u64 + 1;
    let step = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 56) as u8
    };
    std::iter::repeat_with(step).take(64 << 10).collect()
}

/// A file system of some MiB in memory, unmounted with the test.
struct Disk(tempfile::TempDir);

impl Disk {
    fn of(megabytes: usize) -> Self {
        let disk = Self(tempfile::tempdir().unwrap());
        disk.mount(&["-t", "tmpfs", "-o", &format!("size={megabytes}m"), "tmpfs"]);
        disk
    }

    fn grow(&self, megabytes: usize) {
        self.mount(&["-o", &format!("remount,size={megabytes}m")]);
    }

    /// Leaves no byte free.
    fn fill(&self) {
        let mut filler = std::fs::File::create(self.0.path().join("filler")).unwrap();
        for size in [1 << 16, 1 << 12, 1] {
            while filler.write_all(&vec![0; size]).is_ok() {}
        }
    }

    fn mount(&self, options: &[&str]) {
        let mounted = Command::new("mount").args(options).arg(self.0.path()).status().unwrap();
        assert!(mounted.success(), "this test needs root");
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(self.0.path()).status();
    }
}

#[tokio::test]
#[ignore = "needs root"]
async fn a_full_disk_stops_the_member_until_there_is_space_and_loses_nothing() {
    let (disk, logs) = (Disk::of(40), tempfile::tempdir().unwrap());
    let data = disk.0.path().join("data");
    let mut member = Member::start(logs.path(), &data, &[]);
    let kv = member.ready().await;
    let mut acknowledged = 0;
    while put(&kv, &format!("k{acknowledged:04}"), noise(acknowledged)).await {
        acknowledged += 1;
        assert!(acknowledged < 1000, "the disk is never full");
    }
    assert!(acknowledged > 20, "{acknowledged}");
    // To the last byte, and nothing is kept back: what takes no space in the state still takes some in the log.
    let begun = Instant::now();
    while !member.waits(&data) {
        let _ = std::fs::remove_file(data.join("ballast"));
        disk.fill();
        let key = "x".repeat(1 << 20);
        let _ = kv.txn(Txn { then: vec![Op::Delete { key }], ..Txn::default() }).await;
        assert!(begun.elapsed() < PATIENCE, "it goes on with a state that it cannot keep: {}", member.log());
    }
    // A start with no space is not half a start either.
    drop(member);
    disk.fill();
    let mut member = Member::start(logs.path(), &data, &[]);
    let begun = Instant::now();
    while !member.waits(&data) {
        assert!(member.child.try_wait().unwrap().is_none(), "it ended: {}", member.log());
        assert!(begun.elapsed() < PATIENCE, "it starts without a disk: {}", member.log());
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    disk.grow(256);
    let kv = member.ready().await;
    for i in 0..acknowledged {
        assert!(get(&kv, &format!("k{i:04}")).await == Some(noise(i)), "acknowledged write {i} is gone");
    }
    let begun = Instant::now();
    while !put(&kv, "after", vec![1]).await {
        assert!(begun.elapsed() < PATIENCE, "writes are not taken again: {}", member.log());
    }
}

#[tokio::test]
async fn a_data_directory_has_one_owner() {
    let (folder, logs) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let data = folder.path().join("not/there/yet");
    let mut member = Member::start(logs.path(), &data, &[]);
    let kv = member.ready().await;
    assert!(put(&kv, "a", vec![1]).await);
    let other_log = tempfile::tempdir().unwrap();
    let second = Member::start(other_log.path(), &data, &[]).failure();
    let expect = format!("cannot open the data directory {}", data.display());
    assert!(second.contains(&expect) && second.contains("no other store runs on it"), "{second}");
    assert_eq!(get(&kv, "a").await, Some(vec![1]), "the first one does not notice");
    drop(member);
    let stranger = Member::start(other_log.path(), &data, &["--initial-cluster-token=another"]).failure();
    let expect = format!("the data directory {} belongs to member", data.display());
    assert!(
        stranger.contains(&expect) && stranger.contains("give this member a directory of its own"),
        "{stranger}"
    );
    let mut member = Member::start(logs.path(), &data, &[]);
    let kv = member.ready().await;
    assert_eq!(get(&kv, "a").await, Some(vec![1]));
}

#[test]
fn a_data_directory_that_is_none() {
    let (folder, logs) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let check = |name: &str, expect: &str| {
        let data = folder.path().join(name);
        let said = Member::start(logs.path(), &data, &[]).failure();
        let expect = expect.replace("{data}", &data.display().to_string());
        assert!(said.contains(&expect), "{name}: {said}");
    };
    std::fs::write(folder.path().join("file"), "x").unwrap();
    check("file", "cannot open the data directory {data}");
    std::fs::create_dir_all(folder.path().join("etcd/member/wal")).unwrap();
    check("etcd", "the data directory {data} is an etcd's: give this member a directory of its own");
    std::fs::create_dir_all(folder.path().join("nameless/member/log")).unwrap();
    check("nameless", "the data directory {data} holds a log, but does not say whose");
    std::fs::create_dir_all(folder.path().join("torn/member")).unwrap();
    std::fs::write(folder.path().join("torn/member/identity"), [1, 2, 3]).unwrap();
    check("torn", "cannot open the data directory {data}");
}
