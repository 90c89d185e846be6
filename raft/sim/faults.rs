//! What can happen to members: crashes, power cuts, partitions, delays, failing and slow disks, drawn from the seed.
//!
//! Keeps true: every harm ends by itself or by [`Faults::heal`]; a member that stopped because its disk failed is
//! started again, as its supervisor would. A member whose power is cut falls silent; one that is killed has its
//! connections closed by its kernel.

use super::world::{SEATS, World, name};
use crate::engine::memory::{self, Crash};
use rand::{Rng, SeedableRng, rngs::SmallRng};
use std::time::Duration;
use turmoil::Sim;

/// What is wrong now, and until when.
pub(super) struct Faults {
    random: SmallRng,
    next: Duration,
    /// Members that are down, until when.
    down: [Option<Duration>; SEATS],
    /// Those of them that are without power.
    dark: [bool; SEATS],
    network: Option<Duration>,
    disks: [Option<Duration>; SEATS],
}

/// Slowest message of a network that is well.
pub(super) const LATENCY: Duration = Duration::from_millis(8);

impl Faults {
    /// Nothing is wrong yet.
    pub(super) fn new(seed: u64) -> Self {
        Self {
            random: SmallRng::seed_from_u64(seed ^ 0x000f_a017),
            next: Duration::ZERO,
            down: [None; SEATS],
            dark: [false; SEATS],
            network: None,
            disks: [None; SEATS],
        }
    }

    fn millis(&mut self, from: u64, to: u64) -> Duration {
        Duration::from_millis(self.random.random_range(from..to))
    }

    fn member(&mut self, world: &World) -> usize {
        let members = world.members();
        members[self.random.random_range(0..members.len())]
    }

    /// Ends what is over, and with `harm` begins something new now and then.
    pub(super) fn step(&mut self, sim: &mut Sim<'_>, world: &World, harm: bool) {
        let now = sim.elapsed();
        for seat in 0..SEATS {
            if self.down[seat].is_some_and(|until| until <= now) {
                self.start(sim, seat);
            }
            if self.disks[seat].is_some_and(|until| until <= now) {
                self.mend(world, seat);
            }
        }
        for seat in world.members() {
            if self.down[seat].is_none() && !sim.is_host_running(name(seat)) {
                self.crash(sim, world, seat, false);
            }
        }
        if self.network.is_some_and(|until| until <= now) {
            self.connect(sim);
        }
        if harm && self.next <= now {
            self.next = now + self.millis(100, 900);
            self.begin(sim, world);
        }
    }

    /// Ends everything that is wrong.
    pub(super) fn heal(&mut self, sim: &mut Sim<'_>, world: &World) {
        self.connect(sim);
        (0..SEATS).for_each(|seat| self.mend(world, seat));
        let now = sim.elapsed();
        self.down.iter_mut().flatten().for_each(|until| *until = (*until).min(now));
    }

    /// Ends members, to be started again.
    pub(super) fn restart(&mut self, sim: &mut Sim<'_>, world: &World, seats: &[usize]) {
        self.cut(sim, world, seats, false, "restarts");
    }

    fn start(&mut self, sim: &mut Sim<'_>, seat: usize) {
        self.down[seat] = None;
        if std::mem::take(&mut self.dark[seat]) {
            self.connect(sim);
        }
        sim.bounce(name(seat));
    }

    fn mend(&mut self, world: &World, seat: usize) {
        self.disks[seat] = None;
        world.disk(seat).set(memory::Faults::default());
        world.slow[seat].set(Duration::ZERO);
    }

    fn begin(&mut self, sim: &mut Sim<'_>, world: &World) {
        let seat = self.member(world);
        match self.random.random_range(0..20) {
            0..3 => self.cut(sim, world, &[seat], true, "power-cuts"),
            3..6 => self.cut(sim, world, &[seat], false, "kills"),
            6..8 => self.cut(sim, world, &world.members(), true, "power-cuts-of-all"),
            8 => self.cut(sim, world, &world.members()[1..], true, "power-cuts-of-most"),
            9..11 => {
                let leader: Vec<usize> = world.leader().into_iter().collect();
                let power = self.random.random();
                self.cut(sim, world, &leader, power, "crashes-of-leader");
            }
            11 => self.disk(sim.elapsed(), world, seat, true),
            12..14 => self.disk(sim.elapsed(), world, seat, false),
            kind => self.wire(sim, world, kind),
        }
    }

    fn cut(&mut self, sim: &mut Sim<'_>, world: &World, seats: &[usize], power: bool, kind: &'static str) {
        let up: Vec<usize> = seats.iter().copied().filter(|seat| self.down[*seat].is_none()).collect();
        if up.is_empty() {
            return;
        }
        world.count(kind);
        for seat in up {
            self.crash(sim, world, seat, power);
        }
    }

    fn crash(&mut self, sim: &mut Sim<'_>, world: &World, seat: usize, power: bool) {
        if power {
            self.dark[seat] = true;
            (0..SEATS)
                .filter(|other| *other != seat)
                .for_each(|other| sim.partition(name(seat), name(other)));
        }
        world.running.borrow_mut()[seat] = None;
        sim.crash(name(seat));
        let keep = if self.random.random() { 0 } else { self.random.random() };
        let lost = world.disk(seat).crash(if power { Crash::Power { keep } } else { Crash::Process });
        if lost > 0 {
            world.count("lost-writes");
        }
        if world.changing.get() == Some(seat) {
            world.changing.set(None);
        }
        self.mend(world, seat);
        world.history.borrow_mut().tick(&("crash", seat, power, lost));
        self.down[seat] = Some(sim.elapsed() + self.millis(5, 1200));
    }

    fn disk(&mut self, now: Duration, world: &World, seat: usize, fails: bool) {
        if fails {
            world.count("disk-errors");
            let writes = self.random.random();
            world.disk(seat).set(memory::Faults { writes, syncs: !writes });
        } else {
            world.count("slow-disks");
            world.slow[seat].set(self.millis(2, 300));
        }
        self.disks[seat] = Some(now + self.millis(200, 1500));
    }

    /// Cuts or delays a member's wires, the leader's more often than not.
    fn wire(&mut self, sim: &mut Sim<'_>, world: &World, kind: u32) {
        self.connect(sim);
        let seat = world.leader().filter(|_| self.random.random()).unwrap_or_else(|| self.member(world));
        for other in (0..SEATS).filter(|other| *other != seat).map(name) {
            match kind {
                14 | 15 => sim.partition(name(seat), other),
                16 => sim.partition_oneway(name(seat), other),
                17 => sim.partition_oneway(other, name(seat)),
                18 => sim.hold(name(seat), other),
                _ => {
                    let most = self.millis(20, 200);
                    sim.set_link_max_message_latency(name(seat), other, most);
                }
            }
        }
        world.count(["partitions", "partitions", "mute", "deaf", "held", "delayed"][(kind - 14) as usize]);
        self.network = Some(sim.elapsed() + self.millis(100, 2500));
    }

    fn connect(&mut self, sim: &mut Sim<'_>) {
        self.network = None;
        for one in 0..SEATS {
            for other in one + 1..SEATS {
                if !self.dark[one] && !self.dark[other] {
                    sim.release(name(one), name(other));
                }
                sim.set_link_max_message_latency(name(one), name(other), LATENCY);
            }
        }
    }
}
