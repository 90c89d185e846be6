//! openraft's handle to the state, and the thread behind it.
//!
//! Keeps true: one thread changes the state, in the log's order; openraft's own threads never touch the disk for
//! it. After an error the thread takes nothing more and the member stops.

use crate::{
    machine::Machine,
    snapshot::{self, SnapshotData},
    types::{Entry, LogId, Membership, Snapshot, SnapshotMeta, TypeConfig},
    work,
};
use futures::{Stream, TryStreamExt};
use openraft::{
    RaftSnapshotBuilder,
    storage::{ApplyResponder, EntryResponder, RaftStateMachine},
};
use std::{io, sync::Arc};
use tokio::sync::{
    mpsc::{UnboundedReceiver as Receiver, UnboundedSender as Sender},
    oneshot,
};

/// Log entries applied in one batch, at most.
const BATCH: usize = 512;

/// What the one thread that changes the state is asked to do.
pub(crate) enum Job {
    Apply(Vec<(Entry, Option<ApplyResponder<TypeConfig>>)>, oneshot::Sender<io::Result<()>>),
    Install(SnapshotMeta, SnapshotData, oneshot::Sender<io::Result<()>>),
}

/// The thread: does jobs until one fails.
pub(crate) async fn job_loop(machine: Arc<Machine>, mut jobs: Receiver<Job>) {
    while let Some(job) = jobs.recv().await {
        let (result, done) = match job {
            Job::Apply(entries, done) => (machine.apply(entries), done),
            Job::Install(meta, data, done) => (machine.install(&meta, data).await, done),
        };
        let failed = result.is_err();
        // Nobody waiting any more means that the group is shutting down.
        let _ = done.send(result);
        if failed {
            return;
        }
    }
}

/// openraft's handle to the thread that changes the state.
#[derive(Clone)]
pub(crate) struct Applier {
    machine: Arc<Machine>,
    jobs: Sender<Job>,
}

impl Applier {
    /// For a thread that takes these jobs.
    pub(crate) fn new(machine: Arc<Machine>, jobs: Sender<Job>) -> Self {
        Self { machine, jobs }
    }

    async fn job(&self, make: impl FnOnce(oneshot::Sender<io::Result<()>>) -> Job) -> io::Result<()> {
        let stopped = || io::Error::other("the state's writer has stopped after an earlier error");
        let (done, waiter) = oneshot::channel();
        self.jobs.send(make(done)).map_err(|_| stopped())?;
        waiter.await.map_err(|_| stopped())?
    }
}

impl RaftStateMachine<TypeConfig> for Applier {
    type SnapshotData = SnapshotData;
    type SnapshotBuilder = Self;

    async fn applied_state(&mut self) -> io::Result<(Option<LogId>, Membership)> {
        let saved = self.machine.saved();
        Ok((saved.applied, saved.membership))
    }

    async fn apply<S>(&mut self, entries: S) -> io::Result<()>
    where
        S: Stream<Item = io::Result<EntryResponder<TypeConfig>>> + Unpin + Send,
    {
        let mut chunks = entries.try_chunks(BATCH);
        while let Some(chunk) = chunks.try_next().await.map_err(|error| error.1)? {
            self.job(|done| Job::Apply(chunk, done)).await?;
        }
        Ok(())
    }

    async fn get_snapshot_builder(&mut self) -> Self {
        self.clone()
    }

    async fn install_snapshot(&mut self, meta: &SnapshotMeta, snapshot: SnapshotData) -> io::Result<()> {
        let meta = meta.clone();
        self.job(|done| Job::Install(meta, snapshot, done)).await
    }

    async fn get_current_snapshot(&mut self) -> io::Result<Option<Snapshot>> {
        let machine = self.machine.clone();
        if !machine.has_snapshot()? {
            return Ok(None);
        }
        snapshot::live(machine).await.map(Some)
    }
}

impl RaftSnapshotBuilder<TypeConfig> for Applier {
    type SnapshotData = SnapshotData;

    /// The state on disk is itself the snapshot: it only has to be safe on the disk. Its bytes are read when they
    /// are sent.
    async fn build_snapshot(&mut self) -> io::Result<Snapshot> {
        let machine = self.machine.clone();
        let saved = work::blocking(move || machine.settle()).await??;
        let mut snapshot = snapshot::live(self.machine.clone()).await?;
        snapshot.meta.last_log_id = saved.applied;
        snapshot.meta.last_membership = saved.membership;
        Ok(snapshot)
    }
}
