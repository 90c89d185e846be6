//! An API server on a store of the test's choice, behind real HTTPS, with certificates made for the test.

#![allow(dead_code, unreachable_pub, unused_imports, reason = "each test binary uses its part")]
#![allow(clippy::unwrap_used, reason = "a test may panic")]

pub mod cases;
pub mod input;
#[path = "../../../../raft/tests/ports.rs"]
mod ports;

pub(crate) use ports::free_port;

use apiserver::{Flags, run_on, store::Kv};
use clap::Parser;
use kube::{Client, Config, config::AuthInfo};
use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair};
use std::{path::Path, sync::Arc, time::Duration};
use tokio_util::sync::CancellationToken;

/// A server that is ready.
pub struct Api {
    /// Where it listens.
    pub url: String,
    /// A member of system:masters.
    pub admin: Client,
    folder: tempfile::TempDir,
    stop: CancellationToken,
    task: tokio::task::JoinHandle<Result<(), apiserver::Error>>,
}

#[derive(clap::Parser)]
struct Line {
    #[command(flatten)]
    flags: Flags,
}

impl Api {
    /// Starts a server and waits until it is ready. In the extra flags, `{folder}` is where the files are.
    pub async fn start(kv: Arc<dyn Kv>, extra: &[&str]) -> Api {
        let api = Api::spawn(kv, extra);
        api.ready().await;
        api
    }

    /// Why a server with these flags does not start.
    pub async fn refusal(kv: Arc<dyn Kv>, extra: &[&str]) -> String {
        let api = Api::spawn(kv, extra);
        let ended = tokio::time::timeout(Duration::from_secs(10), api.task).await;
        let mut text = String::new();
        let error = ended.expect("it ends").unwrap().expect_err("it refuses");
        let mut cause: Option<&dyn std::error::Error> = Some(&error);
        while let Some(error) = cause {
            text += &format!("{error}\n");
            cause = error.source();
        }
        text
    }

    fn spawn(kv: Arc<dyn Kv>, extra: &[&str]) -> Api {
        let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
        let folder = tempfile::tempdir().unwrap();
        certificates(folder.path());
        let port = free_port();
        let at = |name: &str| folder.path().join(name).display().to_string();
        let mut args: Vec<String> = vec![
            "kube-apiserver".into(),
            format!("--secure-port={port}"),
            "--bind-address=127.0.0.1".into(),
            "--advertise-address=10.90.0.11".into(),
            "--enable-bootstrap-token-auth".into(),
            format!("--tls-cert-file={}", at("apiserver.crt")),
            format!("--tls-private-key-file={}", at("apiserver.key")),
            format!("--client-ca-file={}", at("ca.crt")),
            format!("--service-account-key-file={}", at("sa.key")),
            format!("--service-account-signing-key-file={}", at("sa.key")),
        ];
        // A flag of the test's own replaces the usual one.
        let flag = |text: &str| text.split('=').next().unwrap_or_default().to_owned();
        args.retain(|arg| !extra.iter().any(|own| flag(own) == flag(arg)));
        args.extend(extra.iter().map(|s| s.replace("{folder}", &folder.path().display().to_string())));
        let flags = Line::parse_from(args).flags;
        let stop = CancellationToken::new();
        let task = tokio::spawn(run_on(flags, kv, stop.clone()));
        let url = format!("https://127.0.0.1:{port}");
        let admin = client(&url, folder.path(), "admin");
        Api { url, admin, folder, stop, task }
    }

    /// The folder with certificates and `admin.conf`.
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// A client with the certificate of this name (`admin`, `jane`).
    pub fn client(&self, name: &str) -> Client {
        client(&self.url, self.folder(), name)
    }

    /// A request of any kind: status code and body.
    pub async fn call(&self, method: &str, path: &str, content_type: &str, body: &str) -> (u16, String) {
        call(&self.admin, method, path, &[("content-type", content_type)], body).await
    }

    /// Ends the server.
    pub async fn stop(self) {
        self.stop.cancel();
        self.task.await.unwrap().unwrap();
    }

    async fn ready(&self) {
        let begun = std::time::Instant::now();
        loop {
            if self.task.is_finished() {
                panic!("the server ended");
            }
            let (code, text) =
                match tokio::time::timeout(Duration::from_secs(2), call_raw(&self.admin, "/readyz?verbose"))
                    .await
                {
                    Ok(answer) => answer,
                    Err(_) => (0, "no answer".into()),
                };
            if code == 200 {
                break;
            }
            assert!(begun.elapsed() < Duration::from_secs(60), "not ready: {text}");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        let kubeconfig = format!(
            "apiVersion: v1\nkind: Config\ncurrent-context: a\nclusters: [{{name: a, cluster: {{server: '{}', certificate-authority: {d}/ca.crt}}}}]\nusers: [{{name: a, user: {{client-certificate: {d}/admin.crt, client-key: {d}/admin.key}}}}]\ncontexts: [{{name: a, context: {{cluster: a, user: a}}}}]\n",
            self.url,
            d = self.folder().display()
        );
        std::fs::write(self.folder().join("admin.conf"), kubeconfig).unwrap();
    }
}

async fn call_raw(client: &Client, path: &str) -> (u16, String) {
    call(client, "GET", path, &[], "").await
}

/// A request of any kind: status code and body.
pub async fn call(
    client: &Client,
    method: &str,
    path: &str,
    headers: &[(&str, &str)],
    body: &str,
) -> (u16, String) {
    let mut request = http::Request::builder().method(method).uri(path);
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    let request = request.body(kube::client::Body::from(body.as_bytes().to_vec())).unwrap();
    let answer = send(client, request).await;
    (answer.status().as_u16(), String::from_utf8_lossy(answer.body()).into_owned())
}

/// Sends any request. An answer that never came has the status 999 and the error as its body.
pub async fn send(client: &Client, request: http::Request<kube::client::Body>) -> http::Response<Vec<u8>> {
    match client.send(request).await {
        Ok(response) => {
            let (parts, body) = response.into_parts();
            let body = body.collect_bytes().await.unwrap_or_default();
            http::Response::from_parts(parts, body.to_vec())
        }
        Err(error) => {
            let mut answer = http::Response::new(format!("{error:?}").into_bytes());
            *answer.status_mut() = http::StatusCode::from_u16(999).unwrap();
            answer
        }
    }
}

/// A client without a certificate.
pub fn nobody(api: &Api) -> Client {
    let mut config = config(&api.url);
    config.root_cert = Some(pem_to_der(&std::fs::read(api.folder().join("ca.crt")).unwrap()));
    Client::try_from(config).unwrap()
}

/// Refusals are what the tests look at: nothing asks again by itself.
fn config(url: &str) -> Config {
    let mut config = Config::new(url.parse().unwrap());
    config.default_retry = false;
    config
}

fn client(url: &str, folder: &Path, name: &str) -> Client {
    let mut config = config(url);
    let ca = std::fs::read(folder.join("ca.crt")).unwrap();
    config.root_cert = Some(pem_to_der(&ca));
    config.auth_info = AuthInfo {
        client_certificate: Some(folder.join(format!("{name}.crt")).display().to_string()),
        client_key: Some(folder.join(format!("{name}.key")).display().to_string()),
        ..AuthInfo::default()
    };
    Client::try_from(config).unwrap()
}

fn pem_to_der(pem: &[u8]) -> Vec<Vec<u8>> {
    use rustls::pki_types::{CertificateDer, pem::PemObject};
    CertificateDer::pem_slice_iter(pem).map(|c| c.unwrap().to_vec()).collect()
}

/// Makes a CA with certificates for the server and its users, and others that it must tell apart from it: the
/// front proxies' CA, and one that nobody knows.
pub fn certificates(folder: &Path) {
    let ca = authority(folder, "ca", "kubernetes");
    let server = &["localhost", "127.0.0.1"];
    issue(folder, &ca, "apiserver", "kube-apiserver", &[], server, GOOD);
    issue(folder, &ca, "admin", "kubernetes-admin", &["system:masters"], &[], GOOD);
    issue(folder, &ca, "jane", "jane", &["developers"], &[], GOOD);
    issue(folder, &ca, "late", "kubernetes-admin", &["system:masters"], &[], (2010, 2011));
    let proxies = authority(folder, "front-proxy-ca", "front-proxy-ca");
    issue(folder, &proxies, "front-proxy", "front-proxy-client", &[], &[], GOOD);
    issue(folder, &proxies, "other-proxy", "somebody", &["system:masters"], &[], GOOD);
    let unknown = authority(folder, "unknown-ca", "kubernetes");
    issue(folder, &unknown, "stranger", "kubernetes-admin", &["system:masters"], &[], GOOD);
    std::fs::write(folder.join("sa.key"), KeyPair::generate().unwrap().serialize_pem()).unwrap();
}

/// First and last year of a certificate that is good now.
const GOOD: (i32, i32) = (2020, 2100);

fn authority(folder: &Path, file: &str, name: &str) -> Issuer<'static, KeyPair> {
    let mut params = CertificateParams::new(vec![]).unwrap();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.distinguished_name.push(DnType::CommonName, name);
    let key = KeyPair::generate().unwrap();
    let certificate = params.self_signed(&key).unwrap();
    std::fs::write(folder.join(format!("{file}.crt")), certificate.pem()).unwrap();
    Issuer::new(params, key)
}

fn issue(
    folder: &Path,
    ca: &Issuer<'_, KeyPair>,
    file: &str,
    name: &str,
    groups: &[&str],
    hosts: &[&str],
    years: (i32, i32),
) {
    let hosts: Vec<String> = hosts.iter().map(|s| s.to_string()).collect();
    let mut params = CertificateParams::new(hosts).unwrap();
    params.not_before = rcgen::date_time_ymd(years.0, 1, 1);
    params.not_after = rcgen::date_time_ymd(years.1, 1, 1);
    params.distinguished_name = rcgen::DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, name);
    for group in groups {
        params.distinguished_name.push(DnType::OrganizationName, *group);
    }
    params.extended_key_usages =
        vec![rcgen::ExtendedKeyUsagePurpose::ServerAuth, rcgen::ExtendedKeyUsagePurpose::ClientAuth];
    let key = KeyPair::generate().unwrap();
    let certificate = params.signed_by(&key, ca).unwrap();
    std::fs::write(folder.join(format!("{file}.crt")), certificate.pem()).unwrap();
    std::fs::write(folder.join(format!("{file}.key")), key.serialize_pem()).unwrap();
}
