//! Scaling, a rolling update while a client polls, and back.

use std::sync::atomic::{AtomicBool, Ordering};

use crate::demo::{Demo, GET};

pub(crate) fn scale(demo: &Demo) {
    demo.kubectl(&["scale", "deployment", "web", "--replicas=6"]);
    let took = demo.wait_web(6, "");
    println!("      3 to 6 pods: {:.1} s", took.as_secs_f64());
    demo.kubectl(&["scale", "deployment", "web", "--replicas=3"]);
    demo.wait_web(3, "");
}

pub(crate) fn update_and_back(demo: &Demo) {
    let (asked, failed) = polled(demo, || {
        demo.kubectl(&["set", "image", "deployment/web", "web=demo.local/web:2"]);
        demo.kubectl(&["rollout", "status", "deployment/web", "--timeout=90s"]);
        settled(demo, "web:2 ");
        demo.kubectl(&["rollout", "undo", "deployment/web"]);
        demo.kubectl(&["rollout", "status", "deployment/web", "--timeout=90s"]);
        settled(demo, "web:1 ");
    });
    println!("      {asked} requests during an update and its roll-back, {failed} failed");
    assert_eq!(failed, 0, "a rolling update must not fail a request");
    let history = demo.kubectl(&["rollout", "history", "deployment/web"]);
    assert!(history.lines().any(|l| l.starts_with('3')), "the roll-back is revision 3:\n{history}");
}

/// Waits until only this version answers and nothing is on its way out.
fn settled(demo: &Demo, version: &str) {
    demo.wait_web(3, "");
    let url = format!("http://{}/", demo.address());
    for _ in 0..20 {
        let text = demo.get("w1", &url).unwrap_or_default();
        assert!(text.starts_with(version), "after the roll-out: {text}");
    }
}

/// Polls the service from both workers while `work` goes on: (requests, failed ones).
fn polled(demo: &Demo, work: impl FnOnce()) -> (u32, u32) {
    let url = format!("http://{}/", demo.address());
    let stop = AtomicBool::new(false);
    let sandbox = &demo.sandbox;
    let poll = |host: &'static str| {
        let (mut asked, mut failed) = (0, 0);
        while !stop.load(Ordering::Relaxed) {
            let mut command = sandbox.command(host, "busybox").expect("the host exists");
            let done = command.args(GET).arg(&url).output().expect("busybox runs");
            asked += 1;
            if !done.status.success() {
                failed += 1;
                println!("      request {asked} on {host}: {}", String::from_utf8_lossy(&done.stderr).trim());
            }
        }
        (asked, failed)
    };
    std::thread::scope(|scope| {
        let (one, two) = (scope.spawn(|| poll("w1")), scope.spawn(|| poll("w2")));
        let worked = std::panic::catch_unwind(std::panic::AssertUnwindSafe(work));
        stop.store(true, Ordering::Relaxed);
        let (one, two) = (one.join().expect("polling ends"), two.join().expect("polling ends"));
        worked.unwrap_or_else(|cause| std::panic::resume_unwind(cause));
        (one.0 + two.0, one.1 + two.1)
    })
}
