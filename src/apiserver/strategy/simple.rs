//! Kinds that differ only by data: default values, whether they have a status, whether changes are counted, what
//! their names look like. A row each.

use super::{Strategy, defaults::Row};
use api::{Object, name};

/// A kind that is described by data alone.
pub(super) struct Simple {
    defaults: &'static [Row],
    status: bool,
    generation: bool,
    name: fn(&str) -> Vec<String>,
}

impl Strategy for Simple {
    fn rows(&self) -> &'static [Row] {
        self.defaults
    }

    fn counts_generation(&self) -> bool {
        self.generation
    }

    fn has_status(&self) -> bool {
        self.status
    }

    fn check_name(&self, name: &str) -> Vec<String> {
        (self.name)(name)
    }
}

/// No status, no generation, a DNS subdomain as name: what most kinds are.
const PLAIN: Simple =
    Simple { defaults: &[], status: false, generation: false, name: name::dns1123_subdomain };
/// A spec whose changes are counted and a status.
const SPEC_STATUS: Simple = Simple { status: true, generation: true, ..PLAIN };
/// A custom resource; its status is kept apart only where the CRD says so, which the verbs know.
pub(super) const CUSTOM: Simple = Simple { generation: true, ..PLAIN };

const ROLE: Simple = Simple { name: name::path_segment, ..PLAIN };
const BINDING: Simple = Simple {
    defaults: &[("roleRef.apiGroup", "\"rbac.authorization.k8s.io\"")],
    name: name::path_segment,
    ..PLAIN
};

/// The kinds with data of their own; the others are plain.
const KINDS: &[(&str, &str, Simple)] = &[
    ("", "Endpoints", Simple { defaults: &[("subsets[].ports[].protocol", "\"TCP\"")], ..PLAIN }),
    ("", "Node", Simple { status: true, ..PLAIN }),
    (
        "",
        "PersistentVolume",
        Simple {
            defaults: &[
                ("spec.persistentVolumeReclaimPolicy", "\"Retain\""),
                ("spec.volumeMode", "\"Filesystem\""),
                ("status!.phase", "\"Pending\""),
            ],
            status: true,
            ..PLAIN
        },
    ),
    (
        "",
        "PersistentVolumeClaim",
        Simple {
            defaults: &[("spec.volumeMode", "\"Filesystem\""), ("status!.phase", "\"Pending\"")],
            status: true,
            ..PLAIN
        },
    ),
    ("", "ResourceQuota", Simple { status: true, ..PLAIN }),
    (
        "admissionregistration.k8s.io",
        "MutatingWebhookConfiguration",
        Simple { defaults: MUTATING_WEBHOOKS, generation: true, ..PLAIN },
    ),
    (
        "admissionregistration.k8s.io",
        "ValidatingWebhookConfiguration",
        Simple { defaults: WEBHOOKS, generation: true, ..PLAIN },
    ),
    (
        "admissionregistration.k8s.io",
        "ValidatingAdmissionPolicy",
        Simple {
            defaults: &[
                ("spec.failurePolicy", "\"Fail\""),
                ("spec.matchConstraints.matchPolicy", "\"Equivalent\""),
            ],
            ..SPEC_STATUS
        },
    ),
    (
        "admissionregistration.k8s.io",
        "ValidatingAdmissionPolicyBinding",
        Simple { generation: true, ..PLAIN },
    ),
    (
        "apiextensions.k8s.io",
        "CustomResourceDefinition",
        Simple { defaults: &[("spec.conversion!.strategy", "\"None\"")], ..SPEC_STATUS },
    ),
    ("apiregistration.k8s.io", "APIService", Simple { status: true, ..PLAIN }),
    (
        "autoscaling",
        "HorizontalPodAutoscaler",
        Simple { defaults: &[("spec.minReplicas", "1")], status: true, ..PLAIN },
    ),
    ("certificates.k8s.io", "CertificateSigningRequest", Simple { status: true, ..PLAIN }),
    (
        "discovery.k8s.io",
        "EndpointSlice",
        Simple {
            defaults: &[("ports[].name", "\"\""), ("ports[].protocol", "\"TCP\"")],
            generation: true,
            ..PLAIN
        },
    ),
    (
        "flowcontrol.apiserver.k8s.io",
        "FlowSchema",
        Simple { defaults: &[("spec.matchingPrecedence", "1000")], ..SPEC_STATUS },
    ),
    (
        "flowcontrol.apiserver.k8s.io",
        "PriorityLevelConfiguration",
        Simple {
            defaults: &[
                ("spec.limited.nominalConcurrencyShares", "30"),
                ("spec.limited.lendablePercent", "0"),
            ],
            ..SPEC_STATUS
        },
    ),
    ("networking.k8s.io", "Ingress", SPEC_STATUS),
    ("networking.k8s.io", "IngressClass", Simple { generation: true, ..PLAIN }),
    (
        "networking.k8s.io",
        "NetworkPolicy",
        Simple {
            defaults: &[
                ("spec.ingress[].ports[].protocol", "\"TCP\""),
                ("spec.egress[].ports[].protocol", "\"TCP\""),
            ],
            generation: true,
            ..PLAIN
        },
    ),
    ("networking.k8s.io", "ServiceCIDR", Simple { status: true, ..PLAIN }),
    ("policy", "PodDisruptionBudget", SPEC_STATUS),
    ("rbac.authorization.k8s.io", "Role", ROLE),
    ("rbac.authorization.k8s.io", "ClusterRole", ROLE),
    ("rbac.authorization.k8s.io", "RoleBinding", BINDING),
    ("rbac.authorization.k8s.io", "ClusterRoleBinding", BINDING),
    ("resource.k8s.io", "ResourceClaim", Simple { status: true, ..PLAIN }),
    ("resource.k8s.io", "DeviceClass", Simple { generation: true, ..PLAIN }),
    ("resource.k8s.io", "ResourceSlice", Simple { generation: true, ..PLAIN }),
    (
        "scheduling.k8s.io",
        "PriorityClass",
        Simple { defaults: &[("preemptionPolicy", "\"PreemptLowerPriority\"")], generation: true, ..PLAIN },
    ),
    (
        "storage.k8s.io",
        "CSIDriver",
        Simple {
            defaults: &[
                ("spec.attachRequired", "true"),
                ("spec.podInfoOnMount", "false"),
                ("spec.storageCapacity", "false"),
                ("spec.fsGroupPolicy", "\"ReadWriteOnceWithFSType\""),
                ("spec.requiresRepublish", "false"),
                ("spec.seLinuxMount", "false"),
                ("spec.volumeLifecycleModes", "[\"Persistent\"]"),
            ],
            ..PLAIN
        },
    ),
    (
        "storage.k8s.io",
        "StorageClass",
        Simple {
            defaults: &[("reclaimPolicy", "\"Delete\""), ("volumeBindingMode", "\"Immediate\"")],
            ..PLAIN
        },
    ),
    ("storage.k8s.io", "VolumeAttachment", Simple { status: true, ..PLAIN }),
];

const WEBHOOKS: &[Row] = &[
    ("webhooks[].failurePolicy", "\"Fail\""),
    ("webhooks[].matchPolicy", "\"Equivalent\""),
    ("webhooks[].namespaceSelector", "{}"),
    ("webhooks[].objectSelector", "{}"),
    ("webhooks[].timeoutSeconds", "10"),
    ("webhooks[].rules[].scope", "\"*\""),
    ("webhooks[].clientConfig.service.port", "443"),
];

const MUTATING_WEBHOOKS: &[Row] = &[
    ("webhooks[].failurePolicy", "\"Fail\""),
    ("webhooks[].matchPolicy", "\"Equivalent\""),
    ("webhooks[].namespaceSelector", "{}"),
    ("webhooks[].objectSelector", "{}"),
    ("webhooks[].timeoutSeconds", "10"),
    ("webhooks[].reinvocationPolicy", "\"Never\""),
    ("webhooks[].rules[].scope", "\"*\""),
    ("webhooks[].clientConfig.service.port", "443"),
];

/// The behaviour of a kind that is described by data, or that of most kinds.
pub(super) fn of(group: &str, kind: &str) -> &'static dyn Strategy {
    match KINDS.iter().find(|row| row.0 == group && row.1 == kind) {
        Some((_, _, simple)) => simple,
        None => &PLAIN,
    }
}

/// A namespace carries its name as a label, and the finalizer that keeps it until it is empty.
pub(super) struct Namespace;

impl Strategy for Namespace {
    fn has_status(&self) -> bool {
        true
    }

    fn default(&self, object: &mut Object) {
        let name = object.name().to_owned();
        if !name.is_empty() {
            object.set(r"metadata.labels", labels_with_name(object, &name));
        }
    }

    fn prepare_create(&self, object: &mut Object) {
        object.set("spec.finalizers", serde_json::json!(["kubernetes"]));
        object.set("status.phase", "Active");
    }

    fn prepare_update(&self, new: &mut Object, old: &Object) {
        // The finalizers of a namespace's spec change through the finalize subresource alone.
        super::keep(new, old, "spec");
    }

    fn check_name(&self, name: &str) -> Vec<String> {
        name::dns1123_label(name)
    }
}

fn labels_with_name(object: &Object, name: &str) -> serde_json::Value {
    let mut labels = object.labels().cloned().unwrap_or_default();
    labels.insert("kubernetes.io/metadata.name".into(), name.into());
    labels.into()
}
