//! `namespaces/finalize`: only the namespace's finalizers change; the last one gone ends a namespace that is
//! being deleted.

use super::answer;
use crate::{
    authn::UserInfo,
    body,
    request::RequestInfo,
    respond,
    server::Server,
    verbs::{Change, Context, Plan, Scope, update},
};
use api::{Object, status::Status};
use axum::{extract::Request, response::Response};
use futures::future::BoxFuture;
use http::StatusCode;
use std::sync::Arc;

pub(super) fn finalize(
    server: Arc<Server>,
    user: Arc<UserInfo>,
    info: RequestInfo,
    request: Request,
) -> BoxFuture<'static, Response> {
    Box::pin(answer(run(server, user, info, request)))
}

async fn run(
    server: Arc<Server>,
    user: Arc<UserInfo>,
    info: RequestInfo,
    request: Request,
) -> api::Result<Response> {
    let resource = server.resource("", "namespaces");
    let (parts, body) = request.into_parts();
    let bytes = body::read(body).await?;
    let name = info.name.clone();
    let ctx = Context::new(server.clone(), user, info, resource, parts.headers)?;
    let wanted = body::decode(&ctx, &bytes)?;
    let scope = ctx.scope();
    let outcome = scope.target(&name).change(&Finalize { scope, wanted }).await?;
    respond::object(&ctx, StatusCode::OK, outcome.object())
}

struct Finalize<'a> {
    scope: Scope<'a>,
    wanted: Object,
}

#[async_trait::async_trait]
impl Change for Finalize<'_> {
    async fn plan(&self, current: &Object) -> api::Result<Plan> {
        let version = self.wanted.resource_version();
        if !version.is_empty() && version != current.resource_version() {
            return Err(Status::modified(&self.scope.resource.group_resource(), current.name()));
        }
        let mut new = current.clone();
        let left = self.wanted.list_at("spec.finalizers").to_vec();
        match left.is_empty() {
            true => drop(new.remove("spec.finalizers")),
            false => new.set("spec.finalizers", left),
        }
        update::finish(&self.scope, new, current).await
    }
}
