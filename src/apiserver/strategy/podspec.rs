//! What a pod is made of, wherever it stands, in a Pod or in a workload's template: the defaults. `podcheck` validates.

use super::defaults::{Row, fill, visit};
use api::Object;
use serde_json::{Map, Value, json};

type Json = Map<String, Value>;

/// Defaults of a pod's spec, relative to it.
const SPEC: &[Row] = &[
    ("dnsPolicy", "\"ClusterFirst\""),
    ("restartPolicy", "\"Always\""),
    ("schedulerName", "\"default-scheduler\""),
    ("securityContext", "{}"),
    ("terminationGracePeriodSeconds", "30"),
    ("volumes[].configMap.defaultMode", "420"),
    ("volumes[].secret.defaultMode", "420"),
    ("volumes[].downwardAPI.defaultMode", "420"),
    ("volumes[].downwardAPI.items[].fieldRef.apiVersion", "\"v1\""),
    ("volumes[].hostPath.type", "\"\""),
    ("volumes[].projected.defaultMode", "420"),
    ("volumes[].projected.sources[].serviceAccountToken.expirationSeconds", "3600"),
    ("volumes[].projected.sources[].downwardAPI.items[].fieldRef.apiVersion", "\"v1\""),
];

/// Defaults of a container, relative to it.
const CONTAINER: &[Row] = &[
    ("resources", "{}"),
    ("terminationMessagePath", "\"/dev/termination-log\""),
    ("terminationMessagePolicy", "\"File\""),
    ("ports[].protocol", "\"TCP\""),
    ("env[].valueFrom.fieldRef.apiVersion", "\"v1\""),
    ("lifecycle.postStart.httpGet.path", "\"/\""),
    ("lifecycle.postStart.httpGet.scheme", "\"HTTP\""),
    ("lifecycle.preStop.httpGet.path", "\"/\""),
    ("lifecycle.preStop.httpGet.scheme", "\"HTTP\""),
];

const PROBE: &[Row] = &[
    ("timeoutSeconds", "1"),
    ("periodSeconds", "10"),
    ("successThreshold", "1"),
    ("failureThreshold", "3"),
    ("httpGet.path", "\"/\""),
    ("httpGet.scheme", "\"HTTP\""),
    ("grpc.service", "\"\""),
];

const CONTAINER_LISTS: [&str; 3] = ["initContainers", "containers", "ephemeralContainers"];
pub(super) const PROBES: [&str; 3] = ["livenessProbe", "readinessProbe", "startupProbe"];

/// Fills in a pod spec at `at` (`spec`, `spec.template.spec`, …).
pub(super) fn default(object: &mut Object, at: &str) {
    fill(object, at, SPEC);
    visit(object, at, &mut default_accounts);
    visit(object, &format!("{at}.volumes[]"), &mut |volume| {
        if volume.len() <= 1 {
            volume.insert("emptyDir".into(), json!({}));
        }
    });
    let host_network = object.bool_at(&format!("{at}.hostNetwork"));
    for list in CONTAINER_LISTS {
        let container = format!("{at}.{list}[]");
        fill(object, &container, CONTAINER);
        for probe in PROBES {
            fill(object, &format!("{container}.{probe}"), PROBE);
        }
        visit(object, &container, &mut |c| default_container(c, host_network));
    }
}

/// `serviceAccount` is the old name of `serviceAccountName`: both are shown.
fn default_accounts(spec: &mut Json) {
    let get =
        |name: &str| spec.get(name).and_then(Value::as_str).filter(|v| !v.is_empty()).map(str::to_owned);
    if let Some(account) = get("serviceAccountName").or_else(|| get("serviceAccount")) {
        spec.insert("serviceAccountName".into(), account.clone().into());
        spec.insert("serviceAccount".into(), account.into());
    }
}

fn default_container(container: &mut Json, host_network: bool) {
    let image = container.get("image").and_then(Value::as_str).unwrap_or_default();
    let policy = if pulls_always(image) { "Always" } else { "IfNotPresent" };
    if container.get("imagePullPolicy").and_then(Value::as_str).is_none_or(str::is_empty) {
        container.insert("imagePullPolicy".into(), policy.into());
    }
    if let Some(Value::Object(resources)) = container.get_mut("resources") {
        default_requests(resources);
    }
    if host_network {
        let ports = container.get_mut("ports").and_then(Value::as_array_mut);
        for port in ports.into_iter().flatten().filter_map(Value::as_object_mut) {
            if let Some(number) = port.get("containerPort").cloned() {
                port.entry("hostPort").or_insert(number);
            }
        }
    }
}

/// An image without a tag or digest, or with the tag `latest`, may change under its name.
fn pulls_always(image: &str) -> bool {
    let last = image.rsplit('/').next().unwrap_or_default();
    !last.contains('@') && last.split_once(':').is_none_or(|(_, tag)| tag == "latest")
}

/// A limit without a request asks for what it limits.
fn default_requests(resources: &mut Json) {
    let Some(Value::Object(limits)) = resources.get("limits").cloned() else { return };
    let requests = resources.entry("requests").or_insert_with(|| json!({}));
    if let Some(requests) = requests.as_object_mut() {
        for (name, limit) in limits {
            requests.entry(name).or_insert(limit);
        }
    }
}
