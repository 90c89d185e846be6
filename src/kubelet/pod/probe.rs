//! Liveness, readiness and startup probes: one task per probe of a running container. Keeps true: a verdict
//! is sent only when a threshold is crossed; readiness and liveness wait for the startup probe; a task ends
//! with its container instance. What a verdict means is left to `machine`.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use k8s_openapi::api::core::v1::{Container, Pod, Probe};
use tokio::{
    sync::mpsc::UnboundedSender,
    task::{AbortHandle, JoinSet},
    time::Instant,
};

use super::{
    driver::Input,
    find, hooks,
    hooks::Outcome,
    inits,
    machine::{Event, State, Verdict},
    resources::is_sidecar,
    spec,
    view::{Instance, Run},
};
use crate::context::Context;

/// The three kinds, in the order in which upstream checks them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Kind {
    Startup,
    Readiness,
    Liveness,
}

impl Kind {
    const ALL: [Self; 3] = [Self::Startup, Self::Readiness, Self::Liveness];

    fn of(self, container: &Container) -> Option<&Probe> {
        match self {
            Self::Startup => container.startup_probe.as_ref(),
            Self::Readiness => container.readiness_probe.as_ref(),
            Self::Liveness => container.liveness_probe.as_ref(),
        }
    }

    fn title(self) -> &'static str {
        match self {
            Self::Startup => "Startup",
            Self::Readiness => "Readiness",
            Self::Liveness => "Liveness",
        }
    }

    fn verdict(self, fine: bool, grace: Option<i64>) -> Option<Verdict> {
        match (self, fine) {
            (Self::Startup, true) => Some(Verdict::Started),
            (Self::Startup, false) => Some(Verdict::NeverStarted(grace)),
            (Self::Readiness, fine) => Some(Verdict::Ready(fine)),
            (Self::Liveness, true) => None,
            (Self::Liveness, false) => Some(Verdict::Unhealthy(grace)),
        }
    }
}

/// The probe tasks of one pod.
#[derive(Default)]
pub struct Probes {
    tasks: JoinSet<()>,
    running: BTreeMap<(String, Kind), AbortHandle>,
}

impl Probes {
    /// Starts the probes that should run and ends those that should not.
    pub fn sync(&mut self, state: &State, context: &Arc<Context>, send: &UnboundedSender<Input>) {
        let wanted = wanted(state);
        self.running.retain(|key, task| {
            let keep = wanted.iter().any(|(instance, _, kind)| *key == (instance.id.clone(), *kind));
            if !keep {
                task.abort();
            }
            keep
        });
        while self.tasks.try_join_next().is_some() {}
        for (instance, container, kind) in wanted {
            let key = (instance.id.clone(), kind);
            if self.running.contains_key(&key) {
                continue;
            }
            let Some(probe) = kind.of(&container).cloned() else { continue };
            let work = Work {
                context: context.clone(),
                pod: state.pod.clone(),
                pod_ip: address(state, context),
                container,
                instance: instance.clone(),
                probe,
                kind,
            };
            self.running.insert(key, self.tasks.spawn(work.run(send.clone())));
        }
    }
}

fn address(state: &State, context: &Context) -> String {
    let own = state.view.sandbox().and_then(|sandbox| sandbox.ips.first().cloned());
    own.or(context.host.ips.first().cloned()).unwrap_or("127.0.0.1".into())
}

/// Liveness and startup end with the pod; readiness goes on until its containers are dead.
fn wanted(state: &State) -> Vec<(Instance, Container, Kind)> {
    let spec = spec(&state.pod);
    let sidecars = inits(&spec).iter().filter(|init| is_sidecar(init));
    let mut result = Vec::new();
    for container in spec.containers.iter().chain(sidecars) {
        let Some(instance) = state.view.newest(&container.name).filter(|one| one.run == Run::Running) else {
            continue;
        };
        let started = state.health_of(container, instance).started;
        for kind in Kind::ALL {
            let now = match kind {
                Kind::Startup => !started && state.ending.is_none(),
                Kind::Readiness => started,
                Kind::Liveness => started && state.ending.is_none(),
            };
            if now && kind.of(container).is_some() && find(&spec, &container.name).is_some() {
                result.push((instance.clone(), container.clone(), kind));
            }
        }
    }
    result
}

struct Work {
    context: Arc<Context>,
    pod: Arc<Pod>,
    pod_ip: String,
    container: Container,
    instance: Instance,
    probe: Probe,
    kind: Kind,
}

fn seconds(value: Option<i32>, default: u64) -> Duration {
    Duration::from_secs(value.and_then(|value| u64::try_from(value).ok()).unwrap_or(default))
}

impl Work {
    async fn run(self, send: UnboundedSender<Input>) {
        self.initial_delay().await;
        let period = seconds(self.probe.period_seconds, 10).max(Duration::from_secs(1));
        let mut interval = tokio::time::interval_at(Instant::now(), period);
        interval.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let mut thresholds = Thresholds::new(&self.probe);
        loop {
            interval.tick().await;
            let outcome = self.probe_once().await;
            if let Err(message) = &outcome {
                self.complain(message);
            }
            let Some(fine) = thresholds.count(outcome.is_ok()) else { continue };
            let verdict = self.kind.verdict(fine, self.probe.termination_grace_period_seconds);
            let Some(verdict) = verdict else { continue };
            let event = Event::Probe(self.instance.id.clone(), verdict);
            if send.send(Input::Event(event)).is_err() || matches!(verdict, Verdict::Started) {
                return;
            }
        }
    }

    /// The delay counts from the container's start, so a kubelet's restart does not prolong it.
    async fn initial_delay(&self) {
        let delay = seconds(self.probe.initial_delay_seconds, 0);
        let age = self.instance.started_at.map(|start| jiff::Timestamp::now().duration_since(start));
        let age = age.and_then(|age| Duration::try_from(age).ok()).unwrap_or_default();
        tokio::time::sleep(delay.saturating_sub(age)).await;
    }

    fn complain(&self, message: &str) {
        let kind = self.kind.title();
        let text = match &self.probe.exec {
            Some(_) if message.contains("timed out") => {
                format!("{kind} probe errored and resulted in unknown state: {message}")
            }
            _ => format!("{kind} probe failed: {message}"),
        };
        super::driver::tell(&self.context, &self.pod, Some(&self.container.name), true, "Unhealthy", text);
    }

    async fn probe_once(&self) -> Outcome {
        let limit = seconds(self.probe.timeout_seconds, 1).max(Duration::from_secs(1));
        let runtime = self.context.runtime.as_ref();
        if let Some(exec) = &self.probe.exec {
            let command = exec.command.clone().unwrap_or_default();
            let timeout = i64::try_from(limit.as_secs()).unwrap_or(1);
            return hooks::exec(runtime, &self.instance.id, &command, timeout).await;
        }
        if let Some(get) = &self.probe.http_get {
            return hooks::http_get(&self.container, &self.pod_ip, get, limit).await;
        }
        if let Some(tcp) = &self.probe.tcp_socket {
            let Some(port) = hooks::port(&self.container, &tcp.port) else {
                return Err("the probe's port is unknown".into());
            };
            let host = tcp.host.as_deref().filter(|host| !host.is_empty()).unwrap_or(&self.pod_ip);
            return hooks::tcp(host, port, limit).await;
        }
        Err("missing probe handler".into())
    }
}

/// Counts successes and failures in a row; answers when the opinion changes, and again on every further
/// threshold of failures so that a failing container is not forgotten.
struct Thresholds {
    success: i32,
    failure: i32,
    run: i32,
    last: Option<bool>,
    opinion: Option<bool>,
}

impl Thresholds {
    fn new(probe: &Probe) -> Self {
        Self {
            success: probe.success_threshold.unwrap_or(1).max(1),
            failure: probe.failure_threshold.unwrap_or(3).max(1),
            run: 0,
            last: None,
            opinion: None,
        }
    }

    fn count(&mut self, fine: bool) -> Option<bool> {
        self.run = if self.last == Some(fine) { self.run.saturating_add(1) } else { 1 };
        self.last = Some(fine);
        let threshold = if fine { self.success } else { self.failure };
        if self.run < threshold || (self.opinion == Some(fine) && fine) {
            return None;
        }
        self.opinion = Some(fine);
        self.run = if fine { self.run } else { 0 };
        Some(fine)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn thresholds_are_crossed() {
        let probe = Probe { success_threshold: Some(2), failure_threshold: Some(3), ..Probe::default() };
        let mut thresholds = Thresholds::new(&probe);
        let results = [true, true, true, false, false, true, false, false, false, true, true];
        let seen: Vec<Option<bool>> = results.into_iter().map(|fine| thresholds.count(fine)).collect();
        let expect = [None, Some(true), None, None, None, None, None, None, Some(false), None, Some(true)];
        assert_eq!(seen, expect);
    }
}
