//! Watches against the replay: ordered, unique, reliable, atomic, resumable, bookmarkable, as etcd promises them.
//!
//! Keeps true: a watch must have every change of its keys from its first revision up to the last one that it told
//! of, by an event or a progress notification, and up to the end if it was given the time. A watch that resumes
//! another begins at a revision like any other, so resuming needs no rule of its own. A former value may be left
//! out only if it can have been compacted.

use std::collections::HashSet;

use super::order::Order;
use super::store::Change;
use super::{Rule, Violation};
use crate::history::{Event, History, Kv, Request, Response, Watch};

pub(super) fn check(history: &History, order: &Order) -> Vec<Violation> {
    let one = |watch| {
        let mut reader = Reader::new(history, order, watch);
        reader.read();
        reader.found
    };
    history.watches.iter().flat_map(one).collect()
}

/// One watch, read from its beginning.
struct Reader<'a> {
    history: &'a History,
    order: &'a Order,
    watch: &'a Watch,
    /// Everything below this revision has been told.
    next: i64,
    /// The revision of the latest event.
    latest: i64,
    /// The revision of the latest progress notification.
    progress: i64,
    seen: HashSet<(i64, &'a str)>,
    found: Vec<Violation>,
}

impl<'a> Reader<'a> {
    fn new(history: &'a History, order: &'a Order, watch: &'a Watch) -> Self {
        let (seen, found) = (HashSet::new(), Vec::new());
        Self { history, order, watch, next: watch.start, latest: 0, progress: 0, seen, found }
    }

    fn wrong(&mut self, rule: Rule, text: &str) {
        let Watch { client, member, invoked, span, start, .. } = self.watch;
        let which =
            format!("client {client} at member {member}, asked at {invoked} for {span:?} from {start}");
        self.found.push(Violation::new(rule, format!("{which}: {text}")));
    }

    fn read(&mut self) {
        for response in &self.watch.responses {
            self.response(response);
        }
        if self.watch.until > 0 {
            self.complete(self.watch.until, Rule::Reliable, "it had all the time it needed");
        }
    }

    fn response(&mut self, response: &'a Response) {
        if response.created && self.next == 0 {
            self.next = response.revision + 1;
        }
        for event in &response.events {
            self.event(event, response.at);
        }
        let at = response.at;
        if let Some(last) = response.events.iter().map(|event| event.kv.modified).max() {
            self.complete(last, Rule::Reliable, &format!("the response at {at} leads to revision {last}"));
        }
        if response.is_progress() {
            let progress = response.revision;
            self.complete(progress, Rule::Bookmarkable, &format!("notified of {progress} at {at}"));
            self.progress = progress.max(self.progress);
        }
        if response.compacted > 0 {
            self.compacted(response);
        }
    }

    fn event(&mut self, event: &'a Event, at: u64) {
        let revision = event.kv.modified;
        if let Some(rule) = self.misplaced(event) {
            let Self { next, latest, progress, .. } = *self;
            let text =
                format!("{event:?} at {at}, after events of {latest}, progress {progress}, next {next}");
            self.wrong(rule, &text);
        }
        self.seen.insert((revision, &event.kv.key));
        self.latest = revision.max(self.latest);
        let commit = self.order.commit(revision).filter(|commit| commit.call.is_some());
        let Some(commit) = commit else { return };
        match commit.changes.iter().find(|change| change.key == event.kv.key) {
            Some(change) => self.content(event, change, at),
            None => {
                self.wrong(Rule::Content, &format!("{event:?} at {at}, but there was {:?}", commit.changes))
            }
        }
    }

    /// The rule that an event breaks by coming now.
    fn misplaced(&self, event: &Event) -> Option<Rule> {
        let revision = event.kv.modified;
        if !self.watch.span.contains(&event.kv.key) || revision < self.watch.start {
            Some(Rule::Filtered)
        } else if self.seen.contains(&(revision, event.kv.key.as_str())) {
            Some(Rule::Unique)
        } else if revision <= self.progress {
            Some(Rule::Bookmarkable)
        } else if revision == self.latest && revision < self.next {
            Some(Rule::Atomic)
        } else if revision < self.next || revision < self.latest {
            Some(Rule::Ordered)
        } else {
            None
        }
    }

    fn content(&mut self, event: &Event, change: &Change, at: u64) {
        let gone = || Kv { key: change.key.clone(), modified: event.kv.modified, ..Kv::default() };
        let is = change.kv.clone().unwrap_or_else(gone);
        if event.kv != is || event.deleted != change.kv.is_none() {
            self.wrong(Rule::Content, &format!("{event:?} at {at}, but it was {change:?}"));
        }
        let former = if self.watch.prev_kv { change.prev.as_ref() } else { None };
        let may_lack = || event.prev.is_none() && self.was_compacted(event.kv.modified, at);
        if event.prev.as_ref() != former && !may_lack() {
            self.wrong(Rule::PrevKv, &format!("{event:?} at {at}, but it was {former:?} before"));
        }
    }

    /// Whether what a revision replaced can have been compacted by then.
    fn was_compacted(&self, revision: i64, at: u64) -> bool {
        let takes = |request: &Request| matches!(request, Request::Compact { revision: c } if *c >= revision);
        self.history.calls.iter().any(|call| call.invoked < at && takes(&call.request))
    }

    /// Whether exactly this revision was to be compacted.
    fn compacted_at(&self, revision: i64) -> bool {
        self.history.calls.iter().any(|call| call.request == Request::Compact { revision })
    }

    /// Everything up to a revision must have been told.
    fn complete(&mut self, to: i64, rule: Rule, why: &str) {
        if self.next == 0 {
            return self.wrong(rule, &format!("{why}, but it was never created"));
        }
        for revision in self.next..=to.min(self.order.last()) {
            let Some(commit) = self.order.commit(revision) else { continue };
            let due = commit.changes.iter().filter(|change| self.watch.span.contains(&change.key));
            let (told, missing): (Vec<&Change>, Vec<&Change>) =
                due.partition(|change| self.seen.contains(&(revision, change.key.as_str())));
            if !missing.is_empty() {
                let deletions = missing.iter().all(|change| change.kv.is_none());
                let rule = match told.is_empty() {
                    _ if deletions && self.compacted_at(revision) => Rule::Tombstone,
                    true => rule,
                    false => Rule::Atomic,
                };
                self.wrong(rule, &format!("{why}, but of revision {revision} it has not had {missing:?}"));
            }
        }
        self.next = self.next.max(to + 1);
    }

    fn compacted(&mut self, response: &Response) {
        let Response { at, compacted, .. } = *response;
        let asked =
            |request: &Request| matches!(request, Request::Compact { revision } if *revision == compacted);
        if !self.history.calls.iter().any(|call| call.invoked < at && asked(&call.request)) {
            self.wrong(Rule::Canceled, &format!("at {at} by compaction {compacted}, which nobody asked for"));
        }
        if self.next >= compacted {
            let next = self.next;
            self.wrong(Rule::Canceled, &format!("at {at} by compaction {compacted}, but needs only {next}"));
        }
    }
}
