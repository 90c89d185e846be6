//! ReplicaSets and ReplicationControllers: as many pods of a template as asked for.
//!
//! Keeps true: creates and deletes are counted against a view that contains one's own earlier ones (the runner
//! holds a key back until it does); the pods deleted first are those that serve least. Leaves to others: which
//! template (`deployment`), where pods run (the scheduler).

use std::{cmp::Reverse, collections::HashMap, sync::Arc};

use jiff::Timestamp;
use k8s_openapi::{
    api::{
        apps::v1::{ReplicaSet, ReplicaSetCondition, ReplicaSetStatus},
        core::v1::{Pod, PodTemplateSpec, ReplicationController, ReplicationControllerStatus},
    },
    apimachinery::pkg::apis::meta::v1::{ObjectMeta, Time},
};

use crate::{
    controller::{
        Action, Announce, Context, Controller, Key, Plan, Resource, Target, controller_of, elapsed, json,
        owned_by, reference, update,
    },
    family, pods, select,
    store::{Change, Index, Store, Stores, Watched},
};

/// At most this many creates or deletes in one pass.
const BURST: usize = 500;

/// What ReplicaSet and ReplicationController have in common, seen as a ReplicaSet's status.
pub(crate) trait Replicated: Watched {
    /// Replicas asked for.
    fn wanted(&self) -> i32;
    /// Seconds that a pod must be ready to count as available.
    fn min_ready(&self) -> i32;
    /// Whether the selector matches.
    fn selects(&self, meta: &ObjectMeta) -> bool;
    /// Whether the selector selects everything.
    fn selects_all(&self) -> bool;
    /// The pods' template.
    fn template(&self) -> Option<&PodTemplateSpec>;
    /// What it reports.
    fn reported(&self) -> ReplicaSetStatus;
    /// A copy that reports this.
    fn reporting(&self, status: ReplicaSetStatus) -> Self;
}

impl Replicated for ReplicaSet {
    fn wanted(&self) -> i32 {
        self.spec.as_ref().and_then(|s| s.replicas).unwrap_or(1)
    }

    fn min_ready(&self) -> i32 {
        self.spec.as_ref().and_then(|s| s.min_ready_seconds).unwrap_or(0)
    }

    fn selects(&self, meta: &ObjectMeta) -> bool {
        self.spec.as_ref().is_some_and(|s| select::matches(&s.selector, meta.labels.as_ref()))
    }

    fn selects_all(&self) -> bool {
        self.spec.as_ref().is_none_or(|s| select::is_empty(&s.selector))
    }

    fn template(&self) -> Option<&PodTemplateSpec> {
        self.spec.as_ref()?.template.as_ref()
    }

    fn reported(&self) -> ReplicaSetStatus {
        self.status.clone().unwrap_or_default()
    }

    fn reporting(&self, status: ReplicaSetStatus) -> Self {
        Self { status: Some(status), ..self.clone() }
    }
}

impl Replicated for ReplicationController {
    fn wanted(&self) -> i32 {
        self.spec.as_ref().and_then(|s| s.replicas).unwrap_or(1)
    }

    fn min_ready(&self) -> i32 {
        self.spec.as_ref().and_then(|s| s.min_ready_seconds).unwrap_or(0)
    }

    fn selects(&self, meta: &ObjectMeta) -> bool {
        let selector = self.spec.as_ref().and_then(|s| s.selector.as_ref());
        selector.is_some_and(|s| select::contains(s, meta))
    }

    fn selects_all(&self) -> bool {
        self.spec.as_ref().and_then(|s| s.selector.as_ref()).is_none_or(|s| s.is_empty())
    }

    fn template(&self) -> Option<&PodTemplateSpec> {
        self.spec.as_ref()?.template.as_ref()
    }

    fn reported(&self) -> ReplicaSetStatus {
        self.status.as_ref().map(through_json).unwrap_or_default()
    }

    fn reporting(&self, status: ReplicaSetStatus) -> Self {
        let status = ReplicationControllerStatus { ..through_json(&status) };
        Self { status: Some(status), ..self.clone() }
    }
}

/// The two kinds' statuses have the same fields.
fn through_json<A: serde::Serialize, B: serde::de::DeserializeOwned + Default>(value: &A) -> B {
    serde_json::from_value(json(value)).unwrap_or_default()
}

/// The controller of one of the two kinds.
pub(crate) struct Replicas<K>(std::marker::PhantomData<fn() -> K>);

impl<K> Default for Replicas<K> {
    fn default() -> Self {
        Self(std::marker::PhantomData)
    }
}

impl<K: Replicated> Controller for Replicas<K> {
    fn keys(&self, stores: &Stores) -> Vec<Key> {
        K::store(stores).keys()
    }

    fn wake(&self, stores: &Stores, change: &Change) -> Vec<Key> {
        match change {
            Change::ReplicaSet(d) if K::KIND == "ReplicaSet" => vec![d.key()],
            Change::ReplicationController(d) if K::KIND == "ReplicationController" => vec![d.key()],
            Change::Pod(d) => {
                let namespace = d.key().namespace;
                let owners = d.both().filter_map(|p| family::owner_name(&p.metadata, K::KIND));
                let mut keys: Vec<Key> = owners.map(|n| Key::new(namespace.clone(), n)).collect();
                keys.dedup();
                if let Some(orphan) = d.new.as_ref().filter(|p| controller_of(&p.metadata).is_none()) {
                    keys.extend(adopters(K::store(stores), &namespace, &orphan.metadata));
                }
                keys
            }
            _ => Vec::new(),
        }
    }

    fn reconcile(&self, context: &Context<'_>, key: &Key) -> Plan {
        let Some(set) = K::store(context.stores).get(key) else { return Plan::none() };
        reconcile(context, &*set)
    }
}

fn adopters<K: Replicated>(store: &Store<K>, namespace: &str, orphan: &ObjectMeta) -> Vec<Key> {
    let wants = |k: &K| !k.selects_all() && k.selects(orphan);
    store.within(namespace).iter().filter(|k| wants(k)).map(|k| Key::of(k.metadata())).collect()
}

/// Decides what a ReplicaSet or ReplicationController needs.
pub(crate) fn reconcile<K: Replicated>(context: &Context<'_>, set: &K) -> Plan {
    let meta = set.metadata();
    if set.selects_all() {
        return Plan::none();
    }
    let store = &context.stores.pods;
    let owned = store.by(Index::Owner, meta.uid.as_deref().unwrap_or_default());
    let orphans = store.by(Index::Orphan, meta.namespace.as_deref().unwrap_or_default());
    let orphans = orphans.into_iter().filter(|p| pods::is_active(p)).collect();
    let all = match family::claim(context, set, |m| set.selects(m), owned, orphans) {
        Ok(all) => all,
        Err(first) => return first,
    };
    let terminating = all.iter().filter(|p| is_terminating(p)).count();
    let active: Vec<Arc<Pod>> = all.into_iter().filter(|p| pods::is_active(p)).collect();
    let mut plan = Plan::none();
    if meta.deletion_timestamp.is_none() {
        let batch = manage(context.stores, set, &active);
        if !batch.is_empty() {
            plan.act(Action::Batch(batch));
        }
    }
    report(context, set, &active, terminating, &mut plan);
    plan
}

fn is_terminating(pod: &Pod) -> bool {
    pod.metadata.deletion_timestamp.is_some() && !pods::is_finished(pod)
}

fn size(count: usize) -> i32 {
    i32::try_from(count).unwrap_or(i32::MAX)
}

/// Creates or deletes the difference.
fn manage<K: Replicated>(stores: &Stores, set: &K, active: &[Arc<Pod>]) -> Vec<Action> {
    let difference = size(active.len()) - set.wanted();
    let count = usize::try_from(difference.unsigned_abs()).unwrap_or(BURST).min(BURST);
    if difference < 0 {
        let Some(template) = set.template() else { return Vec::new() };
        let namespace = set.metadata().namespace.as_deref().unwrap_or_default();
        let pod = json(&pods::from_template(template, namespace, owned_by(set)));
        return (0..count).map(|_| create(set, pod.clone())).collect();
    }
    if difference == 0 {
        return Vec::new();
    }
    victims(stores, set, active, count).iter().map(|p| delete(set, p)).collect()
}

fn create<K: Replicated>(set: &K, object: serde_json::Value) -> Action {
    let announce = Announce {
        about: reference(set),
        done: ("SuccessfulCreate", "Created pod: {}"),
        failed: ("FailedCreate", "Error creating: {}"),
    };
    Action::Create { resource: Resource::of::<Pod>(), object, announce: Some(announce), exists_ok: false }
}

fn delete<K: Replicated>(set: &K, pod: &Pod) -> Action {
    let announce = Announce {
        about: reference(set),
        done: ("SuccessfulDelete", "Deleted pod: {}"),
        failed: ("FailedDelete", "Error deleting: {}"),
    };
    Action::Delete {
        target: Target::of(pod),
        uid: pod.metadata.uid.clone(),
        resource_version: None,
        propagation: None,
        grace: None,
        announce: Some(announce),
    }
}

/// The pods to delete, those first that are missed least.
fn victims<K: Replicated>(stores: &Stores, set: &K, active: &[Arc<Pod>], count: usize) -> Vec<Arc<Pod>> {
    let crowd = neighbours(stores, set);
    let mut ranked: Vec<&Arc<Pod>> = active.iter().collect();
    ranked
        .sort_by_cached_key(|p| rank(p, crowd.get(pods::node(p).unwrap_or_default()).copied().unwrap_or(0)));
    ranked.into_iter().take(count).cloned().collect()
}

/// How many active pods of the same owner's owner (all ReplicaSets of a Deployment) each node runs.
fn neighbours<K: Replicated>(stores: &Stores, set: &K) -> HashMap<String, usize> {
    let meta = set.metadata();
    let mut related = vec![meta.uid.clone().unwrap_or_default()];
    if let (true, Some(owner)) = (K::KIND == "ReplicaSet", controller_of(meta)) {
        let siblings = stores.replica_sets.by(Index::Owner, &owner.uid);
        related = siblings.iter().filter_map(|s| s.metadata.uid.clone()).collect();
    }
    let mut crowd = HashMap::new();
    for pod in related.iter().flat_map(|uid| stores.pods.by(Index::Owner, uid)).filter(|p| pods::is_active(p))
    {
        *crowd.entry(pods::node(&pod).unwrap_or_default().to_owned()).or_insert(0) += 1;
    }
    crowd
}

type Rank = (bool, u8, bool, i32, Reverse<usize>, Reverse<u32>, Reverse<i32>, Reverse<u32>);

/// Smallest goes first: unassigned, pending, not ready, cheap by annotation, on crowded nodes, ready for a short
/// time, often restarted, young. Ages count in powers of two, so that near ones are equal.
fn rank(pod: &Pod, crowd: usize) -> Rank {
    let phase = match pods::phase(pod) {
        "Pending" => 0,
        "Unknown" | "" => 1,
        _ => 2,
    };
    let cost =
        pod.metadata.annotations.as_ref().and_then(|a| a.get("controller.kubernetes.io/pod-deletion-cost"));
    let ready = pods::ready_since(pod);
    let statuses = pod.status.iter().flat_map(|s| s.container_statuses.iter().flatten());
    let restarts = statuses.map(|c| c.restart_count).max().unwrap_or(0);
    let created = pod.metadata.creation_timestamp.as_ref().map(|t| t.0);
    (
        pods::node(pod).is_some(),
        phase,
        ready.is_some(),
        cost.and_then(|c| c.parse().ok()).unwrap_or(0),
        Reverse(crowd),
        Reverse(ready.map_or(u32::MAX, coarse)),
        Reverse(restarts),
        Reverse(created.map_or(u32::MAX, coarse)),
    )
}

/// A time so that sorting it in reverse puts young ones first.
fn coarse(at: Timestamp) -> u32 {
    u32::try_from(at.as_second().max(0)).unwrap_or(u32::MAX)
}

fn report<K: Replicated>(
    context: &Context<'_>,
    set: &K,
    active: &[Arc<Pod>],
    terminating: usize,
    plan: &mut Plan,
) {
    let labels = set.template().and_then(|t| t.metadata.as_ref()?.labels.clone()).unwrap_or_default();
    let due = |p: &Arc<Pod>| pods::available_at(p, set.min_ready());
    let available = active.iter().filter(|p| due(p).is_some_and(|at| at <= context.now)).count();
    if let Some(next) = active.iter().filter_map(due).filter(|at| *at > context.now).min() {
        plan.requeue_in(elapsed(context.now, next));
    }
    let some = |n: usize| (n > 0).then_some(size(n));
    let old = set.reported();
    let mut status = ReplicaSetStatus {
        replicas: size(active.len()),
        fully_labeled_replicas: some(
            active.iter().filter(|p| select::contains(&labels, &p.metadata)).count(),
        ),
        ready_replicas: some(active.iter().filter(|p| pods::is_ready(p)).count()),
        available_replicas: some(available),
        terminating_replicas: (K::KIND == "ReplicaSet").then_some(size(terminating)),
        observed_generation: set.metadata().generation,
        conditions: old.conditions.clone(),
    };
    status.conditions = conditions(context, set, size(active.len()), status.conditions);
    if status != old {
        // The status tells of the pods as they are, so it goes out before they change.
        plan.actions.insert(0, update(&set.reporting(status), "status"));
    }
}

fn conditions<K: Replicated>(
    context: &Context<'_>,
    set: &K,
    have: i32,
    old: Option<Vec<ReplicaSetCondition>>,
) -> Option<Vec<ReplicaSetCondition>> {
    let mut list = old.unwrap_or_default();
    let failing = context.failure.filter(|_| have != set.wanted());
    match failing {
        None => list.retain(|c| c.type_ != "ReplicaFailure"),
        Some(_) if list.iter().any(|c| c.type_ == "ReplicaFailure") => {}
        Some(message) => list.push(ReplicaSetCondition {
            type_: "ReplicaFailure".into(),
            status: "True".into(),
            reason: Some(if have < set.wanted() { "FailedCreate" } else { "FailedDelete" }.into()),
            message: Some(message.into()),
            last_transition_time: Some(Time(context.now)),
        }),
    }
    (!list.is_empty()).then_some(list)
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::testing::{answered, at, context, load, meta};

    fn set(replicas: i32) -> Value {
        json!({"metadata": meta("web"), "spec": {"replicas": replicas, "selector": {"matchLabels": {"app": "web"}},
            "template": {"metadata": {"labels": {"app": "web"}}, "spec": {"containers": []}}}})
    }

    fn pod(name: &str, extra: Value) -> Value {
        let mut pod =
            json!({"metadata": meta(name), "spec": {"containers": []}, "status": {"phase": "Running"}});
        pod["metadata"]["labels"] = json!({"app": "web"});
        pod["metadata"]["ownerReferences"] = json!([{"apiVersion": "apps/v1", "kind": "ReplicaSet", "name": "web", "uid": "uid-web", "controller": true}]);
        json_patch_merge(&mut pod, &extra);
        pod
    }

    fn json_patch_merge(into: &mut Value, patch: &Value) {
        crate::testing::merge(into, patch);
    }

    fn batch(plan: &Plan) -> (usize, Vec<String>) {
        let Some(Action::Batch(list)) = plan.actions.iter().find(|a| matches!(a, Action::Batch(_))) else {
            return (0, Vec::new());
        };
        let creates = list.iter().filter(|a| matches!(a, Action::Create { .. })).count();
        let deletes = list.iter().filter_map(|a| match a {
            Action::Delete { target, .. } => Some(target.key.name.clone()),
            _ => None,
        });
        (creates, deletes.collect())
    }

    fn run(set: &Value, pods: &[Value]) -> Plan {
        let stores = Stores::default();
        let set: ReplicaSet = load(&stores, set.clone());
        for pod in pods {
            load::<Pod>(&stores, pod.clone());
        }
        answered(&stores, &[Target::of(&set)], |c| reconcile(c, &set))
    }

    #[test]
    fn counts() {
        let check = |wanted: i32, pods: &[Value], creates: usize, deletes: &[&str]| {
            let (made, gone) = batch(&run(&set(wanted), pods));
            assert_eq!(
                (made, gone.iter().map(String::as_str).collect::<Vec<_>>()),
                (creates, deletes.to_vec())
            );
        };
        let ready = |since: &str| {
            json!({"spec": {"nodeName": "n1"}, "status": {"conditions":
                [{"type": "Ready", "status": "True", "lastTransitionTime": since}]}})
        };
        let old = pod("old", ready("2026-01-01T00:00:00Z"));
        let young = pod("young", ready("2026-01-01T10:00:00Z"));
        check(3, &[], 3, &[]);
        check(1, std::slice::from_ref(&old), 0, &[]);
        check(2, &[old.clone(), pod("failed", json!({"status": {"phase": "Failed"}}))], 1, &[]);
        check(
            1,
            &[old.clone(), pod("going", json!({"metadata": {"deletionTimestamp": "2026-01-01T00:00:00Z"}}))],
            0,
            &[],
        );
        check(1, &[old.clone(), young.clone()], 0, &["young"]);
        check(
            1,
            &[old.clone(), pod("unscheduled", json!({"status": {"phase": "Pending"}}))],
            0,
            &["unscheduled"],
        );
        check(1, &[old.clone(), pod("unready", json!({"spec": {"nodeName": "n1"}}))], 0, &["unready"]);
        let cheap =
            json!({"metadata": {"annotations": {"controller.kubernetes.io/pod-deletion-cost": "-5"}}});
        let mut cheap_old = pod("cheap", ready("2025-01-01T00:00:00Z"));
        json_patch_merge(&mut cheap_old, &cheap);
        check(1, &[cheap_old, young.clone()], 0, &["cheap"]);
        let mut crowded = pod("crowded", ready("2025-01-01T00:00:00Z"));
        crowded["spec"]["nodeName"] = json!("n2");
        let mut crowded2 = crowded.clone();
        crowded2["metadata"]["name"] = json!("crowded2");
        check(2, &[crowded, crowded2, young], 0, &["crowded"]);
        check(0, &[old], 0, &["old"]);
    }

    #[test]
    fn a_deleted_set_does_nothing_to_pods() {
        let mut going = set(3);
        going["metadata"]["deletionTimestamp"] = json!("2026-01-01T00:00:00Z");
        assert_eq!(batch(&run(&going, &[])), (0, vec![]));
    }

    #[test]
    fn adopts_and_releases() {
        let mut orphan = pod("orphan", json!({}));
        orphan["metadata"]["ownerReferences"] = json!([]);
        let mut stranger = pod("stranger", json!({}));
        stranger["metadata"]["labels"] = json!({"app": "other"});
        let plan = run(&set(1), &[orphan, stranger]);
        let patches = plan.actions.iter().filter_map(|a| match a {
            Action::Patch { target, patch, .. } => Some((
                target.key.name.as_str(),
                patch["metadata"]["ownerReferences"].as_array().map_or(0, Vec::len),
            )),
            _ => None,
        });
        assert_eq!(patches.collect::<Vec<_>>(), [("stranger", 0), ("orphan", 1)]);
    }

    #[test]
    fn status_counts_what_is_ready_and_available() {
        let mut wanting = set(1);
        wanting["spec"]["minReadySeconds"] = json!(10);
        let ready = json!({"status": {"conditions":
            [{"type": "Ready", "status": "True", "lastTransitionTime": "2026-01-01T11:59:55Z"}]}});
        let plan = run(&wanting, &[pod("a", ready)]);
        let Some(Action::Update { object, .. }) = plan.actions.first() else { panic!("{plan:?}") };
        assert_eq!(object["status"]["readyReplicas"], 1);
        assert_eq!(object["status"].get("availableReplicas"), None);
        assert_eq!(plan.requeue, Some(std::time::Duration::from_secs(5)));
    }

    #[test]
    fn a_failed_batch_becomes_a_condition() {
        let stores = Stores::default();
        let set: ReplicaSet = load(&stores, set(1));
        let answers = HashMap::new();
        let mut seen = context(&stores, &answers, at("2026-01-01T12:00:00Z"));
        seen.failure = Some("quota");
        let plan = reconcile(&seen, &set);
        let Some(Action::Update { object, .. }) = plan.actions.first() else { panic!("{plan:?}") };
        assert_eq!(object["status"]["conditions"][0]["reason"], "FailedCreate");
    }
}
