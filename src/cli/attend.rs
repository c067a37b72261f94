//! Going with runs to their ends, wherever they are under way: in this process, or in the one that holds the store. If
//! that one ends before the run does, this one takes the run over.

mod feed;
mod here;
mod there;

use std::sync::OnceLock;
use std::time::Duration;

use tokio_util::sync::CancellationToken;

pub(super) use self::feed::Feed;
pub(super) use self::here::here;
pub(super) use self::there::{Ear, Followed, tail, there};

use super::door::{Address, Door, Holder};
use super::exit::Code;
use super::follow::approve::Terminal;
use super::follow::{Screen, events, follow};
use super::outcome::{self, Form};
use super::{Error, Signals, print};
use crate::journal;
use crate::run::{LetterId, Priority, RunId};
use crate::runtime::{self, Fork, Report, RunRequest};
use crate::serve::control::Client;
use crate::spec::{ModelOverride, Network};

/// The pause before a run is looked for anew whose process has ended.
const GONE: Duration = Duration::from_millis(100);

/// What is to be done with a run.
#[derive(Clone)]
pub(super) enum Task {
    /// It is to begin.
    Start {
        /// The network.
        network: Box<Network>,
        /// The input and what belongs to it, with the run's id.
        request: RunRequest,
    },
    /// It is to begin from a point of another one's past.
    Fork {
        /// The other run.
        from: RunId,
        /// From which point, with the new run's id.
        fork: Fork,
        /// The network from there on; none for the one that holds there.
        network: Option<Box<Network>>,
        /// Models to put in the place of the network's.
        models: Vec<ModelOverride>,
    },
    /// It is to begin with a dead letter.
    PutBack {
        /// Which.
        letter: LetterId,
        /// The new run's priority; none for that of the letter's run.
        priority: Option<Priority>,
        /// Models to put in the place of the network's.
        models: Vec<ModelOverride>,
    },
    /// It is to go on.
    Resume {
        /// Models to put in the place of the network's.
        models: Vec<ModelOverride>,
    },
}

impl Task {
    /// To go on as before.
    pub(super) fn resume() -> Self {
        Self::Resume { models: Vec::new() }
    }
}

/// Tells whoever goes with a run that it is to be cancelled.
#[derive(Default)]
pub(super) struct Stop {
    asked: CancellationToken,
    reason: OnceLock<String>,
}

impl Stop {
    /// Asks for the end; the first reason counts.
    pub(super) fn ask(&self, reason: String) {
        self.reason.get_or_init(|| reason);
        self.asked.cancel();
    }

    /// Whether it has been asked for.
    fn is_asked(&self) -> bool {
        self.asked.is_cancelled()
    }

    /// Waits until it is asked for, and returns why.
    pub(super) async fn asked(&self) -> &str {
        self.asked.cancelled().await;
        self.reason.get().map(String::as_str).unwrap_or_default()
    }
}

/// What came of a run, and the store if this process holds it: others may have runs in it.
pub(super) struct Attended {
    pub(super) report: Report,
    pub(super) holder: Option<Holder>,
}

impl Attended {
    /// Prints what the run came to, and leaves: where others have runs in this process, when these are over.
    ///
    /// # Errors
    /// Stdout is closed or can't take it, or something could not be written to the store any more.
    pub(super) async fn print_and_leave(self, form: Form, signals: &mut Signals) -> Result<Code, Error> {
        let Self { report, holder } = self;
        let run = report.run.clone();
        let printed = print::beside(move || outcome::print(&report, form));
        let Some(mut holder) = holder else { return printed.await };
        let printed = holder.during(printed).await;
        holder.leave(signals, Some(&run)).await?;
        printed
    }
}

/// Goes with a run to its end, and shows it meanwhile. The first signal cancels the run, the second leaves at once.
///
/// # Errors
/// The run can't be started or taken up, the store fails, or nobody reads the events any more.
pub(super) async fn attend(
    address: &Address,
    run: &RunId,
    task: Task,
    form: Form,
    signals: &mut Signals,
) -> Result<Attended, Error> {
    let (screen, stop, mut feed) = (Screen::new(), Stop::default(), Feed::default());
    let (reader, follower) = (feed.reader(), (form == Form::Events).then(|| feed.follow()));
    let shown = async {
        let printed = match follower {
            Some(follower) => events::print(follower).await,
            None => {
                follow(reader, &screen).await;
                Ok(())
            }
        };
        // A run whose reader has gone does not go on spending.
        printed.inspect_err(|error| stop.ask(error.to_string()))
    };
    let ended = async {
        let journey = Journey { address, run, task, feed: &mut feed, stop: &stop, screen: &screen };
        let ended = journey.conduct().await;
        feed.close();
        ended
    };
    let both = async { tokio::join!(ended, shown) };
    let (ended, shown) = tokio::select! {
        both = both => both,
        () = cancel_on_signal(signals, &stop, &screen) => return Err(Error::Left),
    };
    let mut ended = ended?;
    if let Err(error) = shown {
        if let Some(holder) = &mut ended.holder {
            holder.close().await?;
        }
        return Err(match error {
            Error::StdoutClosed => Error::Failed {
                message: "nobody reads the events any more, so the run was cancelled".to_owned(),
                hint: String::new(),
            },
            error => error,
        });
    }
    Ok(ended)
}

/// Asks for the end at the first signal; returns at the second.
pub(super) async fn cancel_on_signal(signals: &mut Signals, stop: &Stop, screen: &Screen) {
    signals.next().await;
    screen.suspend(|| print::notice("cancelling; once more leaves at once\n"));
    stop.ask("cancelled by a signal".to_owned());
    signals.next().await;
}

/// A run that is gone with, and all that belongs to it.
struct Journey<'a> {
    address: &'a Address,
    run: &'a RunId,
    task: Task,
    feed: &'a mut Feed,
    stop: &'a Stop,
    screen: &'a Screen,
}

/// How far a run was gone with.
enum Went {
    /// To its end.
    Over(Box<Attended>),
    /// To a question that has been answered.
    On,
    /// Until its process ended.
    Gone,
}

impl From<Attended> for Went {
    fn from(attended: Attended) -> Self {
        Self::Over(Box::new(attended))
    }
}

impl Journey<'_> {
    async fn conduct(mut self) -> Result<Attended, Error> {
        let mut is_taken_over = false;
        loop {
            let went = match Door::open(self.address).await? {
                Door::Here(holder) => self.here(holder, is_taken_over).await,
                Door::There(client) => self.there(&client).await,
            };
            match went {
                Ok(Went::Over(attended)) => return Ok(*attended),
                Ok(Went::On) => {}
                Ok(Went::Gone) => {
                    if !is_taken_over {
                        let words = "note: the process that had this run has ended; another takes it over\n";
                        self.screen.suspend(|| print::notice(words));
                    }
                    is_taken_over = true;
                    tokio::time::sleep(GONE).await;
                }
                Err(error) if is_taken_over => {
                    // Somebody else may have taken it over, and gone with it to its end.
                    if let Some(report) = self.ended_since(0)? {
                        return Ok(Attended { report, holder: None });
                    }
                    // Or it had begun in the process that ended, and nobody could say so any more.
                    if matches!(self.task, Task::Resume { .. }) || self.feed.state().head() == 0 {
                        return Err(error);
                    }
                    self.task = Task::resume();
                }
                Err(error) => return Err(error),
            }
        }
    }

    async fn here(&mut self, holder: Holder, is_taken_over: bool) -> Result<Went, Error> {
        let mut holder = holder.attended(Terminal::new(self.screen), self.feed.is_followed());
        if !is_taken_over {
            // Where a process has just died, those who followed their runs in it go on with them.
            say_what_was_interrupted(&holder, self.run)?;
        }
        holder.listen();
        let host = holder.host.clone();
        let going = here(&host, self.address, self.run, self.task.clone(), true, self.feed, self.stop);
        match holder.during(going).await {
            Ok(report) => Ok(Attended { report, holder: Some(holder) }.into()),
            Err(error) => {
                // The run's fault is the one to tell.
                let _ = holder.close().await;
                Err(error)
            }
        }
    }

    async fn there(&mut self, client: &Client) -> Result<Went, Error> {
        let Self { address, run, stop, .. } = *self;
        if matches!(&self.task, Task::Resume { .. }) {
            self.feed.catch_up(address, run)?;
            there::ask(client, address, run, self.feed, stop, self.screen).await?;
        }
        let head = self.feed.state().head();
        match there(client, address, run, self.task.clone(), self.feed, stop).await {
            Ok(Followed::Over(report)) => {
                if !there::ask(client, address, run, self.feed, stop, self.screen).await? {
                    // It may have been cancelled instead.
                    let report = self.feed.ended().unwrap_or(*report);
                    return Ok(Attended { report, holder: None }.into());
                }
                self.task = Task::resume();
                Ok(Went::On)
            }
            Ok(Followed::Gone) => {
                if let Some(report) = self.ended_since(head)? {
                    return Ok(Attended { report, holder: None }.into());
                }
                if self.feed.state().head() > head {
                    // What was asked for has begun.
                    self.task = Task::resume();
                }
                Ok(Went::Gone)
            }
            // The person was asked, and cancelled it.
            Err(error) if stop.is_asked() => {
                let report = self.ended_since(0)?.ok_or(error)?;
                Ok(Attended { report, holder: None }.into())
            }
            Err(error) => Err(error),
        }
    }

    /// Returns what the run came to, if its last event is its end and comes after event `seq`.
    fn ended_since(&mut self, seq: u64) -> Result<Option<Report>, Error> {
        self.feed.catch_up(self.address, self.run)?;
        Ok(self.feed.ended().filter(|report| report.events > seq))
    }
}

/// Says which runs nobody goes on with, apart from the one that is about to be.
fn say_what_was_interrupted(holder: &Holder, run: &RunId) -> Result<(), Error> {
    let Some(journal) = holder.host.recorder().journal() else { return Ok(()) };
    let store = journal.store()?;
    let is_running = |info: &journal::StreamInfo| info.mark.as_ref().is_some_and(|mark| mark.state == "running");
    let streams = store.streams("run/")?;
    let others = streams.iter().filter(|info| is_running(info) && runtime::run_of(&info.name).as_ref() != Some(run));
    let (count, was) = match others.count() as u64 {
        0 => return Ok(()),
        1 => (1, "was"),
        count => (count, "were"),
    };
    print::notice(&format!("note: {} {was} interrupted: provost runs resume --all\n", print::counted(count, "run")));
    Ok(())
}
