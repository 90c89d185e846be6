//! Carries one request to a target and its answer back: headers cleaned, bodies streamed, upgrades joined.

use std::time::Duration;

use api::status::{Reason, Status};
use axum::{body::Body, extract::Request, response::Response};
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode, Uri, header};
use hyper::body::Incoming;
use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;
use tokio_util::sync::CancellationToken;

use super::dial::{Io, Target};

/// How long sessions may go on after the server was told to stop.
const GOODBYE: Duration = Duration::from_secs(5);
/// How long a target may take to answer an upgrade.
const ANSWER: Duration = Duration::from_secs(30);

/// Headers about one connection: never passed on.
const HOP_BY_HOP: [&str; 8] = [
    "connection",
    "keep-alive",
    "proxy-authenticate",
    "proxy-authorization",
    "proxy-connection",
    "te",
    "trailer",
    "transfer-encoding",
];
/// What proves or claims who the client is: for this server only.
const CREDENTIALS: [&str; 2] = ["authorization", "trireme-epoch"];
const CREDENTIAL_PREFIXES: [&str; 2] = ["impersonate-", "x-remote-"];

/// Whether the request wants to leave HTTP.
pub(super) fn is_upgrade(headers: &HeaderMap) -> bool {
    let tokens = headers.get_all(header::CONNECTION).iter().filter_map(|value| value.to_str().ok());
    let wanted =
        tokens.flat_map(|value| value.split(',')).any(|token| token.trim().eq_ignore_ascii_case("upgrade"));
    wanted && headers.contains_key(header::UPGRADE)
}

/// Whether it wants to become a WebSocket.
pub(super) fn is_websocket(headers: &HeaderMap) -> bool {
    let upgrade = headers.get(header::UPGRADE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    is_upgrade(headers) && upgrade.eq_ignore_ascii_case("websocket")
}

/// An error without a reason of its own, as upstream answers when a node does not.
pub(super) fn failed(message: String) -> Status {
    Status::new(Reason::Unknown, message)
}

/// The headers that go on.
pub(super) fn onward(headers: &HeaderMap, upgrade: bool) -> HeaderMap {
    let named: Vec<String> = headers
        .get_all(header::CONNECTION)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .map(|token| token.trim().to_ascii_lowercase())
        .collect();
    let keep = |name: &HeaderName| {
        let name = name.as_str();
        let private = CREDENTIALS.contains(&name) || CREDENTIAL_PREFIXES.iter().any(|p| name.starts_with(p));
        let hop = HOP_BY_HOP.contains(&name) || name == "upgrade" || named.iter().any(|own| own == name);
        !private && !hop && name != "host"
    };
    let mut out = HeaderMap::new();
    for (name, value) in headers.iter().filter(|(name, _)| keep(name)) {
        out.append(name.clone(), value.clone());
    }
    if upgrade && let Some(protocol) = headers.get(header::UPGRADE) {
        out.insert(header::CONNECTION, HeaderValue::from_static("Upgrade"));
        out.insert(header::UPGRADE, protocol.clone());
    }
    out
}

/// Sends the request there and gives back the answer; an upgrade that succeeds is carried until either side ends
/// it or the server stops.
///
/// `path` is path and query; the request's own are not used.
pub(super) async fn forward(
    target: &Target,
    path: &str,
    request: Request,
    stopping: &CancellationToken,
) -> api::Result<Response> {
    let stream = target.dial().await.map_err(|why| failed(format!("error dialing backend: {why}")))?;
    exchange(stream, target, path, request, stopping).await
}

/// As [`forward`], over a connection that exists.
async fn exchange(
    stream: Box<dyn Io>,
    target: &Target,
    path: &str,
    mut request: Request,
    stopping: &CancellationToken,
) -> api::Result<Response> {
    let upgrade = is_upgrade(request.headers());
    let client = upgrade.then(|| hyper::upgrade::on(&mut request));
    let outgoing = outgoing(target, path, request, upgrade)?;
    let answer = send(TokioIo::new(stream), outgoing, upgrade, stopping).await?;
    match client {
        Some(client) if answer.status() == StatusCode::SWITCHING_PROTOCOLS => {
            Ok(join(client, answer, stopping))
        }
        _ if answer.status() == StatusCode::SWITCHING_PROTOCOLS => {
            Err(failed("error proxying: the backend switched protocols without being asked".into()))
        }
        _ => Ok(incoming(answer)),
    }
}

fn outgoing(
    target: &Target,
    path: &str,
    request: Request,
    upgrade: bool,
) -> api::Result<http::Request<Body>> {
    let (parts, body) = request.into_parts();
    let uri: Uri = path.parse().map_err(|_| Status::bad_request("the path cannot be proxied"))?;
    let mut out = http::Request::new(if upgrade { Body::empty() } else { body });
    *out.method_mut() = parts.method;
    *out.uri_mut() = uri;
    *out.headers_mut() = onward(&parts.headers, upgrade);
    let host =
        HeaderValue::from_str(&target.authority()).map_err(|_| Status::bad_request("no valid host"))?;
    out.headers_mut().insert(header::HOST, host);
    Ok(out)
}

async fn send(
    stream: TokioIo<Box<dyn Io>>,
    request: http::Request<Body>,
    upgrade: bool,
    stopping: &CancellationToken,
) -> api::Result<http::Response<Incoming>> {
    let say = |error: hyper::Error| failed(format!("error trying to reach service: {error}"));
    let (mut sender, connection) = hyper::client::conn::http1::handshake(stream).await.map_err(say)?;
    let stopping = stopping.clone();
    // Ends with the answer's body (or with the upgrade), at the latest some time after the server was stopped.
    tokio::spawn(async move {
        tokio::select! {
            _ = connection.with_upgrades() => {}
            () = goodbye(stopping) => {}
        }
    });
    let sending = sender.send_request(request);
    if !upgrade {
        return sending.await.map_err(say);
    }
    match tokio::time::timeout(ANSWER, sending).await {
        Ok(answer) => answer.map_err(say),
        Err(_) => Err(failed("error dialing backend: the node does not answer the upgrade".into())),
    }
}

async fn goodbye(stopping: CancellationToken) {
    stopping.cancelled().await;
    tokio::time::sleep(GOODBYE).await;
}

/// Joins both upgraded connections; ends when one side does.
fn join(client: OnUpgrade, mut answer: http::Response<Incoming>, stopping: &CancellationToken) -> Response {
    let backend = hyper::upgrade::on(&mut answer);
    let stopping = stopping.clone();
    tokio::spawn(async move {
        let carry = async {
            let (client, backend) = tokio::try_join!(client, backend)?;
            let (mut client, mut backend) = (TokioIo::new(client), TokioIo::new(backend));
            let _ = tokio::io::copy_bidirectional(&mut client, &mut backend).await;
            Ok::<(), hyper::Error>(())
        };
        tokio::select! {
            _ = carry => {}
            () = goodbye(stopping) => {}
        }
    });
    let mut response = Response::new(Body::empty());
    *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    // Content-Length or Transfer-Encoding have no place in a 101.
    for (name, value) in answer
        .headers()
        .iter()
        .filter(|(name, _)| **name != header::CONTENT_LENGTH && **name != header::TRANSFER_ENCODING)
    {
        response.headers_mut().append(name.clone(), value.clone());
    }
    response
}

/// An ordinary answer, without what concerned the connection it came by.
pub(super) fn incoming(answer: http::Response<Incoming>) -> Response {
    let (parts, body) = answer.into_parts();
    let mut response = Response::new(Body::new(body));
    *response.status_mut() = parts.status;
    *response.headers_mut() = onward(&parts.headers, false);
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(pairs: &[(&'static str, &'static str)]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in pairs {
            headers.append(*name, HeaderValue::from_static(value));
        }
        headers
    }

    use axum::Router;
    use hyper_util::service::TowerToHyperService;
    use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};

    fn target() -> Target {
        Target { host: "10.0.0.1".into(), port: 80, tls: None, node: None }
    }

    /// Serves a router on one end of a pipe; the other end is given back.
    fn serve(router: Router) -> DuplexStream {
        let (near, far) = tokio::io::duplex(1 << 16);
        tokio::spawn(async move {
            let serving = hyper::server::conn::http1::Builder::new()
                .serve_connection(TokioIo::new(far), TowerToHyperService::new(router));
            let _ = serving.with_upgrades().await;
        });
        near
    }

    /// A front that sends every request to the backend.
    fn front(backend: Router) -> Router {
        Router::new().fallback(move |request: Request| {
            let stream: Box<dyn Io> = Box::new(serve(backend.clone()));
            async move {
                let done =
                    exchange(stream, &target(), "/there?a=b", request, &CancellationToken::new()).await;
                done.unwrap_or_else(|status| crate::respond::error(&status))
            }
        })
    }

    async fn talk(mut stream: DuplexStream, request: &str, until: &str) -> String {
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut text = String::new();
        let mut buffer = [0; 1024];
        while !text.contains(until) {
            let n = stream.read(&mut buffer).await.unwrap();
            if n == 0 {
                break;
            }
            text.push_str(&String::from_utf8_lossy(&buffer[..n]));
        }
        text
    }

    #[tokio::test]
    async fn requests_are_carried() {
        let backend = Router::new().fallback(|request: Request| async move {
            let (parts, body) = request.into_parts();
            let body = axum::body::to_bytes(body, 1024).await.unwrap();
            let auth = parts.headers.contains_key("authorization");
            format!(
                "{} {} {:?} {auth} {}",
                parts.method,
                parts.uri,
                parts.headers["host"],
                String::from_utf8_lossy(&body)
            )
        });
        let request =
            "POST /x HTTP/1.1\r\nHost: api\r\nAuthorization: Bearer s\r\nContent-Length: 5\r\n\r\nhello";
        let answer = talk(serve(front(backend)), request, "hello").await;
        assert!(answer.starts_with("HTTP/1.1 200 OK"), "{answer}");
        assert!(answer.contains("POST /there?a=b \"10.0.0.1:80\" false hello"), "{answer}");
    }

    #[tokio::test]
    async fn upgrades_are_joined() {
        let backend = Router::new().fallback(|mut request: Request| async move {
            let upgraded = hyper::upgrade::on(&mut request);
            tokio::spawn(async move {
                let mut stream = TokioIo::new(upgraded.await.unwrap());
                let mut buffer = [0; 4];
                stream.read_exact(&mut buffer).await.unwrap();
                assert_eq!(&buffer, b"ping");
                stream.write_all(b"pong").await.unwrap();
            });
            let mut answer = Response::new(Body::empty());
            *answer.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
            answer.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("Upgrade"));
            answer.headers_mut().insert(header::UPGRADE, HeaderValue::from_static("SPDY/3.1"));
            answer
        });
        let request = "POST /x HTTP/1.1\r\nHost: api\r\nConnection: Upgrade\r\nUpgrade: SPDY/3.1\r\n\r\nping";
        let answer = talk(serve(front(backend)), request, "pong").await;
        assert!(answer.starts_with("HTTP/1.1 101 Switching Protocols"), "{answer}");
        assert!(answer.to_lowercase().contains("upgrade: spdy/3.1") && answer.ends_with("pong"), "{answer}");
    }

    #[tokio::test]
    async fn a_refused_upgrade_stays_http() {
        let backend = Router::new().fallback(|| async { (StatusCode::FORBIDDEN, "no") });
        let request = "GET /x HTTP/1.1\r\nHost: api\r\nConnection: Upgrade\r\nUpgrade: SPDY/3.1\r\n\r\n";
        let answer = talk(serve(front(backend)), request, "no").await;
        assert!(answer.starts_with("HTTP/1.1 403"), "{answer}");
    }

    #[tokio::test]
    async fn nothing_goes_to_this_host() {
        for host in ["127.0.0.1", "::1", "localhost", "169.254.169.254", "::ffff:127.0.0.1"] {
            let target = Target { host: host.into(), ..target() };
            let sent = forward(&target, "/", Request::default(), &CancellationToken::new()).await;
            assert_eq!(sent.unwrap_err().message(), "error dialing backend: address not allowed", "{host}");
        }
    }

    #[test]
    fn what_goes_on() {
        let given = headers(&[
            ("authorization", "Bearer secret"),
            ("impersonate-user", "root"),
            ("x-remote-user", "root"),
            ("trireme-epoch", "a/b=1"),
            ("connection", "Upgrade, X-Private"),
            ("upgrade", "SPDY/3.1"),
            ("x-private", "1"),
            ("te", "trailers"),
            ("host", "api"),
            ("accept", "*/*"),
            ("x-stream-protocol-version", "v4.channel.k8s.io"),
        ]);
        let names = |upgrade: bool| {
            let mut names: Vec<String> = onward(&given, upgrade).keys().map(ToString::to_string).collect();
            names.sort();
            names.join(" ")
        };
        assert_eq!(names(false), "accept x-stream-protocol-version");
        assert_eq!(names(true), "accept connection upgrade x-stream-protocol-version");
    }

    #[test]
    fn upgrades() {
        let check = |pairs: &[(&'static str, &'static str)], upgrade: bool, websocket: bool| {
            let given = headers(pairs);
            assert_eq!((is_upgrade(&given), is_websocket(&given)), (upgrade, websocket), "{pairs:?}");
        };
        check(&[("connection", "Upgrade"), ("upgrade", "SPDY/3.1")], true, false);
        check(&[("connection", "keep-alive, upgrade"), ("upgrade", "WebSocket")], true, true);
        check(&[("connection", "Upgrade")], false, false);
        check(&[("upgrade", "websocket")], false, false);
    }
}
