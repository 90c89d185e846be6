//! Is there an order of the requests that explains all answers? A search, after Wing and Gong, and Lowe: try what
//! can have come next, go back when nothing can, never look at the same situation twice.
//!
//! Keeps true: the verdict is independent of revisions: they only say what is tried first, and an order that is found
//! explains all values whatever led to it. The whole history is searched at once; only when no order is found, each
//! key by itself and short windows of all keys are, which have none either if something small is wrong, and then the
//! violation names it. Steps are bounded, for each search and for all of them, not time: the verdict on a history is
//! the same on every machine, and what is not decided within them is a violation of its own, not a pass. A store that
//! keeps its promises is decided in about as many steps as there are requests, because a value is written once: it
//! must not be overwritten while a request that saw it has no place yet, and what may have happened is tried only
//! where a value of it was seen.

use std::cmp::Reverse;
use std::collections::{HashMap, HashSet};

use super::operations::{self, ABSENT, FREE, Operation, Value};
use super::situation::Situation;
use super::{Rule, Violation};
use crate::history::{Call, History};

/// Steps after which a search is given up, beside those that every request takes.
const STEPS: usize = 200_000;
/// The same for all windows together.
const STEPS_OF_WINDOWS: usize = 1_000_000;
/// The same for one window.
const STEPS_OF_WINDOW: usize = 20_000;
/// Requests in a window.
const WINDOW: usize = 40;
/// Requests between the beginnings of windows.
const STRIDE: usize = 20;

pub(super) fn check(history: &History) -> Vec<Violation> {
    check_within(history, STEPS + history.calls.len())
}

/// The same with another number of steps for each search.
pub(super) fn check_within(history: &History, steps: usize) -> Vec<Violation> {
    let (operations, keys) = operations::operations(history);
    let hints: Vec<Hint> = history.calls.iter().map(hint).collect();
    let whole = Search::new(operations.clone(), &hints).run(vec![ABSENT; keys], &mut steps.clone());
    let Err(whole) = whole else { return Vec::new() };
    let mut found = parts(&operations, keys, &hints, steps);
    if !found.iter().any(|stuck| stuck.rule == Rule::Linearizable) {
        found.push(whole);
    }
    found.into_iter().map(|stuck| stuck.violation(history)).collect()
}

/// What is wrong with single keys, and with windows of all keys.
fn parts(operations: &[Operation], keys: usize, hints: &[Hint], steps: usize) -> Vec<Stuck> {
    let one_key = |key: usize| {
        let parts = operations.iter().filter_map(|op| op.on(key)).collect();
        Search::new(parts, hints).run(vec![ABSENT; keys], &mut steps.clone())
    };
    let mut left = STEPS_OF_WINDOWS;
    let window = |window| {
        let mut most = left.min(STEPS_OF_WINDOW).min(steps);
        left -= most;
        let verdict = Search::new(window, hints).run(vec![FREE; keys], &mut most);
        left += most;
        verdict
    };
    let windows: Vec<_> = windows(operations).into_iter().map(window).collect();
    (0..keys).map(one_key).chain(windows).filter_map(Result::err).collect()
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

/// What has led to a situation, and what can follow it.
struct Frame {
    /// The operation that was placed, with what it overwrote.
    placed: Option<(usize, Vec<(usize, Value)>)>,
    /// What can come next and has not been tried; the last first.
    choices: Vec<usize>,
}

struct Search<'a> {
    /// Those that did happen, by the time of their call, then those that may have.
    operations: Vec<Operation>,
    certain: usize,
    /// Of those that may have happened, which write a value, by the time of their call.
    writers: HashMap<(usize, Value), Vec<usize>>,
    /// By call.
    hints: &'a [Hint],
}

impl<'a> Search<'a> {
    fn new(operations: Vec<Operation>, hints: &'a [Hint]) -> Self {
        let mut operations = operations::relevant(operations);
        operations.sort_by_key(|op| (!op.certain, op.invoked));
        let certain = operations.partition_point(|op| op.certain);
        let mut writers: HashMap<_, Vec<usize>> = HashMap::new();
        for (index, operation) in operations.iter().enumerate().skip(certain) {
            operation.writes.iter().for_each(|cell| writers.entry(*cell).or_default().push(index));
        }
        Self { operations, certain, writers, hints }
    }

    fn hint(&self, index: usize) -> Hint {
        self.hints[self.operations[index].call]
    }

    /// Looks for an order from a first state on. Every try takes one of the steps that it may take.
    fn run(&self, start: Vec<Value>, most: &mut usize) -> Result<(), Stuck> {
        let mut now = Situation::new(&self.operations, self.certain, start);
        let mut known = HashSet::new();
        let mut deepest = Stuck { rule: Rule::Linearizable, calls: Vec::new(), placed: 0 };
        let mut stack = vec![Frame { placed: None, choices: self.choices(&now, &mut deepest) }];
        while let Some(frame) = stack.last_mut() {
            if now.is_over() {
                return Ok(());
            }
            let Some(next) = frame.choices.pop() else {
                if let Some((index, before)) = stack.pop().and_then(|frame| frame.placed) {
                    now.take_back(index, before);
                }
                continue;
            };
            match most.checked_sub(1) {
                Some(left) => *most = left,
                None => return Err(Stuck { rule: Rule::Undecided, ..deepest }),
            }
            if !now.allows(next) {
                continue;
            }
            let before = now.place(next);
            if known.insert(now.mark()) {
                stack.push(Frame { placed: Some((next, before)), choices: self.choices(&now, &mut deepest) });
            } else {
                now.take_back(next, before);
            }
        }
        Err(deepest)
    }

    /// What can come next: what was called before the first answer that has no place yet. Of what may have
    /// happened only that which one of those needs to have happened just before it.
    fn choices(&self, now: &Situation, deepest: &mut Stuck) -> Vec<usize> {
        let (open, first) = now.open();
        if now.depth() > deepest.placed || deepest.calls.is_empty() {
            deepest.calls.clear();
            deepest.calls.extend(open.iter().map(|index| self.operations[*index].call));
            deepest.placed = now.depth();
        }
        let next = open.iter().copied().min_by_key(|index| self.hint(*index));
        let (mut choices, waiting): (Vec<usize>, Vec<usize>) =
            open.into_iter().partition(|index| now.explains(*index));
        choices.sort_by_key(|index| Reverse((self.hint(*index), self.operations[*index].returned)));
        // The last is tried first: what the next one waits for, then what can come, then what others wait for.
        let next = next.filter(|next| waiting.contains(next));
        let due = next.map(|next| self.needed(now, first, &[next])).unwrap_or_default();
        let mut all = self.needed(now, first, &waiting);
        all.append(&mut choices);
        all.retain(|index| !due.contains(index));
        all.extend(due);
        all
    }

    /// Of what may have happened, that which writes what is waited for; and what that needs in turn.
    fn needed(&self, now: &Situation, first: u64, waiting: &[usize]) -> Vec<usize> {
        let mut wanted: Vec<(usize, Value)> = waiting.iter().flat_map(|index| now.lacks(*index)).collect();
        let mut found: Vec<usize> = Vec::new();
        let mut looked = 0;
        while let Some(want) = wanted.get(looked).copied() {
            looked += 1;
            let writers = self.writers.get(&want).into_iter().flatten().copied();
            for index in writers.take_while(|index| self.operations[*index].invoked <= first) {
                if now.is_open(index) && !found.iter().any(|other| self.equal(*other, index)) {
                    wanted.extend(now.lacks(index));
                    found.push(index);
                }
            }
        }
        found.retain(|index| now.explains(*index));
        found
    }

    /// Whether two that may have happened can stand for each other. The one that was called first then does.
    fn equal(&self, one: usize, other: usize) -> bool {
        let (one, other) = (&self.operations[one], &self.operations[other]);
        (&one.sees, &one.writes) == (&other.sees, &other.writes)
    }
}
