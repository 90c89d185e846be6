//! Who may speak for whom: the authorities, and the certificates that each kind of host gets from them.
//!
//! Keeps true: three separate authorities (cluster, store, front proxy), so no kubelet certificate opens the
//! store; a host holds only the keys that its role uses; a certificate is made again when its names, its
//! authority or its remaining life say so. Follows kubeadm's file names.

use std::net::IpAddr;
use std::path::{Path, PathBuf};

use crate::files::{self, Mode};
use crate::kubeconfig::{Credential, Kubeconfig};
use crate::{Error, PkiFlags, Role};

mod authority;
mod leaf;

pub(crate) use authority::{Authority, Shared};
use leaf::{Subject, Usage};

/// A host to be made: see the flags of `trireme admin pki`.
#[derive(Clone, Debug)]
pub struct Host {
    /// The host's folder.
    pub dir: PathBuf,
    /// The folder with the authorities.
    pub shared: PathBuf,
    /// What the host does.
    pub role: Role,
    /// The host's name.
    pub name: String,
    /// The host's addresses, the main one first.
    pub addresses: Vec<IpAddr>,
    /// URL of the balanced API endpoint.
    pub endpoint: String,
    /// Further names of the API server.
    pub sans: Vec<String>,
    /// Address of the service `kubernetes`.
    pub service_address: IpAddr,
    /// The cluster's domain.
    pub domain: String,
}

impl From<PkiFlags> for Host {
    fn from(flags: PkiFlags) -> Self {
        Self {
            dir: flags.dir,
            shared: flags.shared,
            role: flags.role,
            name: flags.name,
            addresses: flags.address,
            endpoint: flags.endpoint,
            sans: flags.san,
            service_address: flags.service_address,
            domain: flags.domain,
        }
    }
}

/// Which authority signs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum By {
    Cluster,
    Store,
    FrontProxy,
}

/// Which names a server answers to.
#[derive(Clone, Copy)]
enum Names {
    None,
    Host,
    ApiServer,
}

/// One certificate of a master, `pki/FILE.crt` and `pki/FILE.key`.
struct Row {
    file: &'static str,
    by: By,
    common_name: &'static str,
    organization: &'static str,
    usage: Usage,
    names: Names,
}

const MASTER: [Row; 7] = [
    Row {
        file: "apiserver",
        by: By::Cluster,
        common_name: "kube-apiserver",
        organization: "",
        usage: Usage::Server,
        names: Names::ApiServer,
    },
    Row {
        file: "apiserver-kubelet-client",
        by: By::Cluster,
        common_name: "kube-apiserver-kubelet-client",
        organization: "kubeadm:cluster-admins",
        usage: Usage::Client,
        names: Names::None,
    },
    Row {
        file: "front-proxy-client",
        by: By::FrontProxy,
        common_name: "front-proxy-client",
        organization: "",
        usage: Usage::Client,
        names: Names::None,
    },
    Row {
        file: "apiserver-etcd-client",
        by: By::Store,
        common_name: "kube-apiserver-etcd-client",
        organization: "",
        usage: Usage::Client,
        names: Names::None,
    },
    Row {
        file: "etcd/healthcheck-client",
        by: By::Store,
        common_name: "kube-etcd-healthcheck-client",
        organization: "",
        usage: Usage::Client,
        names: Names::None,
    },
    Row {
        file: "etcd/server",
        by: By::Store,
        common_name: "HOST",
        organization: "",
        usage: Usage::Both,
        names: Names::Host,
    },
    Row {
        file: "etcd/peer",
        by: By::Store,
        common_name: "HOST",
        organization: "",
        usage: Usage::Both,
        names: Names::Host,
    },
];

/// A kubeconfig with a client certificate: file, who has it, user, groups.
const KUBECONFIGS: [(&str, Option<Role>, &str, &str); 4] = [
    ("admin.conf", Some(Role::Master), "kubernetes-admin", "system:masters"),
    ("controller-manager.conf", Some(Role::Master), "system:kube-controller-manager", ""),
    ("scheduler.conf", Some(Role::Master), "system:kube-scheduler", ""),
    ("proxy.conf", None, "system:kube-proxy", ""),
];

/// Makes or completes everything in a host's folder.
pub fn ensure_host(host: &Host) -> Result<(), Error> {
    let shared = Shared::ensure(&host.shared)?;
    shared.publish(&host.dir.join("pki"), host.role)?;
    if host.role == Role::Master {
        for row in &MASTER {
            ensure_leaf(&shared, host, row)?;
        }
    }
    for (file, role, user, group) in KUBECONFIGS {
        if role.is_none_or(|r| r == host.role) {
            ensure_user(&shared, &host.dir.join(file), &host.endpoint, user, group)?;
        }
    }
    match host.role {
        Role::Master => Ok(()),
        Role::Worker => ensure_bootstrap(&shared, host),
    }
}

fn ensure_leaf(shared: &Shared, host: &Host, row: &Row) -> Result<(), Error> {
    let authority = shared.authority(row.by);
    let subject = subject(host, row);
    let path = |end: &str| host.dir.join("pki").join(format!("{}.{end}", row.file));
    if let (Some(certificate), Some(key)) = (files::read(&path("crt"))?, files::read(&path("key"))?)
        && leaf::fresh(&certificate, &key, authority, &subject)
    {
        return Ok(());
    }
    let (certificate, key) = leaf::issue(authority, &subject)?;
    files::write(&path("key"), &key, Mode::Secret)?;
    files::write(&path("crt"), &certificate, Mode::Public)
}

fn subject(host: &Host, row: &Row) -> Subject {
    Subject {
        common_name: row.common_name.replace("HOST", &host.name),
        organization: row.organization.into(),
        names: names(host, row.names),
        usage: row.usage,
    }
}

fn names(host: &Host, kind: Names) -> Vec<String> {
    let mut names: Vec<String> = match kind {
        Names::None => return Vec::new(),
        Names::Host => vec![],
        Names::ApiServer => {
            let service = ["kubernetes", "kubernetes.default", "kubernetes.default.svc"].map(String::from);
            let full = format!("kubernetes.default.svc.{}", host.domain);
            service
                .into_iter()
                .chain([full, host.service_address.to_string()])
                .chain(host.sans.clone())
                .collect()
        }
    };
    names.extend([host.name.clone(), "localhost".into(), "127.0.0.1".into(), "::1".into()]);
    names.extend(host.addresses.iter().map(ToString::to_string));
    names.sort();
    names.dedup();
    names
}

/// Makes the kubeconfig at `path` for `user`, unless it is there and still good.
pub(crate) fn ensure_user(
    shared: &Shared,
    path: &Path,
    endpoint: &str,
    user: &str,
    group: &str,
) -> Result<(), Error> {
    let authority = shared.authority(By::Cluster);
    let subject = Subject {
        common_name: user.into(),
        organization: group.into(),
        names: Vec::new(),
        usage: Usage::Client,
    };
    if files::read(path)?
        .and_then(|t| Kubeconfig::parse(&t))
        .is_some_and(|k| good(&k, endpoint, authority, &subject))
    {
        return Ok(());
    }
    let (certificate, key) = leaf::issue(authority, &subject)?;
    let kubeconfig = Kubeconfig {
        endpoint: endpoint.into(),
        authority: authority.certificate.clone(),
        user: user.into(),
        credential: Credential::Certificate { certificate, key },
    };
    files::write(path, &kubeconfig.to_yaml(), Mode::Secret)
}

fn good(kubeconfig: &Kubeconfig, endpoint: &str, authority: &Authority, subject: &Subject) -> bool {
    let Credential::Certificate { certificate, key } = &kubeconfig.credential else { return false };
    kubeconfig.endpoint == endpoint
        && kubeconfig.authority == authority.certificate
        && leaf::fresh(certificate, key, authority, subject)
}

fn ensure_bootstrap(shared: &Shared, host: &Host) -> Result<(), Error> {
    let kubeconfig = Kubeconfig {
        endpoint: host.endpoint.clone(),
        authority: shared.authority(By::Cluster).certificate.clone(),
        user: "kubelet-bootstrap".into(),
        credential: Credential::Token(shared.token.text()),
    };
    let path = host.dir.join("bootstrap-kubelet.conf");
    if files::read(&path)?.and_then(|t| Kubeconfig::parse(&t)).is_some_and(|k| k == kubeconfig) {
        return Ok(());
    }
    files::write(&path, &kubeconfig.to_yaml(), Mode::Secret)
}

#[cfg(test)]
mod tests;
