//! One simulated member: the same parts as in `run.rs`, on a simulated disk and wire, with its clients beside it.
//!
//! Keeps true: it ends as a process would: when it is crashed, when its disk fails, when it was removed. What it does
//! meanwhile is the store's own code.

use super::{
    client,
    world::{MEMBERS, PORT, Seat, World, name, url},
};
use crate::{
    error::Error,
    etcd,
    flags::{Config, Flags},
    local::Local,
    metrics::Metrics,
    network::{self, Peers, Transport},
    node::Node,
    rejoin,
    run::{self as real},
    types::Raft,
};
use clap::Parser;
use std::{rc::Rc, sync::Arc, time::Duration};
use tokio::{runtime::Handle, sync::mpsc};
use tokio_util::sync::CancellationToken;

/// How long a client's request may take.
const TIMEOUT: Duration = Duration::from_secs(2);

#[derive(Parser)]
struct Command {
    #[command(flatten)]
    flags: Flags,
}

/// The configuration, as if from flags. Members call each other by their hosts' names.
fn config(world: &World, seat: usize, joined: Option<&[usize]>) -> Config {
    let loopback = |seat: usize| format!("http://127.0.0.{}:{PORT}", seat + 1);
    let all: Vec<usize> = joined.map_or((0..MEMBERS).collect(), Vec::from);
    let all: Vec<String> = all.into_iter().map(|seat| format!("{}={}", name(seat), loopback(seat))).collect();
    let arguments = format!(
        "store --name {} --data-dir {} --initial-advertise-peer-urls {} --initial-cluster {} \
         --initial-cluster-state {} --snapshot-count {} --heartbeat-interval 50 --election-timeout 500 \
         --watch-progress-notify-interval 500ms",
        name(seat),
        world.data_dir(seat).display(),
        loopback(seat),
        all.join(","),
        if joined.is_some() { "existing" } else { "new" },
        world.snapshots,
    );
    let command = Command::try_parse_from(arguments.split_whitespace()).unwrap();
    let mut config = Config::new(command.flags).unwrap();
    for peer in config.initial.values_mut() {
        peer.urls = vec![format!("https://{}:{PORT}", peer.name)];
    }
    config.flags.initial_advertise_peer_urls = vec![url(seat)];
    config
}

/// Runs a seat's member, if it has one, until it ends.
pub(super) async fn run(world: Rc<World>, seat: usize) -> turmoil::Result {
    let Seat::Member { joined } = world.seats.borrow()[seat].clone() else { return Ok(()) };
    world.starts.borrow_mut()[seat] += 1;
    let ended = Box::pin(member(&world, seat, joined.as_deref())).await;
    world.running.borrow_mut()[seat] = None;
    // Where the directory lies differs from run to run.
    let told = format!("{ended:?}").replace(&world.data_dir(seat).display().to_string(), "");
    world.history.borrow_mut().tick(&("member ended", seat, told));
    match ended {
        Ok(()) | Err(Error::Stopped(_)) => {}
        Err(Error::Removed { .. }) => world.left(seat, "removed-members"),
        Err(Error::NotAdded { .. }) => world.left(seat, "not-added"),
        // A member that lags behind gave it the number that the seat's earlier member had. Started again it is told
        // a newer one.
        Err(Error::AlreadyBootstrapped { .. }) if joined.is_some() => {
            world.replace_disk(seat);
            world.count("misled-members");
        }
        Err(error) => world.broke(format!("{} cannot run: {error}", name(seat))),
    }
    Ok(())
}

async fn member(world: &Rc<World>, seat: usize, joined: Option<&[usize]>) -> Result<(), Error> {
    let mut config = config(world, seat, joined);
    let transport = Arc::new(Transport::new(None)?);
    let (origin, whose) = real::place(&mut config, &transport).await?;
    let config = Arc::new(config);
    world.starting.set(seat);
    let whose = |config: &Config| whose.map_or_else(|| real::found(config, origin), Ok);
    let opened = real::open(&config, whose, Metrics::default(), mpsc::channel(1).0)?;
    let (log, machine, applier, identity) = opened;
    let vote = log.vote().map_err(|source| Error::Disk { path: config.flags.data_dir.clone(), source })?;
    world.truth.borrow().remembers(config.id, vote).unwrap_or_else(|problem| world.broke(problem));
    let peers = Peers::new(config.cluster, config.id, transport.clone(), Handle::current());
    let settings = real::raft_config(&config)?;
    let pulse = log.pulse();
    let raft = Raft::new(config.id, settings, peers.clone(), log, applier).await;
    let raft = raft.map_err(|error| Error::Stopped(error.to_string()))?;
    let local = Arc::new(Local::new(config.id, config.cluster, raft, machine, peers.awaited.clone(), pulse));
    let removed = peers.removed().clone();
    let (node, reads) = Node::new(local.clone(), peers, TIMEOUT);
    let stop = CancellationToken::new();
    let _stopping = stop.clone().drop_guard();
    let listener = turmoil::net::TcpListener::bind(("0.0.0.0", PORT)).await;
    let listener = listener.map_err(|source| Error::Listen { url: url(seat), source })?;
    tokio::spawn(network::serve(listener, transport.clone(), local, stop.clone()));
    let running = node.clone().run(reads, config.election());
    let served = etcd::Member::new(config.clone(), node.clone(), Metrics::default(), stop);
    world.running.borrow_mut()[seat] = Some(served.clone());
    let working = async {
        real::join(config.clone(), node.clone(), transport.clone(), identity.instance).await?;
        tokio::select! {
            () = real::publish(&config, &node, identity.instance) => Ok(()),
            () = client::all(world, seat, &served) => Ok(()),
            error = rejoin::forgotten(&config, &transport, &node.local) => Err(error),
        }
    };
    tokio::select! {
        why = running => Err(Error::Stopped(why)),
        ended = working => ended,
        () = removed.cancelled() => Err(Error::Removed { path: config.flags.data_dir.clone() }),
    }
}

impl World {
    /// A seat's member is none any more. Its disk is not used again.
    pub(super) fn left(&self, seat: usize, how: &'static str) {
        self.seats.borrow_mut()[seat] = Seat::Free;
        self.replace_disk(seat);
        self.count(how);
    }
}
