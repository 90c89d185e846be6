//! The path of every request, in order:
//!
//! 1. a panic becomes a 500, whatever caused it;
//! 2. an audit id, given back in `Audit-Id`; metrics and a line in the log;
//! 3. verb and resource are read from method and URL;
//! 4. authentication (401), after which nothing sees the credentials any more;
//! 5. limits on requests in flight (429), watches and streams excepted;
//! 6. impersonation, where the real user may (403);
//! 7. authorisation (403);
//! 8. a time limit (504), watches and streams excepted;
//! 9. dispatch: a path of the server itself, a subresource's own handler, or a verb.
//!
//! Nothing behind a step sees a request that the step refused.

mod dispatch;
mod impersonate;

use crate::{
    authn::UserInfo,
    authz::{Attributes, Decision, forbidden},
    request::RequestInfo,
    respond, router,
    server::Server,
};
use api::status::Status;
use axum::{Router, extract::Request, response::Response};
use futures::{FutureExt, future::BoxFuture};
use http::{HeaderName, HeaderValue};
use std::{
    panic::AssertUnwindSafe,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Instant,
};

const AUDIT_ID: HeaderName = HeaderName::from_static("audit-id");

/// Requests being worked on.
#[derive(Default)]
struct InFlight {
    reads: AtomicUsize,
    writes: AtomicUsize,
}

/// Everything the server serves, behind the chain.
pub(crate) fn router(server: Arc<Server>) -> Router {
    let flight = Arc::new(InFlight::default());
    let serve = move |request: Request| -> BoxFuture<'static, Response> {
        Box::pin(guarded(server.clone(), flight.clone(), request))
    };
    Router::new().fallback(serve)
}

async fn guarded(server: Arc<Server>, flight: Arc<InFlight>, request: Request) -> Response {
    let begun = Instant::now();
    let id = audit_id(&request);
    let info = router::parse(request.method(), request.uri());
    let work = AssertUnwindSafe(handle(server.clone(), flight, info.clone(), request)).catch_unwind();
    let mut response = match work.await {
        Ok(Ok(response)) => response,
        Ok(Err(status)) => respond::error(&status),
        Err(_) => {
            tracing::error!(verb = info.verb, path = info.path, "a request's handler panicked");
            respond::error(&Status::internal(
                "this request caused apiserver to panic. Look in the logs for details.",
            ))
        }
    };
    server.metrics().observe(&info, response.status().as_u16(), begun.elapsed());
    tracing::debug!(verb = info.verb, path = info.path, code = response.status().as_u16(), took = ?begun.elapsed());
    response.headers_mut().insert(AUDIT_ID, id);
    response
}

fn audit_id(request: &Request) -> HeaderValue {
    let given = request.headers().get(AUDIT_ID).filter(|v| !v.is_empty() && v.len() <= 64).cloned();
    given.unwrap_or_else(|| {
        HeaderValue::from_str(&uuid::Uuid::new_v4().to_string()).unwrap_or(HeaderValue::from_static("0"))
    })
}

async fn handle(
    server: Arc<Server>,
    flight: Arc<InFlight>,
    info: RequestInfo,
    request: Request,
) -> api::Result<Response> {
    let (mut parts, body) = request.into_parts();
    let authenticator = server.authenticator().ok_or_else(not_yet)?;
    let user = authenticator.authenticate(&parts).await?;
    authenticator.forget_credentials(&mut parts.headers);
    let lasts = long_running(&info);
    let _slot = if lasts { None } else { Some(flight.enter(&server, &info, &user)?) };
    let user = Arc::new(impersonate::user(&server, user, &parts.headers).await?);
    authorize(&server, &user, &info).await?;
    let limit = server.config().flags.request_timeout;
    let work = dispatch::dispatch(server, user, info, Request::from_parts(parts, body));
    if lasts {
        return work.await;
    }
    let late = || Status::timeout("request did not complete within the allotted timeout", 0);
    tokio::time::timeout(limit, work).await.unwrap_or_else(|_| Err(late()))
}

fn not_yet() -> Status {
    Status::service_unavailable("the API server is starting, try again")
}

/// Whether a request lasts as long as its client wants.
fn long_running(info: &RequestInfo) -> bool {
    info.verb == "watch"
        || matches!(info.subresource.as_str(), "log" | "exec" | "attach" | "portforward" | "proxy")
}

/// Asks the authorizers; their no becomes a 403 with upstream's text.
pub(crate) async fn authorize(server: &Server, user: &UserInfo, info: &RequestInfo) -> api::Result<()> {
    let authorizer = server.authorizer().ok_or_else(not_yet)?;
    let attributes = Attributes { user, info };
    match authorizer.authorize(&attributes).await {
        Decision::Allow => Ok(()),
        Decision::Deny(reason) | Decision::NoOpinion(reason) => Err(forbidden(&attributes, &reason)),
    }
}

impl InFlight {
    fn enter(self: Arc<Self>, server: &Server, info: &RequestInfo, user: &UserInfo) -> api::Result<Slot> {
        let flags = &server.config().flags;
        let reads = info.read_only();
        let limit = if reads { flags.max_requests_inflight } else { flags.max_mutating_requests_inflight };
        let slot = Slot { flight: self, reads };
        let before = slot.count().fetch_add(1, Ordering::Relaxed);
        server.metrics().inflight(reads, before + 1);
        // Administrators get in always, to see what the matter is.
        if limit > 0 && before >= limit && !user.groups.iter().any(|g| g == "system:masters") {
            return Err(Status::too_many_requests("too many requests, please try again later", 1));
        }
        Ok(slot)
    }
}

/// A place among the requests in flight, until it is dropped.
struct Slot {
    flight: Arc<InFlight>,
    reads: bool,
}

impl Slot {
    fn count(&self) -> &AtomicUsize {
        if self.reads { &self.flight.reads } else { &self.flight.writes }
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        self.count().fetch_sub(1, Ordering::Relaxed);
    }
}
