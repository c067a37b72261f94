//! `provost approvals`: what awaits approval, and what people say of it.

mod list;
mod say;

use super::door::Address;
use super::exit::Code;
use super::{Cli, Error};

/// What `provost approvals` takes.
#[derive(Debug, clap::Args)]
#[command(args_conflicts_with_subcommands = true)]
pub struct Arguments {
    #[command(subcommand)]
    command: Option<Command>,
    #[command(flatten)]
    list: list::Arguments,
}

/// What is to be done with what awaits approval.
#[derive(Debug, clap::Subcommand)]
enum Command {
    /// Say who wants what and why, and what would change. What is done when nothing is said.
    List(list::Arguments),
    /// Let a call happen, once: this very call, by this agent, as it was asked about. A run at rest goes on with it.
    Approve(say::Approve),
    /// Do not let a call happen; its agent goes on without it.
    Reject(say::Reject),
    /// Let a call happen with other arguments, which policy decides on anew.
    Edit(say::Edit),
}

pub(super) fn run(cli: &Cli, arguments: &Arguments) -> Result<Code, Error> {
    super::quiet_panics();
    let address = Address::of(cli)?;
    let tokio = super::tokio_runtime()?;
    let done = tokio.block_on(async {
        match &arguments.command {
            None => list::run(cli, &address, &arguments.list).await,
            Some(Command::List(list)) => list::run(cli, &address, list).await,
            Some(Command::Approve(approve)) => say::approve(cli, &address, approve).await,
            Some(Command::Reject(reject)) => say::reject(cli, &address, reject).await,
            Some(Command::Edit(edit)) => say::edit(cli, &address, edit).await,
        }
    });
    super::leave(tokio);
    done
}
