//! From the old template to the new one: step by step, or all at once.

use k8s_openapi::api::apps::v1::ReplicaSet;

use super::{Pass, actual, available, wanted};
use crate::{pods, store::Index};

impl Pass<'_> {
    /// One step of a rolling update.
    pub(super) fn roll(&mut self) {
        if self.sync_new(true) {
            return;
        }
        if !self.grow_new() && !self.shrink_old() && self.is_complete() {
            self.cleanup();
        }
        self.sync_rollout_status();
    }

    /// One step of a recreation: old ones to zero, wait until their pods are gone, then the new one.
    pub(super) fn recreate(&mut self) {
        if self.new.is_some() && self.sync_new(false) {
            return;
        }
        if self.stop_old() || self.old_pods_live() {
            return self.sync_rollout_status();
        }
        if self.new.is_none() && self.sync_new(true) {
            return;
        }
        if let Some(mut set) = self.new.take() {
            self.resize(&mut set, self.desired);
            self.new = Some(set);
        }
        if self.is_complete() {
            self.cleanup();
        }
        self.sync_rollout_status();
    }

    fn stop_old(&mut self) -> bool {
        let mut old = std::mem::take(&mut self.old);
        let mut scaled = false;
        for set in old.iter_mut().filter(|s| wanted(s) > 0) {
            scaled |= self.resize(set, 0);
        }
        self.old = old;
        scaled
    }

    /// Whether a pod of an old ReplicaSet may still run; a terminating one does.
    fn old_pods_live(&self) -> bool {
        let store = &self.context.stores.pods;
        self.old.iter().any(|set| {
            let uid = set.metadata.uid.as_deref().unwrap_or_default();
            actual(set) > 0 || store.by(Index::Owner, uid).iter().any(|p| !pods::is_finished(p))
        })
    }

    /// Sizes the new ReplicaSet; true if that changed it.
    fn grow_new(&mut self) -> bool {
        let Some(mut set) = self.new.take() else { return false };
        let current = wanted(&set);
        let size = if current > self.desired {
            self.desired
        } else {
            // `new_size` counts all replicas, those of this set too.
            self.old.push(set.clone());
            let size = self.new_size(current);
            self.old.pop();
            size
        };
        let changed = current != size && self.resize(&mut set, size);
        self.new = Some(set);
        changed
    }

    /// Takes replicas from old ReplicaSets: first those that are not available anyway, then as many available
    /// ones as the new set's available ones allow.
    fn shrink_old(&mut self) -> bool {
        if self.old.iter().map(wanted).sum::<i32>() == 0 {
            return false;
        }
        let least = self.desired - self.max_unavailable;
        let new_unavailable = self.new.as_ref().map_or(0, |n| wanted(n) - available(n));
        let most = self.total_wanted() - least - new_unavailable;
        if most <= 0 {
            return false;
        }
        let mut sizes: Vec<i32> = self.old.iter().map(wanted).collect();
        let before = sizes.clone();
        drop_unhealthy(&self.old, &mut sizes, most);
        // Replicas that a ReplicaSet was already told to drop still look available until it reports again.
        let available_now: i32 = self.all().map(|set| available(set).min(wanted(set))).sum();
        drop_healthy(&mut sizes, available_now - least);
        let mut old = std::mem::take(&mut self.old);
        for ((set, size), was) in old.iter_mut().zip(&sizes).zip(&before) {
            if size != was {
                self.resize(set, *size);
            }
        }
        self.old = old;
        sizes != before
    }

    /// Whether the whole deployment is as asked for, by its last reported status.
    pub(super) fn is_complete(&self) -> bool {
        self.complete_in(&self.status())
    }
}

/// Takes up to `most` replicas that are wanted but not available, oldest sets first.
fn drop_unhealthy(old: &[ReplicaSet], sizes: &mut [i32], most: i32) {
    let mut left = most;
    for (set, size) in old.iter().zip(sizes) {
        let count = (*size - available(set)).min(left).max(0);
        *size -= count;
        left -= count;
    }
}

/// Takes up to `most` replicas, oldest sets first.
fn drop_healthy(sizes: &mut [i32], most: i32) {
    let mut left = most.max(0);
    for size in sizes {
        let count = (*size).min(left);
        *size -= count;
        left -= count;
    }
}
