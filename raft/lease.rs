//! Leases: which there are and which keys hang on them (replicated), and when they end (the leader's own clock).
//!
//! Keeps true: a lease ends only by a `Revoke` in the log, so every member deletes its keys at the same revision;
//! only the leader proposes that, and a new leader gives every lease its whole time again, so none ends early
//! because of an election. A time belongs to one grant: who is granted a number again gets its whole time, and a
//! lease whose time is over is never renewed, for its `Revoke` may be on its way.

use crate::work::mutant;
use bytes::Bytes;
use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    time::Duration,
};
use tokio::time::Instant;

/// What was granted once.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub(crate) struct Grant {
    /// Seconds.
    pub(crate) ttl: i64,
    /// Tells this grant from others of the same lease, within this process.
    pub(crate) number: u64,
}

/// A lease as every member knows it.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub(crate) struct Lease {
    /// The grant.
    pub(crate) grant: Grant,
    /// The keys that end with it.
    pub(crate) keys: BTreeSet<Bytes>,
}

/// All leases.
pub(crate) type Leases = BTreeMap<i64, Lease>;

/// Moves a key from one lease to another; 0 is none.
pub(crate) fn attach(leases: &mut Leases, key: &Bytes, old: i64, new: i64) {
    if old == new {
        return;
    }
    if let Some(lease) = leases.get_mut(&old) {
        lease.keys.remove(key);
    }
    if let Some(lease) = leases.get_mut(&new) {
        lease.keys.insert(key.clone());
    }
}

/// The leader's clock over the leases. Empty on every other member.
#[derive(Default)]
pub(crate) struct Deadlines {
    ends: HashMap<i64, End>,
    leading: bool,
}

#[derive(Clone, Copy)]
struct End {
    /// The grant that ends.
    number: u64,
    at: Instant,
    /// It was told that the time is over.
    over: bool,
}

impl End {
    fn of(grant: Grant, now: Instant) -> Self {
        let ttl = if mutant!(LeasesEndEarly) { grant.ttl - 1 } else { grant.ttl };
        Self { number: grant.number, at: now + seconds(ttl), over: false }
    }
}

impl Deadlines {
    /// Takes up or gives up the leader's part. Taking it up, every lease is given its whole time.
    pub(crate) fn lead(&mut self, leading: bool) {
        if self.leading != leading {
            self.ends.clear();
            self.leading = leading;
        }
    }

    /// Whether this member decides on leases now.
    pub(crate) fn leading(&self) -> bool {
        self.leading
    }

    /// Compares with the leases there are: new ones get their whole time, ended ones are forgotten. Returns those
    /// whose time is over.
    pub(crate) fn expired(&mut self, leases: impl Iterator<Item = (i64, Grant)>, now: Instant) -> Vec<i64> {
        if !self.leading {
            return Vec::new();
        }
        let mut known = HashMap::with_capacity(self.ends.len());
        for (id, grant) in leases {
            let mut end = self.end(id, grant).unwrap_or_else(|| End::of(grant, now));
            end.over |= end.at <= now;
            known.insert(id, end);
        }
        self.ends = known;
        self.ends.iter().filter(|(_, end)| end.over).map(|(id, _)| *id).collect()
    }

    fn end(&self, id: i64, grant: Grant) -> Option<End> {
        self.ends.get(&id).filter(|end| end.number == grant.number).copied()
    }

    /// Gives a lease its whole time again. `false` if its time is over.
    #[must_use]
    pub(crate) fn renew(&mut self, id: i64, grant: Grant, now: Instant) -> bool {
        let over = self.end(id, grant).is_some_and(|end| end.over && !mutant!(RenewsEnded));
        if !over {
            self.ends.insert(id, End::of(grant, now));
        }
        !over
    }

    /// Whole seconds left.
    pub(crate) fn remaining(&self, id: i64, grant: Grant, now: Instant) -> i64 {
        let left =
            self.end(id, grant).unwrap_or_else(|| End::of(grant, now)).at.saturating_duration_since(now);
        i64::try_from(left.as_secs()).unwrap_or(i64::MAX)
    }
}

fn seconds(ttl: i64) -> Duration {
    Duration::from_secs(ttl.max(0).unsigned_abs())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn grant(ttl: i64, number: u64) -> Grant {
        Grant { ttl, number }
    }

    #[test]
    fn only_a_leader_ends_leases_and_a_new_one_gives_them_their_time_again() {
        let mut deadlines = Deadlines::default();
        let start = Instant::now();
        let leases = || [(1, grant(5, 1)), (2, grant(10, 2))].into_iter();
        let after = |seconds| start + Duration::from_secs(seconds);
        assert_eq!(deadlines.expired(leases(), start), Vec::<i64>::new());
        deadlines.lead(true);
        assert_eq!(deadlines.expired(leases(), start), Vec::<i64>::new());
        assert!(deadlines.renew(1, grant(5, 1), after(5)));
        assert_eq!(deadlines.expired(leases(), after(9)), Vec::<i64>::new());
        assert_eq!(deadlines.remaining(1, grant(5, 1), after(9)), 1);
        deadlines.lead(false);
        assert_eq!(deadlines.expired(leases(), after(100)), Vec::<i64>::new());
        deadlines.lead(true);
        assert_eq!(deadlines.expired(leases(), after(100)), Vec::<i64>::new());
        assert_eq!(deadlines.expired(leases(), after(105)), [1]);
    }

    #[test]
    fn a_lease_whose_time_is_over_is_not_renewed_until_it_is_granted_again() {
        let mut deadlines = Deadlines::default();
        let start = Instant::now();
        let after = |seconds| start + Duration::from_secs(seconds);
        deadlines.lead(true);
        assert_eq!(deadlines.expired([(1, grant(5, 1))].into_iter(), start), Vec::<i64>::new());
        assert_eq!(deadlines.expired([(1, grant(5, 1))].into_iter(), after(5)), [1]);
        assert!(!deadlines.renew(1, grant(5, 1), after(5)));
        assert_eq!(
            deadlines.expired([(1, grant(5, 1))].into_iter(), after(6)),
            [1],
            "proposed until it is gone"
        );
        assert_eq!(deadlines.remaining(1, grant(60, 2), after(6)), 60);
        assert_eq!(deadlines.expired([(1, grant(60, 2))].into_iter(), after(6)), Vec::<i64>::new());
        assert!(deadlines.renew(1, grant(60, 2), after(7)));
    }

    #[test]
    fn keys_move_between_leases() {
        let mut leases = Leases::from([(1, Lease::default()), (2, Lease::default())]);
        let key = Bytes::from_static(b"k");
        attach(&mut leases, &key, 0, 1);
        attach(&mut leases, &key, 1, 2);
        assert!(leases[&1].keys.is_empty() && leases[&2].keys.contains(&key));
        attach(&mut leases, &key, 2, 0);
        assert!(leases[&2].keys.is_empty());
    }
}
