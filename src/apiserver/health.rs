//! `/healthz`, `/livez`, `/readyz`, with upstream's check names.
//!
//! Ready fails at once when the server is to stop, and when the store has had no leader for [`PATIENCE`]: an
//! election takes no server out of the balancer.

use crate::{request::RequestInfo, respond, server::Server};
use axum::response::Response;
use http::StatusCode;
use std::{sync::Arc, time::Duration};
use tokio_util::sync::CancellationToken;

/// How long the store may be silent.
const PATIENCE: Duration = Duration::from_secs(5);
/// How often it is asked when nobody else asks.
const PROBE: Duration = Duration::from_secs(1);

type Check = (&'static str, fn(&Server) -> Result<(), String>);

const LIVE: &[Check] = &[("ping", |_| Ok(())), ("log", |_| Ok(()))];
const READY: &[Check] = &[
    ("etcd", store),
    ("etcd-readiness", store),
    ("informer-sync", synced),
    ("poststarthook/bootstrap-controller", bootstrapped),
    ("poststarthook/rbac/bootstrap-roles", bootstrapped),
    ("shutdown", stopping),
];

fn store(server: &Server) -> Result<(), String> {
    let silence = server.cache().silence();
    if silence < PATIENCE {
        Ok(())
    } else {
        Err(format!("the store has not answered for {} s", silence.as_secs()))
    }
}

fn synced(server: &Server) -> Result<(), String> {
    if server.cache().applied() > 0 { Ok(()) } else { Err("the watch cache is not filled yet".into()) }
}

fn bootstrapped(server: &Server) -> Result<(), String> {
    if server.started().is_cancelled() { Ok(()) } else { Err("not finished".into()) }
}

fn stopping(server: &Server) -> Result<(), String> {
    if server.stopping().is_cancelled() { Err("process is shutting down".into()) } else { Ok(()) }
}

/// Asks the store regularly, until `stop`.
pub(crate) async fn watch_store(server: Arc<Server>, stop: CancellationToken) {
    let mut tick = tokio::time::interval(PROBE);
    tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    while stop.run_until_cancelled(tick.tick()).await.is_some() {
        let _ = stop.run_until_cancelled(tokio::time::timeout(PROBE, server.cache().probe())).await;
    }
}

/// Answers a health request.
pub(crate) fn answer(server: &Server, info: &RequestInfo) -> Response {
    let (endpoint, wanted) =
        info.path.trim_matches('/').split_once('/').unwrap_or((info.path.trim_matches('/'), ""));
    let ready: &[Check] = if endpoint == "readyz" { READY } else { &[] };
    let checks = LIVE.iter().chain(ready);
    let excluded = info.query.all("exclude");
    let mut text = String::new();
    let (mut failed, mut found) = (false, false);
    for (name, check) in checks.filter(|(name, _)| wanted.is_empty() || *name == wanted) {
        found = true;
        text += &match check(server) {
            _ if excluded.iter().any(|e| e == name) => format!("[+]{name} excluded: ok\n"),
            Ok(()) => format!("[+]{name} ok\n"),
            Err(why) => {
                failed = true;
                format!("[-]{name} failed: {why}\n")
            }
        };
    }
    let plain = |code, text: String| respond::raw(code, "text/plain; charset=utf-8", text.into());
    match (found, failed) {
        (false, _) => plain(StatusCode::NOT_FOUND, "404 page not found\n".into()),
        (_, true) => plain(StatusCode::INTERNAL_SERVER_ERROR, format!("{text}{endpoint} check failed\n")),
        _ if !info.query.all("verbose").is_empty() => {
            plain(StatusCode::OK, format!("{text}{endpoint} check passed\n"))
        }
        _ => plain(StatusCode::OK, "ok".into()),
    }
}
