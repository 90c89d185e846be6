//! Between the DNS library and the pure answers.
//!
//! Keeps true: until everything that existed at the start is known, questions fail (SERVFAIL), so that nobody is
//! told that a name does not exist only because we have not heard of it; foreign names are passed on or refused.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Instant;

use hickory_server::net::runtime::Time;
use hickory_server::proto::op::{
    Edns, Header, HeaderCounts, Message, MessageType, Metadata, OpCode, ResponseCode,
};
use hickory_server::proto::rr::{DNSClass, RData, Record, RecordType};
use hickory_server::server::{Request, RequestHandler, ResponseHandler, ResponseInfo};
use hickory_server::zone_handler::MessageResponseBuilder;
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::Registry;

use crate::answer::{Answer, Question, answer, authority};
use crate::forward::Forward;
use crate::index::Index;

/// Largest reply by UDP that crosses any network in one piece.
const PAYLOAD: u16 = 1232;

/// Label of a response.
#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
pub(crate) struct Rcode {
    rcode: String,
}

/// Label of a request.
#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
pub(crate) struct Kind {
    r#type: String,
}

/// Metrics under the names that CoreDNS made known.
#[derive(Clone)]
pub(crate) struct Metrics {
    requests: Family<Kind, Counter>,
    responses: Family<Rcode, Counter>,
    duration: Histogram,
    forwarded: Counter,
}

impl Metrics {
    pub(crate) fn new(registry: &mut Registry) -> Self {
        let metrics = Self {
            requests: Family::default(),
            responses: Family::default(),
            duration: Histogram::new(exponential_buckets(0.000_01, 2.0, 20)),
            forwarded: Counter::default(),
        };
        let m = metrics.clone();
        registry.register("coredns_dns_requests", "Questions, by the type of record", m.requests);
        registry.register("coredns_dns_responses", "Answers, by the response code", m.responses);
        registry.register("coredns_dns_request_duration_seconds", "Time to answer", m.duration);
        registry.register("coredns_forward_requests", "Questions passed on", m.forwarded);
        metrics
    }
}

/// What the server answers from; cheap to clone.
#[derive(Clone)]
pub(crate) struct Handler {
    pub(crate) index: Arc<RwLock<Index>>,
    pub(crate) synced: Arc<AtomicBool>,
    pub(crate) domain: Arc<str>,
    pub(crate) forward: Forward,
    pub(crate) metrics: Metrics,
}

/// A response without its envelope.
#[derive(Debug, Default)]
struct Reply {
    code: Option<ResponseCode>,
    authoritative: bool,
    truncated: bool,
    records: Vec<Record>,
    authorities: Vec<Record>,
    soa: Option<Record>,
    additional: Vec<Record>,
}

impl Reply {
    fn error(code: ResponseCode) -> Self {
        Self { code: Some(code), ..Self::default() }
    }

    fn code(&self) -> ResponseCode {
        self.code.unwrap_or(ResponseCode::NoError)
    }
}

impl Handler {
    async fn reply(&self, request: &Request) -> Reply {
        if request.metadata.op_code != OpCode::Query || request.metadata.message_type != MessageType::Query {
            return Reply::error(ResponseCode::NotImp);
        }
        let Ok(info) = request.request_info() else { return Reply::error(ResponseCode::FormErr) };
        let query = info.query;
        self.metrics.requests.get_or_create(&Kind { r#type: query.query_type().to_string() }).inc();
        if query.query_class() != DNSClass::IN {
            return Reply::error(ResponseCode::Refused);
        }
        if !self.synced.load(Ordering::Acquire) {
            return Reply::error(ResponseCode::ServFail);
        }
        let question = Question { name: query.original().name().clone(), kind: query.query_type() };
        let found = {
            let index = self.index.read().unwrap_or_else(PoisonError::into_inner);
            answer(&index, &self.domain, &question)
        };
        self.envelop(found, request, question.kind).await
    }

    async fn envelop(&self, answer: Answer, request: &Request, kind: RecordType) -> Reply {
        match answer {
            Answer::Found { mut records, additional } => {
                rotate(&mut records);
                self.follow(&mut records, kind).await;
                Reply { authoritative: true, records, additional, ..Reply::default() }
            }
            Answer::NoData => Reply { authoritative: true, soa: authority(&self.domain), ..Reply::default() },
            Answer::NoName => Reply {
                code: Some(ResponseCode::NXDomain),
                authoritative: true,
                soa: authority(&self.domain),
                ..Reply::default()
            },
            Answer::Foreign if self.forward.is_empty() => Reply::error(ResponseCode::Refused),
            Answer::Foreign => self.pass_on(request).await,
        }
    }

    async fn pass_on(&self, request: &Request) -> Reply {
        self.metrics.forwarded.inc();
        let over_tcp = request.protocol() == hickory_server::net::xfer::Protocol::Tcp;
        let Some(reply) = self.forward.ask(request.as_slice(), over_tcp).await else {
            return Reply::error(ResponseCode::ServFail);
        };
        Reply {
            code: Some(reply.metadata.response_code),
            authoritative: false,
            truncated: reply.metadata.truncation,
            records: reply.answers,
            authorities: reply.authorities,
            soa: None,
            additional: reply.additionals,
        }
    }

    /// An alias to a foreign name is of use to a simple client only with that name's addresses.
    async fn follow(&self, records: &mut Vec<Record>, kind: RecordType) {
        let [Record { data: RData::CNAME(target), .. }] = records.as_slice() else { return };
        if kind == RecordType::CNAME || self.forward.is_empty() {
            return;
        }
        let mut message = Message::query();
        message.metadata.recursion_desired = true;
        message.add_query(hickory_server::proto::op::Query::query(target.0.clone(), kind));
        let Ok(bytes) = message.to_vec() else { return };
        if let Some(reply) = self.forward.ask(&bytes, false).await {
            records.extend(reply.answers);
        }
    }
}

/// Addresses in another order each time, so that clients that take the first share the load. Aliases stay first.
fn rotate(records: &mut [Record]) {
    let first =
        records.iter().position(|r| matches!(r.data, RData::A(_) | RData::AAAA(_))).unwrap_or(records.len());
    let addresses = &mut records[first..];
    if addresses.len() > 1 {
        addresses.rotate_left(rand::random_range(0..addresses.len()));
    }
}

#[async_trait::async_trait]
impl RequestHandler for Handler {
    async fn handle_request<R: ResponseHandler, T: Time>(
        &self,
        request: &Request,
        mut sender: R,
    ) -> ResponseInfo {
        let started = Instant::now();
        let reply = self.reply(request).await;
        let mut metadata = Metadata::response_from_request(&request.metadata);
        metadata.response_code = reply.code();
        metadata.authoritative = reply.authoritative;
        metadata.truncation = reply.truncated;
        metadata.recursion_available = !self.forward.is_empty();
        self.metrics
            .responses
            .get_or_create(&Rcode { rcode: format!("{:?}", reply.code()).to_uppercase() })
            .inc();
        self.metrics.duration.observe(started.elapsed().as_secs_f64());
        let mut edns = Edns::new();
        edns.set_max_payload(request.max_payload().clamp(512, PAYLOAD));
        let mut builder = MessageResponseBuilder::from_message_request(request);
        if request.edns.is_some() {
            builder.edns(&edns);
        }
        let response =
            builder.build(metadata, &reply.records, &reply.authorities, &reply.soa, &reply.additional);
        match sender.send_response(response).await {
            Ok(info) => info,
            Err(error) => {
                tracing::debug!(%error, "could not send a reply");
                ResponseInfo::from(Header { metadata, counts: HeaderCounts::default() })
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;
    use std::sync::Arc;
    use std::sync::atomic::AtomicBool;
    use std::time::Duration;

    use hickory_server::Server;
    use hickory_server::proto::op::{Message, Query, ResponseCode};
    use hickory_server::proto::rr::{Name, RecordType};
    use prometheus_client::registry::Registry;
    use serde_json::json;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::{TcpListener, TcpStream, UdpSocket};

    use super::{Handler, Metrics};
    use crate::forward::Forward;
    use crate::index::Index;

    fn handler(domain: &str, forward: Vec<SocketAddr>, synced: bool) -> Handler {
        let mut index = Index::default();
        let addresses: Vec<String> = (1..=60).map(|i| format!("10.96.1.{i}")).collect();
        for (name, ips) in [("web", &addresses[..1]), ("big", &addresses[..])] {
            let service = json!({"spec": {"clusterIPs": ips, "ports": [{"port": 80}]}});
            index.service("shop", name, Some(Arc::new(serde_json::from_value(service).unwrap())));
        }
        let alias = json!({"spec": {"type": "ExternalName", "externalName": "web.shop.svc.other.org"}});
        index.service("shop", "alias", Some(Arc::new(serde_json::from_value(alias).unwrap())));
        Handler {
            index: Arc::new(index.into()),
            synced: Arc::new(AtomicBool::new(synced)),
            domain: domain.into(),
            forward: Forward(forward),
            metrics: Metrics::new(&mut Registry::default()),
        }
    }

    /// A server on a loopback port, by UDP and TCP.
    async fn serve(handler: Handler) -> (Server<Handler>, SocketAddr) {
        let mut server = Server::new(handler);
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        server.register_socket(UdpSocket::bind(address).await.unwrap());
        server.register_listener(listener, Duration::from_secs(5), 8);
        (server, address)
    }

    fn question(name: &str, kind: RecordType) -> Vec<u8> {
        let mut message = Message::query();
        message.add_query(Query::query(Name::from_ascii(name).unwrap(), kind));
        message.to_vec().unwrap()
    }

    async fn ask(server: SocketAddr, name: &str) -> Message {
        let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        socket.send_to(&question(name, RecordType::A), server).await.unwrap();
        let mut buffer = [0; 4096];
        let received = tokio::time::timeout(Duration::from_secs(5), socket.recv(&mut buffer)).await;
        let length = received.expect("an answer in time").unwrap();
        Message::from_vec(&buffer[..length]).unwrap()
    }

    async fn ask_by_tcp(server: SocketAddr, name: &str) -> Message {
        let mut stream = TcpStream::connect(server).await.unwrap();
        let question = question(name, RecordType::A);
        stream.write_u16(u16::try_from(question.len()).unwrap()).await.unwrap();
        stream.write_all(&question).await.unwrap();
        let mut reply = vec![0; usize::from(stream.read_u16().await.unwrap())];
        stream.read_exact(&mut reply).await.unwrap();
        Message::from_vec(&reply).unwrap()
    }

    #[tokio::test]
    async fn answers_travel_by_udp_and_tcp() {
        let (_server, address) = serve(handler("cluster.local", Vec::new(), true)).await;
        let web = ask(address, "web.shop.svc.cluster.local.").await;
        assert_eq!((web.answers.len(), web.metadata.authoritative), (1, true));
        let none = ask(address, "none.shop.svc.cluster.local.").await;
        assert_eq!((none.metadata.response_code, none.authorities.len()), (ResponseCode::NXDomain, 1));
        assert_eq!(ask(address, "example.org.").await.metadata.response_code, ResponseCode::Refused);
        assert!(ask(address, "big.shop.svc.cluster.local.").await.metadata.truncation);
        let big = ask_by_tcp(address, "big.shop.svc.cluster.local.").await;
        assert_eq!((big.answers.len(), big.metadata.truncation), (60, false));
    }

    #[tokio::test]
    async fn nothing_is_denied_before_all_is_known() {
        let (_server, address) = serve(handler("cluster.local", Vec::new(), false)).await;
        let early = ask(address, "web.shop.svc.cluster.local.").await;
        assert_eq!(early.metadata.response_code, ResponseCode::ServFail);
    }

    #[tokio::test]
    async fn foreign_names_are_passed_on() {
        let (_upstream, other) = serve(handler("other.org", Vec::new(), true)).await;
        let (_server, address) = serve(handler("cluster.local", vec![other], true)).await;
        let foreign = ask(address, "web.shop.svc.other.org.").await;
        assert_eq!((foreign.answers.len(), foreign.metadata.recursion_available), (1, true));
        let missing = ask(address, "none.shop.svc.other.org.").await;
        assert_eq!(missing.metadata.response_code, ResponseCode::NXDomain);
        let alias = ask(address, "alias.shop.svc.cluster.local.").await;
        assert_eq!(alias.answers.len(), 2, "an alias comes with its addresses: {:?}", alias.answers);
    }
}
