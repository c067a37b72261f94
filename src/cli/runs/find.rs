//! Which run is meant.

use crate::cli::Error;
use crate::cli::door::Address;
use crate::journal::{Store, StreamInfo};
use crate::run::RunId;
use crate::runtime::{run_of, stream_of};
use crate::spec::visible;

/// How much of an id must be given: four letters tell a million apart.
const SHORTEST: usize = 4;

/// How many runs a hint names.
const NAMED: usize = 3;

/// The word for the run that began last.
const LAST: &str = "last";

/// Finds the run that is meant by its id, the beginning or end of it, or `last`.
///
/// # Errors
/// There is no such run, there are several, or the store can't be read.
pub(in crate::cli) fn find(address: &Address, text: &str) -> Result<(Store, RunId), Error> {
    let none = |hint: String| Error::Usage { message: format!("there is no run {}", visible(text)), hint };
    let Some(store) = address.store()? else {
        let directory = address.directory.display().to_string();
        return Err(none(format!("there are no runs at {}; --data-dir names another place", visible(&directory))));
    };
    let exact = RunId::new(text);
    if store.stream(&stream_of(&exact)).is_ok() {
        return Ok((store, exact));
    }
    let runs: Vec<RunId> = store.streams("run/")?.iter().filter_map(|info: &StreamInfo| run_of(&info.name)).collect();
    let is_meant = |run: &&RunId| match text {
        LAST => runs.last() == Some(run),
        _ => text.len() >= SHORTEST && (run.as_str().starts_with(text) || run.as_str().ends_with(text)),
    };
    let meant: Vec<&RunId> = runs.iter().filter(is_meant).collect();
    match meant.as_slice() {
        [one] => {
            let one = (*one).clone();
            Ok((store, one))
        }
        [] => Err(none(match runs.is_empty() {
            true => "there are no runs yet".to_owned(),
            false => format!("did you mean {}? provost runs list shows all", named(closest(&runs, text))),
        })),
        several => Err(Error::Usage {
            message: format!("{} runs are called {}", several.len(), visible(text)),
            hint: format!("give more of the id: {}", named(several.iter().rev().copied())),
        }),
    }
}

/// Returns the runs whose ids are most like the text; of those that are as like, the newest.
fn closest<'a>(runs: &'a [RunId], text: &str) -> impl Iterator<Item = &'a RunId> {
    let mut ranked: Vec<&RunId> = runs.iter().rev().collect();
    ranked.sort_by_key(|run| strsim::levenshtein(run.as_str(), text));
    ranked.into_iter()
}

fn named<'a>(runs: impl Iterator<Item = &'a RunId>) -> String {
    runs.take(NAMED).map(RunId::as_str).collect::<Vec<_>>().join(" or ")
}
