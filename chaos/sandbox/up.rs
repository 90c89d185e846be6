//! `up`: from nothing, or from whatever is there, to a cluster that is ready.
//!
//! Everything is started at once; components wait for each other by themselves. Images are brought in while the
//! control plane comes up.

use std::fs;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::time::Duration;

use nix::sys::statvfs::statvfs;

use super::{Sandbox, on_each, read_spec};
use crate::layout::Layout;
use crate::{
    Error, Host, Result, Role, Spec, State, Steps, api, command, component, containerd, faults, haproxy,
    images, network, process,
};

/// How long each part of the cluster may take to become ready, at worst.
const LIMIT: Duration = Duration::from_secs(90);

/// Room that a cluster needs, in MB: images and members' databases, and what keeps kubelets from reporting
/// `DiskPressure`.
const ROOM: u64 = 3072;

/// What to make.
#[derive(Clone, Debug)]
pub struct Options {
    /// The shape.
    pub spec: Spec,
    /// Whether to deploy the demo app.
    pub demo: bool,
}

impl Sandbox {
    /// Makes or completes the sandbox `name`: hosts, and all components started. Waits for nothing.
    pub fn make(root: &Path, name: &str, spec: &Spec, steps: &Steps) -> Result<Self> {
        let layout = steps.step("checks", |_| check(root, name, spec))?;
        let sandbox = Self { root: root.into(), layout };
        steps.step("certificates, keys and configuration", |_| sandbox.write_files())?;
        steps.step("hosts (network namespaces)", |_| sandbox.make_hosts())?;
        steps.step("start", |_| sandbox.start_all())?;
        Ok(sandbox)
    }

    /// Makes or completes the sandbox `name`, and waits until it is ready.
    pub fn up(root: &Path, name: &str, options: &Options, steps: &Steps) -> Result<Self> {
        let sandbox = Self::make(root, name, &options.spec, steps)?;
        std::thread::scope(|scope| {
            let imports = scope.spawn(|| sandbox.import_all());
            let ready = sandbox.wait_ready(steps);
            let imported = imports.join().expect("a panic of the import is passed on");
            steps.step("images in every worker", |_| imported)?;
            ready
        })?;
        sandbox.wait_deployment(steps, "kube-system", "kube-dns", "cluster DNS")?;
        if options.demo {
            sandbox.deploy_demo(steps)?;
        }
        Ok(sandbox)
    }

    fn write_files(&self) -> Result<()> {
        let folder = &self.layout.folder;
        let programs = self.layout.programs();
        fs::create_dir_all(&programs).map_err(Error::file("make", &programs))?;
        let spec = serde_json::to_string_pretty(&self.layout.spec).expect("a Spec is plain data");
        let file = folder.join("sandbox.json");
        fs::write(&file, spec).map_err(Error::file("write", file))?;
        for name in component::programs() {
            link(&self.layout.spec.binary, &programs.join(name))?;
        }
        // One after the other: the first makes the authorities that all share.
        for host in self.hosts() {
            fs::create_dir_all(&host.folder).map_err(Error::file("make", &host.folder))?;
            self.write_host(&host)?;
        }
        self.admin(&["kubeconfig", "--out", &text(&self.kubeconfig()), "--endpoint", &self.outside()])
    }

    /// The API's endpoint for the person at the machine.
    fn outside(&self) -> String {
        format!("https://127.0.0.1:{}", self.layout.spec.port)
    }

    fn write_host(&self, host: &Host) -> Result<()> {
        if host.role == Role::Balancer {
            return write(host, "haproxy.cfg", &haproxy::config(&self.layout));
        }
        let role = if host.role == Role::Master { "master" } else { "worker" };
        let (address, balancer) = (host.address.to_string(), self.layout.balancer().address.to_string());
        let (folder, endpoint) = (text(&host.folder), self.layout.endpoint());
        self.admin(&[
            "pki",
            "--dir",
            &folder,
            "--role",
            role,
            "--name",
            &host.name,
            "--address",
            &address,
            "--endpoint",
            &endpoint,
            "--san",
            &balancer,
        ])?;
        if host.role == Role::Worker {
            for folder in ["kubelet", "cni/net.d", "cni/data", "pods-log"] {
                let path = host.folder.join(folder);
                fs::create_dir_all(&path).map_err(Error::file("make", path))?;
            }
            write(host, "containerd.toml", &containerd::config(host))?;
            write(host, "kubelet/config.yaml", &component::kubelet_config(host))?;
            write(host, "resolv.conf", "# This host knows no names beside the cluster's.\n")?;
        }
        if host.folder.join("boot-id").exists() { Ok(()) } else { faults::new_boot(host) }
    }

    /// `trireme admin …` with the sandbox's shared folder.
    fn admin(&self, words: &[&str]) -> Result<()> {
        let shared = text(&self.layout.shared());
        let mut all = vec!["admin", words[0], "--shared", &shared];
        all.extend(&words[1..]);
        command::run(&text(&self.layout.spec.binary), &all).map(drop)
    }

    fn make_hosts(&self) -> Result<()> {
        network::ensure_switch(&self.layout)?;
        on_each(&self.hosts(), |host| network::ensure_host(&self.layout, host))?;
        network::heal(&self.layout)
    }

    fn start_all(&self) -> Result<()> {
        on_each(&self.hosts(), |host| {
            if faults::is_off(host) {
                return faults::poweron(&self.layout, host);
            }
            for row in component::of(host) {
                if matches!(process::state(host, row), State::Paused(_)) {
                    process::signal(host, row, nix::sys::signal::Signal::SIGCONT)?;
                }
                process::start(&self.layout, host, row)?;
            }
            Ok(())
        })
    }

    fn import_all(&self) -> Result<()> {
        let workers = self.layout.with_role(Role::Worker);
        on_each(&workers, |worker| {
            api::wait("containerd's first answer", LIMIT, &mut Steps::quiet().say(), || {
                let missing = format!("see {}", worker.path("containerd.log"));
                Ok(containerd::ready(worker).then_some(()).ok_or(missing))
            })
        })?;
        images::ensure(&self.root.join(".sandbox/images"), &self.layout.spec.binary, |archive| {
            on_each(&workers, |worker| import_once(worker, archive))
        })
    }

    fn wait_ready(&self, steps: &Steps) -> Result<()> {
        let cluster = self.cluster()?;
        steps.step("API behind the balancer", |say| {
            api::wait("an API server's /readyz", LIMIT, say, || {
                Ok(if cluster.ready()? { Ok(()) } else { Err(self.logs("apiserver")) })
            })
        })?;
        steps.step("bootstrap token, cluster DNS and their roles", |_| self.apply_addons())?;
        let wanted = usize::from(self.layout.spec.workers);
        steps.step(&format!("{wanted} nodes Ready"), |say| {
            api::wait("all nodes Ready", LIMIT, say, || {
                let ready = cluster.ready_nodes()?;
                let missing = format!("{} of {wanted} are; {}", ready.len(), self.logs("kubelet"));
                Ok(if ready.len() >= wanted { Ok(()) } else { Err(missing) })
            })
        })
    }

    fn apply_addons(&self) -> Result<()> {
        let shared = text(&self.layout.shared());
        let token = command::run(&text(&self.layout.spec.binary), &["admin", "token", "--shared", &shared])?;
        self.kubectl_feed(&["apply", "-f", "-"], &token)?;
        self.kubectl(&["apply", "-f", &text(&self.root.join("deploy/addons"))]).map(drop)
    }

    fn deploy_demo(&self, steps: &Steps) -> Result<()> {
        let file = text(&self.root.join("deploy/demo.yaml"));
        steps.step("demo applied", |_| self.kubectl(&["apply", "-f", &file]).map(drop))?;
        self.wait_deployment(steps, "default", "web", "demo app")
    }

    fn wait_deployment(&self, steps: &Steps, namespace: &str, name: &str, title: &str) -> Result<()> {
        let cluster = self.cluster()?;
        steps.step(&format!("{title} available"), |say| {
            api::wait(&format!("deployment {namespace}/{name} available"), LIMIT, say, || {
                let (done, text) = cluster.deployment(namespace, name)?;
                Ok(if done { Ok(()) } else { Err(text) })
            })
        })
    }

    /// Runs kubectl against this sandbox; its standard output.
    pub fn kubectl(&self, words: &[&str]) -> Result<String> {
        self.kubectl_feed(words, "")
    }

    fn kubectl_feed(&self, words: &[&str], input: &str) -> Result<String> {
        let kubeconfig = text(&self.kubeconfig());
        let mut all = vec!["--kubeconfig", &kubeconfig];
        all.extend(words);
        command::feed("kubectl", &all, input)
    }

    /// Where to look when a component does not become ready.
    fn logs(&self, component: &str) -> String {
        format!("logs: {}/*/{component}.log", self.layout.folder.display())
    }
}

fn check(root: &Path, name: &str, spec: &Spec) -> Result<Layout> {
    let layout = Layout::new(root, name, spec.clone())?;
    if let Some(there) = read_spec(root, name)?
        && there.shape() != spec.shape()
    {
        return Err(Error::OtherShape { name: name.into(), there: there.shape(), asked: spec.shape() });
    }
    let balancer = layout.balancer();
    let running = component::of(&balancer).any(|row| process::state(&balancer, row) != State::Dead);
    if !running && TcpListener::bind(("127.0.0.1", spec.port)).is_err() {
        return Err(Error::PortTaken { port: spec.port });
    }
    let free = free(root)?;
    if !running && free < ROOM {
        return Err(Error::DiskFull { folder: text(root), free, least: ROOM });
    }
    Ok(layout)
}

/// MB that are free on a folder's disk.
fn free(folder: &Path) -> Result<u64> {
    let found = statvfs(folder).map_err(|error| Error::file("look at", folder)(error.into()))?;
    Ok((found.blocks_available() * found.fragment_size()) >> 20)
}

/// Brings an archive in, once until it changes.
fn import_once(worker: &Host, archive: &Path) -> Result<()> {
    let mark = mark(worker, archive);
    let changed = |p: &Path| fs::metadata(p).and_then(|m| m.modified());
    if changed(&mark).ok().zip(changed(archive).ok()).is_some_and(|(marked, made)| marked > made) {
        return Ok(());
    }
    containerd::import(worker, archive)?;
    fs::write(&mark, "").map_err(Error::file("write", mark))
}

fn mark(worker: &Host, archive: &Path) -> PathBuf {
    let name = archive.file_stem().unwrap_or_default().to_string_lossy();
    worker.folder.join(format!("containerd/{name}.imported"))
}

/// Writes a file unless it has the same text.
fn write(host: &Host, file: &str, contents: &str) -> Result<()> {
    let path = host.folder.join(file);
    if fs::read_to_string(&path).is_ok_and(|there| there == contents) {
        return Ok(());
    }
    fs::write(&path, contents).map_err(Error::file("write", path))
}

fn link(target: &Path, path: &Path) -> Result<()> {
    faults::remove(path)?;
    std::os::unix::fs::symlink(target, path).map_err(Error::file("make", path))
}

fn text(path: &Path) -> String {
    path.display().to_string()
}
