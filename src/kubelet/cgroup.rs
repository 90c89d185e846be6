//! Pods' control groups, v1 and v2. Keeps true: a pod's group has its limits before anything runs in it, and
//! is removed with the pod. Containers' own groups are the runtime's.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use k8s_openapi::api::core::v1::PodSpec;

use crate::pod::resources::{self, CPU_PERIOD, Qos, cpu_quota, cpu_shares, cpu_weight};

const MOUNT: &str = "/sys/fs/cgroup";

/// The path of a pod's cgroup below the hierarchies' roots (cgroupfs style).
#[must_use]
pub(crate) fn pod_path(root: &str, qos: Qos, uid: &str) -> String {
    let class = match qos {
        Qos::Guaranteed => "",
        Qos::Burstable => "/burstable",
        Qos::BestEffort => "/besteffort",
    };
    format!("{root}/kubepods{class}/pod{uid}")
}

/// What a pod's cgroup allows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Limits {
    shares: i64,
    quota: i64,
    memory: i64,
}

fn limits(spec: &PodSpec) -> Limits {
    Limits {
        shares: cpu_shares(resources::pod_request(spec, "cpu")),
        quota: resources::pod_limit(spec, "cpu").map_or(0, cpu_quota),
        memory: resources::pod_limit(spec, "memory").map_or(0, |milli| milli / 1000),
    }
}

/// The hierarchies of this machine.
#[derive(Debug, Clone)]
pub struct Cgroups {
    root: String,
    unified: bool,
    /// Mounted v1 controllers' directories.
    controllers: Vec<PathBuf>,
}

impl Cgroups {
    /// Finds the hierarchies; `root` is the group above all pods.
    #[must_use]
    pub fn detect(root: &str) -> Self {
        let unified = Path::new(MOUNT).join("cgroup.controllers").exists();
        let entries = fs::read_dir(MOUNT).into_iter().flatten().flatten();
        let real = entries.filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()));
        let v1 = real.filter(|entry| entry.path().join("cgroup.procs").exists());
        let controllers = if unified { Vec::new() } else { v1.map(|entry| entry.path()).collect() };
        Self { root: root.to_owned(), unified, controllers }
    }

    /// Makes the pod's group with its limits.
    ///
    /// # Errors
    /// When the hierarchy is not writable.
    pub fn create(&self, uid: &str, spec: &PodSpec) -> io::Result<()> {
        let path = pod_path(&self.root, resources::qos(spec), uid);
        let limits = limits(spec);
        if self.unified { self.create_v2(&path, limits) } else { self.create_v1(&path, limits) }
    }

    fn create_v1(&self, path: &str, limits: Limits) -> io::Result<()> {
        for controller in &self.controllers {
            let group = controller.join(path.trim_start_matches('/'));
            match controller.file_name().and_then(|name| name.to_str()) {
                Some("cpu" | "cpu,cpuacct") => {
                    fs::create_dir_all(&group)?;
                    fs::write(group.join("cpu.shares"), limits.shares.to_string())?;
                    let quota = if limits.quota > 0 { limits.quota } else { -1 };
                    fs::write(group.join("cpu.cfs_period_us"), CPU_PERIOD.to_string())?;
                    fs::write(group.join("cpu.cfs_quota_us"), quota.to_string())?;
                }
                Some("memory") => {
                    fs::create_dir_all(&group)?;
                    let limit = if limits.memory > 0 { limits.memory } else { -1 };
                    fs::write(group.join("memory.limit_in_bytes"), limit.to_string())?;
                }
                Some("pids") => fs::create_dir_all(&group)?,
                _ => {}
            }
        }
        Ok(())
    }

    fn create_v2(&self, path: &str, limits: Limits) -> io::Result<()> {
        let mut group = PathBuf::from(MOUNT);
        for part in path.trim_matches('/').split('/') {
            // Controllers reach a group only when every group above passes them on.
            let control = group.join("cgroup.subtree_control");
            for controller in ["+cpu", "+memory", "+pids", "+io", "+cpuset"] {
                let _ = fs::write(&control, controller);
            }
            group.push(part);
            fs::create_dir_all(&group)?;
        }
        fs::write(group.join("cpu.weight"), cpu_weight(limits.shares).to_string())?;
        let quota = if limits.quota > 0 { limits.quota.to_string() } else { "max".into() };
        fs::write(group.join("cpu.max"), format!("{quota} {CPU_PERIOD}"))?;
        let memory = if limits.memory > 0 { limits.memory.to_string() } else { "max".into() };
        fs::write(group.join("memory.max"), memory)
    }

    /// Sets the share of the two lower classes: burstable as much as its pods ask for, best effort least.
    pub fn weigh_classes(&self, burstable_milli_cpu: i64) {
        for (class, shares) in [("burstable", cpu_shares(burstable_milli_cpu)), ("besteffort", cpu_shares(0))]
        {
            let path = format!("{}/kubepods/{class}", self.root);
            for directory in self.directories(&path) {
                let _ = match self.unified {
                    true => fs::write(directory.join("cpu.weight"), cpu_weight(shares).to_string()),
                    false => write_if_there(&directory.join("cpu.shares"), shares),
                };
            }
        }
    }

    fn directories(&self, path: &str) -> Vec<PathBuf> {
        let below = path.trim_start_matches('/');
        if self.unified {
            return vec![Path::new(MOUNT).join(below)];
        }
        self.controllers.iter().map(|controller| controller.join(below)).collect()
    }

    /// Removes the pod's group in every hierarchy, with the empty groups that the runtime left in it.
    ///
    /// # Errors
    /// When a process is still in it.
    pub fn remove(&self, uid: &str) -> io::Result<()> {
        for qos in [Qos::Guaranteed, Qos::Burstable, Qos::BestEffort] {
            for directory in self.directories(&pod_path(&self.root, qos, uid)) {
                remove_tree(&directory)?;
            }
        }
        Ok(())
    }
}

fn write_if_there(file: &Path, value: i64) -> io::Result<()> {
    if file.exists() { fs::write(file, value.to_string()) } else { Ok(()) }
}

fn remove_tree(directory: &Path) -> io::Result<()> {
    let Ok(entries) = fs::read_dir(directory) else { return Ok(()) };
    for entry in entries.flatten().filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir())) {
        remove_tree(&entry.path())?;
    }
    match fs::remove_dir(directory) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_by_class() {
        assert_eq!(pod_path("", Qos::Guaranteed, "u"), "/kubepods/podu");
        assert_eq!(pod_path("/w1", Qos::BestEffort, "u"), "/w1/kubepods/besteffort/podu");
    }
}
