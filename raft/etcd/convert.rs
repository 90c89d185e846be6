//! Requests from the wire to commands, results back: checked on the way in, as etcd checks them.

use super::{errors, pb};
use crate::{
    command::{
        Command, Compare, Comparison, Delete, KeyValue, Op, Put, Range, RangeResult, Response, Sort, SortBy,
        Target, Txn,
    },
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
        (order, by) => Some(Sort { descending: order == SortOrder::Descend, by }),
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

/// A transaction of at most so many operations in each of its lists.
pub(super) fn txn(request: pb::TxnRequest, max_ops: usize) -> Result<Txn, Status> {
    let longest = [request.compare.len(), request.success.len(), request.failure.len()];
    if longest.into_iter().any(|length| length > max_ops) {
        return Err(errors::TOO_MANY_OPS.into());
    }
    let ops = |ops: Vec<pb::RequestOp>| {
        ops.into_iter().map(|each| op(each, max_ops)).collect::<Result<_, Status>>()
    };
    let txn = Txn {
        compare: request.compare.into_iter().map(compare).collect::<Result<_, _>>()?,
        success: ops(request.success)?,
        failure: ops(request.failure)?,
    };
    Writes::of(&txn.success)?;
    Writes::of(&txn.failure)?;
    Ok(txn)
}

fn op(request: pb::RequestOp, max_ops: usize) -> Result<Op, Status> {
    use pb::request_op::Request;
    match request.request {
        Some(Request::RequestRange(request)) => range(request).map(Op::Range),
        Some(Request::RequestPut(request)) => put(request).map(Op::Put),
        Some(Request::RequestDeleteRange(request)) => delete(request).map(Op::Delete),
        Some(Request::RequestTxn(request)) => txn(request, max_ops).map(Op::Txn),
        None => Err(errors::KEY_NOT_FOUND.into()),
    }
}

fn compare(request: pb::Compare) -> Result<Compare, Status> {
    use pb::compare::{CompareResult, TargetUnion};
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
    let target = match request.target_union {
        Some(TargetUnion::Version(version)) => Target::Version(version),
        Some(TargetUnion::CreateRevision(revision)) => Target::Create(revision),
        Some(TargetUnion::ModRevision(revision)) => Target::Modified(revision),
        Some(TargetUnion::Value(value)) => Target::Value(value),
        Some(TargetUnion::Lease(lease)) => Target::Lease(lease),
        None => zero(request.target),
    };
    Ok(Compare { key: request.key, end: request.range_end, comparison, target })
}

/// What a comparison means that names a target but gives nothing to compare with.
fn zero(target: i32) -> Target {
    use pb::compare::CompareTarget;
    match CompareTarget::try_from(target) {
        Ok(CompareTarget::Create) => Target::Create(0),
        Ok(CompareTarget::Mod) => Target::Modified(0),
        Ok(CompareTarget::Value) => Target::Value(Bytes::new()),
        Ok(CompareTarget::Lease) => Target::Lease(0),
        _ => Target::Version(0),
    }
}

/// The keys that a list of operations may write. No key may be put twice, or put and deleted; what only one of two
/// alternatives does is no conflict between them.
#[derive(Default)]
struct Writes {
    puts: HashSet<Bytes>,
    deletes: Vec<KeyRange>,
}

impl Writes {
    fn of(ops: &[Op]) -> Result<Self, Status> {
        let mut all = Self::default();
        for op in ops {
            let one = match op {
                Op::Range(_) => Self::default(),
                Op::Put(put) => Self { puts: HashSet::from([put.key.clone()]), deletes: Vec::new() },
                Op::Delete(delete) => {
                    let range = KeyRange::new(&delete.key, &delete.end);
                    Self { puts: HashSet::new(), deletes: vec![range] }
                }
                Op::Txn(txn) => {
                    let mut either = Self::of(&txn.success)?;
                    either.add(Self::of(&txn.failure)?);
                    either
                }
            };
            if all.conflicts(&one) || one.conflicts(&all) {
                return Err(errors::DUPLICATE_KEY.into());
            }
            all.add(one);
        }
        Ok(all)
    }

    fn conflicts(&self, other: &Self) -> bool {
        !self.puts.is_disjoint(&other.puts)
            || self.puts.iter().any(|key| other.deletes.iter().any(|range| range.contains(key)))
    }

    fn add(&mut self, other: Self) {
        self.puts.extend(other.puts);
        self.deletes.extend(other.deletes);
    }
}

/// Whether a transaction reads only: then it need not go through the log.
pub(super) fn reads_only(txn: &Txn) -> bool {
    txn.success.iter().chain(&txn.failure).all(|op| matches!(op, Op::Range(_)))
}

/// Whether a command adds to the state (and so is refused when there is no space).
pub(super) fn grows(command: &Command) -> bool {
    fn op_grows(op: &Op) -> bool {
        match op {
            Op::Put(_) => true,
            Op::Txn(txn) => txn.success.iter().chain(&txn.failure).any(op_grows),
            Op::Range(_) | Op::Delete(_) => false,
        }
    }
    match command {
        Command::Put(_) | Command::Grant { .. } => true,
        Command::Txn(txn) => txn.success.iter().chain(&txn.failure).any(op_grows),
        _ => false,
    }
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
    let kvs = found.kvs.into_iter().map(key_value).collect();
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

/// A transaction's result, on the wire. Headers of what it consists of have the revision only, as in etcd.
pub(super) fn txn_response(
    header: Option<pb::ResponseHeader>,
    revision: i64,
    succeeded: bool,
    responses: Vec<Response>,
) -> pb::TxnResponse {
    let responses = responses.into_iter().map(|response| response_op(response, revision)).collect();
    pb::TxnResponse { header, succeeded, responses }
}

fn response_op(response: Response, revision: i64) -> pb::ResponseOp {
    use pb::response_op::Response as Wire;
    let header = Some(pb::ResponseHeader { revision, ..pb::ResponseHeader::default() });
    let response = match response {
        Response::Done => return pb::ResponseOp::default(),
        Response::Range(found) => Wire::ResponseRange(range_response(header, found)),
        Response::Put(prev) => Wire::ResponsePut(pb::PutResponse { header, prev_kv: prev.map(key_value) }),
        Response::Delete { deleted, prev } => {
            Wire::ResponseDeleteRange(delete_response(header, deleted, prev))
        }
        Response::Txn { succeeded, responses } => {
            Wire::ResponseTxn(txn_response(header, revision, succeeded, responses))
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
    }
}
