//! What the runtime says about one pod, in the terms that decisions need.

use jiff::Timestamp;

use crate::runtime::{self, Runtime, cri, label, time_of};

/// A sandbox.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sandbox {
    /// The runtime's id.
    pub id: String,
    /// How many sandboxes the pod had before.
    pub attempt: u32,
    /// Whether it can carry containers.
    pub ready: bool,
    /// When it was made.
    pub created_at: Option<Timestamp>,
    /// The pod's addresses; empty on the host network.
    pub ips: Vec<String>,
}

/// What a container's process does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Run {
    /// Made, not started.
    Created,
    /// Alive.
    Running,
    /// Dead.
    Exited,
    /// The runtime cannot tell.
    Unknown,
}

/// A container instance.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Instance {
    /// The runtime's id.
    pub id: String,
    /// The container's name in the pod's specification.
    pub name: String,
    /// The sandbox it runs in.
    pub sandbox: String,
    /// How often the container was started again before this instance.
    pub restarts: u32,
    /// What its process does.
    pub run: Run,
    /// When it was made.
    pub created_at: Option<Timestamp>,
    /// When it was started.
    pub started_at: Option<Timestamp>,
    /// When it ended.
    pub finished_at: Option<Timestamp>,
    /// How it ended.
    pub exit_code: i32,
    /// `Completed`, `Error`, `OOMKilled`, …
    pub reason: String,
    /// The termination message.
    pub message: String,
    /// The image as it was asked for.
    pub image: String,
    /// The image by digest.
    pub image_id: String,
    /// Hash of the specification it was made from.
    pub hash: String,
}

/// Everything the runtime has of one pod, newest first.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct View {
    /// Its sandboxes.
    pub sandboxes: Vec<Sandbox>,
    /// Its containers.
    pub containers: Vec<Instance>,
}

impl View {
    /// The newest sandbox.
    #[must_use]
    pub fn sandbox(&self) -> Option<&Sandbox> {
        self.sandboxes.first()
    }

    /// The newest sandbox if it can carry containers.
    #[must_use]
    pub fn ready_sandbox(&self) -> Option<&Sandbox> {
        self.sandbox().filter(|sandbox| sandbox.ready)
    }

    /// The newest instance of a container.
    #[must_use]
    pub fn newest(&self, name: &str) -> Option<&Instance> {
        self.containers.iter().find(|instance| instance.name == name)
    }

    /// All instances of a container, newest first.
    pub fn of<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a Instance> {
        self.containers.iter().filter(move |instance| instance.name == name)
    }

    /// Instances whose process may be alive.
    pub fn alive(&self) -> impl Iterator<Item = &Instance> {
        self.containers.iter().filter(|one| matches!(one.run, Run::Running | Run::Unknown))
    }
}

/// Reads a pod's view from the runtime.
///
/// # Errors
/// When the runtime cannot be asked.
pub async fn look(runtime: &dyn Runtime, uid: &str, host_network: bool) -> runtime::Result<View> {
    let (sandboxes, containers) =
        tokio::try_join!(runtime.list_sandboxes(Some(uid)), runtime.list_containers(Some(uid)))?;
    let mut view = View::default();
    for sandbox in sandboxes {
        view.sandboxes.push(look_sandbox(runtime, sandbox, host_network).await?);
    }
    view.sandboxes.sort_by_key(|one| std::cmp::Reverse((one.created_at, one.attempt)));
    for container in containers {
        match runtime.container_status(&container.id).await {
            Ok(status) => view.containers.push(instance(&container.pod_sandbox_id, status)),
            Err(error) if error.is_not_found() => {}
            Err(error) => return Err(error),
        }
    }
    view.containers.sort_by_key(|one| std::cmp::Reverse((one.created_at, one.restarts)));
    Ok(view)
}

async fn look_sandbox(
    runtime: &dyn Runtime,
    sandbox: cri::PodSandbox,
    host_network: bool,
) -> runtime::Result<Sandbox> {
    let mut ready = sandbox.state == i32::from(cri::PodSandboxState::SandboxReady);
    let mut ips = Vec::new();
    if ready && !host_network {
        match runtime.sandbox_status(&sandbox.id).await {
            Ok(status) => {
                ready = status.state == i32::from(cri::PodSandboxState::SandboxReady);
                let network = status.network.unwrap_or_default();
                ips.push(network.ip);
                ips.extend(network.additional_ips.into_iter().map(|one| one.ip));
                ips.retain(|ip| !ip.is_empty());
            }
            Err(error) if error.is_not_found() => ready = false,
            Err(error) => return Err(error),
        }
    }
    let attempt = sandbox.metadata.unwrap_or_default().attempt;
    Ok(Sandbox { id: sandbox.id, attempt, ready, created_at: time_of(sandbox.created_at), ips })
}

fn instance(sandbox: &str, status: cri::ContainerStatus) -> Instance {
    let run = match status.state() {
        cri::ContainerState::ContainerCreated => Run::Created,
        cri::ContainerState::ContainerRunning => Run::Running,
        cri::ContainerState::ContainerExited => Run::Exited,
        cri::ContainerState::ContainerUnknown => Run::Unknown,
    };
    let metadata = status.metadata.clone().unwrap_or_default();
    let restarts = status.annotations.get(label::RESTART_COUNT).and_then(|count| count.parse().ok());
    let hash = status.annotations.get(label::CONTAINER_HASH).cloned().unwrap_or_default();
    let message = if run == Run::Exited { termination_message(&status) } else { String::new() };
    Instance {
        id: status.id,
        name: status.labels.get(label::CONTAINER_NAME).cloned().unwrap_or(metadata.name),
        sandbox: sandbox.to_owned(),
        restarts: restarts.unwrap_or(metadata.attempt),
        run,
        created_at: time_of(status.created_at),
        started_at: time_of(status.started_at),
        finished_at: time_of(status.finished_at),
        exit_code: status.exit_code,
        reason: status.reason,
        message,
        image: status.image.map(|image| image.image).unwrap_or_default(),
        image_id: status.image_ref,
        hash,
    }
}

/// A termination message is at most this long, as upstream.
const MESSAGE_LIMIT: usize = 4096;
/// From the log at most this much is taken for it.
const LOG_LIMIT: usize = 2048;
const LOG_LINES: usize = 80;

fn termination_message(status: &cri::ContainerStatus) -> String {
    let path = status.annotations.get(label::TERMINATION_PATH);
    let file = path.and_then(|path| status.mounts.iter().find(|mount| mount.container_path == *path));
    let text = file.and_then(|mount| tail_of(&mount.host_path, MESSAGE_LIMIT));
    let text = text.filter(|text| !text.is_empty());
    let policy = status.annotations.get(label::TERMINATION_POLICY);
    let from_log = policy.is_some_and(|policy| policy == "FallbackToLogsOnError") && status.exit_code != 0;
    match text {
        Some(text) => text,
        None if from_log => crate::logs::last_lines(status.log_path.as_ref(), LOG_LINES, LOG_LIMIT),
        None => status.message.clone(),
    }
}

fn tail_of(path: &str, limit: usize) -> Option<String> {
    use std::io::Read;
    let file = std::fs::File::open(path).ok()?;
    let mut bytes = Vec::new();
    file.take(u64::try_from(limit).ok()?).read_to_end(&mut bytes).ok()?;
    Some(String::from_utf8_lossy(&bytes).into_owned())
}
