//! A run in this process.

use super::there::{Ear, tail};
use super::{Feed, Followed, Stop, Task};
use crate::cli::Error;
use crate::cli::door::Address;
use crate::run::RunId;
use crate::runtime::{Answers, Host, Report, RunHandle};
use crate::spec::{ModelOverride, Network};

/// Starts or takes up a run in this process, which holds the store, and goes with it to its end.
///
/// # Errors
/// It can't be started or taken up, or the store fails.
pub(in crate::cli) async fn here(
    host: &Host,
    address: &Address,
    run: &RunId,
    task: Task,
    is_attended: bool,
    feed: &mut Feed,
    stop: &Stop,
) -> Result<Report, Error> {
    let handle = match task {
        Task::Start { network, request } => Some(host.start(*network, request).await?),
        Task::Fork { from, fork, network, models } => {
            let network = network.map(|network| *network);
            Some(host.fork::<Error>(&from, fork, network, |network| put_in(&models, network)).await?.0)
        }
        Task::PutBack { letter, priority, models } => {
            let change = |network| put_in(&models, network);
            Some(host.put_back::<Error>(&letter, Some(run.clone()), priority, is_attended, change).await?)
        }
        Task::Resume { models } => {
            let answers = Answers { is_attended, ..Answers::default() };
            host.resume::<Error>(run, answers, |network| put_in(&models, network)).await?
        }
    };
    match handle {
        Some(handle) => {
            // What was before the run's last snapshot is in the store alone.
            feed.catch_up(address, run)?;
            wait(handle, feed, stop).await
        }
        // Somebody else was faster to ask this process for the same.
        None => match tail(&Ear::Here(host), address, run, false, feed, stop).await? {
            Followed::Over(report) => Ok(*report),
            Followed::Gone => Ok(Report::of(feed.state()).without_process()),
        },
    }
}

/// Puts models in the place of a network's.
fn put_in(models: &[ModelOverride], network: Network) -> Result<Network, Error> {
    models.iter().try_fold(network, |network, with| Ok(with.apply(network)?))
}

async fn wait(run: RunHandle, feed: &mut Feed, stop: &Stop) -> Result<Report, Error> {
    let (controls, forward) = (run.controls(), feed.forward(&run));
    let waited = async { tokio::join!(run.wait(), forward).0 };
    let cancelled = async {
        controls.cancel(stop.asked().await);
        std::future::pending::<std::convert::Infallible>().await
    };
    tokio::select! {
        report = waited => Ok(report?),
        never = cancelled => match never {},
    }
}
