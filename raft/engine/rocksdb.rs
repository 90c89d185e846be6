//! RocksDB, opened and tuned in one place.
//!
//! Keeps true: a torn tail of the log's write-ahead log is cut, anything else that is broken is an error. The state's
//! database has no write-ahead log, and what is on its disk is always the state of one moment. Memory is bounded: one
//! small block cache and small memtables. When what is synced is left to the callers.

use super::{Open, Part, Use};
use rocksdb::{
    BlockBasedOptions, Cache, ColumnFamilyDescriptor, DB, DBCompressionType, DBRecoveryMode, FlushOptions,
    Options, ReadOptions, WriteBatch, WriteOptions,
};
use std::{
    io,
    path::Path,
    sync::{Arc, OnceLock},
};

/// Bytes of blocks kept in memory, for both databases together.
const BLOCK_CACHE: usize = 8 << 20;
/// Bytes of a memtable; at most [`MEMTABLES`] of each column family are in memory, and [`ALL_MEMTABLES`] bytes of a
/// database's.
const MEMTABLE: usize = 4 << 20;
const MEMTABLES: i32 = 2;
const ALL_MEMTABLES: usize = 6 << 20;
/// A database's write-ahead log is cut when it grows to this.
const WAL: u64 = 32 << 20;

/// Steps after which a search is cheaper.
const STEPS: usize = 4;

/// A database with named parts.
#[derive(Clone)]
pub(crate) struct Engine {
    db: Arc<DB>,
    usage: Use,
    parts: &'static [Part],
    /// Let go of after the database is closed: the order of these two fields matters.
    open: Arc<OnceLock<Open>>,
}

/// `InvalidData` when what is on the disk is not what was written there.
fn failed(error: rocksdb::Error) -> io::Error {
    let missing = error.as_ref().contains("No such file or directory");
    let damaged = error.kind() == rocksdb::ErrorKind::Corruption || missing;
    io::Error::new(if damaged { io::ErrorKind::InvalidData } else { io::ErrorKind::Other }, error)
}

impl Engine {
    /// Opens or makes a database.
    pub(crate) fn open(path: &Path, parts: &'static [Part], usage: Use) -> io::Result<Self> {
        let cache = Cache::new_lru_cache(BLOCK_CACHE / 2);
        let families =
            parts.iter().map(|part| ColumnFamilyDescriptor::new(*part, part_options(usage, &cache)));
        let mut options = Options::default();
        options.create_if_missing(true);
        options.create_missing_column_families(true);
        match usage {
            Use::Log => log_options(&mut options),
            Use::State => options.set_atomic_flush(true),
        }
        options.set_db_write_buffer_size(ALL_MEMTABLES);
        options.set_max_background_jobs(2);
        options.set_max_open_files(256);
        options.set_keep_log_file_num(2);
        options.set_stats_dump_period_sec(0);
        let db = DB::open_cf_descriptors(&options, path, families).map_err(failed)?;
        Ok(Self { db: Arc::new(db), usage, parts, open: Arc::default() })
    }

    /// Keeps this until the database is closed.
    pub(crate) fn keep(&self, open: Open) {
        // One who waits is enough.
        let _ = self.open.set(open);
    }

    /// One value.
    pub(crate) fn get(&self, part: Part, key: &[u8]) -> io::Result<Option<Vec<u8>>> {
        self.db.get_cf(&self.handle(part)?, key).map_err(failed)
    }

    /// Everything from a key on, in order, until `visit` says `false`.
    pub(crate) fn scan(
        &self,
        part: Part,
        from: &[u8],
        visit: impl FnMut(&[u8], &[u8]) -> io::Result<bool>,
    ) -> io::Result<()> {
        visit_all(self.db.iterator_cf(&self.handle(part)?, from_key(from)), visit)
    }

    /// The values of many keys, which must be in order, each handed to `visit` with its key's place in the list.
    pub(crate) fn get_all<K: AsRef<[u8]>>(
        &self,
        part: Part,
        keys: &[K],
        mut visit: impl FnMut(usize, Option<&[u8]>) -> io::Result<()>,
    ) -> io::Result<()> {
        let values =
            self.db.batched_multi_get_cf_opt(&self.handle(part)?, keys, true, &ReadOptions::default());
        for (place, value) in values.into_iter().enumerate() {
            visit(place, value.map_err(failed)?.as_deref())?;
        }
        Ok(())
    }

    /// As [`Engine::get_all`], for keys of which most follow one another: it steps from one to the next.
    pub(crate) fn walk<K: AsRef<[u8]>>(
        &self,
        part: Part,
        keys: &[K],
        mut visit: impl FnMut(usize, Option<&[u8]>) -> io::Result<()>,
    ) -> io::Result<()> {
        let mut at = self.db.raw_iterator_cf(&self.handle(part)?);
        for (place, key) in keys.iter().map(AsRef::as_ref).enumerate() {
            let mut steps = 0;
            while at.key().is_none_or(|found| found < key) {
                // Where nothing is, the iterator is at its end, or was never set.
                if steps == STEPS || !at.valid() {
                    at.seek(key);
                    break;
                }
                at.next();
                steps += 1;
            }
            if !at.valid() {
                at.status().map_err(failed)?;
            }
            visit(place, at.item().filter(|(found, _)| *found == key).map(|(_, value)| value))?;
        }
        Ok(())
    }

    /// The last key and value of a part.
    pub(crate) fn last(&self, part: Part) -> io::Result<Option<(Vec<u8>, Vec<u8>)>> {
        let found = self.db.iterator_cf(&self.handle(part)?, rocksdb::IteratorMode::End).next();
        found.transpose().map(|found| found.map(|(key, value)| (key.into(), value.into()))).map_err(failed)
    }

    /// Everything as it is now, whatever is written later.
    pub(crate) fn view(&self) -> View<'_> {
        View { engine: self, snapshot: self.db.snapshot() }
    }

    /// An empty batch.
    pub(crate) fn batch(&self) -> Batch<'_> {
        Batch { engine: self, batch: WriteBatch::default() }
    }

    /// Returns when all that was written is safe on the disk. After an error nothing may be written any more: which
    /// writes are on disk is unknown.
    pub(crate) fn sync(&self) -> io::Result<()> {
        match self.usage {
            Use::Log => self.db.flush_wal(true).map_err(failed),
            Use::State => {
                let handles =
                    self.parts.iter().map(|part| self.handle(part)).collect::<io::Result<Vec<_>>>()?;
                let all: Vec<_> = handles.iter().collect();
                self.db.flush_cfs_opt(&all, &FlushOptions::default()).map_err(failed)
            }
        }
    }

    /// Lets go of files that hold nothing but keys of a part before `to`; others of these keys stay.
    pub(crate) fn drop_before(&self, part: Part, to: &[u8]) -> io::Result<()> {
        self.db.delete_file_in_range_cf(&self.handle(part)?, &[][..], to).map_err(failed)
    }

    /// Bytes on disk, and bytes of them in use.
    pub(crate) fn size(&self, part: Part) -> (u64, u64) {
        let number = |name: &str| {
            let handle = self.handle(part).ok()?;
            self.db.property_int_value_cf(&handle, name).ok().flatten()
        };
        let memory = number("rocksdb.cur-size-all-mem-tables").unwrap_or_default();
        let total = number("rocksdb.total-sst-files-size").unwrap_or_default() + memory;
        let live = number("rocksdb.estimate-live-data-size").unwrap_or_default() + memory;
        (total, live.min(total))
    }

    /// Gives back the space of what was removed from a part. Reads and writes go on meanwhile.
    pub(crate) fn shrink(&self, part: Part) -> io::Result<()> {
        self.db.compact_range_cf(&self.handle(part)?, None::<&[u8]>, None::<&[u8]>);
        Ok(())
    }

    fn handle(&self, part: Part) -> io::Result<Arc<rocksdb::BoundColumnFamily<'_>>> {
        self.db
            .cf_handle(part)
            .ok_or_else(|| io::Error::other(format!("the database has no column family {part:?}")))
    }
}

/// A torn tail was never acknowledged; anything else that is broken must not be read over.
fn log_options(options: &mut Options) {
    options.set_manual_wal_flush(true);
    options.set_wal_recovery_mode(DBRecoveryMode::TolerateCorruptedTailRecords);
    options.set_track_and_verify_wals_in_manifest(true);
    options.set_recycle_log_file_num(0);
    options.set_max_total_wal_size(WAL);
}

fn from_key(key: &[u8]) -> rocksdb::IteratorMode<'_> {
    rocksdb::IteratorMode::From(key, rocksdb::Direction::Forward)
}

type Item = Result<(Box<[u8]>, Box<[u8]>), rocksdb::Error>;

fn visit_all(
    items: impl Iterator<Item = Item>,
    mut visit: impl FnMut(&[u8], &[u8]) -> io::Result<bool>,
) -> io::Result<()> {
    for item in items {
        let (key, value) = item.map_err(failed)?;
        if !visit(&key, &value)? {
            break;
        }
    }
    Ok(())
}

/// Entries of the log come in order and are let go of in whole files, so its files are moved down, never merged, and
/// live too short for compression to pay.
fn part_options(usage: Use, cache: &Cache) -> Options {
    let mut table = BlockBasedOptions::default();
    table.set_block_cache(cache);
    table.set_cache_index_and_filter_blocks(true);
    table.set_bloom_filter(10.0, false);
    let mut options = Options::default();
    options.set_block_based_table_factory(&table);
    options.set_write_buffer_size(MEMTABLE);
    options.set_max_write_buffer_number(MEMTABLES);
    options.set_compression_type(match usage {
        Use::Log => DBCompressionType::None,
        Use::State => DBCompressionType::Lz4,
    });
    options
}

/// A database as it was at one moment.
pub(crate) struct View<'a> {
    engine: &'a Engine,
    snapshot: rocksdb::SnapshotWithThreadMode<'a, DB>,
}

impl View<'_> {
    /// One value.
    pub(crate) fn get(&self, part: Part, key: &[u8]) -> io::Result<Option<Vec<u8>>> {
        self.snapshot.get_cf(&self.engine.handle(part)?, key).map_err(failed)
    }

    /// Everything from a key on, in order, until `visit` says `false`.
    pub(crate) fn scan(
        &self,
        part: Part,
        from: &[u8],
        visit: impl FnMut(&[u8], &[u8]) -> io::Result<bool>,
    ) -> io::Result<()> {
        visit_all(self.snapshot.iterator_cf(&self.engine.handle(part)?, from_key(from)), visit)
    }
}

/// Writes that happen together or not at all.
pub(crate) struct Batch<'a> {
    engine: &'a Engine,
    batch: WriteBatch,
}

impl Batch<'_> {
    /// Writes a value.
    pub(crate) fn put(&mut self, part: Part, key: &[u8], value: &[u8]) -> io::Result<()> {
        self.batch.put_cf(&self.engine.handle(part)?, key, value);
        Ok(())
    }

    /// Removes a value.
    pub(crate) fn delete(&mut self, part: Part, key: &[u8]) -> io::Result<()> {
        self.batch.delete_cf(&self.engine.handle(part)?, key);
        Ok(())
    }

    /// Removes the values of `[from, to)`.
    pub(crate) fn delete_range(&mut self, part: Part, from: &[u8], to: &[u8]) -> io::Result<()> {
        self.batch.delete_range_cf(&self.engine.handle(part)?, from, to);
        Ok(())
    }

    /// Does it.
    pub(crate) fn write(self) -> io::Result<()> {
        let mut options = WriteOptions::default();
        options.disable_wal(self.engine.usage == Use::State);
        self.engine.db.write_opt(self.batch, &options).map_err(failed)
    }
}
