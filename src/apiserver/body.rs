//! Request bodies: size, content type, JSON, YAML or protobuf, unknown and duplicate fields.
//!
//! Nothing that a client sends can do more than give it an error: sizes are limited before they are read, and
//! fields that no schema knows are dropped, reported as `fieldValidation` asks.

mod protobuf;

use crate::verbs::Context;
use api::{Object, catalog::Resource, status::Status};
use axum::body::Body;
use bytes::{Bytes, BytesMut};
use http::{HeaderMap, header};
use http_body_util::BodyExt;
use serde_json::Value;

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
    let malformed = |why: String| Status::bad_request(format!("error parsing the body as YAML: {why}"));
    let text = std::str::from_utf8(bytes).map_err(|e| malformed(e.to_string()))?;
    let value: Value = serde_saphyr::from_str(text).map_err(|e| malformed(e.to_string()))?;
    Object::try_from(value)
}

/// Reads an object of the request's kind: right apiVersion and kind, unknown fields dropped and reported.
pub(crate) fn decode(ctx: &Context, bytes: &Bytes) -> api::Result<Object> {
    let (object, duplicates) = parse(&ctx.headers, bytes)?;
    check(ctx, object, &duplicates)
}

/// As [`decode`], for an object that a patch made.
pub(crate) fn check(ctx: &Context, mut object: Object, duplicates: &[String]) -> api::Result<Object> {
    typed(&ctx.resource, &mut object)?;
    let mut value = object.into_value();
    if let Some(schema) = &ctx.resource.schema {
        match schema.decode(&value) {
            // Any JSON is right where Go has an interface {} (defaults and examples in a CRD's schema).
            Err(status) if !status.message().ends_with("of type interface {}") => return Err(status),
            _ => {}
        }
    }
    let unknown = ctx.resource.schema.as_ref().map(|s| s.prune(&mut value)).unwrap_or_default();
    let texts: Vec<String> = (unknown.iter().map(|path| format!("unknown field \"{path}\"")))
        .chain(duplicates.iter().map(|path| format!("duplicate field \"{path}\"")))
        .collect();
    match ctx.info.query.get("fieldValidation").unwrap_or("Warn") {
        "Ignore" => {}
        "Strict" if !texts.is_empty() => return Err(strict(&ctx.resource, &texts)),
        "Strict" => {}
        "Warn" => texts.into_iter().for_each(|text| ctx.warn(text)),
        other => {
            let why = format!("unsupported fieldValidation \"{other}\": must be one of Ignore, Warn, Strict");
            return Err(Status::bad_request(why));
        }
    }
    Object::try_from(value)
}

fn strict(r: &Resource, texts: &[String]) -> Status {
    Status::bad_request(format!(
        "{kind} in version \"{version}\" cannot be handled as a {kind}: strict decoding error: {all}",
        kind = r.kind,
        version = r.version,
        all = texts.join(", ")
    ))
}

/// Sets absent apiVersion and kind, refuses wrong ones.
fn typed(r: &Resource, object: &mut Object) -> api::Result<()> {
    let version = r.group_version();
    if object.api_version().is_empty() && object.kind().is_empty() {
        object.set("apiVersion", version.as_str());
        object.set("kind", r.kind.as_str());
    }
    if object.kind() != r.kind {
        let why = format!(
            "the object provided is unrecognized: kind \"{}\" in the data does not match the expected kind \"{}\"",
            object.kind(),
            r.kind
        );
        return Err(Status::bad_request(why));
    }
    if object.api_version() != version {
        return Err(Status::bad_request(format!(
            "the API version in the data ({}) does not match the expected API version ({version})",
            object.api_version()
        )));
    }
    Ok(())
}
