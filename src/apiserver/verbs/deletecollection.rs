//! deletecollection: every selected object, each as a deletion of its own. One that is gone already or is made
//! again meanwhile is left alone.

use super::{Context, Scope, delete, list, select::Selection};
use crate::watchcache::Entry;
use api::status::Reason;
use axum::response::Response;
use bytes::Bytes;
use futures::{StreamExt, TryStreamExt, stream};
use std::sync::Arc;

/// Deletions under way at a time.
const AT_ONCE: usize = 16;

pub(super) async fn deletecollection(ctx: &Context, bytes: Bytes) -> api::Result<Response> {
    let options = delete::Options::read(ctx, &bytes)?;
    let found = list::select(ctx, &Selection::read(ctx)?).await?;
    let scope = Scope { dry_run: options.dry_run, ..ctx.scope() };
    stream::iter(found.entries.clone())
        .map(|entry| one(ctx, scope, entry, options.clone()))
        .buffer_unordered(AT_ONCE)
        .try_collect::<Vec<()>>()
        .await?;
    list::show(ctx, found)
}

async fn one(
    ctx: &Context,
    scope: Scope<'_>,
    entry: Arc<Entry>,
    mut options: delete::Options,
) -> api::Result<()> {
    let object = entry.object();
    options.preconditions.uid.get_or_insert_with(|| entry.uid.clone());
    let namespace = if ctx.stored.namespaced { object.namespace() } else { "" };
    let scope = Scope { namespace, ..scope };
    match delete::remove(&scope, object.name(), &options).await {
        Err(status) if matches!(status.reason(), Reason::NotFound | Reason::Conflict) => Ok(()),
        other => other.map(drop),
    }
}
