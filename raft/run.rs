//! One member from start to stop.
//!
//! Keeps true: a member takes part only with a data directory that is its own and whole; a member whose disk was
//! lost does not come back under its old number; openraft, its timers and the peers' connections run on a thread of their own,
//! so that no client's request delays a heartbeat; a leader that is stopped hands over first.

use crate::{
    archive::Archiver,
    backup::{self, BackupError},
    codec,
    command::{Command, Member},
    engine::Open,
    etcd,
    flags::{Config, FlagError, Flags, Retention},
    local::Local,
    log::Log,
    machine::Machine,
    metrics::Metrics,
    network::{self, Peers, Reply, Request, Transport},
    node::Node,
    types::{PeerNode, Raft},
};
use openraft::SnapshotPolicy;
use serde::{Deserialize, Serialize};
use std::{
    collections::BTreeMap,
    io,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};
use tokio::{net::TcpListener, runtime::Runtime, sync::mpsc, time::timeout};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

/// How long all other members are waited for before the first start goes on with those that answer.
const JOIN: Duration = Duration::from_secs(5);
/// How long open requests may take after a stop.
const GRACE: Duration = Duration::from_millis(500);
/// How long the databases may take to close.
const CLOSE: Duration = Duration::from_secs(3);

/// Why a member cannot run, or had to stop.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A flag is wrong.
    #[error(transparent)]
    Flag(#[from] FlagError),
    /// TLS cannot be set up.
    #[error(transparent)]
    Tls(#[from] serve::Error),
    /// A port cannot be listened on.
    #[error(
        "cannot listen on {url}: check that no other store runs there and that the address is this machine's"
    )]
    Listen {
        /// The URL.
        url: String,
        /// Why.
        source: io::Error,
    },
    /// The data directory cannot be used.
    #[error("cannot open the data directory {}: check that there is space, and that this user may write there and no other store runs on it", path.display())]
    Disk {
        /// The directory.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The data directory is someone else's.
    #[error("the data directory {} {problem}: give this member a directory of its own", path.display())]
    Foreign {
        /// The directory.
        path: PathBuf,
        /// What it is instead.
        problem: String,
    },
    /// The log has less than the state was made of.
    #[error("the data directory {} lost log entries that were confirmed: this member must not take part any more; replace it", path.display())]
    LostLog {
        /// The directory.
        path: PathBuf,
    },
    /// The member was in the cluster before, and its data is gone.
    #[error("member {name} has already been bootstrapped: its data directory {} was lost. A member without its memory can break promises it made: restore the directory, or remove the member and add a new one", path.display())]
    AlreadyBootstrapped {
        /// The member.
        name: String,
        /// Its directory.
        path: PathBuf,
    },
    /// The member is to join a cluster that cannot be asked.
    #[error("cannot fetch cluster info from peer urls: no member of --initial-cluster says that it has {}: is the cluster there, and was this member added to it (etcdctl member add)?", urls.join(","))]
    NotAdded {
        /// The member's own URLs.
        urls: Vec<String>,
    },
    /// There is nothing of which a new cluster could be made.
    #[error("--force-new-cluster: the data directory {} holds no log: give it the directory of a member that was there", path.display())]
    NothingToForce {
        /// The directory.
        path: PathBuf,
    },
    /// The others have removed this member.
    #[error("the member has been permanently removed from the cluster: remove its data directory {} before you add a new one here", path.display())]
    Removed {
        /// The directory.
        path: PathBuf,
    },
    /// What was saved cannot be looked at or restored.
    #[error(transparent)]
    Backup(#[from] BackupError),
    /// The group cannot be started or had to stop.
    #[error("the store stopped: {0}")]
    Stopped(String),
}

/// Which member a data directory belongs to.
#[derive(Debug, Deserialize, PartialEq, Serialize)]
pub(crate) struct Identity {
    pub(crate) cluster: u64,
    pub(crate) id: u64,
    pub(crate) instance: u64,
}

/// A thread of its own for the group: one, for each hand-over between two costs more than the work handed over.
/// Nothing that runs on it waits for a disk or for the state's lock. Dropped without waiting for tasks.
struct Threads(Option<Runtime>);

impl Threads {
    fn new() -> io::Result<Self> {
        let mut builder = tokio::runtime::Builder::new_multi_thread();
        Ok(Self(Some(builder.worker_threads(1).thread_name("raft").enable_all().build()?)))
    }

    async fn run<T: Send + 'static>(
        &self,
        task: impl Future<Output = T> + Send + 'static,
    ) -> Result<T, Error> {
        let runtime = self.0.as_ref().expect("there until dropped");
        runtime.spawn(task).await.map_err(|error| Error::Stopped(error.to_string()))
    }
}

impl Drop for Threads {
    fn drop(&mut self) {
        if let Some(runtime) = self.0.take() {
            runtime.shutdown_background();
        }
    }
}

/// Runs a member until `stop`, or until it cannot go on.
pub async fn run(flags: Flags, stop: CancellationToken) -> Result<(), Error> {
    let (open, mut closed) = mpsc::channel(1);
    // All of a member's parts in one future are large.
    let ended = Box::pin(member(flags, stop, open)).await;
    // A process that ends while a database is being closed crashes in it.
    let _ = timeout(CLOSE, closed.recv()).await;
    ended
}

async fn member(flags: Flags, stop: CancellationToken, until_closed: Open) -> Result<(), Error> {
    let mut config = Config::new(flags)?;
    let path = config.flags.data_dir.clone();
    let disk = |source| Error::Disk { path: path.clone(), source };
    let transport = Arc::new(Transport::new(config.peer_tls.clone())?);
    if config.joins() {
        (config.cluster, config.id) = tokio::select! {
            found = place(&config, &transport) => found?,
            () = stop.cancelled() => return Ok(()),
        };
    } else if let Some(cluster) = backup::restored_cluster(&config).map_err(disk)? {
        config.cluster = cluster;
    }
    let config = Arc::new(config);
    let mut peer_listeners = Vec::new();
    for url in &config.flags.listen_peer_urls {
        peer_listeners.push(listen(url).await?);
    }
    let clients = etcd::bind(&config).await?;
    let metrics_listeners = bind_metrics(&config).await?;
    let opening = config.clone();
    let metrics = Metrics::default();
    let (fsyncs, opened) = (metrics.clone(), move |fsyncs| open(&opening, fsyncs, until_closed));
    let (log, machine, applier, identity) = tokio::task::spawn_blocking(move || opened(fsyncs))
        .await
        .map_err(|error| Error::Stopped(error.to_string()))??;

    let threads = Threads::new().map_err(disk)?;
    let runtime = threads.0.as_ref().expect("there until dropped").handle().clone();
    let peers = Peers::new(config.cluster, config.id, transport.clone(), runtime.clone());
    let (raft_config, factory) = (raft_config(&config)?, peers.clone());
    let (id, entries) = (config.id, log.clone());
    let started = threads.run(async move { Raft::new(id, raft_config, factory, log, applier).await });
    let raft = started.await?.map_err(|error| Error::Stopped(error.to_string()))?;
    let local = Arc::new(Local::new(id, config.cluster, raft, machine, peers.awaited.clone()));
    let removed = peers.removed().clone();
    let (node, reads) = Node::new(local.clone(), peers, config.request_timeout());

    let inside = CancellationToken::new();
    let _stopping = inside.clone().drop_guard();
    let tasks = TaskTracker::new();
    for listener in peer_listeners {
        let serve = network::serve(listener, transport.clone(), local.clone(), inside.clone());
        tasks.spawn_on(serve, &runtime);
    }
    let running = node.clone().run(reads, config.election());
    let group = tasks.spawn_on(running, &runtime);
    let mut archive = Archiver::new(&config, &node, entries, &metrics, identity.instance);
    let member = etcd::Member::new(config.clone(), node.clone(), metrics, inside.clone());
    for listener in metrics_listeners {
        tasks.spawn(serve::http(listener, crate::metrics::router(member.clone()), inside.clone()));
    }
    let joining = join(config.clone(), node.clone(), identity.instance);
    let joining = async { threads.run(joining).await.flatten() };
    // Nothing is told of this member before the others were asked about it: the answer would be its own word.
    let serving = async {
        joining.await?;
        tokio::select! {
            served = clients.serve(member.clone(), inside.clone()) => served,
            () = publish(&config, &node, identity.instance) => Ok(()),
        }
    };
    tokio::select! {
        () = stop.cancelled() => leave(&node, &inside, &tasks, archive).await,
        () = Archiver::run(&mut archive) => Ok(()),
        () = removed.cancelled() => Err(Error::Removed { path: path.clone() }),
        ended = group => Err(Error::Stopped(ended.unwrap_or_else(|error| error.to_string()))),
        served = serving => served,
        () = compact(&config, &node) => Ok(()),
    }
}

/// The cluster and the number of a member that was added: from its data directory, or else from the others.
async fn place(config: &Config, transport: &Transport) -> Result<(u64, u64), Error> {
    let path = &config.flags.data_dir;
    let found = read_identity(&path.join("member/identity"));
    let found = found.map_err(|source| Error::Disk { path: path.clone(), source })?;
    if let Some(Identity { cluster, id, .. }) = found {
        return Ok((cluster, id));
    }
    let own = config.own_urls();
    let others = config.initial.values().flat_map(|peer| &peer.urls).filter(|url| !own.contains(url));
    let others: Vec<&String> = others.collect();
    let start = tokio::time::Instant::now();
    loop {
        for url in &others {
            let roster = match network::roster(transport, url).await {
                Ok(roster) => roster,
                Err(error) => {
                    tracing::debug!(url, %error, "waiting for a member");
                    continue;
                }
            };
            let this = roster.members.iter().find(|(_, urls)| urls.iter().any(|url| own.contains(url)));
            if let Some((id, _)) = this {
                return Ok((roster.cluster, *id));
            }
        }
        if start.elapsed() > JOIN {
            return Err(Error::NotAdded { urls: own });
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

async fn listen(url: &str) -> Result<TcpListener, Error> {
    let error = |source| Error::Listen { url: url.into(), source };
    let (host, port) = network::host_port(url).map_err(error)?;
    TcpListener::bind((host, port)).await.map_err(error)
}

/// Listens on the port of a URL.
pub(crate) async fn bind(url: &str) -> Result<TcpListener, Error> {
    listen(url).await
}

async fn bind_metrics(config: &Config) -> Result<Vec<TcpListener>, Error> {
    let mut listeners = Vec::new();
    for url in &config.flags.listen_metrics_urls {
        listeners.push(listen(url).await?);
    }
    Ok(listeners)
}

type Opened = (Log, Arc<Machine>, crate::applier::Applier, Identity);

fn open(config: &Config, metrics: Metrics, until_closed: Open) -> Result<Opened, Error> {
    let path = &config.flags.data_dir;
    let folder = path.join("member");
    let disk = |source| Error::Disk { path: path.clone(), source };
    let identity = identify(config, &folder)?;
    let log = Log::open(&folder.join("log"), move |took| metrics.fsync(took)).map_err(disk)?;
    let (machine, applier) = Machine::open(&folder).map_err(disk)?;
    log.keep(until_closed.clone());
    machine.engine.keep(until_closed);
    let last = log.last().map_err(disk)?;
    if machine.saved().applied > last {
        return Err(Error::LostLog { path: path.clone() });
    }
    if config.flags.force_new_cluster {
        let last = last.ok_or_else(|| Error::NothingToForce { path: path.clone() })?;
        let node = PeerNode { urls: config.own_urls(), joining: false };
        log.force(last, config.id, node).map_err(disk)?;
        tracing::warn!("--force-new-cluster: this member is the only one of its cluster from now on");
    }
    Ok((log, machine, applier, identity))
}

/// Makes sure that the directory is this member's, and makes it if there is none.
fn identify(config: &Config, folder: &Path) -> Result<Identity, Error> {
    let path = &config.flags.data_dir;
    let disk = |source| Error::Disk { path: path.clone(), source };
    let foreign = |problem: String| Error::Foreign { path: path.clone(), problem };
    let file = folder.join("identity");
    if let Some(found) = read_identity(&file).map_err(disk)? {
        if (found.cluster, found.id) != (config.cluster, config.id) {
            return Err(foreign(format!(
                "belongs to member {:x} of cluster {:x}, not to member {:x} of cluster {:x}",
                found.id, found.cluster, config.id, config.cluster
            )));
        }
        return Ok(found);
    }
    if folder.join("wal").exists() || folder.join("snap/db").exists() {
        return Err(foreign("is an etcd's".into()));
    }
    if folder.join("log").exists() {
        return Err(foreign("holds a log, but does not say whose".into()));
    }
    let identity = Identity { cluster: config.cluster, id: config.id, instance: rand::random() };
    write_identity(folder, &identity).map_err(disk)?;
    Ok(identity)
}

fn read_identity(file: &Path) -> io::Result<Option<Identity>> {
    match std::fs::read(file) {
        Ok(bytes) => codec::decode(&bytes).map(Some),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

/// Says in a member's folder whose it is.
pub(crate) fn write_identity(folder: &Path, identity: &Identity) -> io::Result<()> {
    use std::os::unix::fs::DirBuilderExt;
    std::fs::DirBuilder::new().recursive(true).mode(0o700).create(folder)?;
    let temporary = folder.join("identity.new");
    std::fs::write(&temporary, codec::encode(identity))?;
    std::fs::File::open(&temporary)?.sync_all()?;
    std::fs::rename(&temporary, folder.join("identity"))?;
    std::fs::File::open(folder)?.sync_all()
}

/// The longest a follower waits is its lease on the leader plus its own draw. Together they stay within
/// --election-timeout.
fn raft_config(config: &Config) -> Result<Arc<openraft::Config>, Error> {
    let election = config.flags.election_timeout;
    let raft = openraft::Config {
        cluster_name: format!("{:x}", config.cluster),
        heartbeat_interval: config.flags.heartbeat_interval,
        election_timeout_min: election * 3 / 10,
        election_timeout_max: election / 2,
        enable_pre_vote: Some(true),
        snapshot_policy: SnapshotPolicy::LogsSinceLast(config.flags.snapshot_count),
        max_in_snapshot_log_to_keep: config.flags.snapshot_count / 2,
        replication_lag_threshold: config.flags.snapshot_count.saturating_mul(2),
        max_payload_entries: 1024,
        install_snapshot_timeout: 600_000,
        backoff: "20ms 50ms 100ms ...200ms".into(),
        // Pre-vote and the state saved with every batch make it safe, but a leader that was away must ask again.
        enable_leader_restore: Some(false),
        ..openraft::Config::default()
    };
    raft.validate().map(Arc::new).map_err(|error| Error::Stopped(error.to_string()))
}

/// At the first start, forms the group with the others, unless they know this member from earlier. A restored
/// member has a group already, but may have been restored once more after it took part in it.
async fn join(config: Arc<Config>, node: Arc<Node>, instance: u64) -> Result<(), Error> {
    let stopped = |error: &dyn std::fmt::Display| Error::Stopped(error.to_string());
    let raft = &node.local.raft;
    let initialized = raft.is_initialized().await.map_err(|error| stopped(&error))?;
    let disk = |source| Error::Disk { path: config.flags.data_dir.clone(), source };
    if initialized && !backup::is_fresh(&config, &node.local.machine).map_err(disk)? {
        return Ok(());
    }
    if known_to_others(&config, &node, instance).await {
        let (name, path) = (config.flags.name.clone(), config.flags.data_dir.clone());
        return Err(Error::AlreadyBootstrapped { name, path });
    }
    if initialized || config.joins() {
        return Ok(());
    }
    let node = |urls: &[String]| PeerNode { urls: urls.to_vec(), joining: false };
    let members: BTreeMap<u64, PeerNode> =
        config.initial.iter().map(|(id, peer)| (*id, node(&peer.urls))).collect();
    match raft.initialize(members).await {
        Ok(()) => Ok(()),
        // A leader of the others was faster.
        Err(openraft::errors::RaftError::APIError(openraft::errors::InitializeError::NotAllowed(_))) => {
            Ok(())
        }
        Err(error) => Err(stopped(&error)),
    }
}

/// Asks the others until all answered, or the time is over and at least one did (alone there is nobody to ask).
async fn known_to_others(config: &Config, node: &Node, instance: u64) -> bool {
    let others: Vec<_> = config.initial.iter().filter(|(id, _)| **id != config.id).collect();
    let mut answered = BTreeMap::new();
    let start = tokio::time::Instant::now();
    while answered.len() < others.len() && (answered.is_empty() || start.elapsed() < JOIN) {
        for (id, peer) in &others {
            let lanes = node.peers.get(**id, &peer.urls[0]);
            let asked = timeout(Duration::from_secs(1), lanes.forward.call(&Request::Info)).await;
            match asked {
                Ok(Ok(Reply::Info(info))) => {
                    let other = info.known_instance.is_some_and(|known| known != instance);
                    answered.insert(**id, other);
                }
                Ok(Err(error)) => tracing::debug!(peer = peer.name, %error, "waiting for a member"),
                _ => {}
            }
        }
        if answered.values().any(|known| *known) {
            return true;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    false
}

/// Tells the group who this member is and where clients reach it, until it knows.
async fn publish(config: &Config, node: &Node, instance: u64) {
    let member = Member {
        id: config.id,
        instance,
        name: config.flags.name.clone(),
        peer_urls: config.flags.initial_advertise_peer_urls.clone(),
        client_urls: config.client_urls.clone(),
    };
    let mut leaders = node.leadership();
    loop {
        crate::node::known(&mut leaders).await;
        if node.linearize().await.is_ok() {
            if node.local.machine.members().contains(&member) {
                return std::future::pending().await;
            }
            if let Err(error) = node.propose(Command::Member(member.clone())).await {
                tracing::debug!(%error, "could not publish this member yet");
            }
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

/// Automatic compaction, by the leader.
async fn compact(config: &Config, node: &Node) {
    let (pause, keep) = match config.retention {
        Retention::Off => return std::future::pending().await,
        Retention::Revisions(keep) => (Duration::from_secs(300), Some(keep)),
        Retention::Age(age) => (age.min(Duration::from_secs(3600)).max(Duration::from_secs(1)), None),
    };
    let mut last = node.local.machine.revision();
    loop {
        tokio::time::sleep(pause).await;
        let now = node.local.machine.revision();
        let revision = keep.map_or(last, |keep| now - keep);
        last = now;
        if node.leader() == Some(config.id) && revision > node.local.machine.compacted() {
            match node.propose(Command::Compact(revision)).await {
                Ok(_) => tracing::info!(revision, "compacted"),
                Err(error) => tracing::warn!(%error, revision, "could not compact"),
            }
        }
    }
}

/// A clean stop: leadership goes first, then what is under way ends, then the archive gets the rest.
async fn leave(
    node: &Node,
    inside: &CancellationToken,
    tasks: &TaskTracker,
    archive: Option<Archiver>,
) -> Result<(), Error> {
    if node.leader() == Some(node.local.id) {
        match node.hand_over(None).await {
            Ok(()) => tracing::info!("handed over leadership"),
            Err(error) => tracing::warn!(%error, "could not hand over leadership before the stop"),
        }
    }
    inside.cancel();
    tasks.close();
    let stopped = node.local.raft.shutdown().await;
    // The time for open requests is bounded; what is left ends with its connection.
    let _ = timeout(GRACE, tasks.wait()).await;
    Archiver::finish(archive).await;
    stopped.map_err(|error| Error::Stopped(error.to_string()))
}
