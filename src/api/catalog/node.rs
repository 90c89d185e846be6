//! Scheduling, leases, runtime classes.

use super::{GroupRows, Row};
use crate::table::{cluster as columns, nodes};

const CANDIDATES: Row = Row::new("LeaseCandidate", "leasecandidates").off();

pub(super) const GROUPS: &[GroupRows] = &[
    GroupRows {
        group: "scheduling.k8s.io",
        version: "v1",
        rows: &[Row::new("PriorityClass", "priorityclasses")
            .short(&["pc"])
            .cluster()
            .columns(columns::PRIORITY_CLASSES)],
    },
    GroupRows {
        group: "scheduling.k8s.io",
        version: "v1alpha1",
        rows: &[Row::new("Workload", "workloads").off()],
    },
    GroupRows {
        group: "coordination.k8s.io",
        version: "v1",
        rows: &[Row::new("Lease", "leases").columns(nodes::LEASES)],
    },
    GroupRows { group: "coordination.k8s.io", version: "v1beta1", rows: &[CANDIDATES] },
    GroupRows {
        group: "coordination.k8s.io",
        version: "v1alpha2",
        rows: &[CANDIDATES.stored("coordination.k8s.io", "v1beta1")],
    },
    GroupRows {
        group: "node.k8s.io",
        version: "v1",
        rows: &[Row::new("RuntimeClass", "runtimeclasses").cluster().columns(columns::RUNTIME_CLASSES)],
    },
];
