//! Flags and the `KubeletConfiguration` file, made into one validated `Config`. Keeps true: a flag wins over
//! the file; a field that does not exist upstream is an error that names it. Reading it is left to others.

use std::{collections::BTreeMap, net::IpAddr, path::PathBuf, time::Duration};

use clap::ArgAction;
use k8s_openapi::{api::core::v1::Taint, apimachinery::pkg::api::resource::Quantity};
use serde::Deserialize;
use serde_json::Value;

use crate::{Error, error::Result, pressure::Thresholds};

/// The kubelet's flags, with upstream's names.
#[derive(clap::Args, Debug, Clone)]
pub struct Flags {
    /// A KubeletConfiguration file (kubelet.config.k8s.io/v1beta1).
    #[arg(long)]
    pub config: Option<PathBuf>,
    /// The kubeconfig of this node; written by TLS bootstrap when it does not exist.
    #[arg(long)]
    pub kubeconfig: PathBuf,
    /// A kubeconfig with a bootstrap token, used when --kubeconfig does not exist yet.
    #[arg(long)]
    pub bootstrap_kubeconfig: Option<PathBuf>,
    /// The node's name; the machine's host name by default.
    #[arg(long)]
    pub hostname_override: Option<String>,
    /// The node's addresses, separated by commas.
    #[arg(long, value_delimiter = ',')]
    pub node_ip: Vec<IpAddr>,
    /// The container runtime's socket.
    #[arg(long)]
    pub container_runtime_endpoint: Option<String>,
    /// Where pods' volumes and the kubelet's own state lie.
    #[arg(long, default_value = "/var/lib/kubelet")]
    pub root_dir: PathBuf,
    /// Where the kubelet's certificates lie.
    #[arg(long, default_value = "/var/lib/kubelet/pki")]
    pub cert_dir: PathBuf,
    /// The resolver configuration that pods inherit.
    #[arg(long)]
    pub resolv_conf: Option<PathBuf>,
    /// Labels of the node, as key=value.
    #[arg(long, value_delimiter = ',')]
    pub node_labels: Vec<String>,
    /// Taints that a new node gets, as key=value:effect.
    #[arg(long, value_delimiter = ',')]
    pub register_with_taints: Vec<String>,
    /// Whether the node registers itself.
    #[arg(long, num_args = 0..=1, default_value_t = true, default_missing_value = "true", require_equals = true, action = ArgAction::Set)]
    pub register_node: bool,
    /// The cgroup under which all pods' cgroups are made.
    #[arg(long)]
    pub cgroup_root: Option<String>,
    /// How cgroups are driven; only cgroupfs.
    #[arg(long)]
    pub cgroup_driver: Option<String>,
    /// Accepted for compatibility: the runtime's own configuration names the pause image.
    #[arg(long)]
    pub pod_infra_container_image: Option<String>,
    /// Where the CNI configuration is written (Trireme's own flag; empty: somebody else configures CNI).
    #[arg(long)]
    pub cni_conf_dir: Option<PathBuf>,
    /// Where host-local keeps its leases (Trireme's own flag).
    #[arg(long, default_value = "/var/lib/cni/networks")]
    pub cni_data_dir: PathBuf,
    /// A file whose content is the node's boot id (Trireme's own flag; for hosts that share a kernel).
    #[arg(long)]
    pub boot_id_file: Option<PathBuf>,
    /// Log verbosity, read by the program's logging.
    #[arg(long, short = 'v', default_value_t = 0)]
    pub v: u8,
}

/// All fields of upstream's KubeletConfiguration: anything else in a file is a mistake.
const FIELDS: &str = "kind apiVersion enableServer staticPodPath podLogsDir syncFrequency fileCheckFrequency httpCheckFrequency \
staticPodURL staticPodURLHeader address port readOnlyPort tlsCertFile tlsPrivateKeyFile tlsCipherSuites tlsMinVersion \
tlsCurvePreferences rotateCertificates serverTLSBootstrap authentication authorization registryPullQPS registryBurst \
imagePullCredentialsVerificationPolicy preloadedImagesVerificationAllowlist eventRecordQPS eventBurst \
enableDebuggingHandlers enableContentionProfiling healthzPort healthzBindAddress oomScoreAdj clusterDomain clusterDNS \
streamingConnectionIdleTimeout nodeStatusUpdateFrequency nodeStatusReportFrequency nodeLeaseDurationSeconds \
imageMinimumGCAge imageMaximumGCAge imageGCHighThresholdPercent imageGCLowThresholdPercent volumeStatsAggPeriod \
kubeletCgroups systemCgroups cgroupRoot cgroupsPerQOS cgroupDriver cpuManagerPolicy singleProcessOOMKill \
cpuManagerPolicyOptions cpuManagerReconcilePeriod memoryManagerPolicy topologyManagerPolicy topologyManagerScope \
topologyManagerPolicyOptions qosReserved runtimeRequestTimeout hairpinMode maxPods podCIDR podPidsLimit resolvConf \
runOnce cpuCFSQuota cpuCFSQuotaPeriod nodeStatusMaxImages maxOpenFiles contentType kubeAPIQPS kubeAPIBurst \
serializeImagePulls maxParallelImagePulls evictionHard evictionSoft evictionSoftGracePeriod \
evictionPressureTransitionPeriod evictionMaxPodGracePeriod evictionMinimumReclaim mergeDefaultEvictionSettings \
podsPerCore enableControllerAttachDetach protectKernelDefaults makeIPTablesUtilChains iptablesMasqueradeBit \
iptablesDropBit featureGates failSwapOn memorySwap containerLogMaxSize containerLogMaxFiles containerLogMaxWorkers \
containerLogMonitorInterval configMapAndSecretChangeDetectionStrategy systemReserved kubeReserved reservedSystemCPUs \
showHiddenMetricsForVersion systemReservedCgroup kubeReservedCgroup enforceNodeAllocatable allowedUnsafeSysctls \
volumePluginDir providerID kernelMemcgNotification logging enableSystemLogHandler enableSystemLogQuery \
shutdownGracePeriod shutdownGracePeriodCriticalPods shutdownGracePeriodByPodPriority crashLoopBackOff reservedMemory \
enableProfilingHandler enableDebugFlagsHandler seccompDefault memoryThrottlingFactor registerWithTaints registerNode \
tracing localStorageCapacityIsolation containerRuntimeEndpoint imageServiceEndpoint failCgroupV1 userNamespaces \
bootIDFile";

/// The fields of the file that this kubelet acts on.
#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct File {
    address: Option<String>,
    port: Option<u16>,
    healthz_port: Option<u16>,
    healthz_bind_address: Option<String>,
    tls_cert_file: Option<PathBuf>,
    tls_private_key_file: Option<PathBuf>,
    #[serde(rename = "serverTLSBootstrap")]
    server_tls_bootstrap: Option<bool>,
    rotate_certificates: Option<bool>,
    authentication: Value,
    authorization: Value,
    cluster_domain: Option<String>,
    #[serde(rename = "clusterDNS")]
    cluster_dns: Vec<String>,
    resolv_conf: Option<PathBuf>,
    pod_logs_dir: Option<PathBuf>,
    node_status_update_frequency: Option<String>,
    node_status_report_frequency: Option<String>,
    node_lease_duration_seconds: Option<i32>,
    cgroup_root: Option<String>,
    cgroup_driver: Option<String>,
    max_pods: Option<i64>,
    system_reserved: BTreeMap<String, String>,
    kube_reserved: BTreeMap<String, String>,
    eviction_hard: BTreeMap<String, String>,
    container_log_max_size: Option<String>,
    container_log_max_files: Option<usize>,
    container_runtime_endpoint: Option<String>,
    register_with_taints: Vec<Taint>,
    register_node: Option<bool>,
    seccomp_default: Option<bool>,
    #[serde(rename = "providerID")]
    provider_id: Option<String>,
    #[serde(rename = "bootIDFile")]
    boot_id_file: Option<PathBuf>,
}

/// Everything the kubelet is told, checked.
#[derive(Debug, Clone)]
pub struct Config {
    /// The node's name.
    pub node: String,
    /// The node's addresses.
    pub ips: Vec<IpAddr>,
    /// The kubeconfig of this node.
    pub kubeconfig: PathBuf,
    /// The kubeconfig with the bootstrap token.
    pub bootstrap_kubeconfig: Option<PathBuf>,
    /// The runtime's socket.
    pub runtime_endpoint: String,
    /// The kubelet's own directory.
    pub root: PathBuf,
    /// Its certificates.
    pub certs: PathBuf,
    /// Pods' logs.
    pub logs: PathBuf,
    /// What pods inherit as resolver configuration.
    pub resolv_conf: PathBuf,
    /// Addresses of the cluster's DNS.
    pub cluster_dns: Vec<String>,
    /// The cluster's domain.
    pub cluster_domain: String,
    /// Labels for the node.
    pub labels: BTreeMap<String, String>,
    /// Taints for a new node.
    pub taints: Vec<Taint>,
    /// Whether to register.
    pub register: bool,
    /// The cgroup above all pods, without trailing slash.
    pub cgroup_root: String,
    /// Where to write the CNI configuration.
    pub cni_conf: Option<PathBuf>,
    /// Where host-local keeps its leases.
    pub cni_data: PathBuf,
    /// Whose content is the boot id.
    pub boot_id_file: PathBuf,
    /// Where the HTTPS server listens.
    pub address: String,
    /// Its port.
    pub port: u16,
    /// Where /healthz listens in plain HTTP; port 0 for nowhere.
    pub healthz: (String, u16),
    /// Serving certificate and key, when given.
    pub tls: Option<(PathBuf, PathBuf)>,
    /// Whether the serving certificate is asked for by CSR.
    pub server_bootstrap: bool,
    /// Whether the client certificate is renewed.
    pub rotate: bool,
    /// Who signs the certificates of clients.
    pub client_ca: Option<PathBuf>,
    /// Whether requests without identity are let through to authorisation.
    pub anonymous: bool,
    /// Whether everybody authenticated may do everything.
    pub always_allow: bool,
    /// How often the node's status is looked at.
    pub status_update: Duration,
    /// How often it is sent even if nothing changed.
    pub status_report: Duration,
    /// The length of the node's Lease in seconds.
    pub lease_seconds: i32,
    /// How many pods fit.
    pub max_pods: i64,
    /// When the node is under pressure.
    pub thresholds: Thresholds,
    /// Resources that pods may not have, by name.
    pub reserved: BTreeMap<String, Vec<Quantity>>,
    /// A container's log is rotated at this size in bytes.
    pub log_size: u64,
    /// So many log files are kept.
    pub log_files: usize,
    /// Whether containers without a seccomp profile get the runtime's default one.
    pub seccomp_default: bool,
    /// The cloud's name of this node.
    pub provider_id: Option<String>,
}

fn wrong(text: impl Into<String>) -> Error {
    Error::Config(text.into())
}

fn read(flags: &Flags) -> Result<File> {
    let Some(path) = &flags.config else { return Ok(File::default()) };
    let text = std::fs::read_to_string(path).map_err(Error::file("read the configuration file", path))?;
    parse(&text).map_err(|error| wrong(format!("--config {}: {error}", path.display())))
}

fn parse(text: &str) -> std::result::Result<File, String> {
    let value: Value = serde_saphyr::from_str(text).map_err(|error| error.to_string())?;
    let Value::Object(fields) = &value else { return Err("it is not a YAML mapping".into()) };
    if fields.get("kind").and_then(Value::as_str) != Some("KubeletConfiguration") {
        return Err("kind must be KubeletConfiguration".into());
    }
    if fields.get("apiVersion").and_then(Value::as_str) != Some("kubelet.config.k8s.io/v1beta1") {
        return Err("apiVersion must be kubelet.config.k8s.io/v1beta1".into());
    }
    let known: std::collections::BTreeSet<&str> = FIELDS.split_whitespace().collect();
    if let Some(unknown) = fields.keys().find(|key| !known.contains(key.as_str())) {
        return Err(format!("unknown field \"{unknown}\""));
    }
    serde_json::from_value(value).map_err(|error| error.to_string())
}

fn duration(text: Option<String>, default: u64, field: &str) -> Result<Duration> {
    match text {
        None => Ok(Duration::from_secs(default)),
        Some(text) => serve::flags::duration(&text).map_err(|error| wrong(format!("{field}: {error}"))),
    }
}

fn taint(text: &str) -> Result<Taint> {
    let bad = || wrong(format!("--register-with-taints={text}: expected key=value:effect"));
    let (rest, effect) = text.rsplit_once(':').ok_or_else(bad)?;
    let (key, value) = rest.split_once('=').unwrap_or((rest, ""));
    if key.is_empty() || !["NoSchedule", "PreferNoSchedule", "NoExecute"].contains(&effect) {
        return Err(bad());
    }
    let value = (!value.is_empty()).then(|| value.to_owned());
    Ok(Taint { key: key.into(), value, effect: effect.into(), time_added: None })
}

fn labels(flags: &Flags) -> Result<BTreeMap<String, String>> {
    let pairs = flags.node_labels.iter().filter(|text| !text.is_empty());
    pairs
        .map(|text| {
            let pair = text
                .split_once('=')
                .ok_or_else(|| wrong(format!("--node-labels={text}: expected key=value")));
            pair.map(|(key, value)| (key.to_owned(), value.to_owned()))
        })
        .collect()
}

fn reserved(file: &File) -> Result<BTreeMap<String, Vec<Quantity>>> {
    let mut all: BTreeMap<String, Vec<Quantity>> = BTreeMap::new();
    let hard =
        file.eviction_hard.iter().filter(|(key, value)| *key == "memory.available" && !value.ends_with('%'));
    let hard = hard.map(|(_, value)| ("memory".to_owned(), value));
    let kube = file.kube_reserved.iter().chain(&file.system_reserved);
    for (name, text) in kube.map(|(name, text)| (name.clone(), text)).chain(hard) {
        if crate::pod::resources::milli(text).is_none() {
            return Err(wrong(format!("reserved resource {name}: \"{text}\" is not a quantity")));
        }
        all.entry(name).or_default().push(Quantity(text.clone()));
    }
    Ok(all)
}

impl Config {
    /// Checks flags and file.
    ///
    /// # Errors
    /// Names the flag or field that is wrong and what was expected.
    pub fn new(flags: Flags) -> Result<Self> {
        let file = read(&flags)?;
        let driver = flags.cgroup_driver.clone().or(file.cgroup_driver.clone()).unwrap_or("cgroupfs".into());
        if driver != "cgroupfs" {
            return Err(wrong(format!(
                "cgroupDriver {driver} is not supported: configure cgroupfs here and in the container runtime"
            )));
        }
        let mut taints = file.register_with_taints.clone();
        for text in flags.register_with_taints.iter().filter(|text| !text.is_empty()) {
            taints.push(taint(text)?);
        }
        let log_size = file.container_log_max_size.clone().unwrap_or("10Mi".into());
        let log_size = crate::pod::resources::milli(&log_size)
            .and_then(|milli| u64::try_from(milli / 1000).ok())
            .ok_or_else(|| wrong(format!("containerLogMaxSize: \"{log_size}\" is not a quantity")))?;
        let at =
            |path: &[&str], value: &Value| path.iter().fold(value.clone(), |value, key| value[*key].clone());
        let client_ca = at(&["x509", "clientCAFile"], &file.authentication).as_str().map(PathBuf::from);
        let anonymous = at(&["anonymous", "enabled"], &file.authentication).as_bool().unwrap_or(false);
        let always_allow = file.authorization["mode"].as_str() == Some("AlwaysAllow");
        let endpoint = flags.container_runtime_endpoint.clone().or(file.container_runtime_endpoint.clone());
        let cgroup_root = flags.cgroup_root.clone().or(file.cgroup_root.clone()).unwrap_or_default();
        let health_at = file.healthz_bind_address.clone().unwrap_or("127.0.0.1".into());
        Ok(Self {
            node: node_name(&flags)?,
            ips: flags.node_ip.clone(),
            labels: labels(&flags)?,
            thresholds: Thresholds::new(&file.eviction_hard).map_err(wrong)?,
            reserved: reserved(&file)?,
            kubeconfig: flags.kubeconfig,
            bootstrap_kubeconfig: flags.bootstrap_kubeconfig,
            runtime_endpoint: endpoint.unwrap_or("unix:///run/containerd/containerd.sock".into()),
            root: flags.root_dir,
            certs: flags.cert_dir,
            logs: file.pod_logs_dir.unwrap_or("/var/log/pods".into()),
            resolv_conf: flags.resolv_conf.or(file.resolv_conf).unwrap_or("/etc/resolv.conf".into()),
            cluster_dns: file.cluster_dns,
            cluster_domain: file.cluster_domain.unwrap_or("cluster.local".into()),
            taints,
            register: flags.register_node && file.register_node.unwrap_or(true),
            cgroup_root: format!("/{}", cgroup_root.trim_matches('/')).trim_end_matches('/').to_owned(),
            cni_conf: flags.cni_conf_dir,
            cni_data: flags.cni_data_dir,
            boot_id_file: flags
                .boot_id_file
                .or(file.boot_id_file)
                .unwrap_or("/proc/sys/kernel/random/boot_id".into()),
            address: file.address.unwrap_or("0.0.0.0".into()),
            port: file.port.unwrap_or(10250),
            healthz: (health_at, file.healthz_port.unwrap_or(10248)),
            tls: file.tls_cert_file.zip(file.tls_private_key_file),
            server_bootstrap: file.server_tls_bootstrap.unwrap_or(true),
            rotate: file.rotate_certificates.unwrap_or(true),
            client_ca,
            anonymous,
            always_allow,
            status_update: duration(file.node_status_update_frequency, 10, "nodeStatusUpdateFrequency")?,
            status_report: duration(file.node_status_report_frequency, 300, "nodeStatusReportFrequency")?,
            lease_seconds: file.node_lease_duration_seconds.unwrap_or(40).max(1),
            max_pods: file.max_pods.unwrap_or(110),
            log_size,
            log_files: file.container_log_max_files.unwrap_or(5).max(2),
            seccomp_default: file.seccomp_default.unwrap_or(false),
            provider_id: file.provider_id,
        })
    }

    /// The directory of a pod's volumes and files.
    #[must_use]
    pub fn pod_dir(&self, uid: &str) -> PathBuf {
        self.root.join("pods").join(uid)
    }
}

fn node_name(flags: &Flags) -> Result<String> {
    let name = match &flags.hostname_override {
        Some(name) => name.clone(),
        None => {
            let name = nix::unistd::gethostname().map_err(|error| wrong(format!("no host name: {error}")))?;
            name.to_string_lossy().into_owned()
        }
    };
    let name = name.trim().to_lowercase();
    let fine = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-' || c == '.';
    if name.is_empty() || name.len() > 253 || !name.chars().all(fine) {
        return Err(wrong(format!("node name \"{name}\" is not a DNS name: set --hostname-override")));
    }
    Ok(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEAD: &str = "apiVersion: kubelet.config.k8s.io/v1beta1\nkind: KubeletConfiguration\n";

    #[test]
    fn files_are_strict() {
        let check = |rest: &str, error: Option<&str>| {
            let result = parse(&format!("{HEAD}{rest}")).err();
            assert_eq!(result.as_deref(), error, "{rest}");
        };
        check("clusterDNS: [10.96.0.10]\nmaxPods: 20\n", None);
        check("featureGates: {A: true}\n", None);
        check("clusterDns: []\n", Some("unknown field \"clusterDns\""));
        assert_eq!(parse("kind: Pod").err().as_deref(), Some("kind must be KubeletConfiguration"));
    }

    #[test]
    fn taints() {
        assert_eq!(taint("a=b:NoSchedule").unwrap().value.as_deref(), Some("b"));
        assert!(taint("a=b").is_err());
        assert!(taint("a:Never").is_err());
    }
}
