//! The components of a host as a table: name, program, where it runs, with which flags.
//!
//! Flags have their upstream names and nothing is left to a default that a real host would have in /etc or /var.

use std::path::PathBuf;

use crate::layout::{API_PORT, Layout};
use crate::{Error, Host, Result, Role};

/// In which network namespace a component lives.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Place {
    /// The host's.
    Host,
    /// The machine's; its sockets reach into hosts by themselves (HAProxy).
    Machine,
}

/// One component.
pub(crate) struct Row {
    /// Name of the component in the sandbox's files and verbs.
    pub(crate) name: &'static str,
    /// Name of the program, as `ps` shows it.
    pub(crate) program: &'static str,
    /// Whether the program is the binary under test, or one of the machine's.
    ours: bool,
    pub(crate) place: Place,
    roles: &'static [Role],
    pub(crate) arguments: fn(&Layout, &Host) -> Vec<String>,
}

const ROWS: [Row; 8] = [
    Row {
        name: "haproxy",
        program: "haproxy",
        ours: false,
        place: Place::Machine,
        roles: &[Role::Balancer],
        arguments: |_, host| vec!["-db".into(), "-f".into(), host.path("haproxy.cfg")],
    },
    Row {
        name: "store",
        program: "store",
        ours: true,
        place: Place::Host,
        roles: &[Role::Master],
        arguments: store,
    },
    Row {
        name: "apiserver",
        program: "kube-apiserver",
        ours: true,
        place: Place::Host,
        roles: &[Role::Master],
        arguments: apiserver,
    },
    Row {
        name: "scheduler",
        program: "kube-scheduler",
        ours: true,
        place: Place::Host,
        roles: &[Role::Master],
        arguments: scheduler,
    },
    Row {
        name: "controller-manager",
        program: "kube-controller-manager",
        ours: true,
        place: Place::Host,
        roles: &[Role::Master],
        arguments: controller_manager,
    },
    Row {
        name: "containerd",
        program: "containerd",
        ours: false,
        place: Place::Host,
        roles: &[Role::Worker],
        arguments: |_, host| vec!["--config".into(), host.path("containerd.toml")],
    },
    Row {
        name: "kubelet",
        program: "kubelet",
        ours: true,
        place: Place::Host,
        roles: &[Role::Worker],
        arguments: kubelet,
    },
    Row {
        name: "proxy",
        program: "kube-proxy",
        ours: true,
        place: Place::Host,
        roles: &[Role::Master, Role::Worker],
        arguments: proxy,
    },
];

impl Row {
    pub(crate) fn path(&self, layout: &Layout) -> PathBuf {
        if self.ours { layout.programs().join(self.program) } else { PathBuf::from(self.program) }
    }
}

/// The components of a host, in the order in which they start.
pub(crate) fn of(host: &Host) -> impl Iterator<Item = &'static Row> + use<> {
    let role = host.role;
    ROWS.iter().filter(move |row| row.roles.contains(&role))
}

/// The component of that name on that host.
pub(crate) fn find(host: &Host, name: &str) -> Result<&'static Row> {
    of(host).find(|row| row.name == name).ok_or_else(|| Error::NoComponent {
        host: host.name.clone(),
        name: name.into(),
        components: of(host).map(|r| r.name).collect::<Vec<_>>().join(", "),
    })
}

/// The names under which the binary is called.
pub(crate) fn programs() -> impl Iterator<Item = &'static str> {
    ROWS.iter().filter(|r| r.ours).map(|r| r.program)
}

/// The names of all components.
pub fn names() -> impl Iterator<Item = &'static str> {
    ROWS.iter().map(|r| r.name)
}

/// `--name=value` for each pair.
fn flags(pairs: &[(&str, String)]) -> Vec<String> {
    pairs.iter().map(|(name, value)| format!("--{name}={value}")).collect()
}

fn store(layout: &Layout, host: &Host) -> Vec<String> {
    let url = |port: u16| format!("https://{}:{port}", host.address);
    let masters = layout.with_role(Role::Master);
    let cluster: Vec<_> = masters.iter().map(|m| format!("{}=https://{}:2380", m.name, m.address)).collect();
    flags(&[
        ("name", host.name.clone()),
        ("data-dir", host.path("store")),
        ("listen-client-urls", format!("{},https://127.0.0.1:2379", url(2379))),
        ("advertise-client-urls", url(2379)),
        ("listen-peer-urls", url(2380)),
        ("initial-advertise-peer-urls", url(2380)),
        ("initial-cluster", cluster.join(",")),
        ("initial-cluster-state", "new".into()),
        ("initial-cluster-token", layout.name.clone()),
        ("cert-file", host.path("pki/etcd/server.crt")),
        ("key-file", host.path("pki/etcd/server.key")),
        ("trusted-ca-file", host.path("pki/etcd/ca.crt")),
        ("client-cert-auth", "true".into()),
        ("peer-cert-file", host.path("pki/etcd/peer.crt")),
        ("peer-key-file", host.path("pki/etcd/peer.key")),
        ("peer-trusted-ca-file", host.path("pki/etcd/ca.crt")),
        ("peer-client-cert-auth", "true".into()),
        ("listen-metrics-urls", "http://127.0.0.1:2381".into()),
    ])
}

fn apiserver(layout: &Layout, host: &Host) -> Vec<String> {
    // Its own store member first: the others are for when that one is gone.
    let mut masters = layout.with_role(Role::Master);
    masters.sort_by_key(|m| m.name != host.name);
    let stores: Vec<_> = masters.iter().map(|m| format!("https://{}:2379", m.address)).collect();
    let pki = |file: &str| host.path(&format!("pki/{file}"));
    flags(&[
        ("advertise-address", host.address.to_string()),
        ("secure-port", API_PORT.to_string()),
        ("etcd-servers", stores.join(",")),
        ("etcd-cafile", pki("etcd/ca.crt")),
        ("etcd-certfile", pki("apiserver-etcd-client.crt")),
        ("etcd-keyfile", pki("apiserver-etcd-client.key")),
        ("client-ca-file", pki("ca.crt")),
        ("tls-cert-file", pki("apiserver.crt")),
        ("tls-private-key-file", pki("apiserver.key")),
        ("kubelet-client-certificate", pki("apiserver-kubelet-client.crt")),
        ("kubelet-client-key", pki("apiserver-kubelet-client.key")),
        ("kubelet-certificate-authority", pki("ca.crt")),
        ("service-account-issuer", "https://kubernetes.default.svc.cluster.local".into()),
        ("service-account-key-file", pki("sa.pub")),
        ("service-account-signing-key-file", pki("sa.key")),
        ("service-cluster-ip-range", "10.96.0.0/12".into()),
        ("service-node-port-range", "30000-32767".into()),
        ("authorization-mode", "Node,RBAC".into()),
        ("enable-admission-plugins", "NodeRestriction".into()),
        ("enable-bootstrap-token-auth", "true".into()),
        ("requestheader-client-ca-file", pki("front-proxy-ca.crt")),
        ("requestheader-allowed-names", "front-proxy-client".into()),
        ("proxy-client-cert-file", pki("front-proxy-client.crt")),
        ("proxy-client-key-file", pki("front-proxy-client.key")),
        ("default-not-ready-toleration-seconds", "5".into()),
        ("default-unreachable-toleration-seconds", "5".into()),
    ])
}

/// Flags of the two elected components that mean the same in both.
fn elected(host: &Host, kubeconfig: &str) -> Vec<String> {
    flags(&[
        ("kubeconfig", host.path(kubeconfig)),
        ("authentication-kubeconfig", host.path(kubeconfig)),
        ("authorization-kubeconfig", host.path(kubeconfig)),
        ("leader-elect", "true".into()),
        ("leader-elect-lease-duration", "2s".into()),
        ("leader-elect-renew-deadline", "1500ms".into()),
        ("leader-elect-retry-period", "500ms".into()),
    ])
}

fn scheduler(_: &Layout, host: &Host) -> Vec<String> {
    elected(host, "scheduler.conf")
}

fn controller_manager(_: &Layout, host: &Host) -> Vec<String> {
    let pki = |file: &str| host.path(&format!("pki/{file}"));
    let mut words = elected(host, "controller-manager.conf");
    words.extend(flags(&[
        ("root-ca-file", pki("ca.crt")),
        ("client-ca-file", pki("ca.crt")),
        ("cluster-signing-cert-file", pki("ca.crt")),
        ("cluster-signing-key-file", pki("ca.key")),
        ("service-account-private-key-file", pki("sa.key")),
        ("use-service-account-credentials", "true".into()),
        ("allocate-node-cidrs", "true".into()),
        ("cluster-cidr", "10.244.0.0/16".into()),
        ("service-cluster-ip-range", "10.96.0.0/12".into()),
        ("node-monitor-grace-period", "10s".into()),
        ("node-monitor-period", "1s".into()),
    ]));
    words
}

fn kubelet(_: &Layout, host: &Host) -> Vec<String> {
    flags(&[
        ("kubeconfig", host.path("kubelet.conf")),
        ("bootstrap-kubeconfig", host.path("bootstrap-kubelet.conf")),
        ("config", host.path("kubelet/config.yaml")),
        ("container-runtime-endpoint", format!("unix://{}", host.path("containerd.sock"))),
        ("hostname-override", host.name.clone()),
        ("node-ip", host.address.to_string()),
        ("root-dir", host.path("kubelet")),
        ("cert-dir", host.path("kubelet/pki")),
        ("cgroup-root", host.cgroup.clone()),
        ("cni-conf-dir", host.path("cni/net.d")),
        ("cni-data-dir", host.path("cni/data")),
        ("boot-id-file", host.path("boot-id")),
    ])
}

fn proxy(_: &Layout, host: &Host) -> Vec<String> {
    flags(&[
        ("kubeconfig", host.path("proxy.conf")),
        ("hostname-override", host.name.clone()),
        ("cluster-cidr", "10.244.0.0/16".into()),
        ("service-cluster-ip-range", "10.96.0.0/12".into()),
    ])
}

/// `kubelet/config.yaml`: what upstream takes from the file only. All hosts share the machine's disk, which is not
/// theirs to keep a tenth of free; `up` begins only where there is room.
pub(crate) fn kubelet_config(host: &Host) -> String {
    format!(
        "apiVersion: kubelet.config.k8s.io/v1beta1\nkind: KubeletConfiguration\nauthentication:\n  x509:\n    \
         clientCAFile: {ca}\n  webhook:\n    enabled: true\n  anonymous:\n    enabled: false\nauthorization:\n  mode: \
         Webhook\ncgroupDriver: cgroupfs\nclusterDNS:\n- 10.96.0.10\nclusterDomain: cluster.local\n\
         evictionHard:\n  memory.available: 100Mi\n  nodefs.available: 1Gi\nnodeLeaseDurationSeconds: 10\nnodeStatusUpdateFrequency: 2s\npodLogsDir: {logs}\nresolvConf: {resolv}\n\
         serverTLSBootstrap: true\nrotateCertificates: true\n",
        ca = host.path("pki/ca.crt"),
        resolv = host.path("resolv.conf"),
        logs = host.path("pods-log"),
    )
}
