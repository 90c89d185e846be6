//! openraft's handle to the state, and the thread behind it.
//!
//! Keeps true: the state is changed in the log's order, by one thread, or at once by openraft's when there is little
//! to do, nothing in line before it and nobody to wait for; otherwise openraft does not wait until entries are
//! applied: what it takes for applied is on its way here, boundedly much of it. What is applied in truth,
//! [`Machine::applied`] tells. After an error nothing more is applied and the member stops.

use crate::{
    machine::Machine,
    snapshot::{self, SnapshotData},
    types::{Entry, LogId, Membership, Snapshot, SnapshotMeta, TypeConfig},
    work::{self, More, Sender},
};
use futures::{Stream, TryStreamExt};
use openraft::{
    RaftSnapshotBuilder,
    storage::{ApplyResponder, EntryResponder, RaftStateMachine},
};
use std::{io, ops::ControlFlow, sync::Arc};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, oneshot};

/// Log entries applied in one batch, at most.
const BATCH: usize = 512;
/// Log entries applied at once, at most.
const FEW: usize = 4;
/// Chunks of entries in line to be applied, at most.
const BACKLOG: usize = 16;

type Done = oneshot::Sender<io::Result<()>>;

/// A log entry, and who waits for what comes of it.
pub(crate) type Item = (Entry, Option<ApplyResponder<TypeConfig>>);

/// What the one thread that changes the state is asked to do.
pub(crate) enum Job {
    Apply(Vec<Item>, OwnedSemaphorePermit),
    Install(SnapshotMeta, SnapshotData, Done),
    /// Only to tell that everything before it is done.
    Barrier(Done),
}

/// The thread's turn: does jobs until one fails.
pub(crate) fn job_turn(machine: &Machine, first: Job, more: More<'_, Job>) -> ControlFlow<()> {
    let mut next = Some(first);
    while let Some(job) = next.take() {
        let result = match job {
            Job::Apply(entries, _place) => {
                let (entries, other) = gather(entries, more);
                next = other;
                machine.apply(entries)
            }
            Job::Install(meta, data, done) => answer(done, machine.install(&meta, data)),
            Job::Barrier(done) => answer(done, Ok(())),
        };
        if let Err(error) = result {
            tracing::error!(%error, "the state cannot be written: this member stops");
            machine.fail(&error);
            return ControlFlow::Break(());
        }
    }
    ControlFlow::Continue(())
}

/// What else is in line to be applied goes into the same batch. Returns the first job that does not fit, too.
fn gather(mut entries: Vec<Item>, more: More<'_, Job>) -> (Vec<Item>, Option<Job>) {
    while let Some(job) = more() {
        match job {
            Job::Apply(more, _place) if entries.len() + more.len() <= BATCH => entries.extend(more),
            other => return (entries, Some(other)),
        }
    }
    (entries, None)
}

fn answer(done: Done, result: io::Result<()>) -> io::Result<()> {
    let told = match &result {
        Ok(()) => Ok(()),
        Err(error) => Err(io::Error::new(error.kind(), error.to_string())),
    };
    // Nobody waiting any more means that the group is shutting down.
    let _ = done.send(told);
    result
}

/// openraft's handle to the thread that changes the state.
#[derive(Clone)]
pub(crate) struct Applier {
    machine: Arc<Machine>,
    jobs: Sender<Job>,
    places: Arc<Semaphore>,
}

impl Applier {
    /// For a thread that takes these jobs.
    pub(crate) fn new(machine: Arc<Machine>, jobs: Sender<Job>) -> Self {
        Self { machine, jobs, places: Arc::new(Semaphore::new(BACKLOG)) }
    }

    /// Whether the thread has nothing to do: who has a place keeps it until the end.
    fn is_idle(&self) -> bool {
        self.places.available_permits() == BACKLOG
    }

    async fn job(&self, make: impl FnOnce(Done) -> Job) -> io::Result<()> {
        let (done, waiter) = oneshot::channel();
        self.jobs.send(make(done)).map_err(|_| stopped())?;
        waiter.await.map_err(|_| stopped())?
    }
}

fn stopped() -> io::Error {
    io::Error::other("the state's writer has stopped after an earlier error")
}

impl RaftStateMachine<TypeConfig> for Applier {
    type SnapshotData = SnapshotData;
    type SnapshotBuilder = Self;

    async fn applied_state(&mut self) -> io::Result<(Option<LogId>, Membership)> {
        self.job(Job::Barrier).await?;
        let saved = self.machine.saved();
        Ok((saved.applied, saved.membership))
    }

    async fn apply<S>(&mut self, entries: S) -> io::Result<()>
    where
        S: Stream<Item = io::Result<EntryResponder<TypeConfig>>> + Unpin + Send,
    {
        let mut chunks = entries.try_chunks(BATCH);
        while let Some(mut chunk) = chunks.try_next().await.map_err(|error| error.1)? {
            if chunk.len() <= FEW && self.is_idle() {
                chunk = match self.machine.try_apply(chunk).inspect_err(|error| self.machine.fail(error))? {
                    Some(chunk) => chunk,
                    None => continue,
                };
            }
            let place = self.places.clone().acquire_owned().await.map_err(io::Error::other)?;
            self.jobs.send(Job::Apply(chunk, place)).map_err(|_| stopped())?;
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
        let asked = machine.clone();
        if !work::blocking(move || asked.has_snapshot()).await.flatten()? {
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
        // openraft expects everything in it that it takes for applied.
        self.job(Job::Barrier).await?;
        let machine = self.machine.clone();
        let saved = work::blocking(move || machine.settle()).await??;
        let mut snapshot = snapshot::live(self.machine.clone()).await?;
        snapshot.meta.last_log_id = saved.applied;
        snapshot.meta.last_membership = saved.membership;
        Ok(snapshot)
    }
}
