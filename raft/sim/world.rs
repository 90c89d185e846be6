//! What all parts of a simulation share: the disks, the seats of members, and everything that clients saw.
//!
//! Keeps true: events are numbered in the order in which they happened (a simulation does one thing at a time), so
//! that one number before another is real time. What may be seen is `check.rs`, what members did `truth.rs`.

use super::truth::Truth;
use crate::{
    engine::memory::Disk,
    etcd::{Member, pb},
};
use bytes::Bytes;
use std::{
    cell::{Cell, RefCell},
    collections::{BTreeMap, BTreeSet},
    fmt::Debug,
    hash::{DefaultHasher, Hash, Hasher},
    path::{Path, PathBuf},
    rc::Rc,
    sync::Arc,
    time::Duration,
};

/// Hosts.
pub(super) const SEATS: usize = 5;
/// How many of them begin as members.
pub(super) const MEMBERS: usize = 3;

/// What a client asks.
#[derive(Clone, Debug)]
pub(super) enum Op {
    /// Write keys in one transaction, or by a put if it is one.
    Put { keys: Vec<Bytes>, value: Bytes, lease: i64 },
    /// Delete a key.
    Delete { key: Bytes },
    /// Write a key if it was last written at this revision, otherwise read it.
    Swap { key: Bytes, expect: i64, value: Bytes },
    /// Read all keys, at a revision if it is not 0.
    Read { revision: i64, serializable: bool },
    /// The same as part of a transaction that writes a key, too.
    ReadAndPut { revision: i64, key: Bytes, value: Bytes },
    /// Forget what is older than a revision.
    Compact { revision: i64 },
    /// Make a lease.
    Grant { id: i64, ttl: i64 },
    /// Give a lease its whole time again.
    KeepAlive { id: i64 },
    /// End a lease.
    Revoke { id: i64 },
}

/// What it is told.
#[derive(Clone, Debug)]
pub(super) struct Answer {
    /// The revision of the header.
    pub(super) revision: i64,
    /// Whether the condition held, or a key was deleted.
    pub(super) done: bool,
    /// What was read.
    pub(super) kvs: Vec<pb::KeyValue>,
}

/// Why it got no answer.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) enum Failure {
    /// Nothing was done, and why.
    Refused(String),
    /// It may have been done or not, or be done later.
    Unknown,
}

/// A call and what came of it.
#[derive(Clone, Debug)]
pub(super) struct Call {
    /// The seat of the member asked.
    pub(super) seat: usize,
    /// What.
    pub(super) op: Op,
    /// When it began, as a number and as simulated time.
    pub(super) begun: (u64, Duration),
    /// When it ended, and how.
    pub(super) ended: Option<(u64, Result<Answer, Failure>)>,
    /// Whoever asked does not wait any more.
    pub(super) given_up: bool,
}

/// What a watcher is told at a time.
#[derive(Clone, Debug)]
pub(super) enum Told {
    /// Events, and the revision of the header.
    Events(Vec<pb::Event>, i64),
    /// Everything up to a revision has been told.
    Progress(i64),
    /// The watch ends, for history is compacted up to a revision.
    Compacted(i64),
}

/// A watch and all it was told.
#[derive(Clone, Debug)]
pub(super) struct Watch {
    /// The first revision wanted.
    pub(super) from: i64,
    /// The one key wanted; all if none.
    pub(super) key: Option<Bytes>,
    /// In order, each with the number of its event.
    pub(super) told: Vec<(u64, Told)>,
    /// Everything up to here was told.
    pub(super) seen: i64,
    /// Somebody still listens.
    pub(super) open: bool,
}

/// What happened.
#[derive(Default)]
pub(super) struct History {
    /// All calls, in the order in which they began.
    pub(super) calls: Vec<Call>,
    /// All watches.
    pub(super) watches: Vec<Watch>,
    /// The time, for events outside of members.
    pub(super) now: Duration,
    clock: u64,
    trace: DefaultHasher,
}

impl History {
    /// Numbers an event.
    pub(super) fn tick(&mut self, what: &impl Debug) -> u64 {
        let now = self.now();
        self.clock += 1;
        let text = format!("{what:?}");
        (now, &text).hash(&mut self.trace);
        if super::traced() {
            eprintln!("{:6} {:9.3} {text}", self.clock, now.as_secs_f64());
        }
        self.clock
    }

    fn now(&self) -> Duration {
        turmoil::sim_elapsed().unwrap_or(self.now)
    }

    /// One number for everything that happened.
    pub(super) fn trace(&self) -> u64 {
        self.trace.finish()
    }

    /// A call begins.
    pub(super) fn begin(&mut self, seat: usize, op: Op) -> usize {
        let number = self.tick(&("call", self.calls.len(), seat, &op));
        let begun = (number, self.now());
        self.calls.push(Call { seat, op, begun, ended: None, given_up: false });
        self.calls.len() - 1
    }

    /// A call ends.
    pub(super) fn end(&mut self, call: usize, result: Result<Answer, Failure>) {
        let number = self.tick(&("ended", call, &result));
        self.calls[call].ended = Some((number, result));
    }

    /// A watch begins.
    pub(super) fn watch(&mut self, seat: usize, from: i64, key: Option<Bytes>) -> usize {
        self.tick(&("watch", self.watches.len(), seat, from, &key));
        self.watches.push(Watch { from, key, told: Vec::new(), seen: from - 1, open: true });
        self.watches.len() - 1
    }

    /// A watcher is told something.
    pub(super) fn told(&mut self, watch: usize, told: Told) {
        let number = self.tick(&("told", watch, &told));
        let watch = &mut self.watches[watch];
        let seen = match &told {
            Told::Events(events, _) => {
                events.iter().flat_map(|event| &event.kv).map(|kv| kv.mod_revision).max()
            }
            Told::Progress(revision) => Some(*revision),
            Told::Compacted(_) => None,
        };
        watch.seen = seen.map_or(watch.seen, |seen| watch.seen.max(seen));
        watch.told.push((number, told));
    }
}

/// What a run reached, so that a run that did nothing is noticed.
#[derive(Clone, Debug, Default)]
pub(super) struct Reached {
    /// Things that happened, by name.
    pub(super) counts: BTreeMap<&'static str, u64>,
    /// Leaders with their terms. openraft lets a term have more than one, the later one with the greater number.
    pub(super) leaders: BTreeSet<(u64, u64)>,
}

/// Who sits at a host.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) enum Seat {
    /// Nobody.
    Free,
    /// A member of the first hour, or one that was added; then with the members as of then, by their seats.
    Member { joined: Option<Vec<usize>> },
}

/// All of it.
pub(super) struct World {
    /// The seed.
    pub(super) seed: u64,
    /// Log entries between snapshots.
    pub(super) snapshots: u64,
    /// Where files lie that are not in a database.
    folder: PathBuf,
    /// The members' disks, and how often each was replaced.
    pub(super) disks: RefCell<[(Disk, u64); SEATS]>,
    /// How long each disk takes for what it is asked.
    pub(super) slow: [Cell<Duration>; SEATS],
    /// The seat whose member is being started.
    pub(super) starting: Cell<usize>,
    /// Who is a member.
    pub(super) seats: RefCell<[Seat; SEATS]>,
    /// Members that run.
    pub(super) running: RefCell<[Option<Arc<Member>>; SEATS]>,
    /// How often each host was started.
    pub(super) starts: RefCell<[u64; SEATS]>,
    /// The seat from which the members are being changed.
    pub(super) changing: Cell<Option<usize>>,
    /// What clients saw.
    pub(super) history: RefCell<History>,
    /// What members did.
    pub(super) truth: RefCell<Truth>,
    /// What was reached.
    pub(super) reached: RefCell<Reached>,
    /// Clients begin nothing new.
    pub(super) quiet: Cell<bool>,
    /// A promise that was broken.
    pub(super) broken: RefCell<Option<String>>,
}

thread_local! {
    static WORLD: RefCell<Option<Rc<World>>> = const { RefCell::new(None) };
}

impl World {
    /// With empty disks. From now on it is this thread's.
    pub(super) fn new(seed: u64, folder: &Path) -> Rc<Self> {
        let member = |seat| if seat < MEMBERS { Seat::Member { joined: None } } else { Seat::Free };
        let world = Rc::new(Self {
            seed,
            snapshots: [12, 40, 150][usize::try_from(seed % 3).unwrap_or_default()],
            folder: folder.into(),
            disks: RefCell::default(),
            slow: Default::default(),
            starting: Cell::new(0),
            seats: RefCell::new(std::array::from_fn(member)),
            running: RefCell::default(),
            starts: RefCell::default(),
            changing: Cell::default(),
            history: RefCell::default(),
            truth: RefCell::default(),
            reached: RefCell::default(),
            quiet: Cell::new(false),
            broken: RefCell::default(),
        });
        (0..SEATS).for_each(|seat| world.replace_disk(seat));
        WORLD.set(Some(world.clone()));
        world
    }

    /// Nobody is to be told of anything any more.
    pub(super) fn end(&self) {
        WORLD.take();
        self.running.take();
    }

    /// This thread's.
    pub(super) fn current() -> Option<Rc<Self>> {
        WORLD.with_borrow(Clone::clone)
    }

    /// Where a seat's member keeps its data: on the disk that it has now.
    pub(super) fn data_dir(&self, seat: usize) -> PathBuf {
        self.folder.join(format!("{}-{}", name(seat), self.disks.borrow()[seat].1))
    }

    /// The seat whose member has its data at a path.
    pub(super) fn seat_of(&self, path: &Path) -> Option<usize> {
        (0..SEATS).find(|seat| path.starts_with(self.data_dir(*seat)))
    }

    /// A seat gets a new disk, with nothing on it.
    pub(super) fn replace_disk(&self, seat: usize) {
        let disk = Disk::default();
        let old = self.disks.borrow()[seat].1;
        self.disks.borrow_mut()[seat] = (disk.clone(), old + 1);
        disk.mount(&self.data_dir(seat));
    }

    /// A seat's disk.
    pub(super) fn disk(&self, seat: usize) -> Disk {
        self.disks.borrow()[seat].0.clone()
    }

    /// Something happens that a good run has some of.
    pub(super) fn count(&self, name: &'static str) {
        *self.reached.borrow_mut().counts.entry(name).or_default() += 1;
        self.history.borrow_mut().tick(&name);
    }

    /// A promise is broken. The first is the reason for all others.
    pub(super) fn broke(&self, problem: String) {
        self.history.borrow_mut().tick(&problem);
        self.broken.borrow_mut().get_or_insert(problem);
    }

    /// The seats of members.
    pub(super) fn members(&self) -> Vec<usize> {
        let seats = self.seats.borrow();
        (0..SEATS).filter(|seat| seats[*seat] != Seat::Free).collect()
    }

    /// The seat of a leader.
    pub(super) fn leader(&self) -> Option<usize> {
        let leads = |served: &Option<Arc<Member>>| {
            served.as_ref().is_some_and(|served| served.node.leader() == Some(served.config.id))
        };
        self.running.borrow().iter().position(leads)
    }
}

/// A seat's name, which is its host's.
pub(super) fn name(seat: usize) -> String {
    format!("m{seat}")
}

/// Where peers reach the member at a seat. Only https is taken for another host; the simulated wire has no TLS.
pub(super) fn url(seat: usize) -> String {
    format!("https://{}:{PORT}", name(seat))
}

/// Where members listen for each other.
pub(super) const PORT: u16 = 2380;
