//! The pod's status as the API shows it, worked out from the machine's state. Pure. Keeps true: upstream's
//! phases, condition types and reasons; a condition's transition time moves only when its status does.
//! Sending it is left to `driver`.

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::{
    api::core::v1::{
        Container, ContainerState, ContainerStateRunning, ContainerStateTerminated, ContainerStateWaiting,
        ContainerStatus, HostIP, PodCondition, PodIP, PodSpec, PodStatus,
    },
    apimachinery::pkg::apis::meta::v1::Time,
};
use serde_json::{Map, Value, json};

use super::{
    full_name, inits,
    machine::{Cause, Slot, State},
    resources::{is_sidecar, qos},
    spec,
    view::{Instance, Run},
};

/// What a status needs to know about the node.
#[derive(Debug, Clone, Default)]
pub struct Host {
    /// The node's addresses.
    pub ips: Vec<String>,
    /// The runtime's name, for container ids.
    pub runtime: String,
}

/// The pod's status now.
#[must_use]
pub fn of(state: &State, host: &Host, now: Timestamp) -> PodStatus {
    let spec = spec(&state.pod);
    let old = state.pod.status.clone().unwrap_or_default();
    let initialized = is_initialized(state, &spec);
    let start = old.start_time.clone().unwrap_or(Time(whole_seconds(state.since)));
    let pod_ips = ips(state, &spec, host);
    let waiting = if initialized { "ContainerCreating" } else { "PodInitializing" };
    let init_statuses: Vec<_> =
        inits(&spec).iter().map(|one| container(state, host, one, "PodInitializing", true)).collect();
    let statuses: Vec<_> =
        spec.containers.iter().map(|one| container(state, host, one, waiting, false)).collect();
    let phase = phase(state, &spec, &init_statuses, &statuses, &old);
    let failure = match state.ending.as_ref().map(|ending| &ending.cause) {
        Some(Cause::Failed(failure)) => Some(failure),
        _ => None,
    };
    let mut status = PodStatus {
        conditions: None,
        container_statuses: Some(statuses),
        init_container_statuses: (!init_statuses.is_empty()).then_some(init_statuses),
        host_ip: host.ips.first().cloned(),
        host_ips: Some(host.ips.iter().map(|ip| HostIP { ip: ip.clone() }).collect()),
        message: failure.map(|failure| failure.message.clone()).or(old.message.clone()),
        reason: failure.map(|failure| failure.reason.clone()).or(old.reason.clone()),
        observed_generation: state.pod.metadata.generation,
        phase: Some(phase.to_owned()),
        pod_ip: pod_ips.first().map(|one| one.ip.clone()),
        pod_ips: (!pod_ips.is_empty()).then_some(pod_ips),
        qos_class: old.qos_class.clone().or(Some(qos(&spec).name().to_owned())),
        start_time: Some(start),
        ..old.clone()
    };
    status.conditions = Some(conditions(state, &spec, &status, &old, initialized, now));
    status
}

fn whole_seconds(time: Timestamp) -> Timestamp {
    Timestamp::from_second(time.as_second()).unwrap_or(time)
}

fn ips(state: &State, spec: &PodSpec, host: &Host) -> Vec<PodIP> {
    let own = match (spec.host_network, state.view.sandbox()) {
        (Some(true), Some(_)) => host.ips.clone(),
        (Some(true), None) | (_, None) => Vec::new(),
        (_, Some(sandbox)) => sandbox.ips.clone(),
    };
    if own.is_empty() && (state.ending.is_some() || !state.seen) {
        return state.pod.status.as_ref().and_then(|status| status.pod_ips.clone()).unwrap_or_default();
    }
    own.into_iter().map(|ip| PodIP { ip }).collect()
}

fn is_initialized(state: &State, spec: &PodSpec) -> bool {
    let main_exists = spec.containers.iter().any(|one| state.view.newest(&one.name).is_some());
    main_exists
        || inits(spec).iter().all(|init| {
            let newest = state.view.newest(&init.name);
            newest.is_some_and(|one| match is_sidecar(init) {
                true => state.health_of(init, one).started,
                false => one.run == Run::Exited && one.exit_code == 0,
            })
        })
}

fn container(
    state: &State,
    host: &Host,
    container: &Container,
    waiting: &str,
    init: bool,
) -> ContainerStatus {
    let instances: Vec<&Instance> = state.view.of(&container.name).collect();
    let starting = state.is_busy(&Slot::Start(container.name.clone()));
    let newest = instances.first().copied();
    let visible = newest.filter(|one| one.run != Run::Created && !(starting && one.run == Run::Running));
    let (current, last) = match visible {
        Some(one) => present(state, host, container, one, &instances[1..]),
        None if newest.is_none() => absent(state, host, container, waiting),
        None => {
            let last = instances.get(1).map(|one| terminated(host, one));
            (pending(state, container, waiting), last)
        }
    };
    let health = newest.map(|one| state.health_of(container, one)).unwrap_or_default();
    let done = newest.is_some_and(|one| one.run == Run::Exited && one.exit_code == 0);
    let ready = if init && !is_sidecar(container) { done } else { health.ready };
    let prior = prior(state, &container.name);
    let image = newest
        .map(|one| one.image.clone())
        .filter(|image| !image.is_empty() && !image.starts_with("sha256:"));
    ContainerStatus {
        name: container.name.clone(),
        state: Some(current),
        last_state: Some(last.unwrap_or_default()),
        ready,
        started: Some(health.started),
        restart_count: newest.map_or_else(
            || prior.as_ref().map_or(0, |prior| prior.restart_count),
            |one| i32::try_from(one.restarts).unwrap_or(i32::MAX),
        ),
        image: image.or(container.image.clone()).unwrap_or_default(),
        image_id: newest.map(|one| one.image_id.clone()).unwrap_or_default(),
        container_id: newest.map(|one| format!("{}://{}", host.runtime, one.id)),
        resources: container.resources.clone(),
        ..ContainerStatus::default()
    }
}

fn prior(state: &State, name: &str) -> Option<ContainerStatus> {
    let status = state.pod.status.as_ref()?;
    let all =
        status.container_statuses.iter().flatten().chain(status.init_container_statuses.iter().flatten());
    all.into_iter().find(|one| one.name == name).cloned()
}

/// The state of a container that ran or runs: while it waits for its restart, its end is the last state.
fn present(
    state: &State,
    host: &Host,
    container: &Container,
    newest: &Instance,
    older: &[&Instance],
) -> (ContainerState, Option<ContainerState>) {
    let last = older.iter().find(|one| one.run == Run::Exited).map(|one| terminated(host, one));
    if newest.run != Run::Exited {
        let started_at = newest.started_at.map(|time| Time(whole_seconds(time)));
        let running = ContainerStateRunning { started_at };
        return (ContainerState { running: Some(running), ..ContainerState::default() }, last);
    }
    let waits = state.crashing.contains_key(&container.name) || state.retries.contains_key(&container.name);
    if waits && state.ending.is_none() {
        return (pending(state, container, "ContainerCreating"), Some(terminated(host, newest)));
    }
    (terminated(host, newest), last)
}

/// The state of a container of which the runtime has nothing: what the API knew of it if the pod is ending.
fn absent(
    state: &State,
    host: &Host,
    container: &Container,
    waiting: &str,
) -> (ContainerState, Option<ContainerState>) {
    let prior = prior(state, &container.name);
    let known = prior.as_ref().and_then(|prior| prior.state.clone()).unwrap_or_default();
    let last = prior.as_ref().and_then(|prior| prior.last_state.clone());
    if known.terminated.is_some() && state.ending.is_some() {
        return (known, last);
    }
    if known.running.is_some() && state.seen && state.ending.is_some() {
        let id = prior.and_then(|prior| prior.container_id);
        let message = "The container could not be located when the pod was terminated".to_owned();
        let lost = ContainerStateTerminated {
            exit_code: 137,
            reason: Some("ContainerStatusUnknown".into()),
            message: Some(message),
            container_id: id.filter(|id| id.starts_with(&host.runtime)),
            ..ContainerStateTerminated::default()
        };
        return (ContainerState { terminated: Some(lost), ..ContainerState::default() }, last);
    }
    (pending(state, container, waiting), last)
}

fn pending(state: &State, container: &Container, waiting: &str) -> ContainerState {
    let (reason, message) = match (state.retries.get(&container.name), state.crashing.get(&container.name)) {
        (Some(retry), _)
            if retry.failure.reason == "ErrImagePull" && retry_is_old(state, &container.name) =>
        {
            let image = container.image.as_deref().unwrap_or_default();
            let text = format!("Back-off pulling image \"{image}\": ErrImagePull: {}", retry.failure.message);
            ("ImagePullBackOff".to_owned(), Some(text))
        }
        (Some(retry), _) => (retry.failure.reason.clone(), Some(retry.failure.message.clone())),
        (None, Some((_, delay))) => {
            ("CrashLoopBackOff".to_owned(), Some(crash_text(state, container, *delay)))
        }
        (None, None) => (waiting.to_owned(), None),
    };
    let waiting = ContainerStateWaiting { reason: Some(reason), message };
    ContainerState { waiting: Some(waiting), ..ContainerState::default() }
}

/// The error itself is shown once; as soon as the API server has it, the back-off is shown.
fn retry_is_old(state: &State, name: &str) -> bool {
    let shown = prior(state, name).and_then(|prior| prior.state).and_then(|shown| shown.waiting);
    let reason = shown.and_then(|waiting| waiting.reason);
    matches!(reason.as_deref(), Some("ErrImagePull" | "ImagePullBackOff"))
}

fn crash_text(state: &State, container: &Container, delay: SignedDuration) -> String {
    let seconds = delay.as_secs();
    let delay = match (seconds / 60, seconds % 60) {
        (0, seconds) => format!("{seconds}s"),
        (minutes, seconds) => format!("{minutes}m{seconds}s"),
    };
    format!("back-off {delay} restarting failed container={} pod={}", container.name, full_name(&state.pod))
}

fn terminated(host: &Host, one: &Instance) -> ContainerState {
    let reason = match one.reason.as_str() {
        "" if one.exit_code == 0 => "Completed",
        "" => "Error",
        reason => reason,
    };
    let ended = ContainerStateTerminated {
        container_id: Some(format!("{}://{}", host.runtime, one.id)),
        exit_code: one.exit_code,
        finished_at: one.finished_at.map(|time| Time(whole_seconds(time))),
        message: (!one.message.is_empty()).then(|| one.message.clone()),
        reason: Some(reason.to_owned()),
        signal: None,
        started_at: one.started_at.map(|time| Time(whole_seconds(time))),
    };
    ContainerState { terminated: Some(ended), ..ContainerState::default() }
}

fn phase(
    state: &State,
    spec: &PodSpec,
    inits: &[ContainerStatus],
    mains: &[ContainerStatus],
    old: &PodStatus,
) -> &'static str {
    match old.phase.as_deref() {
        Some("Failed") => return "Failed",
        Some("Succeeded") => return "Succeeded",
        _ => {}
    }
    let cause = state.ending.as_ref().map(|ending| &ending.cause);
    if matches!(cause, Some(Cause::Failed(_))) {
        return "Failed";
    }
    let exit = |one: &ContainerStatus| {
        one.state.as_ref().and_then(|state| state.terminated.as_ref()).map(|ended| ended.exit_code)
    };
    let started = |one: &ContainerStatus| {
        one.container_id.is_some() && one.state.as_ref().is_some_and(|state| state.waiting.is_none())
            || one.last_state.as_ref().is_some_and(|last| last.terminated.is_some())
    };
    let over = matches!(cause, Some(Cause::Completed)) || (cause.is_some() && state.is_dead());
    if over && mains.iter().all(|one| exit(one).is_some()) {
        return if mains.iter().all(|one| exit(one) == Some(0)) { "Succeeded" } else { "Failed" };
    }
    let failed_init = inits
        .iter()
        .zip(super::inits(spec))
        .any(|(status, init)| !is_sidecar(init) && exit(status).is_some_and(|code| code != 0));
    if matches!(cause, Some(Cause::Completed)) && failed_init {
        return "Failed";
    }
    if mains.iter().all(started) { "Running" } else { "Pending" }
}

fn conditions(
    state: &State,
    spec: &PodSpec,
    status: &PodStatus,
    old: &PodStatus,
    initialized: bool,
    now: Timestamp,
) -> Vec<PodCondition> {
    let terminal = matches!(status.phase.as_deref(), Some("Succeeded" | "Failed"));
    let succeeded = status.phase.as_deref() == Some("Succeeded");
    let completed = succeeded.then(|| ("PodCompleted", String::new()));
    let unready: Vec<&str> = unready(status);
    let not_ready = (!unready.is_empty() || terminal).then(|| {
        let text = format!("containers with unready status: [{}]", unready.join(" "));
        completed.clone().unwrap_or(if terminal {
            ("PodFailed", String::new())
        } else {
            ("ContainersNotReady", text)
        })
    });
    let uninitialized = (!initialized && !succeeded).then(|| {
        let names = incomplete(state, spec);
        ("ContainersNotInitialized", format!("containers with incomplete status: [{}]", names.join(" ")))
    });
    let gate = gates(spec, old);
    let network = state.view.ready_sandbox().is_some() && !state.torn_down;
    let failed_setup = (!network).then(|| ("", String::new()));
    let list = [
        ("PodReadyToStartContainers", failed_setup),
        ("Initialized", uninitialized),
        ("Ready", not_ready.clone().or(gate)),
        ("ContainersReady", not_ready),
        ("PodScheduled", None),
    ];
    let mut result: Vec<PodCondition> =
        list.into_iter().map(|(kind, trouble)| condition(state, old, kind, trouble, now)).collect();
    let foreign = old.conditions.iter().flatten();
    let own = result.len();
    for one in foreign {
        if !result[..own].iter().any(|known| known.type_ == one.type_) {
            result.push(one.clone());
        }
    }
    result
}

fn unready(status: &PodStatus) -> Vec<&str> {
    let all = status.container_statuses.iter().flatten();
    all.filter(|one| !one.ready).map(|one| one.name.as_str()).collect()
}

fn incomplete<'a>(state: &State, spec: &'a PodSpec) -> Vec<&'a str> {
    let done = |init: &&Container| {
        let newest = state.view.newest(&init.name);
        !newest.is_some_and(|one| one.run == Run::Exited && one.exit_code == 0)
    };
    inits(spec).iter().filter(done).map(|init| init.name.as_str()).collect()
}

fn gates(spec: &PodSpec, old: &PodStatus) -> Option<(&'static str, String)> {
    let holds =
        |kind: &str| old.conditions.iter().flatten().any(|one| one.type_ == kind && one.status == "True");
    let closed = spec.readiness_gates.iter().flatten().find(|gate| !holds(&gate.condition_type))?;
    let kind = &closed.condition_type;
    let text = if old.conditions.iter().flatten().any(|one| one.type_ == *kind) {
        format!("the status of pod readiness gate \"{kind}\" is not \"True\", but False")
    } else {
        format!("corresponding condition of pod readiness gate \"{kind}\" does not exist.")
    };
    Some(("ReadinessGatesNotReady", text))
}

fn condition(
    state: &State,
    old: &PodStatus,
    kind: &str,
    trouble: Option<(&'static str, String)>,
    now: Timestamp,
) -> PodCondition {
    let status = if trouble.is_some() { "False" } else { "True" };
    let known = old.conditions.iter().flatten().find(|one| one.type_ == kind);
    let same = known.filter(|one| one.status == status).and_then(|one| one.last_transition_time.clone());
    let (reason, message) = trouble.unwrap_or_default();
    PodCondition {
        type_: kind.to_owned(),
        status: status.to_owned(),
        last_transition_time: Some(same.unwrap_or(Time(whole_seconds(now)))),
        last_probe_time: None,
        reason: (!reason.is_empty()).then(|| reason.to_owned()),
        message: (!message.is_empty()).then_some(message),
        observed_generation: state.pod.metadata.generation,
    }
}

/// The strategic-merge patch from one status to another; `None` when nothing differs. Only what changed is
/// sent, so it never conflicts with what others write into the status.
#[must_use]
pub fn patch(uid: &str, old: &PodStatus, new: &PodStatus) -> Option<Value> {
    let (old, new) = (fields(old), fields(new));
    let mut changed = Map::new();
    for (key, value) in &new {
        if old.get(key) == Some(value) {
            continue;
        }
        let value = match key.as_str() {
            "conditions" => changed_conditions(old.get(key), value),
            "podIPs" | "hostIPs" if old.contains_key(key) => replaced(value),
            _ => value.clone(),
        };
        changed.insert(key.clone(), value);
    }
    for key in old.keys().filter(|key| !new.contains_key(*key)) {
        changed.insert(key.clone(), Value::Null);
    }
    (!changed.is_empty()).then(|| json!({"metadata": {"uid": uid}, "status": changed}))
}

fn fields(status: &PodStatus) -> Map<String, Value> {
    match serde_json::to_value(status) {
        Ok(Value::Object(fields)) => fields,
        _ => Map::new(),
    }
}

/// Conditions merge by type: one that lost its reason or message must say so.
fn changed_conditions(old: Option<&Value>, new: &Value) -> Value {
    let list = |value: Option<&Value>| value.and_then(Value::as_array).cloned().unwrap_or_default();
    let old = list(old);
    let changed = list(Some(new)).into_iter().filter(|one| !old.contains(one));
    let with_nulls = changed.map(|mut one| {
        let before = old.iter().find(|before| before["type"] == one["type"]);
        for key in ["reason", "message"] {
            if before.is_some_and(|before| before.get(key).is_some()) && one.get(key).is_none() {
                one[key] = Value::Null;
            }
        }
        one
    });
    Value::Array(with_nulls.collect())
}

fn replaced(value: &Value) -> Value {
    let mut list = vec![json!({"$patch": "replace"})];
    list.extend(value.as_array().into_iter().flatten().cloned());
    Value::Array(list)
}

#[cfg(test)]
#[path = "status_tests.rs"]
mod tests;
