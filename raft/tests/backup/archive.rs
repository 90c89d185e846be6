//! What members archive gives back any moment of their history, whatever became of members and files meanwhile.

use crate::{
    etcdctl,
    harness::{Cluster, all, put},
    store,
};
use raft::etcd::pb::{self, lease_client::LeaseClient};
use rand::{Rng, SeedableRng, rngs::StdRng};
use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    time::{Duration, Instant, SystemTime},
};

const BUMP: i64 = 1_000_000_000;
const PATIENCE: Duration = Duration::from_secs(30);

/// All keys with everything that is known of each.
type Keys = BTreeMap<Vec<u8>, pb::KeyValue>;

/// What the store was at each of its revisions, and when a revision was asked for and there.
#[derive(Default)]
struct Model {
    keys: BTreeMap<i64, Keys>,
    times: BTreeMap<i64, (i64, i64)>,
}

impl Model {
    fn last(&self) -> (i64, Keys) {
        let (revision, keys) = self.keys.last_key_value().unwrap();
        (*revision, keys.clone())
    }

    fn at(&self, revision: i64) -> &Keys {
        self.keys.range(..=revision).next_back().unwrap().1
    }

    fn put(&mut self, revision: i64, request: &pb::PutRequest) {
        let mut keys = self.last().1;
        let old = keys.get(request.key.as_ref());
        let kv = pb::KeyValue {
            key: request.key.clone(),
            value: request.value.clone(),
            create_revision: old.map_or(revision, |old| old.create_revision),
            mod_revision: revision,
            version: old.map_or(1, |old| old.version + 1),
            lease: request.lease,
        };
        keys.insert(request.key.to_vec(), kv);
        self.keys.insert(revision, keys);
    }

    fn delete(&mut self, revision: i64, from: &[u8], to: &[u8]) {
        let mut keys = self.last().1;
        let before = keys.len();
        keys.retain(|key, _| key.as_slice() < from || key.as_slice() >= to);
        if keys.len() < before {
            self.keys.insert(revision, keys);
        }
    }
}

fn now() -> i64 {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap();
    i64::try_from(since.as_millis()).unwrap()
}

fn rfc3339(milliseconds: i64) -> String {
    jiff::Timestamp::from_millisecond(milliseconds).unwrap().to_string()
}

/// Flags of members that archive into a directory.
fn flags(archive: &Path, more: &str) -> &'static str {
    let flags = format!("--archive-dir {} --archive-interval 40ms {more}", archive.display());
    Box::leak(flags.into_boxed_str())
}

async fn read(cluster: &Cluster, number: usize) -> (i64, Keys) {
    let begun = Instant::now();
    loop {
        if let Ok(found) = cluster.kv(number).range(all()).await.map(tonic::Response::into_inner) {
            let keys = found.key_values().unwrap().into_iter().map(|kv| (kv.key.to_vec(), kv)).collect();
            return (found.header.unwrap().revision, keys);
        }
        assert!(begun.elapsed() < PATIENCE, "no linearizable read");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// One random change through a member. What came of one without an answer is read.
async fn change(cluster: &Cluster, through: usize, random: &mut StdRng, model: &mut Model) {
    let (mut kv, asked) = (cluster.kv(through), now());
    let key = |random: &mut StdRng| format!("k{:02}", random.random_range(0..40));
    let lease = if random.random_bool(0.2) { 77 } else { 0 };
    let request = pb::PutRequest { lease, ..put(&key(random), &format!("v{}", random.random::<u32>())) };
    let done = match random.random_range(0..10) {
        0..7 => kv.put(request.clone()).await.map(|said| {
            let revision = said.into_inner().header.unwrap().revision;
            model.put(revision, &request);
        }),
        7..9 => {
            let (from, to) = (key(random), key(random));
            let delete = pb::DeleteRangeRequest {
                key: from.clone().into(),
                range_end: to.clone().into(),
                ..Default::default()
            };
            kv.delete_range(delete).await.map(|said| {
                let revision = said.into_inner().header.unwrap().revision;
                model.delete(revision, from.as_bytes(), to.as_bytes());
            })
        }
        _ => {
            let revision = model.last().0 - random.random_range(0..20);
            let _ = kv.compact(pb::CompactionRequest { revision, physical: false }).await;
            Ok(())
        }
    };
    if done.is_err() {
        let (revision, keys) = read(cluster, through).await;
        model.keys.insert(revision, keys);
    }
    model.times.insert(model.last().0, (asked, now()));
}

/// A one-member cluster for what is restored.
async fn elsewhere() -> Cluster {
    Cluster::new(1, "--heartbeat-interval 20 --election-timeout 100").await
}

/// Restores, starts a member of it, and reads everything there.
async fn restored(cluster: &mut Cluster, archive: &Path, to: &str) -> Result<(i64, Keys), String> {
    let member = crate::member(cluster, 0);
    let done = store(&format!("restore --archive {} {to} {member}", archive.display())).await;
    let printed = done.map_err(|error| error.to_string())?;
    cluster.start(0);
    cluster.leader().await;
    let (revision, keys) = read(cluster, 0).await;
    cluster.stop(0).await;
    std::fs::remove_dir_all(cluster.data(0)).unwrap();
    assert!(printed.contains(&format!("reached revision {} of ", revision - BUMP)), "{printed}");
    Ok((revision - BUMP, keys))
}

/// The members' folders of an archive.
fn folders(archive: &Path) -> Vec<PathBuf> {
    let list = |path: &Path| std::fs::read_dir(path).unwrap().map(|entry| entry.unwrap().path());
    list(archive).flat_map(|cluster| list(&cluster).collect::<Vec<_>>()).collect()
}

fn files(folder: &Path, prefix: &str) -> Vec<PathBuf> {
    let list = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    let named = |path: &PathBuf| path.file_name().unwrap().to_string_lossy().starts_with(prefix);
    let mut files: Vec<_> = list.filter(named).collect();
    files.sort();
    files
}

#[tokio::test(flavor = "multi_thread")]
async fn any_revision_and_any_time_is_restored() {
    let seed = std::env::var("SEED").map_or_else(|_| rand::random(), |seed| seed.parse().unwrap());
    println!("SEED={seed}");
    let mut random = StdRng::seed_from_u64(seed);
    let place = tempfile::tempdir().unwrap();
    let archive = place.path().join("archive");
    let mut cluster = Cluster::started(3, flags(&archive, "--archive-base-interval 1s")).await;
    let mut lease = LeaseClient::new(cluster.channel(0));
    lease.lease_grant(pb::LeaseGrantRequest { ttl: 6000, id: 77 }).await.unwrap();
    let mut model = Model::default();
    let (first, keys) = read(&cluster, 0).await;
    model.keys.insert(first, keys);
    for step in 1..=600 {
        change(&cluster, random.random_range(0..3), &mut random, &mut model).await;
        if step % 150 == 0 {
            let number = random.random_range(0..3);
            cluster.kill(number).await;
            cluster.start(number);
            cluster.leader().await;
        }
    }
    for number in 0..3 {
        cluster.stop(number).await;
    }
    drop(cluster);

    let mut cluster = elsewhere().await;
    let (last, keys) = model.last();
    assert_eq!(restored(&mut cluster, &archive, "").await.unwrap(), (last, keys));
    let revisions: Vec<i64> = model.keys.keys().copied().collect();
    for _ in 0..14 {
        let revision = revisions[random.random_range(0..revisions.len())];
        let found = restored(&mut cluster, &archive, &format!("--to-revision {revision}")).await;
        assert_eq!(found, Ok((revision, model.keys[&revision].clone())), "revision {revision}");
    }
    for _ in 0..8 {
        let revision = revisions[random.random_range(1..revisions.len())];
        let Some((_, there)) = model.times.get(&revision).copied() else { continue };
        let words = format!("--to-time {}", rfc3339(there));
        let (reached, found) = restored(&mut cluster, &archive, &words).await.unwrap();
        // What was asked for within the same millisecond as it was answered may be in.
        let next = model.times.range(revision + 1..).find(|(_, (asked, _))| *asked > there);
        assert!(reached >= revision && next.is_none_or(|(next, _)| reached < *next), "{reached} {revision}");
        assert_eq!(&found, model.at(reached), "revision {reached}");
    }
    for folder in folders(&archive) {
        let from = files(&folder, "base-").iter().map(|base| revision_of(base)).min().unwrap();
        let within: Vec<i64> = revisions.iter().copied().filter(|revision| *revision >= from).collect();
        let revision = within[random.random_range(0..within.len())];
        let found = restored(&mut cluster, &folder, &format!("--to-revision {revision}")).await;
        assert_eq!(found, Ok((revision, model.keys[&revision].clone())), "{revision} from {folder:?}");
    }

    let refused = async |to: String, expect: &str| {
        let words =
            format!("restore --archive {} {to} --data-dir {}/d", archive.display(), place.path().display());
        let said = store(&words).await.unwrap_err().to_string();
        assert!(said.contains(expect), "{said:?} does not say {expect:?}");
        assert!(!place.path().join("d").exists() && !place.path().join("d.part").exists());
    };
    refused(format!("--to-revision {}", last + 1), &format!("it ends at revision {last} of ")).await;
    refused(format!("--to-time {}", rfc3339(now() + 60_000)), &format!("it ends at revision {last} of "))
        .await;
    refused("--to-revision 0".into(), "it begins with revision ").await;
    refused("--to-time 2001-01-01T00:00:00Z".into(), "it begins with revision ").await;
}

/// A member that was away so long that it was given the whole state lacks what came meanwhile; the others have it.
#[tokio::test(flavor = "multi_thread")]
async fn a_hole_is_told_and_filled_by_others() {
    let place = tempfile::tempdir().unwrap();
    let archive = place.path().join("archive");
    let mut cluster = Cluster::started(3, flags(&archive, "--snapshot-count 40")).await;
    let write = async |cluster: &Cluster, from: usize, to: usize| {
        for number in from..to {
            cluster.kv(0).put(put(&format!("k{}", number % 50), &format!("v{number}"))).await.unwrap();
        }
    };
    write(&cluster, 0, 50).await;
    cluster.agree().await;
    cluster.stop(2).await;
    let (before, _) = read(&cluster, 0).await;
    write(&cluster, 50, 400).await;
    cluster.start(2);
    cluster.leader().await;
    cluster.agree().await;
    write(&cluster, 400, 450).await;
    cluster.agree().await;
    let (last, keys) = read(&cluster, 0).await;
    for number in 0..3 {
        cluster.stop(number).await;
    }
    drop(cluster);
    let lacking: Vec<_> =
        folders(&archive).into_iter().filter(|folder| files(folder, "base-").len() == 2).collect();
    assert_eq!(lacking.len(), 1, "the one that was away has two bases");

    let mut cluster = elsewhere().await;
    let within = format!("--to-revision {}", before + 100);
    let said = restored(&mut cluster, &lacking[0], &within).await.unwrap_err();
    assert!(said.contains(&format!("it has a hole between revision {before} of ")), "{said}");
    let (reached, found) = restored(&mut cluster, &archive, &within).await.unwrap();
    assert_eq!((reached, found.len()), (before + 100, 50));
    assert_eq!(restored(&mut cluster, &lacking[0], "").await.unwrap(), (last, keys.clone()));

    // A file that went lost, and one that was damaged.
    let whole: Vec<_> = folders(&archive).into_iter().filter(|folder| *folder != lacking[0]).collect();
    let segment = files(&whole[0], "log-").remove(0);
    let bytes = std::fs::read(&segment).unwrap();
    let mut damaged = bytes.clone();
    let half = bytes.len() / 2;
    damaged[half] ^= 1;
    std::fs::write(&segment, damaged).unwrap();
    let said = restored(&mut cluster, &whole[0], &format!("--to-revision {last}")).await.unwrap_err();
    assert!(said.contains("it ends at revision"), "{said}");
    std::fs::remove_file(&segment).unwrap();
    let said = restored(&mut cluster, &whole[0], &format!("--to-revision {last}")).await.unwrap_err();
    assert!(said.contains("it ends at revision"), "{said}");
    assert_eq!(restored(&mut cluster, &archive, "").await.unwrap(), (last, keys));
}

/// A crash may leave half a record; what follows is added after what is whole.
#[tokio::test(flavor = "multi_thread")]
async fn a_torn_tail_is_cut_and_what_it_held_is_written_again() {
    let place = tempfile::tempdir().unwrap();
    let archive = place.path().join("archive");
    let mut cluster = Cluster::started(1, flags(&archive, "")).await;
    let mut kept = Vec::new();
    for round in 0..6 {
        for number in 0..20 {
            cluster.kv(0).put(put(&format!("k{number}"), &format!("{round}"))).await.unwrap();
        }
        kept.push(read(&cluster, 0).await);
        cluster.stop(0).await;
        let folder = folders(&archive).remove(0);
        let segment = files(&folder, "log-").pop().unwrap();
        let length = std::fs::metadata(&segment).unwrap().len();
        let file = std::fs::OpenOptions::new().write(true).open(&segment).unwrap();
        // Of the last one nothing is left but half of how it begins.
        file.set_len(if round == 4 { 20 } else { length - 10 * (round + 1) }).unwrap();
        cluster.start(0);
        cluster.leader().await;
    }
    cluster.stop(0).await;
    drop(cluster);
    assert_eq!(folders(&archive).len(), 1);
    assert_eq!(files(&folders(&archive)[0], "base-").len(), 1, "there was no hole");
    let mut cluster = elsewhere().await;
    for (revision, keys) in kept {
        let found = restored(&mut cluster, &archive, &format!("--to-revision {revision}")).await;
        assert_eq!(found, Ok((revision, keys)));
    }
}

/// The archive's disk is nobody else's matter, and it catches up.
#[tokio::test(flavor = "multi_thread")]
async fn an_archive_that_cannot_be_written_hinders_nobody() {
    let place = tempfile::tempdir().unwrap();
    let archive = place.path().join("archive");
    std::fs::write(&archive, "a file, not a folder").unwrap();
    let metrics = crate::harness::free_port();
    let more = format!("--listen-metrics-urls http://127.0.0.1:{metrics}");
    let mut cluster = Cluster::started(1, flags(&archive, &more)).await;
    let mut slowest = Duration::ZERO;
    for number in 0..200 {
        let begun = Instant::now();
        cluster.kv(0).put(put(&format!("k{number}"), "v")).await.unwrap();
        slowest = slowest.max(begun.elapsed());
    }
    println!("slowest write while the archive fails: {slowest:?}");
    etcdctl(&cluster, 0, "endpoint health").await;
    assert!(gauge(metrics, "trireme_store_archive_failures_total").await > 0);
    assert_eq!(gauge(metrics, "trireme_store_archive_revision").await, 0);
    std::fs::remove_file(&archive).unwrap();
    let (last, keys) = read(&cluster, 0).await;
    let begun = Instant::now();
    while gauge(metrics, "trireme_store_archive_revision").await < last {
        assert!(begun.elapsed() < PATIENCE, "the archive does not catch up");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    cluster.kill(0).await;
    drop(cluster);
    let mut cluster = elsewhere().await;
    assert_eq!(restored(&mut cluster, &archive, "").await.unwrap(), (last, keys));
}

/// A number of the member's metrics.
async fn gauge(port: u16, name: &str) -> i64 {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let mut stream = tokio::net::TcpStream::connect(("127.0.0.1", port)).await.unwrap();
    stream.write_all(b"GET /metrics HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").await.unwrap();
    let mut text = String::new();
    stream.read_to_string(&mut text).await.unwrap();
    let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
    line.unwrap_or_else(|| panic!("no {name} in {text}")).trim().parse().unwrap()
}

/// Its revisions follow those of the old cluster, its archive does not.
#[tokio::test(flavor = "multi_thread")]
async fn a_restored_cluster_archives_apart() {
    let place = tempfile::tempdir().unwrap();
    let archive = place.path().join("archive");
    let mut cluster = Cluster::started(1, flags(&archive, "")).await;
    cluster.kv(0).put(put("old", "x")).await.unwrap();
    let (old, keys) = read(&cluster, 0).await;
    crate::lose_all(&mut cluster).await;
    let before = std::fs::read_dir(&archive).unwrap().next().unwrap().unwrap().path();
    let words = format!("restore --archive {} {}", archive.display(), crate::member(&cluster, 0));
    store(&words).await.unwrap();
    cluster.start(0);
    cluster.leader().await;
    cluster.kv(0).put(put("new", "x")).await.unwrap();
    let (new, _) = read(&cluster, 0).await;
    assert_eq!(new, old + BUMP + 1);
    cluster.stop(0).await;
    drop(cluster);
    let mut cluster = elsewhere().await;
    let said = restored(&mut cluster, &archive, "").await.unwrap_err();
    assert!(said.contains("holds the archives of several clusters: give the folder of one"), "{said}");
    assert!(said.contains(&before.display().to_string()), "{said}");
    assert_eq!(restored(&mut cluster, &before, "").await.unwrap(), (old, keys));
    let folders = std::fs::read_dir(&archive).unwrap().map(|entry| entry.unwrap().path());
    let after: Vec<PathBuf> = folders.filter(|path| *path != before).collect();
    let (reached, found) = restored(&mut cluster, &after[0], "").await.unwrap();
    assert_eq!((reached, found.len()), (new, 2));
    // As if the same moment had been restored for the same member once more.
    let member = std::fs::read_dir(&after[0]).unwrap().next().unwrap().unwrap().path();
    let name = member.file_name().unwrap().to_string_lossy().into_owned();
    let twin = after[0].join(format!("{}-0123456789abcdef", name.split('-').next().unwrap()));
    std::fs::create_dir(&twin).unwrap();
    std::fs::copy(&files(&member, "base-")[0], twin.join(files(&member, "base-")[0].file_name().unwrap()))
        .unwrap();
    let said = restored(&mut cluster, &after[0], "").await.unwrap_err();
    assert!(said.contains("was restored more than once") && said.contains(&name), "{said}");
    assert_eq!(restored(&mut cluster, &member, "").await.unwrap().0, new);
}

/// A quiet time is a time that can be restored; what is older than the retention goes, with what it needs.
#[tokio::test(flavor = "multi_thread")]
async fn old_files_are_removed_and_what_is_within_the_retention_is_restored() {
    let place = tempfile::tempdir().unwrap();
    let archive = place.path().join("archive");
    let metrics = crate::harness::free_port();
    let more = format!(
        "--archive-base-interval 300ms --archive-retention 2s --listen-metrics-urls http://127.0.0.1:{metrics}"
    );
    let mut cluster = Cluster::started(1, flags(&archive, &more)).await;
    let begun = Instant::now();
    let mut number = 0;
    while begun.elapsed() < Duration::from_secs(4) {
        cluster.kv(0).put(put(&format!("k{}", number % 10), &format!("{number}"))).await.unwrap();
        number += 1;
    }
    // Looked for when the member starts.
    cluster.stop(0).await;
    cluster.start(0);
    cluster.leader().await;
    let (last, keys) = read(&cluster, 0).await;
    let folder = folders(&archive).remove(0);
    let begun = Instant::now();
    while files(&folder, "base-").iter().any(|base| revision_of(base) < last / 5) {
        assert!(begun.elapsed() < PATIENCE, "old bases stay");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let quiet = now();
    while gauge(metrics, "trireme_store_archive_time_seconds").await <= quiet / 1000 {
        assert!(begun.elapsed() < PATIENCE, "the archive does not tell of a quiet time");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    cluster.stop(0).await;
    drop(cluster);
    let mut cluster = elsewhere().await;
    let found = restored(&mut cluster, &archive, &format!("--to-time {}", rfc3339(quiet))).await;
    assert_eq!(found, Ok((last, keys)));
    let oldest = files(&folder, "base-").iter().map(|base| revision_of(base)).min().unwrap();
    let (reached, _) = restored(&mut cluster, &archive, &format!("--to-revision {oldest}")).await.unwrap();
    assert_eq!(reached, oldest);
}

fn revision_of(base: &Path) -> i64 {
    let name = base.file_name().unwrap().to_string_lossy().into_owned();
    name.split('-').nth(2).unwrap().parse().unwrap()
}
