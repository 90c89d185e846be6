//! ImageLocality: a node that has the pod's images starts it sooner.

use std::collections::BTreeMap;

use super::{Context, MAX_SCORE, Plugin};
use crate::snapshot::NodeInfo;

/// Below this sum an image is as good as absent; above [`MAX_PER_CONTAINER`] more does not count. Bytes.
const MIN: i64 = 23 << 20;
const MAX_PER_CONTAINER: i64 = 1000 << 20;

struct Images {
    /// Share of nodes that have the image, so that a popular image does not fill one node. In thousandths.
    spread: BTreeMap<String, i64>,
    containers: i64,
}

/// A name as nodes list it: with a tag or a digest.
fn full_name(image: &str) -> String {
    let last = image.rsplit('/').next().unwrap_or(image);
    if last.contains([':', '@']) { image.to_owned() } else { format!("{image}:latest") }
}

pub(super) fn prepare<'a>(context: &Context<'a>) -> Option<Box<dyn Plugin + 'a>> {
    let spec = context.pod.spec();
    let all = spec.containers.iter().chain(spec.init_containers.iter().flatten());
    let names: Vec<String> = all.filter_map(|c| c.image.as_deref()).map(full_name).collect();
    let total = i64::try_from(context.snapshot.nodes().count()).unwrap_or(i64::MAX).max(1);
    let share = |name: &String| {
        let having = context.snapshot.nodes().filter(|n| n.images.contains_key(name)).count();
        i64::try_from(having).unwrap_or(0) * 1000 / total
    };
    let spread: BTreeMap<String, i64> =
        names.iter().map(|n| (n.clone(), share(n))).filter(|(_, s)| *s > 0).collect();
    let containers = i64::try_from(names.len()).unwrap_or(1);
    (!spread.is_empty()).then(|| Box::new(Images { spread, containers }) as Box<dyn Plugin>)
}

impl Plugin for Images {
    fn prescore(&mut self, _nodes: &[&NodeInfo]) -> bool {
        true
    }

    fn score(&self, node: &NodeInfo) -> i64 {
        let size =
            |(name, share): (&String, &i64)| node.images.get(name).map_or(0, |size| size / 1000 * share);
        let sum: i64 = self.spread.iter().map(size).sum();
        let max = MAX_PER_CONTAINER * self.containers;
        MAX_SCORE * (sum.clamp(MIN, max) - MIN) / (max - MIN)
    }
}
