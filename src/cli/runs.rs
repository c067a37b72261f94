//! `provost runs`: looking at runs, and telling them what to do.

mod answer;
mod cancel;
mod dead_letters;
mod diff;
mod find;
mod fork;
mod list;
mod pause;
mod prune;
mod replay;
mod reports;
mod resolve;
mod resume;
mod savings;
mod show;
mod steer;
mod time;
mod watch;

use std::io::Read;

pub(super) use self::find::find;
pub(super) use self::reports::Reports;
pub(super) use self::time::{Since, age, local};

use super::door::{Address, Door, unreachable};
use super::exit::Code;
use super::{Cli, Error};
use crate::runtime::{self, Host, MAX_INPUT_BYTES};
use crate::serve::control::{Client, ClientError};

/// What is to be done with runs.
#[derive(Debug, clap::Subcommand)]
pub enum Command {
    /// List runs, the newest first.
    List(list::Arguments),
    /// Show what happened in a run, and what it waits for.
    Show(show::Arguments),
    /// Decide a recorded run again, on the results in the record: at no cost, and without touching it. Fails at the
    /// first step that this version of Provost decides otherwise.
    Replay(replay::Arguments),
    /// Show where two runs part, step by step, with what each step cost. Ends with 0 whether they differ or not;
    /// `--json` says which.
    Diff(diff::Arguments),
    /// Follow a run that is under way in another process.
    Watch(watch::Arguments),
    /// Go on with a run that was interrupted or parked, or that is paused.
    Resume(resume::Arguments),
    /// Begin a run from a point of another one's past, and go with it to its end.
    Fork(Box<fork::Arguments>),
    /// Cancel runs: what is under way stops, and what is interrupted or parked ends where it stands.
    Cancel(cancel::Arguments),
    /// Let a run begin no more calls until it is resumed.
    Pause(pause::Arguments),
    /// Tell an agent of a run something, which its model reads before it speaks next.
    Steer(steer::Arguments),
    /// Answer what an agent of a run asks, and go on with the run to its end.
    Answer(answer::Arguments),
    /// Say what became of a call that is in doubt.
    Resolve(resolve::Arguments),
    /// List the messages that were given up, of all runs or of one; give one to its agent once more, or drop it.
    DeadLetters(dead_letters::Arguments),
    /// Remove the events of runs that have ended. What they spent stays in the ledger.
    Prune(prune::Arguments),
}

pub(super) fn run(cli: &Cli, command: &Command) -> Result<Code, Error> {
    super::quiet_panics();
    let address = Address::of(cli)?;
    let tokio = super::tokio_runtime()?;
    let ended = tokio.block_on(async {
        match command {
            Command::List(arguments) => list::run(cli, &address, arguments).await,
            Command::Show(arguments) => show::run(cli, &address, arguments).await,
            Command::Replay(arguments) => replay::run(cli, &address, arguments),
            Command::Diff(arguments) => diff::run(cli, &address, arguments).await,
            Command::Watch(arguments) => watch::run(cli, &address, arguments).await,
            Command::Resume(arguments) => resume::run(cli, &address, arguments).await,
            Command::Fork(arguments) => fork::run(cli, &address, arguments).await,
            Command::Cancel(arguments) => cancel::run(cli, &address, arguments).await,
            Command::Pause(arguments) => pause::run(cli, &address, arguments).await,
            Command::Steer(arguments) => steer::run(cli, &address, arguments).await,
            Command::Answer(arguments) => answer::run(cli, &address, arguments).await,
            Command::Resolve(arguments) => resolve::run(cli, &address, arguments).await,
            Command::DeadLetters(arguments) => dead_letters::run(cli, &address, arguments).await,
            Command::Prune(arguments) => prune::run(cli, &address, arguments).await,
        }
    });
    super::leave(tokio);
    ended
}

/// Does something short: in the process that holds the store, or in this one where there is none.
pub(super) async fn act<T>(
    address: &Address,
    here: impl AsyncFn(&Host) -> Result<T, runtime::Error>,
    there: impl AsyncFn(&Client) -> Result<T, ClientError>,
) -> Result<T, Error> {
    loop {
        match Door::open(address).await? {
            Door::Here(mut holder) => {
                let done = here(&holder.host).await;
                holder.close().await?;
                return Ok(done?);
            }
            Door::There(client) => match there(&client).await {
                // It has just ended.
                Err(ClientError::Absent) => {}
                done => return done.map_err(|error| unreachable(&error)),
            },
        }
    }
}

/// Reads a text from stdin, which is to be `what`.
pub(super) fn stdin(what: &str) -> Result<String, Error> {
    let mut text = String::new();
    let unreadable = |why: String| Error::Usage { message: why, hint: String::new() };
    let read = std::io::stdin().lock().take(MAX_INPUT_BYTES as u64 + 1).read_to_string(&mut text);
    read.map_err(|error| unreadable(format!("can't read {what} from stdin: {error}")))?;
    match text.len() > MAX_INPUT_BYTES {
        true => Err(unreadable(format!("{what}: longer than {MAX_INPUT_BYTES} bytes"))),
        false => Ok(text),
    }
}
