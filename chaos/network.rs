//! Cables: one namespace per host, one more with the bridge that joins them, and nothing that leads outside.
//!
//! A host has `eth0` with its address and no default route; the other end of its cable is a port of the bridge,
//! in the bridge's namespace. Neither end is ever in the machine's own namespace.

use crate::layout::{Layout, SWITCH};
use crate::{Host, Result, command, namespace};

const BRIDGE: &str = "br0";

/// Makes what is missing of the switch.
pub(crate) fn ensure_switch(layout: &Layout) -> Result<()> {
    let switch = layout.namespace(SWITCH);
    if !ensure_namespace(&switch)? {
        return Ok(());
    }
    batch(
        &switch,
        &format!(
            "link set lo up\nlink add {BRIDGE} type bridge forward_delay 0 stp_state 0\nlink set {BRIDGE} up\n"
        ),
    )?;
    // Frames between hosts are nobody's packets: the switch must not track or filter them as its own.
    let quiet = "for f in /proc/sys/net/bridge/bridge-nf-call-*; do [ -e $f ] && echo 0 > $f; done; true";
    command::run("nsenter", &[&format!("--net=/run/netns/{switch}"), "sh", "-c", quiet])?;
    Ok(())
}

/// Makes what is missing of a host's namespace and cable.
pub(crate) fn ensure_host(layout: &Layout, host: &Host) -> Result<()> {
    ensure_namespace(&host.namespace)?;
    let (switch, port) = (layout.namespace(SWITCH), host.port());
    let plugged = command::output("ip", &["-n", &switch, "link", "show", &port])?.success;
    if !plugged {
        let (net, ns) = (&switch, &host.namespace);
        command::run(
            "ip",
            &["-n", net, "link", "add", &port, "type", "veth", "peer", "name", "eth0", "netns", ns],
        )?;
        batch(&switch, &format!("link set {port} master {BRIDGE}\nlink set {port} up\n"))?;
        configure(host)?;
    }
    Ok(())
}

/// Gives a fresh `eth0` its address, and lets the host forward for its pods.
fn configure(host: &Host) -> Result<()> {
    batch(
        &host.namespace,
        &format!("link set lo up\naddr replace {}/24 dev eth0\nlink set eth0 up\n", host.address),
    )?;
    let forward = "echo 1 > /proc/sys/net/ipv4/ip_forward";
    command::run("nsenter", &[&format!("--net=/run/netns/{}", host.namespace), "sh", "-c", forward])?;
    Ok(())
}

/// Pulls the host's plug, or puts it back.
pub(crate) fn set_link(layout: &Layout, host: &Host, up: bool) -> Result<()> {
    let (switch, port) = (layout.namespace(SWITCH), host.port());
    command::run("ip", &["-n", &switch, "link", "set", &port, if up { "up" } else { "down" }])?;
    Ok(())
}

/// Whether the host's plug is in.
pub(crate) fn link_up(layout: &Layout, host: &Host) -> bool {
    let (switch, port) = (layout.namespace(SWITCH), host.port());
    let shown = command::output("ip", &["-n", &switch, "-o", "link", "show", &port]);
    shown.is_ok_and(|o| {
        o.text.split(['<', '>']).nth(1).is_some_and(|flags| flags.split(',').any(|f| f == "UP"))
    })
}

/// What a machine forgets when its power goes: rules, links of containers, routes, open connections.
pub(crate) fn forget(host: &Host) -> Result<()> {
    let script = "nft flush ruleset; conntrack -F; ss -K state all
        for l in $(ip -o link show | awk -F': ' '{print $2}' | cut -d@ -f1); do
            case $l in lo|eth0) ;; *) ip link del $l;; esac
        done
        ip link set eth0 down; ip addr flush dev eth0; ip route flush table main; true";
    command::run("nsenter", &[&format!("--net=/run/netns/{}", host.namespace), "sh", "-c", script])?;
    configure(host)
}

/// Separates `hosts` from all others at the switch; replaces the partition that is there.
pub(crate) fn partition(layout: &Layout, hosts: &[Host]) -> Result<()> {
    rules(layout, &partition_rules(hosts))
}

/// Ends the partition.
pub(crate) fn heal(layout: &Layout) -> Result<()> {
    rules(layout, "add table bridge faults\ndelete table bridge faults\n")
}

fn partition_rules(hosts: &[Host]) -> String {
    let ports = hosts.iter().map(|h| format!("\"{}\"", h.port())).collect::<Vec<_>>().join(", ");
    format!(
        "add table bridge faults\ndelete table bridge faults\ntable bridge faults {{\n chain forward {{\n  type filter \
         hook forward priority 0; policy accept;\n  iifname {{ {ports} }} oifname != {{ {ports} }} drop\n  iifname != \
         {{ {ports} }} oifname {{ {ports} }} drop\n }}\n}}\n"
    )
}

fn rules(layout: &Layout, text: &str) -> Result<()> {
    let switch = format!("--net=/run/netns/{}", layout.namespace(SWITCH));
    command::feed("nsenter", &[switch.as_str(), "nft", "-f", "-"], text).map(drop)
}

/// Whether a partition is in force.
pub(crate) fn partitioned(layout: &Layout) -> bool {
    let switch = format!("--net=/run/netns/{}", layout.namespace(SWITCH));
    command::output("nsenter", &[switch.as_str(), "nft", "list", "table", "bridge", "faults"])
        .is_ok_and(|o| o.success)
}

/// Makes a namespace; true when it is new.
fn ensure_namespace(name: &str) -> Result<bool> {
    if namespace::number(name).is_some() {
        return Ok(false);
    }
    // What a crash left: a file that is no namespace.
    let _ = std::fs::remove_file(namespace::file(name));
    command::run("ip", &["netns", "add", name])?;
    Ok(true)
}

/// Removes all namespaces of the sandbox, cables and bridge with them.
pub(crate) fn remove(layout: &Layout) -> Result<()> {
    let prefix = layout.namespace("");
    let Ok(folder) = std::fs::read_dir("/run/netns") else { return Ok(()) };
    for entry in folder.flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        // `default-x` must not take down the hosts of `default`: a host's name has no dash.
        if name.strip_prefix(&prefix).is_some_and(|host| !host.contains('-')) {
            command::run("ip", &["netns", "del", &name])?;
        }
    }
    Ok(())
}

fn batch(namespace: &str, commands: &str) -> Result<()> {
    command::feed("ip", &["-n", namespace, "-batch", "-"], commands).map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Role;

    #[test]
    fn a_partition_drops_both_ways_between_the_named_and_the_others() {
        let host = |name: &str| Host {
            name: name.into(),
            role: Role::Master,
            address: [10, 90, 0, 1].into(),
            folder: "/x".into(),
            namespace: "n".into(),
            cgroup: "/c".into(),
        };
        let text = partition_rules(&[host("m1"), host("lb")]);
        assert!(text.contains(r#"iifname { "p-m1", "p-lb" } oifname != { "p-m1", "p-lb" } drop"#), "{text}");
        assert!(text.contains(r#"iifname != { "p-m1", "p-lb" } oifname { "p-m1", "p-lb" } drop"#), "{text}");
    }
}
