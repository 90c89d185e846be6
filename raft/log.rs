//! The replicated log and this member's vote, on disk.
//!
//! Keeps true: one thread writes everything in the order it was asked to (a vote is never overtaken by an append),
//! and nothing is acknowledged before one fsync that covers it, shared by all that waits (group commit). After a
//! failed write nothing is written any more: which bytes are on disk is unknown then, and the member stops. At the
//! start the log must be contiguous. The newest entries stay in memory, bounded, so that replication and applying
//! rarely read the disk; when they do, it is on a thread that may block.

use crate::{
    codec,
    engine::{Engine, Open, Use},
    mark::{Mark, Marker},
    pulse::Pulse,
    tail::Tail,
    types::{Entry, LogId, PeerNode, TypeConfig, Vote},
    work::{self, More, Sender, mutant},
};
use openraft::{
    RaftLogReader,
    entry::RaftEntry,
    storage::{IOFlushed, LogState, RaftLogStorage},
};
use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::Debug,
    io,
    ops::{Bound, ControlFlow, RangeBounds},
    path::Path,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError, RwLock,
        atomic::{AtomicU64, Ordering},
    },
    time::Instant,
};
use tokio::sync::oneshot;

const META: &str = "meta";
const LOG: &str = "log";
const VOTE: &[u8] = b"vote";
const PURGED: &[u8] = b"purged";
const COMMITTED: &[u8] = b"committed";

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
    /// The first index that is not purged. What lies before it may still be on disk.
    first: AtomicU64,
    /// What is committed, as long as no append has taken it along: it spares a restart some work, no more.
    committed: Mutex<Option<LogId>>,
    fsync: Box<dyn Fn(std::time::Duration) + Send + Sync>,
    pulse: Arc<Pulse>,
    marked: bool,
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
        let engine = Engine::open(path, &[META, LOG], Use::Log)?;
        let mut marker = Marker::open(&path.with_extension("mark"))?;
        let first = check(&engine, &marker.mark)?;
        let shared = Arc::new(Shared {
            tail: RwLock::default(),
            first: AtomicU64::new(first),
            committed: Mutex::default(),
            engine,
            fsync: Box::new(fsync),
            pulse: Arc::new(Pulse::new()),
            marked: marker.mark != Mark::default(),
        });
        shared.pulse.reach(last(&shared.engine)?.map_or(0, |id| id.index));
        let thread = shared.clone();
        let writer = work::spawn("log", move |first, more| write_turn(&thread, &mut marker, first, more))?;
        Ok(Self { shared, writer })
    }

    /// Keeps this until the log is closed.
    pub(crate) fn keep(&self, open: Open) {
        self.shared.engine.keep(open);
    }

    /// The last entry of the log, purged or not.
    pub(crate) fn last(&self) -> io::Result<Option<LogId>> {
        last(&self.shared.engine)
    }

    /// Whether it is known from elsewhere what the log has confirmed; it has been checked then.
    pub(crate) fn is_marked(&self) -> bool {
        self.shared.marked
    }

    /// Up to where the log was cut.
    pub(crate) fn purged(&self) -> io::Result<Option<LogId>> {
        self.read_meta(PURGED)
    }

    /// The vote that this member gave last.
    pub(crate) fn vote(&self) -> io::Result<Option<Vote>> {
        self.read_meta(VOTE)
    }

    /// How the disk does.
    pub(crate) fn pulse(&self) -> Arc<Pulse> {
        self.shared.pulse.clone()
    }

    /// Adds an entry after the last one that makes a member the only one. Only before the group is started.
    pub(crate) fn force(&self, last: LogId, id: u64, node: PeerNode) -> io::Result<()> {
        let alone = openraft::Membership::new(vec![BTreeSet::from([id])], BTreeMap::from([(id, node)]));
        let at = LogId::new(last.leader_id, last.index + 1);
        let entry = Entry::new_membership(at, alone.map_err(io::Error::other)?);
        let mut batch = self.shared.engine.batch();
        batch.put(LOG, &at.index.to_be_bytes(), &codec::encode(&entry))?;
        batch.write()?;
        self.shared.engine.sync()
    }

    /// Makes a log that begins after an entry of which nothing is left. Only before the group is started.
    pub(crate) fn begin(&self, after: LogId, vote: &Vote) -> io::Result<()> {
        let mut batch = self.shared.engine.batch();
        batch.put(META, PURGED, &codec::encode(&after))?;
        batch.put(META, VOTE, &codec::encode(vote))?;
        batch.write()?;
        self.shared.engine.sync()
    }

    fn read_meta<T: serde::de::DeserializeOwned>(&self, key: &[u8]) -> io::Result<Option<T>> {
        read_meta(&self.shared.engine, key)
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

fn read_meta<T: serde::de::DeserializeOwned>(engine: &Engine, key: &[u8]) -> io::Result<Option<T>> {
    engine.get(META, key)?.map(|bytes| codec::decode(&bytes)).transpose()
}

fn last(engine: &Engine) -> io::Result<Option<LogId>> {
    let last = engine.last(LOG)?.map(|(_, bytes)| codec::decode::<Entry>(&bytes)).transpose()?;
    Ok(last.map(|entry| entry.log_id()).max(read_meta(engine, PURGED)?))
}

/// Every entry is there and can be read, and as many as were confirmed. A hole means that the disk lost some; the last
/// one is decoded elsewhere. Returns the first index that is not purged.
fn check(engine: &Engine, mark: &Mark) -> io::Result<u64> {
    let vote: Option<Vote> = read_meta(engine, VOTE)?;
    if let Some(lacks) = mark.lacks(last(engine)?.map(|id| id.index), vote.as_ref()) {
        return Err(io::Error::new(io::ErrorKind::InvalidData, lacks));
    }
    let purged: Option<LogId> = read_meta(engine, PURGED)?;
    let mut expect = purged.map(|id| id.index + 1);
    let first = expect.unwrap_or_default();
    engine.scan(LOG, &first.to_be_bytes(), |key, bytes| {
        let index = index_of(key)?;
        codec::decode::<Entry>(bytes)?;
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
    })?;
    Ok(first)
}

fn index_of(key: &[u8]) -> io::Result<u64> {
    key.try_into()
        .map(u64::from_be_bytes)
        .map_err(|_| io::Error::new(io::ErrorKind::InvalidData, "bad log key"))
}

fn write_turn(shared: &Shared, marker: &mut Marker, first: Write, more: More<'_, Write>) -> ControlFlow<()> {
    let mut group = vec![first];
    while group.len() < GROUP {
        let Some(next) = more() else { break };
        group.push(next);
    }
    shared.pulse.begin();
    let result = write_group(shared, &group, marker);
    shared.pulse.end();
    let failed = result.is_err();
    if let Err(error) = &result {
        tracing::error!(%error, "the log cannot be written: this member stops");
    }
    for write in group {
        acknowledge(shared, write, &result);
    }
    if failed { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
}

fn write_group(shared: &Shared, group: &[Write], marker: &mut Marker) -> io::Result<()> {
    let mut batch = shared.engine.batch();
    let mut sync = false;
    let mut mark = marker.mark.clone();
    for write in group {
        sync |= !matches!(write, Write::Barrier(_));
        advance(&mut mark, write)?;
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
                marker.lower(*from)?;
                batch.delete_range(LOG, &from.to_be_bytes(), &u64::MAX.to_be_bytes())?;
            }
            Write::Purge { upto, .. } => {
                batch.put(META, PURGED, &codec::encode(upto))?;
            }
        }
    }
    batch.write()?;
    if sync {
        let start = Instant::now();
        let synced = if mutant!(AcknowledgesEarly) { Ok(()) } else { shared.engine.sync() };
        if !mutant!(IgnoresSyncErrors) {
            synced?;
        }
        (shared.fsync)(start.elapsed());
        marker.set(mark)?;
    }
    for write in group {
        if let Write::Purge { upto, .. } = write {
            // What lies in one file with newer entries goes with the next purge; nobody reads it.
            shared.engine.drop_before(LOG, &(upto.index + 1).to_be_bytes())?;
        }
    }
    Ok(())
}

/// What is confirmed after a write.
fn advance(mark: &mut Mark, write: &Write) -> io::Result<()> {
    match write {
        Write::Append { entries, .. } => mark.last = entries.last().map(|(index, _)| *index).or(mark.last),
        Write::Vote { vote, .. } => mark.vote = Some(codec::decode(vote)?),
        Write::Truncate { from, .. } => mark.last = mark.last.min(from.checked_sub(1)),
        Write::Purge { upto, .. } => mark.last = mark.last.max(Some(upto.index)),
        Write::Barrier(_) => {}
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
                shared.pulse.reach(*last);
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
        let from = from.max(self.first.load(Ordering::Acquire));
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
        work::blocking(move || shared.read(from, to, limit)).await.flatten()
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
        self.vote()
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
        if mutant!(ForgetsVote) && self.vote()?.is_some() {
            return Ok(());
        }
        if mutant!(OvertakesVote) {
            let unsaved = oneshot::channel().0;
            return self.send(Write::Vote { vote, done: unsaved });
        }
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
        self.shared.first.store(upto.index + 1, Ordering::Release);
        self.shared.tail().purge(upto.index);
        Ok(())
    }
}
