//! What a member takes in memory once it has been written to and its history has been compacted away.

use std::time::Duration;

use chaos::members::{Members, Memory};
use etcd_client::CompactionOptions;
use tokio::task::JoinSet;

use crate::load::Usage;
use crate::op::{key, value};
use crate::sample::{Figure, Sample, Times};
use crate::{Result, connect};

/// Clients that write.
const CLIENTS: usize = 256;

/// How long after the compaction memory is read: runtimes give it back late.
const SETTLE: Duration = Duration::from_secs(10);

/// What is written.
#[derive(Clone, Copy)]
pub(crate) struct Fill {
    pub(crate) puts: usize,
    pub(crate) keys: usize,
    pub(crate) value: usize,
}

/// Writes, compacts, lets the members settle, and reads their memory: the mean of the members.
pub(crate) async fn measure(members: &Members, fill: Fill) -> Result<Sample> {
    let mut clients = connect::clients(members, CLIENTS).await?;
    let before = Usage::read(members).await?;
    let start = std::time::Instant::now();
    let mut tasks = JoinSet::new();
    for (number, client) in clients.iter().enumerate() {
        let mut kv = client.kv_client();
        tasks.spawn(async move {
            let mut times = Times::default();
            for put in (number..fill.puts).step_by(CLIENTS) {
                let start = std::time::Instant::now();
                kv.put(key((put % fill.keys) as u64), value(fill.value, put as u64), None).await?;
                times.add(start.elapsed());
            }
            Ok::<Times, etcd_client::Error>(times)
        });
    }
    let times = tasks.join_all().await.into_iter().collect::<std::result::Result<Vec<Times>, _>>()?;
    let mut sample = Times::join(times).figures(start.elapsed().as_secs_f64());
    before.until(&Usage::read(members).await?).figures(&mut sample);
    compact(&mut clients[0]).await?;
    tokio::time::sleep(SETTLE).await;
    let memory = (0..members.count()).map(|number| members.memory(number));
    let memory = memory.collect::<std::result::Result<Vec<Memory>, _>>()?;
    let mean = |bytes: fn(&Memory) -> u64| {
        memory.iter().map(bytes).sum::<u64>() as f64 / memory.len() as f64 / (1 << 20) as f64
    };
    sample.insert(Figure::Resident, mean(|memory| memory.resident));
    sample.insert(Figure::Anonymous, mean(|memory| memory.anonymous));
    sample.insert(Figure::Failed, 0.0);
    Ok(sample)
}

/// Compacts everything but the present state, and waits until it is gone for good.
async fn compact(client: &mut etcd_client::Client) -> Result<()> {
    let revision = client.status().await?.header().ok_or("a status without a header")?.revision();
    client.compact(revision, Some(CompactionOptions::new().with_physical())).await?;
    Ok(())
}
