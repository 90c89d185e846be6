//! Requests and limits as numbers: quantities, QoS class, CPU shares and quota, OOM score. Pure arithmetic
//! with upstream's constants; writing them anywhere is left to `cgroup` and the container runtime.

use std::collections::BTreeMap;

use k8s_openapi::{
    api::core::v1::{Container, Pod, PodSpec},
    apimachinery::pkg::api::resource::Quantity,
};

/// The length of a CFS period in microseconds.
pub const CPU_PERIOD: i64 = 100_000;
/// The kernel's smallest CPU shares.
const MIN_SHARES: i64 = 2;
const MAX_SHARES: i64 = 262_144;
/// The kernel's smallest CFS quota in microseconds.
const MIN_QUOTA: i64 = 1_000;

/// A resource list as in the API.
pub type List = BTreeMap<String, Quantity>;

/// A pod's quality of service.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Qos {
    /// Every container has limits equal to its requests, for CPU and memory.
    Guaranteed,
    /// Something is requested or limited.
    Burstable,
    /// Nothing is.
    BestEffort,
}

impl Qos {
    /// The API's name.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Guaranteed => "Guaranteed",
            Self::Burstable => "Burstable",
            Self::BestEffort => "BestEffort",
        }
    }
}

/// A quantity in thousandths, rounded up; `None` when the text is no quantity.
#[must_use]
pub fn milli(text: &str) -> Option<i128> {
    const SUFFIXES: [(&str, i128, i128); 13] = [
        ("Ki", 1 << 10, 1),
        ("Mi", 1 << 20, 1),
        ("Gi", 1 << 30, 1),
        ("Ti", 1 << 40, 1),
        ("Pi", 1 << 50, 1),
        ("Ei", 1 << 60, 1),
        ("n", 1, 1_000_000_000),
        ("u", 1, 1_000_000),
        ("m", 1, 1_000),
        ("k", 1_000, 1),
        ("M", 1_000_000, 1),
        ("G", 1_000_000_000, 1),
        ("T", 1_000_000_000_000, 1),
    ];
    const LARGE: [(&str, i128); 2] = [("P", 1_000_000_000_000_000), ("E", 1_000_000_000_000_000_000)];
    let text = text.trim();
    for (suffix, multiply, divide) in SUFFIXES {
        if let Some(number) = text.strip_suffix(suffix) {
            return scaled(number, multiply, divide);
        }
    }
    for (suffix, multiply) in LARGE {
        if let Some(number) = text.strip_suffix(suffix) {
            return scaled(number, multiply, 1);
        }
    }
    match text.split_once(['e', 'E']) {
        Some((number, exponent)) => {
            let exponent: i32 = exponent.parse().ok().filter(|power: &i32| power.abs() <= 18)?;
            let power = 10_i128.checked_pow(exponent.unsigned_abs())?;
            if exponent < 0 { scaled(number, 1, power) } else { scaled(number, power, 1) }
        }
        None => scaled(text, 1, 1),
    }
}

fn scaled(number: &str, multiply: i128, divide: i128) -> Option<i128> {
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    if fraction.len() > 18 || (whole.is_empty() && fraction.is_empty()) {
        return None;
    }
    let digits: i128 = format!("{whole}{fraction}").parse().ok()?;
    let below = 10_i128.pow(u32::try_from(fraction.len()).ok()?) * divide;
    let above = digits.checked_mul(multiply)?.checked_mul(1_000)?;
    Some(above.div_euclid(below) + i128::from(above.rem_euclid(below) != 0))
}

/// A named amount in thousandths (milli-CPU, thousandths of bytes); 0 when absent.
#[must_use]
pub fn amount(list: Option<&List>, name: &str) -> i64 {
    let quantity = list.and_then(|list| list.get(name)).and_then(|quantity| milli(&quantity.0));
    i64::try_from(quantity.unwrap_or(0)).unwrap_or(i64::MAX)
}

/// A named amount in whole units, rounded up.
#[must_use]
pub fn units(list: Option<&List>, name: &str) -> i64 {
    let quantity = list.and_then(|list| list.get(name)).and_then(|quantity| milli(&quantity.0));
    let whole = quantity.map_or(0, |milli| milli.div_euclid(1000) + i128::from(milli.rem_euclid(1000) != 0));
    i64::try_from(whole).unwrap_or(i64::MAX)
}

fn requests(container: &Container) -> Option<&List> {
    container.resources.as_ref().and_then(|resources| resources.requests.as_ref())
}

fn limits(container: &Container) -> Option<&List> {
    container.resources.as_ref().and_then(|resources| resources.limits.as_ref())
}

/// Whether an init container is a sidecar (restarts always, runs beside the containers).
#[must_use]
pub fn is_sidecar(container: &Container) -> bool {
    container.restart_policy.as_deref() == Some("Always")
}

/// The pod's QoS class, from its containers' CPU and memory.
#[must_use]
pub fn qos(spec: &PodSpec) -> Qos {
    let (mut any, mut guaranteed) = (false, true);
    for container in spec.init_containers.iter().flatten().chain(&spec.containers) {
        for name in ["cpu", "memory"] {
            let request = amount(requests(container), name);
            let limit = amount(limits(container), name);
            any |= request > 0 || limit > 0;
            guaranteed &= limit > 0 && (request == 0 || request == limit);
        }
    }
    match (any, guaranteed) {
        (false, _) => Qos::BestEffort,
        (true, true) => Qos::Guaranteed,
        (true, false) => Qos::Burstable,
    }
}

/// What the pod needs of a resource, in thousandths: the larger of its containers together (with sidecars)
/// and any init container with the sidecars before it, plus overhead.
#[must_use]
pub fn pod_request(spec: &PodSpec, name: &str) -> i64 {
    pod_amount(spec, name, requests)
}

/// The pod's limit of a resource in thousandths; `None` when a container has none.
#[must_use]
pub fn pod_limit(spec: &PodSpec, name: &str) -> Option<i64> {
    let all = spec.init_containers.iter().flatten().chain(&spec.containers);
    let limited = all.clone().count() > 0 && all.clone().all(|container| amount(limits(container), name) > 0);
    limited.then(|| pod_amount(spec, name, limits))
}

fn pod_amount(spec: &PodSpec, name: &str, of: fn(&Container) -> Option<&List>) -> i64 {
    let mut sidecars = 0_i64;
    let mut highest = 0_i64;
    for init in spec.init_containers.iter().flatten() {
        let own = amount(of(init), name);
        if is_sidecar(init) {
            sidecars = sidecars.saturating_add(own);
            highest = highest.max(sidecars);
        } else {
            highest = highest.max(sidecars.saturating_add(own));
        }
    }
    let running: i64 =
        spec.containers.iter().map(|one| amount(of(one), name)).fold(sidecars, i64::saturating_add);
    running.max(highest).saturating_add(amount(spec.overhead.as_ref(), name))
}

/// CPU shares for an amount of milli-CPU.
#[must_use]
pub fn cpu_shares(milli_cpu: i64) -> i64 {
    (milli_cpu.saturating_mul(1024) / 1000).clamp(MIN_SHARES, MAX_SHARES)
}

/// The v2 weight that corresponds to v1 shares.
#[must_use]
pub fn cpu_weight(shares: i64) -> i64 {
    (1 + (shares - 2).max(0) * 9999 / 262_142).clamp(1, 10_000)
}

/// CFS quota in microseconds per period for a limit of milli-CPU; 0 for no limit.
#[must_use]
pub fn cpu_quota(milli_cpu: i64) -> i64 {
    if milli_cpu <= 0 { 0 } else { (milli_cpu.saturating_mul(CPU_PERIOD) / 1000).max(MIN_QUOTA) }
}

/// A container's OOM score adjustment.
#[must_use]
pub fn oom_score(pod: &Pod, container: &Container, node_memory: i64) -> i64 {
    let spec = pod.spec.clone().unwrap_or_default();
    if spec.priority.is_some_and(|priority| priority >= 2_000_000_000) {
        return -997;
    }
    match qos(&spec) {
        Qos::Guaranteed => -997,
        Qos::BestEffort => 1000,
        Qos::Burstable => {
            let request = i128::from(units(requests(container), "memory"));
            let share = 1000 * request / i128::from(node_memory.max(1));
            i64::try_from((1000 - share).clamp(3, 999)).unwrap_or(999)
        }
    }
}

/// A container's CPU request in milli-CPU: its limit where it has no request, as admission defaults it.
#[must_use]
pub fn container_cpu(container: &Container) -> (i64, i64) {
    let limit = amount(limits(container), "cpu");
    let explicit = requests(container).is_some_and(|list| list.contains_key("cpu"));
    (if explicit { amount(requests(container), "cpu") } else { limit }, limit)
}

/// A container's memory limit in bytes; 0 for none.
#[must_use]
pub fn container_memory_limit(container: &Container) -> i64 {
    units(limits(container), "memory")
}

/// A value for `resourceFieldRef`: `limits.cpu` and its kin, divided by the divisor, rounded up.
/// Where the container has no limit, the node's allocatable is the limit.
#[must_use]
pub fn field(container: &Container, resource: &str, divisor: &str, allocatable: &List) -> Option<String> {
    let (kind, name) = resource.split_once('.')?;
    let own = match kind {
        "limits" => limits(container),
        "requests" => requests(container),
        _ => return None,
    };
    let value = match own.and_then(|list| list.get(name)) {
        Some(quantity) => milli(&quantity.0)?,
        None if kind == "limits" => i128::from(amount(Some(allocatable), name)),
        None => 0,
    };
    let divisor = milli(divisor).filter(|divisor| *divisor > 0).unwrap_or(1000);
    let whole = value.div_euclid(divisor) + i128::from(value.rem_euclid(divisor) != 0);
    Some(whole.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spec(value: serde_json::Value) -> PodSpec {
        serde_json::from_value(value).unwrap()
    }

    #[test]
    fn quantities_in_thousandths() {
        for (text, expect) in [
            ("100m", Some(100)),
            ("1", Some(1000)),
            ("0.5", Some(500)),
            (".5", Some(500)),
            ("1Ki", Some(1_024_000)),
            ("1.5Gi", Some(1_610_612_736_000)),
            ("1e3", Some(1_000_000)),
            ("12E", Some(12_000_000_000_000_000_000_000)),
            ("1n", Some(1)),
            ("x", None),
            ("", None),
        ] {
            assert_eq!(milli(text), expect, "{text}");
        }
    }

    #[test]
    fn quality_of_service() {
        let check = |resources: serde_json::Value, expect: Qos| {
            let pod = spec(serde_json::json!({"containers": [{"name": "a", "resources": resources}]}));
            assert_eq!(qos(&pod), expect);
        };
        check(serde_json::json!({}), Qos::BestEffort);
        check(serde_json::json!({"requests": {"cpu": "1"}}), Qos::Burstable);
        check(serde_json::json!({"limits": {"cpu": "1", "memory": "1Gi"}}), Qos::Guaranteed);
        check(
            serde_json::json!({"limits": {"cpu": "1", "memory": "1Gi"}, "requests": {"cpu": "500m", "memory": "1Gi"}}),
            Qos::Burstable,
        );
    }

    #[test]
    fn a_pod_needs_its_largest_moment() {
        let pod = spec(serde_json::json!({
            "initContainers": [
                {"name": "side", "restartPolicy": "Always", "resources": {"requests": {"cpu": "100m"}}},
                {"name": "big", "resources": {"requests": {"cpu": "2"}}}],
            "containers": [{"name": "a", "resources": {"requests": {"cpu": "500m"}}}]
        }));
        assert_eq!(pod_request(&pod, "cpu"), 2100);
    }

    #[test]
    fn cpu_numbers() {
        assert_eq!((cpu_shares(0), cpu_shares(1000), cpu_quota(500), cpu_quota(1)), (2, 1024, 50_000, 1000));
        assert_eq!((cpu_weight(2), cpu_weight(1024), cpu_weight(262_144)), (1, 39, 10_000));
    }
}
