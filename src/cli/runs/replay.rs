//! `provost runs replay`: whether this version decides a recorded run as it was decided.

use serde_json::{Value, json};

use super::find;
use crate::cli::door::Address;
use crate::cli::exit::Code;
use crate::cli::{Cli, Error, print};
use crate::run::{Divergence, Replayed, RunId, RunState};
use crate::runtime::{self, Past, ReplayError, Replayer};
use crate::spec::visible;

/// What `provost runs replay` takes.
#[derive(Debug, clap::Args)]
pub struct Arguments {
    /// The run: its id, the beginning or the end of it, or `last`. It may be under way, parked or interrupted: what is
    /// recorded so far is decided again.
    #[arg(value_name = "RUN")]
    run: String,
}

pub(super) fn run(cli: &Cli, address: &Address, arguments: &Arguments) -> Result<Code, Error> {
    let (store, run) = find(address, &arguments.run)?;
    let past = Past::read(&store, &run)?;
    match Replayer::new().replay(&past) {
        Ok(replayed) => {
            match cli.json {
                true => print::json(&shape(&run, Some(&replayed), None))?,
                false => print::result(&same(&run, &past.state, &replayed))?,
            }
            Ok(Code::Done)
        }
        Err(ReplayError::Parted(divergence)) if cli.json => {
            print::json(&shape(&run, None, Some(&divergence)))?;
            Ok(Code::Failed)
        }
        Err(ReplayError::Parted(divergence)) => Err(Error::Failed {
            message: format!("run {run} {}", visible(&divergence.to_string())),
            hint: format!(
                "the record is as it was: provost runs show {run}; where the run goes on, it goes on as this version decides"
            ),
        }),
        Err(ReplayError::Unable(runtime::Error::NoSuchTool(tool))) => Err(Error::Failed {
            message: format!(
                "run {run} has the tool `{}` of the program that ran it, which is not known here",
                visible(&tool)
            ),
            hint: "replay it in that program, with provost::runtime::Replayer and its tools".to_owned(),
        }),
        Err(ReplayError::Unable(error)) => Err(error.into()),
    }
}

fn same(run: &RunId, state: &RunState, replayed: &Replayed) -> String {
    let so_far = if state.end().is_none() { " so far; the run has not ended" } else { "" };
    format!(
        "run {run} is decided as it was{so_far}\n  {}, {}, 0 tokens\n",
        print::counted(replayed.events, "event"),
        print::counted(replayed.decisions, "decision"),
    )
}

/// The public shape.
fn shape(run: &RunId, replayed: Option<&Replayed>, divergence: Option<&Divergence>) -> Value {
    let divergence = divergence.map(|parted| {
        json!({
            "seq": parted.seq,
            "agent": parted.agent,
            "step": parted.step,
            "recorded_by": parted.recorded_by,
            "recorded": parted.recorded,
            "decided_by": parted.decided_by(),
            "decided": parted.decided,
        })
    });
    json!({
        "run": run,
        "same": divergence.is_none(),
        "events": replayed.map(|replayed| replayed.events),
        "decisions": replayed.map(|replayed| replayed.decisions),
        "tokens": 0,
        "divergence": divergence,
    })
}
