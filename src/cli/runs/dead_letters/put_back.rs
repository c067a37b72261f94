//! `provost runs dead-letters put-back`: a message that its agent gets once more.

use super::{Found, Which};
use crate::cli::attend::{Task, attend};
use crate::cli::door::Address;
use crate::cli::exit::Code;
use crate::cli::outcome::Form;
use crate::cli::{Cli, Error, Signals};
use crate::run::Priority;
use crate::runtime;
use crate::spec::{ModelOverride, Network};

/// What `provost runs dead-letters put-back` takes.
#[derive(Debug, clap::Args)]
pub(super) struct Arguments {
    #[command(flatten)]
    which: Which,
    /// Put this model in the place of all of the network's, or with NAME= of one: `sim`, `openai:MODEL`,
    /// `openai:MODEL@http://HOST:PORT/v1`, `anthropic:MODEL` or `anthropic:MODEL@http://HOST:PORT`.
    #[arg(long, value_name = "[NAME=]MODEL")]
    model: Vec<ModelOverride>,
    /// Its share where runs of its tenant wait for the same [default: that of the letter's run].
    #[arg(long, value_name = "PRIORITY", value_parser = crate::cli::priority())]
    priority: Option<Priority>,
    /// Print what happens as it happens, a JSON object a line; the last one holds the result.
    #[arg(long)]
    events: bool,
}

pub(super) async fn run(cli: &Cli, address: &Address, arguments: &Arguments) -> Result<Code, Error> {
    let mut signals = Signals::catch();
    let Found { store, past, letter, settled } = arguments.which.find(address)?;
    if let Some(settled) = settled {
        return Err(runtime::Error::Settled(Box::new(settled)).into());
    }
    if let Ok(network) = Network::from_text(&past.network()) {
        // Another process would say only in words that the network is not valid.
        arguments.model.iter().try_fold(network, |network, with| with.apply(network))?;
    }
    drop((store, past));
    let id = runtime::new_run_id();
    let task = Task::PutBack { letter: letter.id, priority: arguments.priority, models: arguments.model.clone() };
    let form = Form::of(cli, arguments.events);
    attend(address, &id, task, form, &mut signals).await?.print_and_leave(form, &mut signals).await
}
