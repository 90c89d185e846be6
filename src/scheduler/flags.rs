//! The command line and the configuration file, brought together and checked.

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use clap::ArgAction;
use serde::Deserialize;

use serve::flags::{ConfigError, invalid};

/// Flags with upstream's names. A flag that is given wins over the configuration file.
#[derive(clap::Args, Debug, Clone)]
pub struct Flags {
    /// Kubeconfig file with which to reach the API server.
    #[arg(long)]
    pub kubeconfig: Option<PathBuf>,
    /// Configuration file (kind KubeSchedulerConfiguration, kubescheduler.config.k8s.io/v1).
    #[arg(long)]
    pub config: Option<PathBuf>,
    /// Schedule only while holding the election Lease.
    #[arg(long, num_args = 0..=1, default_missing_value = "true", require_equals = true, action = ArgAction::Set)]
    pub leader_elect: Option<bool>,
    /// How long the Lease lasts without renewal (default 2s).
    #[arg(long, value_parser = serve::flags::duration)]
    pub leader_elect_lease_duration: Option<Duration>,
    /// A leader that could not renew for this long steps down (default 1.5s).
    #[arg(long, value_parser = serve::flags::duration)]
    pub leader_elect_renew_deadline: Option<Duration>,
    /// Time between renewals (default 500ms).
    #[arg(long, value_parser = serve::flags::duration)]
    pub leader_elect_retry_period: Option<Duration>,
    /// Name of the Lease (default kube-scheduler).
    #[arg(long)]
    pub leader_elect_resource_name: Option<String>,
    /// Namespace of the Lease (default kube-system).
    #[arg(long)]
    pub leader_elect_resource_namespace: Option<String>,
    /// Port for /healthz and /metrics over HTTPS; 0: none.
    #[arg(long, default_value_t = 10259)]
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
    /// Accepted for compatibility; /metrics is open to client certificates of --client-ca-file.
    #[arg(long)]
    pub authentication_kubeconfig: Option<PathBuf>,
    /// Accepted for compatibility; /metrics is open to client certificates of --client-ca-file.
    #[arg(long)]
    pub authorization_kubeconfig: Option<PathBuf>,
}

/// The checked configuration.
#[derive(Clone, Debug)]
pub struct Config {
    pub(crate) kubeconfig: PathBuf,
    /// `None`: schedule without election.
    pub(crate) election: Option<client::ElectionConfig>,
    /// Names that pods ask for this scheduler by.
    pub(crate) profiles: BTreeSet<String>,
    pub(crate) listen: Option<SocketAddr>,
    pub(crate) certificate: Option<(PathBuf, PathBuf)>,
    pub(crate) client_ca: Option<PathBuf>,
    pub(crate) host: String,
}

/// What we read of a KubeSchedulerConfiguration.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct File {
    leader_election: ElectionFile,
    client_connection: ConnectionFile,
    profiles: Vec<ProfileFile>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct ElectionFile {
    leader_elect: Option<bool>,
    lease_duration: Option<String>,
    renew_deadline: Option<String>,
    retry_period: Option<String>,
    resource_name: Option<String>,
    resource_namespace: Option<String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct ConnectionFile {
    kubeconfig: Option<PathBuf>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct ProfileFile {
    scheduler_name: Option<String>,
}

impl Config {
    /// Reads the file, if there is one, and checks everything.
    pub fn new(flags: Flags) -> Result<Self, ConfigError> {
        let file: File = serve::flags::file(flags.config.as_deref())?;
        let kubeconfig = flags.kubeconfig.clone().or(file.client_connection.kubeconfig);
        let kubeconfig = kubeconfig
            .ok_or_else(|| invalid("--kubeconfig is required", "the API server is reached with it"))?;
        let host = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default().trim().to_owned();
        let election = election(&flags, &file.leader_election, &host)?;
        let names = file.profiles.into_iter().filter_map(|p| p.scheduler_name);
        let mut profiles: BTreeSet<String> = names.collect();
        if profiles.is_empty() {
            profiles.insert("default-scheduler".to_owned());
        }
        Ok(Self {
            kubeconfig,
            election,
            profiles,
            listen: (flags.secure_port != 0)
                .then_some(SocketAddr::new(flags.bind_address, flags.secure_port)),
            certificate: flags.tls_cert_file.zip(flags.tls_private_key_file),
            client_ca: flags.client_ca_file,
            host,
        })
    }
}

fn election(
    flags: &Flags,
    file: &ElectionFile,
    host: &str,
) -> Result<Option<client::ElectionConfig>, ConfigError> {
    if !flags.leader_elect.or(file.leader_elect).unwrap_or(true) {
        return Ok(None);
    }
    let mut config = client::ElectionConfig::new("kube-scheduler", host);
    let pick = |flag: Option<Duration>, text: &Option<String>, default: Duration| match (flag, text) {
        (Some(value), _) => Ok(value),
        (None, Some(text)) => serve::flags::duration(text)
            .map_err(|why| invalid("a duration under leaderElection is wrong", &why)),
        (None, None) => Ok(default),
    };
    config.lease = pick(flags.leader_elect_lease_duration, &file.lease_duration, config.lease)?;
    config.renew = pick(flags.leader_elect_renew_deadline, &file.renew_deadline, config.renew)?;
    config.retry = pick(flags.leader_elect_retry_period, &file.retry_period, config.retry)?;
    let name = flags.leader_elect_resource_name.clone().or_else(|| file.resource_name.clone());
    config.name = name.unwrap_or(config.name);
    let namespace = flags.leader_elect_resource_namespace.clone().or_else(|| file.resource_namespace.clone());
    config.namespace = namespace.unwrap_or(config.namespace);
    if config.lease <= config.renew || config.renew <= config.retry {
        let why = "a leader must be able to renew, and must step down before its Lease is free";
        return Err(invalid("leader election needs lease duration > renew deadline > retry period", why));
    }
    Ok(Some(config))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use clap::Parser;

    use super::{Config, Flags};

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        flags: Flags,
    }

    fn config(args: &[&str]) -> Result<Config, String> {
        let line = Line::try_parse_from(std::iter::once(&"kube-scheduler").chain(args))
            .map_err(|e| e.to_string())?;
        Config::new(line.flags).map_err(|e| e.to_string())
    }

    #[test]
    fn flags_as_upstream_writes_them() {
        let plain = config(&["--kubeconfig", "/k"]).unwrap();
        assert_eq!(plain.election.unwrap().lease, Duration::from_secs(2));
        assert_eq!(plain.listen.unwrap().port(), 10259);
        assert!(plain.profiles.contains("default-scheduler"));
        assert!(
            config(&["--kubeconfig=/k", "--leader-elect=false", "--secure-port=0"])
                .unwrap()
                .election
                .is_none()
        );
        assert!(config(&["--kubeconfig=/k", "--leader-elect"]).unwrap().election.is_some());
        let slow = config(&[
            "--kubeconfig=/k",
            "--leader-elect-lease-duration=15s",
            "--leader-elect-renew-deadline",
            "10s",
        ]);
        assert_eq!(slow.unwrap().election.unwrap().renew, Duration::from_secs(10));
        assert!(config(&[]).is_err());
        assert!(config(&["--kubeconfig=/k", "--leader-elect-lease-duration=100ms"]).is_err());
    }

    #[test]
    fn the_file_fills_what_flags_leave() {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(
            file.path(),
            "apiVersion: kubescheduler.config.k8s.io/v1\nkind: KubeSchedulerConfiguration\nclientConnection:\n  kubeconfig: /file\nleaderElection:\n  leaseDuration: 9s\nprofiles:\n- schedulerName: mine\n",
        )
        .unwrap();
        let config = config(&["--config", file.path().to_str().unwrap()]).unwrap();
        assert_eq!(config.kubeconfig.to_str(), Some("/file"));
        assert_eq!(config.election.unwrap().lease, Duration::from_secs(9));
        assert_eq!(config.profiles.into_iter().collect::<Vec<_>>(), ["mine"]);
    }
}
