//! NodeUnschedulable: cordoned nodes take only pods that tolerate it.

use k8s_openapi::api::core::v1::Taint;

use super::taint::tolerated;
use super::{Context, Plugin, Reject};
use crate::event::Event;
use crate::pod::PodInfo;
use crate::snapshot::NodeInfo;

struct Unschedulable {
    tolerated: bool,
}

fn tolerates_cordon(pod: &PodInfo) -> bool {
    let taint = Taint {
        key: "node.kubernetes.io/unschedulable".to_owned(),
        effect: "NoSchedule".to_owned(),
        ..Taint::default()
    };
    tolerated(pod.tolerations(), &taint)
}

pub(super) fn prepare<'a>(context: &Context<'a>) -> Option<Box<dyn Plugin + 'a>> {
    Some(Box::new(Unschedulable { tolerated: tolerates_cordon(context.pod) }))
}

pub(super) fn hint(event: &Event, pod: &PodInfo) -> bool {
    event.node().is_some_and(|node| !node.unschedulable() || tolerates_cordon(pod))
}

impl Plugin for Unschedulable {
    fn filter(&self, node: &NodeInfo) -> Result<(), Reject> {
        if !node.unschedulable() || self.tolerated {
            return Ok(());
        }
        Reject::for_good("node(s) were unschedulable")
    }
}
