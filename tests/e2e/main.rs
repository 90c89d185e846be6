//! The demo, end to end: the tour that the README promises, on a cluster of its own with real containers.
//!
//! Keeps true: every step waits for a condition, never for time; every time that the project promises is measured
//! and printed, and fails only above five times its target (quiet benchmarks hold the targets themselves).
//! Needs root, kubectl, etcdctl and the packages of `deploy/up`: `tests/run` sees to that.

use std::path::{Path, PathBuf};

use chaos::{Options, Sandbox, Spec, Steps};

mod control;
mod demo;
mod failures;
mod measure;
mod reach;
mod rollout;
mod tools;

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
    Sandbox::down(root, NAME).expect("what an earlier run left can be removed");
    let spec = Spec { masters: 3, workers: 2, port: PORT, binary };
    let demo = Demo::new(up(root, spec));
    demo.chapter("reach", reach::from_everywhere);
    demo.chapter("scale", rollout::scale);
    demo.chapter("update and roll back without a failed request", rollout::update_and_back);
    demo.chapter("tools", tools::all);
    demo.chapter("pod start", tools::pod_start);
    demo.chapter("a deleted pod comes back", failures::deleted_pod);
    demo.chapter("a killed process comes back", failures::killed_process);
    demo.chapter("a killed kubelet adopts its containers", failures::killed_kubelet);
    demo.chapter("a scheduler dies, a scheduler stops", control::scheduler);
    demo.chapter("a controller manager dies", control::controller_manager);
    demo.chapter("a worker loses its power", failures::worker_poweroff);
    demo.chapter("the store's leader loses its power", control::masters_poweroff);
    demo.chapter("memory", measure::memory);
    demo.chapter("the stores agree", control::stores_agree);
    demo.close();
    Sandbox::down(root, NAME).expect("the sandbox can be removed");
}

/// The cluster; what is left of a failed start stays for people to look at.
fn up(root: &Path, spec: Spec) -> Sandbox {
    let options = Options { spec, demo: true };
    match Sandbox::up(root, NAME, &options, &Steps::printed()) {
        Ok(sandbox) => sandbox,
        Err(error) => panic!("{}; logs are in .sandbox/{NAME}", chaos::api::text(&error)),
    }
}
