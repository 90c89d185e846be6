//! One run: the members are started, harmed for some time, healed, and asked for what they know.
//!
//! Keeps true: everything random comes from the seed; after all harm has ended every member must serve again, every
//! watcher must have been told everything, every lease must end, and all must know the same. Which harm there is is
//! `faults.rs`.

use super::{
    check::{self, Checked, require},
    faults::{Faults, LATENCY},
    member,
    world::{Op, SEATS, World, name},
};
use crate::{etcd::Member, record::Record};
use std::{
    fmt::{self, Display, Formatter},
    path::Path,
    rc::Rc,
    sync::Arc,
    time::Duration,
};
use turmoil::Sim;

/// One step of simulated time.
const TICK: Duration = Duration::from_millis(2);
/// The first leader must be there by then.
const FIRST_LEADER: Duration = Duration::from_secs(20);
/// How long members are harmed.
const HARM: Duration = Duration::from_secs(5);
/// How soon after all harm a member serves, unless it has to be started again.
const PATIENCE: Duration = Duration::from_secs(8);
/// How soon after all harm everything works.
const HEALED: Duration = Duration::from_secs(20);

/// What a run reached.
pub(super) struct Report {
    world: Rc<World>,
}

impl Display for Report {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let (history, reached) = (self.world.history.borrow(), self.world.reached.borrow());
        let answered = || history.calls.iter().filter(|call| matches!(call.ended, Some((_, Ok(_)))));
        let compactions = answered().filter(|call| matches!(call.op, Op::Compact { .. })).count();
        let leases = answered().filter(|call| matches!(call.op, Op::Grant { .. })).count();
        let told: usize = history.watches.iter().map(|watch| watch.told.len()).sum();
        write!(
            f,
            "seed={} trace={:016x} revisions={} calls={} acknowledged={} compactions={compactions} leases={leases} \
             watches={} told={told} leaders={}",
            self.world.seed,
            history.trace(),
            self.world.truth.borrow().revision(),
            history.calls.len(),
            answered().count(),
            history.watches.len(),
            reached.leaders.len(),
        )?;
        reached.counts.iter().try_for_each(|(name, times)| write!(f, " {name}={times}"))
    }
}

/// Runs a seed. The error is the promise that was broken.
pub(super) fn run(seed: u64, folder: &Path) -> Result<Report, String> {
    let world = World::new(seed, folder);
    let mut builder = turmoil::Builder::new();
    builder
        .simulation_duration(Duration::from_secs(600))
        .tick_duration(TICK)
        .min_message_latency(Duration::from_millis(1))
        .max_message_latency(LATENCY)
        .tcp_capacity(65_536)
        .enable_random_order()
        .rng_seed(seed);
    let faults = Faults::new(seed);
    let mut run = Run { sim: builder.build(), faults, world: world.clone() };
    for seat in 0..SEATS {
        let world = world.clone();
        run.sim.host(name(seat), move || member::run(world.clone(), seat));
    }
    let result = run.through();
    world.end();
    result.map(|()| Report { world })
}

struct Run<'a> {
    sim: Sim<'a>,
    faults: Faults,
    world: Rc<World>,
}

impl Run<'_> {
    fn through(&mut self) -> Checked {
        let world = self.world.clone();
        self.until(FIRST_LEADER, "no first leader", |world| {
            require(!world.reached.borrow().leaders.is_empty(), String::new)
        })?;
        let end = self.sim.elapsed() + HARM;
        while self.sim.elapsed() < end {
            self.step(true)?;
        }
        let healed = world.history.borrow_mut().tick(&"healed");
        self.faults.heal(&mut self.sim, &world);
        let after = "after all harm has ended";
        if self.until(PATIENCE, after, |world| serving(world, healed)).is_err() {
            let stranded = stranded(&world);
            // A known gap: a member that was given a number which is none any more waits for ever and is not told.
            let silent = silent(&world, healed);
            self.faults.restart(&mut self.sim, &world, &silent);
            stranded.iter().for_each(|seat| world.left(*seat, "stranded-members"));
            self.until(HEALED, after, |world| serving(world, healed))?;
        }
        world.quiet.set(true);
        self.until(HEALED, after, |world| settled(world, healed))?;
        agreed(&world)
    }

    fn step(&mut self, harm: bool) -> Result<(), String> {
        self.sim.step().map_err(|error| error.to_string())?;
        super::panicked()?;
        self.world.history.borrow_mut().now = self.sim.elapsed();
        for served in self.world.running.borrow().iter().flatten() {
            self.look(served);
        }
        if let Some(problem) = self.world.broken.borrow_mut().take() {
            return Err(problem);
        }
        self.faults.step(&mut self.sim, &self.world, harm);
        Ok(())
    }

    /// Who leads says openraft itself.
    fn look(&self, served: &Member) {
        use openraft::{ServerState, async_runtime::watch::WatchReceiver};
        let metrics = served.node.local.raft.metrics();
        let metrics = metrics.borrow_watched();
        if metrics.state == ServerState::Leader {
            self.world.reached.borrow_mut().leaders.insert((metrics.current_term, served.config.id));
        }
    }

    fn until(&mut self, limit: Duration, what: &str, done: impl Fn(&World) -> Checked) -> Checked {
        let end = self.sim.elapsed() + limit;
        while let Err(missing) = done(&self.world) {
            if self.sim.elapsed() > end {
                return Err(format!("{what}: {missing}: {}", describe(&self.world)));
            }
            self.step(false)?;
        }
        Ok(())
    }
}

fn describe(world: &World) -> String {
    let one = |served: &Option<Arc<Member>>| {
        let Some(served) = served else { return "down".into() };
        let machine = &served.node.local.machine;
        let (leader, voters) = (served.node.leader(), served.node.local.voters());
        let applied = machine.applied();
        format!(
            "{:x}: leader {leader:x?} voters {voters:x?} applied {applied} revision {}",
            served.config.id,
            machine.revision()
        )
    };
    let members: Vec<String> = world.running.borrow().iter().map(one).collect();
    format!(
        "{members:?} members at {:?}, newest revision {}",
        world.members(),
        world.truth.borrow().revision()
    )
}

/// Members that have not served writes or linearizable reads since.
fn silent(world: &World, since: u64) -> Vec<usize> {
    let history = world.history.borrow();
    let serves = |seat: usize| {
        let fresh = |call: &&super::world::Call| {
            let stale = matches!(call.op, Op::Read { serializable: true, .. });
            call.seat == seat && !stale && matches!(call.ended, Some((_, Ok(_))))
        };
        history.calls.iter().rev().take_while(|call| call.begun.0 > since).filter(fresh).count() >= 3
    };
    world.members().into_iter().filter(|seat| !serves(*seat)).collect()
}

/// Members that never had a word from a leader, under numbers that none of the others knows.
fn stranded(world: &World) -> Vec<usize> {
    let running = world.running.borrow();
    let members = || running.iter().flatten().map(|served| &served.node.local);
    let known = |id| members().any(|local| local.membership().nodes().any(|(known, _)| *known == id));
    let lost = |seat: &usize| {
        let served = running[*seat].as_ref();
        served.is_some_and(|served| served.node.local.machine.applied() == 0 && !known(served.config.id))
    };
    world.members().into_iter().filter(lost).collect()
}

fn serving(world: &World, since: u64) -> Checked {
    let silent = silent(world, since);
    require(silent.is_empty(), || format!("{silent:?} do not serve"))
}

/// No call is under way any more, no lease is left, all members have applied the same, all watchers been told of it.
fn settled(world: &World, since: u64) -> Result<(), String> {
    let (history, truth) = (world.history.borrow(), world.truth.borrow());
    let recent = history.calls.iter().rev().take_while(|call| call.begun.0 > since);
    let open: Vec<_> = recent.filter(|call| call.ended.is_none() && !call.given_up).collect();
    require(open.is_empty(), || format!("calls are not answered: {open:?}"))?;
    let running = world.running.borrow();
    let machines = running.iter().flatten().map(|served| served.node.local.machine.saved());
    let states: Vec<_> = machines.map(|saved| (saved.applied, saved.revision, saved.compacted)).collect();
    let newest = truth.revision();
    let same = states.iter().all(|state| *state == states[0] && state.1 == newest);
    require(same && states.len() == world.members().len(), || format!("members differ: {states:?}"))?;
    let left = check::leases_left(&truth);
    require(left.is_empty(), || format!("leases do not end: {left:?}"))?;
    let behind = |watch: &&super::world::Watch| watch.open && watch.key.is_none() && watch.seen < newest;
    let behind: Vec<_> = history.watches.iter().filter(behind).collect();
    require(behind.is_empty(), || format!("watches were not told of {newest}: {behind:?}"))
}

/// Checks everything.
fn agreed(world: &World) -> Result<(), String> {
    let running = world.running.borrow();
    let last = check::history(&world.history.borrow(), &world.truth.borrow())?;
    let mut first = None;
    for seat in world.members() {
        let Some(served) = &running[seat] else { continue };
        let machine = &served.node.local.machine;
        let hash = machine.hash(0).map_err(|error| error.to_string())?;
        if *first.get_or_insert(hash) != hash {
            return Err(format!("{} has another hash than others: {hash:?}, {first:?}", name(seat)));
        }
        let (_, found) = machine.range(&everything()).map_err(|error| error.to_string())?;
        let records = found.iter().flat_map(|found| &found.kvs).map(Record::open);
        let found = records.collect::<Result<Vec<_>, _>>().map_err(|error| error.to_string())?;
        if !last.values().map(|kv| (&kv.key, &kv.value)).eq(found.iter().map(|kv| (&kv.key, &kv.value))) {
            return Err(format!("{} holds {found:?} instead of {last:?}", name(seat)));
        }
    }
    Ok(())
}

fn everything() -> crate::command::Range {
    let all = bytes::Bytes::from_static(&[0]);
    crate::command::Range { key: all.clone(), end: all, ..Default::default() }
}
