//! Workloads: deployments, sets, jobs, autoscalers.

use jiff::Timestamp;
use serde_json::Value;

use super::{
    AGE, NAME,
    cells::{
        CONTAINERS, IMAGES, NONE, SELECTOR, UNKNOWN, int, int_of, is_true, labels, or, plain, since, str_of,
        text, wide,
    },
};
use crate::{Object, catalog::Col, time};

const fn number(name: &'static str, description: &'static str, cell: super::CellFn) -> Col {
    super::cells::number(name, description, cell)
}

pub(crate) const DEPLOYMENTS: &[Col] = &[
    NAME,
    text("Ready", "Number of the pod with ready state", |o, _| {
        format!("{}/{}", int(o, "status.readyReplicas"), int(o, "spec.replicas")).into()
    }),
    text("Up-to-date", "Total number of non-terminated pods that have the desired template.", |o, _| {
        int(o, "status.updatedReplicas")
    }),
    text("Available", "Total number of available pods.", |o, _| int(o, "status.availableReplicas")),
    AGE,
    CONTAINERS,
    IMAGES,
    SELECTOR,
];

const DESIRED: Col = number("Desired", "Number of desired pods.", |o, _| int(o, "spec.replicas"));
const CURRENT: Col = number("Current", "Number of pods that were created.", |o, _| int(o, "status.replicas"));
const READY: Col =
    number("Ready", "Number of pods with a Ready condition.", |o, _| int(o, "status.readyReplicas"));

pub(crate) const REPLICA_SETS: &[Col] = &[NAME, DESIRED, CURRENT, READY, AGE, CONTAINERS, IMAGES, SELECTOR];

pub(crate) const STATEFUL_SETS: &[Col] = &[
    NAME,
    text("Ready", "Number of the pod with ready state", |o, _| {
        format!("{}/{}", int(o, "status.readyReplicas"), int(o, "spec.replicas")).into()
    }),
    AGE,
    CONTAINERS,
    IMAGES,
];

pub(crate) const DAEMON_SETS: &[Col] = &[
    NAME,
    number("Desired", "Number of nodes that should run the pod.", |o, _| {
        int(o, "status.desiredNumberScheduled")
    }),
    number("Current", "Number of nodes that run at least one pod.", |o, _| {
        int(o, "status.currentNumberScheduled")
    }),
    number("Ready", "Number of nodes with a ready pod.", |o, _| int(o, "status.numberReady")),
    number("Up-to-date", "Number of nodes with an updated pod.", |o, _| {
        int(o, "status.updatedNumberScheduled")
    }),
    number("Available", "Number of nodes with an available pod.", |o, _| int(o, "status.numberAvailable")),
    text("Node Selector", "Selector of the nodes.", |o, _| {
        labels(o.map_at("spec.template.spec.nodeSelector")).into()
    }),
    AGE,
    CONTAINERS,
    IMAGES,
    SELECTOR,
];

pub(crate) const REVISIONS: &[Col] = &[
    NAME,
    text("Controller", "Controller of the object", |o, _| match o.controller() {
        None => NONE.into(),
        Some(owner) => {
            let field = |name: &str| owner.get(name).and_then(Value::as_str).unwrap_or_default();
            let (group, _) = field("apiVersion").split_once('/').unwrap_or_default();
            let kind = field("kind").to_lowercase();
            let dot = if group.is_empty() { "" } else { "." };
            format!("{kind}{dot}{group}/{}", field("name")).into()
        }
    }),
    number("Revision", "Revision of the state represented by data.", |o, _| int(o, "revision")),
    AGE,
];

pub(crate) const JOBS: &[Col] = &[
    NAME,
    text("Status", "Status of the job.", |o, _| job_status(o).into()),
    text("Completions", "Succeeded and wanted pods.", |o, _| {
        let succeeded = o.i64_at("status.succeeded").unwrap_or_default();
        match (o.i64_at("spec.completions"), o.i64_at("spec.parallelism").unwrap_or_default()) {
            (Some(wanted), _) => format!("{succeeded}/{wanted}").into(),
            (None, parallel) if parallel > 1 => format!("{succeeded}/1 of {parallel}").into(),
            _ => format!("{succeeded}/1").into(),
        }
    }),
    text("Duration", "Time required to complete the job.", duration),
    AGE,
    CONTAINERS,
    IMAGES,
    SELECTOR,
];

fn job_status(job: &Object) -> &'static str {
    for (condition, text) in [("Complete", "Complete"), ("Failed", "Failed")] {
        if is_true(job, condition) {
            return text;
        }
    }
    if job.deletion_timestamp().is_some() {
        return "Terminating";
    }
    let rest = ["Suspended", "FailureTarget", "SuccessCriteriaMet"];
    rest.into_iter().find(|c| is_true(job, c)).unwrap_or("Running")
}

fn duration(job: &Object, now: Timestamp) -> Value {
    let at = |path| job.get(path).and_then(Value::as_str).and_then(time::parse);
    match (at("status.startTime"), at("status.completionTime")) {
        (None, _) => "".into(),
        (Some(start), end) => time::human_duration(end.unwrap_or(now).as_second() - start.as_second()).into(),
    }
}

pub(crate) const CRON_JOBS: &[Col] = &[
    NAME,
    text("Schedule", "The schedule in Cron format, see https://en.wikipedia.org/wiki/Cron.", |o, _| {
        or(o, "spec.schedule", "")
    }),
    text("Timezone", "The time zone name for the given schedule.", |o, _| or(o, "spec.timeZone", NONE)),
    text("Suspend", "Whether subsequent executions are suspended.", |o, _| {
        if o.bool_at("spec.suspend") { "True" } else { "False" }.into()
    }),
    number("Active", "Number of currently running jobs.", |o, _| o.list_at("status.active").len().into()),
    text("Last Schedule", "When the job was last scheduled.", |o, now| {
        match o.get("status.lastScheduleTime") {
            None => NONE.into(),
            Some(_) => since(o, "status.lastScheduleTime", now).into(),
        }
    }),
    AGE,
    CONTAINERS,
    IMAGES,
    wide(text("Selector", "Label selector for pods.", |o, _| {
        super::cells::selector(o.get("spec.jobTemplate.spec.selector")).into()
    })),
];

const REFERENCE: Col = text("Reference", "What is scaled.", |o, _| {
    format!("{}/{}", o.str_at("spec.scaleTargetRef.kind"), o.str_at("spec.scaleTargetRef.name")).into()
});
const MIN_PODS: Col =
    text("MinPods", "The lower limit of replicas.", |o, _| or(o, "spec.minReplicas", UNSET_PODS));
const MAX_PODS: Col = number("MaxPods", "The upper limit of replicas.", |o, _| int(o, "spec.maxReplicas"));
const REPLICAS: Col =
    number("Replicas", "Current number of replicas.", |o, _| int(o, "status.currentReplicas"));
const UNSET_PODS: &str = super::cells::UNSET;

pub(crate) const AUTOSCALERS: &[Col] = &[
    NAME,
    REFERENCE,
    text("Targets", "Current and wanted metrics.", |o, _| targets(o).into()),
    MIN_PODS,
    MAX_PODS,
    REPLICAS,
    AGE,
];

pub(crate) const AUTOSCALERS_V1: &[Col] = &[
    NAME,
    REFERENCE,
    text("Targets", "Current and wanted CPU utilization.", |o, _| {
        let percent = |path| o.i64_at(path).map_or_else(|| UNKNOWN.to_owned(), |n| format!("{n}%"));
        let current = percent("status.currentCPUUtilizationPercentage");
        format!("cpu: {current}/{}", percent("spec.targetCPUUtilizationPercentage")).into()
    }),
    MIN_PODS,
    MAX_PODS,
    REPLICAS,
    AGE,
];

fn targets(autoscaler: &Object) -> String {
    let (specs, statuses) = (autoscaler.list_at("spec.metrics"), autoscaler.list_at("status.currentMetrics"));
    let mut texts: Vec<_> = specs.iter().enumerate().map(|(i, spec)| target(spec, statuses.get(i))).collect();
    if texts.is_empty() {
        return NONE.to_owned();
    }
    let more = texts.len().saturating_sub(2);
    texts.truncate(2);
    let joined = texts.join(", ");
    if more > 0 { format!("{joined} + {more} more...") } else { joined }
}

/// One metric: resources are named, others are not, as upstream shows them.
fn target(spec: &Value, status: Option<&Value>) -> String {
    let kind = str_of(spec, "type");
    let field = match kind {
        "Resource" => "resource",
        "ContainerResource" => "containerResource",
        "Pods" => "pods",
        "Object" => "object",
        _ => "external",
    };
    let wanted = &spec[field]["target"];
    let current = status.map(|s| &s[field]["current"]).filter(|c| c.is_object());
    let name = match kind {
        "Resource" | "ContainerResource" => format!("{}: ", str_of(&spec[field], "name")),
        _ => String::new(),
    };
    if wanted.get("averageUtilization").is_some() {
        let percent = |v: &Value| format!("{}%", int_of(v, "averageUtilization"));
        let current = current.filter(|c| c.get("averageUtilization").is_some());
        return format!("{name}{}/{}", current.map_or_else(|| UNKNOWN.to_owned(), percent), percent(wanted));
    }
    let (key, suffix) = if wanted.get("averageValue").is_some() && kind != "Pods" {
        ("averageValue", " (avg)")
    } else if kind == "Pods" {
        ("averageValue", "")
    } else {
        ("value", "")
    };
    let value = |v: &Value| v.get(key).map(plain);
    let current = current.and_then(value).unwrap_or_else(|| UNKNOWN.to_owned());
    format!("{name}{current}/{}{suffix}", value(wanted).unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn cells() {
        fn check(columns: &[Col], object: Value, expect: Value) {
            let now = time::parse("2026-01-01T01:00:00Z").unwrap();
            let object = Object::try_from(object).unwrap();
            let cells: Vec<_> = columns.iter().map(|c| (c.cell)(&object, now)).collect();
            assert_eq!(json!(cells), expect);
        }
        let containers = json!([{"name": "a", "image": "i"}, {"name": "b", "image": "j"}]);
        let meta = json!({"name": "x", "creationTimestamp": "2026-01-01T00:59:00Z"});
        check(
            DEPLOYMENTS,
            json!({"metadata": meta, "spec": {"replicas": 3, "selector": {"matchLabels": {"app": "w"}},
                "template": {"spec": {"containers": containers}}}, "status": {"readyReplicas": 2, "updatedReplicas": 3,
                "availableReplicas": 2}}),
            json!(["x", "2/3", 3, 2, "60s", "a,b", "i,j", "app=w"]),
        );
        check(
            JOBS,
            json!({"metadata": meta, "spec": {"completions": 2}, "status": {"succeeded": 1,
                "startTime": "2026-01-01T00:59:30Z"}}),
            json!(["x", "Running", "1/2", "30s", "60s", "", "", "<none>"]),
        );
        let metric =
            json!({"type": "Resource", "resource": {"name": "cpu", "target": {"averageUtilization": 80}}});
        check(
            AUTOSCALERS,
            json!({"metadata": meta, "spec": {"scaleTargetRef": {"kind": "Deployment", "name": "w"}, "maxReplicas": 5,
                "metrics": [metric]}}),
            json!(["x", "Deployment/w", "cpu: <unknown>/80%", "<unset>", 5, 0, "60s"]),
        );
        let owner =
            json!([{"apiVersion": "apps/v1", "kind": "StatefulSet", "name": "s", "controller": true}]);
        check(
            REVISIONS,
            json!({"metadata": {"name": "x", "ownerReferences": owner}, "revision": 3}),
            json!(["x", "statefulset.apps/s", 3, "<unknown>"]),
        );
    }
}
