//! The command line, checked.

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use crate::Error;

/// Flags of the cluster's name server.
#[derive(clap::Args, Debug, Clone)]
pub struct Flags {
    /// The cluster's domain.
    #[arg(long, default_value = "cluster.local")]
    pub domain: String,
    /// Address to answer on, by UDP and TCP.
    #[arg(long, default_value = "0.0.0.0")]
    pub bind_address: IpAddr,
    /// Port to answer on.
    #[arg(long, default_value_t = 53)]
    pub port: u16,
    /// Kubeconfig file; without one, the pod's service account is used.
    #[arg(long)]
    pub kubeconfig: Option<PathBuf>,
    /// Resolvers for foreign names, `ADDRESS[:PORT]` or a file like /etc/resolv.conf; none: such names are refused.
    #[arg(long, value_delimiter = ',')]
    pub forward: Vec<String>,
    /// Port of /health; 0: none.
    #[arg(long, default_value_t = 8080)]
    pub health_port: u16,
    /// Port of /ready, /readyz and /livez; 0: none.
    #[arg(long, default_value_t = 8181)]
    pub ready_port: u16,
    /// Port of /metrics; 0: none.
    #[arg(long, default_value_t = 9153)]
    pub metrics_port: u16,
    /// How long to go on answering, not ready, after being told to stop.
    #[arg(long, default_value = "5s", value_parser = serve::flags::duration)]
    pub lameduck: Duration,
}

/// The checked configuration.
#[derive(Clone, Debug)]
pub struct Config {
    pub(crate) domain: String,
    pub(crate) listen: SocketAddr,
    pub(crate) kubeconfig: Option<PathBuf>,
    pub(crate) forward: Vec<SocketAddr>,
    pub(crate) ports: Ports,
    pub(crate) lameduck: Duration,
}

/// Ports of the side servers.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Ports {
    pub(crate) health: u16,
    pub(crate) ready: u16,
    pub(crate) metrics: u16,
}

impl Config {
    /// Checks everything.
    pub fn new(flags: Flags) -> Result<Self, Error> {
        let domain = flags.domain.trim_matches('.').to_ascii_lowercase();
        if domain.is_empty() || hickory_server::proto::rr::Name::from_ascii(&domain).is_err() {
            return Err(Error::Config { what: format!("--domain {} is not a domain name", flags.domain) });
        }
        let mut forward = Vec::new();
        for text in flags.forward.iter().filter(|t| !t.is_empty()) {
            forward.extend(resolvers(text)?);
        }
        Ok(Self {
            domain,
            listen: SocketAddr::new(flags.bind_address, flags.port),
            kubeconfig: flags.kubeconfig,
            forward,
            ports: Ports { health: flags.health_port, ready: flags.ready_port, metrics: flags.metrics_port },
            lameduck: flags.lameduck,
        })
    }
}

fn resolvers(text: &str) -> Result<Vec<SocketAddr>, Error> {
    if text.starts_with('/') {
        let content = std::fs::read_to_string(text)
            .map_err(|source| Error::Resolvers { path: PathBuf::from(text), source })?;
        let lines = content.lines().filter_map(|l| l.trim().strip_prefix("nameserver"));
        return Ok(lines
            .filter_map(|l| l.trim().parse().ok())
            .map(|ip: IpAddr| SocketAddr::new(ip, 53))
            .collect());
    }
    let plain = text.parse::<IpAddr>().ok().map(|ip| SocketAddr::new(ip, 53));
    let address = plain.or_else(|| text.parse().ok());
    let wrong = || Error::Config { what: format!("--forward {text} is neither ADDRESS[:PORT] nor a file") };
    address.map(|a| vec![a]).ok_or_else(wrong)
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

    #[test]
    fn flags_are_checked() {
        let config = |args: &[&str]| {
            let line =
                Line::try_parse_from(std::iter::once(&"dns").chain(args)).map_err(|e| e.to_string())?;
            Config::new(line.flags).map_err(|e| e.to_string())
        };
        let plain = config(&[]).unwrap();
        assert_eq!((plain.domain.as_str(), plain.listen.port()), ("cluster.local", 53));
        let forward = config(&["--forward=1.1.1.1,9.9.9.9:5353", "--domain", "Example.Org."]).unwrap();
        assert_eq!(forward.forward[0].to_string(), "1.1.1.1:53");
        assert_eq!(forward.forward[1].to_string(), "9.9.9.9:5353");
        assert_eq!(forward.domain, "example.org");
        assert!(config(&["--forward=nobody"]).is_err());
        assert!(config(&["--forward=/nonexistent"]).is_err());
        assert!(config(&["--domain="]).is_err());
    }
}
