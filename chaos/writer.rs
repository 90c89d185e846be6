//! A client that writes through the endpoint, one write after the other, while something happens to the cluster.
//!
//! Keeps true: the longest gap counts from before the work begins until a write that began after it has ended; only
//! an acknowledged write ends a gap; every write has a key of its own, so that a lost one cannot be hidden by a later
//! one, and at the end a reader must find them all; writing ends when the work does, also by a panic. What happens
//! meanwhile is the caller's.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{RecvTimeoutError, Sender};
use std::time::{Duration, Instant};

use crate::{Error, Result, Sandbox, Steps, api};

/// Writes that are acknowledged before the time between two of them counts, and before anything is broken.
const WARM: usize = 10;
/// How long the client goes on without an acknowledged write.
const GIVE_UP: Duration = Duration::from_secs(60);
/// Writes to one object; more would make it large.
const BLOCK: u64 = 100;

/// What a writing client has seen.
#[derive(Clone, Debug, Default)]
pub struct Written {
    /// The longest time between two acknowledged writes.
    pub gap: Duration,
    /// The numbers of the acknowledged writes.
    pub acknowledged: Vec<u64>,
    /// Writes that failed within the longest gap: how long after the last acknowledged one each ended, and with what.
    pub failures: Vec<(Duration, String)>,
}

/// Writes to ConfigMaps `default/NAME-N` from before `work` begins until after it has ended, and removes them again.
///
/// # Errors
/// When writing does not begin or does not go on within a minute, when an acknowledged write is not there
/// afterwards, or with the error of `work`.
pub fn writing(sandbox: &Sandbox, name: &str, work: impl FnOnce() -> Result<()>) -> Result<Written> {
    let stop = AtomicBool::new(false);
    let (started, start) = std::sync::mpsc::channel();
    let written = std::thread::scope(|scope| {
        let writer = scope.spawn(|| write_until(sandbox, name, &stop, &started));
        let stopping = Stop(&stop);
        let worked = match start.recv_timeout(GIVE_UP) {
            Ok(()) => work(),
            Err(RecvTimeoutError::Timeout | RecvTimeoutError::Disconnected) => Ok(()),
        };
        drop(stopping);
        let written = writer.join().expect("a panic of the writer is passed on");
        worked.and(written)
    })?;
    let lost = lost(sandbox, name, &written.acknowledged)?;
    if lost.is_empty() { Ok(written) } else { Err(Error::Lost { name: name.into(), lost }) }
}

/// Ends writing when it is dropped.
struct Stop<'a>(&'a AtomicBool);

impl Drop for Stop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// Writes until a write that began after `stop` is acknowledged; says so when the first [`WARM`] ones are.
fn write_until(sandbox: &Sandbox, name: &str, stop: &AtomicBool, started: &Sender<()>) -> Result<Written> {
    let cluster = sandbox.cluster()?;
    let mut written = Written::default();
    let (mut last, mut failures) = (Instant::now(), Vec::new());
    for count in 0.. {
        let stopping = stop.load(Ordering::Relaxed);
        match cluster.record(&map(name, count / BLOCK), &count.to_string()) {
            Ok(()) => {
                written.acknowledge(count, last.elapsed(), std::mem::take(&mut failures));
                last = Instant::now();
                if written.acknowledged.len() == WARM {
                    // Nobody waiting any more has given up.
                    let _ = started.send(());
                }
                if stopping {
                    return Ok(written);
                }
            }
            Err(error) => failures.push((last.elapsed(), api::text(&error))),
        }
        if last.elapsed() > GIVE_UP {
            break;
        }
    }
    let hint = failures.pop().map(|(_, text)| text).unwrap_or_default();
    Err(Error::Late { what: "an acknowledged write".into(), seconds: GIVE_UP.as_secs(), hint })
}

/// The acknowledged writes that are not there; then removes what was written.
fn lost(sandbox: &Sandbox, name: &str, acknowledged: &[u64]) -> Result<Vec<u64>> {
    let cluster = sandbox.cluster()?;
    let mut lost = Vec::new();
    for (block, numbers) in blocks(acknowledged) {
        let (map, mut say) = (map(name, block), Steps::quiet().say());
        // A cluster that has just lost a master may refuse a request; what it answers is what counts.
        let there = api::wait(&map, GIVE_UP, &mut say, || cluster.recorded(&map).map(Ok))?;
        lost.extend(numbers.into_iter().filter(|number| !there.contains(&number.to_string())));
        api::wait(&map, GIVE_UP, &mut say, || {
            sandbox.kubectl(&["delete", "configmap", map.as_str(), "--ignore-not-found"]).map(Ok)
        })?;
    }
    Ok(lost)
}

/// Which writes each object has.
fn blocks(numbers: &[u64]) -> BTreeMap<u64, Vec<u64>> {
    let mut blocks: BTreeMap<u64, Vec<u64>> = BTreeMap::new();
    numbers.iter().for_each(|number| blocks.entry(number / BLOCK).or_default().push(*number));
    blocks
}

fn map(name: &str, block: u64) -> String {
    format!("written-{name}-{block}")
}

impl Written {
    fn acknowledge(&mut self, number: u64, gap: Duration, failures: Vec<(Duration, String)>) {
        self.acknowledged.push(number);
        if self.acknowledged.len() > WARM && gap > self.gap {
            (self.gap, self.failures) = (gap, failures);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_gaps_after_the_first_writes_count() {
        let mut written = Written::default();
        let ms = Duration::from_millis;
        for (number, gap) in (0..).zip([900].into_iter().chain([5; 9])) {
            written.acknowledge(number, ms(gap), Vec::new());
        }
        assert_eq!(written.gap, ms(0));
        written.acknowledge(11, ms(70), vec![(ms(30), "lost".into())]);
        written.acknowledge(12, ms(20), vec![(ms(10), "later".into())]);
        assert_eq!((written.gap, written.acknowledged.len()), (ms(70), 12));
        assert_eq!(written.failures, [(ms(30), "lost".to_string())]);
    }

    #[test]
    fn every_write_is_in_one_object() {
        let expect = BTreeMap::from([(0, vec![1, 99]), (2, vec![200])]);
        assert_eq!(blocks(&[1, 99, 200]), expect);
    }
}
