//! The machine as a Node: its certificates, its status, its Lease, its network configuration. Keeps true:
//! upstream's condition types, reasons and texts. Pods are left to `pod` and `manager`.

pub(crate) mod certificates;
pub(crate) mod cni;
pub(crate) mod lease;
pub(crate) mod machine;
pub(crate) mod status;
