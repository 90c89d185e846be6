//! The deployment controller: ReplicaSets for a Deployment's templates, and the way from one to the next.
//!
//! Keeps true: never more than `replicas + maxSurge` replicas are asked for, and a rolling update never asks for
//! so few that fewer than `replicas - maxUnavailable` could be available; one ReplicaSet per template, however
//! often it comes back; revisions only grow. Leaves to others: pods (`replicaset.rs`).

mod annotations;
mod rollout;
mod scaling;
mod status;
#[cfg(test)]
mod tests;

use std::{cmp::Reverse, sync::Arc, time::Duration};

use jiff::Timestamp;
use k8s_openapi::{
    Metadata,
    api::apps::v1::{Deployment, DeploymentSpec, DeploymentStatus, ReplicaSet, ReplicaSetSpec},
    apimachinery::pkg::apis::meta::v1::{LabelSelector, ObjectMeta},
};

use crate::{
    controller::{Action, Context, Controller, Key, Plan, Resource, Severity, event, json, owned_by, update},
    family, pods, select,
    store::{Change, Index, Stores},
};

/// The controller; it keeps nothing.
pub(crate) struct Deployments;

impl Controller for Deployments {
    fn keys(&self, stores: &Stores) -> Vec<Key> {
        stores.deployments.keys()
    }

    fn wake(&self, stores: &Stores, change: &Change) -> Vec<Key> {
        match change {
            Change::Deployment(d) => vec![d.key()],
            Change::ReplicaSet(d) => {
                let namespace = d.key().namespace;
                let owners = d.both().filter_map(|rs| family::owner_name(&rs.metadata, "Deployment"));
                let mut keys: Vec<Key> = owners.map(|n| Key::new(namespace.clone(), n)).collect();
                if keys.is_empty() {
                    keys = candidates(stores, &namespace, d.any().map(|rs| &rs.metadata));
                }
                keys
            }
            // Recreate waits for the last old pod to go.
            Change::Pod(d) if d.new.is_none() => of_pod(stores, d.any().map(|p| &p.metadata)),
            _ => Vec::new(),
        }
    }

    fn reconcile(&self, context: &Context<'_>, key: &Key) -> Plan {
        let Some(deployment) = context.stores.deployments.get(key) else { return Plan::none() };
        reconcile(context, &deployment)
    }
}

/// Deployments that might adopt a ReplicaSet without an owner.
fn candidates(stores: &Stores, namespace: &str, orphan: Option<&ObjectMeta>) -> Vec<Key> {
    let Some(orphan) = orphan else { return Vec::new() };
    let wants = |d: &Deployment| {
        let selector = d.spec.as_ref().map(|s| &s.selector);
        selector.is_some_and(|s| !select::is_empty(s) && select::matches(s, orphan.labels.as_ref()))
    };
    stores.deployments.within(namespace).iter().filter(|d| wants(d)).map(|d| Key::of(&d.metadata)).collect()
}

fn of_pod(stores: &Stores, pod: Option<&ObjectMeta>) -> Vec<Key> {
    let owner = pod.and_then(|p| Some((p.namespace.clone()?, family::owner_name(p, "ReplicaSet")?)));
    let Some((namespace, name)) = owner else { return Vec::new() };
    let Some(set) = stores.replica_sets.named(&namespace, &name) else { return Vec::new() };
    let deployment = family::owner_name(&set.metadata, "Deployment").map(|n| Key::new(namespace, n));
    let recreates = |key: &Key| stores.deployments.get(key).is_some_and(|d| is_recreate(spec(&d)));
    deployment.into_iter().filter(recreates).collect()
}

/// Replicas that a ReplicaSet is asked for.
pub(crate) fn wanted(set: &ReplicaSet) -> i32 {
    set.spec.as_ref().and_then(|s| s.replicas).unwrap_or(1)
}

/// Replicas that a ReplicaSet reports as available.
pub(crate) fn available(set: &ReplicaSet) -> i32 {
    set.status.as_ref().and_then(|s| s.available_replicas).unwrap_or(0)
}

/// Replicas that a ReplicaSet reports at all.
fn actual(set: &ReplicaSet) -> i32 {
    set.status.as_ref().map_or(0, |s| s.replicas)
}

fn spec(deployment: &Deployment) -> &DeploymentSpec {
    static NONE: std::sync::LazyLock<DeploymentSpec> = std::sync::LazyLock::new(DeploymentSpec::default);
    deployment.spec.as_ref().unwrap_or(&NONE)
}

fn is_recreate(spec: &DeploymentSpec) -> bool {
    spec.strategy.as_ref().and_then(|s| s.type_.as_deref()) == Some("Recreate")
}

/// One pass over one deployment: local copies that change as actions are planned, so that later steps see what
/// earlier ones ask for.
struct Pass<'a> {
    context: &'a Context<'a>,
    deployment: Deployment,
    desired: i32,
    max_surge: i32,
    max_unavailable: i32,
    /// The ReplicaSet with the deployment's template.
    new: Option<ReplicaSet>,
    /// All others, oldest first.
    old: Vec<ReplicaSet>,
    plan: Plan,
}

/// Decides the next step of a deployment.
pub(crate) fn reconcile(context: &Context<'_>, deployment: &Deployment) -> Plan {
    let spec = spec(deployment);
    if select::is_empty(&spec.selector) {
        return selects_all(deployment);
    }
    let sets = match claim(context, deployment) {
        Ok(sets) => sets,
        Err(first) => return first,
    };
    let mut pass = Pass::new(context, deployment, sets);
    if deployment.metadata.deletion_timestamp.is_some() {
        pass.sync_status();
        return pass.plan;
    }
    if pass.check_paused() {
        return pass.plan;
    }
    let paused = spec.paused == Some(true);
    if paused || pass.is_scaling_event() {
        if !pass.sync_new(false) {
            pass.scale();
            if paused {
                pass.cleanup();
            }
            pass.sync_status();
        }
    } else if is_recreate(spec) {
        pass.recreate();
    } else {
        pass.roll();
    }
    pass.plan
}

fn selects_all(deployment: &Deployment) -> Plan {
    let mut plan = Plan::none();
    let observed = deployment.status.as_ref().and_then(|s| s.observed_generation).unwrap_or(0);
    if observed < deployment.metadata.generation.unwrap_or(0) {
        let text = "This deployment is selecting all pods. A non-empty selector is required.";
        plan.act(event(deployment, Severity::Warning, "SelectingAll", text.into()));
        let mut changed = deployment.clone();
        let status = changed.status.get_or_insert_default();
        status.observed_generation = deployment.metadata.generation;
        plan.act(update(&changed, "status"));
    }
    plan
}

/// The deployment's ReplicaSets, and what adopts or releases others.
fn claim(context: &Context<'_>, deployment: &Deployment) -> Result<Vec<Arc<ReplicaSet>>, Plan> {
    let store = &context.stores.replica_sets;
    let meta = &deployment.metadata;
    let owned = store.by(Index::Owner, meta.uid.as_deref().unwrap_or_default());
    let orphans = store.by(Index::Orphan, meta.namespace.as_deref().unwrap_or_default());
    let selector = &spec(deployment).selector;
    family::claim(context, deployment, |m| select::matches(selector, m.labels.as_ref()), owned, orphans)
}

impl<'a> Pass<'a> {
    fn new(context: &'a Context<'a>, deployment: &Deployment, sets: Vec<Arc<ReplicaSet>>) -> Self {
        let wanted = spec(deployment);
        let desired = wanted.replicas.unwrap_or(1);
        let (max_surge, max_unavailable) = fence_posts(wanted, desired);
        let mut sets: Vec<ReplicaSet> = sets.iter().map(|s| (**s).clone()).collect();
        sets.sort_by_key(creation);
        let same = |set: &ReplicaSet| {
            let template = set.spec.as_ref().and_then(|s| s.template.as_ref());
            template.is_some_and(|t| pods::same_template(t, &wanted.template))
        };
        let new = sets.iter().position(same).map(|i| sets.remove(i));
        let deployment = deployment.clone();
        Self { context, deployment, desired, max_surge, max_unavailable, new, old: sets, plan: Plan::none() }
    }

    fn spec(&self) -> &DeploymentSpec {
        spec(&self.deployment)
    }

    fn status(&self) -> DeploymentStatus {
        self.deployment.status.clone().unwrap_or_default()
    }

    fn all(&self) -> impl Iterator<Item = &ReplicaSet> {
        self.old.iter().chain(self.new.iter())
    }

    fn total_wanted(&self) -> i32 {
        self.all().map(wanted).sum()
    }

    fn now(&self) -> Timestamp {
        self.context.now
    }

    /// The revision that the newest template should have: above all others.
    fn next_revision(&self) -> i64 {
        self.old.iter().map(|s| annotations::revision(&s.metadata)).max().unwrap_or(0) + 1
    }

    /// Brings the new ReplicaSet's annotations and revision up to date, or makes it. True when this pass is over.
    fn sync_new(&mut self, create: bool) -> bool {
        let revision = self.next_revision();
        if let Some(mut set) = self.new.take() {
            let min_ready = self.spec().min_ready_seconds;
            let stale =
                set.spec.as_ref().and_then(|s| s.min_ready_seconds).unwrap_or(0) != min_ready.unwrap_or(0);
            let mut changed =
                annotations::inherit(&self.deployment, &mut set, revision, self.limits(), false);
            if stale {
                set.spec.get_or_insert_default().min_ready_seconds = min_ready;
                changed = true;
            }
            if changed {
                self.plan.act(update(&set, ""));
                self.new = Some(set);
                return true;
            }
            let own = annotations::revision(&set.metadata);
            self.note_found(&set);
            self.new = Some(set);
            return self.publish_revision(own);
        }
        create && self.create_new(revision)
    }

    fn limits(&self) -> (i32, i32) {
        (self.desired, self.desired + self.max_surge)
    }

    fn create_new(&mut self, revision: i64) -> bool {
        let set = self.make_new(revision);
        let key = Key::of(&set.metadata);
        if self.context.stores.replica_sets.get(&key).is_some() {
            // Its name is taken by a ReplicaSet with another template (or of somebody else): another hash.
            let mut status = self.status();
            status.collision_count = Some(status.collision_count.unwrap_or(0) + 1);
            self.put_status(status);
            return true;
        }
        let count = wanted(&set);
        self.note_created(&set);
        self.plan.act(Action::Create {
            resource: Resource::of::<ReplicaSet>(),
            object: json(&set),
            announce: None,
            exists_ok: false,
        });
        if count > 0 {
            self.announce_scale("up", &set, 0, count);
        }
        self.publish_revision(revision);
        true
    }

    fn make_new(&self, revision: i64) -> ReplicaSet {
        let spec = self.spec();
        let meta = self.deployment.metadata();
        let hash = pods::template_hash(&spec.template, self.status().collision_count);
        let mut template = spec.template.clone();
        let labels = template.metadata.get_or_insert_default().labels.get_or_insert_default();
        labels.insert(pods::HASH_LABEL.into(), hash.clone());
        let labels = labels.clone();
        let mut selector: LabelSelector = spec.selector.clone();
        selector.match_labels.get_or_insert_default().insert(pods::HASH_LABEL.into(), hash.clone());
        let mut set = ReplicaSet {
            metadata: ObjectMeta {
                name: Some(format!("{}-{hash}", meta.name.as_deref().unwrap_or_default())),
                namespace: meta.namespace.clone(),
                labels: Some(labels),
                owner_references: Some(vec![owned_by(&self.deployment)]),
                ..Default::default()
            },
            spec: Some(ReplicaSetSpec {
                replicas: Some(self.new_size(0)),
                min_ready_seconds: spec.min_ready_seconds,
                selector,
                template: Some(template),
            }),
            status: None,
        };
        annotations::inherit(&self.deployment, &mut set, revision, self.limits(), true);
        set
    }

    /// How many replicas the new ReplicaSet, now at `current`, may have: as many as wanted, within the surge.
    fn new_size(&self, current: i32) -> i32 {
        if is_recreate(self.spec()) {
            return self.desired;
        }
        let total = self.total_wanted();
        let most = self.desired + self.max_surge;
        if total >= most {
            return current;
        }
        current + (most - total).min(self.desired - current)
    }

    /// True if it was not published yet: the deployment's version changes with it, so the pass is over.
    fn publish_revision(&mut self, revision: i64) -> bool {
        let stale = annotations::revision(&self.deployment.metadata) != revision;
        if stale {
            self.plan.act(annotations::set_revision(&self.deployment, revision));
        }
        stale
    }

    /// Asks for `size` replicas of a ReplicaSet; true if that is a change of its size.
    fn resize(&mut self, set: &mut ReplicaSet, size: i32) -> bool {
        let before = wanted(set);
        let annotated = annotations::set_sizes(&mut set.metadata, self.limits());
        if before == size && !annotated {
            return false;
        }
        set.spec.get_or_insert_default().replicas = Some(size);
        self.plan.act(update(set, ""));
        if before != size {
            self.announce_scale(if size > before { "up" } else { "down" }, set, before, size);
        }
        before != size
    }

    fn announce_scale(&mut self, direction: &str, set: &ReplicaSet, from: i32, to: i32) {
        let name = set.metadata.name.as_deref().unwrap_or_default();
        let text = format!("Scaled {direction} replica set {name} from {from} to {to}");
        self.plan.act(event(&self.deployment, Severity::Normal, "ScalingReplicaSet", text));
    }

    /// Deletes the oldest empty ReplicaSets beyond the history limit.
    fn cleanup(&mut self) {
        let Some(limit) = self.spec().revision_history_limit.filter(|l| *l != i32::MAX) else { return };
        let mut sets: Vec<&ReplicaSet> =
            self.old.iter().filter(|s| s.metadata.deletion_timestamp.is_none()).collect();
        let excess = sets.len().saturating_sub(usize::try_from(limit).unwrap_or(0));
        sets.sort_by_key(|s| (annotations::revision(&s.metadata), creation(s)));
        let observed = |s: &ReplicaSet| s.status.as_ref().and_then(|x| x.observed_generation).unwrap_or(0);
        let settled = |s: &&&ReplicaSet| {
            actual(s) == 0 && wanted(s) == 0 && s.metadata.generation.unwrap_or(0) <= observed(s)
        };
        let deletes: Vec<Action> =
            sets.iter().take(excess).filter(settled).map(|s| crate::controller::delete(*s)).collect();
        self.plan.actions.extend(deletes);
    }

    fn requeue_in(&mut self, after: Duration) {
        self.plan.requeue_in(after);
    }
}

/// Oldest first, names decide among equals.
fn creation(set: &ReplicaSet) -> (Option<Timestamp>, String) {
    (set.metadata.creation_timestamp.as_ref().map(|t| t.0), set.metadata.name.clone().unwrap_or_default())
}

/// Newest first.
fn newest(set: &ReplicaSet) -> Reverse<(Option<Timestamp>, String)> {
    Reverse(creation(set))
}

/// How many replicas may be above and below the desired number: (surge, unavailable). Percentages round the surge
/// up and the unavailable down; both zero would be a standstill, so one may then be unavailable.
fn fence_posts(spec: &DeploymentSpec, desired: i32) -> (i32, i32) {
    if is_recreate(spec) {
        return (0, 0);
    }
    let rolling = spec.strategy.as_ref().and_then(|s| s.rolling_update.as_ref());
    let value =
        |v: Option<&_>, up: bool| v.map_or(Some(0), |v| pods::scaled(v, desired, up)).unwrap_or(0).max(0);
    let default = k8s_openapi::apimachinery::pkg::util::intstr::IntOrString::String("25%".into());
    let (surge, unavailable) = match rolling {
        Some(r) => (r.max_surge.as_ref().or(Some(&default)), r.max_unavailable.as_ref().or(Some(&default))),
        None => (Some(&default), Some(&default)),
    };
    let (surge, mut unavailable) = (value(surge, true), value(unavailable, false));
    if surge == 0 && unavailable == 0 {
        unavailable = 1;
    }
    (surge, unavailable.min(desired))
}
