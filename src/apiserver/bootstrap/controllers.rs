//! Roles of the controllers, one per controller under upstream's names `system:controller:NAME`.
//!
//! Each is bound to upstream's service account `kube-system/NAME` and to `system:kube-controller-manager`: our
//! controllers share that one identity, an upstream controller manager may run with one account each. The sum
//! of the rows is what the controller manager can do, nothing beyond it.

use api::Object;

use super::policy::{
    APPS, AUTHORIZATION, BATCH, BindingRow, CERTIFICATES, COORDINATION, CORE, DISCOVERY, RBAC, READ,
    RECORD_EVENTS, RoleRow, RuleRow, Who, cluster_role, named, rule,
};

/// One controller: its name and what it may do.
pub(crate) struct Row {
    name: &'static str,
    subject: &'static [Who],
    role: RoleRow,
}

macro_rules! controller {
    ($name:literal, $rules:expr) => {
        Row {
            name: concat!("system:controller:", $name),
            subject: &[Who::Account($name), Who::User("system:kube-controller-manager")],
            role: cluster_role(concat!("system:controller:", $name), $rules),
        }
    };
}

const POD_WRITES: RuleRow =
    rule(&["create", "delete", "get", "list", "patch", "update", "watch"], CORE, &["pods"]);
const SIGNERS: &[&str] = &[
    "kubernetes.io/kube-apiserver-client",
    "kubernetes.io/kube-apiserver-client-kubelet",
    "kubernetes.io/kubelet-serving",
    "kubernetes.io/legacy-unknown",
];

/// All controllers, in the order of their names.
pub(crate) const CONTROLLERS: &[Row] = &[
    controller!(
        "certificate-controller",
        &[
            rule(&["delete", "get", "list", "watch"], CERTIFICATES, &["certificatesigningrequests"]),
            rule(
                &["patch", "update"],
                CERTIFICATES,
                &["certificatesigningrequests/approval", "certificatesigningrequests/status"]
            ),
            named(
                &["approve"],
                CERTIFICATES,
                &["signers"],
                &["kubernetes.io/kube-apiserver-client-kubelet", "kubernetes.io/kubelet-serving"]
            ),
            named(&["sign"], CERTIFICATES, &["signers"], SIGNERS),
            rule(&["create"], AUTHORIZATION, &["subjectaccessreviews"]),
            RECORD_EVENTS,
        ]
    ),
    controller!(
        "clusterrole-aggregation-controller",
        &[rule(&["escalate", "get", "list", "patch", "update", "watch"], RBAC, &["clusterroles"])]
    ),
    controller!(
        "cronjob-controller",
        &[
            rule(&["get", "list", "patch", "update", "watch"], BATCH, &["cronjobs"]),
            rule(&["create", "delete", "get", "list", "patch", "update", "watch"], BATCH, &["jobs"]),
            rule(&["patch", "update"], BATCH, &["cronjobs/finalizers", "cronjobs/status"]),
            rule(&["delete", "list"], CORE, &["pods"]),
            RECORD_EVENTS,
        ]
    ),
    controller!(
        "daemon-set-controller",
        &[
            rule(READ, APPS, &["daemonsets"]),
            rule(&["patch", "update"], APPS, &["daemonsets/finalizers", "daemonsets/status"]),
            rule(&["list", "watch"], CORE, &["nodes"]),
            POD_WRITES,
            rule(&["create"], CORE, &["pods/binding"]),
            rule(
                &["create", "delete", "get", "list", "patch", "update", "watch"],
                APPS,
                &["controllerrevisions"]
            ),
            RECORD_EVENTS,
        ]
    ),
    controller!(
        "deployment-controller",
        &[
            rule(&["get", "list", "patch", "update", "watch"], APPS, &["deployments"]),
            rule(&["patch", "update"], APPS, &["deployments/finalizers", "deployments/status"]),
            rule(&["create", "delete", "get", "list", "patch", "update", "watch"], APPS, &["replicasets"]),
            rule(&["get", "list", "update", "watch"], CORE, &["pods"]),
            RECORD_EVENTS,
        ]
    ),
    controller!(
        "endpoint-controller",
        &[
            rule(READ, CORE, &["pods", "services"]),
            rule(&["create", "delete", "get", "list", "patch", "update", "watch"], CORE, &["endpoints"]),
            rule(&["create"], CORE, &["endpoints/restricted"]),
            RECORD_EVENTS,
        ]
    ),
    controller!(
        "endpointslice-controller",
        &[
            rule(READ, CORE, &["nodes", "pods", "services"]),
            rule(&["patch", "update"], CORE, &["services/finalizers"]),
            rule(
                &["create", "delete", "get", "list", "patch", "update", "watch"],
                DISCOVERY,
                &["endpointslices"]
            ),
            rule(&["create"], DISCOVERY, &["endpointslices/restricted"]),
            RECORD_EVENTS,
        ]
    ),
    controller!(
        "generic-garbage-collector",
        &[rule(&["delete", "get", "list", "patch", "update", "watch"], &["*"], &["*"]), RECORD_EVENTS]
    ),
    controller!(
        "job-controller",
        &[
            rule(&["get", "list", "patch", "update", "watch"], BATCH, &["jobs"]),
            rule(&["patch", "update"], BATCH, &["jobs/finalizers", "jobs/status"]),
            POD_WRITES,
            RECORD_EVENTS,
        ]
    ),
    controller!(
        "namespace-controller",
        &[
            rule(&["delete", "get", "list", "watch"], CORE, &["namespaces"]),
            rule(&["patch", "update"], CORE, &["namespaces/finalize", "namespaces/status"]),
            rule(&["delete", "deletecollection", "get", "list"], &["*"], &["*"]),
        ]
    ),
    controller!(
        "node-controller",
        &[
            rule(&["delete", "get", "list", "patch", "update", "watch"], CORE, &["nodes"]),
            rule(&["patch", "update"], CORE, &["nodes/status", "pods/status"]),
            rule(&["delete", "get", "list", "watch"], CORE, &["pods"]),
            rule(READ, COORDINATION, &["leases"]),
            RECORD_EVENTS,
        ]
    ),
    controller!(
        "pod-garbage-collector",
        &[
            rule(&["delete", "list", "watch"], CORE, &["pods"]),
            rule(&["get", "list"], CORE, &["nodes"]),
            rule(&["patch"], CORE, &["pods/status"]),
        ]
    ),
    controller!(
        "replicaset-controller",
        &[
            rule(&["get", "list", "patch", "update", "watch"], APPS, &["replicasets"]),
            rule(&["patch", "update"], APPS, &["replicasets/finalizers", "replicasets/status"]),
            POD_WRITES,
            RECORD_EVENTS,
        ]
    ),
    controller!(
        "root-ca-cert-publisher",
        &[rule(&["create", "get", "list", "patch", "update", "watch"], CORE, &["configmaps"]), RECORD_EVENTS]
    ),
    controller!(
        "service-account-controller",
        &[rule(&["create", "get", "list", "watch"], CORE, &["serviceaccounts"]), RECORD_EVENTS]
    ),
    controller!(
        "statefulset-controller",
        &[
            rule(READ, APPS, &["statefulsets"]),
            rule(&["patch", "update"], APPS, &["statefulsets/finalizers", "statefulsets/status"]),
            POD_WRITES,
            rule(
                &["create", "delete", "get", "list", "patch", "update", "watch"],
                APPS,
                &["controllerrevisions"]
            ),
            rule(
                &["create", "delete", "get", "list", "patch", "update", "watch"],
                CORE,
                &["persistentvolumeclaims"]
            ),
            RECORD_EVENTS,
        ]
    ),
    controller!(
        "ttl-after-finished-controller",
        &[rule(&["delete", "get", "list", "watch"], BATCH, &["jobs"]), RECORD_EVENTS]
    ),
];

impl Row {
    /// The controller's ClusterRole.
    pub(crate) fn role(&self) -> Object {
        self.role.to_object()
    }

    /// Its ClusterRoleBinding.
    pub(crate) fn binding(&self) -> Object {
        BindingRow { name: self.name, namespace: "", role: self.name, subjects: self.subject }.to_object()
    }
}
