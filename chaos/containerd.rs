//! A containerd of its own for every worker: configuration, and bringing images in.

use std::path::Path;

use crate::{Error, Host, Result, command, images};

/// The configuration. `restrict_oom_score_adj`: not every machine lets root lower a score, and runc fails then.
/// Namespaces of pods are mounted under the state folder, so that they go with the host.
pub(crate) fn config(host: &Host) -> String {
    format!(
        r#"version = 2
root = "{root}"
state = "{state}"
disabled_plugins = ["io.containerd.internal.v1.opt", "io.containerd.snapshotter.v1.btrfs", "io.containerd.snapshotter.v1.zfs", "io.containerd.snapshotter.v1.aufs", "io.containerd.snapshotter.v1.devmapper", "io.containerd.internal.v1.tracing", "io.containerd.tracing.processor.v1.otlp"]
[grpc]
  address = "{socket}"
[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = "{pause}"
  restrict_oom_score_adj = true
  netns_mounts_under_state_dir = true
  stream_server_address = "127.0.0.1"
  stream_server_port = "0"
  [plugins."io.containerd.grpc.v1.cri".cni]
    bin_dir = "/usr/lib/cni"
    conf_dir = "{cni}"
    max_conf_num = 1
  [plugins."io.containerd.grpc.v1.cri".containerd]
    snapshotter = "overlayfs"
    default_runtime_name = "runc"
    [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
      runtime_type = "io.containerd.runc.v2"
      [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc.options]
        SystemdCgroup = false
        Root = "{runc}"
"#,
        root = host.path("containerd/root"),
        state = host.path("containerd/state"),
        socket = host.path("containerd.sock"),
        cni = host.path("cni/net.d"),
        runc = host.path("containerd/state/runc"),
        pause = images::PAUSE,
    )
}

/// What containerd keeps in memory or in /run on a real host; gone after a reboot.
pub(crate) const RUN_STATE: [&str; 3] = ["containerd/state", "containerd.sock", "containerd.sock.ttrpc"];

/// Whether it answers.
pub(crate) fn ready(host: &Host) -> bool {
    Path::new(&host.path("containerd.sock")).exists()
        && command::output("ctr", &["-a", &host.path("containerd.sock"), "version"]).is_ok_and(|o| o.success)
}

/// Brings an archive's images in, for the kubelet to see.
pub(crate) fn import(host: &Host, archive: &Path) -> Result<()> {
    let socket = host.path("containerd.sock");
    let file = archive.to_str().ok_or_else(|| Error::Late {
        what: format!("reading {}", archive.display()),
        seconds: 0,
        hint: "use a path that is valid UTF-8".into(),
    })?;
    let words = ["-a", &socket, "-n", "k8s.io", "images", "import", "--all-platforms", file];
    command::run("ctr", &words).map(drop)
}

/// The images that are there, as the kubelet would see them.
pub(crate) fn images(host: &Host) -> Result<Vec<String>> {
    let socket = host.path("containerd.sock");
    let list = command::run("ctr", &["-a", &socket, "-n", "k8s.io", "images", "list", "-q"])?;
    Ok(list.lines().map(str::to_string).collect())
}
