//! The members of one store as plain processes on loopback, ours or etcd's, for tests and measurements beside etcd.
//!
//! Keeps true: both kinds are started with the same flags; only processes that were started here are signalled, by
//! their pid while they are not reaped yet, and all of them are killed when the value is dropped; nobody waits for
//! a time to pass, only for a state, with a deadline that names the log. Leaves to others: what clients do to the
//! store, and clusters of several hosts (`sandbox`).

mod member;
mod port;

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use etcd_client::{Client, ConnectOptions};
use nix::sys::signal::Signal;

use crate::invariants::Digest;
use crate::{Error, Result};
use member::Member;

/// How long a member may take to answer a question about itself.
const ANSWER: Duration = Duration::from_secs(1);

/// How long members may take until they agree on a leader, or to end when told to.
const PATIENCE: Duration = Duration::from_secs(60);

/// How long to wait before looking again.
const PAUSE: Duration = Duration::from_millis(20);

/// Which program the members run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Kind {
    /// This project's binary, called with the subcommand `store`.
    Ours(PathBuf),
    /// An etcd.
    Etcd(PathBuf),
}

impl Kind {
    /// Its name in tables and folders.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Ours(_) => "trireme",
            Self::Etcd(_) => "etcd",
        }
    }

    fn words(&self) -> (&Path, &'static [&'static str]) {
        match self {
            Self::Ours(program) => (program, &["store"]),
            Self::Etcd(program) => (program, &[]),
        }
    }
}

/// What a member says of itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Said {
    /// Its own number.
    pub member: u64,
    /// The number of the leader that it follows; 0: none.
    pub leader: u64,
    /// Its Raft term.
    pub term: u64,
    /// The revision it has applied.
    pub revision: i64,
}

/// What a member takes, in bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Memory {
    /// Resident, pages shared with other processes by their share (Pss); mapped files are part of it.
    pub resident: u64,
    /// Resident and belonging to no file.
    pub anonymous: u64,
}

/// The ports of a member on 127.0.0.1.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ports {
    /// Where it listens for clients.
    pub client: u16,
    /// Where it listens for peers.
    pub peer: u16,
    /// Where peers are told to find it: `peer`, or a proxy in front of it.
    pub advertised: u16,
}

impl Ports {
    /// Ports that are free.
    pub fn free() -> Result<Self> {
        let (client, peer) = (port::free()?, port::free()?);
        Ok(Self { client, peer, advertised: peer })
    }
}

/// The members of one store. Dropping it kills them; the folder stays.
pub struct Members {
    kind: Kind,
    members: Vec<Member>,
}

impl Members {
    /// Starts `count` members with fresh ports, their data and logs in `folder`, and waits until they have a leader.
    /// Data that lies in the folder already is used.
    pub async fn start(kind: Kind, folder: &Path, count: usize, extra_flags: &[&str]) -> Result<Self> {
        let ports = (0..count).map(|_| Ports::free()).collect::<Result<Vec<_>>>()?;
        Self::start_on(kind, folder, &ports, extra_flags).await
    }

    /// The same on ports that are chosen already, one member for each.
    pub async fn start_on(kind: Kind, folder: &Path, ports: &[Ports], extra_flags: &[&str]) -> Result<Self> {
        std::fs::create_dir_all(folder).map_err(Error::file("make", folder))?;
        let cluster = member::cluster(ports);
        let member = |(number, ports): (usize, &Ports)| {
            Member::new(&kind, folder, number, *ports, &cluster, extra_flags)
        };
        let members = ports.iter().enumerate().map(member).collect();
        let mut this = Self { kind, members };
        for number in 0..ports.len() {
            this.start_member(number)?;
        }
        this.ready().await?;
        Ok(this)
    }

    /// Where a member keeps its data when it is started in a folder.
    pub fn place(folder: &Path, number: usize) -> PathBuf {
        member::place(folder, number)
    }

    /// Which program they run.
    pub fn kind(&self) -> &Kind {
        &self.kind
    }

    /// How many there are, running or not.
    pub fn count(&self) -> usize {
        self.members.len()
    }

    /// Where clients go, by member.
    pub fn client_urls(&self) -> Vec<String> {
        self.members.iter().map(Member::client_url).collect()
    }

    /// A client of one member alone.
    pub async fn client(&self, number: usize) -> Result<Client> {
        let url = self.members[number].client_url();
        let options = ConnectOptions::new().with_connect_timeout(ANSWER);
        Client::connect([&url], Some(options)).await.map_err(Error::api(format!("connect to {url}")))
    }

    /// Where a member writes its log.
    pub fn log(&self, number: usize) -> &Path {
        &self.members[number].log
    }

    /// Where a member keeps its data.
    pub fn data(&self, number: usize) -> &Path {
        &self.members[number].data
    }

    /// The member's process, while it runs.
    pub fn pid(&self, number: usize) -> Option<u32> {
        self.members[number].pid()
    }

    /// What a member says of itself; none when it does not answer within a second.
    pub async fn said(&self, number: usize) -> Option<Said> {
        self.pid(number)?;
        let ask = async {
            let mut client = self.client(number).await.ok()?;
            let said = client.status().await.ok()?;
            let header = said.header()?;
            let (member, revision) = (header.member_id(), header.revision());
            Some(Said { member, leader: said.leader(), term: said.raft_term(), revision })
        };
        tokio::time::timeout(ANSWER, ask).await.ok().flatten()
    }

    /// What all members say of themselves.
    async fn all(&self) -> Vec<Option<Said>> {
        futures::future::join_all((0..self.count()).map(|number| self.said(number))).await
    }

    /// The member that leads: the one of the highest term among those that say so of themselves.
    pub async fn leader(&self) -> Option<usize> {
        leading(&self.all().await)
    }

    /// The highest term that any member knows of.
    pub async fn term(&self) -> Option<u64> {
        self.all().await.iter().flatten().map(|said| said.term).max()
    }

    /// Waits until all members that run and are not paused follow the same leader.
    pub async fn ready(&mut self) -> Result<()> {
        let start = Instant::now();
        loop {
            self.still_there()?;
            let said = self.all().await;
            if self.agreed(&said) {
                return Ok(());
            }
            if start.elapsed() > PATIENCE {
                return Err(self.late(format!("one leader of all members ({said:?})")));
            }
            tokio::time::sleep(PAUSE).await;
        }
    }

    /// An error with its last words if a member was started and has ended by itself.
    pub fn still_there(&mut self) -> Result<()> {
        self.members.iter_mut().try_for_each(Member::still_there)
    }

    /// What each member says of its state at a revision.
    pub async fn digests(&self, revision: i64) -> Result<Vec<Digest>> {
        let mut digests = Vec::new();
        for number in 0..self.count() {
            let hash = self.client(number).await?.hash_kv(revision).await;
            let action = format!("read the hash of member {number} at revision {revision}");
            let hash = hash.map_err(Error::api(action))?;
            digests.push((hash.compact_version(), hash.hash()));
        }
        Ok(digests)
    }

    fn agreed(&self, said: &[Option<Said>]) -> bool {
        let expected = self.members.iter().filter(|member| member.answers()).count();
        let Some(leader) = leading(said).and_then(|number| said[number]) else { return false };
        let follow = |said: &&Said| said.leader == leader.member && said.term == leader.term;
        expected > 0 && said.iter().flatten().filter(follow).count() == expected
    }

    fn late(&self, what: String) -> Error {
        let folder = self.members.first().and_then(|member| member.log.parent());
        let hint = format!("their logs are in {}", folder.unwrap_or(Path::new(".")).display());
        Error::Late { what, seconds: PATIENCE.as_secs(), hint }
    }

    /// Starts a member that does not run; `ready` waits until it takes part.
    pub fn start_member(&mut self, number: usize) -> Result<()> {
        self.members[number].start()
    }

    /// Kills a member at once (SIGKILL), and waits until the kernel has let go of it.
    pub fn kill(&mut self, number: usize) -> Result<()> {
        self.members[number].kill()
    }

    /// Asks a member to end (SIGTERM), and waits until it has.
    pub async fn stop(&mut self, number: usize) -> Result<()> {
        self.terminate(number)?;
        let start = Instant::now();
        while self.pid(number).is_some() && !self.members[number].ended()? {
            if start.elapsed() > PATIENCE {
                return Err(self.late(format!("the end of member {}", self.members[number].name)));
            }
            tokio::time::sleep(PAUSE).await;
        }
        Ok(())
    }

    /// Asks a member to end (SIGTERM), and does not wait.
    pub fn terminate(&mut self, number: usize) -> Result<()> {
        self.members[number].signal(Signal::SIGTERM)
    }

    /// Stops a member in its tracks (SIGSTOP).
    pub fn pause(&mut self, number: usize) -> Result<()> {
        self.members[number].signal(Signal::SIGSTOP)
    }

    /// Lets a paused member go on (SIGCONT).
    pub fn resume(&mut self, number: usize) -> Result<()> {
        self.members[number].signal(Signal::SIGCONT)
    }

    /// The processor time that a member's process has used, in user and kernel mode.
    pub fn cpu_seconds(&self, number: usize) -> Result<f64> {
        self.members[number].cpu_seconds()
    }

    /// The processor time of all members that run.
    pub fn cpu_seconds_of_all(&self) -> Result<f64> {
        let running = self.members.iter().filter(|member| member.pid().is_some());
        running.map(Member::cpu_seconds).sum()
    }

    /// The memory that a member's process takes.
    pub fn memory(&self, number: usize) -> Result<Memory> {
        self.members[number].memory()
    }
}

/// The member of the highest term among those that say of themselves that they lead.
fn leading(said: &[Option<Said>]) -> Option<usize> {
    let leaders = said.iter().enumerate().filter_map(|(number, said)| said.map(|said| (number, said)));
    let leaders = leaders.filter(|(_, said)| said.leader != 0 && said.leader == said.member);
    leaders.max_by_key(|(_, said)| said.term).map(|(number, _)| number)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn said(member: u64, leader: u64, term: u64) -> Option<Said> {
        Some(Said { member, leader, term, revision: 1 })
    }

    #[test]
    fn the_leader_is_who_says_so_in_the_highest_term() {
        let check = |all: &[Option<Said>], expect: Option<usize>| assert_eq!(leading(all), expect, "{all:?}");
        check(&[], None);
        check(&[None, said(2, 0, 5), said(3, 0, 5)], None);
        check(&[said(1, 2, 5), said(2, 2, 5), None], Some(1));
        check(&[said(1, 1, 4), said(2, 2, 5), said(3, 2, 5)], Some(1));
        check(&[said(1, 2, 5), None, said(3, 2, 5)], None);
    }

    /// The life of three members of Debian's etcd: what holds for it holds for whatever takes its flags.
    #[tokio::test]
    async fn members_are_killed_stopped_paused_and_started_again() {
        let folder = tempfile::tempdir().unwrap();
        let etcd = Kind::Etcd("/usr/bin/etcd".into());
        let mut members = Members::start(etcd, folder.path(), 3, &[]).await.unwrap();
        let first = members.leader().await.unwrap();
        members.kill(first).unwrap();
        assert_eq!((members.pid(first), members.said(first).await), (None, None));
        assert!(members.kill(first).is_err(), "it does not run");
        members.ready().await.unwrap();
        let second = members.leader().await.unwrap();
        assert_ne!(first, second);
        members.start_member(first).unwrap();
        members.ready().await.unwrap();
        members.pause(second).unwrap();
        members.ready().await.unwrap();
        assert_ne!(members.leader().await, Some(second));
        members.resume(second).unwrap();
        members.ready().await.unwrap();
        members.stop(second).await.unwrap();
        assert!(members.pid(second).is_none() && members.memory(first).unwrap().resident > 1 << 20);
        assert!(members.cpu_seconds_of_all().unwrap() > 0.0);
    }

    #[tokio::test]
    async fn a_member_that_cannot_start_says_why() {
        let folder = tempfile::tempdir().unwrap();
        let etcd = Kind::Etcd("/usr/bin/etcd".into());
        let error = Members::start(etcd, folder.path(), 1, &["--no-such-flag"]).await.err().unwrap();
        assert!(matches!(error, Error::Died { .. }), "{error}");
    }
}
