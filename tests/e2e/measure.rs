//! Times and sizes that the project promises, and how far above them is too far.

use std::fmt;

use crate::demo::Demo;

/// A busy machine may be this much slower than the target.
const SLACK: f64 = 5.0;

pub(crate) struct Measure {
    pub(crate) what: String,
    pub(crate) value: f64,
    pub(crate) unit: &'static str,
    pub(crate) target: f64,
}

impl Measure {
    pub(crate) fn missed(&self) -> bool {
        self.value > self.target * SLACK
    }
}

impl fmt::Display for Measure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let verdict = match self.value <= self.target {
            true => "ok",
            false if self.missed() => "MISSED",
            false => "above its target",
        };
        let Self { what, value, unit, target } = self;
        write!(f, "{what:<52} {value:>9.2} {unit:<3} target {target:>7} {unit:<3} {verdict}")
    }
}

const MASTER: [&str; 4] = ["store", "apiserver", "scheduler", "controller-manager"];
const WORKER: [&str; 2] = ["kubelet", "proxy"];

pub(crate) fn memory(demo: &Demo) {
    let megabytes = |host: &str, names: &[&str]| {
        let bytes: u64 =
            names.iter().map(|n| demo.sandbox.memory(host, n).expect("the component runs")).sum();
        bytes as f64 / 1e6
    };
    for host in demo.sandbox.hosts() {
        let (names, target): (&[&str], f64) = match host.role {
            chaos::Role::Balancer => continue,
            chaos::Role::Master => (&MASTER, 150.0),
            chaos::Role::Worker => (&WORKER, 60.0),
        };
        demo.note(&format!("memory of {} (Pss)", host.name), megabytes(&host.name, names), "MB", target);
    }
}
