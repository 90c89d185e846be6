//! Requests without revisions: what each saw of which key and what it wrote there.
//!
//! Keeps true: nothing here reads a revision; every value is of one write, so "unchanged since read" is "has the
//! value that was read". What may or may not have happened is split into one write per key, which allows more than
//! the request did, never less. Serializable reads, reads of history and compactions are left to `revisions`.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};

use crate::history::{Answer, Call, Expect, History, Kv, Request, Span, Write};

/// A value by its number.
pub(super) type Value = u32;
/// No such key.
pub(super) const ABSENT: Value = 0;
/// Not known: whatever is seen first.
pub(super) const FREE: Value = u32::MAX;
/// No key has it: what sees it cannot have happened.
pub(super) const NEVER: Value = u32::MAX - 1;

/// What a request did, at one moment between its call and its answer.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) struct Operation {
    /// Which of the history's calls it is, or is a part of.
    pub(super) call: usize,
    pub(super) invoked: u64,
    pub(super) returned: u64,
    /// It did happen.
    pub(super) certain: bool,
    /// The values that keys had.
    pub(super) sees: Vec<(usize, Value)>,
    /// The values that keys got.
    pub(super) writes: Vec<(usize, Value)>,
}

impl Operation {
    /// The part that concerns one key; `None` if it does not.
    pub(super) fn on(&self, key: usize) -> Option<Self> {
        let of = |cells: &[(usize, Value)]| cells.iter().filter(|(k, _)| *k == key).copied().collect();
        let part = Self { sees: of(&self.sees), writes: of(&self.writes), ..self.clone() };
        (!part.sees.is_empty() || !part.writes.is_empty()).then_some(part)
    }

    /// Its writes, each of which may have happened or not.
    pub(super) fn maybe(&self) -> Vec<Self> {
        let one = |(key, value): &(usize, Value)| {
            let sees = self.sees.iter().filter(|(k, _)| k == key).copied().collect();
            Self { certain: false, sees, writes: vec![(*key, *value)], ..self.clone() }
        };
        self.writes.iter().map(one).collect()
    }
}

/// The operations of a history and the number of its keys.
pub(super) fn operations(history: &History) -> (Vec<Operation>, usize) {
    let mut names = Names::new(history);
    let calls = history.calls.iter().enumerate();
    let found = calls.filter_map(|(index, call)| names.operation(index, call));
    let all = found.flat_map(|op| if op.certain { vec![op] } else { op.maybe() }).collect();
    (all, names.keys.len())
}

/// Leaves out what may have happened but whose value nobody saw: everything else is explained without it as well.
pub(super) fn relevant(operations: Vec<Operation>) -> Vec<Operation> {
    let seen: HashSet<Value> = operations.iter().flat_map(|op| &op.sees).map(|(_, value)| *value).collect();
    let matters = |op: &Operation| op.certain || op.writes.iter().any(|(_, value)| seen.contains(value));
    operations.into_iter().filter(matters).collect()
}

/// Numbers for keys, in their order, and for values.
struct Names<'a> {
    keys: BTreeMap<&'a str, usize>,
    values: HashMap<&'a str, Value>,
}

impl<'a> Names<'a> {
    fn new(history: &'a History) -> Self {
        let mut keys = BTreeSet::new();
        for call in &history.calls {
            keys.extend(call.answer.kvs().into_iter().map(|kv| kv.key.as_str()));
            match &call.request {
                Request::Put { key, .. } => keys.extend([key.as_str()]),
                Request::Txn { expect, then } => {
                    keys.extend(expect.iter().map(|e| e.key.as_str()));
                    keys.extend(then.iter().map(Write::key));
                }
                Request::Range { span, .. } | Request::Delete { span } if span.to.is_empty() => {
                    keys.extend([span.from.as_str()]);
                }
                Request::Range { .. } | Request::Delete { .. } | Request::Compact { .. } => {}
            }
        }
        Self { keys: keys.into_iter().zip(0..).collect(), values: HashMap::new() }
    }

    fn value(&mut self, value: &'a str) -> Value {
        let next = Value::try_from(self.values.len() + 1).unwrap_or(NEVER);
        *self.values.entry(value).or_insert(next)
    }

    fn cell(&mut self, key: &str, kv: Option<&'a Kv>) -> (usize, Value) {
        (self.keys[key], kv.map_or(ABSENT, |kv| self.value(&kv.value)))
    }

    /// What each key of a span was; `last`: what comes after this key is not known.
    fn cells(&mut self, span: &Span, kvs: &'a [Kv], last: Option<&str>) -> Vec<(usize, Value)> {
        let known = |key: &&&str| span.contains(key) && last.is_none_or(|last| **key <= last);
        let keys: Vec<&str> = self.keys.keys().filter(known).copied().collect();
        keys.into_iter().map(|key| self.cell(key, kvs.iter().find(|kv| kv.key == key))).collect()
    }

    fn expected(&mut self, expect: &'a [Expect]) -> Vec<(usize, Value)> {
        expect.iter().map(|e| self.cell(&e.key, e.found.as_ref())).collect()
    }

    fn writes(&mut self, request: &'a Request) -> Vec<(usize, Value)> {
        match request {
            Request::Put { key, value } => vec![(self.keys[key.as_str()], self.value(value))],
            Request::Delete { span } => self.cells(span, &[], None),
            Request::Txn { then, .. } => then
                .iter()
                .map(|w| (self.keys[w.key()], w.value().map_or(ABSENT, |value| self.value(value))))
                .collect(),
            Request::Range { .. } | Request::Compact { .. } => Vec::new(),
        }
    }

    fn operation(&mut self, index: usize, call: &'a Call) -> Option<Operation> {
        let (sees, certain) = match (&call.request, &call.answer) {
            (Request::Txn { expect, .. }, Answer::Unknown { .. }) => (self.expected(expect), false),
            (Request::Put { .. } | Request::Delete { .. }, Answer::Unknown { .. }) => (Vec::new(), false),
            _ => (self.saw(call)?, true),
        };
        let failed = matches!(call.answer, Answer::Txn { succeeded: false, .. });
        let writes = if failed { Vec::new() } else { self.writes(&call.request) };
        let (invoked, returned) = (call.invoked, if certain { call.returned } else { u64::MAX });
        Some(Operation { call: index, invoked, returned, certain, sees, writes })
    }

    /// What the answer says of the moment before.
    fn saw(&mut self, call: &'a Call) -> Option<Vec<(usize, Value)>> {
        Some(match (&call.request, &call.answer) {
            (
                Request::Range { span, revision: 0, serializable: false, .. },
                Answer::Range { kvs, more, .. },
            ) => {
                let last = if *more { kvs.last().map(|kv| kv.key.as_str()) } else { None };
                self.cells(span, kvs, last)
            }
            (Request::Put { key, .. }, Answer::Put { prev, .. }) => vec![self.cell(key, prev.as_ref())],
            (Request::Delete { span }, Answer::Delete { prev, .. }) => self.cells(span, prev, None),
            (Request::Txn { expect, then }, Answer::Txn { succeeded: true, kvs, .. }) => {
                let mut sees = self.expected(expect);
                sees.extend(then.iter().zip(kvs).map(|(write, kv)| self.cell(write.key(), kv.as_ref())));
                sees
            }
            (Request::Txn { expect, .. }, Answer::Txn { succeeded: false, kvs, .. }) => {
                let is = expect.iter().zip(kvs).map(|(e, kv)| self.cell(&e.key, kv.as_ref()));
                let is: Vec<(usize, Value)> = is.collect();
                // It cannot fail when everything is as expected.
                let impossible = is == self.expected(expect);
                is.into_iter().map(|(key, value)| (key, if impossible { NEVER } else { value })).collect()
            }
            _ => return None,
        })
    }
}
