//! `provost runs cancel`: ending runs.

use serde_json::{Value, json};

use super::{act, find};
use crate::cli::door::Address;
use crate::cli::exit::Code;
use crate::cli::{Cli, Error, outcome, print};
use crate::journal::Store;
use crate::run::RunId;
use crate::runtime::{Past, Report, run_of};

/// Why the runs end, as it stands in their reports.
const REASON: &str = "cancelled by a person";

/// What `provost runs cancel` takes.
#[derive(Debug, clap::Args)]
pub struct Arguments {
    /// The runs: their ids, the beginnings or the ends of them, or `last`.
    #[arg(value_name = "RUN", required_unless_present = "all")]
    runs: Vec<String>,
    /// Cancel all runs that have not ended: those under way, interrupted and parked.
    #[arg(long, conflicts_with = "runs")]
    all: bool,
}

pub(super) async fn run(cli: &Cli, address: &Address, arguments: &Arguments) -> Result<Code, Error> {
    let named: Result<Vec<RunId>, Error> =
        arguments.runs.iter().map(|text| find(address, text).map(|(_, run)| run)).collect();
    let runs = if arguments.all { open(address)? } else { named? };
    if runs.is_empty() {
        print::notice("no run is under way, interrupted or parked\n");
    }
    let mut cancelled: Vec<Value> = Vec::new();
    for run in runs {
        act(
            address,
            async |host| host.cancel(&run, REASON).await,
            async |client| client.cancel(&run, REASON).await.map(drop),
        )
        .await?;
        let report = Report::of(&Past::read(&Store::open(&address.directory)?, &run)?.state);
        if cli.json {
            cancelled.push(json!({ "run": run, "status": report.status }));
        } else if report.status.can_go_on() {
            print::result(&format!("run {run} is being cancelled; see it end with: provost runs watch {run}\n"))?;
        } else {
            print::result(&format!("run {run}: {}\n", outcome::word(report.status)))?;
        }
    }
    if cli.json {
        print::json(&cancelled.into())?;
    }
    Ok(Code::Done)
}

/// Returns the runs that have not ended for good.
fn open(address: &Address) -> Result<Vec<RunId>, Error> {
    let Some(store) = address.store()? else { return Ok(Vec::new()) };
    let streams = store.streams("run/")?;
    let open = streams.iter().filter(|info| info.mark.as_ref().is_none_or(|mark| !mark.closed));
    Ok(open.filter_map(|info| run_of(&info.name)).collect())
}
