//! Which pods run here. Keeps true: one task per pod uid; a pod is taken only if it fits; containers whose
//! pod the API server does not know are killed once the pods are known; changes in the runtime reach the
//! pod's task within a second. What happens to one pod is left to `pod`.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use client::Change;
use k8s_openapi::api::core::v1::{Node, Pod};
use tokio::{sync::Notify, task::JoinSet};
use tokio_util::sync::CancellationToken;

use crate::{
    admit,
    context::Context,
    pod::{
        driver::{self, Handle, Input, Snapshot},
        machine::Event,
        name, namespace, resources, spec, uid,
    },
    runtime::{self, cri, label},
    volume,
};

/// How often the runtime is listed.
const RELIST: Duration = Duration::from_secs(1);
/// How often logs are looked at for rotation.
const ROTATE: Duration = Duration::from_secs(10);

/// A pod that was found by name.
pub type Found = Snapshot;

/// The pods of this node.
pub struct Manager {
    context: Arc<Context>,
    pods: Mutex<HashMap<String, Handle>>,
    tasks: Mutex<JoinSet<()>>,
    changed: Notify,
}

impl Manager {
    /// No pods yet.
    #[must_use]
    pub fn new(context: Arc<Context>) -> Arc<Self> {
        Arc::new(Self {
            context,
            pods: Mutex::new(HashMap::new()),
            tasks: Mutex::new(JoinSet::new()),
            changed: Notify::new(),
        })
    }

    /// All pods as they are now.
    #[must_use]
    pub fn snapshots(&self) -> Vec<Snapshot> {
        self.handles().into_values().map(|handle| handle.snapshot()).collect()
    }

    /// A pod by name.
    #[must_use]
    pub fn find(&self, of: &str, called: &str) -> Option<Snapshot> {
        self.snapshots().into_iter().find(|one| namespace(&one.pod) == of && name(&one.pod) == called)
    }

    fn handles(&self) -> HashMap<String, Handle> {
        self.pods.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Takes in a change of the pods that are bound to this node.
    pub fn on_change(&self, change: &Change<Pod>) {
        let old_uid = change.old.as_ref().map(|pod| uid(pod).to_owned());
        let new_uid = change.new.as_ref().map(|pod| uid(pod).to_owned());
        if let Some(old) = old_uid.filter(|old| Some(old) != new_uid.as_ref())
            && let Some(handle) = self.handles().get(&old)
        {
            handle.send(Input::Event(Event::Gone));
        }
        if let Some(pod) = &change.new {
            self.update(pod.clone());
        }
    }

    fn update(&self, pod: Arc<Pod>) {
        let mut pods = self.pods.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(handle) = pods.get(uid(&pod)) {
            return handle.send(Input::Event(Event::Pod(pod)));
        }
        let others: Vec<Snapshot> = pods.values().map(Handle::snapshot).filter(|one| !one.over).collect();
        let rejected = self.reject(&pod, &others);
        let (handle, driver) = driver::new(self.context.clone(), pod.clone());
        if let Some(failure) = rejected {
            driver::tell(&self.context, &pod, None, true, &failure.reason, failure.message.clone());
            handle.send(Input::Event(Event::Reject(failure)));
        }
        pods.insert(uid(&pod).to_owned(), handle);
        self.weigh(&others, &pod);
        let id = uid(&pod).to_owned();
        let mut tasks = self.tasks.lock().unwrap_or_else(PoisonError::into_inner);
        while tasks.try_join_next().is_some() {}
        tasks.spawn(driver.run());
        drop(pods);
        tracing::debug!(pod = name(&pod), uid = id, "pod taken up");
    }

    /// Pods that ran here before this process started were admitted then.
    fn reject(&self, pod: &Pod, others: &[Snapshot]) -> Option<crate::pod::machine::Failure> {
        let status = pod.status.as_ref();
        let known = status.is_some_and(|status| status.start_time.is_some());
        if known || pod.metadata.deletion_timestamp.is_some() {
            return None;
        }
        let node = self.context.node();
        let others: Vec<Arc<Pod>> = others.iter().map(|one| one.pod.clone()).collect();
        admit::check(pod, &others, &self.context.allocatable, node.as_deref().unwrap_or(&Node::default()))
    }

    fn weigh(&self, others: &[Snapshot], new: &Pod) {
        let pods = others.iter().map(|one| one.pod.as_ref()).chain([new]);
        let burstable = pods.filter(|pod| resources::qos(&spec(pod)) == resources::Qos::Burstable);
        let milli = burstable.map(|pod| resources::pod_request(&spec(pod), "cpu")).sum();
        self.context.cgroups.weigh_classes(milli);
    }

    /// Listens to the runtime, forgets finished pods, kills strangers and rotates logs until `stop`.
    pub async fn run(self: Arc<Self>, synced: impl Future<Output = ()>, stop: CancellationToken) {
        tokio::select! {
            () = synced => {}
            () = stop.cancelled() => return,
        }
        let mut events = None;
        if let Ok(Ok(stream)) = tokio::time::timeout(RELIST, self.context.runtime.events()).await {
            events = Some(stream);
        }
        let mut relist = tokio::time::interval(RELIST);
        let mut rotate = tokio::time::interval(ROTATE);
        let mut known = BTreeMap::new();
        let mut strangers = HashSet::new();
        relist.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                () = stop.cancelled() => break,
                () = self.changed.notified() => {}
                _ = relist.tick() => self.relist(&mut known, &mut strangers).await,
                _ = rotate.tick() => self.rotate_logs().await,
                uid = next(&mut events) => if let Some(handle) = self.handles().get(&uid) {
                    handle.send(Input::Look);
                },
            }
        }
        // Containers live on without us: a stopped kubelet kills nothing.
        let mut tasks = std::mem::take(&mut *self.tasks.lock().unwrap_or_else(PoisonError::into_inner));
        tasks.shutdown().await;
    }

    async fn relist(&self, known: &mut BTreeMap<String, u64>, strangers: &mut HashSet<String>) {
        let lists = tokio::try_join!(
            self.context.runtime.list_sandboxes(None),
            self.context.runtime.list_containers(None)
        );
        let (sandboxes, containers) = match lists {
            Ok(lists) => lists,
            Err(error) => return tracing::warn!(%error, "cannot list what runs"),
        };
        let prints = fingerprints(&sandboxes, &containers);
        self.forget_finished();
        let handles = self.handles();
        for (uid, print) in &prints {
            match handles.get(uid) {
                Some(handle) if known.get(uid) != Some(print) => handle.send(Input::Look),
                Some(_) => {}
                // Twice in a row: a pod that has just ended is not a stranger.
                None if !strangers.insert(uid.clone()) => self.kill(uid, &sandboxes, &containers).await,
                None => {}
            }
        }
        for uid in known.keys().filter(|uid| !prints.contains_key(*uid)) {
            if let Some(handle) = handles.get(uid) {
                handle.send(Input::Look);
            }
        }
        strangers.retain(|uid| prints.contains_key(uid) && !handles.contains_key(uid));
        *known = prints;
    }

    fn forget_finished(&self) {
        let mut pods = self.pods.lock().unwrap_or_else(PoisonError::into_inner);
        pods.retain(|_, handle| !handle.is_closed());
    }

    /// Removes everything of a pod that the API server does not know.
    async fn kill(&self, uid: &str, sandboxes: &[cri::PodSandbox], containers: &[cri::Container]) {
        tracing::info!(uid, "killing a pod that is not bound to this node");
        let context = self.context.clone();
        let of = |labels: &HashMap<String, String>| labels.get(label::POD_UID).is_some_and(|of| of == uid);
        let sandboxes: Vec<String> =
            sandboxes.iter().filter(|one| of(&one.labels)).map(|one| one.id.clone()).collect();
        let containers: Vec<cri::Container> =
            containers.iter().filter(|one| of(&one.labels)).cloned().collect();
        let uid = uid.to_owned();
        let mut tasks = self.tasks.lock().unwrap_or_else(PoisonError::into_inner);
        tasks.spawn(async move {
            if let Err(error) = kill(&context, &sandboxes, &containers).await {
                return tracing::warn!(uid, %error, "cannot kill the pod, trying again");
            }
            let removed = tokio::task::spawn_blocking(move || {
                let _ = context.cgroups.remove(&uid);
                volume::remove_all(&context, &uid)
            });
            if let Ok(Err(error)) = removed.await {
                tracing::warn!(error = error.chain(), "cannot remove the files of a killed pod");
            }
        });
    }

    async fn rotate_logs(&self) {
        for snapshot in self.snapshots() {
            for instance in snapshot.view.alive() {
                let path = log_path(&self.context, &snapshot.pod, &instance.name, instance.restarts);
                let (size, files) = (self.context.config.log_size, self.context.config.log_files);
                match crate::logs::rotate(&path, size, files) {
                    Ok(true) => drop(self.context.runtime.reopen_log(&instance.id).await),
                    Ok(false) => {}
                    Err(error) => tracing::warn!(path = %path.display(), %error, "cannot rotate the log"),
                }
            }
        }
    }
}

/// Where a container instance's log lies.
#[must_use]
pub fn log_path(context: &Context, pod: &Pod, container: &str, restarts: u32) -> std::path::PathBuf {
    crate::pod::sandbox::log_dir(&context.config, pod).join(container).join(format!("{restarts}.log"))
}

async fn next(events: &mut Option<tokio::sync::mpsc::Receiver<String>>) -> String {
    if let Some(stream) = events {
        if let Some(uid) = stream.recv().await {
            return uid;
        }
        *events = None;
    }
    std::future::pending().await
}

async fn kill(context: &Context, sandboxes: &[String], containers: &[cri::Container]) -> runtime::Result<()> {
    for container in containers {
        let grace =
            container.annotations.get(label::POD_GRACE).and_then(|text| text.parse().ok()).unwrap_or(2);
        context.runtime.stop_container(&container.id, grace).await?;
        context.runtime.remove_container(&container.id).await?;
    }
    for id in sandboxes {
        context.runtime.stop_sandbox(id).await?;
        context.runtime.remove_sandbox(id).await?;
    }
    Ok(())
}

/// A number per pod that changes when the state of anything of it does.
fn fingerprints(sandboxes: &[cri::PodSandbox], containers: &[cri::Container]) -> BTreeMap<String, u64> {
    use std::hash::{DefaultHasher, Hash, Hasher};
    let one = |id: &str, state: i32| {
        let mut hasher = DefaultHasher::new();
        (id, state).hash(&mut hasher);
        hasher.finish()
    };
    let sandboxes = sandboxes.iter().map(|sandbox| (&sandbox.labels, one(&sandbox.id, sandbox.state)));
    let containers =
        containers.iter().map(|container| (&container.labels, one(&container.id, container.state)));
    let mut prints = BTreeMap::new();
    for (labels, print) in sandboxes.chain(containers) {
        if let Some(uid) = labels.get(label::POD_UID) {
            let sum: &mut u64 = prints.entry(uid.clone()).or_default();
            *sum = sum.wrapping_add(print);
        }
    }
    prints
}
