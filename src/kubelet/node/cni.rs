//! The node's CNI configuration, once it has a pod CIDR. Keeps true: the file appears as a whole; pods reach
//! themselves through their Service (hairpin); addresses come from a data directory of this node.

use std::{fs, path::Path};

use serde_json::{Value, json};

use crate::{Config, Error, error::Result};

/// The file's name; low enough to come first.
const FILE: &str = "10-trireme.conflist";

/// The conflist for these CIDRs.
fn conflist(cidrs: &[String], data: &Path) -> Value {
    let ranges: Vec<Value> = cidrs.iter().map(|cidr| json!([{"subnet": cidr}])).collect();
    let routes: Vec<Value> = cidrs
        .iter()
        .map(|cidr| json!({"dst": if cidr.contains(':') { "::/0" } else { "0.0.0.0/0" }}))
        .collect();
    json!({
        "cniVersion": "0.4.0",
        "name": "trireme",
        "plugins": [
            {
                "type": "bridge",
                "bridge": "cni0",
                "isGateway": true,
                "ipMasq": false,
                "hairpinMode": true,
                "promiscMode": false,
                "ipam": {"type": "host-local", "dataDir": data, "ranges": ranges, "routes": routes},
            },
            {"type": "portmap", "capabilities": {"portMappings": true}, "snat": true},
        ],
    })
}

/// Writes the configuration if it is not there already, and lets the kernel forward.
///
/// # Errors
/// When the directory is not writable.
pub(crate) fn configure(config: &Config, cidrs: &[String]) -> Result<()> {
    let Some(directory) = &config.cni_conf else { return Ok(()) };
    fs::create_dir_all(directory).map_err(Error::file("make directory", directory))?;
    fs::create_dir_all(&config.cni_data).map_err(Error::file("make directory", &config.cni_data))?;
    let text = format!("{:#}\n", conflist(cidrs, &config.cni_data));
    let file = directory.join(FILE);
    if fs::read_to_string(&file).is_ok_and(|known| known == text) {
        return forward();
    }
    let fresh = directory.join(format!(".{FILE}.tmp"));
    fs::write(&fresh, text).map_err(Error::file("write", &fresh))?;
    fs::rename(&fresh, &file).map_err(Error::file("rename", &fresh))?;
    tracing::info!(file = %file.display(), ?cidrs, "CNI configured");
    forward()
}

fn forward() -> Result<()> {
    for name in ["net/ipv4/ip_forward", "net/bridge/bridge-nf-call-iptables"] {
        let file = Path::new("/proc/sys").join(name);
        if file.exists() && fs::read_to_string(&file).is_ok_and(|value| value.trim() != "1") {
            fs::write(&file, "1").map_err(Error::file("enable", &file))?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_cidr_has_a_range() {
        let list = conflist(&["10.244.1.0/24".into()], Path::new("/d"));
        assert_eq!(list["plugins"][0]["ipam"]["ranges"][0][0]["subnet"], "10.244.1.0/24");
        assert_eq!(list["plugins"][0]["ipam"]["dataDir"], "/d");
    }
}
