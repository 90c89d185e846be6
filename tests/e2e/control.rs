//! The control plane loses what leads: scheduler, controller manager, whole masters. Somebody else goes on.

use std::time::{Duration, Instant};

use crate::demo::Demo;
use crate::stores;

pub(crate) fn scheduler(demo: &Demo) {
    let active = active(demo, "scheduler");
    demo.sandbox.kill(&active, "scheduler").expect("the active scheduler runs");
    demo.seconds("pod bound after kill -9 of the scheduler", bound(demo, "killed"), 3.0);
    demo.sandbox.start(&active, "scheduler").expect("the scheduler starts");
    let next = self::active(demo, "scheduler");
    demo.sandbox.stop(&next, "scheduler").expect("the active scheduler stops");
    demo.seconds("pod bound after a clean stop of the scheduler", bound(demo, "stopped"), 0.5);
    demo.sandbox.start(&next, "scheduler").expect("the scheduler starts");
    demo.kubectl(&["delete", "pods", "-l", "app=bound", "--wait=false"]);
}

/// From now until a new pod has a node. kubectl's own time counts, which is for it to be fast.
fn bound(demo: &Demo, name: &str) -> Duration {
    let start = Instant::now();
    demo.kubectl(&["run", name, "--image=demo.local/web:1", "--labels=app=bound"]);
    demo.wait("the pod bound", || {
        let pods = demo.cluster.pods("default", "app=bound")?;
        let bound = pods.iter().any(|p| p.name == name && !p.node.is_empty());
        Ok(if bound { Ok(()) } else { Err(format!("{pods:?}")) })
    });
    start.elapsed()
}

pub(crate) fn controller_manager(demo: &Demo) {
    let active = active(demo, "controller-manager");
    demo.sandbox.kill(&active, "controller-manager").expect("the active controller manager runs");
    demo.kubectl(&["scale", "deployment", "web", "--replicas=4"]);
    let took = demo.wait_web(4, "");
    println!("      another controller manager had scaled after {:.1} s", took.as_secs_f64());
    demo.sandbox.start(&active, "controller-manager").expect("the controller manager starts");
    demo.kubectl(&["scale", "deployment", "web", "--replicas=3"]);
    demo.wait_web(3, "");
}

pub(crate) fn active(demo: &Demo, role: &str) -> String {
    demo.wait(&format!("an active {role}"), || {
        let holder = match role {
            "scheduler" => demo.sandbox.scheduler()?,
            _ => demo.sandbox.controller_manager()?,
        };
        let status = demo.sandbox.status();
        let runs = |host: &String| {
            let mut lines = status.iter().filter(|s| &s.host == host && s.component == role);
            lines.any(|s| matches!(s.state, chaos::State::Running(_)))
        };
        Ok(holder.filter(runs).ok_or_else(|| "nobody leads, or the one that did is dead".into()))
    })
    .0
}

/// The leader's master goes while a client writes; then, the first being back, one that does not lead.
pub(crate) fn masters_poweroff(demo: &Demo) {
    let first = stores::leader(demo);
    lose(demo, &first, "the store leader's");
    let next = stores::leader(demo);
    let second = ["m1", "m2", "m3"].into_iter().find(|m| *m != first && *m != next).expect("there are three");
    lose(demo, second, "another");
    demo.wait_nodes(&["w1", "w2"]);
    demo.wait_web(3, "");
}

fn lose(demo: &Demo, master: &str, which: &str) {
    let (gap, writes) = demo.written(master, || {
        demo.sandbox.poweroff(master).expect("the master can be switched off");
        // Long enough for the elections of the store and of whatever led on that master. A write that was under way
        // may be answered with an error although it happened.
        demo.wait("a new pod accepted", || {
            let words = ["run", master, "--image=demo.local/web:1", "--labels=app=during"];
            let done = demo.sandbox.kubectl(&words).map_err(|e| chaos::api::text(&e));
            Ok(done.map(drop).or_else(|e| if e.contains("AlreadyExists") { Ok(()) } else { Err(e) }))
        });
        demo.wait("a new pod without that master", || {
            let pods = demo.cluster.pods("default", "app=during")?;
            let ready = pods.iter().any(|p| p.name == master && p.ready);
            Ok(if ready { Ok(()) } else { Err(format!("{pods:?}")) })
        });
    });
    demo.seconds(&format!("write gap after {which} master's power-off"), gap, 1.5);
    println!("      {writes} writes acknowledged, none lost");
    demo.sandbox.poweron(master).expect("the master can be switched on");
    stores::healthy(demo);
    demo.kubectl(&["delete", "pods", "-l", "app=during", "--wait=false"]);
}
