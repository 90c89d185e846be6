//! The newest entries of the log, in memory.
//!
//! Keeps true: without a hole; what is not on disk yet is all here; what is on disk stays within a bound. Writing is
//! `log.rs`.

use crate::types::Entry;
use openraft::entry::RaftEntry;
use std::collections::VecDeque;

/// Bytes of newest entries kept in memory once they are on disk.
const TAIL_BYTES: usize = 2 << 20;

/// The newest entries, without a hole.
#[derive(Default)]
pub(crate) struct Tail {
    entries: VecDeque<(Entry, usize)>,
    bytes: usize,
    written: u64,
}

impl Tail {
    pub(crate) fn first(&self) -> Option<u64> {
        self.entries.front().map(|(entry, _)| entry.index())
    }

    pub(crate) fn push(&mut self, entry: Entry, bytes: usize) {
        if self.entries.back().is_some_and(|(last, _)| last.index() + 1 != entry.index()) {
            (self.entries, self.bytes) = (VecDeque::new(), 0);
        }
        self.bytes += bytes;
        self.entries.push_back((entry, bytes));
    }

    /// Entries up to here are on disk, and need not stay.
    pub(crate) fn written(&mut self, index: u64) {
        self.written = index;
        while self.bytes > TAIL_BYTES && self.first().is_some_and(|first| first <= self.written) {
            self.pop_front();
        }
    }

    fn pop_front(&mut self) {
        if let Some((_, bytes)) = self.entries.pop_front() {
            self.bytes -= bytes;
        }
    }

    pub(crate) fn truncate(&mut self, from: u64) {
        while self.entries.back().is_some_and(|(entry, _)| entry.index() >= from) {
            self.bytes -= self.entries.pop_back().map_or(0, |(_, bytes)| bytes);
        }
        self.written = self.written.min(from.saturating_sub(1));
    }

    pub(crate) fn purge(&mut self, upto: u64) {
        while self.first().is_some_and(|first| first <= upto) {
            self.pop_front();
        }
    }

    /// The entries of `[from, to)`, if all of them that exist are here.
    pub(crate) fn read(&self, from: u64, to: u64, limit: usize) -> Option<Vec<Entry>> {
        let first = self.first().filter(|first| *first <= from)?;
        let skip = usize::try_from(from - first).ok()?;
        let mut budget = limit;
        let mut entries = Vec::new();
        for (entry, bytes) in self.entries.iter().skip(skip).take_while(|(entry, _)| entry.index() < to) {
            if *bytes > budget && !entries.is_empty() {
                break;
            }
            budget = budget.saturating_sub(*bytes);
            entries.push(entry.clone());
        }
        Some(entries)
    }
}
