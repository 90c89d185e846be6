//! Who leads: the Raft leader by the stores' own word, the elected components by their Leases.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::time::Duration;

use super::Sandbox;
use crate::{Error, Host, Result, Role, faults, namespace};

/// The store's port for metrics, on the host's loopback address.
const METRICS: u16 = 2381;
const PATIENCE: Duration = Duration::from_millis(500);

impl Sandbox {
    /// The host whose store member leads, if one says so.
    pub fn store_leader(&self) -> Option<String> {
        let masters = self.layout.with_role(Role::Master);
        masters.into_iter().find(|m| !faults::is_off(m) && says_leader(m)).map(|m| m.name)
    }

    /// The host whose scheduler is active.
    pub fn scheduler(&self) -> Result<Option<String>> {
        self.elected("kube-scheduler")
    }

    /// The host whose controller manager is active.
    pub fn controller_manager(&self) -> Result<Option<String>> {
        self.elected("kube-controller-manager")
    }

    /// An identity is `HOST_SUFFIX`.
    fn elected(&self, lease: &str) -> Result<Option<String>> {
        let holder = self.cluster()?.holder(lease)?;
        Ok(holder.map(|h| h.split('_').next().unwrap_or_default().to_string()))
    }
}

fn says_leader(host: &Host) -> bool {
    let asked = namespace::inside(host, || get(METRICS, "/metrics"));
    asked.is_ok_and(|text| text.lines().any(leads))
}

fn leads(line: &str) -> bool {
    let mut words = line.split_whitespace();
    let name = words.next().is_some_and(|n| n.split('{').next() == Some("etcd_server_is_leader"));
    name && words.next().and_then(|v| v.parse::<f64>().ok()) == Some(1.0)
}

/// GET over plain HTTP/1.0 on the loopback address of the namespace that this thread is in.
fn get(port: u16, path: &str) -> Result<String> {
    let failed = |source| Error::File { action: "read", path: format!("port {port}").into(), source };
    let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
    let mut stream = TcpStream::connect_timeout(&address, PATIENCE).map_err(failed)?;
    stream.set_read_timeout(Some(PATIENCE)).map_err(failed)?;
    write!(stream, "GET {path} HTTP/1.0\r\nHost: localhost\r\n\r\n").map_err(failed)?;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).map_err(failed)?;
    Ok(String::from_utf8_lossy(&answer).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_says_yes() {
        let check = |line: &str, yes: bool| assert_eq!(leads(line), yes, "{line}");
        check("etcd_server_is_leader 1", true);
        check("etcd_server_is_leader 1.0", true);
        check("etcd_server_is_leader{member=\"m1\"} 1", true);
        check("etcd_server_is_leader 0", false);
        check("etcd_server_is_leader_changes 1", false);
    }
}
