//! What a pod asks for and what a node has, as numbers.
//!
//! Keeps true: a pod's request covers its worst moment: all containers and sidecars together, or one init
//! container beside the sidecars started before it, plus overhead; while a resize is under way, the larger of
//! what is asked and what is held.

use std::collections::BTreeMap;

use api::quantity::Quantity as Amount;
use k8s_openapi::api::core::v1::{Container, Pod, PodSpec};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;

/// A resource list as Kubernetes writes it.
pub(crate) type List = BTreeMap<String, Quantity>;

fn milli(text: &str) -> i64 {
    text.parse::<Amount>().map_or(0, |amount| amount.milli_value())
}

/// A quantity in whole units, rounded up. What is no quantity was refused at admission and counts as zero.
pub(crate) fn whole(text: &str) -> i64 {
    text.parse::<Amount>().map_or(0, |amount| amount.value())
}

/// Amounts of each resource.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Resources {
    /// Thousandths of a CPU.
    pub milli_cpu: i64,
    /// Bytes.
    pub memory: i64,
    /// Bytes.
    pub ephemeral_storage: i64,
    /// Everything else by name, in whole units.
    pub other: BTreeMap<String, i64>,
}

impl Resources {
    /// Reads a resource list; `pods` is not a resource that a pod asks for and is left out.
    pub(crate) fn from_list(list: &List) -> Self {
        let mut all = Self::default();
        for (name, Quantity(text)) in list {
            match name.as_str() {
                "cpu" => all.milli_cpu = milli(text),
                "memory" => all.memory = whole(text),
                "ephemeral-storage" => all.ephemeral_storage = whole(text),
                "pods" => {}
                _ => {
                    all.other.insert(name.clone(), whole(text));
                }
            }
        }
        all
    }

    /// Adds `more` to this.
    pub(crate) fn add(&mut self, more: &Self) {
        self.combine(more, i64::saturating_add);
    }

    /// Takes `less` away from this.
    pub(crate) fn subtract(&mut self, less: &Self) {
        self.combine(less, i64::saturating_sub);
        self.other.retain(|_, amount| *amount != 0);
    }

    /// Raises each amount to at least that of `other`.
    pub(crate) fn raise_to(&mut self, other: &Self) {
        self.combine(other, i64::max);
    }

    fn combine(&mut self, with: &Self, operation: fn(i64, i64) -> i64) {
        self.milli_cpu = operation(self.milli_cpu, with.milli_cpu);
        self.memory = operation(self.memory, with.memory);
        self.ephemeral_storage = operation(self.ephemeral_storage, with.ephemeral_storage);
        for (name, amount) in &with.other {
            let mine = self.other.entry(name.clone()).or_default();
            *mine = operation(*mine, *amount);
        }
    }
}

/// The share of scoring that a container without requests gets: a tenth of a CPU and 200 MiB, as upstream.
const DEFAULT_MILLI_CPU: i64 = 100;
const DEFAULT_MEMORY: i64 = 200 << 20;

/// What a pod asks for, and the same with defaults for containers that ask for no CPU or memory (for scores).
pub(crate) fn of_pod(pod: &Pod) -> (Resources, Resources) {
    let Some(spec) = &pod.spec else { return Default::default() };
    let held = Held::new(pod);
    let real = total(spec, |c| held.request(c));
    let scored = total(spec, |c| with_defaults(held.request(c)));
    (real, scored)
}

fn with_defaults(mut request: Resources) -> Resources {
    if request.milli_cpu == 0 {
        request.milli_cpu = DEFAULT_MILLI_CPU;
    }
    if request.memory == 0 {
        request.memory = DEFAULT_MEMORY;
    }
    request
}

fn total(spec: &PodSpec, request: impl Fn(&Container) -> Resources) -> Resources {
    let mut running = Resources::default();
    for container in &spec.containers {
        running.add(&request(container));
    }
    let mut sidecars = Resources::default();
    let mut starting = Resources::default();
    for container in spec.init_containers.iter().flatten() {
        let mut moment = request(container);
        if container.restart_policy.as_deref() == Some("Always") {
            sidecars.add(&moment);
            starting.raise_to(&sidecars);
        } else {
            moment.add(&sidecars);
            starting.raise_to(&moment);
        }
    }
    running.add(&sidecars);
    running.raise_to(&starting);
    override_with_pod_level(&mut running, spec);
    if let Some(overhead) = &spec.overhead {
        running.add(&Resources::from_list(overhead));
    }
    running
}

/// Requests of the pod as a whole replace the sum over its containers.
fn override_with_pod_level(sum: &mut Resources, spec: &PodSpec) {
    let Some(list) = spec.resources.as_ref().and_then(|r| r.requests.as_ref()) else { return };
    let level = Resources::from_list(list);
    if list.contains_key("cpu") {
        sum.milli_cpu = level.milli_cpu;
    }
    if list.contains_key("memory") {
        sum.memory = level.memory;
    }
}

/// What the node has given to each container so far, which counts until a resize to less is done.
struct Held<'a>(BTreeMap<&'a str, Resources>);

impl<'a> Held<'a> {
    fn new(pod: &'a Pod) -> Self {
        let status = pod.status.iter();
        let statuses =
            status.flat_map(|s| s.container_statuses.iter().chain(&s.init_container_statuses)).flatten();
        Self(
            statuses
                .map(|s| {
                    let mut held =
                        s.allocated_resources.as_ref().map(Resources::from_list).unwrap_or_default();
                    if let Some(actual) = s.resources.as_ref().and_then(|r| r.requests.as_ref()) {
                        held.raise_to(&Resources::from_list(actual));
                    }
                    (s.name.as_str(), held)
                })
                .collect(),
        )
    }

    fn request(&self, container: &Container) -> Resources {
        let list = container.resources.as_ref().and_then(|r| r.requests.as_ref());
        let mut request = list.map(Resources::from_list).unwrap_or_default();
        if let Some(held) = self.0.get(container.name.as_str()) {
            request.raise_to(held);
        }
        request
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::of_pod;

    fn cpu(spec: Value) -> i64 {
        let pod = serde_json::from_value(json!({"metadata": {"name": "p"}, "spec": spec})).unwrap();
        of_pod(&pod).0.milli_cpu
    }

    fn container(name: &str, cpu: &str) -> Value {
        json!({"name": name, "resources": {"requests": {"cpu": cpu}}})
    }

    #[test]
    fn request_is_the_worst_moment() {
        assert_eq!(cpu(json!({"containers": [container("a", "1"), container("b", "500m")]})), 1500);
        assert_eq!(
            cpu(json!({"containers": [container("a", "1")], "initContainers": [container("i", "2")]})),
            2000
        );
        let mut sidecar = container("s", "1");
        sidecar["restartPolicy"] = "Always".into();
        assert_eq!(
            cpu(
                json!({"containers": [container("a", "1")], "initContainers": [sidecar, container("i", "3")]})
            ),
            4000
        );
        assert_eq!(cpu(json!({"containers": [container("a", "1")], "overhead": {"cpu": "250m"}})), 1250);
        assert_eq!(
            cpu(json!({"containers": [container("a", "1")], "resources": {"requests": {"cpu": "3"}}})),
            3000
        );
    }

    #[test]
    fn defaults_count_in_scores_only() {
        let pod = serde_json::from_value(json!({"spec": {"containers": [{"name": "a"}]}})).unwrap();
        let (real, scored) = of_pod(&pod);
        assert_eq!((real.milli_cpu, real.memory), (0, 0));
        assert_eq!((scored.milli_cpu, scored.memory), (100, 200 << 20));
    }
}
