//! What happens, as it happens, a JSON object a line: on stdout for `--events`, and in the run's record. The shape is
//! public.

use serde_json::{Map, Value, json};

use super::super::{Error, print};
use crate::journal::{self, Reader, RunFile};
use crate::run::{Envelope, Event};
use crate::runtime::{Canceller, Report};

/// Prints each event until the run has ended. The end itself is printed with the result, by [`print_end`]. A run whose
/// reader has gone does not go on spending.
///
/// # Errors
/// Stdout is closed or can't take it.
pub(super) async fn print(mut events: Reader<Envelope>, canceller: &Canceller) -> Result<(), Error> {
    while let Some(envelope) = events.next().await {
        if !matches!(envelope.event, Event::RunEnded { .. }) {
            let printed = print::result(&format!("{}\n", line(&envelope)));
            if let Err(error) = printed {
                canceller.cancel(error.to_string());
                return Err(error);
            }
        }
    }
    Ok(())
}

/// Writes each event to the run's record until the run has ended. A run that can't be recorded does not go on.
///
/// # Errors
/// The disk is full, or can't be written any more.
pub(super) async fn keep(
    mut events: Reader<Envelope>,
    mut record: RunFile,
    canceller: &Canceller,
) -> Result<(), journal::Error> {
    let mut kept = Ok(());
    while let Some(envelope) = events.next().await {
        if kept.is_ok() {
            kept = record.append(&line(&envelope));
            if let Err(error) = &kept {
                canceller.cancel(error.to_string());
            }
        }
    }
    kept
}

/// Prints the last event, which holds the whole result.
///
/// # Errors
/// Stdout is closed or can't take it.
pub(super) fn print_end(report: &Report) -> Result<(), Error> {
    let mut line = super::to_json(report)?;
    line["kind"] = json!("run_ended");
    line["seq"] = json!(report.events);
    line["agent"] = Value::Null;
    print::result(&format!("{line}\n"))
}

/// Returns an event in its public shape: `seq`, `run`, `agent`, `kind`, `time_ms` and what else is known about every
/// event, and then what happened.
fn line(envelope: &Envelope) -> Value {
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
    if let Event::RunStarted { network, input, vars } = event {
        // The network is in the file that the run was given.
        let what = json!({ "network": network.spec().network.name, "input": input, "vars": vars });
        return ("run_started".to_owned(), what.as_object().cloned().unwrap_or_default());
    }
    let stored = serde_json::to_value(event).unwrap_or_default();
    let Value::Object(stored) = stored else { return (String::new(), Map::new()) };
    let Some((kind, Value::Object(mut what))) = stored.into_iter().next() else { return (String::new(), Map::new()) };
    if let Some(call) = event.call() {
        what.insert("call".to_owned(), json!(call.to_string()));
    }
    (kind, what)
}
