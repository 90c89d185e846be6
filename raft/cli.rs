//! `trireme store`: a member, or a tool for what members have saved.

use crate::{
    backup::{self, Tool},
    error::Error,
    flags::Flags,
    run,
};
use std::io::Write;
use tokio_util::sync::CancellationToken;

/// The store's whole command line.
#[derive(clap::Args, Clone, Debug)]
#[command(args_conflicts_with_subcommands = true)]
pub struct Cli {
    /// What to do instead of running a member.
    #[command(subcommand)]
    pub tool: Option<Tool>,
    /// The member's flags.
    #[command(flatten)]
    pub flags: Flags,
}

/// Runs a member until `stop`, or does what a tool is for and prints what came of it.
pub async fn store(cli: Cli, stop: CancellationToken) -> Result<(), Error> {
    let Some(tool) = cli.tool else { return run::run(cli.flags, stop).await };
    let text = backup::perform(tool, stop).await?;
    // A reader that is gone does not change what was done.
    let _ = writeln!(std::io::stdout().lock(), "{text}");
    Ok(())
}
