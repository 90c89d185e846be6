//! Where an authorised request goes.

use crate::{
    authn::{self, UserInfo},
    discovery, health, openapi, registry,
    request::RequestInfo,
    server::Server,
    subresource, verbs,
};
use api::status::Status;
use axum::{extract::Request, response::Response};
use http::HeaderMap;
use std::sync::Arc;

pub(super) async fn dispatch(
    server: Arc<Server>,
    user: Arc<UserInfo>,
    info: RequestInfo,
    request: Request,
) -> api::Result<Response> {
    if !info.is_resource {
        return own_path(&server, &info, request.headers());
    }
    parameters(&info)?;
    let resource = registry::requested(&server.catalog(), &info).ok_or_else(Status::not_found_path)?;
    if resource.namespaced && info.namespace.is_empty() && needs_namespace(&info) {
        return Err(Status::not_found_path());
    }
    if !resource.namespaced && !info.namespace.is_empty() && info.resource != "namespaces" {
        return Err(Status::not_found_path());
    }
    if info.name.is_empty() && matches!(info.verb, "update" | "patch") {
        return Err(Status::method_not_allowed());
    }
    if let Some(handler) = subresource::handler(&info, &resource) {
        return Ok(handler(server, user, info, request).await);
    }
    verbs::serve(server, user, info, resource, request).await
}

/// Names that cannot be one part of a key are refused before anything looks for them. (A list's name comes
/// from its field selector and is only compared.)
fn parameters(info: &RequestInfo) -> api::Result<()> {
    // What is proxied may have any path, below the part that is ours.
    if info.path.split("/proxy/").next().is_some_and(|own| own.contains("//")) {
        return Err(Status::not_found_path());
    }
    let name = if matches!(info.verb, "list" | "watch" | "deletecollection") { "" } else { &info.name };
    for (what, text) in [("Namespace", info.namespace.as_str()), ("Name", name)] {
        let errors = api::name::path_segment(text);
        if !errors.is_empty() {
            let why = format!("{what} parameter invalid: {text:?}: {}", errors.join(";"));
            return Err(Status::bad_request(why));
        }
    }
    Ok(())
}

fn needs_namespace(info: &RequestInfo) -> bool {
    matches!(info.verb, "get" | "create" | "update" | "patch" | "delete" | "deletecollection")
}

fn own_path(server: &Arc<Server>, info: &RequestInfo, headers: &HeaderMap) -> api::Result<Response> {
    let parts: Vec<&str> = info.path.trim_matches('/').split('/').collect();
    match parts.as_slice() {
        ["healthz" | "livez" | "readyz", ..] => Ok(health::answer(server, info)),
        ["metrics"] => Ok(server.metrics().render()),
        ["version"] | ["api" | "apis", ..] | [""] => discovery::answer(server, info, headers),
        ["openapi", rest @ ..] => openapi::answer(server, rest, info, headers),
        [".well-known" | "openid", ..] => authn::openid::answer(server, &info.path),
        _ => Err(Status::not_found_path()),
    }
}
