//! The node's Lease in kube-node-lease, the heartbeat. Keeps true: renewed every quarter of its length, over
//! a connection of its own, and made again when it is gone.

use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::{
    api::{
        coordination::v1::{Lease, LeaseSpec},
        core::v1::Node,
    },
    apimachinery::pkg::apis::meta::v1::{MicroTime, OwnerReference},
};
use kube::{
    Api,
    api::{ObjectMeta, PostParams},
};

use crate::cluster::answered;

/// Renews until dropped. `seconds` is the Lease's length.
pub(crate) async fn renew(kube: kube::Client, node: String, seconds: i32, object: impl Fn() -> Option<Node>) {
    let api: Api<Lease> = Api::namespaced(kube, "kube-node-lease");
    let period = Duration::from_millis(u64::try_from(seconds).unwrap_or(40) * 250);
    let mut known: Option<Lease> = None;
    let mut interval = tokio::time::interval(period);
    interval.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        interval.tick().await;
        // A renewal that hangs must not cost the next one.
        match tokio::time::timeout(period, once(&api, &node, seconds, known.take(), object())).await {
            Ok(Ok(lease)) => known = Some(lease),
            Ok(Err(error)) => {
                tracing::warn!(error = &error as &dyn std::error::Error, "cannot renew the node's lease");
                interval.reset_after(Duration::from_millis(200).min(period));
            }
            Err(_) => tracing::warn!("renewing the node's lease took too long"),
        }
    }
}

async fn once(
    api: &Api<Lease>,
    node: &str,
    seconds: i32,
    known: Option<Lease>,
    object: Option<Node>,
) -> Result<Lease, kube::Error> {
    let known = match known {
        Some(lease) => Some(lease),
        None => api.get_opt(node).await?,
    };
    let spec = LeaseSpec {
        holder_identity: Some(node.to_owned()),
        lease_duration_seconds: Some(seconds),
        renew_time: Some(MicroTime(Timestamp::now())),
        ..LeaseSpec::default()
    };
    let owner = object.and_then(|object| {
        Some(OwnerReference {
            api_version: "v1".into(),
            kind: "Node".into(),
            name: node.to_owned(),
            uid: object.metadata.uid?,
            ..OwnerReference::default()
        })
    });
    let Some(mut lease) = known else {
        let metadata = ObjectMeta {
            name: Some(node.to_owned()),
            namespace: Some("kube-node-lease".into()),
            owner_references: owner.map(|owner| vec![owner]),
            ..ObjectMeta::default()
        };
        let lease = Lease { metadata, spec: Some(spec) };
        return api.create(&PostParams::default(), &lease).await;
    };
    lease.spec = Some(spec);
    if lease.metadata.owner_references.is_none() {
        lease.metadata.owner_references = owner.map(|owner| vec![owner]);
    }
    match api.replace(node, &PostParams::default(), &lease).await {
        Err(error) if answered(&error, 404) || answered(&error, 409) => {
            tracing::debug!("the node's lease changed under us");
            Err(error)
        }
        other => other,
    }
}
