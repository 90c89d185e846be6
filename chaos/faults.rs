//! What can happen to a host: its power goes, its cable is cut, it comes back. What can happen to the members of a
//! store is `store`, to the network between them `links`, to their disks `disk`.

pub mod disk;
pub mod links;
pub mod store;

use std::fs;
use std::path::Path;

use crate::component::{self, Place};
use crate::layout::Layout;
use crate::{Error, Host, Result, Role, State, containerd, mounts, network, process};

use nix::sys::signal::Signal;

/// Off, as when the plug is pulled: first nothing can be said any more, then everything is gone at once. The
/// namespace stays, because HAProxy keeps the one that it has opened.
pub(crate) fn poweroff(layout: &Layout, host: &Host) -> Result<()> {
    network::set_link(layout, host, false)?;
    fs::write(host.folder.join("off"), "").map_err(Error::file("write", host.folder.join("off")))?;
    for row in component::of(host).filter(|r| r.place == Place::Machine) {
        if process::state(host, row) != State::Dead {
            process::signal(host, row, Signal::SIGKILL)?;
            process::gone(host, row, 5)?;
        }
    }
    process::kill_all(host)?;
    mounts::clear(&host.folder)
}

/// On again: what a machine keeps in memory is gone, its disk is as it was.
pub(crate) fn poweron(layout: &Layout, host: &Host) -> Result<()> {
    clear_run_state(host)?;
    network::forget(host)?;
    network::set_link(layout, host, true)?;
    let off = host.folder.join("off");
    if off.exists() {
        fs::remove_file(&off).map_err(Error::file("remove", off))?;
    }
    component::of(host).try_for_each(|row| process::start(layout, host, row))
}

/// Whether the host is switched off.
pub(crate) fn is_off(host: &Host) -> bool {
    host.folder.join("off").exists()
}

fn clear_run_state(host: &Host) -> Result<()> {
    mounts::clear(&host.folder)?;
    new_boot(host)?;
    for row in component::of(host) {
        remove(&host.folder.join(format!("{}.pid", row.name)))?;
    }
    if host.role == Role::Worker {
        containerd::RUN_STATE.iter().try_for_each(|file| remove(&host.folder.join(file)))?;
    }
    Ok(())
}

/// A boot of its own, as /proc/sys/kernel/random/boot_id has it.
pub(crate) fn new_boot(host: &Host) -> Result<()> {
    let file = host.folder.join("boot-id");
    fs::write(&file, format!("{}\n", uuid::Uuid::new_v4())).map_err(Error::file("write", file))
}

/// Removes a file or a folder with everything in it, if it is there.
pub(crate) fn remove(path: &Path) -> Result<()> {
    let done = match fs::symlink_metadata(path) {
        Ok(meta) if meta.is_dir() => fs::remove_dir_all(path),
        Ok(_) => fs::remove_file(path),
        Err(_) => return Ok(()),
    };
    done.map_err(Error::file("remove", path))
}
