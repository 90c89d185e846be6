//! All keys in order, in chunks that know how many of theirs are alive, so that counting a range takes one step per
//! chunk instead of one per key.
//!
//! Keeps true: a count is exact at every revision. A chunk's own number is used only for readers who see all of its
//! changes; for others its keys are looked at one by one. What a history means is left to `index.rs`.

use crate::{heads::Heads, index::History, revision::KeyRange};
use bytes::Bytes;
use std::ops::Bound;

/// Keys in a chunk, at most.
const CHUNK: usize = 128;

type Item = (Bytes, History);

/// The keys. No chunk is empty.
#[derive(Default)]
pub(crate) struct Keys {
    chunks: Vec<Chunk>,
    /// Of the first keys of all chunks but the first, which takes whatever is before the second.
    heads: Heads,
}

struct Chunk {
    /// No key of this chunk is before it, no key of the chunk before is after it. The first chunk's is not looked at.
    first: Bytes,
    items: Vec<Item>,
    heads: Heads,
    /// How many are alive now.
    alive: usize,
    /// The newest revision that changed one.
    newest: i64,
}

impl Chunk {
    fn new(items: Vec<Item>) -> Self {
        let first = items.first().map(|(key, _)| key.clone()).unwrap_or_default();
        let alive = items.iter().filter(|(_, history)| history.live().is_some()).count();
        let newest = items.iter().map(|(_, history)| history.newest()).max().unwrap_or_default();
        let mut chunk = Self { first, items, heads: Heads::default(), alive, newest };
        chunk.head();
        chunk
    }

    /// Where a key is, or where it belongs.
    fn find(&self, key: &[u8]) -> Result<usize, usize> {
        let near = self.heads.narrow(key);
        let found = self.items[near.clone()].binary_search_by(|(other, _)| other.as_ref().cmp(key));
        found.map(|at| near.start + at).map_err(|at| near.start + at)
    }

    fn insert(&mut self, at: usize, key: &[u8]) {
        let known = self.heads.insert(at, key);
        // A copy: the key given may be a piece of a whole request.
        self.items.insert(at, (Bytes::copy_from_slice(key), History::default()));
        if !known {
            self.head();
        }
    }

    fn head(&mut self) {
        self.heads = Heads::new(self.items.iter().map(|(key, _)| key.as_ref()));
    }

    /// How many of a part of this chunk's keys are alive at a revision.
    fn count(&self, part: &[Item], main: i64) -> usize {
        match self.newest <= main {
            true if part.len() == self.items.len() => self.alive,
            true => part.iter().filter(|(_, history)| history.live().is_some()).count(),
            false => part.iter().filter(|(_, history)| history.at(main).is_some()).count(),
        }
    }

    /// The second half, as a chunk; when it was the last key that made it too large, only that one, for keys often
    /// come in order.
    fn split(&mut self, added: usize) -> Self {
        let half = if added + 1 == self.items.len() { added } else { self.items.len() / 2 };
        let second = Self::new(self.items.split_off(half));
        self.alive -= second.alive;
        self.head();
        second
    }
}

impl Keys {
    /// A key's history.
    pub(crate) fn get(&self, key: &[u8]) -> Option<&History> {
        let chunk = self.chunks.get(self.chunk_of(key))?;
        Some(&chunk.items[chunk.find(key).ok()?].1)
    }

    /// Changes a key's history at a revision; a key that is not there yet begins with an empty one.
    pub(crate) fn change<T>(&mut self, key: &[u8], main: i64, change: impl FnOnce(&mut History) -> T) -> T {
        let number = self.chunk_of(key);
        if self.chunks.is_empty() {
            self.chunks.push(Chunk::new(Vec::new()));
        }
        let chunk = &mut self.chunks[number];
        let (at, new) = match chunk.find(key) {
            Ok(at) => (at, false),
            Err(at) => {
                chunk.insert(at, key);
                (at, true)
            }
        };
        let history = &mut chunk.items[at].1;
        let before = usize::from(history.live().is_some());
        let changed = change(history);
        chunk.alive = chunk.alive - before + usize::from(history.live().is_some());
        chunk.newest = chunk.newest.max(main);
        if new && chunk.items.len() > CHUNK {
            let second = chunk.split(at);
            let known = self.heads.insert(number, &second.first);
            self.chunks.insert(number + 1, second);
            if !known {
                self.head();
            }
        }
        changed
    }

    /// The keys of a range, in order.
    pub(crate) fn range(&self, range: &KeyRange) -> impl Iterator<Item = (&Bytes, &History)> {
        self.parts(range).flat_map(|(_, part)| part).map(|(key, history)| (key, history))
    }

    /// How many keys of a range are alive at a revision.
    pub(crate) fn count(&self, range: &KeyRange, main: i64) -> usize {
        self.parts(range).map(|(chunk, part)| chunk.count(part, main)).sum()
    }

    /// Keeps the keys whose histories `keep` says `true` of, and may shorten.
    pub(crate) fn retain(&mut self, mut keep: impl FnMut(&mut History) -> bool) {
        let mut kept: Vec<Chunk> = Vec::new();
        for mut chunk in std::mem::take(&mut self.chunks) {
            let before = chunk.items.len();
            chunk.items.retain_mut(|(_, history)| keep(history));
            if chunk.items.len() < before {
                chunk.head();
            }
            match kept.last_mut() {
                _ if chunk.items.is_empty() => {}
                Some(last) if last.items.len() + chunk.items.len() <= CHUNK / 2 => {
                    last.items.append(&mut chunk.items);
                    last.alive += chunk.alive;
                    last.newest = last.newest.max(chunk.newest);
                    last.head();
                }
                _ => kept.push(chunk),
            }
        }
        self.chunks = kept;
        self.head();
    }

    fn head(&mut self) {
        self.heads = Heads::new(self.chunks.iter().skip(1).map(|chunk| chunk.first.as_ref()));
    }

    /// The chunk that a key belongs to.
    fn chunk_of(&self, key: &[u8]) -> usize {
        let Some((_, later)) = self.chunks.split_first() else { return 0 };
        let near = self.heads.narrow(key);
        near.start + later[near].partition_point(|chunk| chunk.first.as_ref() <= key)
    }

    /// What lies within a range, chunk by chunk.
    fn parts(&self, range: &KeyRange) -> impl Iterator<Item = (&Chunk, &[Item])> {
        let bounds = range.bounds().filter(|_| !self.chunks.is_empty());
        let span = bounds.map(|(start, end)| (self.place(start, false), self.place(end, true)));
        span.into_iter().flat_map(move |(start, end)| {
            (start.0..=end.0).map(move |number| {
                let chunk = &self.chunks[number];
                let from = if number == start.0 { start.1 } else { 0 };
                let to = if number == end.0 { end.1 } else { chunk.items.len() };
                (chunk, &chunk.items[from..to])
            })
        })
    }

    /// The chunk and the place in it where a range begins or ends.
    fn place(&self, bound: Bound<&[u8]>, is_end: bool) -> (usize, usize) {
        let before = |key: &[u8], and_itself: bool| {
            let number = self.chunk_of(key);
            let at = match self.chunks[number].find(key) {
                Ok(at) => at + usize::from(and_itself),
                Err(at) => at,
            };
            (number, at)
        };
        match bound {
            Bound::Included(key) => before(key, is_end),
            Bound::Excluded(key) => before(key, !is_end),
            Bound::Unbounded if is_end => {
                let last = self.chunks.len() - 1;
                (last, self.chunks[last].items.len())
            }
            Bound::Unbounded => (0, 0),
        }
    }
}
