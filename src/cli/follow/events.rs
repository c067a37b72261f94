//! What happens, as it happens, a JSON object a line: on stdout for `--events`, and in what is exported. The shape
//! is public.

use std::sync::Arc;

use futures_util::FutureExt;
use serde_json::{Map, Value, json};

use crate::cli::{Error, outcome, print};
use crate::run::{Envelope, Event};
use crate::runtime::{Follower, Happening, Report, Tokens};

/// How much is printed in one go.
const LINES_BYTES: usize = 64 * 1024;

/// Prints each event, and what models say, until the run has ended. The end itself is printed with the result, by [`print_end`].
///
/// # Errors
/// Stdout is closed or can't take it.
pub(in crate::cli) async fn print(mut follower: Follower) -> Result<(), Error> {
    // Where a run was parked and taken up again, its end is not the last event.
    let (mut held_back, mut run): (Option<Arc<Envelope>>, _) = (None, None);
    while let Some(first) = follower.next().await {
        let (mut lines, mut happened) = (String::new(), Some(first));
        while let Some(happening) = happened {
            match happening {
                Happening::Event(envelope) => {
                    run.get_or_insert_with(|| envelope.stream.run.clone());
                    held_back.take().iter().for_each(|end| push(&mut lines, &line(end)));
                    match envelope.event {
                        Event::RunEnded { .. } => held_back = Some(envelope),
                        _ => push(&mut lines, &line(&envelope)),
                    }
                }
                Happening::Tokens(tokens) => push(&mut lines, &said(&tokens)),
                Happening::Missed(count) => {
                    push(&mut lines, &json!({ "kind": "tokens_missed", "run": run, "count": count }))
                }
            }
            // What has happened already is printed in one go.
            happened = if lines.len() < LINES_BYTES { follower.next().now_or_never().flatten() } else { None };
        }
        if !lines.is_empty() {
            print::result_beside(lines).await?;
        }
    }
    Ok(())
}

fn push(lines: &mut String, line: &Value) {
    lines.push_str(&print::json_line(line));
}

/// Returns what a model says in its public shape.
fn said(tokens: &Tokens) -> Value {
    json!({
        "kind": "tokens",
        "run": tokens.run,
        "agent": tokens.call.agent,
        "call": tokens.call,
        "attempt": tokens.attempt,
        "cause": tokens.cause,
        "offset": tokens.offset,
        "text": tokens.text,
    })
}

/// Prints the last event, which holds the whole result.
///
/// # Errors
/// Stdout is closed or can't take it.
pub(in crate::cli) fn print_end(report: &Report) -> Result<(), Error> {
    let mut line = outcome::to_json(report)?;
    line["kind"] = json!("run_ended");
    line["seq"] = json!(report.events);
    line["agent"] = Value::Null;
    print::result(&print::json_line(&line))
}

/// Returns an event in its public shape: `seq`, `run`, `agent`, `kind`, `time_ms` and what else is known about every
/// event, and then what happened.
pub(in crate::cli) fn line(envelope: &Envelope) -> Value {
    let mut line = json!({
        "seq": envelope.seq,
        "run": envelope.stream.run,
        "tenant": envelope.stream.tenant,
        "session": envelope.stream.session,
        "time_ms": envelope.time_ms,
        "agent": envelope.agent,
        "incarnation": envelope.incarnation,
        "cause": envelope.cause,
        "labels": envelope.labels,
    });
    let (kind, what) = happened(&envelope.event);
    line["kind"] = json!(kind);
    if let Value::Object(line) = &mut line {
        line.extend(what);
    }
    line
}

/// Takes an event's kind out of its stored form, and names what is named twice by its text alone.
fn happened(event: &Event) -> (String, Map<String, Value>) {
    if let Event::RunStarted { name, directory, input, vars, version, put_back, priority, .. } = event {
        // The whole network is more than a line should hold; the name says which one it is.
        let put_back_from = put_back.as_ref().map(|put_back| &put_back.letter);
        let mut what = json!({
            "network": name, "directory": directory, "input": input, "vars": vars, "version": version,
            "put_back_from": put_back_from,
        });
        if !priority.is_normal() {
            what["priority"] = json!(priority);
        }
        return ("run_started".to_owned(), what.as_object().cloned().unwrap_or_default());
    }
    if let Event::Rejected { seq, call, reason } = event {
        // `seq` is the line's own number.
        let what = json!({ "event": seq, "call": call, "reason": reason });
        return (event.kind().to_owned(), what.as_object().cloned().unwrap_or_default());
    }
    let stored = serde_json::to_value(event).unwrap_or_default();
    // What has nothing to say but its kind is stored as a text.
    let inside = stored.as_object().and_then(|stored| stored.values().next());
    let what = inside.and_then(Value::as_object).cloned().unwrap_or_default();
    (event.kind().to_owned(), what)
}
