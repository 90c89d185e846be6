//! What the API is told of a pod in each state.

use super::*;
use crate::pod::{
    machine::{Event, step},
    view::{Sandbox, View},
};
use k8s_openapi::api::core::v1::Pod;
use std::sync::Arc;

fn at(seconds: i64) -> Timestamp {
    Timestamp::from_second(1_700_000_000 + seconds).unwrap()
}

fn state(run: Option<Run>) -> State {
    let pod: Pod = serde_json::from_value(serde_json::json!({
        "metadata": {"name": "p", "namespace": "n", "uid": "u", "generation": 1},
        "spec": {"containers": [{"name": "c", "image": "i"}]}}))
    .unwrap();
    let mut state = State::new(Arc::new(pod), at(0));
    let sandbox = Sandbox {
        id: "s".into(),
        attempt: 0,
        ready: true,
        created_at: Some(at(0)),
        ips: vec!["10.0.0.1".into()],
    };
    let containers = run.map(|run| Instance {
        id: "x".into(),
        name: "c".into(),
        sandbox: "s".into(),
        restarts: 0,
        run,
        created_at: Some(at(0)),
        started_at: Some(at(1)),
        finished_at: None,
        exit_code: 0,
        reason: String::new(),
        message: String::new(),
        image: "i".into(),
        image_id: "sha256:i".into(),
        hash: String::new(),
    });
    let view = View { sandboxes: vec![sandbox], containers: containers.into_iter().collect() };
    step(&mut state, Event::Seen(view), at(1));
    state
}

fn holds<'a>(status: &'a PodStatus, kind: &str) -> &'a PodCondition {
    status.conditions.iter().flatten().find(|one| one.type_ == kind).unwrap()
}

#[test]
fn a_running_pod_is_ready() {
    let host = Host { ips: vec!["10.90.0.21".into()], runtime: "containerd".into() };
    let status = of(&state(Some(Run::Running)), &host, at(2));
    assert_eq!((status.phase.as_deref(), status.pod_ip.as_deref()), (Some("Running"), Some("10.0.0.1")));
    for kind in ["PodReadyToStartContainers", "Initialized", "Ready", "ContainersReady", "PodScheduled"] {
        assert_eq!(holds(&status, kind).status, "True", "{kind}");
    }
    let container = &status.container_statuses.as_ref().unwrap()[0];
    assert_eq!(container.container_id.as_deref(), Some("containerd://x"));
    assert_eq!((container.ready, container.started), (true, Some(true)));
}

#[test]
fn a_starting_pod_says_what_it_waits_for() {
    let status = of(&state(None), &Host::default(), at(2));
    assert_eq!(status.phase.as_deref(), Some("Pending"));
    let ready = holds(&status, "Ready");
    assert_eq!(ready.reason.as_deref(), Some("ContainersNotReady"));
    assert_eq!(ready.message.as_deref(), Some("containers with unready status: [c]"));
    let waiting = status.container_statuses.unwrap()[0].state.clone().unwrap().waiting.unwrap();
    assert_eq!(waiting.reason.as_deref(), Some("ContainerCreating"));
}

#[test]
fn patches_hold_only_what_changed() {
    let old = of(&state(None), &Host::default(), at(2));
    assert_eq!(patch("u", &old, &old), None);
    let new = of(&state(Some(Run::Running)), &Host::default(), at(3));
    let patch = patch("u", &old, &new).unwrap();
    let keys: Vec<&String> = patch["status"].as_object().unwrap().keys().collect();
    assert_eq!(keys, ["conditions", "containerStatuses", "phase"]);
    let ready = &patch["status"]["conditions"][0];
    assert_eq!((ready["status"].as_str(), &ready["reason"]), (Some("True"), &Value::Null));
}
