//! Clients' calls in the words of the store's services, and their answers as the history has them.

use super::world::{Answer, Failure, Op};
use crate::etcd::{
    Member,
    pb::{self, compare, kv_server::Kv, lease_server::Lease, request_op::Request as Asked},
};
use bytes::Bytes;
use tonic::{Code, Request, Status};

/// Has a member do what a client asks.
pub(super) async fn serve(server: &Member, op: Op) -> Result<Answer, Status> {
    match op {
        Op::Put { keys, value, lease } => put(server, &keys, &value, lease).await,
        Op::Delete { key } => {
            let request = pb::DeleteRangeRequest { key, prev_kv: true, ..Default::default() };
            let reply = server.delete_range(Request::new(request)).await?.into_inner();
            Ok(Answer { revision: revision(reply.header), done: reply.deleted > 0, kvs: reply.prev_kvs })
        }
        Op::Swap { key, expect, value } => txn(server, swap(&key, expect, value)).await,
        Op::ReadAndPut { revision, key, value } => {
            let put = pb::PutRequest { key, value, ..Default::default() };
            let read = Asked::RequestRange(everything(revision, false));
            let ops = [read, Asked::RequestPut(put)].map(operation);
            txn(server, pb::TxnRequest { success: ops.into(), ..Default::default() }).await
        }
        Op::Read { revision: at, serializable } => {
            let reply = server.range(Request::new(everything(at, serializable))).await?.into_inner();
            let kvs = reply.key_values().expect("members send messages");
            Ok(Answer { revision: revision(reply.header), done: true, kvs })
        }
        Op::Compact { revision: at } => {
            let request = pb::CompactionRequest { revision: at, ..Default::default() };
            Ok(done(server.compact(Request::new(request)).await?.into_inner().header))
        }
        Op::Grant { id, ttl } => {
            let request = pb::LeaseGrantRequest { id, ttl };
            Ok(done(server.lease_grant(Request::new(request)).await?.into_inner().header))
        }
        Op::Revoke { id } => {
            let request = pb::LeaseRevokeRequest { id };
            Ok(done(server.lease_revoke(Request::new(request)).await?.into_inner().header))
        }
        Op::KeepAlive { id } => {
            server.node.keep_alive(id).await?;
            Ok(Answer { revision: 0, done: true, kvs: Vec::new() })
        }
    }
}

fn done(header: Option<pb::ResponseHeader>) -> Answer {
    Answer { revision: revision(header), done: true, kvs: Vec::new() }
}

async fn put(server: &Member, keys: &[Bytes], value: &Bytes, lease: i64) -> Result<Answer, Status> {
    let put = |key: &Bytes| {
        let (key, value) = (key.clone(), value.clone());
        pb::PutRequest { key, value, lease, ..Default::default() }
    };
    if let [key] = keys {
        return Ok(done(server.put(Request::new(put(key))).await?.into_inner().header));
    }
    let ops = keys.iter().map(|key| operation(Asked::RequestPut(put(key))));
    txn(server, pb::TxnRequest { success: ops.collect(), ..Default::default() }).await
}

async fn txn(server: &Member, request: pb::TxnRequest) -> Result<Answer, Status> {
    let reply = server.txn(Request::new(request)).await?.into_inner();
    let kvs = reply.responses.into_iter().flat_map(read_by).collect();
    Ok(Answer { revision: revision(reply.header), done: reply.succeeded, kvs })
}

/// The revision of an answer.
pub(super) fn revision(header: Option<pb::ResponseHeader>) -> i64 {
    header.map_or(0, |header| header.revision)
}

fn operation(request: Asked) -> pb::RequestOp {
    pb::RequestOp { request: Some(request) }
}

fn everything(revision: i64, serializable: bool) -> pb::RangeRequest {
    let all = Bytes::from_static(&[0]);
    pb::RangeRequest { key: all.clone(), range_end: all, revision, serializable, ..Default::default() }
}

fn swap(key: &Bytes, expect: i64, value: Bytes) -> pb::TxnRequest {
    let compare = pb::Compare {
        result: compare::CompareResult::Equal.into(),
        target: compare::CompareTarget::Mod.into(),
        key: key.clone(),
        target_union: Some(compare::TargetUnion::ModRevision(expect)),
        ..Default::default()
    };
    let put = pb::PutRequest { key: key.clone(), value, ..Default::default() };
    let get = pb::RangeRequest { key: key.clone(), ..Default::default() };
    pb::TxnRequest {
        compare: vec![compare],
        success: vec![operation(Asked::RequestPut(put))],
        failure: vec![operation(Asked::RequestRange(get))],
    }
}

fn read_by(op: pb::ResponseOp) -> Vec<pb::KeyValue> {
    match op.response {
        Some(pb::response_op::Response::ResponseRange(range)) => {
            range.key_values().expect("members send messages")
        }
        _ => Vec::new(),
    }
}

/// Whether nothing was done.
pub(super) fn failure(status: &Status) -> Failure {
    match status.code() {
        Code::Unavailable | Code::Internal | Code::Unknown => Failure::Unknown,
        _ => Failure::Refused(status.message().into()),
    }
}
