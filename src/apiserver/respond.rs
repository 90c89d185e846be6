//! Answers: what the client accepts, and objects, lists and errors in that form.
//!
//! Bytes that are finished already (from the watch cache) go out as they are; only tables, metadata-only
//! answers, YAML and versions other than the stored one are made per request.

use crate::{table, verbs::Context};
use api::{Object, catalog::Resource, status::Status};
use axum::{body::Body, response::Response};
use bytes::Bytes;
use http::{HeaderMap, HeaderValue, StatusCode, header};
use serde_json::{Value, json};
use std::sync::Arc;

/// What can be sent.
const AVAILABLE: &[&str] = &["application/json", "application/yaml"];
const JSON: &str = "application/json";

/// How objects are shown.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Shape {
    /// As they are.
    #[default]
    Plain,
    /// As rows of a table, in this version of meta.k8s.io.
    Table(&'static str),
    /// Their metadata only.
    Partial(&'static str),
}

/// What the client accepts best.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Accept {
    /// How objects are shown.
    pub(crate) shape: Shape,
    /// YAML instead of JSON.
    pub(crate) yaml: bool,
}

/// Reads the Accept header: the first alternative (by quality, then order) that can be sent.
pub(crate) fn negotiate(headers: &HeaderMap) -> api::Result<Accept> {
    let mut wanted: Vec<(u32, Accept)> = Vec::new();
    let values: Vec<&str> = headers.get_all(header::ACCEPT).iter().filter_map(|v| v.to_str().ok()).collect();
    let text = values.join(",");
    if text.trim().is_empty() {
        return Ok(Accept::default());
    }
    for alternative in text.split(',') {
        if let Some((quality, accept)) = alternative_of(alternative) {
            wanted.push((quality, accept));
        }
    }
    wanted.sort_by_key(|(quality, _)| std::cmp::Reverse(*quality));
    wanted.first().map(|(_, accept)| *accept).ok_or_else(|| Status::not_acceptable(AVAILABLE))
}

fn alternative_of(text: &str) -> Option<(u32, Accept)> {
    let mut parts = text.split(';').map(str::trim);
    let media = parts.next()?.to_ascii_lowercase();
    let parameters: Vec<(&str, &str)> = parts.filter_map(|p| p.split_once('=')).collect();
    let get = |name: &str| parameters.iter().find(|(n, _)| *n == name).map(|(_, v)| *v);
    let quality = get("q").and_then(|q| q.parse::<f32>().ok()).unwrap_or(1.0);
    let yaml = match media.as_str() {
        "application/json" | "*/*" | "application/*" => false,
        "application/yaml" => true,
        _ => return None,
    };
    let version = match get("v") {
        Some("v1beta1") => "v1beta1",
        _ => "v1",
    };
    let shape = match get("as") {
        None => Shape::Plain,
        Some("Table") => Shape::Table(version),
        Some("PartialObjectMetadata" | "PartialObjectMetadataList") => Shape::Partial(version),
        Some(_) => return None,
    };
    Some(((quality * 1000.0) as u32, Accept { shape, yaml }))
}

/// An error, always as JSON.
pub(crate) fn error(status: &Status) -> Response {
    let body = serde_json::to_vec(status).unwrap_or_default();
    let mut response = raw(
        StatusCode::from_u16(status.code()).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR),
        JSON,
        body.into(),
    );
    if let Some(seconds) = status.details().map(|d| d.retry_after_seconds).filter(|s| *s > 0) {
        response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from(seconds));
    }
    response
}

/// Finished bytes.
pub(crate) fn raw(code: StatusCode, content_type: &'static str, body: Bytes) -> Response {
    let mut response = Response::new(Body::from(body));
    *response.status_mut() = code;
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(content_type));
    response.headers_mut().insert(header::CACHE_CONTROL, HeaderValue::from_static("no-cache, private"));
    response
}

/// Any JSON value, in the format the client accepts.
pub(crate) fn value(accept: Accept, code: StatusCode, value: &Value) -> Response {
    if accept.yaml
        && let Ok(text) = serde_saphyr::to_string(value)
    {
        return raw(code, "application/yaml", text.into_bytes().into());
    }
    raw(code, JSON, serde_json::to_vec(value).unwrap_or_default().into())
}

/// A Status that is no error.
pub(crate) fn success(ctx: &Context, name: &str, uid: &str) -> Response {
    let status = Status::success(&ctx.resource.group_resource(), name, uid);
    value(ctx.accept, StatusCode::OK, &serde_json::to_value(status).unwrap_or_default())
}

/// One object in the storage version, as the client wants it.
pub(crate) fn object(ctx: &Context, code: StatusCode, object: Object) -> api::Result<Response> {
    let object = ctx.present(object)?;
    let shown = match ctx.accept.shape {
        Shape::Plain => object.into_value(),
        Shape::Partial(version) => partial(&object, version),
        Shape::Table(version) => {
            let rv = object.resource_version().to_string();
            table::render(ctx, &[Arc::new(object)], version, json!({"resourceVersion": rv}))?
        }
    };
    Ok(value(ctx.accept, code, &shown))
}

/// The bytes of one object in the storage version, as the client wants it.
pub(crate) fn bytes(ctx: &Context, bytes: &Bytes) -> api::Result<Response> {
    if ctx.plain() && !ctx.accept.yaml {
        return Ok(raw(StatusCode::OK, JSON, bytes.clone()));
    }
    object(ctx, StatusCode::OK, Object::from_slice(bytes)?)
}

/// An object's metadata only.
pub(crate) fn partial(object: &Object, version: &str) -> Value {
    json!({
        "kind": "PartialObjectMetadata",
        "apiVersion": format!("meta.k8s.io/{version}"),
        "metadata": object.get("metadata"),
    })
}

/// The kind of a list, as the client wants it, with its apiVersion.
pub(crate) fn list_type(shape: Shape, r: &Resource) -> (String, String) {
    match shape {
        Shape::Partial(version) => (format!("meta.k8s.io/{version}"), "PartialObjectMetadataList".into()),
        _ => (r.group_version(), r.list_kind.clone()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_best_alternative_wins() {
        let check = |accept: &str, expect: Option<(Shape, bool)>| {
            let mut headers = HeaderMap::new();
            headers.insert(header::ACCEPT, accept.parse().unwrap());
            let got = negotiate(&headers).ok().map(|a| (a.shape, a.yaml));
            assert_eq!(got, expect, "{accept}");
        };
        let kubectl = "application/json;as=Table;v=v1;g=meta.k8s.io,application/json;as=Table;v=v1beta1;g=meta.k8s.io,application/json";
        check(kubectl, Some((Shape::Table("v1"), false)));
        check("application/vnd.kubernetes.protobuf,application/json", Some((Shape::Plain, false)));
        check("application/vnd.kubernetes.protobuf", None);
        check("text/html", None);
        check("*/*", Some((Shape::Plain, false)));
        check("application/json;q=0.5, application/yaml", Some((Shape::Plain, true)));
        check(
            "application/json;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1",
            Some((Shape::Partial("v1"), false)),
        );
    }
}
