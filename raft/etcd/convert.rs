//! Requests from the wire to commands, results back: checked on the way in, as etcd checks them.

use super::{errors, pb};
use crate::{
    command::{
        Compare, Comparison, Delete, KeyValue, Op, Put, Range, RangeResult, Response, Sort, SortBy, Target,
        Txn,
    },
    record::Record,
    revision::KeyRange,
};
use bytes::Bytes;
use std::collections::HashSet;
use tonic::Status;

/// A read.
pub(super) fn range(request: pb::RangeRequest) -> Result<Range, Status> {
    if request.key.is_empty() {
        return Err(errors::EMPTY_KEY.into());
    }
    let sort = sort(request.sort_order, request.sort_target)?;
    Ok(Range {
        key: request.key,
        end: request.range_end,
        limit: request.limit,
        revision: request.revision,
        sort,
        keys_only: request.keys_only,
        count_only: request.count_only,
        min_mod: request.min_mod_revision,
        max_mod: request.max_mod_revision,
        min_create: request.min_create_revision,
        max_create: request.max_create_revision,
    })
}

fn sort(order: i32, target: i32) -> Result<Option<Sort>, Status> {
    use pb::range_request::{SortOrder, SortTarget};
    let invalid = || Status::from(errors::INVALID_SORT);
    let order = SortOrder::try_from(order).map_err(|_| invalid())?;
    let by = match SortTarget::try_from(target).map_err(|_| invalid())? {
        SortTarget::Key => SortBy::Key,
        SortTarget::Version => SortBy::Version,
        SortTarget::Create => SortBy::Create,
        SortTarget::Mod => SortBy::Modified,
        SortTarget::Value => SortBy::Value,
    };
    // Keys come in ascending order anyway.
    Ok(match (order, by) {
        (SortOrder::None | SortOrder::Ascend, SortBy::Key) => None,
        (order, by) => {
            Some(Sort { descending: order == SortOrder::Descend, by, after_limit: order == SortOrder::None })
        }
    })
}

/// A write.
pub(super) fn put(request: pb::PutRequest) -> Result<Put, Status> {
    if request.key.is_empty() {
        return Err(errors::EMPTY_KEY.into());
    }
    if request.ignore_value && !request.value.is_empty() {
        return Err(errors::VALUE_PROVIDED.into());
    }
    if request.ignore_lease && request.lease != 0 {
        return Err(errors::LEASE_PROVIDED.into());
    }
    Ok(Put {
        key: request.key,
        value: request.value,
        lease: request.lease,
        prev_kv: request.prev_kv,
        ignore_value: request.ignore_value,
        ignore_lease: request.ignore_lease,
    })
}

/// A deletion.
pub(super) fn delete(request: pb::DeleteRangeRequest) -> Result<Delete, Status> {
    if request.key.is_empty() {
        return Err(errors::EMPTY_KEY.into());
    }
    Ok(Delete { key: request.key, end: request.range_end, prev_kv: request.prev_kv })
}

/// A transaction of at most so many operations in each of its lists. Inner ones share what their outer one leaves.
pub(super) fn txn(request: pb::TxnRequest, max_ops: usize) -> Result<Txn, Status> {
    let txn = txn_ops(request, max_ops)?;
    Writes::of(&txn.success)?;
    Writes::of(&txn.failure)?;
    Ok(txn)
}

fn txn_ops(request: pb::TxnRequest, max_ops: usize) -> Result<Txn, Status> {
    let longest = request.compare.len().max(request.success.len()).max(request.failure.len());
    let left = max_ops.checked_sub(longest).ok_or(errors::TOO_MANY_OPS)?;
    let ops =
        |ops: Vec<pb::RequestOp>| ops.into_iter().map(|each| op(each, left)).collect::<Result<_, Status>>();
    Ok(Txn {
        compare: request.compare.into_iter().map(compare).collect::<Result<_, _>>()?,
        success: ops(request.success)?,
        failure: ops(request.failure)?,
    })
}

fn op(request: pb::RequestOp, max_ops: usize) -> Result<Op, Status> {
    use pb::request_op::Request;
    match request.request {
        Some(Request::RequestRange(request)) => range(request).map(Op::Range),
        Some(Request::RequestPut(request)) => put(request).map(Op::Put),
        Some(Request::RequestDeleteRange(request)) => delete(request).map(Op::Delete),
        Some(Request::RequestTxn(request)) => txn_ops(request, max_ops).map(Op::Txn),
        None => Err(errors::KEY_NOT_FOUND.into()),
    }
}

fn compare(request: pb::Compare) -> Result<Compare, Status> {
    use pb::compare::CompareResult;
    if request.key.is_empty() {
        return Err(errors::EMPTY_KEY.into());
    }
    let comparison = match CompareResult::try_from(request.result) {
        Ok(CompareResult::Equal) => Comparison::Equal,
        Ok(CompareResult::Greater) => Comparison::Greater,
        Ok(CompareResult::Less) => Comparison::Less,
        Ok(CompareResult::NotEqual) => Comparison::NotEqual,
        Err(_) => return Err(Status::invalid_argument("etcdserver: unknown compare result")),
    };
    let target = target(request.target, request.target_union)?;
    Ok(Compare { key: request.key, end: request.range_end, comparison, target })
}

/// What is compared. As in etcd the target decides: a value given for another target counts as not given, and what
/// is not given is zero.
fn target(target: i32, given: Option<pb::compare::TargetUnion>) -> Result<Target, Status> {
    use pb::compare::{CompareTarget, TargetUnion as Given};
    let unknown = |_| Status::invalid_argument("etcdserver: unknown compare target");
    Ok(match (CompareTarget::try_from(target).map_err(unknown)?, given) {
        (CompareTarget::Version, Some(Given::Version(version))) => Target::Version(version),
        (CompareTarget::Version, _) => Target::Version(0),
        (CompareTarget::Create, Some(Given::CreateRevision(revision))) => Target::Create(revision),
        (CompareTarget::Create, _) => Target::Create(0),
        (CompareTarget::Mod, Some(Given::ModRevision(revision))) => Target::Modified(revision),
        (CompareTarget::Mod, _) => Target::Modified(0),
        (CompareTarget::Value, Some(Given::Value(value))) => Target::Value(value),
        (CompareTarget::Value, _) => Target::Value(Bytes::new()),
        (CompareTarget::Lease, Some(Given::Lease(lease))) => Target::Lease(lease),
        (CompareTarget::Lease, _) => Target::Lease(0),
    })
}

/// The keys that a list of operations may write. No key may be put twice, or put and deleted; what only one of two
/// alternatives does is no conflict between them. It is etcd's check: like it, it does not see a deletion from a
/// key on, nor a deletion in an inner transaction that comes after the one that puts the key.
#[derive(Default)]
struct Writes {
    puts: HashSet<Bytes>,
    deletes: Vec<KeyRange>,
}

impl Writes {
    fn of(ops: &[Op]) -> Result<Self, Status> {
        let mut all = Self::default();
        for op in ops {
            if let Op::Delete(delete) = op
                && delete.end.as_ref() != [0]
            {
                all.deletes.push(KeyRange::new(&delete.key, &delete.end));
            }
        }
        for op in ops {
            if let Op::Txn(txn) = op {
                let (then, otherwise) = (Self::of(&txn.success)?, Self::of(&txn.failure)?);
                all.add_puts(then.puts.union(&otherwise.puts).cloned())?;
                all.deletes.extend(then.deletes.into_iter().chain(otherwise.deletes));
            }
        }
        for op in ops {
            if let Op::Put(put) = op {
                all.add_puts([put.key.clone()])?;
            }
        }
        Ok(all)
    }

    fn add_puts(&mut self, keys: impl IntoIterator<Item = Bytes>) -> Result<(), Status> {
        for key in keys {
            if self.deletes.iter().any(|range| range.contains(&key)) || !self.puts.insert(key) {
                return Err(errors::DUPLICATE_KEY.into());
            }
        }
        Ok(())
    }
}

/// Whether a transaction reads only: then it need not go through the log.
pub(super) fn reads_only(txn: &Txn) -> bool {
    txn.success.iter().chain(&txn.failure).all(|op| matches!(op, Op::Range(_)))
}

/// A key, on the wire.
pub(super) fn key_value(kv: KeyValue) -> pb::KeyValue {
    pb::KeyValue {
        key: kv.key,
        create_revision: kv.create,
        mod_revision: kv.modified,
        version: kv.version,
        value: kv.value,
        lease: kv.lease,
    }
}

/// A read's result, on the wire.
pub(super) fn range_response(header: Option<pb::ResponseHeader>, found: RangeResult) -> pb::RangeResponse {
    let kvs = found.kvs.into_iter().map(Record::into_bytes).collect();
    pb::RangeResponse { header, kvs, more: found.more, count: found.count }
}

/// A deletion's result, on the wire.
pub(super) fn delete_response(
    header: Option<pb::ResponseHeader>,
    deleted: i64,
    prev: Vec<KeyValue>,
) -> pb::DeleteRangeResponse {
    pb::DeleteRangeResponse { header, deleted, prev_kvs: prev.into_iter().map(key_value).collect() }
}

/// A transaction's result, on the wire.
pub(super) fn txn_response(
    header: Option<pb::ResponseHeader>,
    revision: i64,
    succeeded: bool,
    responses: Vec<Response>,
) -> pb::TxnResponse {
    // Until its first change a transaction sees the revision before it.
    let mut seen = revision - i64::from(responses.iter().any(changes));
    let responses =
        responses.into_iter().map(|response| response_op(response, &mut seen, revision)).collect();
    pb::TxnResponse { header, succeeded, responses }
}

fn changes(response: &Response) -> bool {
    match response {
        Response::Put(_) => true,
        Response::Delete { deleted, .. } => *deleted > 0,
        Response::Txn { responses, .. } => responses.iter().any(changes),
        _ => false,
    }
}

/// Headers of what a transaction consists of have only the revision seen then, those of inner transactions nothing.
fn response_op(response: Response, seen: &mut i64, revision: i64) -> pb::ResponseOp {
    use pb::response_op::Response as Wire;
    if !matches!(response, Response::Txn { .. }) && changes(&response) {
        *seen = revision;
    }
    let header = Some(pb::ResponseHeader { revision: *seen, ..pb::ResponseHeader::default() });
    let response = match response {
        Response::Done | Response::Alarm(_) => return pb::ResponseOp::default(),
        Response::Range(found) => Wire::ResponseRange(range_response(header, found)),
        Response::Put(prev) => Wire::ResponsePut(pb::PutResponse { header, prev_kv: prev.map(key_value) }),
        Response::Delete { deleted, prev } => {
            Wire::ResponseDeleteRange(delete_response(header, deleted, prev))
        }
        Response::Txn { succeeded, responses } => {
            let responses =
                responses.into_iter().map(|response| response_op(response, seen, revision)).collect();
            let header = Some(pb::ResponseHeader::default());
            Wire::ResponseTxn(pb::TxnResponse { header, succeeded, responses })
        }
    };
    pb::ResponseOp { response: Some(response) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn put_op(key: &'static str) -> Op {
        Op::Put(Put { key: Bytes::from(key), ..Put::default() })
    }

    fn delete_op(key: &'static str, end: &'static str) -> Op {
        Op::Delete(Delete { key: Bytes::from(key), end: Bytes::from(end), prev_kv: false })
    }

    fn either(success: Op, failure: Op) -> Op {
        Op::Txn(Txn { compare: vec![], success: vec![success], failure: vec![failure] })
    }

    #[test]
    fn no_key_is_written_twice_in_a_transaction() {
        let check = |ops: &[Op], fine: bool| assert_eq!(Writes::of(ops).is_ok(), fine, "{ops:?}");
        check(&[put_op("a"), put_op("b")], true);
        check(&[put_op("a"), put_op("a")], false);
        check(&[put_op("b"), delete_op("a", "c")], false);
        check(&[delete_op("a", "c"), put_op("b")], false);
        check(&[delete_op("a", "c"), put_op("c")], true);
        check(&[delete_op("a", "c"), delete_op("b", "")], true);
        check(&[either(put_op("a"), put_op("a"))], true);
        check(&[either(put_op("a"), put_op("b")), put_op("b")], false);
        check(&[put_op("b"), either(put_op("a"), delete_op("b", ""))], false);
        check(&[either(put_op("a"), put_op("b")), either(delete_op("b", ""), put_op("c"))], true);
        check(&[either(delete_op("b", ""), put_op("c")), either(put_op("a"), put_op("b"))], false);
        check(&[delete_op("a", "\0"), put_op("b")], true);
    }
}
