//! watch: a stream of lines, from the cache's window of changes.
//!
//! What a watcher is told follows from its selection: an object that begins to match is ADDED, one that stops
//! is DELETED, whatever happened to it in the store.

use super::{Context, list, options::ListOptions, select::Selection};
use crate::{
    respond::{self, Shape},
    table,
    watchcache::{Cursor, Entry, Event, Kind, TooOld, WatchCache},
};
use api::{Object, status::Status};
use axum::{body::Body, response::Response};
use bytes::{Bytes, BytesMut};
use futures::stream;
use http::StatusCode;
use serde_json::{Value, json};
use std::{collections::VecDeque, sync::Arc, time::Duration};
use tokio::time::Instant;

/// Changes handled at once.
const BATCH: usize = 256;
/// A watch may be asked to last at most so long, seconds: a year.
const LONGEST: u64 = 365 * 24 * 3600;
/// How often a watcher that wants bookmarks gets one.
const BOOKMARKS: Duration = Duration::from_secs(30);

pub(super) async fn watch(ctx: &Context) -> api::Result<Response> {
    let watcher = Watcher::start(ctx).await?;
    let mut response = respond::raw(StatusCode::OK, "application/json", Bytes::new());
    let server = ctx.server.clone();
    server.metrics().watchers.inc();
    let count = scopeguard(move || {
        server.metrics().watchers.dec();
    });
    let lines = stream::unfold((watcher, count), |(mut watcher, count)| async move {
        watcher.next().await.map(|bytes| (Ok::<Bytes, std::convert::Infallible>(bytes), (watcher, count)))
    });
    *response.body_mut() = Body::from_stream(lines);
    Ok(response)
}

struct Guard<F: FnMut()>(F);

impl<F: FnMut()> Drop for Guard<F> {
    fn drop(&mut self) {
        self.0();
    }
}

fn scopeguard<F: FnMut()>(f: F) -> Guard<F> {
    Guard(f)
}

/// How lines are made for one watcher.
struct View {
    selection: Selection,
    /// Keys must start with this.
    prefix: String,
    ctx: Context,
}

struct Watcher {
    view: View,
    cursor: Cursor,
    cache: Arc<WatchCache>,
    /// Lines that are ready.
    ready: VecDeque<Bytes>,
    ended: bool,
    bookmarks: bool,
    /// Changes up to here are not for this watcher: it asked for those after it.
    after: u64,
    /// Everything up to here has been told.
    told: u64,
    bookmark_at: Instant,
    end_at: Instant,
    stop: tokio_util::sync::CancellationToken,
}

impl Watcher {
    async fn start(ctx: &Context) -> api::Result<Self> {
        let query = &ctx.info.query;
        let options = ListOptions::read(query, true)?;
        let initial = options.initial;
        let revision = options.version.map(list::revision).transpose()?;
        let bookmarks = query.flag("allowWatchBookmarks");
        let cache = ctx.server.cache().clone();
        let view = View {
            selection: Selection::read(ctx)?,
            prefix: crate::registry::namespace_prefix(&ctx.stored, &ctx.namespace),
            ctx: ctx.detached(),
        };
        let shard = cache.shard(&ctx.stored).ok_or_else(Status::not_found_path)?;
        match revision {
            None if cache.fresh().await.is_err() => cache.reach(1).await,
            Some(at) if initial == Some(true) => cache.reach(at).await,
            _ => true,
        };
        let told = cache.applied();
        let wants_state = initial.unwrap_or(matches!(revision, None | Some(0)));
        let now = Instant::now();
        let mut ready = VecDeque::new();
        let mut ended = false;
        let (cursor, told) = if wants_state {
            let (entries, version, cursor) = shard.snapshot(&view.prefix);
            let told = told.max(version);
            ready.extend(
                entries.iter().filter(|e| view.selection.matches(e)).map(|e| view.entry(Kind::Added, e)),
            );
            if initial == Some(true) && bookmarks {
                ready.push_back(view.bookmark(told, true));
            }
            (cursor, told)
        } else {
            let since = revision.filter(|at| *at > 0).unwrap_or(told);
            match shard.since(since) {
                Ok(cursor) => (cursor, since),
                Err(TooOld(start)) => {
                    let why = format!("too old resource version: {since} ({start})");
                    ready.push_back(error_line(&Status::expired(why)));
                    ended = true;
                    (shard.snapshot("\0").2, since)
                }
            }
        };
        let stop = ctx.server.draining().clone();
        let (bookmark_at, end_at) = (now + BOOKMARKS, now + timeout(ctx, options.timeout_seconds));
        let after = if wants_state { 0 } else { told };
        Ok(Watcher { view, cursor, cache, ready, ended, bookmarks, after, told, bookmark_at, end_at, stop })
    }

    /// The next lines; `None` ends the watch.
    async fn next(&mut self) -> Option<Bytes> {
        loop {
            if !self.ready.is_empty() {
                return Some(join(&mut self.ready));
            }
            if self.ended {
                return None;
            }
            // Read before the changes: everything up to here is among them.
            let applied = self.cache.applied();
            match self.cursor.read(BATCH) {
                Err(TooOld(_)) => return None,
                Ok(events) if !events.is_empty() => {
                    self.told = self.told.max(events.last().map_or(0, |e| e.revision));
                    let wanted = events.iter().filter(|event| event.revision > self.after);
                    self.ready.extend(wanted.filter_map(|event| self.view.event(event)));
                }
                Ok(_) => {
                    self.told = self.told.max(applied);
                    self.wait().await;
                }
            }
        }
    }

    async fn wait(&mut self) {
        tokio::select! {
            () = self.cursor.wait() => {}
            () = self.stop.cancelled() => self.ended = true,
            () = tokio::time::sleep_until(self.end_at) => {
                self.bookmark();
                self.ended = true;
            }
            () = tokio::time::sleep_until(self.bookmark_at), if self.bookmarks => {
                self.bookmark();
                self.bookmark_at = Instant::now() + BOOKMARKS;
            }
        }
    }

    fn bookmark(&mut self) {
        if self.bookmarks {
            self.ready.push_back(self.view.bookmark(self.told, false));
        }
    }
}

fn join(ready: &mut VecDeque<Bytes>) -> Bytes {
    if ready.len() == 1 {
        return ready.pop_front().unwrap_or_default();
    }
    let mut out = BytesMut::new();
    while let Some(line) = ready.pop_front() {
        out.extend_from_slice(&line);
        if out.len() > 256 << 10 {
            break;
        }
    }
    out.freeze()
}

fn timeout(ctx: &Context, asked: Option<i64>) -> Duration {
    match asked {
        None | Some(0) => {}
        Some(seconds) => return Duration::from_secs(u64::try_from(seconds).unwrap_or(0).min(LONGEST)),
    }
    // Spread, so that watches that began together do not end together.
    let least = ctx.server.config().flags.min_request_timeout as f64;
    Duration::from_secs_f64(least * (1.0 + rand::random::<f64>()))
}

fn error_line(status: &Status) -> Bytes {
    crate::watchcache::line("ERROR", &serde_json::to_vec(status).unwrap_or_default())
}

impl View {
    fn event(&self, event: &Event) -> Option<Bytes> {
        let sees = |entry: &Option<Arc<Entry>>| entry.as_ref().is_some_and(|entry| self.sees(entry));
        let kind = match (sees(&event.old), sees(&event.new)) {
            (false, false) => return None,
            (false, true) => Kind::Added,
            (true, true) => Kind::Modified,
            (true, false) => Kind::Deleted,
        };
        let ctx = &self.ctx;
        if ctx.plain() {
            return Some(event.frame(kind, &ctx.stored));
        }
        event.shown(kind, &ctx.stored).map(|entry| self.entry(kind, &entry))
    }

    fn sees(&self, entry: &Entry) -> bool {
        entry.key.starts_with(&self.prefix) && self.selection.matches(entry)
    }

    fn entry(&self, kind: Kind, entry: &Entry) -> Bytes {
        let ctx = &self.ctx;
        if ctx.plain() {
            return crate::watchcache::line(kind.name(), &entry.bytes);
        }
        match self.shown((*entry.object()).clone()) {
            Ok(value) => {
                crate::watchcache::line(kind.name(), &serde_json::to_vec(&value).unwrap_or_default())
            }
            Err(status) => error_line(&status),
        }
    }

    fn shown(&self, object: Object) -> api::Result<Value> {
        let ctx = &self.ctx;
        let object = ctx.present(object)?;
        match ctx.accept.shape {
            Shape::Plain => Ok(object.into_value()),
            Shape::Partial(version) => Ok(respond::partial(&object, version)),
            Shape::Table(version) => {
                let metadata = json!({"resourceVersion": object.resource_version()});
                table::render(ctx, &[Arc::new(object)], version, metadata)
            }
        }
    }

    fn bookmark(&self, revision: u64, initial: bool) -> Bytes {
        let ctx = &self.ctx;
        let mut metadata = json!({"resourceVersion": revision.to_string(), "creationTimestamp": null});
        if initial {
            metadata["annotations"] = json!({"k8s.io/initial-events-end": "true"});
        }
        let (version, kind) = match ctx.accept.shape {
            Shape::Partial(version) => {
                (format!("meta.k8s.io/{version}"), "PartialObjectMetadata".to_string())
            }
            Shape::Table(version) => (format!("meta.k8s.io/{version}"), "Table".to_string()),
            Shape::Plain => (ctx.resource.group_version(), ctx.resource.kind.clone()),
        };
        let mut object = json!({"kind": kind, "apiVersion": version, "metadata": metadata});
        if matches!(ctx.accept.shape, Shape::Table(_)) {
            object["columnDefinitions"] = Value::Null;
            object["rows"] = json!([]);
        }
        crate::watchcache::line("BOOKMARK", object.to_string().as_bytes())
    }
}
