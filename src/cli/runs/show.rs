//! `provost runs show`: what happened in a run, and what it waits for.

use std::fmt::Write;
use std::sync::Arc;

use super::reports::Reports;
use super::time::local;
use super::{dead_letters, find, savings};
use crate::cli::door::Address;
use crate::cli::exit::Code;
use crate::cli::follow::{events, words};
use crate::cli::{Cli, Error, outcome, print};
use crate::journal;
use crate::run::{Envelope, LetterId, Lineage, RunState, Status};
use crate::runtime::{self, Letter, MailboxReport, Past, Report, read_settled, stream_of};
use crate::spec::visible;

/// What `provost runs show` takes.
#[derive(Debug, clap::Args)]
pub struct Arguments {
    /// The run: its id, the beginning or the end of it, or `last`.
    #[arg(value_name = "RUN")]
    run: String,
    /// Print its events, a JSON object a line.
    #[arg(long)]
    events: bool,
}

pub(super) async fn run(cli: &Cli, address: &Address, arguments: &Arguments) -> Result<Code, Error> {
    let (store, run) = find(address, &arguments.run)?;
    let info = store.stream(&stream_of(&run))?;
    let report = Reports::new(address).of(&store, &info).await?;
    let past = match Past::read(&store, &run) {
        Err(runtime::Error::Journal(journal::Error::Pruned { .. })) => None,
        past => Some(past?),
    };
    let Some(report) = report else {
        return Err(Error::Failed { message: format!("the events of run {run} are gone"), hint: String::new() });
    };
    let lines = past.iter().flat_map(|past| &past.events).map(|envelope| events::line(envelope));
    if arguments.events {
        for line in lines {
            print::result(&print::json_line(&line))?;
        }
    } else if cli.json {
        let mut json = outcome::to_json(&report)?;
        json["timeline"] = lines.collect();
        print::json(&json)?;
    } else {
        let open = past.as_ref().map(|past| Ok::<_, Error>(dead_letters::open(past, &read_settled(&store)?)));
        print::result(&text(&report, past.as_ref(), &given_up(&open.transpose()?.unwrap_or_default())))?;
    }
    Ok(Code::Done)
}

fn text(report: &Report, past: Option<&Past>, dead_letters: &str) -> String {
    let mut out = format!(
        "run {} of {} · tenant {}{}{} · began {}\n",
        report.run,
        visible(&report.network),
        visible(&report.tenant),
        report.session.as_deref().map(|session| format!(" · session {}", visible(session))).unwrap_or_default(),
        if report.priority.is_normal() { String::new() } else { format!(" · priority {}", report.priority) },
        local(report.started_ms),
    );
    if let Some(Lineage { run, at }) = &report.forked_from {
        let _ = writeln!(out, "  forked from event {at} of run {run}");
    }
    if let Some(LetterId { run, event }) = &report.put_back_from {
        let _ = writeln!(out, "  began with the dead letter of event {event} of run {run}");
    }
    match past {
        None => out.push_str("  its events have been pruned\n"),
        Some(past) => {
            out.push_str(&timeline(&past.events, report));
            out.push_str(&waits(report, &past.state));
            out.push_str(&mailboxes(report));
            out.push_str(dead_letters);
            out.push_str(&savings::line(past, report.forked_from.as_ref().map_or(0, |lineage| lineage.at)));
        }
    }
    if let Some(answer) = report.answer_text() {
        for line in answer.trim_end().lines() {
            let _ = writeln!(out, "    {}", visible(line));
        }
    }
    out.push_str(&outcome::summary(report, false));
    out
}

/// Says what happened, each event with its number and when; before a run was forked, when in the other run.
fn timeline(events: &[Arc<Envelope>], report: &Report) -> String {
    let copied = report.forked_from.as_ref().map_or(0, |lineage| lineage.at);
    let began_ms = events.first().map(|envelope| envelope.time_ms).unwrap_or_default();
    let line = |envelope: &Arc<Envelope>| {
        let began_ms = if envelope.seq <= copied { began_ms } else { report.started_ms };
        let since_ms = envelope.time_ms.saturating_sub(began_ms);
        format!("{:>5} {:>9.3} s  {}\n", envelope.seq, since_ms as f64 / 1e3, words::sentence(envelope))
    };
    events.iter().map(line).collect()
}

/// Says which calls a person is asked about, and what to type.
fn waits(report: &Report, state: &RunState) -> String {
    let (run, mut out) = (&report.run, String::new());
    let subject = |subject| words::wants(subject);
    if report.status != Status::Running {
        for (call, open) in state.awaiting_approval() {
            let call = words::shown(call);
            let _ = writeln!(out, "  {call} awaits approval: {}", subject(&open.subject));
            let _ = writeln!(out, "    provost approvals approve {run} '{call}', or reject, or edit");
        }
    }
    for question in &report.questions {
        let call = words::shown(&question.call);
        let _ = writeln!(out, "  {call} asks: {}", visible(&question.question));
        if !question.choices.is_empty() {
            let choices: Vec<_> = question.choices.iter().map(|choice| visible(choice)).collect();
            let _ = writeln!(out, "    one of: {}", choices.join(", "));
        }
        let _ = writeln!(out, "    provost runs answer {run} TEXT --call '{call}'");
    }
    for (call, open) in state.in_doubt() {
        let call = words::shown(call);
        let _ = writeln!(out, "  {call} is in doubt: {}", subject(&open.subject));
        let _ = writeln!(out, "    provost runs resolve {run} '{call}' --done RESULT, or --retry, or --fail");
    }
    out
}

/// Says what waits in mailboxes.
fn mailboxes(report: &Report) -> String {
    let line = |mailbox: &MailboxReport| {
        let (agent, since) = (visible(&mailbox.agent), local(mailbox.oldest_ms));
        match mailbox.waiting {
            1 => format!("  1 question waits in the mailbox of {agent}, since {since}\n"),
            count => format!("  {count} questions wait in the mailbox of {agent}, the oldest since {since}\n"),
        }
    };
    report.mailboxes.iter().map(line).collect()
}

/// Says which messages were given up and not settled, and what to type.
fn given_up(letters: &[Letter]) -> String {
    let line = |letter: &Letter| {
        let (LetterId { run, event }, to) = (&letter.id, visible(&letter.to));
        format!(
            "  event {event} is a dead letter for {to}: provost runs dead-letters put-back {run} {event}, or drop\n"
        )
    };
    letters.iter().map(line).collect()
}
