//! patch: JSON, merge and strategic merge patches, applied again to the new state when somebody was faster.

use super::{Change, Context, Plan, place, update};
use crate::{body, respond, strategy};
use api::{
    Object,
    catalog::GroupKind,
    field::{FieldError, Path},
    status::Status,
};
use axum::response::Response;
use bytes::Bytes;
use http::StatusCode;
use serde_json::Value;

/// So much of a patch is repeated in an error, bytes.
const SHOWN: usize = 1024;
const JSON: &str = "application/json-patch+json";
const MERGE: &str = "application/merge-patch+json";
const STRATEGIC: &str = "application/strategic-merge-patch+json";

pub(super) async fn patch(ctx: &Context, bytes: Bytes) -> api::Result<Response> {
    let (kind, patch) = read(ctx, &bytes)?;
    let name = ctx.info.name.as_str();
    let outcome = ctx.scope().target(name).change(&Patch { ctx, kind, patch }).await?;
    respond::object(ctx, StatusCode::OK, outcome.object())
}

/// The kind of a patch and its value.
pub(crate) fn read(ctx: &Context, bytes: &Bytes) -> api::Result<(&'static str, Value)> {
    let accepted: &[&'static str] =
        if ctx.resource.custom { &[JSON, MERGE] } else { &[JSON, MERGE, STRATEGIC] };
    let content = body::content_type(&ctx.headers);
    if content == "application/apply-patch+yaml" {
        return Err(apply_is_missing(accepted));
    }
    let kind =
        accepted.iter().find(|k| **k == content).ok_or_else(|| Status::unsupported_media_type(accepted))?;
    let patch = serde_json::from_slice(bytes)
        .map_err(|e| Status::bad_request(format!("error decoding patch: {e}")))?;
    Ok((kind, patch))
}

fn apply_is_missing(accepted: &[&str]) -> Status {
    let status = Status::unsupported_media_type(accepted);
    let text = format!(
        "{} (server-side apply is not there yet: use kubectl apply without --server-side)",
        status.message()
    );
    Status::new(status.reason(), text)
}

/// Applies a patch to an object.
pub(crate) fn apply(ctx: &Context, kind: &str, patch: &Value, current: &Value) -> api::Result<Value> {
    match kind {
        JSON => api::patch::json(current, patch),
        MERGE => api::patch::merge(current, patch),
        _ => api::patch::strategic(current, patch, ctx.resource.schema.as_deref()),
    }
}

/// Applies a patch to a value without a schema (a Scale).
pub(crate) fn apply_plain(kind: &str, patch: &Value, current: &Value) -> api::Result<Value> {
    if kind == JSON { api::patch::json(current, patch) } else { api::patch::merge(current, patch) }
}

struct Patch<'a> {
    ctx: &'a Context,
    kind: &'static str,
    patch: Value,
}

impl Patch<'_> {
    /// What the patch makes cannot be an object of this kind: that is the patch's mistake.
    fn unfit(&self, status: &Status) -> Status {
        let mut shown = self.patch.to_string();
        if shown.len() > SHOWN {
            shown.truncate(shown.floor_char_boundary(SHOWN));
            shown.push_str(" ...");
        }
        let error = FieldError::invalid(&Path::new("patch"), shown, status.message());
        Status::invalid(&GroupKind::default(), "", vec![error])
    }
}

#[async_trait::async_trait]
impl Change for Patch<'_> {
    async fn plan(&self, current: &Object) -> api::Result<Plan> {
        let ctx = self.ctx;
        let before = ctx.present(current.clone())?.into_value();
        let after = Object::try_from(apply(ctx, self.kind, &self.patch, &before)?)?;
        let checked = body::check(ctx, after, &[]).map_err(|status| self.unfit(&status))?;
        let mut new = ctx.absorb(checked)?;
        update::same_name(&new, current.name(), &ctx.namespace)?;
        let scope = ctx.scope();
        place(&scope, &mut new)?;
        for text in strategy::of(&ctx.stored).warnings(&new) {
            ctx.warn(text);
        }
        update::replace(&scope, new, current).await
    }
}
