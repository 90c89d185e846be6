//! A container as the runtime wants it: command, environment, mounts, resources, security. Keeps true: the
//! labels and annotations by which it is adopted after a restart of the kubelet. Pure but for the checks of
//! `runAsNonRoot` against the image.

use std::path::{Path, PathBuf};

use k8s_openapi::api::core::v1::{Container, Pod, PodSpec, SecurityContext};
use sha2::{Digest, Sha256};

use super::{
    env::{self, Variables},
    machine::Failure,
    resources::{self, CPU_PERIOD},
    sandbox, spec, uid,
};
use crate::{
    cgroup,
    context::Context,
    runtime::{cri, label},
    volume::Mounted,
};

/// Hash of the part of a specification whose change restarts a container: its name and image.
#[must_use]
pub fn hash(container: &Container) -> String {
    let image = container.image.as_deref().unwrap_or_default();
    let digest = Sha256::digest(format!("{}\0{image}", container.name));
    digest[..4].iter().map(|byte| format!("{byte:02x}")).collect()
}

/// What a container is made of, besides its specification.
pub struct Parts<'a> {
    /// How often it was started before.
    pub restarts: u32,
    /// The image, as the runtime has it.
    pub image: &'a cri::Image,
    /// Its variables.
    pub variables: &'a Variables,
    /// The pod's volumes.
    pub volumes: &'a [Mounted],
    /// The pod's /etc/hosts on the node.
    pub hosts_file: Option<PathBuf>,
    /// The node's file for the termination message.
    pub message_file: PathBuf,
}

/// The configuration of a container.
///
/// # Errors
/// `CreateContainerConfigError` where the specification cannot be met on this node.
pub fn config(
    context: &Context,
    pod: &Pod,
    container: &Container,
    parts: &Parts<'_>,
) -> Result<cri::ContainerConfig, Failure> {
    let expand = |text: &String| env::expand(text, &|name| env::value(parts.variables, name));
    let spec = spec(pod);
    let envs =
        parts.variables.iter().map(|(key, value)| cri::KeyValue { key: key.clone(), value: value.clone() });
    let mut labels = std::collections::HashMap::new();
    for key in [label::POD_NAME, label::POD_NAMESPACE, label::POD_UID] {
        labels.insert(key.to_owned(), sandbox::labels(pod).remove(key).unwrap_or_default());
    }
    labels.insert(label::CONTAINER_NAME.into(), container.name.clone());
    let metadata = cri::ContainerMetadata { name: container.name.clone(), attempt: parts.restarts };
    let image = cri::ImageSpec {
        image: parts.image.id.clone(),
        user_specified_image: container.image.clone().unwrap_or_default(),
        ..Default::default()
    };
    let linux = cri::LinuxContainerConfig {
        resources: Some(linux_resources(context, pod, container)),
        security_context: Some(security(context, &spec, container, parts.image)?),
    };
    Ok(cri::ContainerConfig {
        metadata: Some(metadata),
        image: Some(image),
        command: container.command.iter().flatten().map(expand).collect(),
        args: container.args.iter().flatten().map(expand).collect(),
        working_dir: container.working_dir.clone().unwrap_or_default(),
        envs: envs.collect(),
        mounts: mounts(context, pod, container, parts)?,
        devices: Vec::new(),
        labels,
        annotations: annotations(&spec, container, parts.restarts),
        log_path: format!("{}/{}.log", container.name, parts.restarts),
        stdin: container.stdin.unwrap_or(false),
        stdin_once: container.stdin_once.unwrap_or(false),
        tty: container.tty.unwrap_or(false),
        linux: Some(linux),
    })
}

fn annotations(
    spec: &PodSpec,
    container: &Container,
    restarts: u32,
) -> std::collections::HashMap<String, String> {
    let path = container.termination_message_path.as_deref().unwrap_or("/dev/termination-log");
    let policy = container.termination_message_policy.as_deref().unwrap_or("File");
    let grace = spec.termination_grace_period_seconds.unwrap_or(30);
    [
        (label::CONTAINER_HASH, hash(container)),
        (label::RESTART_COUNT, restarts.to_string()),
        (label::TERMINATION_PATH, path.to_owned()),
        (label::TERMINATION_POLICY, policy.to_owned()),
        (label::POD_GRACE, grace.to_string()),
    ]
    .into_iter()
    .map(|(key, value)| (key.to_owned(), value))
    .collect()
}

fn linux_resources(context: &Context, pod: &Pod, container: &Container) -> cri::LinuxContainerResources {
    let (request, limit) = resources::container_cpu(container);
    cri::LinuxContainerResources {
        cpu_period: CPU_PERIOD,
        cpu_quota: resources::cpu_quota(limit),
        cpu_shares: resources::cpu_shares(request),
        memory_limit_in_bytes: resources::container_memory_limit(container),
        oom_score_adj: resources::oom_score(pod, container, context.memory()),
        ..Default::default()
    }
}

fn security(
    context: &Context,
    spec: &PodSpec,
    container: &Container,
    image: &cri::Image,
) -> Result<cri::LinuxContainerSecurityContext, Failure> {
    let own = container.security_context.clone().unwrap_or_default();
    let of_pod = spec.security_context.clone().unwrap_or_default();
    let user = own.run_as_user.or(of_pod.run_as_user);
    if own.run_as_non_root.or(of_pod.run_as_non_root) == Some(true) {
        check_not_root(user, container, image)?;
    }
    let privileged = own.privileged == Some(true);
    let image_user = image.uid.as_ref().map(|uid| uid.value);
    let user_id = user.or(image_user);
    let username = if user_id.is_none() { image.username.clone() } else { String::new() };
    let group =
        own.run_as_group.or(of_pod.run_as_group).filter(|_| user_id.is_some() || !username.is_empty());
    let profile = own.seccomp_profile.as_ref().or(of_pod.seccomp_profile.as_ref());
    let hidden = !privileged && own.proc_mount.as_deref() != Some("Unmasked");
    let paths = |list: &[&str]| {
        if hidden { list.iter().map(|path| (*path).to_owned()).collect() } else { Vec::new() }
    };
    Ok(cri::LinuxContainerSecurityContext {
        capabilities: Some(capabilities(&own)),
        privileged,
        namespace_options: Some(sandbox::namespaces(spec)),
        run_as_user: user_id.map(|value| cri::Int64Value { value }),
        run_as_group: group.map(|value| cri::Int64Value { value }),
        run_as_username: username,
        readonly_rootfs: own.read_only_root_filesystem.unwrap_or(false),
        supplemental_groups: sandbox::groups(spec),
        no_new_privs: own.allow_privilege_escalation == Some(false),
        masked_paths: paths(&MASKED),
        readonly_paths: paths(&READ_ONLY),
        seccomp: Some(sandbox::seccomp(profile, &context.config)),
        ..Default::default()
    })
}

/// Paths of /proc and /sys that containers must not see.
const MASKED: [&str; 10] = [
    "/proc/asound",
    "/proc/acpi",
    "/proc/interrupts",
    "/proc/kcore",
    "/proc/keys",
    "/proc/latency_stats",
    "/proc/timer_list",
    "/proc/timer_stats",
    "/proc/sched_debug",
    "/proc/scsi",
];
/// And those they must not change.
const READ_ONLY: [&str; 5] = ["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"];

fn capabilities(own: &SecurityContext) -> cri::Capability {
    let capabilities = own.capabilities.clone().unwrap_or_default();
    cri::Capability {
        add_capabilities: capabilities.add.unwrap_or_default(),
        drop_capabilities: capabilities.drop.unwrap_or_default(),
        add_ambient_capabilities: Vec::new(),
    }
}

fn check_not_root(user: Option<i64>, container: &Container, image: &cri::Image) -> Result<(), Failure> {
    let root = "container's runAsUser breaks non-root policy";
    let message = match (user, image.uid.as_ref().map(|uid| uid.value)) {
        (Some(0), _) => format!("{root} (container: {})", container.name),
        (Some(_), _) => return Ok(()),
        (None, Some(0)) => "container has runAsNonRoot and image will run as root".to_owned(),
        (None, Some(_)) => return Ok(()),
        (None, None) if image.username.is_empty() => {
            "container has runAsNonRoot and image will run as root".to_owned()
        }
        (None, None) => {
            let name = &image.username;
            format!(
                "container has runAsNonRoot and image has non-numeric user ({name}), cannot verify user is non-root"
            )
        }
    };
    Err(Failure { reason: "CreateContainerConfigError".into(), message })
}

fn mounts(
    context: &Context,
    pod: &Pod,
    container: &Container,
    parts: &Parts<'_>,
) -> Result<Vec<cri::Mount>, Failure> {
    let mut result = Vec::new();
    for (index, wanted) in container.volume_mounts.iter().flatten().enumerate() {
        let volume = parts.volumes.iter().find(|volume| volume.name == wanted.name);
        let Some(volume) = volume else {
            let message = format!(
                "cannot find volume \"{}\" to mount into container \"{}\"",
                wanted.name, container.name
            );
            return Err(Failure { reason: "CreateContainerConfigError".into(), message });
        };
        let sub = match (&wanted.sub_path_expr, &wanted.sub_path) {
            (Some(text), _) if !text.is_empty() => {
                Some(env::expand(text, &|name| env::value(parts.variables, name)))
            }
            (_, Some(path)) if !path.is_empty() => Some(path.clone()),
            _ => None,
        };
        let source = match sub {
            None => volume.path.clone(),
            Some(sub) => {
                let target = context.config.pod_dir(uid(pod)).join("volume-subpaths").join(&wanted.name);
                let target = target.join(&container.name).join(index.to_string());
                crate::volume::subpath::bind(&volume.path, Path::new(&sub), &target).map_err(|error| {
                    Failure {
                        reason: "CreateContainerConfigError".into(),
                        message: format!(
                            "failed to prepare subPath for volumeMount \"{}\" of container \"{}\": {}",
                            wanted.name,
                            container.name,
                            error.chain()
                        ),
                    }
                })?
            }
        };
        let propagation = match wanted.mount_propagation.as_deref() {
            Some("HostToContainer") => cri::MountPropagation::PropagationHostToContainer,
            Some("Bidirectional") => cri::MountPropagation::PropagationBidirectional,
            _ => cri::MountPropagation::PropagationPrivate,
        };
        result.push(cri::Mount {
            container_path: wanted.mount_path.clone(),
            host_path: source.to_string_lossy().into_owned(),
            readonly: wanted.read_only == Some(true) || volume.read_only,
            selinux_relabel: false,
            propagation: propagation.into(),
        });
    }
    let has = |path: &str, list: &[cri::Mount]| list.iter().any(|mount| mount.container_path == path);
    if let Some(hosts) = parts.hosts_file.as_ref().filter(|_| !has("/etc/hosts", &result)) {
        result.push(file_mount("/etc/hosts", hosts));
    }
    let message_path = container.termination_message_path.as_deref().unwrap_or("/dev/termination-log");
    if !has(message_path, &result) {
        result.push(file_mount(message_path, &parts.message_file));
    }
    Ok(result)
}

fn file_mount(inside: &str, outside: &Path) -> cri::Mount {
    cri::Mount {
        container_path: inside.to_owned(),
        host_path: outside.to_string_lossy().into_owned(),
        ..Default::default()
    }
}

/// The cgroup of the pod, for those who look at it.
#[must_use]
pub fn pod_cgroup(context: &Context, pod: &Pod) -> String {
    cgroup::pod_path(&context.config.cgroup_root, resources::qos(&spec(pod)), uid(pod))
}

/// The pod's /etc/hosts.
#[must_use]
pub fn hosts_file(pod: &Pod, ips: &[String], cluster_domain: &str) -> String {
    let (host, domain) = sandbox::hostname(pod, cluster_domain);
    let mut text = String::from(
        "# Kubernetes-managed hosts file.\n127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\n\
         fe00::0\tip6-localnet\nfe00::0\tip6-mcastprefix\nfe00::1\tip6-allnodes\nfe00::2\tip6-allrouters\n",
    );
    for ip in ips {
        match &domain {
            Some(domain) => text.push_str(&format!("{ip}\t{host}.{domain}\t{host}\n")),
            None => text.push_str(&format!("{ip}\t{host}\n")),
        }
    }
    let pod_spec = spec(pod);
    let aliases = pod_spec.host_aliases.as_deref().unwrap_or_default();
    if !aliases.is_empty() {
        text.push_str("\n# Entries added by HostAliases.\n");
    }
    for alias in aliases {
        text.push_str(&format!("{}\t{}\n", alias.ip, alias.hostnames.clone().unwrap_or_default().join("\t")));
    }
    text
}
