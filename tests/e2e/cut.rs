//! Partitions: a master or a worker that lives, but that nobody can talk to, and what happens when the cable is back.

use std::time::{Duration, Instant};

use crate::demo::Demo;
use crate::stores;

/// The store leader's master is cut off from everybody, the balancer too, while a client writes.
pub(crate) fn master(demo: &Demo) {
    let old = stores::leader(demo);
    let mut took = Duration::ZERO;
    let (gap, writes) = demo.written("cut", || {
        let start = Instant::now();
        demo.sandbox.partition(std::slice::from_ref(&old)).expect("the master can be cut off");
        // The old leader may still say that it leads, so ask the others.
        demo.wait("another store leader", || {
            let others = stores::leaders(demo).into_iter().filter(|m| *m != old).collect::<Vec<_>>();
            Ok(if others.len() == 1 { Ok(()) } else { Err(format!("{others:?} lead")) })
        });
        took = start.elapsed();
        // Whatever of the elected components was on that master is elsewhere now.
        demo.kubectl(&["scale", "deployment", "web", "--replicas=4"]);
        demo.wait_web(4, "");
        demo.sandbox.heal().expect("the cable can be put back");
        stores::healthy(demo);
    });
    println!("      another member led after {:.2} s", took.as_secs_f64());
    demo.seconds("write gap after the store leader's partition", gap, 1.5);
    println!("      {writes} writes acknowledged, none lost");
    stores::agree(demo);
    let (leaders, _) = demo.wait("one store leader", || {
        let leaders = stores::leaders(demo);
        Ok(if leaders.len() == 1 { Ok(leaders) } else { Err(format!("{leaders:?} lead")) })
    });
    println!("      {} leads; {old} follows what it missed", leaders[0]);
    demo.kubectl(&["scale", "deployment", "web", "--replicas=3"]);
    demo.wait_web(3, "");
}

/// A worker is cut off: its pods are replaced, although they live; when the cable is back, they go.
pub(crate) fn worker(demo: &Demo) {
    demo.kubectl(&["scale", "deployment", "web", "--replicas=4"]);
    demo.wait_web(4, "");
    let lost: Vec<_> = demo.web().into_iter().filter(|p| p.node == "w2").collect();
    assert!(!lost.is_empty(), "the scheduler spreads the pods over both workers");
    let start = Instant::now();
    demo.sandbox.partition(&["w2".into()]).expect("the worker can be cut off");
    demo.wait_web(4, "w2");
    demo.seconds("replacements Ready after a worker's partition", start.elapsed(), 40.0);
    let old: Vec<_> = demo.web().into_iter().filter(|p| p.node == "w2").collect();
    assert_eq!(old.len(), lost.len(), "the old pods stay, because nobody knows what became of them: {old:?}");
    assert!(old.iter().all(|p| p.terminating), "the old pods are Terminating: {old:?}");
    let running = lost.iter().flat_map(|p| &p.containers).all(|c| runs(demo, c));
    assert!(running, "nobody could tell the worker to stop its containers");
    let start = Instant::now();
    demo.sandbox.heal().expect("the cable can be put back");
    demo.wait_nodes(&["w1", "w2"]);
    demo.wait_web(4, "");
    println!(
        "      Ready again and cleaned up {:.1} s after the cable was back",
        start.elapsed().as_secs_f64()
    );
    let left: Vec<_> = lost.iter().flat_map(|p| &p.containers).filter(|c| runs(demo, c)).collect();
    assert!(left.is_empty(), "containers of pods that are gone: {left:?}");
    demo.kubectl(&["scale", "deployment", "web", "--replicas=3"]);
    demo.wait_web(3, "");
}

/// Whether the runtime of w2 runs this container (`containerd://ID`).
fn runs(demo: &Demo, container: &str) -> bool {
    let id = container.trim_start_matches("containerd://");
    let socket = demo.sandbox.host("w2").expect("w2 exists").folder.join("containerd.sock");
    let socket = socket.display().to_string();
    let words = ["-a", &socket, "-n", "k8s.io", "tasks", "list", "-q"];
    let list = chaos::output("ctr", &words).expect("ctr runs");
    assert!(list.success, "ctr: {}", list.errors);
    list.text.lines().any(|l| l.trim() == id)
}
