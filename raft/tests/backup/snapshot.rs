//! A file of `etcdctl snapshot save` becomes a new cluster.

use crate::{
    etcdctl,
    harness::{Cluster, all, put},
    lose_all, member, old, put_aside, save, store,
};
use raft::etcd::pb::{
    self, lease_client::LeaseClient, maintenance_client::MaintenanceClient, watch_client::WatchClient,
    watch_request::RequestUnion,
};
use std::{os::unix::fs::PermissionsExt, path::Path, time::Duration};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Streaming};

const BUMP: i64 = 1_000_000_000;
const LEASE: i64 = 77;

/// Writes, overwrites, deletes and compacts; keys belong to leases.
async fn write_history(cluster: &Cluster) {
    let (mut kv, mut lease) = (cluster.kv(0), LeaseClient::new(cluster.channel(1)));
    lease.lease_grant(pb::LeaseGrantRequest { ttl: 600, id: LEASE }).await.unwrap();
    for number in 0..60 {
        let lease = if number % 3 == 0 { LEASE } else { 0 };
        let put = put(&format!("k{}", number % 25), &format!("v{number}"));
        kv.put(pb::PutRequest { lease, ..put }).await.unwrap();
    }
    for number in 0..5 {
        let request = pb::DeleteRangeRequest { key: format!("k{number}").into(), ..Default::default() };
        kv.delete_range(request).await.unwrap();
    }
    kv.compact(pb::CompactionRequest { revision: 40, physical: true }).await.unwrap();
    kv.put(put("large", &"x".repeat(700_000))).await.unwrap();
}

/// Everything, with the revision.
async fn content(cluster: &Cluster, number: usize) -> (i64, Vec<pb::KeyValue>) {
    let found = cluster.kv(number).range(all()).await.unwrap().into_inner();
    let kvs = found.key_values().unwrap();
    (found.header.unwrap().revision, kvs)
}

async fn watch(cluster: &Cluster, number: usize, start_revision: i64) -> Streaming<pb::WatchResponse> {
    let (requests, stream) = mpsc::channel(4);
    let create = pb::WatchCreateRequest {
        key: vec![0].into(),
        range_end: vec![0].into(),
        start_revision,
        ..Default::default()
    };
    let union = RequestUnion::CreateRequest(create);
    requests.send(pb::WatchRequest { request_union: Some(union) }).await.unwrap();
    // The stream of requests stays open as long as the test's process.
    std::mem::forget(requests);
    let stream = ReceiverStream::new(stream);
    let mut watch = WatchClient::new(cluster.channel(number)).watch(stream).await.unwrap().into_inner();
    assert!(watch.message().await.unwrap().unwrap().created);
    watch
}

async fn alarms(cluster: &Cluster, action: pb::alarm_request::AlarmAction) -> usize {
    let request =
        pb::AlarmRequest { action: action.into(), member_id: 5, alarm: pb::AlarmType::Nospace.into() };
    MaintenanceClient::new(cluster.channel(0)).alarm(request).await.unwrap().into_inner().alarms.len()
}

async fn cluster_id(cluster: &Cluster) -> u64 {
    let status = MaintenanceClient::new(cluster.channel(0)).status(pb::StatusRequest {}).await.unwrap();
    status.into_inner().header.unwrap().cluster_id
}

async fn restore(cluster: &Cluster, number: usize, file: &Path) -> String {
    let words = format!("snapshot restore {} {}", file.display(), member(cluster, number));
    store(&words).await.unwrap()
}

async fn restore_all(cluster: &mut Cluster, file: &Path) {
    for number in 0..cluster.first {
        restore(cluster, number, file).await;
        cluster.start(number);
    }
    cluster.leader().await;
}

fn check_modes(path: &Path) {
    let mode = std::fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode, if path.is_dir() { 0o700 } else { 0o600 }, "{}", path.display());
    if path.is_dir() {
        std::fs::read_dir(path).unwrap().for_each(|entry| check_modes(&entry.unwrap().path()));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn three_members_begin_with_what_was_saved() {
    use pb::alarm_request::AlarmAction;
    let mut cluster = Cluster::started(3, "").await;
    write_history(&cluster).await;
    assert_eq!(alarms(&cluster, AlarmAction::Activate).await, 1);
    let (saved, before) = content(&cluster, 0).await;
    let file = save(&cluster, 0).await;
    let was = cluster_id(&cluster).await;
    assert_eq!(alarms(&cluster, AlarmAction::Deactivate).await, 1);
    for number in 0..10 {
        cluster.kv(0).put(put("lost", &format!("{number}"))).await.unwrap();
    }
    let status = store(&format!("snapshot status {}", file.display())).await.unwrap();
    assert!(status.contains(&format!(", {saved}, ")), "{status}");
    lose_all(&mut cluster).await;
    let printed = restore(&cluster, 0, &file).await;
    assert!(printed.starts_with(&format!("restored revision {saved} into ")), "{printed}");
    check_modes(&cluster.data(0));
    cluster.start(0);
    for number in 1..3 {
        restore(&cluster, number, &file).await;
        cluster.start(number);
    }
    cluster.leader().await;

    cluster.agree().await;
    for number in 0..3 {
        assert_eq!(content(&cluster, number).await, (saved + BUMP, before.clone()), "member {number}");
    }
    assert_eq!(alarms(&cluster, AlarmAction::Get).await, 0);
    assert_ne!(cluster_id(&cluster).await, was);
    let listed = etcdctl(&cluster, 1, "member list").await;
    assert!(listed.lines().count() == 3 && (0..3).all(|n| listed.contains(&format!("m{n}"))), "{listed}");

    for from in [2, 41, saved, saved + 1, saved + 11, saved + BUMP - 1] {
        let told = watch(&cluster, 2, from).await.message().await.unwrap().unwrap();
        assert_eq!((told.canceled, told.compact_revision), (true, saved + BUMP), "a watch from {from}");
    }
    let past = pb::RangeRequest { revision: saved, ..all() };
    let refused = cluster.kv(1).range(past).await.unwrap_err();
    assert_eq!(
        (refused.code(), refused.message()),
        (Code::OutOfRange, "etcdserver: mvcc: required revision has been compacted")
    );
    let mut events = watch(&cluster, 2, saved + BUMP + 1).await;
    let written = cluster.kv(0).put(put("new", "x")).await.unwrap().into_inner();
    assert_eq!(written.header.unwrap().revision, saved + BUMP + 1);
    let event = events.message().await.unwrap().unwrap().events[0].kv.clone().unwrap();
    assert_eq!((event.key.as_ref(), event.mod_revision), (&b"new"[..], saved + BUMP + 1));

    let mut lease = LeaseClient::new(cluster.channel(2));
    let asked = pb::LeaseTimeToLiveRequest { id: LEASE, keys: true };
    let ttl = lease.lease_time_to_live(asked).await.unwrap().into_inner();
    let held = before.iter().filter(|kv| kv.lease == LEASE).count();
    assert_eq!((ttl.granted_ttl, ttl.keys.len()), (600, held));
    lease.lease_revoke(pb::LeaseRevokeRequest { id: LEASE }).await.unwrap();
    let (_, left) = content(&cluster, 1).await;
    assert_eq!(left.len(), before.len() - held + 1);
}

/// What was restored is a cluster like any other: members restart, a late one is given the whole state, and it can be
/// saved and restored again.
#[tokio::test(flavor = "multi_thread")]
async fn a_restored_cluster_lives_on() {
    let mut cluster = Cluster::started(3, "").await;
    write_history(&cluster).await;
    let file = save(&cluster, 1).await;
    lose_all(&mut cluster).await;
    for number in 0..2 {
        restore(&cluster, number, &file).await;
        cluster.start(number);
    }
    cluster.leader().await;
    for number in 0..50 {
        cluster.kv(0).put(put(&format!("k{number}"), "again")).await.unwrap();
    }
    restore(&cluster, 2, &file).await;
    cluster.start(2);
    cluster.leader().await;
    cluster.agree().await;
    for number in 0..3 {
        cluster.kill(number).await;
        cluster.start(number);
        cluster.leader().await;
    }
    cluster.agree().await;
    let added = cluster.room();
    etcdctl(&cluster, 0, &format!("member add m{added} --peer-urls={}", cluster.peer_url(added))).await;
    cluster.start(added);
    cluster.leader().await;
    cluster.agree().await;
    etcdctl(&cluster, 0, "endpoint health").await;
    let (first, before) = content(&cluster, added).await;
    let file = save(&cluster, added).await;
    cluster.stop(added).await;
    lose_all(&mut cluster).await;
    (cluster.members, cluster.ports) = ((0..3).map(|_| None).collect(), cluster.ports[..3].to_vec());
    restore_all(&mut cluster, &file).await;
    assert_eq!(content(&cluster, 0).await, (first + BUMP, before));
    cluster.agree().await;
}

/// A process of the old cluster that is still there, on the same address with the same flags, is a stranger.
#[tokio::test(flavor = "multi_thread")]
async fn a_member_of_the_old_cluster_is_a_stranger() {
    let mut cluster = Cluster::started(3, "").await;
    write_history(&cluster).await;
    let file = save(&cluster, 0).await;
    cluster.kv(0).put(put("lost", "x")).await.unwrap();
    cluster.agree().await;
    lose_all(&mut cluster).await;
    std::fs::rename(old(&cluster, 2), cluster.data(2)).unwrap();
    cluster.start(2);
    for number in 0..2 {
        restore(&cluster, number, &file).await;
        cluster.start(number);
    }
    let written = loop {
        match cluster.kv(0).put(put("new", "x")).await {
            Ok(written) => break written.into_inner().header.unwrap().revision,
            Err(_) => tokio::time::sleep(Duration::from_millis(50)).await,
        }
    };
    assert!(written > BUMP);
    for number in 0..2 {
        let (revision, kvs) = content(&cluster, number).await;
        assert!(revision == written && kvs.iter().all(|kv| kv.key != "lost"), "member {number}");
    }
    let local = pb::RangeRequest { serializable: true, ..all() };
    let stale = cluster.kv(2).range(local).await.unwrap().into_inner();
    assert!(
        stale.key_values().unwrap().iter().any(|kv| kv.key == "lost")
            && stale.header.unwrap().revision < BUMP
    );
    let mut status = MaintenanceClient::new(cluster.channel(2));
    assert_eq!(status.status(pb::StatusRequest {}).await.unwrap().into_inner().leader, 0);
}

/// A member's line in the list of members, once it has told who it is.
async fn listed(cluster: &Cluster, name: &str) -> String {
    loop {
        let list = etcdctl(cluster, 0, "member list").await;
        if let Some(line) = list.lines().find(|line| line.contains(&format!(", started, {name},"))) {
            return line.to_owned();
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// Restored once more, it has forgotten what it promised as a member of the cluster that its first restore began. It
/// comes back, but as a new one.
#[tokio::test(flavor = "multi_thread")]
async fn a_member_that_is_restored_twice_is_another_one() {
    let mut cluster = Cluster::started(3, "").await;
    write_history(&cluster).await;
    let file = save(&cluster, 0).await;
    lose_all(&mut cluster).await;
    restore_all(&mut cluster, &file).await;
    let before = listed(&cluster, "m2").await;
    cluster.kv(0).put(put("since", "x")).await.unwrap();
    cluster.stop(2).await;
    put_aside(&cluster, 2);
    restore(&cluster, 2, &file).await;
    cluster.start(2);
    let after = loop {
        let after = listed(&cluster, "m2").await;
        if after != before {
            break after;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    };
    assert_ne!(after.split(',').next(), before.split(',').next(), "it has another number");
    cluster.leader().await;
    cluster.agree().await;
    assert!(content(&cluster, 2).await.1.iter().any(|kv| kv.key == "since"));
}

/// For a copy that no client of the old cluster will ever speak to.
#[tokio::test(flavor = "multi_thread")]
async fn revisions_are_kept_on_demand() {
    let mut cluster = Cluster::started(1, "").await;
    write_history_alone(&cluster).await;
    let (saved, before) = content(&cluster, 0).await;
    let file = save(&cluster, 0).await;
    lose_all(&mut cluster).await;
    let words = format!(
        "snapshot restore {} {} --bump-revision=0 --mark-compacted=false",
        file.display(),
        member(&cluster, 0)
    );
    store(&words).await.unwrap();
    cluster.start(0);
    cluster.leader().await;
    assert_eq!(content(&cluster, 0).await, (saved, before));
    let past = cluster.kv(0).range(pb::RangeRequest { revision: 3, ..all() }).await.unwrap().into_inner();
    assert_eq!(past.kvs.len(), 2, "history is there");
}

async fn write_history_alone(cluster: &Cluster) {
    for number in 0..5 {
        cluster.kv(0).put(put(&format!("k{number}"), "v")).await.unwrap();
    }
}
