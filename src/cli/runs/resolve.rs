//! `provost runs resolve`: what became of a call that is in doubt.

use serde_json::json;

use super::{act, find, stdin};
use crate::cli::door::Address;
use crate::cli::exit::Code;
use crate::cli::{Cli, Error, print};
use crate::run::{CallId, Resolution};
use crate::serve::control::ResolveRun;
use crate::spec::visible;

/// What `provost runs resolve` takes.
#[derive(Debug, clap::Args)]
pub struct Arguments {
    /// The run: its id, the beginning or the end of it, or `last`.
    #[arg(value_name = "RUN")]
    run: String,
    /// The call, as `provost runs show` names it.
    #[arg(value_name = "CALL")]
    call: CallId,
    #[command(flatten)]
    how: How,
}

#[derive(Debug, clap::Args)]
#[group(required = true, multiple = false)]
struct How {
    /// It happened, and this is its result, as the model is to read it; `-` reads it from stdin.
    #[arg(long, value_name = "RESULT", allow_hyphen_values = true)]
    done: Option<String>,
    /// It did not happen, and is to be made now.
    #[arg(long)]
    retry: bool,
    /// It counts as failed, and the model is told so.
    #[arg(long)]
    fail: bool,
}

impl How {
    fn resolution(&self) -> Result<Resolution, Error> {
        Ok(match &self.done {
            Some(dash) if dash == "-" => Resolution::Done { result: stdin("the result")? },
            Some(result) => Resolution::Done { result: result.clone() },
            None if self.retry => Resolution::Retry,
            None => Resolution::Fail,
        })
    }
}

pub(super) async fn run(cli: &Cli, address: &Address, arguments: &Arguments) -> Result<Code, Error> {
    let (_, run) = find(address, &arguments.run)?;
    let body = ResolveRun { call: arguments.call.clone(), resolution: arguments.how.resolution()? };
    act(
        address,
        async |host| host.resolve(&run, body.call.clone(), body.resolution.clone()).await,
        async |client| client.resolve(&run, &body).await.map(drop),
    )
    .await?;
    match cli.json {
        true => print::json(&json!({ "run": run, "call": body.call, "resolution": body.resolution }))?,
        false => print::result(&format!(
            "call {} is resolved; go on with: provost runs resume {run}\n",
            visible(&body.call.to_string())
        ))?,
    }
    Ok(Code::Done)
}
