//! Storage classes, CSI, dynamic resource allocation.

use super::{GroupRows, Row, STATUS};
use crate::table::cluster as columns;

const ATTRIBUTES: Row = Row::new("VolumeAttributesClass", "volumeattributesclasses")
    .short(&["vac"])
    .cluster()
    .columns(columns::VOLUME_ATTRIBUTES_CLASSES);

pub(super) const GROUPS: &[GroupRows] = &[
    GroupRows {
        group: "storage.k8s.io",
        version: "v1",
        rows: &[
            Row::new("CSIDriver", "csidrivers").cluster().columns(columns::CSI_DRIVERS),
            Row::new("CSINode", "csinodes").cluster().columns(columns::CSI_NODES),
            Row::new("CSIStorageCapacity", "csistoragecapacities").columns(columns::CSI_CAPACITIES),
            Row::new("StorageClass", "storageclasses")
                .short(&["sc"])
                .cluster()
                .columns(columns::STORAGE_CLASSES),
            Row::new("VolumeAttachment", "volumeattachments")
                .cluster()
                .subs(&[STATUS])
                .columns(columns::VOLUME_ATTACHMENTS),
            ATTRIBUTES,
        ],
    },
    GroupRows {
        group: "storage.k8s.io",
        version: "v1beta1",
        rows: &[ATTRIBUTES.stored("storage.k8s.io", "v1").off()],
    },
    GroupRows {
        group: "storagemigration.k8s.io",
        version: "v1beta1",
        rows: &[Row::new("StorageVersionMigration", "storageversionmigrations")
            .cluster()
            .subs(&[STATUS])
            .off()],
    },
];

const CLASSES: Row = Row::new("DeviceClass", "deviceclasses").cluster();
const CLAIMS: Row =
    Row::new("ResourceClaim", "resourceclaims").subs(&[STATUS]).columns(columns::DEVICE_CLAIMS);
const TEMPLATES: Row = Row::new("ResourceClaimTemplate", "resourceclaimtemplates");
const SLICES: Row = Row::new("ResourceSlice", "resourceslices").cluster().columns(columns::DEVICE_SLICES);
const GROUP: &str = "resource.k8s.io";

/// `v1beta1` has another shape and is kept apart: there is no conversion for it.
const OLD: [&str; 4] = [
    "resource.k8s.io/v1beta1/deviceclasses",
    "resource.k8s.io/v1beta1/resourceclaims",
    "resource.k8s.io/v1beta1/resourceclaimtemplates",
    "resource.k8s.io/v1beta1/resourceslices",
];

pub(super) const RESOURCES: &[GroupRows] = &[
    GroupRows { group: GROUP, version: "v1", rows: &[CLASSES, CLAIMS, TEMPLATES, SLICES] },
    GroupRows {
        group: GROUP,
        version: "v1beta2",
        rows: &[
            CLASSES.stored(GROUP, "v1").off(),
            CLAIMS.stored(GROUP, "v1").off(),
            TEMPLATES.stored(GROUP, "v1").off(),
            SLICES.stored(GROUP, "v1").off(),
        ],
    },
    GroupRows {
        group: GROUP,
        version: "v1beta1",
        rows: &[
            CLASSES.prefix(OLD[0]).off(),
            CLAIMS.prefix(OLD[1]).off(),
            TEMPLATES.prefix(OLD[2]).off(),
            SLICES.prefix(OLD[3]).off(),
        ],
    },
    GroupRows {
        group: GROUP,
        version: "v1alpha3",
        rows: &[Row::new("DeviceTaintRule", "devicetaintrules").cluster().subs(&[STATUS]).off()],
    },
];
