//! RocksDB, opened and tuned in one place.
//!
//! Keeps true: a torn tail of the write-ahead log is cut, a hole in it is an error. Memory is bounded: one small
//! block cache and small memtables.

use super::Part;
use rocksdb::{
    BlockBasedOptions, Cache, ColumnFamilyDescriptor, DB, DBCompressionType, DBRecoveryMode, Options,
    WriteBatch,
};
use std::{io, path::Path, sync::Arc};

/// Bytes of blocks kept in memory, for both databases together.
const BLOCK_CACHE: usize = 8 << 20;
/// Bytes of a memtable; at most [`MEMTABLES`] of each column family are in memory, and [`ALL_MEMTABLES`] bytes of a
/// database's.
const MEMTABLE: usize = 4 << 20;
const MEMTABLES: i32 = 2;
const ALL_MEMTABLES: usize = 6 << 20;
/// A database's write-ahead log is cut when it grows to this.
const WAL: u64 = 32 << 20;

/// A database.
#[derive(Clone)]
pub(crate) struct Store {
    db: Arc<DB>,
}

fn failed(error: rocksdb::Error) -> io::Error {
    io::Error::other(error)
}

impl Store {
    pub(crate) fn open(path: &Path, parts: &[Part], manual: bool) -> io::Result<Self> {
        let cache = Cache::new_lru_cache(BLOCK_CACHE / 2);
        let parts = parts.iter().map(|part| ColumnFamilyDescriptor::new(*part, part_options(&cache)));
        let mut options = Options::default();
        options.create_if_missing(true);
        options.create_missing_column_families(true);
        options.set_manual_wal_flush(manual);
        // A torn tail was never acknowledged; anything else that is broken must not be read over.
        options.set_wal_recovery_mode(DBRecoveryMode::TolerateCorruptedTailRecords);
        options.set_track_and_verify_wals_in_manifest(true);
        options.set_recycle_log_file_num(0);
        options.set_max_total_wal_size(WAL);
        options.set_db_write_buffer_size(ALL_MEMTABLES);
        options.set_max_background_jobs(2);
        options.set_max_open_files(256);
        options.set_keep_log_file_num(2);
        options.set_stats_dump_period_sec(0);
        let db = DB::open_cf_descriptors(&options, path, parts).map_err(failed)?;
        Ok(Self { db: Arc::new(db) })
    }

    pub(crate) fn get(&self, part: Part, key: &[u8]) -> io::Result<Option<Vec<u8>>> {
        self.db.get_cf(&self.handle(part)?, key).map_err(failed)
    }

    pub(crate) fn last(&self, part: Part) -> io::Result<Option<(Vec<u8>, Vec<u8>)>> {
        let found = self.db.iterator_cf(&self.handle(part)?, rocksdb::IteratorMode::End).next();
        found.transpose().map(|found| found.map(|(key, value)| (key.into(), value.into()))).map_err(failed)
    }

    pub(crate) fn view(&self) -> View<'_> {
        View { store: self, snapshot: self.db.snapshot() }
    }

    pub(crate) fn batch(&self) -> Batch<'_> {
        Batch { store: self, batch: WriteBatch::default() }
    }

    pub(crate) fn flush(&self, sync: bool) -> io::Result<()> {
        self.db.flush_wal(sync).map_err(failed)
    }

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

    fn handle(&self, part: Part) -> io::Result<Arc<rocksdb::BoundColumnFamily<'_>>> {
        self.db
            .cf_handle(part)
            .ok_or_else(|| io::Error::other(format!("the database has no column family {part:?}")))
    }
}

fn part_options(cache: &Cache) -> Options {
    let mut table = BlockBasedOptions::default();
    table.set_block_cache(cache);
    table.set_cache_index_and_filter_blocks(true);
    table.set_bloom_filter(10.0, false);
    let mut options = Options::default();
    options.set_block_based_table_factory(&table);
    options.set_write_buffer_size(MEMTABLE);
    options.set_max_write_buffer_number(MEMTABLES);
    options.set_compression_type(DBCompressionType::Lz4);
    options
}

/// A database as it was at one moment.
pub(crate) struct View<'a> {
    store: &'a Store,
    snapshot: rocksdb::SnapshotWithThreadMode<'a, DB>,
}

impl View<'_> {
    pub(crate) fn get(&self, part: Part, key: &[u8]) -> io::Result<Option<Vec<u8>>> {
        self.snapshot.get_cf(&self.store.handle(part)?, key).map_err(failed)
    }

    pub(crate) fn scan(&self, part: Part, from: &[u8], visit: super::Visit<'_>) -> io::Result<()> {
        let mode = rocksdb::IteratorMode::From(from, rocksdb::Direction::Forward);
        for item in self.snapshot.iterator_cf(&self.store.handle(part)?, mode) {
            let (key, value) = item.map_err(failed)?;
            if !visit(&key, &value)? {
                break;
            }
        }
        Ok(())
    }
}

/// Writes that happen together or not at all.
pub(crate) struct Batch<'a> {
    store: &'a Store,
    batch: WriteBatch,
}

impl Batch<'_> {
    pub(crate) fn put(&mut self, part: Part, key: &[u8], value: &[u8]) -> io::Result<()> {
        self.batch.put_cf(&self.store.handle(part)?, key, value);
        Ok(())
    }

    pub(crate) fn delete(&mut self, part: Part, key: &[u8]) -> io::Result<()> {
        self.batch.delete_cf(&self.store.handle(part)?, key);
        Ok(())
    }

    pub(crate) fn delete_range(&mut self, part: Part, from: &[u8], to: &[u8]) -> io::Result<()> {
        self.batch.delete_range_cf(&self.store.handle(part)?, from, to);
        Ok(())
    }

    pub(crate) fn write(self) -> io::Result<()> {
        self.store.db.write(self.batch).map_err(failed)
    }
}
