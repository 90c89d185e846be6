//! OIDC discovery: the documents with which others verify service-account tokens without asking this server.

use axum::response::Response;
use bytes::Bytes;
use http::StatusCode;
use serde_json::{Value, json};

use api::status::Status;

use crate::respond;
use crate::server::Server;

/// Answers `/.well-known/openid-configuration` and `/openid/v1/jwks`.
pub(crate) fn answer(server: &Server, path: &str) -> api::Result<Response> {
    let (content_type, document) = match path.trim_end_matches('/') {
        "/.well-known/openid-configuration" => ("application/json", configuration(server)),
        "/openid/v1/jwks" => ("application/jwk-set+json", jwks(server)),
        _ => return Err(Status::not_found_path()),
    };
    Ok(respond::raw(StatusCode::OK, content_type, Bytes::from(document.to_string())))
}

fn configuration(server: &Server) -> Value {
    let flags = &server.config().flags;
    let algorithms = server.authenticator().map(|a| a.keys().algorithms()).unwrap_or_default();
    json!({
        "issuer": flags.service_account_issuer.first(),
        "jwks_uri": format!("https://{}:{}/openid/v1/jwks", server.config().advertise_address, flags.secure_port),
        "response_types_supported": ["id_token"],
        "subject_types_supported": ["public"],
        "id_token_signing_alg_values_supported": algorithms,
    })
}

fn jwks(server: &Server) -> Value {
    server.authenticator().map_or_else(|| json!({"keys": []}), |authenticator| authenticator.keys().jwks())
}
