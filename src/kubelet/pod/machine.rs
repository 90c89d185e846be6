//! What to do next for one pod: `step(state, event, now) → commands`, without I/O or clock. Keeps true:
//! a container is started only in a ready sandbox with its volumes there, never twice at once; a healthy
//! container is never restarted; the final delete is asked for only when every process is dead and the
//! volumes are gone. Performing commands is left to `driver`, wording the status to `status`.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::{Container, Pod, PodSpec};

pub use super::terms::{Cause, Command, Ending, Event, Failure, Health, Retry, Slot, Verdict};
use super::{
    full_name, inits,
    resources::is_sidecar,
    spec,
    view::{Instance, Run, View},
};

mod ending;

use ending::begin_end;

const CRASH_FIRST: SignedDuration = SignedDuration::from_secs(10);
const CRASH_MOST: SignedDuration = SignedDuration::from_secs(300);
/// A container that ran this long is no longer crashing.
const CRASH_RESET: SignedDuration = SignedDuration::from_secs(600);
const RETRY_FIRST: SignedDuration = SignedDuration::from_millis(500);
const RETRY_MOST: SignedDuration = SignedDuration::from_secs(20);

#[derive(Debug, Clone)]
struct Crash {
    delay: SignedDuration,
    updated: Timestamp,
}

/// Everything that decides about a pod.
#[derive(Debug, Clone)]
pub struct State {
    /// The API object.
    pub pod: Arc<Pod>,
    /// The runtime's view.
    pub view: View,
    /// Whether the runtime has been looked at since this process started.
    pub seen: bool,
    /// Health by container instance id.
    pub health: BTreeMap<String, Health>,
    /// Failed starts by container name.
    pub retries: BTreeMap<String, Retry>,
    /// Containers that wait for their crash back-off, until when and how long it is.
    pub crashing: BTreeMap<String, (Timestamp, SignedDuration)>,
    /// The pod on its way out.
    pub ending: Option<Ending>,
    /// When the machine took the pod up.
    pub since: Timestamp,
    /// When to step again at the latest.
    pub wake: Option<Timestamp>,
    /// Volumes are set up.
    pub volumes: bool,
    /// Volumes and cgroups are gone.
    pub torn_down: bool,
    volume_retry: Option<Retry>,
    sandbox_retry: Option<Retry>,
    teardown_retry: Option<Retry>,
    crashes: BTreeMap<String, Crash>,
    graces: BTreeMap<String, i64>,
    busy: BTreeSet<Slot>,
    gone: bool,
    deleted: bool,
    removed: bool,
}

impl State {
    /// A pod that has just been seen.
    #[must_use]
    pub fn new(pod: Arc<Pod>, now: Timestamp) -> Self {
        Self {
            pod,
            view: View::default(),
            seen: false,
            health: BTreeMap::new(),
            retries: BTreeMap::new(),
            crashing: BTreeMap::new(),
            ending: None,
            since: now,
            wake: None,
            volumes: false,
            torn_down: false,
            volume_retry: None,
            sandbox_retry: None,
            teardown_retry: None,
            crashes: BTreeMap::new(),
            graces: BTreeMap::new(),
            busy: BTreeSet::new(),
            gone: false,
            deleted: false,
            removed: false,
        }
    }

    /// Whether this work is under way.
    #[must_use]
    pub fn is_busy(&self, slot: &Slot) -> bool {
        self.busy.contains(slot)
    }

    /// Whether no process of the pod is alive and none can be started any more.
    #[must_use]
    pub fn is_dead(&self) -> bool {
        let starting = self.busy.iter().any(|slot| matches!(slot, Slot::Start(_) | Slot::Sandbox));
        self.ending.is_some() && self.seen && !starting && self.view.alive().next().is_none()
    }

    /// Whether the final delete is under way or done: there is nobody to report to any more.
    #[must_use]
    pub fn is_deleting(&self) -> bool {
        self.deleted || self.gone || self.busy.contains(&Slot::Delete)
    }

    /// A container's health; one without a startup probe counts as started while it runs.
    #[must_use]
    pub fn health_of(&self, container: &Container, instance: &Instance) -> Health {
        let known = self.health.get(&instance.id).copied().unwrap_or_default();
        let running = instance.run == Run::Running && !self.is_busy(&Slot::Start(instance.name.clone()));
        let started = running && (container.startup_probe.is_none() || known.started);
        Health { started, ready: started && (container.readiness_probe.is_none() || known.ready) }
    }

    fn wake_at(&mut self, time: Timestamp) {
        self.wake = Some(self.wake.map_or(time, |wake| wake.min(time)));
    }

    fn due(&mut self, retry: &Option<Retry>, now: Timestamp) -> bool {
        match retry {
            Some(retry) if retry.until > now => {
                self.wake_at(retry.until);
                false
            }
            _ => true,
        }
    }
}

fn after(previous: Option<&Retry>, failure: Failure, now: Timestamp) -> Retry {
    let image = failure.reason == "ErrImagePull";
    let (first, most) = if image { (CRASH_FIRST, CRASH_MOST) } else { (RETRY_FIRST, RETRY_MOST) };
    let delay = previous.map_or(first, |previous| (previous.delay * 2).clamp(first, most));
    Retry { failure, until: now + delay, delay }
}

/// Takes an event in and says what to do now.
pub fn step(state: &mut State, event: Event, now: Timestamp) -> Vec<Command> {
    let mut out = Vec::new();
    take_in(state, event, now, &mut out);
    state.wake = None;
    if !state.seen {
        return out;
    }
    if state.ending.is_none() {
        run(state, now, &mut out);
    }
    if state.ending.is_some() {
        ending::end(state, now, &mut out);
    }
    out
}

fn take_in(state: &mut State, event: Event, now: Timestamp, out: &mut Vec<Command>) {
    match event {
        Event::Pod(pod) => {
            state.pod = pod;
            let grace = state.pod.metadata.deletion_grace_period_seconds;
            if state.pod.metadata.deletion_timestamp.is_some() {
                begin_end(state, Cause::Deleted, grace, now);
            }
        }
        Event::Gone => {
            state.gone = true;
            begin_end(state, Cause::Gone, state.pod.metadata.deletion_grace_period_seconds, now);
        }
        Event::Reject(failure) => begin_end(state, Cause::Failed(failure), None, now),
        Event::Seen(view) => see(state, view),
        Event::Done(slot, result, view) => done(state, slot, result, view, now),
        Event::Probe(id, verdict) => probed(state, &id, verdict, out),
        Event::Tick => {}
    }
}

fn see(state: &mut State, view: View) {
    state.view = view;
    if !state.seen {
        state.seen = true;
        seed_health(state);
    }
    state.health.retain(|id, _| state.view.containers.iter().any(|instance| instance.id == *id));
}

/// After a restart of the kubelet, a container that the API server knows as ready stays so until its probe
/// says otherwise: a new kubelet must not take endpoints away.
fn seed_health(state: &mut State) {
    let status = state.pod.status.clone().unwrap_or_default();
    let known = status.container_statuses.into_iter().flatten();
    for known in known.chain(status.init_container_statuses.into_iter().flatten()) {
        let id = known.container_id.unwrap_or_default();
        let id = id.split_once("://").map_or("", |(_, id)| id).to_owned();
        let health = Health { started: known.started == Some(true), ready: known.ready };
        state.health.insert(id, health);
    }
}

fn done(state: &mut State, slot: Slot, result: Result<(), Failure>, view: Option<View>, now: Timestamp) {
    if let Some(view) = view {
        see(state, view);
    }
    state.busy.remove(&slot);
    let failure = result.err();
    match slot {
        Slot::Volumes => {
            state.volumes = failure.is_none();
            state.volume_retry = failure.map(|failure| after(state.volume_retry.as_ref(), failure, now));
        }
        Slot::Sandbox => {
            state.sandbox_retry = failure.map(|failure| after(state.sandbox_retry.as_ref(), failure, now));
        }
        Slot::Start(name) => match failure {
            Some(failure) => {
                let retry = after(state.retries.get(&name), failure, now);
                state.retries.insert(name, retry);
            }
            None => drop(state.retries.remove(&name)),
        },
        Slot::Stop(id) => drop(state.graces.remove(&id)),
        Slot::StopSandbox(_) => {
            state.teardown_retry = failure.map(|failure| after(state.teardown_retry.as_ref(), failure, now));
        }
        Slot::Teardown => {
            state.torn_down = failure.is_none();
            state.teardown_retry = failure.map(|failure| after(state.teardown_retry.as_ref(), failure, now));
        }
        Slot::Delete => {
            state.deleted = failure.is_none();
            state.teardown_retry = failure.map(|failure| after(state.teardown_retry.as_ref(), failure, now));
        }
        Slot::Remove => state.removed = true,
    }
}

fn probed(state: &mut State, id: &str, verdict: Verdict, out: &mut Vec<Command>) {
    let Some(instance) = state.view.containers.iter().find(|instance| instance.id == id).cloned() else {
        return;
    };
    let health = state.health.entry(id.to_owned()).or_default();
    let (what, grace) = match verdict {
        Verdict::Started => return health.started = true,
        Verdict::Ready(ready) => return health.ready = ready,
        Verdict::Unhealthy(grace) => ("liveness", grace),
        Verdict::NeverStarted(grace) => ("startup", grace),
    };
    if instance.run == Run::Running && state.ending.is_none() {
        let of_pod = spec(&state.pod).termination_grace_period_seconds.unwrap_or(30);
        let message = format!("Container {} failed {what} probe, will be restarted", instance.name);
        stop(state, &instance, grace.unwrap_or(of_pod).max(1), message, out);
    }
}

fn stop(state: &mut State, instance: &Instance, grace: i64, message: String, out: &mut Vec<Command>) {
    let shorter = state.graces.get(&instance.id).is_none_or(|current| grace < *current);
    if shorter {
        state.graces.insert(instance.id.clone(), grace);
        state.busy.insert(Slot::Stop(instance.id.clone()));
        let (name, id) = (instance.name.clone(), instance.id.clone());
        out.push(Command::Stop { name, id, grace, message });
    }
}

fn begin(state: &mut State, slot: Slot, command: Command, out: &mut Vec<Command>) {
    if state.busy.insert(slot) {
        out.push(command);
    }
}

// ---- a pod that should run

fn run(state: &mut State, now: Timestamp, out: &mut Vec<Command>) {
    let pod = state.pod.clone();
    let spec = spec(&pod);
    if let Some(failure) = overdue(state, &spec, now) {
        let message = failure.message.clone();
        out.push(Command::Event { warning: false, reason: "DeadlineExceeded", message });
        return begin_end(state, Cause::Failed(failure), None, now);
    }
    if is_complete(state, &spec) {
        return begin_end(state, Cause::Completed, None, now);
    }
    let retry = state.volume_retry.clone();
    if !state.volumes && state.due(&retry, now) {
        begin(state, Slot::Volumes, Command::Volumes, out);
    }
    let Some(sandbox) = state.view.ready_sandbox().map(|sandbox| sandbox.id.clone()) else {
        return need_sandbox(state, now, out);
    };
    if !state.volumes {
        return;
    }
    if run_inits(state, &spec, &sandbox, now, out) {
        for container in &spec.containers {
            keep_running(state, &spec, container, &sandbox, now, out);
        }
    }
    forget_old(state, &spec, out);
}

fn overdue(state: &mut State, spec: &PodSpec, now: Timestamp) -> Option<Failure> {
    let limit = SignedDuration::from_secs(spec.active_deadline_seconds?);
    let status = state.pod.status.as_ref();
    let start = status.and_then(|status| status.start_time.as_ref()).map_or(state.since, |time| time.0);
    let deadline = start + limit;
    if deadline > now {
        state.wake_at(deadline);
        return None;
    }
    let message = "Pod was active on the node longer than the specified deadline".to_owned();
    Some(Failure { reason: "DeadlineExceeded".into(), message })
}

/// Whether a dead container of this exit code is started again.
fn restarts(spec: &PodSpec, container: &Container, init: bool, exit_code: i32) -> bool {
    let of_pod = spec.restart_policy.as_deref().unwrap_or("Always");
    let policy = match container.restart_policy.as_deref() {
        Some(own) => own,
        None if init && of_pod == "Always" => "OnFailure",
        None => of_pod,
    };
    match policy {
        "Always" => true,
        "OnFailure" => exit_code != 0,
        _ => false,
    }
}

/// Whether the pod has run to its end: every container is dead for good, or an init container is.
fn is_complete(state: &State, spec: &PodSpec) -> bool {
    let failed_init = |init: &Container| {
        let newest = state.view.newest(&init.name);
        newest.is_some_and(|one| {
            one.run == Run::Exited && one.exit_code != 0 && !restarts(spec, init, true, one.exit_code)
        })
    };
    let over = |container: &Container| {
        let newest = state.view.newest(&container.name);
        newest.is_some_and(|one| one.run == Run::Exited && !restarts(spec, container, false, one.exit_code))
    };
    let phase = state.pod.status.as_ref().and_then(|status| status.phase.as_deref());
    inits(spec).iter().any(failed_init)
        || (!spec.containers.is_empty() && spec.containers.iter().all(over))
        || matches!(phase, Some("Succeeded" | "Failed"))
}

fn need_sandbox(state: &mut State, now: Timestamp, out: &mut Vec<Command>) {
    let alive: Vec<Instance> = state.view.alive().cloned().collect();
    for instance in &alive {
        stop(state, instance, 1, "Pod sandbox changed, it will be killed and re-created.".into(), out);
    }
    let retry = state.sandbox_retry.clone();
    if !alive.is_empty() || !state.due(&retry, now) || state.busy.contains(&Slot::Sandbox) {
        return;
    }
    let attempt = state.view.sandbox().map(|sandbox| (sandbox.attempt + 1, sandbox.id.clone()));
    if let Some((_, old)) = &attempt {
        if state.sandbox_retry.is_none() {
            let message = "Pod sandbox changed, it will be killed and re-created.".to_owned();
            out.push(Command::Event { warning: false, reason: "SandboxChanged", message });
        }
        begin(state, Slot::StopSandbox(old.clone()), Command::StopSandbox(old.clone()), out);
    }
    let attempt = attempt.map_or(0, |(attempt, _)| attempt);
    begin(state, Slot::Sandbox, Command::Sandbox { attempt }, out);
}

/// Starts init containers in their order; true when the containers' turn has come.
fn run_inits(
    state: &mut State,
    spec: &PodSpec,
    sandbox: &str,
    now: Timestamp,
    out: &mut Vec<Command>,
) -> bool {
    let here =
        |one: &Instance| one.sandbox == sandbox && spec.containers.iter().any(|main| main.name == one.name);
    let past = state.view.containers.iter().any(here);
    for init in inits(spec) {
        let newest = state.view.newest(&init.name).filter(|one| one.sandbox == sandbox).cloned();
        if is_sidecar(init) {
            keep_running(state, spec, init, sandbox, now, out);
            if !past && !newest.is_some_and(|one| state.health_of(init, &one).started) {
                return false;
            }
            continue;
        }
        if past {
            continue;
        }
        match newest {
            Some(one) if one.run == Run::Exited && one.exit_code == 0 => {}
            Some(one) if one.run == Run::Running => return false,
            _ => {
                keep_running(state, spec, init, sandbox, now, out);
                return false;
            }
        }
    }
    true
}

/// Starts a container that should run and does not.
fn keep_running(
    state: &mut State,
    spec: &PodSpec,
    container: &Container,
    sandbox: &str,
    now: Timestamp,
    out: &mut Vec<Command>,
) {
    let slot = Slot::Start(container.name.clone());
    let retry = state.retries.get(&container.name).cloned();
    if state.busy.contains(&slot) || !state.due(&retry, now) {
        return;
    }
    let newest = state.view.newest(&container.name).cloned();
    let is_init = inits(spec).iter().any(|init| init.name == container.name);
    if let Some(instance) = &newest {
        match instance.run {
            Run::Running if instance.sandbox == sandbox => return changed(state, container, instance, out),
            Run::Running | Run::Unknown => return stop(state, instance, 1, String::new(), out),
            Run::Exited if !restarts(spec, container, is_init, instance.exit_code) => return,
            Run::Exited
                if instance.sandbox == sandbox && !may_restart(state, container, instance, now, out) =>
            {
                return;
            }
            Run::Exited | Run::Created => {}
        }
    }
    let restarts =
        newest.map_or(0, |one| if one.run == Run::Created { one.restarts } else { one.restarts + 1 });
    let (name, sandbox) = (container.name.clone(), sandbox.to_owned());
    begin(state, slot, Command::Start { name, restarts, sandbox }, out);
}

fn changed(state: &mut State, container: &Container, instance: &Instance, out: &mut Vec<Command>) {
    if instance.hash != super::container::hash(container) {
        let grace = spec(&state.pod).termination_grace_period_seconds.unwrap_or(30).max(1);
        let message = format!("Container {} definition changed, will be restarted", container.name);
        stop(state, instance, grace, message, out);
    }
}

/// The crash back-off: the first restart at once, then 10 s doubling to 5 min, forgotten after 10 min.
fn may_restart(
    state: &mut State,
    container: &Container,
    instance: &Instance,
    now: Timestamp,
    out: &mut Vec<Command>,
) -> bool {
    let ended = instance.finished_at.unwrap_or(now);
    let name = container.name.clone();
    let known = state.crashes.get(&name).filter(|crash| ended.duration_since(crash.updated) < CRASH_RESET);
    let delay = match known.map(|crash| crash.delay) {
        Some(delay) if now.duration_since(ended) < delay => {
            state.wake_at(ended + delay);
            if state.crashing.insert(name.clone(), (ended + delay, delay)).is_none() {
                let pod = full_name(&state.pod);
                let message = format!("Back-off restarting failed container {name} in pod {pod}");
                out.push(Command::Event { warning: true, reason: "BackOff", message });
            }
            return false;
        }
        Some(delay) => (delay * 2).min(CRASH_MOST),
        None => CRASH_FIRST,
    };
    state.crashing.remove(&name);
    state.crashes.insert(name, Crash { delay, updated: now });
    true
}

/// One dead instance per container is kept for `logs --previous` and the last state.
fn forget_old(state: &State, spec: &PodSpec, out: &mut Vec<Command>) {
    for container in inits(spec).iter().chain(&spec.containers) {
        let dead = state.view.of(&container.name).skip(2).filter(|one| one.run == Run::Exited);
        out.extend(dead.map(|one| Command::Forget(one.id.clone())));
    }
}

#[cfg(test)]
#[path = "machine_tests.rs"]
mod tests;
