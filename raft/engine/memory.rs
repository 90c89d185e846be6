//! A database in memory on a disk that fails as real ones do: for the simulator, and for tests without a disk.
//!
//! Keeps true: a batch is whole or not there; what was synced survives everything; after a power cut a part of the
//! rest survives, chosen by the caller, always from its beginning (a write-ahead log is torn at its end). A killed
//! process loses all of the rest. Once a write has failed, nothing more is written until the database is opened
//! again. What a failed sync was to save is lost, and the next sync does not tell: so do operating systems, and
//! whoever goes on after it has a hole.

use super::Part;
use std::{
    collections::BTreeMap,
    io,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
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

/// How a disk fails.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Faults {
    /// Writes fail.
    pub(crate) writes: bool,
    /// Syncs fail.
    pub(crate) syncs: bool,
}

#[derive(Default)]
struct Database {
    current: Parts,
    durable: Parts,
    /// Batches that were written and not synced, oldest first.
    unsynced: Vec<Vec<Op>>,
    broken: bool,
}

enum Op {
    Put(Part, Vec<u8>, Vec<u8>),
    Delete(Part, Vec<u8>),
    DeleteRange(Part, Vec<u8>, Vec<u8>),
}

/// What becomes of a member's disk when the member ends.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Crash {
    /// Only the process ends: of what was not synced, nothing had left it yet.
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
    pub(crate) fn open(&self, path: &Path, parts: &[Part]) -> Engine {
        let mut volume = locked(&self.0);
        let life = volume.life;
        let database = volume.databases.entry(path.into()).or_default();
        database.broken = false;
        for part in parts {
            database.current.entry(*part).or_default();
            database.durable.entry(*part).or_default();
        }
        Engine { disk: self.clone(), path: path.into(), life }
    }

    /// Sets how the disk fails from now on.
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
            Crash::Process => 0,
            Crash::Power { keep } => usize::try_from(keep % (all as u64 + 1)).unwrap_or(all),
        };
        self.unsynced.truncate(keep);
        self.settle();
        self.current = self.durable.clone();
        all - keep
    }

    /// What is not synced yet is on the disk now.
    fn settle(&mut self) {
        for op in self.unsynced.drain(..).flatten() {
            run(&mut self.durable, &op);
        }
    }
}

fn run(parts: &mut Parts, op: &Op) {
    match op {
        Op::Put(part, key, value) => {
            map(parts, part).insert(key.clone(), value.clone());
        }
        Op::Delete(part, key) => {
            map(parts, part).remove(key);
        }
        Op::DeleteRange(part, from, to) => map(parts, part).retain(|key, _| key < from || key >= to),
    }
}

fn map(parts: &mut Parts, part: Part) -> &mut Map {
    Arc::make_mut(parts.entry(part).or_default())
}

/// An open database.
#[derive(Clone)]
pub(crate) struct Engine {
    disk: Disk,
    path: PathBuf,
    life: u64,
}

impl Engine {
    /// Does something with the database, unless its member has crashed.
    fn with<T>(&self, act: impl FnOnce(&mut Database, Faults) -> io::Result<T>) -> io::Result<T> {
        let mut volume = locked(&self.disk.0);
        if volume.life != self.life {
            return Err(io::Error::other("the member that opened this database has crashed"));
        }
        let faults = volume.faults;
        act(volume.databases.get_mut(&self.path).ok_or_else(broken)?, faults)
    }

    pub(crate) fn get(&self, part: Part, key: &[u8]) -> io::Result<Option<Vec<u8>>> {
        self.with(|database, _| {
            let found = database.current.get(part).map(|map| map.get(key).cloned());
            found.ok_or_else(|| io::Error::other(format!("the database has no part {part:?}")))
        })
    }

    pub(crate) fn get_all<K: AsRef<[u8]>>(
        &self,
        part: Part,
        keys: &[K],
        mut visit: impl FnMut(usize, Option<&[u8]>) -> io::Result<()>,
    ) -> io::Result<()> {
        let view = self.view();
        let part = view.part(part)?;
        let mut keys = keys.iter().enumerate();
        keys.try_for_each(|(place, key)| visit(place, part.get(key.as_ref()).map(Vec::as_slice)))
    }

    pub(crate) fn last(&self, part: Part) -> io::Result<Option<(Vec<u8>, Vec<u8>)>> {
        Ok(self.view().part(part)?.last_key_value().map(|(key, value)| (key.clone(), value.clone())))
    }

    pub(crate) fn scan(
        &self,
        part: Part,
        from: &[u8],
        visit: impl FnMut(&[u8], &[u8]) -> io::Result<bool>,
    ) -> io::Result<()> {
        self.view().scan(part, from, visit)
    }

    /// A view of a member that has crashed is empty of parts: reading it is an error.
    pub(crate) fn view(&self) -> View {
        View(self.with(|database, _| Ok(database.current.clone())).unwrap_or_default())
    }

    pub(crate) fn batch(&self) -> Batch<'_> {
        Batch { engine: self, ops: Vec::new() }
    }

    pub(crate) fn sync(&self) -> io::Result<()> {
        self.with(|database, faults| {
            if database.broken {
                return Err(broken());
            }
            if faults.syncs {
                database.unsynced = Vec::new();
                return Err(broken());
            }
            database.settle();
            Ok(())
        })
    }

    /// Files are let go of when it suits: here at once.
    pub(crate) fn drop_before(&self, part: Part, to: &[u8]) -> io::Result<()> {
        let mut batch = self.batch();
        batch.delete_range(part, &[], to)?;
        batch.write()
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
        let found = self.0.get(part).map(Arc::as_ref);
        found.ok_or_else(|| io::Error::other(format!("the database has no part {part:?}")))
    }

    pub(crate) fn get(&self, part: Part, key: &[u8]) -> io::Result<Option<Vec<u8>>> {
        Ok(self.part(part)?.get(key).cloned())
    }

    pub(crate) fn scan(
        &self,
        part: Part,
        from: &[u8],
        mut visit: impl FnMut(&[u8], &[u8]) -> io::Result<bool>,
    ) -> io::Result<()> {
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
    engine: &'a Engine,
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
        self.engine.with(|database, faults| {
            database.broken |= faults.writes;
            if database.broken {
                return Err(broken());
            }
            for op in &self.ops {
                run(&mut database.current, op);
            }
            database.unsynced.push(self.ops);
            Ok(())
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PART: Part = "p";

    fn written(engine: &Engine, key: &[u8]) {
        let mut batch = engine.batch();
        batch.put(PART, key, b"1").unwrap();
        batch.put(PART, &[key, b"'"].concat(), b"2").unwrap();
        batch.write().unwrap();
    }

    fn keys(disk: &Disk) -> String {
        let engine = disk.open(Path::new("/d"), &[PART]);
        let keys = engine.view().0[PART].keys().flatten().copied().collect();
        String::from_utf8(keys).unwrap()
    }

    #[test]
    fn a_crash_leaves_what_it_should() {
        let check = |crash: Crash, expect: &str| {
            let disk = Disk::default();
            let engine = disk.open(Path::new("/d"), &[PART]);
            written(&engine, b"a");
            engine.sync().unwrap();
            written(&engine, b"b");
            written(&engine, b"c");
            disk.crash(crash);
            assert!(engine.batch().write().is_err(), "a dead member writes");
            assert_eq!(keys(&disk), expect, "{crash:?}");
        };
        check(Crash::Process, "aa'");
        check(Crash::Power { keep: 0 }, "aa'");
        check(Crash::Power { keep: 4 }, "aa'bb'");
        check(Crash::Power { keep: 2 }, "aa'bb'cc'");
    }

    #[test]
    fn a_write_that_failed_is_the_last() {
        let disk = Disk::default();
        let engine = disk.open(Path::new("/d"), &[PART]);
        disk.set(Faults { writes: true, ..Faults::default() });
        assert!(engine.batch().write().is_err());
        disk.set(Faults::default());
        assert!(engine.sync().is_err() && engine.batch().write().is_err());
    }

    #[test]
    fn what_a_failed_sync_was_to_save_is_lost() {
        let disk = Disk::default();
        let engine = disk.open(Path::new("/d"), &[PART]);
        written(&engine, b"a");
        disk.set(Faults { syncs: true, ..Faults::default() });
        assert!(engine.sync().is_err());
        disk.set(Faults::default());
        written(&engine, b"b");
        engine.sync().unwrap();
        assert_eq!(engine.get(PART, b"a").unwrap(), Some(b"1".to_vec()), "as long as the process runs");
        disk.crash(Crash::Power { keep: 0 });
        assert_eq!(keys(&disk), "bb'");
    }
}
