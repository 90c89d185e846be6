//! The command line, under kube-apiserver's names, and the validated configuration made from it.
//!
//! A [`Config`] is complete and consistent: whoever holds one need not check it again. Files are only named
//! here, their users read them.

use clap::ArgAction;
use ipnet::IpNet;
use std::{
    collections::BTreeSet,
    net::{IpAddr, Ipv4Addr},
    path::PathBuf,
    time::Duration,
};

/// What a flag value that cannot be used has wrong with it.
#[derive(Debug, thiserror::Error)]
#[error("--{flag}: {why}")]
pub struct Invalid {
    flag: &'static str,
    why: String,
}

/// kube-apiserver's flags, as far as this server has what they govern.
#[derive(clap::Args, Debug, Clone)]
pub struct Flags {
    /// The port on which to serve HTTPS with authentication and authorization.
    #[arg(long, default_value_t = 6443)]
    pub secure_port: u16,
    /// The IP address on which to listen for the --secure-port port.
    #[arg(long, default_value = "0.0.0.0")]
    pub bind_address: IpAddr,
    /// The IP address on which to advertise the apiserver to members of the cluster.
    #[arg(long)]
    pub advertise_address: Option<IpAddr>,
    /// The store's servers (scheme://ip:port), comma separated.
    #[arg(long, value_delimiter = ',')]
    pub etcd_servers: Vec<String>,
    /// CA file used to verify the store's servers.
    #[arg(long)]
    pub etcd_cafile: Option<PathBuf>,
    /// Client certificate for the store.
    #[arg(long)]
    pub etcd_certfile: Option<PathBuf>,
    /// Key of the client certificate for the store.
    #[arg(long)]
    pub etcd_keyfile: Option<PathBuf>,
    /// Between pings on connections to the store, and how long each may take; with a real etcd not less than its
    /// --grpc-keepalive-min-time.
    #[arg(long, default_value = "250ms", value_parser = serve::flags::duration)]
    pub etcd_keepalive_interval: Duration,
    /// The prefix to prepend to all resource paths in the store.
    #[arg(long, default_value = "/registry")]
    pub etcd_prefix: String,
    /// How often history older than this is compacted away; 0 leaves compaction to others.
    #[arg(long, default_value = "5m", value_parser = serve::flags::duration)]
    pub etcd_compaction_interval: Duration,
    /// CAs that may vouch for clients.
    #[arg(long)]
    pub client_ca_file: Option<PathBuf>,
    /// The server's certificate.
    #[arg(long)]
    pub tls_cert_file: PathBuf,
    /// The key of --tls-cert-file.
    #[arg(long)]
    pub tls_private_key_file: PathBuf,
    /// Client certificate for kubelets.
    #[arg(long)]
    pub kubelet_client_certificate: Option<PathBuf>,
    /// Key of the client certificate for kubelets.
    #[arg(long)]
    pub kubelet_client_key: Option<PathBuf>,
    /// CA that verifies kubelets.
    #[arg(long)]
    pub kubelet_certificate_authority: Option<PathBuf>,
    /// Kinds of node addresses to try for kubelets, best first.
    #[arg(long, value_delimiter = ',', default_value = "InternalIP,Hostname,ExternalIP")]
    pub kubelet_preferred_address_types: Vec<String>,
    /// Public or private keys that verify service-account tokens; may be given several times.
    #[arg(long)]
    pub service_account_key_file: Vec<PathBuf>,
    /// The private key that signs service-account tokens.
    #[arg(long)]
    pub service_account_signing_key_file: Option<PathBuf>,
    /// Identifier of the issuer; the first signs, all are accepted.
    #[arg(long, default_value = "https://kubernetes.default.svc.cluster.local")]
    pub service_account_issuer: Vec<String>,
    /// Longest validity of a requested service-account token.
    #[arg(long, value_parser = serve::flags::duration)]
    pub service_account_max_token_expiration: Option<Duration>,
    /// Identifiers of the API; defaults to the issuer.
    #[arg(long, value_delimiter = ',')]
    pub api_audiences: Vec<String>,
    /// A CIDR from which to assign service cluster IPs.
    #[arg(long, default_value = "10.96.0.0/12")]
    pub service_cluster_ip_range: String,
    /// Ports reserved for services with NodePort visibility, both ends included.
    #[arg(long, default_value = "30000-32767")]
    pub service_node_port_range: String,
    /// Ordered list of authorizers: Node, RBAC, AlwaysAllow, AlwaysDeny.
    #[arg(long, value_delimiter = ',', default_value = "Node,RBAC")]
    pub authorization_mode: Vec<String>,
    /// Accept bootstrap tokens (Secrets of type bootstrap.kubernetes.io/token in kube-system).
    #[arg(long, default_value_t = false, num_args = 0..=1, default_missing_value = "true", require_equals = true, action = ArgAction::Set)]
    pub enable_bootstrap_token_auth: bool,
    /// Admission plug-ins to enable beside the default ones.
    #[arg(long, value_delimiter = ',')]
    pub enable_admission_plugins: Vec<String>,
    /// Admission plug-ins to disable although they are on by default.
    #[arg(long, value_delimiter = ',')]
    pub disable_admission_plugins: Vec<String>,
    /// CAs that may vouch for front proxies.
    #[arg(long)]
    pub requestheader_client_ca_file: Option<PathBuf>,
    /// Common names of front proxies; empty allows all that --requestheader-client-ca-file vouches for.
    #[arg(long, value_delimiter = ',')]
    pub requestheader_allowed_names: Vec<String>,
    /// Headers to inspect for user names.
    #[arg(long, value_delimiter = ',', default_value = "X-Remote-User")]
    pub requestheader_username_headers: Vec<String>,
    /// Headers to inspect for groups.
    #[arg(long, value_delimiter = ',', default_value = "X-Remote-Group")]
    pub requestheader_group_headers: Vec<String>,
    /// Header prefixes to inspect for extra user information.
    #[arg(long, value_delimiter = ',', default_value = "X-Remote-Extra-")]
    pub requestheader_extra_headers_prefix: Vec<String>,
    /// Client certificate that proves this server's identity to aggregated API servers.
    #[arg(long)]
    pub proxy_client_cert_file: Option<PathBuf>,
    /// Key of --proxy-client-cert-file.
    #[arg(long)]
    pub proxy_client_key_file: Option<PathBuf>,
    /// tolerationSeconds of the toleration for notReady:NoExecute that is added by default.
    #[arg(long, default_value_t = 300)]
    pub default_not_ready_toleration_seconds: i64,
    /// tolerationSeconds of the toleration for unreachable:NoExecute that is added by default.
    #[arg(long, default_value_t = 300)]
    pub default_unreachable_toleration_seconds: i64,
    /// key=value pairs that enable or disable built-in APIs: api/all, api/ga, api/beta, api/alpha, GROUP/VERSION[/RESOURCE].
    #[arg(long, value_delimiter = ',')]
    pub runtime_config: Vec<String>,
    /// Requests without credentials are system:anonymous instead of refused.
    #[arg(long, default_value_t = true, num_args = 0..=1, default_missing_value = "true", require_equals = true, action = ArgAction::Set)]
    pub anonymous_auth: bool,
    /// Most non-mutating requests in flight at a time; 0 for no limit.
    #[arg(long, default_value_t = 400)]
    pub max_requests_inflight: usize,
    /// Most mutating requests in flight at a time; 0 for no limit.
    #[arg(long, default_value_t = 200)]
    pub max_mutating_requests_inflight: usize,
    /// How long a request may take, watches and streams excepted.
    #[arg(long, default_value = "1m", value_parser = serve::flags::duration)]
    pub request_timeout: Duration,
    /// Shortest time after which a watch without timeoutSeconds is ended; the longest is twice that.
    #[arg(long, default_value_t = 1800)]
    pub min_request_timeout: u64,
    /// Time between /readyz failing and the end of serving, so that balancers notice.
    #[arg(long, default_value = "0s", value_parser = serve::flags::duration)]
    pub shutdown_delay_duration: Duration,
    /// Allow privileged containers.
    #[arg(long, default_value_t = true, num_args = 0..=1, default_missing_value = "true", require_equals = true, action = ArgAction::Set)]
    pub allow_privileged: bool,
    /// Reconciler of the endpoints of the service default/kubernetes: lease or none.
    #[arg(long, default_value = "lease")]
    pub endpoint_reconciler_type: String,
    /// How long events are kept.
    #[arg(long, default_value = "1h", value_parser = serve::flags::duration)]
    pub event_ttl: Duration,
}

/// A validated configuration.
#[derive(Debug, Clone)]
pub struct Config {
    /// The flags it was made from; values that need no parsing are read here.
    pub flags: Flags,
    /// The address other members of the cluster reach this server by.
    pub advertise_address: IpAddr,
    /// Service cluster IPs come from here.
    pub service_cidr: IpNet,
    /// First and last NodePort.
    pub node_ports: (u16, u16),
    /// Audiences of this API.
    pub audiences: Vec<String>,
    /// Store prefix without a slash at its end.
    pub prefix: String,
    /// Parsed `--runtime-config`.
    pub runtime: Vec<(String, bool)>,
}

impl TryFrom<Flags> for Config {
    type Error = Invalid;

    fn try_from(flags: Flags) -> Result<Self, Invalid> {
        let audiences = match flags.api_audiences.is_empty() {
            true => flags.service_account_issuer.clone(),
            false => flags.api_audiences.clone(),
        };
        check_modes(&flags)?;
        Ok(Config {
            advertise_address: advertise(&flags),
            service_cidr: service_cidr(&flags)?,
            node_ports: node_ports(&flags.service_node_port_range)?,
            prefix: format!("/{}", flags.etcd_prefix.trim_matches('/')),
            runtime: flags.runtime_config.iter().map(|pair| runtime(pair)).collect::<Result<_, _>>()?,
            audiences,
            flags,
        })
    }
}

impl Config {
    /// Whether an admission plug-in that is on or off by default runs.
    #[must_use]
    pub fn admission_enabled(&self, name: &str, by_default: bool) -> bool {
        let has = |list: &[String]| list.iter().any(|n| n == name);
        !has(&self.flags.disable_admission_plugins)
            && (by_default || has(&self.flags.enable_admission_plugins))
    }

    /// Whether `--runtime-config` leaves a built-in resource served. The most specific entry wins.
    #[must_use]
    pub fn serves(&self, group_version: &str, plural: &str, by_default: bool) -> bool {
        let version = group_version.rsplit('/').next().unwrap_or_default();
        let level = if version.contains("alpha") {
            "api/alpha"
        } else if version.contains("beta") {
            "api/beta"
        } else {
            "api/ga"
        };
        let full = format!("{group_version}/{plural}");
        ["api/all", level, group_version, &full]
            .iter()
            .filter_map(|wanted| self.runtime.iter().rev().find(|(key, _)| key == wanted).map(|(_, on)| *on))
            .next_back()
            .unwrap_or(by_default)
    }
}

fn advertise(flags: &Flags) -> IpAddr {
    let bound = Some(flags.bind_address).filter(|a| !a.is_unspecified());
    flags.advertise_address.or(bound).unwrap_or(IpAddr::V4(Ipv4Addr::LOCALHOST))
}

fn service_cidr(flags: &Flags) -> Result<IpNet, Invalid> {
    let text = flags.service_cluster_ip_range.split(',').next().unwrap_or_default();
    let net: IpNet = text.parse().map_err(|_| Invalid {
        flag: "service-cluster-ip-range",
        why: format!("\"{text}\" is no CIDR, expected for example 10.96.0.0/12"),
    })?;
    Ok(net.trunc())
}

fn node_ports(text: &str) -> Result<(u16, u16), Invalid> {
    let parsed = text.split_once('-').and_then(|(a, b)| Some((a.parse().ok()?, b.parse().ok()?)));
    parsed.filter(|(first, last): &(u16, u16)| 0 < *first && first <= last).ok_or_else(|| Invalid {
        flag: "service-node-port-range",
        why: format!("\"{text}\" is no port range, expected for example 30000-32767"),
    })
}

fn runtime(pair: &str) -> Result<(String, bool), Invalid> {
    let (key, value) = pair.split_once('=').unwrap_or((pair, "true"));
    let on = match value {
        "true" | "" => true,
        "false" => false,
        _ => {
            let why = format!("invalid value {key}={value}, expected true or false");
            return Err(Invalid { flag: "runtime-config", why });
        }
    };
    Ok((key.to_string(), on))
}

fn check_modes(flags: &Flags) -> Result<(), Invalid> {
    const KNOWN: [&str; 4] = ["Node", "RBAC", "AlwaysAllow", "AlwaysDeny"];
    let mut seen = BTreeSet::new();
    for mode in &flags.authorization_mode {
        let why = if !KNOWN.contains(&mode.as_str()) {
            format!("\"{mode}\" is not a valid mode, expected one of {}", KNOWN.join(", "))
        } else if !seen.insert(mode) {
            format!("mode {mode} is given more than once")
        } else {
            continue;
        };
        return Err(Invalid { flag: "authorization-mode", why });
    }
    Ok(())
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use clap::Parser;

    #[derive(clap::Parser)]
    struct Line {
        #[command(flatten)]
        flags: Flags,
    }

    /// Flags as a test wants them.
    pub(crate) fn flags(extra: &[&str]) -> Flags {
        let base = ["kube-apiserver", "--tls-cert-file=x", "--tls-private-key-file=y"];
        Line::try_parse_from(base.iter().chain(extra)).unwrap().flags
    }

    #[test]
    fn values_are_validated() {
        let check = |args: &[&str], expect: &str| {
            let text = Config::try_from(flags(args)).map(|_| String::new()).unwrap_or_else(|e| e.to_string());
            assert_eq!(text, expect, "{args:?}");
        };
        check(&[], "");
        check(&["--anonymous-auth=false", "--allow-privileged", "--runtime-config=api/all=true"], "");
        check(
            &["--authorization-mode=Node,RBAC,RBAC"],
            "--authorization-mode: mode RBAC is given more than once",
        );
        check(
            &["--service-node-port-range=9-3"],
            "--service-node-port-range: \"9-3\" is no port range, expected for example 30000-32767",
        );
        check(
            &["--service-cluster-ip-range=10.0.0.0/40"],
            "--service-cluster-ip-range: \"10.0.0.0/40\" is no CIDR, expected for example 10.96.0.0/12",
        );
    }

    #[test]
    fn the_most_specific_runtime_config_wins() {
        let config = Config::try_from(flags(&["--runtime-config=api/beta=true,x/v1beta1=false"])).unwrap();
        assert!(config.serves("y/v1beta1", "things", false));
        assert!(!config.serves("x/v1beta1", "things", false));
        assert!(config.serves("apps/v1", "deployments", true));
    }
}
