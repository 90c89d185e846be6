//! The command line, with kube-controller-manager's flag names, and the checked configuration that it becomes.

use std::{
    net::{IpAddr, SocketAddr},
    path::PathBuf,
    time::Duration,
};

use clap::ArgAction;
use client::ElectionConfig;
use ipnet::IpNet;

use crate::{Error, node::lifecycle::Timing};

/// Flags with upstream's names.
#[derive(clap::Args, Debug, Clone)]
pub struct Flags {
    /// Kubeconfig file with which to reach the API server.
    #[arg(long)]
    pub kubeconfig: PathBuf,
    /// Be active only while holding the election Lease.
    #[arg(long, default_value_t = true, num_args = 0..=1, default_missing_value = "true", require_equals = true, action = ArgAction::Set)]
    pub leader_elect: bool,
    /// How long the Lease lasts without renewal.
    #[arg(long, default_value = "2s", value_parser = serve::flags::duration)]
    pub leader_elect_lease_duration: Duration,
    /// A leader that could not renew for this long steps down.
    #[arg(long, default_value = "1500ms", value_parser = serve::flags::duration)]
    pub leader_elect_renew_deadline: Duration,
    /// Time between renewals.
    #[arg(long, default_value = "500ms", value_parser = serve::flags::duration)]
    pub leader_elect_retry_period: Duration,
    /// Name of the Lease.
    #[arg(long, default_value = "kube-controller-manager")]
    pub leader_elect_resource_name: String,
    /// Namespace of the Lease.
    #[arg(long, default_value = "kube-system")]
    pub leader_elect_resource_namespace: String,
    /// Controllers to run: `*` is all that are on by default, `NAME` adds one, `-NAME` leaves one out.
    #[arg(long, default_value = "*", value_delimiter = ',', allow_hyphen_values = true)]
    pub controllers: Vec<String>,
    /// Range of pod addresses of the cluster (one of each family, comma separated).
    #[arg(long, value_delimiter = ',')]
    pub cluster_cidr: Vec<IpNet>,
    /// Range of service addresses; accepted for compatibility.
    #[arg(long)]
    pub service_cluster_ip_range: Option<String>,
    /// Whether nodes get their ranges of pod addresses from here.
    #[arg(long, default_value_t = false, num_args = 0..=1, default_missing_value = "true", require_equals = true, action = ArgAction::Set)]
    pub allocate_node_cidrs: bool,
    /// Length of a node's prefix (IPv4: 24, IPv6: 64 unless given).
    #[arg(long)]
    pub node_cidr_mask_size: Option<u8>,
    /// Length of a node's IPv4 prefix.
    #[arg(long)]
    pub node_cidr_mask_size_ipv4: Option<u8>,
    /// Length of a node's IPv6 prefix.
    #[arg(long)]
    pub node_cidr_mask_size_ipv6: Option<u8>,
    /// CA certificate with which requested certificates are signed.
    #[arg(long, requires = "cluster_signing_key_file")]
    pub cluster_signing_cert_file: Option<PathBuf>,
    /// Key of that CA.
    #[arg(long, requires = "cluster_signing_cert_file")]
    pub cluster_signing_key_file: Option<PathBuf>,
    /// The longest life of a signed certificate.
    #[arg(long, default_value = "8760h", value_parser = serve::flags::duration)]
    pub cluster_signing_duration: Duration,
    /// CA bundle that pods get as kube-root-ca.crt.
    #[arg(long)]
    pub root_ca_file: Option<PathBuf>,
    /// Accepted for compatibility: tokens are made by the API server.
    #[arg(long)]
    pub service_account_private_key_file: Option<PathBuf>,
    /// Accepted for compatibility: all controllers use the one identity of this process.
    #[arg(long, default_value_t = false, num_args = 0..=1, default_missing_value = "true", require_equals = true, action = ArgAction::Set)]
    pub use_service_account_credentials: bool,
    /// Accepted for compatibility: nodes are looked at exactly when something is due.
    #[arg(long, default_value = "5s", value_parser = serve::flags::duration)]
    pub node_monitor_period: Duration,
    /// A node that was silent for this long is unknown.
    #[arg(long, default_value = "50s", value_parser = serve::flags::duration)]
    pub node_monitor_grace_period: Duration,
    /// The same for a node that never reported.
    #[arg(long, default_value = "60s", value_parser = serve::flags::duration)]
    pub node_startup_grace_period: Duration,
    /// Nodes per second and zone that may be emptied.
    #[arg(long, default_value_t = 0.1)]
    pub node_eviction_rate: f64,
    /// The same in a large zone that is partly down.
    #[arg(long, default_value_t = 0.01)]
    pub secondary_node_eviction_rate: f64,
    /// The part of a zone's nodes that makes it partly down.
    #[arg(long, default_value_t = 0.55)]
    pub unhealthy_zone_threshold: f64,
    /// More nodes than this make a zone large.
    #[arg(long, default_value_t = 50)]
    pub large_cluster_size_threshold: usize,
    /// So many finished pods are kept; 0 keeps all.
    #[arg(long, default_value_t = 12_500)]
    pub terminated_pod_gc_threshold: usize,
    /// Deployments worked on at a time.
    #[arg(long, default_value_t = 5)]
    pub concurrent_deployment_syncs: usize,
    /// ReplicaSets worked on at a time.
    #[arg(long, default_value_t = 5)]
    pub concurrent_replicaset_syncs: usize,
    /// ReplicationControllers worked on at a time.
    #[arg(long, default_value_t = 5)]
    pub concurrent_rc_syncs: usize,
    /// Services' Endpoints worked on at a time.
    #[arg(long, default_value_t = 5)]
    pub concurrent_endpoint_syncs: usize,
    /// Services' EndpointSlices worked on at a time.
    #[arg(long, default_value_t = 5)]
    pub concurrent_service_endpoint_syncs: usize,
    /// Namespaces worked on at a time.
    #[arg(long, default_value_t = 10)]
    pub concurrent_namespace_syncs: usize,
    /// Objects that the garbage collector works on at a time.
    #[arg(long, default_value_t = 20)]
    pub concurrent_gc_syncs: usize,
    /// Accounts' tokens worked on at a time; accepted for compatibility.
    #[arg(long, default_value_t = 5)]
    pub concurrent_serviceaccount_token_syncs: usize,
    /// Port for /healthz and /metrics over HTTPS; 0: none.
    #[arg(long, default_value_t = 10257)]
    pub secure_port: u16,
    /// Address for that port.
    #[arg(long, default_value = "0.0.0.0")]
    pub bind_address: IpAddr,
    /// Serving certificate; without one, a self-signed one is made.
    #[arg(long, requires = "tls_private_key_file")]
    pub tls_cert_file: Option<PathBuf>,
    /// Key of the serving certificate.
    #[arg(long, requires = "tls_cert_file")]
    pub tls_private_key_file: Option<PathBuf>,
    /// CA of client certificates that may read /metrics; without one, only this host may.
    #[arg(long)]
    pub client_ca_file: Option<PathBuf>,
    /// Accepted for compatibility.
    #[arg(long)]
    pub requestheader_client_ca_file: Option<PathBuf>,
    /// Accepted for compatibility; /metrics is open to client certificates of --client-ca-file.
    #[arg(long)]
    pub authentication_kubeconfig: Option<PathBuf>,
    /// Accepted for compatibility; /metrics is open to client certificates of --client-ca-file.
    #[arg(long)]
    pub authorization_kubeconfig: Option<PathBuf>,
    /// Accepted for compatibility.
    #[arg(long, default_value = "kubernetes")]
    pub cluster_name: String,
    /// Accepted for compatibility.
    #[arg(long, default_value_t = 20.0)]
    pub kube_api_qps: f64,
    /// Accepted for compatibility.
    #[arg(long, default_value_t = 30)]
    pub kube_api_burst: u32,
}

/// What the flags mean.
pub struct Config {
    /// The flags themselves.
    pub(crate) flags: Flags,
    /// This machine's name.
    pub(crate) host: String,
    /// The election, unless there is none.
    pub(crate) election: Option<ElectionConfig>,
    /// Where health and metrics are served.
    pub(crate) listen: Option<SocketAddr>,
    /// Pod address ranges, and the prefix length of a node's part.
    pub(crate) ranges: Vec<(IpNet, u8)>,
    /// When nodes are dead.
    pub(crate) timing: Timing,
    /// CA bundle for pods.
    pub(crate) root_ca: Option<String>,
    /// The CA that signs: certificate and key as PEM.
    pub(crate) authority: Option<(String, String)>,
}

impl Config {
    /// Checks flags, and reads the files that they name.
    pub fn new(flags: Flags) -> Result<Self, Error> {
        let read = |path: &PathBuf| {
            std::fs::read_to_string(path).map_err(|source| Error::File { path: path.clone(), source })
        };
        let host = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default().trim().to_owned();
        let authority = match (&flags.cluster_signing_cert_file, &flags.cluster_signing_key_file) {
            (Some(certificate), Some(key)) => Some((read(certificate)?, read(key)?)),
            _ => None,
        };
        let address = SocketAddr::new(flags.bind_address, flags.secure_port);
        let timing = Timing {
            grace: flags.node_monitor_grace_period,
            startup_grace: flags.node_startup_grace_period,
            rate: flags.node_eviction_rate,
            secondary_rate: flags.secondary_node_eviction_rate,
            unhealthy: flags.unhealthy_zone_threshold,
            large: flags.large_cluster_size_threshold,
        };
        Ok(Self {
            election: election(&flags, &host)?,
            listen: (flags.secure_port != 0).then_some(address),
            ranges: ranges(&flags)?,
            timing,
            root_ca: flags.root_ca_file.as_ref().map(read).transpose()?,
            authority,
            host,
            flags,
        })
    }
}

fn wrong(what: &'static str, why: String) -> Error {
    Error::Flag { what, why }
}

fn election(flags: &Flags, host: &str) -> Result<Option<ElectionConfig>, Error> {
    if !flags.leader_elect {
        return Ok(None);
    }
    let (lease, renew, retry) = (
        flags.leader_elect_lease_duration,
        flags.leader_elect_renew_deadline,
        flags.leader_elect_retry_period,
    );
    if renew >= lease || retry >= renew {
        let why = format!(
            "lease {lease:?}, renew deadline {renew:?}, retry period {retry:?}: each must be shorter than the one before"
        );
        return Err(wrong("--leader-elect-lease-duration", why));
    }
    let mut election = ElectionConfig::new(&flags.leader_elect_resource_name, host);
    election.namespace.clone_from(&flags.leader_elect_resource_namespace);
    (election.lease, election.renew, election.retry) = (lease, renew, retry);
    Ok(Some(election))
}

fn ranges(flags: &Flags) -> Result<Vec<(IpNet, u8)>, Error> {
    if !flags.allocate_node_cidrs {
        return Ok(Vec::new());
    }
    if flags.cluster_cidr.is_empty() {
        return Err(wrong("--cluster-cidr", "--allocate-node-cidrs needs it, e.g. 10.244.0.0/16".into()));
    }
    let sized = |net: &IpNet| {
        let (given, default, most) = match net {
            IpNet::V4(_) => (flags.node_cidr_mask_size_ipv4, 24, 32),
            IpNet::V6(_) => (flags.node_cidr_mask_size_ipv6, 64, 128),
        };
        let size = given.or(flags.node_cidr_mask_size).unwrap_or(default);
        if size < net.prefix_len() || size > most {
            let why = format!("/{size} does not fit into {net}");
            return Err(wrong("--node-cidr-mask-size", why));
        }
        Ok((net.trunc(), size))
    };
    flags.cluster_cidr.iter().map(sized).collect()
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        flags: Flags,
    }

    #[test]
    fn command_lines() {
        let check = |words: &[&str], expect: Result<usize, &str>| {
            let words = ["kube-controller-manager", "--kubeconfig=/x"].iter().chain(words);
            let config = Config::new(Line::try_parse_from(words).unwrap().flags);
            let got = config.map(|c| c.ranges.len()).map_err(|e| e.to_string());
            match (got, expect) {
                (Err(text), Err(part)) => assert!(text.contains(part), "{text}"),
                (got, expect) => assert_eq!(got.ok(), expect.ok()),
            }
        };
        check(&[], Ok(0));
        check(&["--allocate-node-cidrs", "--cluster-cidr=10.244.0.0/16"], Ok(1));
        check(&["--allocate-node-cidrs=true", "--cluster-cidr", "10.244.0.0/16,fd00::/48"], Ok(2));
        check(&["--allocate-node-cidrs=true"], Err("--cluster-cidr"));
        check(
            &["--allocate-node-cidrs", "--cluster-cidr=10.0.0.0/25", "--node-cidr-mask-size=24"],
            Err("does not fit"),
        );
        check(&["--leader-elect-lease-duration=1s"], Err("shorter"));
        check(
            &["--leader-elect=false", "--controllers=*,-podgc", "--use-service-account-credentials"],
            Ok(0),
        );
        check(&["--root-ca-file=/does/not/exist"], Err("/does/not/exist"));
    }
}
