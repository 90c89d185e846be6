//! The controllers: make what is what was asked for.
//!
//! ```text
//! informers ─► Stores ─► Controller::wake ─► work queue ─► Controller::reconcile ─► Plan ─► runner ─► API server
//! ```
//!
//! Keeps true: controllers decide and never act, the runner acts and never decides; only the elected leader
//! writes, through a client fenced by its epoch; a standby's stores are as full as the leader's. Leaves to others:
//! scheduling, running pods, and everything that the API server does by itself.

mod aggregation;
mod api;
mod controller;
mod csr;
mod deployment;
mod endpoints;
mod family;
mod flags;
mod gc;
mod metrics;
mod namespace;
mod node;
mod pods;
mod replicaset;
mod runner;
mod select;
mod serviceaccount;
mod serving;
mod store;
#[cfg(test)]
mod testing;

use std::{net::SocketAddr, path::PathBuf, sync::Arc};

use k8s_openapi::api::{apps::v1::ReplicaSet, core::v1::ReplicationController};
use kube::runtime::watcher;
use prometheus_client::registry::Registry;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

pub use crate::flags::{Config, Flags};
use crate::{
    controller::Controller,
    gc::GarbageCollector,
    metrics::Metrics,
    runner::{Member, Runner},
    store::Watched,
};

/// Why the controller manager could not start or go on.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A flag is wrong.
    #[error("{what}: {why}")]
    Flag {
        /// Which.
        what: &'static str,
        /// What is wrong with it.
        why: String,
    },
    /// A file that a flag names cannot be read.
    #[error("cannot read {}: check that it exists and that this user may read it", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// The operating system's reason.
        source: std::io::Error,
    },
    /// The signing CA is not usable.
    #[error("cannot sign certificates: check --cluster-signing-cert-file and --cluster-signing-key-file")]
    Authority {
        /// The reason.
        source: rcgen::Error,
    },
    /// The port for health and metrics is not to be had.
    #[error(
        "cannot listen on {address}: is another controller manager running here? Choose another --secure-port"
    )]
    Listen {
        /// The address.
        address: SocketAddr,
        /// The operating system's reason.
        source: std::io::Error,
    },
    /// No certificate was given and none could be made.
    #[error("cannot make a self-signed serving certificate: give --tls-cert-file and --tls-private-key-file")]
    SelfSigned {
        /// The reason.
        source: std::io::Error,
    },
    /// The serving certificate or client CA is not usable.
    #[error("cannot serve health and metrics")]
    Serve {
        /// The reason.
        source: serve::Error,
    },
    /// The API cannot be reached at all.
    #[error("cannot use the API server")]
    Client {
        /// The reason.
        source: client::Error,
    },
}

/// One controller: upstream's name for `--controllers`, the name that its events come from (and its queue has), how
/// many keys are worked on at a time, and how it is made; not at all if its flags are missing.
struct Row {
    name: &'static str,
    alias: &'static str,
    source: &'static str,
    workers: fn(&Flags) -> usize,
    make: fn(&Parts) -> Made,
}

/// What controllers are made from.
struct Parts<'a> {
    config: &'a Config,
    collector: &'a Arc<GarbageCollector>,
}

type Made = Result<Option<Arc<dyn Controller>>, Error>;

fn made(controller: impl Controller + 'static) -> Made {
    Ok(Some(Arc::new(controller)))
}

/// All controllers.
const CONTROLLERS: &[Row] = &[
    Row {
        name: "deployment-controller",
        alias: "deployment",
        source: "deployment-controller",
        workers: |f| f.concurrent_deployment_syncs,
        make: |_| made(deployment::Deployments),
    },
    Row {
        name: "replicaset-controller",
        alias: "replicaset",
        source: "replicaset-controller",
        workers: |f| f.concurrent_replicaset_syncs,
        make: |_| made(replicaset::Replicas::<ReplicaSet>::default()),
    },
    Row {
        name: "replicationcontroller-controller",
        alias: "replicationcontroller",
        source: "replication-controller",
        workers: |f| f.concurrent_rc_syncs,
        make: |_| made(replicaset::Replicas::<ReplicationController>::default()),
    },
    Row {
        name: "endpoints-controller",
        alias: "endpoint",
        source: "endpoint-controller",
        workers: |f| f.concurrent_endpoint_syncs,
        make: |_| made(endpoints::legacy::Legacy),
    },
    Row {
        name: "endpointslice-controller",
        alias: "endpointslice",
        source: "endpoint-slice-controller",
        workers: |f| f.concurrent_service_endpoint_syncs,
        make: |_| made(endpoints::slices::Slices),
    },
    Row {
        name: "namespace-controller",
        alias: "namespace",
        source: "namespace-controller",
        workers: |f| f.concurrent_namespace_syncs,
        make: |_| made(namespace::Namespaces),
    },
    Row {
        name: "garbage-collector-controller",
        alias: "garbagecollector",
        source: "garbage-collector-controller",
        workers: |f| f.concurrent_gc_syncs,
        make: |p| {
            let collector: Arc<dyn Controller> = p.collector.clone();
            Ok(Some(collector))
        },
    },
    Row {
        name: "serviceaccount-controller",
        alias: "serviceaccount",
        source: "serviceaccount-controller",
        workers: |_| 1,
        make: |_| made(serviceaccount::ServiceAccounts),
    },
    Row {
        name: "root-ca-certificate-publisher-controller",
        alias: "root-ca-cert-publisher",
        source: "root-ca-certificate-publisher",
        workers: |_| 1,
        make: |p| {
            Ok(p.config
                .root_ca
                .clone()
                .map(|bundle| -> Arc<dyn Controller> { Arc::new(serviceaccount::RootCa { bundle }) }))
        },
    },
    Row {
        name: "node-lifecycle-controller",
        alias: "nodelifecycle",
        source: "node-controller",
        workers: |_| 4,
        make: |p| made(node::lifecycle::Lifecycle::new(p.config.timing.clone())),
    },
    Row {
        name: "taint-eviction-controller",
        alias: "taint-eviction",
        source: "taint-eviction-controller",
        workers: |_| 8,
        make: |_| made(node::eviction::Eviction::default()),
    },
    Row {
        name: "node-ipam-controller",
        alias: "nodeipam",
        source: "cidrAllocator",
        // One at a time: a range that is being given must not be given again.
        workers: |_| 1,
        make: |p| {
            if p.config.ranges.is_empty() {
                Ok(None)
            } else {
                made(node::ipam::Ipam::new(p.config.ranges.clone()))
            }
        },
    },
    Row {
        name: "pod-garbage-collector-controller",
        alias: "podgc",
        source: "pod-garbage-collector-controller",
        workers: |_| 1,
        make: |p| {
            let threshold = p.config.flags.terminated_pod_gc_threshold;
            made(node::podgc::PodGc { threshold, absent: std::sync::Mutex::default() })
        },
    },
    Row {
        name: "certificatesigningrequest-approving-controller",
        alias: "csrapproving",
        source: "csrapproving",
        workers: |_| 5,
        make: |_| made(csr::approving::Approving),
    },
    Row {
        name: "certificatesigningrequest-signing-controller",
        alias: "csrsigning",
        source: "csrsigning",
        workers: |_| 5,
        make: signing,
    },
    Row {
        name: "certificatesigningrequest-cleaner-controller",
        alias: "csrcleaner",
        source: "csrcleaner",
        workers: |_| 1,
        make: |_| made(csr::cleaning::Cleaning),
    },
    Row {
        name: "clusterrole-aggregation-controller",
        alias: "clusterrole-aggregation",
        source: "clusterrole-aggregation-controller",
        workers: |_| 1,
        make: |_| made(aggregation::Aggregation),
    },
];

fn signing(parts: &Parts<'_>) -> Made {
    let Some((certificate, key)) = &parts.config.authority else { return Ok(None) };
    let authority = Arc::new(csr::signing::Authority::new(certificate, key)?);
    let authorities = csr::signing::SIGNERS.iter().map(|s| (*s, authority.clone())).collect();
    made(csr::signing::Signing { authorities, duration: parts.config.flags.cluster_signing_duration })
}

/// Whether `--controllers` wants this one.
fn is_wanted(list: &[String], row: &Row) -> bool {
    let named = |prefix: &str| {
        list.iter().any(|w| w.strip_prefix(prefix).is_some_and(|w| w == row.name || w == row.alias))
    };
    if named("-") {
        return false;
    }
    named("") || list.iter().any(|w| w == "*")
}

fn members(parts: &Parts<'_>) -> Result<Vec<Member>, Error> {
    let flags = &parts.config.flags;
    let mut members = Vec::new();
    for row in CONTROLLERS.iter().filter(|row| is_wanted(&flags.controllers, row)) {
        match (row.make)(parts)? {
            Some(controller) => {
                let workers = (row.workers)(flags).max(1);
                members.push(Member { name: row.source, workers, controller });
            }
            None => {
                tracing::info!(controller = row.name, "not started: the flags that it needs are not given")
            }
        }
    }
    Ok(members)
}

/// Runs the controller manager until `stop`.
pub async fn run(flags: Flags, stop: CancellationToken) -> Result<(), Error> {
    let config = Config::new(flags)?;
    let client = client::connect(&config.flags.kubeconfig, "kube-controller-manager").await;
    let client = client.map_err(|source| Error::Client { source })?;
    let mut registry = Registry::default();
    let metrics = Metrics::new(&mut registry);
    let collector = Arc::new(GarbageCollector::default());
    let members = members(&Parts { config: &config, collector: &collector })?;
    let runner = Arc::new(Runner::new(members, Arc::new(client::System), metrics.clone()));
    let mut tasks = JoinSet::new();
    let informers = Arc::new(follow(&runner, &client, &mut tasks));
    follow_rest(collector, &runner, &client, &mut tasks);
    let seen = informers.clone();
    let synced = move || {
        seen.iter().all(|i| i.is_synced()).then_some(()).ok_or("informers are not synced yet".to_owned())
    };
    let checks = serve::health::Checks::new().ready("informer-sync", synced);
    let serving_stop = CancellationToken::new();
    let server = tokio::spawn(serving::start(&config, checks, registry, serving_stop.clone()).await?);
    let filled = async {
        for informer in informers.iter() {
            informer.synced().await;
        }
    };
    let result = match stop.run_until_cancelled(filled).await {
        Some(()) => lead(&config, client, runner, metrics, stop).await,
        None => Ok(()),
    };
    serving_stop.cancel();
    if let Err(error) = server.await {
        tracing::warn!(%error, "the server of health and metrics failed");
    }
    tasks.shutdown().await;
    result
}

/// Takes part in the election; controls while elected.
async fn lead(
    config: &Config,
    client: client::Client,
    runner: Arc<Runner>,
    metrics: Metrics,
    stop: CancellationToken,
) -> Result<(), Error> {
    let host = config.host.clone();
    let Some(election) = config.election.clone() else {
        stop.run_until_cancelled(runner.lead(client, host)).await;
        return Ok(());
    };
    let term = |fenced: client::Client, _| {
        let (runner, host, metrics) = (runner.clone(), host.clone(), metrics.clone());
        async move {
            let _leading = Leading::new(&metrics);
            runner.lead(fenced, host).await;
        }
    };
    client::elect(election, client, stop, term).await.map_err(|source| Error::Client { source })
}

/// Says in the metrics that this process leads, until dropped.
struct Leading<'a>(&'a Metrics);

impl<'a> Leading<'a> {
    fn new(metrics: &'a Metrics) -> Self {
        metrics.leading(true);
        Self(metrics)
    }
}

impl Drop for Leading<'_> {
    fn drop(&mut self) {
        self.0.leading(false);
    }
}

/// An informer, whatever its kind.
trait Filled: Send + Sync {
    fn is_synced(&self) -> bool;
    fn synced(&self) -> futures::future::BoxFuture<'_, ()>;
}

impl<K: Send + Sync> Filled for client::Informer<K> {
    fn is_synced(&self) -> bool {
        client::Informer::is_synced(self)
    }

    fn synced(&self) -> futures::future::BoxFuture<'_, ()> {
        Box::pin(client::Informer::synced(self))
    }
}

/// Starts an informer per kind; of some kinds only a part is wanted.
fn follow(runner: &Arc<Runner>, client: &client::Client, tasks: &mut JoinSet<()>) -> Vec<Box<dyn Filled>> {
    store::start_all(&mut Start { runner, client, tasks })
}

/// Starts informers.
struct Start<'a> {
    runner: &'a Arc<Runner>,
    client: &'a client::Client,
    tasks: &'a mut JoinSet<()>,
}

impl Start<'_> {
    fn start<K>(&mut self) -> Box<dyn Filled>
    where
        K: Watched + kube::Resource<DynamicType = ()>,
    {
        let config = match store::only_name(K::KIND) {
            Some(name) => watcher::Config::default().fields(&format!("metadata.name={name}")),
            None => watcher::Config::default(),
        };
        let runner = self.runner.clone();
        let api = kube::Api::<K>::all(self.client.kube());
        Box::new(client::Informer::start(api, config, self.tasks, move |change| runner.take_in::<K>(change)))
    }
}

/// Follows, for the garbage collector, what has no store.
fn follow_rest(
    collector: Arc<GarbageCollector>,
    runner: &Arc<Runner>,
    client: &client::Client,
    tasks: &mut JoinSet<()>,
) {
    let api = api::Api::new(client.kube(), client::Recorder::silent());
    let runner = runner.clone();
    let tell = move |change: &store::Change| runner.dispatch(change);
    tasks.spawn(gc::watch::follow(collector, client.kube(), api, tell));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn choosing_controllers() {
        let check = |list: &str, name: &str, expect: bool| {
            let list: Vec<String> = list.split(',').map(Into::into).collect();
            let row = CONTROLLERS.iter().find(|r| r.alias == name).unwrap();
            assert_eq!(is_wanted(&list, row), expect, "{list:?} {name}");
        };
        check("*", "podgc", true);
        check("*,-podgc", "podgc", false);
        check("*,-pod-garbage-collector-controller", "podgc", false);
        check("deployment", "podgc", false);
        check("deployment,podgc", "podgc", true);
    }

    #[test]
    fn names_are_unique() {
        let mut names: Vec<&str> = CONTROLLERS.iter().flat_map(|r| [r.name, r.alias]).collect();
        let count = names.len();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), count);
    }
}
