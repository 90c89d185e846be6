//! One run: the members are started, harmed for some time, healed, and asked for what they know.
//!
//! Keeps true: everything random comes from the seed; after all harm has ended every member must serve again and
//! all must know the same. Which harm there is is `faults.rs`.

use super::{
    check,
    faults::Faults,
    member,
    world::{MEMBERS, Op, World, name},
};
use std::{
    fmt::{self, Display, Formatter},
    path::Path,
    rc::Rc,
    time::Duration,
};
use turmoil::Sim;

/// One step of simulated time.
const TICK: Duration = Duration::from_millis(2);
/// The first leader must be there by then.
const FIRST_LEADER: Duration = Duration::from_secs(20);
/// How long members are harmed.
const HARM: Duration = Duration::from_secs(7);
/// How soon after all harm everything works.
const HEALED: Duration = Duration::from_secs(20);

/// What a run reached.
pub(super) struct Report {
    world: Rc<World>,
    last: i64,
}

impl Display for Report {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let (history, reached) = (self.world.history.borrow(), self.world.reached.borrow());
        let acknowledged = history.calls.iter().filter(|call| matches!(call.ended, Some((_, Ok(_))))).count();
        write!(
            f,
            "seed={} trace={:016x} revision={} calls={} acknowledged={acknowledged} watches={} terms={}",
            self.world.seed,
            history.trace(),
            self.last,
            history.calls.len(),
            history.watches.len(),
            reached.terms.len(),
        )?;
        reached.faults.iter().try_for_each(|(name, times)| write!(f, " {name}={times}"))
    }
}

/// Runs a seed. The error is the promise that was broken.
pub(super) fn run(seed: u64, folder: &Path) -> Result<Report, String> {
    let world = World::new(seed, folder);
    let mut builder = turmoil::Builder::new();
    builder
        .simulation_duration(Duration::from_secs(600))
        .tick_duration(TICK)
        .min_message_latency(Duration::from_micros(500))
        .max_message_latency(Duration::from_millis(10))
        .tcp_capacity(65_536)
        .enable_random_order()
        .rng_seed(seed);
    let mut run = Run { sim: builder.build(), faults: Faults::new(seed), world: world.clone() };
    for member in 0..MEMBERS {
        let world = world.clone();
        run.sim.host(name(member), move || member::run(world.clone(), member));
    }
    run.until(FIRST_LEADER, "no first leader", |world| !world.reached.borrow().terms.is_empty())?;
    let end = run.sim.elapsed() + HARM;
    while run.sim.elapsed() < end {
        run.step(true)?;
    }
    let healed = world.history.borrow_mut().tick(&"healed");
    run.faults.heal(&mut run.sim, &world);
    run.until(HEALED, "a member does not serve after all harm has ended", |world| serving(world, healed))?;
    world.quiet.set(true);
    run.until(HEALED, "members do not agree after all harm has ended", |world| settled(world, healed))?;
    let last = agreed(&world)?;
    Ok(Report { world, last })
}

struct Run<'a> {
    sim: Sim<'a>,
    faults: Faults,
    world: Rc<World>,
}

impl Run<'_> {
    fn step(&mut self, harm: bool) -> Result<(), String> {
        self.sim.step().map_err(|error| error.to_string())?;
        if let Some(problem) = self.world.broken.borrow_mut().take() {
            return Err(problem);
        }
        super::panicked()?;
        for served in self.world.running.borrow().iter().flatten() {
            if served.node.leader() == Some(served.config.id) {
                self.world.reached.borrow_mut().terms.insert(served.node.term());
            }
        }
        self.faults.step(&mut self.sim, &self.world, harm);
        Ok(())
    }

    fn until(&mut self, limit: Duration, problem: &str, done: impl Fn(&World) -> bool) -> Result<(), String> {
        let end = self.sim.elapsed() + limit;
        while !done(&self.world) {
            if self.sim.elapsed() > end {
                return Err(format!("{problem}: {}", describe(&self.world)));
            }
            self.step(false)?;
        }
        Ok(())
    }
}

fn describe(world: &World) -> String {
    let one = |served: &Option<std::sync::Arc<crate::etcd::Member>>| {
        let Some(served) = served else { return "down".into() };
        let machine = &served.node.local.machine;
        let applied = machine.saved().applied;
        format!("leader {:x?} applied {applied:?} revision {}", served.node.leader(), machine.revision())
    };
    let members: Vec<String> = world.running.borrow().iter().map(one).collect();
    format!("{members:?} seen {}", world.history.borrow().frontier)
}

/// Every member has served writes or linearizable reads since.
fn serving(world: &World, since: u64) -> bool {
    let history = world.history.borrow();
    (0..MEMBERS).all(|member| {
        let fresh = |call: &&super::world::Call| {
            let stale = matches!(call.op, Op::Read { serializable: true, .. });
            call.member == member && call.begun.0 > since && !stale && matches!(call.ended, Some((_, Ok(_))))
        };
        history.calls.iter().rev().take_while(|call| call.begun.0 > since).filter(fresh).count() >= 3
    })
}

/// No call is under way any more, and all members have applied and shown the same.
fn settled(world: &World, since: u64) -> bool {
    let history = world.history.borrow();
    let open =
        history.calls.iter().rev().take_while(|call| call.begun.0 > since).any(|call| call.ended.is_none());
    let running = world.running.borrow();
    let states: Vec<_> = running
        .iter()
        .flatten()
        .map(|served| (served.node.local.machine.saved().applied, served.node.local.machine.revision()))
        .collect();
    let same = states.len() == MEMBERS && states.iter().all(|state| *state == states[0]);
    !open && same && states[0].1 <= history.frontier
}

/// Checks everything. Returns the last revision.
fn agreed(world: &World) -> Result<i64, String> {
    let running = world.running.borrow();
    let mut all = Vec::new();
    for served in running.iter().flatten() {
        let machine = &served.node.local.machine;
        let hash = machine.hash(0).map_err(|error| error.to_string())?;
        let (_, found) = machine.range(&everything()).map_err(|error| error.to_string())?;
        all.push((hash, found));
    }
    let last = running[0].as_ref().map_or(0, |served| served.node.local.machine.revision());
    let state = check::history(&world.history.borrow(), last)?;
    for (member, (hash, found)) in all.iter().enumerate() {
        if *hash != all[0].0 {
            return Err(format!(
                "{} has another hash than {}: {hash:?}, {:?}",
                name(member),
                name(0),
                all[0].0
            ));
        }
        let found: Vec<_> =
            found.iter().flat_map(|found| &found.kvs).map(|kv| (&kv.key, &kv.value)).collect();
        if !state.values().map(|kv| (&kv.key, &kv.value)).eq(found.iter().copied()) {
            return Err(format!("{} holds {found:?} instead of {state:?}", name(member)));
        }
    }
    Ok(last)
}

fn everything() -> crate::command::Range {
    let all = bytes::Bytes::from_static(&[0]);
    crate::command::Range { key: all.clone(), end: all, ..Default::default() }
}
