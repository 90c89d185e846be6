//! Pods: the status that kubectl users know, computed from phase, containers and deletion.

use jiff::Timestamp;
use serde_json::Value;

use super::{
    AGE, NAME,
    cells::{NONE, int_of, is_true, or, str_of, text, wide},
};
use crate::{Object, catalog::Col, time};

pub(crate) const PODS: &[Col] = &[
    NAME,
    text("Ready", "The aggregate readiness state of this pod for accepting traffic.", |o, _| {
        let s = summary(o);
        format!("{}/{}", s.ready, s.total).into()
    }),
    text("Status", "The aggregate status of the containers in this pod.", |o, _| summary(o).reason.into()),
    text(
        "Restarts",
        "The number of times the containers in this pod have been restarted and when the last container in this \
         pod has restarted.",
        restarts,
    ),
    AGE,
    wide(text("IP", "The address of the pod.", |o, _| or(o, "status.podIP", NONE))),
    wide(text("Node", "The node the pod runs on.", |o, _| or(o, "spec.nodeName", NONE))),
    wide(text("Nominated Node", "The node that room is being made on for the pod.", |o, _| {
        or(o, "status.nominatedNodeName", NONE)
    })),
    wide(text("Readiness Gates", "How many of the pod's readiness gates are true.", gates)),
];

#[derive(Default)]
struct Summary {
    ready: usize,
    total: usize,
    reason: String,
    restarts: i64,
    last_restart: Option<Timestamp>,
}

impl Summary {
    fn restarted(&mut self, status: &Value) {
        self.restarts += int_of(status, "restartCount");
        let finished = status.pointer("/lastState/terminated/finishedAt").and_then(Value::as_str);
        self.last_restart = self.last_restart.max(finished.and_then(time::parse));
    }
}

fn summary(pod: &Object) -> Summary {
    let phase = pod.str_at("status.phase");
    let own = pod.str_at("status.reason");
    let mut reason = if own.is_empty() { phase } else { own }.to_owned();
    let gated = super::cells::condition(pod, "PodScheduled")
        .is_some_and(|c| str_of(c, "reason") == "SchedulingGated");
    if gated {
        "SchedulingGated".clone_into(&mut reason);
    }
    let sidecars =
        pod.list_at("spec.initContainers").iter().filter(|c| str_of(c, "restartPolicy") == "Always");
    let total = pod.list_at("spec.containers").len() + sidecars.count();
    let mut s = Summary { total, reason, ..Summary::default() };
    let mut sidecar_restarts = Summary::default();
    let initializing = initialize(pod, &mut s, &mut sidecar_restarts);
    if !initializing || is_true(pod, "Initialized") {
        (s.restarts, s.last_restart) = (sidecar_restarts.restarts, sidecar_restarts.last_restart);
        run(pod, &mut s);
    }
    if pod.deletion_timestamp().is_some() {
        if own == "NodeLost" {
            "Unknown".clone_into(&mut s.reason);
        } else if phase != "Succeeded" && phase != "Failed" {
            "Terminating".clone_into(&mut s.reason);
        }
    }
    s
}

/// Looks at the init containers; whether one of them still has to finish.
fn initialize(pod: &Object, s: &mut Summary, sidecars: &mut Summary) -> bool {
    let specs = pod.list_at("spec.initContainers");
    for (i, status) in pod.list_at("status.initContainerStatuses").iter().enumerate() {
        let name = str_of(status, "name");
        let sidecar =
            specs.iter().any(|c| str_of(c, "name") == name && str_of(c, "restartPolicy") == "Always");
        s.restarted(status);
        if sidecar {
            sidecars.restarted(status);
        }
        let terminated = status.pointer("/state/terminated");
        let waiting = status.pointer("/state/waiting").map(|w| str_of(w, "reason")).unwrap_or_default();
        if terminated.is_some_and(|t| int_of(t, "exitCode") == 0) {
            continue;
        }
        if sidecar && status["started"] == true {
            s.ready += usize::from(status["ready"] == true);
            continue;
        }
        s.reason = match (terminated, waiting) {
            (Some(t), _) => format!("Init:{}", ended(t)),
            (None, "" | "PodInitializing") => format!("Init:{i}/{}", specs.len()),
            (None, waiting) => format!("Init:{waiting}"),
        };
        return true;
    }
    false
}

/// Looks at the containers, from the last to the first: the first one's reason wins.
fn run(pod: &Object, s: &mut Summary) {
    let mut running = false;
    for status in pod.list_at("status.containerStatuses").iter().rev() {
        s.restarted(status);
        let waiting = status.pointer("/state/waiting").map(|w| str_of(w, "reason")).unwrap_or_default();
        if !waiting.is_empty() {
            waiting.clone_into(&mut s.reason);
        } else if let Some(terminated) = status.pointer("/state/terminated") {
            s.reason = ended(terminated);
        } else if status["ready"] == true && status.pointer("/state/running").is_some() {
            running = true;
            s.ready += 1;
        }
    }
    if s.reason == "Completed" && running {
        s.reason = if is_true(pod, "Ready") { "Running" } else { "NotReady" }.to_owned();
    }
}

fn ended(terminated: &Value) -> String {
    match (str_of(terminated, "reason"), int_of(terminated, "signal")) {
        ("", 0) => format!("ExitCode:{}", int_of(terminated, "exitCode")),
        ("", signal) => format!("Signal:{signal}"),
        (reason, _) => reason.to_owned(),
    }
}

fn restarts(pod: &Object, now: Timestamp) -> Value {
    let s = summary(pod);
    match s.last_restart.filter(|_| s.restarts != 0) {
        Some(at) => {
            let ago = time::human_duration(now.as_second() - at.as_second());
            format!("{} ({ago} ago)", s.restarts).into()
        }
        None => s.restarts.to_string().into(),
    }
}

fn gates(pod: &Object, _: Timestamp) -> Value {
    let gates = pod.list_at("spec.readinessGates");
    if gates.is_empty() {
        return NONE.into();
    }
    let open = gates.iter().filter(|g| is_true(pod, str_of(g, "conditionType"))).count();
    format!("{open}/{}", gates.len()).into()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn statuses() {
        fn check(pod: Value, ready: &str, status: &str, restarts: &str) {
            let now = time::parse("2026-01-01T01:00:00Z").unwrap();
            let pod = Object::try_from(pod).unwrap();
            let cells: Vec<_> = PODS[1..4].iter().map(|c| (c.cell)(&pod, now)).collect();
            assert_eq!(json!(cells), json!([ready, status, restarts]), "{pod:?}");
        }
        let with = |statuses: Value| json!({"spec": {"containers": [{"name": "a"}]}, "status": {"phase": "Running", "containerStatuses": statuses}});
        let last = json!({"terminated": {"finishedAt": "2026-01-01T00:58:00Z"}});
        check(
            json!({"spec": {"containers": [{}, {}]}, "status": {"phase": "Pending"}}),
            "0/2",
            "Pending",
            "0",
        );
        check(with(json!([{"ready": true, "state": {"running": {}}}])), "1/1", "Running", "0");
        check(
            with(json!([{"state": {"waiting": {"reason": "ContainerCreating"}}}])),
            "0/1",
            "ContainerCreating",
            "0",
        );
        check(
            with(
                json!([{"restartCount": 3, "lastState": last, "state": {"waiting": {"reason": "CrashLoopBackOff"}}}]),
            ),
            "0/1",
            "CrashLoopBackOff",
            "3 (2m ago)",
        );
        check(
            with(json!([{"state": {"terminated": {"exitCode": 1, "reason": "Error"}}}])),
            "0/1",
            "Error",
            "0",
        );
        check(with(json!([{"state": {"terminated": {"exitCode": 137}}}])), "0/1", "ExitCode:137", "0");
        check(
            json!({"metadata": {"deletionTimestamp": "2026-01-01T00:58:00Z"}, "spec": {"containers": [{}]},
                "status": {"phase": "Running"}}),
            "0/1",
            "Terminating",
            "0",
        );
        let init = |state: Value| {
            json!({"spec": {"initContainers": [{"name": "i"}, {"name": "j"}], "containers": [{}]},
            "status": {"phase": "Pending", "initContainerStatuses": [{"name": "i", "state": {"terminated": {"exitCode": 0}}},
                {"name": "j", "state": state}]}})
        };
        check(init(json!({"running": {}})), "0/1", "Init:1/2", "0");
        check(init(json!({"terminated": {"exitCode": 2}})), "0/1", "Init:ExitCode:2", "0");
        check(init(json!({"waiting": {"reason": "CrashLoopBackOff"}})), "0/1", "Init:CrashLoopBackOff", "0");
        check(init(json!({"waiting": {"reason": "PodInitializing"}})), "0/1", "Init:1/2", "0");
        check(
            json!({"spec": {"initContainers": [{"name": "s", "restartPolicy": "Always"}], "containers": [{}]},
                "status": {"phase": "Running", "initContainerStatuses": [{"name": "s", "started": true, "ready": true,
                    "state": {"running": {}}}], "containerStatuses": [{"ready": true, "state": {"running": {}}}]}}),
            "2/2",
            "Running",
            "0",
        );
        check(
            with(
                json!([{"ready": true, "state": {"running": {}}}, {"state": {"terminated": {"reason": "Completed", "exitCode": 0}}}]),
            ),
            "1/1",
            "NotReady",
            "0",
        );
        check(json!({"status": {"phase": "Failed", "reason": "Evicted"}}), "0/0", "Evicted", "0");
    }
}
