//! The replicated log and this member's vote, on disk.
//!
//! Keeps true: one thread writes everything in the order it was asked to (a vote is never overtaken by an append),
//! and nothing is acknowledged before one fsync that covers it, shared by all that waits (group commit). After a
//! failed write nothing is written any more: which bytes are on disk is unknown then, and the member stops. At the
//! start the log must be contiguous. The newest entries stay in memory, bounded, so that replication and applying
//! rarely read the disk; when they do, it is on a thread that may block.

use crate::{
    codec,
    engine::{Engine, Open},
    types::{Entry, LogId, PeerNode, TypeConfig, Vote},
};
use openraft::{
    RaftLogReader,
    entry::RaftEntry,
    storage::{IOFlushed, LogState, RaftLogStorage},
};
use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    fmt::Debug,
    io,
    ops::{Bound, RangeBounds},
    path::Path,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError, RwLock,
        mpsc::{self, Receiver, Sender},
    },
    time::Instant,
};
use tokio::sync::oneshot;

const META: &str = "meta";
const LOG: &str = "log";
const VOTE: &[u8] = b"vote";
const PURGED: &[u8] = b"purged";
const COMMITTED: &[u8] = b"committed";

/// Bytes of newest entries kept in memory once they are on disk.
const TAIL_BYTES: usize = 2 << 20;
/// Bytes of entries handed out for one message to a peer.
const READ_BYTES: usize = 2 << 20;
/// Writes put under one fsync, at most.
const GROUP: usize = 4096;

/// Handle to the log; clones are readers and writers of the same one.
#[derive(Clone)]
pub(crate) struct Log {
    shared: Arc<Shared>,
    writer: Sender<Write>,
}

struct Shared {
    engine: Engine,
    tail: RwLock<Tail>,
    /// What is committed, as long as no append has taken it along: it spares a restart some work, no more.
    committed: Mutex<Option<LogId>>,
    fsync: Box<dyn Fn(std::time::Duration) + Send + Sync>,
}

/// One thing to be written, and who waits for it.
enum Write {
    Append { entries: Vec<(u64, Vec<u8>)>, committed: Option<LogId>, done: IOFlushed<TypeConfig> },
    Vote { vote: Vec<u8>, done: Done },
    Barrier(Done),
    Truncate { from: u64, done: Done },
    Purge { upto: LogId, done: Done },
}

type Done = oneshot::Sender<io::Result<()>>;

impl Log {
    /// Opens or makes the log, checks it, starts its writer. `fsync` is told how long each one took.
    pub(crate) fn open(
        path: &Path,
        fsync: impl Fn(std::time::Duration) + Send + Sync + 'static,
    ) -> io::Result<Self> {
        let engine = Engine::open(path, &[META, LOG], true)?;
        let shared = Arc::new(Shared {
            tail: RwLock::default(),
            committed: Mutex::default(),
            engine,
            fsync: Box::new(fsync),
        });
        check(&shared.engine)?;
        let (writer, queue) = mpsc::channel();
        let thread = shared.clone();
        std::thread::Builder::new().name("log".into()).spawn(move || write_loop(&thread, &queue))?;
        Ok(Self { shared, writer })
    }

    /// Keeps this until the log is closed.
    pub(crate) fn keep(&self, open: Open) {
        self.shared.engine.keep(open);
    }

    /// The last entry of the log, purged or not.
    pub(crate) fn last(&self) -> io::Result<Option<LogId>> {
        let last = self.shared.engine.last(LOG)?;
        let last = last.map(|(_, bytes)| codec::decode::<Entry>(&bytes)).transpose()?;
        Ok(last.map(|entry| entry.log_id()).max(self.purged()?))
    }

    /// Adds an entry after the last one that makes a member the only one. Only before the group is started.
    pub(crate) fn force(&self, last: LogId, id: u64, node: PeerNode) -> io::Result<()> {
        let alone = openraft::Membership::new(vec![BTreeSet::from([id])], BTreeMap::from([(id, node)]));
        let at = LogId::new(last.leader_id, last.index + 1);
        let entry = Entry::new_membership(at, alone.map_err(io::Error::other)?);
        let mut batch = self.shared.engine.batch();
        batch.put(LOG, &at.index.to_be_bytes(), &codec::encode(&entry))?;
        batch.write()?;
        self.shared.engine.flush(true)
    }

    /// Makes a log that begins after an entry of which nothing is left. Only before the group is started.
    pub(crate) fn begin(&self, after: LogId, vote: &Vote) -> io::Result<()> {
        let mut batch = self.shared.engine.batch();
        batch.put(META, PURGED, &codec::encode(&after))?;
        batch.put(META, VOTE, &codec::encode(vote))?;
        batch.write()?;
        self.shared.engine.flush(true)
    }

    fn purged(&self) -> io::Result<Option<LogId>> {
        self.read_meta(PURGED)
    }

    fn read_meta<T: serde::de::DeserializeOwned>(&self, key: &[u8]) -> io::Result<Option<T>> {
        self.shared.engine.get(META, key)?.map(|bytes| codec::decode(&bytes)).transpose()
    }

    fn send(&self, write: Write) -> io::Result<()> {
        self.writer.send(write).map_err(|_| stopped())
    }

    async fn wait(&self, make: impl FnOnce(Done) -> Write) -> io::Result<()> {
        let (done, waiter) = oneshot::channel();
        self.send(make(done))?;
        waiter.await.map_err(|_| stopped())?
    }
}

fn stopped() -> io::Error {
    io::Error::other("the log's writer has stopped after an earlier error")
}

/// A hole means that the disk lost what it had confirmed.
fn check(engine: &Engine) -> io::Result<()> {
    let purged: Option<LogId> = engine.get(META, PURGED)?.map(|bytes| codec::decode(&bytes)).transpose()?;
    let mut expect = purged.map(|id| id.index + 1);
    engine.scan(LOG, &expect.unwrap_or_default().to_be_bytes(), |key, _| {
        let index = index_of(key)?;
        if expect.is_some_and(|expect| expect != index) {
            return Err(io::Error::new(
                io::ErrorKind::InvalidData,
                format!(
                    "the log has a hole before entry {index}: this disk lost entries that it had confirmed"
                ),
            ));
        }
        expect = Some(index + 1);
        Ok(true)
    })
}

fn index_of(key: &[u8]) -> io::Result<u64> {
    key.try_into()
        .map(u64::from_be_bytes)
        .map_err(|_| io::Error::new(io::ErrorKind::InvalidData, "bad log key"))
}

fn write_loop(shared: &Shared, queue: &Receiver<Write>) {
    while let Ok(first) = queue.recv() {
        let mut group = vec![first];
        while group.len() < GROUP {
            let Ok(next) = queue.try_recv() else { break };
            group.push(next);
        }
        let result = write_group(shared, &group);
        let failed = result.is_err();
        if let Err(error) = &result {
            tracing::error!(%error, "the log cannot be written: this member stops");
        }
        for write in group {
            acknowledge(shared, write, &result);
        }
        if failed {
            return;
        }
    }
}

fn write_group(shared: &Shared, group: &[Write]) -> io::Result<()> {
    let mut batch = shared.engine.batch();
    let mut sync = false;
    for write in group {
        sync |= !matches!(write, Write::Barrier(_));
        match write {
            Write::Append { entries, committed, .. } => {
                for (index, bytes) in entries {
                    batch.put(LOG, &index.to_be_bytes(), bytes)?;
                }
                if let Some(committed) = committed {
                    batch.put(META, COMMITTED, &codec::encode(&Some(committed)))?;
                }
            }
            Write::Vote { vote, .. } => batch.put(META, VOTE, vote)?,
            Write::Barrier(_) => {}
            Write::Truncate { from, .. } => {
                batch.delete_range(LOG, &from.to_be_bytes(), &u64::MAX.to_be_bytes())?;
            }
            Write::Purge { upto, .. } => {
                batch.put(META, PURGED, &codec::encode(upto))?;
                batch.delete_range(LOG, &0u64.to_be_bytes(), &(upto.index + 1).to_be_bytes())?;
            }
        }
    }
    batch.write()?;
    if sync {
        let start = Instant::now();
        shared.engine.flush(true)?;
        (shared.fsync)(start.elapsed());
    }
    Ok(())
}

fn acknowledge(shared: &Shared, write: Write, result: &io::Result<()>) {
    let result = || match result {
        Ok(()) => Ok(()),
        Err(error) => Err(io::Error::new(error.kind(), error.to_string())),
    };
    match write {
        Write::Append { entries, done, .. } => {
            if let Some((last, _)) = entries.last() {
                shared.tail().written(*last);
            }
            done.io_completed(result());
        }
        Write::Barrier(done)
        | Write::Vote { done, .. }
        | Write::Truncate { done, .. }
        | Write::Purge { done, .. } => {
            // Nobody waiting any more is no reason to stop.
            let _ = done.send(result());
        }
    }
}

/// The newest entries, without a hole.
#[derive(Default)]
struct Tail {
    entries: VecDeque<(Entry, usize)>,
    bytes: usize,
    written: u64,
}

impl Tail {
    fn first(&self) -> Option<u64> {
        self.entries.front().map(|(entry, _)| entry.index())
    }

    fn push(&mut self, entry: Entry, bytes: usize) {
        if self.entries.back().is_some_and(|(last, _)| last.index() + 1 != entry.index()) {
            (self.entries, self.bytes) = (VecDeque::new(), 0);
        }
        self.bytes += bytes;
        self.entries.push_back((entry, bytes));
    }

    /// Entries up to here are on disk, and need not stay.
    fn written(&mut self, index: u64) {
        self.written = index;
        while self.bytes > TAIL_BYTES && self.first().is_some_and(|first| first <= self.written) {
            self.pop_front();
        }
    }

    fn pop_front(&mut self) {
        if let Some((_, bytes)) = self.entries.pop_front() {
            self.bytes -= bytes;
        }
    }

    fn truncate(&mut self, from: u64) {
        while self.entries.back().is_some_and(|(entry, _)| entry.index() >= from) {
            self.bytes -= self.entries.pop_back().map_or(0, |(_, bytes)| bytes);
        }
        self.written = self.written.min(from.saturating_sub(1));
    }

    fn purge(&mut self, upto: u64) {
        while self.first().is_some_and(|first| first <= upto) {
            self.pop_front();
        }
    }

    /// The entries of `[from, to)`, if all of them that exist are here.
    fn read(&self, from: u64, to: u64, limit: usize) -> Option<Vec<Entry>> {
        let first = self.first().filter(|first| *first <= from)?;
        let skip = usize::try_from(from - first).ok()?;
        let mut budget = limit;
        let mut entries = Vec::new();
        for (entry, bytes) in self.entries.iter().skip(skip).take_while(|(entry, _)| entry.index() < to) {
            if *bytes > budget && !entries.is_empty() {
                break;
            }
            budget = budget.saturating_sub(*bytes);
            entries.push(entry.clone());
        }
        Some(entries)
    }
}

impl Shared {
    fn tail(&self) -> std::sync::RwLockWriteGuard<'_, Tail> {
        self.tail.write().unwrap_or_else(PoisonError::into_inner)
    }

    fn committed(&self) -> MutexGuard<'_, Option<LogId>> {
        self.committed.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The entries of `[from, to)`, if the disk is not needed for them.
    fn read_tail(&self, from: u64, to: u64, limit: usize) -> Option<Vec<Entry>> {
        self.tail.read().unwrap_or_else(PoisonError::into_inner).read(from, to, limit)
    }

    /// The entries of `[from, to)`. What is not in the tail is on disk; what is not yet on disk is in the tail.
    fn read(&self, from: u64, to: u64, limit: usize) -> io::Result<Vec<Entry>> {
        let (first, newest) = {
            let tail = self.tail.read().unwrap_or_else(PoisonError::into_inner);
            let first = tail.first().filter(|first| *first < to).unwrap_or(to);
            (first.max(from), tail.read(first.max(from), to, limit).unwrap_or_default())
        };
        if first <= from {
            return Ok(newest);
        }
        let mut entries = self.read_disk(from, first, limit)?;
        if entries.is_empty() || limit == usize::MAX {
            entries.extend(newest);
        }
        Ok(entries)
    }

    fn read_disk(&self, from: u64, to: u64, limit: usize) -> io::Result<Vec<Entry>> {
        let mut entries = Vec::new();
        let mut budget = limit;
        self.engine.scan(LOG, &from.to_be_bytes(), |key, bytes| {
            if index_of(key)? >= to || (bytes.len() > budget && !entries.is_empty()) {
                return Ok(false);
            }
            budget = budget.saturating_sub(bytes.len());
            entries.push(codec::decode(bytes)?);
            Ok(true)
        })?;
        Ok(entries)
    }
}

fn half_open(range: &impl RangeBounds<u64>) -> (u64, u64) {
    let from = match range.start_bound() {
        Bound::Included(from) => *from,
        Bound::Excluded(before) => before + 1,
        Bound::Unbounded => 0,
    };
    let to = match range.end_bound() {
        Bound::Included(last) => last + 1,
        Bound::Excluded(to) => *to,
        Bound::Unbounded => u64::MAX,
    };
    (from, to)
}

impl Log {
    /// The threads that openraft runs on do not wait for the disk.
    async fn read(&self, from: u64, to: u64, limit: usize) -> io::Result<Vec<Entry>> {
        if let Some(entries) = self.shared.read_tail(from, to, limit) {
            return Ok(entries);
        }
        let shared = self.shared.clone();
        let read = tokio::task::spawn_blocking(move || shared.read(from, to, limit)).await;
        read.map_err(io::Error::other).flatten()
    }
}

impl Log {
    /// Entries of `[from, to)`, the first of them; none if they are cut off.
    pub(crate) async fn portion(&self, from: u64, to: u64) -> io::Result<Vec<Entry>> {
        self.read(from, to, READ_BYTES).await
    }
}

impl RaftLogReader<TypeConfig> for Log {
    async fn try_get_log_entries<RB: RangeBounds<u64> + Clone + Debug + Send>(
        &mut self,
        range: RB,
    ) -> io::Result<Vec<Entry>> {
        let (from, to) = half_open(&range);
        self.read(from, to, usize::MAX).await
    }

    async fn limited_get_log_entries(&mut self, from: u64, to: u64) -> io::Result<Vec<Entry>> {
        self.read(from, to, READ_BYTES).await
    }

    async fn read_vote(&mut self) -> io::Result<Option<Vote>> {
        self.read_meta(VOTE)
    }
}

impl RaftLogStorage<TypeConfig> for Log {
    type LogReader = Self;

    async fn get_log_state(&mut self) -> io::Result<LogState<TypeConfig>> {
        Ok(LogState { last_purged_log_id: self.purged()?, last_log_id: self.last()? })
    }

    async fn get_log_reader(&mut self) -> Self {
        self.clone()
    }

    async fn save_vote(&mut self, vote: &Vote) -> io::Result<()> {
        let vote = codec::encode(vote);
        self.wait(|done| Write::Vote { vote, done }).await
    }

    async fn save_committed(&mut self, committed: Option<LogId>) -> io::Result<()> {
        *self.shared.committed() = committed;
        Ok(())
    }

    async fn read_committed(&mut self) -> io::Result<Option<LogId>> {
        self.wait(Write::Barrier).await?;
        if let Some(committed) = *self.shared.committed() {
            return Ok(Some(committed));
        }
        Ok(self.read_meta::<Option<LogId>>(COMMITTED)?.flatten())
    }

    async fn append<I>(&mut self, entries: I, done: IOFlushed<TypeConfig>) -> io::Result<()>
    where
        I: IntoIterator<Item = Entry> + Send,
        I::IntoIter: Send,
    {
        let mut records = Vec::new();
        {
            let mut tail = self.shared.tail();
            for entry in entries {
                let bytes = codec::encode(&entry);
                let index = entry.index();
                tail.push(entry, bytes.len());
                records.push((index, bytes));
            }
        }
        // Taken along with what is written anyway: a write of its own would wake the writer for each commit.
        let committed = self.shared.committed().take();
        self.send(Write::Append { entries: records, committed, done })
    }

    async fn truncate_after(&mut self, last: Option<LogId>) -> io::Result<()> {
        let from = last.map_or(0, |last| last.index + 1);
        self.wait(|done| Write::Truncate { from, done }).await?;
        self.shared.tail().truncate(from);
        Ok(())
    }

    async fn purge(&mut self, upto: LogId) -> io::Result<()> {
        self.wait(|done| Write::Purge { upto, done }).await?;
        self.shared.tail().purge(upto.index);
        Ok(())
    }
}
