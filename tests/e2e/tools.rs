//! What people do with kubectl all day: logs, exec, cp, port-forward, create, run.

use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};

use crate::demo::{Demo, GET};

pub(crate) fn all(demo: &Demo) {
    let pod = demo.web().remove(0).name;
    exec_and_logs(demo, &pod);
    copy(demo, &pod);
    forward(demo, &pod);
    create(demo);
}

fn exec_and_logs(demo: &Demo, pod: &str) {
    assert_eq!(demo.kubectl(&["exec", pod, "--", "sh", "-c", "echo $((6*7))"]), "42");
    demo.kubectl(&["exec", pod, "--", "sh", "-c", "echo hello from inside > /proc/1/fd/1"]);
    demo.wait("the line in the log", || {
        let log = demo.sandbox.kubectl(&["logs", pod])?;
        Ok(if log.contains("hello from inside") { Ok(()) } else { Err(format!("the log is {log:?}")) })
    });
    let failed = demo.sandbox.kubectl(&["exec", pod, "--", "sh", "-c", "exit 7"]);
    assert!(failed.is_err(), "an exit code must come through");
}

fn copy(demo: &Demo, pod: &str) {
    let folder = demo.sandbox.kubeconfig().with_file_name("copied");
    std::fs::create_dir_all(&folder).expect("the sandbox's folder is writable");
    let (there, back) = (folder.join("there"), folder.join("back"));
    let bytes: Vec<u8> = (0..200_000_u32).map(|n| (n.wrapping_mul(n) % 251) as u8).collect();
    std::fs::write(&there, &bytes).expect("the file is writable");
    let (there, back) = (there.display().to_string(), back.display().to_string());
    demo.kubectl(&["cp", &there, &format!("{pod}:/tmp/file")]);
    demo.kubectl(&["cp", &format!("{pod}:/tmp/file"), &back]);
    assert!(std::fs::read(&back).expect("it was copied") == bytes, "a file must come back as it went");
}

/// A child process that ends with its owner.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn forward(demo: &Demo, pod: &str) {
    let kubeconfig = demo.sandbox.kubeconfig().display().to_string();
    let words = ["--kubeconfig", &kubeconfig, "port-forward", pod, ":8080"];
    let child = Command::new("kubectl").args(words).stdout(Stdio::piped()).spawn().expect("kubectl runs");
    let mut running = Running(child);
    // The pipe stays open: kubectl ends when it cannot print its second line.
    let mut printed = BufReader::new(running.0.stdout.take().expect("it is piped"));
    let mut line = String::new();
    printed.read_line(&mut line).expect("it is text");
    // "Forwarding from 127.0.0.1:40123 -> 8080"
    let address = line.split_whitespace().nth(2).unwrap_or_default().to_string();
    let url = format!("http://{address}/");
    let done = Command::new("busybox").args(GET).arg(&url).output();
    let text = String::from_utf8_lossy(&done.expect("busybox runs").stdout).trim().to_string();
    assert_eq!(text, format!("web:1 {pod}"), "through {line:?}");
}

fn create(demo: &Demo) {
    demo.kubectl(&["create", "deployment", "other", "--image=demo.local/web:1"]);
    demo.kubectl(&["rollout", "status", "deployment/other", "--timeout=60s"]);
    demo.kubectl(&["delete", "deployment", "other", "--wait=false"]);
}

/// From `kubectl run` to Running, the image being there.
pub(crate) fn pod_start(demo: &Demo) {
    for number in 1..=3 {
        let name = format!("quick-{number}");
        demo.kubectl(&["run", &name, "--image=demo.local/web:1", "--labels=app=quick"]);
        let (_, took) = demo.wait("the pod Running", || {
            let pods = demo.cluster.pods("default", "app=quick")?;
            let pod = pods.iter().find(|p| p.name == name);
            Ok(if pod.is_some_and(|p| p.phase == "Running") { Ok(()) } else { Err(format!("{pod:?}")) })
        });
        demo.seconds("pod Running after kubectl run", took, 1.0);
    }
    demo.kubectl(&["delete", "pods", "-l", "app=quick", "--wait=false"]);
}
