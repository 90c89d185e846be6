//! The listeners that clients connect to.
//!
//! Keeps true: a connection is encrypted, unless it is to a loopback `http` URL; dead clients are found by HTTP/2
//! keep-alives; open streams end when the member stops.

use super::{Member, pb};
use crate::{error::Error, flags::Config, run};
use futures::{FutureExt, TryFutureExt, future::BoxFuture, stream::SelectAll};
use serve::Tls;
use std::{
    convert::Infallible,
    io,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};
use tokio::{
    io::{AsyncRead, AsyncWrite, BufWriter, ReadBuf},
    net::{TcpListener, TcpStream},
    sync::mpsc,
};
use tokio_stream::{StreamExt, wrappers::ReceiverStream};
use tokio_util::sync::CancellationToken;
use tonic::{
    Status,
    codegen::Service,
    service::Routes,
    transport::{Server, server::Connected},
};

/// How often clients are pinged, and how long they may take to answer: a client on a busy machine is not dead.
const KEEP_ALIVE: (Duration, Duration) = (Duration::from_secs(2), Duration::from_secs(5));
/// How long a client may take for its TLS handshake.
const HANDSHAKE: Duration = Duration::from_secs(10);
/// Bytes that a message may have besides the request that is limited, as in etcd.
const OVERHEAD: usize = 512 << 10;
/// Bytes in line on a connection, at most; two of HTTP/2's frames.
const LINE: usize = 32 << 10;
/// With fewer than these a connection gives way; a whole frame goes at once.
const LITTLE: usize = LINE / 2;
/// Pause after a failed accept.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// Listeners, bound.
pub(crate) struct Listeners {
    listeners: Vec<(TcpListener, Option<Arc<Tls>>)>,
}

/// Binds the client URLs.
pub(crate) async fn bind(config: &Config) -> Result<Listeners, Error> {
    let tls = config.client_tls.clone().map(Tls::server).transpose()?;
    let mut listeners = Vec::new();
    for url in &config.flags.listen_client_urls {
        let tls = tls.clone().filter(|_| url.starts_with("https://"));
        listeners.push((run::bind(url).await?, tls));
    }
    Ok(Listeners { listeners })
}

impl Listeners {
    /// Serves until stopped.
    pub(crate) async fn serve(self, member: Arc<Member>, stop: CancellationToken) -> Result<(), Error> {
        let mut tasks = tokio::task::JoinSet::new();
        let mut incoming = SelectAll::new();
        for (listener, tls) in self.listeners {
            let (connections, accepted) = mpsc::channel(64);
            tasks.spawn(accept(listener, tls, connections));
            incoming.push(ReceiverStream::new(accepted));
        }
        let routes = Routes::from(axum::Router::new().fallback_service(Services(member.clone())));
        let served = Server::builder()
            .http2_keepalive_interval(Some(KEEP_ALIVE.0))
            .http2_keepalive_timeout(Some(KEEP_ALIVE.1))
            .initial_connection_window_size(8 << 20)
            .initial_stream_window_size(2 << 20)
            .add_routes(routes)
            .serve_with_incoming_shutdown(incoming.map(io::Result::Ok), stop.cancelled_owned());
        tokio::select! {
            served = served => served.map_err(|error| Error::Stopped(error.to_string())),
            () = measure(&member) => Ok(()),
        }
    }
}

/// All services, by the first part of a request's path.
#[derive(Clone)]
struct Services(Arc<Member>);

type Response = http::Response<tonic::body::Body>;
type Answer = BoxFuture<'static, Result<Response, Infallible>>;

impl Service<http::Request<axum::body::Body>> for Services {
    type Response = Response;
    type Error = Infallible;
    type Future = futures::future::MapOk<Answer, fn(Response) -> Response>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<axum::body::Body>) -> Self::Future {
        let member = self.0.clone();
        let service = request.uri().path().split('/').nth(1).unwrap_or_default();
        let answer = match service {
            pb::kv_server::SERVICE_NAME => {
                let limit = member.config.flags.max_request_bytes + OVERHEAD;
                pb::kv_server::KvServer::from_arc(member).max_decoding_message_size(limit).call(request)
            }
            pb::watch_server::SERVICE_NAME => pb::watch_server::WatchServer::from_arc(member).call(request),
            pb::lease_server::SERVICE_NAME => pb::lease_server::LeaseServer::from_arc(member).call(request),
            pb::cluster_server::SERVICE_NAME => {
                pb::cluster_server::ClusterServer::from_arc(member).call(request)
            }
            pb::maintenance_server::SERVICE_NAME => {
                pb::maintenance_server::MaintenanceServer::from_arc(member).call(request)
            }
            pb::auth_server::SERVICE_NAME => pb::auth_server::AuthServer::from_arc(member).call(request),
            pb::health::health_server::SERVICE_NAME => {
                pb::health::health_server::HealthServer::from_arc(member).call(request)
            }
            unknown => {
                let refused = Status::unimplemented(format!("unknown service {unknown}")).into_http();
                std::future::ready(Ok(refused)).boxed()
            }
        };
        answer.map_ok(in_etcds_words)
    }
}

/// A message too large to be read is refused in the words of gRPC's Go library, which etcd's clients know: tonic has
/// a code and a text of its own.
fn in_etcds_words(mut response: Response) -> Response {
    // What went well says so at its end.
    let status = match response.headers().contains_key(Status::GRPC_STATUS) {
        true => Status::from_header_map(response.headers()),
        false => None,
    };
    if let Some(text) = status.and_then(|status| too_large(status.message())) {
        // The text consists of what headers may have.
        let _ = Status::resource_exhausted(text).add_header(response.headers_mut());
    }
    response
}

fn too_large(text: &str) -> Option<String> {
    let numbers = text.strip_prefix("Error, decoded message length too large: found ")?;
    let (found, limit) = numbers.strip_suffix(" bytes")?.split_once(" bytes, the limit is: ")?;
    Some(format!("grpc: received message larger than max ({found} vs. {limit})"))
}

async fn measure(member: &Member) {
    loop {
        member.measure();
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
}

async fn accept(listener: TcpListener, tls: Option<Arc<Tls>>, connections: mpsc::Sender<Connection>) {
    let mut handshakes = tokio::task::JoinSet::new();
    loop {
        while handshakes.try_join_next().is_some() {}
        match listener.accept().await {
            Ok((stream, _)) => {
                let (tls, connections) = (tls.clone(), connections.clone());
                handshakes.spawn(async move {
                    match tokio::time::timeout(HANDSHAKE, open(stream, tls)).await {
                        // Not taken: the member is stopping.
                        Ok(Ok(connection)) => drop(connections.send(connection).await),
                        Ok(Err(error)) => tracing::debug!(%error, "a client's TLS handshake failed"),
                        Err(_) => tracing::debug!("a client's TLS handshake timed out"),
                    }
                });
            }
            Err(error) => {
                tracing::warn!(%error, "cannot accept a client's connection");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

async fn open(stream: TcpStream, tls: Option<Arc<Tls>>) -> io::Result<Connection> {
    stream.set_nodelay(true)?;
    let stream: Box<dyn Bytes> = match tls {
        None => Box::new(stream),
        Some(tls) => Box::new(tokio_rustls::TlsAcceptor::from(tls.current()).accept(stream).await?),
    };
    Ok(Connection { stream: BufWriter::with_capacity(LINE, stream), waited: false })
}

trait Bytes: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Bytes for T {}

/// A client's connection, encrypted or not. When it has little to send it lets all that can run now have a turn first: then
/// the answers to many requests, or a change that many watch, go out together. A connection's task would come first
/// otherwise, and send each of them by itself.
struct Connection {
    stream: BufWriter<Box<dyn Bytes>>,
    /// It has given way for what is to be sent.
    waited: bool,
}

impl Connected for Connection {
    type ConnectInfo = ();
    fn connect_info(&self) {}
}

impl AsyncRead for Connection {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(context, buffer)
    }
}

impl AsyncWrite for Connection {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let there = self.stream.buffer().len();
        if (1..LITTLE).contains(&there) && !std::mem::replace(&mut self.waited, true) {
            // A task that wakes itself comes last.
            context.waker().wake_by_ref();
            return Poll::Pending;
        }
        let flushed = Pin::new(&mut self.stream).poll_flush(context);
        self.waited &= flushed.is_pending();
        flushed
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}
