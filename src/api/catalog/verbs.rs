//! Sets of verbs.

/// A set of the verbs of a resource.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Verbs(u8);

#[allow(missing_docs)] // The names are the documentation.
impl Verbs {
    pub const CREATE: Self = Self(1);
    pub const DELETE: Self = Self(2);
    pub const DELETE_COLLECTION: Self = Self(4);
    pub const GET: Self = Self(8);
    pub const LIST: Self = Self(16);
    pub const PATCH: Self = Self(32);
    pub const UPDATE: Self = Self(64);
    pub const WATCH: Self = Self(128);
    pub const NONE: Self = Self(0);
    pub const ALL: Self = Self(255);
    /// get, patch, update: what most subresources have.
    pub const SUB: Self = Self(8 | 32 | 64);
}

const VERB_NAMES: [&str; 8] =
    ["create", "delete", "deletecollection", "get", "list", "patch", "update", "watch"];

impl Verbs {
    /// The verbs of both sets.
    #[must_use]
    pub const fn or(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    /// The verbs of this set without those of the other.
    #[must_use]
    pub const fn without(self, other: Self) -> Self {
        Self(self.0 & !other.0)
    }

    /// Whether every verb of the other set is in this one.
    pub const fn contains(self, other: Self) -> bool {
        self.0 & other.0 == other.0
    }

    /// Whether the verb of this name is in the set.
    pub fn has(self, verb: &str) -> bool {
        VERB_NAMES.iter().position(|n| *n == verb).is_some_and(|i| self.0 & (1 << i) != 0)
    }

    /// The names, sorted, as discovery lists them.
    pub fn names(self) -> impl Iterator<Item = &'static str> {
        VERB_NAMES.into_iter().enumerate().filter(move |(i, _)| self.0 & (1 << i) != 0).map(|(_, n)| n)
    }

    /// The set of verbs with these names; others are ignored.
    pub fn from_names<'a>(names: impl IntoIterator<Item = &'a str>) -> Self {
        let bit = |name| VERB_NAMES.iter().position(|n| *n == name).map_or(0, |i| 1 << i);
        Self(names.into_iter().map(bit).fold(0, |a, b| a | b))
    }
}
