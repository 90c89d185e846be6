//! Many watchers of one prefix: how long after the moment at which a write was due each of them has its event.
//!
//! Keeps true: writes begin at fixed times, however long earlier ones take, and times count from there; the run
//! fails unless every watcher got every event.

use std::time::{Duration, Instant};

use chaos::members::Members;
use etcd_client::{Client, WatchOptions, WatchStream};
use tokio::task::JoinSet;
use tokio::time::timeout;

use crate::load::Usage;
use crate::sample::{Figure, Sample, Times};
use crate::{Result, connect};

/// Bytes of a value, and what the keys begin with.
const VALUE: usize = 256;
const PREFIX: &str = "bench/watch/";

/// The value of the write after which a watcher may go.
const LAST: &[u8] = b"last";

/// How long the last event may take.
const PATIENCE: Duration = Duration::from_secs(30);

/// The work.
#[derive(Clone, Copy)]
pub(crate) struct Watch {
    pub(crate) watchers: usize,
    pub(crate) per_second: u32,
}

/// Opens the watches, writes for a time, and measures.
pub(crate) async fn measure(members: &Members, watch: Watch, time: Duration) -> Result<Sample> {
    let clients = connect::clients(members, watch.watchers).await?;
    let start = Instant::now();
    let mut tasks = JoinSet::new();
    for client in &clients {
        tasks.spawn(events(open(client).await?, start));
    }
    let writer = connect::clients(members, 1).await?.remove(0);
    let warm = (time / 5).max(Duration::from_secs(1));
    write(&writer, watch.per_second, warm, None).await?;
    let before = Usage::read(members).await?;
    let written = write(&writer, watch.per_second, time, Some(start)).await?;
    writer.kv_client().put(format!("{PREFIX}last"), LAST, None).await?;
    let all =
        timeout(PATIENCE, tasks.join_all()).await.map_err(|_| "some watchers never got the last event")?;
    let used = before.until(&Usage::read(members).await?);
    let times = Times::join(all.into_iter().collect::<Result<Vec<Times>>>()?);
    let expected = written * watch.watchers;
    if times.count() != expected {
        return Err(format!("{} events came, not {expected}", times.count()).into());
    }
    let mut sample = times.figures(time.as_secs_f64());
    used.figures(&mut sample);
    sample.insert(Figure::Failed, 0.0);
    Ok(sample)
}

/// Opens a watch, a stream of its own, and waits until the member has confirmed it.
async fn open(client: &Client) -> Result<WatchStream> {
    let options = WatchOptions::new().with_prefix();
    let mut stream = client.watch_client().watch(PREFIX, Some(options)).await?;
    let first = timeout(PATIENCE, stream.message()).await.map_err(|_| "a watch was not confirmed")??;
    if !first.is_some_and(|answer| answer.created()) {
        return Err("the first answer to a watch did not confirm it".into());
    }
    Ok(stream)
}

/// The times of all events that carry one, until the last.
async fn events(mut stream: WatchStream, start: Instant) -> Result<Times> {
    let mut times = Times::default();
    loop {
        let answer = stream.message().await?.ok_or("a watch ended by itself")?;
        if answer.canceled() {
            return Err(format!("a watch was cancelled: {}", answer.cancel_reason()).into());
        }
        let now = start.elapsed();
        for event in answer.events() {
            let value = event.kv().map(|kv| kv.value()).unwrap_or_default();
            if value == LAST {
                return Ok(times);
            }
            if let Some(due) = due(value) {
                times.add(now.saturating_sub(due));
            }
        }
    }
}

/// A value that carries the time at which its write was due; zero carries none.
fn carrying(due: Duration) -> Vec<u8> {
    let mut value = vec![b'x'; VALUE];
    value[..8].copy_from_slice(&u64::try_from(due.as_nanos()).unwrap_or(u64::MAX).to_le_bytes());
    value
}

fn due(value: &[u8]) -> Option<Duration> {
    let nanos = u64::from_le_bytes(value.first_chunk().copied()?);
    (nanos != 0).then(|| Duration::from_nanos(nanos))
}

/// Writes at a fixed rate; how many were written. Without a start the values carry no times.
async fn write(client: &Client, per_second: u32, time: Duration, start: Option<Instant>) -> Result<usize> {
    let (first, period) = (Instant::now(), Duration::from_secs(1) / per_second);
    let count = usize::try_from(time.as_millis() / period.as_millis())?;
    let mut tasks = JoinSet::new();
    for number in 0..count {
        let at = first + period * u32::try_from(number)?;
        tokio::time::sleep_until(at.into()).await;
        let value = carrying(start.map_or(Duration::ZERO, |start| at - start));
        let (mut kv, key) = (client.kv_client(), format!("{PREFIX}{:04}", number % 1000));
        tasks.spawn(async move { kv.put(key, value, None).await });
    }
    for done in tasks.join_all().await {
        done?;
    }
    Ok(count)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_carries_its_time() {
        let check = |time, expect| assert_eq!(due(&carrying(time)), expect, "{time:?}");
        check(Duration::ZERO, None);
        check(Duration::from_micros(7), Some(Duration::from_micros(7)));
        assert_eq!(due(LAST), None);
    }
}
