//! Where everything of a sandbox is: names, addresses, folders. Pure, so that a half-made sandbox can be taken
//! down by computing what it would have been.

use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::{Error, Result};

/// The port of the API on the balancer and on every master.
pub(crate) const API_PORT: u16 = 6443;
/// The namespace with the bridge, in names.
pub(crate) const SWITCH: &str = "net";

/// A sandbox's shape; kept in `sandbox.json`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Spec {
    /// How many masters.
    pub masters: u8,
    /// How many workers.
    pub workers: u8,
    /// The balancer's port on the machine's loopback address.
    pub port: u16,
    /// The binary that all components run.
    pub binary: PathBuf,
}

impl Spec {
    /// For messages: what cannot change while the sandbox exists.
    pub(crate) fn shape(&self) -> String {
        format!("{} masters, {} workers and port {}", self.masters, self.workers, self.port)
    }
}

/// What a host is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// HAProxy in front of the API servers.
    Balancer,
    /// Store, API server, scheduler, controller manager.
    Master,
    /// Containers.
    Worker,
}

/// One host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Host {
    /// `lb`, `m1`, `w1` …
    pub name: String,
    /// What it is for.
    pub role: Role,
    /// Its address in 10.90.0.0/24.
    pub address: Ipv4Addr,
    /// Its folder.
    pub folder: PathBuf,
    /// Its network namespace's name in /run/netns.
    pub namespace: String,
    /// The control group under which its containers live, as a path in every hierarchy.
    pub cgroup: String,
}

impl Host {
    /// A file in the host's folder, as text for flags and configuration files.
    pub(crate) fn path(&self, file: &str) -> String {
        self.folder.join(file).display().to_string()
    }

    /// The bridge's port for this host.
    pub(crate) fn port(&self) -> String {
        format!("p-{}", self.name)
    }
}

/// The names and places of one sandbox.
#[derive(Clone, Debug)]
pub(crate) struct Layout {
    pub(crate) name: String,
    pub(crate) folder: PathBuf,
    pub(crate) spec: Spec,
}

impl Layout {
    pub(crate) fn new(root: &Path, name: &str, spec: Spec) -> Result<Self> {
        let plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
        let good = (1..=20).contains(&name.len())
            && name.starts_with(|c: char| c.is_ascii_lowercase())
            && name.chars().all(plain);
        if !good {
            return Err(Error::BadName { name: name.into() });
        }
        Ok(Self { name: name.into(), folder: root.join(".sandbox").join(name), spec })
    }

    /// All hosts: the balancer, the masters, the workers.
    pub(crate) fn hosts(&self) -> Vec<Host> {
        let masters = (1..=self.spec.masters).map(|n| self.host(&format!("m{n}"), Role::Master, 10 + n));
        let workers = (1..=self.spec.workers).map(|n| self.host(&format!("w{n}"), Role::Worker, 20 + n));
        std::iter::once(self.balancer()).chain(masters).chain(workers).collect()
    }

    pub(crate) fn with_role(&self, role: Role) -> Vec<Host> {
        self.hosts().into_iter().filter(|h| h.role == role).collect()
    }

    pub(crate) fn balancer(&self) -> Host {
        self.host("lb", Role::Balancer, 2)
    }

    fn host(&self, name: &str, role: Role, number: u8) -> Host {
        Host {
            name: name.into(),
            role,
            address: Ipv4Addr::new(10, 90, 0, number),
            folder: self.folder.join(name),
            namespace: self.namespace(name),
            cgroup: format!("{}/{name}", self.cgroup()),
        }
    }

    /// The name of a namespace of this sandbox. The prefix says whose it is on a machine with other namespaces.
    pub(crate) fn namespace(&self, name: &str) -> String {
        format!("trireme-{}-{name}", self.name)
    }

    /// The control group of all containers of this sandbox.
    pub(crate) fn cgroup(&self) -> String {
        format!("/trireme-{}", self.name)
    }

    /// What all hosts have in common: authorities, bootstrap token.
    pub(crate) fn shared(&self) -> PathBuf {
        self.folder.join("pki")
    }

    /// Links to the binary under the components' names.
    pub(crate) fn programs(&self) -> PathBuf {
        self.folder.join("bin")
    }

    /// The kubeconfig of the person at the machine.
    pub(crate) fn kubeconfig(&self) -> PathBuf {
        self.folder.join("admin.conf")
    }

    /// The API's endpoint for hosts.
    pub(crate) fn endpoint(&self) -> String {
        format!("https://{}:{API_PORT}", self.balancer().address)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn layout(name: &str) -> Result<Layout> {
        let spec = Spec { masters: 3, workers: 2, port: 6443, binary: "/trireme".into() };
        Layout::new(Path::new("/repo"), name, spec)
    }

    #[test]
    fn names_that_fit_into_files_and_namespaces() {
        let check = |name: &str, good: bool| assert_eq!(layout(name).is_ok(), good, "{name}");
        check("default", true);
        check("a-1", true);
        check("", false);
        check("1a", false);
        check("../x", false);
        check("A", false);
        check("abcdefghijklmnopqrstuvwxyz", false);
    }

    #[test]
    fn hosts_have_their_own_addresses_and_short_ports() {
        let hosts = layout("default").unwrap().hosts();
        assert_eq!(
            hosts.iter().map(|h| h.name.as_str()).collect::<Vec<_>>(),
            ["lb", "m1", "m2", "m3", "w1", "w2"]
        );
        let addresses: std::collections::BTreeSet<_> = hosts.iter().map(|h| h.address).collect();
        assert_eq!(addresses.len(), hosts.len());
        assert!(hosts.iter().all(|h| h.port().len() <= 15));
    }
}
