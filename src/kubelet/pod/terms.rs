//! The words of the machine: what happens to a pod (`Event`), what is to be done (`Command`), which work must
//! not run twice (`Slot`), and what is remembered about failures and the end. No behaviour.

use std::sync::Arc;

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::Pod;

use super::view::View;

/// A piece of work that must not run twice at once.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Slot {
    /// Setting volumes up.
    Volumes,
    /// Making the sandbox.
    Sandbox,
    /// Starting the container of this name.
    Start(String),
    /// Stopping the container instance of this id.
    Stop(String),
    /// Stopping the sandbox of this id.
    StopSandbox(String),
    /// Unmounting volumes, removing cgroups.
    Teardown,
    /// The final delete at the API server.
    Delete,
    /// Removing all traces.
    Remove,
}

/// What the driver is asked to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Command {
    /// Set all volumes up.
    Volumes,
    /// Make a sandbox.
    Sandbox {
        /// How many the pod had before.
        attempt: u32,
    },
    /// Pull, create and start a container, and run its postStart hook.
    Start {
        /// Its name.
        name: String,
        /// How often it was started before.
        restarts: u32,
        /// In which sandbox.
        sandbox: String,
    },
    /// Stop a container: preStop hook, TERM, KILL.
    Stop {
        /// Its name.
        name: String,
        /// The instance.
        id: String,
        /// Seconds for hook and TERM together.
        grace: i64,
        /// The text of the `Killing` event.
        message: String,
    },
    /// Stop a sandbox.
    StopSandbox(String),
    /// Remove a dead container instance that is no longer needed for logs or status.
    Forget(String),
    /// Unmount volumes, remove cgroups.
    Teardown,
    /// Delete the API object for good.
    Delete,
    /// Remove containers, sandboxes and directories.
    Remove,
    /// Tell people.
    Event {
        /// Whether they should worry.
        warning: bool,
        /// CamelCase.
        reason: &'static str,
        /// A sentence.
        message: String,
    },
    /// Nothing is left of the pod.
    Finished,
}

/// Why a piece of work failed: a reason as in a waiting container's state, and a text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failure {
    /// `ErrImagePull`, `CreateContainerConfigError`, …
    pub reason: String,
    /// What happened.
    pub message: String,
}

/// What happened.
#[derive(Debug)]
pub enum Event {
    /// The API object changed (or the machine has just started).
    Pod(Arc<Pod>),
    /// The API object is gone.
    Gone,
    /// The node does not take the pod, or throws it out.
    Reject(Failure),
    /// The runtime was looked at.
    Seen(View),
    /// Work ended; with the runtime's view afterwards.
    Done(Slot, Result<(), Failure>, Option<View>),
    /// A probe changed its mind about a container instance.
    Probe(String, Verdict),
    /// Time has passed.
    Tick,
}

/// What probes think of a container instance.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// The startup probe succeeded.
    Started,
    /// The readiness probe crossed a threshold.
    Ready(bool),
    /// The liveness probe failed often enough; the grace it asks for.
    Unhealthy(Option<i64>),
    /// The startup probe failed often enough; the grace it asks for.
    NeverStarted(Option<i64>),
}

/// A container instance's health.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Health {
    /// Its startup probe succeeded.
    pub started: bool,
    /// Its readiness probe succeeds.
    pub ready: bool,
}

/// Work that failed and is tried again.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Retry {
    /// Why it failed.
    pub failure: Failure,
    /// Not before.
    pub until: Timestamp,
    pub(super) delay: SignedDuration,
}

/// Why a pod ends.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Cause {
    /// Somebody deleted it.
    Deleted,
    /// Its API object vanished.
    Gone,
    /// Its containers ran to their end.
    Completed,
    /// The node gave it up.
    Failed(Failure),
}

/// A pod on its way out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ending {
    /// Why.
    pub cause: Cause,
    /// Since when.
    pub since: Timestamp,
    /// Seconds for its containers.
    pub grace: i64,
}
