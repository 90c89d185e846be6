//! What all parts of a simulation share: the disks, the members that run, and everything that clients saw.
//!
//! Keeps true: events are numbered in the order in which they happened (a simulation does one thing at a time), so
//! that one number before another is real time.

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

/// Members of the group.
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
    /// Forget what is older than a revision.
    Compact { revision: i64 },
    /// Make a lease.
    Grant { id: i64, ttl: i64 },
    /// Give a lease its whole time again.
    KeepAlive { id: i64 },
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
    /// The member asked.
    pub(super) member: usize,
    /// What.
    pub(super) op: Op,
    /// When it began, as a number and as simulated time.
    pub(super) begun: (u64, Duration),
    /// When it ended, and how.
    pub(super) ended: Option<(u64, Result<Answer, Failure>)>,
}

/// What a watcher is told at a time.
#[derive(Clone, Debug)]
pub(super) enum Told {
    /// Events.
    Events(Vec<pb::Event>),
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
    /// In order.
    pub(super) told: Vec<Told>,
}

/// A revision as the first watcher of all keys saw it.
#[derive(Clone, Debug)]
pub(super) struct Seen {
    /// When.
    pub(super) at: Duration,
    /// Its changes.
    pub(super) events: Vec<pb::Event>,
}

/// What happened.
#[derive(Default)]
pub(super) struct History {
    /// All calls, in the order in which they began.
    pub(super) calls: Vec<Call>,
    /// All watches.
    pub(super) watches: Vec<Watch>,
    /// All revisions that a watcher of all keys has seen.
    pub(super) seen: BTreeMap<i64, Seen>,
    /// Every revision up to here has been seen.
    pub(super) frontier: i64,
    clock: u64,
    trace: DefaultHasher,
}

impl History {
    /// Numbers an event.
    pub(super) fn tick(&mut self, what: &impl Debug) -> u64 {
        let now = turmoil::sim_elapsed();
        (now, format!("{what:?}")).hash(&mut self.trace);
        if std::env::var_os("TRIREME_SIM_TRACE").is_some() {
            eprintln!("{now:?} {what:?}");
        }
        self.clock += 1;
        self.clock
    }

    /// One number for everything that happened.
    pub(super) fn trace(&self) -> u64 {
        self.trace.finish()
    }

    /// A call begins.
    pub(super) fn begin(&mut self, member: usize, op: Op) -> usize {
        let number = self.tick(&(member, &op));
        let begun = (number, turmoil::sim_elapsed().unwrap_or_default());
        self.calls.push(Call { member, op, begun, ended: None });
        self.calls.len() - 1
    }

    /// A call ends.
    pub(super) fn end(&mut self, call: usize, result: Result<Answer, Failure>) {
        let number = self.tick(&(call, &result));
        self.calls[call].ended = Some((number, result));
    }

    /// A watcher is told something.
    pub(super) fn told(&mut self, watch: usize, told: Told) {
        self.tick(&(watch, &told));
        if let (Told::Events(events), None) = (&told, &self.watches[watch].key) {
            self.see(events);
        }
        self.watches[watch].told.push(told);
    }

    fn see(&mut self, events: &[pb::Event]) {
        let revision = |event: &pb::Event| event.kv.as_ref().map_or(0, |kv| kv.mod_revision);
        for events in events.chunk_by(|a, b| revision(a) == revision(b)) {
            let seen = Seen { at: turmoil::sim_elapsed().unwrap_or_default(), events: events.to_vec() };
            self.seen.entry(revision(&events[0])).or_insert(seen);
        }
        while self.seen.contains_key(&(self.frontier + 1)) {
            self.frontier += 1;
        }
    }
}

/// What a run reached, so that a run that did nothing is noticed.
#[derive(Clone, Debug, Default)]
pub(super) struct Reached {
    /// Faults by name.
    pub(super) faults: BTreeMap<&'static str, u64>,
    /// Terms with a leader.
    pub(super) terms: BTreeSet<u64>,
}

/// All of it.
pub(super) struct World {
    /// The seed.
    pub(super) seed: u64,
    /// Log entries between snapshots.
    pub(super) snapshots: u64,
    /// Where files lie that are not in a database.
    pub(super) folder: PathBuf,
    /// The members' disks.
    pub(super) disks: [Disk; MEMBERS],
    /// Members that run.
    pub(super) running: RefCell<[Option<Arc<Member>>; MEMBERS]>,
    /// How often each member was started.
    pub(super) starts: RefCell<[u64; MEMBERS]>,
    /// What happened.
    pub(super) history: RefCell<History>,
    /// What was reached.
    pub(super) reached: RefCell<Reached>,
    /// Clients begin nothing new.
    pub(super) quiet: Cell<bool>,
    /// A member that cannot go on for a reason that no fault explains.
    pub(super) broken: RefCell<Option<String>>,
}

impl World {
    /// With empty disks.
    pub(super) fn new(seed: u64, folder: &Path) -> Rc<Self> {
        let disks: [Disk; MEMBERS] = std::array::from_fn(|_| Disk::default());
        for (number, disk) in disks.iter().enumerate() {
            disk.mount(&folder.join(name(number)));
        }
        let history = History { frontier: 1, ..History::default() };
        Rc::new(Self {
            seed,
            snapshots: [12, 40, 150][usize::try_from(seed % 3).unwrap_or_default()],
            folder: folder.into(),
            disks,
            running: RefCell::default(),
            starts: RefCell::default(),
            history: RefCell::new(history),
            reached: RefCell::default(),
            quiet: Cell::new(false),
            broken: RefCell::default(),
        })
    }

    /// A fault happens.
    pub(super) fn fault(&self, name: &'static str) {
        *self.reached.borrow_mut().faults.entry(name).or_default() += 1;
        self.history.borrow_mut().tick(&name);
    }
}

/// A member's name, which is its host's.
pub(super) fn name(member: usize) -> String {
    format!("m{member}")
}
