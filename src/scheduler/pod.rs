//! A pod with everything the plug-ins ask for worked out once.
//!
//! Keeps true: what is derived here depends on the pod alone, so it stays right until the pod changes.

use std::collections::BTreeSet;
use std::sync::{Arc, LazyLock};

use k8s_openapi::api::core::v1::{
    Affinity, Pod, PodAffinityTerm, PodSpec, Toleration, WeightedPodAffinityTerm,
};

use crate::resources::{self, Resources};
use crate::selector::{Labels, Selector};

static NO_LABELS: LazyLock<Labels> = LazyLock::new(Labels::new);
static NO_SPEC: LazyLock<PodSpec> = LazyLock::new(PodSpec::default);

/// A port that a pod takes on its node.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct HostPort {
    /// Address, or `0.0.0.0` for every address.
    pub address: String,
    /// TCP, UDP or SCTP.
    pub protocol: String,
    /// Port number.
    pub port: i32,
}

impl HostPort {
    /// Whether both cannot exist on one node.
    pub(crate) fn conflicts(&self, other: &Self) -> bool {
        let any = |a: &str| a == "0.0.0.0";
        self.port == other.port
            && self.protocol == other.protocol
            && (any(&self.address) || any(&other.address) || self.address == other.address)
    }
}

/// One pod affinity term, compiled.
#[derive(Clone, Debug)]
pub(crate) struct Term {
    namespaces: BTreeSet<String>,
    namespace_selector: Selector,
    selector: Selector,
    /// Label of nodes whose value names a domain.
    pub(crate) topology_key: String,
    /// Weight of a preferred term, 0 for a required one.
    pub(crate) weight: i64,
}

impl Term {
    fn new(term: &PodAffinityTerm, weight: i64, namespace: &str, labels: &Labels) -> Self {
        let mut selector = Selector::new(term.label_selector.as_ref());
        for (keys, equal) in [(&term.match_label_keys, true), (&term.mismatch_label_keys, false)] {
            for key in keys.iter().flatten() {
                if let Some(value) = labels.get(key) {
                    selector = selector.and(key, value, equal);
                }
            }
        }
        let mut namespaces: BTreeSet<String> = term.namespaces.iter().flatten().cloned().collect();
        if namespaces.is_empty() && term.namespace_selector.is_none() {
            namespaces.insert(namespace.to_owned());
        }
        Self {
            namespaces,
            namespace_selector: Selector::new(term.namespace_selector.as_ref()),
            selector,
            topology_key: term.topology_key.clone(),
            weight,
        }
    }

    /// Whether the term speaks of `pod`, whose namespace has these labels.
    pub(crate) fn matches(&self, pod: &PodInfo, namespace_labels: &Labels) -> bool {
        (self.namespaces.contains(pod.namespace()) || self.namespace_selector.matches(namespace_labels))
            && self.selector.matches(pod.labels())
    }
}

/// A pod's affinity to other pods.
#[derive(Clone, Debug, Default)]
pub(crate) struct Terms {
    pub(crate) required: Vec<Term>,
    pub(crate) required_anti: Vec<Term>,
    pub(crate) preferred: Vec<Term>,
    pub(crate) preferred_anti: Vec<Term>,
}

impl Terms {
    fn new(affinity: Option<&Affinity>, namespace: &str, labels: &Labels) -> Self {
        let pods = affinity.and_then(|a| a.pod_affinity.as_ref());
        let anti = affinity.and_then(|a| a.pod_anti_affinity.as_ref());
        let required = |terms: Option<&Vec<PodAffinityTerm>>| -> Vec<Term> {
            terms.into_iter().flatten().map(|t| Term::new(t, 0, namespace, labels)).collect()
        };
        let preferred = |terms: Option<&Vec<WeightedPodAffinityTerm>>| -> Vec<Term> {
            let each = |w: &WeightedPodAffinityTerm| {
                Term::new(&w.pod_affinity_term, w.weight.into(), namespace, labels)
            };
            terms.into_iter().flatten().map(each).collect()
        };
        Self {
            required: required(
                pods.and_then(|p| p.required_during_scheduling_ignored_during_execution.as_ref()),
            ),
            required_anti: required(
                anti.and_then(|p| p.required_during_scheduling_ignored_during_execution.as_ref()),
            ),
            preferred: preferred(
                pods.and_then(|p| p.preferred_during_scheduling_ignored_during_execution.as_ref()),
            ),
            preferred_anti: preferred(
                anti.and_then(|p| p.preferred_during_scheduling_ignored_during_execution.as_ref()),
            ),
        }
    }

    /// Whether the pod has no wish about other pods.
    pub(crate) fn is_empty(&self) -> bool {
        self.required.is_empty()
            && self.required_anti.is_empty()
            && self.preferred.is_empty()
            && self.preferred_anti.is_empty()
    }
}

/// A pod and what follows from it.
#[derive(Clone, Debug)]
pub struct PodInfo {
    pod: Arc<Pod>,
    /// What it asks for.
    pub(crate) requests: Resources,
    /// The same with defaults for containers without requests.
    pub(crate) scored: Resources,
    /// Ports it takes on its node.
    pub(crate) ports: Vec<HostPort>,
    /// Its wishes about other pods.
    pub(crate) terms: Terms,
}

impl PodInfo {
    /// Works out what the plug-ins need.
    #[must_use]
    pub fn new(pod: Arc<Pod>) -> Self {
        let (requests, scored) = resources::of_pod(&pod);
        let namespace = pod.metadata.namespace.as_deref().unwrap_or_default();
        let labels = pod.metadata.labels.as_ref().unwrap_or(&NO_LABELS);
        let affinity = pod.spec.as_ref().and_then(|s| s.affinity.as_ref());
        let terms = Terms::new(affinity, namespace, labels);
        let ports = host_ports(&pod);
        Self { requests, scored, ports, terms, pod }
    }

    /// The pod itself.
    #[must_use]
    pub fn pod(&self) -> &Arc<Pod> {
        &self.pod
    }

    /// Its unique id.
    #[must_use]
    pub fn uid(&self) -> &str {
        self.pod.metadata.uid.as_deref().unwrap_or_default()
    }

    /// Its namespace.
    #[must_use]
    pub fn namespace(&self) -> &str {
        self.pod.metadata.namespace.as_deref().unwrap_or_default()
    }

    /// Its name.
    #[must_use]
    pub fn name(&self) -> &str {
        self.pod.metadata.name.as_deref().unwrap_or_default()
    }

    pub(crate) fn labels(&self) -> &Labels {
        self.pod.metadata.labels.as_ref().unwrap_or(&NO_LABELS)
    }

    pub(crate) fn spec(&self) -> &PodSpec {
        self.pod.spec.as_ref().unwrap_or(&NO_SPEC)
    }

    /// The node it is bound to.
    #[must_use]
    pub fn node_name(&self) -> Option<&str> {
        self.spec().node_name.as_deref().filter(|n| !n.is_empty())
    }

    /// The node that a preemption made room on for it.
    pub(crate) fn nominated(&self) -> Option<&str> {
        self.pod.status.as_ref()?.nominated_node_name.as_deref().filter(|n| !n.is_empty())
    }

    /// Higher goes first.
    #[must_use]
    pub fn priority(&self) -> i32 {
        self.spec().priority.unwrap_or(0)
    }

    pub(crate) fn tolerations(&self) -> &[Toleration] {
        self.spec().tolerations.as_deref().unwrap_or(&[])
    }

    /// Whether somebody still holds it back.
    pub(crate) fn gated(&self) -> bool {
        self.spec().scheduling_gates.as_ref().is_some_and(|g| !g.is_empty())
    }

    /// Whether it is being deleted.
    pub(crate) fn terminating(&self) -> bool {
        self.pod.metadata.deletion_timestamp.is_some()
    }

    /// Whether it has ended, so that it holds nothing on its node.
    pub(crate) fn finished(&self) -> bool {
        matches!(self.pod.status.as_ref().and_then(|s| s.phase.as_deref()), Some("Succeeded" | "Failed"))
    }

    /// Whether `newer` may fit where this one did not.
    pub(crate) fn schedules_differently(&self, newer: &Self) -> bool {
        self.spec() != newer.spec()
            || self.labels() != newer.labels()
            || self.terminating() != newer.terminating()
            || self.requests != newer.requests
    }

    /// A copy bound to `node`.
    pub(crate) fn bound_to(&self, node: &str) -> Self {
        let mut pod = (*self.pod).clone();
        pod.spec.get_or_insert_default().node_name = Some(node.to_owned());
        Self { pod: Arc::new(pod), ..self.clone() }
    }
}

fn host_ports(pod: &Pod) -> Vec<HostPort> {
    let Some(spec) = &pod.spec else { return Vec::new() };
    let sidecars =
        spec.init_containers.iter().flatten().filter(|c| c.restart_policy.as_deref() == Some("Always"));
    let ports = spec.containers.iter().chain(sidecars).flat_map(|c| c.ports.iter().flatten());
    ports
        .filter_map(|p| {
            let port = p.host_port.filter(|port| *port > 0)?;
            let address = p.host_ip.as_deref().filter(|a| !a.is_empty()).unwrap_or("0.0.0.0");
            let protocol = p.protocol.as_deref().filter(|p| !p.is_empty()).unwrap_or("TCP");
            Some(HostPort { address: address.to_owned(), protocol: protocol.to_owned(), port })
        })
        .collect()
}
