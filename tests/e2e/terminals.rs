//! People inside containers: `exec -it` and `run -it` on a real terminal, `attach` with input and output.

use std::process::Command;

use crate::demo::Demo;
use crate::session::{Session, WINDOW};

/// Repeats what it is told.
const ECHO: &str = r#"
apiVersion: v1
kind: Pod
metadata: {name: echo, labels: {app: echo}}
spec:
  terminationGracePeriodSeconds: 1
  containers:
  - name: echo
    image: demo.local/web:1
    stdin: true
    command: [sh, -c, "while read line; do echo heard $line; done; sleep 1000"]
"#;

pub(crate) fn all(demo: &Demo) {
    let pod = demo.web().remove(0).name;
    exec(demo, &pod);
    attach(demo);
    run(demo);
}

/// A shell in a pod: a terminal of the same size, that follows the window, and gives back the exit code.
fn exec(demo: &Demo, pod: &str) {
    let mut shell = Session::terminal(demo, &format!("exec -it {pod} -- sh"));
    let device = shell.device(demo);
    shell.sees(demo, " # ");
    shell.type_line("echo inside $(tty)");
    shell.sees(demo, "inside /dev/pts/");
    size(demo, &mut shell, WINDOW);
    let resized = Command::new("stty").args(["-F", &device, "rows", "50", "cols", "90"]).status();
    assert!(resized.expect("stty runs").success(), "{device} can be resized");
    size(demo, &mut shell, "50 90");
    shell.type_line("exit 7");
    let (status, text) = shell.ends(demo);
    assert_eq!(status.code(), Some(7), "the exit code comes through: {text}");
}

/// Asks for the window's size until it is this: kubectl tells of it as soon as it can, which is after the start.
fn size(demo: &Demo, shell: &mut Session, expect: &str) {
    demo.wait(&format!("a window of {expect}"), || {
        shell.type_line("stty size");
        let text = shell.text();
        Ok(if text.contains(expect) { Ok(()) } else { Err(format!("the screen shows {text:?}")) })
    });
}

/// Two visits to the same process: it hears both, and goes on when the first visitor leaves.
fn attach(demo: &Demo) {
    demo.apply(ECHO);
    demo.kubectl(&["wait", "--for=condition=Ready", "pod/echo", "--timeout=60s"]);
    for word in ["first", "second"] {
        let mut visit = Session::piped(demo, &["attach", "-i", "echo"]);
        demo.wait("an answer of the process", || {
            // What is said before the connection is made is heard after it.
            visit.type_line(word);
            let text = visit.text();
            Ok(if text.contains(&format!("heard {word}")) { Ok(()) } else { Err(text) })
        });
    }
    let log = demo.kubectl(&["logs", "echo"]);
    assert!(log.contains("heard first") && log.contains("heard second"), "it all is in the log: {log}");
    demo.kubectl(&["delete", "pod", "echo", "--wait=false"]);
}

/// A pod for one conversation: made, talked to, gone.
fn run(demo: &Demo) {
    let words = "run box -it --rm --restart=Never --image=demo.local/web:1 --command -- sh";
    let mut shell = Session::terminal(demo, words);
    // The prompt itself may have been printed before kubectl was there to see it.
    demo.wait("an answer of the new shell", || {
        shell.type_line("echo $((6*7)) is it");
        let text = shell.text();
        Ok(if text.contains("42 is it") { Ok(()) } else { Err(format!("the screen shows {text:?}")) })
    });
    shell.type_line("exit 5");
    let (status, text) = shell.ends(demo);
    assert_eq!(status.code(), Some(5), "the container's exit code is kubectl's: {text}");
    assert!(text.contains("pod \"box\" deleted"), "--rm removes the pod: {text}");
    let left = demo.kubectl(&["get", "pods", "box", "--ignore-not-found"]);
    assert_eq!(left, "", "the pod is gone");
}
