//! Tables for a request: the api crate's table with the list's metadata, in the version asked for.

use crate::verbs::Context;
use api::{Object, status::Status, table::IncludeObject};
use serde_json::Value;
use std::sync::Arc;

/// A table of objects that are in the version asked for already.
pub(crate) fn render(
    ctx: &Context,
    objects: &[Arc<Object>],
    version: &str,
    metadata: Value,
) -> api::Result<Value> {
    let text = ctx.info.query.get("includeObject").unwrap_or_default();
    let include = IncludeObject::from_query(text).ok_or_else(|| {
        Status::bad_request(format!(
            "includeObject: Unsupported value: \"{text}\": supported values: \"Metadata\", \"None\", \"Object\""
        ))
    })?;
    let mut table = api::table::render(&ctx.resource, objects, include, api::time::now());
    table["apiVersion"] = format!("meta.k8s.io/{version}").into();
    table["metadata"] = metadata;
    Ok(table)
}
