//! Actions against a container: exec, HTTP GET, TCP, gRPC health, sleep. Probes and lifecycle hooks use
//! them. Keeps true: an action ends by its timeout. Thresholds and events are left to the callers.

use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt, Empty, Limited};
use hyper_util::{client::legacy::Client, rt::TokioExecutor};
use k8s_openapi::{
    api::core::v1::{Container, HTTPGetAction, HTTPHeader},
    apimachinery::pkg::util::intstr::IntOrString,
};
use tokio::net::TcpStream;

use crate::runtime::Runtime;

/// So much of an answer's body is read for the message of a failed probe.
const BODY_LIMIT: usize = 10 << 10;

/// How an action ended: fine or not, with a text.
pub type Outcome = Result<String, String>;

/// A port by number or by name.
#[must_use]
pub fn port(container: &Container, port: &IntOrString) -> Option<u16> {
    let number = match port {
        IntOrString::Int(number) => *number,
        IntOrString::String(name) => {
            let named = container.ports.iter().flatten().find(|one| one.name.as_deref() == Some(name));
            named.map(|one| one.container_port).or_else(|| name.parse().ok())?
        }
    };
    u16::try_from(number).ok().filter(|port| *port > 0)
}

/// Runs a command in a container; fails when its exit code is not 0.
pub async fn exec(runtime: &dyn Runtime, id: &str, command: &[String], timeout: i64) -> Outcome {
    match runtime.exec_sync(id, command.to_vec(), timeout).await {
        Ok(answer) => {
            let mut text = String::from_utf8_lossy(&answer.stdout).into_owned();
            text.push_str(&String::from_utf8_lossy(&answer.stderr));
            text.truncate(floor(&text, BODY_LIMIT));
            if answer.exit_code == 0 { Ok(text) } else { Err(text) }
        }
        Err(crate::runtime::RuntimeError::Deadline { .. }) => {
            Err(format!("command timed out: {command:?} timed out after {timeout}s"))
        }
        Err(error) => Err(error.to_string()),
    }
}

fn floor(text: &str, limit: usize) -> usize {
    (0..=limit.min(text.len())).rev().find(|at| text.is_char_boundary(*at)).unwrap_or(0)
}

/// An HTTP GET; fails unless the status is 200 to 399. Certificates are not verified, as upstream.
pub async fn http_get(
    container: &Container,
    pod_ip: &str,
    action: &HTTPGetAction,
    limit: Duration,
) -> Outcome {
    let Some(port) = port(container, &action.port) else {
        return Err(format!("couldn't parse port {:?}", action.port));
    };
    let host = action.host.as_deref().filter(|host| !host.is_empty()).unwrap_or(pod_ip);
    let scheme = action.scheme.as_deref().unwrap_or("HTTP").to_lowercase();
    let path = action.path.as_deref().filter(|path| !path.is_empty()).unwrap_or("/");
    let bracketed = if host.contains(':') { format!("[{host}]") } else { host.to_owned() };
    let slash = if path.starts_with('/') { "" } else { "/" };
    let url = format!("{scheme}://{bracketed}:{port}{slash}{path}");
    let headers = action.http_headers.as_deref().unwrap_or_default();
    match tokio::time::timeout(limit, get(&url, headers, scheme == "https")).await {
        Ok(outcome) => outcome,
        Err(_) => Err(format!(
            "Get \"{url}\": context deadline exceeded (Client.Timeout exceeded while awaiting headers)"
        )),
    }
}

async fn get(url: &str, headers: &[HTTPHeader], tls: bool) -> Outcome {
    let mut request = http::Request::get(url).header("accept", "*/*").header("connection", "close");
    if !headers.iter().any(|header| header.name.eq_ignore_ascii_case("user-agent")) {
        request = request.header("user-agent", "kube-probe/1.35");
    }
    for header in headers {
        request = request.header(&header.name, &header.value);
    }
    let request = request.body(Empty::<Bytes>::new()).map_err(|error| error.to_string())?;
    let sent = if tls {
        Client::builder(TokioExecutor::new()).build(crate::tls::insecure()).request(request).await
    } else {
        Client::builder(TokioExecutor::new()).build_http().request(request).await
    };
    let answer = sent.map_err(|error| format!("Get \"{url}\": {}", root(&error)))?;
    let status = answer.status();
    let body = Limited::new(answer.into_body(), BODY_LIMIT).collect().await;
    let body = body.map(|body| String::from_utf8_lossy(&body.to_bytes()).into_owned()).unwrap_or_default();
    if (200..400).contains(&status.as_u16()) {
        return Ok(body);
    }
    Err(format!("HTTP probe failed with statuscode: {}", status.as_u16()))
}

/// The innermost cause, which says what the network said.
fn root(error: &dyn std::error::Error) -> String {
    let mut error = error;
    while let Some(source) = error.source() {
        error = source;
    }
    error.to_string()
}

/// Connects and closes.
pub async fn tcp(address: &str, port: u16, limit: Duration) -> Outcome {
    match tokio::time::timeout(limit, TcpStream::connect((address, port))).await {
        Ok(Ok(_)) => Ok(String::new()),
        Ok(Err(error)) => Err(format!("dial tcp {address}:{port}: connect: {error}")),
        Err(_) => Err(format!("dial tcp {address}:{port}: i/o timeout")),
    }
}
