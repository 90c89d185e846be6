//! `deploy/up` where it cannot succeed: it says what is wrong and what to do, and has changed nothing.
//!
//! It runs in a copy of `deploy/`, so that "nothing" is all of a folder.

use chaos::{Sandbox, Spec, Steps};
use std::collections::BTreeSet;
use std::net::TcpListener;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;

/// The repository's `deploy/` in a folder of its own.
struct Copy(tempfile::TempDir);

impl Copy {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        std::fs::set_permissions(folder.path(), std::fs::Permissions::from_mode(0o755)).unwrap();
        let deploy = Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy");
        let copied = Command::new("cp").arg("-r").arg(deploy).arg(folder.path()).status().unwrap();
        assert!(copied.success());
        Self(folder)
    }

    /// `deploy/up` with these options; what comes before it changes user or surroundings.
    fn up(&self, before: &[&str], options: &[&str]) -> Command {
        let line = [before, &["./deploy/up"], options].concat();
        let mut command = Command::new(line[0]);
        command.args(&line[1..]).current_dir(self.0.path()).env("TRIREME_BIN", "/bin/true");
        command
    }

    fn files(&self) -> BTreeSet<PathBuf> {
        fn walk(folder: &Path, found: &mut BTreeSet<PathBuf>) {
            for entry in std::fs::read_dir(folder).unwrap().flatten() {
                found.insert(entry.path());
                if entry.file_type().unwrap().is_dir() {
                    walk(&entry.path(), found);
                }
            }
        }
        let mut found = BTreeSet::new();
        walk(self.0.path(), &mut found);
        found
    }

    /// It fails, its last line is this, and no file came or went.
    fn refuses(&self, mut command: Command, expect: &str) {
        let before = self.files();
        let output = command.output().unwrap();
        let text = String::from_utf8_lossy(&output.stderr);
        assert!(!output.status.success(), "{command:?} succeeded");
        assert_eq!(text.lines().last().unwrap_or_default(), expect, "{command:?}: {text}");
        assert!(output.stdout.is_empty(), "{command:?} began: {}", String::from_utf8_lossy(&output.stdout));
        assert_eq!(self.files(), before, "{command:?} left something");
    }
}

#[test]
fn wrong_options() {
    let copy = Copy::new();
    let check = |options: &[&str], expect: &str| copy.refuses(copy.up(&[], options), expect);
    check(&["--bogus"], "error: unknown option --bogus: see above");
    check(&["--masters"], "error: --masters needs a value: see above");
    check(&["--masters", "three"], "error: --masters three: give a number from 1 to 9");
    check(&["--masters=0"], "error: --masters 0: give a number from 1 to 9");
    check(&["--workers=-1"], "error: --workers -1: give a number from 0 to 99");
    check(&["--port", "99999"], "error: --port 99999: give a number from 1 to 65535");
    check(&["--port=080000"], "error: --port 080000: give a number from 1 to 65535");
    let name = "use 1 to 20 characters of a-z, 0-9 and -, a letter first";
    for wrong in ["UPPER", "../up", "", "a b", "9a"] {
        check(&["--name", wrong], &format!("error: --name {wrong}: {name}"));
    }
}

#[test]
#[ignore = "needs root"]
fn not_root() {
    let copy = Copy::new();
    let nobody = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"];
    let expect =
        "error: this needs root (namespaces, containers): run it again as root, for example with sudo";
    copy.refuses(copy.up(&nobody, &[]), expect);
}

/// A folder with all of the machine's programs but one.
fn without(program: &str, folder: &Path) -> String {
    for entry in ["/bin", "/sbin", "/usr/bin", "/usr/sbin"].into_iter().flat_map(std::fs::read_dir) {
        for file in entry.flatten().filter(|file| file.file_name() != program) {
            let _ = symlink(file.path(), folder.join(file.file_name()));
        }
    }
    folder.display().to_string()
}

#[test]
#[ignore = "needs root"]
fn tools_are_missing() {
    let copy = Copy::new();
    for (program, expect) in [
        ("cargo", "error: there is no cargo in the PATH: install Rust 1.95 or newer from https://rustup.rs"),
        ("apt-get", "error: there is no apt-get: run it on a Debian 12 machine"),
    ] {
        let folder = tempfile::tempdir().unwrap();
        let mut command = copy.up(&["/bin/bash"], &[]);
        command
            .env_remove("TRIREME_BIN")
            .env("PATH", without(program, folder.path()))
            .env("HOME", "/nonexistent");
        copy.refuses(command, expect);
    }
    let mut command = copy.up(&[], &[]);
    command.env("TRIREME_BIN", "/nonexistent/trireme");
    let expect = "error: TRIREME_BIN=/nonexistent/trireme cannot be run: give the path of a trireme binary";
    copy.refuses(command, expect);
}

#[test]
#[ignore = "needs root"]
fn the_port_is_taken() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let copy = Copy::new();
    let options = ["--name", "second", "--port", &port.to_string()];
    let expect = format!(
        "error: port {port} of 127.0.0.1 is taken by another program: stop it, or choose another with --port"
    );
    copy.refuses(copy.up(&[], &options), &expect);
}

#[test]
#[ignore = "needs root"]
fn the_disk_is_full() {
    let folder = tempfile::tempdir().unwrap();
    let mount =
        |args: &[&str]| Command::new(args[0]).args(&args[1..]).arg(folder.path()).status().unwrap().success();
    assert!(mount(&["mount", "-t", "tmpfs", "-o", "size=64m", "small"]));
    let spec = Spec { masters: 1, workers: 1, port: 17444, binary: "/bin/true".into() };
    let made = Sandbox::make(folder.path(), "full", &spec, &Steps::quiet());
    let left = std::fs::read_dir(folder.path()).unwrap().count();
    assert!(mount(&["umount"]));
    let expect = format!(
        "only 64 MB free in {}: a cluster needs 3072 MB, on a fuller disk its nodes take no pods",
        folder.path().display()
    );
    assert_eq!((made.err().map(|error| error.to_string()), left), (Some(expect), 0));
}
