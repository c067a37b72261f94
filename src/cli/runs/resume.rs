//! `provost runs resume`: going on with runs.

use futures_util::future::join_all;
use serde_json::Value;

use super::find;
use super::reports::{RUNNING, Reports};
use crate::cli::attend::{Feed, Followed, Stop, Task, attend, cancel_on_signal, here, there};
use crate::cli::door::{Address, Door, Holder};
use crate::cli::exit::Code;
use crate::cli::follow::{Screen, words};
use crate::cli::outcome::{self, Form};
use crate::cli::{Cli, Error, Signals, print};
use crate::run::{RunId, Status};
use crate::runtime::{Past, Report, run_of};
use crate::spec::{ModelOverride, Network, usd, visible};

/// What `provost runs resume` takes.
#[derive(Debug, clap::Args)]
pub struct Arguments {
    /// The run: its id, the beginning or the end of it, or `last`.
    #[arg(value_name = "RUN", required_unless_present = "all")]
    run: Option<String>,
    /// Go on with all runs that were interrupted, at once. Parked runs stay parked.
    #[arg(long, conflicts_with = "run")]
    all: bool,
    /// Put this model in the place of all of the network's, or with NAME= of one: `sim`, `openai:MODEL`,
    /// `openai:MODEL@http://HOST:PORT/v1`, `anthropic:MODEL` or `anthropic:MODEL@http://HOST:PORT`.
    #[arg(long, value_name = "[NAME=]MODEL")]
    model: Vec<ModelOverride>,
    /// Print what happens as it happens, a JSON object a line; the last one holds the result.
    #[arg(long, conflicts_with = "all")]
    events: bool,
}

pub(super) async fn run(cli: &Cli, address: &Address, arguments: &Arguments) -> Result<Code, Error> {
    let mut signals = Signals::catch();
    match &arguments.run {
        Some(run) => one(cli, address, arguments, run, &mut signals).await,
        None => all(cli, address, arguments, &mut signals).await,
    }
}

async fn one(
    cli: &Cli,
    address: &Address,
    arguments: &Arguments,
    run: &str,
    signals: &mut Signals,
) -> Result<Code, Error> {
    let (store, run) = find(address, run)?;
    if !arguments.model.is_empty() {
        // Another process would say only in words that a network is not valid.
        let text = Past::read(&store, &run)?.network();
        if let Ok(network) = Network::from_text(&text) {
            arguments.model.iter().try_fold(network, |network, with| with.apply(network))?;
        }
    }
    drop(store);
    let task = Task::Resume { models: arguments.model.clone() };
    let form = Form::of(cli, arguments.events);
    attend(address, &run, task, form, signals).await?.print_and_leave(form, signals).await
}

async fn all(cli: &Cli, address: &Address, arguments: &Arguments, signals: &mut Signals) -> Result<Code, Error> {
    let interrupted = interrupted(address).await?;
    if interrupted.is_empty() {
        print::notice("no run was interrupted\n");
    }
    let (stop, screen) = (Stop::default(), Screen::new());
    let resumed = tokio::select! {
        resumed = resume_all(cli, address, arguments, interrupted, &stop) => resumed?,
        () = cancel_on_signal(signals, &stop, &screen) => return Err(Error::Left),
    };
    let Resumed { reports, code, mut printed, holder } = resumed;
    if cli.json {
        printed = printed.and(print::json(&reports.into()));
    }
    if let Some(holder) = holder {
        holder.leave(signals, None).await?;
    }
    printed.map(|()| code)
}

/// Returns the runs that nobody has under way and that wait for nobody.
async fn interrupted(address: &Address) -> Result<Vec<RunId>, Error> {
    let Some(store) = address.store()? else { return Ok(Vec::new()) };
    let (mut found, mut reports) = (Vec::new(), Reports::new(address));
    for info in store.streams("run/")? {
        let is_open =
            info.mark.as_ref().is_none_or(|mark| [RUNNING, Status::Interrupted.word()].contains(&&*mark.state));
        let Some(run) = run_of(&info.name).filter(|_| is_open) else { continue };
        if !reports.is_live(&run).await {
            found.push(run);
        }
    }
    Ok(found)
}

struct Resumed {
    reports: Vec<Value>,
    code: Code,
    /// Whether stdout took what was said of them.
    printed: Result<(), Error>,
    holder: Option<Holder>,
}

/// Goes with all these runs to their ends, wherever the store is held.
async fn resume_all(
    cli: &Cli,
    address: &Address,
    arguments: &Arguments,
    mut left: Vec<RunId>,
    stop: &Stop,
) -> Result<Resumed, Error> {
    let (mut all, mut models) =
        (Resumed { reports: Vec::new(), code: Code::Done, printed: Ok(()), holder: None }, &*arguments.model);
    while !left.is_empty() {
        let task = Task::Resume { models: models.to_vec() };
        let ended = match Door::open(address).await? {
            Door::Here(mut holder) => {
                holder.listen();
                let host = holder.host.clone();
                let each = left.iter().map(async |run| {
                    let mut feed = Feed::default();
                    let ended = here(&host, address, run, task.clone(), false, &mut feed, stop).await;
                    told(cli, run, ended.map(|report| Followed::Over(Box::new(report))))
                });
                let ended = holder.during(join_all(each)).await;
                all.holder = Some(holder);
                ended
            }
            Door::There(client) => {
                let each = left.iter().map(async |run| {
                    let mut feed = Feed::default();
                    told(cli, run, there(&client, address, run, task.clone(), &mut feed, stop).await)
                });
                join_all(each).await
            }
        };
        let mut gone = Vec::new();
        for (run, ended) in left.into_iter().zip(ended) {
            match ended {
                Ended::Over(report, printed) => {
                    all.printed = all.printed.and(printed);
                    all.code = all.code.worse(outcome::code(report.status));
                    all.reports.push(outcome::to_json(&report)?);
                }
                Ended::Gone => gone.push(run),
                Ended::Failed(code) => all.code = all.code.worse(code),
            }
        }
        // With the other models they have begun already.
        (left, models) = (gone, &[]);
    }
    Ok(all)
}

enum Ended {
    Over(Box<Report>, Result<(), Error>),
    Gone,
    Failed(Code),
}

/// Says how one run of many ended.
fn told(cli: &Cli, run: &RunId, ended: Result<Followed, Error>) -> Ended {
    match ended {
        Ok(Followed::Over(report)) => {
            let line = line(&report);
            let printed = match cli.json {
                true => {
                    print::notice(&line);
                    Ok(())
                }
                false => print::result(&line),
            };
            Ended::Over(report, printed)
        }
        Ok(Followed::Gone) => Ended::Gone,
        Err(error) => {
            print::notice(&format!("run {run}: "));
            print::error(&error);
            Ended::Failed(Code::of(&error))
        }
    }
}

fn line(report: &Report) -> String {
    let answer = report.answer_text();
    let said = report.reason.as_deref().or(answer.as_deref()).unwrap_or_default();
    format!(
        "run {} of {}: {} · {} · {}\n",
        report.run,
        visible(&report.network),
        outcome::word(report.status),
        usd(report.usage.cost_usd),
        words::excerpt(said.trim()),
    )
}
