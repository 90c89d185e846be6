//! Mounting a part of a volume. Keeps true: the part lies inside the volume, whatever links a container put
//! there: the path is resolved by the kernel below the volume's root, and what was resolved is bound.

use std::{
    fs,
    os::fd::{AsRawFd, OwnedFd},
    path::{Component, Path, PathBuf},
};

use nix::{
    errno::Errno,
    fcntl::{OFlag, OpenHow, ResolveFlag, open, openat2},
    mount::{MsFlags, mount},
    sys::stat::{Mode, SFlag, fstat, mkdirat},
};

use super::is_mounted;
use crate::{Error, error::Result};

fn at(root: &OwnedFd, path: &Path) -> nix::Result<OwnedFd> {
    let how = OpenHow::new()
        .flags(OFlag::O_PATH | OFlag::O_CLOEXEC)
        .resolve(ResolveFlag::RESOLVE_IN_ROOT | ResolveFlag::RESOLVE_NO_MAGICLINKS);
    openat2(root, path, how)
}

/// Opens the part, making directories that are missing.
fn resolve(root: &OwnedFd, sub: &Path) -> nix::Result<OwnedFd> {
    let mut so_far = PathBuf::new();
    for part in sub.components() {
        let Component::Normal(name) = part else { continue };
        let parent =
            if so_far.as_os_str().is_empty() { at(root, Path::new("."))? } else { at(root, &so_far)? };
        so_far.push(name);
        match at(root, &so_far) {
            Err(Errno::ENOENT) => mkdirat(&parent, name, Mode::from_bits_truncate(0o750))?,
            Err(error) => return Err(error),
            Ok(_) => {}
        }
    }
    at(root, if so_far.as_os_str().is_empty() { Path::new(".") } else { &so_far })
}

/// Binds `sub` of the volume at `target`, and answers the target.
///
/// # Errors
/// When the part escapes the volume or cannot be mounted.
pub(crate) fn bind(volume: &Path, sub: &Path, target: &Path) -> Result<PathBuf> {
    if sub.is_absolute() || sub.components().any(|part| part == Component::ParentDir) {
        return Err(Error::Volume(format!("subPath {} must stay inside the volume", sub.display())));
    }
    if is_mounted(target) {
        return Ok(target.to_owned());
    }
    let root = open(volume, OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC, Mode::empty())
        .map_err(Error::errno("open", volume))?;
    let part = resolve(&root, sub).map_err(Error::errno("resolve a subPath of", volume))?;
    let kind = fstat(&part).map_err(Error::errno("look at a subPath of", volume))?.st_mode;
    let is_dir = SFlag::from_bits_truncate(kind) & SFlag::S_IFMT == SFlag::S_IFDIR;
    let parent = if is_dir { Some(target) } else { target.parent() };
    if let Some(parent) = parent {
        fs::create_dir_all(parent).map_err(Error::file("make directory", parent))?;
    }
    if !is_dir {
        fs::File::create(target).map_err(Error::file("make", target))?;
    }
    let source = PathBuf::from(format!("/proc/self/fd/{}", part.as_raw_fd()));
    mount(Some(&source), target, None::<&str>, MsFlags::MS_BIND | MsFlags::MS_REC, None::<&str>)
        .map_err(Error::errno("bind a subPath at", target))?;
    Ok(target.to_owned())
}
