//! ServiceAccount: every pod runs as a service account that exists, with a token it can use.
//!
//! The token itself is made by the kubelet's TokenRequest for the projected volume added here.

use std::sync::Arc;

use api::Object;
use serde_json::{Value, json};

use super::{Operation, Plugin, Review};
use crate::authz::refs::{self, Kind};

pub(crate) struct ServiceAccount;

const TOKEN_PATH: &str = "/var/run/secrets/kubernetes.io/serviceaccount";
const VOLUME_PREFIX: &str = "kube-api-access-";
const MIRROR: &str = "kubernetes.io/config.mirror";
/// Seconds a projected token lives: one hour and seven seconds, so that it is told from requested ones.
const TOKEN_SECONDS: i64 = 3607;

#[async_trait::async_trait]
impl Plugin for ServiceAccount {
    async fn admit(&self, review: &mut Review<'_>) -> api::Result<()> {
        if !review.is("", "pods") || review.operation != Operation::Create {
            return Ok(());
        }
        let Some(pod) = review.object.as_deref_mut() else { return Ok(()) };
        if pod.annotation(MIRROR).is_some() {
            return check_mirror(pod).map_err(|reason| review.forbidden(reason));
        }
        if pod.str_at("spec.serviceAccountName").is_empty() {
            pod.set("spec.serviceAccountName", "default");
        }
        let name = pod.str_at("spec.serviceAccountName").to_owned();
        // The old name of the field, kept equal.
        pod.set("spec.serviceAccount", name.as_str());
        let account = find(review, &name).await?;
        if let Some(pod) = review.object.as_deref_mut() {
            equip(pod, &account, &api::name::generate(VOLUME_PREFIX));
        }
        Ok(())
    }
}

async fn find(review: &Review<'_>, name: &str) -> api::Result<Arc<Object>> {
    let accounts = review.server.resource("", "serviceaccounts");
    if let Some(account) = review.server.cached_get(&accounts, review.namespace, name) {
        return Ok(account);
    }
    // The account may be younger than what this server has seen.
    match review.server.get(&accounts, review.namespace, name).await {
        Ok(account) => Ok(Arc::new(account)),
        Err(error) => Err(review.forbidden(format!(
            "error looking up service account {}/{name}: {}",
            review.namespace,
            error.message()
        ))),
    }
}

/// What a mirror pod (made by a node, outside all control) must not have.
fn check_mirror(pod: &Object) -> Result<(), String> {
    let tokens = pod.list_at("spec.volumes").iter().flat_map(sources);
    if tokens.into_iter().any(|source| source.get("serviceAccountToken").is_some()) {
        return Err("a mirror pod may not use ServiceAccountToken volume projections".into());
    }
    match refs::refers_to_something(pod) {
        Some(Kind::ServiceAccount) => Err("a mirror pod may not reference service accounts".into()),
        Some(Kind::Secret) => Err("a mirror pod may not reference secrets".into()),
        _ => Ok(()),
    }
}

fn sources(volume: &Value) -> Vec<&Value> {
    let list =
        volume.get("projected").and_then(|projected| projected.get("sources")).and_then(Value::as_array);
    list.into_iter().flatten().collect()
}

/// Adds what the account gives to a pod: its token and its image pull secrets.
fn equip(pod: &mut Object, account: &Object, volume_name: &str) {
    if wants_token(pod, account) {
        mount_token(pod, volume_name);
    }
    if pod.list_at("spec.imagePullSecrets").is_empty() && !account.list_at("imagePullSecrets").is_empty() {
        pod.set("spec.imagePullSecrets", account.list_at("imagePullSecrets").to_vec());
    }
}

fn wants_token(pod: &Object, account: &Object) -> bool {
    let says = |object: &Object, path: &str| object.get(path).and_then(Value::as_bool);
    says(pod, "spec.automountServiceAccountToken")
        .or_else(|| says(account, "automountServiceAccountToken"))
        .unwrap_or(true)
}

fn mount_token(pod: &mut Object, fresh_name: &str) {
    let is_token = |volume: &&Value| text(volume, "name").starts_with(VOLUME_PREFIX);
    let existing =
        pod.list_at("spec.volumes").iter().find(is_token).map(|volume| text(volume, "name").to_owned());
    let name = existing.clone().unwrap_or_else(|| fresh_name.to_owned());
    let mut mounted = false;
    for path in ["spec.initContainers", "spec.containers"] {
        let containers = pod.get_mut(path).and_then(Value::as_array_mut);
        for container in containers.into_iter().flatten() {
            mounted |= mount(container, &name);
        }
    }
    if mounted && existing.is_none() {
        let mut volumes = pod.list_at("spec.volumes").to_vec();
        volumes.push(token_volume(&name));
        pod.set("spec.volumes", volumes);
    }
}

/// Mounts the token unless something else is mounted at its place.
fn mount(container: &mut Value, volume: &str) -> bool {
    let Some(container) = container.as_object_mut() else { return false };
    let mounts = container.entry("volumeMounts").or_insert_with(|| json!([]));
    if mounts.is_null() {
        *mounts = json!([]);
    }
    let Some(mounts) = mounts.as_array_mut() else { return false };
    if mounts.iter().any(|mount| text(mount, "mountPath").trim_end_matches('/') == TOKEN_PATH) {
        return false;
    }
    mounts.push(json!({"name": volume, "readOnly": true, "mountPath": TOKEN_PATH}));
    true
}

fn token_volume(name: &str) -> Value {
    let field = json!({"apiVersion": "v1", "fieldPath": "metadata.namespace"});
    json!({
        "name": name,
        "projected": {
            "defaultMode": 420,
            "sources": [
                {"serviceAccountToken": {"expirationSeconds": TOKEN_SECONDS, "path": "token"}},
                {"configMap": {"name": "kube-root-ca.crt", "items": [{"key": "ca.crt", "path": "ca.crt"}]}},
                {"downwardAPI": {"items": [{"path": "namespace", "fieldRef": field}]}},
            ],
        },
    })
}

fn text<'a>(value: &'a Value, field: &str) -> &'a str {
    value.get(field).and_then(Value::as_str).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn object(value: Value) -> Object {
        Object(value.as_object().unwrap().clone())
    }

    #[test]
    fn pods_are_equipped() {
        let check = |pod: Value, account: Value, expect: Value| {
            let mut pod = object(json!({"spec": pod}));
            equip(&mut pod, &object(account), "kube-api-access-abcde");
            let mounts: Vec<Value> = pod
                .list_at("spec.containers")
                .iter()
                .map(|c| {
                    c["volumeMounts"]
                        .as_array()
                        .map_or(json!([]), |m| m.iter().map(|m| m["name"].clone()).collect())
                })
                .collect();
            let volumes: Vec<Value> = pod.list_at("spec.volumes").iter().map(|v| v["name"].clone()).collect();
            let secrets: Vec<Value> =
                pod.list_at("spec.imagePullSecrets").iter().map(|s| s["name"].clone()).collect();
            assert_eq!(json!([mounts, volumes, secrets]), expect);
        };
        let token = "kube-api-access-abcde";
        check(json!({"containers": [{}, {}]}), json!({}), json!([[[token], [token]], [token], []]));
        check(
            json!({"containers": [{}], "automountServiceAccountToken": false}),
            json!({}),
            json!([[[]], [], []]),
        );
        check(
            json!({"containers": [{}]}),
            json!({"automountServiceAccountToken": false}),
            json!([[[]], [], []]),
        );
        check(
            json!({"containers": [{}], "automountServiceAccountToken": true}),
            json!({"automountServiceAccountToken": false}),
            json!([[[token]], [token], []]),
        );
        check(
            json!({"containers": [{"volumeMounts": [{"name": "own", "mountPath": TOKEN_PATH}]}]}),
            json!({}),
            json!([[["own"]], [], []]),
        );
        check(
            json!({"containers": [{"volumeMounts": null}], "volumes": [{"name": "kube-api-access-old"}]}),
            json!({}),
            json!([[["kube-api-access-old"]], ["kube-api-access-old"], []]),
        );
        check(
            json!({"containers": []}),
            json!({"imagePullSecrets": [{"name": "pull"}]}),
            json!([[], [], ["pull"]]),
        );
        check(
            json!({"containers": [], "imagePullSecrets": [{"name": "own"}]}),
            json!({"imagePullSecrets": [{"name": "pull"}]}),
            json!([[], [], ["own"]]),
        );
    }

    #[test]
    fn mirror_pods() {
        let check = |spec: Value, expect: Result<(), &str>| {
            let found = check_mirror(&object(json!({"spec": spec})));
            assert_eq!(found, expect.map_err(str::to_owned));
        };
        check(json!({}), Ok(()));
        check(json!({"serviceAccountName": "x"}), Err("a mirror pod may not reference service accounts"));
        check(
            json!({"volumes": [{"secret": {"secretName": "x"}}]}),
            Err("a mirror pod may not reference secrets"),
        );
        check(
            json!({"volumes": [{"projected": {"sources": [{"serviceAccountToken": {}}]}}]}),
            Err("a mirror pod may not use ServiceAccountToken volume projections"),
        );
    }
}
