//! What can happen to the members of a store: a table of faults, and the one place that does them.
//!
//! Keeps true: a fault is over when the function returns, and all members take part again; it is an error if it did
//! not happen as the row says: a process that was not paused, a leader that stayed, a way on which nothing was held
//! up. What is done is marked in the workload's history. Clients go on meanwhile; how far they come is waited for,
//! not a time.

use std::path::Path;
use std::time::Duration;

use super::links::{Links, Way};
use crate::history::Happening;
use crate::members::{Kind, Members, Ports};
use crate::workload::Workload;
use crate::{Error, Result};

/// How many writes must go through while a fault lasts that the cluster can bear.
const MEANWHILE: usize = 40;
/// How long a way is late.
const LATE: Duration = Duration::from_millis(40);
/// How long a leader must at least be away so that another one is elected: several election timeouts.
const AWAY: Duration = Duration::from_secs(60);
/// How long to wait before looking again.
const LOOK: Duration = Duration::from_millis(20);

/// Whom a fault meets.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Victim {
    /// The member that leads.
    Leader,
    /// One that does not.
    Follower,
    /// All members, at the same time.
    All,
}

/// What is done.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Blow {
    /// Nothing.
    None,
    /// SIGKILL, and a new start.
    Kill,
    /// SIGTERM, and a new start.
    Stop,
    /// SIGSTOP, and SIGCONT when the others have gone on without it; so many times.
    Pause(usize),
    /// Its connections to the others are like this, in both directions.
    Ways(Way),
    /// What it sends is like this; what it receives is not.
    Sends(Way),
    /// What it receives is like this; what it sends is not.
    Receives(Way),
}

/// A row of the table.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Fault {
    /// Its name.
    pub name: &'static str,
    /// Whom it meets.
    pub victim: Victim,
    /// What is done.
    pub blow: Blow,
}

const fn fault(name: &'static str, victim: Victim, blow: Blow) -> Fault {
    Fault { name, victim, blow }
}

/// All faults.
pub const FAULTS: &[Fault] = &[
    fault("none", Victim::Follower, Blow::None),
    fault("leader-killed", Victim::Leader, Blow::Kill),
    fault("follower-killed", Victim::Follower, Blow::Kill),
    fault("all-killed", Victim::All, Blow::Kill),
    fault("leader-stopped", Victim::Leader, Blow::Stop),
    fault("follower-stopped", Victim::Follower, Blow::Stop),
    fault("leader-paused", Victim::Leader, Blow::Pause(2)),
    fault("follower-paused", Victim::Follower, Blow::Pause(1)),
    fault("leader-isolated", Victim::Leader, Blow::Ways(Way::Held)),
    fault("follower-isolated", Victim::Follower, Blow::Ways(Way::Held)),
    fault("leader-cut-off", Victim::Leader, Blow::Ways(Way::Cut)),
    fault("leader-mute", Victim::Leader, Blow::Sends(Way::Held)),
    fault("leader-deaf", Victim::Leader, Blow::Receives(Way::Held)),
    fault("follower-mute", Victim::Follower, Blow::Sends(Way::Held)),
    fault("follower-deaf", Victim::Follower, Blow::Receives(Way::Held)),
    fault("all-late", Victim::All, Blow::Ways(Way::Late(LATE))),
];

impl Fault {
    /// The row of a name.
    pub fn named(name: &str) -> Option<&'static Self> {
        FAULTS.iter().find(|fault| fault.name == name)
    }
}

/// A store whose members and the ways between them can be disturbed.
pub struct Store {
    /// Its members.
    pub members: Members,
    links: Links,
}

impl Store {
    /// Starts three members behind proxies, with their data in a folder.
    pub async fn start(kind: Kind, folder: &Path, extra_flags: &[&str]) -> Result<Self> {
        let mut ports = (0..3).map(|_| Ports::free()).collect::<Result<Vec<Ports>>>()?;
        let peers: Vec<u16> = ports.iter().map(|ports| ports.peer).collect();
        let links = Links::start(folder, &peers).await?;
        for (ports, advertised) in ports.iter_mut().zip(links.ports()) {
            ports.advertised = *advertised;
        }
        let members = Members::start_on(kind, folder, &ports, extra_flags).await?;
        Ok(Self { members, links })
    }

    /// Does a fault and undoes it.
    pub async fn suffer(&mut self, fault: &Fault, workload: &mut Workload) -> Result<()> {
        let leader = self.leader().await?;
        let victims = match fault.victim {
            Victim::Leader => vec![leader],
            Victim::Follower => vec![(leader + 1) % self.members.count()],
            Victim::All => (0..self.members.count()).collect(),
        };
        match fault.blow {
            Blow::None => workload.writes(MEANWHILE).await?,
            Blow::Kill => self.restart(&victims, false, workload).await?,
            Blow::Stop => self.restart(&victims, true, workload).await?,
            Blow::Pause(times) => {
                for _ in 0..times {
                    let victim =
                        if fault.victim == Victim::Leader { self.leader().await? } else { victims[0] };
                    self.pause(victim, workload).await?;
                }
            }
            Blow::Ways(way) => {
                self.ways(
                    |from, to| victims.contains(&from) || victims.contains(&to),
                    way,
                    &victims,
                    workload,
                )
                .await?;
            }
            Blow::Sends(way) => self.ways(|from, _| victims.contains(&from), way, &victims, workload).await?,
            Blow::Receives(way) => self.ways(|_, to| victims.contains(&to), way, &victims, workload).await?,
        }
        self.members.ready().await
    }

    async fn leader(&mut self) -> Result<usize> {
        self.members.ready().await?;
        let leader = self.members.leader().await;
        leader.ok_or_else(|| did_not("a leader", "it was lost again right after it was elected"))
    }

    async fn restart(&mut self, victims: &[usize], gently: bool, workload: &mut Workload) -> Result<()> {
        for victim in victims {
            workload.mark(*victim, Happening::Ended);
            if gently {
                self.members.stop(*victim).await?;
            } else {
                self.members.kill(*victim)?;
            }
        }
        if victims.len() < self.members.count() {
            workload.writes(MEANWHILE).await?;
        }
        for victim in victims {
            workload.mark(*victim, Happening::Started);
            self.members.start_member(*victim)?;
        }
        Ok(())
    }

    /// Stops a process until the others have written without it, under another leader if it led.
    async fn pause(&mut self, victim: usize, workload: &mut Workload) -> Result<()> {
        let led = self.members.leader().await == Some(victim);
        self.members.pause(victim)?;
        workload.mark(victim, Happening::Paused);
        let away = self.gone_on(victim, led, workload).await;
        let stopped = self.is_stopped(victim);
        workload.mark(victim, Happening::Resumed);
        self.members.resume(victim)?;
        away?;
        if stopped { Ok(()) } else { Err(did_not("a pause", "the process was not stopped at its end")) }
    }

    /// Waits until the others have written without a member.
    async fn gone_on(&mut self, victim: usize, led: bool, workload: &Workload) -> Result<()> {
        if led {
            self.another(victim).await?;
        }
        workload.writes(MEANWHILE).await
    }

    /// Waits until another member leads.
    async fn another(&self, than: usize) -> Result<()> {
        let start = tokio::time::Instant::now();
        while self.members.leader().await.is_none_or(|leader| leader == than) {
            if start.elapsed() > AWAY {
                return Err(did_not("another leader", "the members' logs tell more"));
            }
            tokio::time::sleep(LOOK).await;
        }
        Ok(())
    }

    fn is_stopped(&self, member: usize) -> bool {
        let process =
            self.members.pid(member).and_then(|pid| procfs::process::Process::new(pid.cast_signed()).ok());
        process.and_then(|process| process.stat().ok()).is_some_and(|stat| stat.state == 'T')
    }

    async fn ways(
        &mut self,
        choose: impl Fn(usize, usize) -> bool,
        way: Way,
        victims: &[usize],
        workload: &mut Workload,
    ) -> Result<()> {
        let (before, leader) = (self.links.disturbed(), self.members.leader().await);
        victims.iter().for_each(|victim| workload.mark(*victim, Happening::Disturbed));
        self.links.set(choose, way);
        // A leader that cannot be heard is replaced. One that cannot hear is, or steps down: both count.
        let replaced = matches!(way, Way::Held | Way::Cut) && leader.is_some_and(|l| victims == [l]);
        let away = self.gone_on(victims[0], replaced, workload).await;
        self.links.heal();
        victims.iter().for_each(|victim| workload.mark(*victim, Happening::Healed));
        away?;
        if self.links.disturbed() > before {
            Ok(())
        } else {
            Err(did_not("a disturbance", "nothing was held up"))
        }
    }
}

fn did_not(what: &str, hint: &str) -> Error {
    Error::Late { what: what.into(), seconds: AWAY.as_secs(), hint: hint.into() }
}
