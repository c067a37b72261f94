//! `provost runs dead-letters`: those that nobody has settled.

use std::fmt::Write;

use super::{open, to_json};
use crate::cli::door::Address;
use crate::cli::exit::Code;
use crate::cli::follow::words::excerpt;
use crate::cli::runs::find;
use crate::cli::runs::reports::RUNNING;
use crate::cli::runs::time::age;
use crate::cli::{Cli, Error, print};
use crate::journal::StreamInfo;
use crate::runtime::{Letter, Past, Report, read_settled, run_of};
use crate::spec::visible;

pub(super) fn run(cli: &Cli, address: &Address, run: Option<&str>) -> Result<Code, Error> {
    let (letters, fault) = letters(address, run)?;
    if cli.json {
        let json = |letter: &Letter| {
            let mut json = to_json(letter);
            json["excerpt"] = excerpt(letter.message.text()).into();
            json
        };
        print::json(&letters.iter().map(json).collect())?;
    } else if letters.is_empty() && fault.is_none() {
        print::notice("no dead letters\n");
    } else {
        print::result(&letters.iter().map(entry).collect::<String>())?;
    }
    // The others have been listed.
    fault.map_or(Ok(Code::Done), Err)
}

/// Returns the dead letters that nobody has settled, those of the newest run first; and why a run can't be read, if that
/// is so.
fn letters(address: &Address, run: Option<&str>) -> Result<(Vec<Letter>, Option<Error>), Error> {
    if let Some(run) = run {
        let (store, run) = find(address, run)?;
        return Ok((open(&Past::read(&store, &run)?, &read_settled(&store)?), None));
    }
    let Some(store) = address.store()? else { return Ok((Vec::new(), None)) };
    let settled = read_settled(&store)?;
    let (mut letters, mut fault) = (Vec::new(), None);
    for info in store.streams("run/")?.iter().rev().filter(|info| !info.pruned && may_have_some(info)) {
        let Some(run) = run_of(&info.name) else { continue };
        match Past::read(&store, &run) {
            Ok(past) => letters.extend(open(&past, &settled)),
            Err(error) => drop(fault.get_or_insert(error.into())),
        }
    }
    Ok((letters, fault))
}

/// Whether a run may have dead letters, as far as the list of runs says.
fn may_have_some(info: &StreamInfo) -> bool {
    let mark = info.mark.as_ref().filter(|mark| mark.state != RUNNING);
    let report: Option<Report> = mark.and_then(|mark| serde_json::from_slice(mark.summary.as_deref()?).ok());
    report.is_none_or(|report| report.dead_letters > 0)
}

/// Says in a few lines what was given up, and what to do about it.
fn entry(letter: &Letter) -> String {
    let Letter { id, time_ms, call, to, message, deliveries, reason } = letter;
    let asked = match call {
        Some(call) => format!("asked by {}", visible(&call.to_string())),
        None => "the run's input".to_owned(),
    };
    let mut out = format!("run {} · event {} · for {} · {} old\n", id.run, id.event, visible(to), age(*time_ms));
    let deliveries = match deliveries {
        0 => "not delivered".to_owned(),
        1 => "delivered once".to_owned(),
        count => format!("delivered {count} times"),
    };
    // Writing to a string does not fail.
    let _ = writeln!(out, "  {asked}, {deliveries}: {}", excerpt(reason));
    let _ = writeln!(out, "  {}", excerpt(message.text()));
    out
}
