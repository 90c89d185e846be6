//! The group's types, as openraft wants them declared, with short names.

use crate::command::{Command, Outcome};
use serde::{Deserialize, Serialize};

/// How the group knows a member.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
pub(crate) struct PeerNode {
    /// Where peers reach it, at least one URL.
    pub(crate) urls: Vec<String>,
    /// It was added to vote, and is a learner only until it has caught up.
    pub(crate) joining: bool,
}

impl std::fmt::Display for PeerNode {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.urls.join(","))
    }
}

openraft::declare_raft_types!(
    /// The group: commands in, outcomes out, members known by number and peer URLs.
    pub(crate) TypeConfig:
        D = Command,
        R = Outcome,
        NodeId = u64,
        Node = PeerNode,
);

pub(crate) type Entry = openraft::alias::EntryOf<TypeConfig>;
pub(crate) type LogId = openraft::alias::LogIdOf<TypeConfig>;
pub(crate) type Vote = openraft::alias::VoteOf<TypeConfig>;
pub(crate) type Membership = openraft::alias::StoredMembershipOf<TypeConfig>;
pub(crate) type SnapshotMeta = openraft::alias::SnapshotMetaOf<TypeConfig>;
pub(crate) type Snapshot = openraft::alias::SnapshotOf<TypeConfig, crate::snapshot::SnapshotData>;
pub(crate) type Raft = openraft::Raft<TypeConfig, crate::applier::Applier>;
