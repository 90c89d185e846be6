//! The wire between simulated members: turmoil's, in the clear.
//!
//! Keeps true: a member is reached by its host's name or address, as over the real network.

use crate::network::{Listener, Socket, host_port};
use std::{io, time::Duration};
use turmoil::net::{TcpListener, TcpStream};

impl Socket for TcpStream {
    fn set_nodelay(&self) -> io::Result<()> {
        Self::set_nodelay(self, true)
    }
}

impl Listener for TcpListener {
    type Socket = TcpStream;

    async fn accept(&self) -> io::Result<TcpStream> {
        Self::accept(self).await.map(|(stream, _)| stream)
    }
}

/// Calls a member at its URL.
pub(crate) async fn reach(url: &str, limit: Duration) -> io::Result<TcpStream> {
    let (host, port) = host_port(url)?;
    tokio::time::timeout(limit, TcpStream::connect((host.as_str(), port))).await?
}
