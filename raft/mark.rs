//! What the log has confirmed, written down in a second place: a log that lost its end is a good log otherwise.
//!
//! Keeps true: the mark never says more than what is on the log's disk, whenever the power is cut: it is raised after
//! an fsync of the log and lowered before the log is cut back. It is not synced itself, so after a power cut it may
//! say less than there was; after the end of a process it says all of it. The log is `log.rs`.

use crate::{
    identity::{checked, with_check},
    types::Vote,
};
use serde::{Deserialize, Serialize};
use std::{
    fs::{File, OpenOptions},
    io::{self, Read},
    os::unix::fs::FileExt,
    path::Path,
};

/// The record's place in the file: its length, then itself, then zeros. It is within one sector.
const SIZE: usize = 128;

/// What the log has confirmed.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
pub(crate) struct Mark {
    /// The last entry.
    pub(crate) last: Option<u64>,
    /// The vote.
    pub(crate) vote: Option<Vote>,
}

impl Mark {
    /// What of it a log has not; `None` if it has all.
    pub(crate) fn lacks(&self, last: Option<u64>, vote: Option<&Vote>) -> Option<String> {
        if last < self.last {
            return Some(format!("the log ends at {last:?}, and {:?} was confirmed", self.last));
        }
        let older = self.vote.as_ref().is_some_and(|mark| vote.is_none_or(|vote| vote < mark));
        older.then(|| format!("the vote is {vote:?}, and {:?} was given", self.vote))
    }
}

/// The file that holds the mark.
pub(crate) struct Marker {
    file: File,
    pub(crate) mark: Mark,
}

impl Marker {
    /// Opens or makes it. A mark that cannot be read says nothing.
    pub(crate) fn open(path: &Path) -> io::Result<Self> {
        let mut file = OpenOptions::new().read(true).write(true).create(true).truncate(false).open(path)?;
        let mut bytes = Vec::new();
        file.read_to_end(&mut bytes)?;
        let mark = match bytes.split_first() {
            // A new file, or one of which a power cut left the length only.
            None | Some((0, _)) => Mark::default(),
            Some((length, rest)) => {
                let record = rest.get(..usize::from(*length)).unwrap_or_default();
                checked(record).unwrap_or_else(|error| {
                    tracing::warn!(%error, path = %path.display(), "cannot read the mark of the log: going on without");
                    Mark::default()
                })
            }
        };
        Ok(Self { file, mark })
    }

    /// Sets it.
    pub(crate) fn set(&mut self, mark: Mark) -> io::Result<()> {
        if mark == self.mark {
            return Ok(());
        }
        let record = with_check(crate::codec::encode(&mark));
        let length = u8::try_from(record.len()).map_err(io::Error::other)?;
        let mut bytes = [&[length], record.as_slice()].concat();
        bytes.resize(SIZE, 0);
        self.file.write_all_at(&bytes, 0)?;
        self.mark = mark;
        Ok(())
    }

    /// Sets it so that it does not say that an entry, or one after it, is there.
    pub(crate) fn lower(&mut self, from: u64) -> io::Result<()> {
        let last = self.mark.last.min(from.checked_sub(1));
        self.set(Mark { last, ..self.mark.clone() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn vote(term: u64) -> Option<Vote> {
        Some(Vote::new(term, 1))
    }

    #[test]
    fn a_log_that_lost_its_end_is_known() {
        let mark = Mark { last: Some(7), vote: vote(3) };
        assert_eq!(mark.lacks(Some(7), vote(3).as_ref()), None);
        assert_eq!(mark.lacks(Some(9), vote(4).as_ref()), None);
        assert!(mark.lacks(Some(6), vote(3).as_ref()).unwrap().contains("the log ends at Some(6)"));
        assert!(mark.lacks(None, vote(3).as_ref()).is_some());
        assert!(mark.lacks(Some(7), vote(2).as_ref()).unwrap().contains("the vote"));
        assert!(mark.lacks(Some(7), None).is_some());
        assert_eq!(Mark::default().lacks(None, None), None);
    }

    #[test]
    fn it_is_read_back_and_a_damaged_one_says_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("log.mark");
        let mut marker = Marker::open(&path).unwrap();
        assert_eq!(marker.mark, Mark::default());
        marker.set(Mark { last: Some(u64::MAX), vote: Some(Vote::new(u64::MAX, u64::MAX)) }).unwrap();
        marker.set(Mark { last: Some(9), vote: vote(3) }).unwrap();
        assert_eq!(Marker::open(&path).unwrap().mark, Mark { last: Some(9), vote: vote(3) });
        marker.lower(5).unwrap();
        marker.lower(8).unwrap();
        assert_eq!(Marker::open(&path).unwrap().mark, Mark { last: Some(4), vote: vote(3) });
        marker.lower(0).unwrap();
        assert_eq!(Marker::open(&path).unwrap().mark.last, None);
        let mut bytes = std::fs::read(&path).unwrap();
        bytes[3] ^= 4;
        std::fs::write(&path, bytes).unwrap();
        assert_eq!(Marker::open(&path).unwrap().mark, Mark::default());
    }
}
