//! API servers come and go: `default/kubernetes` leads to those that live, and one more is only one more process.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use crate::demo::Demo;
use crate::held::pid;

/// The host of the additional API server, and its URL.
const HOST: &str = "w1";
const ADDRESS: &str = "10.90.0.21";
const MASTERS: [&str; 3] = ["10.90.0.11", "10.90.0.12", "10.90.0.13"];
/// Seconds after which nobody is led to a dead API server any more.
const LIMIT: f64 = 5.0;

pub(crate) fn dead(demo: &Demo) {
    wait(demo, &MASTERS);
    demo.sandbox.kill("m2", "apiserver").expect("the API server runs");
    gone(demo, "API server out of default/kubernetes after kill -9", wait(demo, &[MASTERS[0], MASTERS[2]]));
    demo.sandbox.start("m2", "apiserver").expect("the API server starts");
    wait(demo, &MASTERS);
    demo.sandbox.stop("m2", "apiserver").expect("the API server stops");
    demo.seconds(
        "API server out of default/kubernetes after a clean stop",
        wait(demo, &[MASTERS[0], MASTERS[2]]),
        1.0,
    );
    demo.sandbox.start("m2", "apiserver").expect("the API server starts");
    let took = wait(demo, &MASTERS);
    println!("      back in default/kubernetes {:.2} s after its start", took.as_secs_f64());
}

/// Within the limit by its own right: five times as long would be no promise at all.
fn gone(demo: &Demo, what: &str, took: Duration) {
    demo.seconds(what, took, LIMIT);
    assert!(took.as_secs_f64() <= LIMIT, "{what}: {:.2} s, promised are {LIMIT} s", took.as_secs_f64());
}

/// Waits until both forms of the endpoints lead to exactly these.
fn wait(demo: &Demo, addresses: &[&str]) -> Duration {
    let wanted: BTreeSet<&str> = addresses.iter().copied().collect();
    let start = Instant::now();
    demo.wait(&format!("default/kubernetes leading to {addresses:?}"), || {
        let endpoints = "jsonpath={.subsets[*].addresses[*].ip}";
        let slices = "jsonpath={.endpoints[*].addresses[*]}";
        let endpoints = demo.sandbox.kubectl(&["get", "endpoints", "kubernetes", "-o", endpoints])?;
        let slices = demo.sandbox.kubectl(&["get", "endpointslice", "kubernetes", "-o", slices])?;
        let is = |text: &str| text.split_whitespace().collect::<BTreeSet<_>>() == wanted;
        let missing = format!("endpoints are {endpoints:?}, slices {slices:?}");
        Ok(if is(&endpoints) && is(&slices) { Ok(()) } else { Err(missing) })
    });
    start.elapsed()
}

/// A process that ends with its owner.
struct Server(Child);

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A fourth API server on a host that is no master: certificates from the shared folder, flags of a master.
pub(crate) fn another(demo: &Demo) {
    let folder = demo.sandbox.kubeconfig().with_file_name("further");
    certificates(demo, &folder);
    let start = Instant::now();
    let mut server = Server(start_server(demo, &folder));
    let url = format!("https://{ADDRESS}:6443");
    let ready = demo.wait("the further API server", || {
        let ended = server.0.try_wait().expect("it is a child of this process");
        assert!(ended.is_none(), "it ended: {ended:?}, see {}", folder.join("apiserver.log").display());
        let done = demo.get_readyz(&url);
        Ok(if done == "ok" { Ok(()) } else { Err(done) })
    });
    println!("      a fourth API server is ready {:.2} s after its start", ready.1.as_secs_f64());
    let all = [&MASTERS[..], &[ADDRESS]].concat();
    wait(demo, &all);
    println!("      in default/kubernetes after {:.2} s", start.elapsed().as_secs_f64());
    reads_and_writes(demo, &url);
    server.0.kill().expect("it runs");
    gone(demo, "further API server out of default/kubernetes", wait(demo, &MASTERS));
}

/// What is written through the new one is read through an old one at once, and the other way round.
fn reads_and_writes(demo: &Demo, url: &str) {
    let count = "jsonpath={.data.count}";
    demo.kubectl_on(url, &["create", "configmap", "further", "--from-literal=count=1"]);
    assert_eq!(demo.kubectl(&["get", "configmap", "further", "-o", count]), "1");
    demo.kubectl(&["patch", "configmap", "further", "-p", r#"{"data":{"count":"2"}}"#]);
    assert_eq!(demo.kubectl_on(url, &["get", "configmap", "further", "-o", count]), "2");
    let pod = demo.web().remove(0).name;
    assert_eq!(demo.kubectl_on(url, &["exec", &pod, "--", "hostname"]).trim(), pod, "it reaches kubelets");
    demo.kubectl_on(url, &["delete", "configmap", "further"]);
}

fn certificates(demo: &Demo, folder: &Path) {
    let text = |path: &Path| path.display().to_string();
    let shared = demo.sandbox.kubeconfig().with_file_name("pki");
    let words = ["admin", "pki", "--role", "master", "--name", "further", "--address", ADDRESS];
    let mut all: Vec<String> = words.iter().map(ToString::to_string).collect();
    all.extend(["--dir".into(), text(folder), "--shared".into(), text(&shared)]);
    all.extend(["--endpoint", "https://10.90.0.2:6443", "--san", "10.90.0.2"].map(String::from));
    let done = chaos::output(&text(&demo.sandbox.spec().binary), &all).expect("the binary runs");
    assert!(done.success, "{}", done.errors);
}

/// Started as m1's API server was, with its own certificates and address.
fn start_server(demo: &Demo, folder: &Path) -> Child {
    let line = fs::read(format!("/proc/{}/cmdline", pid(demo, "m1", "apiserver"))).expect("it runs");
    let line = String::from_utf8_lossy(&line).into_owned();
    let mut words = line.trim_end_matches('\0').split('\0');
    let program = PathBuf::from(words.next().expect("a program has a name"));
    let m1 = demo.sandbox.host("m1").expect("m1 exists").folder.display().to_string();
    let own = |word: &str| match word.starts_with("--advertise-address=") {
        true => format!("--advertise-address={ADDRESS}"),
        false => word.replace(&format!("{m1}/"), &format!("{}/", folder.display())),
    };
    let log = fs::File::create(folder.join("apiserver.log")).expect("the folder is writable");
    let mut command = demo.sandbox.command(HOST, &program.display().to_string()).expect("w1 exists");
    command.args(words.map(own)).stdin(Stdio::null()).stdout(Stdio::null()).stderr(log);
    command.spawn().expect("nsenter runs")
}
