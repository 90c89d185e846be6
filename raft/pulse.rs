//! How the log's disk does, as seen by those who do not wait for it.
//!
//! Keeps true: a write that takes too long is known while it is still under way, and for a while after it: a disk that
//! stalls once stalls again. What follows from it is `node.rs`.

use std::{
    sync::atomic::{AtomicU64, Ordering},
    time::{Duration, Instant},
};

/// For so long after a write that took too long the disk counts as slow.
const REST: Duration = Duration::from_secs(5);

/// The log's writes, as far as others must know of them.
pub(crate) struct Pulse {
    origin: Instant,
    /// When the write under way began, in milliseconds from 1; 0 when there is none.
    begun: AtomicU64,
    /// When the last write that took too long ended, likewise.
    slow: AtomicU64,
    /// The last entry on disk.
    durable: AtomicU64,
    bound: AtomicU64,
}

impl Pulse {
    /// Until [`Pulse::bound`] is called, no write takes too long.
    pub(crate) fn new() -> Self {
        let none = || AtomicU64::new(0);
        Self {
            origin: Instant::now(),
            begun: none(),
            slow: none(),
            durable: none(),
            bound: AtomicU64::new(u64::MAX),
        }
    }

    /// A write that takes longer than this takes too long.
    pub(crate) fn bound(&self, bound: Duration) {
        self.bound.store(milliseconds(bound), Ordering::Relaxed);
    }

    fn now(&self) -> u64 {
        milliseconds(self.origin.elapsed()) + 1
    }

    /// A write begins.
    pub(crate) fn begin(&self) {
        self.begun.store(self.now(), Ordering::Relaxed);
    }

    /// It has ended.
    pub(crate) fn end(&self) {
        let (now, begun) = (self.now(), self.begun.swap(0, Ordering::Relaxed));
        if now.saturating_sub(begun) > self.bound.load(Ordering::Relaxed) {
            self.slow.store(now, Ordering::Relaxed);
        }
    }

    /// Everything up to an entry is on disk.
    pub(crate) fn reach(&self, index: u64) {
        self.durable.store(index, Ordering::Relaxed);
    }

    /// The last entry on disk.
    pub(crate) fn durable(&self) -> u64 {
        self.durable.load(Ordering::Relaxed)
    }

    /// Whether the write under way takes too long.
    pub(crate) fn stalls(&self) -> bool {
        let read = |at: &AtomicU64| at.load(Ordering::Relaxed);
        stalls(self.now(), read(&self.begun), read(&self.bound))
    }

    /// Whether the disk stalls, or did a moment ago.
    pub(crate) fn is_slow(&self) -> bool {
        self.stalls() || is_recent(self.now(), self.slow.load(Ordering::Relaxed))
    }
}

fn milliseconds(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

fn stalls(now: u64, begun: u64, bound: u64) -> bool {
    begun > 0 && now.saturating_sub(begun) > bound
}

fn is_recent(now: u64, slow: u64) -> bool {
    slow > 0 && now.saturating_sub(slow) < milliseconds(REST)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_disk_is_slow_while_a_write_takes_long_and_a_while_after() {
        assert!(!stalls(100_000, 0, 500), "there is no write");
        assert!(!stalls(100_000, 99_600, 500) && stalls(100_000, 99_400, 500));
        assert!(is_recent(100_000, 96_000) && !is_recent(101_000, 96_000) && !is_recent(1, 0));
    }

    #[test]
    fn a_long_write_is_remembered() {
        let pulse = Pulse::new();
        pulse.begin();
        std::thread::sleep(Duration::from_millis(3));
        pulse.end();
        assert!(!pulse.is_slow(), "nothing takes too long without a bound");
        pulse.bound(Duration::from_millis(1));
        pulse.begin();
        std::thread::sleep(Duration::from_millis(3));
        assert!(pulse.is_slow());
        pulse.end();
        assert!(pulse.is_slow());
    }
}
