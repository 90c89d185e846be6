//! Members that find at their start that their disk lost something: they come back by themselves, under a new number,
//! and everything that was acknowledged is there.

use crate::{
    harness::{Cluster, keys, put},
    members::{add, id, list, until},
    write,
};
use raft::etcd::pb::{StatusRequest, maintenance_client::MaintenanceClient};
use rocksdb::{ColumnFamilyDescriptor, DB, Options};
use std::{
    fs,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};
use tokio_util::sync::CancellationToken;

/// As promised.
const BACK: Duration = Duration::from_secs(60);

/// Copies a folder of files and folders.
fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let target = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            copy(&entry.path(), &target);
        } else {
            fs::copy(entry.path(), target).unwrap();
        }
    }
}

fn files(folder: &Path, extension: &str) -> Vec<PathBuf> {
    let all = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    all.filter(|path| path.extension().is_some_and(|found| found == extension)).collect()
}

/// Flips a bit in the middle of each table and each write-ahead log of a database.
fn flip(database: &Path) {
    let found = [files(database, "sst"), files(database, "log")].concat();
    let mut flipped = 0;
    for path in found {
        let mut bytes = fs::read(&path).unwrap();
        let middle = bytes.len() / 2;
        if let Some(byte) = bytes.get_mut(middle) {
            *byte ^= 0x10;
            flipped += 1;
            fs::write(path, bytes).unwrap();
        }
    }
    assert!(flipped > 0);
}

/// What a member keeps in its folder, before and after: `earlier` is a copy of a moment ago.
struct Lost<'a> {
    data: &'a Path,
    earlier: &'a Path,
}

impl Lost<'_> {
    fn member(&self, name: &str) -> PathBuf {
        self.data.join("member").join(name)
    }
}

/// Has one member of three lose something while it is stopped and the others write, and waits until it is back.
async fn check(lose: impl FnOnce(&Lost)) -> Cluster {
    // The log is cut, too.
    let mut cluster = Cluster::started(3, "--snapshot-count=40").await;
    let leader = cluster.leader().await;
    let lost = (leader + 1) % 3;
    let left: Vec<usize> = (0..3).filter(|number| *number != lost).collect();
    let old = id(&cluster, lost).await;
    for number in 0..50 {
        cluster.kv(lost).put(put(&format!("before{number}"), "x")).await.unwrap();
    }
    let stop = CancellationToken::new();
    let writer = tokio::spawn(write(left.iter().map(|n| cluster.kv(*n)).collect(), stop.clone()));
    cluster.stop(lost).await;
    let earlier = cluster.folder.path().join("earlier");
    copy(&cluster.data(lost), &earlier);
    cluster.start(lost);
    cluster.leader().await;
    for number in 0..50 {
        cluster.kv(lost).put(put(&format!("later{number}"), "x")).await.unwrap();
    }
    cluster.stop(lost).await;
    lose(&Lost { data: &cluster.data(lost), earlier: &earlier });
    let begun = Instant::now();
    cluster.start(lost);
    let url = cluster.peer_url(lost);
    loop {
        let members = list(&cluster, left[0]).await;
        let back = members.iter().find(|member| member.peer_ur_ls.contains(&url));
        let is_back =
            back.is_some_and(|member| member.id != old && !member.is_learner && !member.name.is_empty());
        if is_back && members.len() == 3 {
            break;
        }
        let ended = cluster.members[lost].as_ref().is_some_and(|member| member.task.is_finished());
        assert!(!ended, "it has ended: {:?}", cluster.members[lost].take().unwrap().task.await);
        assert!(begun.elapsed() < BACK, "it is not back: {members:?}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    println!("back as a voter after {:?}", begun.elapsed());
    stop.cancel();
    let (acknowledged, gap) = writer.await.unwrap();
    println!("{} writes meanwhile, longest gap {gap:?}", acknowledged.len());
    assert!(acknowledged.len() > 5 && gap < Duration::from_secs(5), "{} {gap:?}", acknowledged.len());
    cluster.leader().await;
    cluster.agree().await;
    let there = keys(&mut cluster.kv(lost)).await;
    assert!(acknowledged.iter().all(|key| there.contains(key)), "an acknowledged write is lost");
    assert_eq!(there.iter().filter(|key| !key.starts_with('w')).count(), 100);
    // It counts, and starts again as what it is now.
    cluster.stop(left[0]).await;
    cluster.kv(lost).put(put("counts", "")).await.unwrap();
    cluster.start(left[0]);
    cluster.stop(lost).await;
    cluster.start(lost);
    cluster.leader().await;
    cluster.agree().await;
    assert_ne!(id(&cluster, lost).await, old);
    cluster
}

#[tokio::test(flavor = "multi_thread")]
async fn the_whole_data_directory() {
    check(|lost| fs::remove_dir_all(lost.data).unwrap()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_log() {
    let mut cluster = check(|lost| fs::remove_dir_all(lost.member("log")).unwrap()).await;
    // Whoever comes with the old number is refused.
    let number = (0..3).find(|n| cluster.folder.path().join(format!("m{n}")).join("member/log").exists());
    assert!(number.is_some());
    let lost = (0..3).find(|n| !aside(&cluster.data(*n)).is_empty()).unwrap();
    cluster.stop(lost).await;
    fs::remove_dir_all(cluster.data(lost)).unwrap();
    copy(&cluster.folder.path().join("earlier"), &cluster.data(lost));
    cluster.start(lost);
    let ended = cluster.members[lost].take().unwrap().task.await.unwrap();
    assert!(matches!(ended, Err(raft::Error::Removed { .. })), "{ended:?}");
}

fn aside(data: &Path) -> Vec<PathBuf> {
    let all = fs::read_dir(data).unwrap().map(|entry| entry.unwrap().path());
    all.filter(|path| path.file_name().unwrap().to_string_lossy().starts_with("member.lost-")).collect()
}

/// As when an old copy of the log is put back, and nothing else.
#[tokio::test(flavor = "multi_thread")]
async fn the_end_of_the_log() {
    check(|lost| {
        fs::remove_dir_all(lost.member("log")).unwrap();
        copy(&lost.earlier.join("member/log"), &lost.member("log"));
    })
    .await;
}

/// The last record alone: the database takes it for one that was being written when the power went.
#[tokio::test(flavor = "multi_thread")]
async fn the_last_record() {
    check(|lost| {
        let logs = files(&lost.member("log"), "log").into_iter();
        let log = logs.max_by_key(|path| fs::metadata(path).unwrap().len()).unwrap();
        let bytes = fs::read(&log).unwrap();
        let end = bytes.iter().rposition(|byte| *byte != 0).unwrap();
        fs::write(log, &bytes[..end - 5]).unwrap();
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bit_of_the_log() {
    check(|lost| flip(&lost.member("log"))).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bit_of_the_state() {
    check(|lost| flip(&lost.member("state"))).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_state() {
    check(|lost| fs::remove_dir_all(lost.member("state")).unwrap()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_vote() {
    check(|lost| {
        let parts =
            ["default", "meta", "log"].map(|part| ColumnFamilyDescriptor::new(part, Options::default()));
        let log = DB::open_cf_descriptors(&Options::default(), lost.member("log"), parts).unwrap();
        let meta = log.cf_handle("meta").unwrap();
        assert!(log.get_cf(&meta, "vote").unwrap().is_some());
        log.delete_cf(&meta, "vote").unwrap();
        // Nor is it known from elsewhere.
        fs::remove_file(lost.member("log.mark")).unwrap();
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn who_it_is() {
    check(|lost| fs::remove_file(lost.member("identity")).unwrap()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn who_it_is_damaged() {
    check(|lost| fs::write(lost.member("identity"), "damaged").unwrap()).await;
}

/// A member that was added later, and says so in its flags, as well.
#[tokio::test(flavor = "multi_thread")]
async fn all_of_a_member_that_was_added() {
    let mut cluster = Cluster::started(3, "").await;
    let (added, old) = add(&mut cluster, 0, false).await;
    let voters = |members: &[raft::etcd::pb::Member]| {
        members.len() == 4 && members.iter().all(|member| !member.is_learner && !member.name.is_empty())
    };
    until(&cluster, 0, "four voters", voters).await;
    cluster.kv(added).put(put("k", "v")).await.unwrap();
    cluster.stop(added).await;
    fs::remove_dir_all(cluster.data(added)).unwrap();
    cluster.start(added);
    let url = cluster.peer_url(added);
    until(&cluster, 0, "four voters, one anew", |members| {
        voters(members) && members.iter().any(|member| member.id != old && member.peer_ur_ls.contains(&url))
    })
    .await;
    cluster.leader().await;
    cluster.agree().await;
    assert_eq!(keys(&mut cluster.kv(added)).await, ["k"]);
}

/// It does not vote either while it does not know yet that it has lost something: the first that it asks says nothing
/// for as long as the other one needs to stand for election.
#[tokio::test(flavor = "multi_thread")]
async fn nobody_leads_by_the_vote_of_a_member_without_memory() {
    let mut cluster = Cluster::started(3, "").await;
    cluster.kv(0).put(put("k", "v")).await.unwrap();
    cluster.agree().await;
    for number in 0..3 {
        cluster.stop(number).await;
    }
    let mut asked_in_order = [0, 1, 2];
    asked_in_order.sort_by_key(|number| cluster.peer_url(*number));
    let [silent, stands, lost] = asked_in_order;
    fs::remove_dir_all(cluster.data(lost)).unwrap();
    let listener = std::net::TcpListener::bind(("127.0.0.1", cluster.ports[silent].1)).unwrap();
    cluster.start(lost);
    cluster.start(stands);
    while !cluster.members[lost].as_ref().unwrap().task.is_finished() {
        let status = MaintenanceClient::new(cluster.channel(stands)).status(StatusRequest {}).await;
        // It may not serve yet, and the leader of before is remembered for a moment.
        let leads = status.map(tonic::Response::into_inner);
        let leads = leads.is_ok_and(|status| status.leader == status.header.unwrap().member_id);
        assert!(!leads, "it leads by such a vote");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let ended = cluster.members[lost].take().unwrap().task.await.unwrap();
    assert!(matches!(ended, Err(raft::Error::AlreadyBootstrapped { .. })), "{ended:?}");
    drop(listener);
    cluster.start(silent);
    cluster.start(lost);
    until(&cluster, silent, "three voters", |members| {
        members.len() == 3 && members.iter().all(|member| !member.is_learner && !member.name.is_empty())
    })
    .await;
    cluster.leader().await;
    cluster.agree().await;
    assert_eq!(keys(&mut cluster.kv(lost)).await, ["k"]);
}

/// Two of three have nothing to be counted with: they say so, and the third one's data is all there is.
#[tokio::test(flavor = "multi_thread")]
async fn a_majority_cannot_come_back_by_itself() {
    let mut cluster = Cluster::started(3, "").await;
    cluster.kv(0).put(put("k", "v")).await.unwrap();
    cluster.agree().await;
    for number in 0..2 {
        cluster.stop(number).await;
        fs::remove_dir_all(cluster.data(number)).unwrap();
    }
    for number in 0..2 {
        cluster.start(number);
    }
    for number in 0..2 {
        let ended = cluster.members[number].take().unwrap().task.await.unwrap();
        assert!(matches!(ended, Err(raft::Error::AlreadyBootstrapped { .. })), "{ended:?}");
    }
    let here = raft::etcd::pb::RangeRequest { serializable: true, ..crate::harness::all() };
    assert_eq!(cluster.kv(2).range(here).await.unwrap().into_inner().count, 1);
    assert!(cluster.kv(2).put(put("l", "w")).await.is_err(), "no new group was formed");
}
