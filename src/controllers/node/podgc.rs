//! Pod garbage collection: pods that no kubelet will ever finish.
//!
//! Keeps true: a pod is removed by force only if its node is absent from the live API and was for a while, or is
//! declared out of service, or if the pod never had a node; otherwise only a kubelet may say that it has stopped.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Node, Pod};

use super::{eviction::disrupted, ready, taints};
use crate::{
    controller::{Action, Answer, Context, Controller, Key, Plan, Question, Resource, Target, elapsed},
    pods,
    store::{Change, Stores},
};

/// Between two rounds.
const ROUND: Duration = Duration::from_secs(20);
/// How long a node must have been absent.
const QUARANTINE: Duration = Duration::from_secs(40);
const OUT_OF_SERVICE: &str = "node.kubernetes.io/out-of-service";

/// The controller, and since when which nodes are absent. Its one key is the whole cluster.
pub(crate) struct PodGc {
    /// `--terminated-pod-gc-threshold`: so many finished pods are kept; 0 keeps all.
    pub(crate) threshold: usize,
    /// Since when a node that pods are bound to has been absent.
    pub(crate) absent: Mutex<HashMap<String, Timestamp>>,
}

impl Controller for PodGc {
    fn begin(&self, _: &Stores, _: Timestamp) {
        self.absent.lock().unwrap_or_else(PoisonError::into_inner).clear();
    }

    fn keys(&self, _: &Stores) -> Vec<Key> {
        vec![Key::default()]
    }

    fn wake(&self, _: &Stores, change: &Change) -> Vec<Key> {
        let gone = matches!(change, Change::Node(d) if d.new.is_none());
        gone.then(Key::default).into_iter().collect()
    }

    fn reconcile(&self, context: &Context<'_>, _: &Key) -> Plan {
        let all = context.stores.pods.all();
        let mut plan = match self.orphans(context, &all) {
            Ok(actions) => Plan::of(actions),
            Err(questions) => return Plan::ask(questions),
        };
        plan.actions.extend(terminated(&all, self.threshold));
        plan.actions.extend(unscheduled(&all));
        plan.actions.extend(out_of_service(context, &all));
        plan.requeue = Some(ROUND);
        plan
    }
}

fn force(pod: &Pod) -> Action {
    Action::Delete {
        target: Target::of(pod),
        uid: pod.metadata.uid.clone(),
        resource_version: None,
        propagation: None,
        grace: Some(0),
        announce: None,
    }
}

/// Says why, then removes.
fn fail_and_force(pod: &Pod, message: &str, now: Timestamp) -> Vec<Action> {
    let mut actions = Vec::new();
    if !pods::is_finished(pod) {
        actions.push(disrupted(pod, "DeletionByPodGC", message, Some("Failed"), now));
    }
    actions.push(force(pod));
    actions
}

impl PodGc {
    fn orphans(&self, context: &Context<'_>, all: &[Arc<Pod>]) -> Result<Vec<Action>, Vec<Question>> {
        let mut absent = self.absent.lock().unwrap_or_else(PoisonError::into_inner);
        let gone = |p: &&Arc<Pod>| pods::node(p).is_some_and(|n| context.stores.nodes.named("", n).is_none());
        let lost: Vec<&Arc<Pod>> = all.iter().filter(gone).collect();
        absent.retain(|name, _| lost.iter().any(|p| pods::node(p) == Some(name)));
        let mut questions = Vec::new();
        let mut actions = Vec::new();
        for pod in lost {
            let name = pods::node(pod).unwrap_or_default();
            let since = *absent.entry(name.to_owned()).or_insert(context.now);
            if elapsed(since, context.now) < QUARANTINE {
                continue;
            }
            let question =
                Question::Get(Target { resource: Resource::of::<Node>(), key: Key::new("", name) });
            match context.answers.get(&question) {
                None if questions.contains(&question) => {}
                None => questions.push(question),
                Some(Answer::Absent) => {
                    actions.extend(fail_and_force(pod, "PodGC: node no longer exists", context.now));
                }
                Some(_) => {}
            }
        }
        if questions.is_empty() { Ok(actions) } else { Err(questions) }
    }
}

/// The oldest finished pods beyond the threshold.
fn terminated(all: &[Arc<Pod>], threshold: usize) -> Vec<Action> {
    if threshold == 0 {
        return Vec::new();
    }
    let mut finished: Vec<&Arc<Pod>> = all.iter().filter(|p| pods::is_finished(p)).collect();
    let excess = finished.len().saturating_sub(threshold);
    let evicted = |p: &Pod| p.status.as_ref().and_then(|s| s.reason.as_deref()) == Some("Evicted");
    finished.sort_by_key(|p| (!evicted(p), p.metadata.creation_timestamp.as_ref().map(|t| t.0)));
    finished.into_iter().take(excess).map(|p| force(p)).collect()
}

fn unscheduled(all: &[Arc<Pod>]) -> Vec<Action> {
    let stuck = |p: &&Arc<Pod>| pods::node(p).is_none() && p.metadata.deletion_timestamp.is_some();
    // A finalizer keeps it in any case; asking again and again would not help.
    let free = |p: &&Arc<Pod>| p.metadata.finalizers.as_ref().is_none_or(Vec::is_empty);
    all.iter().filter(stuck).filter(free).map(|p| force(p)).collect()
}

fn out_of_service(context: &Context<'_>, all: &[Arc<Pod>]) -> Vec<Action> {
    let dead = |n: &Node| ready(n) != "True" && taints(n).iter().any(|t| t.key == OUT_OF_SERVICE);
    let stuck = |p: &&Arc<Pod>| {
        let node = pods::node(p).filter(|_| p.metadata.deletion_timestamp.is_some());
        node.and_then(|n| context.stores.nodes.named("", n)).is_some_and(|n| dead(&n))
    };
    let text = "PodGC: node is out of service";
    all.iter().filter(stuck).flat_map(|p| fail_and_force(p, text, context.now)).collect()
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::testing::{NOON, at, cluster_meta, context, load, merge, meta};

    fn pod(name: &str, extra: Value) -> Value {
        let mut pod =
            json!({"metadata": meta(name), "spec": {"containers": []}, "status": {"phase": "Running"}});
        merge(&mut pod, &extra);
        pod
    }

    fn run(controller: &PodGc, stores: &Stores, now: &str, answers: &HashMap<Question, Answer>) -> Plan {
        controller.reconcile(&context(stores, answers, at(now)), &Key::default())
    }

    fn forced(plan: &Plan) -> Vec<&str> {
        let name = |a: &Action| match a {
            Action::Delete { target, grace: Some(0), .. } => Some(target.key.name.clone()),
            _ => None,
        };
        plan.actions.iter().filter_map(name).map(|n| &*n.leak()).collect()
    }

    fn controller(threshold: usize) -> PodGc {
        PodGc { threshold, absent: Mutex::default() }
    }

    #[test]
    fn orphans_wait_and_the_live_api_decides() {
        let stores = Stores::default();
        load::<Pod>(&stores, pod("p", json!({"spec": {"nodeName": "gone"}})));
        let gc = controller(0);
        let question = Question::Get(Target { resource: Resource::of::<Node>(), key: Key::new("", "gone") });
        let mut answers = HashMap::new();
        assert!(forced(&run(&gc, &stores, NOON, &answers)).is_empty());
        assert_eq!(
            run(&gc, &stores, "2026-01-01T12:00:41Z", &answers).questions,
            std::slice::from_ref(&question)
        );
        answers.insert(question.clone(), Answer::Failed("timeout".into()));
        assert!(forced(&run(&gc, &stores, "2026-01-01T12:00:41Z", &answers)).is_empty());
        answers.insert(question, Answer::Absent);
        assert_eq!(forced(&run(&gc, &stores, "2026-01-01T12:00:41Z", &answers)), ["p"]);
    }

    #[test]
    fn finished_and_stuck() {
        let check = |threshold, pods: &[Value], expect: &[&str]| {
            let stores = Stores::default();
            let taint = json!([{"key": OUT_OF_SERVICE, "effect": "NoExecute"}]);
            load::<Node>(&stores, json!({"metadata": cluster_meta("dead"), "spec": {"taints": taint}}));
            for pod in pods {
                load::<Pod>(&stores, pod.clone());
            }
            assert_eq!(forced(&run(&controller(threshold), &stores, NOON, &HashMap::new())), expect);
        };
        let done = |name, created: &str| {
            pod(name, json!({"metadata": {"creationTimestamp": created}, "status": {"phase": "Succeeded"}}))
        };
        let (old, new) = (done("old", "2026-01-01T00:00:00Z"), done("new", "2026-01-01T01:00:00Z"));
        check(0, &[old.clone(), new.clone()], &[]);
        check(1, &[old.clone(), new.clone()], &["old"]);
        check(2, &[old, new], &[]);
        let going = json!({"metadata": {"deletionTimestamp": NOON}});
        check(0, &[pod("u", going.clone())], &["u"]);
        check(0, &[pod("u", json!({}))], &[]);
        let mut dead = pod("d", going);
        dead["spec"]["nodeName"] = json!("dead");
        check(0, &[dead], &["d"]);
    }
}
