//! create: a new object, under its name or one made from generateName.

use super::{Context, Scope, extras, place};
use crate::{admission::Operation, authn::UserInfo, body, respond, server::Server, strategy};
use api::{
    Object,
    catalog::Resource,
    status::{Reason, Status},
};
use axum::response::Response;
use bytes::Bytes;
use http::StatusCode;
use std::time::Duration;

/// How many names are tried for a generateName.
const ATTEMPTS: usize = 8;
/// How often a lost race for an allocation is run again, and the longest pause before that.
const RACES: u32 = 200;
const LONGEST_PAUSE: Duration = Duration::from_millis(50);

pub(super) async fn create(ctx: &Context, bytes: Bytes) -> api::Result<Response> {
    let object = ctx.absorb(body::decode(ctx, &bytes)?)?;
    if !ctx.info.name.is_empty() && object.name() != ctx.info.name {
        return Err(Status::bad_request("the name of the object does not match the name on the URL"));
    }
    let scope = ctx.scope();
    for text in strategy::of(&ctx.stored).warnings(&object) {
        ctx.warn(text);
    }
    let created = insert(&scope, object).await?;
    respond::object(ctx, StatusCode::CREATED, created)
}

/// Creates an object as the server itself.
pub(crate) async fn as_server(server: &Server, r: &Resource, object: Object) -> api::Result<Object> {
    let namespace = if r.namespaced { object.namespace().to_string() } else { String::new() };
    insert(&Scope::server(server, r, &namespace), object).await
}

/// Creates an object.
pub(crate) async fn insert(scope: &Scope<'_>, object: Object) -> api::Result<Object> {
    let generated = object.name().is_empty() && !object.generate_name().is_empty();
    for attempt in 1.. {
        match once(scope, object.clone()).await {
            Err(status) if generated && status.reason() == Reason::AlreadyExists => {
                if attempt >= ATTEMPTS {
                    let gr = scope.resource.group_resource();
                    return Err(Status::generate_name_conflict(&gr, object.generate_name()));
                }
            }
            other => return other,
        }
    }
    unreachable!("the loop above returns")
}

async fn once(scope: &Scope<'_>, mut object: Object) -> api::Result<Object> {
    if !object.resource_version().is_empty() {
        return Err(Status::bad_request("resourceVersion should not be set on objects to be created"));
    }
    place(scope, &mut object)?;
    fill_metadata(&mut object);
    scope.default(&mut object);
    let name = object.name().to_string();
    scope.admit(Operation::Create, &name, Some(&mut object), None).await?;
    scope.default(&mut object);
    strategy::prepare_create(scope.resource, &mut object);
    requester(scope.user, scope.resource, &mut object);
    scope.validate(&object, None)?;
    scope.permit(Operation::Create, &name, Some(&mut object), None).await?;
    for race in 0..RACES {
        let mut object = object.clone();
        let extra = extras::write(scope, &mut object, None).await?;
        if let Some(written) = scope.target(&name).insert(object, extra).await? {
            return Ok(written);
        }
        let pause = LONGEST_PAUSE.min(Duration::from_millis(1) * (race + 1));
        tokio::time::sleep(pause.mul_f64(rand::random())).await;
    }
    Err(Status::server_timeout(&scope.resource.group_resource(), "create", 1))
}

fn fill_metadata(object: &mut Object) {
    if object.name().is_empty() && !object.generate_name().is_empty() {
        let name = api::name::generate(object.generate_name());
        object.set_name(&name);
    }
    for field in ["selfLink", "managedFields", "deletionTimestamp", "deletionGracePeriodSeconds"] {
        object.metadata_mut().remove(field);
    }
    object.set_meta("uid", uuid::Uuid::new_v4().to_string());
    object.set_meta("creationTimestamp", api::time::now_text());
}

/// A certificate signing request says who made it; nobody can say so for somebody else.
fn requester(user: Option<&UserInfo>, r: &Resource, object: &mut Object) {
    let (Some(user), "CertificateSigningRequest") = (user, r.kind.as_str()) else { return };
    for field in ["username", "uid", "groups", "extra"] {
        object.remove(&format!("spec.{field}"));
    }
    object.set("spec.username", user.name.as_str());
    if !user.uid.is_empty() {
        object.set("spec.uid", user.uid.as_str());
    }
    object.set("spec.groups", user.groups.clone());
    if !user.extra.is_empty() {
        object.set("spec.extra", serde_json::to_value(&user.extra).unwrap_or_default());
    }
}
