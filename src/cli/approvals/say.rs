//! `provost approvals approve`, `reject` and `edit`.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use serde_json::{Value, json};

use crate::cli::attend::{Task, attend};
use crate::cli::door::Address;
use crate::cli::exit::Code;
use crate::cli::follow::approve::me;
use crate::cli::outcome::Form;
use crate::cli::runs::{act, find, stdin};
use crate::cli::{Cli, Error, Signals, print};
use crate::run::{Ballot, CallId, Pattern, Ruling, RunId, RunState};
use crate::runtime::Past;
use crate::serve::control::{ApprovalTaken, ApproveRun, ClientError, Standing};
use crate::spec::{Span, visible};

/// Which call is meant, and who says it.
#[derive(Debug, clap::Args)]
struct Which {
    /// The run: its id, the beginning or the end of it, or `last`.
    #[arg(value_name = "RUN")]
    run: String,
    /// The call, as `provost approvals` names it; it may be left out where one alone awaits approval.
    #[arg(value_name = "CALL")]
    call: Option<CallId>,
    /// Your name, as the record is to have it; that of your account where it is left out.
    #[arg(long = "as", value_name = "NAME")]
    name: Option<String>,
    /// Whose run it is meant to be; refused where it is another tenant's.
    #[arg(long, value_name = "NAME")]
    tenant: Option<String>,
    /// The digest of what you were shown, or the beginning of it; refused where something else is asked now.
    #[arg(long, value_name = "DIGEST")]
    digest: Option<String>,
    /// Print what happens as it happens, a JSON object a line; the last one holds the result.
    #[arg(long)]
    events: bool,
}

/// What `provost approvals approve` takes.
#[derive(Debug, clap::Args)]
pub(super) struct Approve {
    #[command(flatten)]
    which: Which,
    /// Let later calls of the same agent to the same tool happen, too, to the end of the run: with the same arguments, or
    /// those that --like says.
    #[arg(long)]
    for_run: bool,
    /// The same, for so long: 30m, 2h.
    #[arg(long = "for", value_name = "TIME", conflicts_with = "for_run")]
    lasts: Option<Span>,
    /// What an argument of later calls may be: in a text, `*` stands for anything; a list, as JSON, has a pattern for each
    /// item. Arguments that are not named must be as they are.
    #[arg(long, value_name = "ARGUMENT=PATTERN", value_parser = like)]
    like: Vec<(String, Value)>,
}

/// What `provost approvals reject` takes.
#[derive(Debug, clap::Args)]
pub(super) struct Reject {
    #[command(flatten)]
    which: Which,
    /// Why, in words for the model; `-` reads them from stdin.
    #[arg(long, value_name = "TEXT", allow_hyphen_values = true)]
    reason: Option<String>,
}

/// What `provost approvals edit` takes.
#[derive(Debug, clap::Args)]
pub(super) struct Edit {
    #[command(flatten)]
    which: Which,
    /// All arguments that the call is to have, as a JSON object; `-` reads them from stdin.
    #[arg(long, value_name = "JSON", allow_hyphen_values = true)]
    arguments: String,
}

fn like(text: &str) -> Result<(String, Value), String> {
    let (name, pattern) = text.split_once('=').ok_or("write ARGUMENT=PATTERN, such as `path=docs/*`")?;
    let is_json = pattern.starts_with(['[', '"']);
    let value = match is_json {
        true => serde_json::from_str(pattern).map_err(|error| format!("the pattern is no JSON: {error}"))?,
        // Numbers and the like are meant as such; all else is a text.
        false => match serde_json::from_str(pattern) {
            Ok(value @ (Value::Number(_) | Value::Bool(_))) => value,
            _ => Value::String(pattern.to_owned()),
        },
    };
    Ok((name.to_owned(), value))
}

pub(super) async fn approve(cli: &Cli, address: &Address, approve: &Approve) -> Result<Code, Error> {
    let is_standing = approve.for_run || approve.lasts.is_some();
    if !is_standing && !approve.like.is_empty() {
        let message = "--like says which later calls may happen, and none may".to_owned();
        return Err(Error::Usage { message, hint: "add --for-run, or --for TIME".to_owned() });
    }
    let until_ms = approve.lasts.map(|span| now_ms().saturating_add(span.0.as_millis() as u64));
    let pattern = Pattern { like: approve.like.iter().cloned().collect::<BTreeMap<_, _>>(), until_ms };
    let standing = is_standing.then_some(pattern);
    say(cli, address, &approve.which, Ruling::Approve { standing }).await
}

pub(super) async fn reject(cli: &Cli, address: &Address, reject: &Reject) -> Result<Code, Error> {
    let reason = match reject.reason.as_deref() {
        Some("-") => Some(stdin("the reason")?),
        reason => reason.map(str::to_owned),
    };
    let reason = reason.map(|reason| reason.trim().into());
    say(cli, address, &reject.which, Ruling::Reject { reason }).await
}

pub(super) async fn edit(cli: &Cli, address: &Address, edit: &Edit) -> Result<Code, Error> {
    let text = match edit.arguments.as_str() {
        "-" => stdin("the arguments")?,
        text => text.to_owned(),
    };
    let arguments: Value = serde_json::from_str(&text).map_err(|error| Error::Usage {
        message: format!("the arguments are no JSON: {error}"),
        hint: "write them as an object: --arguments '{\"path\": \"a.txt\"}'".to_owned(),
    })?;
    say(cli, address, &edit.which, Ruling::Edit { arguments }).await
}

/// Says it, and goes on with a run at rest where that settles it: one under way does so by itself.
async fn say(cli: &Cli, address: &Address, which: &Which, ruling: Ruling) -> Result<Code, Error> {
    let mut signals = Signals::catch();
    let (store, run) = find(address, &which.run)?;
    let state = Past::read(&store, &run)?.state;
    let digest = digest(which, &state)?;
    let by: Arc<str> = which.name.clone().unwrap_or_else(me).into();
    let tenant = which.tenant.as_deref().map(Arc::from);
    let body = ApproveRun { call: which.call.clone(), ballot: Ballot { by, ruling, digest, tenant } };
    let taken = act(
        address,
        async |host| {
            let (approved, is_under_way) = host.approve(&run, body.call.clone(), &body.ballot).await?;
            let state = if is_under_way { Standing::UnderWay } else { Standing::AtRest };
            Ok(ApprovalTaken { run: run.clone(), call: approved.call, missing: approved.missing, state })
        },
        // Where the holder has just ended it is said again: it settles the call once, and who has settled it is known.
        async |client| match client.approve(&run, &body).await {
            Err(ClientError::Broken(_)) => Err(ClientError::Absent),
            taken => taken,
        },
    )
    .await?;
    if taken.missing > 0 || taken.state == Standing::UnderWay {
        say_so(cli, &run, &taken)?;
        return Ok(if taken.missing > 0 { Code::Waiting } else { Code::Done });
    }
    let form = Form::of(cli, which.events);
    attend(address, &run, Task::resume(), form, &mut signals).await?.print_and_leave(form, &mut signals).await
}

/// Finds what the person means to have been shown: what is asked now, or what the digest says.
fn digest(which: &Which, state: &RunState) -> Result<Option<Arc<str>>, Error> {
    let mut open =
        state.awaiting_approval().filter(|(call, _)| which.call.as_ref().is_none_or(|wanted| wanted == *call));
    let asked = open.next().filter(|_| open.next().is_none());
    let now = asked.and_then(|(_, open)| open.approval.as_ref()).map(|approval| approval.request.binding.digest());
    let Some(given) = &which.digest else { return Ok(now) };
    match now {
        Some(now) if now.starts_with(given.as_str()) && !given.is_empty() => Ok(Some(now)),
        _ => Err(Error::Usage {
            message: format!("nothing with the digest {} awaits approval there", visible(given)),
            hint: "look at it again: provost approvals".to_owned(),
        }),
    }
}

fn say_so(cli: &Cli, run: &RunId, taken: &ApprovalTaken) -> Result<(), Error> {
    let ApprovalTaken { call, missing, .. } = taken;
    if cli.json {
        return print::json(&json!({ "run": run, "call": call, "missing": missing }));
    }
    let text = match missing {
        0 => format!("said; the run goes on: provost runs watch {run}\n"),
        missing => format!("said; {} more to say yes\n", print::counted((*missing).into(), "person")),
    };
    print::result(&text)
}

fn now_ms() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_millis() as u64)
}
