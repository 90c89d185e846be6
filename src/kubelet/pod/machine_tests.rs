//! What the machine decides, step by step: an event goes in, commands come out.

use super::*;
use crate::pod::view::Sandbox;

fn at(seconds: i64) -> Timestamp {
    Timestamp::from_second(1_700_000_000 + seconds).unwrap()
}

fn pod(spec: serde_json::Value) -> Arc<Pod> {
    let value = serde_json::json!({"metadata": {"name": "p", "namespace": "n", "uid": "u"}, "spec": spec});
    Arc::new(serde_json::from_value(value).unwrap())
}

fn simple() -> Arc<Pod> {
    pod(serde_json::json!({"containers": [{"name": "c", "image": "i"}]}))
}

fn instance(name: &str, restarts: u32, run: Run, exit_code: i32, time: Timestamp) -> Instance {
    let container = Container { name: name.into(), image: Some("i".into()), ..Container::default() };
    Instance {
        id: format!("{name}-{restarts}"),
        name: name.into(),
        sandbox: "s".into(),
        restarts,
        run,
        created_at: Some(time),
        started_at: Some(time),
        finished_at: (run == Run::Exited).then_some(time),
        exit_code,
        reason: String::new(),
        message: String::new(),
        image: "i".into(),
        image_id: "sha256:i".into(),
        hash: crate::pod::container::hash(&container),
    }
}

fn view(containers: Vec<Instance>) -> View {
    let sandbox = Sandbox {
        id: "s".into(),
        attempt: 0,
        ready: true,
        created_at: Some(at(0)),
        ips: vec!["10.0.0.1".into()],
    };
    View { sandboxes: vec![sandbox], containers }
}

/// A pod whose volumes are there and of which the runtime has these containers.
fn running(pod: Arc<Pod>, containers: Vec<Instance>) -> (State, Vec<Command>) {
    let mut state = State::new(pod.clone(), at(0));
    step(&mut state, Event::Pod(pod), at(0));
    step(&mut state, Event::Seen(View::default()), at(0));
    step(&mut state, Event::Done(Slot::Volumes, Ok(()), None), at(0));
    let commands = step(&mut state, Event::Done(Slot::Sandbox, Ok(()), Some(view(containers))), at(0));
    (state, commands)
}

fn start(name: &str, restarts: u32) -> Command {
    Command::Start { name: name.into(), restarts, sandbox: "s".into() }
}

#[test]
fn sandbox_and_volumes_are_made_at_once_and_once() {
    let mut state = State::new(simple(), at(0));
    assert!(step(&mut state, Event::Pod(simple()), at(0)).is_empty());
    let commands = step(&mut state, Event::Seen(View::default()), at(0));
    assert_eq!(commands, [Command::Volumes, Command::Sandbox { attempt: 0 }]);
    assert!(step(&mut state, Event::Tick, at(1)).is_empty());
}

#[test]
fn a_container_starts_once() {
    let (mut state, commands) = running(simple(), vec![]);
    assert_eq!(commands, [start("c", 0)]);
    assert!(step(&mut state, Event::Tick, at(1)).is_empty());
}

#[test]
fn a_healthy_container_is_adopted() {
    let mut state = State::new(simple(), at(0));
    let seen = view(vec![instance("c", 3, Run::Running, 0, at(0))]);
    assert_eq!(step(&mut state, Event::Seen(seen), at(1)), [Command::Volumes]);
    assert!(step(&mut state, Event::Done(Slot::Volumes, Ok(()), None), at(1)).is_empty());
}

#[test]
fn the_first_crash_restarts_at_once_and_the_second_waits() {
    let (mut state, _) = running(simple(), vec![]);
    step(
        &mut state,
        Event::Done(
            Slot::Start("c".into()),
            Ok(()),
            Some(view(vec![instance("c", 0, Run::Running, 0, at(0))])),
        ),
        at(0),
    );
    let dead = |restarts, time| view(vec![instance("c", restarts, Run::Exited, 1, at(time))]);
    assert_eq!(step(&mut state, Event::Seen(dead(0, 1)), at(1)), [start("c", 1)]);
    step(&mut state, Event::Done(Slot::Start("c".into()), Ok(()), Some(dead(1, 2))), at(2));
    assert_eq!(state.wake, Some(at(12)));
    assert!(state.crashing.contains_key("c"));
    assert!(step(&mut state, Event::Tick, at(11)).is_empty());
    assert_eq!(step(&mut state, Event::Tick, at(12)), [start("c", 2)]);
}

#[test]
fn init_containers_come_first_in_order() {
    let spec = serde_json::json!({
        "initContainers": [{"name": "a", "image": "i"}, {"name": "b", "image": "i"}],
        "containers": [{"name": "c", "image": "i"}]});
    let check = |containers: Vec<Instance>, expect: &[Command]| {
        assert_eq!(running(pod(spec.clone()), containers).1, expect);
    };
    let done = |name: &str| instance(name, 0, Run::Exited, 0, at(0));
    check(vec![], &[start("a", 0)]);
    check(vec![instance("a", 0, Run::Running, 0, at(0))], &[]);
    check(vec![done("a")], &[start("b", 0)]);
    check(vec![done("b"), done("a")], &[start("c", 0)]);
}

#[test]
fn restart_policies_decide_the_end() {
    let check = |policy: &str, code: i32, ends: bool| {
        let pod =
            pod(serde_json::json!({"restartPolicy": policy, "containers": [{"name": "c", "image": "i"}]}));
        let (state, _) = running(pod, vec![instance("c", 0, Run::Exited, code, at(0))]);
        assert_eq!(state.ending.is_some(), ends, "{policy} {code}");
    };
    check("Always", 0, false);
    check("OnFailure", 0, true);
    check("OnFailure", 1, false);
    check("Never", 1, true);
}

#[test]
fn a_deleted_pod_is_deleted_for_good_only_when_all_is_gone() {
    let (mut state, _) = running(simple(), vec![instance("c", 0, Run::Running, 0, at(0))]);
    let mut deleted = (*simple()).clone();
    deleted.metadata.deletion_timestamp = serde_json::from_str("\"2026-01-01T00:00:00Z\"").unwrap();
    deleted.metadata.deletion_grace_period_seconds = Some(5);
    let stop = Command::Stop {
        name: "c".into(),
        id: "c-0".into(),
        grace: 5,
        message: "Stopping container c".into(),
    };
    assert_eq!(step(&mut state, Event::Pod(Arc::new(deleted)), at(1)), [stop]);
    let dead = view(vec![instance("c", 0, Run::Exited, 143, at(2))]);
    let commands = step(&mut state, Event::Done(Slot::Stop("c-0".into()), Ok(()), Some(dead.clone())), at(2));
    assert_eq!(commands, [Command::StopSandbox("s".into())]);
    let mut stopped = dead;
    stopped.sandboxes[0].ready = false;
    let commands = step(&mut state, Event::Done(Slot::StopSandbox("s".into()), Ok(()), Some(stopped)), at(3));
    assert_eq!(commands, [Command::Teardown]);
    assert_eq!(step(&mut state, Event::Done(Slot::Teardown, Ok(()), None), at(3)), [Command::Delete]);
    assert!(step(&mut state, Event::Done(Slot::Delete, Ok(()), None), at(3)).is_empty());
    assert_eq!(step(&mut state, Event::Gone, at(3)), [Command::Remove]);
    assert_eq!(step(&mut state, Event::Done(Slot::Remove, Ok(()), None), at(3)), [Command::Finished]);
}

#[test]
fn an_unhealthy_container_is_stopped_once() {
    let (mut state, _) = running(simple(), vec![instance("c", 0, Run::Running, 0, at(0))]);
    let message = "Container c failed liveness probe, will be restarted".to_owned();
    let stop = Command::Stop { name: "c".into(), id: "c-0".into(), grace: 30, message };
    assert_eq!(step(&mut state, Event::Probe("c-0".into(), Verdict::Unhealthy(None)), at(1)), [stop]);
    assert!(step(&mut state, Event::Probe("c-0".into(), Verdict::Unhealthy(None)), at(2)).is_empty());
}

#[test]
fn a_deadline_ends_the_pod() {
    let spec = serde_json::json!({"activeDeadlineSeconds": 10, "containers": [{"name": "c", "image": "i"}]});
    let (mut state, _) = running(pod(spec), vec![instance("c", 0, Run::Running, 0, at(0))]);
    assert_eq!(state.wake, Some(at(10)));
    let commands = step(&mut state, Event::Tick, at(10));
    assert!(matches!(
        &commands[..],
        [Command::Event { reason: "DeadlineExceeded", .. }, Command::Stop { .. }]
    ));
}
