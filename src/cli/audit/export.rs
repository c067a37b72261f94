//! `provost audit export`: events as JSON Lines.

use serde_json::{Map, Value, json};

use super::events::{self, Filter};
use crate::budget::Entry;
use crate::cli::door::Address;
use crate::cli::exit::Code;
use crate::cli::follow::events::line;
use crate::cli::runs::{Since, find};
use crate::cli::{Error, print};
use crate::journal::Record;
use crate::runtime::read_entries;

/// What `provost audit export` takes.
#[derive(Debug, clap::Args)]
pub struct Arguments {
    /// The runs: their ids, the beginnings or the ends of them, or `last`; all where none is named.
    #[arg(value_name = "RUN")]
    runs: Vec<String>,
    /// The same.
    #[arg(long = "run", value_name = "RUN")]
    also: Vec<String>,
    /// Only the runs of this tenant. Of other tenants nothing is said.
    #[arg(long, value_name = "NAME")]
    tenant: Option<String>,
    /// Only what happened since: 2h, 7d, 2026-01-31.
    #[arg(long, value_name = "TIME")]
    since: Option<Since>,
    /// Only what happened before: 2h, 7d, 2026-01-31.
    #[arg(long, value_name = "TIME")]
    until: Option<Since>,
    /// Print the ledger's entries too, after the runs.
    #[arg(long)]
    ledger: bool,
}

pub(super) fn run(address: &Address, arguments: &Arguments) -> Result<Code, Error> {
    let filter = Filter {
        runs: arguments.runs.iter().chain(&arguments.also).map(String::as_str).collect(),
        since: arguments.since,
        until: arguments.until,
        tenant: arguments.tenant.as_deref(),
        ..Filter::default()
    };
    let Some(store) = address.store()? else {
        // A run that is named is one that is not there.
        arguments.runs.iter().chain(&arguments.also).try_for_each(|run| find(address, run).map(|_| ()))?;
        print::notice("there are no runs\n");
        return Ok(Code::Done);
    };
    let runs = filter.runs(address, &store)?;
    for run in &runs {
        events::each(&store, run, &filter, |found| {
            print_lines(found.iter().map(line))?;
            Ok(true)
        })?;
    }
    if arguments.ledger {
        let is_all = filter.runs.is_empty() && filter.tenant.is_none();
        let is_of = |entry: &Entry| is_all || entry.run().is_some_and(|run| runs.contains(run));
        let entries = read_entries(&store)?;
        let lines = entries.iter().filter(|(record, entry)| filter.is_then(record.time_ms) && is_of(entry));
        print_lines(lines.map(|(record, entry)| ledger_line(record, entry)))?;
    }
    Ok(Code::Done)
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
