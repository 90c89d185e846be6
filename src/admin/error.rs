//! Everything that can go wrong for the operator's commands, by cause.

use std::path::PathBuf;

/// Why a command failed. The source (`std::error::Error::source`) says what the system answered.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A file or folder could not be read.
    #[error("cannot read {}: check that it exists and that this user may read it", path.display())]
    Read {
        /// What was to be read.
        path: PathBuf,
        /// The system's answer.
        source: std::io::Error,
    },
    /// A file or folder could not be written.
    #[error("cannot write {}: check the folder's owner and the free space", path.display())]
    Write {
        /// What was to be written.
        path: PathBuf,
        /// The system's answer.
        source: std::io::Error,
    },
    /// Half of an authority is there: it is not replaced, because everything it signed would be worthless.
    #[error("{} is missing although its other half is there: restore it from a backup, or remove both files to start a new cluster", path.display())]
    HalfAuthority {
        /// The half that is missing.
        path: PathBuf,
    },
    /// A file is not what its name says.
    #[error("{} is not {expected}: restore it from a backup", path.display())]
    Malformed {
        /// The file.
        path: PathBuf,
        /// What it should be.
        expected: &'static str,
    },
    /// A certificate or key could not be made.
    #[error("cannot make {what}")]
    Issue {
        /// Which one.
        what: String,
        /// The library's answer.
        source: rcgen::Error,
    },
    /// A text cannot stand in a certificate as a name.
    #[error("{name:?} cannot be a name in a certificate: use a DNS name or an IP address")]
    BadName {
        /// The text.
        name: String,
    },
    /// The command was told to stop.
    #[error("interrupted before it was done; run it again")]
    Interrupted,
}
