//! `provost runs answer`: what an agent asked a person.

use serde_json::json;

use super::{act, find, stdin};
use crate::cli::attend::{Task, attend};
use crate::cli::door::Address;
use crate::cli::exit::Code;
use crate::cli::outcome::Form;
use crate::cli::{Cli, Error, Signals, print};
use crate::run::CallId;
use crate::serve::control::{AnswerRun, AnswerTaken, ClientError, Standing};

/// What `provost runs answer` takes.
#[derive(Debug, clap::Args)]
pub struct Arguments {
    /// The run: its id, the beginning or the end of it, or `last`.
    #[arg(value_name = "RUN")]
    run: String,
    /// The answer; `-` reads it from stdin.
    #[arg(value_name = "TEXT", allow_hyphen_values = true)]
    text: String,
    /// Which question, by its call as `provost runs show` names it, where several are open.
    #[arg(long, value_name = "CALL")]
    call: Option<CallId>,
    /// Print what happens as it happens, a JSON object a line; the last one holds the result.
    #[arg(long)]
    events: bool,
}

/// Writes the answer down, and goes on with a run at rest: one under way does so by itself.
pub(super) async fn run(cli: &Cli, address: &Address, arguments: &Arguments) -> Result<Code, Error> {
    let mut signals = Signals::catch();
    let text = match arguments.text.as_str() {
        "-" => stdin("the answer")?,
        text => text.to_owned(),
    };
    let (_, run) = find(address, &arguments.run)?;
    let body = AnswerRun { call: arguments.call.clone(), text };
    let taken = act(
        address,
        async |host| {
            let answered = host.answer(&run, body.call.clone(), &body.text).await?;
            Ok(AnswerTaken { run: run.clone(), call: answered.call, state: Standing::AtRest })
        },
        // Where the holder has just ended it is said again: it is taken once.
        async |client| match client.answer(&run, &body).await {
            Err(ClientError::Broken(_)) => Err(ClientError::Absent),
            taken => taken,
        },
    )
    .await?;
    if taken.state == Standing::UnderWay {
        match cli.json {
            true => print::json(&json!({ "run": run, "call": taken.call, "answered": true }))?,
            false => print::result(&format!("answered; the run goes on: provost runs watch {run}\n"))?,
        }
        return Ok(Code::Done);
    }
    let form = Form::of(cli, arguments.events);
    attend(address, &run, Task::resume(), form, &mut signals).await?.print_and_leave(form, &mut signals).await
}
