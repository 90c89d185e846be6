//! A kubectl that goes on: what it has printed so far, what is typed into it, how it ends.
//!
//! Keeps true: it ends with its owner, also when the test fails; nobody waits for it without a limit.

use std::io::{Read, Write};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex, PoisonError};

use crate::demo::Demo;

/// The window that a terminal begins with.
pub(crate) const WINDOW: &str = "41 123";

/// A running kubectl.
pub(crate) struct Session {
    child: Child,
    printed: Arc<Mutex<Vec<u8>>>,
}

impl Session {
    /// kubectl with pipes, as in a script.
    pub(crate) fn piped(demo: &Demo, words: &[&str]) -> Self {
        let mut command = Command::new("kubectl");
        command.arg("--kubeconfig").arg(demo.sandbox.kubeconfig()).args(words);
        Self::start(command)
    }

    /// kubectl on a terminal of its own, whose name and window it prints first. `script` gives it the terminal,
    /// and ends as kubectl does.
    pub(crate) fn terminal(demo: &Demo, words: &str) -> Self {
        let kubeconfig = demo.sandbox.kubeconfig();
        let line = format!(
            "echo terminal $(tty); stty rows 41 cols 123; exec kubectl --kubeconfig '{}' {words}",
            kubeconfig.display()
        );
        let mut command = Command::new("script");
        command.args(["-qec", &line, "/dev/null"]).env("SHELL", "/bin/sh").env("TERM", "xterm");
        Self::start(command)
    }

    fn start(mut command: Command) -> Self {
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().unwrap_or_else(|e| panic!("cannot start {command:?}: {e}"));
        let printed = Arc::new(Mutex::default());
        let pipes: [Box<dyn Read + Send>; 2] = [
            Box::new(child.stdout.take().expect("it is piped")),
            Box::new(child.stderr.take().expect("it is piped")),
        ];
        for pipe in pipes {
            let printed = printed.clone();
            // Ends when the child does.
            std::thread::spawn(move || collect(pipe, &printed));
        }
        Self { child, printed }
    }

    /// Everything that it has printed.
    pub(crate) fn text(&self) -> String {
        let printed = self.printed.lock().unwrap_or_else(PoisonError::into_inner);
        String::from_utf8_lossy(&printed).into_owned()
    }

    /// Types a line.
    pub(crate) fn type_line(&mut self, line: &str) {
        let pipe = self.child.stdin.as_mut().expect("it is piped");
        pipe.write_all(format!("{line}\n").as_bytes()).expect("kubectl reads what is typed");
    }

    /// Waits until it has printed this.
    pub(crate) fn sees(&self, demo: &Demo, text: &str) {
        demo.wait(&format!("{text:?} on the screen"), || {
            let there = self.text();
            Ok(if there.contains(text) { Ok(()) } else { Err(format!("the screen shows {there:?}")) })
        });
    }

    /// The name of the terminal's device.
    pub(crate) fn device(&self, demo: &Demo) -> String {
        self.sees(demo, "terminal /dev/pts/");
        let text = self.text();
        let name = text.split("terminal ").nth(1).and_then(|t| t.split_whitespace().next());
        name.expect("it was just seen").to_string()
    }

    /// Waits until it has ended by itself.
    pub(crate) fn ends(mut self, demo: &Demo) -> (ExitStatus, String) {
        let child = &mut self.child;
        let (status, _) = demo.wait("the end of kubectl", || {
            let ended = child.try_wait().expect("it is a child of this process");
            Ok(ended.ok_or_else(|| "it still runs".to_string()))
        });
        (status, self.text())
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn collect(mut pipe: Box<dyn Read + Send>, printed: &Mutex<Vec<u8>>) {
    let mut buffer = [0; 4096];
    while let Ok(count @ 1..) = pipe.read(&mut buffer) {
        printed.lock().unwrap_or_else(PoisonError::into_inner).extend_from_slice(&buffer[..count]);
    }
}
