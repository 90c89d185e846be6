//! From what was saved to a data directory.
//!
//! Keeps true: keys, their history as far as it is not compacted, and leases are taken over; members and alarms of
//! the old cluster are not. How the directory is made is `target.rs`.

use super::{
    BackupError,
    file::SnapshotFile,
    flags::{ArchiveFlags, RestoreFlags},
    reach::{self, Goal},
    replay::Replay,
    report,
    target::Target,
};
use crate::image::{KV, LEASE, META};
use std::io;
use tokio_util::sync::CancellationToken;

/// Restores a snapshot's file; returns what to print.
pub(crate) fn snapshot(flags: RestoreFlags, stop: &CancellationToken) -> Result<String, BackupError> {
    // Before the directory is begun: what cannot be read needs none.
    let file = SnapshotFile::open(&flags.file, flags.skip_hash_check)?;
    let target = Target::begin(flags.member)?;
    fill(&target, &file, stop)?;
    Ok(report::restored(&target.finish()?))
}

/// Restores a moment of an archive; returns what to print.
pub(crate) fn archive(flags: ArchiveFlags, stop: &CancellationToken) -> Result<String, BackupError> {
    let goal = match (flags.to_revision, flags.to_time) {
        (Some(revision), _) => Goal::Revision(revision),
        (None, Some(time)) => Goal::Time(time.as_millisecond()),
        (None, None) => Goal::Latest,
    };
    let way = reach::find(&flags.archive, goal)?;
    let file = SnapshotFile::open(&way.base.path, false)?;
    let target = Target::begin(flags.member)?;
    fill(&target, &file, stop)?;
    let reached = Replay::new(target.engine(), &way)?.run(goal, &way, stop)?;
    let made = target.finish()?;
    Ok(format!("{}\n{}", report::reached(reached, &way), report::restored(&made)))
}

/// Puts a file's state into the directory.
pub(crate) fn fill(
    target: &Target,
    file: &SnapshotFile,
    stop: &CancellationToken,
) -> Result<(), BackupError> {
    let engine = target.engine();
    let filled = file.each(|part, items| {
        if stop.is_cancelled() {
            return Err(io::ErrorKind::Interrupted.into());
        }
        if ![KV, LEASE, META].contains(&part) {
            return Ok(());
        }
        let mut batch = engine.batch();
        for (key, value) in items {
            batch.put(part, &key, &value)?;
        }
        batch.write()
    });
    match filled {
        Err(error) if error.kind() == io::ErrorKind::Interrupted => Err(BackupError::Interrupted),
        filled => filled.map_err(|source| file.damaged(source)),
    }
}
