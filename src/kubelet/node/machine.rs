//! What the machine is and has, read from the kernel. Keeps true: allocatable is capacity less what is
//! reserved, never below zero.

use std::{fs, path::Path};

use k8s_openapi::{api::core::v1::NodeSystemInfo, apimachinery::pkg::api::resource::Quantity};
use nix::sys::statvfs::statvfs;

use crate::{
    Config,
    pod::resources::{List, milli},
};

/// The Kubernetes version this kubelet speaks.
pub(crate) const VERSION: &str = "v1.35.0";

fn meminfo(key: &str) -> Option<u64> {
    let text = fs::read_to_string("/proc/meminfo").ok()?;
    let line = text.lines().find(|line| line.starts_with(key))?;
    line.split_whitespace().nth(1)?.parse::<u64>().ok().map(|kib| kib * 1024)
}

/// Memory that could be had without swapping, and all memory, in bytes.
#[must_use]
pub(crate) fn memory() -> Option<(u64, u64)> {
    Some((meminfo("MemAvailable:")?, meminfo("MemTotal:")?))
}

/// Free and total bytes of the filesystem of a path.
#[must_use]
pub(crate) fn disk(path: &Path) -> Option<(u64, u64)> {
    let found = path.ancestors().find(|path| path.exists())?;
    let stat = statvfs(found).ok()?;
    let size = stat.fragment_size();
    Some((stat.blocks_available() * size, stat.blocks() * size))
}

/// Everything the machine has.
#[must_use]
pub(crate) fn capacity(config: &Config) -> List {
    let cpus = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    let memory = meminfo("MemTotal:").unwrap_or(0) / 1024;
    let storage = disk(&config.root).map_or(0, |(_, total)| total) / 1024;
    [
        ("cpu", cpus.to_string()),
        ("memory", format!("{memory}Ki")),
        ("ephemeral-storage", format!("{storage}Ki")),
        ("pods", config.max_pods.to_string()),
        ("hugepages-1Gi", "0".into()),
        ("hugepages-2Mi", "0".into()),
    ]
    .into_iter()
    .map(|(name, text)| (name.to_owned(), Quantity(text)))
    .collect()
}

/// What pods may have of it.
#[must_use]
pub(crate) fn allocatable(config: &Config, capacity: &List) -> List {
    let mut result = capacity.clone();
    for (name, reserved) in &config.reserved {
        let Some(total) = capacity.get(name).and_then(|total| milli(&total.0)) else { continue };
        let taken: i128 = reserved.iter().filter_map(|one| milli(&one.0)).sum();
        let left = (total - taken).max(0);
        let text = match name.as_str() {
            "cpu" => format!("{left}m"),
            _ => format!("{}Ki", left / 1000 / 1024),
        };
        result.insert(name.clone(), Quantity(text));
    }
    result
}

/// The `nodeInfo` of the status.
#[must_use]
pub(crate) fn info(config: &Config, runtime: &str) -> NodeSystemInfo {
    let read = |path: &Path| fs::read_to_string(path).map(|text| text.trim().to_owned()).unwrap_or_default();
    let os = read(Path::new("/etc/os-release"));
    let pretty = os.lines().find_map(|line| line.strip_prefix("PRETTY_NAME=")).unwrap_or("Linux");
    let machine = read(Path::new("/etc/machine-id"));
    let uuid = read(Path::new("/sys/class/dmi/id/product_uuid"));
    NodeSystemInfo {
        architecture: architecture().into(),
        boot_id: read(&config.boot_id_file),
        container_runtime_version: runtime.to_owned(),
        kernel_version: read(Path::new("/proc/sys/kernel/osrelease")),
        kube_proxy_version: String::new(),
        kubelet_version: VERSION.into(),
        system_uuid: if uuid.is_empty() { machine.clone() } else { uuid },
        machine_id: machine,
        operating_system: "linux".into(),
        os_image: pretty.trim_matches('"').to_owned(),
        swap: None,
    }
}

/// Go's name of the architecture, as labels have it.
#[must_use]
pub(crate) fn architecture() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}
