//! `provost runs steer`: telling an agent something while it is at work.

use serde_json::json;

use super::{act, find};
use crate::cli::door::Address;
use crate::cli::exit::Code;
use crate::cli::{Cli, Error, print};
use crate::run::AgentId;
use crate::serve::control::SteerRun;

/// What `provost runs steer` takes.
#[derive(Debug, clap::Args)]
pub struct Arguments {
    /// The run: its id, the beginning or the end of it, or `last`.
    #[arg(value_name = "RUN")]
    run: String,
    /// Which agent is told, by its id as the run's events have it; else the one that stands for the run.
    #[arg(long, value_name = "AGENT")]
    agent: Option<String>,
    /// What it is told.
    #[arg(value_name = "TEXT", allow_hyphen_values = true)]
    text: String,
}

pub(super) async fn run(cli: &Cli, address: &Address, arguments: &Arguments) -> Result<Code, Error> {
    if arguments.text.trim().is_empty() {
        return Err(Error::Usage { message: "there is nothing to tell".to_owned(), hint: String::new() });
    }
    let (_, run) = find(address, &arguments.run)?;
    let body = SteerRun { agent: arguments.agent.as_deref().map(AgentId::new), text: arguments.text.clone() };
    act(
        address,
        async |host| host.steer(&run, body.agent.clone(), body.text.clone()).await,
        async |client| client.steer(&run, &body).await.map(drop),
    )
    .await?;
    match cli.json {
        true => print::json(&json!({ "run": run, "steered": true }))?,
        false => print::result(&format!("told; it is read at the next step: provost runs watch {run}\n"))?,
    }
    Ok(Code::Done)
}
