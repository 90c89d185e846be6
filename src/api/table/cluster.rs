//! Volumes, storage classes, CSI, certificates, priority and runtime classes, devices.

use serde_json::Value;

use super::{
    AGE, NAME,
    cells::{NONE, UNSET, join_or, number, or, plain, str_of, text, wide},
};
use crate::{Object, catalog::Col, time};

pub(crate) const CLAIMS: &[Col] = &[
    NAME,
    text("Status", "The phase of the claim.", |o, _| {
        if o.deletion_timestamp().is_some() { "Terminating".into() } else { or(o, "status.phase", "") }
    }),
    text("Volume", "The volume that is bound.", |o, _| or(o, "spec.volumeName", "")),
    text("Capacity", "The size of the volume.", |o, _| {
        if o.str_at("spec.volumeName").is_empty() { "".into() } else { or(o, "status.capacity.storage", "0") }
    }),
    text("Access Modes", "How the volume can be mounted.", |o, _| {
        if o.str_at("spec.volumeName").is_empty() { "".into() } else { modes(o, "status.accessModes").into() }
    }),
    text("StorageClass", "The class of the claim.", |o, _| or(o, "spec.storageClassName", "")),
    ATTRIBUTES_CLASS,
    AGE,
    MODE,
];

pub(crate) const VOLUMES: &[Col] = &[
    NAME,
    text("Capacity", "The size of the volume.", |o, _| or(o, "spec.capacity.storage", "0")),
    text("Access Modes", "How the volume can be mounted.", |o, _| modes(o, "spec.accessModes").into()),
    text("Reclaim Policy", "What happens when the claim is deleted.", |o, _| {
        or(o, "spec.persistentVolumeReclaimPolicy", "")
    }),
    text("Status", "The phase of the volume.", |o, _| {
        if o.deletion_timestamp().is_some() { "Terminating".into() } else { or(o, "status.phase", "") }
    }),
    text("Claim", "The claim that is bound.", |o, _| {
        let Some(claim) = o.get("spec.claimRef") else { return "".into() };
        format!("{}/{}", str_of(claim, "namespace"), str_of(claim, "name")).into()
    }),
    text("StorageClass", "The class of the volume.", |o, _| or(o, "spec.storageClassName", "")),
    ATTRIBUTES_CLASS,
    text("Reason", "Why the volume is in its phase.", |o, _| or(o, "status.reason", "")),
    AGE,
    MODE,
];

const ATTRIBUTES_CLASS: Col = text("VolumeAttributesClass", "The attributes class of the volume.", |o, _| {
    or(o, "spec.volumeAttributesClassName", UNSET)
});
const MODE: Col = wide(text("VolumeMode", "Filesystem or block.", |o, _| or(o, "spec.volumeMode", UNSET)));

fn modes(object: &Object, path: &str) -> String {
    let short = [
        ("ReadWriteOnce", "RWO"),
        ("ReadOnlyMany", "ROX"),
        ("ReadWriteMany", "RWX"),
        ("ReadWriteOncePod", "RWOP"),
    ];
    let has = |mode: &str| object.list_at(path).iter().any(|m| m == mode);
    short.iter().filter(|(mode, _)| has(mode)).map(|(_, short)| *short).collect::<Vec<_>>().join(",")
}

pub(crate) const STORAGE_CLASSES: &[Col] = &[
    Col {
        cell: |o, _| {
            let keys = [
                "storageclass.kubernetes.io/is-default-class",
                "storageclass.beta.kubernetes.io/is-default-class",
            ];
            let default = keys.iter().any(|k| o.annotation(k) == Some("true"));
            if default { format!("{} (default)", o.name()).into() } else { o.name().into() }
        },
        ..NAME
    },
    text("Provisioner", "Provisioner indicates the type of the provisioner.", |o, _| {
        or(o, "provisioner", "")
    }),
    text("ReclaimPolicy", "What happens to volumes when their claims are deleted.", |o, _| {
        or(o, "reclaimPolicy", "Delete")
    }),
    text("VolumeBindingMode", "When volumes are bound.", |o, _| or(o, "volumeBindingMode", "Immediate")),
    text("AllowVolumeExpansion", "Whether volumes can grow.", |o, _| {
        o.bool_at("allowVolumeExpansion").to_string().into()
    }),
    AGE,
];

pub(crate) const VOLUME_ATTRIBUTES_CLASSES: &[Col] =
    &[NAME, text("DriverName", "The CSI driver of the class.", |o, _| or(o, "driverName", "")), AGE];

pub(crate) const VOLUME_ATTACHMENTS: &[Col] = &[
    NAME,
    text("Attacher", "The driver that attaches.", |o, _| or(o, "spec.attacher", "")),
    text("PV", "The volume.", |o, _| or(o, "spec.source.persistentVolumeName", "")),
    text("Node", "The node.", |o, _| or(o, "spec.nodeName", "")),
    text("Attached", "Whether it is attached.", |o, _| o.bool_at("status.attached").to_string().into()),
    AGE,
];

pub(crate) const CSI_DRIVERS: &[Col] = &[
    NAME,
    text("AttachRequired", "Whether volumes need an attach operation.", |o, _| {
        or(o, "spec.attachRequired", "true")
    }),
    text("PodInfoOnMount", "Whether the driver wants to know the pod.", |o, _| {
        or(o, "spec.podInfoOnMount", "false")
    }),
    text("StorageCapacity", "Whether capacity is considered when scheduling.", |o, _| {
        or(o, "spec.storageCapacity", "false")
    }),
    text("TokenRequests", "Audiences of the tokens that the driver needs.", |o, _| {
        let requests = o.list_at("spec.tokenRequests").iter();
        join_or(requests.map(|t| str_of(t, "audience").to_owned()), UNSET).into()
    }),
    text("RequiresRepublish", "Whether volumes are published again and again.", |o, _| {
        or(o, "spec.requiresRepublish", "false")
    }),
    text("Modes", "Persistent or ephemeral.", |o, _| {
        join_or(o.list_at("spec.volumeLifecycleModes").iter().map(plain), NONE).into()
    }),
    AGE,
];

pub(crate) const CSI_NODES: &[Col] = &[
    NAME,
    number("Drivers", "Number of drivers on the node.", |o, _| o.list_at("spec.drivers").len().into()),
    AGE,
];

pub(crate) const CSI_CAPACITIES: &[Col] = &[
    NAME,
    text("StorageClassName", "The class.", |o, _| or(o, "storageClassName", "")),
    text("Capacity", "What is free.", |o, _| or(o, "capacity", UNSET)),
];

pub(crate) const SIGNING_REQUESTS: &[Col] = &[
    NAME,
    AGE,
    text("SignerName", "Who is asked to sign.", |o, _| or(o, "spec.signerName", NONE)),
    text("Requestor", "Who asked.", |o, _| or(o, "spec.username", "")),
    text("RequestedDuration", "For how long.", |o, _| match o.i64_at("spec.expirationSeconds") {
        None => NONE.into(),
        Some(seconds) => time::human_duration(seconds).into(),
    }),
    text("Condition", "What became of it.", |o, _| request_status(o).into()),
];

fn request_status(request: &Object) -> String {
    let conditions = request.list_at("status.conditions");
    let has = |kind: &str| conditions.iter().any(|c| str_of(c, "type") == kind);
    let mut texts = Vec::new();
    match (has("Denied"), has("Approved")) {
        (true, _) => texts.push("Denied"),
        (_, true) => texts.push("Approved"),
        _ => texts.push("Pending"),
    }
    if has("Failed") {
        texts.push("Failed");
    }
    if !request.str_at("status.certificate").is_empty() {
        texts.push("Issued");
    }
    texts.join(",")
}

pub(crate) const PRIORITY_CLASSES: &[Col] = &[
    NAME,
    number("Value", "The priority of pods of this class.", |o, _| {
        o.i64_at("value").unwrap_or_default().into()
    }),
    text("Global-Default", "Whether pods without a class get this one.", |o, _| {
        o.bool_at("globalDefault").into()
    }),
    AGE,
    text("PreemptionPolicy", "Whether pods of this class preempt others.", |o, _| {
        or(o, "preemptionPolicy", UNSET)
    }),
];

pub(crate) const RUNTIME_CLASSES: &[Col] =
    &[NAME, text("Handler", "The runtime's name for it.", |o, _| or(o, "handler", "")), AGE];

pub(crate) const DEVICE_CLAIMS: &[Col] = &[
    NAME,
    text("State", "What became of the claim.", |o, _| {
        let mut states = Vec::new();
        if o.deletion_timestamp().is_some() {
            states.push("deleted");
        }
        let allocated = o.get("status.allocation").is_some_and(Value::is_object);
        states.push(if allocated { "allocated" } else { "pending" });
        if !o.list_at("status.reservedFor").is_empty() {
            states.push("reserved");
        }
        states.join(",").into()
    }),
    AGE,
];

pub(crate) const DEVICE_SLICES: &[Col] = &[
    NAME,
    text("Node", "The node that has the devices.", |o, _| or(o, "spec.nodeName", UNSET)),
    text("Driver", "The driver of the devices.", |o, _| or(o, "spec.driver", "")),
    text("Pool", "The pool of the devices.", |o, _| or(o, "spec.pool.name", "")),
    AGE,
];

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn cells() {
        fn check(columns: &[Col], object: Value, expect: Value) {
            let object = Object::try_from(object).unwrap();
            let cells: Vec<_> = columns.iter().map(|c| (c.cell)(&object, time::now())).collect();
            assert_eq!(json!(cells), expect);
        }
        check(
            SIGNING_REQUESTS,
            json!({"metadata": {"name": "c"}, "spec": {"signerName": "s", "username": "u", "expirationSeconds": 86400},
                "status": {"certificate": "x", "conditions": [{"type": "Approved"}]}}),
            json!(["c", "<unknown>", "s", "u", "24h", "Approved,Issued"]),
        );
        check(
            &CLAIMS[1..6],
            json!({"spec": {"volumeName": "v", "storageClassName": "s"}, "status": {"phase": "Bound",
                "accessModes": ["ReadWriteMany", "ReadWriteOnce"], "capacity": {"storage": "1Gi"}}}),
            json!(["Bound", "v", "1Gi", "RWO,RWX", "s"]),
        );
        let annotations = json!({"storageclass.kubernetes.io/is-default-class": "true"});
        check(
            &STORAGE_CLASSES[..1],
            json!({"metadata": {"name": "s", "annotations": annotations}}),
            json!(["s (default)"]),
        );
    }
}
