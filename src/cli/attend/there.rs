//! A run in the process that holds the store, seen through the store.

use std::time::{Duration, Instant};

use super::{Feed, Stop, Task};
use crate::cli::door::{Address, Liveness, unreachable};
use crate::cli::follow::Screen;
use crate::cli::follow::approve::Terminal;
use crate::cli::{Error, print};
use crate::journal::Store;
use crate::run::{CallId, Inquiry, OpenCall, RunId};
use crate::runtime::{Approver, Host, Inquired, Question, Report};
use crate::serve::control::{
    AnswerRun, ApproveRun, Client, ClientError, Code, ForkRun, PutBackLetter, ResumeRun, Resumption, StartRun,
};

/// The shortest pause between two looks at the store, right after something happened.
const SHORTEST: Duration = Duration::from_millis(20);

/// The longest pause between two looks at the store.
const LONGEST: Duration = Duration::from_millis(200);

/// How often it is asked whether the run is still under way.
const LIFE_SIGNS: Duration = Duration::from_millis(400);

/// What became of a run that was followed.
pub(in crate::cli) enum Followed {
    /// It is over, or parked.
    Over(Box<Report>),
    /// Nobody has it under way any more, and it has not ended.
    Gone,
}

/// Who is asked whether a run is under way.
pub(in crate::cli) enum Ear<'a> {
    /// This process.
    Here(&'a Host),
    /// The process that holds the store.
    There(&'a Client),
}

impl Ear<'_> {
    /// Whether the run is under way; none where the process that should know does not answer.
    async fn hears(&self, run: &RunId) -> Option<bool> {
        match self {
            Self::Here(host) => Some(host.live().contains(run)),
            Self::There(client) => match Liveness::of(client.health().await) {
                Liveness::Silent => None,
                heard => Some(heard.has(run)),
            },
        }
    }

    async fn cancel(&self, run: &RunId, reason: &str) {
        let cancelled = match self {
            Self::Here(host) => host.cancel(run, reason).await.map_err(Error::from),
            Self::There(client) => client.cancel(run, reason).await.map(drop).map_err(|error| unreachable(&error)),
        };
        if let Err(error) = cancelled {
            // It has ended meanwhile, or its process has, which is noticed soon.
            tracing::debug!(%error, %run, "the run could not be cancelled");
        }
    }
}

/// Starts or takes up a run in the process that holds the store, and goes with it to its end.
///
/// # Errors
/// It can't be started or taken up, or the store can't be read.
pub(in crate::cli) async fn there(
    client: &Client,
    address: &Address,
    run: &RunId,
    task: Task,
    feed: &mut Feed,
    stop: &Stop,
) -> Result<Followed, Error> {
    let asked = match task {
        Task::Start { network, request } => {
            let body = StartRun {
                network: network.to_text(),
                input: request.input,
                vars: request.vars,
                tenant: request.tenant,
                session: request.session,
                priority: request.priority,
                directory: request.directory.unwrap_or_default(),
                id: Some(run.clone()),
            };
            client.start(&body).await.map(|_| true)
        }
        Task::Fork { from, fork, network, models } => {
            let body = ForkRun {
                at: fork.at,
                input: fork.input,
                priority: fork.priority,
                network: network.map(|network| network.to_text()),
                models: models.iter().map(ToString::to_string).collect(),
                id: Some(run.clone()),
            };
            client.fork(&from, &body).await.map(|_| true)
        }
        Task::PutBack { letter, priority, models } => {
            let models = models.iter().map(ToString::to_string).collect();
            let body = PutBackLetter { event: letter.event, priority, models, id: Some(run.clone()) };
            client.put_back(&letter.run, &body).await.map(|_| true)
        }
        Task::Resume { models } => {
            let models = models.iter().map(ToString::to_string).collect();
            let resumed = client.resume(run, &ResumeRun { models }).await;
            resumed.map(|resumed| resumed.state == Resumption::TakenUp)
        }
    };
    let is_certain = match asked {
        Ok(is_certain) => is_certain,
        Err(ClientError::Absent | ClientError::Broken(_)) => return Ok(Followed::Gone),
        Err(ClientError::Fault(fault)) if fault.code == Code::Stopped => return Ok(Followed::Gone),
        Err(error) => return Err(unreachable(&error)),
    };
    tail(&Ear::There(client), address, run, is_certain, feed, stop).await
}

/// Reads a run's events from the store as they come, until the run is over or nobody has it any more. Where it is not
/// certain that an end which is in the store is the last one, that is asked.
///
/// # Errors
/// The store can't be read.
pub(in crate::cli) async fn tail(
    ear: &Ear<'_>,
    address: &Address,
    run: &RunId,
    is_certain: bool,
    feed: &mut Feed,
    stop: &Stop,
) -> Result<Followed, Error> {
    let mut store = Store::open(&address.directory)?;
    feed.read(&store, run)?;
    let (mut pause, mut asked) = (SHORTEST, Instant::now());
    let (mut is_cancelled, mut is_silent) = (false, false);
    loop {
        if let Some(report) = feed.ended()
            && (is_certain || ear.hears(run).await == Some(false))
        {
            return Ok(Followed::Over(Box::new(report)));
        }
        if asked.elapsed() >= LIFE_SIGNS {
            let heard = ear.hears(run).await;
            if heard == Some(false) {
                // What happened last is in the store.
                feed.read(&store, run)?;
                return Ok(feed.ended().map_or(Followed::Gone, |report| Followed::Over(Box::new(report))));
            }
            if heard.is_none() && !is_silent {
                say_silent(address);
            }
            (asked, is_silent) = (Instant::now(), heard.is_none());
        }
        tokio::select! {
            () = tokio::time::sleep(pause) => pause = (pause * 3 / 2).min(LONGEST),
            reason = stop.asked(), if !is_cancelled => {
                is_cancelled = true;
                ear.cancel(run, reason).await;
            }
        }
        if store.has_changed()? {
            let head = feed.state().head();
            feed.read(&store, run)?;
            if feed.state().head() > head {
                pause = SHORTEST;
            }
        }
    }
}

fn say_silent(address: &Address) {
    print::notice(&format!(
        "note: the process that holds the store at {} does not answer; the run goes on when it does\n",
        address.directory.display()
    ));
}

/// Asks the person at the terminal what a parked run waits for, and hands in what is answered. Whether anything was: not where
/// the run waits for nothing, nobody says anything, or the run is to end.
///
/// # Errors
/// The run is to end, and the store can't be read; or an answer can't be handed in.
pub(super) async fn ask(
    client: &Client,
    address: &Address,
    run: &RunId,
    feed: &mut Feed,
    stop: &Stop,
    screen: &Screen,
) -> Result<bool, Error> {
    let question = |(call, open): (&CallId, &OpenCall)| Question {
        run: run.clone(),
        call: call.clone(),
        subject: open.subject.clone(),
        request: open.approval.as_ref().map(|approval| approval.request.clone()),
        objection: None,
    };
    let questions: Vec<Question> = feed.state().awaiting_approval().map(question).collect();
    let inquired = |(call, open): (&CallId, &OpenCall)| {
        let inquiry = Inquiry::of(&open.subject)?;
        Some(Inquired { run: run.clone(), call: call.clone(), inquiry, objection: None })
    };
    let inquiries: Vec<Inquired> = feed.state().awaiting_input().filter_map(inquired).collect();
    let is_asked = !questions.is_empty() || !inquiries.is_empty();
    let Some(terminal) = Terminal::new(screen).filter(|_| is_asked) else { return Ok(false) };
    let answers = async {
        let mut are_answered = false;
        for question in questions {
            are_answered |= approve(client, &terminal, question).await?;
        }
        for inquired in inquiries {
            are_answered |= answer(client, &terminal, inquired).await?;
        }
        Ok(are_answered)
    };
    tokio::select! {
        answers = answers => answers,
        reason = stop.asked() => {
            Ear::There(client).cancel(run, reason).await;
            feed.catch_up(address, run)?;
            Ok(false)
        }
    }
}

/// Asks the person at the terminal about a call, until that is settled, here or elsewhere. Whether it is.
async fn approve(client: &Client, terminal: &Terminal, mut question: Question) -> Result<bool, Error> {
    while let Some(mut ballot) = terminal.ask(&question).await {
        ballot.digest = question.request.as_ref().map(|request| request.binding.digest());
        let body = ApproveRun { call: Some(question.call.clone()), ballot };
        match client.approve(&question.run, &body).await {
            Ok(_) => return Ok(true),
            // Somebody else was faster; or its process has ended, and who comes next finds out.
            Err(ClientError::Fault(fault)) if fault.code == Code::Unfit => return Ok(true),
            Err(ClientError::Absent | ClientError::Broken(_)) => return Ok(true),
            Err(ClientError::Fault(fault)) if fault.code == Code::InvalidRequest => {
                question.objection = Some(fault.message);
            }
            Err(error) => return Err(unreachable(&error)),
        }
    }
    Ok(false)
}

/// Asks the person at the terminal one thing, until it is answered, here or elsewhere. Whether it is.
async fn answer(client: &Client, terminal: &Terminal, mut inquired: Inquired) -> Result<bool, Error> {
    while let Some(text) = terminal.answer(&inquired).await {
        match inquired.inquiry.answer(&text) {
            Err(why) => inquired.objection = Some(why),
            Ok(text) => {
                let body = AnswerRun { call: Some(inquired.call.clone()), text };
                return match client.answer(&inquired.run, &body).await {
                    Ok(_) => Ok(true),
                    // Somebody else was faster; or its process has ended, and who comes next finds out.
                    Err(ClientError::Fault(fault)) if fault.code == Code::Unfit => Ok(true),
                    Err(ClientError::Absent | ClientError::Broken(_)) => Ok(true),
                    Err(error) => Err(unreachable(&error)),
                };
            }
        }
    }
    Ok(false)
}
