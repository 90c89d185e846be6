//! What this member does itself, for its own clients and for its peers: the leader's part of every request.
//!
//! Keeps true: a refusal says whether anything was proposed; a lease is only renewed after a quorum has confirmed
//! that this member still leads. Finding the leader and asking it is `node.rs`.

use crate::{
    archive,
    command::Command,
    lease::{Deadlines, Grant},
    machine::Machine,
    network::{Refusal, Reply, Request},
    pulse::Pulse,
    types::{Raft, TypeConfig},
    work::mutant,
};
use openraft::{
    ReadPolicy,
    errors::{ClientWriteError, RaftError},
    raft::AppendEntriesResponse,
};
use std::{
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};
use tokio::{sync::Notify, time::Instant};

/// This member.
pub(crate) struct Local {
    /// Its number.
    pub(crate) id: u64,
    /// Its cluster's number.
    pub(crate) cluster: u64,
    /// The group.
    pub(crate) raft: Raft,
    /// The state.
    pub(crate) machine: Arc<Machine>,
    /// Told when a peer is given what it must wait to see applied.
    awaited: Arc<Notify>,
    /// The log's disk.
    pub(crate) pulse: Arc<Pulse>,
    deadlines: Mutex<Deadlines>,
    started: Instant,
    /// Milliseconds since `started` at which the leader was last heard.
    contact: AtomicU64,
    joined: AtomicBool,
}

impl Local {
    pub(crate) fn new(
        id: u64,
        cluster: u64,
        raft: Raft,
        machine: Arc<Machine>,
        awaited: Arc<Notify>,
        pulse: Arc<Pulse>,
    ) -> Self {
        Self {
            id,
            cluster,
            raft,
            machine,
            awaited,
            pulse,
            deadlines: Mutex::default(),
            started: Instant::now(),
            contact: AtomicU64::new(0),
            joined: AtomicBool::new(false),
        }
    }

    /// Whether the others were asked about this member. Before that it does nothing for them: it may have lost what
    /// it promised.
    pub(crate) fn has_joined(&self) -> bool {
        self.joined.load(Ordering::Acquire)
    }

    /// The others were asked.
    pub(crate) fn join(&self) {
        self.joined.store(true, Ordering::Release);
    }

    /// How long ago the leader was last heard; since the start if it never was.
    pub(crate) fn silence(&self) -> Duration {
        let heard = Duration::from_millis(self.contact.load(Ordering::Relaxed));
        self.started.elapsed().saturating_sub(heard)
    }

    fn heard(&self) {
        let now = u64::try_from(self.started.elapsed().as_millis()).unwrap_or(u64::MAX);
        self.contact.store(now, Ordering::Relaxed);
    }

    /// The leader's clock over the leases.
    pub(crate) fn deadlines(&self) -> MutexGuard<'_, Deadlines> {
        self.deadlines.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Does what a peer asks.
    pub(crate) async fn answer(&self, request: Request) -> Reply {
        match request {
            Request::Append(append) => match self.raft.append_entries(append).await {
                Ok(reply) => {
                    if !matches!(reply, AppendEntriesResponse::HigherVote(_)) {
                        self.heard();
                    }
                    Reply::Append(reply)
                }
                Err(error) => failed(&error),
            },
            Request::Vote(vote) => {
                let reply = self.raft.vote(vote).await;
                #[cfg(test)]
                crate::sim::truth::voted(self.id, &reply);
                reply.map_or_else(|e| failed(&e), Reply::Vote)
            }
            Request::PreVote(vote) => self.raft.pre_vote(vote).await.map_or_else(|e| failed(&e), Reply::Vote),
            Request::Transfer(transfer) if *transfer.to_node_id() == self.id && self.pulse.is_slow() => {
                Reply::Refused(Refusal::Failed("this member's disk stalls".into()))
            }
            Request::Transfer(transfer) => {
                self.raft.handle_transfer_leader(transfer).await.map_or_else(|e| failed(&e), Reply::Transfer)
            }
            Request::Propose(command) => {
                let reply = self.propose(command).await;
                self.awaited.notify_waiters();
                reply
            }
            Request::ReadIndex => {
                let index = self.read_index().await;
                self.awaited.notify_waiters();
                index.map_or_else(Reply::Refused, Reply::ReadIndex)
            }
            Request::KeepAlive(id) => self.keep_alive(id).await,
            Request::TimeToLive(id) => self.time_to_live(id).await,
            Request::Change(change) => self.change(change).await,
            _ => Reply::Refused(Refusal::Failed("unexpected request".into())),
        }
    }

    /// What was granted to a lease, as the leader knows it: nobody else is to decide on leases.
    async fn grant(&self, lease: i64) -> Result<Grant, Refusal> {
        self.confirm().await?;
        let grant = self.machine.look(move |state| state.leases.get(&lease).map(|lease| lease.grant)).await;
        grant.map_err(|error| Refusal::Failed(error.to_string()))?.ok_or(Refusal::LeaseNotFound)
    }

    /// Proposes a command here, if this member leads.
    pub(crate) async fn propose(&self, command: Command) -> Reply {
        let command = match command.writes() {
            true => Command::At { time: archive::now(), command: Box::new(command) },
            false => command,
        };
        match self.raft.client_write(command).await {
            Ok(written) => Reply::Proposed { index: written.log_id.index, outcome: written.data },
            Err(error) => Reply::Refused(write_refusal(&error)),
        }
    }

    /// The log entry that a linearizable read must see, confirmed by a quorum.
    pub(crate) async fn read_index(&self) -> Result<u64, Refusal> {
        if mutant!(ReadsWithoutQuorum) {
            return Ok(self.machine.applied());
        }
        match self.raft.get_read_linearizer(ReadPolicy::ReadIndex).await {
            Ok(linearizer) => Ok(linearizer.read_log_id().index()),
            Err(RaftError::APIError(_)) => Err(Refusal::NotLeader),
            Err(RaftError::Fatal(fatal)) => Err(Refusal::Failed(fatal.to_string())),
        }
    }

    /// Returns when everything is applied here that a linearizable read must see, if this member leads.
    pub(crate) async fn linearizable(&self) -> Result<(), Refusal> {
        let index = self.read_index().await?;
        self.machine.wait_applied(index).await;
        Ok(())
    }

    /// As [`Local::linearizable`], if this member also knows by now that it leads.
    pub(crate) async fn confirm(&self) -> Result<(), Refusal> {
        self.linearizable().await?;
        if self.deadlines().leading() { Ok(()) } else { Err(Refusal::NotLeader) }
    }

    /// Gives a lease its whole time again, if this member leads and the time is not over.
    pub(crate) async fn keep_alive(&self, id: i64) -> Reply {
        let grant = match self.grant(id).await {
            Ok(grant) => grant,
            Err(refusal) => return Reply::Refused(refusal),
        };
        if !self.deadlines().renew(id, grant, Instant::now()) {
            return Reply::Refused(Refusal::LeaseNotFound);
        }
        Reply::Lease { remaining: grant.ttl, granted: grant.ttl }
    }

    /// How long a lease has left, if this member leads.
    pub(crate) async fn time_to_live(&self, id: i64) -> Reply {
        let grant = match self.grant(id).await {
            Ok(grant) => grant,
            Err(refusal) => return Reply::Refused(refusal),
        };
        let remaining = self.deadlines().remaining(id, grant, Instant::now());
        Reply::Lease { remaining, granted: grant.ttl }
    }
}

fn write_refusal(error: &RaftError<TypeConfig, ClientWriteError<TypeConfig>>) -> Refusal {
    match error {
        RaftError::APIError(ClientWriteError::ForwardToLeader(_)) => Refusal::NotLeader,
        RaftError::APIError(ClientWriteError::LogEntryDiscarded(_)) => Refusal::Unknown,
        RaftError::APIError(other) => Refusal::Failed(other.to_string()),
        // The group stopped: what was under way may still be in the log.
        RaftError::Fatal(_) => Refusal::Unknown,
    }
}

fn failed(error: &dyn std::fmt::Display) -> Reply {
    Reply::Refused(Refusal::Failed(error.to_string()))
}
