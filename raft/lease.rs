//! Leases: which there are and which keys hang on them (replicated), and when they end (the leader's own clock).
//!
//! Keeps true: a lease ends only by a `Revoke` in the log, so every member deletes its keys at the same revision;
//! only the leader proposes that, and a new leader gives every lease its whole time again, so none ends early
//! because of an election.

use crate::work::mutant;
use bytes::Bytes;
use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    time::Duration,
};
use tokio::time::Instant;

/// A lease as every member knows it.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub(crate) struct Lease {
    /// Seconds granted.
    pub(crate) ttl: i64,
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
    ends: HashMap<i64, Instant>,
    leading: bool,
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
    pub(crate) fn expired(&mut self, leases: impl Iterator<Item = (i64, i64)>, now: Instant) -> Vec<i64> {
        if !self.leading {
            return Vec::new();
        }
        let mut known = HashMap::with_capacity(self.ends.len());
        for (id, ttl) in leases {
            let end = self
                .ends
                .get(&id)
                .copied()
                .unwrap_or_else(|| now + seconds(if mutant!(LeasesEndEarly) { ttl / 4 } else { ttl }));
            known.insert(id, end);
        }
        self.ends = known;
        self.ends.iter().filter(|(_, end)| **end <= now).map(|(id, _)| *id).collect()
    }

    /// Gives a lease its whole time again.
    pub(crate) fn renew(&mut self, id: i64, ttl: i64, now: Instant) {
        self.ends.insert(id, now + seconds(ttl));
    }

    /// Whole seconds left.
    pub(crate) fn remaining(&self, id: i64, ttl: i64, now: Instant) -> i64 {
        let left = self.ends.get(&id).map_or(seconds(ttl), |end| end.saturating_duration_since(now));
        i64::try_from(left.as_secs()).unwrap_or(i64::MAX)
    }
}

fn seconds(ttl: i64) -> Duration {
    Duration::from_secs(ttl.max(0).unsigned_abs())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_leader_ends_leases_and_a_new_one_gives_them_their_time_again() {
        let mut deadlines = Deadlines::default();
        let start = Instant::now();
        let leases = || [(1, 5), (2, 10)].into_iter();
        let after = |seconds| start + Duration::from_secs(seconds);
        assert_eq!(deadlines.expired(leases(), start), Vec::<i64>::new());
        deadlines.lead(true);
        assert_eq!(deadlines.expired(leases(), start), Vec::<i64>::new());
        assert_eq!(deadlines.expired(leases(), after(5)), [1]);
        deadlines.renew(1, 5, after(5));
        assert_eq!(deadlines.expired(leases(), after(9)), Vec::<i64>::new());
        assert_eq!(deadlines.remaining(1, 5, after(9)), 1);
        deadlines.lead(false);
        assert_eq!(deadlines.expired(leases(), after(100)), Vec::<i64>::new());
        deadlines.lead(true);
        assert_eq!(deadlines.expired(leases(), after(100)), Vec::<i64>::new());
        assert_eq!(deadlines.expired(leases(), after(105)), [1]);
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
