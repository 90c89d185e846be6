//! Ordered keys made quick to search: a few bytes of each, side by side.
//!
//! Keeps true: what is sought is within the places that [`Heads::narrow`] returns, whatever the keys are. Keys of a store
//! begin alike and lie all over the memory, so comparing them one by one waits for the memory each time; behind what
//! all of them begin with, eight bytes tell most of them apart. The keys themselves are left to the caller.

use std::{cmp::Ordering, ops::Range};

/// Of sorted keys: what all begin with, and the eight bytes after that of each.
#[derive(Default)]
pub(crate) struct Heads {
    prefix: Vec<u8>,
    heads: Vec<u64>,
}

/// The eight bytes from a place on, as a number that sorts as they do; what is missing counts as zeros.
fn head(key: &[u8], from: usize) -> u64 {
    let rest = key.get(from..).unwrap_or_default();
    match rest.first_chunk() {
        Some(whole) => u64::from_be_bytes(*whole),
        None => {
            rest.iter().enumerate().fold(0, |head, (place, byte)| head | u64::from(*byte) << (56 - 8 * place))
        }
    }
}

fn common(a: &[u8], b: &[u8]) -> Vec<u8> {
    a.iter().zip(b).take_while(|(a, b)| a == b).map(|(byte, _)| *byte).collect()
}

impl Heads {
    /// Of these keys, which are sorted.
    pub(crate) fn new<'a>(keys: impl DoubleEndedIterator<Item = &'a [u8]> + Clone) -> Self {
        let (first, last) =
            (keys.clone().next().unwrap_or_default(), keys.clone().next_back().unwrap_or_default());
        let prefix = common(first, last);
        Self { heads: keys.map(|key| head(key, prefix.len())).collect(), prefix }
    }

    /// Takes in a key at its place. `false` if it does not begin as all the others do: then these are to be made anew.
    pub(crate) fn insert(&mut self, place: usize, key: &[u8]) -> bool {
        let fits = !self.heads.is_empty() && key.starts_with(&self.prefix);
        if fits {
            self.heads.insert(place, head(key, self.prefix.len()));
        }
        fits
    }

    /// The places where a key may be, or between which it belongs: all before are less, all after are greater.
    pub(crate) fn narrow(&self, key: &[u8]) -> Range<usize> {
        let all = self.heads.len();
        let begins = &key[..key.len().min(self.prefix.len())];
        match begins.cmp(&self.prefix) {
            Ordering::Less => 0..0,
            Ordering::Greater => all..all,
            Ordering::Equal => {
                let head = head(key, self.prefix.len());
                let from = self.heads.partition_point(|other| *other < head);
                let same = self.heads[from..].partition_point(|other| *other == head);
                from..from + same
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        /// Keys of few letters, so that many are equal for a while, end early or hold zeros.
        #[test]
        fn what_is_sought_is_within(mut keys: Vec<Key>, added: Vec<Key>, sought: Vec<Key>) {
            keys.sort();
            keys.dedup();
            let mut heads = made(&keys);
            for key in added {
                let Err(place) = keys.binary_search(&key) else { continue };
                keys.insert(place, key);
                if !heads.insert(place, &keys[place].0) {
                    heads = made(&keys);
                }
            }
            for key in keys.iter().chain(&sought) {
                let found = heads.narrow(&key.0);
                prop_assert!(keys[..found.start].iter().all(|other| other < key));
                prop_assert!(keys[found.end..].iter().all(|other| other > key));
            }
        }
    }

    fn made(keys: &[Key]) -> Heads {
        Heads::new(keys.iter().map(|key| &key.0[..]))
    }

    #[derive(Clone, Debug, Eq, Ord, PartialEq, PartialOrd)]
    struct Key(Vec<u8>);

    impl Arbitrary for Key {
        type Parameters = ();
        type Strategy = BoxedStrategy<Self>;

        fn arbitrary_with((): ()) -> Self::Strategy {
            let letters = prop_oneof![Just(0), Just(b'a'), Just(b'b'), Just(255)];
            let begin = prop_oneof![Just(""), Just("/registry/pods/"), Just("/registry/"), Just("/")];
            (begin, prop::collection::vec(letters, 0..12))
                .prop_map(|(begin, end)| Self([begin.as_bytes(), &end].concat()))
                .boxed()
        }
    }
}
