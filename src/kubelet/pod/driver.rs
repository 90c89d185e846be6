//! One task per pod that does what its machine says. Keeps true: work of one pod runs at the same time, each
//! piece once; the machine hears of finished work only together with a look at the runtime that began after
//! it, so a stale view never looks like a lost container. Which pods there are is left to `manager`.

use std::{
    sync::{Arc, Mutex, PoisonError, RwLock},
    time::Duration,
};

use client::EventType;
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Pod, PodStatus};
use tokio::{
    sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel},
    task::JoinSet,
    time::Instant,
};

use super::{
    machine::{Command, Event, Failure, Slot, State, step},
    probe::Probes,
    spec, status, uid,
    view::{View, look},
};
use crate::{context::Context, error::Result, runtime, volume::Mounted};

#[path = "work.rs"]
mod work;

/// How often volumes that follow API objects are brought up to date.
const REFRESH: Duration = Duration::from_secs(30);
/// After a failed look or status patch.
const RETRY: Duration = Duration::from_secs(1);

/// What a pod's task is told.
#[derive(Debug)]
pub enum Input {
    /// For the machine.
    Event(Event),
    /// Something may have changed in the runtime.
    Look,
    /// A look at the runtime ended; so much work had finished when it began.
    Looked(usize, runtime::Result<View>),
    /// Work ended.
    Finished(Slot, std::result::Result<(), Failure>),
    /// The API server has (or does not have) the status.
    Patched(Result<Option<Box<Pod>>>),
}

/// What others may see of a pod.
#[derive(Debug, Clone)]
pub struct Snapshot {
    /// The API object with its newest status.
    pub pod: Arc<Pod>,
    /// The runtime's view.
    pub view: View,
    /// Whether it holds no resources any more.
    pub over: bool,
}

/// A pod's task, seen from outside.
#[derive(Clone)]
pub struct Handle {
    send: UnboundedSender<Input>,
    snapshot: Arc<RwLock<Snapshot>>,
}

impl Handle {
    /// Tells the pod's task something.
    pub fn send(&self, input: Input) {
        // A task that has ended needs to know nothing.
        let _ = self.send.send(input);
    }

    /// Whether the pod's task has ended.
    #[must_use]
    pub fn is_closed(&self) -> bool {
        self.send.is_closed()
    }

    /// What is known of the pod now.
    #[must_use]
    pub fn snapshot(&self) -> Snapshot {
        self.snapshot.read().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// Makes a pod's task; run it with [`Driver::run`].
#[must_use]
pub fn new(context: Arc<Context>, pod: Arc<Pod>) -> (Handle, Driver) {
    let (send, receive) = unbounded_channel();
    let snapshot = Snapshot { pod: pod.clone(), view: View::default(), over: false };
    let handle = Handle { send: send.clone(), snapshot: Arc::new(RwLock::new(snapshot)) };
    let driver = Driver {
        shared: Shared { context, send, volumes: Arc::new(Mutex::new(Vec::new())) },
        receive,
        snapshot: handle.snapshot.clone(),
        state: State::new(pod, Timestamp::now()),
        tasks: JoinSet::new(),
        probes: Probes::default(),
        finished: Vec::new(),
        looking: false,
        look_again: false,
        patching: false,
        retry_at: None,
        over: false,
    };
    (handle, driver)
}

/// What every piece of work of one pod may use.
#[derive(Clone)]
struct Shared {
    context: Arc<Context>,
    send: UnboundedSender<Input>,
    volumes: Arc<Mutex<Vec<Mounted>>>,
}

/// A pod's task.
pub struct Driver {
    shared: Shared,
    receive: UnboundedReceiver<Input>,
    snapshot: Arc<RwLock<Snapshot>>,
    state: State,
    tasks: JoinSet<()>,
    probes: Probes,
    finished: Vec<(Slot, std::result::Result<(), Failure>)>,
    looking: bool,
    look_again: bool,
    patching: bool,
    retry_at: Option<Instant>,
    over: bool,
}

impl Driver {
    /// Runs until nothing is left of the pod.
    pub async fn run(mut self) {
        self.look();
        let now = self.state.pod.clone();
        self.event(Event::Pod(now));
        let mut refresh = tokio::time::interval_at(Instant::now() + REFRESH, REFRESH);
        while !self.over {
            self.settle();
            let wake = self.wake();
            tokio::select! {
                input = self.receive.recv() => match input {
                    Some(input) => self.input(input),
                    None => return,
                },
                () = tokio::time::sleep_until(wake) => self.tick(),
                _ = refresh.tick() => self.refresh(),
            }
            while let Ok(input) = self.receive.try_recv() {
                self.input(input);
            }
            while self.tasks.try_join_next().is_some() {}
        }
    }

    fn wake(&self) -> Instant {
        let machine = self.state.wake.map(|wake| {
            let left = wake.duration_since(Timestamp::now());
            Instant::now() + Duration::try_from(left).unwrap_or_default()
        });
        let times = machine.into_iter().chain(self.retry_at);
        times.min().unwrap_or_else(|| Instant::now() + Duration::from_secs(3600))
    }

    fn tick(&mut self) {
        if self.retry_at.is_some_and(|time| time <= Instant::now()) {
            self.retry_at = None;
            if self.look_again || !self.finished.is_empty() {
                self.look();
            }
        }
        self.event(Event::Tick);
    }

    fn input(&mut self, input: Input) {
        match input {
            Input::Event(Event::Pod(pod)) if is_older(&pod, &self.state.pod) => {}
            Input::Event(event) => self.event(event),
            Input::Look => self.look(),
            Input::Finished(slot, result) => {
                self.finished.push((slot, result));
                self.look();
            }
            Input::Looked(count, view) => self.looked(count, view),
            Input::Patched(result) => self.patched(result),
        }
    }

    fn event(&mut self, event: Event) {
        for command in step(&mut self.state, event, Timestamp::now()) {
            self.perform(command);
        }
    }

    fn look(&mut self) {
        if self.looking {
            self.look_again = true;
            return;
        }
        (self.looking, self.look_again) = (true, false);
        let (shared, pod, count) = (self.shared.clone(), self.state.pod.clone(), self.finished.len());
        self.tasks.spawn(async move {
            let host_network = spec(&pod).host_network == Some(true);
            let view = look(shared.context.runtime.as_ref(), uid(&pod), host_network).await;
            let _ = shared.send.send(Input::Looked(count, view));
        });
    }

    fn looked(&mut self, count: usize, view: runtime::Result<View>) {
        self.looking = false;
        match view {
            Ok(view) => {
                self.event(Event::Seen(view));
                let done: Vec<_> = self.finished.drain(..count.min(self.finished.len())).collect();
                for (slot, result) in done {
                    self.event(Event::Done(slot, result, None));
                }
                if self.look_again || !self.finished.is_empty() {
                    self.look();
                }
            }
            Err(error) => {
                tracing::warn!(pod = %super::full_name(&self.state.pod), %error, "cannot look at the pod");
                self.look_again = true;
                self.retry_at = Some(Instant::now() + RETRY);
            }
        }
    }

    fn refresh(&mut self) {
        if self.state.ending.is_some() || !self.state.volumes || !crate::volume::has_live(&self.state.pod) {
            return;
        }
        let (shared, pod, ips) = (self.shared.clone(), self.state.pod.clone(), self.ips());
        self.tasks.spawn(async move {
            if let Err(error) = crate::volume::refresh(&shared.context, &pod, &ips).await {
                tell(&shared.context, &pod, None, true, "FailedMount", error.chain());
            }
        });
    }

    fn ips(&self) -> Vec<String> {
        let own = self.state.view.sandbox().map(|sandbox| sandbox.ips.clone()).unwrap_or_default();
        let host_network = spec(&self.state.pod).host_network == Some(true);
        if host_network { self.shared.context.host.ips.clone() } else { own }
    }

    /// After every input: probes, the status and what others see follow the state.
    fn settle(&mut self) {
        self.probes.sync(&self.state, &self.shared.context, &self.shared.send);
        let new = status::of(&self.state, &self.shared.context.host, Timestamp::now());
        self.publish(&new);
        self.send_status(&new);
    }

    fn publish(&self, new: &PodStatus) {
        let mut snapshot = self.snapshot.write().unwrap_or_else(PoisonError::into_inner);
        if snapshot.pod.status.as_ref() != Some(new) || snapshot.pod.metadata != self.state.pod.metadata {
            let mut pod = (*self.state.pod).clone();
            pod.status = Some(new.clone());
            snapshot.pod = Arc::new(pod);
        }
        if snapshot.view != self.state.view {
            snapshot.view = self.state.view.clone();
        }
        snapshot.over = self.state.is_dead();
    }

    fn send_status(&mut self, new: &PodStatus) {
        // Before the first look the state knows nothing that the API server does not know better.
        if self.patching
            || self.state.is_deleting()
            || !self.state.seen
            || self.retry_at.is_some_and(|time| time > Instant::now())
        {
            return;
        }
        let old = self.state.pod.status.clone().unwrap_or_default();
        let Some(patch) = status::patch(uid(&self.state.pod), &old, new) else { return };
        self.patching = true;
        let (shared, pod) = (self.shared.clone(), self.state.pod.clone());
        self.tasks.spawn(async move {
            let result = shared.context.cluster.patch_status(&pod, &patch).await;
            let _ = shared.send.send(Input::Patched(result.map(|pod| pod.map(Box::new))));
        });
    }

    fn patched(&mut self, result: Result<Option<Box<Pod>>>) {
        self.patching = false;
        match result {
            Ok(Some(pod)) if !is_older(&pod, &self.state.pod) => self.event(Event::Pod(Arc::from(pod))),
            Ok(Some(_)) => {}
            // The watch will tell that the pod is gone; until then there is nobody to report to.
            Ok(None) => self.retry_at = Some(Instant::now() + RETRY),
            Err(error) => {
                tracing::warn!(pod = %super::full_name(&self.state.pod), error = error.chain(), "status not sent");
                self.retry_at = Some(Instant::now() + RETRY);
            }
        }
    }

    fn perform(&mut self, command: Command) {
        let shared = self.shared.clone();
        let pod = self.state.pod.clone();
        match command {
            Command::Event { warning, reason, message } => {
                tell(&shared.context, &pod, None, warning, reason, message);
            }
            Command::Finished => self.over = true,
            Command::Forget(id) => {
                self.tasks.spawn(async move {
                    let _ = shared.context.runtime.remove_container(&id).await;
                });
            }
            Command::Delete => {
                let new = status::of(&self.state, &shared.context.host, Timestamp::now());
                let old = pod.status.clone().unwrap_or_default();
                let patch = status::patch(uid(&pod), &old, &new);
                self.spawn(Slot::Delete, work::delete(shared, pod, patch));
            }
            Command::Volumes => self.spawn(Slot::Volumes, work::volumes(shared, pod, self.ips())),
            Command::Sandbox { attempt } => self.spawn(Slot::Sandbox, work::sandbox(shared, pod, attempt)),
            Command::Start { name, restarts, sandbox } => {
                let ips = self.ips();
                let start = work::Start { name: name.clone(), restarts, sandbox, ips };
                self.spawn(Slot::Start(name), start.run(shared, pod));
            }
            Command::Stop { name, id, grace, message } => {
                let ips = self.ips();
                let stop = work::Stop { name, id: id.clone(), grace, message, ips };
                self.spawn(Slot::Stop(id), stop.run(shared, pod));
            }
            Command::StopSandbox(id) => {
                self.spawn(Slot::StopSandbox(id.clone()), work::stop_sandbox(shared, id));
            }
            Command::Teardown => self.spawn(Slot::Teardown, work::tear_down(shared, pod)),
            Command::Remove => self.spawn(Slot::Remove, work::remove(shared, pod, self.state.view.clone())),
        }
    }

    fn spawn<F>(&mut self, slot: Slot, work: F)
    where
        F: Future<Output = std::result::Result<(), Failure>> + Send + 'static,
    {
        let send = self.shared.send.clone();
        self.tasks.spawn(async move {
            let result = work.await;
            let _ = send.send(Input::Finished(slot, result));
        });
    }
}

/// Whether an object is an older version than the one that is known.
fn is_older(pod: &Pod, known: &Pod) -> bool {
    let version =
        |pod: &Pod| pod.metadata.resource_version.as_deref().and_then(|text| text.parse::<u64>().ok());
    matches!((version(pod), version(known)), (Some(new), Some(old)) if new < old)
}

/// Tells people about a pod or one of its containers.
pub(crate) fn tell(
    context: &Context,
    pod: &Pod,
    container: Option<&str>,
    warning: bool,
    reason: &str,
    message: impl Into<String>,
) {
    let mut about = client::reference(pod);
    if let Some(name) = container {
        let is_init = super::inits(&spec(pod)).iter().any(|init| init.name == name);
        let list = if is_init { "initContainers" } else { "containers" };
        about.field_path = Some(format!("spec.{list}{{{name}}}"));
    }
    let kind = if warning { EventType::Warning } else { EventType::Normal };
    context.recorder.event(&about, kind, reason, message);
}
