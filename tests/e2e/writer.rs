//! A client that writes without a break while something else happens: the longest gap, and nothing lost.
//!
//! Keeps true: every write has a key of its own, so that a lost one cannot be hidden by a later one; what is
//! measured begins before the work and ends after it.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::Sender;
use std::time::{Duration, Instant};

use chaos::Sandbox;

use crate::demo::Demo;

/// Writes that are acknowledged before the time between two of them counts, and before anything is broken.
const WARM: usize = 10;
/// Writes to one object; more would make it large.
const BLOCK: u64 = 100;

/// What the writer saw.
struct Log {
    gap: Duration,
    acknowledged: Vec<u64>,
    /// When the last write was acknowledged.
    last: Instant,
}

/// Writes one after the other, from before `work` begins until after it has ended: the longest time between two
/// acknowledged writes, and how many there were. Fails when one of them is not there afterwards.
pub(crate) fn written(demo: &Demo, name: &str, work: impl FnOnce()) -> (Duration, usize) {
    let (stop, sandbox) = (AtomicBool::new(false), &demo.sandbox);
    let (started, start) = std::sync::mpsc::channel();
    let stopping = &stop;
    let log = std::thread::scope(|scope| {
        let writer = scope.spawn(move || write_until(sandbox, name, stopping, &started));
        start.recv_timeout(Duration::from_secs(60)).expect("the writer gets going");
        let worked = std::panic::catch_unwind(std::panic::AssertUnwindSafe(work));
        stop.store(true, Ordering::Relaxed);
        let done = writer.join().expect("writing ends");
        worked.unwrap_or_else(|cause| std::panic::resume_unwind(cause));
        done
    });
    let lost = lost(demo, name, &log.acknowledged);
    assert!(lost.is_empty(), "acknowledged writes that are not there: {lost:?}");
    (log.gap, log.acknowledged.len())
}

/// The acknowledged writes that are not there; then removes what was written.
fn lost(demo: &Demo, name: &str, acknowledged: &[u64]) -> Vec<u64> {
    let last = acknowledged.last().copied().unwrap_or_default();
    let mut lost = Vec::new();
    for block in 0..=last / BLOCK {
        let (map, of_block) = (map(name, block), |n: &&u64| **n / BLOCK == block);
        if !acknowledged.iter().any(|n| of_block(&n)) {
            continue;
        }
        let what = format!("ConfigMap {map}");
        let (keys, _) = demo.wait(&what, || demo.cluster.recorded(&map).map(Ok));
        lost.extend(acknowledged.iter().filter(of_block).filter(|n| !keys.contains(&n.to_string())));
        demo.kubectl(&["delete", "configmap", &map]);
    }
    lost
}

fn map(name: &str, block: u64) -> String {
    format!("written-{name}-{block}")
}

/// Writes until a write that began after `stop` is acknowledged. Says that it has started when `WARM` writes are
/// acknowledged; only from then on the gap counts.
fn write_until(sandbox: &Sandbox, name: &str, stop: &AtomicBool, started: &Sender<()>) -> Log {
    let cluster = sandbox.cluster().expect("the kubeconfig is good");
    let mut log = Log { gap: Duration::ZERO, acknowledged: Vec::new(), last: Instant::now() };
    for count in 0.. {
        let stopping = stop.load(Ordering::Relaxed);
        if cluster.record(&map(name, count / BLOCK), &count.to_string()).is_ok() {
            log.acknowledge(count);
            if log.acknowledged.len() == WARM {
                let _ = started.send(());
            }
            if stopping {
                break;
            }
        }
        assert!(log.last.elapsed() < Duration::from_secs(60), "no write was acknowledged for a minute");
    }
    log
}

impl Log {
    fn acknowledge(&mut self, count: u64) {
        if self.acknowledged.len() >= WARM {
            self.gap = self.gap.max(self.last.elapsed());
        }
        self.acknowledged.push(count);
        self.last = Instant::now();
    }
}
