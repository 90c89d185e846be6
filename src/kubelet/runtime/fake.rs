//! A container runtime in memory, for tests. Keeps true: the same rules as a real one (a container needs a
//! ready sandbox, a removed thing is not found), and a script of failures per call. Runs no processes.

use std::{
    collections::{BTreeMap, VecDeque},
    sync::{Mutex, MutexGuard, PoisonError},
};

use async_trait::async_trait;
use jiff::Timestamp;
use tokio::sync::mpsc;

use super::{Result, Runtime, RuntimeError, cri, label};

/// A scripted runtime.
#[derive(Default)]
pub struct Fake {
    inner: Mutex<Inner>,
}

#[derive(Default)]
struct Inner {
    next: u32,
    sandboxes: BTreeMap<String, cri::PodSandbox>,
    containers: BTreeMap<String, (String, cri::ContainerStatus)>,
    images: Vec<String>,
    failures: VecDeque<(&'static str, String)>,
    calls: Vec<String>,
}

fn now() -> i64 {
    i64::try_from(Timestamp::now().as_nanosecond()).unwrap_or(i64::MAX)
}

fn not_found(call: &'static str, id: &str) -> RuntimeError {
    RuntimeError::NotFound { call, message: format!("{id} does not exist") }
}

impl Fake {
    /// A runtime that has these images.
    #[must_use]
    pub fn with_images(images: &[&str]) -> Self {
        let images = images.iter().map(|image| (*image).to_owned()).collect();
        Self { inner: Mutex::new(Inner { images, ..Inner::default() }) }
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Lets the next call of this name fail with the message.
    pub fn fail(&self, call: &'static str, message: &str) {
        self.lock().failures.push_back((call, message.to_owned()));
    }

    /// The calls so far that changed something.
    #[must_use]
    pub fn calls(&self) -> Vec<String> {
        self.lock().calls.clone()
    }

    /// Ends the newest container of this name as if its process had exited.
    pub fn exit(&self, name: &str, code: i32) {
        let mut inner = self.lock();
        let newest = inner.containers.values_mut().filter(|(_, status)| is_named(status, name));
        if let Some((_, status)) = newest.max_by_key(|(_, status)| status.created_at) {
            status.state = cri::ContainerState::ContainerExited.into();
            status.exit_code = code;
            status.finished_at = now();
            status.reason = if code == 0 { "Completed".into() } else { "Error".into() };
        }
    }

    fn begin(&self, call: &'static str, on: &str) -> Result<MutexGuard<'_, Inner>> {
        let mut inner = self.lock();
        inner.calls.push(format!("{call} {on}"));
        match inner.failures.iter().position(|(name, _)| *name == call) {
            Some(at) => {
                let message = inner.failures.remove(at).map(|(_, message)| message).unwrap_or_default();
                Err(RuntimeError::Failed { call, code: "Unknown", message })
            }
            None => Ok(inner),
        }
    }
}

fn is_named(status: &cri::ContainerStatus, name: &str) -> bool {
    status.metadata.as_ref().is_some_and(|metadata| metadata.name == name)
}

impl Inner {
    fn id(&mut self, kind: &str) -> String {
        self.next += 1;
        format!("{kind}-{}", self.next)
    }

    fn finish(&mut self, id: &str, code: i32) {
        if let Some((_, status)) = self.containers.get_mut(id)
            && status.state != i32::from(cri::ContainerState::ContainerExited)
        {
            status.state = cri::ContainerState::ContainerExited.into();
            status.exit_code = code;
            status.finished_at = now();
        }
    }

    fn inside(&self, sandbox: &str) -> Vec<String> {
        let inside = self.containers.iter().filter(|(_, (of, _))| of == sandbox);
        inside.map(|(id, _)| id.clone()).collect()
    }
}

fn has_uid(labels: &std::collections::HashMap<String, String>, uid: Option<&str>) -> bool {
    uid.is_none_or(|uid| labels.get(label::POD_UID).is_some_and(|of| of == uid))
}

#[async_trait]
impl Runtime for Fake {
    async fn version(&self) -> Result<cri::VersionResponse> {
        Ok(cri::VersionResponse {
            version: "0.1.0".into(),
            runtime_name: "fake".into(),
            runtime_version: "1.0.0".into(),
            runtime_api_version: "v1".into(),
        })
    }

    async fn status(&self) -> Result<Vec<cri::RuntimeCondition>> {
        let ready =
            |kind: &str| cri::RuntimeCondition { r#type: kind.into(), status: true, ..Default::default() };
        Ok(vec![ready("RuntimeReady"), ready("NetworkReady")])
    }

    async fn run_sandbox(&self, config: cri::PodSandboxConfig, _handler: &str) -> Result<String> {
        let metadata = config.metadata.clone().unwrap_or_default();
        let mut inner = self.begin("run_sandbox", &metadata.name)?;
        let id = inner.id("sandbox");
        let sandbox = cri::PodSandbox {
            id: id.clone(),
            metadata: config.metadata,
            state: cri::PodSandboxState::SandboxReady.into(),
            created_at: now(),
            labels: config.labels,
            annotations: config.annotations,
            runtime_handler: String::new(),
        };
        inner.sandboxes.insert(id.clone(), sandbox);
        Ok(id)
    }

    async fn stop_sandbox(&self, id: &str) -> Result<()> {
        let mut inner = self.begin("stop_sandbox", id)?;
        for container in inner.inside(id) {
            inner.finish(&container, 137);
        }
        if let Some(sandbox) = inner.sandboxes.get_mut(id) {
            sandbox.state = cri::PodSandboxState::SandboxNotready.into();
        }
        Ok(())
    }

    async fn remove_sandbox(&self, id: &str) -> Result<()> {
        let mut inner = self.begin("remove_sandbox", id)?;
        for container in inner.inside(id) {
            inner.containers.remove(&container);
        }
        inner.sandboxes.remove(id);
        Ok(())
    }

    async fn sandbox_status(&self, id: &str) -> Result<cri::PodSandboxStatus> {
        let inner = self.lock();
        let sandbox = inner.sandboxes.get(id).ok_or_else(|| not_found("sandbox_status", id))?;
        let network = cri::PodSandboxNetworkStatus { ip: "10.244.0.9".into(), additional_ips: vec![] };
        Ok(cri::PodSandboxStatus {
            id: id.to_owned(),
            metadata: sandbox.metadata.clone(),
            state: sandbox.state,
            created_at: sandbox.created_at,
            network: Some(network),
            labels: sandbox.labels.clone(),
            annotations: sandbox.annotations.clone(),
            runtime_handler: String::new(),
        })
    }

    async fn list_sandboxes(&self, pod_uid: Option<&str>) -> Result<Vec<cri::PodSandbox>> {
        let inner = self.lock();
        Ok(inner.sandboxes.values().filter(|one| has_uid(&one.labels, pod_uid)).cloned().collect())
    }

    async fn create_container(
        &self,
        sandbox: &str,
        config: cri::ContainerConfig,
        _sandbox_config: cri::PodSandboxConfig,
    ) -> Result<String> {
        let metadata = config.metadata.clone().unwrap_or_default();
        let mut inner = self.begin("create_container", &metadata.name)?;
        let ready = |one: &cri::PodSandbox| one.state == i32::from(cri::PodSandboxState::SandboxReady);
        if !inner.sandboxes.get(sandbox).is_some_and(ready) {
            return Err(not_found("create_container", sandbox));
        }
        let id = inner.id("container");
        let status = cri::ContainerStatus {
            id: id.clone(),
            metadata: config.metadata,
            state: cri::ContainerState::ContainerCreated.into(),
            created_at: now(),
            image: config.image.clone(),
            image_ref: config.image.unwrap_or_default().image,
            labels: config.labels,
            annotations: config.annotations,
            log_path: config.log_path,
            ..Default::default()
        };
        inner.containers.insert(id.clone(), (sandbox.to_owned(), status));
        Ok(id)
    }

    async fn start_container(&self, id: &str) -> Result<()> {
        let mut inner = self.begin("start_container", id)?;
        let (_, status) = inner.containers.get_mut(id).ok_or_else(|| not_found("start_container", id))?;
        status.state = cri::ContainerState::ContainerRunning.into();
        status.started_at = now();
        Ok(())
    }

    async fn stop_container(&self, id: &str, timeout: i64) -> Result<()> {
        let mut inner = self.begin("stop_container", &format!("{id} {timeout}"))?;
        inner.finish(id, 143);
        Ok(())
    }

    async fn remove_container(&self, id: &str) -> Result<()> {
        self.begin("remove_container", id)?.containers.remove(id);
        Ok(())
    }

    async fn list_containers(&self, pod_uid: Option<&str>) -> Result<Vec<cri::Container>> {
        let inner = self.lock();
        let all = inner.containers.values().filter(|(_, status)| has_uid(&status.labels, pod_uid));
        Ok(all
            .map(|(sandbox, status)| cri::Container {
                id: status.id.clone(),
                pod_sandbox_id: sandbox.clone(),
                metadata: status.metadata.clone(),
                image: status.image.clone(),
                image_ref: status.image_ref.clone(),
                state: status.state,
                created_at: status.created_at,
                labels: status.labels.clone(),
                annotations: status.annotations.clone(),
            })
            .collect())
    }

    async fn container_status(&self, id: &str) -> Result<cri::ContainerStatus> {
        let inner = self.lock();
        let found = inner.containers.get(id).map(|(_, status)| status.clone());
        found.ok_or_else(|| not_found("container_status", id))
    }

    async fn reopen_log(&self, id: &str) -> Result<()> {
        self.begin("reopen_log", id).map(drop)
    }

    async fn exec_sync(
        &self,
        id: &str,
        command: Vec<String>,
        _timeout: i64,
    ) -> Result<cri::ExecSyncResponse> {
        self.begin("exec_sync", &format!("{id} {}", command.join(" "))).map(drop)?;
        Ok(cri::ExecSyncResponse::default())
    }

    async fn exec(&self, request: cri::ExecRequest) -> Result<String> {
        Ok(format!("http://127.0.0.1:1/exec/{}", request.container_id))
    }

    async fn attach(&self, request: cri::AttachRequest) -> Result<String> {
        Ok(format!("http://127.0.0.1:1/attach/{}", request.container_id))
    }

    async fn port_forward(&self, sandbox: &str, _ports: Vec<i32>) -> Result<String> {
        Ok(format!("http://127.0.0.1:1/portforward/{sandbox}"))
    }

    async fn stats(&self) -> Result<Vec<cri::ContainerStats>> {
        Ok(Vec::new())
    }

    async fn list_images(&self) -> Result<Vec<cri::Image>> {
        let images = self.lock().images.clone();
        Ok(images.into_iter().map(|tag| image(&tag)).collect())
    }

    async fn image_status(&self, name: &str) -> Result<Option<cri::Image>> {
        Ok(self.lock().images.iter().any(|tag| tag == name).then(|| image(name)))
    }

    async fn pull_image(
        &self,
        image: &str,
        _auth: Option<cri::AuthConfig>,
        _sandbox: Option<cri::PodSandboxConfig>,
    ) -> Result<String> {
        self.begin("pull_image", image)?.images.push(image.to_owned());
        Ok(format!("sha256:{image}"))
    }

    async fn image_fs(&self) -> Result<Vec<cri::FilesystemUsage>> {
        Ok(Vec::new())
    }

    async fn events(&self) -> Result<mpsc::Receiver<String>> {
        Err(RuntimeError::Unimplemented { call: "get_container_events" })
    }
}

fn image(tag: &str) -> cri::Image {
    cri::Image { id: format!("sha256:{tag}"), repo_tags: vec![tag.to_owned()], size: 1, ..Default::default() }
}
