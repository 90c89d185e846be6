//! Revisions and ranges of keys: the coordinates of everything in the store.
//!
//! Keeps true: a revision's 12 bytes on disk sort as the revision does, so that a scan of the history runs in the
//! order in which it was made. Knows nothing of where keys and values live.

use bytes::Bytes;
use std::ops::Bound;

/// When a key changed: the store's revision, and the place within the transaction that made it.
#[derive(Clone, Copy, Debug, Default, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub(crate) struct Revision {
    /// The store's revision.
    pub(crate) main: i64,
    /// The change's place among those of the same revision, from 0.
    pub(crate) sub: u32,
}

impl Revision {
    /// The bytes under which this revision's record lies on disk.
    pub(crate) fn to_bytes(self) -> [u8; 12] {
        let mut bytes = [0; 12];
        bytes[..8].copy_from_slice(&self.main.to_be_bytes());
        bytes[8..].copy_from_slice(&self.sub.to_be_bytes());
        bytes
    }

    /// The revision of such bytes; `None` for other bytes.
    pub(crate) fn from_bytes(bytes: &[u8]) -> Option<Self> {
        let (main, sub) = bytes.split_at_checked(8)?;
        Some(Self {
            main: i64::from_be_bytes(main.try_into().ok()?),
            sub: u32::from_be_bytes(sub.try_into().ok()?),
        })
    }
}

/// The keys that a request names, as etcd does: one key, `[key, end)`, or from a key on.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct KeyRange {
    start: Bytes,
    end: End,
}

#[derive(Clone, Debug, Eq, PartialEq)]
enum End {
    Single,
    Before(Bytes),
    Open,
}

/// Bounds of a range in an ordered map.
pub(crate) type Bounds<'a> = (Bound<&'a [u8]>, Bound<&'a [u8]>);

impl KeyRange {
    /// From a request's `key` and `range_end`: an empty end means this one key, a single zero byte means all keys
    /// from `key` on.
    pub(crate) fn new(key: &Bytes, end: &Bytes) -> Self {
        let end = match end.as_ref() {
            [] => End::Single,
            [0] => End::Open,
            _ => End::Before(end.clone()),
        };
        Self { start: key.clone(), end }
    }

    /// Whether a key is within.
    pub(crate) fn contains(&self, key: &[u8]) -> bool {
        match &self.end {
            End::Single => key == self.start,
            End::Before(end) => key >= self.start.as_ref() && key < end.as_ref(),
            End::Open => key >= self.start.as_ref(),
        }
    }

    /// Bounds for an ordered map; `None` when nothing can be within (an end that is not after the start).
    pub(crate) fn bounds(&self) -> Option<Bounds<'_>> {
        let start = self.start.as_ref();
        match &self.end {
            End::Single => Some((Bound::Included(start), Bound::Included(start))),
            End::Before(end) if end <= &self.start => None,
            End::Before(end) => Some((Bound::Included(start), Bound::Excluded(end.as_ref()))),
            End::Open => Some((Bound::Included(start), Bound::Unbounded)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_sort_as_revisions() {
        let order = [(1, 0), (1, 1), (2, 0), (255, 7), (256, 0), (i64::MAX, u32::MAX)];
        let revisions: Vec<_> = order.map(|(main, sub)| Revision { main, sub }).into();
        assert!(revisions.is_sorted_by_key(|r| r.to_bytes()));
        for revision in revisions {
            assert_eq!(Revision::from_bytes(&revision.to_bytes()), Some(revision));
        }
        assert_eq!(Revision::from_bytes(b"short"), None);
    }

    #[test]
    fn ranges_contain_what_etcd_means() {
        let check = |key: &'static str, end: &'static str, probe: &str, inside: bool| {
            let range = KeyRange::new(&Bytes::from(key), &Bytes::from(end));
            assert_eq!(range.contains(probe.as_bytes()), inside, "{range:?} {probe}");
            let in_bounds = range
                .bounds()
                .is_some_and(|bounds| std::ops::RangeBounds::<[u8]>::contains(&bounds, probe.as_bytes()));
            assert_eq!(in_bounds, inside, "bounds of {range:?} {probe}");
        };
        check("a", "", "a", true);
        check("a", "", "aa", false);
        check("a", "c", "b", true);
        check("a", "c", "c", false);
        check("b", "\0", "zz", true);
        check("b", "\0", "a", false);
        check("\0", "\0", "a", true);
        check("c", "a", "b", false);
    }
}
