//! The one writer of a folder of an archive, on a thread of its own.
//!
//! Keeps true: entries follow one another without a hole, or a new base begins; what was written is not trusted after
//! an error: the folder is opened anew, and what a crash cut off is removed before anything is added. A folder has one
//! writer at a time. When something is written is left to `mod.rs`.

use super::{
    folder::{Listing, base_name, segment_name},
    segment::{Head, Position, Reader, Record, Writer},
};
use crate::{
    backup::file::{Framing, SnapshotFile},
    types::Entry,
};
use bytes::Bytes;
use openraft::entry::RaftEntry;
use std::{
    fs::{self, DirBuilder, File, OpenOptions, TryLockError},
    io::{self, BufWriter, Write},
    os::unix::fs::{DirBuilderExt, OpenOptionsExt},
    path::{Path, PathBuf},
    time::Duration,
};
use tokio::sync::mpsc;

/// Bytes after which a segment is ended.
const SEGMENT: u64 = 16 << 20;
const BASE_PART: &str = "base.part";

/// A folder that is open for writing.
pub(crate) struct Keeper {
    folder: PathBuf,
    head: Head,
    segment: Option<(u64, Writer)>,
    /// The last entry that is in; none as long as there is no base.
    end: Option<u64>,
    /// Held as long as this writes.
    _lock: File,
}

impl Keeper {
    /// Opens or makes a folder, and puts right what a crash left.
    pub(crate) fn open(folder: &Path, head: Head) -> io::Result<Self> {
        DirBuilder::new().recursive(true).mode(0o700).create(folder)?;
        let lock = OpenOptions::new().create(true).append(true).mode(0o600).open(folder.join("lock"))?;
        // The folder is one data directory's, which is locked itself: a disk without locks will do.
        if let Err(TryLockError::WouldBlock) = lock.try_lock() {
            return Err(io::Error::other("another process writes here"));
        }
        match fs::remove_file(folder.join(BASE_PART)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        for segment in Listing::read(folder)?.segments.iter().filter(|segment| segment.last.is_none()) {
            mend(folder, &segment.path, segment.first)?;
        }
        let end = Listing::read(folder)?.end();
        Ok(Self { folder: folder.into(), head, segment: None, end, _lock: lock })
    }

    /// The last entry that is in; none if a base must come first.
    pub(crate) fn end(&self) -> Option<u64> {
        self.end
    }

    /// Whether there is a base that is younger than this, or of this last entry.
    pub(crate) fn has_base(&self, age: Duration, last: u64) -> io::Result<bool> {
        let listing = Listing::read(&self.folder)?;
        let Some(base) = listing.bases.last() else { return Ok(false) };
        let made = fs::metadata(&base.path)?.modified()?;
        // A clock that was put back makes it none the older.
        Ok(base.at.index == last || made.elapsed().map_or(true, |elapsed| elapsed < age))
    }

    /// Adds entries, which follow what is there.
    pub(crate) fn append(&mut self, entries: Vec<Entry>) -> io::Result<Option<u64>> {
        for entry in entries {
            let index = entry.index();
            if self.end.is_none_or(|end| end + 1 != index) {
                return Err(io::Error::other(format!("entry {index} does not follow {:?}", self.end)));
            }
            self.segment(index)?.add(&Record::Entry(entry))?;
            self.end = Some(index);
        }
        Ok(self.end)
    }

    /// What follows is not to be had any more: a base must come.
    pub(crate) fn give_up(&mut self) -> io::Result<()> {
        self.seal()?;
        self.end = None;
        Ok(())
    }

    /// Notes up to when everything is in, and has it on the disk.
    pub(crate) fn mark(&mut self, at: Position) -> io::Result<()> {
        if self.end != Some(at.index) {
            return self.sync();
        }
        let writer = self.segment(at.index + 1)?;
        writer.add(&Record::Mark(at))?;
        self.sync()?;
        let full = self.segment.as_ref().is_some_and(|(_, writer)| writer.bytes > SEGMENT);
        if full { self.seal() } else { Ok(()) }
    }

    fn sync(&mut self) -> io::Result<()> {
        self.segment.as_mut().map_or(Ok(()), |(_, writer)| writer.sync())
    }

    /// The segment that is being written, or a new one that begins with this entry.
    fn segment(&mut self, first: u64) -> io::Result<&mut Writer> {
        if self.segment.is_none() {
            let writer = Writer::create(&self.folder.join(segment_name(first, None)), self.head)?;
            sync(&self.folder)?;
            self.segment = Some((first, writer));
        }
        let (_, writer) = self.segment.as_mut().ok_or(io::ErrorKind::NotFound)?;
        Ok(writer)
    }

    /// Ends the segment that is being written.
    fn seal(&mut self) -> io::Result<()> {
        let Some((first, mut writer)) = self.segment.take() else { return Ok(()) };
        writer.sync()?;
        rename(&self.folder, first, self.end.filter(|end| *end >= first))
    }

    /// Writes a whole state and checks what was written.
    pub(crate) fn base(&mut self, mut chunks: mpsc::Receiver<io::Result<Bytes>>) -> io::Result<Position> {
        let part = self.folder.join(BASE_PART);
        let file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&part)?;
        let (mut file, mut framing) = (BufWriter::new(file), Framing::default());
        while let Some(chunk) = chunks.blocking_recv() {
            file.write_all(&framing.chunk(&chunk?)?)?;
        }
        file.write_all(&framing.end())?;
        file.flush()?;
        file.get_ref().sync_all()?;
        let status = SnapshotFile::open(&part, false).map_err(io::Error::other)?.status;
        let index = status.saved.applied.map_or(0, |id| id.index);
        // Before the first change of all, this moment is as good as any.
        let time = if status.time == 0 { super::now() } else { status.time };
        let at = Position { index, revision: status.saved.revision, time };
        self.seal()?;
        fs::rename(&part, self.folder.join(base_name(at)))?;
        sync(&self.folder)?;
        // Entries before it that are not in yet still come.
        self.end = self.end.or(Some(index));
        Ok(at)
    }

    /// Removes what is needed only for moments before a time.
    pub(crate) fn retain(&self, from: i64) -> io::Result<()> {
        for path in Listing::read(&self.folder)?.outdated(from) {
            tracing::info!(file = %path.display(), "removing a file of the archive that the retention does not need");
            fs::remove_file(path)?;
        }
        Ok(())
    }
}

/// Cuts off what a crash left half written, and ends the segment.
fn mend(folder: &Path, path: &Path, first: u64) -> io::Result<()> {
    let (mut last, mut sound) = (None, 0);
    if let Ok(mut reader) = Reader::open(path) {
        // Whatever comes after what cannot be read is not part of the history.
        while let Ok(Some(record)) = reader.next() {
            if let Record::Entry(entry) = record {
                last = Some(entry.index());
            }
        }
        sound = reader.sound;
    }
    if last.is_some() {
        let file = OpenOptions::new().write(true).open(path)?;
        file.set_len(sound)?;
        file.sync_all()?;
    }
    rename(folder, first, last)
}

/// Gives a segment its final name; without entries it is of no use.
fn rename(folder: &Path, first: u64, last: Option<u64>) -> io::Result<()> {
    let part = folder.join(segment_name(first, None));
    match last {
        Some(_) => fs::rename(part, folder.join(segment_name(first, last)))?,
        None => fs::remove_file(part)?,
    }
    sync(folder)
}

fn sync(folder: &Path) -> io::Result<()> {
    File::open(folder)?.sync_all()
}
