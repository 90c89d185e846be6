//! Taint eviction: a pod that does not tolerate a NoExecute taint of its node goes, at once or when its toleration
//! runs out.
//!
//! Keeps true: the deletion is only begun here (a kubelet finishes it); a taint that goes in time cancels it; the
//! time counts from when the taint was added, also under a new leader.

use std::{
    collections::HashMap,
    sync::{Mutex, PoisonError},
    time::Duration,
};

use jiff::Timestamp;
use k8s_openapi::{
    api::core::v1::{Node, Pod, PodCondition, Taint, Toleration},
    apimachinery::pkg::apis::meta::v1::Time,
};
use serde_json::json;

use super::{NO_EXECUTE, taints};
use crate::{
    controller::{Action, Context, Controller, Key, Plan, Severity, Target, delete, elapsed, event},
    pods,
    store::{Change, Index, Stores},
};

/// The controller; by pod uid, since when an eviction is pending.
#[derive(Default)]
pub(crate) struct Eviction {
    pending: Mutex<HashMap<String, Timestamp>>,
}

impl Controller for Eviction {
    fn begin(&self, _: &Stores, _: Timestamp) {
        self.pending.lock().unwrap_or_else(PoisonError::into_inner).clear();
    }

    fn keys(&self, stores: &Stores) -> Vec<Key> {
        let tainted = stores.nodes.all().into_iter().filter(|n| no_execute(n).next().is_some());
        tainted.flat_map(|n| on_node(stores, &n)).collect()
    }

    fn wake(&self, stores: &Stores, change: &Change) -> Vec<Key> {
        match change {
            Change::Node(d) => {
                let of = |n: Option<&Node>| n.map(|n| no_execute(n).cloned().collect::<Vec<_>>());
                if of(d.old.as_deref()).unwrap_or_default() == of(d.new.as_deref()).unwrap_or_default() {
                    return Vec::new();
                }
                d.any().map(|n| on_node(stores, n)).unwrap_or_default()
            }
            Change::Pod(d) => {
                let view = |p: &Pod| p.spec.as_ref().map(|s| (s.node_name.clone(), s.tolerations.clone()));
                let same = d.old.as_deref().and_then(view) == d.new.as_deref().and_then(view);
                if same { Vec::new() } else { vec![d.key()] }
            }
            _ => Vec::new(),
        }
    }

    fn reconcile(&self, context: &Context<'_>, key: &Key) -> Plan {
        let Some(pod) = context.stores.pods.get(key) else { return Plan::none() };
        let node = pods::node(&pod).and_then(|n| context.stores.nodes.named("", n));
        let mut pending = self.pending.lock().unwrap_or_else(PoisonError::into_inner);
        let uid = pod.metadata.uid.clone().unwrap_or_default();
        let Some(node) = node.filter(|_| pod.metadata.deletion_timestamp.is_none()) else {
            pending.remove(&uid);
            return Plan::none();
        };
        let bad: Vec<&Taint> = no_execute(&node).collect();
        let Some(after) = bearing(&bad, tolerations(&pod)) else {
            let was = pending.remove(&uid);
            let text = format!("Cancelling deletion of Pod {key}");
            let cancel = |_| event(&*pod, Severity::Normal, "TaintManagerEviction", text);
            return Plan::of(was.map(cancel).into_iter().collect());
        };
        let since = *pending.entry(uid.clone()).or_insert_with(|| begun(&bad, context.now));
        let left = after.saturating_sub(elapsed(since, context.now));
        if !left.is_zero() {
            return Plan { requeue: Some(left), ..Plan::none() };
        }
        pending.remove(&uid);
        Plan::of(evict(&pod, key, context.now))
    }
}

fn no_execute(node: &Node) -> impl Iterator<Item = &Taint> {
    taints(node).iter().filter(|t| t.effect == NO_EXECUTE)
}

fn on_node(stores: &Stores, node: &Node) -> Vec<Key> {
    let name = node.metadata.name.as_deref().unwrap_or_default();
    stores.pods.by(Index::Node, name).iter().map(|p| Key::of(&p.metadata)).collect()
}

fn tolerations(pod: &Pod) -> &[Toleration] {
    pod.spec.as_ref().and_then(|s| s.tolerations.as_deref()).unwrap_or_default()
}

/// When the newest of the taints was added, never in the future.
fn begun(taints: &[&Taint], now: Timestamp) -> Timestamp {
    let added = taints.iter().filter_map(|t| t.time_added.as_ref()).map(|t| t.0).max();
    added.unwrap_or(now).min(now)
}

/// For how long a pod with these tolerations bears all the taints; `None` is for ever.
fn bearing(taints: &[&Taint], tolerations: &[Toleration]) -> Option<Duration> {
    let mut least: Option<Duration> = None;
    for taint in taints {
        let mut borne = false;
        for toleration in tolerations.iter().filter(|t| tolerates(t, taint)) {
            borne = true;
            if let Some(seconds) = toleration.toleration_seconds {
                let time = Duration::from_secs(u64::try_from(seconds).unwrap_or(0));
                least = Some(least.map_or(time, |l| l.min(time)));
            }
        }
        if !borne {
            return Some(Duration::ZERO);
        }
    }
    least
}

fn tolerates(toleration: &Toleration, taint: &Taint) -> bool {
    let effect = toleration.effect.as_deref().unwrap_or_default();
    let key = toleration.key.as_deref().unwrap_or_default();
    if (!effect.is_empty() && effect != taint.effect) || (!key.is_empty() && key != taint.key) {
        return false;
    }
    match toleration.operator.as_deref() {
        Some("Exists") => true,
        None | Some("" | "Equal") => {
            !key.is_empty()
                && toleration.value.as_deref().unwrap_or("") == taint.value.as_deref().unwrap_or("")
        }
        _ => false,
    }
}

fn evict(pod: &Pod, key: &Key, now: Timestamp) -> Vec<Action> {
    let message = format!("Marking for deletion Pod {key}");
    vec![
        event(pod, Severity::Normal, "TaintManagerEviction", message),
        disrupted(pod, "DeletionByTaintManager", "Taint manager: deleting due to NoExecute taint", None, now),
        delete(pod),
    ]
}

/// Says in a pod's status why it is about to be deleted; `phase` where it will never be reported again.
pub(super) fn disrupted(
    pod: &Pod,
    reason: &str,
    message: &str,
    phase: Option<&str>,
    now: Timestamp,
) -> Action {
    let mut conditions = pod.status.as_ref().and_then(|s| s.conditions.clone()).unwrap_or_default();
    conditions.retain(|c| c.type_ != "DisruptionTarget");
    conditions.push(PodCondition {
        type_: "DisruptionTarget".into(),
        status: "True".into(),
        reason: Some(reason.into()),
        message: Some(message.into()),
        last_transition_time: Some(Time(now)),
        ..Default::default()
    });
    let meta = &pod.metadata;
    let mut patch = json!({
        "metadata": {"uid": meta.uid, "resourceVersion": meta.resource_version},
        "status": {"conditions": conditions},
    });
    if let Some(phase) = phase {
        patch["status"]["phase"] = json!(phase);
    }
    Action::Patch { target: Target::of(pod), subresource: "status", patch }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::testing::{at, cluster_meta, context, load, meta};

    fn world(taints: &Value, tolerations: &Value) -> Stores {
        let stores = Stores::default();
        load::<Node>(&stores, json!({"metadata": cluster_meta("n"), "spec": {"taints": taints}}));
        let spec = json!({"nodeName": "n", "containers": [], "tolerations": tolerations});
        load::<Pod>(&stores, json!({"metadata": meta("p"), "spec": spec}));
        stores
    }

    fn run(controller: &Eviction, stores: &Stores, now: &str) -> Plan {
        let answers = HashMap::new();
        controller.reconcile(&context(stores, &answers, at(now)), &Key::new("ns", "p"))
    }

    fn unreachable() -> Value {
        json!([{"key": super::super::UNREACHABLE, "effect": "NoExecute", "timeAdded": "2026-01-01T12:00:00Z"}])
    }

    fn tolerating(seconds: Option<i64>) -> Value {
        json!([{"key": super::super::UNREACHABLE, "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": seconds}])
    }

    #[test]
    fn who_goes_when() {
        let check = |taints: Value, tolerations: Value, now: &str, goes: bool, again: Option<u64>| {
            let plan = run(&Eviction::default(), &world(&taints, &tolerations), now);
            let deletes = plan.actions.iter().any(|a| matches!(a, Action::Delete { .. }));
            assert_eq!((deletes, plan.requeue.map(|d| d.as_secs())), (goes, again), "{taints} {tolerations}");
        };
        let noon = "2026-01-01T12:00:00Z";
        check(json!([]), json!([]), noon, false, None);
        check(unreachable(), json!([]), noon, true, None);
        check(unreachable(), tolerating(None), noon, false, None);
        check(unreachable(), tolerating(Some(5)), "2026-01-01T12:00:02Z", false, Some(3));
        check(unreachable(), tolerating(Some(5)), "2026-01-01T12:00:05Z", true, None);
        check(unreachable(), tolerating(Some(0)), noon, true, None);
        check(unreachable(), json!([{"operator": "Exists"}]), noon, false, None);
        check(
            json!([{"key": "a", "value": "1", "effect": "NoExecute"}]),
            json!([{"key": "a", "value": "2"}]),
            noon,
            true,
            None,
        );
        check(
            json!([{"key": "a", "value": "1", "effect": "NoExecute"}]),
            json!([{"key": "a", "value": "1"}]),
            noon,
            false,
            None,
        );
        check(json!([{"key": "a", "effect": "NoSchedule"}]), json!([]), noon, false, None);
    }

    #[test]
    fn a_taint_that_goes_in_time_cancels() {
        let controller = Eviction::default();
        let stores = world(&unreachable(), &tolerating(Some(5)));
        assert!(run(&controller, &stores, "2026-01-01T12:00:01Z").requeue.is_some());
        load::<Node>(&stores, json!({"metadata": cluster_meta("n")}));
        let plan = run(&controller, &stores, "2026-01-01T12:00:04Z");
        let [Action::Event(e)] = &plan.actions[..] else { panic!("{plan:?}") };
        assert_eq!(e.message, "Cancelling deletion of Pod ns/p");
        assert_eq!(run(&controller, &stores, "2026-01-01T12:00:09Z"), Plan::none());
    }
}
