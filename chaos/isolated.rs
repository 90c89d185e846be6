//! A test in namespaces of its own: processes, mounts and network.
//!
//! Keeps true: when the test ends, or the process that began it is killed, whatever the test has started, mounted or
//! opened is gone, because the kernel ends the namespaces; nothing that it does to processes, mounts or ports can meet
//! what does not belong to it. Its traffic stays on a loopback interface of its own.

use std::process::Command;

use crate::{Error, Result};

/// Tells the test that it is inside.
const INSIDE: &str = "TRIREME_ISOLATED";

/// What ends with the process that began it, then the namespaces, then what the test may expect in them.
const WORDS: &[&str] = &[
    "--pdeathsig",
    "KILL",
    "unshare",
    "--mount",
    "--net",
    "--pid",
    "--fork",
    "--kill-child",
    "--mount-proc",
    "sh",
    "-c",
    "ip link set lo up && exec \"$0\" \"$@\"",
];

/// Whether this process is inside. If it is not, the test of this name is run there, and must succeed.
pub fn inside(test: &str) -> Result<bool> {
    if std::env::var_os(INSIDE).is_some() {
        return Ok(true);
    }
    let failed = |source| Error::Program { program: "setpriv".into(), source };
    let mut command = Command::new("setpriv");
    command.args(WORDS).arg(std::env::current_exe().map_err(failed)?).env(INSIDE, "1");
    command.args(["--exact", test, "--ignored", "--nocapture", "--test-threads=1"]);
    let status = command.status().map_err(failed)?;
    if status.success() {
        return Ok(false);
    }
    let message = "what it said stands above".into();
    Err(Error::Failed { command: format!("the test {test}"), status: status.to_string(), message })
}
