//! Where a request may go: names of the form `[SCHEME:]NAME[:PORT]`, addresses that are allowed. Pure.

use std::net::IpAddr;

use api::Object;
use serde_json::Value;

/// A name as the proxy subresource takes it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Name<'a> {
    /// Whether TLS is asked for.
    pub(super) https: bool,
    pub(super) name: &'a str,
    /// A port's number or name; empty for the default.
    pub(super) port: &'a str,
}

/// Reads `NAME`, `NAME:PORT`, `SCHEME:NAME:` or `SCHEME:NAME:PORT`.
pub(super) fn split(text: &str) -> Option<Name<'_>> {
    let parts: Vec<&str> = text.split(':').collect();
    let (scheme, name, port) = match parts.as_slice() {
        [name] => ("", *name, ""),
        [name, port] => ("", *name, *port),
        [scheme, name, port] => (*scheme, *name, *port),
        _ => return None,
    };
    (!name.is_empty() && matches!(scheme, "" | "http" | "https")).then_some(Name {
        https: scheme == "https",
        name,
        port,
    })
}

/// Whether a pod, service or node may be reached there: not this host itself, not its neighbours on the link.
pub(super) fn allowed(ip: IpAddr) -> bool {
    match ip.to_canonical() {
        IpAddr::V4(ip) => {
            !(ip.is_loopback()
                || ip.is_link_local()
                || ip.is_multicast()
                || ip.is_unspecified()
                || ip.is_broadcast())
        }
        IpAddr::V6(ip) => {
            !(ip.is_loopback() || ip.is_unicast_link_local() || ip.is_multicast() || ip.is_unspecified())
        }
    }
}

/// The address of a pod.
pub(super) fn of_pod(pod: &Object) -> Option<IpAddr> {
    let first = pod.list_at("status.podIPs").first().and_then(|ip| ip.get("ip")).and_then(Value::as_str);
    first.unwrap_or_else(|| pod.str_at("status.podIP")).parse().ok()
}

/// The first port that a pod's containers declare.
pub(super) fn first_port(pod: &Object) -> Option<u16> {
    let ports =
        pod.list_at("spec.containers").iter().filter_map(|container| container.get("ports")?.as_array());
    let number = ports.flatten().find_map(|port| port.get("containerPort")?.as_u64())?;
    u16::try_from(number).ok()
}

/// A node's kubelet: the best address by preferred kinds, and its port.
pub(super) fn of_kubelet(node: &Object, preferred: &[String]) -> Option<(String, u16)> {
    let addresses = node.list_at("status.addresses");
    let text = |address: &Value, field: &str| {
        address.get(field).and_then(Value::as_str).unwrap_or_default().to_owned()
    };
    let address = preferred.iter().find_map(|kind| {
        let of_kind = addresses.iter().find(|address| text(address, "type") == *kind);
        of_kind.map(|address| text(address, "address")).filter(|address| !address.is_empty())
    })?;
    let port =
        node.i64_at("status.daemonEndpoints.kubeletEndpoint.Port").and_then(|port| u16::try_from(port).ok());
    Some((address, port.filter(|port| *port != 0).unwrap_or(10250)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn names() {
        let check = |text: &str, expect: Option<(bool, &str, &str)>| {
            let found = split(text).map(|name| (name.https, name.name, name.port));
            assert_eq!(found, expect, "{text}");
        };
        check("web", Some((false, "web", "")));
        check("web:80", Some((false, "web", "80")));
        check("web:http", Some((false, "web", "http")));
        check("https:web:", Some((true, "web", "")));
        check("https:web:443", Some((true, "web", "443")));
        check("http:web:x", Some((false, "web", "x")));
        check("ftp:web:1", None);
        check(":80", None);
        check("a:b:c:d", None);
        check("", None);
    }

    #[test]
    fn addresses() {
        for (ip, expect) in [
            ("10.244.1.5", true),
            ("192.168.0.1", true),
            ("fd00::1", true),
            ("127.0.0.1", false),
            ("127.8.8.8", false),
            ("0.0.0.0", false),
            ("169.254.169.254", false),
            ("224.0.0.1", false),
            ("255.255.255.255", false),
            ("::1", false),
            ("::", false),
            ("::ffff:127.0.0.1", false),
            ("::ffff:169.254.169.254", false),
            ("fe80::1", false),
            ("ff02::1", false),
        ] {
            assert_eq!(allowed(ip.parse().unwrap()), expect, "{ip}");
        }
    }

    #[test]
    fn kubelets() {
        let node = Object::try_from(json!({"status": {
            "addresses": [{"type": "Hostname", "address": "w1"}, {"type": "InternalIP", "address": "10.90.0.21"}],
            "daemonEndpoints": {"kubeletEndpoint": {"Port": 10251}},
        }}))
        .unwrap();
        let check = |preferred: &[&str], expect: Option<(&str, u16)>| {
            let preferred: Vec<String> = preferred.iter().map(|kind| (*kind).to_owned()).collect();
            let found = of_kubelet(&node, &preferred);
            assert_eq!(found.as_ref().map(|(address, port)| (address.as_str(), *port)), expect);
        };
        check(&["InternalIP", "Hostname"], Some(("10.90.0.21", 10251)));
        check(&["Hostname", "InternalIP"], Some(("w1", 10251)));
        check(&["ExternalIP"], None);
    }
}
