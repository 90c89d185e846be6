//! A pod's volumes. Keeps true: setting up is idempotent (it is repeated for live updates and after a
//! restart), payloads change atomically, tearing down leaves no mount behind. One row of `KINDS` per kind.

mod atomic;
mod host_path;
mod payload;
pub(crate) mod subpath;

use std::{
    fs,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
};

use futures::future::BoxFuture;
use k8s_openapi::api::core::v1::{Pod, Volume};
use nix::mount::{MntFlags, MsFlags, mount, umount2};

use crate::{
    Error,
    context::Context,
    error::Result,
    pod::{spec, uid},
};

/// A volume that can be mounted into containers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mounted {
    /// Its name in the pod.
    pub name: String,
    /// Where it lies on the node.
    pub path: PathBuf,
    /// Whether containers must not write.
    pub read_only: bool,
}

/// What a kind needs to set a volume up.
pub(crate) struct Setup<'a> {
    pub(crate) context: &'a Context,
    pub(crate) pod: &'a Pod,
    pub(crate) volume: &'a Volume,
    /// The volume's own directory on the node.
    pub(crate) directory: PathBuf,
    /// The pod's addresses, as far as they are known.
    pub(crate) ips: &'a [String],
}

type SetUp = for<'a> fn(Setup<'a>) -> BoxFuture<'a, Result<Mounted>>;

/// A kind of volume.
struct Kind {
    /// The directory's name, as upstream's plug-ins have it.
    plugin: &'static str,
    applies: fn(&Volume) -> bool,
    set_up: SetUp,
    /// Whether the content follows API objects and is set up again from time to time.
    live: bool,
}

const KINDS: [Kind; 6] = [
    Kind {
        plugin: "kubernetes.io~empty-dir",
        applies: |volume| volume.empty_dir.is_some(),
        set_up: |setup| Box::pin(async move { empty_dir(&setup) }),
        live: false,
    },
    Kind {
        plugin: "kubernetes.io~host-path",
        applies: |volume| volume.host_path.is_some(),
        set_up: |setup| Box::pin(async move { host_path::set_up(&setup) }),
        live: false,
    },
    Kind {
        plugin: "kubernetes.io~configmap",
        applies: |volume| volume.config_map.is_some(),
        set_up: |setup| Box::pin(payload::config_map(setup)),
        live: true,
    },
    Kind {
        plugin: "kubernetes.io~secret",
        applies: |volume| volume.secret.is_some(),
        set_up: |setup| Box::pin(payload::secret(setup)),
        live: true,
    },
    Kind {
        plugin: "kubernetes.io~projected",
        applies: |volume| volume.projected.is_some(),
        set_up: |setup| Box::pin(payload::projected(setup)),
        live: true,
    },
    Kind {
        plugin: "kubernetes.io~downward-api",
        applies: |volume| volume.downward_api.is_some(),
        set_up: |setup| Box::pin(payload::downward_api(setup)),
        live: true,
    },
];

fn kind(volume: &Volume) -> Result<&'static Kind> {
    let found = KINDS.iter().find(|kind| (kind.applies)(volume));
    found.ok_or_else(|| {
        let name = &volume.name;
        Error::Volume(format!("MountVolume.SetUp failed for volume \"{name}\" : no volume plugin matched"))
    })
}

/// Sets all volumes of a pod up.
///
/// # Errors
/// The first volume that failed, in the words of upstream's `FailedMount` event.
pub(crate) async fn set_up(context: &Context, pod: &Pod, ips: &[String]) -> Result<Vec<Mounted>> {
    each(context, pod, ips, false).await
}

/// Brings volumes whose content follows API objects up to date.
///
/// # Errors
/// The first volume that failed; the others keep their content.
pub(crate) async fn refresh(context: &Context, pod: &Pod, ips: &[String]) -> Result<Vec<Mounted>> {
    each(context, pod, ips, true).await
}

/// Whether a pod has volumes whose content follows API objects.
#[must_use]
pub(crate) fn has_live(pod: &Pod) -> bool {
    spec(pod).volumes.iter().flatten().any(|volume| kind(volume).is_ok_and(|kind| kind.live))
}

async fn each(context: &Context, pod: &Pod, ips: &[String], live_only: bool) -> Result<Vec<Mounted>> {
    let spec = spec(pod);
    let base = context.config.pod_dir(uid(pod)).join("volumes");
    let mut work = Vec::new();
    for volume in spec.volumes.iter().flatten() {
        let kind = kind(volume)?;
        if live_only && !kind.live {
            continue;
        }
        let directory = base.join(kind.plugin).join(&volume.name);
        let setup = Setup { context, pod, volume, directory, ips };
        work.push(async move {
            (kind.set_up)(setup).await.map_err(|error| {
                let name = &volume.name;
                Error::Volume(format!("MountVolume.SetUp failed for volume \"{name}\" : {}", error.chain()))
            })
        });
    }
    futures::future::try_join_all(work).await
}

fn empty_dir(setup: &Setup<'_>) -> Result<Mounted> {
    let source = setup.volume.empty_dir.clone().unwrap_or_default();
    make_dir(&setup.directory, 0o755)?;
    match source.medium.as_deref().unwrap_or_default() {
        "Memory" => {
            let limit = source.size_limit.and_then(|size| crate::pod::resources::milli(&size.0));
            tmpfs(&setup.directory, limit.map(|milli| milli / 1000), 0o1777)?;
        }
        "" => {}
        other => return Err(Error::Volume(format!("unknown storage medium \"{other}\""))),
    }
    chmod(&setup.directory, 0o777)?;
    own_by_group(&setup.directory, setup.pod, true)?;
    Ok(mounted(setup, false))
}

pub(crate) fn mounted(setup: &Setup<'_>, read_only: bool) -> Mounted {
    Mounted { name: setup.volume.name.clone(), path: setup.directory.clone(), read_only }
}

pub(crate) fn make_dir(path: &Path, mode: u32) -> Result<()> {
    if !path.exists() {
        fs::create_dir_all(path).map_err(Error::file("make directory", path))?;
        chmod(path, mode)?;
    }
    Ok(())
}

pub(crate) fn chmod(path: &Path, mode: u32) -> Result<()> {
    fs::set_permissions(path, fs::Permissions::from_mode(mode))
        .map_err(Error::file("change the mode of", path))
}

/// Gives the files to the pod's fsGroup.
pub(crate) fn own_by_group(path: &Path, pod: &Pod, setgid: bool) -> Result<()> {
    let group = spec(pod).security_context.as_ref().and_then(|context| context.fs_group);
    let Some(group) = group.and_then(|group| u32::try_from(group).ok()) else { return Ok(()) };
    chown_tree(path, group, setgid)
}

fn chown_tree(path: &Path, group: u32, setgid: bool) -> Result<()> {
    std::os::unix::fs::lchown(path, None, Some(group)).map_err(Error::file("change the group of", path))?;
    let metadata = fs::symlink_metadata(path).map_err(Error::file("look at", path))?;
    if metadata.is_symlink() {
        return Ok(());
    }
    let mode = metadata.permissions().mode() & 0o7777;
    if metadata.is_dir() {
        chmod(path, mode | 0o050 | if setgid { 0o2020 } else { 0 })?;
        for entry in fs::read_dir(path).map_err(Error::file("read directory", path))?.flatten() {
            chown_tree(&entry.path(), group, setgid)?;
        }
        return Ok(());
    }
    chmod(path, mode | 0o040)
}

/// Whether something is mounted exactly here.
pub(crate) fn is_mounted(path: &Path) -> bool {
    let Ok(text) = fs::read_to_string("/proc/self/mountinfo") else { return false };
    let path = path.to_string_lossy().replace(' ', "\\040");
    text.lines().any(|line| line.split(' ').nth(4) == Some(path.as_str()))
}

/// Mounts a tmpfs, once.
pub(crate) fn tmpfs(path: &Path, size: Option<i128>, mode: u32) -> Result<()> {
    if is_mounted(path) {
        return Ok(());
    }
    let mut options = format!("mode={mode:o}");
    if let Some(size) = size.filter(|size| *size > 0) {
        options.push_str(&format!(",size={size}"));
    }
    let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV;
    mount(Some("tmpfs"), path, Some("tmpfs"), flags, Some(options.as_str()))
        .map_err(Error::errno("mount a tmpfs on", path))
}

/// Unmounts everything below the pod's directory and removes it.
///
/// # Errors
/// When a mount is still in use or a directory cannot be removed.
pub(crate) fn tear_down(context: &Context, uid: &str) -> Result<()> {
    let directory = context.config.pod_dir(uid);
    let text = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    let mut below: Vec<PathBuf> = text
        .lines()
        .filter_map(|line| line.split(' ').nth(4))
        .map(|path| PathBuf::from(path.replace("\\040", " ")))
        .filter(|path| path.starts_with(&directory))
        .collect();
    below.sort_by_key(|path| std::cmp::Reverse(path.as_os_str().len()));
    for path in below {
        umount2(&path, MntFlags::UMOUNT_NOFOLLOW | MntFlags::MNT_DETACH)
            .map_err(Error::errno("unmount", &path))?;
    }
    for part in ["volumes", "volume-subpaths"] {
        remove_dir(&directory.join(part))?;
    }
    Ok(())
}

/// Removes a pod's directory with everything in it.
///
/// # Errors
/// When something in it cannot be removed.
pub(crate) fn remove_all(context: &Context, uid: &str) -> Result<()> {
    tear_down(context, uid)?;
    remove_dir(&context.config.pod_dir(uid))
}

fn remove_dir(path: &Path) -> Result<()> {
    match fs::remove_dir_all(path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(Error::file("remove", path)(error)),
        _ => Ok(()),
    }
}
