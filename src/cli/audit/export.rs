//! `provost audit export`: events as JSON Lines.

use serde_json::{Map, Value, json};

use crate::budget::Entry;
use crate::cli::door::Address;
use crate::cli::exit::Code;
use crate::cli::follow::events;
use crate::cli::runs::{Since, find};
use crate::cli::{Error, print};
use crate::journal::{self, Record, Store};
use crate::run::RunId;
use crate::runtime::{self, Past, read_entries, run_of};

/// What `provost audit export` takes.
#[derive(Debug, clap::Args)]
pub struct Arguments {
    /// The runs: their ids, the beginnings or the ends of them, or `last`; all where none is named.
    #[arg(value_name = "RUN")]
    runs: Vec<String>,
    /// Only what happened since: 2h, 7d, 2026-01-31.
    #[arg(long, value_name = "TIME")]
    since: Option<Since>,
    /// Print the ledger's entries too, after the runs.
    #[arg(long)]
    ledger: bool,
}

pub(super) fn run(address: &Address, arguments: &Arguments) -> Result<Code, Error> {
    let named: Result<Vec<RunId>, Error> =
        arguments.runs.iter().map(|text| find(address, text).map(|(_, run)| run)).collect();
    let named = named?;
    let Some(store) = address.store()? else {
        print::notice("there are no runs\n");
        return Ok(Code::Done);
    };
    let runs = match named.is_empty() {
        true => store.streams("run/")?.iter().filter_map(|info| run_of(&info.name)).collect(),
        false => named.clone(),
    };
    let is_meant = |time_ms: u64| arguments.since.is_none_or(|since| time_ms >= since.time_ms);
    for run in &runs {
        export(&store, run, is_meant)?;
    }
    if arguments.ledger {
        let entries = read_entries(&store)?;
        let is_of = |entry: &Entry| named.is_empty() || entry.run().is_some_and(|run| named.contains(run));
        let lines = entries.iter().filter(|(record, entry)| is_meant(record.time_ms) && is_of(entry));
        print_lines(lines.map(|(record, entry)| ledger_line(record, entry)))?;
    }
    Ok(Code::Done)
}

fn export(store: &Store, run: &RunId, is_meant: impl Fn(u64) -> bool) -> Result<(), Error> {
    let past = match Past::read(store, run) {
        Err(runtime::Error::Journal(journal::Error::Pruned { .. })) => {
            print::notice(&format!("note: the events of run {run} have been pruned\n"));
            return Ok(());
        }
        past => past?,
    };
    let meant = past.events.iter().filter(|envelope| is_meant(envelope.time_ms));
    print_lines(meant.map(|envelope| events::line(envelope)))
}

/// Prints many lines, as one.
fn print_lines(lines: impl Iterator<Item = Value>) -> Result<(), Error> {
    let text: String = lines.map(|line| print::json_line(&line)).collect();
    print::result(&text)
}

fn ledger_line(record: &Record, entry: &Entry) -> Value {
    let stored = json!(entry);
    let inside = stored.as_object().and_then(|stored| stored.values().next()).and_then(Value::as_object);
    let mut line = Map::new();
    line.insert("ledger".to_owned(), json!(record.seq));
    line.insert("time_ms".to_owned(), json!(record.time_ms));
    line.insert("kind".to_owned(), json!(entry.kind()));
    line.extend(inside.cloned().unwrap_or_default());
    line.into()
}
