//! The store over etcd's v3 gRPC API: our own store, or a real etcd (3.4 or later).
//!
//! Keeps true: a write that may have reached a member is never sent again, its failure is
//! [`KvError::Unknown`]; reads and writes that certainly were not sent go to the next member; a dead member is
//! noticed by keep-alives within half a second, by one request for all; watches ask to be ended when their member
//! has no leader.

use super::{Done, Kv, KvError, KvResult, Page, Range, Txn, WatchStream, wire};
use futures::{StreamExt, stream};
use raft::etcd::pb::{self, kv_client::KvClient, lease_client::LeaseClient, watch_client::WatchClient};
use std::{
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};
use tokio::{sync::mpsc, time::Instant};
use tokio_util::task::AbortOnDropHandle;
use tonic::{
    Code, Request, Status,
    metadata::MetadataValue,
    transport::{Certificate, Channel, ClientTlsConfig, Endpoint, Identity},
};

/// How long a connection may take to be made.
const CONNECT: Duration = Duration::from_millis(300);
/// How long a member that could not be reached is passed over.
const AVOID: Duration = Duration::from_secs(5);
/// How long a member is asked again that says it has no leader: an election is shorter, a member cut off stays so.
const ELECTION: Duration = Duration::from_secs(2);
/// Between attempts to go back to the first member.
const RETURN: Duration = Duration::from_secs(1);
/// Between pings on a connection, and how long each may take, unless configured.
const KEEP_ALIVE: Duration = Duration::from_millis(250);
/// How long one attempt may take.
const ATTEMPT: Duration = Duration::from_secs(3);
/// How long all attempts together may take.
const PATIENCE: Duration = Duration::from_secs(6);
const FIRST_PAUSE: Duration = Duration::from_millis(10);
const LONGEST_PAUSE: Duration = Duration::from_millis(200);
/// Largest message taken, bytes: a page of the largest objects.
const LARGEST: usize = 512 << 20;

/// How to reach the store.
#[derive(Clone, Debug, Default)]
pub struct EtcdConfig {
    /// `https://host:port` each. The first one is used while it answers, so it should be the nearest.
    pub endpoints: Vec<String>,
    /// CA of the members' certificates; `None` for plain HTTP.
    pub ca_file: Option<PathBuf>,
    /// Client certificate.
    pub cert_file: Option<PathBuf>,
    /// Its key.
    pub key_file: Option<PathBuf>,
    /// Between pings, and how long each may take; `None` for 250 ms, with which a dead member is noticed within
    /// half a second. A real etcd ends connections that ping more often than its `--grpc-keepalive-min-time`
    /// (5 s unless set).
    pub keep_alive: Option<Duration>,
}

/// Why the connection to the store cannot be set up.
#[derive(Debug, thiserror::Error)]
pub enum SetupError {
    /// No endpoint was given.
    #[error("--etcd-servers names no server: give at least one, for example https://127.0.0.1:2379")]
    NoEndpoint,
    /// An endpoint is no URL.
    #[error("--etcd-servers: {0:?} is no URL, expected for example https://127.0.0.1:2379")]
    Endpoint(String),
    /// A file cannot be read.
    #[error("cannot read {} for the connection to the store", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// The system's reason.
        source: std::io::Error,
    },
    /// Certificates cannot be used.
    #[error("cannot use the certificates for the connection to the store")]
    Tls(#[from] tonic::transport::Error),
}

/// A store reached by gRPC.
pub struct Etcd {
    members: Arc<Members>,
    /// Where running watches take requests.
    watches: Mutex<Vec<mpsc::Sender<pb::WatchRequest>>>,
    /// Goes back to the first member when that answers again.
    returning: Mutex<Option<AbortOnDropHandle<()>>>,
}

struct Members {
    config: EtcdConfig,
    all: Vec<Member>,
    /// The member in use.
    current: AtomicUsize,
}

#[derive(Default)]
struct Member {
    channel: tokio::sync::Mutex<Option<Channel>>,
    failed: Mutex<Option<Instant>>,
}

/// What a failed attempt means.
enum Failure {
    /// The answer is final.
    Final(KvError),
    /// The member said that it did nothing.
    Refused(String),
    /// It certainly was not sent.
    NotDone(String),
    /// Perhaps something was done.
    Perhaps(String),
}

impl Etcd {
    /// Reads the files once, connects to nothing.
    ///
    /// # Errors
    /// When an endpoint or a file cannot be used.
    pub fn new(config: EtcdConfig) -> Result<Self, SetupError> {
        if config.endpoints.is_empty() {
            return Err(SetupError::NoEndpoint);
        }
        for url in &config.endpoints {
            endpoint(&config, url)?;
        }
        let all = config.endpoints.iter().map(|_| Member::default()).collect();
        let members = Arc::new(Members { config, all, current: AtomicUsize::new(0) });
        Ok(Etcd { members, watches: Mutex::default(), returning: Mutex::default() })
    }

    /// Goes on to another member, and from the first one only for as long as that is not there.
    fn leave(&self, member: usize) {
        self.members.leave(member);
        if member == 0 && self.members.all.len() > 1 {
            let members = self.members.clone();
            let task = AbortOnDropHandle::new(tokio::spawn(async move { members.go_back().await }));
            *self.returning.lock().unwrap_or_else(PoisonError::into_inner) = Some(task);
        }
    }

    /// Does one thing on some member. `again`: it may be done twice.
    async fn call<T, F>(&self, again: bool, mut attempt: impl FnMut(Channel) -> F) -> KvResult<T>
    where
        F: Future<Output = Result<T, Status>>,
    {
        let start = Instant::now();
        let mut pause = FIRST_PAUSE;
        loop {
            let member = self.members.current();
            let failure = match self.members.channel(member).await {
                Err(failure) => failure,
                Ok(channel) => match tokio::time::timeout(ATTEMPT, attempt(channel)).await {
                    Ok(Ok(answer)) => return Ok(answer),
                    Ok(Err(status)) => classify(&status, describe(&status)),
                    Err(_) => Failure::Perhaps("no answer in time".into()),
                },
            };
            let why = match failure {
                Failure::Final(error) => return Err(error),
                // The member answered: its connection is fine, and the others have no other leader.
                Failure::Refused(why) => {
                    if start.elapsed() > ELECTION {
                        self.leave(member);
                    }
                    why
                }
                Failure::NotDone(why) => {
                    self.members.hang_up(member).await;
                    self.leave(member);
                    why
                }
                Failure::Perhaps(why) => {
                    self.members.hang_up(member).await;
                    self.leave(member);
                    if !again {
                        return Err(KvError::Unknown(why));
                    }
                    why
                }
            };
            if start.elapsed() >= PATIENCE {
                return Err(KvError::Unavailable(why));
            }
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(LONGEST_PAUSE);
        }
    }
}

impl Members {
    fn current(&self) -> usize {
        self.current.load(Ordering::SeqCst)
    }

    async fn channel(&self, member: usize) -> Result<Channel, Failure> {
        let mut slot = self.all[member].channel.lock().await;
        if let Some(channel) = &*slot {
            return Ok(channel.clone());
        }
        if self.current() != member {
            // Who held the lock before could not connect. Requests in line must not each find that out again.
            return Err(Failure::NotDone(format!("{} cannot be reached", self.config.endpoints[member])));
        }
        let connected = self.connect(member).await;
        if connected.is_err() {
            self.leave(member);
        }
        let channel = connected.map_err(Failure::NotDone)?;
        *slot = Some(channel.clone());
        Ok(channel)
    }

    async fn connect(&self, member: usize) -> Result<Channel, String> {
        let url = &self.config.endpoints[member];
        let endpoint = endpoint(&self.config, url).map_err(|error| describe(&error))?;
        let connected = tokio::time::timeout(CONNECT * 2, endpoint.connect()).await;
        connected.map_err(|_| format!("connecting to {url} took too long"))?.map_err(|error| describe(&error))
    }

    /// Gives a connection up.
    async fn hang_up(&self, member: usize) {
        *self.all[member].channel.lock().await = None;
    }

    fn leave(&self, member: usize) {
        let now = Instant::now();
        *self.all[member].failed() = Some(now);
        let failed: Vec<_> = self.all.iter().map(|member| *member.failed()).collect();
        let next = next_member(&failed, member, now);
        // Another request may have left it as well.
        let _ = self.current.compare_exchange(member, next, Ordering::SeqCst, Ordering::SeqCst);
    }

    async fn go_back(&self) {
        while self.current() != 0 {
            tokio::time::sleep(RETURN).await;
            if let Ok(channel) = self.connect(0).await {
                *self.all[0].channel.lock().await = Some(channel);
                self.current.store(0, Ordering::SeqCst);
            }
        }
    }
}

impl Member {
    fn failed(&self) -> MutexGuard<'_, Option<Instant>> {
        self.failed.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The member after `left` that has not failed lately, or the one whose failure is oldest.
fn next_member(failed: &[Option<Instant>], left: usize, now: Instant) -> usize {
    let mut others = (1..=failed.len()).map(|step| (left + step) % failed.len());
    let oldest = others.clone().min_by_key(|member| failed[*member]).unwrap_or(left);
    others.find(|member| failed[*member].is_none_or(|at| now - at > AVOID)).unwrap_or(oldest)
}

fn classify(status: &Status, text: String) -> Failure {
    match (status.code(), status.message()) {
        (Code::OutOfRange, message) if message.contains("compacted") => Failure::Final(KvError::Compacted(0)),
        (Code::OutOfRange, _) => Failure::Final(KvError::Future),
        // The member looks for a leader before it proposes anything.
        (_, "etcdserver: no leader" | "etcdserver: too many requests" | "etcdserver: not ready") => {
            Failure::Refused(text)
        }
        (
            Code::InvalidArgument
            | Code::NotFound
            | Code::FailedPrecondition
            | Code::PermissionDenied
            | Code::Unauthenticated
            | Code::Unimplemented,
            _,
        ) => Failure::Final(KvError::Refused(status.message().to_string())),
        _ if never_sent(status) => Failure::NotDone(text),
        _ => Failure::Perhaps(text),
    }
}

/// Whether the request was still waiting for its connection when that was lost.
fn never_sent(status: &Status) -> bool {
    let mut source = std::error::Error::source(status);
    while let Some(error) = source {
        if error.downcast_ref::<hyper::Error>().is_some_and(hyper::Error::is_canceled) {
            return true;
        }
        source = error.source();
    }
    false
}

/// An error with its causes, for logs and for the text of a 503.
fn describe(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(error) = source {
        text += &format!(": {error}");
        source = error.source();
    }
    text
}

fn endpoint(config: &EtcdConfig, url: &str) -> Result<Endpoint, SetupError> {
    let with_scheme = if url.contains("://") { url.to_string() } else { format!("http://{url}") };
    let endpoint = Endpoint::from_shared(with_scheme).map_err(|_| SetupError::Endpoint(url.into()))?;
    let ping = config.keep_alive.unwrap_or(KEEP_ALIVE);
    let endpoint = endpoint
        .connect_timeout(CONNECT)
        .tcp_nodelay(true)
        .http2_keep_alive_interval(ping)
        .keep_alive_timeout(ping)
        .keep_alive_while_idle(true)
        .initial_stream_window_size(4 << 20)
        .initial_connection_window_size(16 << 20);
    let Some(ca) = &config.ca_file else { return Ok(endpoint) };
    let mut tls = ClientTlsConfig::new().ca_certificate(Certificate::from_pem(read(ca)?));
    if let (Some(cert), Some(key)) = (&config.cert_file, &config.key_file) {
        tls = tls.identity(Identity::from_pem(read(cert)?, read(key)?));
    }
    Ok(endpoint.tls_config(tls)?)
}

fn read(path: &Path) -> Result<Vec<u8>, SetupError> {
    std::fs::read(path).map_err(|source| SetupError::File { path: path.into(), source })
}

/// A request that a member without a leader refuses at once instead of keeping it.
fn led<T>(message: T) -> Request<T> {
    let mut request = Request::new(message);
    request.metadata_mut().insert("hasleader", MetadataValue::from_static("true"));
    request
}

fn kv(channel: Channel) -> KvClient<Channel> {
    KvClient::new(channel).max_decoding_message_size(LARGEST).max_encoding_message_size(LARGEST)
}

#[async_trait::async_trait]
impl Kv for Etcd {
    async fn range(&self, range: Range) -> KvResult<Page> {
        let request = wire::range(range);
        let answer = self
            .call(true, |channel| {
                let request = request.clone();
                async move { kv(channel).range(led(request)).await }
            })
            .await?;
        wire::page(answer.get_ref())
    }

    async fn txn(&self, txn: Txn) -> KvResult<Done> {
        let reads = |op: &super::Op| matches!(op, super::Op::Get { .. });
        let again = txn.then.iter().chain(&txn.otherwise).all(reads);
        let request = wire::txn(txn);
        let answer = self
            .call(again, |channel| {
                let request = request.clone();
                async move { kv(channel).txn(led(request)).await }
            })
            .await?;
        wire::done(answer.into_inner())
    }

    async fn watch(&self, prefix: &str, from: u64) -> KvResult<WatchStream> {
        let create = wire::watch(prefix, from);
        let (answer, sender) = self
            .call(true, |channel| {
                let create = create.clone();
                async move {
                    let (sender, receiver) = mpsc::channel(16);
                    let _ = sender.send(create).await;
                    let requests = tokio_stream::wrappers::ReceiverStream::new(receiver);
                    let mut client = WatchClient::new(channel).max_decoding_message_size(LARGEST);
                    Ok((client.watch(led(requests)).await?, sender))
                }
            })
            .await?;
        let mut watches = self.watches.lock().unwrap_or_else(PoisonError::into_inner);
        watches.retain(|sender| !sender.is_closed());
        watches.push(sender.clone());
        let state = Some((answer.into_inner(), sender));
        Ok(stream::unfold(state, next_message).boxed())
    }

    async fn request_progress(&self) {
        let watches = self.watches.lock().unwrap_or_else(PoisonError::into_inner).clone();
        for sender in watches {
            // A full queue holds such a request already.
            let _ = sender.try_send(wire::progress());
        }
    }

    async fn lease_grant(&self, ttl: i64) -> KvResult<i64> {
        let request = pb::LeaseGrantRequest { ttl, id: 0 };
        // A second lease that nobody uses ends by itself.
        let answer = self
            .call(true, |channel| async move { LeaseClient::new(channel).lease_grant(led(request)).await })
            .await?;
        Ok(answer.into_inner().id)
    }

    async fn lease_keep_alive(&self, id: i64) -> KvResult<i64> {
        let ttl = self
            .call(true, |channel| async move {
                let request = stream::iter([pb::LeaseKeepAliveRequest { id }]).chain(stream::pending());
                let mut answers =
                    LeaseClient::new(channel).lease_keep_alive(led(request)).await?.into_inner();
                let answer = answers.message().await?;
                answer.map(|a| a.ttl).ok_or_else(|| Status::unavailable("the keep-alive was not answered"))
            })
            .await?;
        if ttl > 0 { Ok(ttl) } else { Err(KvError::Refused("etcdserver: requested lease not found".into())) }
    }

    async fn lease_revoke(&self, id: i64) -> KvResult<()> {
        let request = pb::LeaseRevokeRequest { id };
        self.call(true, |channel| async move { LeaseClient::new(channel).lease_revoke(led(request)).await })
            .await
            .map(drop)
    }

    async fn compact(&self, revision: u64) -> KvResult<()> {
        let request = pb::CompactionRequest { revision: revision as i64, physical: false };
        self.call(true, |channel| async move { kv(channel).compact(led(request)).await }).await.map(drop)
    }
}

type WatchState = Option<(tonic::Streaming<pb::WatchResponse>, mpsc::Sender<pb::WatchRequest>)>;

async fn next_message(state: WatchState) -> Option<(KvResult<super::Watched>, WatchState)> {
    let (mut answers, sender) = state?;
    loop {
        let said = match answers.message().await {
            Ok(Some(answer)) => wire::watched(answer),
            Ok(None) => Err(KvError::Unavailable("the store ended the watch".into())),
            Err(status) => match classify(&status, describe(&status)) {
                Failure::Final(error) => Err(error),
                Failure::Refused(why) | Failure::NotDone(why) | Failure::Perhaps(why) => {
                    Err(KvError::Unavailable(why))
                }
            },
        };
        match said {
            Ok(None) => {}
            Ok(Some(said)) => return Some((Ok(said), Some((answers, sender)))),
            Err(error) => return Some((Err(error), None)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_member_that_failed_lately_is_passed_over() {
        let now = Instant::now() + Duration::from_secs(60);
        let check = |seconds: [Option<u64>; 3], left: usize, expect: usize| {
            let failed = seconds.map(|s| s.map(|s| now - Duration::from_secs(s)));
            assert_eq!(next_member(&failed, left, now), expect, "{seconds:?}");
        };
        check([Some(0), None, None], 0, 1);
        check([Some(0), Some(1), None], 0, 2);
        check([None, Some(0), Some(9)], 1, 2);
        check([Some(3), Some(4), Some(0)], 2, 1);
        assert_eq!(next_member(&[Some(now)], 0, now), 0);
    }

    #[test]
    fn only_what_was_certainly_not_done_is_done_again() {
        let check = |status: Status, expect: &str| {
            let got = match classify(&status, String::new()) {
                Failure::Final(error) => error.to_string(),
                Failure::Refused(_) | Failure::NotDone(_) => "not done".into(),
                Failure::Perhaps(_) => "perhaps".into(),
            };
            assert_eq!(got, expect, "{status:?}");
        };
        check(Status::unavailable("etcdserver: no leader"), "not done");
        check(Status::unavailable("etcdserver: request timed out"), "perhaps");
        check(Status::unavailable("etcdserver: leader changed"), "perhaps");
        check(Status::unknown("transport error"), "perhaps");
        check(
            Status::out_of_range("etcdserver: mvcc: required revision has been compacted"),
            "the revision asked for has been compacted",
        );
        check(
            Status::not_found("etcdserver: requested lease not found"),
            "the store refused the request: etcdserver: requested lease not found",
        );
    }
}
