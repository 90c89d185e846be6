//! The archive: every change of the store, in files elsewhere, from which any moment of it can be restored.
//!
//! Keeps true: a member writes into a folder of its own (`DIR/CLUSTER/MEMBER-INSTANCE`), from its own log and only what
//! is applied, so what is in the archive was committed, and a change of leaders leaves no hole. Nobody waits for it: it
//! reads what is there, a bounded portion at a time, as fast as its disk takes it; when it falls behind the log it
//! goes on with a new base. Its failures are told and counted, and are nobody else's. The times are those at which
//! leaders proposed the changes, alike in every member's folder.

pub(crate) mod folder;
mod keeper;
pub(crate) mod segment;

pub(crate) use segment::Position;

use crate::{
    flags::Config,
    log::Log,
    metrics::Metrics,
    node::Node,
    snapshot::{self, SnapshotData},
    work,
};
use keeper::Keeper;
use openraft::entry::RaftEntry;
use segment::Head;
use std::{
    io,
    path::PathBuf,
    sync::{Arc, mpsc},
    time::{Duration, UNIX_EPOCH},
};
use tokio::{sync::oneshot, time::timeout};

/// How long the others are asked whether everything is here, and how long the last entries may take at a stop.
const PATIENCE: Duration = Duration::from_secs(1);
/// Pause after a failure.
const PAUSE: Duration = Duration::from_secs(5);
/// How often files are looked for that are not needed any more.
const RETAIN: Duration = Duration::from_secs(60);

/// Milliseconds since 1970, by this machine's clock.
pub(crate) fn now() -> i64 {
    let since = work::clock().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_millis()).unwrap_or(i64::MAX)
}

type Job = Box<dyn FnOnce(&mut Option<Keeper>) + Send>;

/// A member's archive.
pub(crate) struct Archiver {
    config: Arc<Config>,
    node: Arc<Node>,
    log: Log,
    metrics: Metrics,
    folder: PathBuf,
    head: Head,
    /// To the thread that waits for the archive's disk.
    jobs: mpsc::Sender<Job>,
    retained: Option<tokio::time::Instant>,
}

impl Archiver {
    /// The archive of a member, if it is to have one.
    pub(crate) fn new(
        config: &Arc<Config>,
        node: &Arc<Node>,
        log: Log,
        metrics: &Metrics,
        instance: u64,
    ) -> Option<Self> {
        let folder = config.flags.archive_dir.as_ref()?;
        let folder = folder.join(format!("{:016x}", config.cluster));
        let folder = folder.join(format!("{:016x}-{instance:016x}", config.id));
        let head = Head { cluster: config.cluster, member: config.id, instance };
        let (jobs, queue) = mpsc::channel::<Job>();
        let thread = std::thread::Builder::new().name("archive".into()).spawn(move || {
            let mut keeper = None;
            while let Ok(job) = queue.recv() {
                job(&mut keeper);
            }
        });
        if let Err(error) = thread {
            tracing::warn!(%error, "there is no archive: its thread cannot be started");
            return None;
        }
        let (config, node, metrics) = (config.clone(), node.clone(), metrics.clone());
        Some(Self { config, node, log, metrics, folder, head, jobs, retained: None })
    }

    /// Writes what is new, again and again.
    pub(crate) async fn run(archiver: &mut Option<Self>) {
        let Some(archiver) = archiver else { return std::future::pending().await };
        loop {
            let pause = match archiver.round(true).await {
                Ok(()) => archiver.config.flags.archive_interval,
                Err(error) => {
                    tracing::warn!(%error, folder = %archiver.folder.display(), "cannot write the archive");
                    archiver.metrics.archive_failed();
                    PAUSE
                }
            };
            tokio::time::sleep(pause).await;
        }
    }

    /// The last entries, when the member is stopped.
    pub(crate) async fn finish(archiver: Option<Self>) {
        let Some(mut archiver) = archiver else { return };
        if !matches!(timeout(PATIENCE, archiver.round(false)).await, Ok(Ok(()))) {
            tracing::warn!(
                "the archive lacks the last entries: they follow when this member is started again"
            );
        }
    }

    /// Has something done on the thread. After an error the folder is opened anew.
    async fn keep<T: Send + 'static>(
        &self,
        what: impl FnOnce(&mut Keeper) -> io::Result<T> + Send + 'static,
    ) -> io::Result<T> {
        let (done, waiter) = oneshot::channel();
        let (folder, head) = (self.folder.clone(), self.head);
        let job: Job = Box::new(move |keeper| {
            let result = match keeper.take().map_or_else(|| Keeper::open(&folder, head), Ok) {
                Ok(mut open) => what(&mut open).inspect(|_| *keeper = Some(open)),
                Err(error) => Err(error),
            };
            // Nobody waiting any more means that the member is stopping.
            let _ = done.send(result);
        });
        let ended = || io::Error::other("the archive's thread has ended");
        self.jobs.send(job).map_err(|_| ended())?;
        waiter.await.map_err(|_| ended())?
    }

    /// Writes what is new since the last time. If `ask`, the others are asked whether everything is here.
    async fn round(&mut self, ask: bool) -> io::Result<()> {
        let asked = now();
        let confirmed = ask && matches!(timeout(PATIENCE, self.node.linearize()).await, Ok(Ok(())));
        let at = self.position().await?;
        if at.index == 0 {
            return Ok(());
        }
        let age = self.config.flags.archive_base_interval;
        let has_base =
            move |keeper: &mut Keeper| Ok(keeper.end().is_some() && keeper.has_base(age, at.index)?);
        if !self.keep(has_base).await? {
            self.base().await?;
        }
        let end = self.entries(at.index).await?;
        if end == Some(at.index) {
            // Nothing else was acknowledged before the others were asked.
            let time = if confirmed { at.time.max(asked) } else { at.time };
            self.keep(move |keeper| keeper.mark(Position { time, ..at })).await?;
            self.metrics.archived(Position { time, ..at });
        }
        self.retain().await
    }

    async fn position(&self) -> io::Result<Position> {
        let machine = self.node.local.machine.clone();
        tokio::task::spawn_blocking(move || machine.position()).await.map_err(io::Error::other)
    }

    async fn base(&self) -> io::Result<()> {
        let SnapshotData::Live(chunks) = snapshot::live(self.node.local.machine.clone()).await?.snapshot
        else {
            return Err(io::Error::other("a live snapshot is not a file"));
        };
        let at = self.keep(|keeper| keeper.base(chunks)).await?;
        tracing::info!(revision = at.revision, "wrote a base of the archive");
        Ok(())
    }

    /// Adds entries up to one; the last one that is in.
    async fn entries(&self, last: u64) -> io::Result<Option<u64>> {
        let mut end = self.keep(|keeper| Ok(keeper.end())).await?;
        while let Some(from) = end.map(|end| end + 1).filter(|from| *from <= last) {
            let entries = self.log.portion(from, last + 1).await?;
            if entries.first().is_none_or(|entry| entry.index() != from) {
                tracing::warn!(from, "the log does not reach back to the archive's end: a new base follows");
                self.keep(Keeper::give_up).await?;
                self.base().await?;
                return self.keep(|keeper| Ok(keeper.end())).await;
            }
            end = self.keep(|keeper| keeper.append(entries)).await?;
        }
        Ok(end)
    }

    async fn retain(&mut self) -> io::Result<()> {
        let retention = self.config.flags.archive_retention;
        if retention.is_zero() || self.retained.is_some_and(|at| at.elapsed() < RETAIN) {
            return Ok(());
        }
        self.retained = Some(tokio::time::Instant::now());
        let from = now().saturating_sub(i64::try_from(retention.as_millis()).unwrap_or(i64::MAX));
        self.keep(move |keeper| keeper.retain(from)).await
    }
}
