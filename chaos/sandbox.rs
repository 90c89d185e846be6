//! One sandbox and what can be done with it: the verbs of `deploy/sandbox`.

use std::fs;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use nix::sys::signal::Signal;

use crate::layout::Layout;
use crate::{
    Error, Host, Result, Role, Spec, api, cgroups, component, containerd, faults, mounts, network, process,
};

mod leader;
mod up;

pub use up::Options;

/// Whether a component runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// It runs, with this pid.
    Running(i32),
    /// It is stopped by a signal and can be resumed.
    Paused(i32),
    /// It does not run.
    Dead,
}

/// One component's line in `status`.
#[derive(Clone, Debug)]
pub struct Status {
    /// The host's name.
    pub host: String,
    /// Whether the host has power.
    pub on: bool,
    /// The component's name.
    pub component: &'static str,
    /// Whether it runs.
    pub state: State,
}

/// A sandbox that exists.
pub struct Sandbox {
    pub(crate) root: PathBuf,
    pub(crate) layout: Layout,
}

impl Sandbox {
    /// The sandbox `name` below `root/.sandbox`.
    pub fn open(root: &Path, name: &str) -> Result<Self> {
        let spec = read_spec(root, name)?.ok_or_else(|| Error::NoSandbox { name: name.into() })?;
        Ok(Self { root: root.into(), layout: Layout::new(root, name, spec)? })
    }

    /// Its shape.
    pub fn spec(&self) -> &Spec {
        &self.layout.spec
    }

    /// The kubeconfig of the person at the machine.
    pub fn kubeconfig(&self) -> PathBuf {
        self.layout.kubeconfig()
    }

    /// A client of its API.
    pub fn cluster(&self) -> Result<api::Cluster> {
        api::Cluster::connect(&self.kubeconfig())
    }

    /// All hosts.
    pub fn hosts(&self) -> Vec<Host> {
        self.layout.hosts()
    }

    /// The host of that name.
    pub fn host(&self, name: &str) -> Result<Host> {
        let hosts = self.hosts();
        let names = hosts.iter().map(|h| h.name.as_str()).collect::<Vec<_>>().join(", ");
        let found = hosts.iter().find(|h| h.name == name).cloned();
        found.ok_or(Error::NoHost { name: name.into(), hosts: names })
    }

    /// Every component of every host.
    pub fn status(&self) -> Vec<Status> {
        let rows = |host: Host| {
            let on = !faults::is_off(&host);
            component::of(&host)
                .map(|row| Status {
                    host: host.name.clone(),
                    on,
                    component: row.name,
                    state: process::state(&host, row),
                })
                .collect::<Vec<_>>()
        };
        self.hosts().into_iter().flat_map(rows).collect()
    }

    /// Memory of a component in bytes, shared pages counted by their share (Pss).
    pub fn memory(&self, host: &str, name: &str) -> Result<u64> {
        let host = self.host(host)?;
        process::memory(&host, component::find(&host, name)?)
    }

    /// Whether a partition is in force.
    pub fn partitioned(&self) -> bool {
        network::partitioned(&self.layout)
    }

    /// Whether the host's cable is plugged in at the switch.
    pub fn linked(&self, host: &str) -> Result<bool> {
        Ok(network::link_up(&self.layout, &self.host(host)?))
    }

    /// kill -9.
    pub fn kill(&self, host: &str, name: &str) -> Result<()> {
        self.end(host, name, Signal::SIGKILL, 5)
    }

    /// Asks the component to end, and waits until it has.
    pub fn stop(&self, host: &str, name: &str) -> Result<()> {
        self.end(host, name, Signal::SIGTERM, 20)
    }

    fn end(&self, host: &str, name: &str, signal: Signal, seconds: u64) -> Result<()> {
        let host = self.host(host)?;
        let row = component::find(&host, name)?;
        process::signal(&host, row, signal)?;
        process::gone(&host, row, seconds)
    }

    /// Starts the component unless it runs.
    pub fn start(&self, host: &str, name: &str) -> Result<()> {
        let host = self.host(host)?;
        if faults::is_off(&host) {
            return Err(Error::Off { host: host.name });
        }
        let row = component::find(&host, name)?;
        process::start(&self.layout, &host, row)?;
        process::stays(&host, row)
    }

    /// SIGSTOP; it has stopped when this returns.
    pub fn pause(&self, host: &str, name: &str) -> Result<()> {
        let host = self.host(host)?;
        process::pause(&host, component::find(&host, name)?)
    }

    /// SIGCONT.
    pub fn resume(&self, host: &str, name: &str) -> Result<()> {
        self.signal(host, name, Signal::SIGCONT)
    }

    fn signal(&self, host: &str, name: &str, signal: Signal) -> Result<()> {
        let host = self.host(host)?;
        process::signal(&host, component::find(&host, name)?, signal)
    }

    /// Takes the host's power: link down first, so that nobody gets a FIN or a RST, then everything on it dies.
    pub fn poweroff(&self, host: &str) -> Result<()> {
        faults::poweroff(&self.layout, &self.host(host)?)
    }

    /// Gives the power back; nothing to do when it was never taken.
    pub fn poweron(&self, host: &str) -> Result<()> {
        let host = self.host(host)?;
        if faults::is_off(&host) { faults::poweron(&self.layout, &host) } else { Ok(()) }
    }

    /// Separates these hosts from all others, in place of the partition that is there.
    pub fn partition(&self, hosts: &[String]) -> Result<()> {
        let hosts = hosts.iter().map(|h| self.host(h)).collect::<Result<Vec<_>>>()?;
        network::partition(&self.layout, &hosts)
    }

    /// Ends the partition.
    pub fn heal(&self) -> Result<()> {
        network::heal(&self.layout)
    }

    /// A command that will run inside the host.
    pub fn command(&self, host: &str, program: &str) -> Result<Command> {
        let host = self.host(host)?;
        let mut command = Command::new("nsenter");
        command.arg(format!("--net=/run/netns/{}", host.namespace)).arg("--").arg(program);
        Ok(command)
    }

    /// Becomes a command inside the host; returns only when that fails.
    pub fn exec(&self, host: &str, words: &[String]) -> Error {
        let (program, arguments) = words.split_first().map_or(("sh", &[][..]), |(p, a)| (p.as_str(), a));
        match self.command(host, program) {
            Ok(mut command) => {
                Error::Program { program: program.into(), source: command.args(arguments).exec() }
            }
            Err(error) => error,
        }
    }

    /// Brings an image archive into all workers.
    pub fn import(&self, archive: &Path) -> Result<()> {
        on_each(&self.layout.with_role(Role::Worker), |worker| containerd::import(worker, archive))
    }

    /// The images that a worker has.
    pub fn images(&self, worker: &str) -> Result<Vec<String>> {
        containerd::images(&self.host(worker)?)
    }

    /// Removes the sandbox `name`, complete or not: processes, mounts, control groups, namespaces, files.
    pub fn down(root: &Path, name: &str) -> Result<()> {
        // What a crash before the first line of `sandbox.json` leaves is found as well: by the largest shape.
        let spec = read_spec(root, name)?.unwrap_or(Spec {
            masters: 9,
            workers: 99,
            port: 0,
            binary: PathBuf::new(),
        });
        let layout = Layout::new(root, name, spec)?;
        for host in layout.hosts() {
            for row in component::of(&host).filter(|r| r.place == component::Place::Machine) {
                if process::state(&host, row) != State::Dead {
                    process::signal(&host, row, Signal::SIGKILL)?;
                    process::gone(&host, row, 5)?;
                }
            }
        }
        // Two passes, because what dies first may have been starting what is looked for second.
        on_each(&layout.hosts(), process::kill_all)?;
        on_each(&layout.hosts(), process::kill_all)?;
        mounts::clear(&layout.folder)?;
        network::remove(&layout)?;
        cgroups::remove(&layout.cgroup());
        faults::remove(&layout.folder)
    }
}

fn read_spec(root: &Path, name: &str) -> Result<Option<Spec>> {
    let file = root.join(".sandbox").join(name).join("sandbox.json");
    let Ok(text) = fs::read_to_string(file) else { return Ok(None) };
    Ok(serde_json::from_str(&text).ok())
}

/// Does the same on all hosts at once; the first error after all have ended.
fn on_each(hosts: &[Host], work: impl Fn(&Host) -> Result<()> + Sync) -> Result<()> {
    std::thread::scope(|scope| {
        let threads: Vec<_> = hosts.iter().map(|host| scope.spawn(|| work(host))).collect();
        let done: Vec<Result<()>> =
            threads.into_iter().map(|t| t.join().expect("a panic on a host is passed on")).collect();
        done.into_iter().collect()
    })
}
