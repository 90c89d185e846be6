//! The seam to the container runtime. Keeps true: every call names what it acted on when it fails, and a
//! "not found" of the runtime can be told from a failure. Deciding what to call is left to `pod`.

mod cri_client;
pub mod fake;

use async_trait::async_trait;
use jiff::Timestamp;
use tokio::sync::mpsc;

pub use cri_client::Cri;

/// The CRI's messages (`runtime.v1`), generated from `cri.proto`.
#[expect(missing_docs, clippy::all, clippy::pedantic, reason = "generated code")]
pub mod cri {
    tonic::include_proto!("runtime.v1");
}

/// Labels and annotations by which a kubelet finds its own sandboxes and containers again.
pub mod label {
    /// The pod's name.
    pub const POD_NAME: &str = "io.kubernetes.pod.name";
    /// The pod's namespace.
    pub const POD_NAMESPACE: &str = "io.kubernetes.pod.namespace";
    /// The pod's uid.
    pub const POD_UID: &str = "io.kubernetes.pod.uid";
    /// The container's name in the pod's specification.
    pub const CONTAINER_NAME: &str = "io.kubernetes.container.name";
    /// Annotation: hash of the container's specification.
    pub const CONTAINER_HASH: &str = "io.kubernetes.container.hash";
    /// Annotation: how often the container was started again before this one.
    pub const RESTART_COUNT: &str = "io.kubernetes.container.restartCount";
    /// Annotation: the path of the termination message in the container.
    pub const TERMINATION_PATH: &str = "io.kubernetes.container.terminationMessagePath";
    /// Annotation: `File` or `FallbackToLogsOnError`.
    pub const TERMINATION_POLICY: &str = "io.kubernetes.container.terminationMessagePolicy";
    /// Annotation: the pod's termination grace in seconds, for containers whose pod object is gone.
    pub const POD_GRACE: &str = "io.kubernetes.pod.terminationGracePeriod";
}

/// A call to the container runtime that failed.
#[derive(Debug, thiserror::Error, Clone)]
pub enum RuntimeError {
    /// The runtime does not know the sandbox, container or image.
    #[error("{call}: {message}")]
    NotFound {
        /// The CRI call.
        call: &'static str,
        /// The runtime's own words.
        message: String,
    },
    /// The runtime does not implement the call.
    #[error("the container runtime does not implement {call}")]
    Unimplemented {
        /// The CRI call.
        call: &'static str,
    },
    /// Nobody answers on the runtime's socket.
    #[error("{call}: cannot reach the container runtime: {message}; is it running?")]
    Unavailable {
        /// The CRI call.
        call: &'static str,
        /// What the transport said.
        message: String,
    },
    /// The call took longer than allowed.
    #[error("{call}: {message}")]
    Deadline {
        /// The CRI call.
        call: &'static str,
        /// The runtime's own words.
        message: String,
    },
    /// The runtime refused or failed.
    #[error("rpc error: code = {code} desc = {message}")]
    Failed {
        /// The CRI call.
        call: &'static str,
        /// gRPC's name for the cause.
        code: &'static str,
        /// The runtime's own words.
        message: String,
    },
}

impl RuntimeError {
    /// Whether the thing acted on does not exist (any more).
    #[must_use]
    pub fn is_not_found(&self) -> bool {
        matches!(self, Self::NotFound { .. })
    }
}

/// Result of a runtime call.
pub type Result<T> = std::result::Result<T, RuntimeError>;

/// What the kubelet asks of a container runtime. One method per CRI call that it uses.
#[async_trait]
pub trait Runtime: Send + Sync + 'static {
    /// Name and version of the runtime.
    async fn version(&self) -> Result<cri::VersionResponse>;
    /// The runtime's own conditions: `RuntimeReady`, `NetworkReady`.
    async fn status(&self) -> Result<Vec<cri::RuntimeCondition>>;
    /// Makes and starts a sandbox; answers its id.
    async fn run_sandbox(&self, config: cri::PodSandboxConfig, handler: &str) -> Result<String>;
    /// Stops a sandbox, kills what still runs in it and frees its address. Idempotent.
    async fn stop_sandbox(&self, id: &str) -> Result<()>;
    /// Removes a stopped sandbox with its containers. Idempotent.
    async fn remove_sandbox(&self, id: &str) -> Result<()>;
    /// State and addresses of a sandbox.
    async fn sandbox_status(&self, id: &str) -> Result<cri::PodSandboxStatus>;
    /// All sandboxes, or those of one pod.
    async fn list_sandboxes(&self, pod_uid: Option<&str>) -> Result<Vec<cri::PodSandbox>>;
    /// Makes a container in a sandbox; answers its id.
    async fn create_container(
        &self,
        sandbox: &str,
        config: cri::ContainerConfig,
        sandbox_config: cri::PodSandboxConfig,
    ) -> Result<String>;
    /// Starts a created container.
    async fn start_container(&self, id: &str) -> Result<()>;
    /// Sends the stop signal, and kills after `timeout` seconds. Returns when the container is dead.
    async fn stop_container(&self, id: &str, timeout: i64) -> Result<()>;
    /// Removes a dead container. Idempotent.
    async fn remove_container(&self, id: &str) -> Result<()>;
    /// All containers, or those of one pod.
    async fn list_containers(&self, pod_uid: Option<&str>) -> Result<Vec<cri::Container>>;
    /// Everything about one container.
    async fn container_status(&self, id: &str) -> Result<cri::ContainerStatus>;
    /// Asks for a new log file after rotation.
    async fn reopen_log(&self, id: &str) -> Result<()>;
    /// Runs a command in a container and collects its output. `timeout` in seconds, 0 for none.
    async fn exec_sync(&self, id: &str, command: Vec<String>, timeout: i64) -> Result<cri::ExecSyncResponse>;
    /// URL of a streaming exec session.
    async fn exec(&self, request: cri::ExecRequest) -> Result<String>;
    /// URL of a streaming attach session.
    async fn attach(&self, request: cri::AttachRequest) -> Result<String>;
    /// URL of a port-forward session.
    async fn port_forward(&self, sandbox: &str, ports: Vec<i32>) -> Result<String>;
    /// Resource usage of all containers.
    async fn stats(&self) -> Result<Vec<cri::ContainerStats>>;
    /// All images on the node.
    async fn list_images(&self) -> Result<Vec<cri::Image>>;
    /// The image if it is on the node.
    async fn image_status(&self, image: &str) -> Result<Option<cri::Image>>;
    /// Pulls an image; answers its reference.
    async fn pull_image(
        &self,
        image: &str,
        auth: Option<cri::AuthConfig>,
        sandbox: Option<cri::PodSandboxConfig>,
    ) -> Result<String>;
    /// Where images lie and how much they take.
    async fn image_fs(&self) -> Result<Vec<cri::FilesystemUsage>>;
    /// A stream of pod uids in which something happened, where the runtime has one.
    async fn events(&self) -> Result<mpsc::Receiver<String>>;
}

/// A time of the CRI: nanoseconds since the epoch, 0 for never.
#[must_use]
pub fn time_of(nanoseconds: i64) -> Option<Timestamp> {
    (nanoseconds > 0).then(|| Timestamp::from_nanosecond(i128::from(nanoseconds)).ok()).flatten()
}
