//! The control plane loses what leads: scheduler, controller manager, whole masters. Somebody else goes on.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::Sender;
use std::time::{Duration, Instant};

use chaos::Sandbox;

use crate::demo::Demo;

/// Writes that are acknowledged before the time between two of them counts, and before anything is broken.
const WARM: u64 = 10;

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

fn active(demo: &Demo, role: &str) -> String {
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

/// The leader's master goes while a client writes; then, the first being back, another one.
pub(crate) fn masters_poweroff(demo: &Demo) {
    let first = leader(demo);
    lose(demo, &first, "the store leader's");
    let second = ["m1", "m2", "m3"].into_iter().find(|m| *m != first).expect("there are three");
    lose(demo, second, "another");
    demo.wait_nodes(&["w1", "w2"]);
    demo.wait_web(3, "");
}

fn lose(demo: &Demo, master: &str, which: &str) {
    let (gap, writes) = written(demo, || {
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
    healthy(demo);
    demo.kubectl(&["delete", "pods", "-l", "app=during", "--wait=false"]);
}

/// Writes one after the other, from before `work` begins until after it has ended: the longest time between two
/// acknowledged writes, and how many there were. Fails when the last acknowledged one is not there afterwards.
fn written(demo: &Demo, work: impl FnOnce()) -> (Duration, u64) {
    let (stop, sandbox) = (AtomicBool::new(false), &demo.sandbox);
    let (started, start) = std::sync::mpsc::channel();
    let stopping = &stop;
    let writer = move || write_until(sandbox, stopping, &started);
    let (gap, acknowledged, last) = std::thread::scope(|scope| {
        let writer = scope.spawn(writer);
        start.recv_timeout(Duration::from_secs(60)).expect("the writer gets going");
        let worked = std::panic::catch_unwind(std::panic::AssertUnwindSafe(work));
        stop.store(true, Ordering::Relaxed);
        let done = writer.join().expect("writing ends");
        worked.unwrap_or_else(|cause| std::panic::resume_unwind(cause));
        done
    });
    let (there, _) =
        demo.wait("what was written", || Ok(demo.cluster.written("written")?.ok_or("nothing".into())));
    // The writer's last write was acknowledged, so exactly that one must be there.
    assert_eq!(there, last, "an acknowledged write is not there");
    (gap, acknowledged)
}

/// Writes until a write that began after `stop` is acknowledged: (longest gap, acknowledged writes, number of the
/// last). Says that it has started when `WARM` writes are acknowledged; only from then on the gap counts.
fn write_until(sandbox: &Sandbox, stop: &AtomicBool, started: &Sender<()>) -> (Duration, u64, u64) {
    let cluster = sandbox.cluster().expect("the kubeconfig is good");
    let (mut last, mut gap) = (Instant::now(), Duration::ZERO);
    let (mut count, mut acknowledged) = (0, 0);
    loop {
        let stopping = stop.load(Ordering::Relaxed);
        count += 1;
        if cluster.write("written", count).is_ok() {
            gap = if acknowledged < WARM { Duration::ZERO } else { gap.max(last.elapsed()) };
            (last, acknowledged) = (Instant::now(), acknowledged + 1);
            if acknowledged == WARM {
                let _ = started.send(());
            }
            if stopping {
                return (gap, acknowledged, count);
            }
        }
        assert!(last.elapsed() < Duration::from_secs(60), "no write was acknowledged for a minute");
    }
}

fn leader(demo: &Demo) -> String {
    demo.wait("a store leader", || Ok(demo.sandbox.store_leader().ok_or("nobody says it leads".into()))).0
}

/// Waits until all three members of the store answer.
fn healthy(demo: &Demo) {
    demo.wait("three healthy stores", || {
        let (success, text) = etcdctl(demo, &["endpoint", "health"]);
        Ok(if success { Ok(()) } else { Err(text) })
    });
}

pub(crate) fn stores_agree(demo: &Demo) {
    healthy(demo);
    let (hash, _) = demo.wait("the same hash on all three members", || {
        let (_, text) = etcdctl(demo, &["endpoint", "hashkv"]);
        let mut hashes: Vec<&str> = text.lines().filter_map(|l| l.split(", ").nth(1)).collect();
        let members = hashes.len();
        hashes.sort_unstable();
        hashes.dedup();
        // Leases are renewed all the time, so two members may be asked on two sides of a write.
        let same = members == 3 && hashes.len() == 1;
        Ok(if same { Ok(hashes[0].to_string()) } else { Err(text.clone()) })
    });
    println!("      hashkv is {hash} on all three");
}

fn etcdctl(demo: &Demo, words: &[&str]) -> (bool, String) {
    let folder = demo.sandbox.host("m1").expect("m1 exists").folder.join("pki/etcd");
    let file = |name: &str| folder.join(name).display().to_string();
    let mut command = demo.sandbox.command("m1", "etcdctl").expect("m1 exists");
    command.env("ETCDCTL_API", "3").args(["--cacert", &file("ca.crt")]);
    command.args(["--cert", &file("healthcheck-client.crt"), "--key", &file("healthcheck-client.key")]);
    command.arg("--endpoints=https://10.90.0.11:2379,https://10.90.0.12:2379,https://10.90.0.13:2379");
    let done = command.args(words).output().expect("etcdctl runs");
    let text = format!("{}{}", String::from_utf8_lossy(&done.stdout), String::from_utf8_lossy(&done.stderr));
    (done.status.success(), text)
}
