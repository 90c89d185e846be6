//! The group as its clients see it, from any member: propose, read, keep leases alive.
//!
//! Keeps true: a command goes to the leader at most once unless it is certain that nothing was proposed; every call
//! ends within the request timeout; a linearizable read sees everything acknowledged before it began; a client that
//! wrote through this member can read its write here.

use crate::{
    command::{Command, Fault, Outcome, Range, RangeResult},
    local::Local,
    members::{self, Change, MemberFault},
    network::{LaneError, Peers, Refusal, Reply, Request},
    query,
    work::{self, mutant},
};
use openraft::ServerState;
use std::{io, sync::Arc, time::Duration};
use tokio::{
    sync::{mpsc, oneshot, watch},
    time::{Instant, sleep, timeout},
};

/// Pause before asking again after a refusal that had no effect.
const RETRY: Duration = Duration::from_millis(10);
/// How often leadership is looked at, besides when it changes.
const LOOK: Duration = Duration::from_millis(50);
/// How often the leader looks for leases whose time is over.
const LEASES: Duration = Duration::from_millis(100);
/// Values that are read on the threads that serve clients, at most: a page of a list in Kubernetes. In memory that is some
/// tenths of a millisecond, from a disk a few.
const FEW: usize = 500;

/// Why a request got no answer.
#[derive(Debug, thiserror::Error)]
pub(crate) enum NodeError {
    /// No answer in time; what came of it is unknown.
    #[error("timed out")]
    Timeout,
    /// The connection to the leader broke; what came of it is unknown.
    #[error("timed out, possibly due to connection lost")]
    Lost,
    /// The leader knows no such lease.
    #[error("lease not found")]
    LeaseNotFound,
    /// The members cannot be changed like that.
    #[error("the members cannot be changed like that: {0:?}")]
    Member(MemberFault),
    /// This member cannot read its disk.
    #[error("the state cannot be read")]
    Disk(#[source] io::Error),
    /// Something that should not be.
    #[error("{0}")]
    Failed(String),
}

/// The group, through this member.
pub(crate) struct Node {
    pub(crate) local: Arc<Local>,
    pub(crate) peers: Peers,
    leader: watch::Sender<Option<u64>>,
    reads: mpsc::UnboundedSender<oneshot::Sender<()>>,
    timeout: Duration,
}

/// Requests for a read index, for [`Node::run`].
pub(crate) type Reads = mpsc::UnboundedReceiver<oneshot::Sender<()>>;

impl Node {
    /// A client of the group. Its [`Node::run`] must be running.
    pub(crate) fn new(local: Arc<Local>, peers: Peers, timeout: Duration) -> (Arc<Self>, Reads) {
        let (reads, queue) = mpsc::unbounded_channel();
        (Arc::new(Self { local, peers, leader: watch::Sender::new(None), reads, timeout }), queue)
    }

    /// Follows leadership, serves read indexes, ends leases. Runs until the group stops; the error is why.
    pub(crate) async fn run(self: Arc<Self>, reads: Reads, election: Duration) -> String {
        tokio::select! {
            why = self.follow(election) => why,
            () = self.serve_reads(reads) => "no more readers".into(),
            () = self.end_leases() => "no more leases".into(),
            () = self.promote() => "no more members".into(),
            () = self.heed_disk(election) => "no more disk".into(),
        }
    }

    /// Follows who leads, as far as this member can tell.
    pub(crate) fn leadership(&self) -> watch::Receiver<Option<u64>> {
        self.leader.subscribe()
    }

    /// Who leads, as far as this member can tell.
    pub(crate) fn leader(&self) -> Option<u64> {
        *self.leader.borrow()
    }

    /// The term.
    pub(crate) fn term(&self) -> u64 {
        use openraft::async_runtime::watch::WatchReceiver;
        self.local.raft.metrics().borrow_watched().current_term
    }

    async fn follow(&self, election: Duration) -> String {
        use openraft::{Instant as _, async_runtime::watch::WatchReceiver};
        let mut changes = self.local.raft.server_metrics();
        let mut gone = false;
        loop {
            let metrics = self.local.raft.metrics().borrow_watched().clone();
            let fatal = metrics.running_state.as_ref().err().map(ToString::to_string);
            let fatal = fatal.or_else(|| self.local.machine.failure().map(ToOwned::to_owned));
            // Who panics has no time to say so.
            let fatal = fatal.or_else(|| gone.then(|| "its Raft task panicked, as the log says".into()));
            if let Some(fatal) = fatal {
                self.leader.send_replace(None);
                return fatal;
            }
            if self.local.machine.is_removed(self.local.id) {
                self.peers.removed().cancel();
            }
            let leader = match metrics.state {
                ServerState::Leader => {
                    let acked = metrics.last_quorum_acked.map(|at| at.elapsed());
                    let sure = acked.is_none_or(|age| age < election) || self.local.voters().len() == 1;
                    sure.then_some(self.local.id)
                }
                _ if self.local.silence() < election => {
                    metrics.current_leader.filter(|leader| *leader != self.local.id)
                }
                _ => None,
            };
            self.leader.send_if_modified(|current| {
                let changed = *current != leader;
                if changed {
                    tracing::info!(?leader, term = metrics.current_term, "leadership changed");
                }
                *current = leader;
                changed
            });
            // All ends of the wait lead to another look.
            gone = matches!(timeout(LOOK, changes.changed()).await, Ok(Err(_)));
        }
    }

    async fn serve_reads(&self, mut reads: Reads) {
        while let Some(first) = reads.recv().await {
            let mut waiters = vec![first];
            while let Ok(waiter) = reads.try_recv() {
                waiters.push(waiter);
            }
            while !waiters.is_empty() {
                if let Some(index) = self.read_index().await {
                    self.local.machine.wait_applied(if mutant!(ReadsUnapplied) { 0 } else { index }).await;
                    for waiter in waiters.drain(..) {
                        // A reader that is gone does not mind.
                        let _ = waiter.send(());
                    }
                } else {
                    sleep(RETRY).await;
                    waiters.retain(|waiter| !waiter.is_closed());
                }
            }
        }
    }

    async fn read_index(&self) -> Option<u64> {
        let leader = self.leader()?;
        let asked = async {
            if leader == self.local.id {
                return self.local.read_index().await.ok();
            }
            match self.forward(leader, Request::ReadIndex).await {
                Ok(Reply::ReadIndex(index)) => Some(index),
                _ => None,
            }
        };
        timeout(Duration::from_secs(1), asked).await.ok().flatten()
    }

    async fn end_leases(&self) {
        loop {
            sleep(LEASES).await;
            let leading = self.leader() == Some(self.local.id);
            let ready = leading && (self.local.deadlines().leading() || self.confirmed().await);
            let leases = if ready { self.local.machine.leases().await } else { Ok(Vec::new()) };
            let Ok(leases) = leases else { continue };
            let expired = {
                let mut deadlines = self.local.deadlines();
                deadlines.lead(ready);
                deadlines.expired(leases.into_iter(), Instant::now())
            };
            for id in expired {
                tracing::debug!(lease = id, "lease expired");
                // Refused or not known: the next look tells.
                let _ = timeout(Duration::from_secs(1), self.local.propose(Command::Revoke(id))).await;
            }
        }
    }

    /// Makes voters of joining members that have caught up.
    async fn promote(&self) {
        loop {
            sleep(members::LOOK).await;
            if self.leader() == Some(self.local.id) {
                // As leaderships and other changes come between, it is tried again.
                let _ = timeout(Duration::from_secs(5), self.local.promote_ready()).await;
            }
        }
    }

    /// Has a member whose disk stalls neither lead nor stand for election as long as others do better. That they do is
    /// known by what they confirm meanwhile: when all disks stall, as those of one machine do, moving helps nobody.
    async fn heed_disk(&self, election: Duration) {
        let pulse = &self.local.pulse;
        pulse.bound(election / 2);
        let mut noted = None;
        loop {
            sleep(LOOK).await;
            let stands = !pulse.is_slow() || self.local.silence() > election * 3;
            self.local.raft.runtime_config().elect(stands);
            if !(pulse.stalls() && self.leader() == Some(self.local.id)) {
                noted = None;
                continue;
            }
            let Some((next, at)) = self.local.successor(|_| true) else { continue };
            if at <= pulse.durable().max(*noted.get_or_insert(at)) {
                continue;
            }
            match self.hand_over(next).await {
                Ok(()) => tracing::warn!(to = format!("{next:x}"), "the disk stalls: handed over leadership"),
                Err(error) => {
                    tracing::warn!(%error, "the disk stalls, and leadership could not be handed over")
                }
            }
        }
    }

    /// Has the leader change the members.
    pub(crate) async fn change(&self, change: Change) -> Result<(), NodeError> {
        let (reply, _) =
            self.ask(|| Request::Change(change.clone()), || self.local.change(change.clone())).await?;
        match reply {
            Reply::Done => Ok(()),
            other => Err(NodeError::Failed(format!("the leader answered {other:?}"))),
        }
    }

    /// Whether this member leads and has applied everything of earlier leaders.
    async fn confirmed(&self) -> bool {
        timeout(Duration::from_secs(1), self.local.linearizable())
            .await
            .is_ok_and(|confirmed| confirmed.is_ok())
    }

    async fn forward(&self, leader: u64, request: Request) -> Result<Reply, LaneError> {
        let Some(url) = self.local.url(leader) else {
            return Err(LaneError::NotSent(format!("member {leader:x} has no URL")));
        };
        let mut leaders = self.leadership();
        let replaced = async move {
            while *leaders.borrow_and_update() == Some(leader) {
                changed(&mut leaders).await;
            }
        };
        self.peers.get(leader, &url).forward.call_unless(&request, replaced).await
    }

    /// Has the leader do something, wherever it is, retrying while it is certain that nothing was done.
    async fn ask<L>(
        &self,
        remote: impl Fn() -> Request,
        local: impl Fn() -> L,
    ) -> Result<(Reply, bool), NodeError>
    where
        L: Future<Output = Reply>,
    {
        let deadline = Instant::now() + self.timeout;
        let mut leaders = self.leadership();
        loop {
            let known = tokio::time::timeout_at(deadline, known(&mut leaders)).await;
            let leader = known.map_err(|_| NodeError::Timeout)?;
            let here = leader == self.local.id;
            let asked = async { if here { Ok(local().await) } else { self.forward(leader, remote()).await } };
            match tokio::time::timeout_at(deadline, asked).await.map_err(|_| NodeError::Timeout)? {
                Ok(Reply::Refused(Refusal::NotLeader)) | Err(LaneError::NotSent(_)) => sleep(RETRY).await,
                Ok(Reply::Refused(Refusal::Unknown)) => return Err(NodeError::Timeout),
                Ok(Reply::Refused(Refusal::LeaseNotFound)) => return Err(NodeError::LeaseNotFound),
                Ok(Reply::Refused(Refusal::Member(fault))) => return Err(NodeError::Member(fault)),
                Ok(Reply::Refused(Refusal::Failed(text))) => return Err(NodeError::Failed(text)),
                Err(LaneError::Lost(_)) if mutant!(ProposesAgain) => sleep(RETRY).await,
                Err(LaneError::Lost(_)) => return Err(NodeError::Lost),
                Ok(reply) => return Ok((reply, here)),
            }
        }
    }

    /// Has a command done.
    pub(crate) async fn propose(&self, command: Command) -> Result<Outcome, NodeError> {
        let asked = self.ask(|| Request::Propose(command.clone()), || self.local.propose(command.clone()));
        match asked.await? {
            (Reply::Proposed { index, outcome }, here) => {
                if !here {
                    // The client may read its own write here at once. It is done either way.
                    let _ = timeout(self.timeout, self.local.machine.wait_applied(index)).await;
                }
                Ok(outcome)
            }
            (other, _) => Err(NodeError::Failed(format!("the leader answered {other:?}"))),
        }
    }

    /// Gives a lease its whole time again; the seconds.
    pub(crate) async fn keep_alive(&self, id: i64) -> Result<i64, NodeError> {
        let asked = self.ask(|| Request::KeepAlive(id), || self.local.keep_alive(id)).await?;
        lease(asked.0).map(|(remaining, _)| remaining)
    }

    /// Seconds left of a lease, and seconds granted.
    pub(crate) async fn time_to_live(&self, id: i64) -> Result<(i64, i64), NodeError> {
        let asked = self.ask(|| Request::TimeToLive(id), || self.local.time_to_live(id)).await?;
        lease(asked.0)
    }

    /// Returns when everything acknowledged before the call can be read here.
    pub(crate) async fn linearize(&self) -> Result<(), NodeError> {
        let (ready, waiter) = oneshot::channel();
        self.reads.send(ready).map_err(|_| NodeError::Failed("this member is stopping".into()))?;
        match timeout(self.timeout, waiter).await {
            Ok(Ok(())) => Ok(()),
            _ => Err(NodeError::Timeout),
        }
    }

    /// Reads the state as this member has it.
    pub(crate) async fn range(&self, query: Range) -> Result<(i64, Result<RangeResult, Fault>), NodeError> {
        let machine = &self.local.machine;
        // What is soon read is read at once; what may take long, or may have to wait for a lock, goes to its own thread.
        if query::most(&query).is_some_and(|most| most <= FEW) && machine.is_idle() {
            return machine.range(&query).map_err(NodeError::Disk);
        }
        let machine = machine.clone();
        work::blocking(move || machine.range(&query)).await.flatten().map_err(NodeError::Disk)
    }

    /// Gives leadership to another member. From then on this one takes no more writes.
    pub(crate) async fn hand_over(&self, to: u64) -> Result<(), NodeError> {
        let failed = |error: &dyn std::fmt::Display| NodeError::Failed(error.to_string());
        self.local.raft.trigger().transfer_leader(to).await.map_err(|error| failed(&error))?;
        let mut leaders = self.leadership();
        let moved = async {
            while known(&mut leaders).await == self.local.id {
                changed(&mut leaders).await;
            }
        };
        timeout(Duration::from_secs(1), moved).await.map_err(|_| NodeError::Timeout)
    }
}

/// Waits for a leader.
pub(crate) async fn known(leaders: &mut watch::Receiver<Option<u64>>) -> u64 {
    loop {
        let leader = *leaders.borrow_and_update();
        match leader {
            Some(leader) => return leader,
            None => changed(leaders).await,
        }
    }
}

/// Waits until there is no leader.
pub(crate) async fn lost(leaders: &mut watch::Receiver<Option<u64>>) {
    while leaders.borrow_and_update().is_some() {
        changed(leaders).await;
    }
}

async fn changed(leaders: &mut watch::Receiver<Option<u64>>) {
    if leaders.changed().await.is_err() {
        // The member is gone; so is, in a moment, whoever waits.
        std::future::pending::<()>().await;
    }
}

fn lease(reply: Reply) -> Result<(i64, i64), NodeError> {
    match reply {
        Reply::Lease { remaining, granted } => Ok((remaining, granted)),
        other => Err(NodeError::Failed(format!("the leader answered {other:?}"))),
    }
}
