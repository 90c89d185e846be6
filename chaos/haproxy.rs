//! The balancer's configuration: TCP to all masters, from namespace `lb`, so that a partition of `lb` is felt.
//!
//! Who connects through it is cut off as soon as a server is marked down or takes no bytes any more, and can go on
//! with another one; a `kubectl logs -f` or `exec` may be silent for a day. That a server is gone is told by its
//! kernel, which acknowledges within [`UNACKNOWLEDGED`] however busy the server is; health checks are for a server
//! that is there and does not work.

use crate::Role;
use crate::layout::{API_PORT, Layout};

/// After how long without an acknowledgement a connection to a server is given up, idle ones by their keep-alives.
const UNACKNOWLEDGED: &str = "500ms";

const HEAD: &str = "global
  maxconn 8192
  hard-stop-after 1s
  log stdout format raw local0 notice
defaults
  mode tcp
  log global
  timeout connect 300ms
  timeout check 500ms
  timeout client 24h
  timeout server 24h
  timeout tunnel 24h
  timeout client-fin 5s
  timeout server-fin 5s
  retries 3
  option redispatch 1
  option clitcpka
  option srvtcpka
  srvtcpka-idle 1s
  srvtcpka-intvl 1s
  srvtcpka-cnt 2
";

pub(crate) fn config(layout: &Layout) -> String {
    let balancer = layout.balancer();
    let servers: String = layout
        .with_role(Role::Master)
        .iter()
        .map(|m| format!("  server {} {}:{API_PORT} namespace {}\n", m.name, m.address, balancer.namespace))
        .collect();
    format!(
        "{HEAD}frontend api\n  bind 127.0.0.1:{port}\n  bind {address}:{API_PORT} namespace {namespace}\n  \
         default_backend masters\nbackend masters\n  balance roundrobin\n  option httpchk\n  http-check send meth GET \
         uri /readyz ver HTTP/1.1 hdr Host kubernetes\n  http-check expect status 200\n  default-server check \
         check-ssl verify required verifyhost kubernetes ca-file {ca} inter 200ms fastinter 200ms downinter 300ms fall 3 \
         rise 1 tcp-ut {UNACKNOWLEDGED} observe layer4 error-limit 2 on-error mark-down on-marked-down shutdown-sessions\n{servers}",
        port = layout.spec.port,
        address = balancer.address,
        namespace = balancer.namespace,
        ca = layout.shared().join("ca.crt").display(),
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Spec;

    #[test]
    fn every_server_is_reached_from_the_balancers_namespace() {
        let spec = Spec { masters: 3, workers: 0, port: 7443, binary: "/x".into() };
        let text = config(&Layout::new(std::path::Path::new("/repo"), "default", spec).unwrap());
        let servers: Vec<_> = text.lines().filter(|l| l.starts_with("  server ")).collect();
        assert_eq!(servers.len(), 3);
        assert!(servers.iter().all(|l| l.ends_with("namespace trireme-default-lb")), "{text}");
        assert!(text.contains("bind 127.0.0.1:7443\n"), "{text}");
    }
}
