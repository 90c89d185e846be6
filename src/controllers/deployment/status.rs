//! What a Deployment reports: counts, and the conditions Available, Progressing and ReplicaFailure.

use std::time::Duration;

use jiff::SignedDuration;
use k8s_openapi::{
    api::apps::v1::{DeploymentCondition, DeploymentStatus, ReplicaSet},
    apimachinery::pkg::apis::meta::v1::Time,
};

use super::{Pass, actual, available};
use crate::controller::{Severity, event, update};

const AVAILABLE: &str = "Available";
const PROGRESSING: &str = "Progressing";
const FAILURE: &str = "ReplicaFailure";
const COMPLETE: &str = "NewReplicaSetAvailable";
const TIMED_OUT: &str = "ProgressDeadlineExceeded";
const PAUSED: &str = "DeploymentPaused";

fn find<'a>(status: &'a DeploymentStatus, kind: &str) -> Option<&'a DeploymentCondition> {
    status.conditions.iter().flatten().find(|c| c.type_ == kind)
}

fn reason<'a>(status: &'a DeploymentStatus, kind: &str) -> Option<&'a str> {
    find(status, kind)?.reason.as_deref()
}

fn remove(status: &mut DeploymentStatus, kind: &str) {
    if let Some(conditions) = &mut status.conditions {
        conditions.retain(|c| c.type_ != kind);
    }
}

/// Puts a condition in, unless it already says this; the transition time moves only with the status.
fn set(status: &mut DeploymentStatus, mut condition: DeploymentCondition) {
    if let Some(current) = find(status, &condition.type_) {
        if current.status == condition.status && current.reason == condition.reason {
            return;
        }
        if current.status == condition.status {
            condition.last_transition_time.clone_from(&current.last_transition_time);
        }
    }
    remove(status, &condition.type_);
    status.conditions.get_or_insert_default().push(condition);
}

impl Pass<'_> {
    fn condition(&self, kind: &str, status: &str, reason: &str, message: String) -> DeploymentCondition {
        DeploymentCondition {
            type_: kind.into(),
            status: status.into(),
            reason: Some(reason.into()),
            message: Some(message),
            last_update_time: Some(Time(self.now())),
            last_transition_time: Some(Time(self.now())),
        }
    }

    /// Seconds after which no progress is a failure; `i32::MAX` means never.
    fn deadline(&self) -> Option<i64> {
        self.spec().progress_deadline_seconds.filter(|s| *s != i32::MAX).map(Into::into)
    }

    fn count(&self) -> DeploymentStatus {
        let sum = |of: fn(&ReplicaSet) -> i32| self.all().map(of).sum::<i32>();
        let (total, ready_to_serve) = (sum(actual), sum(available));
        let some = |n: i32| (n != 0).then_some(n);
        let mut status = DeploymentStatus {
            observed_generation: self.deployment.metadata.generation,
            replicas: some(total),
            updated_replicas: some(self.new.as_ref().map_or(0, actual)),
            ready_replicas: some(sum(|s| s.status.as_ref().and_then(|s| s.ready_replicas).unwrap_or(0))),
            available_replicas: some(ready_to_serve),
            unavailable_replicas: some((total - ready_to_serve).max(0)),
            terminating_replicas: self.terminating(),
            ..self.status()
        };
        let available = if ready_to_serve >= self.desired - self.max_unavailable {
            ("True", "MinimumReplicasAvailable", "Deployment has minimum availability.")
        } else {
            ("False", "MinimumReplicasUnavailable", "Deployment does not have minimum availability.")
        };
        set(&mut status, self.condition(AVAILABLE, available.0, available.1, available.2.into()));
        status
    }

    /// Known only when every ReplicaSet reports it.
    fn terminating(&self) -> Option<i32> {
        let of = |s: &ReplicaSet| s.status.as_ref().and_then(|s| s.terminating_replicas);
        self.all().map(of).sum()
    }

    pub(super) fn put_status(&mut self, status: DeploymentStatus) {
        if self.deployment.status.as_ref() == Some(&status) {
            return;
        }
        self.deployment.status = Some(status);
        self.plan.act(update(&self.deployment, "status"));
    }

    /// Counts only; what a deployment that is paused, scaled or going reports.
    pub(super) fn sync_status(&mut self) {
        let status = self.count();
        self.put_status(status);
    }

    /// Counts and progress.
    pub(super) fn sync_rollout_status(&mut self) {
        let mut status = self.count();
        if self.deadline().is_none() {
            remove(&mut status, PROGRESSING);
        } else {
            self.judge_progress(&mut status);
        }
        let failure = self.new.iter().chain(&self.old).find_map(|set| self.failure_of(set));
        match failure {
            Some(condition) => set(&mut status, condition),
            None => remove(&mut status, FAILURE),
        }
        self.wait_for_deadline(&status);
        self.put_status(status);
    }

    fn judge_progress(&self, status: &mut DeploymentStatus) {
        let old = self.status();
        let done = status.replicas == status.updated_replicas && reason(&old, PROGRESSING) == Some(COMPLETE);
        if done {
            return;
        }
        let what = match &self.new {
            Some(set) => format!("ReplicaSet {:?}", set.metadata.name.as_deref().unwrap_or_default()),
            None => format!("Deployment {:?}", self.deployment.metadata.name.as_deref().unwrap_or_default()),
        };
        if self.complete_in(status) {
            let text = format!("{what} has successfully progressed.");
            set(status, self.condition(PROGRESSING, "True", COMPLETE, text));
        } else if progressed(&old, status) {
            let mut condition =
                self.condition(PROGRESSING, "True", "ReplicaSetUpdated", format!("{what} is progressing."));
            if let Some(current) = find(status, PROGRESSING).filter(|c| c.status == "True") {
                condition.last_transition_time.clone_from(&current.last_transition_time);
            }
            // Replaced even if it says the same: the update time is what the deadline counts from.
            remove(status, PROGRESSING);
            set(status, condition);
        } else if self.timed_out(&old) {
            let text = format!("{what} has timed out progressing.");
            set(status, self.condition(PROGRESSING, "False", TIMED_OUT, text));
        }
    }

    pub(super) fn complete_in(&self, status: &DeploymentStatus) -> bool {
        let is = |n: Option<i32>| n.unwrap_or(0) == self.desired;
        is(status.updated_replicas)
            && is(status.replicas)
            && is(status.available_replicas)
            && status.observed_generation.unwrap_or(0) >= self.deployment.metadata.generation.unwrap_or(0)
    }

    fn timed_out(&self, status: &DeploymentStatus) -> bool {
        let Some(condition) = find(status, PROGRESSING) else { return false };
        match condition.reason.as_deref() {
            Some(COMPLETE) => false,
            Some(TIMED_OUT) => true,
            _ => self.deadline_left(condition).is_some_and(|left| left <= SignedDuration::ZERO),
        }
    }

    fn deadline_left(&self, condition: &DeploymentCondition) -> Option<SignedDuration> {
        let since = condition.last_update_time.as_ref()?.0;
        Some(SignedDuration::from_secs(self.deadline()?) - self.now().duration_since(since))
    }

    /// Nothing changes when a rollout is stuck, so somebody must look when its deadline passes.
    fn wait_for_deadline(&mut self, status: &DeploymentStatus) {
        let stuck = find(status, PROGRESSING)
            .filter(|c| !matches!(c.reason.as_deref(), Some(COMPLETE | TIMED_OUT | PAUSED)))
            .and_then(|c| self.deadline_left(c));
        if let Some(left) = stuck {
            let wait = Duration::try_from(left).unwrap_or_default() + Duration::from_millis(10);
            self.requeue_in(wait);
        }
    }

    fn failure_of(&self, set: &ReplicaSet) -> Option<DeploymentCondition> {
        let failure = set.status.as_ref()?.conditions.iter().flatten().find(|c| c.type_ == FAILURE)?;
        let mut condition = self.condition(FAILURE, &failure.status, "", String::new());
        condition.reason.clone_from(&failure.reason);
        condition.message.clone_from(&failure.message);
        condition.last_transition_time.clone_from(&failure.last_transition_time);
        Some(condition)
    }

    /// Notes pause and resume, so that waiting on a person is not counted as a stuck rollout. True if noted now.
    pub(super) fn check_paused(&mut self) -> bool {
        if self.deadline().is_none() {
            return false;
        }
        let old = self.status();
        if reason(&old, PROGRESSING) == Some(TIMED_OUT) {
            return false;
        }
        let was = reason(&old, PROGRESSING) == Some(PAUSED);
        let is = self.spec().paused == Some(true);
        let (why, text) = match (is, was) {
            (true, false) => (PAUSED, "Deployment is paused"),
            (false, true) => ("DeploymentResumed", "Deployment is resumed"),
            _ => return false,
        };
        let mut status = old;
        set(&mut status, self.condition(PROGRESSING, "Unknown", why, text.into()));
        self.put_status(status);
        true
    }

    pub(super) fn note_found(&mut self, set_found: &ReplicaSet) {
        let mut status = self.status();
        if self.deadline().is_none() || find(&status, PROGRESSING).is_some() {
            return;
        }
        let name = set_found.metadata.name.as_deref().unwrap_or_default();
        let text = format!("Found new replica set {name:?}");
        set(&mut status, self.condition(PROGRESSING, "True", "FoundNewReplicaSet", text));
        self.deployment.status = Some(status);
    }

    pub(super) fn note_created(&mut self, made: &ReplicaSet) {
        if self.deadline().is_none() {
            return;
        }
        let mut status = self.status();
        let name = made.metadata.name.clone().unwrap_or_default();
        if let Some(why) = self.context.failure {
            // The last try failed: say so until one succeeds.
            let text = format!("Failed to create new replica set {name:?}: {why}");
            self.plan.act(event(&self.deployment, Severity::Warning, "ReplicaSetCreateError", text.clone()));
            set(&mut status, self.condition(PROGRESSING, "False", "ReplicaSetCreateError", text));
        } else {
            let text = format!("Created new replica set {name:?}");
            set(&mut status, self.condition(PROGRESSING, "True", "NewReplicaSetCreated", text));
        }
        self.put_status(status);
    }
}

fn progressed(old: &DeploymentStatus, new: &DeploymentStatus) -> bool {
    let n = |v: Option<i32>| v.unwrap_or(0);
    let old_ones = |s: &DeploymentStatus| n(s.replicas) - n(s.updated_replicas);
    n(new.updated_replicas) > n(old.updated_replicas)
        || old_ones(new) < old_ones(old)
        || n(new.ready_replicas) > n(old.ready_replicas)
        || n(new.available_replicas) > n(old.available_replicas)
}
