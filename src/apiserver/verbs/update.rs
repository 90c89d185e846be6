//! update: an object as the client wants it, over the state it was made from.

use super::{Change, Context, Outcome, Plan, Scope, extras, place};
use crate::{admission::Operation, body, registry, respond, server::Server, strategy, subresource};
use api::{
    Object,
    catalog::Resource,
    field::{FieldError, Path},
    status::Status,
};
use axum::response::Response;
use bytes::Bytes;
use http::StatusCode;
use serde_json::Value;

pub(super) async fn update(ctx: &Context, bytes: Bytes) -> api::Result<Response> {
    let mut object = ctx.absorb(body::decode(ctx, &bytes)?)?;
    let name = ctx.info.name.as_str();
    same_name(&object, name, &ctx.namespace)?;
    let scope = ctx.scope();
    place(&scope, &mut object)?;
    for text in strategy::of(&ctx.stored).warnings(&object) {
        ctx.warn(text);
    }
    let outcome = scope.target(name).change(&Update { scope, object }).await?;
    respond::object(ctx, StatusCode::OK, outcome.object())
}

/// An object that is to replace another must carry its name, and its namespace if any.
pub(crate) fn same_name(object: &Object, name: &str, namespace: &str) -> api::Result<()> {
    let (own, place) = (object.name(), object.namespace());
    let why = if own.is_empty() {
        format!("the name of the object ({name} based on URL) was undeterminable: name must be provided")
    } else if own != name {
        format!("the name of the object ({own}) does not match the name on the URL ({name})")
    } else if !namespace.is_empty() && !place.is_empty() && place != namespace {
        format!(
            "the namespace of the object ({place}) does not match the namespace on the request ({namespace})"
        )
    } else {
        return Ok(());
    };
    Err(Status::bad_request(why))
}

struct Update<'a> {
    scope: Scope<'a>,
    object: Object,
}

#[async_trait::async_trait]
impl Change for Update<'_> {
    async fn plan(&self, current: &Object) -> api::Result<Plan> {
        unconditional(&self.scope, &self.object)?;
        replace(&self.scope, self.object.clone(), current).await
    }
}

/// Custom resources are never updated blindly.
fn unconditional(scope: &Scope<'_>, object: &Object) -> api::Result<()> {
    if scope.resource.custom && object.resource_version().is_empty() {
        let path = Path::new("metadata").child("resourceVersion");
        let error = FieldError::invalid(&path, 0, "must be specified for an update");
        return Err(Status::invalid(&scope.resource.group_kind(), object.name(), vec![error]));
    }
    Ok(())
}

/// Plans to write `new` over `current`: the part of an update that patches and subresources share.
pub(crate) async fn replace(scope: &Scope<'_>, mut new: Object, current: &Object) -> api::Result<Plan> {
    same_object(scope, &new, current)?;
    carry_over(&mut new, current);
    scope.default(&mut new);
    let name = current.name().to_string();
    scope.admit(Operation::Update, &name, Some(&mut new), Some(current)).await?;
    scope.default(&mut new);
    match scope.subresource {
        "status" => strategy::prepare_status_update(scope.resource, &mut new, current),
        "" => strategy::prepare_update(scope.resource, &mut new, current),
        other => subresource::narrow(other, scope.resource, &mut new, current)?,
    }
    scope.validate(&new, Some(current))?;
    scope.permit(Operation::Update, &name, Some(&mut new), Some(current)).await?;
    finish(scope, new, current).await
}

/// Writes, deletes (the last finalizer went) or leaves an object whose new state is settled.
pub(crate) async fn finish(scope: &Scope<'_>, mut new: Object, current: &Object) -> api::Result<Plan> {
    if ends(scope.resource, &new) {
        return Ok(Plan::Delete(extras::delete(scope, current).await?));
    }
    let extra = extras::write(scope, &mut new, Some(current)).await?;
    if extra == crate::store::Extra::default() && registry::encode(&new) == registry::encode(current) {
        return Ok(Plan::Keep);
    }
    Ok(Plan::Put(Box::new(new), extra))
}

/// Whether an object that is being deleted has nothing left to wait for.
fn ends(r: &Resource, object: &Object) -> bool {
    let waits = r.group.is_empty() && r.kind == "Namespace" && !object.list_at("spec.finalizers").is_empty();
    object.deletion_timestamp().is_some()
        && object.finalizers().next().is_none()
        && object.deletion_grace_period_seconds().unwrap_or(0) == 0
        && !waits
}

fn same_object(scope: &Scope<'_>, new: &Object, current: &Object) -> api::Result<()> {
    let gr = scope.resource.group_resource();
    if !new.uid().is_empty() && new.uid() != current.uid() {
        let why = format!(
            "Precondition failed: UID in precondition: {}, UID in object meta: {}",
            new.uid(),
            current.uid()
        );
        return Err(Status::conflict(&gr, current.name(), why));
    }
    if !matches!(new.resource_version(), "" | "0") && new.resource_version() != current.resource_version() {
        return Err(Status::modified(&gr, current.name()));
    }
    Ok(())
}

/// What the server keeps in the metadata whatever the client sends.
fn carry_over(new: &mut Object, current: &Object) {
    for field in ["uid", "creationTimestamp"] {
        if new.get(&format!("metadata.{field}")).is_none_or(Value::is_null) {
            copy(new, current, field);
        }
    }
    for field in ["deletionTimestamp", "deletionGracePeriodSeconds", "resourceVersion"] {
        copy(new, current, field);
    }
    for field in ["selfLink", "managedFields"] {
        new.metadata_mut().remove(field);
    }
}

fn copy(new: &mut Object, current: &Object, field: &str) {
    match current.get(&format!("metadata.{field}")) {
        Some(value) => new.set_meta(field, value.clone()),
        None => drop(new.metadata_mut().remove(field)),
    }
}

/// Reads, changes and writes as the server itself.
pub(crate) async fn as_server(
    server: &Server,
    r: &Resource,
    namespace: &str,
    name: &str,
    f: &(dyn Fn(Object) -> api::Result<Object> + Send + Sync),
) -> api::Result<Object> {
    let scope = Scope::server(server, r, namespace);
    scope.target(name).change(&With { scope, f }).await.map(Outcome::object)
}

struct With<'a> {
    scope: Scope<'a>,
    f: &'a (dyn Fn(Object) -> api::Result<Object> + Send + Sync),
}

#[async_trait::async_trait]
impl Change for With<'_> {
    async fn plan(&self, current: &Object) -> api::Result<Plan> {
        let mut new = (self.f)(current.clone())?;
        // The server writes status and spec at once: only the generation follows the kind's rule.
        carry_over(&mut new, current);
        self.scope.default(&mut new);
        self.scope.validate(&new, Some(current))?;
        finish(&self.scope, new, current).await
    }
}
