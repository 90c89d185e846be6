//! A client that writes through the endpoint, one write after the other, while something happens to the cluster.
//!
//! Keeps true: the longest gap counts from before the work begins until a write that began after it has ended; only
//! an acknowledged write ends a gap; at the end the last acknowledged write is what a reader finds. What happens
//! meanwhile is the caller's.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{RecvTimeoutError, Sender};
use std::time::{Duration, Instant};

use crate::{Error, Result, Sandbox, api};

/// Writes that are acknowledged before the time between two of them counts, and before anything is broken.
const WARM: u64 = 10;
/// How long the client goes on without an acknowledged write.
const GIVE_UP: Duration = Duration::from_secs(60);

/// What a writing client has seen.
#[derive(Clone, Debug, Default)]
pub struct Written {
    /// The longest time between two acknowledged writes.
    pub gap: Duration,
    /// Acknowledged writes.
    pub acknowledged: u64,
    /// Writes that failed within the longest gap: how long after the last acknowledged one each ended, and with what.
    pub failures: Vec<(Duration, String)>,
}

/// Writes to the ConfigMap `default/NAME` from before `work` begins until after it has ended.
///
/// # Errors
/// When writing does not begin or does not go on within a minute, when an acknowledged write is not there
/// afterwards, or with the error of `work`.
pub fn writing(sandbox: &Sandbox, name: &str, work: impl FnOnce() -> Result<()>) -> Result<Written> {
    let stop = AtomicBool::new(false);
    let (started, start) = std::sync::mpsc::channel();
    let (written, last) = std::thread::scope(|scope| {
        let writer = scope.spawn(|| write_until(sandbox, name, &stop, &started));
        let worked = match start.recv_timeout(GIVE_UP) {
            Ok(()) => work(),
            Err(RecvTimeoutError::Timeout | RecvTimeoutError::Disconnected) => Ok(()),
        };
        stop.store(true, Ordering::Relaxed);
        let written = writer.join().expect("a panic of the writer is passed on");
        worked.and(written)
    })?;
    let there = sandbox.cluster()?.written(name)?;
    // The last write was acknowledged, so exactly that one must be there.
    if there == Some(last) {
        return Ok(written);
    }
    Err(Error::Lost { name: name.into(), acknowledged: last, found: there })
}

/// Writes until a write that began after `stop` is acknowledged; says so when the first [`WARM`] ones are. Returns
/// the number of the last write as well.
fn write_until(
    sandbox: &Sandbox,
    name: &str,
    stop: &AtomicBool,
    started: &Sender<()>,
) -> Result<(Written, u64)> {
    let cluster = sandbox.cluster()?;
    let mut written = Written::default();
    let (mut last, mut failures) = (Instant::now(), Vec::new());
    for count in 1.. {
        let stopping = stop.load(Ordering::Relaxed);
        match cluster.write(name, count) {
            Ok(()) => {
                written.acknowledge(last.elapsed(), std::mem::take(&mut failures));
                last = Instant::now();
                if written.acknowledged == WARM {
                    // Nobody waiting any more has given up.
                    let _ = started.send(());
                }
                if stopping {
                    return Ok((written, count));
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

impl Written {
    fn acknowledge(&mut self, gap: Duration, failures: Vec<(Duration, String)>) {
        self.acknowledged += 1;
        if self.acknowledged > WARM && gap > self.gap {
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
        for gap in [900].into_iter().chain([5; 9]) {
            written.acknowledge(ms(gap), Vec::new());
        }
        assert_eq!(written.gap, ms(0));
        written.acknowledge(ms(70), vec![(ms(30), "lost".into())]);
        written.acknowledge(ms(20), vec![(ms(10), "later".into())]);
        assert_eq!((written.gap, written.acknowledged), (ms(70), 12));
        assert_eq!(written.failures, [(ms(30), "lost".to_string())]);
    }
}
