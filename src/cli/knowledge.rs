//! `provost knowledge`: files that agents can look things up in.

mod add;
mod list;
mod remove;
mod search;

use super::exit::Code;
use super::{Cli, Error, data_directory};
use crate::memory::{self, Knowledge};
use crate::spec::{MAX_NAME, is_name, visible};

/// What is to be done with indexed files.
#[derive(Debug, clap::Subcommand)]
pub enum Command {
    /// Index files and directories under a name. What has not changed since is not read again.
    Add(add::Arguments),
    /// List what is indexed.
    List,
    /// Take files, or all that is indexed under a name, out of the index.
    Remove(remove::Arguments),
    /// Search what is indexed under a name, as the tool `knowledge.search` does.
    Search(search::Arguments),
}

pub(super) fn run(cli: &Cli, command: &Command) -> Result<Code, Error> {
    match command {
        Command::Add(arguments) => add::run(cli, arguments),
        Command::List => list::run(cli),
        Command::Remove(arguments) => remove::run(cli, arguments),
        Command::Search(arguments) => search::run(cli, arguments),
    }
}

/// Opens what is indexed, to look for something under a name.
fn open(cli: &Cli, name: &str) -> Result<Knowledge, Error> {
    let opened = Knowledge::open(&data_directory(cli)?)?;
    opened.ok_or_else(|| memory::Error::NotIndexed { name: name.to_owned() }.into())
}

/// Reads a name under which something is, or is to be, indexed.
fn name(text: &str) -> Result<String, String> {
    match is_name(text) {
        true => Ok(text.to_owned()),
        false => Err(format!("a name has 1 to {MAX_NAME} letters (a to z), digits, `_` and `-`")),
    }
}

impl From<memory::Error> for Error {
    fn from(error: memory::Error) -> Self {
        use memory::Error as E;
        let message = visible(&error.to_string()).into_owned();
        let hint = match &error {
            E::Foreign { .. } => "name another directory with --data-dir, or put that file elsewhere",
            E::Newer { .. } => "use the Provost that wrote it, or a newer one",
            E::Damaged { .. } => "put that file elsewhere: an index is made again by `provost knowledge add`",
            E::Io { .. } => "make room there, or name a directory that you may write with --data-dir",
            E::NotIndexed { .. } | E::NotAmong { .. } => "`provost knowledge list` says what is indexed",
            _ => "",
        };
        let hint = hint.to_owned();
        match error {
            error if error.is_of_the_file() => Self::Store { message, hint },
            E::TooManyPassages { .. } | E::NoVector => Self::Failed { message, hint },
            _ => Self::Usage { message, hint },
        }
    }
}
