//! Being inside a host: a thread that has entered the host's network namespace and carries its name.
//!
//! Only network and host name change. `ip netns exec` would also remount `/sys` and hide the control groups from
//! runc; so does nothing here.

use std::fs::File;
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;

use nix::sched::{CloneFlags, setns, unshare};

use crate::{Error, Host, Result};

/// The file that stands for a namespace.
pub(crate) fn file(namespace: &str) -> PathBuf {
    PathBuf::from("/run/netns").join(namespace)
}

/// The namespace's number as `/proc/PID/ns/net` shows it, if the namespace exists.
pub(crate) fn number(namespace: &str) -> Option<u64> {
    let path = file(namespace);
    // A plain file without a mount is what a crash in the middle of `ip netns add` leaves.
    let meta = std::fs::metadata(path).ok()?;
    let machine = std::fs::metadata("/proc/self/ns/net").ok()?;
    (meta.dev() == machine.dev()).then_some(meta.ino())
}

/// Runs `work` on a thread inside the host; processes that it starts stay there.
pub(crate) fn inside<T: Send>(host: &Host, work: impl FnOnce() -> Result<T> + Send) -> Result<T> {
    let path = file(&host.namespace);
    let namespace = File::open(&path).map_err(Error::file("open", path))?;
    let entered = || {
        setns(&namespace, CloneFlags::CLONE_NEWNET).map_err(Error::system("enter the network namespace"))?;
        unshare(CloneFlags::CLONE_NEWUTS).map_err(Error::system("leave the machine's host name"))?;
        nix::unistd::sethostname(&host.name).map_err(Error::system("set the host name"))?;
        work()
    };
    std::thread::scope(|scope| scope.spawn(entered).join().expect("a panic inside a host is passed on"))
}
