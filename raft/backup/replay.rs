//! From a base of an archive to a moment after it: the log's entries are applied once more.
//!
//! Keeps true: entries are applied in their order, each once, by the same function as on the members; where the archive
//! says which revision an entry led to, it is compared; a record that is cut or damaged ends the way, and if the moment
//! lies behind it that is an error.

use super::{
    BackupError,
    reach::{Goal, Way},
    report,
};
use crate::{
    archive::{
        Position,
        folder::Segment,
        segment::{Head, Reader, Record},
    },
    command::Command,
    engine::Engine,
    image::{self, KV, Saved},
    mvcc::{self, Effects, State},
    types::Entry,
    values::Disk,
};
use openraft::{EntryPayload, entry::RaftEntry};
use std::{io, path::Path};
use tokio_util::sync::CancellationToken;

/// Entries applied in one batch.
const BATCH: usize = 512;

/// The state on its way.
pub(crate) struct Replay<'a> {
    engine: &'a Engine,
    state: State,
    saved: Saved,
    at: u64,
    effects: Effects,
    pending: usize,
    /// Every change up to this time has been read.
    told: i64,
    /// Whose entries they are.
    head: Option<Head>,
}

impl<'a> Replay<'a> {
    /// From a base that was put into a database.
    pub(crate) fn new(engine: &'a Engine, way: &Way) -> Result<Self, BackupError> {
        let (state, saved) = image::load(engine).map_err(|source| damaged(&way.base.path, source))?;
        let at = saved.applied.map_or(0, |id| id.index);
        let told = state.time;
        let effects = Effects::default();
        Ok(Self { engine, state, saved, at, effects, pending: 0, told, head: None })
    }

    /// Goes as far as the moment; where it led.
    pub(crate) fn run(
        mut self,
        goal: Goal,
        way: &Way,
        stop: &CancellationToken,
    ) -> Result<Position, BackupError> {
        let mut there = false;
        for segment in &way.segments {
            there = self.follow(goal, segment, stop)?;
            if there {
                break;
            }
            if segment.last.is_some_and(|last| last > self.at) {
                let cut = io::Error::new(io::ErrorKind::UnexpectedEof, "it lacks the entries of its end");
                return Err(damaged(&segment.path, cut));
            }
        }
        self.write().map_err(|source| damaged(&way.base.path, source))?;
        let reached = self.position();
        let told = Position { time: reached.time.max(self.told), ..reached };
        if there || goal.is_reached(told) {
            return Ok(reached);
        }
        let why = format!("it ends at revision {} of {}", reached.revision, report::time(told.time));
        Err(BackupError::Unreachable { goal: goal.to_string(), why })
    }

    /// Goes through a segment; whether the moment was reached.
    fn follow(
        &mut self,
        goal: Goal,
        segment: &Segment,
        stop: &CancellationToken,
    ) -> Result<bool, BackupError> {
        // What its writer had not finished when it died is not part of the history.
        let ends = |source| match segment.last {
            None => Ok(false),
            Some(_) => Err(damaged(&segment.path, source)),
        };
        let mut reader = match Reader::open(&segment.path) {
            Ok(reader) => reader,
            Err(source) => return ends(source),
        };
        let wrong = |source| damaged(&segment.path, source);
        self.belongs(reader.head).map_err(wrong)?;
        loop {
            if stop.is_cancelled() {
                return Err(BackupError::Interrupted);
            }
            match reader.next() {
                Ok(None) => return Ok(false),
                Ok(Some(record)) => {
                    if self.step(goal, record).map_err(wrong)? {
                        return Ok(true);
                    }
                }
                Err(source) => return ends(source),
            }
        }
    }

    fn belongs(&mut self, head: Head) -> io::Result<()> {
        match self.head.replace(head) {
            Some(other) if other != head => Err(invalid(format!("{head:?} is another than {other:?}"))),
            _ => Ok(()),
        }
    }

    fn position(&self) -> Position {
        Position { index: self.at, revision: self.state.revision, time: self.state.time }
    }

    /// Takes a record; whether the moment was reached before it.
    fn step(&mut self, goal: Goal, record: Record) -> io::Result<bool> {
        match record {
            Record::Mark(at) if at.index == self.at && at.revision != self.state.revision => {
                Err(invalid(format!(
                    "entry {} led to revision {}, and leads to {} now",
                    at.index, at.revision, self.state.revision
                )))
            }
            Record::Mark(at) => {
                self.told = self.told.max(at.time);
                Ok(false)
            }
            Record::Head(_) => Ok(false),
            Record::Entry(entry) if entry.index() <= self.at => Ok(false),
            Record::Entry(entry) if entry.index() != self.at + 1 => {
                Err(invalid(format!("entry {} follows entry {}", entry.index(), self.at)))
            }
            Record::Entry(entry) => self.entry(goal, entry),
        }
    }

    fn entry(&mut self, goal: Goal, entry: Entry) -> io::Result<bool> {
        let index = entry.index();
        if let EntryPayload::Normal(command) = entry.payload {
            let over = match (goal, &command) {
                (Goal::Revision(revision), _) => self.state.revision >= revision,
                // Times never go back: all that follows is later, too.
                (Goal::Time(goal), Command::At { time, .. }) => *time > goal,
                _ => false,
            };
            if over {
                return Ok(true);
            }
            mvcc::apply(&mut self.state, &Disk(self.engine), &command, &mut self.effects)?;
            self.pending += 1;
        }
        self.at = index;
        if self.pending >= BATCH {
            self.write()?;
        }
        Ok(false)
    }

    fn write(&mut self) -> io::Result<()> {
        let effects = std::mem::take(&mut self.effects);
        self.pending = 0;
        self.saved.revision = self.state.revision;
        self.saved.compacted = self.state.compacted;
        image::write(self.engine, &effects, &self.saved)?;
        let mut batch = self.engine.batch();
        for revision in &effects.removed {
            batch.delete(KV, &revision.to_bytes())?;
        }
        batch.write()
    }
}

fn damaged(path: &Path, source: io::Error) -> BackupError {
    BackupError::DamagedArchive { path: path.into(), source }
}

fn invalid(text: String) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, text)
}
