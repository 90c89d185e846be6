//! A write that is on its way and does not arrive: packets of one process to the balancer are lost until released.
//!
//! Keeps true: only connections that exist when it begins are held, the one by which the process renews its Lease
//! is left alone, and what was sent meanwhile is sent again by the kernel afterwards, also for a paused process.

use std::io::Write;
use std::process::Stdio;

use chaos::State;

use crate::demo::Demo;

const TABLE: &str = "inet held";
/// A packet without data is shorter, with all options of TCP.
const DATA: u32 = 120;
/// A Lease is renewed every half a second.
const RENEWAL: u64 = 700;

/// Packets that are being lost; they are not lost any more when this ends.
pub(crate) struct Held<'a> {
    demo: &'a Demo,
    host: String,
    ports: Vec<u16>,
    pid: i32,
}

/// One connection of a process to the balancer.
struct Connection {
    port: u16,
    /// Bytes that were not acknowledged yet.
    unsent: u64,
    /// Milliseconds since it sent something.
    quiet: u64,
}

impl<'a> Held<'a> {
    /// Holds what a component on this host sends from now on.
    pub(crate) fn begin(demo: &'a Demo, host: &str, component: &str) -> Self {
        let pid = pid(demo, host, component);
        let (ports, _) = demo.wait("one connection that renews the Lease, all others quiet", || {
            let (quiet, busy): (Vec<_>, Vec<_>) =
                connections(demo, host, pid).into_iter().partition(|c| c.quiet > RENEWAL);
            let ports: Vec<u16> = quiet.iter().map(|c| c.port).collect();
            let good = busy.len() == 1 && !ports.is_empty();
            Ok(if good { Ok(ports) } else { Err(format!("{} quiet, {} busy", quiet.len(), busy.len())) })
        });
        let held = Self { demo, host: host.into(), ports, pid };
        held.lose();
        held
    }

    /// The balancer's host does not take what comes from these ports with data in it.
    fn lose(&self) {
        let address = self.demo.sandbox.host(&self.host).expect("the host exists").address;
        let ports = self.ports.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
        nft(
            self.demo,
            &format!(
                "table {TABLE} {{\n chain input {{\n  type filter hook input priority -10;\n  ip saddr {address} tcp \
                 sport {{ {ports} }} tcp dport 6443 meta length > {DATA} drop\n }}\n}}\n"
            ),
        );
    }

    /// Waits until the process has sent something that did not arrive.
    pub(crate) fn sent(&self) {
        self.demo.wait("a write on its way", || {
            let all = connections(self.demo, &self.host, self.pid);
            let sent = all.iter().any(|c| c.unsent > 0 && self.ports.contains(&c.port));
            Ok(if sent { Ok(()) } else { Err(format!("nothing sent by {:?}", self.ports)) })
        });
    }
}

impl Drop for Held<'_> {
    fn drop(&mut self) {
        nft(self.demo, &format!("add table {TABLE}\ndelete table {TABLE}"));
    }
}

/// The pid of a component that runs or is paused.
pub(crate) fn pid(demo: &Demo, host: &str, component: &str) -> i32 {
    let status = demo.sandbox.status();
    let line = status.iter().find(|s| s.host == host && s.component == component);
    match line.map(|s| s.state) {
        Some(State::Running(pid) | State::Paused(pid)) => pid,
        _ => panic!("{component} on {host} does not run"),
    }
}

fn connections(demo: &Demo, host: &str, pid: i32) -> Vec<Connection> {
    let mut command = demo.sandbox.command(host, "ss").expect("the host exists");
    let done = command.args(["-HOtnpi", "dst", "10.90.0.2:6443"]).output().expect("ss runs");
    let text = String::from_utf8_lossy(&done.stdout).into_owned();
    text.lines().filter(|l| l.contains(&format!("pid={pid},"))).filter_map(connection).collect()
}

/// `ESTAB 0 0 10.90.0.11:45678 10.90.0.2:6443 users:((…)) … lastsnd:123 …`
fn connection(line: &str) -> Option<Connection> {
    let words: Vec<&str> = line.split_whitespace().collect();
    let quiet = words.iter().find_map(|w| w.strip_prefix("lastsnd:"))?;
    Some(Connection {
        port: words.get(3)?.rsplit(':').next()?.parse().ok()?,
        unsent: words.get(2)?.parse().ok()?,
        quiet: quiet.parse().ok()?,
    })
}

fn nft(demo: &Demo, rules: &str) {
    let mut command = demo.sandbox.command("lb", "nft").expect("there is a balancer");
    let mut child = command.args(["-f", "-"]).stdin(Stdio::piped()).spawn().expect("nft runs");
    child.stdin.take().expect("it is piped").write_all(rules.as_bytes()).expect("nft reads its rules");
    assert!(child.wait().expect("nft ends").success(), "nft takes {rules}");
}
