//! The network between members: every member's peer port behind a proxy that knows who calls, so that each
//! direction between two members can be disturbed by itself, without help of the kernel.
//!
//! Keeps true: bytes are held back or late, never changed or lost within a connection, as TCP has it; a connection
//! that is cut is closed on both sides; what was held back is counted, so that a disturbance that nobody met is
//! known. Who calls is read from /proc: which of the members' processes owns the other end.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use procfs::process::{FDTarget, Process};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio::time::Instant;

use crate::{Error, Result};

/// What the way from one member to another is like.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub enum Way {
    /// Nothing is wrong.
    #[default]
    Clear,
    /// Nothing comes through, and nobody is told.
    Held,
    /// Everything comes this much later.
    Late(Duration),
    /// Connections are closed, and new ones too.
    Cut,
}

/// The ways from each member to each other.
#[derive(Clone, Debug, Default)]
struct Map(Vec<Vec<Way>>);

impl Map {
    fn way(&self, from: usize, to: usize) -> Way {
        self.0.get(from).and_then(|ways| ways.get(to)).copied().unwrap_or_default()
    }

    fn is_cut(&self, one: usize, other: usize) -> bool {
        self.way(one, other) == Way::Cut || self.way(other, one) == Way::Cut
    }
}

/// The proxies of all members. They end when this is dropped.
pub struct Links {
    map: watch::Sender<Map>,
    disturbed: Arc<AtomicUsize>,
    ports: Vec<u16>,
    _proxies: JoinSet<()>,
}

/// Bytes, and when they are due.
type Piece = (Instant, Vec<u8>);

/// Pieces that can be under way in one direction; then the sender is held up.
const UNDER_WAY: usize = 256;

/// What a proxy knows.
#[derive(Clone)]
struct Proxy {
    /// Whose proxy it is.
    to: usize,
    /// The member's own peer port.
    port: u16,
    /// The folder in which the members' data lies.
    folder: PathBuf,
    map: watch::Receiver<Map>,
    disturbed: Arc<AtomicUsize>,
}

impl Links {
    /// Starts a proxy in front of each of these ports, for members whose data lies in a folder.
    pub async fn start(folder: &Path, ports: &[u16]) -> Result<Self> {
        let map = watch::Sender::new(Map(vec![vec![Way::Clear; ports.len()]; ports.len()]));
        let disturbed = Arc::new(AtomicUsize::new(0));
        let (mut proxies, mut own) = (JoinSet::new(), Vec::new());
        for (to, port) in ports.iter().copied().enumerate() {
            let failed = |source| Error::Proxy { port, source };
            let listener = TcpListener::bind(("127.0.0.1", 0)).await.map_err(failed)?;
            own.push(listener.local_addr().map_err(failed)?.port());
            let (folder, map, disturbed) = (folder.into(), map.subscribe(), disturbed.clone());
            proxies.spawn(Proxy { to, port, folder, map, disturbed }.listen(listener));
        }
        Ok(Self { map, disturbed, ports: own, _proxies: proxies })
    }

    /// Where peers find each member.
    pub fn ports(&self) -> &[u16] {
        &self.ports
    }

    /// Changes the ways for which `choose(from, to)` says so.
    pub fn set(&self, choose: impl Fn(usize, usize) -> bool, way: Way) {
        self.map.send_modify(|map| {
            for (from, ways) in map.0.iter_mut().enumerate() {
                for (_, is) in ways.iter_mut().enumerate().filter(|(to, _)| choose(from, *to)) {
                    *is = way;
                }
            }
        });
    }

    /// Makes all ways clear.
    pub fn heal(&self) {
        self.set(|_, _| true, Way::Clear);
    }

    /// How often something was held, late, cut or refused.
    pub fn disturbed(&self) -> usize {
        self.disturbed.load(Ordering::Relaxed)
    }
}

impl Proxy {
    async fn listen(self, listener: TcpListener) {
        let mut connections = JoinSet::new();
        loop {
            tokio::select! {
                accepted = listener.accept() => {
                    if let Ok((stream, address)) = accepted {
                        connections.spawn(self.clone().connection(stream, address));
                    }
                }
                Some(_) = connections.join_next() => {}
            }
        }
    }

    async fn connection(mut self, stream: TcpStream, address: SocketAddr) {
        let folder = self.folder.clone();
        let found = tokio::task::spawn_blocking(move || caller(&folder, address.port())).await;
        // A caller that is gone already needs no answer.
        let Some(from) = found.ok().flatten() else { return };
        if self.map.borrow().is_cut(from, self.to) {
            self.disturbed.fetch_add(1, Ordering::Relaxed);
            return;
        }
        let Ok(inner) = TcpStream::connect(("127.0.0.1", self.port)).await else { return };
        let (Ok(()), Ok(())) = (stream.set_nodelay(true), inner.set_nodelay(true)) else { return };
        let ((ask_in, answer_out), (answer_in, ask_out)) = (stream.into_split(), inner.into_split());
        let to = self.to;
        let (there, back) = (self.clone(), self.clone());
        tokio::select! {
            () = there.pump((from, to), ask_in, ask_out) => {}
            () = back.pump((to, from), answer_in, answer_out) => {}
            _ = self.map.wait_for(|map| map.is_cut(from, to)) => {
                self.disturbed.fetch_add(1, Ordering::Relaxed);
            }
        }
    }

    /// Carries bytes one way until an end is closed.
    async fn pump(self, (from, to): (usize, usize), source: OwnedReadHalf, sink: OwnedWriteHalf) {
        let (sender, receiver) = mpsc::channel(UNDER_WAY);
        tokio::select! {
            () = self.clone().take((from, to), source, sender) => {}
            () = self.give((from, to), receiver, sink) => {}
        }
    }

    /// Takes what comes, and says when it is due.
    async fn take(self, (from, to): (usize, usize), mut source: OwnedReadHalf, sender: mpsc::Sender<Piece>) {
        let mut buffer = vec![0; 64 << 10];
        while let Ok(count @ 1..) = source.read(&mut buffer).await {
            let way = self.map.borrow().way(from, to);
            if way != Way::Clear {
                self.disturbed.fetch_add(1, Ordering::Relaxed);
            }
            let delay = if let Way::Late(delay) = way { delay } else { Duration::ZERO };
            if sender.send((Instant::now() + delay, buffer[..count].to_vec())).await.is_err() {
                return;
            }
        }
        // What is under way still arrives; then the other end is closed.
        drop(sender);
        std::future::pending().await
    }

    /// Gives it on when it is due, and not while the way is held.
    async fn give(
        mut self,
        (from, to): (usize, usize),
        mut receiver: mpsc::Receiver<Piece>,
        mut sink: OwnedWriteHalf,
    ) {
        while let Some((due, bytes)) = receiver.recv().await {
            tokio::time::sleep_until(due).await;
            let open = self.map.wait_for(|map| map.way(from, to) != Way::Held).await.is_ok();
            if !open || sink.write_all(&bytes).await.is_err() {
                return;
            }
        }
    }
}

/// The member whose process has a connection from this port: the process that was started with data in the folder.
fn caller(folder: &Path, port: u16) -> Option<usize> {
    let inode = procfs::net::tcp().ok()?.into_iter().find(|c| c.local_address.port() == port)?.inode;
    let owns = |process: &Process| {
        let sockets = process.fd().into_iter().flatten().flatten();
        sockets.into_iter().any(|fd| matches!(fd.target, FDTarget::Socket(socket) if socket == inode))
    };
    let member = |process: Process| {
        let number = number(&process.cmdline().ok()?, folder)?;
        owns(&process).then_some(number)
    };
    procfs::process::all_processes().ok()?.flatten().find_map(member)
}

/// The number of the member with this command line.
fn number(words: &[String], folder: &Path) -> Option<usize> {
    let data = words.iter().skip_while(|word| *word != "--data-dir").nth(1)?;
    let name = Path::new(data).strip_prefix(folder).ok()?.to_str()?;
    name.strip_prefix('m')?.parse::<usize>().ok()?.checked_sub(1)
}
