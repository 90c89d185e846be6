//! Reads and comparisons: which keys a query means, in which order, and whether a transaction's conditions hold.
//!
//! Keeps true: pure but for reading values through the [`Values`] seam. The answer is etcd's in every combination
//! of options: the count is of all keys in the range, filtered or not; the limit comes after filters and order,
//! except where etcd puts it first ([`Sort::after_limit`]).

use crate::{
    command::{Compare, Comparison, Fault, KeyValue, Range, RangeResult, Sort, SortBy, Target},
    index::{Index, Live},
    mvcc::{State, Values},
    record::Record,
    revision::{KeyRange, Revision},
    work::mutant,
};
use bytes::Bytes;
use std::{cmp::Ordering, io};

/// Whether reads at this revision (0 for now) can be answered.
pub(crate) fn check_revision(state: &State, revision: i64) -> Result<(), Fault> {
    if revision > state.revision {
        return Err(Fault::FutureRevision);
    }
    if revision > 0 && revision < state.compacted && !mutant!(ReadsCompacted) {
        return Err(Fault::Compacted);
    }
    Ok(())
}

/// The same for a read within a transaction, where etcd does not take a negative revision for now.
pub(crate) fn check_revision_in_txn(state: &State, revision: i64) -> Result<(), Fault> {
    if revision < 0 && revision < state.compacted {
        return Err(Fault::Compacted);
    }
    check_revision(state, revision)
}

/// Whether every key of a comparison's range satisfies it; a key that is not there counts as one of zeros, but has
/// no value to compare.
pub(crate) fn holds(index: &Index, values: &dyn Values, compare: &Compare) -> io::Result<bool> {
    let range = KeyRange::new(&compare.key, &compare.end);
    let mut found = index.alive(&range).peekable();
    if found.peek().is_none() {
        let absent = Live::default();
        return Ok(match &compare.target {
            Target::Value(_) => false,
            target => related(absent_or(absent, target), compare.comparison),
        });
    }
    for (_, live) in found {
        let order = match &compare.target {
            Target::Value(value) => match values.load(live.modified)? {
                Some(kv) => kv.value.cmp(value),
                None => return Ok(false),
            },
            target => absent_or(live, target),
        };
        if !related(order, compare.comparison) {
            return Ok(false);
        }
    }
    Ok(true)
}

fn absent_or(live: Live, target: &Target) -> Ordering {
    match target {
        Target::Version(version) => live.version.cmp(version),
        Target::Create(revision) => live.create.cmp(revision),
        Target::Modified(revision) => live.modified.main.cmp(revision),
        Target::Lease(lease) => live.lease.cmp(lease),
        Target::Value(_) => Ordering::Less,
    }
}

fn related(order: Ordering, comparison: Comparison) -> bool {
    match comparison {
        Comparison::Equal => order.is_eq(),
        Comparison::Greater => order.is_gt(),
        Comparison::Less => order.is_lt(),
        Comparison::NotEqual => order.is_ne(),
    }
}

/// Where the values of an answer lie. Found under the lock, read after it.
pub(crate) struct Found {
    places: Vec<Revision>,
    count: i64,
    more: bool,
}

impl Found {
    /// How many values are to be read.
    pub(crate) fn len(&self) -> usize {
        self.places.len()
    }

    /// Reads the values and puts them in order.
    pub(crate) fn read(self, query: &Range, values: &dyn Values) -> io::Result<RangeResult> {
        let missing =
            || io::Error::new(io::ErrorKind::InvalidData, "a value that the index knows is not on disk");
        let records = values.records(&self.places)?.into_iter().map(|record| record.ok_or_else(missing));
        if query.sort.is_none() && !query.keys_only && !filtered(query) {
            return Ok(RangeResult {
                kvs: records.collect::<io::Result<_>>()?,
                more: self.more,
                count: self.count,
            });
        }
        let mut kvs = Vec::with_capacity(self.places.len());
        for record in records {
            let mut kv = record?.open()?;
            if !matches(query, &kv) {
                continue;
            }
            if query.keys_only && query.sort.is_none_or(|sort| sort.by != SortBy::Value) {
                kv.value = Bytes::new();
            }
            kvs.push(kv);
        }
        let mut more = self.more;
        if let Some(sort) = query.sort {
            order(&mut kvs, sort);
        }
        if let Some(limit) = limit(query).filter(|limit| kvs.len() > *limit) {
            kvs.truncate(limit);
            more = true;
        }
        if query.keys_only {
            kvs.iter_mut().for_each(|kv| kv.value = Bytes::new());
        }
        Ok(RangeResult { kvs: kvs.iter().map(Record::from).collect(), more, count: self.count })
    }
}

/// Finds what a query asks for at a revision. Without order and filters only as many as the limit are collected,
/// but all are counted.
pub(crate) fn find(index: &Index, query: &Range, at: i64) -> Found {
    let range = KeyRange::new(&query.key, &query.end);
    let collect = match limit(query) {
        _ if query.count_only => 0,
        Some(limit) if query.sort.is_none() && !filtered(query) => limit,
        // One more than the limit: etcd cuts to the limit only after it has put these in order.
        Some(limit) if query.sort.is_some_and(|sort| sort.after_limit) && !filtered(query) => {
            limit.saturating_add(1)
        }
        _ => usize::MAX,
    };
    let places: Vec<Revision> = index.range(&range, at).map(|(_, place)| place).take(collect).collect();
    // Fewer than the limit are all there are.
    let count = if places.len() < collect { places.len() } else { index.count(&range, at) };
    let more = !query.count_only && places.len() < count;
    Found { places, count: i64::try_from(count).unwrap_or(i64::MAX), more }
}

/// How many values a query reads at most, if that can be told; not of the past, where keys are counted one by one.
pub(crate) fn most(query: &Range) -> Option<usize> {
    match limit(query) {
        _ if query.end.is_empty() => Some(1),
        limit if query.revision <= 0 && query.sort.is_none() && !filtered(query) => limit,
        _ => None,
    }
}

fn limit(query: &Range) -> Option<usize> {
    usize::try_from(query.limit).ok().filter(|limit| *limit > 0)
}

fn filtered(query: &Range) -> bool {
    [query.min_mod, query.max_mod, query.min_create, query.max_create].iter().any(|bound| *bound != 0)
}

fn matches(query: &Range, kv: &KeyValue) -> bool {
    let within = |value: i64, min: i64, max: i64| (min == 0 || value >= min) && (max == 0 || value <= max);
    within(kv.modified, query.min_mod, query.max_mod) && within(kv.create, query.min_create, query.max_create)
}

fn order(kvs: &mut [KeyValue], sort: Sort) {
    let ascending = |a: &KeyValue, b: &KeyValue| match sort.by {
        SortBy::Key => a.key.cmp(&b.key),
        SortBy::Version => a.version.cmp(&b.version),
        SortBy::Create => a.create.cmp(&b.create),
        SortBy::Modified => a.modified.cmp(&b.modified),
        SortBy::Value => a.value.cmp(&b.value),
    };
    if sort.descending {
        kvs.sort_by(|a, b| ascending(b, a));
    } else {
        kvs.sort_by(ascending);
    }
}
