//! The store's command line: etcd's flags, and what they must satisfy.
//!
//! Keeps true: after [`Config::new`] every URL, file combination and number has been checked, with an error that
//! names the flag. Leaves files and ports to `run.rs`.

use crate::network::{PeerTls, is_loopback, is_url};
use clap::ArgAction;
use serve::{ServerTls, flags::duration};
use sha2::{Digest, Sha256};
use std::{collections::BTreeMap, path::PathBuf, time::Duration};

/// etcd's flags, as far as they mean something here.
#[derive(clap::Args, Clone, Debug)]
pub struct Flags {
    /// This member's name, as --initial-cluster has it.
    #[arg(long, default_value = "default")]
    pub name: String,
    /// Where everything is kept.
    #[arg(long, default_value = "default.etcd")]
    pub data_dir: PathBuf,
    /// Where clients are listened for.
    #[arg(long, value_delimiter = ',', default_value = "http://localhost:2379")]
    pub listen_client_urls: Vec<String>,
    /// Where clients are told to go.
    #[arg(long, value_delimiter = ',')]
    pub advertise_client_urls: Vec<String>,
    /// Where peers are listened for.
    #[arg(long, value_delimiter = ',', default_value = "http://localhost:2380")]
    pub listen_peer_urls: Vec<String>,
    /// Where peers are told to go.
    #[arg(long, value_delimiter = ',')]
    pub initial_advertise_peer_urls: Vec<String>,
    /// All members: NAME=URL,NAME=URL,...
    #[arg(long)]
    pub initial_cluster: Option<String>,
    /// `new`, or `existing` for a member that was added to a cluster that is there (`etcdctl member add`).
    #[arg(long, default_value = "new", value_parser = ["new", "existing"])]
    pub initial_cluster_state: String,
    /// Makes this member the only one of its cluster, when the others are lost for good and too few are left to
    /// agree. They must never run again. For one start only.
    #[arg(long)]
    pub force_new_cluster: bool,
    /// Tells apart clusters that have the same members.
    #[arg(long, default_value = "etcd-cluster")]
    pub initial_cluster_token: String,
    /// Certificate shown to clients.
    #[arg(long)]
    pub cert_file: Option<PathBuf>,
    /// Its key.
    #[arg(long)]
    pub key_file: Option<PathBuf>,
    /// CA of clients' certificates.
    #[arg(long)]
    pub trusted_ca_file: Option<PathBuf>,
    /// Clients must show a certificate.
    #[arg(long, num_args = 0..=1, default_missing_value = "true", require_equals = true, action = ArgAction::Set, default_value = "false")]
    pub client_cert_auth: bool,
    /// Certificate shown to peers.
    #[arg(long)]
    pub peer_cert_file: Option<PathBuf>,
    /// Its key.
    #[arg(long)]
    pub peer_key_file: Option<PathBuf>,
    /// CA of peers' certificates.
    #[arg(long)]
    pub peer_trusted_ca_file: Option<PathBuf>,
    /// Peers must show a certificate.
    #[arg(long, num_args = 0..=1, default_missing_value = "true", require_equals = true, action = ArgAction::Set, default_value = "false")]
    pub peer_client_cert_auth: bool,
    /// Milliseconds between a leader's heartbeats.
    #[arg(long, default_value_t = 100)]
    pub heartbeat_interval: u64,
    /// Milliseconds without a leader within which an election begins.
    #[arg(long, default_value_t = 1000)]
    pub election_timeout: u64,
    /// Bytes of keys and values above which writes are refused; 0: 2 GiB.
    #[arg(long, default_value_t = 0)]
    pub quota_backend_bytes: i64,
    /// Log entries after which the log is cut.
    #[arg(long, default_value_t = 10_000)]
    pub snapshot_count: u64,
    /// Where /metrics and /health are listened for (http).
    #[arg(long, value_delimiter = ',')]
    pub listen_metrics_urls: Vec<String>,
    /// History kept by automatic compaction: revisions, or a duration; 0: no automatic compaction.
    #[arg(long, default_value = "0")]
    pub auto_compaction_retention: String,
    /// How --auto-compaction-retention is meant.
    #[arg(long, default_value = "periodic", value_parser = ["periodic", "revision"])]
    pub auto_compaction_mode: String,
    /// Bytes of a request, at most.
    #[arg(long, default_value_t = 1_572_864)]
    pub max_request_bytes: usize,
    /// Operations of a transaction, at most.
    #[arg(long, default_value_t = 128)]
    pub max_txn_ops: usize,
    /// How often watchers that asked for it are told of the progress.
    #[arg(long, value_parser = duration, default_value = "10m")]
    pub watch_progress_notify_interval: Duration,
    /// Where every change is archived, for `trireme store restore`: best another disk or a network mount. Members may
    /// share it.
    #[arg(long)]
    pub archive_dir: Option<PathBuf>,
    /// How often the archive is brought up to date: what a loss of all members' disks may cost.
    #[arg(long, value_parser = duration, default_value = "1s")]
    pub archive_interval: Duration,
    /// How often a whole state is archived: how much a restore has to go through.
    #[arg(long, value_parser = duration, default_value = "24h")]
    pub archive_base_interval: Duration,
    /// How far back the archive must reach; what is needed only for before that is removed. 0: nothing is.
    #[arg(long, value_parser = duration, default_value = "0")]
    pub archive_retention: Duration,
}

/// What is wrong with a flag.
#[derive(Debug, thiserror::Error)]
#[error("--{flag}: {problem}")]
pub struct FlagError {
    flag: &'static str,
    problem: String,
}

/// The error of a flag.
pub(crate) fn wrong<T>(flag: &'static str, problem: impl Into<String>) -> Result<T, FlagError> {
    Err(FlagError { flag, problem: problem.into() })
}

/// What automatic compaction keeps.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Retention {
    /// There is none.
    Off,
    /// So many revisions.
    Revisions(i64),
    /// What is younger.
    Age(Duration),
}

/// A member as `--initial-cluster` names it.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct PeerConfig {
    /// Its name.
    pub(crate) name: String,
    /// Where peers reach it, sorted.
    pub(crate) urls: Vec<String>,
}

/// A member's checked configuration.
#[derive(Clone, Debug)]
pub(crate) struct Config {
    pub(crate) flags: Flags,
    /// This member's number; what `--initial-cluster` makes of it until the cluster says otherwise.
    pub(crate) id: u64,
    /// The cluster's, likewise.
    pub(crate) cluster: u64,
    /// The members of `--initial-cluster`: the group, when it is new.
    pub(crate) initial: BTreeMap<u64, PeerConfig>,
    pub(crate) client_urls: Vec<String>,
    pub(crate) client_tls: Option<ServerTls>,
    pub(crate) peer_tls: Option<PeerTls>,
    pub(crate) retention: Retention,
    pub(crate) quota: u64,
}

impl Config {
    /// Checks the flags.
    pub(crate) fn new(mut flags: Flags) -> Result<Self, FlagError> {
        if flags.heartbeat_interval < 10 {
            return wrong("heartbeat-interval", "must be at least 10 ms");
        }
        if flags.election_timeout < 5 * flags.heartbeat_interval {
            return wrong("election-timeout", "must be at least five times --heartbeat-interval");
        }
        if flags.archive_interval.is_zero() || flags.archive_base_interval.is_zero() {
            return wrong("archive-interval", "and --archive-base-interval must be more than 0");
        }
        if flags.initial_advertise_peer_urls.is_empty() {
            flags.initial_advertise_peer_urls = flags.listen_peer_urls.clone();
        }
        check_urls("listen-client-urls", &flags.listen_client_urls)?;
        check_urls("listen-peer-urls", &flags.listen_peer_urls)?;
        check_urls("initial-advertise-peer-urls", &flags.initial_advertise_peer_urls)?;
        let peers = members(&flags)?;
        let cluster = number(peers.keys().flat_map(|id| id.to_be_bytes()));
        let client_urls = match flags.advertise_client_urls.as_slice() {
            [] => flags.listen_client_urls.clone(),
            urls => urls.to_vec(),
        };
        Ok(Self {
            id: this_member(&flags, &peers)?,
            cluster,
            initial: peers,
            client_urls,
            client_tls: client_tls(&flags)?,
            peer_tls: peer_tls(&flags)?,
            retention: retention(&flags)?,
            quota: quota(flags.quota_backend_bytes),
            flags,
        })
    }

    /// The URLs under which peers know this member, sorted.
    pub(crate) fn own_urls(&self) -> Vec<String> {
        let mut urls = self.flags.initial_advertise_peer_urls.clone();
        urls.sort();
        urls
    }

    /// Whether this member comes to a cluster that is there already.
    pub(crate) fn joins(&self) -> bool {
        self.flags.initial_cluster_state == "existing"
    }

    /// A number for a new member, other than any before.
    pub(crate) fn new_number(&self, urls: &[String]) -> u64 {
        number(urls.concat().bytes().chain(rand::random::<u64>().to_be_bytes()))
    }

    /// How long a request may take.
    pub(crate) fn request_timeout(&self) -> Duration {
        Duration::from_secs(5) + 2 * self.election()
    }

    /// How long without a leader until an election.
    pub(crate) fn election(&self) -> Duration {
        Duration::from_millis(self.flags.election_timeout)
    }

    /// The shortest lease, in seconds, as etcd has it: one and a half election timeouts.
    pub(crate) fn min_lease(&self) -> i64 {
        i64::try_from((self.flags.election_timeout * 3 / 2).div_ceil(1000)).unwrap_or(i64::MAX)
    }
}

fn quota(bytes: i64) -> u64 {
    match bytes {
        0 => 2 << 30,
        bytes => u64::try_from(bytes).unwrap_or(u64::MAX),
    }
}

fn check_urls(flag: &'static str, urls: &[String]) -> Result<(), FlagError> {
    for url in urls {
        if !is_url(url) {
            return wrong(flag, format!("{url:?} is no URL like https://10.0.0.1:2380"));
        }
        if url.starts_with("http://") && !is_loopback(url) {
            return wrong(flag, format!("{url}: http is for loopback only, use https"));
        }
    }
    Ok(())
}

/// The members of --initial-cluster by their numbers, which are hashes of their URLs and the cluster's token.
fn members(flags: &Flags) -> Result<BTreeMap<u64, PeerConfig>, FlagError> {
    let this =
        || format!("{}={}", flags.name, flags.initial_advertise_peer_urls.join(&format!(",{}=", flags.name)));
    let text = flags.initial_cluster.clone().unwrap_or_else(this);
    let mut urls: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for part in text.split(',').filter(|part| !part.is_empty()) {
        let Some((name, url)) = part.split_once('=') else {
            return wrong("initial-cluster", format!("{part:?} is not NAME=URL"));
        };
        urls.entry(name.into()).or_default().push(url.into());
    }
    let mut members = BTreeMap::new();
    for (name, mut urls) in urls {
        check_urls("initial-cluster", &urls)?;
        urls.sort();
        let id = number(urls.concat().bytes().chain(flags.initial_cluster_token.bytes()));
        if let Some(other) = members.insert(id, PeerConfig { name: name.clone(), urls }) {
            return wrong("initial-cluster", format!("{name} and {} have the same URLs", other.name));
        }
    }
    Ok(members)
}

fn number(bytes: impl Iterator<Item = u8>) -> u64 {
    let digest = Sha256::digest(bytes.collect::<Vec<_>>());
    digest[..8].iter().fold(0, |number, byte| number << 8 | u64::from(*byte)).max(1)
}

fn this_member(flags: &Flags, peers: &BTreeMap<u64, PeerConfig>) -> Result<u64, FlagError> {
    let Some((id, peer)) = peers.iter().find(|(_, peer)| peer.name == flags.name) else {
        return wrong("initial-cluster", format!("does not name this member: --name is {:?}", flags.name));
    };
    let mut advertised = flags.initial_advertise_peer_urls.clone();
    advertised.sort();
    if advertised != peer.urls {
        return wrong(
            "initial-advertise-peer-urls",
            format!("{advertised:?} differs from {:?} in --initial-cluster", peer.urls),
        );
    }
    Ok(*id)
}

fn client_tls(flags: &Flags) -> Result<Option<ServerTls>, FlagError> {
    if flags.listen_client_urls.iter().all(|url| url.starts_with("http://")) {
        return Ok(None);
    }
    let (Some(cert), Some(key)) = (&flags.cert_file, &flags.key_file) else {
        return wrong("cert-file", "an https client URL needs --cert-file and --key-file");
    };
    if flags.client_cert_auth && flags.trusted_ca_file.is_none() {
        return wrong("client-cert-auth", "needs --trusted-ca-file");
    }
    Ok(Some(ServerTls {
        cert_file: cert.clone(),
        key_file: key.clone(),
        client_ca_files: flags.trusted_ca_file.iter().cloned().collect(),
        require_client_cert: flags.client_cert_auth,
        alpn: vec!["h2"],
    }))
}

fn peer_tls(flags: &Flags) -> Result<Option<PeerTls>, FlagError> {
    if flags.listen_peer_urls.iter().all(|url| url.starts_with("http://")) {
        return Ok(None);
    }
    match (&flags.peer_cert_file, &flags.peer_key_file, &flags.peer_trusted_ca_file) {
        (Some(cert), Some(key), Some(ca)) => Ok(Some(PeerTls {
            cert: cert.clone(),
            key: key.clone(),
            ca: ca.clone(),
            client_cert_auth: flags.peer_client_cert_auth,
        })),
        _ => wrong(
            "peer-cert-file",
            "an https peer URL needs --peer-cert-file, --peer-key-file and --peer-trusted-ca-file",
        ),
    }
}

fn retention(flags: &Flags) -> Result<Retention, FlagError> {
    let text = flags.auto_compaction_retention.as_str();
    let number = text.parse::<u64>().ok();
    let retention = match (flags.auto_compaction_mode.as_str(), number) {
        (_, Some(0)) => Retention::Off,
        ("revision", Some(number)) => Retention::Revisions(i64::try_from(number).unwrap_or(i64::MAX)),
        ("revision", None) => return wrong("auto-compaction-retention", "must be a number of revisions"),
        // A number alone means hours, as in etcd.
        (_, Some(hours)) => Retention::Age(Duration::from_secs(hours.saturating_mul(3600))),
        (_, None) => match duration(text) {
            Ok(age) => Retention::Age(age),
            Err(problem) => return wrong("auto-compaction-retention", problem),
        },
    };
    Ok(retention)
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    #[derive(Parser)]
    struct Command {
        #[command(flatten)]
        flags: Flags,
    }

    fn config(args: &str) -> Result<Config, FlagError> {
        let args = std::iter::once("store").chain(args.split_whitespace());
        Config::new(Command::try_parse_from(args).unwrap().flags)
    }

    const THREE: &str = "--name b --initial-advertise-peer-urls http://127.0.0.1:2 --initial-cluster \
                         a=http://127.0.0.1:1,b=http://127.0.0.1:2,c=http://127.0.0.1:3";

    #[test]
    fn members_are_told_by_their_urls_and_the_token() {
        let three = config(THREE).unwrap();
        assert_eq!((three.initial.len(), three.initial[&three.id].name.as_str()), (3, "b"));
        let other = config(&format!("{THREE} --initial-cluster-token=x")).unwrap();
        assert!(other.id != three.id && other.cluster != three.cluster);
        let alone = config("").unwrap();
        assert_eq!(alone.initial.len(), 1);
    }

    #[test]
    fn a_wrong_flag_is_named() {
        let check = |args: &str, expect: &str| {
            let error = config(args).expect_err(args).to_string();
            assert!(error.starts_with(expect), "{args}: {error}");
        };
        check("--name x --initial-cluster y=http://127.0.0.1:2380", "--initial-cluster: does not name");
        check(
            "--listen-client-urls http://10.0.0.1:2379",
            "--listen-client-urls: http://10.0.0.1:2379: http is",
        );
        check("--listen-client-urls https://10.0.0.1:2379", "--cert-file: an https");
        check("--listen-peer-urls https://127.0.0.1:2380", "--peer-cert-file: an https");
        check("--listen-peer-urls localhost", "--listen-peer-urls: \"localhost\" is no URL");
        check("--election-timeout 300", "--election-timeout: must be at least");
        check("--initial-cluster junk", "--initial-cluster: \"junk\" is not NAME=URL");
        check("--auto-compaction-retention 5x", "--auto-compaction-retention: ");
    }

    #[test]
    fn retention_is_read_as_etcd_reads_it() {
        let check =
            |args: &str, expect: Retention| assert_eq!(config(args).unwrap().retention, expect, "{args}");
        check("", Retention::Off);
        check("--auto-compaction-retention=2", Retention::Age(Duration::from_secs(7200)));
        check("--auto-compaction-retention=5m", Retention::Age(Duration::from_secs(300)));
        check("--auto-compaction-mode=revision --auto-compaction-retention=9", Retention::Revisions(9));
    }
}
