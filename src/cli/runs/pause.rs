//! `provost runs pause`: letting a run begin no more calls for now.

use serde_json::json;

use super::{act, find};
use crate::cli::door::Address;
use crate::cli::exit::Code;
use crate::cli::{Cli, Error, print};

/// What `provost runs pause` takes.
#[derive(Debug, clap::Args)]
pub struct Arguments {
    /// The run: its id, the beginning or the end of it, or `last`.
    #[arg(value_name = "RUN")]
    run: String,
}

pub(super) async fn run(cli: &Cli, address: &Address, arguments: &Arguments) -> Result<Code, Error> {
    let (_, run) = find(address, &arguments.run)?;
    act(address, async |host| host.pause(&run).await, async |client| client.pause(&run).await.map(drop)).await?;
    match cli.json {
        true => print::json(&json!({ "run": run, "paused": true }))?,
        false => print::result(&format!(
            "run {run} is paused: calls under way end, no others begin; go on with: provost runs resume {run}\n"
        ))?,
    }
    Ok(Code::Done)
}
