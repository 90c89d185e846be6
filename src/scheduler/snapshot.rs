//! What the scheduler believes about nodes and the pods on them.
//!
//! Keeps true: a node's sums equal the sums over its pods; a pod is counted on at most one node; an assumed pod
//! (decided, but not yet seen bound) counts as if it were bound, until it is seen, gone or forgotten. Copies are
//! cheap: nodes are shared until changed. Who tells it what happened, and when to assume, is the driver's business.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use k8s_openapi::api::core::v1::{Node, Service, Taint};
use k8s_openapi::api::policy::v1::PodDisruptionBudget;

use crate::pod::PodInfo;
use crate::resources::{Resources, whole};
use crate::selector::{Labels, Selector};

/// A node and the pods on it.
#[derive(Clone, Debug, Default)]
pub struct NodeInfo {
    name: String,
    node: Option<Arc<Node>>,
    labels: Labels,
    /// Pods by unique id.
    pub(crate) pods: BTreeMap<String, Arc<PodInfo>>,
    /// Those of them that have wishes about other pods.
    pub(crate) wishing: BTreeMap<String, Arc<PodInfo>>,
    /// Sum of what its pods ask for.
    pub(crate) requested: Resources,
    /// The same with defaults for containers without requests.
    pub(crate) scored: Resources,
    /// What it offers.
    pub(crate) allocatable: Resources,
    /// How many pods it takes.
    pub(crate) max_pods: i64,
    /// Size of each image it has, in bytes, under every name.
    pub(crate) images: HashMap<String, i64>,
}

impl NodeInfo {
    /// Its name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its labels.
    pub(crate) fn labels(&self) -> &Labels {
        &self.labels
    }

    /// Its taints.
    pub(crate) fn taints(&self) -> &[Taint] {
        self.node.as_ref().and_then(|n| n.spec.as_ref()?.taints.as_deref()).unwrap_or(&[])
    }

    /// Whether `kubectl cordon` closed it.
    pub(crate) fn unschedulable(&self) -> bool {
        self.node.as_ref().is_some_and(|n| n.spec.as_ref().is_some_and(|s| s.unschedulable == Some(true)))
    }

    /// A node as its object describes it, without pods.
    pub(crate) fn from_node(node: Arc<Node>) -> Self {
        let mut info = Self { name: node.metadata.name.clone().unwrap_or_default(), ..Self::default() };
        info.set_node(node);
        info
    }

    fn set_node(&mut self, node: Arc<Node>) {
        let none = BTreeMap::new();
        let status = node.status.as_ref();
        let list = status.and_then(|s| s.allocatable.as_ref().or(s.capacity.as_ref())).unwrap_or(&none);
        self.allocatable = Resources::from_list(list);
        self.max_pods = list.get("pods").map_or(0, |q| whole(&q.0));
        let images = status.and_then(|s| s.images.as_deref()).unwrap_or(&[]);
        let named = images.iter().flat_map(|i| {
            let size = i.size_bytes.unwrap_or(0);
            i.names.iter().flatten().map(move |name| (name.clone(), size))
        });
        self.images = named.collect();
        self.labels = node.metadata.labels.clone().unwrap_or_default();
        self.node = Some(node);
    }

    pub(crate) fn add(&mut self, pod: Arc<PodInfo>) {
        self.remove(pod.uid());
        self.requested.add(&pod.requests);
        self.scored.add(&pod.scored);
        if !pod.terms.is_empty() {
            self.wishing.insert(pod.uid().to_owned(), pod.clone());
        }
        self.pods.insert(pod.uid().to_owned(), pod);
    }

    pub(crate) fn remove(&mut self, uid: &str) -> Option<Arc<PodInfo>> {
        let pod = self.pods.remove(uid)?;
        self.wishing.remove(uid);
        self.requested.subtract(&pod.requests);
        self.scored.subtract(&pod.scored);
        Some(pod)
    }
}

/// A budget of allowed disruptions.
#[derive(Clone, Debug)]
pub(crate) struct Budget {
    pub(crate) namespace: String,
    pub(crate) selector: Selector,
    pub(crate) allowed: i32,
    /// Pods that were disrupted and are counted already.
    pub(crate) disrupted: Vec<String>,
}

/// Everything that a decision depends on besides the pod.
#[derive(Clone, Debug, Default)]
pub struct Snapshot {
    nodes: BTreeMap<String, Arc<NodeInfo>>,
    /// Node of every counted pod, by unique id.
    places: HashMap<String, String>,
    /// Pods decided but not yet seen bound.
    assumed: HashMap<String, Arc<PodInfo>>,
    /// Pods for which a preemption makes room, by unique id.
    nominated: BTreeMap<String, (String, Arc<PodInfo>)>,
    namespaces: BTreeMap<String, Labels>,
    services: BTreeMap<(String, String), Selector>,
    budgets: BTreeMap<(String, String), Budget>,
}

static NO_LABELS: Labels = Labels::new();

impl Snapshot {
    /// The nodes that exist, in the order of their names.
    pub fn nodes(&self) -> impl Iterator<Item = &NodeInfo> {
        self.nodes.values().filter(|n| n.node.is_some()).map(Arc::as_ref)
    }

    /// One node.
    #[must_use]
    pub fn node(&self, name: &str) -> Option<&NodeInfo> {
        self.nodes.get(name).filter(|n| n.node.is_some()).map(Arc::as_ref)
    }

    pub(crate) fn namespace_labels(&self, namespace: &str) -> &Labels {
        self.namespaces.get(namespace).unwrap_or(&NO_LABELS)
    }

    /// Selectors of the services in front of `pod`.
    pub(crate) fn services_of<'a>(&'a self, pod: &'a PodInfo) -> impl Iterator<Item = &'a Selector> {
        let mine = self.services.iter().filter(|((namespace, _), _)| namespace == pod.namespace());
        mine.map(|(_, selector)| selector).filter(|selector| selector.matches(pod.labels()))
    }

    pub(crate) fn budgets(&self) -> impl Iterator<Item = &Budget> {
        self.budgets.values()
    }

    /// Pods other than `pod`, at least as important, for which room on `node` is being made.
    pub(crate) fn nominated_before(&self, pod: &PodInfo, node: &str) -> Vec<Arc<PodInfo>> {
        let others = self.nominated.iter().filter(|(uid, (name, other))| {
            name == node && uid.as_str() != pod.uid() && other.priority() >= pod.priority()
        });
        others.map(|(_, (_, other))| other.clone()).collect()
    }

    /// Pods less important than `pod` for which room on `node` is being made.
    pub(crate) fn nominated_after(&self, pod: &PodInfo, node: &str) -> Vec<Arc<PodInfo>> {
        let others =
            self.nominated.values().filter(|(name, other)| name == node && other.priority() < pod.priority());
        others.map(|(_, other)| other.clone()).collect()
    }

    /// Node for which `uid` is nominated.
    pub(crate) fn nomination(&self, uid: &str) -> Option<&str> {
        self.nominated.get(uid).map(|(node, _)| node.as_str())
    }

    /// Remembers or forgets (`None`) that room for `pod` is being made on a node.
    pub(crate) fn nominate(&mut self, pod: &Arc<PodInfo>, node: Option<&str>) {
        match node {
            Some(node) => {
                self.nominated.insert(pod.uid().to_owned(), (node.to_owned(), pod.clone()));
            }
            None => {
                self.nominated.remove(pod.uid());
            }
        }
    }

    fn edit(&mut self, node: &str) -> &mut NodeInfo {
        let entry = self.nodes.entry(node.to_owned());
        Arc::make_mut(
            entry.or_insert_with(|| Arc::new(NodeInfo { name: node.to_owned(), ..NodeInfo::default() })),
        )
    }

    /// A node came or changed.
    pub fn set_node(&mut self, node: Arc<Node>) {
        let name = node.metadata.name.clone().unwrap_or_default();
        self.edit(&name).set_node(node);
    }

    /// A node went; pods bound to it stay counted until they go, too.
    pub fn remove_node(&mut self, name: &str) {
        if let Some(info) = self.nodes.get_mut(name) {
            Arc::make_mut(info).node = None;
        }
        self.drop_if_empty(name);
    }

    fn drop_if_empty(&mut self, name: &str) {
        if self.nodes.get(name).is_some_and(|n| n.node.is_none() && n.pods.is_empty()) {
            self.nodes.remove(name);
        }
    }

    /// A bound pod came or changed.
    pub fn set_pod(&mut self, pod: Arc<PodInfo>) {
        let Some(node) = pod.node_name().map(str::to_owned) else { return };
        self.assumed.remove(pod.uid());
        self.nominated.remove(pod.uid());
        if pod.finished() {
            self.remove_pod(pod.uid());
        } else {
            self.place(pod, &node);
        }
    }

    fn place(&mut self, pod: Arc<PodInfo>, node: &str) {
        if self.places.get(pod.uid()).is_some_and(|old| old != node) {
            self.take(pod.uid());
        }
        self.places.insert(pod.uid().to_owned(), node.to_owned());
        self.edit(node).add(pod);
    }

    fn take(&mut self, uid: &str) -> Option<Arc<PodInfo>> {
        let node = self.places.remove(uid)?;
        let pod = self.edit(&node).remove(uid);
        self.drop_if_empty(&node);
        pod
    }

    /// A pod went.
    pub fn remove_pod(&mut self, uid: &str) -> Option<Arc<PodInfo>> {
        self.assumed.remove(uid);
        self.nominated.remove(uid);
        self.take(uid)
    }

    /// Counts `pod` on `node` before the API has confirmed it.
    pub fn assume(&mut self, pod: &PodInfo, node: &str) {
        let bound = Arc::new(pod.bound_to(node));
        self.nominated.remove(bound.uid());
        self.assumed.insert(bound.uid().to_owned(), bound.clone());
        self.place(bound, node);
    }

    /// Takes an assumption back; a pod that was seen bound meanwhile stays.
    pub fn forget(&mut self, uid: &str) -> Option<Arc<PodInfo>> {
        self.assumed.remove(uid)?;
        self.take(uid)
    }

    /// Whether the pod is decided but not yet seen bound.
    #[must_use]
    pub fn is_assumed(&self, uid: &str) -> bool {
        self.assumed.contains_key(uid)
    }

    /// All pods decided but not yet seen bound.
    pub(crate) fn assumed(&self) -> Vec<String> {
        self.assumed.keys().cloned().collect()
    }

    /// A namespace came, changed or went (`None`).
    pub(crate) fn set_namespace(&mut self, name: &str, labels: Option<Labels>) {
        match labels {
            Some(labels) => self.namespaces.insert(name.to_owned(), labels),
            None => self.namespaces.remove(name),
        };
    }

    /// A service came or changed.
    pub(crate) fn set_service(&mut self, service: &Service) {
        let selector = service.spec.as_ref().and_then(|s| s.selector.as_ref());
        let selector = selector.map(Selector::from_map).unwrap_or_default();
        self.services
            .insert(key(service.metadata.namespace.as_ref(), service.metadata.name.as_ref()), selector);
    }

    /// A service went.
    pub(crate) fn remove_service(&mut self, namespace: &str, name: &str) {
        self.services.remove(&(namespace.to_owned(), name.to_owned()));
    }

    /// A disruption budget came or changed.
    pub(crate) fn set_budget(&mut self, budget: &PodDisruptionBudget) {
        let key = key(budget.metadata.namespace.as_ref(), budget.metadata.name.as_ref());
        let status = budget.status.as_ref();
        let disrupted = status.and_then(|s| s.disrupted_pods.as_ref());
        let value = Budget {
            namespace: key.0.clone(),
            selector: Selector::new(budget.spec.as_ref().and_then(|s| s.selector.as_ref())),
            allowed: status.map_or(0, |s| s.disruptions_allowed),
            disrupted: disrupted.map(|d| d.keys().cloned().collect()).unwrap_or_default(),
        };
        self.budgets.insert(key, value);
    }

    /// A disruption budget went.
    pub(crate) fn remove_budget(&mut self, namespace: &str, name: &str) {
        self.budgets.remove(&(namespace.to_owned(), name.to_owned()));
    }
}

fn key(namespace: Option<&String>, name: Option<&String>) -> (String, String) {
    (namespace.cloned().unwrap_or_default(), name.cloned().unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::Snapshot;
    use crate::testing::{node, pod};

    #[test]
    fn assumptions_end_by_sight_forgetting_or_deletion() {
        let mut snapshot = Snapshot::default();
        snapshot.set_node(node("w1").cpu("2").build());
        let one = pod("one").cpu("500m").info();
        snapshot.assume(&one, "w1");
        assert_eq!(snapshot.node("w1").unwrap().requested.milli_cpu, 500);
        assert!(snapshot.is_assumed("one"));
        snapshot.set_pod(pod("one").cpu("500m").on("w1").info());
        assert!(!snapshot.is_assumed("one"));
        assert!(snapshot.forget("one").is_none(), "a pod seen bound is not forgotten");
        assert_eq!(snapshot.node("w1").unwrap().requested.milli_cpu, 500);
        snapshot.remove_pod("one");
        assert_eq!(snapshot.node("w1").unwrap().requested.milli_cpu, 0);
        snapshot.assume(&one, "w1");
        assert!(snapshot.forget("one").is_some());
        assert!(snapshot.node("w1").unwrap().pods.is_empty());
    }

    #[test]
    fn pods_may_come_before_their_node_and_stay_after_it() {
        let mut snapshot = Snapshot::default();
        snapshot.set_pod(pod("one").cpu("1").on("w1").info());
        assert!(snapshot.node("w1").is_none());
        snapshot.set_node(node("w1").cpu("2").build());
        assert_eq!(snapshot.node("w1").unwrap().requested.milli_cpu, 1000);
        snapshot.remove_node("w1");
        assert_eq!(snapshot.nodes().count(), 0);
        snapshot.set_node(node("w1").cpu("2").build());
        assert_eq!(snapshot.node("w1").unwrap().pods.len(), 1);
        snapshot.set_pod(pod("one").cpu("1").on("w1").phase("Succeeded").info());
        assert!(snapshot.node("w1").unwrap().pods.is_empty());
    }

    #[test]
    fn a_pod_is_counted_once() {
        let mut snapshot = Snapshot::default();
        for name in ["w1", "w2"] {
            snapshot.set_node(node(name).cpu("2").build());
        }
        let one = pod("one").cpu("1");
        snapshot.assume(&one.clone().info(), "w1");
        snapshot.set_pod(one.on("w2").info());
        assert_eq!(snapshot.node("w1").unwrap().requested.milli_cpu, 0);
        assert_eq!(snapshot.node("w2").unwrap().requested.milli_cpu, 1000);
    }
}
