//! The subresources that are more than "the object's other half": a table of (resource, subresource) and what
//! answers it. `status` of every kind, `approval`, and a pod's `resize` and `ephemeralcontainers`, are plain updates and
//! take the ordinary verbs.
//!
//! A [`Raw`] handler gets the request as it came, after authentication and authorisation, and writes the whole
//! response; it calls admission itself where upstream does.

mod binding;
mod eviction;
mod finalize;
mod review;
pub(crate) mod scale;
mod token;

use crate::{authn::UserInfo, body, registry, request::RequestInfo, respond, server::Server, verbs::Context};
use api::{Object, catalog::Resource, status::Status};
use axum::{body::Body, extract::Request, response::Response};
use futures::future::BoxFuture;
use http::StatusCode;
use serde_json::{Value, json};
use std::sync::Arc;

/// Answers a request to a subresource.
pub(crate) type Raw = fn(Arc<Server>, Arc<UserInfo>, RequestInfo, Request) -> BoxFuture<'static, Response>;

/// One row: group, resource, subresource (empty for virtual resources such as tokenreviews), handler.
pub(crate) struct Row {
    pub(crate) group: &'static str,
    pub(crate) resource: &'static str,
    pub(crate) subresource: &'static str,
    pub(crate) handler: Raw,
}

/// Makes a row.
pub(crate) const fn row(
    group: &'static str,
    resource: &'static str,
    subresource: &'static str,
    handler: Raw,
) -> Row {
    Row { group, resource, subresource, handler }
}

/// A [`Raw`] handler of a function that takes a [`Call`] and answers with a result.
macro_rules! answers {
    ($run:path) => {
        |server, user, info, request| {
            let call = $crate::subresource::Call { server, user, info, request };
            Box::pin($crate::subresource::answer($run(call)))
        }
    };
}
use answers;

/// The object-shaped ones. Each of the security files exports its own `ROWS`, see [`TABLES`].
const ROWS: &[Row] = &[
    row("", "bindings", "", answers!(binding::run)),
    row("", "pods", "binding", answers!(binding::run)),
    row("", "pods", "eviction", answers!(eviction::run)),
    row("", "namespaces", "finalize", answers!(finalize::run)),
    row("apps", "deployments", "scale", SCALE),
    row("apps", "replicasets", "scale", SCALE),
    row("apps", "statefulsets", "scale", SCALE),
    row("", "replicationcontrollers", "scale", SCALE),
];

const SCALE: Raw = answers!(scale::run);

const TABLES: &[&[Row]] = &[ROWS, token::ROWS, review::ROWS, crate::tunnel::ROWS];

/// The handler of a request, if its subresource has one.
pub(crate) fn handler(info: &RequestInfo, resource: &Resource) -> Option<Raw> {
    if resource.custom {
        return (info.subresource == "scale").then_some(SCALE);
    }
    let fits = |row: &&Row| {
        row.group == info.group && row.resource == info.resource && row.subresource == info.subresource
    };
    TABLES.iter().copied().flatten().find(fits).map(|row| row.handler)
}

/// Keeps of an update through a subresource only what that subresource is for.
pub(crate) fn narrow(subresource: &str, r: &Resource, new: &mut Object, current: &Object) -> api::Result<()> {
    let wanted = std::mem::take(new);
    *new = current.clone();
    match subresource {
        "approval" => {
            let conditions = wanted.list_at("status.conditions").to_vec();
            new.set("status.conditions", conditions);
        }
        "ephemeralcontainers" => match wanted.get("spec.ephemeralContainers") {
            Some(list) => new.set("spec.ephemeralContainers", list.clone()),
            None => drop(new.remove("spec.ephemeralContainers")),
        },
        "resize" => {
            for field in ["containers", "initContainers"] {
                resize(new, &wanted, field);
            }
        }
        _ => return Err(Status::method_not_supported(&r.group_resource(), "update")),
    }
    Ok(())
}

/// Takes over the resources of containers that are in both.
fn resize(new: &mut Object, wanted: &Object, field: &str) {
    let path = format!("spec.{field}");
    let sizes = wanted.list_at(&path).to_vec();
    let Some(Value::Array(containers)) = new.get_mut(&path) else { return };
    for container in containers {
        let Some(size) = sizes.iter().find(|s| s["name"] == container["name"]) else { continue };
        for key in ["resources", "resizePolicy"] {
            if let Some(value) = size.get(key) {
                container[key] = value.clone();
            }
        }
    }
}

/// A request to a subresource, as it came.
pub(crate) struct Call {
    server: Arc<Server>,
    user: Arc<UserInfo>,
    info: RequestInfo,
    request: Request,
}

impl Call {
    /// What is asked of which resource, and the body.
    fn open(self) -> api::Result<(Context, Body)> {
        let found = registry::requested(&self.server.catalog(), &self.info);
        let resource = found.ok_or_else(Status::not_found_path)?;
        let (parts, body) = self.request.into_parts();
        Ok((Context::new(self.server, self.user, self.info, resource, parts.headers)?, body))
    }

    /// As [`Call::open`], where the body is an object of the subresource's kind.
    async fn posted(self) -> api::Result<(Context, Object)> {
        let (ctx, body) = self.open()?;
        let object = body::decode(&ctx, &body::read(body).await?)?;
        Ok((ctx, object))
    }
}

/// The answer to something that was done and has no object.
fn done(ctx: &Context) -> Response {
    let done =
        json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success", "code": 201});
    ctx.warned(respond::value(ctx.accept, StatusCode::CREATED, &done))
}

/// Runs a handler that answers with a result.
pub(crate) async fn answer(work: impl Future<Output = api::Result<Response>>) -> Response {
    work.await.unwrap_or_else(|status| crate::respond::error(&status))
}
