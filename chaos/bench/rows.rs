//! What is measured, as a table: the work, what is too little of it, and the goals.

use crate::faults::Fault;
use crate::load::Load;
use crate::memory::Fill;
use crate::op::Op;
use crate::sample::Figure;
use crate::watchers::Watch;

/// One row: a kind of work with its goals.
pub(crate) struct Row {
    /// Its name on the command line.
    pub(crate) name: &'static str,
    /// What is done.
    pub(crate) text: &'static str,
    pub(crate) work: Work,
    /// Operations that a measurement must have done to count.
    pub(crate) least: f64,
    pub(crate) goals: &'static [Goal],
}

/// Kinds of work.
#[derive(Clone, Copy)]
pub(crate) enum Work {
    Load(Load),
    Watch(Watch),
    Fault(Fault),
    Memory(Fill),
}

/// A figure and what it should be.
pub(crate) struct Goal {
    pub(crate) figure: Figure,
    pub(crate) bound: Bound,
}

/// What a figure should be.
#[derive(Clone, Copy)]
pub(crate) enum Bound {
    /// Times etcd's, at least.
    AtLeast(f64),
    /// Times etcd's, at most.
    AtMost(f64),
    /// In its own unit, at most.
    Below(f64),
}

const fn goal(figure: Figure, bound: Bound) -> Goal {
    Goal { figure, bound }
}

const fn load(op: Op, clients: usize, keys: usize) -> Work {
    Work::Load(Load { op, clients, keys })
}

/// Value sizes.
const SMALL: usize = 256;
const LARGE: usize = 1024;

/// Nobody asked for an election, so there should be none.
const CALM: Goal = goal(Figure::Elections, Bound::Below(0.0));

/// All rows.
pub(crate) const ROWS: &[Row] = &[
    Row {
        name: "puts-1",
        text: "puts of 256 B, 1 client",
        work: load(Op::Put(SMALL), 1, 0),
        least: 500.0,
        goals: &[goal(Figure::P50, Bound::AtMost(0.6)), goal(Figure::Rate, Bound::AtLeast(1.0)), CALM],
    },
    Row {
        name: "puts-64",
        text: "puts of 256 B, 64 clients",
        work: load(Op::Put(SMALL), 64, 0),
        least: 2000.0,
        goals: &[goal(Figure::Rate, Bound::AtLeast(1.0)), CALM],
    },
    Row {
        name: "puts-1000",
        text: "puts of 256 B, 1,000 clients",
        work: load(Op::Put(SMALL), 1000, 0),
        least: 5000.0,
        goals: &[goal(Figure::Rate, Bound::AtLeast(3.0)), goal(Figure::Cpu, Bound::AtMost(1.0 / 3.0)), CALM],
    },
    Row {
        name: "gets",
        text: "linearizable gets of 256 B, 256 clients",
        work: load(Op::Get, 256, 10_000),
        least: 5000.0,
        goals: &[goal(Figure::Rate, Bound::AtLeast(3.0)), CALM],
    },
    Row {
        name: "txns",
        text: "transactions (compare mod revision, put 1 KiB), 256 clients",
        work: load(Op::Txn(LARGE), 256, 0),
        least: 2000.0,
        goals: &[goal(Figure::Rate, Bound::AtLeast(3.0)), CALM],
    },
    Row {
        name: "range",
        text: "range of 500 in a prefix of 100,000 keys, 16 clients",
        work: load(Op::Range(500), 16, 100_000),
        least: 50.0,
        goals: &[goal(Figure::Rate, Bound::AtLeast(30.0)), CALM],
    },
    Row {
        name: "watch",
        text: "1,000 watchers on one prefix, 50 writes/s",
        work: Work::Watch(Watch { watchers: 1000, per_second: 50 }),
        least: 100_000.0,
        goals: &[goal(Figure::P99, Bound::AtMost(0.2)), CALM],
    },
    Row {
        name: "kill",
        text: "kill -9 of the leader: longest gap of a writing client",
        work: Work::Fault(Fault::Kill),
        least: 200.0,
        goals: &[goal(Figure::Gap, Bound::Below(800.0)), goal(Figure::Gap, Bound::Below(300.0))],
    },
    Row {
        name: "stop",
        text: "clean stop of the leader: longest gap of a writing client",
        work: Work::Fault(Fault::Stop),
        least: 200.0,
        goals: &[goal(Figure::Gap, Bound::Below(50.0))],
    },
    Row {
        name: "memory",
        text: "memory of a member after 250,000 puts of 1 KiB over 100,000 keys, compacted",
        work: Work::Memory(Fill { puts: 250_000, keys: 100_000, value: LARGE }),
        least: 250_000.0,
        goals: &[goal(Figure::Resident, Bound::AtMost(0.5)), CALM],
    },
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_unique() {
        let names: std::collections::BTreeSet<_> = ROWS.iter().map(|row| row.name).collect();
        assert_eq!(names.len(), ROWS.len());
    }
}
