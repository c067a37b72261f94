//! `provost run`: one input through a network, to its end.

mod approve;
mod events;
mod follow;
mod input;
mod model;
mod tree;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;

use self::model::ModelOverride;
use super::exit::Code;
use super::{Cli, Error, print};
use crate::journal::{self, RunFile};
use crate::run::{RunId, Status};
use crate::runtime::{self, Canceller, Report, RunRequest, Runtime};
use crate::spec::{Loaded, Network, visible};

/// What `provost run` takes.
#[derive(Debug, clap::Args)]
pub struct Arguments {
    /// The network file.
    #[arg(value_name = "FILE")]
    file: PathBuf,
    #[command(flatten)]
    input: input::Arguments,
    /// Put this model in the place of all of the network's, or with NAME= of one: `sim`, `openai:MODEL` or
    /// `openai:MODEL@http://HOST:PORT/v1`.
    #[arg(long, value_name = "[NAME=]MODEL")]
    model: Vec<ModelOverride>,
    /// A key that several runs share: a conversation, a ticket.
    #[arg(long, value_name = "KEY")]
    session: Option<String>,
    /// Who the run belongs to and who pays.
    #[arg(long, value_name = "NAME", default_value = RunRequest::DEFAULT_TENANT)]
    tenant: String,
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
    let network = load(arguments)?;
    let input = arguments.input.read(&arguments.file, network.spec().network.sample.as_deref())?;
    say_what_is_simulated(&network);
    super::quiet_panics();
    let id = runtime::new_run_id();
    let name = network.spec().network.name.clone();
    let (report, kept) = match start(cli, arguments, network, input, id.clone()) {
        Ok(ended) => ended,
        Err(error) if cli.json && !matches!(error, Error::Stdout(_) | Error::StdoutClosed) => {
            print::json(&to_json(&Report::not_started(id, name, error.to_string()))?)?;
            return Err(error);
        }
        Err(error) => return Err(error),
    };
    if arguments.events {
        events::print_end(&report)?;
    } else if cli.json {
        print::json(&to_json(&report)?)?;
    } else if let Some(answer) = report.answer_text() {
        print::answer(&answer)?;
    }
    say_how_it_ended(&report);
    kept.map_err(not_kept)?;
    Ok(code(report.status))
}

/// A run that has ended, and whether all of its record could be kept.
type Ended = (Report, Result<(), journal::Error>);

fn start(cli: &Cli, arguments: &Arguments, network: Network, input: String, id: RunId) -> Result<Ended, Error> {
    let record = RunFile::create(&data_directory(cli)?, id.as_str()).map_err(not_kept)?;
    let request = RunRequest {
        input: input.into(),
        vars: arguments.vars.iter().cloned().collect::<BTreeMap<_, _>>(),
        tenant: arguments.tenant.as_str().into(),
        session: arguments.session.as_deref().map(Arc::from),
        id: Some(id),
    };
    let tokio = super::tokio_runtime()?;
    let ended = tokio.block_on(run_to_end(network, request, record, arguments.events));
    // A person may still be being asked; the process does not wait for the answer.
    tokio.shutdown_background();
    ended
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

fn data_directory(cli: &Cli) -> Result<PathBuf, Error> {
    if let Some(directory) = &cli.data_dir {
        return Ok(directory.clone());
    }
    let here = std::env::current_dir().map_err(|error| Error::Store {
        message: format!("the working directory can't be read: {error}"),
        hint: "name a data directory with --data-dir".to_owned(),
    })?;
    Ok(journal::data_directory(&here))
}

fn not_kept(error: journal::Error) -> Error {
    let hint = "make room there, or name a directory that you may write with --data-dir".to_owned();
    Error::Store { message: visible(&error.to_string()), hint }
}

async fn run_to_end(
    network: Network,
    request: RunRequest,
    record: RunFile,
    print_events: bool,
) -> Result<Ended, Error> {
    let signals = super::Signals::catch();
    let screen = follow::Screen::new();
    let mut builder = Runtime::builder(network);
    if let Some(terminal) = approve::Terminal::new(&screen) {
        builder = builder.approver(terminal);
    }
    let started = async {
        let runtime = builder.start().await?;
        let run = runtime.start(request).await?;
        Ok((runtime, run))
    };
    let (runtime, run) = match started.await {
        Ok(started) => started,
        Err(error) => {
            record.discard();
            return Err(could_not_start(error));
        }
    };
    let (reader, canceller) = (run.events(), run.canceller());
    let printed = async {
        match print_events {
            true => events::print(reader, &canceller).await?,
            false => follow::follow(reader, &screen).await,
        }
        Ok::<_, Error>(())
    };
    let kept = events::keep(run.events(), record, &canceller);
    let waited = async { tokio::join!(run.wait(), printed, kept) };
    let (report, printed, kept) = tokio::select! {
        ended = waited => ended,
        never = cancel_on_signal(signals, &canceller, &screen) => match never {},
    };
    runtime.shutdown().await;
    printed.map_err(|error| match error {
        Error::StdoutClosed => Error::Failed {
            message: "nobody reads the events any more, so the run was cancelled".to_owned(),
            hint: String::new(),
        },
        error => error,
    })?;
    Ok((report.map_err(could_not_start)?, kept))
}

/// Cancels the run at the first signal, and leaves at once at the second.
async fn cancel_on_signal(
    mut signals: super::Signals,
    canceller: &Canceller,
    screen: &follow::Screen,
) -> std::convert::Infallible {
    signals.next().await;
    screen.suspend(|| print::notice("cancelling; once more leaves at once\n"));
    canceller.cancel("cancelled by a signal");
    signals.next().await;
    std::process::exit(i32::from(Code::Cancelled as u8));
}

fn could_not_start(error: runtime::Error) -> Error {
    let hint = match &error {
        runtime::Error::Model { .. } => "`--model sim` tries the network without a provider",
        runtime::Error::Template { source, .. } if source.message.contains("undefined") => {
            "give the variables that it names with --var KEY=VALUE"
        }
        _ => "",
    };
    let mut message = error.to_string();
    let mut source = std::error::Error::source(&error);
    while let Some(cause) = source {
        message.push_str(&format!(": {cause}"));
        source = cause.source();
    }
    match error {
        runtime::Error::InputTooLong(_) => Error::Usage { message, hint: hint.to_owned() },
        _ => Error::Failed { message, hint: hint.to_owned() },
    }
}

fn to_json(report: &Report) -> Result<serde_json::Value, Error> {
    serde_json::to_value(report)
        .map_err(|error| Error::Failed { message: format!("the report is no JSON: {error}"), hint: String::new() })
}

fn say_how_it_ended(report: &Report) {
    let head = match report.status {
        Status::Done => console::style("done").green().bold(),
        Status::AwaitingApproval => console::style("awaiting approval").yellow().bold(),
        Status::Cancelled => console::style("cancelled").yellow().bold(),
        Status::Limit => console::style("limit reached").red().bold(),
        Status::Denied => console::style("denied").red().bold(),
        Status::Failed | Status::Running => console::style("failed").red().bold(),
    };
    let reason = report.reason.as_deref().map(|reason| format!(": {}", visible(reason))).unwrap_or_default();
    let usage = &report.usage;
    print::notice(&format!(
        "{}{reason}\n  {}, {}, {} + {} tokens, {}, {:.1} s · run {}\n",
        head.for_stderr(),
        print::counted(usage.model_calls, "model call"),
        print::counted(usage.tool_calls, "tool call"),
        usage.input_tokens,
        usage.output_tokens,
        crate::spec::usd(usage.cost_usd),
        report.duration_ms as f64 / 1e3,
        report.run,
    ));
}

fn code(status: Status) -> Code {
    match status {
        Status::Done => Code::Done,
        Status::Failed | Status::Running => Code::Failed,
        Status::Cancelled => Code::Cancelled,
        Status::Limit => Code::Limit,
        Status::Denied => Code::Denied,
        Status::AwaitingApproval => Code::Waiting,
    }
}

/// Says on stderr which run this is, so that it can be spoken of while it is under way.
fn say_run(run: &RunId, network: &str) {
    print::notice(&format!("run {run} of {}\n", visible(network)));
}
