//! How a run ended: its result on stdout, how it came about on stderr, and the exit code.

use serde_json::Value;

use super::exit::Code;
use super::follow::events;
use super::{Cli, Error, print};
use crate::run::Status;
use crate::runtime::Report;
use crate::spec::visible;

/// In which form a run is shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Form {
    /// The answer on stdout, progress on stderr.
    Text,
    /// The report on stdout, progress on stderr.
    Json,
    /// Events on stdout.
    Events,
}

impl Form {
    pub(super) fn of(cli: &Cli, events: bool) -> Self {
        match (events, cli.json) {
            (true, _) => Self::Events,
            (false, true) => Self::Json,
            (false, false) => Self::Text,
        }
    }
}

/// Prints what a run came to, and returns its exit code.
///
/// # Errors
/// Stdout is closed or can't take it.
pub(super) fn print(report: &Report, form: Form) -> Result<Code, Error> {
    match form {
        Form::Events => events::print_end(report)?,
        Form::Json => print::json(&to_json(report)?)?,
        Form::Text => {
            if let Some(answer) = report.answer_text() {
                print::answer(&answer)?;
            }
        }
    }
    say(report);
    Ok(code(report.status))
}

/// Returns a report in its public form.
pub(super) fn to_json(report: &Report) -> Result<Value, Error> {
    serde_json::to_value(report)
        .map_err(|error| Error::Failed { message: format!("the report is no JSON: {error}"), hint: String::new() })
}

/// Says on stderr how a run ended, and what to type to go on.
fn say(report: &Report) {
    print::notice(&summary(report, true));
}

/// Returns how a run ended, in two lines, and what to type to go on.
pub(super) fn summary(report: &Report, for_stderr: bool) -> String {
    let head = word(report.status);
    let head = match report.status {
        Status::Done => console::style(head).green().bold(),
        Status::AwaitingApproval
        | Status::AwaitingInput
        | Status::AwaitingBudget
        | Status::InDoubt
        | Status::Interrupted
        | Status::Cancelled
        | Status::Running => console::style(head).yellow().bold(),
        Status::Limit | Status::Denied | Status::Failed => console::style(head).red().bold(),
    };
    let head = if for_stderr { head.for_stderr() } else { head };
    let reason = report.reason.as_deref().map(|reason| format!(": {}", visible(reason))).unwrap_or_default();
    let usage = &report.usage;
    let guessed = usage.charged_tokens.saturating_sub(usage.input_tokens.saturating_add(usage.output_tokens));
    let guessed = match guessed {
        0 => String::new(),
        tokens => format!(" ({tokens} tokens charged as reserved: nobody said what was used)"),
    };
    let mut text = format!(
        "{head}{reason}\n  {}, {}, {} + {} tokens, {}{guessed}, {:.1} s · run {}\n",
        print::counted(usage.model_calls, "model call"),
        print::counted(usage.tool_calls, "tool call"),
        usage.input_tokens,
        usage.output_tokens,
        crate::spec::usd(usage.cost_usd),
        report.duration_ms as f64 / 1e3,
        report.run,
    );
    if let Some(next) = next(report) {
        text.push_str(&format!("  hint: {next}\n"));
    }
    text
}

/// Says what to type so that a run goes on; nothing for one that is under way or over.
fn next(report: &Report) -> Option<String> {
    let run = &report.run;
    match report.status {
        Status::AwaitingApproval => Some(match report.approvals.as_slice() {
            [_] => format!("provost approvals shows it: provost approvals approve {run}, or reject {run} --reason WHY"),
            _ => format!("provost approvals --run {run} shows them; approve or reject each"),
        }),
        Status::AwaitingInput => Some(match report.questions.as_slice() {
            [_] => format!("provost runs answer {run} TEXT"),
            _ => format!("provost runs show {run} has the questions; answer each with provost runs answer"),
        }),
        Status::AwaitingBudget => Some(format!(
            "provost budget shows what is used up; raise a limit with provost budget top-up, then: provost runs resume {run}"
        )),
        Status::InDoubt => {
            Some(format!("provost runs show {run} names the call; say what became of it with provost runs resolve"))
        }
        Status::Interrupted => Some(format!("provost runs resume {run}")),
        _ => None,
    }
}

/// Returns the words for where a run stands.
pub(super) fn word(status: Status) -> &'static str {
    match status {
        Status::Running => "running",
        Status::Done => "done",
        Status::AwaitingApproval => "awaiting approval",
        Status::AwaitingInput => "awaiting an answer",
        Status::AwaitingBudget => "awaiting budget",
        Status::InDoubt => "in doubt",
        Status::Interrupted => "interrupted",
        Status::Cancelled => "cancelled",
        Status::Limit => "limit reached",
        Status::Denied => "denied",
        Status::Failed => "failed",
    }
}

/// Returns the exit code of a command whose run stands so.
pub(super) fn code(status: Status) -> Code {
    match status {
        Status::Done => Code::Done,
        Status::Failed | Status::Interrupted | Status::Running => Code::Failed,
        Status::Cancelled => Code::Cancelled,
        Status::Limit => Code::Limit,
        Status::Denied => Code::Denied,
        Status::AwaitingApproval | Status::AwaitingInput | Status::AwaitingBudget => Code::Waiting,
        Status::InDoubt => Code::InDoubt,
    }
}
