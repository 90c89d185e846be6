//! Everything that can go wrong with a sandbox, by cause. A text says what failed and what to do; the source says
//! what the system answered.

use std::path::PathBuf;

/// Why a verb of the sandbox failed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A file or folder could not be read or written.
    #[error("cannot {action} {}", path.display())]
    File {
        /// read, write, make, remove …
        action: &'static str,
        /// The file.
        path: PathBuf,
        /// The system's answer.
        source: std::io::Error,
    },
    /// A program could not be started at all.
    #[error("cannot run {program}: is its Debian package installed? deploy/up installs what is missing")]
    Program {
        /// The program.
        program: String,
        /// The system's answer.
        source: std::io::Error,
    },
    /// A program ran and failed.
    #[error("{command} failed ({status}): {message}")]
    Failed {
        /// The whole command.
        command: String,
        /// How it ended.
        status: String,
        /// What it said, shortened.
        message: String,
    },
    /// A system call failed.
    #[error("cannot {action}")]
    System {
        /// What was tried.
        action: String,
        /// The system's answer.
        source: nix::Error,
    },
    /// There is no sandbox of that name.
    #[error("there is no sandbox {name}: deploy/up --name {name} makes it")]
    NoSandbox {
        /// Its name.
        name: String,
    },
    /// The name cannot be part of file, namespace and device names.
    #[error("{name:?} cannot be a sandbox's name: use 1 to 20 characters of a-z, 0-9 and -, a letter first")]
    BadName {
        /// The name.
        name: String,
    },
    /// No such host in the sandbox.
    #[error("there is no host {name} here; the hosts are {hosts}")]
    NoHost {
        /// The name that was given.
        name: String,
        /// The names that exist.
        hosts: String,
    },
    /// No such component on the host.
    #[error("{host} has no component {name}; it has {components}")]
    NoComponent {
        /// The host.
        host: String,
        /// The name that was given.
        name: String,
        /// The names that exist.
        components: String,
    },
    /// A component that should run does not.
    #[error("{component} is not running on {host}: deploy/sandbox start {host} {component}")]
    NotRunning {
        /// The host.
        host: String,
        /// The component.
        component: String,
    },
    /// A component ended right after it was started.
    #[error("{component} on {host} ended right away; its last words ({}): {words}", log.display())]
    Died {
        /// The host.
        host: String,
        /// The component.
        component: String,
        /// Where its log is.
        log: PathBuf,
        /// The log's last line.
        words: String,
    },
    /// A member of a store that should run does not.
    #[error("member {name} is not running: start it first; its log is {}", log.display())]
    NoMember {
        /// The member.
        name: String,
        /// Where its log is.
        log: PathBuf,
    },
    /// The host is switched off.
    #[error("{host} is off: deploy/sandbox poweron {host}")]
    Off {
        /// The host.
        host: String,
    },
    /// A proxy between two members cannot listen.
    #[error("cannot listen on 127.0.0.1 for a proxy in front of port {port}")]
    Proxy {
        /// The port behind it.
        port: u16,
        /// The system's answer.
        source: std::io::Error,
    },
    /// Something did not become true in time.
    #[error("{what} did not happen within {seconds} s; {hint}")]
    Late {
        /// What was waited for.
        what: String,
        /// How long.
        seconds: u64,
        /// Where to look.
        hint: String,
    },
    /// Writes were acknowledged and are not there.
    #[error(
        "data was lost: these writes of {name} were acknowledged, but a reader does not find them: {lost:?}"
    )]
    Lost {
        /// Who wrote.
        name: String,
        /// The numbers of the writes.
        lost: Vec<u64>,
    },
    /// Another process has the port on the machine's loopback address.
    #[error("port {port} of 127.0.0.1 is taken by another program: stop it, or choose another with --port")]
    PortTaken {
        /// The port.
        port: u16,
    },
    /// The machine's disk has too little room for a cluster.
    #[error(
        "only {free} MB free in {folder}: a cluster needs {least} MB, on a fuller disk its nodes take no pods"
    )]
    DiskFull {
        /// Where the sandbox is to be.
        folder: String,
        /// What is free there, in MB.
        free: u64,
        /// What must be, in MB.
        least: u64,
    },
    /// The running sandbox has another shape than the one asked for.
    #[error(
        "sandbox {name} exists with {there}, not {asked}: deploy/down --name {name} first, or use another --name"
    )]
    OtherShape {
        /// The sandbox.
        name: String,
        /// Its shape.
        there: String,
        /// The shape asked for.
        asked: String,
    },
    /// The API did not answer as it should.
    #[error("cannot {action} through the API")]
    Api {
        /// What was tried.
        action: String,
        /// The client's error.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
}

impl Error {
    /// For `map_err` of file operations.
    pub(crate) fn file(
        action: &'static str,
        path: impl Into<PathBuf>,
    ) -> impl FnOnce(std::io::Error) -> Self {
        let path = path.into();
        move |source| Self::File { action, path, source }
    }

    /// For `map_err` of system calls.
    pub(crate) fn system(action: impl Into<String>) -> impl FnOnce(nix::Error) -> Self {
        let action = action.into();
        move |source| Self::System { action, source }
    }

    /// For `map_err` of API calls.
    pub(crate) fn api<E: std::error::Error + Send + Sync + 'static>(
        action: impl Into<String>,
    ) -> impl FnOnce(E) -> Self {
        let action = action.into();
        move |source| Self::Api { action, source: Box::new(source) }
    }
}
