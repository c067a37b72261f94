//! Which runs are pruned, and pruning them.

use std::collections::BTreeMap;
use std::time::{Duration, SystemTime};

use super::bodies::{Keep, Removed};
use crate::journal::{Store, StreamInfo, StreamName};
use crate::run::LetterId;
use crate::runtime::{Error, Host, Past, Report, Settled, read_settled, run_of};

/// How the marks of runs say that these have ended for good.
const ENDED: [&str; 5] = ["done", "failed", "cancelled", "limit", "denied"];

/// The ledger's stream, of which what lies before its snapshot can go.
const LEDGER: &str = "ledger";

/// Returns the ended runs of a store that are not to be kept, the oldest first. Runs that are under way, interrupted or
/// parked are never among them, nor those with dead letters that nobody has settled.
///
/// # Errors
/// The store can't be read.
pub fn prunable(store: &Store, keep: Keep) -> Result<Vec<StreamInfo>, Error> {
    let has_ended = |info: &StreamInfo| {
        let is_over = info.mark.as_ref().is_some_and(|mark| mark.closed && ENDED.contains(&&*mark.state));
        is_over && !info.pruned
    };
    let mut ended: Vec<StreamInfo> = store.streams("run/")?.into_iter().filter(has_ended).collect();
    match keep {
        Keep::Newest(count) => ended.truncate(ended.len().saturating_sub(count)),
        Keep::YoungerMs(span_ms) => {
            let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or(Duration::ZERO);
            let oldest = u64::try_from(now.as_millis()).unwrap_or(u64::MAX).saturating_sub(span_ms);
            ended.retain(|info| info.created_ms < oldest);
        }
    }
    let settled = read_settled(store)?;
    let mut going = Vec::with_capacity(ended.len());
    for info in ended {
        if !has_open_letters(store, &info, &settled)? {
            going.push(info);
        }
    }
    Ok(going)
}

/// Whether a run has dead letters that nobody has put back or dropped.
fn has_open_letters(store: &Store, info: &StreamInfo, settled: &BTreeMap<LetterId, Settled>) -> Result<bool, Error> {
    let summary = info.mark.as_ref().and_then(|mark| mark.summary.as_deref());
    let report = summary.and_then(|summary| serde_json::from_slice::<Report>(summary).ok());
    let Some(run) = run_of(&info.name).filter(|_| report.is_none_or(|report| report.dead_letters > 0)) else {
        return Ok(false);
    };
    Ok(Past::read(store, &run)?.letters().any(|letter| !settled.contains_key(&letter.id)))
}

/// Removes the events of the ended runs that are not to be kept. What they spent stays in the ledger.
///
/// # Errors
/// The store can't be read or written.
pub async fn prune(host: &Host, keep: Keep) -> Result<Removed, Error> {
    let Some(journal) = host.recorder().journal() else { return Ok(Removed::default()) };
    let streams: Vec<StreamName> = {
        let live = host.live();
        let store = journal.store()?;
        let mut streams = Vec::new();
        for info in prunable(&store, keep)? {
            let Some(run) = run_of(&info.name).filter(|run| !live.contains(run)) else { continue };
            // What counts is what its events say: a mark is no part of the chain.
            let end = Past::since_snapshot(&store, &run)?.state.end().map(|end| end.status);
            if end.is_some_and(|status| !status.is_parked()) {
                streams.push(info.name);
            }
        }
        streams
    };
    let runs = streams.len() as u64;
    let pruned = journal.prune(streams, vec![StreamName::new(LEDGER)]).await?;
    // What is trimmed of the ledger is no run.
    Ok(Removed { runs: pruned.streams.min(runs), events: pruned.events, blobs: pruned.blobs })
}
