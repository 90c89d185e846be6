//! `/healthz`, `/livez` and `/readyz` with named checks, in the form that Kubernetes' probes and people read:
//! `ok`, or one line per check with `?verbose`; a single check at `/readyz/NAME`; `?exclude=NAME` leaves one out.

use axum::{
    Router,
    extract::{Path, RawQuery, State},
    http::StatusCode,
    response::{IntoResponse, Response},
    routing::get,
};
use std::sync::Arc;

/// A named condition: `Err` says in a few words what is wrong.
pub type Check = (&'static str, Box<dyn Fn() -> Result<(), String> + Send + Sync>);

/// The checks behind each endpoint. `healthz` serves the same checks as `livez` plus nothing else.
#[derive(Default)]
pub struct Checks {
    live: Vec<Check>,
    ready: Vec<Check>,
}

impl Checks {
    /// No checks beside `ping`: healthy as long as it answers.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a check to `/livez` and `/healthz`: the process should be restarted when it fails.
    #[must_use]
    pub fn live(
        mut self,
        name: &'static str,
        check: impl Fn() -> Result<(), String> + Send + Sync + 'static,
    ) -> Self {
        self.live.push((name, Box::new(check)));
        self
    }

    /// Adds a check to `/readyz`: no requests should come here while it fails.
    #[must_use]
    pub fn ready(
        mut self,
        name: &'static str,
        check: impl Fn() -> Result<(), String> + Send + Sync + 'static,
    ) -> Self {
        self.ready.push((name, Box::new(check)));
        self
    }
}

/// The health endpoints over these checks.
pub fn router(checks: Checks) -> Router {
    let checks = Arc::new(checks);
    let mut router = Router::new();
    for path in ["/healthz", "/livez", "/readyz"] {
        let all = move |State(checks): State<Arc<Checks>>, RawQuery(query): RawQuery| async move {
            answer(path, select(&checks, path), &query.unwrap_or_default())
        };
        let one = move |State(checks): State<Arc<Checks>>, Path(name): Path<String>| async move {
            single(select(&checks, path), &name)
        };
        router = router.route(path, get(all)).route(&format!("{path}/{{name}}"), get(one));
    }
    router.with_state(checks)
}

fn select<'a>(checks: &'a Checks, path: &str) -> Vec<&'a Check> {
    let ready = (path == "/readyz").then_some(&checks.ready).into_iter().flatten();
    checks.live.iter().chain(ready).collect()
}

fn answer(path: &str, checks: Vec<&Check>, query: &str) -> Response {
    let excluded: Vec<&str> = query.split('&').filter_map(|p| p.strip_prefix("exclude=")).collect();
    let verbose = query.split('&').any(|p| p == "verbose" || p.starts_with("verbose="));
    let mut text = String::from("[+]ping ok\n");
    let mut failed = false;
    for (name, check) in checks {
        match check() {
            _ if excluded.contains(name) => text += &format!("[+]{name} excluded: ok\n"),
            Ok(()) => text += &format!("[+]{name} ok\n"),
            Err(why) => {
                failed = true;
                text += &format!("[-]{name} failed: {why}\n");
            }
        }
    }
    let name = path.trim_start_matches('/');
    if failed {
        return (StatusCode::INTERNAL_SERVER_ERROR, format!("{text}{name} check failed\n")).into_response();
    }
    if verbose { format!("{text}{name} check passed\n").into_response() } else { "ok".into_response() }
}

fn single(checks: Vec<&Check>, wanted: &str) -> Response {
    match checks.into_iter().find(|(name, _)| *name == wanted) {
        _ if wanted == "ping" => "ok".into_response(),
        None => (StatusCode::NOT_FOUND, "404 page not found\n").into_response(),
        Some((_, check)) => match check() {
            Ok(()) => "ok".into_response(),
            Err(why) => {
                (StatusCode::INTERNAL_SERVER_ERROR, format!("internal server error: {why}\n")).into_response()
            }
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_failed_check_is_named() {
        let checks = Checks::new()
            .live("log", || Ok(()))
            .ready("store", || Err("no leader for 6 s".into()))
            .ready("caches", || Ok(()));
        let check = async |path, query, code: u16, text: &str| {
            let response = answer(path, select(&checks, path), query);
            assert_eq!(response.status().as_u16(), code);
            let body = axum::body::to_bytes(response.into_body(), 1 << 16).await.unwrap();
            assert_eq!(std::str::from_utf8(&body).unwrap(), text);
        };
        check("/livez", "", 200, "ok").await;
        check("/livez", "verbose", 200, "[+]ping ok\n[+]log ok\nlivez check passed\n").await;
        let failed =
            "[+]ping ok\n[+]log ok\n[-]store failed: no leader for 6 s\n[+]caches ok\nreadyz check failed\n";
        check("/readyz", "", 500, failed).await;
        check("/readyz", "exclude=store", 200, "ok").await;
    }
}
