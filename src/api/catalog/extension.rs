//! What extends and steers the API server itself.

use super::{GroupRows, Row, STATUS};
use crate::table::policy as columns;

pub(super) const SERVICES: &[GroupRows] = &[GroupRows {
    group: "apiregistration.k8s.io",
    version: "v1",
    rows: &[Row::new("APIService", "apiservices")
        .cluster()
        .extends_api()
        .prefix("apiregistration.k8s.io/apiservices")
        .subs(&[STATUS])
        .columns(columns::API_SERVICES)],
}];

pub(super) const DEFINITIONS: &[GroupRows] = &[GroupRows {
    group: "apiextensions.k8s.io",
    version: "v1",
    rows: &[Row::new("CustomResourceDefinition", "customresourcedefinitions")
        .short(&["crd", "crds"])
        .cluster()
        .extends_api()
        .prefix("apiextensions.k8s.io/customresourcedefinitions")
        .subs(&[STATUS])
        .columns(crate::table::core::CREATED_AT)],
}];

pub(super) const SERVER: &[GroupRows] = &[
    GroupRows {
        group: "flowcontrol.apiserver.k8s.io",
        version: "v1",
        rows: &[
            Row::new("FlowSchema", "flowschemas").cluster().subs(&[STATUS]).columns(columns::FLOW_SCHEMAS),
            Row::new("PriorityLevelConfiguration", "prioritylevelconfigurations")
                .cluster()
                .subs(&[STATUS])
                .columns(columns::PRIORITY_LEVELS),
        ],
    },
    GroupRows {
        group: "internal.apiserver.k8s.io",
        version: "v1alpha1",
        rows: &[Row::new("StorageVersion", "storageversions").cluster().subs(&[STATUS]).off()],
    },
];
