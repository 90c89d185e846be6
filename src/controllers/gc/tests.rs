//! Tables for the garbage collector.

use std::collections::HashMap;

use k8s_openapi::{
    api::{
        apps::v1::{Deployment, ReplicaSet},
        core::v1::Pod,
    },
    apimachinery::pkg::apis::meta::v1::Time,
};
use serde_json::Value;

use super::*;
use crate::{
    store::Watched,
    testing::{NOON, at, context},
};

fn meta(name: &str, owners: &[(&str, &str)]) -> ObjectMeta {
    let reference = |(kind, name): &(&str, &str)| OwnerReference {
        api_version: "apps/v1".into(),
        kind: (*kind).into(),
        name: (*name).into(),
        uid: format!("uid-{name}"),
        controller: Some(true),
        block_owner_deletion: Some(true),
    };
    ObjectMeta {
        name: Some(name.into()),
        namespace: Some("ns".into()),
        uid: Some(format!("uid-{name}")),
        resource_version: Some("7".into()),
        owner_references: (!owners.is_empty()).then(|| owners.iter().map(reference).collect()),
        ..Default::default()
    }
}

fn going(mut meta: ObjectMeta, finalizer: &str) -> ObjectMeta {
    meta.deletion_timestamp = Some(Time(at(NOON)));
    meta.finalizers = Some(vec![finalizer.into()]);
    meta
}

#[derive(Default)]
struct World {
    graph: Graph,
    live: HashMap<Question, Answer>,
}

impl World {
    fn new() -> Self {
        let mut world = Self::default();
        world.graph.know(&[
            Resource::of::<Deployment>(),
            Resource::of::<ReplicaSet>(),
            Resource::of::<Pod>(),
        ]);
        world
    }

    fn add<K: Watched>(&mut self, meta: ObjectMeta) -> Vec<String> {
        let question = Question::Get(Target { resource: Resource::of::<K>(), key: Key::of(&meta) });
        self.live.insert(question, Answer::Meta(Box::new(meta.clone())));
        let mut woken = self.graph.apply(Resource::of::<K>(), None, Some(&meta));
        woken.sort();
        woken
    }

    fn remove<K: Watched>(&mut self, meta: &ObjectMeta) -> Vec<String> {
        let question = Question::Get(Target { resource: Resource::of::<K>(), key: Key::of(meta) });
        self.live.insert(question, Answer::Absent);
        let mut woken = self.graph.apply(Resource::of::<K>(), Some(meta), None);
        woken.sort();
        woken
    }

    /// Answers questions from the live objects until there is a plan.
    fn run(&mut self, name: &str) -> Plan {
        let stores = Stores::default();
        let mut answers = HashMap::new();
        loop {
            let context = context(&stores, &answers, at(NOON));
            let plan = decide(&mut self.graph, &context, &format!("uid-{name}"), true);
            if plan.questions.is_empty() {
                return plan;
            }
            for question in plan.questions {
                let answer = self.live.get(&question).cloned().unwrap_or(Answer::Absent);
                assert!(answers.insert(question, answer).is_none(), "asked twice");
            }
        }
    }
}

fn deleted(plan: &Plan) -> Option<(String, Option<Propagation>)> {
    match &plan.actions[..] {
        [Action::Delete { target, propagation, uid: Some(_), resource_version: Some(_), .. }] => {
            Some((target.key.name.clone(), *propagation))
        }
        _ => None,
    }
}

fn patched(plan: &Plan) -> Option<&Value> {
    match &plan.actions[..] {
        [Action::Patch { patch, .. }] => Some(&patch["metadata"]),
        _ => None,
    }
}

#[test]
fn background() {
    let mut world = World::new();
    let set = meta("rs", &[]);
    world.add::<ReplicaSet>(set.clone());
    world.add::<Pod>(meta("pod", &[("ReplicaSet", "rs")]));
    assert_eq!(world.run("pod"), Plan::none());
    assert_eq!(world.remove::<ReplicaSet>(&set), ["uid-pod"]);
    assert_eq!(deleted(&world.run("pod")), Some(("pod".into(), Some(Propagation::Background))));
}

#[test]
fn an_owner_that_the_watch_has_not_shown_yet_is_asked_for() {
    let mut world = World::new();
    world.add::<Pod>(meta("pod", &[("ReplicaSet", "rs")]));
    let question =
        Question::Get(Target { resource: Resource::of::<ReplicaSet>(), key: Key::new("ns", "rs") });
    world.live.insert(question.clone(), Answer::Meta(Box::new(meta("rs", &[]))));
    assert_eq!(world.run("pod"), Plan::none());
    // The same name with another uid is another object.
    let mut other = meta("rs", &[]);
    other.uid = Some("another".into());
    world.live.insert(question.clone(), Answer::Meta(Box::new(other)));
    assert!(deleted(&world.run("pod")).is_some());
    // A server that cannot say keeps everything.
    let mut world = World::new();
    world.add::<Pod>(meta("pod", &[("ReplicaSet", "rs")]));
    world.live.insert(question, Answer::Failed("timeout".into()));
    assert_eq!(world.run("pod"), later());
}

#[test]
fn an_unknown_kind_keeps_its_dependents() {
    let mut world = World::new();
    world.add::<Pod>(meta("pod", &[("Widget", "w")]));
    assert_eq!(world.run("pod"), later());
}

#[test]
fn one_of_two_owners_gone_only_loses_the_reference() {
    let mut world = World::new();
    let gone = meta("a", &[]);
    world.add::<ReplicaSet>(gone.clone());
    world.add::<ReplicaSet>(meta("b", &[]));
    world.add::<Pod>(meta("pod", &[("ReplicaSet", "a"), ("ReplicaSet", "b")]));
    world.remove::<ReplicaSet>(&gone);
    let plan = world.run("pod");
    let references = patched(&plan).unwrap()["ownerReferences"].as_array().unwrap();
    assert_eq!(references.len(), 1);
    assert_eq!(references[0]["name"], "b");
}

#[test]
fn foreground_goes_from_the_leaves() {
    let mut world = World::new();
    world.add::<Deployment>(meta("d", &[]));
    world.add::<ReplicaSet>(meta("rs", &[("Deployment", "d")]));
    world.add::<Pod>(meta("pod", &[("ReplicaSet", "rs")]));
    let woken = world.add::<Deployment>(going(meta("d", &[]), FOREGROUND));
    assert_eq!(woken, ["uid-d", "uid-rs"]);
    assert_eq!(world.run("d"), Plan::none());
    assert_eq!(deleted(&world.run("rs")), Some(("rs".into(), Some(Propagation::Foreground))));
    let set = going(meta("rs", &[("Deployment", "d")]), FOREGROUND);
    assert_eq!(world.add::<ReplicaSet>(set.clone()), ["uid-d", "uid-pod", "uid-rs"]);
    assert_eq!(deleted(&world.run("pod")), Some(("pod".into(), Some(Propagation::Background))));
    assert_eq!(world.remove::<Pod>(&meta("pod", &[("ReplicaSet", "rs")])), ["uid-rs"]);
    assert_eq!(patched(&world.run("rs")).unwrap()["finalizers"], serde_json::json!([]));
    assert_eq!(world.remove::<ReplicaSet>(&set), ["uid-d"]);
    assert_eq!(patched(&world.run("d")).unwrap()["finalizers"], serde_json::json!([]));
}

#[test]
fn orphans_stay() {
    let mut world = World::new();
    world.add::<ReplicaSet>(meta("rs", &[]));
    let pod = meta("pod", &[("ReplicaSet", "rs")]);
    world.add::<Pod>(pod.clone());
    world.add::<ReplicaSet>(going(meta("rs", &[]), ORPHAN));
    let plan = world.run("rs");
    let [Action::Batch(list)] = &plan.actions[..] else { panic!("{plan:?}") };
    assert_eq!(list.len(), 1);
    // The pod is free: now the owner may go.
    let free = meta("pod", &[]);
    assert!(world.graph.apply(Resource::of::<Pod>(), Some(&pod), Some(&free)).contains(&"uid-rs".to_owned()));
    assert_eq!(patched(&world.run("rs")).unwrap()["finalizers"], serde_json::json!([]));
    assert_eq!(world.run("pod"), Plan::none());
}

#[test]
fn before_all_watches_delivered_nothing_is_finalized() {
    let mut world = World::new();
    world.add::<Deployment>(going(meta("d", &[]), FOREGROUND));
    let stores = Stores::default();
    let plan = decide(&mut world.graph, &context(&stores, &world.live, at(NOON)), "uid-d", false);
    assert_eq!(plan, later());
}
