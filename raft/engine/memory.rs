//! A database in memory on a disk that fails as real ones do: for the simulator, and for tests without a disk.
//!
//! Keeps true: a batch is whole or not there; what was synced survives everything; after a power cut a part of the
//! rest survives, chosen by the caller, always from its beginning (a write-ahead log is torn at its end). A killed
//! process loses what it had not handed to the operating system. Once a write or sync has failed, nothing more is
//! written until the database is opened again, and what had not been synced then may be on the disk or not.

use super::{Part, Visit};
use std::{
    collections::BTreeMap,
    io,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

type Map = BTreeMap<Vec<u8>, Vec<u8>>;
type Parts = BTreeMap<Part, Arc<Map>>;

/// All disks of this process, by where they are mounted.
static DISKS: Mutex<BTreeMap<PathBuf, Disk>> = Mutex::new(BTreeMap::new());

/// A disk with its databases.
#[derive(Clone, Default)]
pub(crate) struct Disk(Arc<Mutex<Volume>>);

#[derive(Default)]
struct Volume {
    databases: BTreeMap<PathBuf, Database>,
    faults: Faults,
    /// Counts crashes, so that what was opened before one cannot write after it.
    life: u64,
}

/// How a disk behaves.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Faults {
    /// How long a sync of the log takes.
    pub(crate) sync: Duration,
    /// Writes fail.
    pub(crate) writes_fail: bool,
    /// Syncs fail.
    pub(crate) syncs_fail: bool,
}

#[derive(Default)]
struct Database {
    current: Parts,
    durable: Parts,
    /// Batches that were written and not synced, oldest first.
    unsynced: Vec<Vec<Op>>,
    /// How many of them a killed process leaves behind.
    handed_over: usize,
    manual: bool,
    broken: bool,
}

#[derive(Clone)]
enum Op {
    Put(Part, Vec<u8>, Vec<u8>),
    Delete(Part, Vec<u8>),
    DeleteRange(Part, Vec<u8>, Vec<u8>),
}

/// What becomes of a member's disk when the member ends.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Crash {
    /// Only the process ends: what it had handed over stays.
    Process,
    /// The power fails: of `n` batches that were not synced, `keep % (n + 1)` stay.
    Power {
        /// A random number.
        keep: u64,
    },
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn broken() -> io::Error {
    io::Error::other("simulated disk error")
}

impl Disk {
    /// Makes databases under a path use this disk.
    pub(crate) fn mount(&self, path: &Path) {
        locked(&DISKS).insert(path.into(), self.clone());
    }

    /// The disk mounted at a path or above.
    pub(crate) fn mounted(path: &Path) -> Option<Self> {
        let disks = locked(&DISKS);
        path.ancestors().find_map(|above| disks.get(above).cloned())
    }

    /// Opens or makes a database.
    pub(crate) fn open(&self, path: &Path, parts: &[Part], manual: bool) -> io::Result<Store> {
        let mut volume = locked(&self.0);
        let life = volume.life;
        let database = volume.databases.entry(path.into()).or_default();
        database.manual = manual;
        database.broken = false;
        for part in parts {
            database.current.entry(*part).or_default();
            database.durable.entry(*part).or_default();
        }
        Ok(Store { disk: self.clone(), path: path.into(), life })
    }

    /// Sets how the disk behaves from now on.
    pub(crate) fn set(&self, faults: Faults) {
        locked(&self.0).faults = faults;
    }

    /// Ends everything that has a database open. Returns how many batches were lost.
    pub(crate) fn crash(&self, crash: Crash) -> usize {
        let mut volume = locked(&self.0);
        volume.life += 1;
        volume.databases.values_mut().map(|database| database.crash(crash)).sum()
    }
}

impl Database {
    fn crash(&mut self, crash: Crash) -> usize {
        let all = self.unsynced.len();
        let keep = match crash {
            Crash::Process => self.handed_over,
            Crash::Power { keep } => usize::try_from(keep % (all as u64 + 1)).unwrap_or(all),
        };
        self.unsynced.truncate(keep);
        self.settle(keep);
        self.current = self.durable.clone();
        all - keep
    }

    /// The oldest unsynced batches are on the disk now.
    fn settle(&mut self, batches: usize) {
        for op in self.unsynced.drain(..batches).flatten() {
            run(&mut self.durable, op);
        }
        self.handed_over = self.handed_over.saturating_sub(batches);
    }
}

fn run(parts: &mut Parts, op: Op) {
    match op {
        Op::Put(part, key, value) => {
            map(parts, part).insert(key, value);
        }
        Op::Delete(part, key) => {
            map(parts, part).remove(&key);
        }
        Op::DeleteRange(part, from, to) => map(parts, part).retain(|key, _| *key < from || *key >= to),
    }
}

fn map(parts: &mut Parts, part: Part) -> &mut Map {
    Arc::make_mut(parts.entry(part).or_default())
}

/// An open database.
#[derive(Clone)]
pub(crate) struct Store {
    disk: Disk,
    path: PathBuf,
    life: u64,
}

impl Store {
    /// Does something with the database, unless its member has crashed or the disk has failed.
    fn with<T>(&self, act: impl FnOnce(&mut Database, Faults) -> io::Result<T>) -> io::Result<T> {
        let mut volume = locked(&self.disk.0);
        if volume.life != self.life {
            return Err(io::Error::other("the member that opened this database has crashed"));
        }
        let faults = volume.faults;
        act(volume.databases.get_mut(&self.path).ok_or_else(broken)?, faults)
    }

    pub(crate) fn get(&self, part: Part, key: &[u8]) -> io::Result<Option<Vec<u8>>> {
        self.view().get(part, key)
    }

    pub(crate) fn last(&self, part: Part) -> io::Result<Option<(Vec<u8>, Vec<u8>)>> {
        Ok(self.view().part(part)?.last_key_value().map(|(key, value)| (key.clone(), value.clone())))
    }

    pub(crate) fn view(&self) -> View {
        View(self.with(|database, _| Ok(database.current.clone())).unwrap_or_default())
    }

    pub(crate) fn batch(&self) -> Batch<'_> {
        Batch { store: self, ops: Vec::new() }
    }

    pub(crate) fn flush(&self, sync: bool) -> io::Result<()> {
        self.with(|database, faults| {
            if database.broken || (sync && faults.syncs_fail) {
                database.broken = true;
                return Err(broken());
            }
            database.handed_over = database.unsynced.len();
            if sync {
                database.settle(database.unsynced.len());
            }
            Ok(())
        })
    }

    /// A sync that takes its time. What is written meanwhile is not covered by it.
    pub(crate) async fn sync(&self) -> io::Result<()> {
        let (batches, pause) = self.with(|database, faults| Ok((database.unsynced.len(), faults.sync)))?;
        if !pause.is_zero() {
            tokio::time::sleep(pause).await;
        }
        self.with(|database, faults| {
            if database.broken || faults.syncs_fail {
                database.broken = true;
                return Err(broken());
            }
            database.settle(batches.min(database.unsynced.len()));
            Ok(())
        })
    }

    pub(crate) fn size(&self, part: Part) -> (u64, u64) {
        let view = self.view();
        let bytes = |map: &Arc<Map>| map.iter().map(|(key, value)| (key.len() + value.len()) as u64).sum();
        let bytes = view.0.get(part).map_or(0, bytes);
        (bytes, bytes)
    }
}

/// A database as it was at one moment.
pub(crate) struct View(Parts);

impl View {
    fn part(&self, part: Part) -> io::Result<&Map> {
        self.0
            .get(part)
            .map(Arc::as_ref)
            .ok_or_else(|| io::Error::other(format!("no column family {part:?}")))
    }

    pub(crate) fn get(&self, part: Part, key: &[u8]) -> io::Result<Option<Vec<u8>>> {
        Ok(self.part(part)?.get(key).cloned())
    }

    pub(crate) fn scan(&self, part: Part, from: &[u8], visit: Visit<'_>) -> io::Result<()> {
        for (key, value) in self.part(part)?.range(from.to_vec()..) {
            if !visit(key, value)? {
                break;
            }
        }
        Ok(())
    }
}

/// Writes that happen together or not at all.
pub(crate) struct Batch<'a> {
    store: &'a Store,
    ops: Vec<Op>,
}

impl Batch<'_> {
    pub(crate) fn put(&mut self, part: Part, key: &[u8], value: &[u8]) -> io::Result<()> {
        self.ops.push(Op::Put(part, key.into(), value.into()));
        Ok(())
    }

    pub(crate) fn delete(&mut self, part: Part, key: &[u8]) -> io::Result<()> {
        self.ops.push(Op::Delete(part, key.into()));
        Ok(())
    }

    pub(crate) fn delete_range(&mut self, part: Part, from: &[u8], to: &[u8]) -> io::Result<()> {
        self.ops.push(Op::DeleteRange(part, from.into(), to.into()));
        Ok(())
    }

    pub(crate) fn write(self) -> io::Result<()> {
        self.store.with(|database, faults| {
            database.broken |= faults.writes_fail;
            if database.broken {
                return Err(broken());
            }
            for op in self.ops.iter().cloned() {
                run(&mut database.current, op);
            }
            database.unsynced.push(self.ops);
            if !database.manual {
                database.handed_over = database.unsynced.len();
            }
            Ok(())
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PART: Part = "p";

    fn written(store: &Store, key: &[u8]) {
        let mut batch = store.batch();
        batch.put(PART, key, b"1").unwrap();
        batch.put(PART, &[key, b"'"].concat(), b"2").unwrap();
        batch.write().unwrap();
    }

    fn keys(disk: &Disk) -> String {
        let store = disk.open(Path::new("/d"), &[PART], true).unwrap();
        let keys = store.view().0[PART].keys().flatten().copied().collect();
        String::from_utf8(keys).unwrap()
    }

    #[test]
    fn a_crash_leaves_what_it_should() {
        let check = |crash: Crash, expect: &str| {
            let disk = Disk::default();
            let store = disk.open(Path::new("/d"), &[PART], true).unwrap();
            written(&store, b"a");
            store.flush(true).unwrap();
            written(&store, b"b");
            store.flush(false).unwrap();
            written(&store, b"c");
            disk.crash(crash);
            assert!(store.batch().write().is_err(), "a dead member writes");
            assert_eq!(keys(&disk), expect, "{crash:?}");
        };
        check(Crash::Process, "aa'bb'");
        check(Crash::Power { keep: 0 }, "aa'");
        check(Crash::Power { keep: 4 }, "aa'bb'");
        check(Crash::Power { keep: 2 }, "aa'bb'cc'");
    }

    #[test]
    fn a_disk_that_failed_takes_nothing_more() {
        let disk = Disk::default();
        let store = disk.open(Path::new("/d"), &[PART], true).unwrap();
        written(&store, b"a");
        disk.set(Faults { syncs_fail: true, ..Faults::default() });
        assert!(store.flush(true).is_err());
        disk.set(Faults::default());
        assert!(store.flush(true).is_err() && store.batch().write().is_err());
        disk.crash(Crash::Power { keep: 0 });
        assert_eq!(keys(&disk), "");
    }
}
