//! `provost run`: one input through a network, to its end.

mod input;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;

use super::attend::{Feed, Task, attend};
use super::door::Address;
use super::exit::Code;
use super::outcome::Form;
use super::{Cli, Error, outcome, print};
use crate::run::{Priority, RunId};
use crate::runtime::{self, Report, RunRequest};
use crate::spec::{Loaded, ModelOverride, Network, visible};

/// What `provost run` takes.
#[derive(Debug, clap::Args)]
pub struct Arguments {
    /// The network file.
    #[arg(value_name = "FILE")]
    file: PathBuf,
    #[command(flatten)]
    input: input::Arguments,
    /// Put this model in the place of all of the network's, or with NAME= of one: `sim`, `openai:MODEL`,
    /// `openai:MODEL@http://HOST:PORT/v1`, `anthropic:MODEL` or `anthropic:MODEL@http://HOST:PORT`.
    #[arg(long, value_name = "[NAME=]MODEL")]
    model: Vec<ModelOverride>,
    /// A key that several runs share: a conversation, a ticket.
    #[arg(long, value_name = "KEY")]
    session: Option<String>,
    /// Who the run belongs to and who pays.
    #[arg(long, value_name = "NAME", default_value = RunRequest::DEFAULT_TENANT)]
    tenant: String,
    /// Its share where runs of its tenant wait for the same: a high one's is four times a normal one's, and a low one's a
    /// quarter of it.
    #[arg(long, value_name = "PRIORITY", default_value_t, value_parser = super::priority())]
    priority: Priority,
    /// A variable for the network's templates, as `vars.KEY`.
    #[arg(long = "var", value_name = "KEY=VALUE", value_parser = variable)]
    vars: Vec<(String, String)>,
    /// Print what happens as it happens, a JSON object a line; the last one holds the result.
    #[arg(long)]
    events: bool,
}

fn variable(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((key, value)) if !key.is_empty() => Ok((key.to_owned(), value.to_owned())),
        _ => Err("write it as KEY=VALUE".to_owned()),
    }
}

pub(super) fn run(cli: &Cli, arguments: &Arguments) -> Result<Code, Error> {
    arguments.check_names()?;
    let network = load(arguments)?;
    let input = arguments.input.read(&arguments.file, network.spec().network.sample.as_deref())?;
    say_what_is_simulated(&network);
    super::quiet_panics();
    let id = runtime::new_run_id();
    let name = network.spec().network.name.clone();
    let form = Form::of(cli, arguments.events);
    let tokio = super::tokio_runtime()?;
    let ended = tokio.block_on(async {
        let mut signals = super::Signals::catch();
        let address = Address::of(cli)?;
        let task = Task::Start { network: Box::new(network), request: arguments.request(input, &id)? };
        match attend(&address, &id, task, form, &mut signals).await {
            Ok(attended) => attended.print_and_leave(form, &mut signals).await,
            Err(error) if cli.json && error.is_to_be_told() => {
                let report = match stored(&address, &id).await {
                    Some(report) => report,
                    None => Report::not_started(id, name, error.to_string()),
                };
                print::json(&outcome::to_json(&report)?)?;
                Err(error)
            }
            Err(error) => Err(error),
        }
    });
    super::leave(tokio);
    ended
}

/// Returns what the store says of a run that this process can't go on with, if the run has begun.
async fn stored(address: &Address, run: &RunId) -> Option<Report> {
    let mut feed = Feed::default();
    let is_there = feed.catch_up(address, run).ok()?;
    let report = is_there.then(|| Report::of(feed.state()))?;
    Some(if address.holder().await.has(run) { report } else { report.without_process() })
}

impl Arguments {
    /// Looks at the names before anything else, and tells the options by which they were given.
    fn check_names(&self) -> Result<(), Error> {
        let (tenant, session) = (self.tenant.as_str().into(), self.session.as_deref().map(Arc::from));
        match (RunRequest { tenant, session, ..RunRequest::new("") }).check_names() {
            Err(runtime::Error::NotAName { of, why }) => Err(Error::Usage {
                message: format!("--{of} {why}"),
                hint: format!("give --{of} a name, or leave it out; is a variable in it not set?"),
            }),
            checked => Ok(checked?),
        }
    }

    fn request(&self, input: String, id: &RunId) -> Result<RunRequest, Error> {
        let here = std::env::current_dir().map_err(|error| Error::Failed {
            message: format!("the working directory can't be read: {error}"),
            hint: "go to a directory that is there".to_owned(),
        })?;
        Ok(RunRequest {
            input: input.into(),
            vars: self.vars.iter().cloned().collect::<BTreeMap<_, _>>(),
            tenant: self.tenant.as_str().into(),
            session: self.session.as_deref().map(Arc::from),
            priority: self.priority,
            id: Some(id.clone()),
            directory: Some(here),
            is_attended: true,
        })
    }
}

fn load(arguments: &Arguments) -> Result<Network, Error> {
    let Loaded { mut network, warnings } = Network::load(&arguments.file)?;
    print::report(&warnings);
    for change in &arguments.model {
        network = change.apply(network)?;
    }
    Ok(network)
}

fn say_what_is_simulated(network: &Network) {
    let models = &network.spec().models;
    let without = models.iter().filter(|(_, model)| model.provider.is_none()).map(|(name, _)| name.as_str());
    let names: Vec<&str> = without.collect();
    let what = match (names.as_slice(), models.is_empty()) {
        ([], false) => return,
        ([], true) => "the network names no model".to_owned(),
        (names, _) => format!("no provider is configured for {}", names.join(", ")),
    };
    print::notice(&format!(
        "note: {}: the simulated model stands in; its words are scripted or made up, the tools are real\n",
        visible(&what)
    ));
}
