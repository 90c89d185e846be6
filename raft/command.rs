//! What is proposed to the group and what comes of it: the log's vocabulary.
//!
//! Keeps true: a command holds everything its effect depends on (no clock, no randomness, no member's own state),
//! so that every member makes the same of it; its bytes in the log are frozen in `codec.rs`. New variants go to
//! the end. How they take effect is `mvcc.rs`.

use crate::record::Record;
use bytes::Bytes;
use serde::{Deserialize, Serialize};
use std::fmt;

/// One entry of the replicated log.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub(crate) enum Command {
    /// Write a key.
    Put(Put),
    /// Delete a key or a range.
    Delete(Delete),
    /// Compare, then do one list of operations or the other, in one revision.
    Txn(Txn),
    /// Forget what was superseded at or before a revision.
    Compact(i64),
    /// Make a lease.
    Grant {
        /// The lease, not 0.
        id: i64,
        /// Seconds.
        ttl: i64,
    },
    /// End a lease and delete its keys.
    Revoke(i64),
    /// A member tells who it is.
    Member(Member),
    /// Raise or lift an alarm.
    Alarm {
        /// Which.
        alarm: Alarm,
        /// Raise, not lift.
        raise: bool,
    },
    /// A command that changes keys or leases, with the time at which the leader proposed it.
    At {
        /// Milliseconds since 1970, by the leader's clock.
        time: i64,
        /// What is to be done.
        command: Box<Command>,
    },
}

impl Command {
    /// Whether it may change keys or leases.
    #[must_use]
    pub(crate) fn writes(&self) -> bool {
        match self {
            Self::Txn(txn) => txn.any(&|op| !matches!(op, Op::Range(_))),
            Self::Member(_) | Self::Alarm { .. } => false,
            Self::At { command, .. } => command.writes(),
            _ => true,
        }
    }

    /// Whether it may make the state larger.
    #[must_use]
    pub(crate) fn grows(&self) -> bool {
        match self {
            Self::Put(_) | Self::Grant { .. } => true,
            Self::Txn(txn) => txn.any(&|op| matches!(op, Op::Put(_))),
            Self::At { command, .. } => command.grows(),
            _ => false,
        }
    }
}

impl Txn {
    /// Whether one of all its operations, those within inner transactions too, is such a one.
    fn any(&self, such: &dyn Fn(&Op) -> bool) -> bool {
        self.success.iter().chain(&self.failure).any(|op| match op {
            Op::Txn(inner) => inner.any(such),
            op => such(op),
        })
    }
}

impl fmt::Display for Command {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Keys and values may be secrets: the kind is all that a log line needs.
        f.write_str(match self {
            Self::Put(_) => "put",
            Self::Delete(_) => "delete",
            Self::Txn(_) => "txn",
            Self::Compact(_) => "compact",
            Self::Grant { .. } => "grant",
            Self::Revoke(_) => "revoke",
            Self::Member(_) => "member",
            Self::Alarm { .. } => "alarm",
            Self::At { command, .. } => return command.fmt(f),
        })
    }
}

/// Write a key.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
pub(crate) struct Put {
    /// The key, not empty.
    pub(crate) key: Bytes,
    /// Its new value.
    pub(crate) value: Bytes,
    /// The lease it belongs to, or 0.
    pub(crate) lease: i64,
    /// Return what was there before.
    pub(crate) prev_kv: bool,
    /// Keep the value that is there.
    pub(crate) ignore_value: bool,
    /// Keep the lease that is there.
    pub(crate) ignore_lease: bool,
}

/// Delete a key or a range.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
pub(crate) struct Delete {
    /// The first key.
    pub(crate) key: Bytes,
    /// The end of the range, in etcd's encoding.
    pub(crate) end: Bytes,
    /// Return what was there before.
    pub(crate) prev_kv: bool,
}

/// Read a key or a range.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
pub(crate) struct Range {
    /// The first key.
    pub(crate) key: Bytes,
    /// The end of the range, in etcd's encoding.
    pub(crate) end: Bytes,
    /// At most so many, 0 for all.
    pub(crate) limit: i64,
    /// As of this revision, 0 for now.
    pub(crate) revision: i64,
    /// The order, if not by key.
    pub(crate) sort: Option<Sort>,
    /// No values.
    pub(crate) keys_only: bool,
    /// Only how many there are.
    pub(crate) count_only: bool,
    /// Only keys last modified at or after, if not 0.
    pub(crate) min_mod: i64,
    /// Only keys last modified at or before, if not 0.
    pub(crate) max_mod: i64,
    /// Only keys created at or after, if not 0.
    pub(crate) min_create: i64,
    /// Only keys created at or before, if not 0.
    pub(crate) max_create: i64,
}

/// An order other than by key, ascending.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub(crate) struct Sort {
    /// Greatest first.
    pub(crate) descending: bool,
    /// What is compared.
    pub(crate) by: SortBy,
    /// The limit first takes the first keys, and one more, in the order of keys: what etcd does when it is told
    /// what to compare, but not which order.
    pub(crate) after_limit: bool,
}

/// What an order compares.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub(crate) enum SortBy {
    /// The key.
    Key,
    /// The version.
    Version,
    /// The revision of creation.
    Create,
    /// The revision of the last change.
    Modified,
    /// The value.
    Value,
}

/// Compare, then act.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
pub(crate) struct Txn {
    /// All must hold for `success`.
    pub(crate) compare: Vec<Compare>,
    /// Done when all hold.
    pub(crate) success: Vec<Op>,
    /// Done otherwise.
    pub(crate) failure: Vec<Op>,
}

/// One operation of a transaction.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub(crate) enum Op {
    /// Read.
    Range(Range),
    /// Write.
    Put(Put),
    /// Delete.
    Delete(Delete),
    /// A transaction within.
    Txn(Txn),
}

/// One comparison of a transaction.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub(crate) struct Compare {
    /// The first key.
    pub(crate) key: Bytes,
    /// The end of the range, in etcd's encoding: every key in it must satisfy.
    pub(crate) end: Bytes,
    /// How the key's side relates to the target.
    pub(crate) comparison: Comparison,
    /// What is compared with what.
    pub(crate) target: Target,
}

/// How two sides relate.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub(crate) enum Comparison {
    /// The same.
    Equal,
    /// The key's side is greater.
    Greater,
    /// The key's side is less.
    Less,
    /// Not the same.
    NotEqual,
}

/// The property of a key that is compared, and with what.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub(crate) enum Target {
    /// Its version.
    Version(i64),
    /// The revision of its creation.
    Create(i64),
    /// The revision of its last change.
    Modified(i64),
    /// Its value.
    Value(Bytes),
    /// Its lease.
    Lease(i64),
}

/// A key at a revision. A deletion is one without version. As a message it is etcd's `KeyValue`.
#[derive(Clone, Deserialize, Eq, PartialEq, prost::Message, Serialize)]
pub(crate) struct KeyValue {
    /// The key.
    #[prost(bytes = "bytes", tag = "1")]
    pub(crate) key: Bytes,
    /// The value.
    #[prost(bytes = "bytes", tag = "5")]
    pub(crate) value: Bytes,
    /// The revision that created it.
    #[prost(int64, tag = "2")]
    pub(crate) create: i64,
    /// The revision that wrote it last.
    #[prost(int64, tag = "3")]
    pub(crate) modified: i64,
    /// Writes since it was created, from 1; 0 in a record of a deletion.
    #[prost(int64, tag = "4")]
    pub(crate) version: i64,
    /// The lease it belongs to, or 0.
    #[prost(int64, tag = "6")]
    pub(crate) lease: i64,
}

impl KeyValue {
    /// Whether this records a deletion.
    #[must_use]
    pub(crate) fn is_deletion(&self) -> bool {
        self.version == 0
    }
}

/// Who a member is, as it tells the group.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
pub(crate) struct Member {
    /// The member's number.
    pub(crate) id: u64,
    /// Drawn when its data directory was made: a second directory under one number is a lost disk.
    pub(crate) instance: u64,
    /// Its name.
    pub(crate) name: String,
    /// Where peers reach it.
    pub(crate) peer_urls: Vec<String>,
    /// Where clients reach it.
    pub(crate) client_urls: Vec<String>,
}

/// A member's alarm. While one is raised, every member refuses what could make it worse.
#[derive(Clone, Copy, Debug, Deserialize, Eq, Ord, PartialEq, PartialOrd, Serialize)]
pub(crate) struct Alarm {
    /// What is wrong.
    pub(crate) kind: AlarmKind,
    /// Where.
    pub(crate) member: u64,
}

/// What an alarm is about.
#[derive(Clone, Copy, Debug, Deserialize, Eq, Ord, PartialEq, PartialOrd, Serialize)]
pub(crate) enum AlarmKind {
    /// The state has outgrown its quota: nothing that grows it until somebody lifts it.
    NoSpace,
    /// Members differ: nothing that changes keys.
    Corrupt,
    /// The disk of one member is full; it takes that back itself. To clients it is the alarm about space as well.
    DiskFull,
}

/// What came of a command.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub(crate) struct Outcome {
    /// The store's revision afterwards.
    pub(crate) revision: i64,
    /// What the client is told.
    pub(crate) result: Result<Response, Fault>,
}

/// What a client is told of a command that took effect.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub(crate) enum Response {
    /// Of a command that returns nothing.
    Done,
    /// Of a put.
    Put(Option<KeyValue>),
    /// Of a deletion.
    Delete {
        /// How many keys.
        deleted: i64,
        /// What they held, if asked for.
        prev: Vec<KeyValue>,
    },
    /// Of a read.
    Range(RangeResult),
    /// Of a transaction.
    Txn {
        /// Whether all comparisons held.
        succeeded: bool,
        /// One for each operation done.
        responses: Vec<Response>,
    },
    /// Of a change of alarms: the one that is meant, if it is (or was) raised.
    Alarm(Option<Alarm>),
}

/// What a read found.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
pub(crate) struct RangeResult {
    /// The keys.
    pub(crate) kvs: Vec<Record>,
    /// The limit left some out.
    pub(crate) more: bool,
    /// How many there are in the range.
    pub(crate) count: i64,
}

/// Why a command or a read had no effect, decided alike on every member.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub(crate) enum Fault {
    /// The revision is compacted.
    Compacted,
    /// The revision is yet to come.
    FutureRevision,
    /// No such lease.
    LeaseNotFound,
    /// There is such a lease.
    LeaseExists,
    /// No such key, but it was to keep its value or lease.
    KeyNotFound,
    /// There is an alarm about space.
    NoSpace,
    /// There is an alarm about differing members.
    Corrupt,
}
