//! Timing with a clock that the test moves.

use jiff::SignedDuration;
use k8s_openapi::api::coordination::v1::Lease;
use serde_json::Value;

use super::*;
use crate::testing::{NOON, at, cluster_meta, context, merge};

fn timing() -> Timing {
    Timing {
        grace: Duration::from_secs(10),
        startup_grace: Duration::from_secs(60),
        rate: 0.1,
        secondary_rate: 0.01,
        unhealthy: 0.55,
        large: 50,
    }
}

fn node(name: &str, status: &str) -> Value {
    json!({"metadata": cluster_meta(name), "status": {"conditions": [
        {"type": "Ready", "status": status, "lastTransitionTime": "2026-01-01T11:00:00Z",
            "lastHeartbeatTime": "2026-01-01T11:59:00Z"}]}})
}

struct World {
    stores: Stores,
    controller: Lifecycle,
    now: Timestamp,
}

impl World {
    fn new() -> Self {
        Self { stores: Stores::default(), controller: Lifecycle::new(timing()), now: at(NOON) }
    }

    fn put<K: crate::store::Watched>(&self, mut value: Value) {
        value["apiVersion"] = json!(K::API_VERSION);
        let change = self.stores.put(serde_json::from_value::<K>(value).unwrap());
        self.controller.observe(&self.stores, &change, self.now);
    }

    fn renew(&self, name: &str) {
        let time = self.now.to_string();
        let meta = json!({"name": name, "namespace": "kube-node-lease", "resourceVersion": "1"});
        let renew = if time.contains('.') { time } else { time.replace('Z', ".000000Z") };
        self.put::<Lease>(json!({"metadata": meta, "spec": {"renewTime": renew}}));
    }

    fn pass(&mut self, seconds: i64) {
        self.now = self.now.checked_add(SignedDuration::from_secs(seconds)).unwrap();
    }

    fn run(&self, name: &str) -> Plan {
        let answers = HashMap::new();
        self.controller.reconcile(&context(&self.stores, &answers, self.now), &Key::new("", name))
    }

    /// Runs, and makes what it changes of nodes true.
    fn step(&self, name: &str) -> Plan {
        let plan = self.run(name);
        for action in &plan.actions {
            match action {
                Action::Update { object, .. } if object["kind"] == "Node" => self.put::<Node>(object.clone()),
                Action::Patch { target, patch, .. } if target.resource.plural == "nodes" => {
                    let old = self.stores.nodes.get(&target.key).unwrap();
                    let mut value = crate::controller::json(&*old);
                    merge(&mut value, patch);
                    self.put::<Node>(value);
                }
                _ => {}
            }
        }
        plan
    }

    fn taints(&self, name: &str) -> Vec<String> {
        let node = self.stores.nodes.named("", name).unwrap();
        let mut list: Vec<String> = taints(&node)
            .iter()
            .map(|t| format!("{}:{}", t.key.rsplit('/').next().unwrap(), t.effect))
            .collect();
        list.sort();
        list
    }

    fn ready(&self, name: &str) -> String {
        ready(&self.stores.nodes.named("", name).unwrap()).to_owned()
    }
}

#[test]
fn a_silent_node_becomes_unknown_after_the_grace_period_and_comes_back() {
    let mut world = World::new();
    world.put::<Node>(node("a", "True"));
    world.put::<Node>(node("b", "True"));
    world.renew("a");
    world.renew("b");
    for _ in 0..5 {
        world.pass(3);
        world.renew("b");
        world.step("b");
    }
    // a was silent for 15 s; nobody looked at it in between.
    assert_eq!(world.ready("a"), "True");
    world.step("a");
    assert_eq!(world.ready("a"), "Unknown");
    world.step("a");
    assert_eq!(world.taints("a"), ["unreachable:NoExecute", "unreachable:NoSchedule"]);
    assert_eq!(world.taints("b"), [] as [&str; 0]);
    world.put::<Node>({
        let mut back = node("a", "True");
        back["metadata"]["resourceVersion"] = json!("9");
        back["status"]["conditions"][0]["lastHeartbeatTime"] = json!("2026-01-01T12:05:00Z");
        back["spec"] = json!({"taints": taints(&world.stores.nodes.named("", "a").unwrap())});
        back
    });
    world.step("a");
    assert_eq!(world.taints("a"), [] as [&str; 0]);
}

#[test]
fn looks_again_exactly_when_the_grace_period_ends() {
    let mut world = World::new();
    world.put::<Node>(node("a", "True"));
    world.renew("a");
    world.pass(4);
    assert_eq!(world.run("a").requeue, Some(Duration::from_secs(6)));
    world.renew("a");
    assert_eq!(world.run("a").requeue, Some(Duration::from_secs(10)));
}

#[test]
fn a_new_leader_waits_the_whole_grace_period() {
    let mut world = World::new();
    world.put::<Node>(node("a", "True"));
    world.renew("a");
    world.pass(100);
    world.controller.begin(&world.stores, world.now);
    assert_eq!(world.run("a").requeue, Some(Duration::from_secs(10)));
    assert_eq!(world.ready("a"), "True");
}

#[test]
fn all_nodes_down_evicts_nobody() {
    let mut world = World::new();
    for name in ["a", "b"] {
        world.put::<Node>(node(name, "True"));
        world.renew(name);
    }
    world.pass(11);
    world.step("a");
    world.step("a");
    // a alone is down so far: it is given up.
    assert!(world.taints("a").contains(&"unreachable:NoExecute".to_owned()));
    world.step("b");
    world.step("a");
    world.step("b");
    assert_eq!(world.taints("a"), ["unreachable:NoSchedule"]);
    assert_eq!(world.taints("b"), ["unreachable:NoSchedule"]);
}

#[test]
fn nodes_of_a_zone_are_given_up_one_by_one() {
    let mut world = World::new();
    for name in ["a", "b", "c", "d"] {
        world.put::<Node>(node(name, if name < "c" { "False" } else { "True" }));
    }
    world.step("a");
    let plan = world.step("b");
    assert_eq!(world.taints("a"), ["not-ready:NoExecute", "not-ready:NoSchedule"]);
    assert_eq!(world.taints("b"), ["not-ready:NoSchedule"]);
    assert!(plan.requeue.unwrap() <= Duration::from_secs(10));
    world.pass(10);
    world.step("b");
    // By now b itself is silent for ten seconds, too.
    world.step("b");
    assert!(world.taints("b").iter().any(|t| t.ends_with(NO_EXECUTE)));
}

#[test]
fn conditions_become_taints() {
    let check = |conditions: Value, unschedulable: bool, expect: &[&str]| {
        let world = World::new();
        let mut value = node("a", "True");
        value["status"]["conditions"].as_array_mut().unwrap().extend(conditions.as_array().unwrap().clone());
        value["spec"] = json!({"unschedulable": unschedulable});
        world.put::<Node>(value);
        world.step("a");
        assert_eq!(world.taints("a"), expect);
    };
    check(json!([]), false, &[]);
    check(json!([]), true, &["unschedulable:NoSchedule"]);
    check(json!([{"type": "MemoryPressure", "status": "True"}]), false, &["memory-pressure:NoSchedule"]);
    check(json!([{"type": "DiskPressure", "status": "True"}]), false, &["disk-pressure:NoSchedule"]);
    check(json!([{"type": "PIDPressure", "status": "False"}]), false, &[]);
    check(
        json!([{"type": "NetworkUnavailable", "status": "True"}]),
        false,
        &["network-unavailable:NoSchedule"],
    );
}

#[test]
fn taints_of_others_stay() {
    let world = World::new();
    let mut value = node("a", "True");
    value["spec"] = json!({"taints": [{"key": "dedicated", "value": "x", "effect": "NoSchedule"},
        {"key": NOT_READY, "effect": "NoSchedule"}]});
    world.put::<Node>(value);
    world.step("a");
    assert_eq!(world.taints("a"), ["dedicated:NoSchedule"]);
}

#[test]
fn pods_of_a_dead_node_stop_being_ready_with_it() {
    let mut world = World::new();
    world.put::<Node>(node("a", "True"));
    world.renew("a");
    world.put::<Pod>(json!({"metadata": crate::testing::meta("p"), "spec": {"nodeName": "a", "containers": []},
        "status": {"conditions": [{"type": "Ready", "status": "True", "lastTransitionTime": "2026-01-01T11:30:00Z"}]}}));
    world.pass(11);
    let plan = world.run("a");
    let Some(Action::Batch(list)) = plan.actions.iter().find(|a| matches!(a, Action::Batch(_))) else {
        panic!("{plan:?}")
    };
    let [Action::Patch { subresource: "status", patch, .. }] = &list[..] else { panic!("{list:?}") };
    assert_eq!(patch["status"]["conditions"][0]["status"], "False");
}
