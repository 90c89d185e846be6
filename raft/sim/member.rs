//! One simulated member: the same parts as in `run.rs`, on a simulated disk and wire, with its clients beside it.

use super::{
    client,
    world::{MEMBERS, World, name},
};
use crate::{
    etcd,
    flags::{Config, Flags},
    local::{Local, PeerConfig},
    log::Log,
    machine::Machine,
    metrics::Metrics,
    network::{self, Peers, Transport},
    node::Node,
    types::Raft,
};
use clap::Parser;
use std::{io, rc::Rc, sync::Arc, time::Duration};
use tokio_util::sync::CancellationToken;

/// Where members listen for each other.
const PORT: u16 = 2380;
/// How long a client's request may take.
const TIMEOUT: Duration = Duration::from_secs(2);

#[derive(Parser)]
struct Command {
    #[command(flatten)]
    flags: Flags,
}

/// The configuration, as if from flags. Members call each other by their hosts' names.
fn config(world: &World, member: usize) -> Config {
    let url = |n: usize| format!("http://127.0.0.{}:{PORT}", n + 1);
    let all: Vec<String> = (0..MEMBERS).map(|n| format!("{}={}", name(n), url(n))).collect();
    let arguments = format!(
        "store --name {} --initial-advertise-peer-urls {} --initial-cluster {} --snapshot-count {} \
         --heartbeat-interval 50 --election-timeout 500 --watch-progress-notify-interval 500ms",
        name(member),
        url(member),
        all.join(","),
        world.snapshots,
    );
    let command = Command::try_parse_from(arguments.split_whitespace()).unwrap();
    let mut config = Config::new(command.flags).unwrap();
    for PeerConfig { name, urls } in config.peers.values_mut() {
        *urls = vec![format!("http://{name}:{PORT}")];
    }
    config
}

/// Runs a member until it is crashed, or ends as a process whose disk fails ends.
pub(super) async fn run(world: Rc<World>, member: usize) -> turmoil::Result {
    world.starts.borrow_mut()[member] += 1;
    match start(&world, member).await {
        Ok(why) => {
            world.history.borrow_mut().tick(&why);
        }
        Err(error) => {
            *world.broken.borrow_mut() = Some(format!("{} cannot start: {error}", name(member)));
        }
    }
    world.running.borrow_mut()[member] = None;
    Ok(())
}

fn open(world: &World, member: usize) -> io::Result<(Log, Arc<Machine>, crate::applier::Applier)> {
    let folder = world.folder.join(name(member));
    let log = Log::open(&folder.join("log"), |_| {})?;
    let (machine, applier) = Machine::open(&folder)?;
    if machine.saved().applied > log.last()? {
        return Err(io::Error::other("the log lost entries that were confirmed"));
    }
    Ok((log, machine, applier))
}

async fn start(world: &Rc<World>, member: usize) -> io::Result<String> {
    let config = Arc::new(config(world, member));
    let (log, machine, applier) = open(world, member)?;
    let transport = Arc::new(Transport::new(None).map_err(io::Error::other)?);
    let peers = Peers::new(config.cluster, config.id, transport.clone());
    let settings = crate::run::raft_config(&config).map_err(io::Error::other)?;
    let raft = Raft::new(config.id, settings, peers.clone(), log, applier).await.map_err(io::Error::other)?;
    let local = Arc::new(Local::new(config.id, config.cluster, config.peers.clone(), raft, machine));
    let (node, reads) = Node::new(local.clone(), peers, TIMEOUT);
    let stop = CancellationToken::new();
    let listener = turmoil::net::TcpListener::bind(("0.0.0.0", PORT)).await?;
    tokio::spawn(network::serve(listener, transport, local, stop.clone()));
    let running = node.clone().run(reads, config.election());
    let served = etcd::Member::new(config.clone(), node.clone(), Metrics::default(), stop);
    world.running.borrow_mut()[member] = Some(served.clone());
    let instance = member as u64;
    let joined = async {
        if let Err(error) = crate::run::join(config.clone(), node.clone()).await {
            return error.to_string();
        }
        tokio::select! {
            () = crate::run::publish(&config, &node, instance) => unreachable!("publishing never ends"),
            () = client::all(world, member, &served) => "no more clients".into(),
        }
    };
    tokio::select! {
        why = running => Ok(why),
        why = joined => Ok(why),
    }
}
