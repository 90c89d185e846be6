//! Requests that end in a node, a pod or a service: logs, exec, attach, port-forward, and the proxy subresource.
//!
//! Upgraded connections (SPDY/3.1, WebSocket up to v4.channel.k8s.io) are carried as bytes, nobody here reads
//! them. Keeps true: no credential of the client goes further than this server; a kubelet is spoken to only when
//! its certificate proves that it is that node's; nothing is sent to loopback or link-local addresses; an answer
//! other than 101 to an upgrade ends the connection.

mod address;
mod dial;
mod forward;
mod kubelet;
mod options;
mod pod;
mod proxy;

use crate::{
    admission::{self, Operation, Review},
    authn::UserInfo,
    request::RequestInfo,
    server::Server,
    subresource::{Row, answer, row},
};
use axum::{extract::Request, response::Response};
use futures::future::BoxFuture;
use std::sync::Arc;

/// The rows of this folder.
pub(crate) const ROWS: &[Row] = &[
    row("", "pods", "log", log),
    row("", "pods", "exec", stream),
    row("", "pods", "attach", stream),
    row("", "pods", "portforward", stream),
    row("", "pods", "proxy", proxied),
    row("", "services", "proxy", proxied),
    row("", "nodes", "proxy", proxied),
];

fn log(s: Arc<Server>, u: Arc<UserInfo>, i: RequestInfo, r: Request) -> BoxFuture<'static, Response> {
    Box::pin(async move { answer(pod::log(s, u, i, r)).await })
}

fn stream(s: Arc<Server>, u: Arc<UserInfo>, i: RequestInfo, r: Request) -> BoxFuture<'static, Response> {
    Box::pin(async move { answer(pod::stream(s, u, i, r)).await })
}

fn proxied(s: Arc<Server>, u: Arc<UserInfo>, i: RequestInfo, r: Request) -> BoxFuture<'static, Response> {
    Box::pin(async move { answer(proxy::proxy(s, u, i, r)).await })
}

/// Admission of a connect, as upstream has it.
async fn admit(server: &Server, user: &UserInfo, info: &RequestInfo) -> api::Result<()> {
    let resource = server.resource(&info.group, &info.resource);
    let mut review = Review {
        server,
        user,
        operation: Operation::Connect,
        resource: &resource,
        subresource: &info.subresource,
        namespace: &info.namespace,
        name: &info.name,
        object: None,
        old: None,
        dry_run: false,
    };
    admission::admit(&mut review).await?;
    admission::validate(&mut review).await
}
