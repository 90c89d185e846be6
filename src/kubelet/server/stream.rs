//! exec, attach and port-forward: the runtime names a URL, and the upgraded connection's bytes go to it as
//! they are. Keeps true: a protocol that the runtime does not speak is refused without an upgrade.

use axum::{
    body::Body,
    extract::{Path, Query, Request, State},
    http::{StatusCode, header},
    response::Response,
};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;

use super::{Named, Pairs, Shared, flag, instance, text, value};
use crate::runtime::cri;

/// Sub-protocols that containerd's streaming server does not have.
const UNSUPPORTED: [&str; 2] = ["v5.channel.k8s.io", "SPDY/3.1+portforward.k8s.io"];

fn is_refused(request: &Request) -> bool {
    let offered = request.headers().get_all(header::SEC_WEBSOCKET_PROTOCOL).into_iter();
    let offered: Vec<&str> = offered
        .filter_map(|value| value.to_str().ok())
        .flat_map(|text| text.split(','))
        .map(str::trim)
        .collect();
    !offered.is_empty() && offered.iter().all(|name| UNSUPPORTED.contains(name))
}

pub(super) async fn exec(
    State(app): Shared,
    Path(named): Named,
    Query(pairs): Pairs,
    request: Request,
) -> Response {
    let (_, one) = match instance(&app, &named.0, &named.1, &named.2) {
        Ok(found) => found,
        Err(answer) => return *answer,
    };
    let tty = flag(&pairs, "tty");
    let command = pairs.iter().filter(|(key, _)| key == "command").map(|(_, value)| value.clone()).collect();
    let wanted = cri::ExecRequest {
        container_id: one.id,
        cmd: command,
        tty,
        stdin: flag(&pairs, "input") || flag(&pairs, "stdin"),
        stdout: flag(&pairs, "output") || flag(&pairs, "stdout"),
        stderr: !tty && (flag(&pairs, "error") || flag(&pairs, "stderr")),
    };
    tunnel(request, app.context.runtime.exec(wanted).await).await
}

pub(super) async fn attach(
    State(app): Shared,
    Path(named): Named,
    Query(pairs): Pairs,
    request: Request,
) -> Response {
    let (found, one) = match instance(&app, &named.0, &named.1, &named.2) {
        Ok(found) => found,
        Err(answer) => return *answer,
    };
    let spec = crate::pod::spec(&found.pod);
    let tty = crate::pod::find(&spec, &named.2).is_some_and(|container| container.tty == Some(true));
    let wanted = cri::AttachRequest {
        container_id: one.id,
        tty,
        stdin: flag(&pairs, "input") || flag(&pairs, "stdin"),
        stdout: flag(&pairs, "output") || flag(&pairs, "stdout"),
        stderr: !tty && (flag(&pairs, "error") || flag(&pairs, "stderr")),
    };
    tunnel(request, app.context.runtime.attach(wanted).await).await
}

pub(super) async fn port_forward(
    State(app): Shared,
    Path((namespace, pod)): Path<(String, String)>,
    Query(pairs): Pairs,
    request: Request,
) -> Response {
    let found = app.manager.find(&namespace, &pod);
    let Some(sandbox) = found.and_then(|found| found.view.ready_sandbox().map(|one| one.id.clone())) else {
        return text(StatusCode::NOT_FOUND, format!("pod \"{pod}\" not found"));
    };
    let ports = value(&pairs, "port").or(value(&pairs, "ports")).unwrap_or_default();
    let ports = ports.split(',').filter_map(|port| port.parse().ok()).collect();
    tunnel(request, app.context.runtime.port_forward(&sandbox, ports).await).await
}

async fn tunnel(request: Request, url: crate::runtime::Result<String>) -> Response {
    if is_refused(&request) {
        return text(StatusCode::BAD_REQUEST, "the container runtime does not speak this WebSocket protocol");
    }
    let url = match url {
        Ok(url) => url,
        Err(error) => return text(StatusCode::INTERNAL_SERVER_ERROR, error.to_string()),
    };
    match connect(request, &url).await {
        Ok(answer) => answer,
        Err(error) => {
            text(StatusCode::BAD_GATEWAY, format!("cannot reach the container runtime's stream: {error}"))
        }
    }
}

/// Sends the request on with its upgrade headers; once both sides have switched, copies bytes.
async fn connect(
    mut request: Request,
    url: &str,
) -> Result<Response, Box<dyn std::error::Error + Send + Sync>> {
    let url: http::Uri = url.parse()?;
    let stream =
        TcpStream::connect((url.host().unwrap_or("127.0.0.1"), url.port_u16().unwrap_or(80))).await?;
    stream.set_nodelay(true)?;
    let (mut sender, connection) =
        hyper::client::conn::http1::handshake::<_, Body>(TokioIo::new(stream)).await?;
    // Ends with the connection, which both sides' upgrade takes over.
    tokio::spawn(connection.with_upgrades());
    let mut onward = http::Request::builder().method(request.method().clone());
    onward = onward.uri(url.path_and_query().map_or("/", |path| path.as_str()));
    for (name, value) in
        request.headers().iter().filter(|(name, _)| **name != header::HOST && **name != header::AUTHORIZATION)
    {
        onward = onward.header(name, value);
    }
    let host = url.authority().map(|authority| authority.as_str().to_owned()).unwrap_or_default();
    let onward = onward.header(header::HOST, host).body(Body::empty())?;
    let mut answer = sender.send_request(onward).await?;
    if answer.status() != StatusCode::SWITCHING_PROTOCOLS {
        return Ok(answer.map(Body::new));
    }
    let (ours, theirs) = (hyper::upgrade::on(&mut request), hyper::upgrade::on(&mut answer));
    tokio::spawn(async move {
        if let (Ok(ours), Ok(theirs)) = tokio::join!(ours, theirs) {
            let (mut ours, mut theirs) = (TokioIo::new(ours), TokioIo::new(theirs));
            let _ = tokio::io::copy_bidirectional(&mut ours, &mut theirs).await;
        }
    });
    let (parts, _) = answer.into_parts();
    Ok(Response::from_parts(parts, Body::empty()))
}
