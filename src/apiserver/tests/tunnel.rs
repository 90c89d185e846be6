//! Logs, exec and the proxy against a kubelet that is real enough: its own certificate, mutual TLS, upgrades.
//!
//! The API server sends nothing to loopback addresses, so the test runs in a network namespace of its own with
//! an address on `lo` (needs root and `unshare`, `ip`), by running this very program again inside it.

#![allow(clippy::unwrap_used)]

mod common;

use apiserver::store::memory::Memory;
use axum::{Router, body::Body, extract::Request, response::Response};
use common::{Api, call};
use http::{HeaderValue, StatusCode, header};
use hyper_util::rt::TokioIo;
use rcgen::{BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair};
use rustls::pki_types::ServerName;
use serde_json::json;
use serve::{Peer, ServerTls, Tls};
use std::{path::Path, process::Command, sync::Arc};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio_util::sync::CancellationToken;

/// Where the kubelet of the test listens, inside the test's namespace.
const ADDRESS: &str = "10.99.0.1";
const POD: &str = "/api/v1/namespaces/default/pods/p";

#[test]
fn tunnels_reach_a_kubelet() {
    let itself = std::env::current_exe().unwrap();
    let script = format!(
        "ip link set lo up && ip address add {ADDRESS}/32 dev lo && exec '{}' --ignored --exact inside --nocapture",
        itself.display()
    );
    let done = Command::new("unshare").args(["--net", "sh", "-c", &script]).output().expect("unshare runs");
    let text = String::from_utf8_lossy(&done.stdout).into_owned() + &String::from_utf8_lossy(&done.stderr);
    assert!(done.status.success() && text.contains("1 passed"), "needs root for a network namespace: {text}");
}

struct Pki {
    folder: tempfile::TempDir,
    ca: Issuer<'static, KeyPair>,
}

impl Pki {
    fn new() -> Self {
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, "kubelets");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate().unwrap();
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("ca.crt"), params.self_signed(&key).unwrap().pem()).unwrap();
        Self { folder, ca: Issuer::new(params, key) }
    }

    fn path(&self, name: &str) -> String {
        self.folder.path().join(name).display().to_string()
    }

    fn issue(&self, file: &str, name: &str) {
        let mut params = CertificateParams::new(vec![ADDRESS.to_owned()]).unwrap();
        params.distinguished_name = rcgen::DistinguishedName::new();
        params.distinguished_name.push(DnType::CommonName, name);
        params.extended_key_usages =
            vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        let key = KeyPair::generate().unwrap();
        let certificate = params.signed_by(&key, &self.ca).unwrap();
        std::fs::write(self.path(&format!("{file}.crt")), certificate.pem()).unwrap();
        std::fs::write(self.path(&format!("{file}.key")), key.serialize_pem()).unwrap();
    }

    /// Serves as the kubelet of `file`'s certificate; the port.
    async fn kubelet(&self, file: &str, stop: &CancellationToken) -> u16 {
        let mut tls = ServerTls::new(self.path(&format!("{file}.crt")), self.path(&format!("{file}.key")));
        tls.client_ca_files = vec![self.path("ca.crt").into()];
        tls.require_client_cert = true;
        let tls = Tls::server(tls).unwrap();
        let listener = tokio::net::TcpListener::bind((ADDRESS, 0)).await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let grace = std::time::Duration::from_secs(1);
        tokio::spawn(serve::https(listener, tls, Router::new().fallback(kubelet), stop.clone(), grace));
        port
    }
}

/// What the kubelet of the test answers.
async fn kubelet(mut request: Request) -> Response {
    let caller = request.extensions().get::<Peer>().and_then(Peer::identity).unwrap().common_name.clone();
    assert_eq!(caller, "kube-apiserver-kubelet-client");
    assert!(!request.headers().contains_key(header::AUTHORIZATION));
    let uri = request.uri().to_string();
    if uri.starts_with("/containerLogs/default/p/waiting") {
        let mut answer = Response::new(Body::from(
            "container \"waiting\" in pod \"p\" is waiting to start: ContainerCreating",
        ));
        *answer.status_mut() = StatusCode::BAD_REQUEST;
        return answer;
    }
    if !uri.starts_with("/exec/") {
        return Response::new(Body::from(format!("{} {uri}", request.method())));
    }
    let upgrade = hyper::upgrade::on(&mut request);
    tokio::spawn(async move {
        let mut stream = TokioIo::new(upgrade.await.unwrap());
        let mut buffer = [0; 4];
        stream.read_exact(&mut buffer).await.unwrap();
        buffer.reverse();
        stream.write_all(&buffer).await.unwrap();
        stream.shutdown().await.unwrap();
    });
    let mut answer = Response::new(Body::empty());
    *answer.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    for (name, value) in [
        ("connection", "Upgrade"),
        ("upgrade", "SPDY/3.1"),
        ("x-stream-protocol-version", "v4.channel.k8s.io"),
    ] {
        answer.headers_mut().insert(name, HeaderValue::from_static(value));
    }
    answer
}

#[tokio::test]
#[ignore = "run by tunnels_reach_a_kubelet in a network namespace"]
async fn inside() {
    let pki = Pki::new();
    for (file, name) in [
        ("client", "kube-apiserver-kubelet-client"),
        ("w1", "system:node:w1"),
        ("impostor", "kube-apiserver"),
    ] {
        pki.issue(file, name);
    }
    let flags = [
        format!("--kubelet-certificate-authority={}", pki.path("ca.crt")),
        format!("--kubelet-client-certificate={}", pki.path("client.crt")),
        format!("--kubelet-client-key={}", pki.path("client.key")),
    ];
    let flags: Vec<&str> = flags.iter().map(String::as_str).collect();
    let api = Api::start(Arc::new(Memory::new()), &flags).await;
    let stop = CancellationToken::new();
    let port = pki.kubelet("w1", &stop).await;
    make_pod(&api).await;

    point_node(&api, port).await;
    check(
        &api,
        &format!("{POD}/log?container=c&tailLines=3"),
        200,
        "GET /containerLogs/default/p/c?tailLines=3",
    )
    .await;
    check(&api, &format!("{POD}/log?container=waiting"), 400, "is waiting to start: ContainerCreating").await;
    check(&api, "/api/v1/nodes/w1/proxy/stats/summary?x=y", 200, "GET /stats/summary?x=y").await;
    check(&api, &format!("/api/v1/nodes/w1:{port}/proxy/pods"), 200, "GET /pods").await;
    check(&api, "/api/v1/nodes/w1/proxy", 301, "").await;

    let (head, echo) =
        exec(&api, &[("upgrade", "SPDY/3.1"), ("x-stream-protocol-version", "v4.channel.k8s.io")]).await;
    assert_eq!((head, echo.as_str()), (101, "gnip"));
    let websocket = |protocol: &'static str| [("upgrade", "websocket"), ("sec-websocket-protocol", protocol)];
    assert_eq!(exec(&api, &websocket("v5.channel.k8s.io")).await.0, 400);
    assert_eq!(exec(&api, &websocket("v5.channel.k8s.io, v4.channel.k8s.io")).await.0, 101);
    assert_eq!(exec(&api, &websocket("SPDY/3.1+portforward.k8s.io")).await.0, 400);

    point_node(&api, pki.kubelet("impostor", &stop).await).await;
    check(&api, &format!("{POD}/log?container=c"), 500, "is not that of the kubelet of node w1").await;
    point_node(&api, 1).await;
    let refused = format!(
        "Get \\\"https://{ADDRESS}:1/containerLogs/default/p/c\\\": dial tcp {ADDRESS}:1: connect: connection refused"
    );
    check(&api, &format!("{POD}/log?container=c"), 500, &refused).await;
    check(&api, "/api/v1/nodes/w1/proxy/pods", 500, "error dialing backend: dial tcp").await;
    stop.cancel();
    api.stop().await;
}

async fn check(api: &Api, path: &str, code: u16, part: &str) {
    let (got, text) = call(&api.admin, "GET", path, &[], "").await;
    assert!(got == code && text.contains(part), "{path}: {got} {text}");
}

async fn make_pod(api: &Api) {
    let object = |kind: &str, name: &str, rest: serde_json::Value| {
        let mut object = json!({"apiVersion": "v1", "kind": kind, "metadata": {"name": name}});
        object.as_object_mut().unwrap().extend(rest.as_object().unwrap().clone());
        object.to_string()
    };
    let containers = json!([{"name": "c", "image": "i"}, {"name": "waiting", "image": "i"}]);
    for (path, body) in [
        ("/api/v1/nodes", object("Node", "w1", json!({}))),
        ("/api/v1/namespaces/default/serviceaccounts", object("ServiceAccount", "default", json!({}))),
        (
            "/api/v1/namespaces/default/pods",
            object("Pod", "p", json!({"spec": {"nodeName": "w1", "containers": containers}})),
        ),
    ] {
        let (code, text) = api.call("POST", path, "application/json", &body).await;
        assert_eq!(code, 201, "{text}");
    }
}

async fn point_node(api: &Api, port: u16) {
    let status = json!({"status": {
        "addresses": [{"type": "InternalIP", "address": ADDRESS}],
        "daemonEndpoints": {"kubeletEndpoint": {"Port": port}},
    }});
    let merge = "application/merge-patch+json";
    let (code, text) = api.call("PATCH", "/api/v1/nodes/w1/status", merge, &status.to_string()).await;
    assert_eq!(code, 200, "{text}");
}

/// Asks for an upgrade to run a command, says "ping"; the status, and what came back.
async fn exec(api: &Api, headers: &[(&'static str, &'static str)]) -> (u16, String) {
    let stream = tls(api).await;
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.unwrap();
    tokio::spawn(connection.with_upgrades());
    let mut request = http::Request::builder()
        .method(if headers[0].1 == "websocket" { "GET" } else { "POST" })
        .uri(format!("{POD}/exec?container=c&command=ls&stdout=true"))
        .header("host", "localhost")
        .header("connection", "Upgrade");
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    let mut answer = sender.send_request(request.body(Body::empty()).unwrap()).await.unwrap();
    let code = answer.status().as_u16();
    if code != 101 {
        return (code, String::new());
    }
    let mut stream = TokioIo::new(hyper::upgrade::on(&mut answer).await.unwrap());
    stream.write_all(b"ping").await.unwrap();
    let mut text = String::new();
    stream.read_to_string(&mut text).await.unwrap();
    (code, text)
}

async fn tls(api: &Api) -> tokio_rustls::client::TlsStream<tokio::net::TcpStream> {
    let at = |name: &str| api.folder().join(name);
    let (chain, key) =
        (serve::pem::certs(&at("admin.crt")).unwrap(), serve::pem::key(&at("admin.key")).unwrap());
    let config = rustls::ClientConfig::builder()
        .with_root_certificates(serve::pem::roots(Path::new(&at("ca.crt"))).unwrap())
        .with_client_auth_cert(chain, key)
        .unwrap();
    let address = api.url.strip_prefix("https://").unwrap();
    let stream = tokio::net::TcpStream::connect(address).await.unwrap();
    let name = ServerName::try_from("localhost").unwrap();
    tokio_rustls::TlsConnector::from(Arc::new(config)).connect(name, stream).await.unwrap()
}
