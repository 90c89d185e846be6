//! The ClusterRoles that every cluster starts with, except those of the controllers (`controllers.rs`).
//!
//! Names, labels and permissions are upstream's, so that people's bindings to them keep their meaning.

use super::policy::{
    ALL_VERBS, APPS, AUTHENTICATION, AUTHORIZATION, AUTOSCALING, BATCH, CERTIFICATES, COORDINATION, CORE,
    DISCOVERY, EVENTS, NETWORKING, POLICY, RBAC, READ, RECORD_EVENTS, RESOURCE, RoleRow, RuleRow, STORAGE,
    WRITE, cluster_role, named, part, rule, sum, urls,
};

/// What a node may do, before the Node authorizer narrows it to its own objects.
pub(crate) const NODE: &[RuleRow] = &[
    rule(&["create"], AUTHENTICATION, &["tokenreviews"]),
    rule(&["create"], AUTHORIZATION, &["localsubjectaccessreviews", "subjectaccessreviews"]),
    rule(READ, CORE, &["services"]),
    rule(&["create", "get", "list", "watch"], CORE, &["nodes"]),
    rule(&["patch", "update"], CORE, &["nodes", "nodes/status"]),
    rule(&["create", "patch", "update"], EVENTS, &["events"]),
    rule(READ, CORE, &["pods"]),
    rule(&["create", "delete"], CORE, &["pods"]),
    rule(&["patch", "update"], CORE, &["pods/status"]),
    rule(&["create"], CORE, &["pods/eviction"]),
    rule(READ, CORE, &["configmaps", "secrets"]),
    rule(&["get"], CORE, &["persistentvolumeclaims", "persistentvolumes"]),
    rule(&["get"], CORE, &["endpoints"]),
    rule(&["create", "get", "list", "watch"], CERTIFICATES, &["certificatesigningrequests"]),
    rule(&["create", "delete", "get", "patch", "update"], COORDINATION, &["leases"]),
    rule(&["get"], STORAGE, &["volumeattachments"]),
    rule(&["get", "patch", "update"], CORE, &["persistentvolumeclaims/status"]),
    rule(&["create"], CORE, &["serviceaccounts/token"]),
    rule(&["get"], CORE, &["serviceaccounts"]),
    rule(READ, STORAGE, &["csidrivers"]),
    rule(&["create", "delete", "get", "patch", "update"], STORAGE, &["csinodes"]),
    rule(READ, &["node.k8s.io"], &["runtimeclasses"]),
    rule(&["get"], RESOURCE, &["resourceclaims"]),
    rule(
        &["create", "delete", "deletecollection", "get", "list", "patch", "update", "watch"],
        RESOURCE,
        &["resourceslices"],
    ),
];

const EDIT: &[RuleRow] = &[
    rule(
        READ,
        CORE,
        &["pods/attach", "pods/exec", "pods/portforward", "pods/proxy", "secrets", "services/proxy"],
    ),
    rule(&["impersonate"], CORE, &["serviceaccounts"]),
    rule(WRITE, CORE, &["pods", "pods/attach", "pods/exec", "pods/portforward", "pods/proxy"]),
    rule(&["create"], CORE, &["pods/eviction"]),
    rule(
        WRITE,
        CORE,
        &[
            "configmaps",
            "events",
            "persistentvolumeclaims",
            "replicationcontrollers",
            "replicationcontrollers/scale",
            "secrets",
            "serviceaccounts",
            "services",
            "services/proxy",
        ],
    ),
    rule(&["create"], CORE, &["serviceaccounts/token"]),
    rule(
        WRITE,
        APPS,
        &[
            "daemonsets",
            "deployments",
            "deployments/rollback",
            "deployments/scale",
            "replicasets",
            "replicasets/scale",
            "statefulsets",
            "statefulsets/scale",
        ],
    ),
    rule(WRITE, AUTOSCALING, &["horizontalpodautoscalers"]),
    rule(WRITE, BATCH, &["cronjobs", "jobs"]),
    rule(WRITE, POLICY, &["poddisruptionbudgets"]),
    rule(WRITE, NETWORKING, &["ingresses", "networkpolicies"]),
    rule(WRITE, COORDINATION, &["leases"]),
    rule(WRITE, RESOURCE, &["resourceclaims", "resourceclaimtemplates"]),
];

const VIEW: &[RuleRow] = &[
    rule(
        READ,
        CORE,
        &[
            "configmaps",
            "endpoints",
            "persistentvolumeclaims",
            "persistentvolumeclaims/status",
            "pods",
            "replicationcontrollers",
            "replicationcontrollers/scale",
            "serviceaccounts",
            "services",
            "services/status",
        ],
    ),
    rule(
        READ,
        CORE,
        &[
            "bindings",
            "events",
            "limitranges",
            "namespaces/status",
            "pods/log",
            "pods/status",
            "replicationcontrollers/status",
            "resourcequotas",
            "resourcequotas/status",
        ],
    ),
    rule(READ, CORE, &["namespaces"]),
    rule(READ, DISCOVERY, &["endpointslices"]),
    rule(
        READ,
        APPS,
        &[
            "controllerrevisions",
            "daemonsets",
            "daemonsets/status",
            "deployments",
            "deployments/scale",
            "deployments/status",
            "replicasets",
            "replicasets/scale",
            "replicasets/status",
            "statefulsets",
            "statefulsets/scale",
            "statefulsets/status",
        ],
    ),
    rule(READ, AUTOSCALING, &["horizontalpodautoscalers", "horizontalpodautoscalers/status"]),
    rule(READ, BATCH, &["cronjobs", "cronjobs/status", "jobs", "jobs/status"]),
    rule(READ, POLICY, &["poddisruptionbudgets", "poddisruptionbudgets/status"]),
    rule(READ, NETWORKING, &["ingresses", "ingresses/status", "networkpolicies"]),
    rule(READ, COORDINATION, &["leases"]),
    rule(READ, RESOURCE, &["resourceclaims", "resourceclaims/status", "resourceclaimtemplates"]),
];

const CONTROLLER_MANAGER: &[RuleRow] = &[
    RECORD_EVENTS,
    rule(&["create"], COORDINATION, &["leases"]),
    named(&["get", "update"], COORDINATION, &["leases"], &["kube-controller-manager"]),
    rule(&["create"], CORE, &["secrets", "serviceaccounts"]),
    rule(&["delete"], CORE, &["secrets"]),
    rule(&["get"], CORE, &["configmaps", "namespaces", "secrets", "serviceaccounts"]),
    rule(&["update"], CORE, &["secrets", "serviceaccounts"]),
    rule(&["create"], AUTHENTICATION, &["tokenreviews"]),
    rule(&["create"], AUTHORIZATION, &["subjectaccessreviews"]),
    rule(&["list", "watch"], &["*"], &["*"]),
    rule(&["create"], CORE, &["serviceaccounts/token"]),
];

const SCHEDULER: &[RuleRow] = &[
    RECORD_EVENTS,
    rule(&["create"], COORDINATION, &["leases"]),
    named(&["get", "list", "patch", "update", "watch"], COORDINATION, &["leases"], &["kube-scheduler"]),
    rule(READ, CORE, &["nodes"]),
    rule(&["delete", "get", "list", "watch"], CORE, &["pods"]),
    rule(&["create"], CORE, &["bindings", "pods/binding"]),
    rule(&["patch", "update"], CORE, &["pods/status"]),
    rule(READ, CORE, &["namespaces", "replicationcontrollers", "services"]),
    rule(READ, APPS, &["replicasets", "statefulsets"]),
    rule(READ, POLICY, &["poddisruptionbudgets"]),
    rule(READ, CORE, &["persistentvolumeclaims", "persistentvolumes"]),
    rule(&["create"], AUTHENTICATION, &["tokenreviews"]),
    rule(&["create"], AUTHORIZATION, &["subjectaccessreviews"]),
    rule(READ, STORAGE, &["csidrivers", "csinodes", "csistoragecapacities", "volumeattachments"]),
    rule(READ, &["scheduling.k8s.io"], &["priorityclasses"]),
    rule(READ, RESOURCE, &["deviceclasses", "resourceclaims", "resourceslices"]),
    rule(&["patch", "update"], RESOURCE, &["resourceclaims", "resourceclaims/status"]),
];

/// The ClusterRoles that are not of a controller.
pub(crate) const CLUSTER_ROLES: &[RoleRow] = &[
    cluster_role("cluster-admin", &[rule(&["*"], &["*"], &["*"]), urls(&["*"], &["*"])]),
    cluster_role(
        "system:discovery",
        &[urls(
            &["get"],
            &[
                "/api",
                "/api/*",
                "/apis",
                "/apis/*",
                "/healthz",
                "/livez",
                "/openapi",
                "/openapi/*",
                "/readyz",
                "/version",
                "/version/",
            ],
        )],
    ),
    cluster_role(
        "system:monitoring",
        &[urls(
            &["get"],
            &[
                "/healthz",
                "/healthz/*",
                "/livez",
                "/livez/*",
                "/metrics",
                "/metrics/slis",
                "/readyz",
                "/readyz/*",
            ],
        )],
    ),
    cluster_role(
        "system:basic-user",
        &[
            rule(&["create"], AUTHORIZATION, &["selfsubjectaccessreviews", "selfsubjectrulesreviews"]),
            rule(&["create"], AUTHENTICATION, &["selfsubjectreviews"]),
        ],
    ),
    cluster_role(
        "system:public-info-viewer",
        &[urls(&["get"], &["/healthz", "/livez", "/readyz", "/version", "/version/"])],
    ),
    sum("admin", None),
    sum("edit", Some("admin")),
    sum("view", Some("edit")),
    part(
        "system:aggregate-to-admin",
        "admin",
        &[
            rule(&["create"], AUTHORIZATION, &["localsubjectaccessreviews"]),
            rule(ALL_VERBS, RBAC, &["rolebindings", "roles"]),
        ],
    ),
    part("system:aggregate-to-edit", "edit", EDIT),
    part("system:aggregate-to-view", "view", VIEW),
    cluster_role("system:node", NODE),
    cluster_role(
        "system:node-problem-detector",
        &[rule(&["get"], CORE, &["nodes"]), rule(&["patch"], CORE, &["nodes/status"]), RECORD_EVENTS],
    ),
    cluster_role(
        "system:kubelet-api-admin",
        &[
            rule(READ, CORE, &["nodes"]),
            rule(&["proxy"], CORE, &["nodes"]),
            rule(
                &["*"],
                CORE,
                &[
                    "nodes/configz",
                    "nodes/healthz",
                    "nodes/log",
                    "nodes/metrics",
                    "nodes/pods",
                    "nodes/proxy",
                    "nodes/stats",
                ],
            ),
        ],
    ),
    cluster_role(
        "system:node-bootstrapper",
        &[rule(&["create", "get", "list", "watch"], CERTIFICATES, &["certificatesigningrequests"])],
    ),
    cluster_role(
        "system:auth-delegator",
        &[
            rule(&["create"], AUTHENTICATION, &["tokenreviews"]),
            rule(&["create"], AUTHORIZATION, &["subjectaccessreviews"]),
        ],
    ),
    cluster_role(
        "system:kube-aggregator",
        &[rule(READ, CORE, &["endpoints", "services"]), rule(READ, DISCOVERY, &["endpointslices"])],
    ),
    cluster_role("system:kube-controller-manager", CONTROLLER_MANAGER),
    cluster_role(
        "system:kube-dns",
        &[
            rule(&["list", "watch"], CORE, &["endpoints", "services"]),
            rule(&["list", "watch"], DISCOVERY, &["endpointslices"]),
        ],
    ),
    cluster_role(
        "system:persistent-volume-provisioner",
        &[
            rule(&["create", "delete", "get", "list", "watch"], CORE, &["persistentvolumes"]),
            rule(&["get", "list", "update", "watch"], CORE, &["persistentvolumeclaims"]),
            rule(READ, STORAGE, &["storageclasses"]),
            rule(&["watch"], CORE, &["events"]),
            RECORD_EVENTS,
        ],
    ),
    cluster_role(
        "system:certificates.k8s.io:certificatesigningrequests:nodeclient",
        &[rule(&["create"], CERTIFICATES, &["certificatesigningrequests/nodeclient"])],
    ),
    cluster_role(
        "system:certificates.k8s.io:certificatesigningrequests:selfnodeclient",
        &[rule(&["create"], CERTIFICATES, &["certificatesigningrequests/selfnodeclient"])],
    ),
    cluster_role(
        "system:volume-scheduler",
        &[
            rule(
                &["get", "list", "patch", "update", "watch"],
                CORE,
                &["persistentvolumeclaims", "persistentvolumes"],
            ),
            rule(READ, STORAGE, &["storageclasses"]),
        ],
    ),
    cluster_role(
        "system:certificates.k8s.io:legacy-unknown-approver",
        &[named(&["approve"], CERTIFICATES, &["signers"], &["kubernetes.io/legacy-unknown"])],
    ),
    cluster_role(
        "system:certificates.k8s.io:kubelet-serving-approver",
        &[named(&["approve"], CERTIFICATES, &["signers"], &["kubernetes.io/kubelet-serving"])],
    ),
    cluster_role(
        "system:certificates.k8s.io:kube-apiserver-client-approver",
        &[named(&["approve"], CERTIFICATES, &["signers"], &["kubernetes.io/kube-apiserver-client"])],
    ),
    cluster_role(
        "system:certificates.k8s.io:kube-apiserver-client-kubelet-approver",
        &[named(&["approve"], CERTIFICATES, &["signers"], &["kubernetes.io/kube-apiserver-client-kubelet"])],
    ),
    cluster_role(
        "system:service-account-issuer-discovery",
        &[urls(
            &["get"],
            &[
                "/.well-known/openid-configuration",
                "/.well-known/openid-configuration/",
                "/openid/v1/jwks",
                "/openid/v1/jwks/",
            ],
        )],
    ),
    cluster_role(
        "system:node-proxier",
        &[
            rule(&["list", "watch"], CORE, &["endpoints", "services"]),
            rule(READ, CORE, &["nodes"]),
            RECORD_EVENTS,
            rule(&["list", "watch"], DISCOVERY, &["endpointslices"]),
            rule(&["list", "watch"], NETWORKING, &["servicecidrs"]),
        ],
    ),
    cluster_role("system:kube-scheduler", SCHEDULER),
];
