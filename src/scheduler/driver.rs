//! The only doer: feeds the state from informers, runs the loop while leading, binds, reports, preempts.
//!
//! Keeps true: everything written in a term of leadership goes through that term's fenced client; a standby's
//! state is as fresh as a leader's; a pod whose binding failed is forgotten and tried again.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use client::{Change, Client, EventType, Informer, Recorder, reference};
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Binding, Namespace, Node, ObjectReference, Pod, Service};
use k8s_openapi::api::policy::v1::PodDisruptionBudget;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::Api;
use kube::api::{DeleteParams, Patch, PatchParams, PostParams, Preconditions};
use kube::runtime::watcher;
use serde_json::{Value, json};
use tokio::sync::{Notify, Semaphore};
use tokio::task::JoinSet;

use crate::metrics::Metrics;
use crate::pod::PodInfo;
use crate::preempt::Plan;
use crate::state::{Act, State};

/// Requests under way at once.
const MAX_REQUESTS: usize = 100;
/// Wakes up at least this often, for nothing.
const LONGEST_SLEEP: Duration = Duration::from_secs(30);

/// The scheduler; cheap to clone.
#[derive(Clone)]
pub(crate) struct Driver(Arc<Inner>);

struct Inner {
    state: Mutex<State>,
    wake: Notify,
    origin: Instant,
    metrics: Metrics,
    recorder: Recorder,
    requests: Arc<Semaphore>,
}

/// The informers, for as long as somebody asks whether they are complete.
pub(crate) struct Informers {
    pods: Informer<Pod>,
    nodes: Informer<Node>,
    namespaces: Informer<Namespace>,
    services: Informer<Service>,
    budgets: Informer<PodDisruptionBudget>,
}

impl Informers {
    /// Waits until everything that existed at the start is known.
    pub(crate) async fn synced(&self) {
        tokio::join!(
            self.pods.synced(),
            self.nodes.synced(),
            self.namespaces.synced(),
            self.services.synced(),
            self.budgets.synced()
        );
    }

    pub(crate) fn is_synced(&self) -> bool {
        self.pods.is_synced()
            && self.nodes.is_synced()
            && self.namespaces.is_synced()
            && self.services.is_synced()
            && self.budgets.is_synced()
    }
}

impl Driver {
    pub(crate) fn new(profiles: BTreeSet<String>, recorder: Recorder, metrics: Metrics) -> Self {
        Self(Arc::new(Inner {
            state: Mutex::new(State::new(profiles)),
            wake: Notify::new(),
            origin: Instant::now(),
            metrics,
            recorder,
            requests: Arc::new(Semaphore::new(MAX_REQUESTS)),
        }))
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn now(&self) -> Duration {
        self.0.origin.elapsed()
    }

    /// Changes the state and wakes the loop.
    fn change(&self, change: impl FnOnce(&mut State, Duration)) {
        let now = self.now();
        let lengths = {
            let mut state = self.state();
            change(&mut state, now);
            state.queue.lengths()
        };
        self.0.metrics.queue(lengths);
        self.0.wake.notify_one();
    }

    /// Starts to follow the cluster.
    pub(crate) fn follow(&self, client: &Client, tasks: &mut JoinSet<()>) -> Informers {
        let kube = client.kube();
        let config = watcher::Config::default;
        let me = self.clone();
        let nodes = Informer::start(Api::all(kube.clone()), config(), tasks, move |c: Change<Node>| {
            me.change(|state, now| state.node(c.old.as_ref(), c.new.as_ref(), now));
        });
        let me = self.clone();
        let pods = Informer::start(Api::all(kube.clone()), config(), tasks, move |c: Change<Pod>| {
            me.change(|state, now| state.pod(c.old.as_ref(), c.new.as_ref(), now));
        });
        let me = self.clone();
        let namespaces =
            Informer::start(Api::all(kube.clone()), config(), tasks, move |c: Change<Namespace>| {
                me.change(|state, now| namespace(state, &c, now));
            });
        let me = self.clone();
        let services = Informer::start(Api::all(kube.clone()), config(), tasks, move |c: Change<Service>| {
            me.change(|state, now| service(state, &c, now));
        });
        let me = self.clone();
        let budgets =
            Informer::start(Api::all(kube), config(), tasks, move |c: Change<PodDisruptionBudget>| {
                me.change(|state, _| budget(state, &c));
            });
        Informers { pods, nodes, namespaces, services, budgets }
    }

    /// Schedules with `client` until dropped.
    pub(crate) async fn lead(self, client: Client, lease: String) {
        let _leading = Leading::new(self.0.metrics.clone(), lease);
        self.change(State::recover);
        let mut requests = JoinSet::new();
        loop {
            while requests.try_join_next().is_some() {}
            let started = Instant::now();
            let now = self.now();
            let act = self.state().step(rand::random(), now);
            match act {
                Some(act) => {
                    self.spawn(act, client.clone(), started, &mut requests);
                    tokio::task::yield_now().await;
                }
                None => self.sleep(&mut requests).await,
            }
        }
    }

    async fn sleep(&self, requests: &mut JoinSet<()>) {
        let next = self.state().queue.next_wake();
        let pause = next.map_or(LONGEST_SLEEP, |at| at.saturating_sub(self.now())).min(LONGEST_SLEEP);
        tokio::select! {
            () = self.0.wake.notified() => {}
            () = tokio::time::sleep(pause) => {}
            Some(_) = requests.join_next() => {}
        }
    }

    fn spawn(&self, act: Act, client: Client, started: Instant, requests: &mut JoinSet<()>) {
        let me = self.clone();
        requests.spawn(async move {
            let Ok(_permit) = me.0.requests.acquire().await else { return };
            match act {
                Act::Bind { pod, node } => me.bind(&client, &pod, &node, started).await,
                Act::Refuse { pod, message, plan } => {
                    me.0.metrics.attempt("unschedulable", profile(&pod), started.elapsed().as_secs_f64());
                    me.refuse(&client, &pod, &message, plan.as_ref()).await;
                }
            }
        });
    }

    async fn bind(&self, client: &Client, pod: &PodInfo, node: &str, started: Instant) {
        let history = self.state().queue.history(pod.uid());
        let api: Api<Pod> = Api::namespaced(client.kube(), pod.namespace());
        let result = api
            .create_subresource::<_, Value>(
                "binding",
                pod.name(),
                &PostParams::default(),
                &binding(pod, node),
            )
            .await;
        let seconds = started.elapsed().as_secs_f64();
        let about = reference(&**pod.pod());
        match result {
            Ok(_) => {
                self.0.metrics.attempt("scheduled", profile(pod), seconds);
                if let Some((added, attempts)) = history {
                    self.0.metrics.bound(self.now().saturating_sub(added).as_secs_f64(), attempts);
                }
                let message = format!("Successfully assigned {}/{} to {node}", pod.namespace(), pod.name());
                self.0.recorder.event(&about, EventType::Normal, "Scheduled", message);
            }
            Err(error) => {
                tracing::warn!(pod = pod.name(), namespace = pod.namespace(), node, %error, "binding failed");
                self.0.metrics.attempt("error", profile(pod), seconds);
                self.change(|state, now| state.not_bound(pod.uid(), now));
                let message = format!("binding rejected: {error}");
                self.0.recorder.event(&about, EventType::Warning, "FailedScheduling", message);
            }
        }
    }

    async fn refuse(&self, client: &Client, pod: &PodInfo, message: &str, plan: Option<&Plan>) {
        let about = reference(&**pod.pod());
        self.0.recorder.event(&about, EventType::Warning, "FailedScheduling", message);
        let nominated = plan.map(|p| p.node.as_str());
        if let Some(patch) = unschedulable_patch(pod.pod(), message, nominated) {
            patch_status(client, pod, &patch).await;
        }
        if let Some(plan) = plan {
            self.0.metrics.preempted(plan.victims.len());
            for victim in &plan.victims {
                self.preempt(client, pod, victim, &plan.node).await;
            }
        }
    }

    async fn preempt(&self, client: &Client, pod: &PodInfo, victim: &PodInfo, node: &str) {
        if victim.terminating() {
            return;
        }
        let text = format!("{}: preempting to accommodate a higher priority pod", profile(pod));
        let condition = condition("DisruptionTarget", "True", "PreemptionByScheduler", &text);
        patch_status(client, victim, &json!({"status": {"conditions": [condition]}})).await;
        let uid = Some(victim.uid().to_owned());
        let preconditions = Some(Preconditions { uid, ..Preconditions::default() });
        let api: Api<Pod> = Api::namespaced(client.kube(), victim.namespace());
        let deleted =
            api.delete(victim.name(), &DeleteParams { preconditions, ..DeleteParams::default() }).await;
        match deleted {
            Ok(_) => {
                let message = format!("Preempted by pod {} on node {node}", pod.uid());
                let about = reference(&**victim.pod());
                self.0.recorder.event(&about, EventType::Normal, "Preempted", message);
            }
            Err(error) => tracing::warn!(victim = victim.name(), %error, "could not preempt"),
        }
    }
}

/// Shows in the metrics that this process leads, for as long as it lives.
struct Leading {
    metrics: Metrics,
    lease: String,
}

impl Leading {
    fn new(metrics: Metrics, lease: String) -> Self {
        metrics.leading(&lease, true);
        Self { metrics, lease }
    }
}

impl Drop for Leading {
    fn drop(&mut self) {
        self.metrics.leading(&self.lease, false);
    }
}

fn profile(pod: &PodInfo) -> &str {
    pod.spec().scheduler_name.as_deref().unwrap_or("default-scheduler")
}

fn namespace(state: &mut State, change: &Change<Namespace>, now: Duration) {
    let labels = |n: &Arc<Namespace>| n.metadata.labels.clone().unwrap_or_default();
    let name = change.latest().metadata.name.clone().unwrap_or_default();
    let new = change.new.as_ref().map(labels);
    let changed = change.old.as_ref().map(labels) != new;
    state.snapshot.set_namespace(&name, new);
    if changed && change.old.is_some() {
        state.other(now);
    }
}

fn service(state: &mut State, change: &Change<Service>, now: Duration) {
    let meta = &change.latest().metadata;
    match &change.new {
        Some(service) => state.snapshot.set_service(service),
        None => state.snapshot.remove_service(
            meta.namespace.as_deref().unwrap_or_default(),
            meta.name.as_deref().unwrap_or_default(),
        ),
    }
    state.other(now);
}

fn budget(state: &mut State, change: &Change<PodDisruptionBudget>) {
    let meta = &change.latest().metadata;
    match &change.new {
        Some(budget) => state.snapshot.set_budget(budget),
        None => state.snapshot.remove_budget(
            meta.namespace.as_deref().unwrap_or_default(),
            meta.name.as_deref().unwrap_or_default(),
        ),
    }
}

fn binding(pod: &PodInfo, node: &str) -> Binding {
    Binding {
        metadata: ObjectMeta {
            name: Some(pod.name().to_owned()),
            namespace: Some(pod.namespace().to_owned()),
            uid: Some(pod.uid().to_owned()),
            ..ObjectMeta::default()
        },
        target: ObjectReference {
            kind: Some("Node".to_owned()),
            name: Some(node.to_owned()),
            ..ObjectReference::default()
        },
    }
}

fn condition(kind: &str, status: &str, reason: &str, message: &str) -> Value {
    json!({
        "type": kind,
        "status": status,
        "reason": reason,
        "message": message,
        "lastProbeTime": null,
        "lastTransitionTime": Timestamp::now().strftime("%Y-%m-%dT%H:%M:%SZ").to_string(),
    })
}

/// What to write into the pod's status; `None` when it says so already.
fn unschedulable_patch(pod: &Pod, message: &str, nominated: Option<&str>) -> Option<Value> {
    let status = pod.status.as_ref();
    let current = status.and_then(|s| s.conditions.as_ref()?.iter().find(|c| c.type_ == "PodScheduled"));
    let refused = current.filter(|c| c.status == "False");
    let told = refused.is_some_and(|c| c.message.as_deref() == Some(message));
    let nominated_now = status.and_then(|s| s.nominated_node_name.as_deref());
    if told && (nominated.is_none() || nominated_now == nominated) {
        return None;
    }
    let mut condition = condition("PodScheduled", "False", "Unschedulable", message);
    if let (Some(fields), Some(_)) = (condition.as_object_mut(), refused) {
        // The status stays, so the time of its last change does, too.
        fields.remove("lastTransitionTime");
    }
    let mut status = json!({"conditions": [condition]});
    if let Some(node) = nominated {
        status["nominatedNodeName"] = node.into();
    }
    Some(json!({"status": status}))
}

async fn patch_status(client: &Client, pod: &PodInfo, patch: &Value) {
    let api: Api<Pod> = Api::namespaced(client.kube(), pod.namespace());
    if let Err(error) = api.patch_status(pod.name(), &PatchParams::default(), &Patch::Strategic(patch)).await
    {
        tracing::debug!(pod = pod.name(), %error, "could not write the pod's status");
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::unschedulable_patch;
    use crate::testing::pod;

    #[test]
    fn the_condition_is_written_when_it_says_something_new() {
        let fresh = pod("p").build();
        let patch = unschedulable_patch(&fresh, "why", Some("w1")).unwrap();
        assert_eq!(patch["status"]["conditions"][0]["reason"], "Unschedulable");
        assert_eq!(patch["status"]["nominatedNodeName"], "w1");
        let told = json!([{"type": "PodScheduled", "status": "False", "message": "why"}]);
        let told = pod("p").set("/status/conditions", told).build();
        assert!(unschedulable_patch(&told, "why", None).is_none());
        let other = unschedulable_patch(&told, "other", None).unwrap();
        assert!(other["status"]["conditions"][0].get("lastTransitionTime").is_none());
    }
}
