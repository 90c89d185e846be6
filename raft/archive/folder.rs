//! One member's folder of an archive: bases, and segments with the log entries after them.
//!
//! Keeps true: names say which entries a file holds, so a hole is seen without reading; nothing has its final name
//! before it is whole and on the disk; a file that is needed for any moment within the retention is not removed. The
//! bytes are `segment.rs` and `backup/file.rs`.

use super::segment::Position;
use std::{
    fs, io,
    path::{Path, PathBuf},
};

/// The segment that is being written ends so.
pub(crate) const PART: &str = ".part";

/// A whole state.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct Base {
    pub(crate) at: Position,
    pub(crate) path: PathBuf,
}

/// Entries one after the other.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct Segment {
    pub(crate) first: u64,
    /// `None` while it is being written, or when its writer died.
    pub(crate) last: Option<u64>,
    pub(crate) path: PathBuf,
}

/// What there is, in the order of entries.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub(crate) struct Listing {
    pub(crate) bases: Vec<Base>,
    pub(crate) segments: Vec<Segment>,
}

/// A base's name.
pub(crate) fn base_name(at: Position) -> String {
    format!("base-{:020}-{:020}-{:015}.db", at.index, at.revision, at.time)
}

/// The name of a segment that is complete, or of one that is being written.
pub(crate) fn segment_name(first: u64, last: Option<u64>) -> String {
    last.map_or_else(|| format!("log-{first:020}{PART}"), |last| format!("log-{first:020}-{last:020}"))
}

impl Listing {
    /// What is in a folder.
    pub(crate) fn read(folder: &Path) -> io::Result<Self> {
        let mut listing = Self::default();
        for entry in fs::read_dir(folder)? {
            let path = entry?.path();
            let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
            if let Some(at) = parse_base(&name) {
                listing.bases.push(Base { at, path });
            } else if let Some((first, last)) = parse_segment(&name) {
                listing.segments.push(Segment { first, last, path });
            }
        }
        listing.bases.sort_by_key(|base| base.at.index);
        // A segment that was not ended comes after one that was and begins with the same entry.
        listing.segments.sort_by_key(|segment| (segment.first, segment.last.is_none()));
        Ok(listing)
    }

    /// The segments with everything after an entry, as far as there is no hole, and the last entry that their names
    /// promise. A segment without an end is the last.
    pub(crate) fn chain(&self, after: u64) -> (Vec<&Segment>, u64) {
        let (mut end, mut chain) = (after, Vec::new());
        for segment in &self.segments {
            if segment.first > end + 1 {
                break;
            }
            match segment.last {
                Some(last) if last > end => {
                    end = last;
                    chain.push(segment);
                }
                Some(_) => {}
                None => {
                    chain.push(segment);
                    break;
                }
            }
        }
        (chain, end)
    }

    /// The last entry after which the archive goes on; none if a base must come first.
    pub(crate) fn end(&self) -> Option<u64> {
        let newest = self.bases.last()?.at.index;
        let ends = |base: &Base| self.chain(base.at.index).1;
        // A base may have been written before the entries that lead to it.
        let before = self.bases.iter().rev().nth(1).map_or(newest, ends);
        let after = self.chain(newest).1;
        Some(if before < newest && after == newest { before } else { after })
    }

    /// Files that are needed only for what is older than a time.
    pub(crate) fn outdated(&self, time: i64) -> Vec<&Path> {
        let Some(keep) = self.bases.iter().rev().find(|base| base.at.time <= time) else { return Vec::new() };
        let bases = self.bases.iter().filter(|base| base.at.index < keep.at.index).map(|base| &base.path);
        let old = |segment: &&Segment| segment.last.is_some_and(|last| last <= keep.at.index);
        let segments = self.segments.iter().filter(old).map(|segment| &segment.path);
        bases.chain(segments).map(PathBuf::as_path).collect()
    }
}

fn parse_base(name: &str) -> Option<Position> {
    let mut parts = name.strip_prefix("base-")?.strip_suffix(".db")?.split('-');
    let at = Position {
        index: parts.next()?.parse().ok()?,
        revision: parts.next()?.parse().ok()?,
        time: parts.next()?.parse().ok()?,
    };
    parts.next().is_none().then_some(at)
}

fn parse_segment(name: &str) -> Option<(u64, Option<u64>)> {
    let name = name.strip_prefix("log-")?;
    if let Some(first) = name.strip_suffix(PART) {
        return Some((first.parse().ok()?, None));
    }
    let (first, last) = name.split_once('-')?;
    Some((first.parse().ok()?, Some(last.parse().ok()?)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn listing(bases: &[(u64, i64)], segments: &[(u64, Option<u64>)]) -> Listing {
        let folder = tempfile::tempdir().unwrap();
        let touch = |name: String| fs::write(folder.path().join(name), "").unwrap();
        for (index, time) in bases {
            touch(base_name(Position { index: *index, revision: 1, time: *time }));
        }
        segments.iter().for_each(|(first, last)| touch(segment_name(*first, *last)));
        ["base.part", "lock", "log-x", "log-1-2-3"].iter().for_each(|name| touch((*name).to_owned()));
        Listing::read(folder.path()).unwrap()
    }

    #[test]
    fn a_chain_ends_at_a_hole() {
        let check = |after: u64, segments: &[(u64, Option<u64>)], expect: (usize, u64)| {
            let listing = listing(&[], segments);
            let (chain, end) = listing.chain(after);
            assert_eq!((chain.len(), end), expect, "{segments:?} after {after}");
        };
        check(0, &[], (0, 0));
        check(0, &[(1, Some(5)), (6, Some(9))], (2, 9));
        check(7, &[(1, Some(5)), (6, Some(9))], (1, 9));
        check(0, &[(1, Some(5)), (7, Some(9))], (1, 5));
        check(0, &[(2, Some(5))], (0, 0));
        check(3, &[(1, Some(5)), (6, None)], (2, 5));
        check(0, &[(1, Some(5)), (1, None), (6, Some(9))], (2, 5));
        check(9, &[(1, Some(5)), (6, Some(9)), (10, None)], (1, 9));
    }

    #[test]
    fn what_is_within_the_retention_stays() {
        let listing = listing(
            &[(0, 100), (10, 200), (20, 300)],
            &[(1, Some(8)), (9, Some(12)), (13, Some(20)), (21, None)],
        );
        let check = |time: i64, expect: usize| {
            let outdated = listing.outdated(time);
            assert_eq!(outdated.len(), expect, "{outdated:?} before {time}");
        };
        check(50, 0);
        check(150, 0);
        check(250, 2);
        check(300, 5);
        check(900, 5);
    }
}
