//! The harness on a real machine, with components that do nothing: hosts, cables, power, and that nothing is left.

#![allow(clippy::unwrap_used, reason = "clippy knows test functions, but not their helpers")]

mod up;

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use chaos::{Sandbox, Spec, State, Steps, output};

const NAME: &str = "harness-test";

/// A program that runs until it is killed, under whatever name it is called; `admin` makes no certificates.
const IDLE: &str = r#"#!/bin/bash
[ "$1" = admin ] && exit 0
exec -a "$0" /bin/bash -c 'while :; do sleep 1000 & wait; done' "$0" "$@"
"#;

/// Removes the sandbox also when the test fails.
struct Guard(PathBuf);

impl Drop for Guard {
    fn drop(&mut self) {
        let _ = Sandbox::down(&self.0, NAME);
    }
}

fn make(root: &Path) -> Sandbox {
    let binary = root.join("idle");
    std::fs::write(&binary, IDLE).unwrap();
    std::fs::set_permissions(&binary, std::fs::Permissions::from_mode(0o755)).unwrap();
    let spec = Spec { masters: 2, workers: 1, port: 17443, binary };
    Sandbox::make(root, NAME, &spec, &Steps::quiet()).unwrap()
}

fn reaches(sandbox: &Sandbox, from: &str, to: &str) -> bool {
    let address = sandbox.host(to).unwrap().address.to_string();
    let mut command = sandbox.command(from, "busybox").unwrap();
    command.args(["ping", "-c", "1", "-W", "1", &address]).output().unwrap().status.success()
}

fn state(sandbox: &Sandbox, host: &str, component: &str) -> State {
    let status = sandbox.status();
    status.iter().find(|s| s.host == host && s.component == component).unwrap().state
}

#[test]
#[ignore = "needs root, containerd and iproute2"]
fn a_life() {
    let root = tempfile::tempdir().unwrap();
    let _guard = Guard(root.path().into());
    let sandbox = make(root.path());
    isolated();
    cables(&sandbox);
    processes(&sandbox);
    power(&sandbox);
    // A second `make` finds everything there.
    let State::Running(before) = state(&sandbox, "m1", "store") else { panic!("the store runs") };
    let again = make(root.path());
    assert_eq!(state(&again, "m1", "store"), State::Running(before));
    Sandbox::down(root.path(), NAME).unwrap();
    gone(root.path());
    Sandbox::down(root.path(), NAME).unwrap();
}

/// No address and no device of the sandbox is on the machine itself.
fn isolated() {
    let routes = output("ip", &["route"]).unwrap().text;
    assert!(!routes.contains("10.90.0."), "{routes}");
    let links = output("ip", &["-o", "link"]).unwrap().text;
    assert!(!links.contains(" p-m1"), "{links}");
}

fn cables(sandbox: &Sandbox) {
    assert!(reaches(sandbox, "m1", "m2") && reaches(sandbox, "w1", "lb"));
    sandbox.partition(&["m1".into(), "lb".into()]).unwrap();
    assert!(!reaches(sandbox, "m1", "m2") && !reaches(sandbox, "w1", "lb"));
    assert!(reaches(sandbox, "m1", "lb") && reaches(sandbox, "m2", "w1"));
    sandbox.heal().unwrap();
    assert!(reaches(sandbox, "m1", "m2") && !sandbox.partitioned());
}

fn processes(sandbox: &Sandbox) {
    sandbox.pause("m1", "store").unwrap();
    assert!(matches!(state(sandbox, "m1", "store"), State::Paused(_)));
    sandbox.resume("m1", "store").unwrap();
    sandbox.kill("m1", "store").unwrap();
    assert_eq!(state(sandbox, "m1", "store"), State::Dead);
    assert!(matches!(state(sandbox, "m2", "store"), State::Running(_)), "its neighbour lives");
    assert!(sandbox.kill("m1", "store").is_err());
    sandbox.start("m1", "store").unwrap();
    assert!(matches!(state(sandbox, "m1", "store"), State::Running(_)));
    assert!(sandbox.kill("m1", "nothing").is_err() && sandbox.host("m9").is_err());
}

fn power(sandbox: &Sandbox) {
    let folder = sandbox.host("w1").unwrap().folder;
    let boot = || std::fs::read_to_string(folder.join("boot-id")).unwrap();
    let first = boot();
    let mut witness: std::process::Child =
        sandbox.command("w1", "sleep").unwrap().arg("1000").spawn().unwrap();
    sandbox.poweroff("w1").unwrap();
    assert!(!sandbox.linked("w1").unwrap() && !reaches(sandbox, "m1", "w1"));
    assert!(!witness.wait().unwrap().success(), "everything on the host died");
    assert!(sandbox.status().iter().filter(|s| s.host == "w1").all(|s| !s.on && s.state == State::Dead));
    assert!(sandbox.start("w1", "kubelet").is_err(), "nothing starts on a host that is off");
    sandbox.poweron("w1").unwrap();
    assert!(sandbox.linked("w1").unwrap() && reaches(sandbox, "m1", "w1"));
    assert_ne!(boot(), first);
    assert!(matches!(state(sandbox, "w1", "containerd"), State::Running(_)));
}

fn gone(root: &Path) {
    assert!(!root.join(".sandbox").join(NAME).exists());
    let namespaces = output("ip", &["netns", "list"]).unwrap().text;
    assert!(!namespaces.contains(NAME), "{namespaces}");
    let marker = root.join(".sandbox").display().to_string();
    let left = Command::new("pgrep").args(["-f", &marker]).output();
    assert!(left.is_ok_and(|o| o.stdout.is_empty()), "processes are left");
}
