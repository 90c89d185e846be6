//! Bugs that other stores have had, behind switches: the proof that the simulator would find them.
//!
//! Keeps true: a process has at most one of them, named in its environment; without a name there is none. What each
//! does stands where it does it, with `mutant!`; programs contain none of it.

use std::sync::OnceLock;

/// The environment variable that names one.
pub(super) const VARIABLE: &str = "TRIREME_SIM_MUTANT";

macro_rules! mutants {
    ($($(#[$doc:meta])* $name:ident,)*) => {
        /// One bug.
        #[derive(Clone, Copy, Debug, Eq, PartialEq)]
        pub(crate) enum Mutant {
            $($(#[$doc])* $name,)*
        }

        /// All of them.
        pub(super) const ALL: &[Mutant] = &[$(Mutant::$name,)*];
    };
}

mutants! {
    /// A write is acknowledged before it is on the disk (etcd#14370).
    AcknowledgesEarly,
    /// A failed sync of the log is taken for a good one (the fsync mistake of many databases).
    IgnoresSyncErrors,
    /// The number of the last applied entry is not saved together with what it did (etcd#13766).
    AppliedApart,
    /// After a start the last applied entry is applied again (etcd's v3.5 data inconsistency).
    AppliesTwice,
    /// The revision at a start is that of the newest key, though what came last may be a deletion (etcd#17780).
    RevisionFromKeys,
    /// The log is cut although the state is not on the disk yet.
    CutsUnsettled,
    /// The vote is not saved: a member may vote twice in a term.
    ForgetsVote,
    /// The vote is given before it is saved.
    OvertakesVote,
    /// A state received from another member is laid over the old one.
    KeepsOldState,
    /// Watchers are not told that the state was replaced by another member's (etcd#15271 and its like).
    InstallsSilently,
    /// A request whose fate is unknown is sent again.
    ProposesAgain,
    /// A read does not ask a quorum whether this member still leads (etcd#20418).
    ReadsWithoutQuorum,
    /// A read does not wait until the state has caught up.
    ReadsUnapplied,
    /// A read of what is compacted is not refused (etcd#18667).
    ReadsCompacted,
    /// A deletion at the compacted revision is forgotten (etcd#18089).
    CompactsDeletion,
    /// A watch opened at the compacted revision misses what happened at it (etcd#19179).
    SkipsCompacted,
    /// A watch is told of progress before the events (etcd#15220).
    ProgressBeforeEvents,
    /// A watch that begins in the future gets older events (etcd#20221).
    FutureGetsPast,
    /// A watcher that is further behind than the newest changes loses events (etcd#17529).
    StarvedLosesEvents,
    /// The changes of one revision reach a watcher in pieces.
    SplitsRevision,
    /// Leases do not get their whole time.
    LeasesEndEarly,
    /// A lease is renewed whose end is under way already.
    RenewsEnded,
}

/// Whether this process has the bug.
pub(crate) fn is(mutant: Mutant) -> bool {
    static ACTIVE: OnceLock<Option<Mutant>> = OnceLock::new();
    let named = || {
        let name = std::env::var(VARIABLE).ok()?;
        Some(*ALL.iter().find(|mutant| format!("{mutant:?}") == name).expect("a mutant's name"))
    };
    *ACTIVE.get_or_init(named) == Some(mutant)
}
