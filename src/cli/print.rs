//! Printing: results on stdout, everything else on stderr, and no panic where either is closed or full. Nothing else in
//! the command writes to them (`tests/it/tidy.rs`), and whatever goes through here can't drive the terminal: what others say
//! is made visible where it is put into words, and all of it once more on its way out.

mod live;

use std::io::{ErrorKind, IsTerminal, Write};

pub(super) use live::Live;
use serde_json::Value;

use super::Error;
use crate::spec::{Report, visible, visible_json, visible_styled, visible_text};

/// Prints a result.
///
/// # Errors
/// Stdout is closed or can't take it.
pub(super) fn result(text: &str) -> Result<(), Error> {
    put(&mut std::io::stdout().lock(), text).map_err(stdout_fault)
}

/// Writes a text of several lines, in which nothing drives the terminal but what Provost itself draws with.
fn put(to: &mut impl Write, text: &str) -> std::io::Result<()> {
    to.write_all(visible_styled(text).as_bytes())?;
    to.flush()
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

/// Prints an answer. On a terminal it is made visible, so that a model can't drive it; line breaks stay. Whoever reads it from
/// a pipe or a file gets it as it is.
///
/// # Errors
/// Stdout is closed or can't take it.
pub(super) fn answer(text: &str) -> Result<(), Error> {
    let text = text.trim_end();
    let mut stdout = std::io::stdout().lock();
    if stdout.is_terminal() {
        // Not even our own styles: they are not ours here.
        return put(&mut stdout, &format!("{}\n", visible_text(text))).map_err(stdout_fault);
    }
    stdout.write_all(format!("{text}\n").as_bytes()).and_then(|()| stdout.flush()).map_err(stdout_fault)
}

/// Prints a result as JSON.
///
/// # Errors
/// Stdout is closed or can't take it.
pub(super) fn json(value: &Value) -> Result<(), Error> {
    result(&format!("{}\n", visible_json(&format!("{value:#}"))))
}

/// Returns JSON as a line.
pub(super) fn json_line(value: &Value) -> String {
    format!("{}\n", visible_json(&value.to_string()))
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
            notice(&format!("{}\n", invalid.0.verdict("network")));
        }
        Error::Refused { message, report } => notice(&format!("{report}{message}\n")),
        Error::Usage { hint, .. } | Error::Failed { hint, .. } | Error::Store { hint, .. } => {
            notice(&failure(&error.to_string(), hint));
        }
        Error::Stdout(_) => notice(&failure(&error.to_string(), "")),
    }
}

/// Says what failed and what to do about it. Each is a line: what somebody else said in it can't begin another.
fn failure(message: &str, hint: &str) -> String {
    let head = console::style("error:").red().bold().for_stderr();
    let hint = if hint.is_empty() { String::new() } else { format!("\n  hint: {}", visible(hint)) };
    format!("{head} {}{hint}\n", visible(message))
}

/// Prints what clap has to say: help and version on stdout, mistakes on stderr. A mistake repeats what was typed, which
/// may be the name of a file that somebody else chose.
///
/// # Errors
/// Stdout is closed or can't take it.
pub(super) fn usage(said: &clap::Error) -> Result<(), Error> {
    // With its styles, it has what was typed as it was typed; without, whatever looks like a style is gone from that, too.
    let said_in = |colour: bool| {
        let said =
            typed().iter().fold(said.render().ansi().to_string(), |said, typed| said.replace(typed, &visible(typed)));
        if colour { said } else { without_styles(&said) }
    };
    if said.use_stderr() {
        notice(&said_in(console::colors_enabled_stderr()));
        return Ok(());
    }
    result(&said_in(console::colors_enabled()))
}

/// Takes away what a text is styled with.
fn without_styles(text: &str) -> String {
    let mut parts = text.split('\u{1b}');
    let mut out = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        let style = part.strip_prefix('[').and_then(|part| part.split_once('m'));
        match style.filter(|(style, _)| style.bytes().all(|byte| byte.is_ascii_digit() || byte == b';')) {
            Some((_, rest)) => out.push_str(rest),
            None => out.extend(["\u{1b}", part]),
        }
    }
    out
}

/// Returns what was typed that can't be shown as it is, the longest first; of `--name=value`, the value too.
fn typed() -> Vec<String> {
    let arguments = std::env::args_os().map(|argument| argument.to_string_lossy().into_owned());
    let with_values = arguments.flat_map(|argument| {
        let value = argument.split_once('=').map(|(_, value)| value.to_owned());
        [Some(argument), value]
    });
    let is_meant = |text: &String| !text.trim().is_empty() && visible(text) != text.as_str();
    let mut typed: Vec<String> = with_values.flatten().filter(is_meant).collect();
    typed.sort_by_key(|text| std::cmp::Reverse(text.len()));
    typed
}

/// Says that this process panicked, which is a bug: where, and what was at hand then, which may be anything.
pub(super) fn panicked(panic: &std::panic::PanicHookInfo<'_>) {
    let trace = std::backtrace::Backtrace::capture();
    let trace = match trace.status() {
        std::backtrace::BacktraceStatus::Captured => format!("{trace}\n"),
        _ => String::new(),
    };
    let place = panic.location().map(|place| format!(" at {place}")).unwrap_or_default();
    let why = panic.payload_as_str().unwrap_or("it is not said why");
    notice(&format!("error: provost panicked{place}: {}\n{trace}", visible(why)));
}

/// Prints something that is not the result.
pub(super) fn notice(text: &str) {
    // Where stderr is closed there is nobody to tell.
    let _ = put(&mut std::io::stderr().lock(), text);
}

/// Whether a person sees what is not the result.
pub(super) fn is_seen() -> bool {
    std::io::stderr().is_terminal()
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_printed_drives_nothing_but_our_styles() {
        let mut out = Vec::new();
        put(&mut out, "\u{1b}[31mours\u{1b}[0m \u{1b}]0;title\u{7}\u{9b}2J\r\u{202e}\n\tnext\n").unwrap();
        let out = String::from_utf8(out).unwrap();
        assert_eq!(out, "\u{1b}[31mours\u{1b}[0m ␛]0;title␇\\u{9b}2J␍\\u{202e}\n\tnext\n");
    }

    #[test]
    fn a_failure_is_a_line_and_its_hint_another() {
        let said = failure("no file a\nerror: forged\r", "rm\u{2028}b\nhint: forged");
        assert_eq!(said.lines().count(), 2, "{said}");
        assert!(said.ends_with("no file a␊error: forged␍\n  hint: rm\\u{2028}b␊hint: forged\n"), "{said}");
    }
}
