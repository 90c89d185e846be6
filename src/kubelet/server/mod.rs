//! The kubelet's HTTPS API on port 10250, and /healthz in plain HTTP on loopback. Keeps true: every request
//! is authenticated (client certificate or token) and authorised through the API server before a handler
//! sees it. Streams are left to `stream`, identities to `access`.

mod access;
mod container_logs;
mod stats;
mod stream;

use std::{sync::Arc, time::Duration};

use axum::{
    Json, Router,
    extract::{Path, Query, State},
    http::{StatusCode, header},
    middleware,
    response::{IntoResponse, Response},
    routing::{any, get},
};
use client::Client;
use serde_json::json;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use crate::{Error, context::Context, error::Result, manager::Manager, node::certificates};

/// What handlers share.
pub(crate) struct App {
    context: Arc<Context>,
    manager: Arc<Manager>,
    access: access::Access,
}

type Shared = State<Arc<App>>;

fn problem(source: impl Into<Box<dyn std::error::Error + Send + Sync>>, address: &str) -> Error {
    Error::Serve { address: address.to_owned(), source: source.into() }
}

/// Serves until `stop`.
pub(crate) async fn run(
    context: &Arc<Context>,
    client: &Client,
    manager: &Arc<Manager>,
    stop: &CancellationToken,
) -> Result<()> {
    let config = &context.config;
    let (host, port) = &config.healthz;
    let health = async {
        if *port == 0 {
            return stop.cancelled().await;
        }
        let checks = Router::new().route("/healthz", get(async || "ok"));
        match TcpListener::bind((host.as_str(), *port)).await {
            Ok(listener) => drop(serve::http(listener, checks, stop.clone()).await),
            Err(error) => {
                tracing::warn!(%error, port, "cannot serve /healthz");
                stop.cancelled().await;
            }
        }
    };
    let (first, serving) = (CancellationToken::new(), config.clone());
    let mut names: Vec<String> = vec![config.node.clone()];
    names.extend(context.host.ips.iter().cloned());
    let renewing = async {
        if config.tls.is_some() {
            first.cancel();
            return stop.cancelled().await;
        }
        certificates::keep_serving(serving, client.kube(), names, first.clone()).await;
    };
    tokio::select! {
        ((), ()) = async { tokio::join!(health, renewing) } => Ok(()),
        result = https(context, client, manager, &first, stop) => result,
    }
}

async fn https(
    context: &Arc<Context>,
    client: &Client,
    manager: &Arc<Manager>,
    first: &CancellationToken,
    stop: &CancellationToken,
) -> Result<()> {
    if stop.run_until_cancelled(first.cancelled()).await.is_none() {
        return Ok(());
    }
    let config = &context.config;
    let address = format!("{}:{}", config.address, config.port);
    let file = certificates::serving_file(config);
    let (cert, key) = config.tls.clone().unwrap_or((file.clone(), file));
    let mut tls = serve::ServerTls::new(cert, key);
    tls.client_ca_files = config.client_ca.iter().cloned().collect();
    tls.alpn = vec!["http/1.1"];
    let tls = serve::Tls::server(tls).map_err(|error| problem(error, &address))?;
    let listener = TcpListener::bind(&address).await.map_err(|error| problem(error, &address))?;
    let access = access::Access::new(client.kube(), config.clone());
    let app = Arc::new(App { context: context.clone(), manager: manager.clone(), access });
    let served = serve::https(listener, tls, router(app), stop.clone(), Duration::from_secs(1)).await;
    served.map_err(|error| problem(error, &address))
}

fn router(app: Arc<App>) -> Router {
    Router::new()
        .route("/healthz", get(async || "ok"))
        .route("/pods", get(pods))
        .route("/configz", get(configz))
        .route("/metrics", get(stats::metrics))
        .route("/metrics/cadvisor", get(stats::metrics))
        .route("/metrics/resource", get(stats::metrics))
        .route("/stats/summary", get(stats::summary))
        .route("/containerLogs/{namespace}/{pod}/{container}", get(container_logs::serve))
        .route("/exec/{namespace}/{pod}/{container}", any(stream::exec))
        .route("/attach/{namespace}/{pod}/{container}", any(stream::attach))
        .route("/portForward/{namespace}/{pod}", any(stream::port_forward))
        .layer(middleware::from_fn_with_state(app.clone(), access::check))
        .with_state(app)
}

async fn pods(State(app): Shared) -> Response {
    let items: Vec<_> = app.manager.snapshots().into_iter().map(|one| (*one.pod).clone()).collect();
    Json(json!({"kind": "PodList", "apiVersion": "v1", "metadata": {}, "items": items})).into_response()
}

async fn configz(State(app): Shared) -> Response {
    let config = &app.context.config;
    let reserved = &config.reserved;
    Json(json!({"kubeletconfig": {
        "kind": "KubeletConfiguration",
        "apiVersion": "kubelet.config.k8s.io/v1beta1",
        "clusterDNS": config.cluster_dns,
        "clusterDomain": config.cluster_domain,
        "maxPods": config.max_pods,
        "port": config.port,
        "nodeLeaseDurationSeconds": config.lease_seconds,
        "reserved": reserved,
    }}))
    .into_response()
}

/// A plain text answer.
fn text(status: StatusCode, message: impl Into<String>) -> Response {
    (status, [(header::CONTENT_TYPE, "text/plain; charset=utf-8")], message.into()).into_response()
}

/// The named container's newest instance, or the answer that says why there is none.
fn instance(
    app: &App,
    namespace: &str,
    pod: &str,
    container: &str,
) -> std::result::Result<(crate::manager::Found, crate::pod::view::Instance), Box<Response>> {
    let Some(found) = app.manager.find(namespace, pod) else {
        return Err(Box::new(text(StatusCode::NOT_FOUND, format!("pod \"{pod}\" not found"))));
    };
    match found.view.newest(container).cloned() {
        Some(instance) => Ok((found, instance)),
        None => Err(Box::new(text(
            StatusCode::NOT_FOUND,
            format!("container {container} not found in pod {pod}_{namespace}"),
        ))),
    }
}

type Named = Path<(String, String, String)>;
type Pairs = Query<Vec<(String, String)>>;

fn value<'a>(pairs: &'a [(String, String)], name: &str) -> Option<&'a str> {
    pairs.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str())
}

fn flag(pairs: &[(String, String)], name: &str) -> bool {
    value(pairs, name).is_some_and(|value| value == "true" || value == "1")
}
