//! One connection to a peer, kept up: requests out, replies back by number.
//!
//! Keeps true: requests are written in the order of the calls; a reply is matched by its request's number; when the
//! peer is silent for [`SILENCE`] although it was pinged, the connection is given up and everything under way on
//! it fails as lost, while what was not written yet may go over the next connection. The first request on a
//! connection is the greeting. Nothing is ever sent twice.

use super::{Hello, Refusal, Replacement, Reply, Request, Roster, Transport, transport::Stream};
use crate::codec;
use bytes::{BufMut, Bytes, BytesMut};
use futures::{SinkExt, StreamExt};
use std::{
    collections::HashMap,
    io,
    pin::pin,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};
use tokio::{
    runtime::Handle,
    sync::{mpsc, oneshot},
    time::{Instant, MissedTickBehavior},
};
use tokio_util::{
    codec::{Framed, LengthDelimitedCodec},
    sync::CancellationToken,
};

/// How often a peer is pinged.
const PING: Duration = Duration::from_millis(125);
/// A peer that answers no ping for this long is taken for dead.
const SILENCE: Duration = Duration::from_millis(500);
/// So many pings must have gone unanswered as well, so that a member that was itself paused does not blame others.
const UNANSWERED: u32 = 3;

/// Why there is no reply.
#[derive(Debug, thiserror::Error)]
pub(crate) enum LaneError {
    /// The request never left: it may be sent again.
    #[error("not sent: {0}")]
    NotSent(String),
    /// It left, and what came of it is unknown.
    #[error("connection lost: {0}")]
    Lost(String),
}

/// Handle to the connection. The connection's task ends with the last handle.
#[derive(Clone)]
pub(crate) struct Lane {
    calls: mpsc::UnboundedSender<Call>,
}

struct Call {
    request: Vec<u8>,
    reply: oneshot::Sender<Result<Reply, LaneError>>,
    /// Set by whoever is first: the connection when it sends the request, or the caller when it takes it back.
    taken: Arc<AtomicBool>,
}

impl Lane {
    /// Starts the connection's task on a runtime. It connects when the first call comes.
    ///
    /// `removed` is cancelled when the peer says that this member is none any more.
    pub(crate) fn start(
        url: String,
        hello: Hello,
        transport: Arc<Transport>,
        removed: CancellationToken,
        runtime: &Handle,
    ) -> Self {
        let (calls, queue) = mpsc::unbounded_channel();
        runtime.spawn(Runner { url, hello, transport, removed, queue }.run());
        Self { calls }
    }

    /// Sends a request and waits for its reply.
    pub(crate) async fn call(&self, request: &Request) -> Result<Reply, LaneError> {
        self.start_call(request).await
    }

    /// As [`Lane::call`], but when `over` comes before the request has left, it is taken back: a peer that accepts
    /// connections and says nothing (a paused process) would keep it until the handshake's time is over.
    pub(crate) async fn call_unless(
        &self,
        request: &Request,
        over: impl Future<Output = ()>,
    ) -> Result<Reply, LaneError> {
        let taken = Arc::new(AtomicBool::new(false));
        let mut reply = pin!(self.enqueue(request, taken.clone()));
        tokio::select! {
            biased;
            reply = &mut reply => return reply,
            () = over => {}
        }
        if taken.swap(true, Ordering::SeqCst) {
            return reply.await;
        }
        Err(LaneError::NotSent("taken back before the connection was made".into()))
    }

    /// Puts a request in line at once; the future is its reply.
    pub(crate) fn start_call(
        &self,
        request: &Request,
    ) -> impl Future<Output = Result<Reply, LaneError>> + Send + use<> {
        self.enqueue(request, Arc::default())
    }

    fn enqueue(
        &self,
        request: &Request,
        taken: Arc<AtomicBool>,
    ) -> impl Future<Output = Result<Reply, LaneError>> + Send + use<> {
        let (reply, waiter) = oneshot::channel();
        let sent = self.calls.send(Call { request: codec::encode(request), reply, taken });
        async move {
            if sent.is_err() {
                return Err(LaneError::NotSent("this member is stopping".into()));
            }
            waiter.await.unwrap_or_else(|_| Err(LaneError::Lost("this member is stopping".into())))
        }
    }
}

struct Runner {
    url: String,
    hello: Hello,
    transport: Arc<Transport>,
    removed: CancellationToken,
    queue: mpsc::UnboundedReceiver<Call>,
}

type Pending = HashMap<u64, oneshot::Sender<Result<Reply, LaneError>>>;
/// A connection as a stream of messages.
pub(super) type Frames = Framed<Box<dyn Stream>, LengthDelimitedCodec>;

impl Runner {
    async fn run(mut self) {
        while let Some(call) = self.queue.recv().await {
            if call.reply.is_closed() {
                continue;
            }
            match self.connect().await {
                Ok(frames) => self.connection(frames, call).await,
                Err(error) => self.refuse(call, &error),
            }
        }
    }

    /// Nobody waits for a peer that is not there: everything in line fails now.
    fn refuse(&mut self, call: Call, error: &io::Error) {
        let text = format!("{}: {error}", self.url);
        let mut next = Some(call);
        while let Some(call) = next {
            // A caller that is gone does not mind.
            let _ = call.reply.send(Err(LaneError::NotSent(text.clone())));
            next = self.queue.try_recv().ok();
        }
    }

    async fn connect(&self) -> io::Result<Frames> {
        let hello = Request::Hello(self.hello.clone());
        let (frames, reply) = first_words(&self.transport, &self.url, &hello).await?;
        match reply {
            Reply::Done => Ok(frames),
            Reply::Refused(Refusal::Removed) => {
                self.removed.cancel();
                Err(io::Error::other("this member was removed from the cluster"))
            }
            Reply::Refused(Refusal::Failed(text)) => Err(io::Error::other(text)),
            other => Err(io::Error::other(format!("the peer answered {other:?} to the greeting"))),
        }
    }

    async fn connection(&mut self, mut frames: Frames, first: Call) {
        let mut pending = Pending::new();
        let error = self.exchange(&mut frames, first, &mut pending).await;
        let Err(error) = error else { return };
        tracing::debug!(peer = self.url, %error, "connection to a peer ended");
        for (_, reply) in pending {
            // A caller that is gone does not mind.
            let _ = reply.send(Err(LaneError::Lost(format!("{}: {error}", self.url))));
        }
    }

    /// Runs until the connection breaks, or ends well when nobody holds the lane any more.
    async fn exchange(&mut self, frames: &mut Frames, first: Call, pending: &mut Pending) -> io::Result<()> {
        let mut next = 1;
        let mut heard = Heard { at: Instant::now(), pings: 0 };
        let mut ping = tokio::time::interval(PING);
        ping.set_missed_tick_behavior(MissedTickBehavior::Delay);
        write(frames, first, &mut next, pending).await?;
        loop {
            tokio::select! {
                reply = frames.next() => {
                    heard = Heard { at: Instant::now(), pings: 0 };
                    let reply = reply.ok_or(io::ErrorKind::UnexpectedEof)??;
                    let (id, reply) = parse(&reply)?;
                    if let Some(waiter) = pending.remove(&id) {
                        // A caller that is gone does not mind.
                        let _ = waiter.send(Ok(reply));
                    }
                }
                call = self.queue.recv() => {
                    let Some(call) = call else { return Ok(()) };
                    write(frames, call, &mut next, pending).await?;
                    // What else is in line goes out with it.
                    while let Ok(call) = self.queue.try_recv() {
                        feed(frames, call, &mut next, pending).await?;
                    }
                    flush(frames).await?;
                }
                _ = ping.tick() => {
                    heard.check()?;
                    frames.feed(frame(0, &codec::encode(&Request::Ping))).await?;
                    flush(frames).await?;
                }
            }
        }
    }
}

/// Connects, says the first thing, and hears the answer.
async fn first_words(transport: &Transport, url: &str, request: &Request) -> io::Result<(Frames, Reply)> {
    let mut frames = framed(transport.connect(url).await?);
    frames.send(frame(0, &codec::encode(request))).await?;
    let reply = tokio::time::timeout(SILENCE * 4, frames.next()).await?;
    let reply = reply.ok_or(io::ErrorKind::UnexpectedEof)??;
    Ok((frames, parse(&reply)?.1))
}

/// Asks whoever listens at a peer URL which cluster it is in, and who else is.
pub(crate) async fn roster(transport: &Transport, url: &str) -> io::Result<Roster> {
    match first_words(transport, url, &Request::Roster).await?.1 {
        Reply::Roster(roster) => Ok(roster),
        other => Err(io::Error::other(format!("the peer answered {other:?}"))),
    }
}

/// Asks whoever listens at a peer URL for a replacement.
pub(crate) async fn replace(transport: &Transport, url: &str, wanted: Replacement) -> io::Result<Reply> {
    Ok(first_words(transport, url, &Request::Replace(wanted)).await?.1)
}

struct Heard {
    at: Instant,
    pings: u32,
}

impl Heard {
    fn check(&mut self) -> io::Result<()> {
        self.pings += 1;
        if self.pings > UNANSWERED && self.at.elapsed() >= SILENCE {
            return Err(io::Error::new(io::ErrorKind::TimedOut, "the peer does not answer"));
        }
        Ok(())
    }
}

async fn write(frames: &mut Frames, call: Call, next: &mut u64, pending: &mut Pending) -> io::Result<()> {
    feed(frames, call, next, pending).await?;
    flush(frames).await
}

async fn feed(frames: &mut Frames, call: Call, next: &mut u64, pending: &mut Pending) -> io::Result<()> {
    if call.reply.is_closed() || call.taken.swap(true, Ordering::SeqCst) {
        return Ok(());
    }
    pending.insert(*next, call.reply);
    let bytes = frame(*next, &call.request);
    *next += 1;
    bounded(frames.feed(bytes)).await
}

async fn flush(frames: &mut Frames) -> io::Result<()> {
    bounded(SinkExt::<Bytes>::flush(frames)).await
}

/// A peer that takes no bytes for long is as dead as a silent one (its pings cannot get through either).
async fn bounded(write: impl Future<Output = io::Result<()>>) -> io::Result<()> {
    tokio::time::timeout(SILENCE * 4, write).await?
}

/// Length-prefixed frames over a connection.
pub(super) fn framed(stream: Box<dyn Stream>) -> Frames {
    LengthDelimitedCodec::builder().max_frame_length(codec::LIMIT + 64).new_framed(stream)
}

/// A message with its number.
pub(super) fn frame(id: u64, message: &[u8]) -> Bytes {
    let mut bytes = BytesMut::with_capacity(8 + message.len());
    bytes.put_u64(id);
    bytes.put_slice(message);
    bytes.freeze()
}

/// The number and the message of a frame.
pub(super) fn parse<T: serde::de::DeserializeOwned>(frame: &[u8]) -> io::Result<(u64, T)> {
    let (id, message) = frame
        .split_first_chunk::<8>()
        .ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, "a frame without a number"))?;
    Ok((u64::from_be_bytes(*id), codec::decode(message)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_request_is_taken_back_from_a_peer_that_says_nothing() {
        // The system accepts for it, as it does for a process that is paused.
        let silent = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", silent.local_addr().unwrap());
        let (hello, transport) = (Hello { cluster: 1, from: 1, to: 2 }, Transport::new(None).unwrap());
        let removed = CancellationToken::new();
        let lane = Lane::start(url, hello, Arc::new(transport), removed, &Handle::current());
        let start = Instant::now();
        let over = tokio::time::sleep(Duration::from_millis(50));
        let done = lane.call_unless(&Request::ReadIndex, over).await;
        assert!(matches!(done, Err(LaneError::NotSent(_))), "{done:?}");
        assert!(start.elapsed() < SILENCE, "it did not wait for the peer");
    }
}
