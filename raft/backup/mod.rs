//! Saved states: what is in them, and how a new cluster begins with one.
//!
//! Keeps true: nothing here talks to a member or touches a data directory that exists; a command that fails leaves
//! nothing behind. The bytes of a file are `file.rs`, the directory is `target.rs`;
//! what an archive can give is `reach.rs`, and `replay.rs` goes there.

mod error;
pub(crate) mod file;
mod flags;
mod reach;
mod replay;
mod report;
mod restore;
mod target;

pub use error::BackupError;
pub use flags::{ArchiveFlags, NewMember, RestoreFlags, Snapshot, StatusFlags, Tool, WriteOut};
pub(crate) use target::{is_fresh, restored, restored_cluster};

use file::SnapshotFile;
use tokio_util::sync::CancellationToken;

/// Does what a command says; returns what to print.
pub async fn perform(tool: Tool, stop: CancellationToken) -> Result<String, BackupError> {
    let work = tokio::task::spawn_blocking(move || match tool {
        Tool::Snapshot(Snapshot::Status(flags)) => {
            let file = SnapshotFile::open(&flags.file, false)?;
            Ok(report::status(&file.status, flags.write_out))
        }
        Tool::Snapshot(Snapshot::Restore(flags)) => restore::snapshot(*flags, &stop),
        Tool::Restore(flags) => restore::archive(*flags, &stop),
    });
    work.await.map_err(|_| BackupError::Interrupted)?
}
