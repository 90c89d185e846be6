//! Durable puts per second: `bench CLIENTS SECONDS URL…` (http URLs of members, of this store or of an etcd).

use raft::etcd::pb::{self, kv_client::KvClient};
use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};
use tonic::transport::Channel;

/// Clients that share a connection.
const SHARE: usize = 50;

async fn client(
    mut kv: KvClient<Channel>,
    number: usize,
    until: Instant,
    failed: Arc<AtomicU64>,
) -> Vec<Duration> {
    let mut times = Vec::new();
    while Instant::now() < until {
        let start = Instant::now();
        let key = format!("bench/{number}/{}", times.len());
        let put = pb::PutRequest { key: key.into(), value: vec![b'x'; 256].into(), ..Default::default() };
        match kv.put(put).await {
            Ok(_) => times.push(start.elapsed()),
            Err(_) => drop(failed.fetch_add(1, Ordering::Relaxed)),
        }
    }
    times
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut args = std::env::args().skip(1);
    let mut number = || args.next().unwrap_or_default().parse::<usize>();
    let (clients, seconds) = (number()?, number()?);
    let urls: Vec<String> = args.collect();
    let connections = clients.div_ceil(SHARE).max(urls.len().min(clients));
    let mut channels = Vec::new();
    for connection in 0..connections {
        channels.push(Channel::from_shared(urls[connection % urls.len()].clone())?.connect().await?);
    }
    let (start, failed) = (Instant::now(), Arc::new(AtomicU64::new(0)));
    let until = start + Duration::from_secs(seconds as u64);
    let mut tasks = tokio::task::JoinSet::new();
    for number in 0..clients {
        let kv = KvClient::new(channels[number % channels.len()].clone());
        tasks.spawn(client(kv, number, until, failed.clone()));
    }
    let mut times: Vec<Duration> = tasks.join_all().await.concat();
    times.sort();
    let at = |part: usize| times.get(times.len() * part / 100).copied().unwrap_or_default();
    println!(
        "{clients} clients: {:.0} puts/s, median {:?}, 99 % within {:?}, longest {:?}, {} failed",
        times.len() as f64 / start.elapsed().as_secs_f64(),
        at(50),
        at(99),
        times.last().copied().unwrap_or_default(),
        failed.load(Ordering::Relaxed),
    );
    Ok(())
}
