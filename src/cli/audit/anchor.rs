//! `provost audit anchor`: where else checkpoints are kept.

use serde_json::{Value, json};

use crate::cli::door::{Address, Door};
use crate::cli::exit::Code;
use crate::cli::runs::{age, local};
use crate::cli::{Cli, Error, print};
use crate::journal::{self, Anchoring, Failing, Target};
use crate::serve::anchor::connect;
use crate::spec::visible;

/// What is to be done with the anchor.
#[derive(Debug, clap::Subcommand)]
pub enum Command {
    /// Keep checkpoints at an anchor from now on, in the place of the one there was.
    Set {
        /// The anchor: a file on another disk, to which lines are only added, or an address of HTTP.
        #[arg(value_name = "TARGET")]
        target: String,
    },
    /// Say which anchor there is, and how far it is behind.
    Show,
    /// Keep checkpoints there no longer. What the anchor has it keeps.
    Remove,
}

pub(super) fn run(cli: &Cli, address: &Address, command: &Command) -> Result<Code, Error> {
    match command {
        Command::Set { target } => set(cli, address, target),
        Command::Show => show(cli, journal::anchoring(&address.directory)?.as_ref()),
        Command::Remove => {
            // What can't be read is taken away all the same.
            let is_unreadable = journal::anchor(&address.directory).inspect_err(unread).is_err();
            let removed = journal::remove_anchor(&address.directory)?;
            let name = removed.as_ref().map(Target::to_string);
            if cli.json {
                print::json(&json!({ "removed": name }))?;
            } else {
                let said = match name {
                    Some(name) => format!("{} is the anchor no longer; what it has it keeps", visible(&name)),
                    None if is_unreadable => "there is no anchor any longer".to_owned(),
                    None => "there was no anchor".to_owned(),
                };
                print::result(&format!("{said}\n"))?;
            }
            Ok(Code::Done)
        }
    }
}

fn unread(error: &journal::Error) {
    print::notice(&format!("note: {}\n", visible(&error.to_string())));
}

fn set(cli: &Cli, address: &Address, target: &str) -> Result<Code, Error> {
    let target = Target::of(target).map_err(journal::Error::from)?;
    journal::set_anchor(&address.directory, &target, Some(connect))?;
    let known = journal::anchoring(&address.directory)?;
    // One that has just not answered is not waited for once more.
    let is_failing = known.is_some_and(|known| known.failing.is_some());
    if !is_failing && address.store()?.is_some() {
        let tokio = crate::cli::tokio_runtime()?;
        let sent = tokio.block_on(async {
            match Door::open(address).await? {
                // Whoever holds the store sends what the anchor has not; here that is all there is to do.
                Door::Here(mut holder) => holder.close().await,
                Door::There(_) => {
                    print::notice("note: the process that holds the store sends its next checkpoint there\n");
                    Ok(())
                }
            }
        });
        crate::cli::leave(tokio);
        sent?;
    }
    show(cli, journal::anchoring(&address.directory)?.as_ref())
}

fn show(cli: &Cli, anchoring: Option<&Anchoring>) -> Result<Code, Error> {
    if cli.json {
        print::json(&anchoring.map_or(Value::Null, to_json))?;
    } else {
        print::result(&anchoring.map_or("no anchor is set\n".to_owned(), text))?;
    }
    Ok(Code::Done)
}

fn to_json(anchoring: &Anchoring) -> Value {
    json!({
        "anchor": anchoring.target.to_string(),
        "anchored": anchoring.anchored.map(|(size, time_ms)| json!({ "size": size, "time_ms": time_ms })),
        "newest": anchoring.newest.as_ref().map(|newest| json!({ "size": newest.size(), "time_ms": newest.time_ms() })),
        "lag": anchoring.lag(),
        "failing": anchoring.failing.as_ref().map(|failing| json!({ "since_ms": failing.since_ms, "why": failing.why })),
    })
}

fn text(anchoring: &Anchoring) -> String {
    let mut out = format!("anchor {}\n", visible(&anchoring.target.to_string()));
    out.push_str(&match anchoring.anchored {
        Some((size, time_ms)) => format!("  its newest checkpoint is of commit {size}, {}\n", local(time_ms)),
        None => "  it has taken no checkpoint yet\n".to_owned(),
    });
    if anchoring.lag() > 0 {
        out.push_str(&format!("  {} behind\n", print::counted(anchoring.lag(), "commit")));
    }
    if let Some(Failing { since_ms, why }) = &anchoring.failing {
        out.push_str(&format!("  failing for {}: {}\n", age(*since_ms), visible(why)));
    }
    out
}
