//! Leaders that are paused (SIGSTOP), replaced, and resumed: they can write nothing on the strength of what they
//! were.
//!
//! For each elected component a write is caught on its way: the leader has decided and sent it, the network has
//! lost it. The world changes so that the write is wrong now, the leader is paused, another one leads, and then the
//! packets come through. Only the fence can refuse such a write: it is well-formed, and nothing that it names has
//! changed. That it did arrive and was refused is counted by the API servers.

use std::time::{Duration, Instant};

use crate::control::active;
use crate::demo::Demo;
use crate::held::{Held, pid};
use crate::stores;

/// An elected component, and what it writes that nobody wants any more.
struct Stale {
    component: &'static str,
    lease: &'static str,
    /// Labels, in the API servers' metrics, of the request that must be refused.
    refused: &'static [&'static str],
    /// Makes the component write something once, so that the connection for it exists.
    warm: fn(&Demo),
    /// Makes it write what is caught.
    cause: fn(&Demo),
    /// Makes that wrong.
    change: fn(&Demo),
    /// Fails when the write was done.
    check: fn(&Demo),
    /// Goes back to how it was, which the new leader must do.
    after: fn(&Demo),
}

pub(crate) fn scheduler(demo: &Demo) {
    stale(
        demo,
        &Stale {
            component: "scheduler",
            lease: "kube-scheduler",
            refused: &["resource=\"pods\"", "subresource=\"binding\"", "code=\"409\""],
            warm: |demo| bound(demo, "warm"),
            cause: |demo| {
                drop(demo.kubectl(&["run", "stale", "--image=demo.local/web:1", "--labels=app=stale"]))
            },
            change: |demo| drop(demo.kubectl(&["cordon", "w1", "w2"])),
            check: |demo| {
                let pods = pods(demo);
                let pod = pods.iter().find(|p| p.name == "stale").expect("the pod is there");
                assert_eq!(pod.node, "", "a deposed scheduler bound a pod");
            },
            after: |demo| {
                demo.kubectl(&["uncordon", "w1", "w2"]);
                wait_bound(demo, "stale");
                demo.kubectl(&["delete", "pods", "-l", "app=stale", "--wait=false"]);
            },
        },
    );
}

pub(crate) fn controller_manager(demo: &Demo) {
    stale(
        demo,
        &Stale {
            component: "controller-manager",
            lease: "kube-controller-manager",
            refused: &["resource=\"endpointslices\"", "subresource=\"\"", "code=\"409\""],
            warm: |demo| {
                service(demo, "create");
                wait_slices(demo, 1);
                service(demo, "delete");
                wait_slices(demo, 0);
            },
            cause: |demo| service(demo, "create"),
            // Who learned of the service afterwards has nothing to do.
            change: |demo| service(demo, "delete"),
            check: |demo| assert_eq!(slices(demo), 0, "a deposed controller manager made endpoints"),
            after: |demo| {
                service(demo, "create");
                wait_slices(demo, 1);
                service(demo, "delete");
                wait_slices(demo, 0);
            },
        },
    );
}

fn stale(demo: &Demo, stale: &Stale) {
    let Stale { component, lease, .. } = *stale;
    (stale.warm)(demo);
    let old = active(demo, component);
    let (process, before) = (pid(demo, &old, component), holder(demo, lease));
    let (refused, lost) = (count(demo, stale.refused), leaderships_lost(demo, &old, component));
    let held = Held::begin(demo, &old, component);
    (stale.cause)(demo);
    held.sent();
    // Now, while nobody else leads: the next leader must not do what the last one tried, and hide it.
    (stale.change)(demo);
    demo.sandbox.pause(&old, component).expect("the leader can be paused");
    let start = Instant::now();
    demo.wait("another leader", || {
        let now = demo.cluster.holder(lease)?.unwrap_or_default();
        let another = !now.is_empty() && now != before;
        Ok(if another { Ok(()) } else { Err(format!("{now:?} holds {lease}")) })
    });
    demo.seconds(&format!("another {component} leads after a pause"), start.elapsed(), 3.0);
    drop(held);
    let (now, _) = demo.wait("the late write refused", || {
        let now = count(demo, stale.refused);
        Ok(if now > refused { Ok(now) } else { Err(format!("{now} refused, {refused} before")) })
    });
    println!("      {} late writes arrived and were refused", now - refused);
    (stale.check)(demo);
    demo.sandbox.resume(&old, component).expect("it can be resumed");
    demo.wait("the resumed one back in standby", || {
        let now = leaderships_lost(demo, &old, component);
        Ok(if now > lost { Ok(()) } else { Err(format!("its log says {now} times that it lost")) })
    });
    (stale.check)(demo);
    assert_eq!(pid(demo, &old, component), process, "it goes back to standby in the same process");
    assert_ne!(holder(demo, lease), before, "its Lease is over");
    (stale.after)(demo);
}

/// Refused writes with all of these labels, over all API servers.
fn count(demo: &Demo, labels: &[&str]) -> u64 {
    let one = |master: &chaos::Host| {
        let text =
            demo.kubectl_on(&format!("https://{}:6443", master.address), &["get", "--raw", "/metrics"]);
        let line =
            |l: &&str| l.starts_with("apiserver_request_total{") && labels.iter().all(|w| l.contains(w));
        text.lines().filter(line).filter_map(|l| l.rsplit(' ').next()?.parse::<u64>().ok()).sum::<u64>()
    };
    demo.sandbox.hosts().iter().filter(|h| h.role == chaos::Role::Master).map(one).sum()
}

fn holder(demo: &Demo, lease: &str) -> String {
    demo.wait("the Lease's holder", || Ok(demo.cluster.holder(lease)?.ok_or_else(|| "nobody".to_string()))).0
}

/// How often a component's log says that it lost its leadership.
fn leaderships_lost(demo: &Demo, host: &str, component: &str) -> usize {
    let folder = demo.sandbox.host(host).expect("the host exists").folder;
    let log = std::fs::read_to_string(folder.join(format!("{component}.log"))).expect("it has a log");
    log.lines().filter(|l| l.contains("lost leadership, back to standby")).count()
}

fn service(demo: &Demo, verb: &str) {
    match verb {
        "create" => demo.kubectl(&["create", "service", "clusterip", "stale", "--tcp=80:8080"]),
        _ => demo.kubectl(&["delete", "service", "stale"]),
    };
}

/// How many EndpointSlices lead to the service.
fn slices(demo: &Demo) -> usize {
    let words = ["get", "endpointslices", "-l", "kubernetes.io/service-name=stale", "-o", "name"];
    demo.kubectl(&words).lines().count()
}

fn wait_slices(demo: &Demo, count: usize) {
    demo.wait(&format!("{count} EndpointSlices"), || {
        let there = slices(demo);
        Ok(if there == count { Ok(()) } else { Err(format!("{there} are there")) })
    });
}

fn pods(demo: &Demo) -> Vec<chaos::api::PodView> {
    demo.wait("a list of pods", || demo.cluster.pods("default", "app=stale").map(Ok)).0
}

fn bound(demo: &Demo, name: &str) {
    demo.kubectl(&["run", name, "--image=demo.local/web:1", "--labels=app=stale"]);
    wait_bound(demo, name);
}

fn wait_bound(demo: &Demo, name: &str) {
    demo.wait("the pod bound", || {
        let pods = demo.cluster.pods("default", "app=stale")?;
        let bound = pods.iter().any(|p| p.name == name && !p.node.is_empty());
        Ok(if bound { Ok(()) } else { Err(format!("{pods:?}")) })
    });
}

/// The store's leader is paused while a client writes; when it is resumed, it follows, and has what the others have.
pub(crate) fn store(demo: &Demo) {
    let old = stores::leader(demo);
    let process = pid(demo, &old, "store");
    let mut took = Duration::ZERO;
    let (gap, writes) = demo.written("paused", || {
        let start = Instant::now();
        demo.sandbox.pause(&old, "store").expect("the store can be paused");
        demo.wait("another store leader", || {
            let now = demo.sandbox.store_leader();
            let another = now.as_ref().is_some_and(|n| *n != old);
            Ok(if another { Ok(()) } else { Err(format!("{now:?} leads")) })
        });
        took = start.elapsed();
        demo.kubectl(&["scale", "deployment", "web", "--replicas=4"]);
        demo.wait_web(4, "");
        demo.sandbox.resume(&old, "store").expect("the store can be resumed");
        stores::healthy(demo);
    });
    println!("      another member led after {:.2} s", took.as_secs_f64());
    demo.seconds("write gap after the store leader's pause", gap, 1.5);
    println!("      {writes} writes acknowledged, none lost");
    assert_eq!(pid(demo, &old, "store"), process, "the member goes on in the same process");
    stores::agree(demo);
    demo.kubectl(&["scale", "deployment", "web", "--replicas=3"]);
    demo.wait_web(3, "");
}
