//! Members that come and go, as `etcdctl member` has them do it.

use crate::{
    harness::{Cluster, keys, put},
    write,
};
use raft::etcd::pb::{self, cluster_client::ClusterClient};
use std::time::{Duration, Instant};
use tokio_util::sync::CancellationToken;
use tonic::{Code, transport::Channel};

const PATIENCE: Duration = Duration::from_secs(30);

fn client(cluster: &Cluster, number: usize) -> ClusterClient<Channel> {
    ClusterClient::new(cluster.channel(number))
}

pub(crate) async fn list(cluster: &Cluster, number: usize) -> Vec<pb::Member> {
    let request = pb::MemberListRequest { linearizable: true };
    client(cluster, number).member_list(request).await.unwrap().into_inner().members
}

pub(crate) async fn id(cluster: &Cluster, number: usize) -> u64 {
    let url = cluster.peer_url(number);
    let through = cluster.running()[0];
    let members = list(cluster, through).await;
    members.iter().find(|member| member.peer_ur_ls.contains(&url)).unwrap().id
}

/// Adds a member and starts it; its number in the harness, and in the cluster.
pub(crate) async fn add(cluster: &mut Cluster, through: usize, is_learner: bool) -> (usize, u64) {
    let number = cluster.room();
    let request = pb::MemberAddRequest { peer_ur_ls: vec![cluster.peer_url(number)], is_learner };
    let added = client(cluster, through).member_add(request).await.unwrap().into_inner().member.unwrap();
    assert!(added.is_learner && added.name.is_empty(), "it has not started: {added:?}");
    cluster.start(number);
    (number, added.id)
}

pub(crate) async fn until(
    cluster: &Cluster,
    through: usize,
    what: &str,
    holds: impl Fn(&[pb::Member]) -> bool,
) {
    let begun = Instant::now();
    loop {
        let request = pb::MemberListRequest { linearizable: true };
        // A member that has just started may not serve yet.
        let asked = client(cluster, through).member_list(request).await;
        if asked.as_ref().is_ok_and(|list| holds(&list.get_ref().members)) {
            return;
        }
        assert!(begun.elapsed() < PATIENCE, "not {what}: {asked:?}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

async fn refused<T>(
    asked: impl Future<Output = Result<tonic::Response<T>, tonic::Status>>,
    code: Code,
    text: &str,
) {
    let status = asked.await.map(|_| ()).unwrap_err();
    assert_eq!((status.code(), status.message()), (code, text));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_member_whose_disk_was_lost_is_replaced_under_load() {
    let mut cluster = Cluster::started(3, "--snapshot-count=200").await;
    let lost = (cluster.leader().await + 1) % 3;
    let left: Vec<usize> = (0..3).filter(|number| *number != lost).collect();
    let stop = CancellationToken::new();
    let writer = tokio::spawn(write(left.iter().map(|n| cluster.kv(*n)).collect(), stop.clone()));
    let old = id(&cluster, lost).await;
    cluster.kill(lost).await;
    let mut through = client(&cluster, left[0]);
    through.member_remove(pb::MemberRemoveRequest { id: old }).await.unwrap();
    let (new, number) = add(&mut cluster, left[0], false).await;
    assert_ne!(number, old, "a number is never given again");
    until(&cluster, left[0], "a voter that has started", |members| {
        members.len() == 3 && members.iter().all(|m| !m.is_learner && !m.name.is_empty())
    })
    .await;
    stop.cancel();
    let (acknowledged, gap) = writer.await.unwrap();
    println!("{} writes while a member was replaced, longest gap {gap:?}", acknowledged.len());
    assert!(acknowledged.len() > 5, "{}", acknowledged.len());
    // It counts: with one of the old members gone, the others are a majority only together with it.
    cluster.kill(left[1]).await;
    cluster.leader().await;
    cluster.kv(new).put(put("after", "")).await.unwrap();
    cluster.agree().await;
    let there = keys(&mut cluster.kv(new)).await;
    assert!(acknowledged.iter().all(|key| there.contains(key)), "an acknowledged write is lost");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_learner_stays_one_until_it_is_promoted() {
    let mut cluster = Cluster::started(3, "").await;
    let number = cluster.room();
    let urls = vec![cluster.peer_url(number)];
    let mut through = client(&cluster, 0);
    let request = pb::MemberAddRequest { peer_ur_ls: urls.clone(), is_learner: true };
    let learner = through.member_add(request).await.unwrap().into_inner().member.unwrap();
    let other = cluster.room();
    let request = pb::MemberAddRequest { peer_ur_ls: vec![cluster.peer_url(other)], is_learner: true };
    let text = "etcdserver: too many learner members in cluster";
    refused(through.member_add(request), Code::FailedPrecondition, text).await;
    let promote = pb::MemberPromoteRequest { id: learner.id };
    let text = "etcdserver: can only promote a learner member which is in sync with leader";
    refused(through.member_promote(promote), Code::FailedPrecondition, text).await;
    cluster.start(number);
    until(&cluster, 0, "started", |members| members.iter().all(|member| !member.name.is_empty())).await;
    let found = list(&cluster, 0).await.into_iter().find(|member| member.id == learner.id).unwrap();
    assert!(found.is_learner && found.peer_ur_ls == urls, "{found:?}");
    let begun = Instant::now();
    while let Err(status) = through.member_promote(promote).await {
        assert!(begun.elapsed() < PATIENCE, "{status}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    until(&cluster, number, "a voter", |members| members.iter().all(|member| !member.is_learner)).await;
    let text = "etcdserver: can only promote a learner member";
    refused(through.member_promote(promote), Code::FailedPrecondition, text).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_is_removed_is_told_and_the_others_go_on() {
    let mut cluster = Cluster::started(3, "").await;
    cluster.kv(0).put(put("k", "v")).await.unwrap();
    let leader = cluster.leader().await;
    let other = (leader + 1) % 3;
    // The leader itself, asked through itself: it hands over first.
    let number = id(&cluster, leader).await;
    client(&cluster, leader).member_remove(pb::MemberRemoveRequest { id: number }).await.ok();
    let ended = cluster.members[leader].take().unwrap().task.await.unwrap();
    assert!(matches!(ended, Err(raft::Error::Removed { .. })), "{ended:?}");
    let next = cluster.leader().await;
    assert_ne!(next, leader);
    assert_eq!(list(&cluster, other).await.len(), 2);
    assert_eq!(keys(&mut cluster.kv(other)).await, ["k"]);
    // It does not come back either.
    cluster.start(leader);
    let ended = cluster.members[leader].take().unwrap().task.await.unwrap();
    assert!(matches!(ended, Err(raft::Error::Removed { .. })), "{ended:?}");
    cluster.kv(other).put(put("k", "w")).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn changes_that_cannot_be_are_refused_in_etcds_words() {
    let cluster = Cluster::started(3, "").await;
    let mut through = client(&cluster, 0);
    let add = |url: &str| pb::MemberAddRequest { peer_ur_ls: vec![url.into()], is_learner: false };
    let text = "etcdserver: given member URLs are invalid";
    refused(through.member_add(add("nonsense")), Code::InvalidArgument, text).await;
    // In the clear only within this machine, as the flags have it.
    refused(through.member_add(add("http://10.0.0.1:2380")), Code::InvalidArgument, text).await;
    let clear = pb::MemberUpdateRequest { id: 7, peer_ur_ls: vec!["http://10.0.0.1:2380".into()] };
    refused(through.member_update(clear), Code::InvalidArgument, text).await;
    let text = "etcdserver: Peer URLs already exists";
    refused(through.member_add(add(&cluster.peer_url(1))), Code::FailedPrecondition, text).await;
    let text = "etcdserver: member not found";
    refused(through.member_remove(pb::MemberRemoveRequest { id: 7 }), Code::NotFound, text).await;
    let mut moved = pb::MemberUpdateRequest { id: 7, peer_ur_ls: vec!["https://127.0.0.1:1".into()] };
    refused(through.member_update(moved.clone()), Code::NotFound, text).await;
    moved.id = id(&cluster, 1).await;
    moved.peer_ur_ls = vec![cluster.peer_url(2)];
    let text = "etcdserver: Peer URLs already exists";
    refused(through.member_update(moved), Code::FailedPrecondition, text).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_last_one_left_begins_a_new_cluster() {
    let mut cluster = Cluster::started(3, "").await;
    cluster.kv(0).put(put("k", "v")).await.unwrap();
    cluster.agree().await;
    for number in 0..3 {
        cluster.kill(number).await;
    }
    cluster.flags = "--force-new-cluster";
    cluster.start(1);
    assert_eq!(cluster.leader().await, 1);
    assert_eq!(keys(&mut cluster.kv(1)).await, ["k"]);
    assert_eq!(list(&cluster, 1).await.len(), 1);
    cluster.stop(1).await;
    cluster.flags = "";
    cluster.start(1);
    cluster.leader().await;
    let (new, _) = add(&mut cluster, 1, false).await;
    until(&cluster, 1, "two voters", |members| {
        members.len() == 2 && members.iter().all(|member| !member.is_learner && !member.name.is_empty())
    })
    .await;
    cluster.kv(new).put(put("l", "w")).await.unwrap();
    cluster.agree().await;
    // Who comes back from the old cluster is told that there is no place for it.
    cluster.start(0);
    let ended = cluster.members[0].take().unwrap().task.await.unwrap();
    assert!(matches!(ended, Err(raft::Error::Removed { .. })), "{ended:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn who_was_not_added_does_not_get_in() {
    let mut cluster = Cluster::started(3, "").await;
    let stranger = cluster.room();
    cluster.start(stranger);
    let ended = cluster.members[stranger].take().unwrap().task.await.unwrap();
    assert!(matches!(ended, Err(raft::Error::NotAdded { .. })), "{ended:?}");
    assert!(!cluster.data(stranger).exists(), "it left nothing");
}
