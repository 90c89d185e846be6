//! Passes questions about foreign names on to other resolvers.
//!
//! Keeps true: a reply is taken only from the resolver that was asked and only if it answers the question asked;
//! a question that nobody answers in time fails, it does not hang.

use std::net::SocketAddr;
use std::time::Duration;

use hickory_server::proto::op::Message;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpStream, UdpSocket};

/// How long one resolver may take.
const PATIENCE: Duration = Duration::from_secs(2);
const LARGEST: usize = 65_535;

/// The resolvers, tried in order.
#[derive(Clone, Debug, Default)]
pub(crate) struct Forward(pub(crate) Vec<SocketAddr>);

impl Forward {
    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The reply to `request` (a whole message), or `None` when no resolver gives one.
    pub(crate) async fn ask(&self, request: &[u8], over_tcp: bool) -> Option<Message> {
        for server in &self.0 {
            match tokio::time::timeout(PATIENCE, exchange(*server, request, over_tcp)).await {
                Ok(Ok(reply)) => return Some(reply),
                Ok(Err(error)) => tracing::debug!(%server, %error, "a resolver failed"),
                Err(_) => tracing::debug!(%server, "a resolver did not answer"),
            }
        }
        None
    }
}

async fn exchange(server: SocketAddr, request: &[u8], over_tcp: bool) -> std::io::Result<Message> {
    let mut request = request.to_vec();
    // A number that nobody can guess, and a port of its own: a forged reply has to match both.
    let id: [u8; 2] = rand::random();
    let place = request.get_mut(..2).ok_or_else(|| std::io::Error::other("the request is too short"))?;
    place.copy_from_slice(&id);
    let reply = if over_tcp { by_tcp(server, &request).await? } else { by_udp(server, &request).await? };
    if reply.get(..2) != Some(&id) {
        return Err(std::io::Error::other("the reply is to another question"));
    }
    let reply = Message::from_vec(&reply).map_err(std::io::Error::other)?;
    let asked = Message::from_vec(&request).map_err(std::io::Error::other)?;
    if reply.queries != asked.queries {
        return Err(std::io::Error::other("the reply is to another question"));
    }
    Ok(reply)
}

async fn by_udp(server: SocketAddr, request: &[u8]) -> std::io::Result<Vec<u8>> {
    let any = if server.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" };
    let socket = UdpSocket::bind(any).await?;
    socket.connect(server).await?;
    socket.send(request).await?;
    let mut buffer = vec![0; LARGEST];
    let length = socket.recv(&mut buffer).await?;
    buffer.truncate(length);
    Ok(buffer)
}

async fn by_tcp(server: SocketAddr, request: &[u8]) -> std::io::Result<Vec<u8>> {
    let mut stream = TcpStream::connect(server).await?;
    let length = u16::try_from(request.len()).map_err(std::io::Error::other)?;
    stream.write_all(&[&length.to_be_bytes(), request].concat()).await?;
    let mut reply = vec![0; usize::from(stream.read_u16().await?)];
    stream.read_exact(&mut reply).await?;
    Ok(reply)
}
