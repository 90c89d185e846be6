//! The node agent: runs the pods that are bound to its node.
//!
//! `run` puts the parts together; `pod` decides and acts for one pod, `manager` keeps all of them, `node`
//! tells the API server about the machine, `server` answers it, `runtime` is the seam to containerd.

mod admit;
mod cgroup;
pub mod cluster;
mod config;
pub mod context;
mod error;
pub mod logs;
pub mod manager;
mod node;
pub mod pod;
pub mod pressure;
pub mod runtime;
mod server;
mod tls;
mod volume;

use std::{
    sync::{Arc, RwLock},
    time::Duration,
};

use client::{Client, Informer, Recorder};
use k8s_openapi::api::core::v1::{Node, Pod, Service};
use kube::{Api, runtime::watcher};
use tokio::{sync::Notify, task::JoinSet};
use tokio_util::sync::CancellationToken;

pub use cgroup::Cgroups;
pub use config::{Config, Flags};
pub use error::{Error, Result};

use crate::{cluster::Remote, context::Context, manager::Manager, pod::status::Host, runtime::Runtime};

/// Between two tries to reach the runtime or the API server at the start.
const RETRY: Duration = Duration::from_millis(300);

/// Runs a kubelet until `stop`. Containers go on when it ends, and are adopted when it starts again.
///
/// # Errors
/// When flags or files are wrong, or a listener cannot be opened.
pub async fn run(flags: Flags, stop: CancellationToken) -> Result<()> {
    let config = Config::new(flags)?;
    // Nothing that the kubelet starts should be killed before it; without the capability it stays as it is.
    let _ = std::fs::write("/proc/self/oom_score_adj", "-999");
    while !stop.is_cancelled() {
        tokio::select! {
            result = node::certificates::bootstrap(&config, &stop) => match result {
                Err(_) if stop.is_cancelled() => return Ok(()),
                other => other?,
            },
            () = stop.cancelled() => return Ok(()),
        }
        // Returns early when the client certificate was renewed: everything is connected anew.
        Box::pin(once(&config, &stop)).await?;
    }
    Ok(())
}

async fn once(config: &Config, stop: &CancellationToken) -> Result<()> {
    let client = connect(config).await?;
    let runtime: Arc<dyn Runtime> = Arc::new(runtime::Cri::new(&config.runtime_endpoint)?);
    let Some(version) = stop.run_until_cancelled(version(runtime.as_ref())).await else { return Ok(()) };
    let mut tasks = JoinSet::new();
    let services: Api<Service> = Api::all(client.kube());
    let services = Informer::start(services, watcher::Config::default(), &mut tasks, |_| {});
    let context = Arc::new(context(config, &client, runtime, &version, services.clone(), &mut tasks));
    let Some(node) = stop.run_until_cancelled(own_node(&context, &client)).await else { return Ok(()) };
    context.set_node(Arc::new(node));
    let manager = Manager::new(context.clone());
    let changed = Arc::new(Notify::new());
    watch_node(&context, &client, &changed, &mut tasks);
    keep_node(&context, &client, &changed, &mut tasks);
    let inner = stop.child_token();
    let following = follow_pods(&context, &client, &manager, services, &mut tasks);
    let managing = tokio::spawn(manager.clone().run(following, inner.clone()));
    let kube = client.kube();
    let result = tokio::select! {
        result = server::run(&context, &client, &manager, &inner) => result,
        () = node::certificates::renew_client(config, &kube) => Ok(()),
        () = stop.cancelled() => Ok(()),
    };
    inner.cancel();
    let _ = managing.await;
    tasks.shutdown().await;
    result
}

async fn connect(config: &Config) -> Result<Client> {
    let path = &config.kubeconfig;
    let client = client::connect(path, "kubelet").await;
    client.map_err(|error| Error::Client { path: path.clone(), source: error.into() })
}

/// Waits for the runtime; `NAME://VERSION`.
async fn version(runtime: &dyn Runtime) -> String {
    loop {
        match runtime.version().await {
            Ok(answer) => return format!("{}://{}", answer.runtime_name, answer.runtime_version),
            Err(error) => tracing::warn!(%error, "the container runtime does not answer yet"),
        }
        tokio::time::sleep(RETRY).await;
    }
}

fn context(
    config: &Config,
    client: &Client,
    runtime: Arc<dyn Runtime>,
    version: &str,
    services: Informer<Service>,
    tasks: &mut JoinSet<()>,
) -> Context {
    let capacity = node::machine::capacity(config);
    let name = version.split("://").next().unwrap_or("containerd");
    Context {
        runtime,
        cluster: Arc::new(Remote::new(client.kube(), services)),
        recorder: Recorder::new(client, "kubelet", &config.node, tasks),
        cgroups: Cgroups::detect(&config.cgroup_root),
        runtime_version: version.to_owned(),
        host: Host { ips: config.ips.iter().map(ToString::to_string).collect(), runtime: name.to_owned() },
        allocatable: node::machine::allocatable(config, &capacity),
        capacity,
        node: RwLock::new(None),
        config: config.clone(),
    }
}

/// Registers this node, or waits until somebody has.
async fn own_node(context: &Context, client: &Client) -> Node {
    loop {
        let result = if context.config.register {
            node::status::register(context, &client.kube()).await
        } else {
            let api: Api<Node> = Api::all(client.kube());
            api.get(&context.config.node).await.map_err(Error::api("get this node"))
        };
        match result {
            Ok(node) => return node,
            Err(error) => tracing::warn!(error = error.chain(), "the node is not registered yet"),
        }
        tokio::time::sleep(RETRY).await;
    }
}

fn by_name(field: &str, name: &str) -> watcher::Config {
    watcher::Config::default().fields(&format!("{field}={name}"))
}

/// Follows the own Node; its pod CIDRs become the CNI configuration.
fn watch_node(context: &Arc<Context>, client: &Client, changed: &Arc<Notify>, tasks: &mut JoinSet<()>) {
    let (of, changed) = (context.clone(), changed.clone());
    let take = move |node: Arc<Node>| {
        let spec = node.spec.clone().unwrap_or_default();
        let cidrs = spec.pod_cidrs.filter(|list| !list.is_empty());
        let cidrs = cidrs.or(spec.pod_cidr.map(|one| vec![one])).unwrap_or_default();
        if !cidrs.is_empty()
            && let Err(error) = node::cni::configure(&of.config, &cidrs)
        {
            tracing::error!(error = error.chain(), "cannot configure CNI");
        }
        of.set_node(node);
        changed.notify_one();
    };
    if let Some(node) = context.node() {
        take(node);
    }
    let api: Api<Node> = Api::all(client.kube());
    Informer::start(api, by_name("metadata.name", &context.config.node), tasks, move |change| {
        if let Some(node) = change.new {
            take(node);
        }
    });
}

fn keep_node(context: &Arc<Context>, client: &Client, changed: &Arc<Notify>, tasks: &mut JoinSet<()>) {
    let (of, kube, notify) = (context.clone(), client.kube(), changed.clone());
    tasks.spawn(async move { node::status::keep(&of, &kube, &notify).await });
    let of = context.clone();
    let kube = client.separate().map_or_else(|_| client.kube(), |client| client.kube());
    tasks.spawn(async move {
        let (name, seconds) = (of.config.node.clone(), of.config.lease_seconds);
        node::lease::renew(kube, name, seconds, || of.node().map(|node| (*node).clone())).await;
    });
}

/// Follows the pods of this node. The answer is ready when all are known.
fn follow_pods(
    context: &Arc<Context>,
    client: &Client,
    manager: &Arc<Manager>,
    services: Informer<Service>,
    tasks: &mut JoinSet<()>,
) -> impl Future<Output = ()> + use<> {
    let (api, name): (Api<Pod>, _) = (Api::all(client.kube()), context.config.node.clone());
    let manager = manager.clone();
    let (send, receive) = tokio::sync::oneshot::channel();
    tasks.spawn(async move {
        // A container that starts before its Services are known would lack their variables.
        services.synced().await;
        let mut own = JoinSet::new();
        let of = manager.clone();
        let pods = Informer::start(api, by_name("spec.nodeName", &name), &mut own, move |change| {
            of.on_change(&change)
        });
        pods.synced().await;
        let _ = send.send(());
        own.join_all().await;
    });
    async move {
        if receive.await.is_err() {
            std::future::pending::<()>().await;
        }
    }
}
