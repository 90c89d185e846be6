//! A pod on its way out: containers are stopped first, the final delete comes last.

use jiff::Timestamp;

use super::{Cause, Command, Ending, Slot, State, begin, stop};
use crate::pod::{find, inits, resources::is_sidecar, spec, view::Instance};

/// Notes why and how the pod ends; a shorter grace than before counts.
pub(super) fn begin_end(state: &mut State, cause: Cause, grace: Option<i64>, now: Timestamp) {
    let of_pod = spec(&state.pod).termination_grace_period_seconds.unwrap_or(30);
    let grace = grace.unwrap_or(of_pod).max(1);
    match &mut state.ending {
        Some(ending) => {
            ending.grace = ending.grace.min(grace);
            if !matches!(ending.cause, Cause::Failed(_) | Cause::Completed) {
                ending.cause = cause;
            }
        }
        None => state.ending = Some(Ending { cause, since: now, grace }),
    }
}

/// Stops what runs, then takes the sandbox, the volumes and at last the API object away, each when the one before is done.
pub(super) fn end(state: &mut State, now: Timestamp, out: &mut Vec<Command>) {
    let Some(ending) = state.ending.clone() else { return };
    stop_all(state, &ending, out);
    if !state.is_dead() || state.busy.iter().any(|slot| matches!(slot, Slot::Stop(_))) {
        return;
    }
    let retry = state.teardown_retry.clone();
    if !state.due(&retry, now) {
        return;
    }
    let ready: Vec<String> =
        state.view.sandboxes.iter().filter(|one| one.ready).map(|one| one.id.clone()).collect();
    for id in &ready {
        begin(state, Slot::StopSandbox(id.clone()), Command::StopSandbox(id.clone()), out);
    }
    let stopping = state.busy.iter().any(|slot| matches!(slot, Slot::StopSandbox(_) | Slot::Volumes));
    if !ready.is_empty() || stopping {
        return;
    }
    if !state.torn_down {
        return begin(state, Slot::Teardown, Command::Teardown, out);
    }
    let asked = state.pod.metadata.deletion_timestamp.is_some();
    if state.gone {
        if state.removed {
            out.push(Command::Finished);
        } else {
            begin(state, Slot::Remove, Command::Remove, out);
        }
    } else if asked && !state.deleted {
        begin(state, Slot::Delete, Command::Delete, out);
    }
}

/// Stops the containers at once and the sidecars after them.
fn stop_all(state: &mut State, ending: &Ending, out: &mut Vec<Command>) {
    let pod = state.pod.clone();
    let spec = spec(&pod);
    let is_side = |name: &str| inits(&spec).iter().any(|init| init.name == name && is_sidecar(init));
    let alive: Vec<Instance> = state.view.alive().cloned().collect();
    let starting = state.busy.iter().any(|slot| matches!(slot, Slot::Start(name) if !is_side(name)));
    let mains = starting || alive.iter().any(|one| !is_side(&one.name));
    let overdue = ending.grace <= 1;
    for instance in alive.iter().filter(|one| overdue || !mains || !is_side(&one.name)) {
        let grace = if find(&spec, &instance.name).is_some() { ending.grace } else { 1 };
        stop(state, instance, grace, format!("Stopping container {}", instance.name), out);
    }
}
