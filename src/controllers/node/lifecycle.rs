//! The node lifecycle controller: which nodes are alive, and what that means for scheduling and for their pods.
//!
//! Keeps true: a node is Unknown only if this process itself has seen no sign of life for the grace period (clocks
//! of other machines decide nothing); when every node looks dead, the fault is more likely here, and nobody is
//! evicted. Leaves to others: evicting (`eviction.rs`).

use std::{
    collections::HashMap,
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use jiff::Timestamp;
use k8s_openapi::{
    api::core::v1::{Node, NodeCondition, Pod, PodCondition, Taint},
    apimachinery::pkg::apis::meta::v1::Time,
};
use serde_json::json;

use super::{NO_EXECUTE, NO_SCHEDULE, NOT_READY, UNREACHABLE, condition, ready, taints};
use crate::{
    controller::{Action, Context, Controller, Key, Plan, Severity, Target, elapsed, event, update},
    pods,
    store::{Change, Index, Stores},
};

/// Conditions that become Unknown when a node stops reporting.
const REPORTED: &[&str] = &["Ready", "MemoryPressure", "DiskPressure", "PIDPressure"];
/// Condition, the status that is bad, the taint that says so.
const CONDITION_TAINTS: &[(&str, &str, &str)] = &[
    ("MemoryPressure", "True", "node.kubernetes.io/memory-pressure"),
    ("DiskPressure", "True", "node.kubernetes.io/disk-pressure"),
    ("PIDPressure", "True", "node.kubernetes.io/pid-pressure"),
    ("NetworkUnavailable", "True", "node.kubernetes.io/network-unavailable"),
    ("Ready", "False", NOT_READY),
    ("Ready", "Unknown", UNREACHABLE),
];
const UNSCHEDULABLE: &str = "node.kubernetes.io/unschedulable";
/// Where nodes renew theirs.
const LEASES: &str = "kube-node-lease";
const ZONE: &str = "topology.kubernetes.io/zone";
const REGION: &str = "topology.kubernetes.io/region";

/// When nodes are dead, and how fast they may be emptied.
#[derive(Clone, Debug)]
pub(crate) struct Timing {
    /// `--node-monitor-grace-period`.
    pub(crate) grace: Duration,
    /// `--node-startup-grace-period`.
    pub(crate) startup_grace: Duration,
    /// `--node-eviction-rate`, nodes per second and zone.
    pub(crate) rate: f64,
    /// `--secondary-node-eviction-rate`, in a large zone that is partly down.
    pub(crate) secondary_rate: f64,
    /// `--unhealthy-zone-threshold`, the part of a zone that is "partly down".
    pub(crate) unhealthy: f64,
    /// `--large-cluster-size-threshold`.
    pub(crate) large: usize,
}

/// What was seen of a node, by this machine's clock.
#[derive(Clone, Debug)]
struct Health {
    seen: Timestamp,
    renewed: Option<Timestamp>,
    heartbeat: Option<Timestamp>,
    registered: bool,
}

#[derive(Default)]
struct State {
    health: HashMap<String, Health>,
    /// When a zone's last node was given up.
    evicted: HashMap<String, Timestamp>,
}

/// The controller and what it has seen.
pub(crate) struct Lifecycle {
    timing: Timing,
    state: Mutex<State>,
}

impl Lifecycle {
    /// A controller that has seen nothing.
    #[must_use]
    pub(crate) fn new(timing: Timing) -> Self {
        Self { timing, state: Mutex::default() }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn heartbeat(node: &Node) -> Option<Timestamp> {
    condition(node, "Ready")?.last_heartbeat_time.as_ref().map(|t| t.0)
}

impl State {
    fn of(&mut self, name: &str, now: Timestamp) -> &mut Health {
        let new = || Health { seen: now, renewed: None, heartbeat: None, registered: false };
        self.health.entry(name.to_owned()).or_insert_with(new)
    }
}

impl Controller for Lifecycle {
    fn observe(&self, _: &Stores, change: &Change, now: Timestamp) {
        match change {
            Change::Lease(d) if d.key().namespace == LEASES => {
                let Some(lease) = &d.new else { return };
                let renewed = lease.spec.as_ref().and_then(|s| s.renew_time.as_ref()).map(|t| t.0);
                let mut state = self.state();
                let health = state.of(&d.key().name, now);
                if health.renewed != renewed {
                    (health.renewed, health.seen) = (renewed, now);
                }
            }
            Change::Node(d) => {
                let name = d.key().name;
                let Some(node) = &d.new else {
                    self.state().health.remove(&name);
                    return;
                };
                let beat = heartbeat(node);
                let mut state = self.state();
                let health = state.of(&name, now);
                if health.heartbeat != beat {
                    (health.heartbeat, health.seen) = (beat, now);
                }
            }
            _ => {}
        }
    }

    /// A standby may have been cut off: a new leader gives every node the whole grace period.
    fn begin(&self, stores: &Stores, now: Timestamp) {
        let mut state = self.state();
        state.evicted.clear();
        for node in stores.nodes.all() {
            let health = state.of(&Key::of(&node.metadata).name, now);
            health.seen = now;
            health.registered = true;
        }
    }

    fn keys(&self, stores: &Stores) -> Vec<Key> {
        stores.nodes.keys()
    }

    fn wake(&self, stores: &Stores, change: &Change) -> Vec<Key> {
        match change {
            Change::Node(d) => {
                let changed = d.old.as_deref().map(ready) != d.new.as_deref().map(ready);
                // Whether a zone is down depends on all of them.
                if changed { stores.nodes.keys() } else { vec![d.key()] }
            }
            // A renewal only matters to a node that is thought dead.
            Change::Lease(d) if d.key().namespace == LEASES => {
                let key = Key::new("", d.key().name);
                let dead = stores.nodes.get(&key).is_some_and(|n| ready(&n) == "Unknown");
                if dead { vec![key] } else { Vec::new() }
            }
            _ => Vec::new(),
        }
    }

    fn reconcile(&self, context: &Context<'_>, key: &Key) -> Plan {
        let Some(node) = context.stores.nodes.get(key) else { return Plan::none() };
        let mut state = self.state();
        let mut plan = Plan::none();
        let health = state.of(&key.name, context.now);
        if !std::mem::replace(&mut health.registered, true) {
            let text = format!("Node {0} event: Registered Node {0} in Controller", key.name);
            plan.act(event(&*node, Severity::Normal, "RegisteredNode", text));
        }
        let left = self.left(&node, health, context.now);
        if left.is_zero() {
            if let Some(unknown) = give_up(&node, context.now) {
                plan.act(update(&unknown, "status"));
                let text = format!("Node {} status is now: NodeNotReady", key.name);
                plan.act(event(&*node, Severity::Normal, "NodeNotReady", text));
                mark_pods(context, &unknown, &mut plan);
                return plan;
            }
        } else {
            plan.requeue_in(left);
        }
        if ready(&node) != "True" {
            mark_pods(context, &node, &mut plan);
        }
        self.taint(context, &node, &mut state, &mut plan);
        plan
    }
}

impl Lifecycle {
    /// How long until a node is given up.
    fn left(&self, node: &Node, health: &Health, now: Timestamp) -> Duration {
        let silent = condition(node, "Ready").is_none();
        let grace = if silent { self.timing.startup_grace } else { self.timing.grace };
        grace.saturating_sub(elapsed(health.seen, now))
    }

    fn taint(&self, context: &Context<'_>, node: &Node, state: &mut State, plan: &mut Plan) {
        let mut wanted: Vec<Taint> =
            taints(node).iter().filter(|t| !is_managed_no_schedule(t)).cloned().collect();
        for key in no_schedule(node) {
            let old = taints(node).iter().find(|t| t.key == key && t.effect == NO_SCHEDULE).cloned();
            wanted.push(old.unwrap_or_else(|| taint(key, NO_SCHEDULE, Some(context.now))));
        }
        self.no_execute(context, node, state, &mut wanted, plan);
        let as_set = |list: &[Taint]| {
            let mut set: Vec<_> = list.iter().map(|t| (t.key.clone(), t.effect.clone())).collect();
            set.sort();
            set
        };
        if as_set(&wanted) != as_set(taints(node)) {
            let meta = &node.metadata;
            let patch = json!({
                "metadata": {"uid": meta.uid, "resourceVersion": meta.resource_version},
                "spec": {"taints": wanted},
            });
            plan.act(Action::Patch { target: Target::of(node), subresource: "", patch });
        }
    }

    /// The taint that evicts: at most one, added no faster than the zone's rate.
    fn no_execute(
        &self,
        context: &Context<'_>,
        node: &Node,
        state: &mut State,
        wanted: &mut Vec<Taint>,
        plan: &mut Plan,
    ) {
        let key = match ready(node) {
            "True" => None,
            "False" => Some(NOT_READY),
            _ => Some(UNREACHABLE),
        };
        let is_ours = |t: &Taint| t.effect == NO_EXECUTE && (t.key == NOT_READY || t.key == UNREACHABLE);
        let had = wanted.iter().any(is_ours);
        let kept = wanted.iter().find(|t| is_ours(t) && Some(t.key.as_str()) == key).cloned();
        wanted.retain(|t| !is_ours(t));
        // A node that never reported is not tainted for eviction: nothing runs there.
        let Some(key) = key.filter(|_| condition(node, "Ready").is_some()) else { return };
        let zone = zone(node);
        let Some(rate) = self.zone_rate(context.stores, &zone) else { return };
        if let Some(kept) = kept {
            return wanted.push(kept);
        }
        if !had {
            let pause = if rate > 0.0 { Duration::from_secs_f64(1.0 / rate) } else { Duration::MAX };
            let since = state.evicted.get(&zone).map_or(Duration::MAX, |at| elapsed(*at, context.now));
            if since < pause || rate <= 0.0 {
                return plan.requeue_in(pause.saturating_sub(since).min(Duration::from_secs(10)));
            }
            state.evicted.insert(zone, context.now);
        }
        wanted.push(taint(key, NO_EXECUTE, Some(context.now)));
    }

    /// Nodes per second of a zone that may be given up; `None` when every node of the cluster is down.
    fn zone_rate(&self, stores: &Stores, wanted: &str) -> Option<f64> {
        let (mut all, mut up, mut zone_all, mut zone_down) = (0_usize, 0_usize, 0_usize, 0_usize);
        for node in stores.nodes.all() {
            let is_up = ready(&node) == "True";
            all += 1;
            up += usize::from(is_up);
            if zone(&node) == wanted {
                zone_all += 1;
                zone_down += usize::from(!is_up);
            }
        }
        if up == 0 && all > 0 {
            return None;
        }
        #[allow(clippy::cast_precision_loss)]
        let partly = zone_down > 2 && zone_down as f64 / zone_all as f64 >= self.timing.unhealthy;
        Some(match (partly && zone_down < zone_all, zone_all > self.timing.large) {
            (false, _) => self.timing.rate,
            (true, true) => self.timing.secondary_rate,
            (true, false) => 0.0,
        })
    }
}

fn zone(node: &Node) -> String {
    let label = |key| node.metadata.labels.as_ref().and_then(|l| l.get(key)).map_or("", String::as_str);
    format!("{}:{}", label(REGION), label(ZONE))
}

fn taint(key: &str, effect: &str, added: Option<Timestamp>) -> Taint {
    Taint { key: key.into(), effect: effect.into(), time_added: added.map(Time), value: None }
}

fn is_managed_no_schedule(taint: &Taint) -> bool {
    let ours = CONDITION_TAINTS.iter().any(|(_, _, key)| *key == taint.key) || taint.key == UNSCHEDULABLE;
    ours && taint.effect == NO_SCHEDULE
}

/// The taints that a node's conditions call for.
fn no_schedule(node: &Node) -> Vec<&'static str> {
    let bad = |(kind, status, key): &(&str, &str, &'static str)| {
        condition(node, kind).filter(|c| c.status == *status).map(|_| *key)
    };
    let mut keys: Vec<&'static str> = CONDITION_TAINTS.iter().filter_map(bad).collect();
    if condition(node, "Ready").is_none() && taints(node).iter().any(|t| t.key == NOT_READY) {
        // Registered with the taint, and nothing said since.
        keys.push(NOT_READY);
    }
    if node.spec.as_ref().and_then(|s| s.unschedulable) == Some(true) {
        keys.push(UNSCHEDULABLE);
    }
    keys
}

/// The node with all that its kubelet should report unknown; `None` if it says so already.
fn give_up(node: &Node, now: Timestamp) -> Option<Node> {
    let mut unknown = node.clone();
    let conditions = unknown.status.get_or_insert_default().conditions.get_or_insert_default();
    let mut changed = false;
    for kind in REPORTED {
        match conditions.iter_mut().find(|c| c.type_ == *kind) {
            None => {
                changed = true;
                conditions.push(NodeCondition {
                    type_: (*kind).into(),
                    status: "Unknown".into(),
                    reason: Some("NodeStatusNeverUpdated".into()),
                    message: Some("Kubelet never posted node status.".into()),
                    last_heartbeat_time: node.metadata.creation_timestamp.clone(),
                    last_transition_time: Some(Time(now)),
                });
            }
            Some(c) if c.status == "Unknown" => {}
            Some(c) => {
                changed = true;
                c.status = "Unknown".into();
                c.reason = Some("NodeStatusUnknown".into());
                c.message = Some("Kubelet stopped posting node status.".into());
                c.last_transition_time = Some(Time(now));
            }
        }
    }
    changed.then_some(unknown)
}

/// Pods of a node that is not ready are not ready either, so that Services leave them at once. A kubelet that says
/// otherwise afterwards is believed.
fn mark_pods(context: &Context<'_>, node: &Node, plan: &mut Plan) {
    let since = condition(node, "Ready").and_then(|c| c.last_transition_time.as_ref()).map(|t| t.0);
    let Some(since) = since else { return };
    let name = node.metadata.name.as_deref().unwrap_or_default();
    let on_it = context.stores.pods.by(Index::Node, name);
    let patches: Vec<Action> = on_it
        .iter()
        .filter(|p| pods::ready_since(p).is_some_and(|at| at < since))
        .map(|p| not_ready(p, context.now))
        .collect();
    if !patches.is_empty() {
        plan.act(Action::Batch(patches));
    }
}

fn not_ready(pod: &Pod, now: Timestamp) -> Action {
    let conditions = pod.status.as_ref().and_then(|s| s.conditions.clone()).unwrap_or_default();
    let turn = |c: PodCondition| {
        if c.type_ != "Ready" {
            return c;
        }
        PodCondition { status: "False".into(), last_transition_time: Some(Time(now)), ..c }
    };
    let conditions: Vec<PodCondition> = conditions.into_iter().map(turn).collect();
    let meta = &pod.metadata;
    let patch = json!({
        "metadata": {"uid": meta.uid, "resourceVersion": meta.resource_version},
        "status": {"conditions": conditions},
    });
    Action::Patch { target: Target::of(pod), subresource: "status", patch }
}

#[cfg(test)]
mod tests;
