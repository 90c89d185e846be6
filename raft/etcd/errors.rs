//! etcd's errors: its codes and texts, which clients compare letter for letter.

use crate::{command::Fault, members::MemberFault, node::NodeError};
use tonic::{Code, Status};

/// An error of etcd's.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) struct Known {
    code: Code,
    pub(super) text: &'static str,
}

const fn known(code: Code, text: &'static str) -> Known {
    Known { code, text }
}

pub(super) const EMPTY_KEY: Known = known(Code::InvalidArgument, "etcdserver: key is not provided");
pub(super) const KEY_NOT_FOUND: Known = known(Code::InvalidArgument, "etcdserver: key not found");
pub(super) const VALUE_PROVIDED: Known = known(Code::InvalidArgument, "etcdserver: value is provided");
pub(super) const LEASE_PROVIDED: Known = known(Code::InvalidArgument, "etcdserver: lease is provided");
pub(super) const TOO_MANY_OPS: Known =
    known(Code::InvalidArgument, "etcdserver: too many operations in txn request");
pub(super) const DUPLICATE_KEY: Known =
    known(Code::InvalidArgument, "etcdserver: duplicate key given in txn request");
pub(super) const INVALID_SORT: Known = known(Code::InvalidArgument, "etcdserver: invalid sort option");
pub(super) const TOO_LARGE: Known = known(Code::InvalidArgument, "etcdserver: request is too large");
pub(super) const COMPACTED: Known =
    known(Code::OutOfRange, "etcdserver: mvcc: required revision has been compacted");
pub(super) const FUTURE_REVISION: Known =
    known(Code::OutOfRange, "etcdserver: mvcc: required revision is a future revision");
pub(super) const NO_SPACE: Known =
    known(Code::ResourceExhausted, "etcdserver: mvcc: database space exceeded");
pub(super) const LEASE_NOT_FOUND: Known = known(Code::NotFound, "etcdserver: requested lease not found");
pub(super) const LEASE_EXISTS: Known = known(Code::FailedPrecondition, "etcdserver: lease already exists");
pub(super) const LEASE_TOO_LONG: Known = known(Code::OutOfRange, "etcdserver: too large lease TTL");
pub(super) const CORRUPT: Known = known(Code::DataLoss, "etcdserver: corrupt cluster");
pub(super) const ROOT_USER_NOT_FOUND: Known =
    known(Code::FailedPrecondition, "etcdserver: root user does not exist");
pub(super) const USER_EMPTY: Known = known(Code::InvalidArgument, "etcdserver: user name is empty");
pub(super) const USER_NOT_FOUND: Known = known(Code::FailedPrecondition, "etcdserver: user name not found");
pub(super) const ROLE_EMPTY: Known = known(Code::InvalidArgument, "etcdserver: role name is empty");
pub(super) const ROLE_NOT_FOUND: Known = known(Code::FailedPrecondition, "etcdserver: role name not found");
pub(super) const AUTH_NOT_ENABLED: Known =
    known(Code::FailedPrecondition, "etcdserver: authentication is not enabled");
/// Reasons for which a watch is cancelled; etcd gives them without its prefix.
pub(super) const WATCH_ID_TAKEN: &str = "mvcc: duplicate watch ID provided on the WatchStream";
pub(super) const WATCH_EMPTY: &str = "mvcc: watcher range is empty";
pub(super) const NO_LEADER: Known = known(Code::Unavailable, "etcdserver: no leader");
pub(super) const NOT_LEADER: Known = known(Code::FailedPrecondition, "etcdserver: not leader");
pub(super) const BAD_TRANSFEREE: Known = known(Code::FailedPrecondition, "etcdserver: bad leader transferee");
pub(super) const STOPPED: Known = known(Code::Unavailable, "etcdserver: server stopped");
pub(super) const TIMEOUT: Known = known(Code::Unavailable, "etcdserver: request timed out");
pub(super) const TIMEOUT_LOST: Known =
    known(Code::Unavailable, "etcdserver: request timed out, possibly due to connection lost");

pub(super) const MEMBER_NOT_FOUND: Known = known(Code::NotFound, "etcdserver: member not found");
pub(super) const BAD_URLS: Known = known(Code::InvalidArgument, "etcdserver: given member URLs are invalid");
const URLS_EXIST: Known = known(Code::FailedPrecondition, "etcdserver: Peer URLs already exists");
const TOO_MANY_LEARNERS: Known =
    known(Code::FailedPrecondition, "etcdserver: too many learner members in cluster");
const NOT_LEARNER: Known = known(Code::FailedPrecondition, "etcdserver: can only promote a learner member");
const NOT_READY: Known = known(
    Code::FailedPrecondition,
    "etcdserver: can only promote a learner member which is in sync with leader",
);
const NOT_ENOUGH: Known =
    known(Code::FailedPrecondition, "etcdserver: re-configuration failed due to not enough started members");

impl From<Known> for Status {
    fn from(known: Known) -> Self {
        Self::new(known.code, known.text)
    }
}

impl From<Fault> for Status {
    fn from(fault: Fault) -> Self {
        let known = match fault {
            Fault::Compacted => COMPACTED,
            Fault::FutureRevision => FUTURE_REVISION,
            Fault::LeaseNotFound => LEASE_NOT_FOUND,
            Fault::LeaseExists => LEASE_EXISTS,
            Fault::KeyNotFound => KEY_NOT_FOUND,
            Fault::NoSpace => NO_SPACE,
            Fault::Corrupt => CORRUPT,
        };
        known.into()
    }
}

impl From<MemberFault> for Status {
    fn from(fault: MemberFault) -> Self {
        let known = match fault {
            MemberFault::NotFound => MEMBER_NOT_FOUND,
            MemberFault::UrlsExist => URLS_EXIST,
            MemberFault::TooManyLearners => TOO_MANY_LEARNERS,
            MemberFault::NotLearner => NOT_LEARNER,
            MemberFault::NotReady => NOT_READY,
            // Only members ask for what comes to the latter.
            MemberFault::NotEnough | MemberFault::Answers => NOT_ENOUGH,
        };
        known.into()
    }
}

impl From<NodeError> for Status {
    fn from(error: NodeError) -> Self {
        match error {
            NodeError::Timeout => TIMEOUT.into(),
            NodeError::Lost => TIMEOUT_LOST.into(),
            NodeError::LeaseNotFound => LEASE_NOT_FOUND.into(),
            NodeError::Member(fault) => fault.into(),
            NodeError::Disk(source) => {
                tracing::error!(error = %source, "the state cannot be read");
                CORRUPT.into()
            }
            NodeError::Failed(text) => {
                tracing::warn!(error = text, "a request failed");
                Self::unavailable("etcdserver: server stopped")
            }
        }
    }
}
