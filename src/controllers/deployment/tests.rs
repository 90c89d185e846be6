//! Tables for single steps, and a simulation that plays deployment, ReplicaSets and kubelets in random orders.

use std::collections::HashMap;

use jiff::SignedDuration;
use k8s_openapi::api::core::v1::Pod;
use rand::{Rng, SeedableRng, rngs::StdRng, seq::IndexedRandom};
use serde_json::{Value, json};

use super::*;
use crate::{
    controller::{Answer, Question, Target},
    replicaset,
    store::Watched,
    testing::{NOON, at, load, merge, meta},
};

fn template(image: &str) -> Value {
    json!({"metadata": {"labels": {"app": "web"}}, "spec": {"containers": [{"name": "c", "image": image}]}})
}

fn deployment(image: &str, replicas: i32, extra: Value) -> Value {
    let mut value = json!({"metadata": meta("web"), "spec": {"replicas": replicas, "progressDeadlineSeconds": 600,
        "revisionHistoryLimit": 10, "selector": {"matchLabels": {"app": "web"}}, "template": template(image),
        "strategy": {"type": "RollingUpdate", "rollingUpdate": {"maxSurge": "25%", "maxUnavailable": "25%"}}}});
    merge(&mut value, &extra);
    value
}

#[test]
fn fence_posts_round_in_favour_of_availability() {
    let check = |surge: Value, unavailable: Value, replicas, expect| {
        let rolling = json!({"maxSurge": surge, "maxUnavailable": unavailable});
        let extra = json!({"spec": {"strategy": {"rollingUpdate": rolling}}});
        let d: Deployment = serde_json::from_value(deployment("a", replicas, extra)).unwrap();
        assert_eq!(fence_posts(spec(&d), replicas), expect);
    };
    check(json!("25%"), json!("25%"), 3, (1, 0));
    check(json!("25%"), json!("25%"), 10, (3, 2));
    check(json!(0), json!(0), 3, (0, 1));
    check(json!("0%"), json!("10%"), 3, (0, 1));
    check(json!(2), json!(5), 3, (2, 3));
    check(json!("100%"), json!("0%"), 4, (4, 0));
}

/// A world in which writes happen at once and everything else when the dice say so.
struct World {
    stores: Stores,
    now: Timestamp,
    version: u64,
    dice: StdRng,
    events: Vec<String>,
}

impl World {
    fn new(seed: u64) -> Self {
        let dice = StdRng::seed_from_u64(seed);
        Self { stores: Stores::default(), now: at(NOON), version: 100, dice, events: Vec::new() }
    }

    fn put<K: Watched>(&mut self, mut value: Value) {
        self.version += 1;
        value["metadata"]["resourceVersion"] = json!(self.version.to_string());
        load::<K>(&self.stores, value);
    }

    fn apply(&mut self, value: Value) {
        self.put::<Deployment>(value);
    }

    fn deployment(&self) -> Deployment {
        (*self.stores.deployments.named("ns", "web").unwrap()).clone()
    }

    /// Changes the spec as a user does.
    fn edit(&mut self, patch: &Value) {
        let mut value = json(&self.deployment());
        merge(&mut value, patch);
        value["metadata"]["generation"] = json!(value["metadata"]["generation"].as_i64().unwrap() + 1);
        self.put::<Deployment>(value);
    }

    fn sets(&self) -> Vec<Arc<ReplicaSet>> {
        self.stores.replica_sets.all()
    }

    fn answers(&self) -> HashMap<Question, Answer> {
        let mut answers = HashMap::new();
        let d = self.deployment();
        answers.insert(Question::Get(Target::of(&d)), Answer::Meta(Box::new(d.metadata)));
        for set in self.sets() {
            answers.insert(Question::Get(Target::of(&*set)), Answer::Meta(Box::new(set.metadata.clone())));
        }
        answers
    }

    fn plan(&self, of: impl Fn(&Context<'_>) -> Plan) -> Plan {
        let answers = self.answers();
        let plan = of(&Context { stores: &self.stores, now: self.now, failure: None, answers: &answers });
        assert!(plan.questions.is_empty(), "{:?}", plan.questions);
        plan
    }

    fn deploy(&mut self) -> bool {
        let d = self.deployment();
        let plan = self.plan(|c| reconcile(c, &d));
        self.perform(plan.actions)
    }

    fn replicate(&mut self, set: &ReplicaSet) -> bool {
        let plan = self.plan(|c| replicaset::reconcile(c, set));
        self.perform(plan.actions)
    }

    fn perform(&mut self, actions: Vec<Action>) -> bool {
        let mut changed = false;
        for action in actions {
            changed = true;
            match action {
                Action::Batch(list) => {
                    self.perform(list);
                }
                Action::Create { resource, object, .. } => self.create(&resource.kind, object),
                Action::Update { target, object, subresource } => self.update(&target, object, subresource),
                Action::Patch { target, patch, .. } => self.patch(&target, &patch),
                Action::Delete { target, .. } => self.delete(&target),
                Action::Event(e) => self.events.push(e.message),
                Action::DeleteCollection { .. } => panic!("never"),
            }
        }
        changed
    }

    fn create(&mut self, kind: &str, mut object: Value) {
        self.version += 1;
        if object["metadata"]["name"].is_null() {
            object["metadata"]["name"] = json!(format!("pod-{}", self.version));
        }
        object["metadata"]["uid"] = json!(format!("uid-{}", object["metadata"]["name"].as_str().unwrap()));
        object["metadata"]["generation"] = json!(1);
        object["metadata"]["creationTimestamp"] = json!(self.now);
        if kind == "ReplicaSet" {
            self.put::<ReplicaSet>(object);
        } else {
            object["status"] = json!({"phase": "Pending"});
            self.put::<Pod>(object);
        }
    }

    fn update(&mut self, target: &Target, mut object: Value, subresource: &str) {
        let current = match &*target.resource.kind {
            "Deployment" => json(&*self.stores.deployments.get(&target.key).unwrap()),
            _ => json(&*self.stores.replica_sets.get(&target.key).unwrap()),
        };
        assert_eq!(current["metadata"]["resourceVersion"], object["metadata"]["resourceVersion"], "conflict");
        if subresource.is_empty() {
            if object["spec"] != current["spec"] {
                object["metadata"]["generation"] =
                    json!(current["metadata"]["generation"].as_i64().unwrap() + 1);
            }
            object["status"] = current["status"].clone();
        }
        if object["kind"] == "Deployment" {
            self.put::<Deployment>(object)
        } else {
            self.put::<ReplicaSet>(object)
        }
    }

    fn patch(&mut self, target: &Target, patch: &Value) {
        assert_eq!(target.resource.kind, "Deployment");
        let mut value = json(&self.deployment());
        merge(&mut value, patch);
        self.put::<Deployment>(value);
    }

    fn delete(&mut self, target: &Target) {
        match &*target.resource.kind {
            "ReplicaSet" => {
                let set = self.stores.replica_sets.get(&target.key).unwrap();
                assert_eq!(wanted(&set), 0, "only empty sets are cleaned up");
                self.stores.replica_sets.remove(&set);
            }
            _ => {
                let mut pod = json(&*self.stores.pods.get(&target.key).unwrap());
                pod["metadata"]["deletionTimestamp"] = json!(self.now);
                self.put::<Pod>(pod);
            }
        }
    }

    /// A kubelet does one thing: starts a pod, or finishes one that is going.
    fn kubelet(&mut self, broken: &str) -> bool {
        let todo = |p: &&Arc<Pod>| {
            p.metadata.deletion_timestamp.is_some() || (!pods::is_ready(p) && image(p) != broken)
        };
        let all = self.stores.pods.all();
        let open: Vec<&Arc<Pod>> = all.iter().filter(todo).collect();
        let Some(pod) = open.choose(&mut self.dice).copied().cloned() else { return false };
        if pod.metadata.deletion_timestamp.is_some() {
            self.stores.pods.remove(&pod);
        } else {
            let mut value = json(&*pod);
            value["spec"]["nodeName"] = json!("n1");
            value["status"] = json!({"phase": "Running", "conditions": [
                {"type": "Ready", "status": "True", "lastTransitionTime": self.now}]});
            self.put::<Pod>(value);
        }
        true
    }

    /// Lets everybody act in random order until nobody wants to; checks at every step.
    fn settle(&mut self, broken: &str, check: impl Fn(&Self)) {
        let mut idle = 0;
        let mut steps = 0;
        while idle < 40 {
            steps += 1;
            assert!(steps < 5_000, "no fixed point: {:?}", self.events);
            let acted = match self.dice.random_range(0..3) {
                0 => self.deploy(),
                1 => match self.sets().choose(&mut self.dice).cloned() {
                    Some(set) => self.replicate(&set),
                    None => false,
                },
                _ => self.kubelet(broken),
            };
            idle = if acted { 0 } else { idle + 1 };
            self.now = self.now.checked_add(SignedDuration::from_millis(100)).unwrap();
            check(self);
        }
    }

    fn ready(&self) -> i32 {
        let up = |p: &&Arc<Pod>| pods::is_active(p) && pods::is_ready(p);
        i32::try_from(self.stores.pods.all().iter().filter(up).count()).unwrap()
    }

    fn active(&self) -> i32 {
        let count = self.stores.pods.all().iter().filter(|p| pods::is_active(p)).count();
        i32::try_from(count).unwrap()
    }

    fn images(&self) -> Vec<String> {
        let mut images: Vec<String> =
            self.stores.pods.all().iter().filter(|p| pods::is_active(p)).map(|p| image(p)).collect();
        images.sort();
        images.dedup();
        images
    }

    fn condition(&self, kind: &str) -> Option<(String, String)> {
        let status = self.deployment().status?;
        let found = status.conditions?.into_iter().find(|c| c.type_ == kind)?;
        Some((found.status, found.reason.unwrap_or_default()))
    }

    fn revision(&self) -> i64 {
        annotations::revision(&self.deployment().metadata)
    }
}

fn image(pod: &Pod) -> String {
    pod.spec.as_ref().unwrap().containers[0].image.clone().unwrap()
}

fn is(status: &str, reason: &str) -> Option<(String, String)> {
    Some((status.into(), reason.into()))
}

fn to(image: &str) -> Value {
    json!({"spec": {"template": template(image)}})
}

#[test]
fn rolling_updates_keep_their_promises_in_any_order() {
    for seed in 0..60 {
        let mut world = World::new(seed);
        let (replicas, surge, unavailable) = [(3, 1, 0), (10, 3, 2), (5, 0, 1), (4, 4, 4)][seed as usize % 4];
        let rolling = json!({"maxSurge": surge, "maxUnavailable": unavailable});
        let extra = json!({"spec": {"strategy": {"rollingUpdate": rolling}}});
        world.apply(deployment("web:1", replicas, extra));
        world.settle("", |_| {});
        assert_eq!((world.ready(), world.active()), (replicas, replicas), "seed {seed}");
        assert_eq!(world.condition("Progressing"), is("True", "NewReplicaSetAvailable"));
        assert_eq!(world.condition("Available"), is("True", "MinimumReplicasAvailable"));
        world.edit(&to("web:2"));
        world.settle("", |w| {
            assert!(w.ready() >= replicas - unavailable, "seed {seed}: {} ready, {:?}", w.ready(), w.events);
            // Pods follow what is asked for; a deletion that is asked for may lag behind a creation.
            let asked: i32 = w.sets().iter().map(|s| wanted(s)).sum();
            assert!(asked <= replicas + surge, "seed {seed}: {asked} asked for, {:?}", w.events);
        });
        assert_eq!(world.images(), ["web:2"], "seed {seed}");
        assert_eq!(world.ready(), replicas);
        assert_eq!(world.revision(), 2);
        // Back: the first template's ReplicaSet is used again, as the newest revision.
        world.edit(&to("web:1"));
        world.settle("", |_| {});
        assert_eq!((world.images(), world.revision(), world.sets().len()), (vec!["web:1".to_owned()], 3, 2));
    }
}

#[test]
fn a_broken_version_stops_the_rollout_and_can_be_taken_back() {
    for seed in 0..20 {
        let mut world = World::new(seed);
        world.apply(deployment("web:1", 4, json!({})));
        world.settle("", |_| {});
        world.edit(&to("broken"));
        world.settle("broken", |w| assert!(w.ready() >= 3, "seed {seed}"));
        assert_eq!(world.images(), ["broken", "web:1"]);
        world.now = world.now.checked_add(SignedDuration::from_secs(700)).unwrap();
        world.settle("broken", |_| {});
        assert_eq!(world.condition("Progressing"), is("False", "ProgressDeadlineExceeded"));
        world.edit(&to("web:1"));
        world.settle("broken", |w| assert!(w.ready() >= 3, "seed {seed}"));
        assert_eq!(world.images(), ["web:1"]);
        assert_eq!(world.condition("Progressing"), is("True", "NewReplicaSetAvailable"));
    }
}

#[test]
fn scaling_in_the_middle_of_a_rollout_is_proportional() {
    for seed in 0..20 {
        let mut world = World::new(seed);
        let rolling = json!({"maxSurge": 3, "maxUnavailable": 2});
        world.apply(deployment("web:1", 10, json!({"spec": {"strategy": {"rollingUpdate": rolling}}})));
        world.settle("", |_| {});
        world.edit(&to("broken"));
        world.settle("broken", |_| {});
        let sizes = |w: &World| {
            let mut sizes: Vec<i32> = w.sets().iter().map(|s| wanted(s)).collect();
            sizes.sort_unstable();
            sizes
        };
        assert_eq!(sizes(&world), [5, 8]);
        world.edit(&json!({"spec": {"replicas": 15}}));
        world.deploy();
        // 13 of 13 become 18 of 18: the larger gets the larger part.
        assert_eq!(sizes(&world), [7, 11], "{:?}", world.events);
        world.settle("", |_| {});
        assert_eq!((world.ready(), world.images()), (15, vec!["broken".to_owned()]));
    }
}

#[test]
fn a_paused_deployment_scales_but_does_not_roll() {
    let mut world = World::new(7);
    world.apply(deployment("web:1", 2, json!({})));
    world.settle("", |_| {});
    world.edit(&json!({"spec": {"paused": true}}));
    world.edit(&to("web:2"));
    world.edit(&json!({"spec": {"replicas": 4}}));
    world.settle("", |_| {});
    assert_eq!((world.ready(), world.images()), (4, vec!["web:1".to_owned()]));
    assert_eq!(world.condition("Progressing"), is("Unknown", "DeploymentPaused"));
    world.edit(&json!({"spec": {"paused": false}}));
    world.settle("", |_| {});
    assert_eq!((world.ready(), world.images()), (4, vec!["web:2".to_owned()]));
}

#[test]
fn recreate_never_runs_two_versions() {
    for seed in 0..20 {
        let mut world = World::new(seed);
        let extra = json!({"spec": {"strategy": {"type": "Recreate", "rollingUpdate": null}}});
        world.apply(deployment("web:1", 3, extra));
        world.settle("", |_| {});
        world.edit(&to("web:2"));
        world.settle("", |w| {
            let mut images: Vec<String> = w.stores.pods.all().iter().map(|p| image(p)).collect();
            images.sort();
            images.dedup();
            assert!(images.len() < 2, "seed {seed}: {images:?}");
        });
        assert_eq!((world.ready(), world.images()), (3, vec!["web:2".to_owned()]));
    }
}

#[test]
fn history_is_limited() {
    let mut world = World::new(1);
    world.apply(deployment("web:0", 1, json!({"spec": {"revisionHistoryLimit": 2}})));
    for version in 1..6 {
        world.settle("", |_| {});
        world.edit(&to(&format!("web:{version}")));
    }
    world.settle("", |_| {});
    assert_eq!(world.sets().len(), 3);
    assert_eq!(world.revision(), 6);
}

#[test]
fn scaled_to_zero_and_back() {
    let mut world = World::new(3);
    world.apply(deployment("web:1", 3, json!({})));
    world.settle("", |_| {});
    world.edit(&json!({"spec": {"replicas": 0}}));
    world.settle("", |_| {});
    assert_eq!(world.active(), 0);
    world.edit(&json!({"spec": {"replicas": 2}}));
    world.settle("", |_| {});
    assert_eq!(world.ready(), 2);
    assert!(world.events.iter().any(|e| e.starts_with("Scaled down replica set web-")), "{:?}", world.events);
}

#[test]
fn a_taken_name_changes_the_hash() {
    let mut world = World::new(5);
    world.apply(deployment("web:1", 1, json!({})));
    let d = world.deployment();
    let hash = pods::template_hash(&spec(&d).template, None);
    let name = format!("web-{hash}");
    let stranger = json!({"metadata": meta(&name), "spec": {"replicas": 0, "selector": {"matchLabels": {"a": "b"}},
        "template": template("other")}});
    world.put::<ReplicaSet>(stranger);
    world.settle("", |_| {});
    assert_eq!(world.ready(), 1);
    assert_eq!(world.deployment().status.unwrap().collision_count, Some(1));
}

#[test]
fn an_empty_selector_is_refused() {
    let mut world = World::new(9);
    world.apply(deployment("web:1", 1, json!({"spec": {"selector": {"matchLabels": null}}})));
    world.deploy();
    assert!(world.events[0].contains("selecting all pods"));
    assert_eq!(world.sets().len(), 0);
}
