//! What can go wrong in the node agent, by cause.

use std::path::{Path, PathBuf};

/// An error of the kubelet. Its text says what failed, on what and what to do; the cause is its source.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A flag or the configuration file is wrong.
    #[error("{0}")]
    Config(String),
    /// A file or directory could not be read, written or mounted.
    #[error("cannot {action} {path}")]
    File {
        /// What was tried, as an infinitive.
        action: &'static str,
        /// On which path.
        path: PathBuf,
        /// Why it failed.
        #[source]
        source: std::io::Error,
    },
    /// The API server refused or could not be reached.
    #[error("{action}: the API server did not do it")]
    Api {
        /// What was asked for.
        action: String,
        /// Its answer.
        #[source]
        source: Box<kube::Error>,
    },
    /// The shared client crate failed.
    #[error("cannot set up the API client from {path}")]
    Client {
        /// The kubeconfig.
        path: PathBuf,
        /// Why.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// The container runtime failed.
    #[error("container runtime: {0}")]
    Runtime(#[from] crate::runtime::RuntimeError),
    /// A key, certificate or signing request could not be made or read.
    #[error("{action}")]
    Certificate {
        /// What was tried.
        action: String,
        /// Why it failed.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// The HTTPS server could not start.
    #[error("the kubelet's server on {address} failed")]
    Serve {
        /// Where it listens.
        address: String,
        /// Why.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// A volume could not be set up; the text is the one of the event.
    #[error("{0}")]
    Volume(String),
}

impl Error {
    pub(crate) fn file(action: &'static str, path: &Path) -> impl FnOnce(std::io::Error) -> Self {
        let path = path.to_owned();
        move |source| Self::File { action, path, source }
    }

    pub(crate) fn errno(action: &'static str, path: &Path) -> impl FnOnce(nix::errno::Errno) -> Self {
        let path = path.to_owned();
        move |errno| Self::File { action, path, source: errno.into() }
    }

    pub(crate) fn api(action: impl Into<String>) -> impl FnOnce(kube::Error) -> Self {
        let action = action.into();
        move |source| Self::Api { action, source: Box::new(source) }
    }

    pub(crate) fn certificate<E>(action: impl Into<String>) -> impl FnOnce(E) -> Self
    where
        E: Into<Box<dyn std::error::Error + Send + Sync>>,
    {
        let action = action.into();
        move |source| Self::Certificate { action, source: source.into() }
    }

    /// The whole chain of causes in one line, for events and logs.
    #[must_use]
    pub fn chain(&self) -> String {
        let mut text = self.to_string();
        let mut cause = std::error::Error::source(self);
        while let Some(error) = cause {
            text.push_str(": ");
            text.push_str(&error.to_string());
            cause = error.source();
        }
        text
    }
}

/// Result with the kubelet's error.
pub type Result<T> = std::result::Result<T, Error>;
