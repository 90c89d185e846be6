//! The demo, end to end: the tour that the README promises, on a cluster of its own with real containers.
//!
//! Keeps true: every step waits for a condition, never for time; every time that the project promises is measured
//! and printed, and fails only above five times its target (quiet benchmarks hold the targets themselves).
//! Needs root, kubectl, etcdctl and the packages of `deploy/up`: `tests/run` sees to that.

use std::path::{Path, PathBuf};

use chaos::{Options, Sandbox, Spec, Steps};

mod control;
mod cut;
mod daily;
mod demo;
mod endpoints;
mod failures;
mod held;
mod logs;
mod measure;
mod paused;
mod reach;
mod rollout;
mod session;
mod stores;
mod terminals;
mod tools;
mod tour;

use demo::Demo;

const NAME: &str = "e2e";
const PORT: u16 = 16443;

#[test]
#[ignore = "needs root and a release build; tests/run runs it"]
fn the_demo() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let binary =
        PathBuf::from(std::env::var("TRIREME_BIN").expect("TRIREME_BIN names the binary under test"));
    let binary = binary.canonicalize().expect("TRIREME_BIN exists");
    let demo = Demo::new(up(root, Spec { masters: 3, workers: 2, port: PORT, binary }));
    tools(&demo);
    failures(&demo);
    masters(&demo);
    demo.chapter("memory", measure::memory);
    demo.chapter("the stores agree", stores::agree);
    demo.close();
    if !demo.is_partial() {
        Sandbox::down(root, NAME).expect("the sandbox can be removed");
    }
}

/// What people do with a cluster that is well.
fn tools(demo: &Demo) {
    demo.chapter("reach", reach::from_everywhere);
    demo.chapter("scale", rollout::scale);
    demo.chapter("update and roll back without a failed request", rollout::update_and_back);
    demo.chapter("tools", tools::all);
    demo.chapter("logs", logs::all);
    demo.chapter("terminals", terminals::all);
    demo.chapter("why a pod does not fit", daily::why_it_does_not_fit);
    demo.chapter("events", daily::events);
    demo.chapter("drain", daily::drain);
    demo.chapter("tour with every kubectl", tour::with_every_kubectl);
    demo.chapter("pod start", tools::pod_start);
}

/// What fails, one after the other, and who goes on.
fn failures(demo: &Demo) {
    demo.chapter("a deleted pod comes back", failures::deleted_pod);
    demo.chapter("a killed process comes back", failures::killed_process);
    demo.chapter("a killed kubelet adopts its containers", failures::killed_kubelet);
    demo.chapter("a scheduler dies, a scheduler stops", control::scheduler);
    demo.chapter("a controller manager dies", control::controller_manager);
    demo.chapter("a paused scheduler is fenced", paused::scheduler);
    demo.chapter("a paused controller manager is fenced", paused::controller_manager);
    demo.chapter("API servers come and go", endpoints::dead);
    demo.chapter("a fourth API server", endpoints::another);
    demo.chapter("a worker loses its power", failures::worker_poweroff);
    demo.chapter("a worker is cut off", cut::worker);
}

/// The store's leader fails in every way while a client writes.
fn masters(demo: &Demo) {
    demo.chapter("the store's leader is paused", paused::store);
    demo.chapter("the store's leader is cut off", cut::master);
    demo.chapter("the store's leader loses its power", control::masters_poweroff);
}

/// The cluster, a new one unless only some chapters are told; what is left of a failed start stays for people to
/// look at.
fn up(root: &Path, spec: Spec) -> Sandbox {
    if demo::only().is_none() {
        Sandbox::down(root, NAME).expect("what an earlier run left can be removed");
    }
    let options = Options { spec, demo: true };
    match Sandbox::up(root, NAME, &options, &Steps::printed()) {
        Ok(sandbox) => sandbox,
        Err(error) => panic!("{}; logs are in .sandbox/{NAME}", chaos::api::text(&error)),
    }
}
