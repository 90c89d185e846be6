//! The bootstrap policy as tables: their rows, the Roles and all bindings. The ClusterRoles are in
//! `cluster_roles.rs`.
//!
//! Names, labels and permissions are upstream's, so that people's bindings to them keep their meaning. Roles of
//! the controllers are in `controllers.rs`; writing all this to the cluster is `reconcile.rs`.

use api::Object;
use serde_json::{Value, json};

use super::cluster_roles::CLUSTER_ROLES;

/// A policy rule of the tables below.
#[derive(Clone, Copy, Debug)]
pub(crate) struct RuleRow {
    pub(crate) verbs: &'static [&'static str],
    pub(crate) groups: &'static [&'static str],
    pub(crate) resources: &'static [&'static str],
    pub(crate) names: &'static [&'static str],
    pub(crate) urls: &'static [&'static str],
}

/// A role of the tables below.
#[derive(Clone, Copy, Debug)]
pub(crate) struct RoleRow {
    pub(crate) name: &'static str,
    /// Empty for a ClusterRole.
    pub(crate) namespace: &'static str,
    pub(crate) rules: &'static [RuleRow],
    /// This role is part of the aggregated role of that name.
    pub(crate) aggregate_to: Option<&'static str>,
    /// This role is the sum of all roles that aggregate to it.
    pub(crate) aggregated: bool,
}

/// A subject of a binding.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Who {
    User(&'static str),
    Group(&'static str),
    /// A service account of kube-system.
    Account(&'static str),
}

/// A binding of the tables below.
#[derive(Clone, Copy, Debug)]
pub(crate) struct BindingRow {
    pub(crate) name: &'static str,
    /// Empty for a ClusterRoleBinding.
    pub(crate) namespace: &'static str,
    pub(crate) role: &'static str,
    pub(crate) subjects: &'static [Who],
}

pub(crate) const READ: &[&str] = &["get", "list", "watch"];
pub(crate) const WRITE: &[&str] = &["create", "update", "patch", "delete", "deletecollection"];
pub(crate) const ALL_VERBS: &[&str] =
    &["create", "delete", "deletecollection", "get", "list", "patch", "update", "watch"];
pub(crate) const CORE: &[&str] = &[""];
pub(crate) const APPS: &[&str] = &["apps"];
pub(crate) const BATCH: &[&str] = &["batch"];
pub(crate) const AUTHENTICATION: &[&str] = &["authentication.k8s.io"];
pub(crate) const AUTHORIZATION: &[&str] = &["authorization.k8s.io"];
pub(crate) const AUTOSCALING: &[&str] = &["autoscaling"];
pub(crate) const CERTIFICATES: &[&str] = &["certificates.k8s.io"];
pub(crate) const COORDINATION: &[&str] = &["coordination.k8s.io"];
pub(crate) const DISCOVERY: &[&str] = &["discovery.k8s.io"];
pub(crate) const EVENTS: &[&str] = &["", "events.k8s.io"];
pub(crate) const NETWORKING: &[&str] = &["networking.k8s.io"];
pub(crate) const POLICY: &[&str] = &["policy"];
pub(crate) const RBAC: &[&str] = &["rbac.authorization.k8s.io"];
pub(crate) const RESOURCE: &[&str] = &["resource.k8s.io"];
pub(crate) const STORAGE: &[&str] = &["storage.k8s.io"];

pub(crate) const fn rule(
    verbs: &'static [&'static str],
    groups: &'static [&'static str],
    resources: &'static [&'static str],
) -> RuleRow {
    RuleRow { verbs, groups, resources, names: &[], urls: &[] }
}

pub(crate) const fn named(
    verbs: &'static [&'static str],
    groups: &'static [&'static str],
    resources: &'static [&'static str],
    names: &'static [&'static str],
) -> RuleRow {
    RuleRow { verbs, groups, resources, names, urls: &[] }
}

pub(crate) const fn urls(verbs: &'static [&'static str], urls: &'static [&'static str]) -> RuleRow {
    RuleRow { verbs, groups: &[], resources: &[], names: &[], urls }
}

/// Every component may record events.
pub(crate) const RECORD_EVENTS: RuleRow = rule(&["create", "patch", "update"], EVENTS, &["events"]);

pub(crate) const fn cluster_role(name: &'static str, rules: &'static [RuleRow]) -> RoleRow {
    RoleRow { name, namespace: "", rules, aggregate_to: None, aggregated: false }
}

pub(crate) const fn part(
    name: &'static str,
    aggregate_to: &'static str,
    rules: &'static [RuleRow],
) -> RoleRow {
    RoleRow { name, namespace: "", rules, aggregate_to: Some(aggregate_to), aggregated: false }
}

pub(crate) const fn sum(name: &'static str, aggregate_to: Option<&'static str>) -> RoleRow {
    RoleRow { name, namespace: "", rules: &[], aggregate_to, aggregated: true }
}

const fn role(namespace: &'static str, name: &'static str, rules: &'static [RuleRow]) -> RoleRow {
    RoleRow { name, namespace, rules, aggregate_to: None, aggregated: false }
}

const fn bind(role: &'static str, subjects: &'static [Who]) -> BindingRow {
    BindingRow { name: role, namespace: "", role, subjects }
}

const fn bind_in(
    namespace: &'static str,
    name: &'static str,
    role: &'static str,
    subjects: &'static [Who],
) -> BindingRow {
    BindingRow { name, namespace, role, subjects }
}

const AUTHENTICATED: Who = Who::Group("system:authenticated");
const CONTROLLER_MANAGER_USER: Who = Who::User("system:kube-controller-manager");
const SCHEDULER_USER: Who = Who::User("system:kube-scheduler");

/// The ClusterRoleBindings that are not of a controller.
pub(crate) const CLUSTER_BINDINGS: &[BindingRow] = &[
    bind("cluster-admin", &[Who::Group("system:masters")]),
    bind("system:monitoring", &[Who::Group("system:monitoring")]),
    bind("system:discovery", &[AUTHENTICATED]),
    bind("system:basic-user", &[AUTHENTICATED]),
    bind("system:public-info-viewer", &[AUTHENTICATED, Who::Group("system:unauthenticated")]),
    bind("system:node-proxier", &[Who::User("system:kube-proxy")]),
    bind("system:kube-controller-manager", &[CONTROLLER_MANAGER_USER]),
    bind("system:kube-dns", &[Who::Account("kube-dns")]),
    bind("system:kube-scheduler", &[SCHEDULER_USER]),
    bind("system:volume-scheduler", &[SCHEDULER_USER]),
    bind("system:service-account-issuer-discovery", &[Who::Group("system:serviceaccounts")]),
    // Nodes get their rights from the Node authorizer, which narrows them; upstream keeps the empty binding.
    bind("system:node", &[]),
    // kubeadm's group for administrators that can be revoked, unlike system:masters.
    BindingRow {
        name: "kubeadm:cluster-admins",
        namespace: "",
        role: "cluster-admin",
        subjects: &[Who::Group("kubeadm:cluster-admins")],
    },
];

/// The namespaced Roles.
pub(crate) const ROLES: &[RoleRow] = &[
    role(
        "kube-system",
        "extension-apiserver-authentication-reader",
        &[named(READ, CORE, &["configmaps"], &["extension-apiserver-authentication"])],
    ),
    role("kube-system", "system:controller:bootstrap-signer", &[rule(READ, CORE, &["secrets"])]),
    role(
        "kube-system",
        "system:controller:token-cleaner",
        &[rule(&["delete", "get", "list", "watch"], CORE, &["secrets"]), RECORD_EVENTS],
    ),
    role(
        "kube-system",
        "system::leader-locking-kube-controller-manager",
        &[
            rule(&["watch"], CORE, &["configmaps"]),
            named(&["get", "update"], CORE, &["configmaps"], &["kube-controller-manager"]),
            rule(&["create", "list", "watch"], COORDINATION, &["leases"]),
            named(&["get", "patch", "update"], COORDINATION, &["leases"], &["kube-controller-manager"]),
        ],
    ),
    role(
        "kube-system",
        "system::leader-locking-kube-scheduler",
        &[
            rule(&["watch"], CORE, &["configmaps"]),
            named(&["get", "update"], CORE, &["configmaps"], &["kube-scheduler"]),
            rule(&["create", "list", "watch"], COORDINATION, &["leases"]),
            named(&["get", "patch", "update"], COORDINATION, &["leases"], &["kube-scheduler"]),
        ],
    ),
    role(
        "kube-public",
        "system:controller:bootstrap-signer",
        &[
            rule(READ, CORE, &["configmaps"]),
            named(&["update"], CORE, &["configmaps"], &["cluster-info"]),
            RECORD_EVENTS,
        ],
    ),
];

/// The namespaced RoleBindings.
pub(crate) const BINDINGS: &[BindingRow] = &[
    bind_in(
        "kube-system",
        "system::extension-apiserver-authentication-reader",
        "extension-apiserver-authentication-reader",
        &[CONTROLLER_MANAGER_USER, SCHEDULER_USER],
    ),
    bind_in(
        "kube-system",
        "system::leader-locking-kube-controller-manager",
        "system::leader-locking-kube-controller-manager",
        &[CONTROLLER_MANAGER_USER, Who::Account("kube-controller-manager")],
    ),
    bind_in(
        "kube-system",
        "system::leader-locking-kube-scheduler",
        "system::leader-locking-kube-scheduler",
        &[SCHEDULER_USER, Who::Account("kube-scheduler")],
    ),
    bind_in(
        "kube-system",
        "system:controller:bootstrap-signer",
        "system:controller:bootstrap-signer",
        &[Who::Account("bootstrap-signer")],
    ),
    bind_in(
        "kube-system",
        "system:controller:token-cleaner",
        "system:controller:token-cleaner",
        &[Who::Account("token-cleaner")],
    ),
    bind_in(
        "kube-public",
        "system:controller:bootstrap-signer",
        "system:controller:bootstrap-signer",
        &[Who::Account("bootstrap-signer")],
    ),
];

impl RuleRow {
    /// As a `PolicyRule`; lists that do not apply are left out, as upstream stores them.
    pub(crate) fn to_json(self) -> Value {
        let lists = [
            ("apiGroups", self.groups),
            ("nonResourceURLs", self.urls),
            ("resourceNames", self.names),
            ("resources", self.resources),
            ("verbs", self.verbs),
        ];
        lists
            .iter()
            .filter(|(_, list)| !list.is_empty())
            .map(|(name, list)| ((*name).to_owned(), json!(list)))
            .collect()
    }
}

fn metadata(name: &str, namespace: &str) -> Value {
    let mut metadata = json!({
        "name": name,
        "annotations": {"rbac.authorization.kubernetes.io/autoupdate": "true"},
        "labels": {"kubernetes.io/bootstrapping": "rbac-defaults"},
    });
    if !namespace.is_empty() {
        metadata["namespace"] = json!(namespace);
    }
    metadata
}

fn object(value: Value) -> Object {
    match value {
        Value::Object(map) => Object(map),
        _ => Object(serde_json::Map::new()),
    }
}

impl RoleRow {
    /// As a ClusterRole or Role. An aggregated role's rules are the sum of its parts' rules, so that it works
    /// before the aggregation controller has run.
    pub(crate) fn to_object(self) -> Object {
        let kind = if self.namespace.is_empty() { "ClusterRole" } else { "Role" };
        let mut role = json!({
            "apiVersion": "rbac.authorization.k8s.io/v1",
            "kind": kind,
            "metadata": metadata(self.name, self.namespace),
            "rules": all_rules(&self).iter().map(|rule| rule.to_json()).collect::<Vec<_>>(),
        });
        if let Some(sum) = self.aggregate_to {
            role["metadata"]["labels"][format!("rbac.authorization.k8s.io/aggregate-to-{sum}")] =
                json!("true");
        }
        if self.aggregated {
            let label = format!("rbac.authorization.k8s.io/aggregate-to-{}", self.name);
            role["aggregationRule"] = json!({"clusterRoleSelectors": [{"matchLabels": {label: "true"}}]});
        }
        object(role)
    }
}

fn all_rules(role: &RoleRow) -> Vec<RuleRow> {
    if !role.aggregated {
        return role.rules.to_vec();
    }
    let parts = CLUSTER_ROLES.iter().filter(|part| part.aggregate_to == Some(role.name));
    parts.flat_map(all_rules).collect()
}

impl BindingRow {
    /// As a ClusterRoleBinding or RoleBinding.
    pub(crate) fn to_object(self) -> Object {
        let scope = if self.namespace.is_empty() { "Cluster" } else { "" };
        object(json!({
            "apiVersion": "rbac.authorization.k8s.io/v1",
            "kind": format!("{scope}RoleBinding"),
            "metadata": metadata(self.name, self.namespace),
            "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": format!("{scope}Role"), "name": self.role},
            "subjects": self.subjects.iter().map(|who| who.to_json()).collect::<Vec<_>>(),
        }))
    }
}

impl Who {
    fn to_json(self) -> Value {
        match self {
            Who::User(name) => json!({"apiGroup": "rbac.authorization.k8s.io", "kind": "User", "name": name}),
            Who::Group(name) => {
                json!({"apiGroup": "rbac.authorization.k8s.io", "kind": "Group", "name": name})
            }
            Who::Account(name) => json!({"kind": "ServiceAccount", "name": name, "namespace": "kube-system"}),
        }
    }
}
