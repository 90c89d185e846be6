//! Identities, permissions, certificates, disruption budgets.

use super::{GroupRows, Row, STATUS, Sub, Verbs};
use crate::table::{cluster, policy as columns};

const REVIEW: Verbs = Verbs::CREATE;

pub(super) const REVIEWS: &[GroupRows] = &[
    GroupRows {
        group: "authentication.k8s.io",
        version: "v1",
        rows: &[
            Row::new("SelfSubjectReview", "selfsubjectreviews").cluster().verbs(REVIEW),
            Row::new("TokenReview", "tokenreviews").cluster().verbs(REVIEW),
        ],
    },
    GroupRows {
        group: "authorization.k8s.io",
        version: "v1",
        rows: &[
            Row::new("LocalSubjectAccessReview", "localsubjectaccessreviews").verbs(REVIEW),
            Row::new("SelfSubjectAccessReview", "selfsubjectaccessreviews").cluster().verbs(REVIEW),
            Row::new("SelfSubjectRulesReview", "selfsubjectrulesreviews").cluster().verbs(REVIEW),
            Row::new("SubjectAccessReview", "subjectaccessreviews").cluster().verbs(REVIEW),
        ],
    },
];

const BUNDLES: Row = Row::new("ClusterTrustBundle", "clustertrustbundles").cluster().off();

pub(super) const CERTIFICATES: &[GroupRows] = &[
    GroupRows {
        group: "certificates.k8s.io",
        version: "v1",
        rows: &[Row::new("CertificateSigningRequest", "certificatesigningrequests")
            .short(&["csr"])
            .cluster()
            .subs(&[Sub::own("approval"), STATUS])
            .columns(cluster::SIGNING_REQUESTS)],
    },
    GroupRows {
        group: "certificates.k8s.io",
        version: "v1beta1",
        rows: &[BUNDLES, Row::new("PodCertificateRequest", "podcertificaterequests").subs(&[STATUS]).off()],
    },
    GroupRows {
        group: "certificates.k8s.io",
        version: "v1alpha1",
        rows: &[BUNDLES.stored("certificates.k8s.io", "v1beta1")],
    },
];

pub(super) const POLICY: &[GroupRows] = &[GroupRows {
    group: "policy",
    version: "v1",
    rows: &[Row::new("PodDisruptionBudget", "poddisruptionbudgets")
        .short(&["pdb"])
        .subs(&[STATUS])
        .columns(columns::DISRUPTION_BUDGETS)],
}];

pub(super) const RBAC: &[GroupRows] = &[GroupRows {
    group: "rbac.authorization.k8s.io",
    version: "v1",
    rows: &[
        Row::new("ClusterRoleBinding", "clusterrolebindings").cluster().columns(columns::ROLE_BINDINGS),
        Row::new("ClusterRole", "clusterroles").cluster().columns(crate::table::core::CREATED_AT),
        Row::new("RoleBinding", "rolebindings").columns(columns::ROLE_BINDINGS),
        Row::new("Role", "roles").columns(crate::table::core::CREATED_AT),
    ],
}];
