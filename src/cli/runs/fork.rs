//! `provost runs fork`: a run that begins from a point of another one's past.

use std::path::PathBuf;
use std::sync::Arc;

use super::find;
use crate::cli::attend::{Task, attend};
use crate::cli::door::Address;
use crate::cli::exit::Code;
use crate::cli::outcome::Form;
use crate::cli::{Cli, Error, Signals, print};
use crate::run::{ForkPoint, Priority};
use crate::runtime::{self, Fork, MAX_INPUT_BYTES, Past};
use crate::spec::{Loaded, ModelOverride, Network};

/// What `provost runs fork` takes.
#[derive(Debug, clap::Args)]
pub struct Arguments {
    /// The run: its id, the beginning or the end of it, or `last`. It stays as it is, and may be under way.
    #[arg(value_name = "RUN")]
    run: String,
    /// The last event that both runs have; `provost runs show RUN` numbers them.
    #[arg(long, value_name = "EVENT", allow_negative_numbers = true)]
    at: u64,
    /// Put this model in the place of all of the network's, or with NAME= of one: `sim`, `openai:MODEL`,
    /// `openai:MODEL@http://HOST:PORT/v1`, `anthropic:MODEL` or `anthropic:MODEL@http://HOST:PORT`.
    #[arg(long, value_name = "[NAME=]MODEL")]
    model: Vec<ModelOverride>,
    /// Tell the agent that stands for the run this; its model reads it before it speaks next.
    #[arg(long, value_name = "TEXT", allow_hyphen_values = true)]
    input: Option<String>,
    /// Its share where runs of its tenant wait for the same [default: that of the other run].
    #[arg(long, value_name = "PRIORITY", value_parser = crate::cli::priority())]
    priority: Option<Priority>,
    /// Go on in this network. It must have the agents that are at work, and the tools of their open calls.
    #[arg(long, value_name = "FILE")]
    network: Option<PathBuf>,
    /// Print what happens as it happens, a JSON object a line; the last one holds the result.
    #[arg(long)]
    events: bool,
}

pub(super) async fn run(cli: &Cli, address: &Address, arguments: &Arguments) -> Result<Code, Error> {
    let mut signals = Signals::catch();
    let input = arguments.input.clone().map(bounded).transpose()?;
    let (store, from) = find(address, &arguments.run)?;
    let id = runtime::new_run_id();
    let point = Past::read(&store, &from)?.fork_point(arguments.at, &id)?;
    drop(store);
    let network = network(arguments)?;
    if network.is_none() {
        // Another process would say only in words that the network is not valid.
        if let Ok(network) = Network::from_text(&point.network()) {
            put_in(&arguments.model, network)?;
        }
    }
    say(&point, arguments.at);
    let fork = Fork { input, priority: arguments.priority, id: Some(id.clone()), ..Fork::new(point.at) };
    drop(point);
    // What is put into a network that is given here has been.
    let models = if network.is_some() { Vec::new() } else { arguments.model.clone() };
    let task = Task::Fork { from, fork, network: network.map(Box::new), models };
    let form = Form::of(cli, arguments.events);
    attend(address, &id, task, form, &mut signals).await?.print_and_leave(form, &mut signals).await
}

fn bounded(input: String) -> Result<Arc<str>, Error> {
    let wrong = |message: String, hint: &str| Err(Error::Usage { message, hint: hint.to_owned() });
    match input.len() {
        _ if input.trim().is_empty() => wrong("the input is empty".to_owned(), "leave --input out to tell it nothing"),
        bytes if bytes > MAX_INPUT_BYTES => wrong(
            format!("the input is longer than {MAX_INPUT_BYTES} bytes"),
            "put long material in files, and let the network's tools read them",
        ),
        _ => Ok(input.into()),
    }
}

fn network(arguments: &Arguments) -> Result<Option<Network>, Error> {
    let Some(file) = &arguments.network else { return Ok(None) };
    let Loaded { network, warnings } = Network::load(file)?;
    print::report(&warnings);
    put_in(&arguments.model, network).map(Some)
}

fn put_in(models: &[ModelOverride], network: Network) -> Result<Network, Error> {
    models.iter().try_fold(network, |network, with| Ok(with.apply(network)?))
}

/// Says where the run is forked, and what that does not undo.
fn say(point: &ForkPoint, asked: u64) {
    let at = point.at;
    if at != asked {
        print::notice(&format!("note: events {asked} to {at} happened at once, so the fork is at event {at}\n"));
    }
    let effects = match point.effects() as u64 {
        0 => return,
        1 => "1 tool call that is not pure".to_owned(),
        count => format!("{count} tool calls that are not pure"),
    };
    let taken_over = match point.taken_over.len() as u64 {
        0 => String::new(),
        count => format!("; {} came later and {} taken over", print::counted(count, "result"), was(count)),
    };
    print::notice(&format!("note: what was done up to event {at} stays done: {effects}{taken_over}\n"));
}

fn was(count: u64) -> &'static str {
    if count == 1 { "is" } else { "are" }
}
