//! What an operator does to a cluster, one command each: certificates and kubeconfigs for a host, a kubeconfig
//! for a person, the manifest of a bootstrap token.
//!
//! Keeps true: a certificate authority or a service-account key that exists is never overwritten; private keys
//! are written with mode 0600 and appear under their name only when complete; every command can be run again.
//! Leaves to others: copying the shared folder to further hosts, starting processes, everything in the API.

use std::net::IpAddr;
use std::path::PathBuf;

use clap::{Args, Subcommand, ValueEnum};
use tokio_util::sync::CancellationToken;

mod error;
mod files;
mod kubeconfig;
mod pki;
mod token;

pub use error::Error;
pub use kubeconfig::Kubeconfig;
pub use pki::{Host, ensure_host};
pub use token::Token;

/// `trireme admin …`
#[derive(Args, Debug, Clone)]
pub struct Flags {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// The operator's commands.
#[derive(Subcommand, Debug, Clone)]
pub enum Command {
    /// Make what a host needs to prove who it is: certificates, keys and kubeconfigs. Existing authorities are
    /// kept; certificates are made again when their names changed or their end is near.
    Pki(PkiFlags),
    /// Write a kubeconfig with a client certificate of its own.
    Kubeconfig(KubeconfigFlags),
    /// Print the manifest of the cluster's bootstrap token (a Secret in kube-system).
    Token(TokenFlags),
}

/// What a host does in the cluster.
#[derive(ValueEnum, Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// Store, kube-apiserver, kube-scheduler, kube-controller-manager and kube-proxy.
    Master,
    /// Kubelet and kube-proxy.
    Worker,
}

/// Flags of `trireme admin pki`.
#[derive(Args, Debug, Clone)]
pub struct PkiFlags {
    /// The host's folder: certificates go to DIR/pki, kubeconfigs to DIR.
    #[arg(long)]
    pub dir: PathBuf,
    /// The folder with the authorities' keys, the service-account key and the bootstrap token; made when
    /// missing. Every host of a cluster is made from the same one.
    #[arg(long)]
    pub shared: PathBuf,
    /// What the host does.
    #[arg(long, value_enum)]
    pub role: Role,
    /// The host's name.
    #[arg(long)]
    pub name: String,
    /// The host's addresses, the main one first.
    #[arg(long, value_delimiter = ',', required = true)]
    pub address: Vec<IpAddr>,
    /// The URL of the balanced API endpoint.
    #[arg(long)]
    pub endpoint: String,
    /// Further names and addresses of the API server, such as the balancer's.
    #[arg(long, value_delimiter = ',')]
    pub san: Vec<String>,
    /// The address of the service `kubernetes`.
    #[arg(long, default_value = "10.96.0.1")]
    pub service_address: IpAddr,
    /// The cluster's domain.
    #[arg(long, default_value = "cluster.local")]
    pub domain: String,
}

/// Flags of `trireme admin kubeconfig`.
#[derive(Args, Debug, Clone)]
pub struct KubeconfigFlags {
    /// The folder with the authorities' keys.
    #[arg(long)]
    pub shared: PathBuf,
    /// The file to write.
    #[arg(long)]
    pub out: PathBuf,
    /// The URL of the balanced API endpoint.
    #[arg(long)]
    pub endpoint: String,
    /// Who the certificate is for.
    #[arg(long, default_value = "kubernetes-admin")]
    pub user: String,
    /// The user's group.
    #[arg(long, default_value = "system:masters")]
    pub group: String,
}

/// Flags of `trireme admin token`.
#[derive(Args, Debug, Clone)]
pub struct TokenFlags {
    /// The folder with the authorities' keys and the bootstrap token.
    #[arg(long)]
    pub shared: PathBuf,
}

/// Does what the flags say. Needs no running cluster and never waits, so `stop` is only there because every
/// component has it.
pub async fn run(flags: Flags, stop: CancellationToken) -> Result<(), Error> {
    let work = tokio::task::spawn_blocking(move || perform(flags.command));
    tokio::select! {
        done = work => done.map_err(|_| Error::Interrupted)?,
        () = stop.cancelled() => Err(Error::Interrupted),
    }
}

fn perform(command: Command) -> Result<(), Error> {
    match command {
        Command::Pki(flags) => ensure_host(&Host::from(flags)),
        Command::Kubeconfig(flags) => {
            let shared = pki::Shared::ensure(&flags.shared)?;
            pki::ensure_user(&shared, &flags.out, &flags.endpoint, &flags.user, &flags.group)
        }
        Command::Token(flags) => {
            let token = Token::ensure(&flags.shared)?;
            files::print(&token.manifest())
        }
    }
}
