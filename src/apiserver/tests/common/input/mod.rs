//! What clients send wrong, on whatever store: tables of request and answer. Every refusal is a whole `Status` with
//! Kubernetes' reason and text, and the server serves on.

mod bodies;
mod names;
mod paths;
mod queries;
mod subresources;

pub use bodies::bad_bodies;
pub use names::bad_names;
pub use paths::{bad_paths_and_types, path_tricks};
pub use queries::{bad_queries, expired_revisions};
pub use subresources::{bad_subresources, unknown_and_duplicate_fields};

use super::{Api, call, send};
use apiserver::store::Kv;
use base64::{Engine, prelude::BASE64_URL_SAFE_NO_PAD};
use kube::{Client, client::Body};
use serde_json::{Value, json};
use std::sync::Arc;

const JSON: &str = "application/json";
const YAML: &str = "application/yaml";
const PROTOBUF: &str = "application/vnd.kubernetes.protobuf";
const PATCH: &str = "application/json-patch+json";
const MERGE: &str = "application/merge-patch+json";
const STRATEGIC: &str = "application/strategic-merge-patch+json";
const MAPS: &str = "/api/v1/namespaces/default/configmaps";
const PODS: &str = "/api/v1/namespaces/default/pods";
const DEPLOYMENTS: &str = "/apis/apps/v1/namespaces/default/deployments";

/// Method, path, content type, body; then status code, reason, and the message, in which `*` stands for anything.
type Row<'a> = (&'a str, &'a str, &'a str, &'a [u8], u16, &'a str, &'a str);

async fn refused(client: &Client, row: Row<'_>) {
    let (method, path, content, body, code, reason, message) = row;
    let request = http::Request::builder().method(method).uri(path).header("content-type", content);
    let answer = send(client, request.body(Body::from(body.to_vec())).unwrap());
    let answer = tokio::time::timeout(std::time::Duration::from_secs(30), answer).await;
    let answer = answer.unwrap_or_else(|_| panic!("{method} {path} is not answered"));
    let text = String::from_utf8_lossy(answer.body());
    let title = format!("{method} {path} {} → {} {text}", shown(body), answer.status());
    assert_eq!(answer.status().as_u16(), code, "{title}");
    let status: Value = serde_json::from_slice(answer.body()).unwrap_or_else(|e| panic!("{title}: {e}"));
    let whole =
        json!({"kind": "Status", "apiVersion": "v1", "status": "Failure", "reason": reason, "code": code});
    for (field, expect) in whole.as_object().unwrap() {
        assert_eq!(&status[field], expect, "{field} of {title}");
    }
    assert!(like(status["message"].as_str().unwrap_or_default(), message), "expected {message:?}: {title}");
}

fn shown(body: &[u8]) -> String {
    String::from_utf8_lossy(&body[..body.len().min(120)]).into_owned()
}

fn like(text: &str, pattern: &str) -> bool {
    let mut parts = pattern.split('*');
    let Some(mut rest) = parts.next().and_then(|first| text.strip_prefix(first)) else { return false };
    let mut open = false;
    for part in parts {
        let Some(at) = rest.find(part) else { return false };
        (rest, open) = (&rest[at + part.len()..], part.is_empty());
    }
    rest.is_empty() || open
}

fn configmap(name: &str) -> Vec<u8> {
    json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name}, "data": {"a": "1"}})
        .to_string()
        .into_bytes()
}

fn with_metadata(metadata: Value) -> Vec<u8> {
    json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata}).to_string().into_bytes()
}

fn nested(open: &str, close: &str, levels: usize) -> Vec<u8> {
    format!(
        "{{\"kind\":\"ConfigMap\",\"apiVersion\":\"v1\",\"data\":{}{}}}",
        open.repeat(levels),
        close.repeat(levels)
    )
    .into_bytes()
}

fn parse(text: &str) -> Value {
    serde_json::from_str(text).unwrap_or_else(|e| panic!("{e}: {text}"))
}
