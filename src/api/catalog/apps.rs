//! Workloads and their autoscaling.

use super::{GroupRows, Row, SCALE, STATUS};
use crate::table::workloads as columns;

pub(super) const GROUPS: &[GroupRows] = &[GroupRows {
    group: "apps",
    version: "v1",
    rows: &[
        Row::new("ControllerRevision", "controllerrevisions").columns(columns::REVISIONS),
        Row::new("DaemonSet", "daemonsets")
            .short(&["ds"])
            .all()
            .subs(&[STATUS])
            .columns(columns::DAEMON_SETS),
        Row::new("Deployment", "deployments")
            .short(&["deploy"])
            .all()
            .subs(&[SCALE, STATUS])
            .columns(columns::DEPLOYMENTS),
        Row::new("ReplicaSet", "replicasets")
            .short(&["rs"])
            .all()
            .subs(&[SCALE, STATUS])
            .columns(columns::REPLICA_SETS),
        Row::new("StatefulSet", "statefulsets")
            .short(&["sts"])
            .all()
            .subs(&[SCALE, STATUS])
            .columns(columns::STATEFUL_SETS),
    ],
}];

const AUTOSCALERS: Row =
    Row::new("HorizontalPodAutoscaler", "horizontalpodautoscalers").short(&["hpa"]).all().subs(&[STATUS]);

pub(super) const AUTOSCALING: &[GroupRows] = &[
    GroupRows { group: "autoscaling", version: "v2", rows: &[AUTOSCALERS.columns(columns::AUTOSCALERS)] },
    GroupRows {
        group: "autoscaling",
        version: "v1",
        rows: &[AUTOSCALERS.stored("autoscaling", "v2").columns(columns::AUTOSCALERS_V1)],
    },
];
