//! The tour with every kubectl on the machine: those beside the one in the PATH, and Debian's, which is the oldest.
//!
//! Keeps true: a version that is found is tried, which ones there were is printed, and without Debian's it fails.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Instant;

use crate::demo::Demo;

/// Where `tests/run` has put Debian's kubectl.
const DEBIAN: &str = "TRIREME_DEBIAN_KUBECTL";
/// Tried at the same time; kubectl needs a whole core to start.
const PARALLEL: usize = 2;

/// One kubectl; its own objects have its version in their names.
struct Kubectl {
    path: PathBuf,
    version: String,
    kubeconfig: PathBuf,
}

pub(crate) fn with_every_kubectl(demo: &Demo) {
    let all: Vec<Kubectl> = found(&demo.sandbox.kubeconfig()).into_values().collect();
    let (next, printed) = (std::sync::Mutex::new(all.iter()), std::sync::Mutex::new(()));
    let work = || {
        loop {
            let kubectl = next.lock().expect("nobody panics holding it").next();
            let Some(kubectl) = kubectl else { return };
            let start = Instant::now();
            kubectl.tour();
            let _turn = printed.lock().expect("nobody panics holding it");
            println!("      kubectl {}: {:.1} s", kubectl.version, start.elapsed().as_secs_f64());
        }
    };
    std::thread::scope(|scope| (0..PARALLEL).for_each(|_| drop(scope.spawn(work))));
    let versions: Vec<&str> = all.iter().map(|k| k.version.as_str()).collect();
    println!("      {} versions ran: {}", versions.len(), versions.join(", "));
}

/// All versions, each once.
fn found(kubeconfig: &Path) -> BTreeMap<String, Kubectl> {
    let debian = std::env::var(DEBIAN).unwrap_or_default();
    assert!(
        Path::new(&debian).is_file(),
        "{DEBIAN}={debian:?} is no file; tests/run brings Debian's kubectl"
    );
    let paths = std::env::var_os("PATH").unwrap_or_default();
    let plain = std::env::split_paths(&paths).map(|p| p.join("kubectl")).find(|p| p.is_file());
    let plain = plain.and_then(|p| p.canonicalize().ok()).expect("kubectl is in the PATH");
    let beside = std::fs::read_dir(plain.parent().expect("a file is in a folder")).expect("it is readable");
    let named = |p: &PathBuf| p.file_name().is_some_and(|n| n.to_string_lossy().starts_with("kubectl.1."));
    let mut all: Vec<PathBuf> = beside.flatten().map(|e| e.path()).filter(named).collect();
    all.extend([plain, debian.into()]);
    let with_version = |path: PathBuf| {
        let version = version(&path);
        (version.clone(), Kubectl { path, version, kubeconfig: kubeconfig.into() })
    };
    all.into_iter().map(with_version).collect()
}

/// `1.32.3`, as it says itself.
fn version(path: &Path) -> String {
    let done = Command::new(path).args(["version", "--client", "-o", "yaml"]).output();
    let done = done.unwrap_or_else(|e| panic!("cannot run {}: {e}", path.display()));
    let text = String::from_utf8_lossy(&done.stdout).into_owned();
    let line = text.lines().find_map(|l| l.trim().strip_prefix("gitVersion: v"));
    line.unwrap_or_else(|| panic!("{} has no version: {text}", path.display())).to_string()
}

impl Kubectl {
    /// Runs it; it must succeed.
    fn run(&self, words: &str) -> String {
        self.words(&words.split(' ').collect::<Vec<_>>())
    }

    fn words(&self, words: &[&str]) -> String {
        let mut command = Command::new(&self.path);
        // The discovery cache of one version is not for another.
        let cache = self.kubeconfig.with_file_name(format!("cache-{}", self.version));
        command.arg("--kubeconfig").arg(&self.kubeconfig).arg("--cache-dir").arg(cache);
        let done = command.args(words).output().expect("kubectl runs");
        let errors = String::from_utf8_lossy(&done.stderr);
        assert!(done.status.success(), "kubectl {} {}: {errors}", self.version, words.join(" "));
        String::from_utf8_lossy(&done.stdout).trim().to_string()
    }

    fn says(&self, words: &str, expect: &[&str]) {
        let text = self.run(words);
        let missing: Vec<_> = expect.iter().filter(|e| !text.contains(**e)).collect();
        assert!(missing.is_empty(), "kubectl {} {words}: no {missing:?} in\n{text}", self.version);
    }

    fn tour(&self) {
        let name = format!("tour-{}", self.version.replace(|c: char| !c.is_ascii_alphanumeric(), "-"));
        self.deployment(&name);
        self.pod(&format!("{name}-pod"));
        self.says("explain deployment.spec.strategy", &["RollingUpdate", "rollingUpdate"]);
        self.says("api-resources --api-group=apps", &["deployments", "statefulsets"]);
    }

    fn deployment(&self, name: &str) {
        let status = format!("rollout status deployment/{name} --timeout=90s");
        let image = format!("get deployment {name} -o jsonpath={{.spec.template.spec.containers[0].image}}");
        self.says(&format!("create deployment {name} --image=demo.local/web:1"), &["created"]);
        self.says(&status, &["successfully rolled out"]);
        self.says(&format!("set image deployment/{name} web=demo.local/web:2"), &["image updated"]);
        self.says(&status, &["successfully rolled out"]);
        assert_eq!(self.run(&image), "demo.local/web:2", "kubectl {}", self.version);
        self.says(&format!("rollout undo deployment/{name}"), &["rolled back"]);
        self.says(&status, &["successfully rolled out"]);
        assert_eq!(self.run(&image), "demo.local/web:1", "kubectl {}", self.version);
        self.says(&format!("get deployment {name} -o wide"), &["IMAGES", "1/1", "demo.local/web:1"]);
        self.says(&format!("scale deployment {name} --replicas=2"), &["scaled"]);
        self.says(&status, &["successfully rolled out"]);
        self.says(&format!("delete deployment {name}"), &["deleted"]);
    }

    fn pod(&self, name: &str) {
        let file = self.kubeconfig.with_file_name(format!("{name}.yaml"));
        std::fs::write(&file, POD.replace("NAME", name)).expect("the sandbox's folder is writable");
        let apply = format!("apply -f {}", file.display());
        self.says(&apply, &["created"]);
        self.says(&apply, &["unchanged"]);
        self.says(&format!("wait --for=condition=Ready pod/{name} --timeout=90s"), &["condition met"]);
        self.says(&format!("get pod {name} -o wide"), &["NODE", "Running", "10.244."]);
        assert_eq!(self.run(&format!("logs {name}")), format!("this is {name}"), "kubectl {}", self.version);
        let exec = self.words(&["exec", name, "--", "sh", "-c", "echo $((6*7)) in $(hostname)"]);
        assert_eq!(exec, format!("42 in {name}"), "kubectl {}", self.version);
        self.says(&format!("describe pod {name}"), &["Scheduled", "Started", "demo.local/web:1"]);
        self.says(&format!("delete -f {}", file.display()), &["deleted"]);
    }
}

const POD: &str = r#"
apiVersion: v1
kind: Pod
metadata: {name: NAME, labels: {app: tour}}
spec:
  terminationGracePeriodSeconds: 5
  containers:
  - name: web
    image: demo.local/web:1
    command: [sh, -c, "trap 'exit 0' TERM; echo this is $(hostname); while :; do sleep 1000 & wait; done"]
"#;
