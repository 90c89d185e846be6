//! One request over the wire, with a client that this project did not write.
//!
//! Keeps true: a request is sent once; an error is a refusal only where etcd promises that nothing was done, or
//! where no connection could be made.

use std::time::Duration;

use etcd_client::{
    Client, Compare, CompareOp, ConnectOptions, DeleteOptions, Error, GetOptions, GetResponse, KeyValue,
    PutOptions, ResponseHeader, Txn, TxnOp, TxnOpResponse,
};

use crate::Result;
use crate::history::{Answer, Expect, Kv, Request, Span, Write};

/// How long making a connection may take.
const CONNECT: Duration = Duration::from_millis(500);

/// gRPC's codes by which etcd says that it did nothing: wrong arguments, a compacted or future revision.
const REFUSALS: &[i32] = &[3, 9, 11];

/// A client of one member.
pub(super) async fn connect(url: &str) -> Result<Client> {
    let options = ConnectOptions::new().with_connect_timeout(CONNECT);
    Client::connect([url], Some(options)).await.map_err(crate::Error::api(format!("connect to {url}")))
}

/// Sends a request and waits for the answer, so long.
pub(super) async fn ask(client: &mut Client, request: &Request, patience: Duration) -> Answer {
    match tokio::time::timeout(patience, send(client, request)).await {
        Ok(Ok(answer)) => answer,
        Ok(Err(error)) if refused(&error) => Answer::Refused { text: words(&error) },
        Ok(Err(error)) => Answer::Unknown { text: words(&error) },
        Err(_) => Answer::Unknown { text: format!("no answer within {} ms", patience.as_millis()) },
    }
}

/// Whether the error came from a connection that could not be made.
pub(super) fn unreachable(answer: &Answer) -> bool {
    matches!(answer, Answer::Refused { text } if text.contains(NO_CONNECTION))
}

/// What the transport says when it could not connect.
const NO_CONNECTION: &str = "tcp connect error";

fn words(error: &Error) -> String {
    let causes = std::iter::successors(std::error::Error::source(error), |e| e.source());
    let mut text = causes.fold(error.to_string(), |text, cause| format!("{text}: {cause}"));
    if let Error::GRpcStatus(status) = error {
        let causes = std::iter::successors(std::error::Error::source(status), |e| e.source());
        text = causes.fold(text, |text, cause| format!("{text}: {cause}"));
    }
    text
}

fn refused(error: &Error) -> bool {
    match error {
        Error::GRpcStatus(status) if REFUSALS.contains(&i32::from(status.code())) => true,
        _ => words(error).contains(NO_CONNECTION),
    }
}

async fn send(client: &mut Client, request: &Request) -> std::result::Result<Answer, Error> {
    Ok(match request {
        Request::Range { span, limit, revision, serializable } => {
            let mut options = GetOptions::new().with_limit(*limit).with_revision(*revision);
            if *serializable {
                options = options.with_serializable();
            }
            let options = if span.to.is_empty() { options } else { options.with_range(span.to.as_str()) };
            let got = client.get(span.from.as_str(), Some(options)).await?;
            Answer::Range { revision: at(got.header()), kvs: kvs(&got), count: got.count(), more: got.more() }
        }
        Request::Put { key, value } => {
            let options = PutOptions::new().with_prev_key();
            let put = client.put(key.as_str(), value.as_str(), Some(options)).await?;
            Answer::Put { revision: at(put.header()), prev: put.prev_key().map(kv) }
        }
        Request::Delete { span } => {
            let deleted = client.delete(span.from.as_str(), Some(deletion(span))).await?;
            let prev = deleted.prev_kvs().iter().map(kv).collect();
            Answer::Delete { revision: at(deleted.header()), deleted: deleted.deleted(), prev }
        }
        Request::Txn { expect, then } => {
            let done = client.txn(transaction(expect, then)).await?;
            let kvs = done.op_responses().iter().map(one).collect();
            Answer::Txn { revision: at(done.header()), succeeded: done.succeeded(), kvs }
        }
        Request::Compact { revision } => {
            Answer::Compact { revision: at(client.compact(*revision, None).await?.header()) }
        }
    })
}

fn deletion(span: &Span) -> DeleteOptions {
    let options = DeleteOptions::new().with_prev_key();
    if span.to.is_empty() { options } else { options.with_range(span.to.as_str()) }
}

fn transaction(expect: &[Expect], then: &[Write]) -> Txn {
    let unchanged = |e: &Expect| {
        let modified = e.found.as_ref().map_or(0, |kv| kv.modified);
        Compare::mod_revision(e.key.as_str(), CompareOp::Equal, modified)
    };
    let write = |write: &Write| match write {
        Write::Put { key, value } => {
            TxnOp::put(key.as_str(), value.as_str(), Some(PutOptions::new().with_prev_key()))
        }
        Write::Delete { key } => TxnOp::delete(key.as_str(), Some(DeleteOptions::new().with_prev_key())),
    };
    let read = |e: &Expect| TxnOp::get(e.key.as_str(), None);
    Txn::new()
        .when(expect.iter().map(unchanged).collect::<Vec<_>>())
        .and_then(then.iter().map(write).collect::<Vec<_>>())
        .or_else(expect.iter().map(read).collect::<Vec<_>>())
}

/// The one key that an operation of a transaction read or replaced.
fn one(response: &TxnOpResponse) -> Option<Kv> {
    match response {
        TxnOpResponse::Put(put) => put.prev_key().map(kv),
        TxnOpResponse::Get(got) => got.kvs().first().map(kv),
        TxnOpResponse::Delete(deleted) => deleted.prev_kvs().first().map(kv),
        TxnOpResponse::Txn(_) => None,
    }
}

fn kvs(got: &GetResponse) -> Vec<Kv> {
    got.kvs().iter().map(kv).collect()
}

/// A key as the wire has it.
pub(super) fn kv(wire: &KeyValue) -> Kv {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    Kv {
        key: text(wire.key()),
        value: text(wire.value()),
        create: wire.create_revision(),
        modified: wire.mod_revision(),
        version: wire.version(),
    }
}

/// The revision of a header; an answer without one has none.
pub(super) fn at(header: Option<&ResponseHeader>) -> i64 {
    header.map_or(0, ResponseHeader::revision)
}
