//! Closed-loop load: so many clients, each with one request at a time.
//!
//! Keeps true: only operations that began and ended between two readings of the members' processor time count, so
//! rate, times and processor time are of the same span.

use std::time::{Duration, Instant};

use chaos::members::Members;
use etcd_client::{Client, Txn, TxnOp};
use tokio::task::JoinSet;

use crate::op::{Actor, Op, key, value};
use crate::sample::{Figure, Sample, Times};
use crate::{Result, connect};

/// Bytes of a prepared value, and how many are put at once by how many clients.
const PREPARED: usize = 256;
const BATCH: usize = 100;
const PREPARERS: usize = 8;

/// The load.
#[derive(Clone, Copy)]
pub(crate) struct Load {
    pub(crate) op: Op,
    pub(crate) clients: usize,
    /// Keys that are put before.
    pub(crate) keys: usize,
}

/// What is measured between two points in time.
#[derive(Clone, Copy)]
struct Span {
    from: Instant,
    until: Instant,
}

/// Prepares the keys, warms up, and measures for a time.
pub(crate) async fn measure(members: &Members, load: Load, time: Duration) -> Result<Sample> {
    let clients = connect::clients(members, load.clients).await?;
    prepare(&connect::clients(members, PREPARERS).await?, load.keys).await?;
    let warm = (time / 5).max(Duration::from_secs(1));
    let from = Instant::now() + warm;
    let span = Span { from, until: from + time };
    let mut tasks = JoinSet::new();
    for (number, client) in clients.into_iter().enumerate() {
        let actor = Actor::new(client.kv_client(), load.op, load.keys, number as u64);
        tasks.spawn(work(actor, span));
    }
    tokio::time::sleep_until(span.from.into()).await;
    let before = Usage::read(members).await?;
    tokio::time::sleep_until(span.until.into()).await;
    let used = before.until(&Usage::read(members).await?);
    let (times, failures): (Vec<Times>, Vec<Vec<String>>) = tasks.join_all().await.into_iter().unzip();
    let mut sample = Times::join(times).figures(time.as_secs_f64());
    used.figures(&mut sample);
    let failures = failures.concat();
    if let Some(first) = failures.first() {
        eprintln!("bench: {} operations failed, the first with: {first}", failures.len());
    }
    sample.insert(Figure::Failed, failures.len() as f64);
    Ok(sample)
}

async fn work(mut actor: Actor, span: Span) -> (Times, Vec<String>) {
    let (mut times, mut failures) = (Times::default(), Vec::new());
    loop {
        let start = Instant::now();
        if start >= span.until {
            return (times, failures);
        }
        let done = actor.act().await;
        let end = Instant::now();
        match done {
            Ok(()) if start >= span.from && end <= span.until => times.add(end - start),
            Ok(()) => {}
            Err(error) => failures.push(error.to_string()),
        }
    }
}

/// Puts keys, many at once.
pub(crate) async fn prepare(clients: &[Client], keys: usize) -> Result<()> {
    let mut tasks = JoinSet::new();
    for (number, client) in clients.iter().enumerate() {
        let (mut kv, step) = (client.kv_client(), clients.len() * BATCH);
        tasks.spawn(async move {
            for first in (number * BATCH..keys).step_by(step) {
                let put = |k: usize| TxnOp::put(key(k as u64), value(PREPARED, k as u64), None);
                let puts: Vec<TxnOp> = (first..keys.min(first + BATCH)).map(put).collect();
                kv.txn(Txn::new().and_then(puts)).await?;
            }
            Ok::<(), etcd_client::Error>(())
        });
    }
    Ok(tasks.join_all().await.into_iter().collect::<std::result::Result<(), _>>()?)
}

/// What the members and the client have used so far, and the members' term.
pub(crate) struct Usage {
    servers: f64,
    client: f64,
    term: u64,
}

impl Usage {
    pub(crate) async fn read(members: &Members) -> Result<Self> {
        let term = members.term().await.ok_or("no member answers")?;
        let stat = procfs::process::Process::myself()?.stat()?;
        let client = (stat.utime + stat.stime) as f64 / procfs::ticks_per_second() as f64;
        Ok(Self { servers: members.cpu_seconds_of_all()?, client, term })
    }

    pub(crate) fn until(&self, later: &Self) -> Self {
        Self {
            servers: later.servers - self.servers,
            client: later.client - self.client,
            term: later.term - self.term,
        }
    }

    /// Adds processor time per operation, and elections.
    pub(crate) fn figures(&self, sample: &mut Sample) {
        let operations = sample.get(&Figure::Operations).copied().unwrap_or_default().max(1.0);
        sample.insert(Figure::Cpu, self.servers * 1e6 / operations);
        sample.insert(Figure::ClientCpu, self.client * 1e6 / operations);
        sample.insert(Figure::Elections, self.term as f64);
    }
}
