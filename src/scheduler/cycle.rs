//! The decision: which node a pod goes to, or why none.
//!
//! Keeps true: the same snapshot, pod and options give the same answer; a node that is chosen passes every
//! filter, also with the pods counted for which a preemption is making room there. Acting on it is the driver's
//! business.

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};

use crate::plugins::{Context, Plugin, ROWS, Reject, Row};
use crate::pod::PodInfo;
use crate::snapshot::{NodeInfo, Snapshot};

/// Up to this many nodes, all are looked at.
const ALWAYS_LOOK_AT: usize = 100;

/// What a decision may vary by besides its input.
#[derive(Clone, Copy, Debug, Default)]
pub struct Options {
    /// Where the round over the nodes starts.
    pub start: usize,
    /// Chooses among equally good nodes.
    pub tie: u64,
}

/// The answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Decision {
    /// Goes here.
    Node {
        /// The node's name.
        name: String,
        /// How many nodes were looked at.
        evaluated: usize,
    },
    /// Fits nowhere at present.
    Unschedulable(Diagnosis),
}

/// Why a pod fits nowhere.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Diagnosis {
    /// How many nodes there are.
    pub nodes: usize,
    /// Each node's first refusal.
    pub(crate) rejected: BTreeMap<String, Rejection>,
}

/// One node's refusal.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Rejection {
    pub(crate) plugin: &'static str,
    pub(crate) reject: Reject,
}

impl Diagnosis {
    /// The rules that refused, by upstream's names.
    #[must_use]
    pub fn plugins(&self) -> BTreeSet<&'static str> {
        self.rejected.values().map(|r| r.plugin).collect()
    }

    /// The text of the `FailedScheduling` event, without what preemption says.
    #[must_use]
    pub fn message(&self) -> String {
        if self.nodes == 0 {
            return "no nodes available to schedule pods".to_owned();
        }
        let reasons = self.rejected.values().flat_map(|r| r.reject.reasons.iter());
        format!("0/{} nodes are available: {}.", self.nodes, tally(reasons))
    }
}

/// `2 Insufficient cpu, 1 node(s) were unschedulable`.
pub(crate) fn tally<'a>(reasons: impl Iterator<Item = &'a Cow<'static, str>>) -> String {
    let mut counts: BTreeMap<&str, usize> = BTreeMap::new();
    for reason in reasons {
        *counts.entry(reason).or_default() += 1;
    }
    let mut lines: Vec<String> = counts.iter().map(|(reason, count)| format!("{count} {reason}")).collect();
    lines.sort();
    lines.join(", ")
}

/// The rules prepared for one pod.
pub(crate) struct Rules<'a> {
    rules: Vec<(&'static Row, Box<dyn Plugin + 'a>)>,
    context: Context<'a>,
}

impl<'a> Rules<'a> {
    pub(crate) fn new(snapshot: &'a Snapshot, pod: &'a PodInfo) -> Self {
        let context = Context { snapshot, pod };
        let rules = ROWS.iter().filter_map(|row| Some((row, (row.prepare)(&context)?)));
        Self { rules: rules.collect(), context }
    }

    /// Whether the pod may run on the node as it is, and also once the more important pods that wait for room on
    /// it have come.
    pub(crate) fn filter(&self, node: &NodeInfo) -> Result<(), Rejection> {
        let coming = self.context.snapshot.nominated_before(self.context.pod, node.name());
        if !coming.is_empty() {
            let mut later = node.clone();
            coming.into_iter().for_each(|pod| later.add(pod));
            self.filter_as_is(&later)?;
        }
        self.filter_as_is(node)
    }

    fn filter_as_is(&self, node: &NodeInfo) -> Result<(), Rejection> {
        for (row, rule) in &self.rules {
            rule.filter(node).map_err(|reject| Rejection { plugin: row.name, reject })?;
        }
        Ok(())
    }

    /// The weighted sum of all scores, per node.
    fn score(&mut self, nodes: &[&NodeInfo]) -> Vec<i64> {
        let mut totals = vec![0; nodes.len()];
        for (row, rule) in self.rules.iter_mut().filter(|(row, _)| row.weight > 0) {
            if !rule.prescore(nodes) {
                continue;
            }
            let mut scores: Vec<i64> = nodes.iter().map(|n| rule.score(n)).collect();
            rule.normalize(nodes, &mut scores);
            for (total, score) in totals.iter_mut().zip(scores) {
                *total += score * row.weight;
            }
        }
        totals
    }
}

/// How many fitting nodes are enough, of `all`.
fn enough(all: usize) -> usize {
    if all <= ALWAYS_LOOK_AT {
        return all;
    }
    let percent = 50usize.saturating_sub(all / 125).max(5);
    (all * percent / 100).max(ALWAYS_LOOK_AT)
}

/// Decides where `pod` goes.
#[must_use]
pub fn decide(snapshot: &Snapshot, pod: &PodInfo, options: Options) -> Decision {
    let mut rules = Rules::new(snapshot, pod);
    let nodes: Vec<&NodeInfo> = snapshot.nodes().collect();
    let mut rejected = BTreeMap::new();
    let mut fitting = Vec::new();
    let mut evaluated = 0;
    for i in 0..nodes.len() {
        let node = nodes[(options.start + i) % nodes.len()];
        evaluated += 1;
        match rules.filter(node) {
            Ok(()) => fitting.push(node),
            Err(rejection) => {
                rejected.insert(node.name().to_owned(), rejection);
            }
        }
        if fitting.len() >= enough(nodes.len()) {
            break;
        }
    }
    match fitting.as_slice() {
        [] => Decision::Unschedulable(Diagnosis { nodes: nodes.len(), rejected }),
        [only] => Decision::Node { name: only.name().to_owned(), evaluated },
        several => Decision::Node { name: best(&mut rules, several, options.tie), evaluated },
    }
}

fn best(rules: &mut Rules<'_>, nodes: &[&NodeInfo], tie: u64) -> String {
    let scores = rules.score(nodes);
    let max = scores.iter().copied().max().unwrap_or(0);
    let winners: Vec<&&NodeInfo> =
        nodes.iter().zip(&scores).filter(|(_, s)| **s == max).map(|(n, _)| n).collect();
    let count = u64::try_from(winners.len()).unwrap_or(1);
    let index = usize::try_from(tie % count).unwrap_or(0);
    winners[index].name().to_owned()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::sync::Arc;

    use proptest::prelude::{prop_assert, proptest};
    use serde_json::json;

    use super::{Decision, Options, decide};
    use crate::snapshot::Snapshot;
    use crate::testing::{MakeNode, MakePod, node, pod};

    fn cluster(nodes: Vec<MakeNode>, pods: &[MakePod]) -> Snapshot {
        let mut snapshot = Snapshot::default();
        nodes.into_iter().for_each(|n| snapshot.set_node(n.build()));
        pods.iter().for_each(|p| snapshot.set_pod(p.clone().info()));
        snapshot
    }

    /// `Ok`: the node; `Err`: the message.
    fn check(snapshot: &Snapshot, wanted: MakePod, expect: Result<&str, &str>) {
        let got = match decide(snapshot, &wanted.info(), Options::default()) {
            Decision::Node { name, .. } => Ok(name),
            Decision::Unschedulable(diagnosis) => Err(diagnosis.message()),
        };
        assert_eq!(got.as_deref().map_err(String::as_str), expect);
    }

    #[test]
    fn resources_and_ports() {
        let web = |name: &str| {
            pod(name).set("/spec/containers/0/ports", json!([{"containerPort": 80, "hostPort": 80}]))
        };
        let snapshot = cluster(
            vec![node("w1").cpu("2"), node("w2").cpu("1")],
            &[pod("a").cpu("1500m").on("w1"), web("b").on("w2")],
        );
        check(&snapshot, pod("p").cpu("800m"), Ok("w2"));
        check(&snapshot, pod("p").cpu("1500m"), Err("0/2 nodes are available: 2 Insufficient cpu."));
        check(&snapshot, web("p"), Ok("w1"));
        let ports = "1 Insufficient cpu, 1 node(s) didn't have free ports for the requested pod ports";
        check(&snapshot, web("p").cpu("1"), Err(&format!("0/2 nodes are available: {ports}.")));
        let gpu = pod("p").set("/spec/containers/0/resources/requests/example.com~1gpu", "1");
        check(&snapshot, gpu, Err("0/2 nodes are available: 2 Insufficient example.com/gpu."));
        check(
            &cluster(vec![node("w1").pods(0)], &[]),
            pod("p"),
            Err("0/1 nodes are available: 1 Too many pods."),
        );
        check(&Snapshot::default(), pod("p"), Err("no nodes available to schedule pods"));
    }

    #[test]
    fn cordons_taints_and_selectors() {
        let snapshot = cluster(
            vec![
                node("w1").cordoned(),
                node("w2").taint("node.kubernetes.io/not-ready", "NoSchedule"),
                node("w3").label("disk", "ssd").taint("busy", "PreferNoSchedule"),
                node("w4"),
            ],
            &[],
        );
        check(&snapshot, pod("p"), Ok("w4"));
        check(&snapshot, pod("p").set("/spec/nodeSelector", json!({"disk": "ssd"})), Ok("w3"));
        let nowhere = "0/4 nodes are available: 1 node(s) had untolerated taint(s), 1 node(s) were unschedulable, \
                       2 node(s) didn't match Pod's node affinity/selector.";
        check(&snapshot, pod("p").set("/spec/nodeSelector", json!({"disk": "none"})), Err(nowhere));
        let terms = json!({"nodeSelectorTerms": [{"matchFields": [{"key": "metadata.name", "operator": "In", "values": ["w1"]}]}]});
        let daemon = pod("p")
            .set("/spec/affinity/nodeAffinity/requiredDuringSchedulingIgnoredDuringExecution", terms)
            .set("/spec/tolerations", json!([{"operator": "Exists"}]));
        check(&snapshot, daemon, Ok("w1"));
        let preference = json!([{"weight": 100, "preference": {"matchExpressions": [{"key": "disk", "operator": "Exists"}]}}]);
        let wish = pod("p")
            .set("/spec/affinity/nodeAffinity/preferredDuringSchedulingIgnoredDuringExecution", preference)
            .set("/spec/tolerations", json!([{"key": "busy", "operator": "Exists"}]));
        check(&snapshot, wish, Ok("w3"));
    }

    #[test]
    fn replicas_spread_over_nodes() {
        let mut snapshot = cluster(vec![node("w1"), node("w2")], &[]);
        for i in 0..6 {
            let replica = pod(&format!("web-{i}")).owner("rs").info();
            let Decision::Node { name, .. } = decide(&snapshot, &replica, Options { start: 0, tie: 0 })
            else {
                panic!("fits")
            };
            snapshot.assume(&replica, &name);
        }
        assert_eq!(snapshot.nodes().map(|n| n.pods.len()).collect::<Vec<_>>(), [3, 3]);
    }

    #[test]
    fn spread_constraints_are_kept() {
        let constraint = json!([{"maxSkew": 1, "topologyKey": "zone", "whenUnsatisfiable": "DoNotSchedule",
            "labelSelector": {"matchLabels": {"app": "web"}}}]);
        let web = |name: &str| {
            pod(name).label("app", "web").set("/spec/topologySpreadConstraints", constraint.clone())
        };
        let nodes =
            || vec![node("w1").label("zone", "a"), node("w2").label("zone", "b").cordoned(), node("w3")];
        check(&cluster(nodes(), &[]), web("p"), Ok("w1"));
        let message = "0/3 nodes are available: 1 node(s) didn't match pod topology spread constraints, \
                       1 node(s) didn't match pod topology spread constraints (missing required label), \
                       1 node(s) were unschedulable.";
        check(&cluster(nodes(), &[web("a").on("w1")]), web("p"), Err(message));
    }

    #[test]
    fn pods_attract_and_repel_each_other() {
        let term = |app: &str| json!([{"labelSelector": {"matchLabels": {"app": app}}, "topologyKey": "kubernetes.io/hostname"}]);
        let near = |name: &str, app: &str| {
            pod(name)
                .set("/spec/affinity/podAffinity/requiredDuringSchedulingIgnoredDuringExecution", term(app))
        };
        let far = |name: &str, app: &str| {
            pod(name).set(
                "/spec/affinity/podAntiAffinity/requiredDuringSchedulingIgnoredDuringExecution",
                term(app),
            )
        };
        let nodes = || vec![node("w1"), node("w2")];
        let db = || pod("db").label("app", "db").on("w2");
        check(&cluster(nodes(), &[db()]), near("p", "db"), Ok("w2"));
        check(&cluster(nodes(), &[db()]), far("p", "db"), Ok("w1"));
        check(
            &cluster(nodes(), &[]),
            near("p", "db"),
            Err("0/2 nodes are available: 2 node(s) didn't match pod affinity rules."),
        );
        check(&cluster(vec![node("w1")], &[]), near("p", "self").label("app", "self"), Ok("w1"));
        let loner = far("loner", "web").on("w1");
        let existing = "0/1 nodes are available: 1 node(s) didn't satisfy existing pods anti-affinity rules.";
        check(&cluster(vec![node("w1")], &[loner]), pod("p").label("app", "web"), Err(existing));
        check(
            &cluster(vec![node("w1")], &[pod("x").label("app", "db").on("w1")]),
            far("p", "db"),
            Err("0/1 nodes are available: 1 node(s) didn't match pod anti-affinity rules."),
        );
    }

    #[test]
    fn present_images_attract() {
        let mut with = node("w2").build();
        let images = json!([{"names": ["demo.local/big:1"], "sizeBytes": 900_000_000}]);
        Arc::make_mut(&mut with).status.as_mut().unwrap().images = serde_json::from_value(images).unwrap();
        let mut snapshot = cluster(vec![node("w1")], &[]);
        snapshot.set_node(with);
        check(&snapshot, pod("p").set("/spec/containers/0/image", "demo.local/big:1"), Ok("w2"));
    }

    proptest! {
        #[test]
        fn nodes_are_never_overcommitted(
            sizes in proptest::collection::vec((100u32..4000, 1usize..6), 1..5),
            pods in proptest::collection::vec((0u32..2000, 0i32..4), 0..25),
            tie in proptest::prelude::any::<u64>(),
        ) {
            let named = |(i, (cpu, pods)): (usize, &(u32, usize))| node(&format!("n{i}")).cpu(&format!("{cpu}m")).pods(*pods);
            let mut snapshot = cluster(sizes.iter().enumerate().map(named).collect(), &[]);
            for (i, (cpu, port)) in pods.iter().enumerate() {
                let ports = json!([{"containerPort": 1, "hostPort": port}]);
                let one = pod(&format!("p{i}")).cpu(&format!("{cpu}m")).set("/spec/containers/0/ports", ports).info();
                if let Decision::Node { name, .. } = decide(&snapshot, &one, Options { start: i, tie }) {
                    snapshot.assume(&one, &name);
                }
            }
            for node in snapshot.nodes() {
                let used: i64 = node.pods.values().map(|p| p.requests.milli_cpu).sum();
                prop_assert!(used <= node.allocatable.milli_cpu);
                prop_assert!(i64::try_from(node.pods.len()).unwrap() <= node.max_pods);
                let mut ports = BTreeMap::new();
                for port in node.pods.values().flat_map(|p| &p.ports) {
                    prop_assert!(ports.insert(port.clone(), ()).is_none());
                }
            }
        }
    }
}
