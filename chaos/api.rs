//! What the harness asks the cluster: is it ready, who leads. Blocking, for command lines and tests.

use std::fmt::Debug;
use std::path::Path;
use std::time::{Duration, Instant};

use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::{ConfigMap, Node, Pod};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::api::{ListParams, Patch, PatchParams};
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Api, Client, Config};
use serde_json::json;
use tokio::runtime::Runtime;

use crate::{Error, Result, Say};

/// How often a condition is looked at.
const POLL: Duration = Duration::from_millis(80);
/// How long one question may take.
const QUESTION: Duration = Duration::from_secs(3);

/// A pod, as far as tests look at it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PodView {
    /// Its name.
    pub name: String,
    /// The node that it is bound to; empty before.
    pub node: String,
    /// `Pending`, `Running` …
    pub phase: String,
    /// Condition Ready.
    pub ready: bool,
    /// Whether it has a deletion timestamp.
    pub terminating: bool,
    /// The runtime's ids of its containers.
    pub containers: Vec<String>,
    /// Restarts of all containers together.
    pub restarts: i32,
}

impl From<Pod> for PodView {
    fn from(pod: Pod) -> Self {
        let status = pod.status.unwrap_or_default();
        let containers = status.container_statuses.unwrap_or_default();
        let conditions = status.conditions.unwrap_or_default();
        Self {
            name: pod.metadata.name.unwrap_or_default(),
            node: pod.spec.and_then(|s| s.node_name).unwrap_or_default(),
            phase: status.phase.unwrap_or_default(),
            ready: conditions.iter().any(|c| c.type_ == "Ready" && c.status == "True"),
            terminating: pod.metadata.deletion_timestamp.is_some(),
            restarts: containers.iter().map(|c| c.restart_count).sum(),
            containers: containers.into_iter().filter_map(|c| c.container_id).collect(),
        }
    }
}

/// A client of a sandbox's API.
pub struct Cluster {
    runtime: Runtime,
    client: Client,
}

impl Cluster {
    /// Connects with a kubeconfig. Asks nothing yet.
    pub fn connect(kubeconfig: &Path) -> Result<Self> {
        // An error means that another part of the process has chosen a provider before; that one serves as well.
        let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
        let failed = || format!("use {}", kubeconfig.display());
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .map_err(Error::file("start", "a runtime"))?;
        let file = Kubeconfig::read_from(kubeconfig).map_err(Error::api(failed()))?;
        let client = runtime.block_on(async {
            let options = KubeConfigOptions::default();
            let config =
                Config::from_custom_kubeconfig(file, &options).await.map_err(Error::api(failed()))?;
            Client::try_from(config).map_err(Error::api(failed()))
        })?;
        Ok(Self { runtime, client })
    }

    /// Whether an API server says that it is ready.
    pub fn ready(&self) -> Result<bool> {
        let request = http::Request::get("/readyz").body(Vec::new()).expect("the path is a valid URI");
        self.ask("read /readyz", self.client.request_text(request)).map(|text| text.trim() == "ok")
    }

    /// Names of the nodes whose condition Ready is true.
    pub fn ready_nodes(&self) -> Result<Vec<String>> {
        let nodes = Api::<Node>::all(self.client.clone());
        let list = self.ask("list nodes", nodes.list(&Default::default()))?;
        Ok(list.items.iter().filter(|n| is_ready(n)).filter_map(|n| n.metadata.name.clone()).collect())
    }

    /// How many API servers the Service `default/kubernetes` leads to.
    pub fn masters(&self) -> Result<usize> {
        let slices = Api::<EndpointSlice>::namespaced(self.client.clone(), "default");
        let found = self.ask("read the endpoints of default/kubernetes", slices.get("kubernetes"))?;
        Ok(found.endpoints.iter().map(|endpoint| endpoint.addresses.len()).sum())
    }

    /// Whether all replicas of a Deployment are available; its numbers for a message.
    pub fn deployment(&self, namespace: &str, name: &str) -> Result<(bool, String)> {
        let deployments = Api::<Deployment>::namespaced(self.client.clone(), namespace);
        let found = self.ask(&format!("read deployment {name}"), deployments.get(name))?;
        let wanted = found.spec.and_then(|s| s.replicas).unwrap_or(1);
        let status = found.status.unwrap_or_default();
        let current = status.observed_generation == found.metadata.generation;
        let (updated, available) =
            (status.updated_replicas.unwrap_or(0), status.available_replicas.unwrap_or(0));
        let done = current && updated == wanted && available == wanted && status.replicas == Some(wanted);
        Ok((done, format!("{available} of {wanted} replicas available")))
    }

    /// The pods of a namespace that a label selector chooses.
    pub fn pods(&self, namespace: &str, selector: &str) -> Result<Vec<PodView>> {
        let pods = Api::<Pod>::namespaced(self.client.clone(), namespace);
        let list = self.ask("list pods", pods.list(&ListParams::default().labels(selector)))?;
        Ok(list.items.into_iter().map(PodView::from).collect())
    }

    /// One write that no later one replaces: a key of its own in the ConfigMap `name`, which is made by the first one.
    /// Returns when it is durable.
    pub fn record(&self, name: &str, key: &str) -> Result<()> {
        let data = json!({ key: "" });
        let maps = Api::<ConfigMap>::namespaced(self.client.clone(), "default");
        let map = json!({ "metadata": { "name": name }, "data": data });
        let patched = self.ask("write", maps.patch(name, &PatchParams::default(), &Patch::Merge(&map)));
        if patched.as_ref().err().is_some_and(is_not_found) {
            let map = serde_json::from_value(map).expect("it has the shape of a ConfigMap");
            return self.ask("write", maps.create(&Default::default(), &map)).map(drop);
        }
        patched.map(drop)
    }

    /// The keys of the ConfigMap `name`.
    pub fn recorded(&self, name: &str) -> Result<Vec<String>> {
        let maps = Api::<ConfigMap>::namespaced(self.client.clone(), "default");
        let map = self.ask("read what was recorded", maps.get(name))?;
        Ok(map.data.unwrap_or_default().into_keys().collect())
    }

    /// Who holds an election Lease in kube-system; `None` when nobody does, or the holder has let it lapse.
    pub fn holder(&self, lease: &str) -> Result<Option<String>> {
        let leases = Api::<Lease>::namespaced(self.client.clone(), "kube-system");
        let found = self.ask(&format!("read lease {lease}"), leases.get_opt(lease))?;
        Ok(found.and_then(|l| l.spec).and_then(|s| s.holder_identity).filter(|h| !h.is_empty()))
    }

    fn ask<T, F>(&self, action: &str, question: F) -> Result<T>
    where
        F: Future<Output = std::result::Result<T, kube::Error>>,
    {
        self.runtime.block_on(async {
            match tokio::time::timeout(QUESTION, question).await {
                Ok(answer) => answer.map_err(Error::api(action)),
                Err(_) => Err(Error::Late {
                    what: format!("an answer of the API ({action})"),
                    seconds: QUESTION.as_secs(),
                    hint: "see deploy/sandbox status".into(),
                }),
            }
        })
    }
}

fn is_ready(node: &Node) -> bool {
    let conditions = node.status.as_ref().and_then(|s| s.conditions.as_deref()).unwrap_or_default();
    conditions.iter().any(|c| c.type_ == "Ready" && c.status == "True")
}

fn is_not_found(error: &Error) -> bool {
    let Error::Api { source, .. } = error else { return false };
    matches!(source.downcast_ref::<kube::Error>(), Some(kube::Error::Api(status)) if status.code == 404)
}

/// Looks again and again until `look` gives something. `Ok(Err(text))` says what is still missing, and errors of
/// the API count as that: a cluster that starts refuses connections.
pub fn wait<T: Debug>(
    what: &str,
    limit: Duration,
    say: &mut Say,
    mut look: impl FnMut() -> Result<std::result::Result<T, String>>,
) -> Result<T> {
    let start = Instant::now();
    loop {
        let missing = match look() {
            Ok(Ok(found)) => return Ok(found),
            Ok(Err(missing)) => missing,
            Err(error) => text(&error),
        };
        if start.elapsed() > limit {
            return Err(Error::Late { what: what.into(), seconds: limit.as_secs(), hint: missing });
        }
        say.waiting(&missing);
        std::thread::sleep(POLL);
    }
}

/// An error and everything that caused it.
pub fn text(error: &dyn std::error::Error) -> String {
    let causes = std::iter::successors(error.source(), |e| e.source());
    causes.fold(error.to_string(), |text, cause| format!("{text}: {cause}"))
}
