//! What must hold in every history, whatever happened to the store meanwhile.
//!
//! Keeps true: checkers are pure functions of a [`History`]; a history of a store that keeps etcd's promises has no
//! violations, also when answers are missing. Two checkers judge requests independently of each other: `revisions`
//! replays the writes in the order that their revisions claim, `search` looks for any order that explains the
//! answers and does not read revisions. `watches` holds watches against the replay.
//! Leaves to others: whether enough happened for the verdict to mean anything (`workload`).

mod operations;
mod order;
mod revisions;
mod search;
mod situation;
mod store;
mod watches;

#[cfg(test)]
#[path = "tests/generated.rs"]
mod generated;
#[cfg(test)]
#[path = "tests/histories.rs"]
mod histories;
#[cfg(test)]
#[path = "tests/watching.rs"]
mod watching;

use std::fmt;

use crate::history::History;

pub use order::{Commit, Order};
pub use store::Change;

/// A promise of etcd's, as its documentation and its own robustness tests have it.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub enum Rule {
    /// One write has one revision, one revision one write.
    OneRevision,
    /// No value is seen that nobody wrote, or whose write was refused.
    Phantom,
    /// A write happens once, also if its client was not told.
    Once,
    /// Every revision is some client's write.
    Gap,
    /// More than one write could be the one that nobody saw: not enough was recorded to judge.
    Unclear,
    /// What was answered before a request is seen by it: no lost write, no stale read, no way back in time.
    RealTime,
    /// Nothing is known of a write before it is asked for.
    Causality,
    /// A read is the state at its revision.
    State,
    /// A condition holds exactly if the state before says so: of two that exclude each other, one succeeds.
    Condition,
    /// A former value in an answer is the former value.
    Former,
    /// What a member answers does not go back while its process lives.
    Backwards,
    /// History is there until it is compacted, and not after.
    Compaction,
    /// There is an order of all requests that explains all answers.
    Linearizable,
    /// The search for such an order was given up.
    Undecided,
    /// All members have the same state at the same revision.
    Identical,
    /// Watch: events come in the order of revisions.
    Ordered,
    /// Watch: no event comes twice.
    Unique,
    /// Watch: no event is left out.
    Reliable,
    /// Watch: the events of a revision come together.
    Atomic,
    /// Watch: a progress notification comes after all events up to its revision.
    Bookmarkable,
    /// Watch: only what was asked for, from the revision that was asked for.
    Filtered,
    /// Watch: an event is what happened.
    Content,
    /// Watch: the former value is the former value.
    PrevKv,
    /// Watch: a deletion in the very revision up to which was compacted is an event like any other.
    Tombstone,
    /// Watch: it is ended by compaction only if it needs what was compacted.
    Canceled,
}

/// A promise that was broken, and how.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Violation {
    /// The promise.
    pub rule: Rule,
    /// How it was broken.
    pub text: String,
}

impl Violation {
    /// A broken promise.
    pub fn new(rule: Rule, text: impl Into<String>) -> Self {
        Self { rule, text: text.into() }
    }
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}: {}", self.rule, self.text)
    }
}

/// What a member says of its state at a revision: up to where it was compacted, and the hash.
pub type Digest = (i64, u32);

/// Members whose state at one revision is not that of the others.
pub fn identical(revision: i64, members: &[Digest]) -> Option<Violation> {
    let same = members.windows(2).all(|two| two[0] == two[1]);
    (!same).then(|| Violation::new(Rule::Identical, format!("at revision {revision}: {members:?}")))
}

/// All checkers over a history.
pub fn check(history: &History) -> Vec<Violation> {
    let (order, mut found) = Order::reconstruct(history);
    found.extend(revisions::check(history, &order));
    found.extend(watches::check(history, &order));
    found.extend(search::check(history));
    found
}
