//! The same random operations on our store and on Debian's etcd: every answer and every event must be the same.
//!
//! Keeps true: operations are drawn from a seed that is printed; errors are compared by code and text; events are
//! compared with what the operations before them made, one watch over everything being the witness; a run that did
//! too little of anything fails.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod generate;
mod side;

#[path = "../ports.rs"]
mod ports;

use clap::Parser;
use generate::{Generator, Now, Op};
use ports::free_port;
use raft::etcd::pb;
use side::{Answer, Side};
use std::{
    collections::BTreeMap,
    process::{Child, Command, Stdio},
    time::Instant,
};
use tokio_util::sync::CancellationToken;

/// Pairs of stores at work at the same time, and operations on each.
const PAIRS: u64 = 4;
const OPERATIONS: usize = 5_500;
/// Operations between two comparisons of all events.
const BATCH: usize = 100;
/// Watch streams of a pair. The first has the watch over everything, and only that.
const STREAMS: usize = 3;
/// Watches of a stream, at most.
const WATCHES: usize = 12;

/// What must have been reached, and how often at least.
const REACHED: &[(&str, usize)] = &[
    ("all", 20_000),
    ("put", 3_000),
    ("range", 3_000),
    ("range more", 100),
    ("delete", 1_000),
    ("txn", 2_000),
    ("txn inner", 200),
    ("compact", 30),
    ("grant", 50),
    ("grant short", 10),
    ("revoke", 50),
    ("keep alive", 50),
    ("time to live", 50),
    ("leases", 20),
    ("hash", 30),
    ("watch", 100),
    ("watch cancelled", 30),
    ("watch refused", 5),
    ("watch compacted", 10),
    ("progress", 30),
    ("event", 10_000),
    ("event with prev_kv", 1_000),
    ("etcdserver: key is not provided", 50),
    ("etcdserver: key not found", 30),
    ("etcdserver: value is provided", 5),
    ("etcdserver: lease is provided", 2),
    ("etcdserver: too many operations in txn request", 10),
    ("etcdserver: duplicate key given in txn request", 50),
    ("etcdserver: mvcc: required revision has been compacted", 50),
    ("etcdserver: mvcc: required revision is a future revision", 50),
    ("etcdserver: requested lease not found", 50),
    ("etcdserver: lease already exists", 5),
    ("etcdserver: too large lease TTL", 5),
];

type Counts = BTreeMap<String, usize>;

#[derive(Parser)]
struct Args {
    #[command(flatten)]
    flags: raft::Flags,
}

/// An etcd of one member, ended with the test.
struct Etcd {
    child: Child,
    port: u16,
    _folder: tempfile::TempDir,
}

impl Drop for Etcd {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Etcd {
    fn start() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let (port, peers) = (free_port(), free_port());
        let (client, peer) = (format!("http://127.0.0.1:{port}"), format!("http://127.0.0.1:{peers}"));
        let child = Command::new("etcd")
            .arg(format!("--data-dir={}", folder.path().display()))
            .args([format!("--listen-client-urls={client}"), format!("--advertise-client-urls={client}")])
            .args([format!("--listen-peer-urls={peer}"), format!("--initial-advertise-peer-urls={peer}")])
            .arg(format!("--initial-cluster=default={peer}"))
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("etcd must be installed: apt-get install etcd-server");
        Self { child, port, _folder: folder }
    }
}

/// A member of ours in this process.
struct Ours {
    port: u16,
    stop: CancellationToken,
    task: tokio::task::JoinHandle<()>,
    _folder: tempfile::TempDir,
}

impl Ours {
    fn start() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let (port, peers) = (free_port(), free_port());
        let args = format!(
            "store --data-dir {} --listen-client-urls http://127.0.0.1:{port} --listen-peer-urls \
             http://127.0.0.1:{peers} --initial-cluster default=http://127.0.0.1:{peers}",
            folder.path().display(),
        );
        let flags = Args::try_parse_from(args.split_whitespace()).unwrap().flags;
        let stop = CancellationToken::new();
        let token = stop.clone();
        let task = tokio::spawn(async move { raft::run(flags, token).await.unwrap() });
        Self { port, stop, task, _folder: folder }
    }

    /// Its database must be closed before the process ends.
    async fn stop(self) {
        self.stop.cancel();
        self.task.await.unwrap();
    }
}

/// A watch, as it was asked for.
struct Watching {
    stream: usize,
    id: i64,
    create: pb::WatchCreateRequest,
    from: i64,
}

struct Pair {
    ours: Side,
    etcd: Side,
    now: Now,
    watching: Vec<Watching>,
    /// All events since the first revision, as the witness saw them.
    history: Vec<pb::Event>,
    counts: Counts,
    seed: u64,
    done: usize,
}

impl Pair {
    fn count(&mut self, what: &str) {
        *self.counts.entry(what.into()).or_default() += 1;
    }

    /// Asks both; they must say the same.
    async fn ask(&mut self, op: &Op) -> Answer {
        let (ours, etcd) = tokio::join!(self.ours.ask(op), self.etcd.ask(op));
        assert_eq!(ours, etcd, "left ours, right etcd: seed {} operation {} {op:?}", self.seed, self.done);
        self.done += 1;
        self.count("all");
        match &ours {
            Ok(said) => self.learn(op, said),
            Err((_, text)) => self.count(&text.clone()),
        }
        ours
    }

    fn learn(&mut self, op: &Op, said: &str) {
        let revision = said.split("revision: ").nth(1).and_then(|rest| rest.split([',', ' ']).next());
        let revision = revision.and_then(|number| number.parse().ok()).unwrap_or_default();
        self.now.revision = self.now.revision.max(revision);
        let name = match op {
            Op::Put(_) => "put",
            Op::Range(_) => "range",
            Op::Delete(_) => "delete",
            Op::Txn(_) => "txn",
            Op::Compact(compact) => {
                self.now.compacted = compact.revision;
                "compact"
            }
            Op::Grant(_) => "grant",
            Op::GrantShort(_) => "grant short",
            Op::Revoke(_) => "revoke",
            Op::KeepAlive(_) => "keep alive",
            Op::TimeToLive(_) => "time to live",
            Op::Leases => "leases",
            Op::HashKv(_) => "hash",
            Op::Watch(..) => "watch",
            Op::Cancel(_) if said.contains("canceled: true") => "watch cancelled",
            Op::Cancel(_) => "nothing cancelled",
            Op::Progress(_) => "progress",
        };
        self.count(name);
        if name == "range" && said.contains("more: true") {
            self.count("range more");
        }
        if name == "txn" && said.contains("ResponseTxn") {
            self.count("txn inner");
        }
    }

    async fn step(&mut self, op: Op) {
        match &op {
            // What a watch is told depends on how far it has come.
            Op::Compact(_) => {
                self.compare_events().await;
                self.etcd.until_watches_have_caught_up().await;
            }
            Op::Watch(stream, _) if self.ours.watches(*stream).len() >= WATCHES => return,
            Op::Cancel(_) => self.compare_events().await,
            Op::Progress(stream) => {
                self.compare_events().await;
                // etcd 3.4 answers where nothing is watched, later versions do not.
                if self.ours.watches(*stream).is_empty() {
                    return;
                }
            }
            _ => {}
        }
        self.ask(&op).await.ok();
        match op {
            Op::Watch(stream, create) => self.created(stream, create).await,
            Op::Cancel(_) => {
                let live: Vec<Vec<i64>> = (0..STREAMS).map(|stream| self.ours.watches(stream)).collect();
                self.watching.retain(|watch| live[watch.stream].contains(&watch.id));
            }
            _ => {}
        }
    }

    async fn created(&mut self, stream: usize, create: pb::WatchCreateRequest) {
        let said = self.ours.heard(stream, |heard| heard.control.last().cloned()).unwrap();
        if said.canceled && said.created {
            return self.count("watch refused");
        }
        let from = match create.start_revision {
            0 => said.header.unwrap().revision + 1,
            revision => revision,
        };
        if from < self.now.compacted {
            self.count("watch compacted");
            return self.expect_compacted(stream).await;
        }
        self.watching.push(Watching { stream, id: said.watch_id, create, from });
    }

    /// The next thing that both say is that a watch needs compacted revisions.
    async fn expect_compacted(&mut self, stream: usize) {
        let mut said = Vec::new();
        for side in [&self.ours, &self.etcd] {
            let cancelled =
                || side.heard(stream, |heard| heard.control.last().filter(|last| !last.created).cloned());
            said.push(side.until("cancel a watch of what is compacted", cancelled).await.unwrap());
        }
        assert_eq!(said[0], said[1], "left ours, right etcd: seed {}", self.seed);
        assert_eq!((said[0].canceled, said[0].compact_revision), (true, self.now.compacted));
    }

    /// Waits until both have told the witness everything, then compares each watch with that.
    async fn compare_events(&mut self) {
        let revision = self.now.revision;
        let mut witnesses = Vec::new();
        for side in [&self.ours, &self.etcd] {
            let told = || {
                side.heard(0, |heard| heard.events.get(&0).cloned().unwrap_or_default()).into_iter().collect()
            };
            let complete = || {
                let events: Vec<pb::Event> = told();
                let last = events.last().or(self.history.last()).map_or(1, modified);
                (last >= revision).then_some(events)
            };
            witnesses.push(side.until("tell everything", complete).await.unwrap());
        }
        assert_eq!(witnesses[0], witnesses[1], "left ours, right etcd: seed {}", self.seed);
        let new = witnesses.swap_remove(0);
        self.history.extend(new);
        for side in [&self.ours, &self.etcd] {
            self.compare_watches(side).await;
        }
        let heard = (0..STREAMS).flat_map(|stream| self.ours.heard(stream, |heard| heard.events.clone()));
        for (_, events) in heard {
            *self.counts.entry("event".into()).or_default() += events.len();
            let with = events.iter().filter(|event| event.prev_kv.is_some()).count();
            *self.counts.entry("event with prev_kv".into()).or_default() += with;
        }
        self.ours.forget();
        self.etcd.forget();
        for watch in &mut self.watching {
            watch.from = watch.from.max(revision + 1);
        }
    }

    async fn compare_watches(&self, side: &Side) {
        for watch in &self.watching {
            let first = self.history.partition_point(|event| modified(event) < watch.from);
            let expect: Vec<pb::Event> =
                self.history[first..].iter().filter_map(|event| seen(watch, event)).collect();
            let heard = || side.heard(watch.stream, |h| h.events.get(&watch.id).cloned().unwrap_or_default());
            let enough = || (heard().len() >= expect.len()).then(heard);
            let context =
                || format!("{} seed {} watch {} of {:?}", side.name, self.seed, watch.id, watch.create);
            match side.until("tell a watch everything", enough).await {
                Ok(events) => assert_eq!(events, expect, "{}", context()),
                Err(why) => assert_eq!(heard(), expect, "{why}: {}", context()),
            }
        }
    }
}

fn modified(event: &pb::Event) -> i64 {
    event.kv.as_ref().map_or(0, |kv| kv.mod_revision)
}

/// An event as a watch is told it, if it is.
fn seen(watch: &Watching, event: &pb::Event) -> Option<pb::Event> {
    let create = &watch.create;
    let kv = event.kv.as_ref()?;
    let within = match create.range_end.as_ref() {
        b"" => kv.key == create.key || (create.key.is_empty() && kv.key == "\0"),
        b"\0" => kv.key >= create.key,
        end => kv.key >= create.key && kv.key.as_ref() < end,
    };
    // The kinds of events and the filters against them have the same numbers.
    let wanted = within && modified(event) >= watch.from && !create.filters.contains(&event.r#type);
    let prev_kv = event.prev_kv.clone().filter(|_| create.prev_kv);
    wanted.then(|| pb::Event { prev_kv, ..event.clone() })
}

async fn run(seed: u64) -> Counts {
    let (ours, etcd) = (Ours::start(), Etcd::start());
    let (ours_side, etcd_side) =
        tokio::join!(Side::connect("ours", ours.port, STREAMS), Side::connect("etcd", etcd.port, STREAMS));
    let now = Now { revision: 1, compacted: -1 };
    let (watching, history, counts) = (Vec::new(), Vec::new(), Counts::new());
    let mut pair = Pair { ours: ours_side, etcd: etcd_side, now, watching, history, counts, seed, done: 0 };
    let witness = pb::WatchCreateRequest { range_end: "\0".into(), prev_kv: true, ..Default::default() };
    pair.ask(&Op::Watch(0, witness)).await.unwrap();
    let mut generator = Generator::new(seed);
    while pair.done < OPERATIONS {
        let op = match generator.op(pair.now, STREAMS - 1) {
            Op::Watch(stream, create) => Op::Watch(stream + 1, create),
            Op::Cancel(stream) => Op::Cancel(stream + 1),
            Op::Progress(stream) => Op::Progress(stream + 1),
            op => op,
        };
        pair.step(op).await;
        if pair.done.is_multiple_of(BATCH) {
            pair.compare_events().await;
        }
    }
    pair.compare_events().await;
    let counts = std::mem::take(&mut pair.counts);
    drop(pair);
    ours.stop().await;
    counts
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn our_store_answers_as_etcd_does() {
    let begun = Instant::now();
    let seed = match std::env::var("TRIREME_SEED") {
        Ok(seed) => seed.parse().expect("TRIREME_SEED is a number"),
        Err(_) => rand::random_range(0..1 << 40),
    };
    println!("TRIREME_SEED={seed}");
    let mut runs = tokio::task::JoinSet::new();
    for number in 0..PAIRS {
        runs.spawn(run(seed + number));
    }
    let mut counts = Counts::new();
    while let Some(run) = runs.join_next().await {
        for (what, count) in run.unwrap() {
            *counts.entry(what).or_default() += count;
        }
    }
    println!("{counts:#?} in {:?}", begun.elapsed());
    for (what, least) in REACHED {
        let count = counts.get(*what).copied().unwrap_or_default();
        assert!(count >= *least, "{what}: {count} is too few, {least} are expected");
    }
}
