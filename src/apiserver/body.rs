//! Request bodies: size, content type, JSON, YAML or protobuf, unknown and duplicate fields.
//!
//! Nothing that a client sends can do more than give it an error: sizes are limited before they are read, and
//! fields that no schema knows are dropped, reported as `fieldValidation` asks.

mod protobuf;

use crate::verbs::Context;
use api::{
    Object, Schema,
    catalog::GroupVersionKind,
    status::{Reason, Status},
};
use axum::body::Body;
use bytes::{Bytes, BytesMut};
use http::{HeaderMap, header};
use http_body_util::BodyExt;
use serde_json::Value;
use std::sync::Arc;

/// The largest body taken, bytes.
pub(crate) const LIMIT: usize = 3 << 20;
/// How much of a larger one is read only to be thrown away.
const DISCARDED: usize = 32 << 20;
/// What object bodies may be.
const TYPES: &[&str] = &["application/json", "application/yaml", protobuf::TYPE];

/// Reads a whole body. One that is too large is read on for a while and thrown away: a client that is still
/// sending would not see the answer.
pub(crate) async fn read(mut body: Body) -> api::Result<Bytes> {
    let mut bytes = BytesMut::new();
    let mut size = 0;
    while let Some(frame) = body.frame().await {
        let frame =
            frame.map_err(|e| Status::bad_request(format!("the request's body could not be read: {e}")))?;
        let Ok(data) = frame.into_data() else { continue };
        size += data.len();
        if size <= LIMIT {
            bytes.extend_from_slice(&data);
        } else if size > DISCARDED {
            break;
        }
    }
    if size > LIMIT { Err(Status::too_large(format!("limit is {LIMIT}"))) } else { Ok(bytes.freeze()) }
}

/// The media type of a body, without parameters; JSON when not said.
pub(crate) fn content_type(headers: &HeaderMap) -> String {
    let value = headers.get(header::CONTENT_TYPE).and_then(|v| v.to_str().ok()).unwrap_or_default();
    let essence = value.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
    if essence.is_empty() { TYPES[0].to_string() } else { essence }
}

/// Parses a body; also returns the paths of fields that came twice.
pub(crate) fn parse(headers: &HeaderMap, bytes: &Bytes) -> api::Result<(Object, Vec<String>)> {
    match content_type(headers).as_str() {
        "application/json" => Object::from_slice_strict(bytes),
        "application/yaml" | "text/yaml" | "application/x-yaml" => yaml(bytes).map(|o| (o, Vec::new())),
        protobuf::TYPE => protobuf::parse(bytes).map(|o| (o, Vec::new())),
        _ => Err(Status::unsupported_media_type(TYPES)),
    }
}

fn yaml(bytes: &Bytes) -> api::Result<Object> {
    let malformed = |why: String| Status::bad_request(format!("error converting YAML to JSON: {why}"));
    let text = std::str::from_utf8(bytes).map_err(|e| malformed(e.to_string()))?;
    let value: Value = serde_saphyr::from_str(text).map_err(|e| malformed(e.to_string()))?;
    Object::try_from(value)
}

/// What a request's body must be: the resource's kind, or its subresource's.
struct Wanted {
    gvk: GroupVersionKind,
    schema: Option<Arc<Schema>>,
}

impl Wanted {
    fn of(ctx: &Context) -> Self {
        let (whole, r) = (ctx.resource.gvk(), &ctx.resource);
        match r.subresource(&ctx.info.subresource).map(|sub| sub.gvk.clone()).filter(|gvk| *gvk != whole) {
            Some(gvk) => Wanted { schema: Schema::builtin(&gvk.group, &gvk.version, &gvk.kind), gvk },
            None => Wanted { gvk: whole, schema: r.schema.clone() },
        }
    }
}

/// Reads an object of the request's kind: right apiVersion and kind, unknown fields dropped and reported.
pub(crate) fn decode(ctx: &Context, bytes: &Bytes) -> api::Result<Object> {
    let wanted = Wanted::of(ctx);
    let unrecognized = |status: Status| match status.reason() {
        Reason::BadRequest => Status::bad_request(format!(
            "the object provided is unrecognized (must be of type {}): {} ({})",
            wanted.gvk.kind,
            status.message(),
            summary(bytes)
        )),
        _ => status,
    };
    let (object, duplicates) = parse(&ctx.headers, bytes).map_err(unrecognized)?;
    check(ctx, object, &duplicates)
}

/// The beginning of a body, for an error: as text where it looks like JSON, in hexadecimal otherwise.
fn summary(bytes: &[u8]) -> String {
    const SHOWN: usize = 30;
    let (head, more) = (&bytes[..bytes.len().min(SHOWN)], if bytes.len() > SHOWN { " ..." } else { "" });
    match head.first() {
        None => "<empty>".to_string(),
        Some(b'{') => format!("{}{more}", String::from_utf8_lossy(head)),
        Some(_) => head.iter().map(|b| format!("{b:02x}")).collect::<String>() + more,
    }
}

/// As [`decode`], for an object that a patch made.
pub(crate) fn check(ctx: &Context, mut object: Object, duplicates: &[String]) -> api::Result<Object> {
    let wanted = Wanted::of(ctx);
    typed(&wanted, &mut object)?;
    let mut value = object.into_value();
    if let Some(schema) = &wanted.schema {
        match schema.decode(&value) {
            // Any JSON is right where Go has an interface {} (defaults and examples in a CRD's schema).
            Err(status) if !status.message().ends_with("of type interface {}") => return Err(status),
            _ => {}
        }
    }
    let unknown = wanted.schema.as_ref().map(|s| s.prune(&mut value)).unwrap_or_default();
    let texts: Vec<String> = (unknown.iter().map(|path| format!("unknown field \"{path}\"")))
        .chain(duplicates.iter().map(|path| format!("duplicate field \"{path}\"")))
        .collect();
    match ctx.info.query.get("fieldValidation") {
        Some("Ignore") => {}
        Some("Strict") if !texts.is_empty() => {
            let why = format!("strict decoding error: {}", texts.join(", "));
            return Err(cannot(&wanted.gvk.kind, &wanted.gvk.version, &wanted, &why));
        }
        Some("Strict") => {}
        _ => texts.into_iter().for_each(|text| ctx.warn(text)),
    }
    Object::try_from(value)
}

fn cannot(kind: &str, version: &str, wanted: &Wanted, why: &str) -> Status {
    let expected = &wanted.gvk.kind;
    Status::bad_request(format!("{kind} in version {version:?} cannot be handled as a {expected}: {why}"))
}

/// What older clients call a kind: kubectl 1.20 evicts in the version that was then.
const OLDER_NAMES: &[(&str, &str)] = &[("Eviction", "policy/v1beta1")];

/// Sets absent apiVersion and kind, refuses wrong ones.
fn typed(wanted: &Wanted, object: &mut Object) -> api::Result<()> {
    let (version, kind) = (wanted.gvk.api_version(), wanted.gvk.kind.as_str());
    if object.kind().is_empty() {
        object.set("kind", kind);
    }
    if object.api_version().is_empty() || OLDER_NAMES.contains(&(object.kind(), object.api_version())) {
        object.set("apiVersion", version.as_str());
    }
    let (own, own_version) = (object.kind(), object.api_version());
    if own != kind {
        let why = format!("kind {own:?} in the data does not match the expected kind {kind:?}");
        return Err(cannot(own, own_version, wanted, &why));
    }
    if own_version != version {
        return Err(Status::bad_request(format!(
            "the API version in the data ({own_version}) does not match the expected API version ({version})"
        )));
    }
    Ok(())
}
