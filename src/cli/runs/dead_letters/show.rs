//! `provost runs dead-letters show`: one message, whole.

use super::{Found, Which, settled_to_json, to_json};
use crate::cli::door::Address;
use crate::cli::exit::Code;
use crate::cli::{Cli, Error, print};
use crate::runtime::{Letter, Settled, Settlement};
use crate::spec::visible;

pub(super) fn run(cli: &Cli, address: &Address, which: &Which) -> Result<Code, Error> {
    let Found { letter, settled, .. } = which.find(address)?;
    if cli.json {
        let mut json = to_json(&letter);
        json["message"] = letter.message.text().into();
        json["settled"] = settled.as_ref().map(settled_to_json).into();
        print::json(&json)?;
    } else {
        print::answer(letter.message.text())?;
        print::notice(&became(&letter, settled.as_ref()));
    }
    Ok(Code::Done)
}

/// Says what became of a letter, or what can.
fn became(letter: &Letter, settled: Option<&Settled>) -> String {
    let (run, event, to) = (&letter.id.run, letter.id.event, visible(&letter.to));
    let given_up = format!("given up for {to}: {}\n", visible(&letter.reason));
    let became = match settled.map(|settled| &settled.how) {
        Some(Settlement::PutBack { into }) => format!("  put back: provost runs show {into}\n"),
        Some(Settlement::Dropped { reason: Some(reason) }) => format!("  dropped: {}\n", visible(reason)),
        Some(Settlement::Dropped { reason: None }) => "  dropped\n".to_owned(),
        None => format!("  hint: provost runs dead-letters put-back {run} {event}, or drop {run} {event}\n"),
    };
    given_up + &became
}
