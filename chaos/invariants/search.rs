//! Is there an order of the requests that explains all answers? A search, after Wing and Gong, and Lowe: try what
//! can have come next, go back when nothing can, never look at the same situation twice.
//!
//! Keeps true: the verdict is independent of revisions: they only say what is tried first, and an order that is found
//! explains all values whatever led to it. Each key is searched over the whole history (a history is linearizable
//! only if each key's is); all keys together are searched in short overlapping windows, whose first state may be
//! any. A search that takes too long is a violation of its own, not a pass. It seldom does, because a value is written
//! once: it must not be overwritten while a request that saw it has no place yet.

use std::cmp::Reverse;
use std::collections::{HashMap, HashSet};

use super::operations::{self, ABSENT, FREE, Operation, Value};
use super::{Rule, Violation};
use crate::history::{Call, History};

/// Steps after which a search is given up.
const STEPS: usize = 200_000;
/// Requests in a window.
const WINDOW: usize = 40;
/// Requests between the beginnings of windows.
const STRIDE: usize = 20;

pub(super) fn check(history: &History) -> Vec<Violation> {
    check_within(history, STEPS)
}

/// The same with another number of steps for each search.
pub(super) fn check_within(history: &History, steps: usize) -> Vec<Violation> {
    let (operations, keys) = operations::operations(history);
    let hints: Vec<Hint> = history.calls.iter().map(hint).collect();
    let one_key = |key: usize| {
        let parts = operations.iter().filter_map(|op| op.on(key)).collect();
        Search::new(parts, &hints).run(vec![ABSENT; keys], steps)
    };
    let search = |window| Search::new(window, &hints).run(vec![FREE; keys], steps);
    let windows = windows(&operations).into_iter().map(search);
    let verdicts = (0..keys).map(one_key).chain(windows);
    verdicts.filter_map(|verdict| verdict.err()).map(|stuck| stuck.violation(history)).collect()
}

/// Where a request is tried first: at the revision of its answer, what changed nothing after what did.
type Hint = (i64, bool);

fn hint(call: &Call) -> Hint {
    (call.answer.revision().unwrap_or(i64::MAX), !call.answer.wrote())
}

/// Stretches of the history, each with what else can have happened meanwhile.
fn windows(operations: &[Operation]) -> Vec<Vec<Operation>> {
    let (mut certain, maybe): (Vec<&Operation>, Vec<&Operation>) =
        operations.iter().partition(|op| op.certain);
    certain.sort_by_key(|op| op.invoked);
    let window = |first: usize| {
        let inside = &certain[first..certain.len().min(first + WINDOW)];
        let begin = inside.iter().map(|op| op.invoked).min().unwrap_or_default();
        let end = inside.iter().map(|op| op.returned).max().unwrap_or_default();
        let (before, after) = (&certain[..first], &certain[first + inside.len()..]);
        let across = before.iter().chain(after).filter(|op| op.returned >= begin && op.invoked <= end);
        let maybe = maybe.iter().filter(|op| op.invoked <= end).map(|op| (*op).clone());
        let certain = inside.iter().map(|op| (*op).clone());
        certain.chain(across.flat_map(|op| op.maybe())).chain(maybe).collect()
    };
    (0..certain.len()).step_by(STRIDE).map(window).collect()
}

/// Where the search ended.
struct Stuck {
    rule: Rule,
    /// The calls of which none could come next at the furthest point.
    calls: Vec<usize>,
    /// How many had their place by then.
    placed: usize,
}

impl Stuck {
    fn violation(self, history: &History) -> Violation {
        let calls: Vec<_> = self.calls.iter().map(|call| &history.calls[*call]).collect();
        Violation::new(
            self.rule,
            format!("after {} requests none of these can come next: {calls:?}", self.placed),
        )
    }
}

/// Which operations have their place already.
#[derive(Clone, Eq, Hash, PartialEq)]
struct Placed(Vec<u64>);

impl Placed {
    fn has(&self, index: usize) -> bool {
        self.0[index / 64] & (1 << (index % 64)) != 0
    }

    fn flip(&mut self, index: usize) {
        self.0[index / 64] ^= 1 << (index % 64);
    }
}

/// How many requests without a place have seen each value.
struct Waiting(HashMap<Value, usize>);

impl Waiting {
    fn new(operations: &[Operation]) -> Self {
        let mut this = Self(HashMap::new());
        operations.iter().filter(|op| op.certain).for_each(|op| this.add(op));
        this
    }

    fn add(&mut self, operation: &Operation) {
        for (_, value) in &operation.sees {
            *self.0.entry(*value).or_default() += 1;
        }
    }

    fn remove(&mut self, operation: &Operation) {
        for (_, value) in &operation.sees {
            self.0.entry(*value).and_modify(|count| *count -= 1);
        }
    }

    /// Whether the operation overwrites what another one has yet to see. Only values are written once.
    fn forbids(&self, operation: &Operation, state: &[Value]) -> bool {
        operation.writes.iter().any(|(key, _)| {
            let seen = operation.sees.iter().filter(|(k, _)| k == key).map(|(_, value)| *value);
            let old = seen.clone().next().unwrap_or(state[*key]);
            let own = if operation.certain { seen.filter(|value| *value == old).count() } else { 0 };
            old != ABSENT && self.0.get(&old).is_some_and(|count| *count > own)
        })
    }
}

/// A situation that was reached by placing an operation.
struct Frame {
    chosen: Option<usize>,
    state: Vec<Value>,
    /// What can come next and has not been tried; the last first.
    choices: Vec<usize>,
    /// How many of those that did happen have their place.
    depth: usize,
}

struct Search<'a> {
    /// Those that did happen, by the time of their call, then those that may have.
    operations: Vec<Operation>,
    certain: usize,
    /// By call.
    hints: &'a [Hint],
}

impl<'a> Search<'a> {
    fn new(operations: Vec<Operation>, hints: &'a [Hint]) -> Self {
        let mut operations = operations::relevant(operations);
        operations.sort_by_key(|op| (!op.certain, op.invoked));
        let certain = operations.partition_point(|op| op.certain);
        Self { operations, certain, hints }
    }

    fn hint(&self, index: usize) -> Hint {
        self.hints[self.operations[index].call]
    }

    fn run(&self, start: Vec<Value>, most: usize) -> Result<(), Stuck> {
        let mut placed = Placed(vec![0; self.operations.len() / 64 + 1]);
        let mut waiting = Waiting::new(&self.operations);
        let mut known = HashSet::new();
        let mut deepest = Stuck { rule: Rule::Linearizable, calls: Vec::new(), placed: 0 };
        let choices = self.choices(&placed, &start, &mut deepest, 0);
        let mut stack = vec![Frame { chosen: None, state: start, choices, depth: 0 }];
        let mut steps = 0;
        while let Some(frame) = stack.last_mut() {
            if frame.depth == self.certain {
                return Ok(());
            }
            let Some(next) = frame.choices.pop() else {
                if let Some(chosen) = stack.pop().and_then(|frame| frame.chosen) {
                    placed.flip(chosen);
                    self.certainly(chosen).into_iter().for_each(|operation| waiting.add(operation));
                }
                continue;
            };
            steps += 1;
            if steps > most {
                return Err(Stuck { rule: Rule::Undecided, ..deepest });
            }
            let operation = &self.operations[next];
            let state = after(operation, &frame.state).filter(|_| !waiting.forbids(operation, &frame.state));
            let Some(state) = state else { continue };
            let depth = frame.depth + usize::from(operation.certain);
            placed.flip(next);
            if known.insert((placed.clone(), state.clone())) {
                self.certainly(next).into_iter().for_each(|operation| waiting.remove(operation));
                let choices = self.choices(&placed, &state, &mut deepest, depth);
                stack.push(Frame { chosen: Some(next), state, choices, depth });
            } else {
                placed.flip(next);
            }
        }
        Err(deepest)
    }

    /// An operation, if it did happen.
    fn certainly(&self, index: usize) -> Option<&Operation> {
        self.operations.get(index).filter(|operation| operation.certain)
    }

    /// What can come next: what was called before the first answer that has no place yet. Of what may have
    /// happened only that which one of those needs to have happened just before it.
    fn choices(&self, placed: &Placed, state: &[Value], deepest: &mut Stuck, depth: usize) -> Vec<usize> {
        let mut first = u64::MAX;
        let mut open = Vec::new();
        for index in (0..self.certain).filter(|index| !placed.has(*index)) {
            let operation = &self.operations[index];
            if operation.invoked > first {
                break;
            }
            first = first.min(operation.returned);
            open.push(index);
        }
        let (mut choices, waiting): (Vec<usize>, Vec<usize>) =
            open.iter().partition(|index| after(&self.operations[**index], state).is_some());
        if depth > deepest.placed || deepest.calls.is_empty() {
            let calls = open.iter().map(|index| self.operations[*index].call).collect();
            *deepest = Stuck { rule: Rule::Linearizable, calls, placed: depth };
        }
        choices.sort_by_key(|index| Reverse((self.hint(*index), self.operations[*index].returned)));
        // The last is tried first: what the next one waits for, then what can come, then what others wait for.
        let mut all = self.needed(placed, state, first, &waiting);
        all.append(&mut choices);
        let next = open.iter().min_by_key(|index| self.hint(**index)).filter(|next| waiting.contains(next));
        let due = next.map(|next| self.needed(placed, state, first, &[*next])).unwrap_or_default();
        all.retain(|index| !due.contains(index));
        all.extend(due);
        all
    }

    /// Of what may have happened, that which writes what is waited for; and what that needs in turn.
    fn needed(&self, placed: &Placed, state: &[Value], first: u64, waiting: &[usize]) -> Vec<usize> {
        let lacks = |index: &usize| -> Vec<(usize, Value)> {
            let sees = &self.operations[*index].sees;
            sees.iter().filter(|(key, value)| !matches(state[*key], *value)).copied().collect()
        };
        let mut wanted: Vec<(usize, Value)> = waiting.iter().flat_map(lacks).collect();
        let mut found: Vec<usize> = Vec::new();
        let mut looked = 0;
        while let Some(want) = wanted.get(looked).copied() {
            looked += 1;
            let free = (self.certain..self.operations.len()).filter(|index| !placed.has(*index));
            for index in free.filter(|index| self.operations[*index].invoked <= first) {
                let operation = &self.operations[index];
                let equal = |other: &usize| {
                    let other = &self.operations[*other];
                    (&other.sees, &other.writes) == (&operation.sees, &operation.writes)
                };
                if operation.writes.contains(&want) && !found.iter().any(equal) {
                    wanted.extend(lacks(&index));
                    found.push(index);
                }
            }
        }
        found.retain(|index| after(&self.operations[*index], state).is_some());
        found
    }
}

fn matches(is: Value, seen: Value) -> bool {
    is == FREE || is == seen
}

/// The state after an operation; `None` if it cannot happen now.
fn after(operation: &Operation, state: &[Value]) -> Option<Vec<Value>> {
    let mut state = state.to_vec();
    for (key, value) in &operation.sees {
        if !matches(state[*key], *value) {
            return None;
        }
        state[*key] = *value;
    }
    for (key, value) in &operation.writes {
        state[*key] = *value;
    }
    Some(state)
}
