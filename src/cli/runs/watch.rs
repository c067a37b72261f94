//! `provost runs watch`: a run that is under way in another process.

use std::time::{Duration, Instant};

use super::find;
use crate::cli::attend::{Ear, Feed, Followed, Stop, tail};
use crate::cli::door::{Address, unreachable};
use crate::cli::exit::Code;
use crate::cli::follow::{Screen, events, follow};
use crate::cli::outcome::{self, Form};
use crate::cli::{Cli, Error, Signals};
use crate::run::RunId;
use crate::runtime::Report;
use crate::serve::control::Client;

/// How long a run whose process has ended may take to be taken over by another one.
const TAKEN_OVER: Duration = Duration::from_secs(2);

/// The pause between two looks.
const PAUSE: Duration = Duration::from_millis(100);

/// What `provost runs watch` takes.
#[derive(Debug, clap::Args)]
pub struct Arguments {
    /// The run: its id, the beginning or the end of it, or `last`.
    #[arg(value_name = "RUN")]
    run: String,
    /// Print what happens as it happens, a JSON object a line; the last one holds the result.
    #[arg(long)]
    events: bool,
}

/// Follows a run to its end; a signal ends the watching, and not the run.
pub(super) async fn run(cli: &Cli, address: &Address, arguments: &Arguments) -> Result<Code, Error> {
    let mut signals = Signals::catch();
    let (_, run) = find(address, &arguments.run)?;
    let form = Form::of(cli, arguments.events);
    let (screen, mut feed) = (Screen::new(), Feed::default());
    let (reader, follower) = (feed.reader(), (form == Form::Events).then(|| feed.follow()));
    let shown = async {
        match follower {
            Some(follower) => events::print(follower).await,
            None => {
                follow(reader, &screen).await;
                Ok(())
            }
        }
    };
    let watched = async {
        let report = watch(address, &run, &mut feed).await;
        feed.close();
        report
    };
    let (report, ()) = tokio::select! {
        both = async { tokio::try_join!(watched, shown) } => both?,
        () = signals.next() => return Err(Error::Left),
    };
    outcome::print(&report, form)
}

async fn watch(address: &Address, run: &RunId, feed: &mut Feed) -> Result<Report, Error> {
    // Where nobody has the run, that is said at once.
    let (mut seen, nobody_asks) = (Instant::now(), Stop::default());
    let mut patience = Duration::ZERO;
    loop {
        feed.catch_up(address, run)?;
        if address.holder().await.has(run) {
            let client = Client::new(&address.directory).map_err(|error| unreachable(&error))?;
            match tail(&Ear::There(&client), address, run, false, feed, &nobody_asks).await? {
                Followed::Over(report) => return Ok(*report),
                Followed::Gone => (seen, patience) = (Instant::now(), TAKEN_OVER),
            }
        }
        // It may have ended since its events were read.
        feed.catch_up(address, run)?;
        if seen.elapsed() >= patience || feed.ended().is_some() {
            return Ok(Report::of(feed.state()).without_process());
        }
        tokio::time::sleep(PAUSE).await;
    }
}
