//! A host for one test: a network namespace, a containerd of its own with two tiny images. Keeps true: all
//! of it is gone when the value is dropped.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
};

use serde_json::json;
use sha2::{Digest, Sha256};

/// The host.
pub(crate) struct Machine {
    name: String,
    directory: tempfile::TempDir,
    containerd: Child,
}

const NEEDED: [&str; 6] = [
    "/usr/bin/containerd",
    "/usr/bin/ctr",
    "/usr/sbin/runc",
    "/usr/lib/cni/bridge",
    "/bin/busybox",
    "/usr/bin/nsenter",
];

fn sh(script: &str) -> String {
    let output = Command::new("sh").args(["-ec", script]).output().expect("sh runs");
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "{script}\n{text}");
    String::from_utf8_lossy(&output.stdout).into_owned()
}

impl Machine {
    /// Starts it, or says what is missing.
    pub(crate) fn start() -> Self {
        assert!(nix::unistd::geteuid().is_root(), "this test needs root");
        for path in NEEDED {
            let advice =
                "apt-get install containerd runc containernetworking-plugins busybox-static iproute2";
            assert!(Path::new(path).exists(), "{path} is missing: {advice}");
        }
        let name = format!("trk{}", std::process::id());
        let directory = tempfile::Builder::new().prefix("trk").tempdir_in("/tmp").unwrap();
        sh(&format!("ip netns add {name}; ip -n {name} link set lo up"));
        let containerd = start_containerd(&name, directory.path());
        let machine = Self { name, directory, containerd };
        machine.import();
        machine
    }

    /// Its directory.
    pub(crate) fn directory(&self) -> &Path {
        self.directory.path()
    }

    /// Its name, also the root of its cgroups.
    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    /// containerd's socket.
    pub(crate) fn socket(&self) -> PathBuf {
        self.directory().join("containerd.sock")
    }

    fn ctr(&self, rest: &str) -> String {
        sh(&format!("ctr -a {} -n k8s.io {rest}", self.socket().display()))
    }

    fn import(&self) {
        for _ in 0..100 {
            if self.socket().exists() && std::os::unix::net::UnixStream::connect(self.socket()).is_ok() {
                break;
            }
            std::thread::sleep(std::time::Duration::from_millis(50));
        }
        for (image, command) in [
            ("test.local/pause:1", vec!["/bin/busybox", "sleep", "1000000"]),
            ("test.local/box:1", vec!["/bin/sh"]),
        ] {
            let archive = archive(self.directory(), image, &command);
            self.ctr(&format!("images import {}", archive.display()));
        }
    }

    /// Kills a container's process from outside.
    pub(crate) fn kill_container(&self, id: &str) {
        self.ctr(&format!("tasks kill -s 9 {id}"));
    }
}

fn start_containerd(name: &str, directory: &Path) -> Child {
    let at = |part: &str| directory.join(part).display().to_string();
    fs::create_dir_all(directory.join("cni")).unwrap();
    let conflist = json!({"cniVersion": "0.4.0", "name": "t", "plugins": [
        {"type": "bridge", "bridge": "cni0", "isGateway": true, "ipMasq": false, "hairpinMode": true,
         "ipam": {"type": "host-local", "dataDir": at("ipam"), "ranges": [[{"subnet": "10.244.9.0/24"}]], "routes": [{"dst": "0.0.0.0/0"}]}}]});
    fs::write(directory.join("cni/10-t.conflist"), conflist.to_string()).unwrap();
    let config = format!(
        "version = 2\nroot = \"{}\"\nstate = \"{}\"\ndisabled_plugins = [\"io.containerd.snapshotter.v1.btrfs\"]\n\
         [grpc]\naddress = \"{}\"\n[plugins.\"io.containerd.grpc.v1.cri\"]\nsandbox_image = \"test.local/pause:1\"\n\
         restrict_oom_score_adj = true\n[plugins.\"io.containerd.grpc.v1.cri\".cni]\nbin_dir = \"/usr/lib/cni\"\nconf_dir = \"{}\"\n",
        at("root"),
        at("state"),
        at("containerd.sock"),
        at("cni"),
    );
    fs::write(directory.join("config.toml"), config).unwrap();
    let log = fs::File::create(directory.join("containerd.log")).unwrap();
    Command::new("nsenter")
        .arg(format!("--net=/run/netns/{name}"))
        .args(["containerd", "-c", &at("config.toml")])
        .stdout(Stdio::null())
        .stderr(log)
        .spawn()
        .expect("containerd starts")
}

fn digest(path: &Path) -> String {
    Sha256::digest(fs::read(path).unwrap()).iter().map(|byte| format!("{byte:02x}")).collect()
}

/// An OCI archive with busybox as its only layer.
fn archive(directory: &Path, image: &str, command: &[&str]) -> PathBuf {
    let work = directory.join(image.replace(['/', ':'], "-"));
    let (root, blobs) = (work.join("rootfs"), work.join("oci/blobs/sha256"));
    sh(&format!(
        "mkdir -p {0}/bin {0}/tmp {0}/etc {1}; cp /bin/busybox {0}/bin/; for c in sh cat echo sleep true grep hostname; do ln -s busybox {0}/bin/$c; done; tar -C {0} -cf {2}/layer.tar .",
        root.display(),
        blobs.display(),
        work.display()
    ));
    let put = |path: &Path, media: &str| {
        let name = digest(path);
        let size = fs::metadata(path).unwrap().len();
        fs::copy(path, blobs.join(&name)).unwrap();
        json!({"mediaType": media, "digest": format!("sha256:{name}"), "size": size})
    };
    let layer = put(&work.join("layer.tar"), "application/vnd.oci.image.layer.v1.tar");
    let config = json!({"architecture": "amd64", "os": "linux", "config": {"Cmd": command, "Env": ["PATH=/bin"]},
        "rootfs": {"type": "layers", "diff_ids": [layer["digest"]]}});
    fs::write(work.join("config"), config.to_string()).unwrap();
    let config = put(&work.join("config"), "application/vnd.oci.image.config.v1+json");
    let manifest = json!({"schemaVersion": 2, "mediaType": "application/vnd.oci.image.manifest.v1+json", "config": config, "layers": [layer]});
    fs::write(work.join("manifest"), manifest.to_string()).unwrap();
    let mut manifest = put(&work.join("manifest"), "application/vnd.oci.image.manifest.v1+json");
    manifest["annotations"] =
        json!({"io.containerd.image.name": image, "org.opencontainers.image.ref.name": image});
    fs::write(work.join("oci/index.json"), json!({"schemaVersion": 2, "manifests": [manifest]}).to_string())
        .unwrap();
    fs::write(work.join("oci/oci-layout"), "{\"imageLayoutVersion\":\"1.0.0\"}").unwrap();
    let archive = work.join("image.tar");
    sh(&format!("tar -C {}/oci -cf {} .", work.display(), archive.display()));
    archive
}

impl Drop for Machine {
    fn drop(&mut self) {
        // Containers first: their shims outlive containerd.
        let socket = self.socket();
        let script = format!(
            "for t in $(ctr -a {0} -n k8s.io tasks ls -q); do ctr -a {0} -n k8s.io tasks kill -s 9 $t; ctr -a {0} -n k8s.io tasks rm -f $t; done",
            socket.display()
        );
        let _ = Command::new("sh").args(["-c", &script]).output();
        let _ = self.containerd.kill();
        let _ = self.containerd.wait();
        let script = format!(
            "awk '{{print $5}}' /proc/self/mountinfo | grep ^{0}/ | sort -r | xargs -r umount -l; ip netns del {1}; \
             find /sys/fs/cgroup -depth -type d -path '*/{1}*' -exec rmdir {{}} +",
            self.directory.path().display(),
            self.name
        );
        let _ = Command::new("sh").args(["-c", &script]).output();
    }
}
