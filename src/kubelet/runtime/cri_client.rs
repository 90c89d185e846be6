//! The CRI v1 over a unix socket. Keeps true: a call has a deadline of its own, and the connection is made
//! again by itself after the runtime was restarted. Retrying a call is left to its caller.

use std::{
    collections::HashMap,
    path::{Path, PathBuf},
    time::Duration,
};

use async_trait::async_trait;
use hyper_util::rt::TokioIo;
use tokio::{net::UnixStream, sync::mpsc};
use tonic::{
    Code, Request, Status,
    transport::{Channel, Endpoint},
};

use super::{Result, Runtime, RuntimeError, cri, label};
use cri::{image_service_client::ImageServiceClient, runtime_service_client::RuntimeServiceClient};

/// Deadline of a call that only looks or starts something small (upstream's `runtimeRequestTimeout`).
const SHORT: Duration = Duration::from_secs(120);
/// Making a sandbox includes the network plug-ins.
const SANDBOX: Duration = Duration::from_secs(240);
/// A pull goes on as long as it makes progress; the runtime watches that.
const PULL: Duration = Duration::from_secs(3600);
/// Lists on a full node are larger than gRPC's 4 MiB.
const MESSAGE_LIMIT: usize = 16 << 20;

/// A client of a CRI runtime's unix socket.
#[derive(Clone)]
pub struct Cri {
    runtime: RuntimeServiceClient<Channel>,
    images: ImageServiceClient<Channel>,
}

impl Cri {
    /// A client of `endpoint` (`unix:///run/containerd/containerd.sock` or a plain path). Connects lazily.
    ///
    /// # Errors
    /// When the endpoint is not a unix socket's address.
    pub fn new(endpoint: &str) -> std::result::Result<Self, crate::Error> {
        let path = socket_path(endpoint)?;
        let channel = Endpoint::from_static("http://localhost").connect_with_connector_lazy(
            tower::service_fn(move |_: http::Uri| {
                let path = path.clone();
                async move { UnixStream::connect(path).await.map(TokioIo::new) }
            }),
        );
        let runtime = RuntimeServiceClient::new(channel.clone()).max_decoding_message_size(MESSAGE_LIMIT);
        let images = ImageServiceClient::new(channel).max_decoding_message_size(MESSAGE_LIMIT);
        Ok(Self { runtime, images })
    }
}

fn socket_path(endpoint: &str) -> std::result::Result<PathBuf, crate::Error> {
    let path = endpoint.strip_prefix("unix://").unwrap_or(endpoint);
    if Path::new(path).is_absolute() {
        return Ok(path.into());
    }
    Err(crate::Error::Config(format!(
        "--container-runtime-endpoint={endpoint}: only unix sockets are supported, as unix:///path"
    )))
}

fn within<T>(message: T, limit: Duration) -> Request<T> {
    let mut request = Request::new(message);
    request.set_timeout(limit);
    request
}

fn failure(call: &'static str) -> impl Fn(Status) -> RuntimeError {
    move |status| {
        let message = status.message().to_owned();
        match status.code() {
            Code::NotFound => RuntimeError::NotFound { call, message },
            Code::Unimplemented => RuntimeError::Unimplemented { call },
            Code::Unavailable => RuntimeError::Unavailable { call, message },
            Code::DeadlineExceeded | Code::Cancelled => RuntimeError::Deadline { call, message },
            code => RuntimeError::Failed { call, code: code_name(code), message },
        }
    }
}

fn code_name(code: Code) -> &'static str {
    match code {
        Code::InvalidArgument => "InvalidArgument",
        Code::AlreadyExists => "AlreadyExists",
        Code::PermissionDenied => "PermissionDenied",
        Code::ResourceExhausted => "ResourceExhausted",
        Code::FailedPrecondition => "FailedPrecondition",
        Code::Aborted => "Aborted",
        Code::Internal => "Internal",
        Code::Unauthenticated => "Unauthenticated",
        _ => "Unknown",
    }
}

fn gone_is_fine(result: Result<()>) -> Result<()> {
    match result {
        Err(error) if error.is_not_found() => Ok(()),
        other => other,
    }
}

fn of_pod(uid: Option<&str>) -> HashMap<String, String> {
    uid.map(|uid| (label::POD_UID.to_owned(), uid.to_owned())).into_iter().collect()
}

fn missing(call: &'static str) -> RuntimeError {
    RuntimeError::Failed { call, code: "Internal", message: "the runtime's answer has no status".into() }
}

/// One line per call: clone the client (cheap), send with a deadline, name the call in the error.
macro_rules! call {
    ($client:expr, $method:ident, $limit:expr, $message:expr) => {
        $client
            .clone()
            .$method(within($message, $limit))
            .await
            .map(tonic::Response::into_inner)
            .map_err(failure(stringify!($method)))
    };
}

#[async_trait]
impl Runtime for Cri {
    async fn version(&self) -> Result<cri::VersionResponse> {
        call!(self.runtime, version, SHORT, cri::VersionRequest { version: "v1".into() })
    }

    async fn status(&self) -> Result<Vec<cri::RuntimeCondition>> {
        let answer = call!(self.runtime, status, Duration::from_secs(10), cri::StatusRequest::default())?;
        Ok(answer.status.unwrap_or_default().conditions)
    }

    async fn run_sandbox(&self, config: cri::PodSandboxConfig, handler: &str) -> Result<String> {
        let message = cri::RunPodSandboxRequest { config: Some(config), runtime_handler: handler.to_owned() };
        Ok(call!(self.runtime, run_pod_sandbox, SANDBOX, message)?.pod_sandbox_id)
    }

    async fn stop_sandbox(&self, id: &str) -> Result<()> {
        let message = cri::StopPodSandboxRequest { pod_sandbox_id: id.to_owned() };
        gone_is_fine(call!(self.runtime, stop_pod_sandbox, SHORT, message).map(drop))
    }

    async fn remove_sandbox(&self, id: &str) -> Result<()> {
        let message = cri::RemovePodSandboxRequest { pod_sandbox_id: id.to_owned() };
        gone_is_fine(call!(self.runtime, remove_pod_sandbox, SHORT, message).map(drop))
    }

    async fn sandbox_status(&self, id: &str) -> Result<cri::PodSandboxStatus> {
        let message = cri::PodSandboxStatusRequest { pod_sandbox_id: id.to_owned(), verbose: false };
        let answer = call!(self.runtime, pod_sandbox_status, SHORT, message)?;
        answer.status.ok_or_else(|| missing("pod_sandbox_status"))
    }

    async fn list_sandboxes(&self, pod_uid: Option<&str>) -> Result<Vec<cri::PodSandbox>> {
        let filter = cri::PodSandboxFilter { label_selector: of_pod(pod_uid), ..Default::default() };
        let message = cri::ListPodSandboxRequest { filter: Some(filter) };
        Ok(call!(self.runtime, list_pod_sandbox, SHORT, message)?.items)
    }

    async fn create_container(
        &self,
        sandbox: &str,
        config: cri::ContainerConfig,
        sandbox_config: cri::PodSandboxConfig,
    ) -> Result<String> {
        let message = cri::CreateContainerRequest {
            pod_sandbox_id: sandbox.to_owned(),
            config: Some(config),
            sandbox_config: Some(sandbox_config),
        };
        Ok(call!(self.runtime, create_container, SHORT, message)?.container_id)
    }

    async fn start_container(&self, id: &str) -> Result<()> {
        let message = cri::StartContainerRequest { container_id: id.to_owned() };
        call!(self.runtime, start_container, SHORT, message).map(drop)
    }

    async fn stop_container(&self, id: &str, timeout: i64) -> Result<()> {
        let limit = SHORT + Duration::from_secs(u64::try_from(timeout).unwrap_or(0));
        let message = cri::StopContainerRequest { container_id: id.to_owned(), timeout };
        gone_is_fine(call!(self.runtime, stop_container, limit, message).map(drop))
    }

    async fn remove_container(&self, id: &str) -> Result<()> {
        let message = cri::RemoveContainerRequest { container_id: id.to_owned() };
        gone_is_fine(call!(self.runtime, remove_container, SHORT, message).map(drop))
    }

    async fn list_containers(&self, pod_uid: Option<&str>) -> Result<Vec<cri::Container>> {
        let filter = cri::ContainerFilter { label_selector: of_pod(pod_uid), ..Default::default() };
        let message = cri::ListContainersRequest { filter: Some(filter) };
        Ok(call!(self.runtime, list_containers, SHORT, message)?.containers)
    }

    async fn container_status(&self, id: &str) -> Result<cri::ContainerStatus> {
        let message = cri::ContainerStatusRequest { container_id: id.to_owned(), verbose: false };
        let answer = call!(self.runtime, container_status, SHORT, message)?;
        answer.status.ok_or_else(|| missing("container_status"))
    }

    async fn reopen_log(&self, id: &str) -> Result<()> {
        let message = cri::ReopenContainerLogRequest { container_id: id.to_owned() };
        call!(self.runtime, reopen_container_log, SHORT, message).map(drop)
    }

    async fn exec_sync(&self, id: &str, command: Vec<String>, timeout: i64) -> Result<cri::ExecSyncResponse> {
        let limit = match timeout {
            0 => PULL,
            seconds => SHORT + Duration::from_secs(u64::try_from(seconds).unwrap_or(0)),
        };
        let message = cri::ExecSyncRequest { container_id: id.to_owned(), cmd: command, timeout };
        call!(self.runtime, exec_sync, limit, message)
    }

    async fn exec(&self, request: cri::ExecRequest) -> Result<String> {
        Ok(call!(self.runtime, exec, SHORT, request)?.url)
    }

    async fn attach(&self, request: cri::AttachRequest) -> Result<String> {
        Ok(call!(self.runtime, attach, SHORT, request)?.url)
    }

    async fn port_forward(&self, sandbox: &str, ports: Vec<i32>) -> Result<String> {
        let message = cri::PortForwardRequest { pod_sandbox_id: sandbox.to_owned(), port: ports };
        Ok(call!(self.runtime, port_forward, SHORT, message)?.url)
    }

    async fn stats(&self) -> Result<Vec<cri::ContainerStats>> {
        let message = cri::ListContainerStatsRequest { filter: None };
        Ok(call!(self.runtime, list_container_stats, SHORT, message)?.stats)
    }

    async fn list_images(&self) -> Result<Vec<cri::Image>> {
        let message = cri::ListImagesRequest { filter: None };
        Ok(call!(self.images, list_images, SHORT, message)?.images)
    }

    async fn image_status(&self, image: &str) -> Result<Option<cri::Image>> {
        let image = Some(cri::ImageSpec { image: image.to_owned(), ..Default::default() });
        let message = cri::ImageStatusRequest { image, verbose: false };
        Ok(call!(self.images, image_status, SHORT, message)?.image)
    }

    async fn pull_image(
        &self,
        image: &str,
        auth: Option<cri::AuthConfig>,
        sandbox: Option<cri::PodSandboxConfig>,
    ) -> Result<String> {
        let image = Some(cri::ImageSpec { image: image.to_owned(), ..Default::default() });
        let message = cri::PullImageRequest { image, auth, sandbox_config: sandbox };
        Ok(call!(self.images, pull_image, PULL, message)?.image_ref)
    }

    async fn image_fs(&self) -> Result<Vec<cri::FilesystemUsage>> {
        Ok(call!(self.images, image_fs_info, SHORT, cri::ImageFsInfoRequest {})?.image_filesystems)
    }

    async fn events(&self) -> Result<mpsc::Receiver<String>> {
        let mut client = self.runtime.clone();
        let answer = client.get_container_events(cri::GetEventsRequest {}).await;
        let mut stream = answer.map_err(failure("get_container_events"))?.into_inner();
        // The first message decides whether the call is implemented at all.
        let first = stream.message().await.map_err(failure("get_container_events"))?;
        let (sender, receiver) = mpsc::channel(256);
        tokio::spawn(async move {
            let mut next = first;
            while let Some(event) = next {
                let pod = event.pod_sandbox_status.and_then(|status| status.metadata).unwrap_or_default();
                if sender.send(pod.uid).await.is_err() {
                    return;
                }
                next = stream.message().await.ok().flatten();
            }
        });
        Ok(receiver)
    }
}

#[cfg(test)]
mod tests {
    use super::socket_path;

    #[test]
    fn endpoints() {
        for (text, path) in [
            ("unix:///run/containerd/containerd.sock", Some("/run/containerd/containerd.sock")),
            ("/a/b.sock", Some("/a/b.sock")),
            ("tcp://1.2.3.4:5", None),
            ("", None),
        ] {
            assert_eq!(socket_path(text).ok().as_deref(), path.map(std::path::Path::new), "{text}");
        }
    }
}
