//! Printing: results on stdout, everything else on stderr, and no panic where either is closed or full.

use std::io::{ErrorKind, IsTerminal, Write};

use super::Error;
use crate::spec::{Report, visible};

/// Prints a result.
///
/// # Errors
/// Stdout is closed or can't take it.
pub(super) fn result(text: &str) -> Result<(), Error> {
    let mut stdout = std::io::stdout().lock();
    stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush()).map_err(stdout_fault)
}

/// Prints a result without keeping the caller's task from its other work: whoever reads stdout may be slow.
///
/// # Errors
/// Stdout is closed or can't take it.
pub(super) async fn result_beside(text: String) -> Result<(), Error> {
    beside(move || result(&text)).await
}

/// Does something that prints, without keeping the caller's task from its other work.
///
/// # Errors
/// As what it does.
pub(super) async fn beside<T: Send + 'static>(
    print: impl FnOnce() -> Result<T, Error> + Send + 'static,
) -> Result<T, Error> {
    let printed = tokio::task::spawn_blocking(print).await;
    printed.unwrap_or_else(|error| Err(Error::Stdout(std::io::Error::other(error))))
}

/// Prints an answer. On a terminal its control characters are made visible, so that a model can't drive it; line
/// breaks stay.
///
/// # Errors
/// Stdout is closed or can't take it.
pub(super) fn answer(text: &str) -> Result<(), Error> {
    if !std::io::stdout().is_terminal() {
        return result(&format!("{}\n", text.trim_end()));
    }
    let lines: Vec<String> = text.trim_end().lines().map(visible).collect();
    result(&format!("{}\n", lines.join("\n")))
}

/// Prints a result as JSON.
///
/// # Errors
/// Stdout is closed or can't take it.
pub(super) fn json(value: &serde_json::Value) -> Result<(), Error> {
    result(&format!("{value:#}\n"))
}

pub(super) fn stdout_fault(error: std::io::Error) -> Error {
    if error.kind() == ErrorKind::BrokenPipe { Error::StdoutClosed } else { Error::Stdout(error) }
}

/// Prints a network's diagnostics.
pub(super) fn report(report: &Report) {
    notice(&report.render(console::colors_enabled_stderr()));
}

/// Prints why a command failed.
pub(super) fn error(error: &Error) {
    match error {
        Error::StdoutClosed | Error::Left => {}
        Error::Invalid(invalid) => {
            report(&invalid.0);
            let count = invalid.0.diagnostics().len();
            notice(&format!(
                "{} is no valid network: {count} {}\n",
                visible(invalid.0.name()),
                if count == 1 { "problem" } else { "problems" }
            ));
        }
        Error::Usage { hint, .. } | Error::Failed { hint, .. } | Error::Store { hint, .. } => {
            let head = console::style("error:").red().bold().for_stderr();
            let hint = if hint.is_empty() { String::new() } else { format!("\n  hint: {hint}") };
            notice(&format!("{head} {error}{hint}\n"));
        }
        Error::Stdout(_) => {
            let head = console::style("error:").red().bold().for_stderr();
            notice(&format!("{head} {error}\n"));
        }
    }
}

/// Prints something that is not the result.
pub(super) fn notice(text: &str) {
    // Where stderr is closed there is nobody to tell.
    let _ = std::io::stderr().lock().write_all(text.as_bytes());
}

/// Makes a table of rows of which the first is the head. Numbers end in one column, words begin in one.
pub(super) fn table<const COLUMNS: usize>(
    rows: &[[String; COLUMNS]],
    numbers: std::ops::RangeInclusive<usize>,
) -> String {
    let width = |column: usize| rows.iter().map(|row| row[column].chars().count()).max().unwrap_or_default();
    let widths: [usize; COLUMNS] = std::array::from_fn(width);
    let mut out = String::new();
    for row in rows {
        let cell = |(column, text): (usize, &String)| match (numbers.contains(&column), widths[column]) {
            (true, width) => format!("{text:>width$}  "),
            (false, width) => format!("{text:<width$}  "),
        };
        let line: String = row.iter().enumerate().map(cell).collect();
        out.push_str(line.trim_end());
        out.push('\n');
    }
    out
}

/// Says how many of something there are.
pub(super) fn counted(count: u64, what: &str) -> String {
    format!("{count} {what}{}", if count == 1 { "" } else { "s" })
}
