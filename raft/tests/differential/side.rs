//! One store as its clients see it, be it ours or etcd: asked one operation at a time, its watches written down.
//!
//! Keeps true: an answer holds everything that was said but what must differ between two stores: the numbers of
//! cluster and member, the term, how long a lease has left, hashes, and the order of what has none.

use crate::generate::Op;
use raft::etcd::pb::{
    self, kv_client::KvClient, lease_client::LeaseClient, maintenance_client::MaintenanceClient,
    watch_client::WatchClient, watch_request::RequestUnion,
};
use std::{
    collections::BTreeMap,
    fmt::Debug,
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    sync::mpsc,
};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Status, Streaming, transport::Channel};

/// How long an answer or an event may take.
const PATIENCE: Duration = Duration::from_secs(30);

/// What a store said.
pub(crate) type Answer = Result<String, (Code, String)>;

/// What came on a stream: the events of each watch, and everything else in its order.
#[derive(Debug, Default)]
pub(crate) struct Heard {
    pub(crate) events: BTreeMap<i64, Vec<pb::Event>>,
    pub(crate) control: Vec<pb::WatchResponse>,
    broken: Option<String>,
}

struct Stream {
    requests: mpsc::Sender<pb::WatchRequest>,
    heard: Arc<Mutex<Heard>>,
}

pub(crate) struct Side {
    pub(crate) name: &'static str,
    port: u16,
    kv: KvClient<Channel>,
    lease: LeaseClient<Channel>,
    maintenance: MaintenanceClient<Channel>,
    keep: mpsc::Sender<pb::LeaseKeepAliveRequest>,
    kept: Streaming<pb::LeaseKeepAliveResponse>,
    streams: Vec<Stream>,
}

fn strip(header: &mut Option<pb::ResponseHeader>) {
    if let Some(header) = header {
        (header.cluster_id, header.member_id, header.raft_term) = (0, 0, 0);
    }
}

fn answer<T: Debug>(
    asked: Result<tonic::Response<T>, Status>,
    header: impl FnOnce(&mut T) -> &mut Option<pb::ResponseHeader>,
) -> Answer {
    let mut said = asked.map_err(|status| (status.code(), status.message().to_owned()))?.into_inner();
    strip(header(&mut said));
    Ok(format!("{said:?}"))
}

impl Side {
    /// Connects as soon as the store serves.
    pub(crate) async fn connect(name: &'static str, port: u16, streams: usize) -> Self {
        let channel = Channel::from_shared(format!("http://127.0.0.1:{port}")).unwrap().connect_lazy();
        let kv = KvClient::new(channel.clone());
        let begun = Instant::now();
        let nothing = pb::RangeRequest { key: "nothing".into(), ..Default::default() };
        while let Err(status) = kv.clone().range(nothing.clone()).await {
            assert!(begun.elapsed() < PATIENCE, "{name} does not serve: {status}");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        let (keep, requests) = mpsc::channel(1);
        // etcd answers the call itself with the first answer only.
        keep.send(pb::LeaseKeepAliveRequest { id: 0 }).await.unwrap();
        let mut lease = LeaseClient::new(channel.clone());
        let kept = lease.lease_keep_alive(ReceiverStream::new(requests)).await.unwrap().into_inner();
        let mut side = Self {
            name,
            port,
            kv,
            lease,
            maintenance: MaintenanceClient::new(channel.clone()),
            keep,
            kept,
            streams: Vec::new(),
        };
        side.kept.message().await.unwrap();
        for _ in 0..streams {
            side.streams.push(Stream::open(channel.clone()).await);
        }
        side
    }

    /// Has an operation done. Revisions are as of before it.
    pub(crate) async fn ask(&mut self, op: &Op) -> Answer {
        match tokio::time::timeout(PATIENCE, self.asked(op)).await {
            Ok(answer) => answer,
            Err(_) => panic!("{} does not answer {op:?}", self.name),
        }
    }

    async fn asked(&mut self, op: &Op) -> Answer {
        let kv = &mut self.kv;
        match op.clone() {
            Op::Put(put) => answer(kv.put(put).await, |said| &mut said.header),
            Op::Range(range) => answer(kv.range(range).await, |said| &mut said.header),
            Op::Delete(delete) => answer(kv.delete_range(delete).await, |said| &mut said.header),
            Op::Txn(txn) => answer(kv.txn(txn).await, |said| &mut said.header),
            Op::Compact(compact) => answer(kv.compact(compact).await, |said| &mut said.header),
            Op::Grant(grant) => answer(self.lease.lease_grant(grant).await, |said| &mut said.header),
            Op::GrantShort(grant) => {
                let granted = answer(self.lease.lease_grant(grant).await, |said| &mut said.header);
                // It may end by itself first.
                drop(self.lease.lease_revoke(pb::LeaseRevokeRequest { id: grant.id }).await);
                granted
            }
            Op::Revoke(id) => {
                let asked = self.lease.lease_revoke(pb::LeaseRevokeRequest { id }).await;
                answer(asked, |said| &mut said.header)
            }
            Op::KeepAlive(id) => {
                self.keep.send(pb::LeaseKeepAliveRequest { id }).await.unwrap();
                let kept = self.kept.message().await.map(|kept| tonic::Response::new(kept.unwrap()));
                answer(kept, |said| &mut said.header)
            }
            Op::TimeToLive(request) => self.time_to_live(request).await,
            Op::Leases => self.leases().await,
            Op::HashKv(revision) => {
                let asked = self.maintenance.hash_kv(pb::HashKvRequest { revision }).await;
                let asked = asked.map(|hashed| {
                    // 3.4 does not tell the revision that was hashed.
                    hashed.map(|hashed| pb::HashKvResponse { hash: 0, hash_revision: 0, ..hashed })
                });
                answer(asked, |said| &mut said.header)
            }
            Op::Watch(stream, create) => self.control(stream, RequestUnion::CreateRequest(create)).await,
            Op::Cancel(stream) => {
                // The one that has existed longest, if one is left.
                let Some(watch_id) = self.streams[stream].watches().first().copied() else {
                    return Ok("nothing to cancel".into());
                };
                let cancel = RequestUnion::CancelRequest(pb::WatchCancelRequest { watch_id });
                self.control(stream, cancel).await
            }
            Op::Progress(stream) => {
                self.control(stream, RequestUnion::ProgressRequest(pb::WatchProgressRequest {})).await
            }
        }
    }

    async fn time_to_live(&mut self, request: pb::LeaseTimeToLiveRequest) -> Answer {
        let asked = self.lease.lease_time_to_live(request).await;
        let asked = asked.map(|found| {
            found.map(|mut found| {
                found.keys.sort();
                let due = found.granted_ttl - 300..=found.granted_ttl;
                if found.ttl >= 0 && due.contains(&found.ttl) {
                    found.ttl = found.granted_ttl;
                }
                found
            })
        });
        answer(asked, |said| &mut said.header)
    }

    async fn leases(&mut self) -> Answer {
        let asked = self.lease.lease_leases(pb::LeaseLeasesRequest {}).await;
        let asked = asked.map(|found| {
            found.map(|mut found| {
                found.leases.sort_by_key(|lease| lease.id);
                found
            })
        });
        answer(asked, |said| &mut said.header)
    }

    /// Sends a request on a watch stream and waits for its answer.
    async fn control(&self, stream: usize, request: RequestUnion) -> Answer {
        let stream = &self.streams[stream];
        let before = stream.heard.lock().unwrap().control.len();
        stream.requests.send(pb::WatchRequest { request_union: Some(request) }).await.unwrap();
        self.until("answer a watch request", || {
            let heard = stream.heard.lock().unwrap();
            heard.control.get(before).map(|said| format!("{said:?}"))
        })
        .await
        .map_err(|text| (Code::Unknown, text))
    }

    /// Waits until something was heard.
    pub(crate) async fn until<T>(
        &self,
        what: &str,
        mut heard: impl FnMut() -> Option<T>,
    ) -> Result<T, String> {
        let begun = Instant::now();
        loop {
            if let Some(found) = heard() {
                return Ok(found);
            }
            if let Some(why) = self.streams.iter().find_map(|s| s.heard.lock().unwrap().broken.clone()) {
                return Err(format!("{}: a watch stream broke: {why}", self.name));
            }
            if begun.elapsed() > PATIENCE {
                return Err(format!("{} does not {what}", self.name));
            }
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }

    /// Waits until etcd reads no more history for a watch. It does that ten times a second, and a compaction in
    /// between ends the watch, also one that is told of nothing.
    pub(crate) async fn until_watches_have_caught_up(&self) {
        let begun = Instant::now();
        while !metrics(self.port).await.lines().any(|line| line == "etcd_debugging_mvcc_slow_watcher_total 0")
        {
            assert!(begun.elapsed() < PATIENCE, "{} does not catch up with its watches", self.name);
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    /// What was heard on a stream.
    pub(crate) fn heard<T>(&self, stream: usize, look: impl FnOnce(&Heard) -> T) -> T {
        look(&self.streams[stream].heard.lock().unwrap())
    }

    /// The watches of a stream that were created and not cancelled.
    pub(crate) fn watches(&self, stream: usize) -> Vec<i64> {
        self.streams[stream].watches()
    }

    /// Forgets the events heard so far.
    pub(crate) fn forget(&self) {
        for stream in &self.streams {
            stream.heard.lock().unwrap().events.clear();
        }
    }
}

async fn metrics(port: u16) -> String {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).await.unwrap();
    stream.write_all(b"GET /metrics HTTP/1.0\r\n\r\n").await.unwrap();
    let mut text = String::new();
    stream.read_to_string(&mut text).await.unwrap();
    text
}

impl Stream {
    async fn open(channel: Channel) -> Self {
        let (requests, queue) = mpsc::channel(4);
        let heard = Arc::new(Mutex::new(Heard::default()));
        let told = heard.clone();
        // etcd opens the stream with its first answer: both ends are waited for in a task.
        tokio::spawn(async move {
            let opened = WatchClient::new(channel).watch(ReceiverStream::new(queue)).await;
            let ended = match opened {
                Ok(responses) => listen(responses.into_inner(), &told).await,
                Err(status) => status.to_string(),
            };
            told.lock().unwrap().broken = Some(ended);
        });
        Self { requests, heard }
    }

    fn watches(&self) -> Vec<i64> {
        let heard = self.heard.lock().unwrap();
        let mut watches = Vec::new();
        for said in &heard.control {
            match (said.created, said.canceled) {
                (true, false) => watches.push(said.watch_id),
                (false, true) => watches.retain(|id| *id != said.watch_id),
                _ => {}
            }
        }
        watches
    }
}

async fn listen(mut responses: Streaming<pb::WatchResponse>, heard: &Mutex<Heard>) -> String {
    loop {
        match responses.message().await {
            Ok(Some(mut said)) => {
                let mut heard = heard.lock().unwrap();
                if said.events.is_empty() {
                    strip(&mut said.header);
                    heard.control.push(said);
                } else {
                    let at = said.header.as_ref().map_or(0, |header| header.revision);
                    let last = said.events.last().and_then(|event| event.kv.as_ref());
                    assert!(
                        last.is_some_and(|kv| kv.mod_revision <= at),
                        "an event is newer than its header"
                    );
                    heard.events.entry(said.watch_id).or_default().extend(said.events);
                }
            }
            Ok(None) => return "it ended".into(),
            Err(status) => return status.to_string(),
        }
    }
}
