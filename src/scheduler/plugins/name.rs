//! NodeName: a pod that names its node goes nowhere else.

use super::{Context, Plugin, Reject};
use crate::event::Event;
use crate::pod::PodInfo;
use crate::snapshot::NodeInfo;

struct Name<'a>(&'a str);

pub(super) fn prepare<'a>(context: &Context<'a>) -> Option<Box<dyn Plugin + 'a>> {
    Some(Box::new(Name(context.pod.node_name()?)))
}

pub(super) fn hint(event: &Event, pod: &PodInfo) -> bool {
    event.node().is_some_and(|node| pod.node_name().is_none_or(|name| name == node.name()))
}

impl Plugin for Name<'_> {
    fn filter(&self, node: &NodeInfo) -> Result<(), Reject> {
        if node.name() == self.0 {
            return Ok(());
        }
        Reject::for_good("node(s) didn't match the requested node name")
    }
}
