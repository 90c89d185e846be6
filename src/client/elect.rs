//! Leader election over a Lease, with an epoch that fences the leader's writes.
//!
//! Keeps true: `lead` runs only while this process holds the Lease as far as it can know, and its future is
//! dropped before the Lease can have passed to somebody else by the holder's own clock; a clean stop gives the
//! Lease up, so that a standby takes over at once. What this cannot keep true (a paused process does not know
//! that it was paused) the API server does: it refuses writes that claim an epoch that is over.

use crate::{Client, Error};
use futures::StreamExt;
use jiff::Timestamp;
use k8s_openapi::{
    api::coordination::v1::{Lease, LeaseSpec},
    apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta},
};
use kube::{
    Api,
    api::PostParams,
    runtime::watcher::{self, Event},
};
use std::time::Duration;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

/// The terms of an election.
#[derive(Clone, Debug)]
pub struct ElectionConfig {
    /// Namespace of the Lease, usually `kube-system`.
    pub namespace: String,
    /// Name of the Lease, e.g. `kube-scheduler`.
    pub name: String,
    /// Unique name of this candidate: host name and something random.
    pub identity: String,
    /// A Lease that was not renewed for this long is free. At least one second; whole seconds.
    pub lease: Duration,
    /// A leader that could not renew for this long steps down; shorter than `lease`.
    pub renew: Duration,
    /// Time between renewals.
    pub retry: Duration,
}

impl ElectionConfig {
    /// The cluster's usual terms (lease 2 s, step down after 1.5 s, renew every 0.5 s) for component `name`.
    #[must_use]
    pub fn new(name: &str, host: &str) -> Self {
        Self {
            namespace: "kube-system".into(),
            name: name.into(),
            identity: format!("{host}_{:016x}", rand::random::<u64>()),
            lease: Duration::from_secs(2),
            renew: Duration::from_millis(1500),
            retry: Duration::from_millis(500),
        }
    }
}

/// Proof of one term of leadership.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Leadership {
    namespace: String,
    name: String,
    epoch: i32,
}

impl Leadership {
    /// The value of the epoch header: `NAMESPACE/NAME=N`.
    #[must_use]
    pub fn claim(&self) -> String {
        format!("{}/{}={}", self.namespace, self.name, self.epoch)
    }

    /// The number of this term; it grows with every change of holder.
    #[must_use]
    pub fn epoch(&self) -> i32 {
        self.epoch
    }
}

/// What a candidate knows of the Lease: its content, and when it was first seen like this (own clock).
#[derive(Clone, Debug)]
struct Observed {
    lease: Lease,
    since: Instant,
}

/// Takes part in the election until `stop`. Each time this candidate wins, `lead` is called with a fenced client
/// and runs until it returns, leadership is lost (its future is dropped), or `stop`. Returns after giving up a
/// held Lease. Keep caches outside `lead`, so that a standby is warm.
pub async fn elect<F, Fut>(
    config: ElectionConfig,
    client: Client,
    stop: CancellationToken,
    lead: F,
) -> Result<(), Error>
where
    F: Fn(Client, Leadership) -> Fut,
    Fut: Future<Output = ()>,
{
    // Renewals never wait behind the component's other requests.
    let api = Api::namespaced(client.separate()?.kube(), &config.namespace);
    let candidate = Candidate { config, api };
    while let Some(lease) = stop.run_until_cancelled(candidate.win()).await {
        let leadership = candidate.leadership(&lease);
        tracing::info!(claim = leadership.claim(), identity = candidate.config.identity, "became leader");
        let fenced = client.fenced(&leadership)?;
        let held = tokio::select! {
            () = stop.cancelled() => true,
            () = lead(fenced, leadership.clone()) => true,
            () = candidate.renew(lease) => false,
        };
        if held {
            candidate.release().await;
        } else {
            tracing::warn!(claim = leadership.claim(), "lost leadership, back to standby");
        }
    }
    Ok(())
}

struct Candidate {
    config: ElectionConfig,
    api: Api<Lease>,
}

impl Candidate {
    /// Waits until the Lease is ours. Follows the Lease by watch, so that a release is seen at once.
    async fn win(&self) -> Lease {
        let fields = format!("metadata.name={}", self.config.name);
        let events = watcher::watcher(self.api.clone(), watcher::Config::default().fields(&fields));
        tokio::pin!(events);
        let mut observed: Option<Observed> = None;
        let mut watch_pause = Instant::now();
        loop {
            let now = Instant::now();
            let wait = self.free_in(observed.as_ref(), now);
            if wait.is_zero() {
                match self.acquire(observed.as_ref().map(|o| &o.lease)).await {
                    Ok(lease) => return lease,
                    Err(error) => tracing::debug!(%error, "did not get the lease"),
                }
                // Whoever got it, the Lease says so; look at it before trying again.
                if let Ok(current) = self.api.get_opt(&self.config.name).await {
                    observe(&mut observed, current);
                }
            }
            let pause = if wait.is_zero() { self.config.retry } else { wait };
            tokio::select! {
                () = tokio::time::sleep(pause) => {}
                event = events.next(), if watch_pause <= Instant::now() => match event {
                    Some(Ok(Event::Apply(lease) | Event::InitApply(lease))) => observe(&mut observed, Some(lease)),
                    Some(Ok(Event::Delete(_))) => observed = None,
                    Some(Ok(_)) => {}
                    Some(Err(_)) | None => watch_pause = Instant::now() + self.config.retry,
                }
            }
        }
    }

    /// How long the Lease is still somebody else's, by this process's own clock.
    fn free_in(&self, observed: Option<&Observed>, now: Instant) -> Duration {
        let Some(observed) = observed else { return Duration::ZERO };
        let spec = observed.lease.spec.as_ref();
        let holder = spec.and_then(|s| s.holder_identity.as_deref()).unwrap_or_default();
        if holder.is_empty() || holder == self.config.identity {
            return Duration::ZERO;
        }
        let seconds = spec.and_then(|s| s.lease_duration_seconds).unwrap_or_default();
        let term = Duration::from_secs(u64::try_from(seconds).unwrap_or_default());
        (observed.since + term).saturating_duration_since(now)
    }

    async fn acquire(&self, current: Option<&Lease>) -> kube::Result<Lease> {
        let now = Some(MicroTime(Timestamp::now()));
        let spec = LeaseSpec {
            holder_identity: Some(self.config.identity.clone()),
            lease_duration_seconds: Some(
                i32::try_from(self.config.lease.as_secs().max(1)).unwrap_or(i32::MAX),
            ),
            acquire_time: now.clone(),
            renew_time: now,
            lease_transitions: current.and_then(|l| l.spec.as_ref()?.lease_transitions).map(|n| n + 1),
            ..Default::default()
        };
        let post = PostParams::default();
        match current {
            Some(current) => {
                let lease = Lease { metadata: current.metadata.clone(), spec: Some(spec) };
                self.api.replace(&self.config.name, &post, &lease).await
            }
            None => {
                let name = Some(self.config.name.clone());
                let metadata = ObjectMeta { name, ..Default::default() };
                self.api.create(&post, &Lease { metadata, spec: Some(spec) }).await
            }
        }
    }

    /// Renews until it could not for the renew deadline, or somebody else took the Lease.
    async fn renew(&self, mut lease: Lease) {
        let mut renewed = Instant::now();
        loop {
            tokio::time::sleep(self.config.retry).await;
            let started = Instant::now();
            let Some(left) = (renewed + self.config.renew).checked_duration_since(started) else { return };
            if let Some(spec) = lease.spec.as_mut() {
                spec.renew_time = Some(MicroTime(Timestamp::now()));
            }
            let post = PostParams::default();
            let attempt = self.api.replace(&self.config.name, &post, &lease);
            // One API server that died in the middle of a request must not cost the whole term.
            match tokio::time::timeout(left.min(self.config.retry), attempt).await {
                Ok(Ok(current)) => (lease, renewed) = (current, started),
                // Not ours any more, or an earlier renewal whose answer was lost did arrive.
                Ok(Err(kube::Error::Api(status))) if status.code == 409 => {
                    match tokio::time::timeout(left, self.api.get(&self.config.name)).await {
                        Ok(Ok(current)) if self.holds(&current) => lease = current,
                        Ok(Ok(_)) => return,
                        Ok(Err(_)) | Err(_) => {}
                    }
                }
                Ok(Err(error)) => tracing::debug!(%error, "cannot renew the lease yet"),
                Err(_) => tracing::debug!("renewing the lease takes too long"),
            }
        }
    }

    /// Gives the Lease up, as a courtesy to the standbys: errors do not matter, it runs out by itself.
    async fn release(&self) {
        let attempt = async {
            let mut lease = self.api.get(&self.config.name).await?;
            if self.holds(&lease)
                && let Some(spec) = lease.spec.as_mut()
            {
                spec.holder_identity = Some(String::new());
                spec.lease_duration_seconds = Some(1);
                spec.renew_time = Some(MicroTime(Timestamp::now()));
                self.api.replace(&self.config.name, &PostParams::default(), &lease).await?;
            }
            Ok::<_, kube::Error>(())
        };
        match tokio::time::timeout(self.config.lease, attempt).await {
            Ok(Ok(())) => tracing::info!(lease = self.config.name, "released the lease"),
            Ok(Err(error)) => tracing::debug!(%error, "could not release the lease"),
            Err(_) => tracing::debug!("could not release the lease in time"),
        }
    }

    fn holds(&self, lease: &Lease) -> bool {
        let holder = lease.spec.as_ref().and_then(|s| s.holder_identity.as_deref());
        holder == Some(self.config.identity.as_str())
    }

    fn leadership(&self, lease: &Lease) -> Leadership {
        Leadership {
            namespace: self.config.namespace.clone(),
            name: self.config.name.clone(),
            epoch: lease.spec.as_ref().and_then(|s| s.lease_transitions).unwrap_or_default(),
        }
    }
}

/// Takes in the Lease as it is now; its age counts from when it was first seen like this.
fn observe(observed: &mut Option<Observed>, lease: Option<Lease>) {
    let Some(lease) = lease else {
        *observed = None;
        return;
    };
    let version = |l: &Lease| l.metadata.resource_version.clone();
    if observed.as_ref().is_none_or(|o| version(&o.lease) != version(&lease)) {
        *observed = Some(Observed { lease, since: Instant::now() });
    }
}
