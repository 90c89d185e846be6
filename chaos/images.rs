//! The images that the sandbox brings along, made without any registry or container tool: the pause container, the
//! demo's web server in two versions, cluster DNS from the binary under test.
//!
//! Keeps true: the same inputs give the same bytes, and an archive under its final name is complete.
//! Formats: OCI image layout and image configuration 1.0, POSIX ustar.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use crate::{Error, Result, command};

mod archive;
mod tar;

use archive::Image;
use tar::Tar;

/// The image of every pod's sandbox.
pub const PAUSE: &str = "trireme.local/pause:1";
/// The demo's first version.
pub const WEB_1: &str = "demo.local/web:1";
/// The demo's second version.
pub const WEB_2: &str = "demo.local/web:2";
/// Cluster DNS.
pub const DNS: &str = "trireme.local/dns:1";

const BUSYBOX: &str = "/bin/busybox";

/// Ends at once when told to, and reaps what its pod leaves.
const PAUSE_SCRIPT: &str = "trap 'exit 0' TERM INT; sleep 2147483647 & wait";

/// Answers with version and host name; stops at once on TERM, what it is answering included.
const WEB_SCRIPT: &str = "mkdir -p /www && echo \"web:$VERSION $(hostname)\" > /www/index.html
httpd -f -p 8080 -h /www & trap 'kill $!; exit 0' TERM INT; wait";

/// Makes the archives that are missing or older than what they are made of, and hands each to `done` as soon as
/// it is there, in order of need: no pod starts before `pause` is there, and the one with the binary takes longest.
pub fn ensure(folder: &Path, binary: &Path, mut done: impl FnMut(&Path) -> Result<()>) -> Result<()> {
    fs::create_dir_all(folder).map_err(Error::file("make", folder))?;
    let busybox = Path::new(BUSYBOX);
    done(&fresh(&folder.join("pause.tar"), busybox, || shell(PAUSE, PAUSE_SCRIPT, &[]))?)?;
    done(&fresh(&folder.join("web-1.tar"), busybox, || shell(WEB_1, WEB_SCRIPT, &["VERSION=1"]))?)?;
    done(&fresh(&folder.join("web-2.tar"), busybox, || shell(WEB_2, WEB_SCRIPT, &["VERSION=2"]))?)?;
    done(&fresh(&folder.join("dns.tar"), binary, || dns(folder, binary))?)
}

/// The archive at `path`, made again when `input` is newer, or when this program is.
fn fresh(path: &Path, input: &Path, make: impl FnOnce() -> Result<Image>) -> Result<PathBuf> {
    let changed = |p: &Path| fs::metadata(p).and_then(|m| m.modified());
    let input = changed(input).map_err(Error::file("read", input))?;
    let program = std::env::current_exe().and_then(|p| changed(&p)).unwrap_or(SystemTime::UNIX_EPOCH);
    if changed(path).is_ok_and(|made| made > input && made > program) {
        return Ok(path.to_path_buf());
    }
    let temporary = path.with_extension(format!("tmp{}", std::process::id()));
    fs::write(&temporary, make()?.archive()).map_err(Error::file("write", &temporary))?;
    fs::rename(&temporary, path).map_err(Error::file("write", path))?;
    Ok(path.to_path_buf())
}

/// An image with a shell in which `script` runs.
fn shell(name: &str, script: &str, environment: &[&str]) -> Result<Image> {
    let program = fs::read(BUSYBOX).map_err(Error::file("read", BUSYBOX))?;
    let mut tar = base();
    tar.file("bin/busybox", 0o755, &program);
    let list = command::run(BUSYBOX, &["--list"])?;
    for applet in list.lines().filter(|a| *a != "busybox") {
        tar.link(&format!("bin/{applet}"), "busybox");
    }
    Ok(Image::new(name, tar, &["/bin/sh", "-c", script], environment))
}

/// The binary under test with the libraries that it is linked with.
fn dns(folder: &Path, binary: &Path) -> Result<Image> {
    let mut tar = base();
    let stripped = folder.join(format!("dns.{}", std::process::id()));
    let words = [Path::new("-o"), &stripped, binary];
    let program = match command::run("strip", &words) {
        Ok(_) => fs::read(&stripped).map_err(Error::file("read", &stripped)),
        Err(_) => fs::read(binary).map_err(Error::file("read", binary)),
    };
    let _ = fs::remove_file(&stripped);
    tar.file("usr/bin/trireme", 0o755, &program?);
    for library in libraries(binary)? {
        let bytes = fs::read(&library).map_err(Error::file("read", &library))?;
        tar.file(library.trim_start_matches('/'), 0o755, &bytes);
    }
    Ok(Image::new(DNS, tar, &["/usr/bin/trireme", "dns"], &[]))
}

/// What every image has.
fn base() -> Tar {
    let mut tar = Tar::default();
    for (folder, mode) in [("bin", 0o755), ("etc", 0o755), ("tmp", 0o1777), ("www", 0o755)] {
        tar.folder(folder, mode);
    }
    tar.file("etc/passwd", 0o644, b"root:x:0:0:root:/:/bin/sh\nnobody:x:65534:65534:nobody:/:/bin/false\n");
    tar.file("etc/group", 0o644, b"root:x:0:\nnogroup:x:65534:\n");
    tar
}

/// The shared libraries of a program and its loader, as paths; none for a static program.
fn libraries(binary: &Path) -> Result<Vec<String>> {
    let listed = command::output("ldd", &[binary])?;
    let path = |line: &str| line.split_whitespace().find(|w| w.starts_with('/')).map(str::to_string);
    Ok(listed.text.lines().filter_map(path).collect())
}
