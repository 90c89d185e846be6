//! The state on its way to another member.
//!
//! Keeps true: what is sent is the state of one moment, read from a view while writes go on; what is received is
//! first kept whole in a file and checked, then replaces the old state, and a crash in between is finished at the
//! next start. Nothing is written on the sender's disk.

use crate::{
    codec,
    engine::Engine,
    image::{self, ALARM, INSTALLING, KV, LEASE, MEMBER, META, STATE, Saved, TIME},
    machine::Machine,
    types::{Snapshot, SnapshotMeta},
    work::{self, mutant},
};
use bytes::Bytes;
use serde::{Deserialize, Serialize};
use std::{
    fs::File,
    io::{self, BufReader, BufWriter, Read, Write},
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};
use tokio::sync::{mpsc, oneshot};

/// Bytes of a chunk.
const CHUNK: usize = 256 << 10;
/// Chunks read ahead of the network.
const AHEAD: usize = 8;
/// The parts that travel, by the number they have in a chunk. New parts go to the end.
const PARTS: [&str; 5] = [KV, LEASE, MEMBER, META, ALARM];

/// What lies in a part: keys and values.
pub(crate) type Items = Vec<(Bytes, Bytes)>;

/// A snapshot's bytes.
#[derive(Debug)]
pub(crate) enum SnapshotData {
    /// Read from the state as it is taken.
    Live(mpsc::Receiver<io::Result<Bytes>>),
    /// Received whole.
    File(PathBuf),
}

#[derive(Deserialize, Serialize)]
enum Chunk {
    Items { part: u8, items: Items },
    End { items: u64 },
}

/// Written before a state is replaced, removed with the last of the new one.
#[derive(Deserialize, Serialize)]
struct Installing {
    file: PathBuf,
    meta: SnapshotMeta,
}

/// A snapshot of this moment, to be read while the store goes on.
pub(crate) async fn live(machine: Arc<Machine>) -> io::Result<Snapshot> {
    let (chunks, receiver) = mpsc::channel(AHEAD);
    let (begun, meta) = oneshot::channel();
    work::start("snapshot", move || {
        if let Err(error) = pump(&machine.engine, begun, &chunks) {
            // The receiver being gone means that nobody wants the rest.
            let _ = work::send(&chunks, Err(error));
        }
    })?;
    let saved: Saved = meta.await.map_err(|_| io::Error::other("the snapshot could not be begun"))??;
    let meta = SnapshotMeta { last_log_id: saved.applied, last_membership: saved.membership };
    Ok(Snapshot { meta, snapshot: SnapshotData::Live(receiver) })
}

fn pump(
    engine: &Engine,
    begun: oneshot::Sender<io::Result<Saved>>,
    chunks: &mpsc::Sender<io::Result<Bytes>>,
) -> io::Result<()> {
    let view = engine.view();
    let saved = view.get(META, STATE).and_then(|bytes| match bytes {
        Some(bytes) => codec::decode(&bytes),
        None => Ok(Saved::default()),
    });
    if begun.send(saved).is_err() {
        return Ok(());
    }
    let mut total = 0;
    for (number, part) in (0u8..).zip(PARTS) {
        let mut items = Vec::new();
        let mut bytes = 0;
        view.scan(part, &[], |key, value| {
            if part == META && key != STATE && key != TIME {
                return Ok(true);
            }
            total += 1;
            bytes += key.len() + value.len();
            items.push((Bytes::copy_from_slice(key), Bytes::copy_from_slice(value)));
            if bytes < CHUNK {
                return Ok(true);
            }
            bytes = 0;
            send(chunks, &Chunk::Items { part: number, items: std::mem::take(&mut items) })
        })?;
        if !items.is_empty() && !send(chunks, &Chunk::Items { part: number, items })? {
            return Ok(());
        }
    }
    send(chunks, &Chunk::End { items: total }).map(|_| ())
}

/// `false` when nobody wants more.
fn send(chunks: &mpsc::Sender<io::Result<Bytes>>, chunk: &Chunk) -> io::Result<bool> {
    Ok(work::send(chunks, Ok(codec::encode(chunk).into())))
}

/// A file being received.
pub(crate) struct Spool {
    path: PathBuf,
    file: BufWriter<File>,
}

impl Spool {
    /// Begins a new file in the folder.
    pub(crate) fn new(folder: &Path) -> io::Result<Self> {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        let name = format!("{}-{}.recv", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        let path = folder.join(name);
        Ok(Self { file: BufWriter::new(File::create(&path)?), path })
    }

    /// Adds a chunk.
    pub(crate) fn add(&mut self, chunk: &[u8]) -> io::Result<()> {
        let length = u32::try_from(chunk.len()).map_err(io::Error::other)?;
        self.file.write_all(&length.to_be_bytes())?;
        self.file.write_all(chunk)
    }

    /// Checks that all of it is there and that it is on the disk.
    pub(crate) fn finish(mut self) -> io::Result<SnapshotData> {
        self.file.flush()?;
        self.file.get_ref().sync_all()?;
        // Its name must be on the disk as well, for what is written next counts on it.
        self.path.parent().map_or(Ok(()), |folder| File::open(folder)?.sync_all())?;
        let mut items = 0;
        let end = each_chunk(&self.path, |chunk| {
            if let Chunk::Items { items: more, .. } = chunk {
                items += more.len() as u64;
            }
            Ok(())
        })?;
        if end != Some(items) {
            return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "the snapshot is not complete"));
        }
        Ok(SnapshotData::File(std::mem::take(&mut self.path)))
    }
}

impl Drop for Spool {
    fn drop(&mut self) {
        if !self.path.as_os_str().is_empty() {
            // Left over after a broken transfer; the next start removes it if this fails.
            let _ = std::fs::remove_file(&self.path);
        }
    }
}

/// Makes sure that a snapshot lies whole in a file.
pub(crate) fn spool(data: SnapshotData, folder: &Path) -> io::Result<PathBuf> {
    match data {
        SnapshotData::File(path) => Ok(path),
        SnapshotData::Live(mut chunks) => {
            let mut spool = Spool::new(folder)?;
            while let Some(chunk) = chunks.blocking_recv() {
                spool.add(&chunk?)?;
            }
            match spool.finish()? {
                SnapshotData::File(path) => Ok(path),
                SnapshotData::Live(_) => Err(io::Error::other("a spooled snapshot is a file")),
            }
        }
    }
}

/// Visits the chunks of a file; returns what its end says, if it has one.
fn each_chunk(path: &Path, visit: impl FnMut(Chunk) -> io::Result<()>) -> io::Result<Option<u64>> {
    chunks(BufReader::new(File::open(path)?), visit)
}

fn chunks(mut file: impl Read, mut visit: impl FnMut(Chunk) -> io::Result<()>) -> io::Result<Option<u64>> {
    let mut length = [0; 4];
    while file.read_exact(&mut length).is_ok() {
        let length = u32::from_be_bytes(length) as usize;
        if length > codec::LIMIT {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "a snapshot's chunk is too long"));
        }
        let mut chunk = vec![0; length];
        file.read_exact(&mut chunk)?;
        match codec::decode(&chunk)? {
            Chunk::End { items } => return Ok(Some(items)),
            chunk => visit(chunk)?,
        }
    }
    Ok(None)
}

/// Visits everything in a snapshot's chunks, part after part, and checks that none is missing.
pub(crate) fn each_item(
    file: impl Read,
    mut visit: impl FnMut(&'static str, Items) -> io::Result<()>,
) -> io::Result<()> {
    let mut count = 0;
    let end = chunks(file, |chunk| {
        let Chunk::Items { part, items } = chunk else { return Ok(()) };
        let part = PARTS.get(usize::from(part)).ok_or_else(|| io::Error::other("an unknown part"))?;
        count += items.len() as u64;
        visit(part, items)
    })?;
    let incomplete = || io::Error::new(io::ErrorKind::UnexpectedEof, "the snapshot is not complete");
    if end == Some(count) { Ok(()) } else { Err(incomplete()) }
}

/// Replaces the state by a file's.
pub(crate) fn install(engine: &Engine, meta: &SnapshotMeta, file: &Path) -> io::Result<()> {
    let mut batch = engine.batch();
    let marker = Installing { file: file.into(), meta: meta.clone() };
    batch.put(META, INSTALLING, &codec::encode(&marker))?;
    batch.write()?;
    engine.sync()?;
    replace(engine, &marker)
}

fn replace(engine: &Engine, marker: &Installing) -> io::Result<()> {
    let mut batch = engine.batch();
    for part in [KV, LEASE, MEMBER, ALARM].into_iter().filter(|_| !mutant!(KeepsOldState)) {
        batch.delete_range(part, &[], &[0xff; 16])?;
    }
    batch.write()?;
    let mut saved = Saved::default();
    each_chunk(&marker.file, |chunk| {
        let Chunk::Items { part, items } = chunk else { return Ok(()) };
        let part = PARTS.get(usize::from(part)).ok_or_else(|| io::Error::other("an unknown part"))?;
        let mut batch = engine.batch();
        for (key, value) in items {
            if *part == META && key == STATE {
                saved = codec::decode(&value)?;
            } else {
                batch.put(part, &key, &value)?;
            }
        }
        batch.write()
    })?;
    saved.applied = marker.meta.last_log_id;
    saved.membership = marker.meta.last_membership.clone();
    let mut batch = engine.batch();
    batch.put(META, STATE, &codec::encode(&saved))?;
    batch.delete(META, INSTALLING)?;
    image::mark_snapshot(&mut batch)?;
    batch.write()?;
    engine.sync()?;
    std::fs::remove_file(&marker.file)
}

/// At the start: finishes a replacement that a crash interrupted, and removes broken transfers.
pub(crate) fn resume(engine: &Engine, folder: &Path) -> io::Result<()> {
    if let Some(bytes) = engine.get(META, INSTALLING)? {
        replace(engine, &codec::decode(&bytes)?)?;
    }
    for entry in std::fs::read_dir(folder)? {
        let path = entry?.path();
        if path.extension().is_some_and(|extension| extension == "recv") {
            std::fs::remove_file(path)?;
        }
    }
    Ok(())
}

/// The chunks of parts, as they travel.
#[cfg(test)]
pub(crate) fn chunks_of(parts: &[(&'static str, Items)]) -> Vec<Vec<u8>> {
    let number = |part: &str| (0u8..).zip(PARTS).find(|(_, known)| *known == part).unwrap().0;
    let chunk =
        |(part, items): &(&'static str, Items)| Chunk::Items { part: number(part), items: items.clone() };
    let total = parts.iter().map(|(_, items)| items.len() as u64).sum();
    parts.iter().map(chunk).chain([Chunk::End { items: total }]).map(|chunk| codec::encode(&chunk)).collect()
}
