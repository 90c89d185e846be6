//! The Node object: registering it and keeping its status true. Keeps true: upstream's conditions and texts;
//! a status is sent when something changed or the report period is over, as a patch that touches only what
//! is the kubelet's own. Not-ready becomes ready as soon as the runtime says so.

use std::{collections::BTreeMap, time::Duration};

use jiff::Timestamp;
use k8s_openapi::{
    api::core::v1::{
        ContainerImage, DaemonEndpoint, Node, NodeAddress, NodeCondition, NodeDaemonEndpoints, NodeSpec,
        NodeStatus,
    },
    apimachinery::pkg::apis::meta::v1::Time,
};
use kube::{
    Api,
    api::{ObjectMeta, Patch, PatchParams, PostParams},
};
use serde_json::{Value, json};

use super::machine;
use crate::{Error, cluster::answered, context::Context, error::Result, runtime::cri};

/// How often a node that is not ready looks again.
const EAGER: Duration = Duration::from_millis(200);
/// How often a ready node looks at its runtime.
const CALM: Duration = Duration::from_secs(2);
/// So many images are listed, the largest first.
const IMAGES: usize = 50;

/// The labels that every node has.
fn labels(context: &Context) -> BTreeMap<String, String> {
    let mut labels = context.config.labels.clone();
    for (key, value) in [
        ("kubernetes.io/hostname", context.config.node.as_str()),
        ("kubernetes.io/os", "linux"),
        ("kubernetes.io/arch", machine::architecture()),
        ("beta.kubernetes.io/os", "linux"),
        ("beta.kubernetes.io/arch", machine::architecture()),
    ] {
        labels.insert(key.to_owned(), value.to_owned());
    }
    labels
}

fn addresses(context: &Context) -> Vec<NodeAddress> {
    let ips =
        context.host.ips.iter().map(|ip| NodeAddress { type_: "InternalIP".into(), address: ip.clone() });
    let host = NodeAddress { type_: "Hostname".into(), address: context.config.node.clone() };
    ips.chain([host]).collect()
}

/// Makes the Node, or brings the labels of an existing one up to date.
///
/// # Errors
/// When the API server cannot be reached or refuses.
pub(crate) async fn register(context: &Context, kube: &kube::Client) -> Result<Node> {
    let api: Api<Node> = Api::all(kube.clone());
    let name = &context.config.node;
    let node = Node {
        metadata: ObjectMeta {
            name: Some(name.clone()),
            labels: Some(labels(context)),
            annotations: Some(
                [("volumes.kubernetes.io/controller-managed-attach-detach".to_owned(), "true".to_owned())]
                    .into(),
            ),
            ..ObjectMeta::default()
        },
        spec: Some(NodeSpec {
            taints: (!context.config.taints.is_empty()).then(|| context.config.taints.clone()),
            provider_id: context.config.provider_id.clone(),
            ..NodeSpec::default()
        }),
        status: Some(status(context, &[], None, Vec::new(), Timestamp::now())),
    };
    match api.create(&PostParams::default(), &node).await {
        Ok(node) => {
            tracing::info!(node = name, "registered");
            Ok(node)
        }
        Err(error) if answered(&error, 409) => {
            let patch = json!({"metadata": {"labels": labels(context)}});
            let patched = api.patch(name, &PatchParams::default(), &Patch::Strategic(&patch)).await;
            patched.map_err(Error::api(format!("update the labels of node {name}")))
        }
        Err(error) => Err(Error::api(format!("register node {name}"))(error)),
    }
}

/// A condition's kind, whether it holds, its reason and text.
type Fact = (&'static str, bool, &'static str, String);

/// What the runtime and the kernel say about the node.
fn facts(context: &Context, runtime: &[cri::RuntimeCondition]) -> Vec<Fact> {
    let (config, thresholds) = (&context.config, &context.config.thresholds);
    let memory = machine::memory().is_some_and(|(free, total)| thresholds.memory_low(free, total));
    let disk = machine::disk(&config.root).is_some_and(|(free, total)| thresholds.disk_low(free, total));
    let pressure = |kind, bad: bool, yes: (&'static str, &str), no: (&'static str, &str)| -> Fact {
        let (reason, text) = if bad { yes } else { no };
        (kind, bad, reason, text.to_owned())
    };
    let (ready, reason, text) = readiness(runtime);
    vec![
        pressure(
            "MemoryPressure",
            memory,
            ("KubeletHasInsufficientMemory", "kubelet has insufficient memory available"),
            ("KubeletHasSufficientMemory", "kubelet has sufficient memory available"),
        ),
        pressure(
            "DiskPressure",
            disk,
            ("KubeletHasDiskPressure", "kubelet has disk pressure"),
            ("KubeletHasNoDiskPressure", "kubelet has no disk pressure"),
        ),
        pressure(
            "PIDPressure",
            false,
            ("KubeletHasInsufficientPID", "kubelet has insufficient PID available"),
            ("KubeletHasSufficientPID", "kubelet has sufficient PID available"),
        ),
        ("Ready", ready, reason, text),
    ]
}

fn readiness(runtime: &[cri::RuntimeCondition]) -> (bool, &'static str, String) {
    let find = |kind: &str| runtime.iter().find(|one| one.r#type == kind);
    let trouble = match (find("RuntimeReady"), find("NetworkReady")) {
        (None, _) => Some("container runtime is down".to_owned()),
        (Some(one), _) if !one.status => Some(format!(
            "container runtime not ready: RuntimeReady=false reason:{} message:{}",
            one.reason, one.message
        )),
        (_, Some(one)) if !one.status => Some(format!(
            "container runtime network not ready: NetworkReady=false reason:{} message:{}",
            one.reason, one.message
        )),
        _ => None,
    };
    match trouble {
        None => (true, "KubeletReady", "kubelet is posting ready status".to_owned()),
        Some(text) => (false, "KubeletNotReady", text),
    }
}

fn status(
    context: &Context,
    runtime: &[cri::RuntimeCondition],
    old: Option<&NodeStatus>,
    images: Vec<ContainerImage>,
    now: Timestamp,
) -> NodeStatus {
    let now = Time(Timestamp::from_second(now.as_second()).unwrap_or(now));
    let conditions = facts(context, runtime).into_iter().map(|(kind, holds, reason, message)| {
        let status = if holds { "True" } else { "False" };
        let known = old.and_then(|old| old.conditions.as_ref());
        let known = known.and_then(|list| list.iter().find(|one| one.type_ == kind && one.status == status));
        NodeCondition {
            type_: kind.to_owned(),
            status: status.to_owned(),
            reason: Some(reason.to_owned()),
            message: Some(message),
            last_heartbeat_time: Some(now.clone()),
            last_transition_time: known
                .and_then(|one| one.last_transition_time.clone())
                .or(Some(now.clone())),
        }
    });
    NodeStatus {
        addresses: Some(addresses(context)),
        allocatable: Some(context.allocatable.clone()),
        capacity: Some(context.capacity.clone()),
        conditions: Some(conditions.collect()),
        daemon_endpoints: Some(NodeDaemonEndpoints {
            kubelet_endpoint: Some(DaemonEndpoint { port: i32::from(context.config.port) }),
        }),
        images: Some(images),
        node_info: Some(machine::info(&context.config, &context.runtime_version)),
        ..NodeStatus::default()
    }
}

/// Keeps the status true until dropped. `changed` wakes it early (the Node got its CIDR, say).
pub(crate) async fn keep(context: &Context, kube: &kube::Client, changed: &tokio::sync::Notify) {
    let api: Api<Node> = Api::all(kube.clone());
    let mut reported: Option<tokio::time::Instant> = None;
    let mut images = Vec::new();
    let mut images_at: Option<tokio::time::Instant> = None;
    loop {
        let runtime = context.runtime.status().await.unwrap_or_default();
        if images_at.is_none_or(|at| at.elapsed() >= context.config.status_update) {
            images = image_list(context).await;
            images_at = Some(tokio::time::Instant::now());
        }
        let node = context.node();
        let old = node.as_ref().and_then(|node| node.status.as_ref());
        let new = status(context, &runtime, old, images.clone(), Timestamp::now());
        let due = reported.is_none_or(|at| at.elapsed() >= context.config.status_report);
        if node.is_some() && (due || differs(old, &new)) {
            match send(&api, &context.config.node, &new).await {
                Ok(node) => {
                    context.set_node(node.into());
                    reported = Some(tokio::time::Instant::now());
                }
                Err(error) => tracing::warn!(error = error.chain(), "cannot send the node's status"),
            }
        }
        let pause = if readiness(&runtime).0 { CALM.min(context.config.status_update) } else { EAGER };
        tokio::select! {
            () = tokio::time::sleep(pause) => {}
            () = changed.notified() => {}
        }
    }
}

async fn send(api: &Api<Node>, name: &str, new: &NodeStatus) -> Result<Node> {
    let mut value = serde_json::to_value(new).unwrap_or(Value::Null);
    // Addresses merge by type: several of one type, or an old one, need the list as a whole.
    if let Some(addresses) = value.get_mut("addresses").and_then(Value::as_array_mut) {
        addresses.insert(0, json!({"$patch": "replace"}));
    }
    let patch = json!({"status": value});
    let sent = api.patch_status(name, &PatchParams::default(), &Patch::Strategic(&patch)).await;
    sent.map_err(Error::api(format!("patch the status of node {name}")))
}

/// Whether anything but heartbeats changed.
fn differs(old: Option<&NodeStatus>, new: &NodeStatus) -> bool {
    let Some(old) = old else { return true };
    let conditions = new.conditions.iter().flatten().any(|one| {
        let known = old.conditions.iter().flatten().find(|known| known.type_ == one.type_);
        known.is_none_or(|known| {
            known.status != one.status || known.reason != one.reason || known.message != one.message
        })
    });
    conditions
        || old.addresses != new.addresses
        || old.capacity != new.capacity
        || old.allocatable != new.allocatable
        || old.node_info.as_ref().map(|info| &info.boot_id)
            != new.node_info.as_ref().map(|info| &info.boot_id)
        || old.images.as_ref().map_or(0, Vec::len) != new.images.as_ref().map_or(0, Vec::len)
        || old.daemon_endpoints != new.daemon_endpoints
}

async fn image_list(context: &Context) -> Vec<ContainerImage> {
    let mut images = context.runtime.list_images().await.unwrap_or_default();
    images.sort_by_key(|image| std::cmp::Reverse(image.size));
    let listed = images.into_iter().take(IMAGES).map(|image| ContainerImage {
        names: Some(image.repo_digests.into_iter().chain(image.repo_tags).take(5).collect()),
        size_bytes: i64::try_from(image.size).ok(),
    });
    listed.collect()
}
