//! What can happen to members: crashes, power cuts, partitions, delays, failing disks, drawn from the seed.
//!
//! Keeps true: every harm ends by itself or by [`Faults::heal`]; a member that stopped because its disk failed is
//! started again, as its supervisor would.

use super::world::{MEMBERS, World, name};
use crate::engine::memory::{self, Crash};
use rand::{Rng, SeedableRng, rngs::SmallRng};
use std::time::Duration;
use turmoil::Sim;

/// What is wrong now, and until when.
pub(super) struct Faults {
    random: SmallRng,
    next: Duration,
    /// Members that are down, until when.
    down: [Option<Duration>; MEMBERS],
    network: Option<Duration>,
    disks: [Option<Duration>; MEMBERS],
}

impl Faults {
    /// Nothing is wrong yet.
    pub(super) fn new(seed: u64) -> Self {
        Self {
            random: SmallRng::seed_from_u64(seed ^ 0x000f_a017),
            next: Duration::ZERO,
            down: [None; MEMBERS],
            network: None,
            disks: [None; MEMBERS],
        }
    }

    fn millis(&mut self, from: u64, to: u64) -> Duration {
        Duration::from_millis(self.random.random_range(from..to))
    }

    fn member(&mut self) -> usize {
        self.random.random_range(0..MEMBERS)
    }

    /// Ends what is over, and with `harm` begins something new now and then.
    pub(super) fn step(&mut self, sim: &mut Sim<'_>, world: &World, harm: bool) {
        let now = sim.elapsed();
        for member in 0..MEMBERS {
            if self.down[member].is_some_and(|until| until <= now) {
                self.down[member] = None;
                sim.bounce(name(member));
            } else if self.down[member].is_none() && !sim.is_host_running(name(member)) {
                world.fault("stopped");
                self.crash(sim, world, member, true);
            }
            if self.disks[member].is_some_and(|until| until <= now) {
                self.disks[member] = None;
                world.disks[member].set(memory::Faults::default());
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
        world.disks.iter().for_each(|disk| disk.set(memory::Faults::default()));
        self.disks = [None; MEMBERS];
        let now = sim.elapsed();
        self.down.iter_mut().flatten().for_each(|until| *until = (*until).min(now));
    }

    fn begin(&mut self, sim: &mut Sim<'_>, world: &World) {
        let member = self.member();
        match self.random.random_range(0..20) {
            0..4 => self.one(sim, world, member, true, "power-cut"),
            4..6 => self.one(sim, world, member, false, "kill"),
            6..8 => self.some(sim, world, MEMBERS, "power-cut-of-all"),
            8 => self.some(sim, world, MEMBERS - 1, "power-cut-of-most"),
            9..11 => {
                if let Some(leader) = leader(world) {
                    self.one(sim, world, leader, true, "power-cut-of-leader");
                }
            }
            11 => self.disk(sim.elapsed(), world, member, true),
            12..14 => self.disk(sim.elapsed(), world, member, false),
            kind => self.wire(sim, world, kind),
        }
    }

    fn one(&mut self, sim: &mut Sim<'_>, world: &World, member: usize, power: bool, kind: &'static str) {
        if self.down[member].is_none() {
            world.fault(kind);
            self.crash(sim, world, member, power);
        }
    }

    fn some(&mut self, sim: &mut Sim<'_>, world: &World, members: usize, kind: &'static str) {
        world.fault(kind);
        for member in
            (0..MEMBERS).filter(|member| self.down[*member].is_none()).take(members).collect::<Vec<_>>()
        {
            self.crash(sim, world, member, true);
        }
    }

    fn crash(&mut self, sim: &mut Sim<'_>, world: &World, member: usize, power: bool) {
        world.running.borrow_mut()[member] = None;
        sim.crash(name(member));
        let keep = if self.random.random() { 0 } else { self.random.random() };
        let lost = world.disks[member].crash(if power { Crash::Power { keep } } else { Crash::Process });
        if lost > 0 {
            world.fault("lost-writes");
        }
        world.disks[member].set(memory::Faults::default());
        self.disks[member] = None;
        self.down[member] = Some(sim.elapsed() + self.millis(5, 1200));
    }

    fn disk(&mut self, now: Duration, world: &World, member: usize, fails: bool) {
        let mut faults = memory::Faults::default();
        if fails {
            world.fault("disk-error");
            faults.writes_fail = self.random.random();
            faults.syncs_fail = !faults.writes_fail;
        } else {
            world.fault("slow-disk");
            faults.sync = self.millis(2, 300);
        }
        world.disks[member].set(faults);
        self.disks[member] = Some(now + self.millis(200, 1500));
    }

    /// Cuts or delays a member's wires, or the leader's more often than not.
    fn wire(&mut self, sim: &mut Sim<'_>, world: &World, kind: u32) {
        self.connect(sim);
        let member = leader(world).filter(|_| self.random.random()).unwrap_or_else(|| self.member());
        let others: Vec<String> = (0..MEMBERS).filter(|other| *other != member).map(name).collect();
        for other in &others {
            match kind {
                14 | 15 => sim.partition(name(member), other.as_str()),
                16 => sim.partition_oneway(name(member), other.as_str()),
                17 => sim.partition_oneway(other.as_str(), name(member)),
                18 => sim.hold(name(member), other.as_str()),
                _ => {
                    let most = self.millis(20, 200);
                    sim.set_link_max_message_latency(name(member), other.as_str(), most);
                }
            }
        }
        world.fault(["partition", "partition", "deaf", "mute", "held", "delayed"][(kind - 14) as usize]);
        self.network = Some(sim.elapsed() + self.millis(100, 1500));
    }

    fn connect(&mut self, sim: &mut Sim<'_>) {
        self.network = None;
        for one in 0..MEMBERS {
            for other in one + 1..MEMBERS {
                sim.release(name(one), name(other));
                sim.set_link_max_message_latency(name(one), name(other), Duration::from_millis(10));
            }
        }
    }
}

fn leader(world: &World) -> Option<usize> {
    let leads = |served: &Option<std::sync::Arc<crate::etcd::Member>>| {
        served.as_ref().is_some_and(|served| served.node.leader() == Some(served.config.id))
    };
    world.running.borrow().iter().position(leads)
}
