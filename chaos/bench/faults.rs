//! The leader is lost while a client writes: the longest time between two acknowledged writes.
//!
//! Keeps true: the client sends to all members in turn at fixed times and waits for none of its writes, so that the
//! gap is the store's and not that of a client's way of trying again; it is not told which member is lost.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use chaos::members::Members;
use etcd_client::Client;
use tokio::task::{AbortHandle, JoinSet};

use crate::sample::{Figure, Sample};
use crate::{Result, connect};

/// How often the leader is lost in one measurement.
const TIMES: usize = 2;

/// Time between two writes.
const PERIOD: Duration = Duration::from_millis(5);

/// When a write is given up. Late acknowledgements must not hide a gap, and waiting writes must not pile up.
const PATIENCE: Duration = Duration::from_secs(3);

/// How long acknowledgements are looked at after the fault, and how many of them in the last half second make the
/// store whole again.
const LOOK: Duration = Duration::from_secs(3);
const RECENT: Duration = Duration::from_millis(500);
const WHOLE: usize = 20;

/// How long the store may take until it is whole again.
const DEADLINE: Duration = Duration::from_secs(60);

/// How the leader is lost.
#[derive(Clone, Copy)]
pub(crate) enum Fault {
    /// kill -9.
    Kill,
    /// SIGTERM.
    Stop,
}

/// A client that writes on and on, and when its writes were acknowledged.
struct Writer {
    acknowledged: Arc<Mutex<Vec<Instant>>>,
    task: AbortHandle,
}

impl Writer {
    async fn start(members: &Members) -> Result<Self> {
        let mut clients = Vec::new();
        for number in 0..members.count() {
            clients.push(connect::impatient(members, number, PATIENCE).await?);
        }
        let acknowledged = Arc::new(Mutex::new(Vec::new()));
        let task = tokio::spawn(write(clients, acknowledged.clone())).abort_handle();
        Ok(Self { acknowledged, task })
    }

    fn times(&self) -> Vec<Instant> {
        self.acknowledged.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Waits until writes are acknowledged as if nothing had happened, and not before that time.
    async fn whole(&self, not_before: Instant) -> Result<()> {
        let start = Instant::now();
        tokio::time::sleep_until(not_before.into()).await;
        loop {
            let now = Instant::now();
            let recent = self.times().iter().rev().take_while(|time| now - **time < RECENT).count();
            if recent >= WHOLE {
                return Ok(());
            }
            if now - start > DEADLINE {
                return Err(format!("no steady writes {} s after the fault", DEADLINE.as_secs()).into());
            }
            tokio::time::sleep(PERIOD).await;
        }
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn write(clients: Vec<Client>, acknowledged: Arc<Mutex<Vec<Instant>>>) {
    let mut ticks = tokio::time::interval(PERIOD);
    // Dropped with this task, and with it all writes under way.
    let mut writes = JoinSet::new();
    for number in 0_u64.. {
        ticks.tick().await;
        let mut kv = clients[number as usize % clients.len()].kv_client();
        let acknowledged = acknowledged.clone();
        writes.spawn(async move {
            // A write that fails is one that was not acknowledged: that is what is measured.
            if kv.put(format!("bench/gap/{:04}", number % 1000), "x", None).await.is_ok() {
                acknowledged.lock().unwrap_or_else(PoisonError::into_inner).push(Instant::now());
            }
        });
        while writes.try_join_next().is_some() {}
    }
}

/// Loses the leader a few times, each time with all members back and one leader.
pub(crate) async fn measure(members: &mut Members, fault: Fault) -> Result<Vec<Sample>> {
    let mut samples = Vec::new();
    for _ in 0..TIMES {
        let writer = Writer::start(members).await?;
        writer.whole(Instant::now()).await?;
        let leader = members.leader().await.ok_or("the members have no leader")?;
        let at = Instant::now();
        match fault {
            Fault::Kill => members.kill(leader)?,
            Fault::Stop => members.stop(leader).await?,
        }
        writer.whole(at + LOOK).await?;
        samples.push(figures(&writer.times(), at));
        drop(writer);
        members.start_member(leader)?;
        members.ready().await?;
    }
    Ok(samples)
}

fn figures(acknowledged: &[Instant], at: Instant) -> Sample {
    Sample::from([
        (Figure::Operations, acknowledged.len() as f64),
        (Figure::Gap, gap(acknowledged, at).as_secs_f64() * 1000.0),
    ])
}

/// The longest time between two acknowledgements that does not end before the fault.
fn gap(acknowledged: &[Instant], at: Instant) -> Duration {
    let mut times = acknowledged.to_vec();
    times.sort();
    let gaps = times.windows(2).filter(|pair| pair[1] >= at).map(|pair| pair[1] - pair[0]);
    gaps.max().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_gap_ends_after_the_fault() {
        let start = Instant::now();
        let at = |ms| start + Duration::from_millis(ms);
        let check = |times: &[u64], expect| {
            let times: Vec<Instant> = times.iter().copied().map(at).collect();
            assert_eq!(gap(&times, at(100)), Duration::from_millis(expect), "{times:?}");
        };
        check(&[0, 95, 105, 115], 10);
        check(&[0, 90, 95, 300, 310], 205);
        check(&[0, 310, 90, 95, 300], 205);
        check(&[0], 0);
    }
}
