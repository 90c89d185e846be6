//! Clients that watch: witnesses, which follow everything and resume where they were cut off, and visitors, which
//! come for a while, at whatever revision, several on one stream.
//!
//! Keeps true: every message is recorded as it came, under its own watch; a notification for the whole stream is
//! recorded for every watch that the stream had then.

use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::sync::atomic::Ordering;
use std::time::Duration;

use etcd_client::{Client, EventType, WatchOptions, WatchResponse, WatchStream};
use rand::Rng;
use rand::rngs::StdRng;
use tokio::time::{Instant, MissedTickBehavior, interval, sleep, timeout, timeout_at};

use super::{Shared, client, mix};
use crate::history::{Event, Response, Span, Watch};

/// How far from the newest revision a visitor begins.
const OFFSET: i64 = 100;
/// How often a witness asks how far it has come.
const PROGRESS: Duration = Duration::from_millis(100);
/// How long beginning to watch may take.
const BEGIN: Duration = Duration::from_millis(500);
/// How long to wait before beginning again when that did not work.
const AGAIN: Duration = Duration::from_millis(20);
/// The number under which a server answers for the whole stream.
const WHOLE_STREAM: i64 = -1;

/// Watches on one stream, by the numbers that were asked for.
struct Session<'a> {
    shared: &'a Shared,
    watches: BTreeMap<i64, Watch>,
    stream: WatchStream,
}

impl<'a> Session<'a> {
    /// Asks for watches on a new stream of a member. The first number is 1.
    async fn open(shared: &'a Shared, watches: Vec<Watch>) -> Option<Self> {
        let member = watches.first()?.member;
        let begin = async {
            let mut client: Client = client::connect(&shared.urls[member]).await.ok()?;
            let mut watches: BTreeMap<i64, Watch> = (1..).zip(watches).collect();
            let mut stream: Option<WatchStream> = None;
            for (id, watch) in &mut watches {
                watch.invoked = shared.clock.now();
                let (from, options) = (watch.span.from.clone(), Some(options(watch).with_watch_id(*id)));
                match &mut stream {
                    Some(stream) => stream.watch(from, options).await.ok()?,
                    None => stream = Some(client.watch(from, options).await.ok()?),
                }
            }
            Some(Self { shared, watches, stream: stream? })
        };
        timeout(BEGIN, begin).await.ok().flatten()
    }

    /// Records what comes until `done` says so, the time is over, or the stream ends.
    async fn follow(
        &mut self,
        until: Instant,
        progress: Option<Duration>,
        mut done: impl FnMut(&BTreeMap<i64, Watch>) -> ControlFlow<()>,
    ) {
        let mut tick = interval(progress.unwrap_or(Duration::from_secs(3600)));
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        tick.tick().await;
        loop {
            tokio::select! {
                message = self.stream.message() => match message {
                    Ok(Some(message)) => self.record(&message),
                    _ => return,
                },
                _ = tick.tick() => {
                    if self.stream.request_progress().await.is_err() {
                        return;
                    }
                }
                () = tokio::time::sleep_until(until) => return,
            }
            let open = self.watches.values().any(|w| !w.responses.last().is_some_and(|r| r.canceled));
            if !open || done(&self.watches).is_break() {
                return;
            }
        }
    }

    fn record(&mut self, message: &WatchResponse) {
        let response = self.response(message);
        self.shared.events.fetch_add(response.events.len(), Ordering::Relaxed);
        if message.watch_id() == WHOLE_STREAM {
            let created = |watch: &&mut Watch| watch.responses.first().is_some_and(|r| r.created);
            let open = |watch: &&mut Watch| watch.responses.last().is_some_and(|r| !r.canceled);
            for watch in self.watches.values_mut().filter(created).filter(open) {
                watch.responses.push(response.clone());
            }
        } else if let Some(watch) = self.watches.get_mut(&message.watch_id()) {
            watch.responses.push(response);
        }
    }

    fn response(&self, message: &WatchResponse) -> Response {
        let event = |event: &etcd_client::Event| Event {
            kv: event.kv().map(client::kv).unwrap_or_default(),
            deleted: event.event_type() == EventType::Delete,
            prev: event.prev_kv().map(client::kv),
        };
        Response {
            at: self.shared.clock.now(),
            revision: client::at(message.header()),
            created: message.created(),
            canceled: message.canceled(),
            compacted: message.compact_revision(),
            events: message.events().iter().map(event).collect(),
        }
    }
}

fn options(watch: &Watch) -> WatchOptions {
    let options = WatchOptions::new().with_start_revision(watch.start).with_progress_notify();
    let options = if watch.prev_kv { options.with_prev_key() } else { options };
    if watch.span.to.is_empty() { options } else { options.with_range(watch.span.to.as_str()) }
}

fn watch((client, member): (usize, usize), span: Span, start: i64, prev_kv: bool) -> Watch {
    Watch { client, member, invoked: 0, span, start, prev_kv, responses: Vec::new(), until: 0 }
}

/// The last revision that a message tells of, if any.
fn told(response: &Response) -> Option<i64> {
    let events = response.events.iter().map(|event| event.kv.modified);
    if response.is_progress() { Some(response.revision) } else { events.max() }
}

/// The first revision that a watch has not told of.
fn next(watch: &Watch) -> i64 {
    let last = watch.responses.iter().filter_map(told).max();
    last.map_or(watch.start, |last| last + 1).max(watch.start)
}

/// Follows all keys at one member from the first revision to the last, over as many watches as it takes.
pub(super) async fn witness(shared: &Shared, who: (usize, usize), progress: bool) -> Vec<Watch> {
    let progress = progress.then_some(PROGRESS);
    let mut watches = Vec::new();
    let mut start = 1;
    let mut last = shared.last.subscribe();
    loop {
        let (end, deadline) = *last.borrow_and_update();
        if end > 0 && (start > end || Instant::now() > deadline) {
            return watches;
        }
        let wanted = vec![watch(who, mix::all_keys(), start, true)];
        let Some(mut session) = Session::open(shared, wanted).await else {
            sleep(AGAIN).await;
            continue;
        };
        let mut seen = start - 1;
        let follow = session.follow(Instant::now() + Duration::from_secs(3600), progress, |watches| {
            let latest = watches.values().filter_map(|watch| told(watch.responses.last()?)).max();
            seen = latest.unwrap_or_default().max(seen);
            shared.witnessed.fetch_max(seen, Ordering::Relaxed);
            let (end, _) = *shared.last.borrow();
            if end > 0 && seen >= end { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
        });
        tokio::select! {
            () = follow => {}
            // When the end is known it is waited for, but not for ever.
            () = too_late(&mut last) => {}
        }
        for mut watch in session.watches.into_values() {
            start = next(&watch);
            let ended = watch.responses.last().is_some_and(|r| r.canceled);
            if let Some(compacted) = watch.responses.last().map(|r| r.compacted).filter(|c| *c > 0) {
                start = start.max(compacted);
            }
            let (end, deadline) = *last.borrow();
            let waited = start > end || (Instant::now() > deadline && !watch.responses.is_empty() && !ended);
            watch.until = if end > 0 && waited { end } else { 0 };
            watches.push(watch);
        }
    }
}

/// Returns when the time to reach the end is over.
async fn too_late(last: &mut tokio::sync::watch::Receiver<(i64, Instant)>) {
    loop {
        let (end, deadline) = *last.borrow_and_update();
        if end == 0 {
            // The sender lives as long as the watchers.
            let _ = last.changed().await;
        } else if timeout_at(deadline, last.changed()).await.is_err() {
            return;
        }
    }
}

/// Watches this and that for a while, again and again, until the workload stops.
pub(super) async fn visitor(
    shared: &Shared,
    who: (usize, usize),
    progress: bool,
    mut random: StdRng,
) -> Vec<Watch> {
    let mut watches = Vec::new();
    let mut stop = shared.stop.subscribe();
    while !*stop.borrow_and_update() {
        let newest = shared.newest.load(Ordering::Relaxed);
        let count = random.random_range(1..=3);
        let wanted: Vec<Watch> = (0..count).map(|_| visit(&mut random, who, newest)).collect();
        let Some(mut session) = Session::open(shared, wanted).await else {
            sleep(AGAIN).await;
            continue;
        };
        let stay = Duration::from_millis(random.random_range(100..700));
        let progress =
            (progress && random.random()).then(|| Duration::from_millis(random.random_range(5..60)));
        session.follow(Instant::now() + stay, progress, |_| ControlFlow::Continue(())).await;
        watches.extend(session.watches.into_values().filter(|watch| !watch.responses.is_empty()));
    }
    watches
}

fn visit(random: &mut StdRng, who: (usize, usize), newest: i64) -> Watch {
    let start = match random.random_range(0..6) {
        0 => 0,
        _ => (newest + random.random_range(-OFFSET..=OFFSET)).max(1),
    };
    watch(who, mix::some_keys(random), start, random.random())
}
