//! `provost audit query`: events over all runs.

use serde_json::json;

use super::events::{self, Filter};
use crate::cli::door::Address;
use crate::cli::exit::Code;
use crate::cli::follow::{events as lines, words};
use crate::cli::runs::{Since, find, local};
use crate::cli::{Cli, Error, print};
use crate::run::{Envelope, Event};

/// What `provost audit query` takes.
#[derive(Debug, clap::Args)]
pub struct Arguments {
    /// Only events of this kind; can be given several times.
    #[arg(long = "kind", value_name = "KIND", value_parser = kind)]
    kinds: Vec<String>,
    /// Only those of this run: its id, the beginning or the end of it, or `last`; can be given several times.
    #[arg(long = "run", value_name = "RUN")]
    runs: Vec<String>,
    /// Only those of this agent: its name, or the id of one instance.
    #[arg(long, value_name = "AGENT")]
    agent: Option<String>,
    /// Only those of calls of this tool.
    #[arg(long, value_name = "TOOL")]
    tool: Option<String>,
    /// Only those of this tenant's runs. Of other tenants nothing is said.
    #[arg(long, value_name = "NAME")]
    tenant: Option<String>,
    /// Only what happened since: 2h, 7d, 2026-01-31.
    #[arg(long, value_name = "TIME")]
    since: Option<Since>,
    /// Only what happened before: 2h, 7d, 2026-01-31.
    #[arg(long, value_name = "TIME")]
    until: Option<Since>,
    /// At most so many, the first of them.
    #[arg(long, value_name = "N")]
    limit: Option<usize>,
}

/// Reads a kind of event, of which there is a list.
fn kind(text: &str) -> Result<String, String> {
    let read = serde_json::from_value::<Event>(json!({ text: {} }));
    let why = read.err().map(|error| error.to_string()).unwrap_or_default();
    match why.strip_prefix("unknown variant").and_then(|_| why.split_once("expected one of ")) {
        Some((_, kinds)) => Err(format!("there is no such kind of event; the kinds are {}", kinds.replace('`', ""))),
        None => Ok(text.to_owned()),
    }
}

pub(super) fn run(cli: &Cli, address: &Address, arguments: &Arguments) -> Result<Code, Error> {
    let filter = Filter {
        runs: arguments.runs.iter().map(String::as_str).collect(),
        since: arguments.since,
        until: arguments.until,
        tenant: arguments.tenant.as_deref(),
        kinds: &arguments.kinds,
        agent: arguments.agent.as_deref(),
        tool: arguments.tool.as_deref(),
    };
    let Some(store) = address.store()? else {
        // A run that is named is one that is not there.
        arguments.runs.iter().try_for_each(|run| find(address, run).map(|_| ()))?;
        print::notice("there are no runs\n");
        return Ok(Code::Done);
    };
    let mut count = 0;
    let (mut left, mut is_first) = (arguments.limit.unwrap_or(usize::MAX), true);
    for run in filter.runs(address, &store)? {
        let is_more = events::each(&store, &run, &filter, |found| {
            let found = &found[..found.len().min(left)];
            (left, count) = (left - found.len(), count + found.len());
            let mut text = String::new();
            if !found.is_empty() && std::mem::take(&mut is_first) && !cli.json {
                text.push_str(&head());
            }
            found.iter().for_each(|envelope| text.push_str(&line(cli, envelope)));
            print::result(&text)?;
            Ok(left > 0)
        })?;
        if !is_more {
            break;
        }
    }
    if count == 0 {
        print::notice("note: no event matches\n");
    }
    Ok(Code::Done)
}

/// The columns have the widths of what stands in most of them: the table is printed while it is read.
fn head() -> String {
    format!("{:<19}  {:<26}  {:>5}  {:<18}  WHAT\n", "WHEN", "RUN", "EVENT", "KIND")
}

fn line(cli: &Cli, envelope: &Envelope) -> String {
    if cli.json {
        return print::json_line(&lines::line(envelope));
    }
    let (when, run, kind) = (local(envelope.time_ms), &envelope.stream.run, envelope.event.kind());
    format!("{when:<19}  {:<26}  {:>5}  {kind:<18}  {}\n", run.as_str(), envelope.seq, words::sentence(envelope))
}
