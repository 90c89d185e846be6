//! A work queue of names: an item that is added while it waits or is worked on is worked on once more, never
//! twice at a time; failed items come back after a delay that doubles.
//!
//! Leaves to others what an item means. Dropping the queue wakes everybody who waits.

use std::{
    collections::{BTreeMap, HashMap, HashSet, VecDeque},
    fmt::Debug,
    hash::Hash,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};
use tokio::{sync::Notify, time::Instant};

/// The delays between tries of a failing item.
#[derive(Clone, Copy, Debug)]
pub struct Backoff {
    /// After the first failure; doubles from there.
    pub first: Duration,
    /// Never longer than this.
    pub most: Duration,
}

impl Default for Backoff {
    fn default() -> Self {
        Self { first: Duration::from_millis(5), most: Duration::from_secs(60) }
    }
}

/// The queue; cheap to clone.
#[derive(Debug)]
pub struct WorkQueue<T> {
    inner: Arc<Inner<T>>,
}

#[derive(Debug)]
struct Inner<T> {
    state: Mutex<State<T>>,
    wake: Notify,
    backoff: Backoff,
}

#[derive(Debug)]
struct State<T> {
    ready: VecDeque<T>,
    waiting: HashSet<T>,
    working: HashSet<T>,
    delayed: BTreeMap<(Instant, u64), T>,
    due: HashMap<T, (Instant, u64)>,
    failures: HashMap<T, u32>,
    sequence: u64,
}

impl<T> Clone for WorkQueue<T> {
    fn clone(&self) -> Self {
        Self { inner: self.inner.clone() }
    }
}

impl<T: Clone + Eq + Hash + Debug> Default for WorkQueue<T> {
    fn default() -> Self {
        Self::new(Backoff::default())
    }
}

impl<T: Clone + Eq + Hash + Debug> WorkQueue<T> {
    /// An empty queue.
    #[must_use]
    pub fn new(backoff: Backoff) -> Self {
        let state = State {
            ready: VecDeque::new(),
            waiting: HashSet::new(),
            working: HashSet::new(),
            delayed: BTreeMap::new(),
            due: HashMap::new(),
            failures: HashMap::new(),
            sequence: 0,
        };
        Self { inner: Arc::new(Inner { state: Mutex::new(state), wake: Notify::new(), backoff }) }
    }

    /// Queues `item`, unless it waits already.
    pub fn add(&self, item: T) {
        self.with(|state| state.add(item));
        self.inner.wake.notify_one();
    }

    /// Queues `item` after `delay`; the earlier of two delays counts.
    pub fn add_after(&self, item: T, delay: Duration) {
        if delay.is_zero() {
            return self.add(item);
        }
        self.with(|state| state.delay(item, Instant::now() + delay));
        self.inner.wake.notify_one();
    }

    /// Queues a failed `item` after its next delay.
    pub fn add_rate_limited(&self, item: T) {
        let backoff = self.inner.backoff;
        let delay = self.with(|state| {
            let failures = state.failures.entry(item.clone()).or_default();
            let delay = backoff.first.saturating_mul(1 << (*failures).min(30)).min(backoff.most);
            *failures += 1;
            delay
        });
        self.add_after(item, delay);
    }

    /// Forgets the failures of `item`: its next failure starts with the first delay.
    pub fn forget(&self, item: &T) {
        self.with(|state| state.failures.remove(item));
    }

    /// How often `item` failed since it was last forgotten.
    #[must_use]
    pub fn failures(&self, item: &T) -> u32 {
        self.with(|state| state.failures.get(item).copied().unwrap_or_default())
    }

    /// The next item, which is then being worked on until [`Self::done`]. Waits for one.
    pub async fn get(&self) -> T {
        loop {
            let notified = self.inner.wake.notified();
            let next_due = match self.with(State::take) {
                Ok(item) => {
                    // Another worker may sleep through what is left.
                    self.inner.wake.notify_one();
                    return item;
                }
                Err(next_due) => next_due,
            };
            match next_due {
                None => notified.await,
                Some(due) => {
                    tokio::select! { () = notified => {}, () = tokio::time::sleep_until(due) => {} }
                }
            }
        }
    }

    /// Ends the work on `item`; it is queued again if it was added meanwhile.
    pub fn done(&self, item: &T) {
        let again = self.with(|state| {
            state.working.remove(item);
            state.waiting.contains(item).then(|| state.ready.push_back(item.clone())).is_some()
        });
        if again {
            self.inner.wake.notify_one();
        }
    }

    /// How many items wait, delayed ones not counted.
    #[must_use]
    pub fn len(&self) -> usize {
        self.with(|state| state.waiting.len())
    }

    /// Whether no item waits.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    fn with<R>(&self, f: impl FnOnce(&mut State<T>) -> R) -> R {
        f(&mut self.inner.state.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl<T: Clone + Eq + Hash> State<T> {
    fn add(&mut self, item: T) {
        if let Some(at) = self.due.remove(&item) {
            self.delayed.remove(&at);
        }
        if self.waiting.insert(item.clone()) && !self.working.contains(&item) {
            self.ready.push_back(item);
        }
    }

    fn delay(&mut self, item: T, at: Instant) {
        if self.waiting.contains(&item) || self.due.get(&item).is_some_and(|due| due.0 <= at) {
            return;
        }
        self.sequence += 1;
        let at = (at, self.sequence);
        if let Some(later) = self.due.insert(item.clone(), at) {
            self.delayed.remove(&later);
        }
        self.delayed.insert(at, item);
    }

    /// An item to work on, or when the next delayed one is due.
    fn take(&mut self) -> Result<T, Option<Instant>> {
        let now = Instant::now();
        while let Some(entry) = self.delayed.first_entry() {
            if entry.key().0 > now {
                break;
            }
            let item = entry.remove();
            self.due.remove(&item);
            self.add(item);
        }
        match self.ready.pop_front() {
            Some(item) => {
                self.waiting.remove(&item);
                self.working.insert(item.clone());
                Ok(item)
            }
            None => Err(self.delayed.first_key_value().map(|(at, _)| at.0)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn an_item_is_worked_on_once_at_a_time() {
        let queue = WorkQueue::default();
        queue.add("a");
        queue.add("a");
        queue.add("b");
        assert_eq!(queue.get().await, "a");
        queue.add("a");
        assert_eq!(queue.get().await, "b");
        let early = tokio::time::timeout(Duration::from_secs(1), queue.get()).await;
        assert!(early.is_err(), "a is still being worked on");
        queue.done(&"a");
        assert_eq!(queue.get().await, "a");
        assert!(queue.is_empty());
    }

    #[tokio::test(start_paused = true)]
    async fn delays_double_and_the_earlier_counts() {
        let queue = WorkQueue::new(Backoff { first: Duration::from_secs(1), most: Duration::from_secs(3) });
        let check = async |expect: u64| {
            let start = Instant::now();
            queue.add_rate_limited("x");
            queue.add_after("x", Duration::from_secs(100));
            assert_eq!(queue.get().await, "x");
            queue.done(&"x");
            assert_eq!(start.elapsed().as_secs(), expect);
        };
        check(1).await;
        check(2).await;
        check(3).await;
        queue.forget(&"x");
        assert_eq!(queue.failures(&"x"), 0);
    }
}
