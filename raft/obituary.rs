//! A leader whose process has died is followed by another at once, not after the election timeout.
//!
//! Keeps true: an election is held early only when the kernel of the leader's machine says that nobody listens there
//! any more: a connection from the leader ended, and new ones are refused. Silence is left to the timers, so a slow
//! leader, a paused one, a cut cable or a partition never brings an early election. Who wins is decided by votes
//! and logs as ever: a wrong obituary costs an election, and no data.

use crate::{
    local::Local,
    network::Transport,
    types::{Raft, Vote},
};
use openraft::{async_runtime::watch::WatchReceiver, raft::TransferLeaderRequest};
use std::{sync::Arc, time::Duration};
use tokio::time::sleep;

/// A dying process closes its connections and its listener one after the other: for so long the latter may answer.
const TRIES: u32 = 10;
const BETWEEN_TRIES: Duration = Duration::from_millis(5);
/// The survivors stand for election one after the other, so that they do not split the votes.
const STAGGER: Duration = Duration::from_millis(60);

/// What a member does when a connection that `peer` had made to it has ended.
pub(crate) async fn connection_ended(local: Arc<Local>, transport: Arc<Transport>, peer: u64) {
    let Some(vote) = led_by(&local.raft, peer) else { return };
    let Some(url) = local.url(peer) else { return };
    if !is_dead(&transport, &url).await {
        return;
    }
    sleep(STAGGER * turn(&local, peer)).await;
    // By now another survivor, or another of the connections that ended, may have brought a new vote.
    let stands = local.voters().contains(&local.id) && !local.pulse.is_slow();
    if led_by(&local.raft, peer).as_ref() == Some(&vote) && stands {
        tracing::info!(leader = format!("{peer:x}"), "the leader's process has died: standing for election");
        let inherit = TransferLeaderRequest::new(vote, local.id, None);
        if let Err(error) = local.raft.handle_transfer_leader(inherit).await {
            tracing::debug!(%error, "no election: this member is stopping");
        }
    }
}

/// The vote under which a peer leads, as far as this member knows.
fn led_by(raft: &Raft, peer: u64) -> Option<Vote> {
    let metrics = raft.metrics().borrow_watched().clone();
    (metrics.current_leader == Some(peer)).then_some(metrics.vote)
}

/// Whether nobody listens where a peer did. Only a refusal is proof; no answer at all is none.
async fn is_dead(transport: &Transport, url: &str) -> bool {
    for _ in 0..TRIES {
        match transport.probe(url).await {
            Err(error) if error.kind() == std::io::ErrorKind::ConnectionRefused => return true,
            Err(_) => return false,
            Ok(()) => sleep(BETWEEN_TRIES).await,
        }
    }
    false
}

/// How many of the other survivors stand before this member.
fn turn(local: &Local, dead: u64) -> u32 {
    let before = local.voters().into_iter().filter(|id| *id < local.id && *id != dead).count();
    u32::try_from(before).unwrap_or(u32::MAX)
}
