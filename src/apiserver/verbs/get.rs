//! get: one object, from the cache once it has caught up with every acknowledged write.

use super::Context;
use crate::{registry, respond};
use api::status::Status;
use axum::response::Response;

pub(super) async fn get(ctx: &Context) -> api::Result<Response> {
    let (cache, name) = (ctx.server.cache(), ctx.info.name.as_str());
    let fresh = match ctx.info.query.get("resourceVersion") {
        None => cache.fresh().await.is_ok(),
        Some(text) => {
            let revision = super::list::revision(text)?;
            if !cache.reach(revision).await {
                return Err(super::list::too_large(revision, cache.applied()));
            }
            true
        }
    };
    if !fresh {
        let (object, _) = registry::read_store(&ctx.server, &ctx.stored, &ctx.namespace, name).await?;
        return respond::object(ctx, http::StatusCode::OK, object);
    }
    let entry = cache.get(&ctx.stored, &ctx.namespace, name);
    let entry = entry.ok_or_else(|| Status::not_found(&ctx.resource.group_resource(), name))?;
    respond::bytes(ctx, &entry.bytes)
}
