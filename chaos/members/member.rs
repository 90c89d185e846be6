//! One member: its command line, its process, and what the kernel says of it.
//!
//! Keeps true: a pid is used only while its process has not been waited for, so it cannot be another's.

use std::fs::{self, OpenOptions};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::{Kind, Memory, Ports};
use crate::{Error, Result};

/// One member, running or not.
pub(super) struct Member {
    pub(super) name: String,
    pub(super) log: PathBuf,
    pub(super) data: PathBuf,
    program: PathBuf,
    arguments: Vec<String>,
    client: u16,
    child: Option<Child>,
    paused: bool,
}

/// The text of `--initial-cluster` for members with these ports.
pub(super) fn cluster(ports: &[Ports]) -> String {
    let parts = ports.iter().map(|ports| url(ports.advertised)).enumerate();
    let parts = parts.map(|(number, url)| format!("{}={url}", name(number)));
    parts.collect::<Vec<_>>().join(",")
}

/// Where a member keeps its data.
pub(super) fn place(folder: &Path, number: usize) -> PathBuf {
    folder.join(name(number))
}

fn name(number: usize) -> String {
    format!("m{}", number + 1)
}

fn url(port: u16) -> String {
    format!("http://127.0.0.1:{port}")
}

impl Member {
    pub(super) fn new(
        kind: &Kind,
        folder: &Path,
        number: usize,
        ports: Ports,
        cluster: &str,
        extra: &[&str],
    ) -> Self {
        let (program, first) = kind.words();
        let (name, data) = (name(number), place(folder, number));
        let path = data.display().to_string();
        let flags = [
            ("--name", name.as_str()),
            ("--data-dir", &path),
            ("--listen-client-urls", &url(ports.client)),
            ("--advertise-client-urls", &url(ports.client)),
            ("--listen-peer-urls", &url(ports.peer)),
            ("--initial-advertise-peer-urls", &url(ports.advertised)),
            ("--initial-cluster", cluster),
        ];
        let flags = flags.iter().flat_map(|(flag, value)| [flag.to_string(), value.to_string()]);
        let own = |words: &[&str]| words.iter().map(ToString::to_string).collect::<Vec<_>>();
        let arguments = own(first).into_iter().chain(flags).chain(own(extra)).collect();
        let (log, program) = (folder.join(format!("{name}.log")), program.into());
        Self { log, data, program, arguments, client: ports.client, child: None, paused: false, name }
    }

    pub(super) fn client_url(&self) -> String {
        url(self.client)
    }

    pub(super) fn pid(&self) -> Option<u32> {
        self.child.as_ref().map(Child::id)
    }

    /// Whether it can be expected to answer.
    pub(super) fn answers(&self) -> bool {
        self.child.is_some() && !self.paused
    }

    pub(super) fn start(&mut self) -> Result<()> {
        if self.child.is_some() {
            return Ok(());
        }
        let open = OpenOptions::new().create(true).append(true).open(&self.log);
        let log = open.map_err(Error::file("write", &self.log))?;
        let errors = log.try_clone().map_err(Error::file("write", &self.log))?;
        let mut command = Command::new(&self.program);
        command.args(&self.arguments).stdin(Stdio::null()).stdout(log).stderr(errors);
        let failed = |source| Error::Program { program: self.program.display().to_string(), source };
        self.child = Some(command.spawn().map_err(failed)?);
        self.paused = false;
        Ok(())
    }

    fn child(&mut self) -> Result<&mut Child> {
        let missing = Error::NoMember { name: self.name.clone(), log: self.log.clone() };
        self.child.as_mut().ok_or(missing)
    }

    pub(super) fn signal(&mut self, signal: Signal) -> Result<()> {
        let pid = i32::try_from(self.child()?.id()).unwrap_or(i32::MAX);
        kill(Pid::from_raw(pid), signal).map_err(Error::system(format!("signal member {}", self.name)))?;
        match signal {
            Signal::SIGSTOP => self.paused = true,
            Signal::SIGCONT => self.paused = false,
            _ => {}
        }
        Ok(())
    }

    pub(super) fn kill(&mut self) -> Result<()> {
        self.signal(Signal::SIGKILL)?;
        let waited = self.child()?.wait();
        self.child = None;
        waited.map(drop).map_err(Error::file("wait for the process of", &self.data))
    }

    /// Whether its process has ended by itself; it counts as not running from then on.
    pub(super) fn ended(&mut self) -> Result<bool> {
        let ended = self.child()?.try_wait();
        let ended = ended.map_err(Error::file("look after the process of", &self.data))?.is_some();
        if ended {
            self.child = None;
        }
        Ok(ended)
    }

    /// An error with its last words when it was started and has ended by itself.
    pub(super) fn still_there(&mut self) -> Result<()> {
        if self.child.is_none() || !self.ended()? {
            return Ok(());
        }
        let text = fs::read_to_string(&self.log).unwrap_or_default();
        let words = text.lines().rfind(|line| !line.trim().is_empty()).unwrap_or("nothing").to_string();
        let (host, component) = ("this machine".into(), format!("member {}", self.name));
        Err(Error::Died { host, component, log: self.log.clone(), words })
    }

    fn process(&self) -> Result<procfs::process::Process> {
        let missing = || Error::NoMember { name: self.name.clone(), log: self.log.clone() };
        let pid = self.pid().and_then(|pid| i32::try_from(pid).ok()).ok_or_else(missing)?;
        procfs::process::Process::new(pid).map_err(|_| missing())
    }

    pub(super) fn cpu_seconds(&self) -> Result<f64> {
        let read = self.process()?.stat();
        let stat = read.map_err(Error::api(format!("read the processor time of member {}", self.name)))?;
        Ok((stat.utime + stat.stime) as f64 / procfs::ticks_per_second() as f64)
    }

    pub(super) fn memory(&self) -> Result<Memory> {
        let read = self.process()?.smaps_rollup();
        let maps = read.map_err(Error::api(format!("read the memory of member {}", self.name)))?;
        let fields =
            maps.memory_map_rollup.into_iter().next().map(|map| map.extension.map).unwrap_or_default();
        let field = |name: &str| fields.get(name).copied().unwrap_or_default();
        Ok(Memory { resident: field("Pss"), anonymous: field("Anonymous") })
    }
}

impl Drop for Member {
    fn drop(&mut self) {
        if self.child.is_some() {
            let _ = self.kill();
        }
    }
}
