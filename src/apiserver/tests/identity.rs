//! Who somebody is: credentials that prove nothing, and users whom a front proxy vouches for. Through real HTTPS, on
//! the store in memory.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod common;

use apiserver::store::memory::Memory;
use base64::{Engine, prelude::BASE64_URL_SAFE_NO_PAD};
use common::{Api, call, nobody};
use jsonwebtoken::{EncodingKey, Header};
use kube::Client;
use serde_json::{Value, json};
use std::sync::Arc;
use tokio::io::AsyncReadExt;

const JSON: &str = "application/json";

async fn api(flags: &[&str]) -> Api {
    Api::start(Arc::new(Memory::new()), flags).await
}

fn parse(text: &str) -> Value {
    serde_json::from_str(text).unwrap_or_else(|e| panic!("{e}: {text}"))
}

/// Who the server takes somebody for.
async fn who(client: &Client, headers: &[(&str, &str)]) -> (u16, Value) {
    let review = json!({"apiVersion": "authentication.k8s.io/v1", "kind": "SelfSubjectReview"}).to_string();
    let headers = [headers, &[("content-type", JSON)]].concat();
    let path = "/apis/authentication.k8s.io/v1/selfsubjectreviews";
    let (code, text) = call(client, "POST", path, &headers, &review).await;
    let answer = parse(&text);
    if code == 201 { (code, answer["status"]["userInfo"].clone()) } else { (code, answer["reason"].clone()) }
}

const FRONT_PROXY: [&str; 2] = [
    "--requestheader-client-ca-file={folder}/front-proxy-ca.crt",
    "--requestheader-allowed-names=front-proxy-client",
];

#[tokio::test]
async fn a_front_proxys_word_counts_and_nobody_elses() {
    let api = api(&FRONT_PROXY).await;
    let alice = [
        ("x-remote-user", "alice"),
        ("x-remote-group", "dev"),
        ("x-remote-group", "ops"),
        ("x-remote-extra-example.org%2fteam", "blue"),
    ];
    let root = [("x-remote-user", "root"), ("x-remote-group", "system:masters")];
    let believed = json!({
        "username": "alice", "groups": ["dev", "ops", "system:authenticated"], "extra": {"example.org/team": ["blue"]},
    });
    let front = api.client("front-proxy");
    assert_eq!(who(&front, &alice).await, (201, believed));
    let (code, user) = who(&front, &root).await;
    assert_eq!((code, &user["username"]), (201, &json!("root")));
    // A proxy that says nothing is nobody: its certificate is not one of the cluster's users.
    assert_eq!(who(&front, &[]).await, (401, json!("Unauthorized")));
    assert_eq!(who(&front, &[("x-remote-group", "system:masters")]).await, (401, json!("Unauthorized")));
    // Another name than the allowed ones, though the same CA vouches for it.
    assert_eq!(who(&api.client("other-proxy"), &root).await, (401, json!("Unauthorized")));
    // Everybody else stays who they are.
    let (code, user) = who(&api.client("jane"), &root).await;
    assert_eq!((code, &user["username"]), (201, &json!("jane")));
    assert_eq!(user["groups"], json!(["developers", "system:authenticated"]));
    assert_eq!(user["extra"].get("example.org/team"), None);
    let (code, text) = call(&nobody(&api), "GET", "/api/v1/secrets", &root, "").await;
    assert_eq!(code, 403, "{text}");
    assert!(text.contains("system:anonymous"), "{text}");
    // The proxy's users are authorised like any others.
    let (code, text) = call(&front, "GET", "/api/v1/secrets", &alice, "").await;
    assert!(code == 403 && text.contains("User \\\"alice\\\" cannot list"), "{text}");
    assert_eq!(call(&front, "GET", "/api/v1/secrets", &root, "").await.0, 200);
    api.stop().await;
}

#[tokio::test]
async fn without_a_front_proxy_ca_nobody_is_one() {
    let api = api(&[]).await;
    let root = [("x-remote-user", "root"), ("x-remote-group", "system:masters")];
    let (code, user) = who(&api.client("jane"), &root).await;
    assert_eq!((code, &user["username"]), (201, &json!("jane")));
    handshake_fails(&api, "front-proxy", "UnknownCA").await;
    api.stop().await;
}

#[tokio::test]
async fn one_ca_for_clients_and_proxies_is_refused() {
    let flags = ["--requestheader-client-ca-file={folder}/ca.crt"];
    let text = Api::refusal(Arc::new(Memory::new()), &flags).await;
    let expect = "--requestheader-client-ca-file and --client-ca-file must not hold the same CA";
    assert!(text.contains(expect), "{text}");
}

#[tokio::test]
async fn files_that_are_not_there_are_named() {
    for flag in
        ["client-ca-file", "requestheader-client-ca-file", "tls-cert-file", "service-account-key-file"]
    {
        let text = Api::refusal(Arc::new(Memory::new()), &[&format!("--{flag}={{folder}}/none.pem")]).await;
        assert!(text.contains("none.pem"), "{flag}: {text}");
    }
}

/// Certificates that prove nothing do not even get a connection: TLS says why.
async fn handshake_fails(api: &Api, name: &str, alert: &str) {
    use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, pem::PemObject};
    let read = |file: String| std::fs::read(api.folder().join(file)).unwrap();
    let mut roots = rustls::RootCertStore::empty();
    roots.add(CertificateDer::from_pem_slice(&read("ca.crt".into())).unwrap()).unwrap();
    let chain = vec![CertificateDer::from_pem_slice(&read(format!("{name}.crt"))).unwrap()];
    let key = PrivateKeyDer::from_pem_slice(&read(format!("{name}.key"))).unwrap();
    let config = rustls::ClientConfig::builder().with_root_certificates(roots);
    let config = config.with_client_auth_cert(chain, key).unwrap();
    let stream = tokio::net::TcpStream::connect(api.url.trim_start_matches("https://")).await.unwrap();
    let server = ServerName::try_from("127.0.0.1").unwrap();
    let connector = tokio_rustls::TlsConnector::from(Arc::new(config));
    // With TLS 1.3 the client is done before the server has looked at its certificate.
    let error = match connector.connect(server, stream).await {
        Ok(mut stream) => stream.read_u8().await.unwrap_err(),
        Err(error) => error,
    };
    assert!(error.to_string().contains(alert), "{name}: {error}");
}

#[tokio::test]
async fn certificates_that_prove_nothing() {
    let api = api(&FRONT_PROXY).await;
    // Its CA has the name of ours, but not its key.
    handshake_fails(&api, "stranger", "DecryptError").await;
    handshake_fails(&api, "late", "CertificateExpired").await;
    assert_eq!(call(&api.admin, "GET", "/readyz", &[], "").await.0, 200);
    api.stop().await;
}

/// A token with these claims instead of its own, signed with a key.
fn signed(token: &str, key: &[u8], change: &Value) -> String {
    let parts: Vec<&str> = token.split('.').collect();
    let decode = |part: &str| -> Value {
        serde_json::from_slice(&BASE64_URL_SAFE_NO_PAD.decode(part).unwrap()).unwrap()
    };
    let mut claims = decode(parts[1]);
    claims.as_object_mut().unwrap().extend(change.as_object().unwrap().clone());
    let header: Header = serde_json::from_value(decode(parts[0])).unwrap();
    jsonwebtoken::encode(&header, &claims, &EncodingKey::from_ec_pem(key).unwrap()).unwrap()
}

#[tokio::test]
async fn tokens_that_prove_nothing() {
    let api = api(&[]).await;
    let base = "/api/v1/namespaces/default/serviceaccounts";
    let account = json!({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "sam"}});
    assert_eq!(api.call("POST", base, JSON, &account.to_string()).await.0, 201);
    let (code, text) = api.call("POST", &format!("{base}/sam/token"), JSON, "{}").await;
    assert_eq!(code, 201, "{text}");
    let good = parse(&text)["status"]["token"].as_str().unwrap().to_owned();
    let own = std::fs::read(api.folder().join("sa.key")).unwrap();
    let foreign = rcgen::KeyPair::generate().unwrap().serialize_pem().into_bytes();
    let parts: Vec<&str> = good.split('.').collect();
    let tampered = format!("{}.{}.{}", parts[0], BASE64_URL_SAFE_NO_PAD.encode("{}"), parts[2]);
    let bearer = async |token: &str| {
        let value = format!("Bearer {token}");
        call(&nobody(&api), "GET", "/api", &[("authorization", &value)], "").await
    };
    assert_eq!(bearer(&good).await.0, 200);
    assert_eq!(bearer(&signed(&good, &own, &json!({}))).await.0, 200, "the test signs as the server does");
    for (title, token) in [
        (
            "expired",
            signed(&good, &own, &json!({"exp": 1_500_000_000, "iat": 1_400_000_000, "nbf": 1_400_000_000})),
        ),
        ("not yet valid", signed(&good, &own, &json!({"nbf": 4_000_000_000_u64}))),
        ("another issuer", signed(&good, &own, &json!({"iss": "https://elsewhere"}))),
        ("another audience", signed(&good, &own, &json!({"aud": ["vault"]}))),
        ("another subject", signed(&good, &own, &json!({"sub": "system:serviceaccount:kube-system:root"}))),
        ("no audience", signed(&good, &own, &json!({"aud": []}))),
        ("another key", signed(&good, &foreign, &json!({}))),
        ("other claims under the signature", tampered),
        ("no signature", format!("{}.{}.", parts[0], parts[1])),
        ("garbage", "x.y.z".into()),
        ("long garbage", "x".repeat(10_000)),
        ("a bootstrap token that nobody made", "abcdef.0123456789abcdef".into()),
    ] {
        let (code, text) = bearer(&token).await;
        let status = parse(&text);
        assert_eq!((code, &status["reason"]), (401, &json!("Unauthorized")), "{title}: {text}");
        assert_eq!(status["message"], "Unauthorized", "{title}");
    }
    api.stop().await;
}

#[tokio::test]
async fn without_anonymous_everybody_says_who_they_are() {
    let api = api(&["--anonymous-auth=false"]).await;
    for path in ["/readyz", "/livez", "/healthz", "/version", "/api", "/nothing", "/api/v1/pods"] {
        let (code, text) = call(&nobody(&api), "GET", path, &[], "").await;
        assert_eq!((code, &parse(&text)["reason"]), (401, &json!("Unauthorized")), "{path}: {text}");
    }
    assert_eq!(call(&api.client("jane"), "GET", "/readyz", &[], "").await.0, 200);
    api.stop().await;
}
