//! Applies rules to the kernel with the `nft` program: the difference when the last state is known, else all.
//!
//! Keeps true: each call is one transaction; after a failure nothing is assumed about the kernel, and the next
//! call makes the whole table anew. Acts in the network namespace of the calling process.

use std::process::Stdio;

use tokio::io::AsyncWriteExt;
use tokio::process::Command;

use crate::Error;
use crate::ruleset::{Ruleset, TABLE};

/// The kernel's table as far as we know it.
#[derive(Debug, Default)]
pub struct Kernel {
    applied: Option<Ruleset>,
}

/// What applying did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Applied {
    /// The kernel had it all.
    Nothing,
    /// Only what changed.
    Difference,
    /// The whole table.
    Everything,
}

impl Kernel {
    /// What was applied last, if nothing failed since.
    #[must_use]
    pub fn applied(&self) -> Option<&Ruleset> {
        self.applied.as_ref()
    }

    /// Makes the kernel do what `rules` say.
    pub async fn apply(&mut self, rules: Ruleset) -> Result<Applied, Error> {
        let (text, done) = match self.applied.take() {
            Some(old) if old.base == rules.base => (rules.difference(&old), Applied::Difference),
            _ => (rules.render(), Applied::Everything),
        };
        if text.is_empty() {
            self.applied = Some(rules);
            return Ok(Applied::Nothing);
        }
        run(&["-f", "-"], &text).await?;
        self.applied = Some(rules);
        Ok(done)
    }

    /// Whether the table is still there; if not, the next [`Kernel::apply`] makes it anew.
    pub async fn check(&mut self) -> bool {
        let there = run(&["list", "chain", "ip", TABLE, "services"], "").await.is_ok();
        if !there {
            self.applied = None;
        }
        there
    }
}

/// Removes the table, if there is one.
pub(crate) async fn cleanup() -> Result<(), Error> {
    run(&["-f", "-"], &format!("add table ip {TABLE}\ndelete table ip {TABLE}\n")).await
}

async fn run(arguments: &[&str], input: &str) -> Result<(), Error> {
    let start = |source| Error::Nft { source };
    let mut child = Command::new("nft")
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .map_err(start)?;
    if let Some(mut stdin) = child.stdin.take() {
        // nft that ends early says why on stderr; that is the better message.
        let _ = stdin.write_all(input.as_bytes()).await;
    }
    let output = child.wait_with_output().await.map_err(start)?;
    if output.status.success() {
        return Ok(());
    }
    tracing::trace!(input, "refused");
    let message = String::from_utf8_lossy(&output.stderr).lines().take(5).collect::<Vec<_>>().join("; ");
    Err(Error::Refused { message })
}
