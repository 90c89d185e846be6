//! A pod's sandbox as the runtime wants it: names, cgroup, DNS, ports, namespaces. Pure but for reading the
//! resolver configuration. Running it is left to `driver`.

use std::{collections::HashMap, path::PathBuf};

use k8s_openapi::api::core::v1::{Container, Pod, PodSpec, SeccompProfile};

use super::{inits, name, namespace, resources, spec, uid};
use crate::{
    cgroup,
    config::Config,
    runtime::{cri, label},
};

/// The kernel's limit of a host name.
const HOSTNAME_LIMIT: usize = 63;

/// Where a pod's logs lie.
#[must_use]
pub fn log_dir(config: &Config, pod: &Pod) -> PathBuf {
    config.logs.join(format!("{}_{}_{}", namespace(pod), name(pod), uid(pod)))
}

/// The labels by which a pod's sandbox and containers are found again.
#[must_use]
pub fn labels(pod: &Pod) -> HashMap<String, String> {
    let mut labels: HashMap<String, String> =
        pod.metadata.labels.clone().unwrap_or_default().into_iter().collect();
    labels.insert(label::POD_NAME.into(), name(pod).into());
    labels.insert(label::POD_NAMESPACE.into(), namespace(pod).into());
    labels.insert(label::POD_UID.into(), uid(pod).into());
    labels
}

/// The pod's host name and, with a subdomain, its domain.
#[must_use]
pub fn hostname(pod: &Pod, cluster_domain: &str) -> (String, Option<String>) {
    let spec = spec(pod);
    let mut host = spec.hostname.clone().filter(|name| !name.is_empty()).unwrap_or(name(pod).to_owned());
    if host.len() > HOSTNAME_LIMIT {
        host.truncate(HOSTNAME_LIMIT);
        host.truncate(host.trim_end_matches(['-', '.']).len());
    }
    let domain = spec.subdomain.as_deref().filter(|name| !name.is_empty());
    (host, domain.map(|sub| format!("{sub}.{}.svc.{cluster_domain}", namespace(pod))))
}

/// The configuration of a pod's sandbox.
#[must_use]
pub fn config(pod: &Pod, node: &Config, attempt: u32) -> cri::PodSandboxConfig {
    let spec = spec(pod);
    let (host, domain) = hostname(pod, &node.cluster_domain);
    let host_network = spec.host_network == Some(true);
    let full =
        domain.map(|domain| format!("{host}.{domain}")).filter(|_| spec.set_hostname_as_fqdn == Some(true));
    let metadata = cri::PodSandboxMetadata {
        name: name(pod).into(),
        uid: uid(pod).into(),
        namespace: namespace(pod).into(),
        attempt,
    };
    cri::PodSandboxConfig {
        metadata: Some(metadata),
        hostname: if host_network { String::new() } else { full.unwrap_or(host) },
        log_directory: log_dir(node, pod).to_string_lossy().into_owned(),
        dns_config: Some(dns(pod, &spec, node)),
        port_mappings: if host_network { Vec::new() } else { ports(&spec) },
        labels: labels(pod),
        annotations: pod.metadata.annotations.clone().unwrap_or_default().into_iter().collect(),
        linux: Some(linux(pod, &spec, node)),
    }
}

fn linux(pod: &Pod, spec: &PodSpec, node: &Config) -> cri::LinuxPodSandboxConfig {
    let context = spec.security_context.clone().unwrap_or_default();
    let privileged =
        |one: &Container| one.security_context.as_ref().and_then(|context| context.privileged) == Some(true);
    let security = cri::LinuxSandboxSecurityContext {
        namespace_options: Some(namespaces(spec)),
        run_as_user: context.run_as_user.map(|value| cri::Int64Value { value }),
        run_as_group: context.run_as_user.and(context.run_as_group).map(|value| cri::Int64Value { value }),
        supplemental_groups: groups(spec),
        privileged: inits(spec).iter().chain(&spec.containers).any(privileged),
        seccomp: Some(seccomp(context.seccomp_profile.as_ref(), node)),
        ..Default::default()
    };
    let sysctls = context.sysctls.unwrap_or_default().into_iter().map(|one| (one.name, one.value));
    cri::LinuxPodSandboxConfig {
        cgroup_parent: cgroup::pod_path(&node.cgroup_root, resources::qos(spec), uid(pod)),
        security_context: Some(security),
        sysctls: sysctls.collect(),
        overhead: None,
        resources: None,
    }
}

/// fsGroup and supplemental groups, for every process of the pod.
#[must_use]
pub fn groups(spec: &PodSpec) -> Vec<i64> {
    let context = spec.security_context.clone().unwrap_or_default();
    context.fs_group.into_iter().chain(context.supplemental_groups.unwrap_or_default()).collect()
}

/// The namespaces that a pod shares with the node or among its containers.
#[must_use]
pub fn namespaces(spec: &PodSpec) -> cri::NamespaceOption {
    let node_or = |shared: Option<bool>, other: cri::NamespaceMode| {
        i32::from(if shared == Some(true) { cri::NamespaceMode::Node } else { other })
    };
    let pid = if spec.share_process_namespace == Some(true) {
        cri::NamespaceMode::Pod
    } else {
        cri::NamespaceMode::Container
    };
    cri::NamespaceOption {
        network: node_or(spec.host_network, cri::NamespaceMode::Pod),
        pid: node_or(spec.host_pid, pid),
        ipc: node_or(spec.host_ipc, cri::NamespaceMode::Pod),
        target_id: String::new(),
    }
}

/// A seccomp profile in the runtime's terms.
#[must_use]
pub fn seccomp(profile: Option<&SeccompProfile>, node: &Config) -> cri::SecurityProfile {
    use cri::security_profile::ProfileType;
    let (kind, file) = match profile.map(|profile| (profile.type_.as_str(), &profile.localhost_profile)) {
        Some(("RuntimeDefault", _)) => (ProfileType::RuntimeDefault, None),
        Some(("Localhost", file)) => (ProfileType::Localhost, file.clone()),
        None if node.seccomp_default => (ProfileType::RuntimeDefault, None),
        _ => (ProfileType::Unconfined, None),
    };
    let path = file.map(|file| node.root.join("seccomp").join(file).to_string_lossy().into_owned());
    cri::SecurityProfile { profile_type: kind.into(), localhost_ref: path.unwrap_or_default() }
}

fn ports(spec: &PodSpec) -> Vec<cri::PortMapping> {
    let sidecars = inits(spec).iter().filter(|one| resources::is_sidecar(one));
    let all = spec.containers.iter().chain(sidecars).flat_map(|container| container.ports.iter().flatten());
    let mapped = all.filter(|port| port.host_port.is_some_and(|port| port > 0));
    mapped
        .map(|port| cri::PortMapping {
            protocol: match port.protocol.as_deref() {
                Some("UDP") => cri::Protocol::Udp,
                Some("SCTP") => cri::Protocol::Sctp,
                _ => cri::Protocol::Tcp,
            }
            .into(),
            container_port: port.container_port,
            host_port: port.host_port.unwrap_or(0),
            host_ip: port.host_ip.clone().unwrap_or_default(),
        })
        .collect()
}

/// A resolver configuration: servers, search domains, options.
type Resolver = (Vec<String>, Vec<String>, Vec<String>);

fn dns(pod: &Pod, spec: &PodSpec, node: &Config) -> cri::DnsConfig {
    let own = || std::fs::read_to_string(&node.resolv_conf).map(|text| resolver(&text)).unwrap_or_default();
    let policy = spec.dns_policy.as_deref().unwrap_or("ClusterFirst");
    let cluster_first = match policy {
        "ClusterFirstWithHostNet" => true,
        "ClusterFirst" => spec.host_network != Some(true),
        _ => false,
    };
    let (mut servers, mut searches, mut options) = match policy {
        "None" => Resolver::default(),
        _ if cluster_first && !node.cluster_dns.is_empty() => {
            let domain = &node.cluster_domain;
            let mut searches =
                vec![format!("{}.svc.{domain}", namespace(pod)), format!("svc.{domain}"), domain.clone()];
            searches.extend(own().1);
            (node.cluster_dns.clone(), searches, vec!["ndots:5".to_owned()])
        }
        _ => own(),
    };
    if let Some(extra) = &spec.dns_config {
        servers.extend(extra.nameservers.iter().flatten().cloned());
        searches.extend(extra.searches.iter().flatten().cloned());
        for option in extra.options.iter().flatten() {
            let name = option.name.clone().unwrap_or_default();
            options.retain(|one| one.split(':').next() != Some(name.as_str()));
            options.push(option.value.as_ref().map_or(name.clone(), |value| format!("{name}:{value}")));
        }
    }
    let mut seen = std::collections::HashSet::new();
    searches.retain(|domain| seen.insert(domain.clone()));
    servers.truncate(3);
    cri::DnsConfig { servers, searches, options }
}

fn resolver(text: &str) -> Resolver {
    let mut result = Resolver::default();
    for line in text.lines() {
        let mut words = line.split_whitespace();
        match words.next() {
            Some("nameserver") => result.0.extend(words.next().map(str::to_owned)),
            Some("search") => result.1 = words.map(|word| word.trim_end_matches('.').to_owned()).collect(),
            Some("options") => result.2 = words.map(str::to_owned).collect(),
            _ => {}
        }
    }
    result
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn resolver_files() {
        let (servers, searches, options) =
            resolver("# x\nnameserver 1.1.1.1\nsearch a.b. c\noptions ndots:2\n");
        assert_eq!(
            (servers.len(), searches, options),
            (1, vec!["a.b".to_owned(), "c".to_owned()], vec!["ndots:2".to_owned()])
        );
    }

    #[test]
    fn host_names() {
        let pod = |value: serde_json::Value| serde_json::from_value::<Pod>(value).unwrap();
        let plain = pod(serde_json::json!({"metadata": {"name": "a", "namespace": "n"}}));
        assert_eq!(hostname(&plain, "c.l"), ("a".into(), None));
        let sub = pod(serde_json::json!({"metadata": {"name": "a", "namespace": "n"},
            "spec": {"containers": [], "hostname": "h", "subdomain": "s"}}));
        assert_eq!(hostname(&sub, "c.l"), ("h".into(), Some("s.n.svc.c.l".into())));
    }
}
