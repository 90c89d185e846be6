//! What every chapter uses: the sandbox, kubectl, waiting, measurements.

use std::cell::RefCell;
use std::fmt::Debug;
use std::time::{Duration, Instant};

use chaos::api::{self, Cluster, PodView};
use chaos::{Result, Sandbox, Steps};

use crate::measure::Measure;

/// How long a condition may take that has no target of its own.
const LIMIT: Duration = Duration::from_secs(90);

/// busybox's own `wget -T` crashes in Debian's static build, so `timeout` ends a request that hangs.
pub(crate) const GET: [&str; 7] = ["timeout", "2", "busybox", "wget", "-q", "-O", "-"];

/// For work on one chapter: only those are told whose titles contain one of these words (a list with commas), on
/// the cluster that is there, which stays.
pub(crate) fn only() -> Option<String> {
    std::env::var("TRIREME_CHAPTERS").ok().filter(|words| !words.is_empty())
}

/// The demo app on its cluster.
pub(crate) struct Demo {
    pub(crate) sandbox: Sandbox,
    pub(crate) cluster: Cluster,
    measures: RefCell<Vec<Measure>>,
}

impl Demo {
    pub(crate) fn new(sandbox: Sandbox) -> Self {
        let cluster = sandbox.cluster().expect("the kubeconfig is good");
        Self { sandbox, cluster, measures: RefCell::default() }
    }

    pub(crate) fn chapter(&self, title: &str, tell: fn(&Self)) {
        if only().is_some_and(|words| !words.split(',').any(|word| title.contains(word))) {
            println!("--- {title}: left out");
            return;
        }
        let start = Instant::now();
        println!("--- {title}");
        tell(self);
        println!("--- {title}: {:.1} s", start.elapsed().as_secs_f64());
    }

    /// Whether only some chapters are told.
    pub(crate) fn is_partial(&self) -> bool {
        only().is_some()
    }

    /// Notes a time or a size; `close` judges all of them.
    pub(crate) fn note(&self, what: &str, value: f64, unit: &'static str, target: f64) {
        println!("      {what}: {value:.2} {unit} (target {target} {unit})");
        self.measures.borrow_mut().push(Measure { what: what.into(), value, unit, target });
    }

    /// Writes while something happens: the longest time between two acknowledged writes, and how many there were.
    /// Fails when one of them is not there afterwards.
    pub(crate) fn written(&self, name: &str, work: impl FnOnce()) -> (Duration, usize) {
        let written = chaos::writing(&self.sandbox, name, || {
            work();
            Ok(())
        });
        let written = written.unwrap_or_else(|error| panic!("{}", chaos::api::text(&error)));
        (written.gap, written.acknowledged.len())
    }

    pub(crate) fn seconds(&self, what: &str, value: Duration, target: f64) {
        self.note(what, value.as_secs_f64(), "s", target);
    }

    /// Prints all measurements, and fails when one is above five times its target.
    pub(crate) fn close(&self) {
        let measures = self.measures.borrow();
        println!("=== measurements");
        measures.iter().for_each(|m| println!("{m}"));
        let missed: Vec<String> = measures.iter().filter(|m| m.missed()).map(ToString::to_string).collect();
        assert!(missed.is_empty(), "above five times the target:\n{}", missed.join("\n"));
    }

    /// kubectl, which must succeed; its output without the space around it.
    pub(crate) fn kubectl(&self, words: &[&str]) -> String {
        let done = self.sandbox.kubectl(words);
        done.unwrap_or_else(|e| panic!("kubectl {}: {}", words.join(" "), api::text(&e))).trim().to_string()
    }

    /// kubectl in the balancer's host against one API server; it must succeed. The whole output.
    pub(crate) fn kubectl_on(&self, server: &str, words: &[&str]) -> String {
        let mut command = self.sandbox.command("lb", "kubectl").expect("there is a balancer");
        command.arg("--kubeconfig").arg(self.sandbox.kubeconfig()).args(["--server", server]).args(words);
        let done = command.output().expect("kubectl runs");
        let errors = String::from_utf8_lossy(&done.stderr);
        assert!(done.status.success(), "kubectl --server {server} {}: {errors}", words.join(" "));
        String::from_utf8_lossy(&done.stdout).into_owned()
    }

    /// What one API server says to `/readyz`, or why it says nothing.
    pub(crate) fn get_readyz(&self, server: &str) -> String {
        let mut command = self.sandbox.command("lb", "kubectl").expect("there is a balancer");
        command.arg("--kubeconfig").arg(self.sandbox.kubeconfig());
        let done = command.args(["--server", server, "get", "--raw", "/readyz"]).output();
        let done = done.expect("kubectl runs");
        let text = if done.status.success() { done.stdout } else { done.stderr };
        String::from_utf8_lossy(&text).trim().to_string()
    }

    /// Applies a manifest.
    pub(crate) fn apply(&self, manifest: &str) {
        let file = self.sandbox.kubeconfig().with_file_name("manifest.yaml");
        std::fs::write(&file, manifest).expect("the sandbox's folder is writable");
        self.kubectl(&["apply", "-f", &file.display().to_string()]);
    }

    /// Waits for a condition; how long it took.
    pub(crate) fn wait<T: Debug>(
        &self,
        what: &str,
        look: impl FnMut() -> Result<std::result::Result<T, String>>,
    ) -> (T, Duration) {
        let start = Instant::now();
        match api::wait(what, LIMIT, &mut Steps::quiet().say(), look) {
            Ok(found) => (found, start.elapsed()),
            Err(error) => panic!("{}", api::text(&error)),
        }
    }

    /// Pods of the demo app.
    pub(crate) fn web(&self) -> Vec<PodView> {
        self.wait("a list of pods", || self.cluster.pods("default", "app=web").map(Ok)).0
    }

    /// Waits until exactly `count` pods of the app are ready and none is on its way out, other than on `except`.
    pub(crate) fn wait_web(&self, count: usize, except: &str) -> Duration {
        self.wait(&format!("{count} ready pods"), || {
            let pods = self.cluster.pods("default", "app=web")?;
            let here: Vec<_> = pods.iter().filter(|p| p.node != except).collect();
            let good = here.iter().filter(|p| p.ready && !p.terminating).count();
            let done = good == count && here.len() == count;
            Ok(if done { Ok(()) } else { Err(format!("{good} ready of {}: {here:?}", here.len())) })
        })
        .1
    }

    /// Waits until these nodes are Ready and no others.
    pub(crate) fn wait_nodes(&self, names: &[&str]) -> Duration {
        self.wait(&format!("nodes {names:?} Ready"), || {
            let mut ready = self.cluster.ready_nodes()?;
            ready.sort();
            Ok(if ready == names { Ok(()) } else { Err(format!("{ready:?} are")) })
        })
        .1
    }

    /// One HTTP request from inside a host; the answer, or nothing when there was none within two seconds.
    pub(crate) fn get(&self, host: &str, url: &str) -> Option<String> {
        let mut command = self.sandbox.command(host, "busybox").expect("the host exists");
        let done = command.args(GET).arg(url).output().expect("busybox runs");
        done.status.success().then(|| String::from_utf8_lossy(&done.stdout).trim().to_string())
    }

    /// The service address of the demo app.
    pub(crate) fn address(&self) -> String {
        self.kubectl(&["get", "service", "web", "-o", "jsonpath={.spec.clusterIP}"])
    }
}
