//! Whose process is it? Starting, finding and signalling the sandbox's processes and nobody else's.
//!
//! A process belongs to a host when its network namespace is the host's, when it is in the host's control group,
//! or when an ancestor of it does. A component is recognised by its program and by the host's folder on its command line;
//! the pid file is for people. So a recycled pid is never signalled.

use std::collections::BTreeSet;
use std::fs::{self, OpenOptions};
use std::path::Path;
use std::process::{Command, Stdio};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::component::{Place, Row};
use crate::layout::Layout;
use crate::{Error, Host, Result, State, namespace};

/// One process of the machine, as far as it matters here.
struct Seen {
    pid: i32,
    parent: i32,
    state: char,
    folder: std::path::PathBuf,
}

impl Seen {
    fn read(pid: i32) -> Option<Self> {
        let folder = Path::new("/proc").join(pid.to_string());
        let stat = fs::read_to_string(folder.join("stat")).ok()?;
        // The program's name stands in parentheses and may contain anything, also parentheses.
        let mut fields = stat.get(stat.rfind(')')? + 2..)?.split(' ');
        let state = fields.next()?.chars().next()?;
        let parent = fields.next()?.parse().ok()?;
        Some(Self { pid, parent, state, folder })
    }

    fn alive(&self) -> bool {
        !matches!(self.state, 'Z' | 'X')
    }

    fn words(&self) -> Vec<String> {
        let line = fs::read(self.folder.join("cmdline")).unwrap_or_default();
        line.split(|b| *b == 0).map(|w| String::from_utf8_lossy(w).into_owned()).collect()
    }

    fn network(&self) -> Option<u64> {
        let link = fs::read_link(self.folder.join("ns/net")).ok()?;
        link.to_str()?.strip_prefix("net:[")?.strip_suffix(']')?.parse().ok()
    }

    fn in_group(&self, group: &str) -> bool {
        let text = fs::read_to_string(self.folder.join("cgroup")).unwrap_or_default();
        text.lines().filter_map(|l| l.splitn(3, ':').nth(2)).any(|path| under(path, group))
    }
}

fn under(path: &str, group: &str) -> bool {
    path.strip_prefix(group).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}

fn all() -> Vec<Seen> {
    let Ok(folder) = fs::read_dir("/proc") else { return Vec::new() };
    folder.flatten().filter_map(|e| e.file_name().to_str()?.parse().ok()).filter_map(Seen::read).collect()
}

/// All living processes on a host, the harness itself left out.
pub(crate) fn on_host(host: &Host) -> BTreeSet<i32> {
    let network = namespace::number(&host.namespace);
    let seen: Vec<Seen> = all().into_iter().filter(Seen::alive).collect();
    let mut found: BTreeSet<i32> = seen
        .iter()
        .filter(|p| (network.is_some() && p.network() == network) || p.in_group(&host.cgroup))
        .map(|p| p.pid)
        .collect();
    while let Some(more) = seen.iter().find(|p| found.contains(&p.parent) && !found.contains(&p.pid)) {
        found.insert(more.pid);
    }
    found.remove(&nix::unistd::getpid().as_raw());
    found
}

/// Kills everything on a host, again and again until nothing is left that could start anything.
pub(crate) fn kill_all(host: &Host) -> Result<()> {
    for _ in 0..200 {
        let there = on_host(host);
        if there.is_empty() {
            return Ok(());
        }
        for pid in there {
            let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
        }
        moment();
    }
    Err(Error::Late {
        what: format!("the end of all processes on {}", host.name),
        seconds: 4,
        hint: format!("still there: {:?}", on_host(host)),
    })
}

/// How long to wait before looking again whether a process has gone.
fn moment() {
    std::thread::sleep(std::time::Duration::from_millis(20));
}

/// Whether the component runs.
pub(crate) fn state(host: &Host, row: &Row) -> State {
    match find(host, row) {
        Some(p) if p.state == 'T' => State::Paused(p.pid),
        Some(p) => State::Running(p.pid),
        None => State::Dead,
    }
}

fn find(host: &Host, row: &Row) -> Option<Seen> {
    let noted = fs::read_to_string(pid_file(host, row)).ok().and_then(|t| t.trim().parse().ok());
    let noted = noted.and_then(Seen::read).filter(|p| is(p, host, row));
    noted.or_else(|| all().into_iter().find(|p| is(p, host, row)))
}

fn is(process: &Seen, host: &Host, row: &Row) -> bool {
    let words = process.words();
    let program = words.first().and_then(|w| Path::new(w).file_name()).is_some_and(|n| n == row.program);
    let folder = format!("{}/", host.folder.display());
    process.alive() && program && words.iter().skip(1).any(|w| w.contains(&folder))
}

fn pid_file(host: &Host, row: &Row) -> std::path::PathBuf {
    host.folder.join(format!("{}.pid", row.name))
}

/// Starts the component unless it runs.
pub(crate) fn start(layout: &Layout, host: &Host, row: &Row) -> Result<()> {
    if find(host, row).is_some() {
        return Ok(());
    }
    let path = host.folder.join(format!("{}.log", row.name));
    let log =
        OpenOptions::new().create(true).append(true).open(&path).map_err(Error::file("write", &path))?;
    let errors = log.try_clone().map_err(Error::file("write", &path))?;
    let program = row.path(layout);
    let arguments = (row.arguments)(layout, host);
    let launch = || {
        let mut command = Command::new("setsid");
        command.arg(&program).args(&arguments).current_dir(&host.folder);
        command.stdin(Stdio::null()).stdout(log).stderr(errors).env("RUST_BACKTRACE", "1");
        command.spawn().map_err(|source| Error::Program { program: "setsid".into(), source })
    };
    let child = match row.place {
        Place::Host => namespace::inside(host, launch)?,
        Place::Machine => launch()?,
    };
    let file = pid_file(host, row);
    fs::write(&file, format!("{}\n", child.id())).map_err(Error::file("write", file))
}

/// Waits a moment whether the component that was started stays.
pub(crate) fn stays(host: &Host, row: &Row) -> Result<()> {
    for _ in 0..15 {
        moment();
    }
    if find(host, row).is_some() {
        return Ok(());
    }
    let log = host.folder.join(format!("{}.log", row.name));
    let text = fs::read_to_string(&log).unwrap_or_default();
    let words = text.lines().last().unwrap_or("nothing").to_string();
    Err(Error::Died { host: host.name.clone(), component: row.name.into(), log, words })
}

/// Sends a signal to the component.
pub(crate) fn signal(host: &Host, row: &Row, signal: Signal) -> Result<()> {
    let there = find(host, row)
        .ok_or_else(|| Error::NotRunning { host: host.name.clone(), component: row.name.into() })?;
    kill(Pid::from_raw(there.pid), signal).map_err(Error::system(format!("signal {}", row.name)))
}

/// Its memory in bytes, as the kernel's `smaps_rollup` has it under `Pss`.
pub(crate) fn memory(host: &Host, row: &Row) -> Result<u64> {
    let there = find(host, row)
        .ok_or_else(|| Error::NotRunning { host: host.name.clone(), component: row.name.into() })?;
    let file = there.folder.join("smaps_rollup");
    let text = fs::read_to_string(&file).map_err(Error::file("read", file))?;
    let kilobytes =
        text.lines().find_map(|l| l.strip_prefix("Pss:")?.trim().strip_suffix(" kB")?.parse().ok());
    Ok(kilobytes.unwrap_or(0_u64) * 1024)
}

/// Stops the component in its tracks (SIGSTOP), and waits until the kernel says that it has stopped.
pub(crate) fn pause(host: &Host, row: &Row) -> Result<()> {
    signal(host, row, Signal::SIGSTOP)?;
    for _ in 0..250 {
        if matches!(state(host, row), State::Paused(_)) {
            return Ok(());
        }
        moment();
    }
    let hint = "something resumes it".into();
    Err(Error::Late { what: format!("the pause of {} on {}", row.name, host.name), seconds: 5, hint })
}

/// Waits until the component has ended, and forgets its pid.
pub(crate) fn gone(host: &Host, row: &Row, seconds: u64) -> Result<()> {
    for _ in 0..seconds * 50 {
        if find(host, row).is_none() {
            let _ = fs::remove_file(pid_file(host, row));
            return Ok(());
        }
        moment();
    }
    let hint = format!("see {}", host.folder.join(format!("{}.log", row.name)).display());
    Err(Error::Late { what: format!("the end of {} on {}", row.name, host.name), seconds, hint })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_group_is_not_its_neighbour() {
        let check = |path: &str, inside: bool| assert_eq!(under(path, "/trireme-a/w1"), inside, "{path}");
        check("/trireme-a/w1", true);
        check("/trireme-a/w1/kubepods/x", true);
        check("/trireme-a/w10", false);
        check("/", false);
    }

    #[test]
    fn this_process_is_seen_alive() {
        let me = Seen::read(nix::unistd::getpid().as_raw()).unwrap();
        assert!(me.alive() && me.network().is_some() && !me.words().is_empty());
    }
}
