//! An image of one layer as an OCI archive: blobs under their digests, and an index that names the image.

use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use super::tar::Tar;

/// An image: its name, its one layer, what it runs.
pub(crate) struct Image {
    name: String,
    layer: Vec<u8>,
    config: Value,
}

impl Image {
    pub(super) fn new(name: &str, layer: Tar, entrypoint: &[&str], environment: &[&str]) -> Self {
        let layer = layer.finish();
        let mut variables = vec!["PATH=/usr/sbin:/usr/bin:/sbin:/bin"];
        variables.extend(environment);
        let config = json!({
            "architecture": architecture(),
            "os": "linux",
            "config": { "Entrypoint": entrypoint, "Env": variables, "WorkingDir": "/" },
            "rootfs": { "type": "layers", "diff_ids": [digest(&layer)] },
        });
        Self { name: name.into(), layer, config }
    }

    /// The archive's bytes.
    pub(super) fn archive(&self) -> Vec<u8> {
        let config = self.config.to_string().into_bytes();
        let manifest = json!({
            "schemaVersion": 2,
            "mediaType": "application/vnd.oci.image.manifest.v1+json",
            "config": described("application/vnd.oci.image.config.v1+json", &config),
            "layers": [described("application/vnd.oci.image.layer.v1.tar", &self.layer)],
        })
        .to_string()
        .into_bytes();
        let mut entry = described("application/vnd.oci.image.manifest.v1+json", &manifest);
        entry["annotations"] = json!({
            "io.containerd.image.name": self.name,
            "org.opencontainers.image.ref.name": self.name.rsplit(':').next(),
        });
        entry["platform"] = json!({ "architecture": architecture(), "os": "linux" });
        let index = json!({
            "schemaVersion": 2,
            "mediaType": "application/vnd.oci.image.index.v1+json",
            "manifests": [entry],
        });
        let mut tar = Tar::default();
        tar.file("oci-layout", 0o644, br#"{"imageLayoutVersion":"1.0.0"}"#);
        tar.file("index.json", 0o644, index.to_string().as_bytes());
        tar.folder("blobs", 0o755);
        tar.folder("blobs/sha256", 0o755);
        for blob in [&config, &manifest, &self.layer] {
            tar.file(&format!("blobs/{}", digest(blob).replace(':', "/")), 0o644, blob);
        }
        tar.finish()
    }
}

fn described(kind: &str, blob: &[u8]) -> Value {
    json!({ "mediaType": kind, "digest": digest(blob), "size": blob.len() })
}

fn digest(blob: &[u8]) -> String {
    let hex: String = Sha256::digest(blob).iter().map(|b| format!("{b:02x}")).collect();
    format!("sha256:{hex}")
}

/// The machine's architecture by the name that images use.
fn architecture() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}
