//! Room on the disk that holds the data directory.
//!
//! Keeps true: a member whose disk runs full says so in the group's state while it can still write, and takes that
//! back by itself when there is room again. A ballast file holds room that nobody else can take: it is let go when
//! there is no other, so that what is under way can end and space can be made by deleting. A member that could not
//! write all the same has stopped; when it may start again is decided here. What a full member means for the group
//! is `mvcc.rs`; stopping and starting is `run.rs`.

use crate::{
    command::{Alarm, AlarmKind, Command},
    flags::Config,
    node::Node,
};
use nix::{
    fcntl::{FallocateFlags, fallocate},
    sys::statvfs::statvfs,
};
use std::{
    error::Error,
    fs::{self, File},
    io,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    time::Duration,
};
use tokio::{
    sync::watch,
    time::{sleep, timeout},
};

/// Room for one round of both databases: their write-ahead logs, which are written anew when a database is opened.
const RESERVE: u64 = 64 << 20;
/// On a small disk the reserve is this part of it.
const PART: u64 = 10;
/// How often the disk is looked at.
const LOOK: Duration = Duration::from_millis(200);
/// How long a member that could not write waits, at least, before it tries again.
const PAUSE: Duration = Duration::from_secs(2);
/// A file system with fewer free inodes than this counts as full.
const INODES: u64 = 16;
/// An attempt to tell the group takes no longer.
const TELL: Duration = Duration::from_secs(2);

/// What a look at the disk finds, in bytes.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
struct Space {
    /// Of the file system.
    total: u64,
    /// Free for this process.
    available: u64,
    /// Held by the ballast.
    ballast: u64,
}

/// What is to be so.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
struct Plan {
    /// The group is to know that there is no room here.
    low: bool,
    /// The ballast holds its room.
    ballast: bool,
}

impl Space {
    fn reserve(&self) -> u64 {
        RESERVE.min(self.total / PART)
    }

    /// Room is low when less than the reserve is left beside the ballast; it is no more when half a reserve has come
    /// on top of that. The ballast goes when half a reserve is left, and comes back with the room for it.
    fn plan(&self, low: bool) -> Plan {
        let (reserve, all) = (self.reserve(), self.available + self.ballast);
        let low = all < if low { reserve * 5 / 2 } else { reserve * 2 };
        let held = self.ballast > 0;
        Plan { low, ballast: if held { self.available >= reserve / 2 } else { !low } }
    }

    /// Whether a database can be opened: that writes its log anew.
    fn opens(&self) -> bool {
        self.available >= self.reserve() / 2
    }
}

/// The data directory's disk.
#[derive(Clone)]
struct Disk {
    folder: PathBuf,
}

impl Disk {
    fn ballast(&self) -> PathBuf {
        self.folder.join("ballast")
    }

    fn look(&self) -> io::Result<Space> {
        // The folder may be still to be made.
        let there = self.folder.ancestors().find(|folder| folder.exists());
        let found = statvfs(there.unwrap_or(Path::new(".")))?;
        let none = found.files() > 0 && found.files_available() < INODES;
        let available = if none { 0 } else { found.blocks_available() * found.fragment_size() };
        let ballast = fs::metadata(self.ballast()).map_or(0, |file| file.blocks() * 512);
        Ok(Space { total: found.blocks() * found.fragment_size(), available, ballast })
    }

    fn hold(&self, bytes: u64) -> io::Result<()> {
        let length = i64::try_from(bytes).map_err(io::Error::other)?;
        let file = File::create(self.ballast())?;
        fallocate(file, FallocateFlags::empty(), 0, length).map_err(|error| {
            let _ = fs::remove_file(self.ballast());
            error.into()
        })
    }

    fn release(&self) -> io::Result<()> {
        match fs::remove_file(self.ballast()) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        }
    }

    /// Looks, and holds the ballast or lets it go.
    fn tend(&self, low: bool) -> io::Result<bool> {
        let space = self.look()?;
        let plan = space.plan(low);
        if plan.ballast && space.ballast == 0 {
            self.hold(space.reserve())
                .unwrap_or_else(|error| tracing::debug!(%error, "this file system holds no ballast"));
        } else if !plan.ballast && space.ballast > 0 {
            tracing::warn!(available = space.available, "the disk is full: letting the ballast go");
            self.release()?;
        }
        Ok(plan.low)
    }

    /// Lets the ballast go and says whether a database could be opened then.
    fn opens(&self) -> io::Result<bool> {
        self.release()?;
        Ok(self.look()?.opens())
    }

    async fn blocking<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Self) -> io::Result<T> + Send + 'static,
    ) -> io::Result<T> {
        let disk = self.clone();
        tokio::task::spawn_blocking(move || work(&disk)).await.map_err(io::Error::other)?
    }
}

/// Looks after the room on the disk of a running member. Does not end.
pub(crate) async fn watch(config: &Config, node: &Node) {
    let disk = Disk { folder: config.flags.data_dir.clone() };
    let low = watch::Sender::new(false);
    let seen = low.subscribe();
    let looking = async {
        loop {
            let before = *low.borrow();
            match disk.blocking(move |disk| disk.tend(before)).await {
                Ok(now) => low.send_if_modified(|low| std::mem::replace(low, now) != now),
                Err(error) => {
                    tracing::warn!(%error, "cannot look at the room on the disk");
                    false
                }
            };
            sleep(LOOK).await;
        }
    };
    tokio::join!(looking, tell(config.id, node, seen));
}

/// Makes the group's state say what is so here, and has a full member lead only when all are.
async fn tell(id: u64, node: &Node, mut seen: watch::Receiver<bool>) {
    let alarm = Alarm { kind: AlarmKind::DiskFull, member: id };
    loop {
        let low = *seen.borrow_and_update();
        let raised = node.local.machine.look(move |state| state.alarms.contains(&alarm)).await;
        if raised.is_ok_and(|raised| raised != low) {
            let told = timeout(TELL, node.propose(Command::Alarm { alarm, raise: low })).await;
            match (told, low) {
                (Ok(Ok(_)), true) => tracing::error!("the disk is full: raised the alarm NOSPACE"),
                (Ok(Ok(_)), false) => tracing::info!("the disk has room again: took back the alarm NOSPACE"),
                (Ok(Err(error)), _) => tracing::warn!(%error, low, "the group could not be told of the disk"),
                (Err(_), _) => tracing::warn!(low, "the group does not answer; it is to be told of the disk"),
            }
        }
        if low && node.leader() == Some(id) {
            give_way(node).await;
        }
        // Both ends of the wait lead to another look.
        let _ = timeout(LOOK, seen.changed()).await;
    }
}

/// Hands leadership to a member that has room, if there is one.
async fn give_way(node: &Node) {
    let full = |alarm: &Alarm| (alarm.kind == AlarmKind::DiskFull).then_some(alarm.member);
    let look = node.local.machine.look(move |state| state.alarms.iter().filter_map(full).collect::<Vec<_>>());
    let Ok(full) = look.await else { return };
    let Some((next, _)) = node.local.successor(|id| !full.contains(&id)) else { return };
    match node.hand_over(next).await {
        Ok(()) => tracing::warn!(to = format!("{next:x}"), "the disk is full: handed over leadership"),
        Err(error) => tracing::warn!(%error, "the disk is full, and leadership could not be handed over"),
    }
}

/// Whether something failed because there was no room on a disk.
pub(crate) fn is_cause(error: &(dyn Error + 'static)) -> bool {
    let text = error.to_string();
    let full = ["No space left on device", "Disk quota exceeded"].iter().any(|full| text.contains(full));
    full || error.source().is_some_and(is_cause)
}

/// Waits until a member that could not write may try again.
pub(crate) async fn returned(folder: &Path) {
    let disk = Disk { folder: folder.into() };
    loop {
        sleep(PAUSE).await;
        match disk.blocking(Disk::opens).await {
            Ok(true) => return,
            Ok(false) => {}
            Err(error) => tracing::warn!(%error, "cannot look at the room on the disk"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1 << 20;

    fn space(available: u64, ballast: u64) -> Space {
        Space { total: 100_000 * MIB, available: available * MIB, ballast: ballast * MIB }
    }

    #[test]
    fn the_ballast_is_there_before_the_alarm_and_goes_after_it() {
        let check = |available, ballast, was_low, low, holds| {
            let expect = Plan { low, ballast: holds };
            assert_eq!(space(available, ballast).plan(was_low), expect, "{available} {ballast} {was_low}");
        };
        check(5000, 0, false, false, true);
        check(5000, 64, false, false, true);
        check(70, 64, false, false, true);
        // Less than the reserve beside the ballast.
        check(60, 64, false, true, true);
        check(20, 64, true, true, false);
        check(84, 0, true, true, false);
        // Not at once when a little room has come back.
        check(150, 0, true, true, false);
        check(161, 0, true, false, true);
        check(97, 64, false, false, true);
    }

    #[test]
    fn a_small_disk_has_a_small_reserve() {
        let small = Space { total: 100 * MIB, available: 30 * MIB, ballast: 0 };
        assert_eq!(small.reserve(), 10 * MIB);
        assert_eq!(small.plan(false), Plan { low: false, ballast: true });
        assert!(small.opens() && !Space { available: 4 * MIB, ..small }.opens());
    }

    #[test]
    fn the_ballast_holds_room_and_gives_it_back() {
        let folder = tempfile::tempdir().unwrap();
        let disk = Disk { folder: folder.path().into() };
        disk.hold(MIB).unwrap();
        assert!(disk.look().unwrap().ballast >= MIB);
        assert!(disk.opens().unwrap());
        assert_eq!(disk.look().unwrap().ballast, 0);
        disk.release().unwrap();
    }

    #[test]
    fn a_full_disk_is_known_by_what_the_system_says() {
        let inner = io::Error::other("IO error: No space left on device: While appending to file");
        assert!(is_cause(&io::Error::other(inner)));
        assert!(is_cause(&io::Error::from_raw_os_error(28)));
        assert!(!is_cause(&io::Error::other("IO error: Input/output error")));
    }
}
