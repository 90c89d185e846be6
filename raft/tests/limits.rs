//! What a client may not do, and what it may cost: bad input gets etcd's error, strangers get nothing, and memory
//! stays bounded whatever clients do not read.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

#[path = "ports.rs"]
mod ports;

use clap::Parser;
use ports::free_port;
use raft::etcd::pb::{
    self, kv_client::KvClient, maintenance_client::MaintenanceClient, watch_client::WatchClient,
    watch_request::RequestUnion,
};
use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
use std::{
    path::Path,
    time::{Duration, Instant},
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    sync::mpsc,
    task::JoinHandle,
};
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tonic::{
    Code, Status, Streaming,
    transport::{Certificate, Channel, ClientTlsConfig, Identity},
};

const MIB: usize = 1 << 20;

#[derive(Parser)]
struct Command {
    #[command(flatten)]
    flags: raft::Flags,
}

/// Memory is measured, so one test at a time.
static ALONE: tokio::sync::Mutex<()> = tokio::sync::Mutex::const_new(());

struct Store {
    port: u16,
    folder: tempfile::TempDir,
    stop: CancellationToken,
    task: Option<JoinHandle<()>>,
    _alone: tokio::sync::MutexGuard<'static, ()>,
}

/// A process that ends while a database is being closed crashes in it, so the member is stopped, and waited for.
impl Drop for Store {
    fn drop(&mut self) {
        self.stop.cancel();
        let Some(task) = self.task.take() else { return };
        // How it ended is looked at where it matters.
        let _ = tokio::task::block_in_place(|| tokio::runtime::Handle::current().block_on(task));
    }
}

impl Store {
    /// Starts a member; `{}` in the flags is its folder.
    async fn start(scheme: &str, flags: &str) -> Self {
        let alone = ALONE.lock().await;
        // Another test of this process may have set it.
        let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
        let folder = tempfile::tempdir().unwrap();
        write_certificates(folder.path());
        let (port, peers) = (free_port(), free_port());
        let args = format!(
            "store --data-dir {{}}/data --listen-client-urls {scheme}://127.0.0.1:{port} --listen-peer-urls \
             http://127.0.0.1:{peers} --initial-cluster default=http://127.0.0.1:{peers} {flags}"
        );
        let args = args.replace("{}", &folder.path().display().to_string());
        let flags = Command::try_parse_from(args.split_whitespace()).unwrap().flags;
        let stop = CancellationToken::new();
        let token = stop.clone();
        let task = Some(tokio::spawn(async move { raft::run(flags, token).await.unwrap() }));
        let begun = Instant::now();
        while tokio::net::TcpStream::connect(("127.0.0.1", port)).await.is_err() {
            assert!(begun.elapsed() < Duration::from_secs(30), "the member does not listen");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        Self { port, folder, stop, task, _alone: alone }
    }

    fn channel(&self) -> Channel {
        Channel::from_shared(format!("http://127.0.0.1:{}", self.port)).unwrap().connect_lazy()
    }

    async fn tls(&self, who: Option<&str>) -> Result<(), Box<dyn std::error::Error>> {
        let read = |name: &str| std::fs::read(self.folder.path().join(name)).unwrap();
        let mut tls = ClientTlsConfig::new().ca_certificate(Certificate::from_pem(read("ours.ca")));
        if let Some(who) = who {
            tls = tls.identity(Identity::from_pem(read(&format!("{who}.crt")), read(&format!("{who}.key"))));
        }
        let channel = Channel::from_shared(format!("https://localhost:{}", self.port))?.tls_config(tls)?;
        let mut kv = KvClient::new(channel.connect().await?);
        kv.range(pb::RangeRequest { key: "k".into(), ..Default::default() }).await?;
        Ok(())
    }
}

/// A CA `ours` and a CA `foreign`, each with one certificate of its name, for servers and clients.
fn write_certificates(folder: &Path) {
    for name in ["ours", "foreign"] {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate().unwrap();
        let ca = params.self_signed(&key).unwrap();
        let issuer = Issuer::new(params, key);
        let key = KeyPair::generate().unwrap();
        let names = vec!["localhost".to_owned(), "127.0.0.1".to_owned()];
        let certificate = CertificateParams::new(names).unwrap().signed_by(&key, &issuer).unwrap();
        std::fs::write(folder.join(format!("{name}.ca")), ca.pem()).unwrap();
        std::fs::write(folder.join(format!("{name}.crt")), certificate.pem()).unwrap();
        std::fs::write(folder.join(format!("{name}.key")), key.serialize_pem()).unwrap();
    }
}

/// Values that do not compress, so that what they take on the disk does not depend on when they get there.
fn put(key: &str, bytes: usize) -> pb::PutRequest {
    let value: Vec<u8> = rand::random_iter().take(bytes).collect();
    pb::PutRequest { key: key.to_owned().into(), value: value.into(), ..Default::default() }
}

fn check<T: std::fmt::Debug>(asked: Result<T, Status>, code: Code, text: &str) {
    let error = asked.unwrap_err();
    assert_eq!((error.code(), error.message()), (code, text));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_too_large_is_refused_in_etcds_words() {
    let store = Store::start("http", "").await;
    let mut kv = KvClient::new(store.channel());
    let too_large = "etcdserver: request is too large";
    kv.put(put("k", 1536 * 1024 - 100)).await.unwrap();
    check(kv.put(put("k", 1536 * 1024)).await, Code::InvalidArgument, too_large);
    let mut puts = Vec::new();
    for number in 0..4 {
        let request = pb::request_op::Request::RequestPut(put(&number.to_string(), MIB / 2));
        puts.push(pb::RequestOp { request: Some(request) });
    }
    puts.truncate(3);
    let txn = pb::TxnRequest { success: puts, ..Default::default() };
    check(kv.txn(txn).await, Code::InvalidArgument, too_large);
    let key = vec![b'k'; 1600 * 1024];
    let delete = pb::DeleteRangeRequest { key: key.into(), ..Default::default() };
    check(kv.delete_range(delete).await, Code::InvalidArgument, too_large);
    let request = put("k", 3 * MIB);
    let size = prost::Message::encoded_len(&request);
    let text = format!("grpc: received message larger than max ({size} vs. 2097152)");
    check(kv.put(request).await, Code::ResourceExhausted, &text);
    kv.put(put("k", 10)).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn garbage_ends_its_own_connection_only() {
    let store = Store::start("http", "").await;
    let mut kv = KvClient::new(store.channel());
    kv.put(put("k", 10)).await.unwrap();
    let preface = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec();
    let frame = |bytes: &[u8]| [preface.as_slice(), bytes].concat();
    let garbage: [Vec<u8>; 6] = [
        vec![0xff; 100_000],
        b"GET / HTTP/1.1\r\n\r\n".to_vec(),
        // A TLS client's hello, on a port without TLS.
        vec![22, 3, 1, 0, 5, 1, 0, 0, 1, 3],
        // A frame of the greatest length, one of an unknown kind, and headers that are none.
        frame(&[0xff, 0xff, 0xff, 0, 0, 0, 0, 0, 1]),
        frame(&[0, 0, 4, 0xee, 0xff, 0x7f, 0xff, 0xff, 0xff, 1, 2, 3, 4, 0xff, 0xff]),
        frame(&[0, 0, 3, 1, 4, 0, 0, 0, 1, 0xff, 0xff, 0xff]),
    ];
    for bytes in garbage {
        let mut stream = tokio::net::TcpStream::connect(("127.0.0.1", store.port)).await.unwrap();
        // The other side may have closed before all was written.
        let _ = stream.write_all(&bytes).await;
        let _ = stream.shutdown().await;
        let mut said = Vec::new();
        let ended = tokio::time::timeout(Duration::from_secs(20), stream.read_to_end(&mut said)).await;
        assert!(ended.is_ok(), "a connection stays open after {:?}", &bytes[..bytes.len().min(40)]);
    }
    kv.put(put("k", 10)).await.unwrap();
    // Bytes that are no message, on a connection that is fine.
    let mut client = tonic::client::Grpc::new(store.channel());
    client.ready().await.unwrap();
    let path = http::uri::PathAndQuery::from_static("/etcdserverpb.KV/Put");
    let codec = tonic_prost::ProstCodec::<pb::health::HealthCheckRequest, pb::PutResponse>::default();
    let service = "\u{1}".repeat(99);
    let request = pb::health::HealthCheckRequest { service };
    let request = client.unary(tonic::Request::new(request), path, codec).await;
    // Field 1 is a key there, too: a put of that key without a value.
    request.unwrap();
    let path = http::uri::PathAndQuery::from_static("/etcdserverpb.KV/Nonsense");
    let codec = tonic_prost::ProstCodec::<pb::PutRequest, pb::PutResponse>::default();
    client.ready().await.unwrap();
    let unknown = client.unary(tonic::Request::new(put("k", 1)), path, codec).await;
    assert_eq!(unknown.unwrap_err().code(), Code::Unimplemented);
}

#[tokio::test(flavor = "multi_thread")]
async fn strangers_are_not_let_in() {
    let flags = "--cert-file {}/ours.crt --key-file {}/ours.key --trusted-ca-file {}/ours.ca \
                 --client-cert-auth --advertise-client-urls https://localhost:1";
    let store = Store::start("https", flags).await;
    store.tls(Some("ours")).await.unwrap();
    store.tls(None).await.unwrap_err();
    store.tls(Some("foreign")).await.unwrap_err();
    let plain = KvClient::new(store.channel()).put(put("k", 1)).await;
    assert!(plain.is_err());
    store.tls(Some("ours")).await.unwrap();
}

/// Bytes of this process in memory.
fn resident() -> usize {
    let text = std::fs::read_to_string("/proc/self/statm").unwrap();
    text.split(' ').nth(1).unwrap().parse::<usize>().unwrap() * 4096
}

type Watching = (mpsc::Sender<pb::WatchRequest>, Streaming<pb::WatchResponse>);

/// A stream with so many watches.
async fn watch(channel: Channel, key: &str, watches: usize) -> Watching {
    let (requests, queue) = mpsc::channel(4);
    let key = key.to_owned();
    let create = pb::WatchCreateRequest { key: key.into(), start_revision: 1, ..Default::default() };
    let request = || pb::WatchRequest { request_union: Some(RequestUnion::CreateRequest(create.clone())) };
    requests.send(request()).await.unwrap();
    let mut responses =
        WatchClient::new(channel).watch(ReceiverStream::new(queue)).await.unwrap().into_inner();
    for number in 0..watches {
        assert!(responses.message().await.unwrap().unwrap().created);
        if number + 1 < watches {
            requests.send(request()).await.unwrap();
        }
    }
    (requests, responses)
}

#[tokio::test(flavor = "multi_thread")]
async fn ten_thousand_idle_watches_cost_little() {
    let store = Store::start("http", "").await;
    let mut kv = KvClient::new(store.channel());
    kv.put(put("k", 10)).await.unwrap();
    let before = resident();
    let mut open = Vec::new();
    for _ in 0..100 {
        open.push(watch(store.channel(), "idle", 100).await);
    }
    let grown = resident().saturating_sub(before);
    for number in 0..300 {
        kv.put(put(&format!("k{}", number % 10), 1000)).await.unwrap();
    }
    let after = resident().saturating_sub(before);
    println!("10,000 watches on 100 streams: {} KiB, after 300 puts {} KiB", grown >> 10, after >> 10);
    // Both ends of the connections are in this process.
    assert!(after < 80 * MIB, "{after}");
    kv.put(put("idle", 1)).await.unwrap();
    for (_, responses) in &mut open {
        for _ in 0..100 {
            assert_eq!(responses.message().await.unwrap().unwrap().events.len(), 1);
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn watchers_that_never_read_cost_a_bounded_amount() {
    let store = Store::start("http", "").await;
    let mut kv = KvClient::new(store.channel());
    kv.put(put("k", 10)).await.unwrap();
    let mut open = Vec::new();
    for _ in 0..4 {
        open.push(watch(store.channel(), "big", 1).await);
    }
    let before = resident();
    let mut revision = 0;
    for _ in 0..300 {
        revision = kv.put(put("big", MIB)).await.unwrap().into_inner().header.unwrap().revision;
    }
    let grown = resident().saturating_sub(before);
    println!("300 MiB of changes unread by 4 watchers: {} MiB", grown / MIB);
    assert!(grown < 150 * MIB, "{grown}");
    // What was not read is still there, in order and whole, for one who reads now.
    let (_requests, mut responses) = open.swap_remove(0);
    let mut seen = 2;
    while seen < revision {
        for event in responses.message().await.unwrap().unwrap().events {
            assert_eq!(event.kv.as_ref().map(|kv| kv.mod_revision), Some(seen + 1));
            seen += 1;
        }
    }
    // Or compacted: then it is told.
    let compaction = pb::CompactionRequest { revision, physical: true };
    kv.compact(compaction).await.unwrap();
    let (_requests, mut responses) = open.swap_remove(0);
    let last = loop {
        let said = responses.message().await.unwrap().unwrap();
        if said.canceled || said.events.iter().any(|e| e.kv.as_ref().unwrap().mod_revision == revision) {
            break said;
        }
    };
    assert_eq!((last.canceled, last.compact_revision), (true, revision));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_store_refuses_growth_until_the_alarm_is_lifted() {
    let store = Store::start("http", "--quota-backend-bytes=20000000").await;
    let mut kv = KvClient::new(store.channel());
    let mut maintenance = MaintenanceClient::new(store.channel());
    let text = "etcdserver: mvcc: database space exceeded";
    let mut written = 0;
    let full = loop {
        match kv.put(put("k", MIB / 2)).await {
            Ok(_) => written += 1,
            Err(error) => break error,
        }
        assert!(written < 200, "the quota does not end it");
    };
    assert_eq!((full.code(), full.message()), (Code::ResourceExhausted, text));
    assert!((20..60).contains(&written), "{written} puts of half a MiB");
    check(kv.put(put("k", 1)).await, Code::ResourceExhausted, text);
    let found = kv.range(pb::RangeRequest { key: "k".into(), ..Default::default() }).await.unwrap();
    let revision = found.into_inner().header.unwrap().revision;
    let status = maintenance.status(pb::StatusRequest {}).await.unwrap().into_inner();
    let member_id = status.header.unwrap().member_id;
    assert_eq!(status.errors, [format!("memberID:{member_id} alarm:NOSPACE ")]);
    kv.compact(pb::CompactionRequest { revision, physical: true }).await.unwrap();
    maintenance.defragment(pb::DefragmentRequest {}).await.unwrap();
    // Space alone is not enough, as in etcd.
    check(kv.put(put("k", 1)).await, Code::ResourceExhausted, text);
    let lift = pb::AlarmRequest { action: 2, member_id, alarm: 1 };
    let lifted = maintenance.alarm(lift).await.unwrap().into_inner();
    assert_eq!(lifted.alarms, [pb::AlarmMember { member_id, alarm: 1 }]);
    kv.put(put("k", 1)).await.unwrap();
}
