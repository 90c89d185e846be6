//! Where a walk through a tree is: links on the stack, written out only when there is something to report.

use crate::field::Path;

/// The way from the root to the value at hand.
#[derive(Clone, Copy)]
pub(super) enum Trail<'a> {
    /// The object itself, below a path.
    Root(&'a Path),
    /// A field of the value before.
    Field(&'a Trail<'a>, &'a str),
    /// An item of the list before.
    Index(&'a Trail<'a>, usize),
    /// An entry of the map before.
    Key(&'a Trail<'a>, &'a str),
}

impl Trail<'_> {
    /// The path: `spec.containers[0].env`.
    pub(super) fn path(&self) -> Path {
        match self {
            Self::Root(path) => (*path).clone(),
            Self::Field(before, name) => before.path().child(name),
            Self::Index(before, index) => before.path().index(*index),
            Self::Key(before, key) => before.path().key(key),
        }
    }

    /// Field names and keys only, as Go's decoder reports them: `spec.template.spec.containers.ports`.
    pub(super) fn names(&self) -> String {
        match self {
            Self::Root(_) => String::new(),
            Self::Index(before, _) => before.names(),
            Self::Field(before, name) | Self::Key(before, name) => match before.names() {
                names if names.is_empty() => (*name).to_owned(),
                names => format!("{names}.{name}"),
            },
        }
    }

    /// Whether this is the top-level field of that name, or inside it.
    pub(super) fn is_below(&self, field: &str) -> bool {
        match self {
            Self::Root(_) => false,
            Self::Field(Self::Root(_), name) => *name == field,
            Self::Field(before, _) | Self::Index(before, _) | Self::Key(before, _) => before.is_below(field),
        }
    }
}
