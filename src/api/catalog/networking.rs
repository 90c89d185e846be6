//! Services' surroundings: ingresses, policies, addresses, endpoint slices.

use super::{GroupRows, Row, STATUS};
use crate::table::network as columns;

const ADDRESSES: Row =
    Row::new("IPAddress", "ipaddresses").short(&["ip"]).cluster().columns(columns::ADDRESSES);
const SERVICE_CIDRS: Row =
    Row::new("ServiceCIDR", "servicecidrs").cluster().subs(&[STATUS]).columns(columns::SERVICE_CIDRS);

pub(super) const GROUPS: &[GroupRows] = &[
    GroupRows {
        group: "networking.k8s.io",
        version: "v1",
        rows: &[
            Row::new("IngressClass", "ingressclasses").cluster().columns(columns::INGRESS_CLASSES),
            Row::new("Ingress", "ingresses")
                .short(&["ing"])
                .prefix("ingress")
                .subs(&[STATUS])
                .columns(columns::INGRESSES),
            ADDRESSES,
            Row::new("NetworkPolicy", "networkpolicies").short(&["netpol"]).columns(columns::POLICIES),
            SERVICE_CIDRS,
        ],
    },
    GroupRows {
        group: "networking.k8s.io",
        version: "v1beta1",
        rows: &[
            ADDRESSES.stored("networking.k8s.io", "v1").off(),
            SERVICE_CIDRS.stored("networking.k8s.io", "v1").off(),
        ],
    },
];

pub(super) const DISCOVERY: &[GroupRows] = &[GroupRows {
    group: "discovery.k8s.io",
    version: "v1",
    rows: &[Row::new("EndpointSlice", "endpointslices").columns(columns::ENDPOINT_SLICES)],
}];
