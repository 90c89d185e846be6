//! Changing the size of a deployment that has several ReplicaSets: in proportion, so that a rollout that stands
//! half way (or is paused) stays half way.

use std::cmp::Reverse;

use k8s_openapi::api::apps::v1::ReplicaSet;

use super::{Pass, annotations, available, creation, is_recreate, newest, wanted};

impl Pass<'_> {
    /// Whether somebody changed `spec.replicas` since the ReplicaSets were last sized.
    pub(super) fn is_scaling_event(&self) -> bool {
        let differs =
            |set: &ReplicaSet| annotations::desired(&set.metadata).is_some_and(|d| d != self.desired);
        self.all().filter(|s| wanted(s) > 0).any(differs)
    }

    /// Spreads the desired size over the ReplicaSets.
    pub(super) fn scale(&mut self) {
        let has_new = self.new.is_some();
        let mut sets: Vec<ReplicaSet> = self.old.drain(..).chain(self.new.take()).collect();
        let new_at = has_new.then(|| sets.len() - 1);
        if let Some(one) = only_one(&sets, new_at) {
            if wanted(&sets[one]) != self.desired {
                let mut set = sets[one].clone();
                self.resize(&mut set, self.desired);
                sets[one] = set;
            }
        } else if new_at.is_some_and(|i| self.is_saturated(&sets[i])) {
            for i in (0..sets.len()).filter(|i| Some(*i) != new_at) {
                if wanted(&sets[i]) > 0 {
                    let mut set = sets[i].clone();
                    self.resize(&mut set, 0);
                    sets[i] = set;
                }
            }
        } else if !is_recreate(self.spec()) {
            self.spread(&mut sets);
        }
        self.new = new_at.map(|i| sets.remove(i));
        self.old = sets;
    }

    fn is_saturated(&self, new: &ReplicaSet) -> bool {
        annotations::desired(&new.metadata) == Some(self.desired)
            && wanted(new) == self.desired
            && available(new) == self.desired
    }

    fn spread(&mut self, sets: &mut [ReplicaSet]) {
        let mut order: Vec<usize> = (0..sets.len()).filter(|i| wanted(&sets[*i]) > 0).collect();
        let total: i32 = order.iter().map(|i| wanted(&sets[*i])).sum();
        let allowed = if self.desired > 0 { self.desired + self.max_surge } else { 0 };
        let to_add = allowed - total;
        if to_add > 0 {
            order.sort_by_key(|i| (Reverse(wanted(&sets[*i])), newest(&sets[*i])));
        } else {
            order.sort_by_key(|i| (Reverse(wanted(&sets[*i])), creation(&sets[*i])));
        }
        let mut added = 0;
        let mut sizes: Vec<i32> = Vec::new();
        for i in &order {
            let share = self.share(&sets[*i], to_add, added);
            sizes.push(wanted(&sets[*i]) + share);
            added += share;
        }
        // What rounding left over goes to the largest.
        if let Some(first) = sizes.first_mut() {
            *first = (*first + to_add - added).max(0);
        }
        for (i, size) in order.into_iter().zip(sizes) {
            let mut set = sets[i].clone();
            self.resize(&mut set, size);
            sets[i] = set;
        }
    }

    /// A ReplicaSet's part of `to_add` replicas, of which `added` are given away.
    fn share(&self, set: &ReplicaSet, to_add: i32, added: i32) -> i32 {
        if wanted(set) == 0 || to_add == 0 || to_add == added {
            return 0;
        }
        let (fraction, left) = (self.fraction(set), to_add - added);
        if to_add > 0 { fraction.min(left) } else { fraction.max(left) }
    }

    /// By how much a ReplicaSet would grow if all grew alike.
    fn fraction(&self, set: &ReplicaSet) -> i32 {
        if self.desired == 0 {
            return -wanted(set);
        }
        let before = annotations::max(&set.metadata).unwrap_or_else(|| self.status().replicas.unwrap_or(0));
        if before == 0 {
            return 0;
        }
        let size = f64::from(wanted(set)) * f64::from(self.desired + self.max_surge) / f64::from(before);
        round(size) - wanted(set)
    }
}

#[allow(clippy::cast_possible_truncation)]
fn round(size: f64) -> i32 {
    size.round() as i32
}

/// The one ReplicaSet that gets the whole size: the only active one, or the newest when none is.
fn only_one(sets: &[ReplicaSet], new_at: Option<usize>) -> Option<usize> {
    let active: Vec<usize> = (0..sets.len()).filter(|i| wanted(&sets[*i]) > 0).collect();
    match active.as_slice() {
        [] => new_at.or_else(|| (0..sets.len()).max_by_key(|i| creation(&sets[*i]))),
        [one] => Some(*one),
        _ => None,
    }
}
