//! The pods that wait: ready to be tried, waiting out a back-off, or until something happens that may help them.
//!
//! Keeps true: a pod is in exactly one place from when it is added until it is removed or done, so none is ever
//! lost; among the ready, the more important goes first, then the one that waited longer; a pod that failed waits
//! 1 s, then 2, 4, 8, at most 10 s; what happened while a pod was being tried counts as if it came after. Time is
//! a parameter. Knows neither nodes nor the API.

use std::cmp::Reverse;
use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Duration;

use crate::event::Event;
use crate::plugins::ROWS;
use crate::pod::PodInfo;

const FIRST_BACKOFF: Duration = Duration::from_secs(1);
const LAST_BACKOFF: Duration = Duration::from_secs(10);
/// Nothing is left waiting for longer than this without another try.
const FLUSH_AFTER: Duration = Duration::from_secs(5 * 60);

/// Order among the ready: priority, time of arrival, then number.
type Rank = (Reverse<i32>, Duration, u64);

/// Where a pod is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Place {
    Ready(Rank),
    /// Until this time.
    Backoff(Duration),
    /// Since this time, until something helps.
    Waiting(Duration),
    /// Held back by a scheduling gate.
    Gated,
    /// Being decided about or bound.
    InFlight,
}

#[derive(Clone, Debug)]
struct Entry {
    pod: Arc<PodInfo>,
    place: Place,
    attempts: u32,
    /// When it came first.
    added: Duration,
    /// Earliest next try.
    not_before: Duration,
    /// Rules that refused it in the last try.
    refused_by: BTreeSet<&'static str>,
    number: u64,
    /// Something that may help happened while it was in flight.
    helped: bool,
}

/// How many pods are where.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Lengths {
    /// Ready to be tried.
    pub active: usize,
    /// Waiting out a back-off.
    pub backoff: usize,
    /// Waiting for something to help.
    pub unschedulable: usize,
    /// Held back by a gate.
    pub gated: usize,
}

/// The queue. Times are since an origin of the caller's choice.
#[derive(Debug, Default)]
pub struct Queue {
    pods: HashMap<String, Entry>,
    ready: BTreeSet<(Rank, String)>,
    backoff: BTreeSet<(Duration, String)>,
    numbers: u64,
}

impl Queue {
    /// A pod that is not bound came or changed.
    pub fn set(&mut self, pod: Arc<PodInfo>, now: Duration) {
        let uid = pod.uid().to_owned();
        let Some(entry) = self.pods.get_mut(&uid) else { return self.insert(uid, pod, now) };
        let old = std::mem::replace(&mut entry.pod, pod.clone());
        if !old.schedules_differently(&pod) {
            return;
        }
        match entry.place {
            Place::InFlight => entry.helped = true,
            Place::Backoff(_) if !pod.gated() => {}
            _ if pod.gated() => self.place(&uid, Place::Gated),
            _ => self.requeue(&uid, now),
        }
    }

    fn insert(&mut self, uid: String, pod: Arc<PodInfo>, now: Duration) {
        self.numbers += 1;
        let entry = Entry {
            pod,
            place: Place::InFlight,
            attempts: 0,
            added: now,
            not_before: now,
            refused_by: BTreeSet::new(),
            number: self.numbers,
            helped: false,
        };
        let gated = entry.pod.gated();
        self.pods.insert(uid.clone(), entry);
        if gated { self.place(&uid, Place::Gated) } else { self.requeue(&uid, now) }
    }

    /// A pod went, or is bound.
    pub fn remove(&mut self, uid: &str) {
        self.leave(uid);
        self.pods.remove(uid);
    }

    /// The next pod to try; it is in flight until one of the calls below.
    pub fn pop(&mut self, now: Duration) -> Option<Arc<PodInfo>> {
        self.flush(now);
        let uid = self.ready.first()?.1.clone();
        self.place(&uid, Place::InFlight);
        let entry = self.pods.get_mut(&uid)?;
        entry.helped = false;
        entry.attempts += 1;
        Some(entry.pod.clone())
    }

    /// The pod fits nowhere, because of these rules.
    pub fn unschedulable(&mut self, uid: &str, refused_by: BTreeSet<&'static str>, now: Duration) {
        let Some(entry) = self.in_flight(uid) else { return };
        entry.not_before = now + backoff(entry.attempts);
        entry.refused_by = refused_by;
        match (entry.pod.gated(), entry.helped) {
            (true, _) => self.place(uid, Place::Gated),
            (_, true) => self.requeue(uid, now),
            _ => self.place(uid, Place::Waiting(now)),
        }
    }

    /// Something failed that has nothing to do with where the pod fits; it is tried again after a back-off.
    pub fn failed(&mut self, uid: &str, now: Duration) {
        let Some(entry) = self.in_flight(uid) else { return };
        entry.not_before = now + backoff(entry.attempts);
        if entry.pod.gated() { self.place(uid, Place::Gated) } else { self.requeue(uid, now) }
    }

    /// Puts everything that was in flight back: a new term of leadership starts.
    pub fn recover(&mut self, now: Duration) {
        let lost = self.pods.iter().filter(|(_, e)| e.place == Place::InFlight);
        for uid in lost.map(|(uid, _)| uid.clone()).collect::<Vec<_>>() {
            self.failed(&uid, now);
        }
    }

    fn in_flight(&mut self, uid: &str) -> Option<&mut Entry> {
        self.pods.get_mut(uid).filter(|e| e.place == Place::InFlight)
    }

    /// Something happened: pods that it may help are tried again.
    pub fn event(&mut self, event: &Event, now: Duration) {
        let mut helped = Vec::new();
        for (uid, entry) in &mut self.pods {
            match entry.place {
                // What refuses it is not known yet; all that happens may count.
                Place::InFlight => entry.helped = true,
                Place::Waiting(_) if helps(event, entry) => helped.push(uid.clone()),
                _ => {}
            }
        }
        for uid in helped {
            self.requeue(&uid, now);
        }
    }

    /// When [`Queue::pop`] may have something new without anything happening.
    #[must_use]
    pub fn next_wake(&self) -> Option<Duration> {
        let backoff = self.backoff.first().map(|(until, _)| *until);
        let waiting = self.pods.values().filter_map(|e| match e.place {
            Place::Waiting(since) => Some(since + FLUSH_AFTER),
            _ => None,
        });
        backoff.into_iter().chain(waiting).min()
    }

    /// When the pod came first, and how often it was tried.
    #[must_use]
    pub fn history(&self, uid: &str) -> Option<(Duration, u32)> {
        self.pods.get(uid).map(|e| (e.added, e.attempts))
    }

    /// How many pods are where.
    #[must_use]
    pub fn lengths(&self) -> Lengths {
        let count = |wanted: fn(&Place) -> bool| self.pods.values().filter(|e| wanted(&e.place)).count();
        Lengths {
            active: self.ready.len(),
            backoff: self.backoff.len(),
            unschedulable: count(|p| matches!(p, Place::Waiting(_))),
            gated: count(|p| matches!(p, Place::Gated)),
        }
    }

    fn flush(&mut self, now: Duration) {
        while let Some((until, uid)) = self.backoff.first().cloned() {
            if until > now {
                break;
            }
            self.requeue(&uid, now);
        }
        let stale =
            self.pods.iter().filter(|(_, e)| matches!(e.place, Place::Waiting(s) if s + FLUSH_AFTER <= now));
        for uid in stale.map(|(uid, _)| uid.clone()).collect::<Vec<_>>() {
            self.requeue(&uid, now);
        }
    }

    /// Ready, or in back-off if it is too early.
    fn requeue(&mut self, uid: &str, now: Duration) {
        let Some(entry) = self.pods.get(uid) else { return };
        let place = if entry.not_before > now {
            Place::Backoff(entry.not_before)
        } else {
            Place::Ready((Reverse(entry.pod.priority()), now, entry.number))
        };
        self.place(uid, place);
    }

    fn leave(&mut self, uid: &str) {
        match self.pods.get(uid).map(|e| e.place) {
            Some(Place::Ready(rank)) => {
                self.ready.remove(&(rank, uid.to_owned()));
            }
            Some(Place::Backoff(until)) => {
                self.backoff.remove(&(until, uid.to_owned()));
            }
            _ => {}
        }
    }

    /// The only place where places change.
    fn place(&mut self, uid: &str, place: Place) {
        self.leave(uid);
        let Some(entry) = self.pods.get_mut(uid) else { return };
        entry.place = place;
        match place {
            Place::Ready(rank) => {
                self.ready.insert((rank, uid.to_owned()));
            }
            Place::Backoff(until) => {
                self.backoff.insert((until, uid.to_owned()));
            }
            _ => {}
        }
    }
}

fn backoff(attempts: u32) -> Duration {
    let doubled = 2u32.saturating_pow(attempts.saturating_sub(1));
    FIRST_BACKOFF.saturating_mul(doubled).min(LAST_BACKOFF)
}

/// A pod that no rule refused (there were no nodes) is helped by anything.
fn helps(event: &Event, entry: &Entry) -> bool {
    let refused = |name: &str| entry.refused_by.contains(name);
    entry.refused_by.is_empty() || ROWS.iter().any(|row| refused(row.name) && (row.hint)(event, &entry.pod))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use proptest::prelude::{Strategy, any, prop_assert, prop_assert_eq, prop_oneof, proptest};

    use super::{Place, Queue, backoff};
    use crate::event::Event;
    use crate::testing::{node_info, pod};

    const fn at(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    #[test]
    fn important_and_old_pods_go_first() {
        let mut queue = Queue::default();
        queue.set(pod("late").info(), at(2));
        queue.set(pod("early").info(), at(1));
        queue.set(pod("vip").priority(5).info(), at(3));
        queue.set(pod("gated").gate("g").info(), at(0));
        let order: Vec<String> =
            std::iter::from_fn(|| queue.pop(at(3))).map(|p| p.name().to_owned()).collect();
        assert_eq!(order, ["vip", "early", "late"]);
        queue.set(pod("gated").info(), at(4));
        assert_eq!(queue.pop(at(4)).unwrap().name(), "gated");
    }

    #[test]
    fn events_wake_only_whom_they_help() {
        let mut queue = Queue::default();
        queue.set(pod("p").cpu("2").info(), at(0));
        queue.pop(at(0)).unwrap();
        queue.unschedulable("p", ["NodeResourcesFit"].into(), at(0));
        queue.event(&Event::NodeAdded(node_info("small", "1")), at(5));
        assert_eq!(queue.lengths().unschedulable, 1);
        queue.event(&Event::NodeAdded(node_info("big", "4")), at(5));
        assert_eq!(queue.pop(at(5)).unwrap().name(), "p");
    }

    #[test]
    fn back_off_grows_to_ten_seconds() {
        let seconds: Vec<u64> = (1..=6).map(|n| backoff(n).as_secs()).collect();
        assert_eq!(seconds, [1, 2, 4, 8, 10, 10]);
        let mut queue = Queue::default();
        queue.set(pod("p").info(), at(0));
        queue.pop(at(0)).unwrap();
        queue.failed("p", at(0));
        assert!(queue.pop(Duration::from_millis(999)).is_none());
        assert_eq!(queue.next_wake(), Some(at(1)));
        assert!(queue.pop(at(1)).is_some());
    }

    #[test]
    fn what_happens_during_a_try_counts() {
        let mut queue = Queue::default();
        queue.set(pod("p").cpu("1").info(), at(0));
        queue.pop(at(0)).unwrap();
        queue.event(&Event::NodeAdded(node_info("n", "4")), at(0));
        queue.unschedulable("p", ["NodeResourcesFit"].into(), at(0));
        assert!(queue.pop(at(1)).is_some());
    }

    #[test]
    fn own_status_changes_do_not_wake() {
        let mut queue = Queue::default();
        queue.set(pod("p").info(), at(0));
        queue.pop(at(0)).unwrap();
        queue.unschedulable("p", ["NodeAffinity"].into(), at(0));
        queue.set(pod("p").phase("Pending").info(), at(60));
        assert_eq!(queue.lengths().unschedulable, 1);
        queue.set(pod("p").label("a", "b").info(), at(60));
        assert_eq!(queue.lengths().active, 1);
        assert!(queue.pop(at(60)).is_some());
    }

    #[derive(Clone, Debug)]
    enum Step {
        Set(u8, bool),
        Remove(u8),
        Pop,
        Unschedulable(u8),
        Failed(u8),
        Happens,
        Recover,
        Pass(u16),
    }

    fn steps() -> impl Strategy<Value = Vec<Step>> {
        let step = prop_oneof![
            (0u8..6, any::<bool>()).prop_map(|(p, gated)| Step::Set(p, gated)),
            (0u8..6).prop_map(Step::Remove),
            any::<u8>().prop_map(|_| Step::Pop),
            (0u8..6).prop_map(Step::Unschedulable),
            (0u8..6).prop_map(Step::Failed),
            any::<u8>().prop_map(|_| Step::Happens),
            any::<u8>().prop_map(|_| Step::Recover),
            (0u16..20_000).prop_map(Step::Pass),
        ];
        proptest::collection::vec(step, 0..80)
    }

    fn perform(queue: &mut Queue, step: &Step, now: &mut Duration) {
        match step {
            Step::Set(p, gated) => {
                let name = format!("p{p}");
                let pod = if *gated { pod(&name).gate("g") } else { pod(&name) };
                queue.set(pod.info(), *now);
            }
            Step::Remove(p) => queue.remove(&format!("p{p}")),
            Step::Pop => drop(queue.pop(*now)),
            Step::Unschedulable(p) => queue.unschedulable(&format!("p{p}"), ["NodeAffinity"].into(), *now),
            Step::Failed(p) => queue.failed(&format!("p{p}"), *now),
            Step::Happens => queue.event(&Event::Other, *now),
            Step::Recover => queue.recover(*now),
            Step::Pass(millis) => *now += Duration::from_millis(u64::from(*millis)),
        }
    }

    proptest! {
        #[test]
        fn no_pod_is_ever_lost(steps in steps()) {
            let (mut queue, mut now) = (Queue::default(), Duration::ZERO);
            let mut present = std::collections::BTreeSet::new();
            for step in &steps {
                perform(&mut queue, step, &mut now);
                match step {
                    Step::Set(p, _) => { present.insert(format!("p{p}")); }
                    Step::Remove(p) => { present.remove(&format!("p{p}")); }
                    _ => {}
                }
                let in_flight = queue.pods.values().filter(|e| e.place == Place::InFlight).count();
                let l = queue.lengths();
                prop_assert_eq!(l.active + l.backoff + l.unschedulable + l.gated + in_flight, present.len());
            }
            queue.recover(now);
            now += Duration::from_secs(600);
            let free = queue.pods.values().filter(|e| !e.pod.gated()).count();
            let popped = std::iter::from_fn(|| queue.pop(now)).count();
            prop_assert_eq!(popped, free);
            prop_assert!(queue.pods.len() == present.len());
        }
    }
}
