//! The command line and the configuration file, brought together and checked.

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use clap::ArgAction;
use ipnet::Ipv4Net;
use serde::Deserialize;

use serve::flags::{ConfigError, invalid};

/// Flags with upstream's names; those that are ours say so. A flag that is given wins over the file.
#[derive(clap::Args, Debug, Clone)]
pub struct Flags {
    /// Kubeconfig file with which to reach the API server.
    #[arg(long)]
    pub kubeconfig: Option<PathBuf>,
    /// Configuration file (kind KubeProxyConfiguration, kubeproxy.config.k8s.io/v1alpha1).
    #[arg(long)]
    pub config: Option<PathBuf>,
    /// Name of this node instead of the host name.
    #[arg(long)]
    pub hostname_override: Option<String>,
    /// Addresses of pods; traffic to services from elsewhere is masqueraded.
    #[arg(long)]
    pub cluster_cidr: Option<String>,
    /// Ours: addresses of services, for which a route is kept.
    #[arg(long)]
    pub service_cluster_ip_range: Option<Ipv4Net>,
    /// Must be nftables.
    #[arg(long)]
    pub proxy_mode: Option<String>,
    /// Local addresses that node ports are open on: networks, or `primary` (default: all but loopback).
    #[arg(long, value_delimiter = ',')]
    pub nodeport_addresses: Vec<String>,
    /// Address of the health server.
    #[arg(long)]
    pub healthz_bind_address: Option<String>,
    /// Address of the metrics server.
    #[arg(long)]
    pub metrics_bind_address: Option<String>,
    /// Time between checks that the rules are still there (default 30s).
    #[arg(long, alias = "nftables-sync-period", value_parser = serve::flags::duration)]
    pub iptables_sync_period: Option<Duration>,
    /// Shortest time between two changes of rules; the first change is made at once (default 100ms).
    #[arg(long, alias = "nftables-min-sync-period", value_parser = serve::flags::duration)]
    pub iptables_min_sync_period: Option<Duration>,
    /// Masquerade everything that goes through a service.
    #[arg(long, num_args = 0..=1, default_missing_value = "true", default_value = "false", require_equals = true, action = ArgAction::Set)]
    pub masquerade_all: bool,
    /// Ours: masquerade traffic of pods that leaves the cluster.
    #[arg(long, num_args = 0..=1, default_missing_value = "true", default_value = "false", require_equals = true, action = ArgAction::Set)]
    pub masquerade_pods: bool,
    /// Ours: prefer the ready endpoint on the same node for all services.
    #[arg(long, num_args = 0..=1, default_missing_value = "true", default_value = "false", require_equals = true, action = ArgAction::Set)]
    pub prefer_same_node: bool,
    /// Ours: keep routes to the pods of other nodes and to services.
    #[arg(long, num_args = 0..=1, default_missing_value = "true", default_value = "true", require_equals = true, action = ArgAction::Set)]
    pub manage_routes: bool,
    /// Remove all rules and routes of this program, and end.
    #[arg(long, num_args = 0..=1, default_missing_value = "true", default_value = "false", require_equals = true, action = ArgAction::Set)]
    pub cleanup: bool,
}

/// The checked configuration.
#[derive(Clone, Debug)]
pub struct Config {
    pub(crate) kubeconfig: Option<PathBuf>,
    pub(crate) hostname: String,
    pub(crate) options: crate::Options,
    pub(crate) service_cidr: Option<Ipv4Net>,
    pub(crate) healthz: Option<SocketAddr>,
    pub(crate) metrics: Option<SocketAddr>,
    pub(crate) sync_period: Duration,
    pub(crate) min_sync_period: Duration,
    pub(crate) manage_routes: bool,
    pub(crate) cleanup: bool,
}

/// What we read of a KubeProxyConfiguration.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct File {
    client_connection: ConnectionFile,
    #[serde(rename = "clusterCIDR")]
    cluster_cidr: Option<String>,
    hostname_override: Option<String>,
    mode: Option<String>,
    healthz_bind_address: Option<String>,
    metrics_bind_address: Option<String>,
    node_port_addresses: Option<Vec<String>>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct ConnectionFile {
    kubeconfig: Option<PathBuf>,
}

impl Config {
    /// Reads the file, if there is one, and checks everything.
    pub fn new(flags: Flags) -> Result<Self, ConfigError> {
        let file: File = serve::flags::file(flags.config.as_deref())?;
        let mode = some(flags.proxy_mode.or(file.mode)).unwrap_or_else(|| "nftables".to_owned());
        if mode != "nftables" {
            return Err(invalid(&format!("--proxy-mode {mode} is not supported"), "use nftables"));
        }
        let cluster = some(flags.cluster_cidr.or(file.cluster_cidr));
        let node_ports = if flags.nodeport_addresses.is_empty() {
            file.node_port_addresses.unwrap_or_default()
        } else {
            flags.nodeport_addresses
        };
        let options = crate::Options {
            cluster_cidr: cluster.as_deref().map(first_network).transpose()?,
            node_port_networks: networks(&node_ports)?,
            masquerade_all: flags.masquerade_all,
            masquerade_pods: flags.masquerade_pods,
            prefer_same_node: flags.prefer_same_node,
        };
        let healthz = flags.healthz_bind_address.or(file.healthz_bind_address);
        let metrics = flags.metrics_bind_address.or(file.metrics_bind_address);
        Ok(Self {
            kubeconfig: flags.kubeconfig.or(file.client_connection.kubeconfig),
            hostname: some(flags.hostname_override.or(file.hostname_override)).unwrap_or_else(host_name),
            options,
            service_cidr: flags.service_cluster_ip_range,
            healthz: address(healthz, "0.0.0.0", 10256)?,
            metrics: address(metrics, "127.0.0.1", 10249)?,
            sync_period: flags.iptables_sync_period.unwrap_or(Duration::from_secs(30)),
            min_sync_period: flags.iptables_min_sync_period.unwrap_or(Duration::from_millis(100)),
            manage_routes: flags.manage_routes,
            cleanup: flags.cleanup,
        })
    }
}

fn some(text: Option<String>) -> Option<String> {
    text.filter(|t| !t.is_empty())
}

fn host_name() -> String {
    std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default().trim().to_lowercase()
}

/// Of a list for both address families, the one for IPv4.
fn first_network(text: &str) -> Result<Ipv4Net, ConfigError> {
    let parsed = text.split(',').find_map(|t| t.trim().parse().ok());
    parsed.ok_or_else(|| {
        invalid(&format!("--cluster-cidr {text} is wrong"), "expected an IPv4 network such as 10.244.0.0/16")
    })
}

/// `primary` stands for the default: all local addresses but loopback.
fn networks(texts: &[String]) -> Result<Vec<Ipv4Net>, ConfigError> {
    let wanted = texts.iter().filter(|t| *t != "primary" && !t.contains(':'));
    let parsed = wanted.map(|text| {
        text.parse().map_err(|_| {
            invalid(&format!("--nodeport-addresses {text} is wrong"), "expected networks such as 10.0.0.0/8")
        })
    });
    parsed.collect()
}

/// `ADDRESS`, `ADDRESS:PORT`, or port 0 for none.
fn address(text: Option<String>, default: &str, port: u16) -> Result<Option<SocketAddr>, ConfigError> {
    let text = some(text).unwrap_or_else(|| format!("{default}:{port}"));
    let whole = text.parse::<SocketAddr>().ok();
    let parsed = whole.or_else(|| Some(SocketAddr::new(text.parse::<IpAddr>().ok()?, port)));
    let parsed =
        parsed.ok_or_else(|| invalid(&format!("bind address {text} is wrong"), "expected ADDRESS:PORT"))?;
    Ok(Some(parsed).filter(|a| a.port() != 0))
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::{Config, Flags};

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        flags: Flags,
    }

    fn config(args: &[&str]) -> Result<Config, String> {
        let line =
            Line::try_parse_from(std::iter::once(&"kube-proxy").chain(args)).map_err(|e| e.to_string())?;
        Config::new(line.flags).map_err(|e| e.to_string())
    }

    #[test]
    fn flags_as_upstream_writes_them() {
        let plain = config(&["--hostname-override", "w1", "--cluster-cidr=10.244.0.0/16"]).unwrap();
        assert_eq!(plain.hostname, "w1");
        assert_eq!(plain.healthz.unwrap().to_string(), "0.0.0.0:10256");
        assert_eq!(plain.metrics.unwrap().to_string(), "127.0.0.1:10249");
        assert_eq!(plain.options.cluster_cidr.unwrap().to_string(), "10.244.0.0/16");
        assert!(!plain.options.prefer_same_node);
        let odd = config(&[
            "--prefer-same-node",
            "--healthz-bind-address=127.0.0.1",
            "--metrics-bind-address=0.0.0.0:0",
        ]);
        let odd = odd.unwrap();
        assert!(odd.options.prefer_same_node && odd.metrics.is_none());
        assert_eq!(odd.healthz.unwrap().to_string(), "127.0.0.1:10256");
        assert!(config(&["--proxy-mode=ipvs"]).unwrap_err().contains("nftables"));
        assert!(config(&["--cluster-cidr=wrong"]).is_err());
        assert!(config(&["--nodeport-addresses=10.0.0.0/8,primary", "--proxy-mode=nftables"]).is_ok());
    }
}
