//! The accept loops. One task per connection, all owned by the loop: it returns only when every connection has
//! ended or the grace period is over.

use crate::{Error, Peer, Tls};
use axum::{Router, body::Body};
use hyper::body::Incoming;
use hyper_util::{
    rt::{TokioExecutor, TokioIo, TokioTimer},
    server::conn::auto,
};
use std::{net::SocketAddr, sync::Arc, time::Duration};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpListener, TcpStream},
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tower::Service;

/// How long a client may take for its TLS handshake, and for its request's header.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);
/// Pause after a failed accept (usually: out of file descriptors), so that the loop does not spin.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);
/// HTTP/2 keep-alive: a dead client's connection ends after the sum of both.
const KEEP_ALIVE: (Duration, Duration) = (Duration::from_secs(30), Duration::from_secs(15));

/// Serves `router` over TLS until `stop`, then lets open connections finish for at most `grace`.
pub async fn https(
    listener: TcpListener,
    tls: Arc<Tls>,
    router: Router,
    stop: CancellationToken,
    grace: Duration,
) -> Result<(), Error> {
    accept(listener, stop, grace, move |stream, address, stop| {
        let (tls, router) = (tls.clone(), router.clone());
        async move {
            let acceptor = tokio_rustls::TlsAcceptor::from(tls.current());
            match tokio::time::timeout(HANDSHAKE_TIMEOUT, acceptor.accept(stream)).await {
                Ok(Ok(stream)) => {
                    let certificates = stream.get_ref().1.peer_certificates().unwrap_or_default().to_vec();
                    let certificates = certificates.into_iter().map(|c| c.into_owned()).collect();
                    connection(stream, Peer::new(address, certificates), router, stop).await;
                }
                Ok(Err(error)) => tracing::debug!(%address, %error, "TLS handshake failed"),
                Err(_) => tracing::debug!(%address, "TLS handshake timed out"),
            }
        }
    })
    .await
}

/// Serves `router` in the clear until `stop`; for health and metrics on loopback.
pub async fn http(listener: TcpListener, router: Router, stop: CancellationToken) -> Result<(), Error> {
    accept(listener, stop, Duration::from_secs(1), move |stream, address, stop| {
        connection(stream, Peer::new(address, Vec::new()), router.clone(), stop)
    })
    .await
}

async fn accept<F, Fut>(
    listener: TcpListener,
    stop: CancellationToken,
    grace: Duration,
    serve: F,
) -> Result<(), Error>
where
    F: Fn(TcpStream, SocketAddr, CancellationToken) -> Fut,
    Fut: Future<Output = ()> + Send + 'static,
{
    let connections = TaskTracker::new();
    let abort = CancellationToken::new();
    loop {
        let accepted = tokio::select! {
            () = stop.cancelled() => break,
            accepted = listener.accept() => accepted,
        };
        match accepted {
            Ok((stream, address)) => {
                // Small frames (watch events, keystrokes) must not wait for more.
                let _ = stream.set_nodelay(true);
                let work = serve(stream, address, stop.clone());
                let abort = abort.clone();
                connections.spawn(async move {
                    abort.run_until_cancelled(work).await;
                });
            }
            Err(error) => {
                tracing::warn!(%error, "cannot accept a connection");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
    drop(listener);
    connections.close();
    if tokio::time::timeout(grace, connections.wait()).await.is_err() {
        abort.cancel();
        connections.wait().await;
    }
    Ok(())
}

async fn connection<S>(stream: S, peer: Peer, router: Router, stop: CancellationToken)
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let service = hyper::service::service_fn(move |mut request: hyper::Request<Incoming>| {
        request.extensions_mut().insert(peer.clone());
        router.clone().call(request.map(Body::new))
    });
    let mut builder = auto::Builder::new(TokioExecutor::new());
    builder.http1().timer(TokioTimer::new()).header_read_timeout(HANDSHAKE_TIMEOUT);
    builder
        .http2()
        .timer(TokioTimer::new())
        .keep_alive_interval(KEEP_ALIVE.0)
        .keep_alive_timeout(KEEP_ALIVE.1)
        .max_concurrent_streams(1000);
    let connection = builder.serve_connection_with_upgrades(TokioIo::new(stream), service);
    tokio::pin!(connection);
    let ended = tokio::select! {
        ended = connection.as_mut() => ended,
        () = stop.cancelled() => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    if let Err(error) = ended {
        tracing::trace!(%error, "connection ended");
    }
}
