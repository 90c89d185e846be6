//! Why a member cannot run, in words for whoever operates it: what failed, where, and what to do.
//!
//! Keeps true: damage and loss are told from a disk that does not do its work now, for they are not mended by waiting.

use crate::{backup::BackupError, flags::FlagError};
use std::{
    io,
    path::{Path, PathBuf},
};

/// Why a member cannot run, or had to stop.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A flag is wrong.
    #[error(transparent)]
    Flag(#[from] FlagError),
    /// TLS cannot be set up.
    #[error(transparent)]
    Tls(#[from] serve::Error),
    /// A port cannot be listened on.
    #[error(
        "cannot listen on {url}: check that no other store runs there and that the address is this machine's"
    )]
    Listen {
        /// The URL.
        url: String,
        /// Why.
        source: io::Error,
    },
    /// The data directory cannot be used.
    #[error("cannot open the data directory {}: check that there is space, and that this user may write there and no other store runs on it", path.display())]
    Disk {
        /// The directory.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The data directory is someone else's.
    #[error("the data directory {} {problem}: give this member a directory of its own", path.display())]
    Foreign {
        /// The directory.
        path: PathBuf,
        /// What it is instead.
        problem: String,
    },
    /// What is in the data directory is not what was written there.
    #[error("cannot open the data directory {}: it is damaged, and this member must not take part with it. Restore it, or remove the member (etcdctl member remove) and add a new one", path.display())]
    Damaged {
        /// The directory.
        path: PathBuf,
        /// What was found.
        source: io::Error,
    },
    /// There is a log in the data directory, and nothing that says whose.
    #[error("the data directory {} holds a log, but does not say whose: give this member a directory of its own", path.display())]
    Nameless {
        /// The directory.
        path: PathBuf,
    },
    /// The log has less than the state was made of, or the state less than the log was cut by.
    #[error("the data directory {} lost entries that were confirmed: this member must not take part any more; replace it", path.display())]
    LostLog {
        /// The directory.
        path: PathBuf,
    },
    /// The member was in the cluster before, and its data is gone.
    #[error("member {name} has already been bootstrapped: its data directory {} was lost. A member without its memory can break promises it made: restore the directory, or remove the member and add a new one", path.display())]
    AlreadyBootstrapped {
        /// The member.
        name: String,
        /// Its directory.
        path: PathBuf,
    },
    /// The member is to join a cluster that cannot be asked.
    #[error("cannot fetch cluster info from peer urls: no member of --initial-cluster says that it has {}: is the cluster there, and was this member added to it (etcdctl member add)?", urls.join(","))]
    NotAdded {
        /// The member's own URLs.
        urls: Vec<String>,
    },
    /// There is nothing of which a new cluster could be made.
    #[error("--force-new-cluster: the data directory {} holds no log: give it the directory of a member that was there", path.display())]
    NothingToForce {
        /// The directory.
        path: PathBuf,
    },
    /// The others have removed this member.
    #[error("the member has been permanently removed from the cluster: remove its data directory {} before you add a new one here", path.display())]
    Removed {
        /// The directory.
        path: PathBuf,
    },
    /// What was saved cannot be looked at or restored.
    #[error(transparent)]
    Backup(#[from] BackupError),
    /// The group cannot be started or had to stop.
    #[error("the store stopped: {0}")]
    Stopped(String),
}

impl Error {
    /// What a failure of the data directory means for the member.
    pub(crate) fn of_disk(path: &Path, source: io::Error) -> Self {
        let path = path.into();
        match source.kind() {
            io::ErrorKind::InvalidData => Self::Damaged { path, source },
            _ => Self::Disk { path, source },
        }
    }

    /// Whether the member has lost what it promised, or cannot know what that was.
    pub(crate) fn is_loss(&self) -> bool {
        matches!(
            self,
            Self::Damaged { .. }
                | Self::Nameless { .. }
                | Self::LostLog { .. }
                | Self::AlreadyBootstrapped { .. }
        )
    }
}
