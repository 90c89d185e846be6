//! NodePorts: two pods cannot have the same host port on one node.

use super::{Context, Plugin, Reject};
use crate::event::Event;
use crate::pod::{HostPort, PodInfo};
use crate::snapshot::NodeInfo;

struct Ports<'a>(&'a [HostPort]);

fn conflict(wanted: &[HostPort], taken: &PodInfo) -> bool {
    taken.ports.iter().any(|t| wanted.iter().any(|w| w.conflicts(t)))
}

pub(super) fn prepare<'a>(context: &Context<'a>) -> Option<Box<dyn Plugin + 'a>> {
    let ports = &context.pod.ports;
    (!ports.is_empty()).then(|| Box::new(Ports(ports)) as Box<dyn Plugin>)
}

pub(super) fn hint(event: &Event, pod: &PodInfo) -> bool {
    match event {
        Event::NodeAdded(_) => true,
        Event::PodRemoved(gone) => conflict(&pod.ports, gone),
        _ => false,
    }
}

impl Plugin for Ports<'_> {
    fn filter(&self, node: &NodeInfo) -> Result<(), Reject> {
        if !node.pods.values().any(|pod| conflict(self.0, pod)) {
            return Ok(());
        }
        Reject::new("node(s) didn't have free ports for the requested pod ports")
    }
}
