//! The command lines of `trireme store snapshot`, with etcdutl's flags and words.

use super::BackupError;
use crate::{
    flags::{Config, FlagError, Flags, wrong},
    image::Saved,
};
use clap::{ArgAction, Args, FromArgMatches, Subcommand, ValueEnum};
use std::path::PathBuf;

/// What is done with saved states; no member runs meanwhile.
#[derive(Clone, Debug, Subcommand)]
pub enum Tool {
    /// Look at or restore a file that `etcdctl snapshot save` wrote.
    #[command(subcommand)]
    Snapshot(Snapshot),
    /// Make a data directory for a member of a new cluster that begins with any moment of an archive
    /// (--archive-dir).
    Restore(Box<ArchiveFlags>),
}

/// What is done with a snapshot's file.
#[derive(Clone, Debug, Subcommand)]
pub enum Snapshot {
    /// Check a file whole, and tell what is in it.
    Status(StatusFlags),
    /// Make a data directory for a member of a new cluster that begins with a file's keys.
    Restore(Box<RestoreFlags>),
}

/// Flags of `snapshot status`.
#[derive(Args, Clone, Debug)]
pub struct StatusFlags {
    /// The file.
    pub file: PathBuf,
    /// How to write it.
    #[arg(short, long, value_enum, default_value = "simple")]
    pub write_out: WriteOut,
}

/// Forms of an answer.
#[derive(Clone, Copy, Debug, Eq, PartialEq, ValueEnum)]
pub enum WriteOut {
    /// Hash, revision, total keys, total size, with commas between.
    Simple,
    /// With more, for programs.
    Json,
    /// For people.
    Table,
}

/// Flags of `snapshot restore`.
#[derive(Args, Clone, Debug)]
pub struct RestoreFlags {
    /// The file.
    pub file: PathBuf,
    /// Do not look at the hash at the file's end.
    #[arg(long)]
    pub skip_hash_check: bool,
    /// The member to be made.
    #[command(flatten)]
    pub member: NewMember,
}

/// Flags of `restore`. Without --to-revision and --to-time the newest moment is meant.
#[derive(Args, Clone, Debug)]
pub struct ArchiveFlags {
    /// The archive: the directory that --archive-dir named, or the folder of a cluster or of a member in it.
    #[arg(long)]
    pub archive: PathBuf,
    /// Restore the state as of this revision.
    #[arg(long, conflicts_with = "to_time")]
    pub to_revision: Option<i64>,
    /// Restore the state as of this time, such as 2026-11-25T17:40:00Z: with all that was proposed until then.
    #[arg(long)]
    pub to_time: Option<jiff::Timestamp>,
    /// The member to be made.
    #[command(flatten)]
    pub member: NewMember,
}

/// The member that a data directory is made for, as it will be started, and what becomes of the revisions.
#[derive(Args, Clone, Debug)]
pub struct NewMember {
    /// The data directory to make.
    #[arg(long)]
    pub data_dir: PathBuf,
    /// The member's name, as --initial-cluster has it.
    #[arg(long, default_value = "default")]
    pub name: String,
    /// All members of the new cluster: NAME=URL,NAME=URL,...
    #[arg(long)]
    pub initial_cluster: Option<String>,
    /// Tells apart clusters that have the same members.
    #[arg(long, default_value = "etcd-cluster")]
    pub initial_cluster_token: String,
    /// Where peers are told to go.
    #[arg(long, value_delimiter = ',', default_value = "http://localhost:2380")]
    pub initial_advertise_peer_urls: Vec<String>,
    /// How far above the restored revision the new cluster's revisions begin. It must be more than the old cluster
    /// has given out since: then no client meets a revision again that it knows with another meaning.
    #[arg(long, default_value_t = 1_000_000_000)]
    pub bump_revision: u64,
    /// Count every revision up to the bumped one as compacted, so that watches of the old cluster are cancelled
    /// rather than continued in the wrong history.
    #[arg(long, num_args = 0..=1, default_missing_value = "true", require_equals = true, action = ArgAction::Set, default_value = "true")]
    pub mark_compacted: bool,
}

impl NewMember {
    /// The configuration that the member will be started with, as far as it matters here.
    pub(crate) fn config(&self) -> Result<Config, FlagError> {
        if self.mark_compacted != (self.bump_revision > 0) {
            return wrong("mark-compacted", "required if --bump-revision > 0, disallowed otherwise");
        }
        let defaults = Flags::augment_args(clap::Command::new("store"));
        let flags = Flags::from_arg_matches(&defaults.get_matches_from(["store"]));
        Config::new(Flags {
            data_dir: self.data_dir.clone(),
            name: self.name.clone(),
            initial_cluster: self.initial_cluster.clone(),
            initial_cluster_token: self.initial_cluster_token.clone(),
            initial_advertise_peer_urls: self.initial_advertise_peer_urls.clone(),
            ..flags.expect("every flag has a default")
        })
    }

    /// The new cluster's revision and what of it is compacted.
    pub(crate) fn revisions(&self, saved: &Saved) -> Result<(i64, i64), BackupError> {
        let (bump, from) = (self.bump_revision, saved.revision);
        let revision = i64::try_from(bump).ok().and_then(|bump| from.checked_add(bump));
        let revision = revision.ok_or(BackupError::Overflow { bump, revision: from })?;
        Ok((revision, if self.mark_compacted { revision } else { saved.compacted }))
    }
}
