//! The databases of tests: RocksDB's, or in memory where a [`Disk`] is mounted.
//!
//! Keeps true: what is under test is handed on as it is. It is the only place that knows both kinds.

use super::{Open, Part, Use, memory, memory::Disk, rocksdb};
use std::{io, path::Path};

/// A database with named parts.
#[derive(Clone)]
pub(crate) enum Engine {
    RocksDb(rocksdb::Engine),
    Memory(memory::Engine),
}

/// A database as it was at one moment.
pub(crate) enum View<'a> {
    RocksDb(rocksdb::View<'a>),
    Memory(memory::View),
}

/// Writes that happen together or not at all.
pub(crate) enum Batch<'a> {
    RocksDb(rocksdb::Batch<'a>),
    Memory(memory::Batch<'a>),
}

/// Does the same with either kind.
macro_rules! with {
    ($value:expr, $inner:ident => $done:expr) => {
        match $value {
            Self::RocksDb($inner) => $done,
            Self::Memory($inner) => $done,
        }
    };
}

impl Engine {
    pub(crate) fn open(path: &Path, parts: &'static [Part], usage: Use) -> io::Result<Self> {
        match Disk::mounted(path) {
            Some(disk) => Ok(Self::Memory(disk.open(path, parts))),
            None => rocksdb::Engine::open(path, parts, usage).map(Self::RocksDb),
        }
    }

    pub(crate) fn keep(&self, open: Open) {
        if let Self::RocksDb(engine) = self {
            engine.keep(open);
        }
    }

    pub(crate) fn get(&self, part: Part, key: &[u8]) -> io::Result<Option<Vec<u8>>> {
        with!(self, engine => engine.get(part, key))
    }

    pub(crate) fn scan(
        &self,
        part: Part,
        from: &[u8],
        visit: impl FnMut(&[u8], &[u8]) -> io::Result<bool>,
    ) -> io::Result<()> {
        with!(self, engine => engine.scan(part, from, visit))
    }

    pub(crate) fn get_all<K: AsRef<[u8]>>(
        &self,
        part: Part,
        keys: &[K],
        visit: impl FnMut(usize, Option<&[u8]>) -> io::Result<()>,
    ) -> io::Result<()> {
        with!(self, engine => engine.get_all(part, keys, visit))
    }

    pub(crate) fn walk<K: AsRef<[u8]>>(
        &self,
        part: Part,
        keys: &[K],
        visit: impl FnMut(usize, Option<&[u8]>) -> io::Result<()>,
    ) -> io::Result<()> {
        match self {
            Self::RocksDb(engine) => engine.walk(part, keys, visit),
            Self::Memory(engine) => engine.get_all(part, keys, visit),
        }
    }

    pub(crate) fn last(&self, part: Part) -> io::Result<Option<(Vec<u8>, Vec<u8>)>> {
        with!(self, engine => engine.last(part))
    }

    pub(crate) fn view(&self) -> View<'_> {
        match self {
            Self::RocksDb(engine) => View::RocksDb(engine.view()),
            Self::Memory(engine) => View::Memory(engine.view()),
        }
    }

    pub(crate) fn batch(&self) -> Batch<'_> {
        match self {
            Self::RocksDb(engine) => Batch::RocksDb(engine.batch()),
            Self::Memory(engine) => Batch::Memory(engine.batch()),
        }
    }

    pub(crate) fn sync(&self) -> io::Result<()> {
        with!(self, engine => engine.sync())
    }

    pub(crate) fn drop_before(&self, part: Part, to: &[u8]) -> io::Result<()> {
        with!(self, engine => engine.drop_before(part, to))
    }

    pub(crate) fn size(&self, part: Part) -> (u64, u64) {
        with!(self, engine => engine.size(part))
    }

    pub(crate) fn shrink(&self, part: Part) -> io::Result<()> {
        match self {
            Self::RocksDb(engine) => engine.shrink(part),
            Self::Memory(_) => Ok(()),
        }
    }
}

impl View<'_> {
    pub(crate) fn get(&self, part: Part, key: &[u8]) -> io::Result<Option<Vec<u8>>> {
        with!(self, view => view.get(part, key))
    }

    pub(crate) fn scan(
        &self,
        part: Part,
        from: &[u8],
        visit: impl FnMut(&[u8], &[u8]) -> io::Result<bool>,
    ) -> io::Result<()> {
        with!(self, view => view.scan(part, from, visit))
    }
}

impl Batch<'_> {
    pub(crate) fn put(&mut self, part: Part, key: &[u8], value: &[u8]) -> io::Result<()> {
        with!(self, batch => batch.put(part, key, value))
    }

    pub(crate) fn delete(&mut self, part: Part, key: &[u8]) -> io::Result<()> {
        with!(self, batch => batch.delete(part, key))
    }

    pub(crate) fn delete_range(&mut self, part: Part, from: &[u8], to: &[u8]) -> io::Result<()> {
        with!(self, batch => batch.delete_range(part, from, to))
    }

    pub(crate) fn write(self) -> io::Result<()> {
        with!(self, batch => batch.write())
    }
}
