//! Where bytes rest: databases with named parts, in RocksDB or, in tests, in a memory that can fail like a disk.
//!
//! Keeps true: a batch is written whole or not at all; what was synced survives a power cut, what was not is lost
//! from its end. The log's database is written by `log.rs` only and synced before anything is acknowledged; the
//! state's is never synced by itself, because the log can repeat it, except before the log is cut. What the bytes
//! mean is left to the callers.

#[cfg(test)]
pub(crate) mod memory;
mod rocksdb;

use std::{io, path::Path};

/// One part of a database.
pub(crate) type Part = &'static str;
/// Is shown keys with their values until it says `false`.
pub(crate) type Visit<'a> = &'a mut dyn FnMut(&[u8], &[u8]) -> io::Result<bool>;

/// A database with named parts.
#[derive(Clone)]
pub(crate) enum Engine {
    /// On disk.
    RocksDb(rocksdb::Store),
    /// In memory.
    #[cfg(test)]
    Memory(memory::Store),
}

/// A database as it was at one moment.
pub(crate) enum View<'a> {
    /// On disk.
    RocksDb(rocksdb::View<'a>),
    /// In memory.
    #[cfg(test)]
    Memory(memory::View),
}

/// Writes that happen together or not at all.
pub(crate) enum Batch<'a> {
    /// On disk.
    RocksDb(rocksdb::Batch<'a>),
    /// In memory.
    #[cfg(test)]
    Memory(memory::Batch<'a>),
}

/// Does the same with either kind.
macro_rules! with {
    ($value:expr, $inner:ident => $done:expr) => {
        match $value {
            Self::RocksDb($inner) => $done,
            #[cfg(test)]
            Self::Memory($inner) => $done,
        }
    };
}

impl Engine {
    /// Opens or makes a database. Writes reach the file only with [`Engine::flush`] when `manual`.
    pub(crate) fn open(path: &Path, parts: &[Part], manual: bool) -> io::Result<Self> {
        #[cfg(test)]
        if let Some(disk) = memory::Disk::mounted(path) {
            return disk.open(path, parts, manual).map(Self::Memory);
        }
        rocksdb::Store::open(path, parts, manual).map(Self::RocksDb)
    }

    /// One value.
    pub(crate) fn get(&self, part: Part, key: &[u8]) -> io::Result<Option<Vec<u8>>> {
        with!(self, store => store.get(part, key))
    }

    /// Everything from a key on, in order, until `visit` says `false`.
    pub(crate) fn scan(
        &self,
        part: Part,
        from: &[u8],
        visit: impl FnMut(&[u8], &[u8]) -> io::Result<bool>,
    ) -> io::Result<()> {
        self.view().scan(part, from, visit)
    }

    /// The last key and value of a part.
    pub(crate) fn last(&self, part: Part) -> io::Result<Option<(Vec<u8>, Vec<u8>)>> {
        with!(self, store => store.last(part))
    }

    /// Everything as it is now, whatever is written later.
    pub(crate) fn view(&self) -> View<'_> {
        match self {
            Self::RocksDb(store) => View::RocksDb(store.view()),
            #[cfg(test)]
            Self::Memory(store) => View::Memory(store.view()),
        }
    }

    /// An empty batch.
    pub(crate) fn batch(&self) -> Batch<'_> {
        match self {
            Self::RocksDb(store) => Batch::RocksDb(store.batch()),
            #[cfg(test)]
            Self::Memory(store) => Batch::Memory(store.batch()),
        }
    }

    /// Hands what was written to the operating system, and with `sync` to the disk. After an error nothing may be
    /// written any more: which writes are on disk is unknown.
    pub(crate) fn flush(&self, sync: bool) -> io::Result<()> {
        with!(self, store => store.flush(sync))
    }

    /// [`Engine::flush`] to the disk, for the log's writer. Only a simulated disk lets others run meanwhile.
    pub(crate) async fn sync(&self) -> io::Result<()> {
        #[cfg(test)]
        if let Self::Memory(store) = self {
            return store.sync().await;
        }
        self.flush(true)
    }

    /// Bytes on disk, and bytes of them in use.
    pub(crate) fn size(&self, part: Part) -> (u64, u64) {
        with!(self, store => store.size(part))
    }
}

impl View<'_> {
    /// One value.
    pub(crate) fn get(&self, part: Part, key: &[u8]) -> io::Result<Option<Vec<u8>>> {
        with!(self, view => view.get(part, key))
    }

    /// Everything from a key on, in order, until `visit` says `false`.
    pub(crate) fn scan(
        &self,
        part: Part,
        from: &[u8],
        mut visit: impl FnMut(&[u8], &[u8]) -> io::Result<bool>,
    ) -> io::Result<()> {
        with!(self, view => view.scan(part, from, &mut visit))
    }
}

impl Batch<'_> {
    /// Writes a value.
    pub(crate) fn put(&mut self, part: Part, key: &[u8], value: &[u8]) -> io::Result<()> {
        with!(self, batch => batch.put(part, key, value))
    }

    /// Removes a value.
    pub(crate) fn delete(&mut self, part: Part, key: &[u8]) -> io::Result<()> {
        with!(self, batch => batch.delete(part, key))
    }

    /// Removes the values of `[from, to)`.
    pub(crate) fn delete_range(&mut self, part: Part, from: &[u8], to: &[u8]) -> io::Result<()> {
        with!(self, batch => batch.delete_range(part, from, to))
    }

    /// Does it.
    pub(crate) fn write(self) -> io::Result<()> {
        with!(self, batch => batch.write())
    }
}
