//! openraft's own suite over the log and the state, on RocksDB and in memory, and what it does not look at.

use super::*;
use crate::{
    command::{Command, Put},
    engine::{Open, memory::Disk},
    log::Log,
    record::Record,
    types::TypeConfig,
};
use openraft::{
    RaftLogReader, RaftSnapshotBuilder, StorageError,
    storage::{RaftLogStorage, RaftStateMachine},
    testing::log::StoreBuilder,
};
use std::{
    convert::Infallible,
    time::{Duration, Instant},
};
use tokio::sync::mpsc;

const PATIENCE: Duration = Duration::from_secs(10);

/// A folder for databases. A process that ends while a database is being closed crashes in it, so its end waits until
/// the threads of all that was opened here have let go.
struct Place {
    folder: tempfile::TempDir,
    open: Option<Open>,
    closed: mpsc::Receiver<Infallible>,
}

impl Place {
    fn new() -> Self {
        let (open, closed) = mpsc::channel(1);
        Self { folder: tempfile::tempdir().unwrap(), open: Some(open), closed }
    }

    /// Its databases are in memory.
    fn in_memory() -> Self {
        let place = Self::new();
        Disk::default().mount(place.folder.path());
        place
    }

    fn machine(&self) -> io::Result<(Arc<Machine>, Applier)> {
        let (machine, applier) = Machine::open(self.folder.path())?;
        machine.engine.keep(self.open.clone().unwrap());
        Ok((machine, applier))
    }

    fn log(&self) -> io::Result<Log> {
        let log = Log::open(&self.folder.path().join("log"), |_| {})?;
        log.keep(self.open.clone().unwrap());
        Ok(log)
    }

    /// As [`Place::machine`], once the threads of an earlier one have let go of the database.
    fn machine_again(&self) -> (Arc<Machine>, Applier) {
        again(|| self.machine())
    }
}

fn again<T>(mut open: impl FnMut() -> io::Result<T>) -> T {
    let begun = Instant::now();
    loop {
        match open() {
            Ok(opened) => return opened,
            Err(error) => assert!(begun.elapsed() < PATIENCE, "{error}"),
        }
        std::thread::sleep(Duration::from_millis(1));
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.open = None;
        let begun = Instant::now();
        while !matches!(self.closed.try_recv(), Err(mpsc::error::TryRecvError::Disconnected)) {
            assert!(begun.elapsed() < PATIENCE || std::thread::panicking(), "a database is not closed");
            std::thread::sleep(Duration::from_millis(1));
        }
    }
}

/// Makes such places.
struct Builder(fn() -> Place);

impl StoreBuilder<TypeConfig, Log, Applier, Place> for Builder {
    async fn build(&self) -> Result<(Place, Log, Applier), StorageError<TypeConfig>> {
        let place = self.0();
        let (log, (_, applier)) = (place.log().unwrap(), place.machine().unwrap());
        Ok((place, log, applier))
    }
}

#[test]
fn openraft_accepts_the_log_and_the_state() {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let suite = openraft::testing::log::Suite::<TypeConfig, Log, Applier, Builder, Place>::test_all;
    for place in [Place::new, Place::in_memory] {
        runtime.block_on(suite(Builder(place))).unwrap();
    }
}

fn entry(index: u64, key: &str, value: &str) -> Entry {
    let put = Put { key: key.to_owned().into(), value: value.to_owned().into(), ..Put::default() };
    let id = openraft::testing::log_id::<TypeConfig>(1, 1, index);
    Entry { log_id: id, payload: EntryPayload::Normal(Command::Put(put)) }
}

fn all() -> Range {
    Range { key: vec![0].into(), end: vec![0].into(), ..Range::default() }
}

fn machine_with(place: &Place, entries: u64) -> (Arc<Machine>, Applier) {
    let (machine, applier) = place.machine().unwrap();
    for index in 0..entries {
        let key = format!("k{}", index % 7);
        machine.apply(vec![(entry(index, &key, &format!("v{index}")), None)]).unwrap();
    }
    (machine, applier)
}

#[test]
fn a_restart_repeats_nothing_and_forgets_nothing() {
    [Place::new(), Place::in_memory()].into_iter().for_each(check_restart);
}

fn check_restart(place: Place) {
    let (machine, applier) = machine_with(&place, 30);
    let compact = Entry {
        log_id: openraft::testing::log_id::<TypeConfig>(1, 1, 30),
        payload: EntryPayload::Normal(Command::Compact(20)),
    };
    machine.apply(vec![(compact, None)]).unwrap();
    let (before, hash, saved) = (machine.range(&all()).unwrap(), machine.hash(0).unwrap(), machine.saved());
    drop((machine, applier));
    let (machine, _applier) = place.machine_again();
    assert_eq!(machine.range(&all()).unwrap(), before);
    assert_eq!(machine.hash(0).unwrap(), hash);
    assert_eq!(machine.saved().applied, saved.applied);
    assert!(matches!(machine.history(19), Err(HistoryError::Compacted(20))));
    let history = machine.history(20).unwrap();
    assert_eq!(history.iter().map(|c| c.revision).collect::<Vec<_>>(), (20..=31).collect::<Vec<_>>());
}

/// However far apart they lie, in whatever order they are wanted, and when some are not there.
#[test]
fn many_values_are_read_as_one_by_one() {
    [Place::new(), Place::in_memory()].into_iter().for_each(check_values);
}

fn check_values(place: Place) {
    let (machine, _applier) = machine_with(&place, 300);
    let view = Disk(&machine.engine);
    for step in [1, 2, 3, 7, 50] {
        let mut wanted: Vec<Revision> =
            (2..400).step_by(step).map(|main| Revision { main, sub: 0 }).collect();
        wanted.extend([Revision { main: 3, sub: 5 }, Revision { main: 1, sub: 0 }]);
        wanted.sort_unstable_by_key(|revision| revision.main * 7919 % 401);
        let expect: Vec<_> =
            wanted.iter().map(|r| view.load(*r).unwrap().map(|kv| Record::from(&*kv))).collect();
        assert_eq!(view.records(&wanted).unwrap(), expect, "every {step}");
        assert_eq!(expect.iter().flatten().count(), (2..302).step_by(step).count());
    }
    assert_eq!(view.records(&[]).unwrap(), []);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_snapshot_makes_another_member_the_same() {
    for (one, other) in [(Place::new(), Place::new()), (Place::new(), Place::in_memory())] {
        check_snapshot(one, other).await;
    }
}

async fn check_snapshot(one: Place, other: Place) {
    let (machine, mut applier) = machine_with(&one, 50);
    let (copy, mut receiver) = machine_with(&other, 3);
    let snapshot = applier.build_snapshot().await.unwrap();
    // What is written after the snapshot began is not in it.
    machine.apply(vec![(entry(50, "late", "x"), None)]).unwrap();
    receiver.install_snapshot(&snapshot.meta, snapshot.snapshot).await.unwrap();
    assert_eq!(copy.hash(0).unwrap(), machine.hash(51).unwrap());
    assert_eq!((copy.revision(), copy.saved().applied), (51, snapshot.meta.last_log_id));
    assert_eq!(copy.history(2).unwrap().len(), 50);
    assert_eq!(std::fs::read_dir(&copy.spool).unwrap().count(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hole_in_the_log_is_found_at_the_start() {
    let place = Place::new();
    {
        let mut log = place.log().unwrap();
        for index in [1, 2, 4] {
            let (done, flushed) = tokio::sync::oneshot::channel();
            let _ = done.send(());
            log.append([entry(index, "k", "v")], openraft::storage::IOFlushed::noop()).await.unwrap();
            flushed.await.unwrap();
        }
        // Waits for the writer.
        log.read_committed().await.unwrap();
    }
    let error = loop {
        match place.log() {
            Err(error) if error.to_string().contains("lock") => tokio::task::yield_now().await,
            Err(error) => break error,
            Ok(_) => panic!("a hole was not found"),
        }
    };
    assert!(error.to_string().contains("hole before entry 4"), "{error}");
}

/// What is only on disk and what is only in memory are one log: a member that restarts reads across both.
#[tokio::test(flavor = "multi_thread")]
async fn a_read_may_begin_on_disk_and_end_in_memory() {
    let place = Place::new();
    {
        let mut log = place.log().unwrap();
        log.append((0..10).map(|index| entry(index, "k", "v")), openraft::storage::IOFlushed::noop())
            .await
            .unwrap();
        log.read_committed().await.unwrap();
    }
    let mut log = again(|| place.log());
    log.append((10..20).map(|index| entry(index, "k", "v")), openraft::storage::IOFlushed::noop())
        .await
        .unwrap();
    let mut check = async |from: u64, to: u64, expect: std::ops::Range<u64>| {
        let read = log.try_get_log_entries(from..to).await.unwrap();
        assert_eq!(
            read.iter().map(RaftEntry::index).collect::<Vec<_>>(),
            expect.collect::<Vec<_>>(),
            "{from}..{to}"
        );
    };
    check(0, 20, 0..20).await;
    check(5, 15, 5..15).await;
    check(2, 8, 2..8).await;
    check(12, 14, 12..14).await;
    check(15, 99, 15..20).await;
    check(20, 30, 20..20).await;
}
