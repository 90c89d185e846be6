//! Which files of an archive lead to a moment.
//!
//! Keeps true: a way begins with a base at or before the moment and has every entry after it, in one member's folder;
//! when there is none, the error says what the archive holds instead. Going the way is `replay.rs`.

use super::{BackupError, report};
use crate::archive::{
    Position,
    folder::{Base, Listing, Segment},
    segment::{Reader, Record},
};
use std::{
    collections::{BTreeMap, BTreeSet},
    fmt, fs, io,
    path::{Path, PathBuf},
};

/// The moment that is asked for.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Goal {
    /// The newest one.
    Latest,
    /// The state as of a revision.
    Revision(i64),
    /// The state as of a time, in milliseconds since 1970.
    Time(i64),
}

impl fmt::Display for Goal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Latest => f.write_str("the newest moment"),
            Self::Revision(revision) => write!(f, "revision {revision}"),
            Self::Time(time) => f.write_str(&report::time(*time)),
        }
    }
}

impl Goal {
    /// Whether a state is not after it.
    pub(crate) fn allows(self, at: Position) -> bool {
        match self {
            Self::Latest => true,
            Self::Revision(revision) => at.revision <= revision,
            Self::Time(time) => at.time <= time,
        }
    }

    /// Whether it is not after what was reached.
    pub(crate) fn is_reached(self, at: Position) -> bool {
        match self {
            Self::Latest => true,
            Self::Revision(revision) => at.revision >= revision,
            Self::Time(time) => at.time >= time,
        }
    }
}

/// A base and what follows it.
#[derive(Clone, Debug)]
pub(crate) struct Way {
    pub(crate) base: Base,
    pub(crate) segments: Vec<Segment>,
    /// How far it leads at least.
    pub(crate) end: Position,
}

/// The best way to a moment.
pub(crate) fn find(archive: &Path, goal: Goal) -> Result<Way, BackupError> {
    let folders = one_cluster(archive)?;
    let mut ways = Vec::new();
    for (_, listing) in &folders {
        ways.extend(way(listing, goal)?);
    }
    // Of those that lead there the one with the least to go through; of the others the one that leads furthest.
    let best = ways.into_iter().max_by_key(|way| match goal.is_reached(way.end) {
        true if goal != Goal::Latest => (true, way.base.at.index, way.end.index),
        reached => (reached, way.end.index, way.base.at.index),
    });
    match best {
        Some(way) if goal.is_reached(way.end) => Ok(way),
        Some(way) => Err(beyond(goal, &way, &folders)),
        None => Err(BackupError::Unreachable { goal: goal.to_string(), why: first_base(&folders) }),
    }
}

type Folders = Vec<(PathBuf, Listing)>;

/// The members' folders of the one cluster that a directory holds.
fn one_cluster(archive: &Path) -> Result<Folders, BackupError> {
    let mut clusters: BTreeMap<PathBuf, Folders> = BTreeMap::new();
    for depth in 0..3 {
        for folder in folders(archive, depth).map_err(|source| read(archive, source))? {
            let listing = Listing::read(&folder).map_err(|source| read(&folder, source))?;
            if !listing.bases.is_empty() {
                let cluster = folder.parent().unwrap_or(&folder).to_path_buf();
                clusters.entry(cluster).or_default().push((folder, listing));
            }
        }
    }
    let path = archive.to_path_buf();
    match clusters.len() {
        0 => Err(BackupError::NoArchive { path }),
        1 => one_history(path, clusters.into_values().next().unwrap_or_default()),
        _ => {
            let clusters = clusters.iter().map(|(cluster, folders)| held(cluster, folders));
            Err(BackupError::ManyClusters { path, clusters: clusters.collect() })
        }
    }
}

/// A member's number belongs to one data directory as long as a cluster lives.
fn one_history(path: PathBuf, folders: Folders) -> Result<Folders, BackupError> {
    let number = |(folder, _): &(PathBuf, Listing)| {
        let name = folder.file_name().unwrap_or_default().to_string_lossy();
        name.split('-').next().unwrap_or_default().to_owned()
    };
    let numbers: BTreeSet<String> = folders.iter().map(number).collect();
    if numbers.len() == folders.len() {
        return Ok(folders);
    }
    let members = folders.iter().map(|member| held(&member.0, std::slice::from_ref(member)));
    Err(BackupError::ManyHistories { path, members: members.collect() })
}

/// A folder with the newest whole state that is in it.
fn held(folder: &Path, folders: &[(PathBuf, Listing)]) -> String {
    let bases = folders.iter().flat_map(|(_, listing)| &listing.bases).map(|base| base.at);
    let last = bases.max_by_key(|at| at.index).unwrap_or_default();
    format!("{} (revision {} of {} and later)", folder.display(), last.revision, report::time(last.time))
}

fn read(path: &Path, source: io::Error) -> BackupError {
    BackupError::Read { path: path.into(), source }
}

/// The folders so deep in a directory.
fn folders(path: &Path, depth: usize) -> io::Result<Vec<PathBuf>> {
    if depth == 0 {
        return Ok(vec![path.to_path_buf()]);
    }
    let mut found = Vec::new();
    for entry in fs::read_dir(path)? {
        let path = entry?.path();
        if path.is_dir() {
            found.extend(folders(&path, depth - 1)?);
        }
    }
    Ok(found)
}

/// The way from the last base that is not after the moment.
fn way(listing: &Listing, goal: Goal) -> Result<Option<Way>, BackupError> {
    let Some(base) = listing.bases.iter().rev().find(|base| goal.allows(base.at)) else { return Ok(None) };
    let (segments, _) = listing.chain(base.at.index);
    let segments: Vec<Segment> = segments.into_iter().cloned().collect();
    let mut end = base.at;
    // The newest moment that is known is told by the last segment that tells one.
    for segment in segments.iter().rev() {
        let last = last_mark(&segment.path).map_err(|source| read(&segment.path, source))?;
        if let Some(mark) = last.filter(|mark| mark.index >= base.at.index) {
            end = mark;
            break;
        }
    }
    Ok(Some(Way { base: base.clone(), segments, end }))
}

/// The last moment that a segment tells of, as far as it can be read.
fn last_mark(path: &Path) -> io::Result<Option<Position>> {
    let mut reader = match Reader::open(path) {
        Ok(reader) => reader,
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => return Err(error),
        Err(_) => return Ok(None),
    };
    let mut last: Option<Position> = None;
    while let Ok(Some(record)) = reader.next() {
        if let Record::Mark(at) = record {
            // One that the others could not be asked about tells an older time than one before it.
            let time = last.map_or(at.time, |last| last.time.max(at.time));
            last = Some(Position { time, ..at });
        }
    }
    Ok(last)
}

/// Why the furthest way does not lead to a moment: there is a hole, or the archive ends.
fn beyond(goal: Goal, way: &Way, folders: &Folders) -> BackupError {
    let bases = folders.iter().flat_map(|(_, listing)| &listing.bases);
    let later = bases.filter(|base| base.at.index > way.end.index).min_by_key(|base| base.at.index);
    let end = format!("revision {} of {}", way.end.revision, report::time(way.end.time));
    let why = match later {
        Some(base) => format!(
            "it has a hole between {end} and revision {} of {}",
            base.at.revision,
            report::time(base.at.time)
        ),
        None => format!("it ends at {end}"),
    };
    BackupError::Unreachable { goal: goal.to_string(), why }
}

fn first_base(folders: &Folders) -> String {
    let bases = folders.iter().flat_map(|(_, listing)| &listing.bases);
    let first = bases.min_by_key(|base| base.at.index).map(|base| base.at).unwrap_or_default();
    format!("it begins with revision {} of {}", first.revision, report::time(first.time))
}
