//! The wire between simulated members: turmoil's, in the clear.

use crate::network::{Listener, Socket, Stream};
use std::{io, time::Duration};
use turmoil::net::{TcpListener, TcpStream};

impl Socket for TcpStream {
    fn set_nodelay(&self) -> io::Result<()> {
        Self::set_nodelay(self, true)
    }
}

impl Listener for TcpListener {
    async fn accept(&self) -> io::Result<impl Socket> {
        Self::accept(self).await.map(|(stream, _)| stream)
    }
}

/// Calls a member by its name.
pub(crate) async fn connect(host: &str, port: u16, limit: Duration) -> io::Result<Box<dyn Stream>> {
    Ok(Box::new(tokio::time::timeout(limit, TcpStream::connect((host, port))).await??))
}
