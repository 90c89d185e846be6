//! One member from start to stop.
//!
//! Keeps true: a member takes part only with a data directory that is its own and whole; a member whose data was lost
//! comes back under another number or not at all; openraft, its timers and the peers' connections run on a thread of
//! their own, so that no client's request delays a heartbeat; a leader that is stopped hands over first, if somebody
//! answers.

use crate::{
    archive::Archiver,
    backup,
    command::{Command, Member},
    engine::Open,
    error::Error,
    etcd,
    flags::{Config, Flags, Retention},
    identity::{self, Identity},
    local::Local,
    log::Log,
    machine::Machine,
    metrics::Metrics,
    network::{self, Peers, Transport},
    node::Node,
    rejoin::{self, Standing},
    space,
    types::{PeerNode, Raft},
};
use openraft::{SnapshotPolicy, storage::RaftLogStorage};
use std::{collections::BTreeMap, error::Error as _, io, sync::Arc, time::Duration};
use tokio::{net::TcpListener, runtime::Runtime, sync::mpsc, time::timeout};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

/// How long open requests may take after a stop.
const GRACE: Duration = Duration::from_millis(500);

/// How long the databases may take to close.
const CLOSE: Duration = Duration::from_secs(3);

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

/// Runs a member until `stop`, or until it cannot go on. One that stopped for want of space starts again when there
/// is some: which of its last writes are on the disk is unknown until its databases are opened anew. One that has lost
/// its data starts again, empty and under a new number, when the others have agreed to that.
pub async fn run(flags: Flags, stop: CancellationToken) -> Result<(), Error> {
    loop {
        let error = match once(flags.clone(), stop.clone()).await {
            Err(error) if space::is_cause(&error) || error.is_loss() => error,
            ended => return ended,
        };
        let (path, cause) = (flags.data_dir.display(), error.source().map(ToString::to_string));
        let again = async {
            if space::is_cause(&error) {
                tracing::error!(%error, cause, %path, "the disk is full: this member waits until there is space");
                space::returned(&flags.data_dir).await;
                return true;
            }
            tracing::error!(%error, cause, "this member lost its data: asking the others for a new number");
            let replaced = replace(&flags).await;
            replaced.inspect_err(|why| tracing::error!(%why, "there is no new number")).is_ok()
        };
        tokio::select! {
            () = stop.cancelled() => return Ok(()),
            again = again => if !again { return Err(error) },
        }
    }
}

async fn replace(flags: &Flags) -> io::Result<()> {
    let mut config = Config::new(flags.clone()).map_err(io::Error::other)?;
    if let Some(cluster) = backup::restored_cluster(&config)? {
        config.cluster = cluster;
    }
    if flags.force_new_cluster {
        return Err(io::Error::other("--force-new-cluster: there are to be no others"));
    }
    rejoin::replace(&config).await
}

async fn once(flags: Flags, stop: CancellationToken) -> Result<(), Error> {
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
    let (origin, whose) = tokio::select! {
        found = place(&mut config, &transport) => found?,
        () = stop.cancelled() => return Ok(()),
    };
    let config = Arc::new(config);
    let mut peer_listeners = Vec::new();
    for url in &config.flags.listen_peer_urls {
        peer_listeners.push(listen(url).await?);
    }
    let clients = etcd::bind(&config).await?;
    let metrics_listeners = bind_metrics(&config).await?;
    let opening = config.clone();
    let identity = move |config: &Config| whose.map_or_else(|| found(config, origin), Ok);
    let metrics = Metrics::default();
    let (fsyncs, opened) = (metrics.clone(), move |fsyncs| open(&opening, identity, fsyncs, until_closed));
    let (mut log, machine, applier, identity) = tokio::task::spawn_blocking(move || opened(fsyncs))
        .await
        .map_err(|error| Error::Stopped(error.to_string()))??;

    let committed = log.read_committed().await.map_err(disk)?.map_or(0, |id| id.index);
    let threads = Threads::new().map_err(disk)?;
    let runtime = threads.0.as_ref().expect("there until dropped").handle().clone();
    let peers = Peers::new(config.cluster, config.id, transport.clone(), runtime.clone());
    let (raft_config, factory) = (raft_config(&config)?, peers.clone());
    let (id, pulse, entries) = (config.id, log.pulse(), log.clone());
    let started = threads.run(async move { Raft::new(id, raft_config, factory, log, applier).await });
    let raft = started.await?.map_err(|error| Error::Stopped(error.to_string()))?;
    let local = Arc::new(Local::new(id, config.cluster, raft, machine, peers.awaited.clone(), pulse));
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
    let joining = join(config.clone(), node.clone(), transport.clone(), identity.instance);
    let joining = async { threads.run(joining).await.flatten() };
    // Nothing is told of this member before the others were asked about it: the answer would be its own word.
    let serving = async {
        joining.await?;
        // Nobody is shown less than this member has shown before it was started again.
        node.local.machine.wait_applied(committed).await;
        tokio::select! {
            served = clients.serve(member.clone(), inside.clone()) => served,
            () = publish(&config, &node, identity.instance) => Ok(()),
            error = rejoin::forgotten(&config, &transport, &node.local) => Err(error),
        }
    };
    tokio::select! {
        () = stop.cancelled() => leave(&node, &inside, &tasks, archive).await,
        () = Archiver::run(&mut archive) => Ok(()),
        () = removed.cancelled() => Err(Error::Removed { path: path.clone() }),
        ended = group => Err(Error::Stopped(ended.unwrap_or_else(|error| error.to_string()))),
        served = serving => served,
        () = compact(&config, &node) => Ok(()),
        () = space::watch(&config, &node) => Ok(()),
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

/// What a data directory holds.
type Opened = (Log, Arc<Machine>, crate::applier::Applier, Identity);

/// Opens a data directory, if it is whole.
pub(crate) fn open(
    config: &Config,
    identity: impl FnOnce(&Config) -> Result<Identity, Error>,
    metrics: Metrics,
    until_closed: Open,
) -> Result<Opened, Error> {
    let path = &config.flags.data_dir;
    let folder = identity::folder(path);
    let disk = |source| Error::of_disk(path, source);
    let identity = identity(config)?;
    let log = Log::open(&folder.join("log"), move |took| metrics.fsync(took)).map_err(disk)?;
    let (machine, applier) = Machine::open(&folder).map_err(disk)?;
    log.keep(until_closed.clone());
    machine.engine.keep(until_closed);
    let last = log.last().map_err(disk)?;
    let vote = log.vote().map_err(disk)?;
    // The first entry is there before the first vote.
    let unsigned = vote.is_none() && last.is_some_and(|last| last.index > 0);
    let applied = machine.saved().applied;
    let behind = applied > last;
    // The log is cut only when the state is on the disk.
    let cut = applied < log.purged().map_err(disk)?;
    if unsigned || cut || (behind && !log.is_marked()) {
        return Err(Error::LostLog { path: path.clone() });
    }
    if behind {
        // Others had confirmed what this one's disk had not when it ended. The log goes on after the state.
        machine.settle().map_err(disk)?;
    }
    if config.flags.force_new_cluster {
        let last = last.ok_or_else(|| Error::NothingToForce { path: path.clone() })?;
        let node = PeerNode { urls: config.own_urls(), joining: false };
        log.force(last, config.id, node).map_err(disk)?;
        tracing::warn!("--force-new-cluster: this member is the only one of its cluster from now on");
    }
    Ok((log, machine, applier, identity))
}

/// Which cluster and which member it is: by the directory, the flags, and the others where these do not say. Returns
/// the number that the flags give, and whose the directory is, if there is one.
pub(crate) async fn place(
    config: &mut Config,
    transport: &Transport,
) -> Result<(u64, Option<Identity>), Error> {
    let origin = config.id;
    let restored = backup::restored_cluster(config);
    let restored = restored.map_err(|source| Error::of_disk(&config.flags.data_dir, source))?;
    config.cluster = restored.unwrap_or(config.cluster);
    let whose = whose(config)?;
    if whose.is_none() && config.joins() {
        (config.cluster, config.id) = rejoin::place(config, transport).await?;
    }
    Ok((origin, whose))
}

/// Whose the directory is, as far as the flags allow: its number is the one in the directory.
fn whose(config: &mut Config) -> Result<Option<Identity>, Error> {
    let path = &config.flags.data_dir;
    let found = identity::read(&identity::folder(path)).map_err(|source| Error::of_disk(path, source))?;
    let Some(Identity { cluster, id, origin, .. }) = found else { return Ok(None) };
    if config.joins() {
        config.cluster = cluster;
    } else if (cluster, origin) != (config.cluster, config.id) {
        return Err(Error::Foreign {
            path: path.clone(),
            problem: format!(
                "belongs to member {origin:x} of cluster {cluster:x}, not to member {:x} of cluster {:x}",
                config.id, config.cluster
            ),
        });
    }
    config.id = id;
    Ok(found)
}

/// Makes the directory of a member that has none yet.
pub(crate) fn found(config: &Config, origin: u64) -> Result<Identity, Error> {
    let path = &config.flags.data_dir;
    let folder = identity::folder(path);
    if folder.join("wal").exists() || folder.join("snap/db").exists() {
        return Err(Error::Foreign { path: path.clone(), problem: "is an etcd's".into() });
    }
    if folder.join("log").exists() {
        return Err(Error::Nameless { path: path.clone() });
    }
    let identity = Identity::new(config.cluster, config.id, origin);
    identity::write(&folder, &identity).map_err(|source| Error::of_disk(path, source))?;
    Ok(identity)
}

/// The longest a follower waits is its lease on the leader plus its own draw. Together they stay within
/// --election-timeout.
pub(crate) fn raft_config(config: &Config) -> Result<Arc<openraft::Config>, Error> {
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

/// At the first start, forms the group with the others, unless they know this member from earlier. Until then this
/// member does nothing for them. A restored member has a group already, but may have been restored once more after it
/// took part in it.
pub(crate) async fn join(
    config: Arc<Config>,
    node: Arc<Node>,
    transport: Arc<Transport>,
    instance: u64,
) -> Result<(), Error> {
    let stopped = |error: &dyn std::fmt::Display| Error::Stopped(error.to_string());
    let raft = &node.local.raft;
    let initialized = raft.is_initialized().await.map_err(|error| stopped(&error))?;
    let disk = |source| Error::of_disk(&config.flags.data_dir, source);
    let restored = initialized && backup::is_fresh(&config, &node.local.machine).map_err(disk)?;
    if !initialized || restored {
        match rejoin::standing(&config, &transport, restored.then_some(instance)).await {
            Standing::Known => {
                let (name, path) = (config.flags.name.clone(), config.flags.data_dir.clone());
                return Err(Error::AlreadyBootstrapped { name, path });
            }
            Standing::NoGroup
                if !initialized && !config.joins() && config.initial.contains_key(&config.id) =>
            {
                form(&config, raft).await.map_err(|error| stopped(&error))?;
            }
            Standing::NoGroup | Standing::Awaited => {}
        }
    }
    node.local.join();
    Ok(())
}

async fn form(config: &Config, raft: &Raft) -> Result<(), impl std::fmt::Display> {
    let node = |urls: &[String]| PeerNode { urls: urls.to_vec(), joining: false };
    let members: BTreeMap<u64, PeerNode> =
        config.initial.iter().map(|(id, peer)| (*id, node(&peer.urls))).collect();
    match raft.initialize(members).await {
        // A leader of the others was faster.
        Err(openraft::errors::RaftError::APIError(openraft::errors::InitializeError::NotAllowed(_))) => {
            Ok(())
        }
        formed => formed,
    }
}

/// Tells the group who this member is and where clients reach it, until it knows.
pub(crate) async fn publish(config: &Config, node: &Node, instance: u64) {
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
        match node.local.furthest() {
            None => tracing::info!("nobody answers that could lead"),
            Some(next) => match node.hand_over(next).await {
                Ok(()) => tracing::info!(to = format!("{next:x}"), "handed over leadership"),
                Err(error) => tracing::warn!(%error, "could not hand over leadership before the stop"),
            },
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
