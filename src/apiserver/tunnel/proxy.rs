//! The proxy subresource of nodes, pods and services: an ordinary request, sent on with its path, query, headers
//! and body. `[https:]NAME[:PORT]`; plain HTTP unless said otherwise, nodes by default the kubelet.

use std::net::IpAddr;
use std::sync::Arc;

use api::Object;
use api::status::Status;
use axum::extract::Request;
use axum::response::Response;
use http::{HeaderValue, Method, StatusCode, header};
use serde_json::Value;

use super::{address, address::Name, admit, dial::Target, forward, kubelet};
use crate::authn::UserInfo;
use crate::request::RequestInfo;
use crate::server::Server;

pub(super) async fn proxy(
    server: Arc<Server>,
    user: Arc<UserInfo>,
    info: RequestInfo,
    mut request: Request,
) -> api::Result<Response> {
    let Some((base, rest)) = split_path(&info.path) else { return Err(Status::not_found_path()) };
    let (base, rest) = (base.to_owned(), rest.to_owned());
    let Some(name) = address::split(&info.name) else {
        let kind = info.resource.trim_end_matches('s');
        return Err(Status::bad_request(format!("invalid {kind} request {:?}", info.name)));
    };
    if rest.is_empty() && matches!(*request.method(), Method::GET | Method::HEAD) {
        return Ok(moved(&base, &info.query.raw));
    }
    admit(&server, &user, &info).await?;
    let target = match info.resource.as_str() {
        "nodes" => node(&server, &name).await?,
        "pods" => pod(&server, &info.namespace, &name).await?,
        _ => service(&server, &info.namespace, &name)?,
    };
    let query = if info.query.raw.is_empty() { String::new() } else { format!("?{}", info.query.raw) };
    let path = if rest.starts_with('/') { rest } else { format!("/{rest}") };
    note_origin(&mut request, &info.path);
    let mut answer = forward::forward(&target, &format!("{path}{query}"), request, server.stopping()).await?;
    relocate(&mut answer, &target, &base);
    Ok(answer)
}

/// The path up to and including `/proxy`, and the rest as it came.
fn split_path(path: &str) -> Option<(&str, &str)> {
    // The fourth or sixth segment: /api/v1/nodes/NAME/proxy, /api/v1/namespaces/NS/KIND/NAME/proxy.
    let segments = if path.starts_with("/api/v1/namespaces/") { 7 } else { 5 };
    let mut end = 0;
    for _ in 0..segments {
        let tail = path.get(end + 1..)?;
        end += 1 + tail.find('/').unwrap_or(tail.len());
    }
    let (base, rest) = path.split_at(end);
    base.ends_with("/proxy").then_some((base, rest))
}

/// Relative links work only below a slash.
fn moved(base: &str, query: &str) -> Response {
    let query = if query.is_empty() { String::new() } else { format!("?{query}") };
    let mut response = Response::default();
    *response.status_mut() = StatusCode::MOVED_PERMANENTLY;
    if let Ok(value) = HeaderValue::from_str(&format!("{base}/{query}")) {
        response.headers_mut().insert(header::LOCATION, value);
    }
    response
}

fn note_origin(request: &mut Request, path: &str) {
    let host = request.headers().get(header::HOST).cloned();
    let headers = request.headers_mut();
    if let Ok(path) = HeaderValue::from_str(path) {
        headers.insert("x-forwarded-uri", path);
    }
    if let Some(host) = host {
        headers.insert("x-forwarded-host", host);
    }
    headers.insert("x-forwarded-proto", HeaderValue::from_static("https"));
}

/// A redirect within the target stays within the proxy; one to elsewhere goes back as it came.
fn relocate(answer: &mut Response, target: &Target, base: &str) {
    let Some(location) = answer.headers().get(header::LOCATION).and_then(|value| value.to_str().ok()) else {
        return;
    };
    let own = format!("{}://{}", target.scheme(), target.authority());
    let inside = match location.strip_prefix(&own) {
        Some(path) => path,
        None if location.starts_with('/') && !location.starts_with("//") => location,
        None => return,
    };
    if let Ok(value) = HeaderValue::from_str(&format!("{base}{inside}")) {
        answer.headers_mut().insert(header::LOCATION, value);
    }
}

fn tls(https: bool) -> Option<Arc<rustls::ClientConfig>> {
    https.then(serve::unverified)
}

fn checked(ip: IpAddr) -> api::Result<String> {
    match address::allowed(ip) {
        true => Ok(ip.to_string()),
        false => Err(Status::bad_request("address not allowed")),
    }
}

async fn node(server: &Server, name: &Name<'_>) -> api::Result<Target> {
    let kubelet = kubelet::target(server, name.name).await?;
    let port = number(name.port, kubelet.port)?;
    if port == kubelet.port {
        return Ok(kubelet);
    }
    // Another server on the node: it does not get to see our certificate.
    Ok(Target { port, tls: tls(name.https), node: None, ..kubelet })
}

fn number(text: &str, default: u16) -> api::Result<u16> {
    match text {
        "" => Ok(default),
        text => text.parse().map_err(|_| Status::bad_request(format!("invalid port {text:?}"))),
    }
}

async fn pod(server: &Server, namespace: &str, name: &Name<'_>) -> api::Result<Target> {
    let pod = server.get(&server.resource("", "pods"), namespace, name.name).await?;
    let default = address::first_port(&pod).unwrap_or(if name.https { 443 } else { 80 });
    let Some(ip) = address::of_pod(&pod) else {
        return Err(Status::bad_request(format!("pod {} has no address yet", pod.name())));
    };
    Ok(Target { host: checked(ip)?, port: number(name.port, default)?, tls: tls(name.https), node: None })
}

fn service(server: &Server, namespace: &str, name: &Name<'_>) -> api::Result<Target> {
    let services = server.resource("", "services");
    let Some(service) = server.cached_get(&services, namespace, name.name) else {
        return Err(Status::not_found(&services.group_resource(), name.name));
    };
    let Some(port_name) = port_name(&service, name.port) else {
        return Err(Status::service_unavailable(format!(
            "no service port {:?} found for service {:?}",
            name.port, name.name
        )));
    };
    let slices = server.cached_list(&server.resource("discovery.k8s.io", "endpointslices"), Some(namespace));
    let own = slices.iter().filter(|slice| slice.label("kubernetes.io/service-name") == Some(name.name));
    let ends: Vec<(IpAddr, u16)> = own.flat_map(|slice| ready(slice, &port_name)).collect();
    if ends.is_empty() {
        return Err(Status::service_unavailable(format!(
            "no endpoints available for service {:?}",
            name.name
        )));
    }
    let (ip, port) = ends[rand::random_range(0..ends.len())];
    Ok(Target { host: checked(ip)?, port, tls: tls(name.https), node: None })
}

/// The name of the service's port meant by a number, a name, or nothing (the first one).
fn port_name(service: &Object, wanted: &str) -> Option<String> {
    let name = |port: &Value| port.get("name").and_then(Value::as_str).unwrap_or_default().to_owned();
    let ports = service.list_at("spec.ports");
    let number = wanted.parse::<u64>().ok();
    let found = ports.iter().find(|port| match (wanted, number) {
        ("", _) => true,
        (_, Some(number)) => port.get("port").and_then(Value::as_u64) == Some(number),
        (wanted, None) => name(port) == wanted,
    });
    found.map(name)
}

/// The ready endpoints of a slice for a port.
fn ready(slice: &Object, port_name: &str) -> Vec<(IpAddr, u16)> {
    let text =
        |value: &Value, field: &str| value.get(field).and_then(Value::as_str).unwrap_or_default().to_owned();
    let port = slice.list_at("ports").iter().find(|port| text(port, "name") == port_name);
    let port = port.and_then(|port| port.get("port")?.as_u64()).and_then(|port| u16::try_from(port).ok());
    let Some(port) = port else { return Vec::new() };
    let is_ready =
        |end: &&Value| end.get("conditions").and_then(|c| c.get("ready")) != Some(&Value::Bool(false));
    let address = |end: &Value| end.get("addresses")?.as_array()?.first()?.as_str()?.parse::<IpAddr>().ok();
    slice.list_at("endpoints").iter().filter(is_ready).filter_map(address).map(|ip| (ip, port)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn paths() {
        let check = |path: &str, expect: Option<(&str, &str)>| assert_eq!(split_path(path), expect, "{path}");
        let base = "/api/v1/namespaces/a/services/web:80/proxy";
        check(base, Some((base, "")));
        check(&format!("{base}/"), Some((base, "/")));
        check(&format!("{base}/x/proxy/y%20z/"), Some((base, "/x/proxy/y%20z/")));
        check("/api/v1/nodes/w1/proxy/pods", Some(("/api/v1/nodes/w1/proxy", "/pods")));
        check("/api/v1/nodes/w1", None);
        check("/api/v1/namespaces/a/pods/x/log", None);
    }

    #[test]
    fn service_ports() {
        let service = Object::try_from(json!({"spec": {"ports": [
            {"name": "http", "port": 80}, {"name": "metrics", "port": 9090},
        ]}}))
        .unwrap();
        let check =
            |wanted: &str, expect: Option<&str>| assert_eq!(port_name(&service, wanted).as_deref(), expect);
        check("", Some("http"));
        check("9090", Some("metrics"));
        check("metrics", Some("metrics"));
        check("81", None);
        check("other", None);
    }

    #[test]
    fn ready_endpoints() {
        let slice = Object::try_from(json!({
            "ports": [{"name": "http", "port": 8080}],
            "endpoints": [
                {"addresses": ["10.0.0.1"], "conditions": {"ready": true}},
                {"addresses": ["10.0.0.2"], "conditions": {"ready": false}},
                {"addresses": ["10.0.0.3"]},
            ],
        }))
        .unwrap();
        let ends: Vec<String> =
            ready(&slice, "http").iter().map(|(ip, port)| format!("{ip}:{port}")).collect();
        assert_eq!(ends, ["10.0.0.1:8080", "10.0.0.3:8080"]);
        assert!(ready(&slice, "other").is_empty());
    }

    #[test]
    fn redirects() {
        let target = Target { host: "10.0.0.1".into(), port: 8080, tls: None, node: None };
        let check = |location: &str, expect: &str| {
            let mut answer = Response::default();
            answer.headers_mut().insert(header::LOCATION, location.parse().unwrap());
            relocate(&mut answer, &target, "/base/proxy");
            assert_eq!(answer.headers()[header::LOCATION], expect);
        };
        check("/login", "/base/proxy/login");
        check("http://10.0.0.1:8080/login", "/base/proxy/login");
        check("http://elsewhere/login", "http://elsewhere/login");
        check("//elsewhere/login", "//elsewhere/login");
        check("next", "next");
    }
}
