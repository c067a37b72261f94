//! `provost runs dead-letters`: the messages that were given up.

mod drop;
mod list;
mod put_back;
mod show;

use std::collections::BTreeMap;

use serde_json::{Value, json};

use super::find;
use crate::cli::door::Address;
use crate::cli::exit::Code;
use crate::cli::{Cli, Error};
use crate::journal::Store;
use crate::run::LetterId;
use crate::runtime::{Letter, Past, Settled, Settlement, read_settled};

/// What `provost runs dead-letters` takes.
#[derive(Debug, clap::Args)]
#[command(args_conflicts_with_subcommands = true)]
pub struct Arguments {
    #[command(subcommand)]
    command: Option<Command>,
    /// Only those of this run: its id, the beginning or the end of it, or `last`.
    #[arg(value_name = "RUN")]
    run: Option<String>,
}

/// What is to be done with a dead letter.
#[derive(Debug, clap::Subcommand)]
enum Command {
    /// Print the whole message, and what became of it.
    Show(Which),
    /// Give the message to its agent once more, in a run that begins with it, and go with that run to its end.
    PutBack(put_back::Arguments),
    /// Let nobody be asked about the message any more. It stays in its run.
    Drop(drop::Arguments),
}

/// Which dead letter.
#[derive(Debug, clap::Args)]
struct Which {
    /// The run: its id, the beginning or the end of it, or `last`.
    #[arg(value_name = "RUN")]
    run: String,
    /// The event that says that the message was given up; `provost runs dead-letters` numbers them.
    #[arg(value_name = "EVENT", allow_negative_numbers = true)]
    event: u64,
}

/// A dead letter, where it is, and what became of it.
struct Found {
    store: Store,
    past: Past,
    letter: Letter,
    settled: Option<Settled>,
}

impl Which {
    fn find(&self, address: &Address) -> Result<Found, Error> {
        let (store, run) = find(address, &self.run)?;
        let past = Past::read(&store, &run)?;
        let letter = past.letter(self.event)?;
        let settled = read_settled(&store)?.remove(&letter.id);
        Ok(Found { store, past, letter, settled })
    }
}

pub(super) async fn run(cli: &Cli, address: &Address, arguments: &Arguments) -> Result<Code, Error> {
    match &arguments.command {
        None => list::run(cli, address, arguments.run.as_deref()),
        Some(Command::Show(which)) => show::run(cli, address, which),
        Some(Command::PutBack(arguments)) => put_back::run(cli, address, arguments).await,
        Some(Command::Drop(arguments)) => drop::run(cli, address, arguments).await,
    }
}

/// Returns a run's dead letters that nobody has settled.
pub(super) fn open(past: &Past, settled: &BTreeMap<LetterId, Settled>) -> Vec<Letter> {
    past.letters().filter(|letter| !settled.contains_key(&letter.id)).collect()
}

/// Returns a dead letter in its public form, without its message.
fn to_json(letter: &Letter) -> Value {
    json!({
        "run": letter.id.run,
        "event": letter.id.event,
        "to": letter.to,
        "call": letter.call,
        "deliveries": letter.deliveries,
        "reason": letter.reason,
        "time_ms": letter.time_ms,
        "labels": letter.message.labels,
    })
}

/// Returns what became of a dead letter in its public form.
fn settled_to_json(settled: &Settled) -> Value {
    match &settled.how {
        Settlement::PutBack { into } => json!({ "how": "put_back", "into": into, "time_ms": settled.time_ms }),
        Settlement::Dropped { reason } => json!({ "how": "dropped", "reason": reason, "time_ms": settled.time_ms }),
    }
}
