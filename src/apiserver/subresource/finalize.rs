//! `namespaces/finalize`: only the namespace's finalizers change; the last one gone ends a namespace that is
//! being deleted.

use super::Call;
use crate::{
    respond,
    verbs::{Change, Plan, Scope, update},
};
use api::{Object, status::Status};
use axum::response::Response;
use http::StatusCode;

pub(super) async fn run(call: Call) -> api::Result<Response> {
    let (ctx, wanted) = call.posted().await?;
    let name = ctx.info.name.as_str();
    update::same_name(&wanted, name, &ctx.namespace)?;
    let scope = ctx.scope();
    let outcome = scope.target(name).change(&Finalize { scope, wanted }).await?;
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
