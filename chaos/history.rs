//! What clients asked of a store and what they were told, as seen outside the store's processes.
//!
//! Keeps true: times are of one monotonic clock, in microseconds since the recording began; `invoked` is taken
//! before the first byte is sent and `returned` after the whole answer is there; an answer that did not come is
//! [`Answer::Unknown`], never a failure; what is read back from a file is what was written. Judging a history is
//! left to `invariants`, making one to `workload`.

use std::fs::File;
use std::io::{BufRead, BufReader, BufWriter, Write as _};
use std::path::Path;
use std::time::Instant;

use serde::{Deserialize, Serialize};

use crate::{Error, Result};

/// A key with its value, as an answer or an event has it.
#[derive(Clone, Debug, Default, Deserialize, Eq, Hash, PartialEq, Serialize)]
pub struct Kv {
    /// The key.
    pub key: String,
    /// Its value. Every write of a workload has a value of its own.
    pub value: String,
    /// The revision in which it came to be.
    pub create: i64,
    /// The revision of its last write.
    pub modified: i64,
    /// How often it was written since it came to be.
    pub version: i64,
}

/// Keys: one, or all from one up to another.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct Span {
    /// The first key.
    pub from: String,
    /// The first key that does not belong to it; empty: `from` alone does.
    pub to: String,
}

impl Span {
    /// One key.
    pub fn key(key: impl Into<String>) -> Self {
        Self { from: key.into(), to: String::new() }
    }

    /// All keys from `from` on that come before `to`.
    pub fn range(from: impl Into<String>, to: impl Into<String>) -> Self {
        Self { from: from.into(), to: to.into() }
    }

    /// Whether a key belongs to it.
    pub fn contains(&self, key: &str) -> bool {
        if self.to.is_empty() {
            key == self.from
        } else {
            (self.from.as_str()..self.to.as_str()).contains(&key)
        }
    }
}

/// A condition: the key is unchanged since a client has read it. On the wire: its mod revision, 0 for no key.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct Expect {
    /// The key.
    pub key: String,
    /// What the client has read; `None`: no such key.
    pub found: Option<Kv>,
}

/// A write within a transaction.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub enum Write {
    /// Gives a key a value.
    Put {
        /// The key.
        key: String,
        /// The value.
        value: String,
    },
    /// Deletes a key.
    Delete {
        /// The key.
        key: String,
    },
}

impl Write {
    /// The key that it writes.
    pub fn key(&self) -> &str {
        match self {
            Self::Put { key, .. } | Self::Delete { key } => key,
        }
    }

    /// The value after it.
    pub fn value(&self) -> Option<&str> {
        match self {
            Self::Put { value, .. } => Some(value),
            Self::Delete { .. } => None,
        }
    }
}

/// What a client asks.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub enum Request {
    /// Reads keys.
    Range {
        /// Which.
        span: Span,
        /// How many at most; 0: all.
        limit: i64,
        /// At which revision; 0: now.
        revision: i64,
        /// As the member has it, not as the cluster has.
        serializable: bool,
    },
    /// Writes a key, with the former value in the answer.
    Put {
        /// The key.
        key: String,
        /// The value.
        value: String,
    },
    /// Deletes keys, with the former values in the answer.
    Delete {
        /// Which.
        span: Span,
    },
    /// Writes keys if all conditions hold, else reads the keys of the conditions.
    Txn {
        /// The conditions.
        expect: Vec<Expect>,
        /// The writes, each of another key.
        then: Vec<Write>,
    },
    /// Forgets what was overwritten up to a revision.
    Compact {
        /// The revision.
        revision: i64,
    },
}

/// What a client is told. `revision` is the header's.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub enum Answer {
    /// To [`Request::Range`].
    Range {
        /// The store's revision.
        revision: i64,
        /// What was found.
        kvs: Vec<Kv>,
        /// How many there are, without the limit.
        count: i64,
        /// Whether the limit left some out.
        more: bool,
    },
    /// To [`Request::Put`].
    Put {
        /// The put's revision.
        revision: i64,
        /// The former value.
        prev: Option<Kv>,
    },
    /// To [`Request::Delete`].
    Delete {
        /// The deletion's revision, or the store's if nothing was there to delete.
        revision: i64,
        /// How many there were.
        deleted: i64,
        /// The former values.
        prev: Vec<Kv>,
    },
    /// To [`Request::Txn`].
    Txn {
        /// The transaction's revision, or the store's if it wrote nothing.
        revision: i64,
        /// Whether the conditions held.
        succeeded: bool,
        /// The former value of each write, or what each condition's key was instead.
        kvs: Vec<Option<Kv>>,
    },
    /// To [`Request::Compact`].
    Compact {
        /// The store's revision.
        revision: i64,
    },
    /// A refusal that says that nothing was done.
    Refused {
        /// Its text.
        text: String,
    },
    /// No answer, or one that does not say what was done.
    Unknown {
        /// Why.
        text: String,
    },
}

impl Answer {
    /// The revision, if it has one.
    pub fn revision(&self) -> Option<i64> {
        match self {
            Self::Range { revision, .. }
            | Self::Put { revision, .. }
            | Self::Delete { revision, .. }
            | Self::Txn { revision, .. }
            | Self::Compact { revision } => Some(*revision),
            Self::Refused { .. } | Self::Unknown { .. } => None,
        }
    }

    /// Whether it says that something was written.
    pub fn wrote(&self) -> bool {
        match self {
            Self::Put { .. } => true,
            Self::Delete { deleted, .. } => *deleted > 0,
            Self::Txn { succeeded, .. } => *succeeded,
            _ => false,
        }
    }

    /// Whether the client cannot know what was done.
    pub fn is_unknown(&self) -> bool {
        matches!(self, Self::Unknown { .. })
    }

    /// All keys and values in it.
    pub fn kvs(&self) -> Vec<&Kv> {
        match self {
            Self::Range { kvs, .. } | Self::Delete { prev: kvs, .. } => kvs.iter().collect(),
            Self::Put { prev, .. } => prev.iter().collect(),
            Self::Txn { kvs, .. } => kvs.iter().flatten().collect(),
            Self::Compact { .. } | Self::Refused { .. } | Self::Unknown { .. } => Vec::new(),
        }
    }
}

/// One request with its answer.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct Call {
    /// Who asked. A client asks one thing at a time.
    pub client: usize,
    /// Which member was asked.
    pub member: usize,
    /// When it was sent.
    pub invoked: u64,
    /// When the answer was there, or was waited for no longer.
    pub returned: u64,
    /// The question.
    pub request: Request,
    /// The answer.
    pub answer: Answer,
}

/// What happened to a key, as a watch tells it.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct Event {
    /// The key as it is now; of a deleted one only `key` and `modified` are set.
    pub kv: Kv,
    /// Whether it was deleted.
    pub deleted: bool,
    /// What it was before.
    pub prev: Option<Kv>,
}

/// One message of a watch.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
pub struct Response {
    /// When it came.
    pub at: u64,
    /// The header's revision.
    pub revision: i64,
    /// The watch begins.
    pub created: bool,
    /// The watch has ended.
    pub canceled: bool,
    /// If it ended because of compaction: the compacted revision.
    pub compacted: i64,
    /// What happened.
    pub events: Vec<Event>,
}

impl Response {
    /// Whether it only tells how far the watch has come.
    pub fn is_progress(&self) -> bool {
        !self.created && !self.canceled && self.events.is_empty()
    }
}

/// One watch from its request to its end.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct Watch {
    /// Who watched.
    pub client: usize,
    /// Which member was asked.
    pub member: usize,
    /// When it was asked for.
    pub invoked: u64,
    /// Which keys.
    pub span: Span,
    /// From which revision on; 0: from now on.
    pub start: i64,
    /// Whether former values were asked for.
    pub prev_kv: bool,
    /// Everything that came.
    pub responses: Vec<Response>,
    /// The revision that the store had when all writing was over and that the watch had all the time it needed to
    /// reach; 0 if it ended earlier.
    pub until: i64,
}

/// Something that was done to a member.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct Mark {
    /// When it was done.
    pub at: u64,
    /// To which member.
    pub member: usize,
    /// What.
    pub what: Happening,
}

/// What can be done to a member.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub enum Happening {
    /// Its process has ended.
    Ended,
    /// Its process was started again.
    Started,
    /// Its process was halted, and keeps what it has in memory.
    Paused,
    /// Its process goes on.
    Resumed,
    /// Its connections to other members carry nothing, or carry it late.
    Disturbed,
    /// Its connections are whole again.
    Healed,
}

/// Everything that was recorded in a run.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct History {
    /// Requests, in no order.
    pub calls: Vec<Call>,
    /// Watches, in no order.
    pub watches: Vec<Watch>,
    /// What was done to members, in the order of time.
    pub marks: Vec<Mark>,
}

/// A line of a file.
#[derive(Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
enum Line<C = Call, W = Watch, M = Mark> {
    Call(C),
    Watch(W),
    Mark(M),
}

impl History {
    /// Writes a file of JSON lines.
    pub fn save(&self, path: &Path) -> Result<()> {
        let calls = self.calls.iter().map(Line::Call);
        let watches = self.watches.iter().map(Line::Watch);
        let lines: Vec<Line<&Call, &Watch, &Mark>> =
            calls.chain(watches).chain(self.marks.iter().map(Line::Mark)).collect();
        let write = || {
            let mut file = BufWriter::new(File::create(path)?);
            for line in &lines {
                serde_json::to_writer(&mut file, line)?;
                file.write_all(b"\n")?;
            }
            file.flush()
        };
        write().map_err(Error::file("write", path))
    }

    /// Reads such a file.
    pub fn load(path: &Path) -> Result<Self> {
        let read = || {
            let mut history = Self::default();
            for line in BufReader::new(File::open(path)?).lines() {
                match serde_json::from_str(&line?)? {
                    Line::Call(call) => history.calls.push(call),
                    Line::Watch(watch) => history.watches.push(watch),
                    Line::Mark(mark) => history.marks.push(mark),
                }
            }
            Ok(history)
        };
        read().map_err(Error::file("read", path))
    }
}

/// The one clock of a recording.
#[derive(Clone, Copy, Debug)]
pub struct Clock(Instant);

impl Clock {
    /// Begins now.
    pub fn start() -> Self {
        Self(Instant::now())
    }

    /// Microseconds since the beginning.
    pub fn now(&self) -> u64 {
        u64::try_from(self.0.elapsed().as_micros()).unwrap_or(u64::MAX)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_holds_the_history() {
        let kv = Kv { key: "a".into(), value: "1".into(), create: 2, modified: 2, version: 1 };
        let expect = vec![Expect { key: "b".into(), found: Some(kv.clone()) }];
        let then = vec![Write::Delete { key: "b".into() }];
        let history = History {
            calls: vec![Call {
                client: 1,
                member: 2,
                invoked: 3,
                returned: 4,
                request: Request::Txn { expect, then },
                answer: Answer::Unknown { text: "a \"quoted\" line\nand another".into() },
            }],
            watches: vec![Watch {
                client: 1,
                member: 0,
                invoked: 5,
                span: Span::range("a", "z"),
                start: 7,
                prev_kv: true,
                responses: vec![Response {
                    events: vec![Event { kv: kv.clone(), deleted: false, prev: Some(kv) }],
                    ..Response::default()
                }],
                until: 9,
            }],
            marks: vec![Mark { at: 6, member: 0, what: Happening::Ended }],
        };
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("history.jsonl");
        history.save(&path).unwrap();
        assert_eq!(History::load(&path).unwrap(), history);
        assert_eq!(std::fs::read_to_string(&path).unwrap().lines().count(), 3);
    }

    #[test]
    fn spans() {
        let check = |span: &Span, key: &str, inside: bool| assert_eq!(span.contains(key), inside, "{key}");
        check(&Span::key("k1"), "k1", true);
        check(&Span::key("k1"), "k10", false);
        check(&Span::range("k1", "k3"), "k1", true);
        check(&Span::range("k1", "k3"), "k2", true);
        check(&Span::range("k1", "k3"), "k3", false);
        check(&Span::range("k1", "k3"), "k0", false);
    }
}
