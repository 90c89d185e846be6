//! Clients over the wire, and the history of what they were told.
//!
//! Keeps true: clients run outside the store's processes and speak etcd's protocol with a library that this project
//! did not write; each client asks one thing at a time and records it; what was compacted has been seen by a
//! witness before, so that every revision is known to the checkers. Rates are paced, not awaited: the pauses of
//! clients are load, nothing relies on their length. Faults are done by `faults`, verdicts are left to `invariants`.

mod client;
pub mod mix;
mod watcher;

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicUsize, Ordering};
use std::time::Duration;

use etcd_client::Client;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep};

use crate::history::{Call, Clock, Happening, History, Mark, Request, Watch};
use crate::{Error, Result};
use mix::{Mind, Mix};

/// Clients of each member that write and read, by the mix.
const WORKERS: usize = 3;
/// Clients of each member that only read, and wait long for it: their requests lie at a member that is paused.
const READERS: usize = 4;
/// Clients of each member that come and go with watches.
const VISITORS: usize = 2;
/// How long readers wait for an answer.
const LONG: Duration = Duration::from_secs(8);
/// How long the last requests and watches may take.
const END: Duration = Duration::from_secs(60);
/// How long to wait before looking again.
const LOOK: Duration = Duration::from_millis(10);

/// What all clients of a workload share.
struct Shared {
    clock: Clock,
    urls: Vec<String>,
    /// The newest revision that a client was told.
    newest: AtomicI64,
    /// Everything up to this revision has been seen by a witness.
    witnessed: AtomicI64,
    /// Writes that were acknowledged.
    written: AtomicUsize,
    /// Requests that were answered.
    answered: AtomicUsize,
    /// Events that watches had.
    events: AtomicUsize,
    /// No more requests.
    stop: watch::Sender<bool>,
    /// The last revision, once it is known, and until when witnesses may take to see it.
    last: watch::Sender<(i64, Instant)>,
}

/// How much has happened so far.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Counts {
    /// Writes that were acknowledged.
    pub written: usize,
    /// Requests that were answered.
    pub answered: usize,
    /// Events that watches had.
    pub events: usize,
}

/// Clients at work.
pub struct Workload {
    shared: Arc<Shared>,
    calls: JoinSet<Vec<Call>>,
    watches: JoinSet<Vec<Watch>>,
    marks: Vec<Mark>,
}

impl Workload {
    /// Starts the clients of a store's members.
    pub fn start(urls: Vec<String>, mix: Mix, seed: u64) -> Self {
        let members = urls.len();
        let shared = Arc::new(Shared {
            clock: Clock::start(),
            urls,
            newest: AtomicI64::new(1),
            witnessed: AtomicI64::new(0),
            written: AtomicUsize::new(0),
            answered: AtomicUsize::new(0),
            events: AtomicUsize::new(0),
            stop: watch::Sender::new(false),
            last: watch::Sender::new((0, Instant::now())),
        });
        let mut this = Self { shared, calls: JoinSet::new(), watches: JoinSet::new(), marks: Vec::new() };
        let mut seeds = StdRng::seed_from_u64(seed);
        let mut clients = 0..;
        let mut next =
            |member: usize| (clients.next().unwrap_or_default(), member, StdRng::from_rng(&mut seeds));
        for member in 0..members {
            (0..WORKERS).for_each(|_| this.worker(mix, next(member)));
            (0..READERS).for_each(|_| this.reader(mix.lies, next(member)));
            (0..VISITORS).for_each(|_| this.visitor(mix.progress, next(member)));
            this.witness(mix.progress, next(member));
        }
        this.compactor(next(0));
        this
    }

    fn worker(&mut self, mix: Mix, (client, member, random): (usize, usize, StdRng)) {
        let shared = self.shared.clone();
        self.calls.spawn(async move {
            let worker = Asker::new(&shared, client, member);
            worker.work(Mind::new(client, mix, random), 2..12, 200..500).await
        });
    }

    fn reader(&mut self, lies: bool, (client, member, random): (usize, usize, StdRng)) {
        let shared = self.shared.clone();
        let long = u64::try_from(LONG.as_millis()).unwrap_or(u64::MAX);
        self.calls.spawn(async move {
            let reader = Asker { stays: true, lies, ..Asker::new(&shared, client, member) };
            reader.work(Mind::new(client, mix::READS, random), 1..300, long..long + 1).await
        });
    }

    fn compactor(&mut self, (client, member, random): (usize, usize, StdRng)) {
        let shared = self.shared.clone();
        self.calls.spawn(async move { Asker::new(&shared, client, member).compact(random).await });
    }

    fn visitor(&mut self, progress: bool, (client, member, random): (usize, usize, StdRng)) {
        let shared = self.shared.clone();
        self.watches
            .spawn(async move { watcher::visitor(&shared, (client, member), progress, random).await });
    }

    fn witness(&mut self, progress: bool, (client, member, _): (usize, usize, StdRng)) {
        let shared = self.shared.clone();
        self.watches.spawn(async move { watcher::witness(&shared, (client, member), progress).await });
    }

    /// How much has happened so far.
    pub fn counts(&self) -> Counts {
        let count = |counter: &AtomicUsize| counter.load(Ordering::Relaxed);
        let Shared { written, answered, events, .. } = &*self.shared;
        Counts { written: count(written), answered: count(answered), events: count(events) }
    }

    /// The newest revision that a client was told.
    pub fn newest(&self) -> i64 {
        self.shared.newest.load(Ordering::Relaxed)
    }

    /// Waits until so many more writes have been acknowledged, and twice as many requests answered.
    pub async fn writes(&self, more: usize) -> Result<()> {
        let (before, start) = (self.counts(), Instant::now());
        loop {
            let Counts { written, answered, .. } = self.counts();
            let (written, answered) = (written - before.written, answered - before.answered);
            if written >= more && answered >= 2 * more {
                return Ok(());
            }
            if start.elapsed() > END {
                let what = format!("{more} acknowledged writes among {} answers", 2 * more);
                let hint = format!("there were {written} among {answered}; see the members' logs");
                return Err(Error::Late { what, seconds: END.as_secs(), hint });
            }
            sleep(LOOK).await;
        }
    }

    /// Notes that something is done to a member, before it is done.
    pub fn mark(&mut self, member: usize, what: Happening) {
        self.marks.push(Mark { at: self.shared.clock.now(), member, what });
    }

    /// Stops the clients; then every member must take a write and show it to its readers, and witnesses must see
    /// everything. Gives the history, and the last revision.
    pub async fn finish(mut self) -> Result<(History, i64)> {
        self.shared.stop.send_replace(true);
        let mut calls: Vec<Call> = Vec::new();
        while let Some(done) = self.calls.join_next().await {
            calls.extend(done.map_err(Error::api("wait for a client"))?);
        }
        let last = self.last_calls(&mut calls).await?;
        self.shared.last.send_replace((last, Instant::now() + END));
        let mut watches = Vec::new();
        while let Some(done) = self.watches.join_next().await {
            watches.extend(done.map_err(Error::api("wait for a watcher"))?);
        }
        Ok((History { calls, watches, marks: self.marks }, last))
    }

    /// A write at each member, then reads at each. Gives the revision of the last write.
    async fn last_calls(&self, calls: &mut Vec<Call>) -> Result<i64> {
        let members = 0..self.shared.urls.len();
        let mut client = calls.iter().map(|call| call.client).max().unwrap_or_default();
        let mut ask = async |member, request| {
            client += 1;
            let mut asker = Asker { stays: true, ..Asker::new(&self.shared, client, member) };
            let call = asker.ask(request, END).await;
            calls.push(call.clone());
            call
        };
        let mut last = 0;
        for member in members.clone() {
            let put = ask(member, Request::Put { key: "k0".into(), value: format!("last.{member}") }).await;
            let Some(revision) = put.answer.revision() else {
                let action = format!("write at member {member} after all faults");
                return Err(Error::Api { action, source: format!("{:?}", put.answer).into() });
            };
            last = last.max(revision);
        }
        for member in members {
            for serializable in [false, true] {
                let span = mix::all_keys();
                ask(member, Request::Range { span, limit: 0, revision: 0, serializable }).await;
            }
        }
        Ok(last)
    }
}

/// The same read as the member has it.
fn stale(request: &Request) -> Request {
    match request.clone() {
        Request::Range { span, limit, revision, .. } => {
            Request::Range { span, limit, revision, serializable: true }
        }
        other => other,
    }
}

/// A client that asks one thing after the other.
struct Asker<'a> {
    shared: &'a Shared,
    client: usize,
    member: usize,
    connection: Option<Client>,
    /// Whether it stays with a member that cannot be reached.
    stays: bool,
    /// Whether it records reads as linearizable that it did not ask for as such.
    lies: bool,
    calls: Vec<Call>,
}

impl<'a> Asker<'a> {
    fn new(shared: &'a Shared, client: usize, member: usize) -> Self {
        Self { shared, client, member, connection: None, stays: false, lies: false, calls: Vec::new() }
    }

    async fn connection(&mut self) -> Result<&mut Client> {
        match self.connection.take() {
            Some(connection) => Ok(self.connection.insert(connection)),
            None => {
                let connection = Box::pin(client::connect(&self.shared.urls[self.member])).await?;
                Ok(self.connection.insert(connection))
            }
        }
    }

    async fn ask(&mut self, request: Request, patience: Duration) -> Call {
        let (shared, member) = (self.shared, self.member);
        let sent = if self.lies { stale(&request) } else { request.clone() };
        let invoked = shared.clock.now();
        let answer = match self.connection().await {
            Ok(connection) => Box::pin(client::ask(connection, &sent, patience)).await,
            Err(error) => crate::history::Answer::Refused { text: error.to_string() },
        };
        let returned = shared.clock.now();
        if let Some(revision) = answer.revision() {
            shared.newest.fetch_max(revision, Ordering::Relaxed);
            shared.answered.fetch_add(1, Ordering::Relaxed);
            shared.written.fetch_add(usize::from(answer.wrote()), Ordering::Relaxed);
        }
        if client::unreachable(&answer) {
            self.connection = None;
            self.member = if self.stays { member } else { (member + 1) % shared.urls.len() };
        }
        let call = Call { client: self.client, member, invoked, returned, request, answer };
        self.calls.push(call.clone());
        call
    }

    /// Asks what comes to its mind until the workload stops. Pauses and patience are milliseconds.
    async fn work(
        mut self,
        mut mind: Mind,
        pause: std::ops::Range<u64>,
        patience: std::ops::Range<u64>,
    ) -> Vec<Call> {
        let mut stop = self.shared.stop.subscribe();
        while !*stop.borrow_and_update() {
            let request = mind.next(self.shared.newest.load(Ordering::Relaxed));
            let patience = Duration::from_millis(mind.random().random_range(patience.clone()));
            let call = self.ask(request, patience).await;
            mind.learn(&call);
            let pause = Duration::from_millis(mind.random().random_range(pause.clone()));
            let _ = tokio::time::timeout(pause, stop.changed()).await;
        }
        self.calls
    }

    /// Compacts now and then, never what no witness has seen.
    async fn compact(mut self, mut random: StdRng) -> Vec<Call> {
        let mut stop = self.shared.stop.subscribe();
        let mut compacted = 0;
        while !*stop.borrow_and_update() {
            let pause = Duration::from_millis(random.random_range(100..200));
            let _ = tokio::time::timeout(pause, stop.changed()).await;
            let revision = self.shared.witnessed.load(Ordering::Relaxed) - random.random_range(0..30);
            if revision > compacted {
                self.member = random.random_range(0..self.shared.urls.len());
                self.connection = None;
                self.ask(Request::Compact { revision }, Duration::from_millis(500)).await;
                compacted = revision;
            }
        }
        self.calls
    }
}
