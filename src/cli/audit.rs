//! `provost audit`: the record of all runs, checked, searched and written out.

mod anchor;
mod events;
mod export;
mod key;
mod query;
mod verify;

use super::door::Address;
use super::exit::Code;
use super::{Cli, Error};

/// What is to be done with the record.
#[derive(Debug, clap::Subcommand)]
pub enum Command {
    /// Check every event, hash and chain of the store, that every run can be read, that the ledger agrees with the
    /// runs, and that the store is the one that its checkpoints name. Changes nothing.
    Verify(verify::Arguments),
    /// Print the events of runs as JSON Lines.
    Export(export::Arguments),
    /// Find events over all runs, by what happened, where, and when.
    Query(query::Arguments),
    /// Keep checkpoints in a place outside, where a changed store can be told from the one that was written.
    #[command(subcommand)]
    Anchor(anchor::Command),
    /// Print the public key that this data directory's checkpoints are signed with; it is made if there is none.
    Key,
}

pub(super) fn run(cli: &Cli, command: &Command) -> Result<Code, Error> {
    let address = Address::of(cli)?;
    match command {
        Command::Verify(arguments) => verify::run(cli, &address, arguments),
        Command::Export(arguments) => export::run(&address, arguments),
        Command::Query(arguments) => query::run(cli, &address, arguments),
        Command::Anchor(command) => anchor::run(cli, &address, command),
        Command::Key => key::run(cli, &address),
    }
}
