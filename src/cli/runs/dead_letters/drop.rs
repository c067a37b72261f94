//! `provost runs dead-letters drop`: a message that nobody wants any more.

use serde_json::json;

use super::Which;
use crate::cli::door::Address;
use crate::cli::exit::Code;
use crate::cli::runs::act;
use crate::cli::{Cli, Error, print};
use crate::serve::control::DropLetter;

/// What `provost runs dead-letters drop` takes.
#[derive(Debug, clap::Args)]
pub(super) struct Arguments {
    #[command(flatten)]
    which: Which,
    /// Why, for whoever looks at it later.
    #[arg(long, value_name = "TEXT", allow_hyphen_values = true)]
    reason: Option<String>,
}

pub(super) async fn run(cli: &Cli, address: &Address, arguments: &Arguments) -> Result<Code, Error> {
    let id = arguments.which.find(address)?.letter.id;
    let body = DropLetter { event: id.event, reason: arguments.reason.clone() };
    act(
        address,
        async |host| host.drop_letter(&id, body.reason.clone()).await,
        async |client| client.drop_letter(&id.run, &body).await.map(drop),
    )
    .await?;
    match cli.json {
        true => print::json(&json!({ "run": id.run, "event": id.event, "dropped": true }))?,
        false => print::result(&format!("the dead letter of event {} of run {} is dropped\n", id.event, id.run))?,
    }
    Ok(Code::Done)
}
