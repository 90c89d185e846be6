//! What can go wrong when a state is saved, looked at or restored, by cause.

use crate::flags::FlagError;
use std::{io, path::PathBuf};

/// Why nothing was restored. Nothing of it is left behind.
#[derive(Debug, thiserror::Error)]
pub enum BackupError {
    /// A flag is wrong.
    #[error(transparent)]
    Flag(#[from] FlagError),
    /// A file cannot be read.
    #[error("cannot read {}: check that it is there and that this user may read it", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The file is something else.
    #[error("{} is no snapshot of this store but {what}", path.display())]
    NotSnapshot {
        /// The file.
        path: PathBuf,
        /// What it seems to be.
        what: &'static str,
    },
    /// The file has no hash at its end.
    #[error("{}: snapshot missing hash but --skip-hash-check=false: the file was cut, or was not made by `snapshot save`", path.display())]
    NoHash {
        /// The file.
        path: PathBuf,
    },
    /// The file is not what its hash was made of.
    #[error("{}: expected sha256 {expected}, got {found}: the file was changed or damaged; use another copy", path.display())]
    WrongHash {
        /// The file.
        path: PathBuf,
        /// The hash at its end.
        expected: String,
        /// The hash of what is there.
        found: String,
    },
    /// The file's content cannot be read as a state.
    #[error("the snapshot {} is damaged; use another copy", path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What does not fit.
        source: io::Error,
    },
    /// The data directory is there already.
    #[error(
        "data-dir {path:?} not empty or could not be read: restore into a new directory, or move this one away"
    )]
    Exists {
        /// The directory.
        path: PathBuf,
    },
    /// What a restore that was killed left over, or one that is under way.
    #[error("{} is there: another restore into this data directory is under way or was killed; remove it if none runs", path.display())]
    UnderWay {
        /// The folder.
        path: PathBuf,
    },
    /// The data directory cannot be made.
    #[error("cannot write the data directory {}: check the folder's owner and the free space", path.display())]
    Write {
        /// The directory.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The revisions do not fit.
    #[error("--bump-revision: {bump} more than revision {revision} is more than there can be")]
    Overflow {
        /// The flag.
        bump: u64,
        /// The snapshot's revision.
        revision: i64,
    },
    /// There is no archive.
    #[error("{} is no archive: give the directory that --archive-dir of the store names, or a folder in it", path.display())]
    NoArchive {
        /// The directory.
        path: PathBuf,
    },
    /// There are the archives of several clusters.
    #[error("{} holds the archives of several clusters: give the folder of one:\n{}", path.display(), clusters.join("\n"))]
    ManyClusters {
        /// The directory.
        path: PathBuf,
        /// Their folders, with what they hold.
        clusters: Vec<String>,
    },
    /// A member's number was given to two data directories: the cluster was restored more than once from one moment.
    #[error("{} holds several histories, for its cluster was restored more than once from the same moment: give the folder of a member of the one that is meant:\n{}", path.display(), members.join("\n"))]
    ManyHistories {
        /// The directory.
        path: PathBuf,
        /// The members' folders, with what they hold.
        members: Vec<String>,
    },
    /// The archive does not hold the moment that was asked for.
    #[error("the archive cannot restore {goal}: {why}")]
    Unreachable {
        /// The moment.
        goal: String,
        /// What it holds instead.
        why: String,
    },
    /// A file of the archive cannot be read.
    #[error("the archive's file {} is damaged", path.display())]
    DamagedArchive {
        /// The file.
        path: PathBuf,
        /// What does not fit.
        source: io::Error,
    },
    /// The command was told to stop.
    #[error("interrupted before it was done; run it again")]
    Interrupted,
}
