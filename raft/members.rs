//! Who the members are, and how that changes.
//!
//! Keeps true: the group's own membership is the only list there is, so a change is in force on every member at the
//! same place of the log; a new member is a learner until it has what the others have, so that it never counts
//! before it can vote; no change leaves fewer members that answer than a majority needs; a number once given is
//! never given again, and whoever had it and was removed is told so. Sending a change to the leader is `node.rs`.

use crate::{
    local::Local,
    network::{Refusal, Reply},
    types::{Membership, PeerNode, TypeConfig},
};
use openraft::{
    ChangeMembers, Instant as _, async_runtime::watch::WatchReceiver, errors::ClientWriteError,
    errors::RaftError,
};
use serde::{Deserialize, Serialize};
use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

/// Log entries that a learner may lack and still count as caught up: what is under way to it while others write.
const CAUGHT_UP: u64 = 200;
/// A member that answered within this long is there.
const ALIVE: Duration = Duration::from_secs(2);
/// How often the leader looks whether a joining member has caught up.
pub(crate) const LOOK: Duration = Duration::from_millis(200);
/// Learners that stay it at the same time, as in etcd.
const LEARNERS: usize = 1;

/// A change that is asked of the leader.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub(crate) enum Change {
    /// A new member, under a number that nobody had.
    Add {
        /// The number.
        id: u64,
        /// How the group will know it.
        node: PeerNode,
    },
    /// A member goes for good.
    Remove(u64),
    /// A member moves.
    Update {
        /// Which.
        id: u64,
        /// Where peers reach it from now on.
        urls: Vec<String>,
    },
    /// A learner becomes a voter.
    Promote(u64),
    /// A member that lost its data gets a new number, in one step: it is never no member.
    Replace {
        /// The number that goes.
        old: u64,
        /// The new one.
        id: u64,
        /// How the group knows it, and will.
        node: PeerNode,
    },
}

/// Why a change is refused; nothing was changed.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub(crate) enum MemberFault {
    /// There is no such member.
    NotFound,
    /// Another member has one of the URLs.
    UrlsExist,
    /// There are as many learners as may be.
    TooManyLearners,
    /// It is a voter already.
    NotLearner,
    /// It lacks too much of the log.
    NotReady,
    /// Those that would be left and answer are no majority.
    NotEnough,
    /// It is to be replaced, and answers under its old number.
    Answers,
}

/// A member as the group knows it.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct Known {
    /// Its number.
    pub(crate) id: u64,
    /// Where peers reach it.
    pub(crate) urls: Vec<String>,
    /// It does not vote (yet).
    pub(crate) learner: bool,
}

/// All members of a membership, by number.
pub(crate) fn known(membership: &Membership) -> Vec<Known> {
    let voters: BTreeSet<u64> = membership.voter_ids().collect();
    let known = |(id, node): (&u64, &PeerNode)| Known {
        id: *id,
        urls: node.urls.clone(),
        learner: !voters.contains(id),
    };
    membership.nodes().map(known).collect()
}

/// What the leader knows when it is asked for a change.
struct Leader {
    membership: Membership,
    /// What each member has of the log, this one too.
    matched: BTreeMap<u64, u64>,
    last: u64,
    /// Members that answered lately.
    alive: BTreeSet<u64>,
    /// Members that have told who they are. One that has not, and comes without data, is taken for new: it must not
    /// have counted before.
    told: BTreeSet<u64>,
}

type Step = ChangeMembers<u64, PeerNode>;

impl Leader {
    fn voters(&self) -> BTreeSet<u64> {
        self.membership.voter_ids().collect()
    }

    fn node(&self, id: u64) -> Result<PeerNode, MemberFault> {
        let found = self.membership.nodes().find(|(known, _)| **known == id);
        found.map(|(_, node)| node.clone()).ok_or(MemberFault::NotFound)
    }

    /// Learners that are to stay it.
    fn learners(&self) -> usize {
        let voters = self.voters();
        self.membership.nodes().filter(|(id, node)| !voters.contains(id) && !node.joining).count()
    }

    fn taken(&self, urls: &[String], but: Option<u64>) -> bool {
        let mut others = self.membership.nodes().filter(|(id, _)| Some(**id) != but);
        others.any(|(_, node)| node.urls.iter().any(|url| urls.contains(url)))
    }

    fn caught_up(&self, id: u64) -> bool {
        let there = self.alive.contains(&id) && self.told.contains(&id);
        there && self.matched.get(&id).is_some_and(|at| at + CAUGHT_UP >= self.last)
    }

    /// The voter, other than `this`, that answers and has most of the log of those that `such` accepts, and the last
    /// entry it has.
    fn furthest(&self, this: u64, such: impl Fn(u64) -> bool) -> Option<(u64, u64)> {
        let voters = self.voters().into_iter();
        let others = voters.filter(|id| *id != this && self.alive.contains(id) && such(*id));
        others.map(|id| (id, self.matched.get(&id).copied().unwrap_or_default())).max_by_key(|(_, at)| *at)
    }

    /// The same, if it lacks little: while it gets the rest nobody leads.
    fn successor(&self, this: u64, such: impl Fn(u64) -> bool) -> Option<(u64, u64)> {
        self.furthest(this, such).filter(|(_, at)| at + CAUGHT_UP >= self.last)
    }

    /// The group's step for a change; `None` when it is done already.
    fn step(&self, change: &Change) -> Result<Option<Step>, MemberFault> {
        match change {
            Change::Add { id, .. } if self.node(*id).is_ok() => Ok(None),
            Change::Add { node, .. } if self.taken(&node.urls, None) => Err(MemberFault::UrlsExist),
            Change::Add { node, .. } if !node.joining && self.learners() >= LEARNERS => {
                Err(MemberFault::TooManyLearners)
            }
            Change::Add { id, node } => Ok(Some(Step::AddNodes(BTreeMap::from([(*id, node.clone())])))),
            Change::Remove(id) => self.removal(*id).map(Some),
            Change::Replace { id, .. } if self.node(*id).is_ok() => Ok(None),
            Change::Replace { old, id, node } => self.replacement(*old, *id, node).map(Some),
            Change::Update { id, urls } => {
                let node = self.node(*id)?;
                if self.taken(urls, Some(*id)) {
                    return Err(MemberFault::UrlsExist);
                }
                let moved = PeerNode { urls: urls.clone(), ..node };
                Ok(Some(Step::SetNodes(BTreeMap::from([(*id, moved)]))))
            }
            Change::Promote(id) => {
                self.node(*id)?;
                if self.voters().contains(id) {
                    return Err(MemberFault::NotLearner);
                }
                if !self.caught_up(*id) {
                    return Err(MemberFault::NotReady);
                }
                Ok(Some(Step::AddVoterIds(BTreeSet::from([*id]))))
            }
        }
    }

    fn removal(&self, id: u64) -> Result<Step, MemberFault> {
        self.node(id)?;
        let mut voters = self.voters();
        if !voters.remove(&id) {
            return Ok(Step::RemoveNodes(BTreeSet::from([id])));
        }
        let left = voters.intersection(&self.alive).count();
        if voters.is_empty() || left < voters.len() / 2 + 1 {
            return Err(MemberFault::NotEnough);
        }
        Ok(Step::RemoveVoters(BTreeSet::from([id])))
    }

    fn replacement(&self, old: u64, id: u64, node: &PeerNode) -> Result<Step, MemberFault> {
        let known = self.node(old)?;
        if known.urls != node.urls {
            return Err(MemberFault::NotFound);
        }
        if self.alive.contains(&old) {
            return Err(MemberFault::Answers);
        }
        let joining = known.joining || self.voters().contains(&old);
        let node = PeerNode { joining, ..known };
        Ok(Step::Batch(vec![self.removal(old)?, Step::AddNodes(BTreeMap::from([(id, node)]))]))
    }

    /// A member that is to vote as soon as it has caught up, and has.
    fn ready(&self) -> Option<u64> {
        let voters = self.voters();
        let mut joining = self.membership.nodes().filter(|(id, node)| node.joining && !voters.contains(id));
        joining.find(|(id, _)| self.caught_up(**id)).map(|(id, _)| *id)
    }
}

impl Local {
    /// The members now, changes under way included.
    pub(crate) fn membership(&self) -> Membership {
        let metrics = self.raft.metrics();
        let metrics = metrics.borrow_watched();
        (*metrics.membership_config).clone()
    }

    /// Where peers reach a member.
    pub(crate) fn url(&self, id: u64) -> Option<String> {
        let metrics = self.raft.metrics();
        let metrics = metrics.borrow_watched();
        let found = metrics.membership_config.nodes().find(|(known, _)| **known == id);
        found.and_then(|(_, node)| node.urls.first().cloned())
    }

    /// The members that vote.
    pub(crate) fn voters(&self) -> BTreeSet<u64> {
        self.membership().voter_ids().collect()
    }

    async fn as_informed_leader(&self) -> Result<Leader, Refusal> {
        let told = self.machine.look(|state| state.members.keys().copied().collect()).await;
        let told = told.map_err(|error| Refusal::Failed(error.to_string()))?;
        Ok(Leader { told, ..self.as_leader() })
    }

    fn as_leader(&self) -> Leader {
        let metrics = self.raft.metrics();
        let metrics = metrics.borrow_watched();
        let last = metrics.last_log_index.unwrap_or_default();
        let matched = metrics.replication.iter().flatten();
        let mut matched: BTreeMap<u64, u64> =
            matched.filter_map(|(id, log)| Some((*id, log.as_ref()?.index))).collect();
        matched.insert(self.id, last);
        let heard = metrics.heartbeat.iter().flatten();
        let mut alive: BTreeSet<u64> = heard
            .filter(|(_, at)| at.as_ref().is_some_and(|at| at.elapsed() < ALIVE))
            .map(|(id, _)| *id)
            .collect();
        alive.insert(self.id);
        let membership = (*metrics.membership_config).clone();
        Leader { membership, matched, last, alive, told: BTreeSet::new() }
    }

    /// Changes the members, if this member leads. Returns once the change is in force.
    pub(crate) async fn change(&self, change: Change) -> Reply {
        // A new leader's first entry must be in force before the group takes a change.
        if let Err(refusal) = self.confirm().await {
            return Reply::Refused(refusal);
        }
        let leader = match self.as_informed_leader().await {
            Ok(leader) => leader,
            Err(refusal) => return Reply::Refused(refusal),
        };
        let step = match leader.step(&change) {
            Ok(Some(step)) => step,
            Ok(None) => return Reply::Done,
            Err(fault) => return Reply::Refused(Refusal::Member(fault)),
        };
        if change == Change::Remove(self.id) {
            return self.step_down().await;
        }
        match self.raft.change_membership(step, false).await {
            Ok(_) => Reply::Done,
            Err(error) => Reply::Refused(refusal(&error)),
        }
    }

    /// To whom this member may hand leadership, if it leads: as [`Leader::successor`].
    pub(crate) fn successor(&self, such: impl Fn(u64) -> bool) -> Option<(u64, u64)> {
        self.as_leader().successor(self.id, such)
    }

    /// To whom this member hands leadership, if it leads, when it has to: as [`Leader::furthest`].
    pub(crate) fn furthest(&self) -> Option<u64> {
        self.as_leader().furthest(self.id, |_| true).map(|(next, _)| next)
    }

    /// A leader that is to go hands over first; the next one removes it.
    async fn step_down(&self) -> Reply {
        if let Some((next, _)) = self.successor(|_| true) {
            // Whether it worked is seen when the change is asked again.
            let _ = self.raft.trigger().transfer_leader(next).await;
        }
        Reply::Refused(Refusal::NotLeader)
    }

    /// Makes a voter of a joining member that has caught up, if there is one and this member leads.
    pub(crate) async fn promote_ready(&self) {
        let ready = self.as_informed_leader().await.map(|leader| leader.ready());
        let Ok(Some(id)) = ready else { return };
        match self.change(Change::Promote(id)).await {
            Reply::Done => tracing::info!(member = format!("{id:x}"), "caught up, votes from now on"),
            other => tracing::debug!(member = format!("{id:x}"), ?other, "could not be made a voter yet"),
        }
    }
}

fn refusal(error: &RaftError<TypeConfig, ClientWriteError<TypeConfig>>) -> Refusal {
    match error {
        RaftError::APIError(ClientWriteError::ForwardToLeader(_)) => Refusal::NotLeader,
        // Another change is under way: nothing was done, it may be asked again.
        RaftError::APIError(ClientWriteError::ChangeMembershipError(_)) => Refusal::NotLeader,
        _ => Refusal::Unknown,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node(url: &str, joining: bool) -> PeerNode {
        PeerNode { urls: vec![url.into()], joining }
    }

    /// Voters 1 to 3, 4 that is to be one, and learner 5; some answer.
    fn leader(alive: &[u64], learner_at: u64) -> Leader {
        let nodes: BTreeMap<u64, PeerNode> =
            (1..=5).map(|id| (id, node(&format!("u{id}"), id == 4))).collect();
        let voters = vec![BTreeSet::from([1, 2, 3])];
        let membership = openraft::Membership::new(voters, nodes).unwrap();
        Leader {
            membership: Membership::new(None, membership),
            matched: BTreeMap::from([(1, 1000), (2, 990), (3, 5), (4, learner_at)]),
            last: 1000,
            alive: alive.iter().copied().collect(),
            told: (1..=5).collect(),
        }
    }

    #[test]
    fn a_change_that_cannot_be_is_refused() {
        let check = |alive: &[u64], change: Change, fault| {
            assert_eq!(leader(alive, 0).step(&change).unwrap_err(), fault, "{change:?}");
        };
        let add = |url: &str| Change::Add { id: 9, node: node(url, false) };
        check(&[1, 2, 3, 4], add("u2"), MemberFault::UrlsExist);
        check(&[1, 2, 3, 4], add("new"), MemberFault::TooManyLearners);
        check(&[1, 2, 3, 4], Change::Remove(9), MemberFault::NotFound);
        check(&[1, 2], Change::Remove(2), MemberFault::NotEnough);
        check(&[1, 2, 3, 4], Change::Promote(2), MemberFault::NotLearner);
        check(&[1, 2, 3, 4], Change::Promote(4), MemberFault::NotReady);
        check(&[1, 2, 3, 4], Change::Update { id: 1, urls: vec!["u3".into()] }, MemberFault::UrlsExist);
    }

    #[test]
    fn a_dead_member_may_be_removed_and_the_last_one_not() {
        let step = leader(&[1, 2], 0).step(&Change::Remove(3)).unwrap();
        assert_eq!(step, Some(Step::RemoveVoters(BTreeSet::from([3]))));
        let step = leader(&[1, 2], 0).step(&Change::Remove(4)).unwrap();
        assert_eq!(step, Some(Step::RemoveNodes(BTreeSet::from([4]))));
        let mut alone = leader(&[1], 0);
        let one = BTreeMap::from([(1, node("u1", false))]);
        let membership = openraft::Membership::new(vec![BTreeSet::from([1])], one).unwrap();
        alone.membership = Membership::new(None, membership);
        assert_eq!(alone.step(&Change::Remove(1)).unwrap_err(), MemberFault::NotEnough);
    }

    #[test]
    fn a_joining_member_votes_once_it_has_caught_up() {
        assert_eq!(leader(&[1, 2, 3, 4], 500).ready(), None);
        assert_eq!(leader(&[1, 2, 3, 4], 900).ready(), Some(4));
        assert_eq!(leader(&[1, 2, 3], 900).ready(), None, "it does not answer");
        let unknown = Leader { told: (1..=3).collect(), ..leader(&[1, 2, 3, 4], 900) };
        assert_eq!(unknown.ready(), None, "it has not told who it is");
    }

    #[test]
    fn leadership_goes_to_a_voter_that_answers_and_lacks_little() {
        let check = |alive: &[u64], but: u64, expect| {
            assert_eq!(leader(alive, 1000).successor(1, |id| id != but), expect, "{alive:?}");
        };
        check(&[1, 2, 3, 4], 0, Some((2, 990)));
        check(&[1, 2, 3, 4], 2, None);
        check(&[1, 3, 4], 0, None);
        assert_eq!(
            leader(&[1, 3, 4], 1000).furthest(1, |_| true),
            Some((3, 5)),
            "when it has to be somebody"
        );
        assert_eq!(leader(&[1, 4], 1000).furthest(1, |_| true), None, "a learner cannot lead");
    }

    #[test]
    fn a_member_that_lost_its_data_is_replaced_where_it_was() {
        let replace = |old, url: &str| Change::Replace { old, id: 9, node: node(url, true) };
        let check = |alive: &[u64], change: Change, expect: Result<Option<Step>, MemberFault>| {
            assert_eq!(leader(alive, 0).step(&change), expect, "{change:?}");
        };
        let added = |url: &str, joining| Step::AddNodes(BTreeMap::from([(9, node(url, joining))]));
        let voter = Step::Batch(vec![Step::RemoveVoters(BTreeSet::from([3])), added("u3", true)]);
        check(&[1, 2], replace(3, "u3"), Ok(Some(voter)));
        let learner = Step::Batch(vec![Step::RemoveNodes(BTreeSet::from([5])), added("u5", false)]);
        check(&[1, 2, 3], replace(5, "u5"), Ok(Some(learner)));
        check(&[1, 2, 3], replace(3, "u3"), Err(MemberFault::Answers));
        check(&[1, 2], replace(3, "u2"), Err(MemberFault::NotFound));
        check(&[1, 2], replace(8, "u8"), Err(MemberFault::NotFound));
        check(&[1], replace(3, "u3"), Err(MemberFault::NotEnough));
        let again = Change::Replace { old: 3, id: 4, node: node("u3", true) };
        check(&[1, 2], again, Ok(None));
    }

    #[test]
    fn asking_twice_adds_once() {
        let again = Change::Add { id: 4, node: node("u4", true) };
        assert_eq!(leader(&[1], 0).step(&again), Ok(None));
    }
}
