//! `pods/log`, `pods/exec`, `pods/attach`, `pods/portforward`: to the kubelet of the pod's node.

use std::sync::Arc;

use api::Object;
use api::status::{Reason, Status};
use axum::body::Body;
use axum::extract::Request;
use axum::response::Response;
use http::{HeaderValue, Method, StatusCode, header};

use super::{admit, forward, kubelet, options};
use crate::authn::UserInfo;
use crate::authz::{Ask, Attributes, forbidden};
use crate::request::RequestInfo;
use crate::server::Server;

/// How much of a kubelet's error is passed on, bytes.
const ERROR_LIMIT: usize = 4096;

/// Streams a container's log.
pub(super) async fn log(
    server: Arc<Server>,
    user: Arc<UserInfo>,
    info: RequestInfo,
    mut request: Request,
) -> api::Result<Response> {
    let pods = server.resource("", "pods");
    if info.verb != "get" {
        return Err(Status::method_not_supported(&pods.group_resource(), info.verb));
    }
    let query = options::log(&info.query)?;
    let pod = server.get(&pods, &info.namespace, &info.name).await?;
    let container = options::container(&pod, info.query.get("container"))?;
    admit(&server, &user, &info).await?;
    let node = pod.str_at("spec.nodeName");
    if node.is_empty() {
        // Nobody has anything to say yet.
        return Ok(plain(Body::empty()));
    }
    let target = kubelet::target(&server, node).await?;
    let path = path("containerLogs", &pod, Some(&container), &query);
    request.headers_mut().remove(header::ACCEPT_ENCODING);
    *request.body_mut() = Body::empty();
    *request.method_mut() = Method::GET;
    let url = format!("{}://{}{path}", target.scheme(), target.authority());
    let sent = forward::forward(&target, &path, request, server.stopping()).await;
    let answer = sent.map_err(|status| in_words_of_go(&status, &url))?;
    match answer.status() {
        StatusCode::OK => Ok(plain(answer.into_body())),
        code => Err(error_of(code, answer).await),
    }
}

/// Upstream reads logs with an ordinary client, whose errors begin with method and URL.
fn in_words_of_go(status: &Status, url: &str) -> Status {
    match status.message().strip_prefix("error dialing backend: ") {
        Some(why) => forward::failed(format!("Get {url:?}: {why}")),
        None => status.clone(),
    }
}

fn plain(body: Body) -> Response {
    let mut response = Response::new(body);
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("text/plain"));
    response.headers_mut().insert(header::CACHE_CONTROL, HeaderValue::from_static("no-cache, private"));
    response
}

/// The kubelet's refusal as a Status.
async fn error_of(code: StatusCode, answer: Response) -> Status {
    let bytes = axum::body::to_bytes(answer.into_body(), ERROR_LIMIT).await.unwrap_or_default();
    let text = String::from_utf8_lossy(&bytes).trim().to_owned();
    match code {
        StatusCode::BAD_REQUEST => Status::bad_request(text),
        StatusCode::NOT_FOUND => Status::new(Reason::NotFound, text),
        StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => Status::internal(format!(
            "the kubelet refuses this API server's client certificate (--kubelet-client-certificate): {text}"
        )),
        _ => Status::internal(text),
    }
}

/// exec, attach and port-forward: an upgraded connection, carried as it is.
pub(super) async fn stream(
    server: Arc<Server>,
    user: Arc<UserInfo>,
    info: RequestInfo,
    mut request: Request,
) -> api::Result<Response> {
    let pods = server.resource("", "pods");
    if !matches!(info.verb, "get" | "create") {
        return Err(Status::method_not_supported(&pods.group_resource(), info.verb));
    }
    permit(&server, &user, &info)?;
    let pod = server.get(&pods, &info.namespace, &info.name).await?;
    let (action, container, query) = match info.subresource.as_str() {
        "portforward" => ("portForward", None, options::ports(&info.query)?),
        action => {
            let container = options::container(&pod, info.query.get("container"))?;
            let query = options::streams(&info.query, action == "exec")?;
            (if action == "exec" { "exec" } else { "attach" }, Some(container), query)
        }
    };
    let node = pod.str_at("spec.nodeName");
    if node.is_empty() {
        return Err(Status::bad_request(format!("pod {} does not have a host assigned", pod.name())));
    }
    negotiate(&mut request)?;
    admit(&server, &user, &info).await?;
    let target = kubelet::target(&server, node).await?;
    let path = path(action, &pod, container.as_deref(), &query);
    let answer = forward::forward(&target, &path, request, server.stopping()).await?;
    match answer.status() {
        StatusCode::SWITCHING_PROTOCOLS => Ok(answer),
        code => Err(error_of(code, answer).await),
    }
}

/// A WebSocket begins with GET, which reads as the verb get: running commands needs create all the same.
fn permit(server: &Server, user: &UserInfo, info: &RequestInfo) -> api::Result<()> {
    if info.verb == "create" {
        return Ok(());
    }
    let info = RequestInfo { verb: "create", ..info.clone() };
    match server.authorizer() {
        Some(authorizer) if authorizer.allows(user, &Ask::of(&info)) => Ok(()),
        _ => Err(forbidden(&Attributes { user, info: &info }, "")),
    }
}

/// Refuses what cannot be carried, and offers the kubelet only what can.
fn negotiate(request: &mut Request) -> api::Result<()> {
    if !forward::is_upgrade(request.headers()) {
        return Err(Status::bad_request("Upgrade request required"));
    }
    if !forward::is_websocket(request.headers()) {
        return Ok(());
    }
    let offers = request.headers().get_all(header::SEC_WEBSOCKET_PROTOCOL);
    let offers: Vec<&str> = offers.iter().filter_map(|value| value.to_str().ok()).collect();
    let Some(kept) = options::protocols(&offers) else {
        let why = format!(
            "unable to upgrade: none of the WebSocket protocols {offers:?} is supported, use SPDY/3.1"
        );
        return Err(Status::bad_request(why));
    };
    match HeaderValue::from_str(&kept) {
        Ok(value) if !kept.is_empty() => {
            drop(request.headers_mut().insert(header::SEC_WEBSOCKET_PROTOCOL, value))
        }
        _ => {}
    }
    Ok(())
}

fn path(action: &str, pod: &Object, container: Option<&str>, query: &str) -> String {
    let mut path = format!("/{action}/{}/{}", options::escape(pod.namespace()), options::escape(pod.name()));
    if let Some(container) = container {
        path = format!("{path}/{}", options::escape(container));
    }
    if query.is_empty() { path } else { format!("{path}?{query}") }
}
