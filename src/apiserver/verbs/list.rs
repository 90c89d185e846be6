//! list: from the cache, at a revision the client may name; pages after the first, and exact revisions, from
//! the store.
//!
//! A list's resourceVersion is the revision it shows. Bytes are put together from what the cache holds.

use super::{Context, options::ListOptions, select::Selection};
use crate::{
    registry,
    respond::{self, Shape},
    store::{KvError, Range, prefix_end},
    table,
    watchcache::Entry,
};
use api::{Object, status::Status};
use axum::{body::Body, response::Response};
use base64::{Engine, prelude::BASE64_URL_SAFE_NO_PAD};
use bytes::{Bytes, BytesMut};
use futures::stream;
use http::StatusCode;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use std::sync::Arc;

/// Lists go out in pieces of about this size, bytes.
const PIECE: usize = 64 << 10;

/// A list before it is shown.
pub(super) struct List {
    pub(super) entries: Vec<Arc<Entry>>,
    pub(super) revision: u64,
    next: Option<Next>,
}

struct Next {
    token: String,
    remaining: Option<u64>,
}

#[derive(Serialize, Deserialize)]
struct Token {
    v: String,
    rv: i64,
    start: String,
}

/// How the query wants its revision.
#[derive(Debug, PartialEq, Eq)]
enum At {
    /// Every acknowledged write.
    Fresh,
    /// At least this; 0: whatever the cache has.
    NotOlder(u64),
    /// Exactly this.
    Exact(u64),
    /// The next page.
    Continue(u64, String),
}

pub(super) async fn list(ctx: &Context) -> api::Result<Response> {
    let selection = Selection::read(ctx)?;
    let list = select(ctx, &selection).await?;
    show(ctx, list)
}

/// The objects a list request is about.
pub(super) async fn select(ctx: &Context, selection: &Selection) -> api::Result<List> {
    let options = ListOptions::read(&ctx.info.query, false)?;
    let limit = options.limit;
    match at(&options)? {
        At::Fresh => match ctx.server.cache().fresh().await {
            Ok(_) => Ok(cached(ctx, selection, limit)),
            Err(_) => stored(ctx, selection, limit, 0, String::new()).await,
        },
        At::NotOlder(revision) => {
            if !ctx.server.cache().reach(revision).await {
                return Err(too_large(revision, ctx.server.cache().applied()));
            }
            Ok(cached(ctx, selection, if revision == 0 { 0 } else { limit }))
        }
        At::Exact(revision) => stored(ctx, selection, limit, revision, String::new()).await,
        At::Continue(revision, start) => stored(ctx, selection, limit, revision, start).await,
    }
}

fn at(options: &ListOptions<'_>) -> api::Result<At> {
    let ListOptions { limit, version, matching, token, .. } = *options;
    if let Some(token) = token {
        let at = decode_token(token)?;
        if version.is_some_and(|v| v != "0") {
            return Err(Status::bad_request(
                "specifying resource version is not allowed when using continue",
            ));
        }
        return Ok(at);
    }
    Ok(match version.map(revision).transpose()? {
        None => At::Fresh,
        Some(revision) if matching == Some("Exact") => At::Exact(revision),
        // A page at a revision shows that revision, as it did before there was resourceVersionMatch.
        Some(revision) if matching.is_none() && limit > 0 && revision > 0 => At::Exact(revision),
        Some(revision) => At::NotOlder(revision),
    })
}

/// A resourceVersion as a revision.
pub(super) fn revision(text: &str) -> api::Result<u64> {
    text.parse().map_err(|_| {
        Status::bad_request(format!(
            "invalid resource version: resourceVersion: Invalid value: {text:?}: strconv.ParseUint: parsing \
             {text:?}: invalid syntax"
        ))
    })
}

/// The cache has not reached a revision in time.
pub(super) fn too_large(wanted: u64, current: u64) -> Status {
    Status::timeout(format!("Too large resource version: {wanted}, current: {current}"), 1).with_cause(
        "ResourceVersionTooLarge",
        "Too large resource version",
        "",
    )
}

fn decode_token(token: &str) -> api::Result<At> {
    let invalid =
        |why: &str| Status::bad_request(format!("invalid continue token: continue key is not valid: {why}"));
    let bytes =
        BASE64_URL_SAFE_NO_PAD.decode(token.trim_end_matches('=')).map_err(|e| invalid(&e.to_string()))?;
    let token: Token = serde_json::from_slice(&bytes).map_err(|e| invalid(&e.to_string()))?;
    if token.v != "meta.k8s.io/v1" {
        return Err(invalid(&format!("server does not recognize this encoded version {}", token.v)));
    }
    if token.start.is_empty() {
        return Err(invalid("encoded start key empty (version meta.k8s.io/v1)"));
    }
    if token.start.split('/').any(|part| part == "..") || token.start.starts_with('/') {
        return Err(invalid(&token.start));
    }
    match token.rv {
        0 => Err(invalid("incorrect encoded start resourceVersion (version meta.k8s.io/v1)")),
        // -1: an inconsistent continuation, from the latest state.
        rv => Ok(At::Continue(rv.max(0) as u64, token.start)),
    }
}

fn encode_token(revision: i64, start: &str) -> String {
    let token = Token { v: "meta.k8s.io/v1".into(), rv: revision, start: start.into() };
    BASE64_URL_SAFE_NO_PAD.encode(serde_json::to_vec(&token).unwrap_or_default())
}

fn cached(ctx: &Context, selection: &Selection, limit: usize) -> List {
    let (mut entries, revision) = ctx.server.cache().list(&ctx.stored, &ctx.namespace);
    let all = selection.is_everything();
    if !all {
        entries.retain(|entry| selection.matches(entry));
    }
    if limit == 0 || entries.len() <= limit {
        return List { entries, revision, next: None };
    }
    let remaining = all.then_some((entries.len() - limit) as u64);
    entries.truncate(limit);
    let prefix = registry::namespace_prefix(&ctx.stored, &ctx.namespace).len();
    let start = entries.last().map(|entry| format!("{}\0", &entry.key[prefix..])).unwrap_or_default();
    List { entries, revision, next: Some(Next { token: encode_token(revision as i64, &start), remaining }) }
}

async fn stored(
    ctx: &Context,
    selection: &Selection,
    limit: usize,
    revision: u64,
    start: String,
) -> api::Result<List> {
    let first = registry::root(ctx.server.config(), &ctx.stored);
    let prefix = first.clone() + &registry::namespace_prefix(&ctx.stored, &ctx.namespace);
    let continued = !start.is_empty();
    let mut range = Range {
        key: format!("{prefix}{start}"),
        end: Some(prefix_end(&prefix)),
        limit: if limit == 0 { 1000 } else { limit as u64 },
        revision,
        ..Range::default()
    };
    let mut entries = Vec::new();
    loop {
        let page = ctx.server.kv().range(range.clone()).await;
        let page = page.map_err(|e| unreadable(ctx, e, &range, continued.then_some(&*start)))?;
        if range.revision == 0 {
            range.revision = page.revision;
        }
        let seen = page.kvs.len();
        let mut left = seen;
        for kv in page.kvs {
            left -= 1;
            range.key = format!("{}\0", kv.key);
            let entry = Entry::new(&ctx.stored, &kv.key[first.len()..], &kv);
            if selection.matches(&entry) {
                entries.push(Arc::new(entry));
            }
            if limit > 0 && entries.len() == limit {
                break;
            }
        }
        let full = limit > 0 && entries.len() >= limit;
        if full && (page.more || left > 0) {
            let start = range.key[prefix.len()..].to_string();
            let remaining = selection.is_everything().then(|| page.count.saturating_sub(seen as u64));
            let next = Some(Next { token: encode_token(range.revision as i64, &start), remaining });
            return Ok(List { entries, revision: range.revision, next });
        }
        if !page.more || full {
            return Ok(List { entries, revision: range.revision, next: None });
        }
    }
}

/// Why the store did not give the state of a revision. A page that came too late gets a token with which the
/// client may go on in the latest state.
fn unreadable(ctx: &Context, error: KvError, range: &Range, start: Option<&str>) -> Status {
    match (error, start) {
        (KvError::Compacted(_), Some(start)) => Status::expired(
            "The provided continue parameter is too old to display a consistent list result. You can start a new \
             list without the continue parameter, or use the continue token in this response to retrieve the \
             remainder of the results. Continuing with the provided token results in an inconsistent list - \
             objects that were created, modified, or deleted between the time the first chunk was returned and \
             now may show up in the list.",
        )
        .with_continue(&encode_token(-1, start)),
        (KvError::Compacted(_), None) => {
            Status::expired("The resourceVersion for the provided list is too old.")
        }
        (KvError::Future, _) => too_large(range.revision, ctx.server.cache().applied()),
        (other, _) => other.into(),
    }
}

/// Presents a list.
pub(super) fn show(ctx: &Context, list: List) -> api::Result<Response> {
    let metadata = metadata(&list);
    if ctx.plain() && !ctx.accept.yaml {
        return Ok(stream_list(ctx, &metadata, list.entries));
    }
    let objects = list.entries.iter().map(|entry| ctx.present((*entry.object()).clone()));
    let objects: Vec<Object> = objects.collect::<api::Result<_>>()?;
    let shown = match ctx.accept.shape {
        Shape::Table(version) => {
            let objects: Vec<Arc<Object>> = objects.into_iter().map(Arc::new).collect();
            table::render(ctx, &objects, version, metadata)?
        }
        shape => {
            let items: Vec<Value> = objects
                .into_iter()
                .map(|object| match shape {
                    Shape::Partial(version) => respond::partial(&object, version),
                    _ => object.into_value(),
                })
                .collect();
            let (version, kind) = respond::list_type(shape, &ctx.resource);
            json!({"kind": kind, "apiVersion": version, "metadata": metadata, "items": items})
        }
    };
    Ok(respond::value(ctx.accept, StatusCode::OK, &shown))
}

fn metadata(list: &List) -> Value {
    let mut metadata = json!({"resourceVersion": list.revision.to_string()});
    if let Some(next) = &list.next {
        metadata["continue"] = json!(next.token);
        if let Some(remaining) = next.remaining.filter(|r| *r > 0) {
            metadata["remainingItemCount"] = json!(remaining);
        }
    }
    metadata
}

fn stream_list(ctx: &Context, metadata: &Value, entries: Vec<Arc<Entry>>) -> Response {
    let (version, kind) = respond::list_type(Shape::Plain, &ctx.resource);
    let head = format!(
        "{{\"kind\":{},\"apiVersion\":{},\"metadata\":{metadata},\"items\":[",
        Value::from(kind),
        Value::from(version)
    );
    let pieces = stream::unfold(
        (Some(head), entries.into_iter(), true),
        |(head, mut entries, mut first)| async move {
            let mut piece = BytesMut::with_capacity(PIECE);
            match &head {
                Some(head) => piece.extend_from_slice(head.as_bytes()),
                None if entries.len() == 0 => return None,
                None => {}
            }
            while piece.len() < PIECE {
                let Some(entry) = entries.next() else { break };
                if !std::mem::take(&mut first) {
                    piece.extend_from_slice(b",");
                }
                piece.extend_from_slice(&entry.bytes);
            }
            if entries.len() == 0 {
                piece.extend_from_slice(b"]}\n");
            }
            Some((Ok::<Bytes, std::convert::Infallible>(piece.freeze()), (None, entries, first)))
        },
    );
    let mut response = respond::raw(StatusCode::OK, "application/json", Bytes::new());
    *response.body_mut() = Body::from_stream(pieces);
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn revisions_are_read_as_upstream_reads_them() {
        type Text<'t> = Option<&'t str>;
        fn check(
            limit: usize,
            version: Text<'_>,
            matching: Text<'_>,
            token: Text<'_>,
            expect: Result<At, &str>,
        ) {
            let options = ListOptions { limit, version, matching, token, ..ListOptions::default() };
            let got = at(&options).map_err(|s| s.message().to_string());
            assert_eq!(got, expect.map_err(str::to_string), "{options:?}");
        }
        check(0, None, None, None, Ok(At::Fresh));
        check(9, Some("0"), None, None, Ok(At::NotOlder(0)));
        check(0, Some("5"), None, None, Ok(At::NotOlder(5)));
        check(9, Some("5"), None, None, Ok(At::Exact(5)));
        check(9, Some("5"), Some("NotOlderThan"), None, Ok(At::NotOlder(5)));
        check(0, Some("5"), Some("Exact"), None, Ok(At::Exact(5)));
        let text = "invalid resource version: resourceVersion: Invalid value: \"-1\": strconv.ParseUint: parsing \
                    \"-1\": invalid syntax";
        check(0, Some("-1"), None, None, Err(text));
        let token = encode_token(7, "ns/a\0");
        check(0, None, None, Some(&token), Ok(At::Continue(7, "ns/a\0".into())));
        check(0, Some("0"), None, Some(&encode_token(-1, "a")), Ok(At::Continue(0, "a".into())));
        let bad = |token: &str, why: &str| {
            let text = format!("invalid continue token: continue key is not valid: {why}");
            check(0, None, None, Some(token), Err(&text));
        };
        bad("%%%", "Invalid symbol 37, offset 0.");
        bad(&encode_token(0, "a"), "incorrect encoded start resourceVersion (version meta.k8s.io/v1)");
        bad(&encode_token(7, ""), "encoded start key empty (version meta.k8s.io/v1)");
        bad(&encode_token(7, "../secrets/"), "../secrets/");
        bad(&encode_token(7, "/a"), "/a");
        check(
            0,
            Some("5"),
            None,
            Some(&token),
            Err("specifying resource version is not allowed when using continue"),
        );
    }
}
