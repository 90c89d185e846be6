//! The seam's types ↔ etcd's messages.

use super::{Compare, Done, Event, KeyValue, KvError, KvResult, Op, OpResult, Page, Range, Txn, Watched};
use bytes::Bytes;
use raft::etcd::pb::{self, compare, request_op, response_op, watch_request};

pub(super) fn range(range: Range) -> pb::RangeRequest {
    pb::RangeRequest {
        key: range.key.into(),
        range_end: range.end.unwrap_or_default().into(),
        limit: range.limit as i64,
        revision: range.revision as i64,
        count_only: range.count_only,
        keys_only: range.keys_only,
        ..Default::default()
    }
}

pub(super) fn page(answer: &pb::RangeResponse) -> KvResult<Page> {
    Ok(Page {
        revision: revision(answer.header.as_ref()),
        kvs: key_values(answer).map_err(KvError::Unavailable)?,
        more: answer.more,
        count: answer.count.max(0) as u64,
    })
}

fn key_values(answer: &pb::RangeResponse) -> Result<Vec<KeyValue>, String> {
    let kvs = answer.key_values().map_err(|error| format!("its answer cannot be read: {error}"))?;
    Ok(kvs.into_iter().map(key_value).collect())
}

pub(super) fn revision(header: Option<&pb::ResponseHeader>) -> u64 {
    header.map_or(0, |h| h.revision.max(0) as u64)
}

fn key_value(kv: pb::KeyValue) -> KeyValue {
    KeyValue {
        key: text(&kv.key),
        value: kv.value,
        create_revision: kv.create_revision as u64,
        mod_revision: kv.mod_revision as u64,
        version: kv.version as u64,
        lease: kv.lease,
    }
}

/// Keys are made from API names and are always text.
fn text(key: &Bytes) -> String {
    String::from_utf8_lossy(key).into_owned()
}

pub(super) fn txn(txn: Txn) -> pb::TxnRequest {
    pb::TxnRequest {
        compare: txn.compare.into_iter().map(condition).collect(),
        success: txn.then.into_iter().map(op).collect(),
        failure: txn.otherwise.into_iter().map(op).collect(),
    }
}

fn condition(c: Compare) -> pb::Compare {
    let (key, target, value) = match c {
        Compare::ModRevision { key, revision } => {
            (key, compare::CompareTarget::Mod, compare::TargetUnion::ModRevision(revision as i64))
        }
        Compare::Value { key, value } => {
            (key, compare::CompareTarget::Value, compare::TargetUnion::Value(value))
        }
    };
    pb::Compare {
        result: compare::CompareResult::Equal as i32,
        target: target as i32,
        key: key.into(),
        target_union: Some(value),
        ..Default::default()
    }
}

fn op(op: Op) -> pb::RequestOp {
    let request = match op {
        Op::Put { key, value, lease } => {
            let put = pb::PutRequest { key: key.into(), value, lease, ..Default::default() };
            request_op::Request::RequestPut(put)
        }
        Op::Delete { key } => {
            let delete = pb::DeleteRangeRequest { key: key.into(), ..Default::default() };
            request_op::Request::RequestDeleteRange(delete)
        }
        Op::Get { key } => request_op::Request::RequestRange(range(Range { key, ..Range::default() })),
    };
    pb::RequestOp { request: Some(request) }
}

pub(super) fn done(answer: pb::TxnResponse) -> KvResult<Done> {
    let result = |op: pb::ResponseOp| match op.response {
        Some(response_op::Response::ResponseRange(range)) => {
            key_values(&range).map(|kvs| OpResult::Get(kvs.into_iter().next()))
        }
        Some(response_op::Response::ResponseDeleteRange(delete)) => {
            Ok(OpResult::Delete(delete.deleted.max(0) as u64))
        }
        _ => Ok(OpResult::Put),
    };
    Ok(Done {
        succeeded: answer.succeeded,
        revision: revision(answer.header.as_ref()),
        results: answer
            .responses
            .into_iter()
            .map(result)
            .collect::<Result<_, _>>()
            .map_err(KvError::Unknown)?,
    })
}

/// The request that begins a watch.
pub(super) fn watch(prefix: &str, from: u64) -> pb::WatchRequest {
    let create = pb::WatchCreateRequest {
        key: prefix.to_string().into(),
        range_end: super::prefix_end(prefix).into(),
        start_revision: from as i64,
        progress_notify: true,
        ..Default::default()
    };
    pb::WatchRequest { request_union: Some(watch_request::RequestUnion::CreateRequest(create)) }
}

/// The request for a sign of progress.
pub(super) fn progress() -> pb::WatchRequest {
    let union = watch_request::RequestUnion::ProgressRequest(pb::WatchProgressRequest {});
    pb::WatchRequest { request_union: Some(union) }
}

/// What a message on a watch says; `None` for a mere confirmation.
pub(super) fn watched(answer: pb::WatchResponse) -> KvResult<Option<Watched>> {
    if answer.canceled || answer.compact_revision > 0 {
        return Err(match answer.compact_revision {
            0 => KvError::Unavailable(answer.cancel_reason),
            revision => KvError::Compacted(revision as u64),
        });
    }
    if answer.created {
        return Ok(None);
    }
    if answer.events.is_empty() {
        return Ok(Some(Watched::Progress(revision(answer.header.as_ref()))));
    }
    Ok(Some(Watched::Events(answer.events.into_iter().filter_map(event).collect())))
}

fn event(event: pb::Event) -> Option<Event> {
    let put = event.r#type == pb::event::EventType::Put as i32;
    let kv = key_value(event.kv?);
    Some(Event { key: kv.key.clone(), revision: kv.mod_revision, value: put.then_some(kv) })
}
