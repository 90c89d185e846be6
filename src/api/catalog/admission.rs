//! Admission policies and webhooks.

use super::{GroupRows, Row, STATUS};
use crate::table::policy as columns;

const GROUP: &str = "admissionregistration.k8s.io";
const MUTATING: Row = Row::new("MutatingAdmissionPolicy", "mutatingadmissionpolicies")
    .cluster()
    .extends_api()
    .columns(columns::MUTATING_POLICIES)
    .off();
const MUTATING_BINDINGS: Row = Row::new("MutatingAdmissionPolicyBinding", "mutatingadmissionpolicybindings")
    .cluster()
    .extends_api()
    .columns(columns::POLICY_BINDINGS)
    .off();

pub(super) const GROUPS: &[GroupRows] = &[
    GroupRows {
        group: GROUP,
        version: "v1",
        rows: &[
            Row::new("MutatingWebhookConfiguration", "mutatingwebhookconfigurations")
                .cluster()
                .extends_api()
                .columns(columns::WEBHOOKS),
            Row::new("ValidatingAdmissionPolicy", "validatingadmissionpolicies")
                .cluster()
                .extends_api()
                .subs(&[STATUS])
                .columns(columns::VALIDATING_POLICIES),
            Row::new("ValidatingAdmissionPolicyBinding", "validatingadmissionpolicybindings")
                .cluster()
                .extends_api()
                .columns(columns::POLICY_BINDINGS),
            Row::new("ValidatingWebhookConfiguration", "validatingwebhookconfigurations")
                .cluster()
                .extends_api()
                .columns(columns::WEBHOOKS),
        ],
    },
    GroupRows { group: GROUP, version: "v1beta1", rows: &[MUTATING, MUTATING_BINDINGS] },
    GroupRows {
        group: GROUP,
        version: "v1alpha1",
        rows: &[MUTATING.stored(GROUP, "v1beta1"), MUTATING_BINDINGS.stored(GROUP, "v1beta1")],
    },
];
