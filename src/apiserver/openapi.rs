//! `/openapi/v2` and `/openapi/v3`, made from the catalog once per catalog and kept.

use crate::{request::RequestInfo, respond, server::Server};
use api::{catalog::Catalog, status::Status};
use axum::response::Response;
use bytes::Bytes;
use http::{HeaderMap, HeaderValue, StatusCode, header};
use sha2::{Digest, Sha256};
use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
};

const JSON: &str = "application/json";

/// Documents of one catalog.
#[derive(Default)]
pub(crate) struct Documents {
    made: Mutex<Made>,
}

#[derive(Default)]
struct Made {
    catalog: Option<Arc<Catalog>>,
    documents: HashMap<String, Document>,
}

#[derive(Clone)]
struct Document {
    body: Bytes,
    etag: String,
}

impl Documents {
    fn get(
        &self,
        catalog: &Arc<Catalog>,
        name: &str,
        make: impl FnOnce() -> Option<Bytes>,
    ) -> Option<Document> {
        let mut made = self.made.lock().unwrap_or_else(PoisonError::into_inner);
        if !made.catalog.as_ref().is_some_and(|known| Arc::ptr_eq(known, catalog)) {
            *made = Made { catalog: Some(catalog.clone()), documents: HashMap::new() };
        }
        if let Some(document) = made.documents.get(name) {
            return Some(document.clone());
        }
        let body = make()?;
        let hash: String = Sha256::digest(&body).iter().map(|b| format!("{b:02X}")).collect();
        let document = Document { body, etag: format!("\"{hash}\"") };
        made.documents.insert(name.to_string(), document.clone());
        Some(document)
    }
}

/// Answers below `/openapi`.
pub(crate) fn answer(
    server: &Server,
    rest: &[&str],
    _info: &RequestInfo,
    headers: &HeaderMap,
) -> api::Result<Response> {
    let catalog = server.catalog();
    let json = |value: serde_json::Value| serde_json::to_vec(&value).ok().map(Bytes::from);
    let accept = headers.get(header::ACCEPT).and_then(|v| v.to_str().ok()).unwrap_or_default();
    let documents = server.documents();
    let (found, content_type) = match rest {
        ["v2"] if accept.contains("+protobuf") => {
            let make = || Some(api::openapi::protobuf(&api::openapi::v2(&catalog)).into());
            // The type that old clients ask for (with an @) is not a media type: they cannot parse it either.
            (documents.get(&catalog, "v2.pb", make), api::openapi::PROTOBUF_CONTENT_TYPE)
        }
        ["v2"] => (documents.get(&catalog, "v2", || json(api::openapi::v2(&catalog))), JSON),
        ["v3"] => (documents.get(&catalog, "v3", || json(api::openapi::v3_index(&catalog))), JSON),
        ["v3", path @ ..] => {
            let (group, version) = match path {
                ["api", version] => ("", *version),
                ["apis", group, version] => (*group, *version),
                _ => return Err(Status::not_found_path()),
            };
            let make = || json(api::openapi::v3(&catalog, group, version)?);
            (documents.get(&catalog, &path.join("/"), make), JSON)
        }
        _ => return Err(Status::not_found_path()),
    };
    let document = found.ok_or_else(Status::not_found_path)?;
    Ok(conditional(headers, &document, content_type))
}

fn conditional(headers: &HeaderMap, document: &Document, content_type: &'static str) -> Response {
    let known = headers.get(header::IF_NONE_MATCH).and_then(|v| v.to_str().ok());
    let mut response = match known.is_some_and(|tags| tags.contains(&document.etag)) {
        true => respond::raw(StatusCode::NOT_MODIFIED, content_type, Bytes::new()),
        false => respond::raw(StatusCode::OK, content_type, document.body.clone()),
    };
    response.headers_mut().insert(header::VARY, HeaderValue::from_static("Accept"));
    if let Ok(etag) = HeaderValue::from_str(&document.etag) {
        response.headers_mut().insert(header::ETAG, etag);
    }
    response
}
