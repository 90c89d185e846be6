//! Where a search for an order stands: which operations have their place, and what the keys are after them.
//!
//! Keeps true: what was placed last can be taken back, and everything is as before; each of these costs what the
//! operation touches, not what the history holds; two situations have the same mark only if the same operations have
//! their place and the keys are the same (but for a collision of 128 bits). What to try is left to `search`.

use super::operations::{ABSENT, FREE, NEVER, Operation, Value};

/// The situation after some operations.
pub(super) struct Situation<'a> {
    operations: &'a [Operation],
    certain: usize,
    state: Vec<Value>,
    placed: Vec<bool>,
    depth: usize,
    /// The operations that did happen and have no place yet, in the order of their calls: for each the next one and
    /// the one before, with the chain's own ends in the last cell.
    next: Vec<usize>,
    previous: Vec<usize>,
    /// How many of those have seen each value.
    unseen: Vec<u32>,
    mark: u128,
}

impl<'a> Situation<'a> {
    /// Nothing has its place yet. The first `certain` operations did happen, in the order of their calls.
    pub(super) fn new(operations: &'a [Operation], certain: usize, state: Vec<Value>) -> Self {
        let mut this = Self {
            operations,
            certain,
            placed: vec![false; operations.len()],
            depth: 0,
            next: (1..=certain).chain([0]).collect(),
            previous: std::iter::once(certain).chain(0..certain).collect(),
            unseen: Vec::new(),
            mark: 0,
            state,
        };
        for (_, value) in operations[..certain].iter().flat_map(|op| &op.sees) {
            let index = *value as usize;
            if is_counted(*value) && this.unseen.len() <= index {
                this.unseen.resize(index + 1, 0);
            }
            this.count(*value, 1);
        }
        this
    }

    /// Whether everything that did happen has its place.
    pub(super) fn is_over(&self) -> bool {
        self.depth == self.certain
    }

    /// How many of those that did happen have their place.
    pub(super) fn depth(&self) -> usize {
        self.depth
    }

    /// Whether an operation has no place yet.
    pub(super) fn is_open(&self, index: usize) -> bool {
        !self.placed[index]
    }

    /// What did happen and was called before the first answer among those that have no place yet, and when that was.
    pub(super) fn open(&self) -> (Vec<usize>, u64) {
        let mut first = u64::MAX;
        let mut open = Vec::new();
        let mut index = self.next[self.certain];
        while index != self.certain && self.operations[index].invoked <= first {
            first = first.min(self.operations[index].returned);
            open.push(index);
            index = self.next[index];
        }
        (open, first)
    }

    /// Whether the keys are what an operation saw.
    pub(super) fn explains(&self, index: usize) -> bool {
        self.operations[index].sees.iter().all(|(key, value)| matches(self.state[*key], *value))
    }

    /// What keys would have to be for an operation to come now.
    pub(super) fn lacks(&self, index: usize) -> impl Iterator<Item = (usize, Value)> {
        let sees = self.operations[index].sees.iter();
        sees.filter(|(key, value)| !matches(self.state[*key], *value)).copied()
    }

    /// Whether an operation can come now: it saw what is there, and overwrites nothing that others have yet to see.
    /// Only values are written once.
    pub(super) fn allows(&self, index: usize) -> bool {
        let operation = &self.operations[index];
        let forbids = |key: &usize| {
            let seen = operation.sees.iter().filter(|(k, _)| k == key).map(|(_, value)| *value);
            let old = seen.clone().next().unwrap_or(self.state[*key]);
            let own = if operation.certain { seen.filter(|value| *value == old).count() } else { 0 };
            self.unseen.get(old as usize).is_some_and(|count| *count as usize > own)
        };
        self.explains(index) && !operation.writes.iter().any(|(key, _)| forbids(key))
    }

    /// Gives an operation the next place. Returns what it overwrote.
    pub(super) fn place(&mut self, index: usize) -> Vec<(usize, Value)> {
        let operations = self.operations;
        let operation = &operations[index];
        let mut before = Vec::with_capacity(operation.writes.len());
        for (key, value) in operation.sees.iter().chain(&operation.writes) {
            if self.state[*key] != *value {
                before.push((*key, self.state[*key]));
                self.set(*key, *value);
            }
        }
        self.flip(index, 1_u32.wrapping_neg());
        before
    }

    /// Takes back what was placed last, with what it overwrote.
    pub(super) fn take_back(&mut self, index: usize, before: Vec<(usize, Value)>) {
        before.into_iter().rev().for_each(|(key, value)| self.set(key, value));
        self.flip(index, 1);
    }

    /// What tells this situation from others.
    pub(super) fn mark(&self) -> u128 {
        self.mark
    }

    fn set(&mut self, key: usize, value: Value) {
        let cell = |value: Value| mix(1, (key as u64) << 32 | u64::from(value));
        self.mark ^= cell(self.state[key]) ^ cell(value);
        self.state[key] = value;
    }

    /// Gives an operation a place or takes it away; what it saw is waited for so much more.
    fn flip(&mut self, index: usize, more: u32) {
        self.mark ^= mix(2, index as u64);
        self.placed[index] = !self.placed[index];
        if index >= self.certain {
            return;
        }
        let (before, after) = (self.previous[index], self.next[index]);
        let is_placed = self.placed[index];
        self.next[before] = if is_placed { after } else { index };
        self.previous[after] = if is_placed { before } else { index };
        self.depth = if is_placed { self.depth + 1 } else { self.depth - 1 };
        let operations = self.operations;
        operations[index].sees.iter().for_each(|(_, value)| self.count(*value, more));
    }

    fn count(&mut self, value: Value, more: u32) {
        if is_counted(value) {
            let count = &mut self.unseen[value as usize];
            *count = count.wrapping_add(more);
        }
    }
}

/// Whether it is a value that one write has made.
fn is_counted(value: Value) -> bool {
    value != ABSENT && value < NEVER
}

fn matches(is: Value, seen: Value) -> bool {
    is == FREE || is == seen
}

/// A number as 128 bits that look random, other ones for each kind of number.
fn mix(kind: u64, number: u64) -> u128 {
    let half = |salt: u64| {
        let mut bits = number.wrapping_add((kind ^ salt).wrapping_mul(0x9e37_79b9_7f4a_7c15));
        bits = (bits ^ (bits >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        bits = (bits ^ (bits >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        bits ^ (bits >> 31)
    };
    u128::from(half(0x243f_6a88)) << 64 | u128::from(half(0xb7e1_5162))
}
