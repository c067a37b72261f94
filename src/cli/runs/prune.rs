//! `provost runs prune`: removing the events of runs that have ended.

use std::str::FromStr;

use serde_json::json;

use super::act;
use super::time::span;
use crate::cli::door::Address;
use crate::cli::exit::Code;
use crate::cli::{Cli, Error, print};
use crate::run::RunId;
use crate::runtime::run_of;
use crate::serve::control::{self, Keep, Prune, Removed};

/// What `provost runs prune` takes.
#[derive(Debug, clap::Args)]
pub struct Arguments {
    /// What is kept: so many of the runs that began last, or those that began within a span such as `7d` or `12h`.
    /// Runs that are under way, interrupted or parked are always kept, and those with dead letters that are not settled.
    #[arg(long, value_name = "N|SPAN")]
    keep: Kept,
    /// Only say what would go.
    #[arg(long)]
    dry_run: bool,
}

#[derive(Clone, Copy, Debug)]
struct Kept(Keep);

impl FromStr for Kept {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if let Ok(count) = text.parse() {
            return Ok(Self(Keep::Newest(count)));
        }
        let span = span(text).map_err(|_| "write a number of runs, or a span such as 7d or 12h".to_owned())?;
        Ok(Self(Keep::YoungerMs(u64::try_from(span.as_millis()).unwrap_or(u64::MAX))))
    }
}

pub(super) async fn run(cli: &Cli, address: &Address, arguments: &Arguments) -> Result<Code, Error> {
    let Kept(keep) = arguments.keep;
    // Where there is no store, none is made.
    let Some(store) = address.store()? else {
        return say(cli, Removed::default());
    };
    if arguments.dry_run {
        let going = control::prunable(&store, keep)?;
        let runs: Vec<RunId> = going.iter().filter_map(|info| run_of(&info.name)).collect();
        let events: u64 = going.iter().map(|info| info.head).sum();
        if cli.json {
            print::json(&json!({ "dry_run": true, "runs": runs, "events": events }))?;
        } else {
            let list: String = runs.iter().map(|run| format!("  {run}\n")).collect();
            let (runs, events) = (print::counted(runs.len() as u64, "run"), print::counted(events, "event"));
            print::result(&format!("{runs} with {events} would go\n{list}"))?;
        }
        return Ok(Code::Done);
    }
    drop(store);
    let removed =
        act(address, async |host| control::prune(host, keep).await, async |client| client.prune(&Prune { keep }).await);
    say(cli, removed.await?)
}

fn say(cli: &Cli, removed: Removed) -> Result<Code, Error> {
    let Removed { runs, events, blobs } = removed;
    if cli.json {
        print::json(&json!({ "dry_run": false, "runs": runs, "events": events, "blobs": blobs }))?;
    } else {
        let (runs, events, blobs) =
            (print::counted(runs, "run"), print::counted(events, "event"), print::counted(blobs, "blob"));
        print::result(&format!("removed {runs}: {events}, {blobs}; what they spent stays in the ledger\n"))?;
    }
    Ok(Code::Done)
}
