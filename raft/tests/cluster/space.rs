//! Members whose disks run full, each on a file system of its own. Fillers come from outside, as a log that grows
//! does; nobody helps the members.

use crate::{
    harness::{Cluster, keys, put},
    members::id,
    write,
};
use raft::etcd::pb::{self, kv_client::KvClient};
use std::{
    fs::{self, File},
    io::{self, Read},
    path::{Path, PathBuf},
    process::Command,
    time::{Duration, Instant},
};
use tokio_util::sync::CancellationToken;
use tonic::{Code, transport::Channel};

/// As promised: after space has come back, writes are taken again within this.
const BACK: Duration = Duration::from_secs(30);
const PATIENCE: Duration = Duration::from_secs(30);
const MEGABYTES: u64 = 400;

/// A file system in a file, mounted as a member's data directory, unmounted with the test.
struct Disk {
    at: PathBuf,
}

fn run(program: &str, args: &[&str]) -> String {
    let done = Command::new(program).args(args).output().unwrap();
    assert!(done.status.success(), "{program} {args:?}: {}", String::from_utf8_lossy(&done.stderr));
    String::from_utf8_lossy(&done.stdout).into_owned()
}

impl Disk {
    fn new(at: &Path) -> Self {
        let image = at.with_extension("img");
        File::create(&image).unwrap().set_len(MEGABYTES << 20).unwrap();
        fs::create_dir_all(at).unwrap();
        let (image, place) = (image.display().to_string(), at.display().to_string());
        run("mkfs.ext4", &["-q", "-m", "0", &image]);
        run("mount", &["-o", "loop", &image, &place]);
        Self { at: at.into() }
    }

    /// Leaves no byte free. What is in a file of zeros takes its room all the same.
    fn fill(&self) {
        for number in 0.. {
            let mut filler = File::create(self.at.join(format!("filler{number}"))).unwrap();
            match io::copy(&mut io::repeat(0).take(64 << 20), &mut filler) {
                Err(error) if error.kind() == io::ErrorKind::StorageFull => return,
                done => done.unwrap(),
            };
        }
    }

    fn ballast(&self) -> PathBuf {
        self.at.join("ballast")
    }

    fn empty(&self) {
        for entry in fs::read_dir(&self.at).unwrap() {
            let path = entry.unwrap().path();
            if path.file_name().unwrap().to_string_lossy().starts_with("filler") {
                fs::remove_file(path).unwrap();
            }
        }
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        // A test that failed has members that still write there.
        let _ = Command::new("umount").arg("-l").arg(&self.at).status();
    }
}

/// Three members, each with a disk of its own. The disks go after the members.
async fn cluster() -> (Cluster, Vec<Disk>) {
    let mut cluster = Cluster::new(3, "").await;
    let disks = (0..3).map(|number| Disk::new(&cluster.data(number))).collect();
    for number in 0..3 {
        cluster.start(number);
    }
    cluster.leader().await;
    (cluster, disks)
}

fn etcdctl(cluster: &Cluster, number: usize, args: &[&str]) -> String {
    let endpoint = format!("--endpoints=http://127.0.0.1:{}", cluster.ports[number].0);
    let done = Command::new("etcdctl").env("ETCDCTL_API", "3").arg(endpoint).args(args).output().unwrap();
    String::from_utf8_lossy(&done.stdout).into_owned() + &String::from_utf8_lossy(&done.stderr)
}

/// Waits until `etcdctl alarm list` says that these members' disks are full, and no others'.
async fn until_alarms(cluster: &Cluster, through: usize, full: &[u64]) {
    let mut expect: Vec<String> = full.iter().map(|id| format!("memberID:{id} alarm:NOSPACE")).collect();
    expect.sort();
    let begun = Instant::now();
    loop {
        let listed = etcdctl(cluster, through, &["alarm", "list"]);
        let mut lines: Vec<&str> = listed.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
        lines.sort_unstable();
        if lines == expect {
            return;
        }
        assert!(begun.elapsed() < PATIENCE, "alarms: {listed:?}, not {expect:?}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

async fn until_written(mut kv: KvClient<Channel>, key: &str) -> Duration {
    let begun = Instant::now();
    while let Err(status) = kv.put(put(key, "")).await {
        assert!(begun.elapsed() < BACK, "writes are not taken again: {status}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    begun.elapsed()
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs root"]
async fn a_full_disk_of_one_stops_nobody_and_its_member_does_not_lead() {
    let (cluster, disks) = cluster().await;
    let leader = cluster.leader().await;
    let number = id(&cluster, leader).await;
    let others: Vec<usize> = (0..3).filter(|n| *n != leader).collect();
    let stop = CancellationToken::new();
    let writer = tokio::spawn(write(others.iter().map(|n| cluster.kv(*n)).collect(), stop.clone()));
    disks[leader].fill();
    until_alarms(&cluster, others[0], &[number]).await;
    let begun = Instant::now();
    while cluster.leader().await == leader {
        assert!(begun.elapsed() < PATIENCE, "it leads with a full disk");
    }
    let there = keys(&mut cluster.kv(leader)).await;
    assert!(!there.is_empty(), "it answers reads");
    disks[leader].empty();
    until_alarms(&cluster, others[0], &[]).await;
    stop.cancel();
    let (acknowledged, gap) = writer.await.unwrap();
    println!("{} writes while the leader's disk ran full, longest gap {gap:?}", acknowledged.len());
    assert!(acknowledged.len() > 5 && gap < Duration::from_secs(5), "{} {gap:?}", acknowledged.len());
    cluster.agree().await;
    let there = keys(&mut cluster.kv(leader)).await;
    assert!(acknowledged.iter().all(|key| there.contains(key)), "an acknowledged write is lost");
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs root"]
async fn when_all_disks_are_full_reads_go_on_and_writes_come_back_with_the_space() {
    let (cluster, disks) = cluster().await;
    let mut numbers = Vec::new();
    for number in 0..3 {
        cluster.kv(number).put(put(&format!("before{number}"), "")).await.unwrap();
        numbers.push(id(&cluster, number).await);
    }
    disks.iter().for_each(Disk::fill);
    until_alarms(&cluster, 0, &numbers).await;
    for number in 0..3 {
        let refused = cluster.kv(number).put(put("refused", "")).await.unwrap_err();
        let expect = (Code::ResourceExhausted, "etcdserver: mvcc: database space exceeded");
        assert_eq!((refused.code(), refused.message()), expect);
        assert_eq!(keys(&mut cluster.kv(number)).await.len(), 3, "reads go on");
    }
    let said = etcdctl(&cluster, 1, &["put", "refused", "x"]);
    assert!(said.contains("etcdserver: mvcc: database space exceeded"), "{said}");
    let delete = pb::DeleteRangeRequest { key: "before0".into(), ..Default::default() };
    assert_eq!(cluster.kv(2).delete_range(delete).await.unwrap().into_inner().deleted, 1);
    // Lifting it by hand is of no use: it is true.
    etcdctl(&cluster, 0, &["alarm", "disarm"]);
    until_alarms(&cluster, 0, &numbers).await;
    disks.iter().for_each(Disk::empty);
    println!("written {:?} after space came back", until_written(cluster.kv(1), "after").await);
    until_alarms(&cluster, 0, &[]).await;
    cluster.agree().await;
    assert_eq!(keys(&mut cluster.kv(2)).await, ["after", "before1", "before2"]);
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs root"]
async fn a_member_that_could_not_write_comes_back_with_the_space() {
    let (cluster, disks) = cluster().await;
    let follower = (cluster.leader().await + 1) % 3;
    let other = (follower + 1) % 3;
    let mut kv = cluster.kv(other);
    // At once, and nothing is kept back.
    loop {
        let _ = fs::remove_file(disks[follower].ballast());
        disks[follower].fill();
        if !disks[follower].ballast().exists() {
            break;
        }
    }
    let (mut acknowledged, begun) = (Vec::new(), Instant::now());
    let value = "x".repeat(64 << 10);
    while tokio::net::TcpStream::connect(("127.0.0.1", cluster.ports[follower].0)).await.is_ok() {
        let key = format!("w{:05}", acknowledged.len());
        kv.put(put(&key, &value)).await.unwrap();
        acknowledged.push(key);
        assert!(begun.elapsed() < PATIENCE * 2, "it goes on without a disk");
    }
    println!("stopped after {} writes", acknowledged.len());
    kv.put(put("without it", "")).await.unwrap();
    disks[follower].empty();
    let begun = Instant::now();
    while cluster.kv(follower).range(crate::harness::all()).await.is_err() {
        assert!(begun.elapsed() < BACK, "it does not come back");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    println!("back after {:?}", begun.elapsed());
    cluster.agree().await;
    let there = keys(&mut cluster.kv(follower)).await;
    assert!(acknowledged.iter().all(|key| there.contains(key)), "an acknowledged write is lost");
}
