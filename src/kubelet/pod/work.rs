//! The pieces of work of one pod: volumes, sandbox, starting and stopping containers, removal. Keeps true:
//! each says what failed with upstream's event and reason. When to do them is decided in `machine`.

use std::{
    fs,
    path::PathBuf,
    sync::{Arc, PoisonError},
    time::{Duration, Instant},
};

use k8s_openapi::api::core::v1::{Container, LifecycleHandler, Pod};
use serde_json::Value;

use super::{
    super::{
        container::{self, Parts},
        env, find, full_name, hooks, images,
        machine::Failure,
        sandbox as sandboxes, spec, uid,
        view::View,
    },
    Shared, tell,
};
use crate::{
    error::Error,
    runtime::{RuntimeError, cri},
    volume,
};

type Outcome = Result<(), Failure>;

/// After a preStop hook a container still gets this many seconds, as upstream.
const LEAST_GRACE: i64 = 2;

fn failure(reason: &str, message: impl Into<String>) -> Failure {
    Failure { reason: reason.into(), message: message.into() }
}

pub(super) async fn volumes(shared: Shared, pod: Arc<Pod>, ips: Vec<String>) -> Outcome {
    match volume::set_up(&shared.context, &pod, &ips).await {
        Ok(mounted) => {
            *shared.volumes.lock().unwrap_or_else(PoisonError::into_inner) = mounted;
            Ok(())
        }
        Err(error) => {
            let text = error.chain();
            tell(&shared.context, &pod, None, true, "FailedMount", text.clone());
            Err(failure("FailedMount", text))
        }
    }
}

pub(super) async fn sandbox(shared: Shared, pod: Arc<Pod>, attempt: u32) -> Outcome {
    let context = &shared.context;
    let result = prepare(&shared, &pod).map_err(|error| error.chain());
    let result = match result {
        Ok(()) => {
            let config = sandboxes::config(&pod, &context.config, attempt);
            let handler = String::new();
            context.runtime.run_sandbox(config, &handler).await.map(drop).map_err(|error| error.to_string())
        }
        Err(error) => Err(error),
    };
    result.map_err(|error| {
        let text = format!("Failed to create pod sandbox: {error}");
        tell(context, &pod, None, true, "FailedCreatePodSandBox", text.clone());
        failure("FailedCreatePodSandBox", text)
    })
}

/// Directories and cgroup, before anything runs.
fn prepare(shared: &Shared, pod: &Pod) -> crate::error::Result<()> {
    let context = &shared.context;
    let directories = [context.config.pod_dir(uid(pod)), sandboxes::log_dir(&context.config, pod)];
    for directory in directories {
        fs::create_dir_all(&directory).map_err(Error::file("make directory", &directory))?;
    }
    let group = PathBuf::from(container::pod_cgroup(context, pod));
    context.cgroups.create(uid(pod), &spec(pod)).map_err(Error::file("make cgroup", &group))
}

/// Starting a container.
pub(super) struct Start {
    pub(super) name: String,
    pub(super) restarts: u32,
    pub(super) sandbox: String,
    pub(super) ips: Vec<String>,
}

impl Start {
    pub(super) async fn run(self, shared: Shared, pod: Arc<Pod>) -> Outcome {
        let spec = spec(&pod);
        let Some(container) = find(&spec, &self.name) else { return Ok(()) };
        let result = self.start(&shared, &pod, container).await;
        if let Err(failure) = &result {
            let text = match failure.reason.as_str() {
                "ErrImagePull" => format!("Error: {}", failure.reason),
                _ => format!("Error: {}", failure.message),
            };
            tell(&shared.context, &pod, Some(&self.name), true, "Failed", text);
        }
        result
    }

    async fn start(&self, shared: &Shared, pod: &Pod, container: &Container) -> Outcome {
        let context = &shared.context;
        let sandbox_config = sandboxes::config(pod, &context.config, 0);
        let image = self.image(shared, pod, container, &sandbox_config).await?;
        let source = env::Source {
            cluster: context.cluster.as_ref(),
            pod,
            ips: &self.ips,
            host: &context.host,
            allocatable: &context.allocatable,
        };
        let variables = env::variables(&source, container).await?;
        let volumes = shared.volumes.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let (hosts_file, message_file) =
            self.files(shared, pod).map_err(|error| failure("CreateContainerConfigError", error.chain()))?;
        let parts = Parts {
            restarts: self.restarts,
            image: &image,
            variables: &variables,
            volumes: &volumes,
            hosts_file,
            message_file,
        };
        let config = container::config(context, pod, container, &parts)?;
        let created = context.runtime.create_container(&self.sandbox, config, sandbox_config).await;
        let id = created.map_err(|error| failure("CreateContainerError", error.to_string()))?;
        tell(context, pod, Some(&self.name), false, "Created", format!("Created container: {}", self.name));
        context
            .runtime
            .start_container(&id)
            .await
            .map_err(|error| failure("RunContainerError", error.to_string()))?;
        tell(context, pod, Some(&self.name), false, "Started", format!("Started container {}", self.name));
        self.post_start(shared, pod, container, &id).await
    }

    async fn image(
        &self,
        shared: &Shared,
        pod: &Pod,
        container: &Container,
        sandbox: &cri::PodSandboxConfig,
    ) -> Result<cri::Image, Failure> {
        let begun = Instant::now();
        let name = container.image.as_deref().unwrap_or_default();
        let about = Some(self.name.as_str());
        match images::ensure(&shared.context, pod, container, sandbox).await {
            Ok(images::Got::Present(image)) => {
                let text = format!("Container image \"{name}\" already present on machine");
                tell(&shared.context, pod, about, false, "Pulled", text);
                Ok(image)
            }
            Ok(images::Got::Pulled(image)) => {
                let took = begun.elapsed().as_millis();
                let size = image.size;
                let text = format!(
                    "Successfully pulled image \"{name}\" in {took}ms ({took}ms including waiting). Image size: {size} bytes."
                );
                tell(&shared.context, pod, about, false, "Pulled", text);
                Ok(image)
            }
            Err(error) => {
                if error.reason == "ErrImagePull" {
                    tell(
                        &shared.context,
                        pod,
                        about,
                        true,
                        "Failed",
                        format!("Failed to pull image \"{name}\": {}", error.message),
                    );
                }
                Err(error)
            }
        }
    }

    /// The pod's /etc/hosts (none on the host's network without aliases) and the termination message's file.
    fn files(&self, shared: &Shared, pod: &Pod) -> crate::error::Result<(Option<PathBuf>, PathBuf)> {
        let config = &shared.context.config;
        let directory = config.pod_dir(uid(pod));
        let own = directory.join("containers").join(&self.name);
        fs::create_dir_all(&own).map_err(Error::file("make directory", &own))?;
        let message = own.join(uuid::Uuid::new_v4().simple().to_string());
        fs::File::create(&message).map_err(Error::file("make", &message))?;
        volume::chmod(&message, 0o666)?;
        let logs = sandboxes::log_dir(config, pod).join(&self.name);
        fs::create_dir_all(&logs).map_err(Error::file("make directory", &logs))?;
        let hosts = directory.join("etc-hosts");
        let text = if spec(pod).host_network == Some(true) {
            let mut text = fs::read_to_string("/etc/hosts").unwrap_or_default();
            let aliases = container::hosts_file(pod, &[], &config.cluster_domain);
            if let Some((_, aliases)) = aliases.split_once("# Entries added by HostAliases.") {
                text.push_str("\n# Entries added by HostAliases.");
                text.push_str(aliases);
            }
            text
        } else {
            container::hosts_file(pod, &self.ips, &config.cluster_domain)
        };
        fs::write(&hosts, text).map_err(Error::file("write", &hosts))?;
        Ok((Some(hosts), message))
    }

    async fn post_start(&self, shared: &Shared, pod: &Pod, container: &Container, id: &str) -> Outcome {
        let hook = container.lifecycle.as_ref().and_then(|lifecycle| lifecycle.post_start.as_ref());
        let Some(hook) = hook else { return Ok(()) };
        let ip = self.ips.first().cloned().unwrap_or_default();
        let Err(message) = run_hook(shared, container, id, &ip, hook, None).await else { return Ok(()) };
        tracing::debug!(pod = %full_name(pod), container = self.name, message, "postStart hook failed");
        tell(&shared.context, pod, Some(&self.name), true, "FailedPostStartHook", "PostStartHook failed");
        let grace = spec(pod).termination_grace_period_seconds.unwrap_or(30);
        let _ = shared.context.runtime.stop_container(id, grace).await;
        Err(failure("PostStartHookError", message))
    }
}

async fn run_hook(
    shared: &Shared,
    container: &Container,
    id: &str,
    ip: &str,
    hook: &LifecycleHandler,
    limit: Option<Duration>,
) -> hooks::Outcome {
    let limit = limit.unwrap_or(Duration::from_secs(3600));
    let action = async {
        if let Some(exec) = &hook.exec {
            let command = exec.command.clone().unwrap_or_default();
            let seconds = i64::try_from(limit.as_secs()).unwrap_or(0);
            return hooks::exec(shared.context.runtime.as_ref(), id, &command, seconds).await;
        }
        if let Some(get) = &hook.http_get {
            return hooks::http_get(container, ip, get, limit).await;
        }
        if let Some(sleep) = &hook.sleep {
            tokio::time::sleep(Duration::from_secs(u64::try_from(sleep.seconds).unwrap_or(0))).await;
        }
        Ok(String::new())
    };
    tokio::time::timeout(limit, action).await.unwrap_or_else(|_| Err("the grace period is over".into()))
}

/// Stopping a container.
pub(super) struct Stop {
    pub(super) name: String,
    pub(super) id: String,
    pub(super) grace: i64,
    pub(super) message: String,
    pub(super) ips: Vec<String>,
}

impl Stop {
    pub(super) async fn run(self, shared: Shared, pod: Arc<Pod>) -> Outcome {
        let begun = Instant::now();
        if !self.message.is_empty() {
            tell(&shared.context, &pod, Some(&self.name), false, "Killing", self.message.clone());
        }
        let spec = spec(&pod);
        let container = find(&spec, &self.name);
        let hook = container.and_then(|one| one.lifecycle.as_ref()).and_then(|life| life.pre_stop.as_ref());
        if let (Some(container), Some(hook)) = (container, hook.filter(|_| self.grace > 1)) {
            let limit = Duration::from_secs(u64::try_from(self.grace).unwrap_or(1));
            let ip = self.ips.first().cloned().unwrap_or_default();
            if run_hook(&shared, container, &self.id, &ip, hook, Some(limit)).await.is_err() {
                tell(
                    &shared.context,
                    &pod,
                    Some(&self.name),
                    true,
                    "FailedPreStopHook",
                    "PreStopHook failed",
                );
            }
        }
        let used = i64::try_from(begun.elapsed().as_secs()).unwrap_or(0);
        let left = if self.grace <= 1 { self.grace } else { (self.grace - used).max(LEAST_GRACE) };
        let stopped = shared.context.runtime.stop_container(&self.id, left).await;
        stopped.map_err(|error| failure("FailedKillPod", format!("error killing container: {error}")))
    }
}

pub(super) async fn stop_sandbox(shared: Shared, id: String) -> Outcome {
    let stopped = shared.context.runtime.stop_sandbox(&id).await;
    stopped.map_err(|error| failure("FailedKillPod", format!("error killing pod: {error}")))
}

pub(super) async fn tear_down(shared: Shared, pod: Arc<Pod>) -> Outcome {
    let context = shared.context.clone();
    let id = uid(&pod).to_owned();
    let result = tokio::task::spawn_blocking(move || {
        volume::tear_down(&context, &id)?;
        let group = PathBuf::from(&id);
        context.cgroups.remove(&id).map_err(Error::file("remove the cgroup of pod", &group))
    });
    match result.await {
        Ok(Ok(())) => Ok(()),
        Ok(Err(error)) => {
            tracing::warn!(pod = %full_name(&pod), error = error.chain(), "tearing down failed, trying again");
            Err(failure("FailedUnmount", error.chain()))
        }
        Err(error) => Err(failure("FailedUnmount", error.to_string())),
    }
}

pub(super) async fn delete(shared: Shared, pod: Arc<Pod>, patch: Option<Value>) -> Outcome {
    let cluster = &shared.context.cluster;
    if let Some(patch) = patch {
        let sent = cluster.patch_status(&pod, &patch).await;
        sent.map_err(|error| failure("FailedDelete", error.chain()))?;
    }
    cluster.delete(&pod).await.map_err(|error| failure("FailedDelete", error.chain()))
}

pub(super) async fn remove(shared: Shared, pod: Arc<Pod>, view: View) -> Outcome {
    remove_runtime(&shared, &view).await.map_err(|error| failure("FailedRemove", error.to_string()))?;
    let context = shared.context.clone();
    let logs = sandboxes::log_dir(&context.config, &pod);
    let id = uid(&pod).to_owned();
    let removed = tokio::task::spawn_blocking(move || {
        let _ = fs::remove_dir_all(logs);
        volume::remove_all(&context, &id)
    });
    if let Ok(Err(error)) = removed.await {
        tracing::warn!(pod = %full_name(&pod), error = error.chain(), "cannot remove all files of the pod");
    }
    Ok(())
}

async fn remove_runtime(shared: &Shared, view: &View) -> Result<(), RuntimeError> {
    let runtime = &shared.context.runtime;
    for instance in &view.containers {
        runtime.remove_container(&instance.id).await?;
    }
    for sandbox in &view.sandboxes {
        runtime.stop_sandbox(&sandbox.id).await?;
        runtime.remove_sandbox(&sandbox.id).await?;
    }
    Ok(())
}
