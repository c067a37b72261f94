//! `provost audit`: the record of all runs, checked and written out.

mod export;
mod verify;

use super::door::Address;
use super::exit::Code;
use super::{Cli, Error};

/// What is to be done with the record.
#[derive(Debug, clap::Subcommand)]
pub enum Command {
    /// Check every event, hash and chain of the store, that every run can be read, and that the ledger agrees with the
    /// runs. Changes nothing.
    Verify(verify::Arguments),
    /// Print the events of runs as JSON Lines.
    Export(export::Arguments),
}

pub(super) fn run(cli: &Cli, command: &Command) -> Result<Code, Error> {
    let address = Address::of(cli)?;
    match command {
        Command::Verify(arguments) => verify::run(cli, &address, arguments),
        Command::Export(arguments) => export::run(&address, arguments),
    }
}
