//! Discovery, plain and aggregated, `/version`. All of it is
//! derived from the catalog as it is at the time of the request.

use crate::{request::RequestInfo, respond, server::Server};
use api::{
    catalog::{Catalog, Resource, Subresource},
    status::Status,
};
use axum::response::Response;
use http::{HeaderMap, HeaderValue, StatusCode, header};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

/// The version of Kubernetes whose API this is.
pub(crate) const GIT_VERSION: &str = "v1.35.0";

/// Answers `/`, `/version`, `/api…` and `/apis…`.
pub(crate) fn answer(server: &Server, info: &RequestInfo, headers: &HeaderMap) -> api::Result<Response> {
    let catalog = server.catalog();
    let parts: Vec<&str> = info.path.trim_matches('/').split('/').collect();
    if matches!(parts.as_slice(), ["api"] | ["apis"])
        && let Some(version) = aggregated(headers)
    {
        return Ok(aggregate(&catalog, parts[0] == "api", version, headers));
    }
    let value = match parts.as_slice() {
        [""] => root(&catalog),
        ["version"] => version(),
        ["api"] => json!({
            "kind": "APIVersions",
            "versions": ["v1"],
            "serverAddressByClientCIDRs": [{
                "clientCIDR": "0.0.0.0/0",
                "serverAddress": format!("{}:{}", server.config().advertise_address, server.config().flags.secure_port),
            }],
        }),
        ["api", version] => resources(&catalog, "", version)?,
        ["apis"] => {
            let groups: Vec<Value> = groups(&catalog).iter().map(|g| group(&catalog, g, false)).collect();
            json!({"kind": "APIGroupList", "apiVersion": "v1", "groups": groups})
        }
        ["apis", name] if groups(&catalog).iter().any(|g| g == name) => group(&catalog, name, true),
        ["apis", group, version] => resources(&catalog, group, version)?,
        _ => return Err(Status::not_found_path()),
    };
    Ok(respond::value(respond::negotiate(headers)?, StatusCode::OK, &value))
}

fn version() -> Value {
    json!({
        "major": "1",
        "minor": "35",
        "gitVersion": GIT_VERSION,
        "gitCommit": "trireme",
        "gitTreeState": "clean",
        "buildDate": "1970-01-01T00:00:00Z",
        "goVersion": "none",
        "compiler": "rustc",
        "platform": "linux/amd64",
    })
}

fn root(catalog: &Catalog) -> Value {
    let mut paths = vec!["/api".to_string(), "/apis".into()];
    for (group, version) in catalog.group_versions() {
        match group {
            "" => paths.push(format!("/api/{version}")),
            group => paths.extend([format!("/apis/{group}"), format!("/apis/{group}/{version}")]),
        }
    }
    paths.extend(
        ["/healthz", "/livez", "/metrics", "/openapi/v2", "/openapi/v3", "/readyz", "/version"]
            .map(String::from),
    );
    paths.sort();
    paths.dedup();
    json!({"paths": paths})
}

/// Groups in order, each once, without the core group.
fn groups(catalog: &Catalog) -> Vec<String> {
    let mut names: Vec<String> = Vec::new();
    for (group, _) in catalog.group_versions() {
        if !group.is_empty() && !names.iter().any(|n| n == group) {
            names.push(group.to_string());
        }
    }
    names
}

fn versions<'c>(catalog: &'c Catalog, group: &str) -> Vec<&'c str> {
    catalog.group_versions().into_iter().filter(|(g, _)| *g == group).map(|(_, v)| v).collect()
}

fn group(catalog: &Catalog, name: &str, alone: bool) -> Value {
    let versions: Vec<Value> = versions(catalog, name)
        .iter()
        .map(|v| json!({"groupVersion": format!("{name}/{v}"), "version": v}))
        .collect();
    let mut group = json!({"name": name, "versions": versions, "preferredVersion": versions.first()});
    if alone {
        group["kind"] = "APIGroup".into();
        group["apiVersion"] = "v1".into();
    }
    group
}

fn resources(catalog: &Catalog, group: &str, version: &str) -> api::Result<Value> {
    let mut list = Vec::new();
    for r in catalog.iter().filter(|r| r.group == group && r.version == version) {
        list.push(resource(r));
        list.extend(r.subresources.iter().map(|sub| subresource(r, sub)));
    }
    if list.is_empty() {
        return Err(Status::not_found_path());
    }
    let group_version = if group.is_empty() { version.to_string() } else { format!("{group}/{version}") };
    Ok(
        json!({"kind": "APIResourceList", "apiVersion": "v1", "groupVersion": group_version, "resources": list}),
    )
}

fn resource(r: &Resource) -> Value {
    let mut value = json!({
        "name": r.plural,
        "singularName": r.singular,
        "namespaced": r.namespaced,
        "kind": r.kind,
        "verbs": r.verbs.names().collect::<Vec<_>>(),
    });
    if !r.short_names.is_empty() {
        value["shortNames"] = json!(r.short_names);
    }
    if !r.categories.is_empty() {
        value["categories"] = json!(r.categories);
    }
    if !r.prefix.is_empty() {
        let hash = Sha256::digest(format!("{}/{}", r.storage, r.plural));
        value["storageVersionHash"] = base64(&hash[..8]).into();
    }
    value
}

fn base64(bytes: &[u8]) -> String {
    base64::Engine::encode(&base64::prelude::BASE64_STANDARD, bytes)
}

fn subresource(r: &Resource, sub: &Subresource) -> Value {
    let mut value = json!({
        "name": format!("{}/{}", r.plural, sub.name),
        "singularName": "",
        "namespaced": r.namespaced,
        "kind": sub.gvk.kind,
        "verbs": sub.discovery_verbs(),
    });
    if sub.gvk.group != r.group || sub.gvk.version != r.version {
        value["group"] = sub.gvk.group.as_str().into();
        value["version"] = sub.gvk.version.as_str().into();
    }
    value
}

/// The version of aggregated discovery that the client wants before anything else this server has.
fn aggregated(headers: &HeaderMap) -> Option<&'static str> {
    let accept = headers.get(header::ACCEPT)?.to_str().ok()?;
    accept.split(',').find_map(|alternative| {
        let has = |text: &str| alternative.split(';').any(|p| p.trim() == text);
        if !has("as=APIGroupDiscoveryList") || !has("application/json") {
            return None;
        }
        if has("v=v2") { Some("v2") } else { has("v=v2beta1").then_some("v2beta1") }
    })
}

fn aggregate(catalog: &Catalog, core: bool, version: &'static str, headers: &HeaderMap) -> Response {
    let names = if core { vec![String::new()] } else { groups(catalog) };
    let items: Vec<Value> = names.iter().map(|group| discovery_group(catalog, group)).collect();
    let list = json!({
        "kind": "APIGroupDiscoveryList",
        "apiVersion": format!("apidiscovery.k8s.io/{version}"),
        "metadata": {},
        "items": items,
    });
    let body = serde_json::to_vec(&list).unwrap_or_default();
    let hash: String = Sha256::digest(&body).iter().map(|b| format!("{b:02X}")).collect();
    let etag = format!("\"{hash}\"");
    let content_type = match version {
        "v2" => "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList",
        _ => "application/json;g=apidiscovery.k8s.io;v=v2beta1;as=APIGroupDiscoveryList",
    };
    let known =
        headers.get(header::IF_NONE_MATCH).and_then(|v| v.to_str().ok()).is_some_and(|t| t.contains(&etag));
    let mut response = match known {
        true => respond::raw(StatusCode::NOT_MODIFIED, content_type, Default::default()),
        false => respond::raw(StatusCode::OK, content_type, body.into()),
    };
    response.headers_mut().insert(header::VARY, HeaderValue::from_static("Accept"));
    if let Ok(etag) = HeaderValue::from_str(&etag) {
        response.headers_mut().insert(header::ETAG, etag);
    }
    response
}

fn discovery_group(catalog: &Catalog, group: &str) -> Value {
    let versions: Vec<Value> = versions(catalog, group)
        .iter()
        .map(|version| {
            let of_version = catalog.iter().filter(|r| r.group == group && r.version == *version);
            let resources: Vec<Value> = of_version.map(|r| discovery_resource(r)).collect();
            json!({"version": version, "resources": resources, "freshness": "Current"})
        })
        .collect();
    let metadata = if group.is_empty() { json!({}) } else { json!({"name": group}) };
    json!({"metadata": metadata, "versions": versions})
}

fn discovery_resource(r: &Resource) -> Value {
    let kind =
        |group: &str, version: &str, kind: &str| json!({"group": group, "version": version, "kind": kind});
    let mut value = json!({
        "resource": r.plural,
        "responseKind": kind(&r.group, &r.version, &r.kind),
        "scope": if r.namespaced { "Namespaced" } else { "Cluster" },
        "singularResource": r.singular,
        "verbs": r.verbs.names().collect::<Vec<_>>(),
    });
    if !r.short_names.is_empty() {
        value["shortNames"] = json!(r.short_names);
    }
    if !r.categories.is_empty() {
        value["categories"] = json!(r.categories);
    }
    if !r.subresources.is_empty() {
        let subs = r.subresources.iter().map(|sub| {
            json!({
                "subresource": sub.name,
                "responseKind": kind(&sub.gvk.group, &sub.gvk.version, &sub.gvk.kind),
                "verbs": sub.discovery_verbs(),
            })
        });
        value["subresources"] = subs.collect();
    }
    value
}
