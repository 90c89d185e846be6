//! The only doer: work queues, workers, retries, and waiting for one's own writes.
//!
//! Keeps true: one key of a controller is worked on by one worker at a time, and not before the stores show what
//! the last pass wrote (so a stale cache never makes anything twice); writes go through the leader's fenced client
//! only; a failed pass comes back after a delay that doubles. Leaves to others: every decision.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError, RwLock},
    time::Duration,
};

use client::{Clock, WorkQueue};
use tokio::{task::JoinSet, time::Instant};

use crate::{
    api::{Api, Failure, Wait},
    controller::{Action, Answer, Context, Controller, Key, Plan, Question},
    metrics::{Metrics, Timer},
    store::{Change, Delta, Stores, Watched},
};

/// How soon to see again whether own writes have arrived; their events usually come first.
const PEEK: Duration = Duration::from_millis(20);
/// After this long a write is taken as seen: its object may have come and gone between two lists.
const PATIENCE: Duration = Duration::from_secs(30);
/// Rounds of questions in one pass.
const ROUNDS: usize = 16;

/// A controller that takes part.
pub(crate) struct Member {
    pub(crate) name: &'static str,
    pub(crate) workers: usize,
    pub(crate) controller: Arc<dyn Controller>,
}

/// What lasts over terms: stores and controllers. Queues last for a term.
pub(crate) struct Runner {
    pub(crate) stores: Stores,
    members: Vec<Member>,
    clock: Arc<dyn Clock>,
    metrics: Metrics,
    term: RwLock<Option<Vec<WorkQueue<Key>>>>,
}

impl Runner {
    pub(crate) fn new(members: Vec<Member>, clock: Arc<dyn Clock>, metrics: Metrics) -> Self {
        Self { stores: Stores::default(), members, clock, metrics, term: RwLock::new(None) }
    }

    /// Takes in a change of a kind with a store.
    pub(crate) fn take_in<K: Watched>(&self, change: client::Change<K>) {
        let delta = match change.new {
            Some(new) => Delta { old: K::store(&self.stores).put(new.clone()), new: Some(new) },
            None => {
                let Some(gone) = change.old else { return };
                K::store(&self.stores).remove(&gone);
                Delta { old: Some(gone), new: None }
            }
        };
        self.dispatch(&K::change(delta));
    }

    /// Tells every controller of a change; wakes what it concerns while leading.
    pub(crate) fn dispatch(&self, change: &Change) {
        let now = self.clock.now();
        let term = self.term.read().unwrap_or_else(PoisonError::into_inner);
        for (at, member) in self.members.iter().enumerate() {
            member.controller.observe(&self.stores, change, now);
            let keys = member.controller.wake(&self.stores, change);
            let Some(queue) = term.as_ref().and_then(|t| t.get(at)) else { continue };
            for key in keys {
                self.metrics.added(member.name);
                queue.add(key);
            }
            self.metrics.depth(member.name, queue.len());
        }
    }

    /// Works until dropped. The stores must have been filled.
    pub(crate) async fn lead(self: Arc<Self>, client: client::Client, host: String) {
        let queues: Vec<WorkQueue<Key>> = self.members.iter().map(|_| WorkQueue::default()).collect();
        let mut tasks = JoinSet::new();
        // First the queues, then everything there is: a change in between is seen twice, never not at all.
        let term = Term::begin(&self, queues.clone());
        let now = self.clock.now();
        for (member, queue) in self.members.iter().zip(&queues) {
            member.controller.begin(&self.stores, now);
            member.controller.keys(&self.stores).into_iter().for_each(|key| queue.add(key));
            let recorder = client::Recorder::new(&client, member.name, &host, &mut tasks);
            let desk = Arc::new(Desk {
                runner: self.clone(),
                name: member.name,
                controller: member.controller.clone(),
                queue: queue.clone(),
                api: Api::new(client.kube(), recorder),
                memory: Mutex::default(),
            });
            for _ in 0..member.workers {
                tasks.spawn(desk.clone().work());
            }
        }
        while let Some(ended) = tasks.join_next().await {
            if let Err(error) = ended {
                tracing::error!(%error, "a worker ended");
            }
        }
        drop(term);
    }
}

/// While it lives, changes wake keys.
struct Term<'a>(&'a Runner);

impl<'a> Term<'a> {
    fn begin(runner: &'a Runner, queues: Vec<WorkQueue<Key>>) -> Self {
        *runner.term.write().unwrap_or_else(PoisonError::into_inner) = Some(queues);
        Self(runner)
    }
}

impl Drop for Term<'_> {
    fn drop(&mut self) {
        *self.0.term.write().unwrap_or_else(PoisonError::into_inner) = None;
    }
}

/// What is remembered of a key between passes.
struct Memory {
    waits: Vec<Wait>,
    until: Instant,
    failure: Option<String>,
}

/// One controller's workers' place during a term.
struct Desk {
    runner: Arc<Runner>,
    name: &'static str,
    controller: Arc<dyn Controller>,
    queue: WorkQueue<Key>,
    api: Api,
    memory: Mutex<HashMap<Key, Memory>>,
}

impl Desk {
    async fn work(self: Arc<Self>) {
        loop {
            let key = self.queue.get().await;
            let timer = self.runner.metrics.work(self.name);
            self.one(&key, timer).await;
            self.queue.done(&key);
            self.runner.metrics.depth(self.name, self.queue.len());
        }
    }

    async fn one(&self, key: &Key, timer: Timer<'_>) {
        if !self.has_seen_own_writes(key) {
            return self.queue.add_after(key.clone(), PEEK);
        }
        let failure = self.remembered(key);
        let plan = self.decide(key, failure.as_deref()).await;
        let (outcome, waits) = self.perform(plan.actions).await;
        let message = outcome.as_ref().err().map(Failure::message);
        self.remember(key, waits, message);
        match outcome {
            Ok(()) => {
                self.queue.forget(key);
                if let Some(after) = plan.requeue {
                    self.queue.add_after(key.clone(), after);
                }
            }
            Err(error) => {
                // A conflict means that somebody was faster; the newer object is on its way. In a namespace that is
                // going there is nothing to be done.
                if error.code() == 409 || error.is_terminating() {
                    tracing::debug!(controller = self.name, %key, %error, "trying again");
                } else {
                    tracing::warn!(controller = self.name, %key, error = &error as &dyn std::error::Error, "trying again");
                }
                self.runner.metrics.retried(self.name);
                self.queue.add_rate_limited(key.clone());
            }
        }
        drop(timer);
    }

    /// Calls the reconciler until it asks nothing more.
    async fn decide(&self, key: &Key, failure: Option<&str>) -> Plan {
        let mut answers: HashMap<Question, Answer> = HashMap::new();
        for _ in 0..ROUNDS {
            let context = Context {
                stores: &self.runner.stores,
                now: self.runner.clock.now(),
                failure,
                answers: &answers,
            };
            let plan = self.controller.reconcile(&context, key);
            if plan.questions.is_empty() {
                return plan;
            }
            answers.extend(self.api.ask(plan.questions).await);
        }
        tracing::error!(controller = self.name, %key, "asked too many questions; looking again later");
        Plan { requeue: Some(PATIENCE), ..Plan::none() }
    }

    async fn perform(&self, actions: Vec<Action>) -> (Result<(), Failure>, Vec<Wait>) {
        let mut waits = Vec::new();
        for action in actions {
            match self.api.perform(action).await {
                Ok(more) => waits.extend(more),
                Err(failure) => return (Err(failure), waits),
            }
        }
        (Ok(()), waits)
    }

    fn has_seen_own_writes(&self, key: &Key) -> bool {
        let mut memory = self.memory.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(known) = memory.get_mut(key) else { return true };
        let stores = &self.runner.stores;
        known.waits.retain(|wait| !is_seen(stores, wait));
        known.waits.is_empty() || known.until <= Instant::now()
    }

    fn remembered(&self, key: &Key) -> Option<String> {
        self.memory.lock().unwrap_or_else(PoisonError::into_inner).get(key)?.failure.clone()
    }

    fn remember(&self, key: &Key, waits: Vec<Wait>, failure: Option<String>) {
        let mut memory = self.memory.lock().unwrap_or_else(PoisonError::into_inner);
        if waits.is_empty() && failure.is_none() {
            memory.remove(key);
        } else {
            memory.insert(key.clone(), Memory { waits, until: Instant::now() + PATIENCE, failure });
        }
    }
}

fn is_seen(stores: &Stores, wait: &Wait) -> bool {
    match wait {
        Wait::Version(resource, key, version) => stores.has_seen(resource, key, *version),
        Wait::Leaving(resource, key, uid) => stores.is_leaving(resource, key, uid),
    }
}
