//! The only doer: follows the cluster, plans, and brings rules, routes and connections up to date.
//!
//! Keeps true: the first change after a pause is acted on at once, later ones at most `min_sync_period` later;
//! whatever fails is tried again, with all rules made anew; stale UDP connections are deleted after the rules are
//! in place. The rules stay when the program ends.

use std::collections::BTreeSet;
use std::net::Ipv4Addr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use client::{Change, Client, Informer};
use k8s_openapi::api::core::v1::{Node, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::Api;
use kube::runtime::watcher;
use tokio::sync::Notify;
use tokio::task::JoinSet;

use crate::endpoints::NodeView;
use crate::health::{Health, Metrics};
use crate::nft::{Applied, Kernel};
use crate::ruleset::Udp;
use crate::{Config, conntrack, routes, rules};

/// Pause after a failure.
const RETRY: Duration = Duration::from_secs(1);

/// Follows the cluster and keeps the kernel up to date.
pub(crate) struct Driver {
    config: Config,
    services: Informer<Service>,
    slices: Informer<EndpointSlice>,
    nodes: Informer<Node>,
    changed: Arc<Notify>,
    kernel: Kernel,
    cleaned: Option<Udp>,
    /// What was said last about routes, so that it is not said every second.
    complaint: Option<String>,
    health: Health,
    metrics: Metrics,
}

impl Driver {
    pub(crate) fn new(
        config: Config,
        client: &Client,
        tasks: &mut JoinSet<()>,
        health: Health,
        metrics: Metrics,
    ) -> Self {
        let changed = Arc::new(Notify::new());
        let kube = client.kube();
        let tell = |(changed, health): (Arc<Notify>, Health)| {
            move || {
                health.queued();
                changed.notify_one();
            }
        };
        let told = || (changed.clone(), health.clone());
        let on = tell(told());
        let all = watcher::Config::default;
        let services = Informer::start(Api::all(kube.clone()), all(), tasks, move |_: Change<Service>| on());
        let on = tell(told());
        let slices =
            Informer::start(Api::all(kube.clone()), all(), tasks, move |_: Change<EndpointSlice>| on());
        let on = tell(told());
        let nodes = Informer::start(Api::all(kube), all(), tasks, move |change: Change<Node>| {
            if concerns_us(&change) {
                on();
            }
        });
        let kernel = Kernel::default();
        Self {
            config,
            services,
            slices,
            nodes,
            changed,
            kernel,
            cleaned: None,
            complaint: None,
            health,
            metrics,
        }
    }

    /// Until dropped.
    pub(crate) async fn run(mut self) {
        self.prepare_host();
        tokio::join!(self.services.synced(), self.slices.synced(), self.nodes.synced());
        let mut checked = Instant::now();
        loop {
            let done = self.sync().await;
            let pause = if done { self.config.min_sync_period } else { RETRY };
            tokio::time::sleep(pause).await;
            let due = self.config.sync_period.saturating_sub(checked.elapsed());
            if done && tokio::time::timeout(due, self.changed.notified()).await.is_err() {
                checked = Instant::now();
                if !self.kernel.check().await {
                    tracing::warn!("the rules are gone from the kernel, making them anew");
                }
            }
        }
    }

    fn prepare_host(&self) {
        for (path, value) in SYSCTLS {
            if let Err(error) = set_sysctl(path, value) {
                tracing::warn!(path, value, %error, "cannot set a kernel parameter that services need");
            }
        }
    }

    /// Brings everything up to date; false when something has to be tried again.
    async fn sync(&mut self) -> bool {
        let started = Instant::now();
        let nodes = self.nodes.list();
        let own = nodes.iter().find(|n| n.metadata.name.as_deref() == Some(&self.config.hostname));
        self.health.node(own.map(Arc::as_ref));
        let rules_done = self.sync_rules(own.map(Arc::as_ref)).await;
        let routes_done = self.sync_routes(&nodes).await;
        self.metrics.sync.observe(started.elapsed().as_secs_f64());
        if rules_done {
            self.health.updated();
            self.metrics.last.set(jiff::Timestamp::now().as_duration().as_secs_f64());
        }
        rules_done && routes_done
    }

    async fn sync_rules(&mut self, own: Option<&Node>) -> bool {
        let labels = own.and_then(|n| n.metadata.labels.as_ref());
        let node = NodeView {
            name: self.config.hostname.clone(),
            zone: labels.and_then(|l| l.get("topology.kubernetes.io/zone")).cloned(),
        };
        let (services, slices) = (self.services.list(), self.slices.list());
        let count = |n: usize| i64::try_from(n).unwrap_or(i64::MAX);
        self.metrics.services.set(count(services.len()));
        self.metrics.endpoints.set(count(slices.len()));
        let planned = rules::plan(&services, &slices, &node, &self.config.options);
        let udp = planned.udp.clone();
        match self.kernel.apply(planned).await {
            Ok(Applied::Everything) => tracing::info!(services = services.len(), "applied all rules"),
            Ok(done) => tracing::debug!(?done, "applied rules"),
            Err(error) => {
                tracing::error!(
                    error = &error as &dyn std::error::Error,
                    "cannot apply the rules, trying again"
                );
                self.metrics.failures.inc();
                return false;
            }
        }
        self.clean_connections(udp).await
    }

    async fn clean_connections(&mut self, udp: Udp) -> bool {
        if self.cleaned.as_ref() == Some(&udp) {
            return true;
        }
        let wanted = udp.clone();
        let cleaned =
            tokio::task::spawn_blocking(move || conntrack::clean(&wanted, &local_addresses())).await;
        match cleaned {
            Ok(Ok(count)) => {
                self.metrics.stale.inc_by(u64::try_from(count).unwrap_or(0));
                self.cleaned = Some(udp);
                true
            }
            Ok(Err(error)) => {
                tracing::warn!(%error, "cannot delete stale UDP connections, trying again");
                false
            }
            Err(error) => {
                tracing::error!(%error, "deleting stale UDP connections failed");
                false
            }
        }
    }

    async fn sync_routes(&mut self, nodes: &[Arc<Node>]) -> bool {
        if !self.config.manage_routes {
            return true;
        }
        let synced = routes::sync(nodes, &self.config.hostname, self.config.service_cidr).await;
        match &synced {
            Ok(0) => {}
            Ok(count) => tracing::info!(count, "changed routes"),
            Err(error) => {
                let complaint = error.to_string();
                if self.complaint.as_ref() != Some(&complaint) {
                    tracing::warn!(
                        error = error as &dyn std::error::Error,
                        "cannot set all routes, trying again"
                    );
                }
                self.complaint = Some(complaint);
            }
        }
        synced.is_ok()
    }
}

/// What services need of the kernel: forwarding, nothing routed to loopback, and connection tracking of what
/// goes from pod to pod over a bridge (if there are bridges).
const SYSCTLS: &[(&str, &str)] = &[
    ("/proc/sys/net/ipv4/ip_forward", "1"),
    ("/proc/sys/net/ipv4/conf/all/route_localnet", "0"),
    ("/proc/sys/net/bridge/bridge-nf-call-iptables", "1"),
];

fn set_sysctl(path: &str, value: &str) -> std::io::Result<()> {
    match std::fs::read_to_string(path) {
        Ok(current) if current.trim() == value => Ok(()),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(()),
        _ => std::fs::write(path, value),
    }
}

/// Heartbeats of nodes change nothing for us.
fn concerns_us(change: &Change<Node>) -> bool {
    let seen = |n: &Arc<Node>| {
        let addresses = n.status.as_ref().and_then(|s| s.addresses.clone());
        (n.spec.clone(), addresses, n.metadata.labels.clone(), n.metadata.deletion_timestamp.clone())
    };
    change.old.as_ref().map(seen) != change.new.as_ref().map(seen)
}

fn local_addresses() -> BTreeSet<Ipv4Addr> {
    let all = nix::ifaddrs::getifaddrs().map(|all| all.collect::<Vec<_>>()).unwrap_or_default();
    let addresses = all.iter().filter_map(|i| i.address.as_ref()?.as_sockaddr_in().map(|a| a.ip()));
    addresses.collect()
}
