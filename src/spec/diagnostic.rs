//! What is wrong with a network, and how a person is told.

use std::fmt::{self, Write};
use std::ops::Range;
use std::sync::Arc;

use serde::Serialize;

use super::visible::{symbols, visible};

/// How much of a line is shown: an excerpt stays readable when a file has one endless line.
const MAX_EXCERPT_CHARS: usize = 120;

/// How many diagnostics are rendered; a file that is no network file at all has no use for more.
const MAX_RENDERED: usize = 50;

/// How bad a diagnostic is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Severity {
    /// The network can't run.
    Error,
    /// The network can run, but perhaps not as was meant.
    Warning,
}

/// One thing that is wrong, with its place and its remedy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Diagnostic {
    /// How bad it is.
    pub severity: Severity,
    /// What kind of thing it is; stable, in snake case.
    pub code: &'static str,
    /// What is wrong, in one sentence.
    pub message: String,
    /// Where in the network it is, such as `agents.editor.tools[1]`; empty for the file as a whole.
    pub path: String,
    /// The bytes of the file that it is about; none where there is no file.
    pub span: Option<Range<usize>>,
    /// What stands beside the underlined text; may be empty.
    pub label: String,
    /// What to do about it; may be empty.
    pub help: String,
}

/// The diagnostics of one network, with the text that they point into.
#[derive(Clone, Debug)]
pub struct Report {
    /// The file's name, as the user gave it.
    name: String,
    text: Arc<str>,
    /// Bytes of the text that are never shown, because they may be a secret.
    hidden: Vec<Range<usize>>,
    diagnostics: Vec<Diagnostic>,
}

/// A place in a file, counted from 1; columns count characters.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Position {
    /// The line.
    pub line: usize,
    /// The character within the line.
    pub column: usize,
}

impl Report {
    /// Puts diagnostics in the order of the file.
    pub(crate) fn new(
        name: String,
        text: Arc<str>,
        hidden: Vec<Range<usize>>,
        mut diagnostics: Vec<Diagnostic>,
    ) -> Self {
        diagnostics.sort_by_key(|diagnostic| (diagnostic.severity, diagnostic.span.as_ref().map(|span| span.start)));
        Self { name, text, hidden, diagnostics }
    }

    /// Returns the file's name, as the user gave it.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Returns the diagnostics: errors first, each kind in the order of the file.
    pub fn diagnostics(&self) -> &[Diagnostic] {
        &self.diagnostics
    }

    /// Returns where a diagnostic begins; none where it is not about a place in a file.
    pub fn position(&self, diagnostic: &Diagnostic) -> Option<Position> {
        let start = diagnostic.span.as_ref()?.start;
        Some(position(&self.text, start))
    }

    /// Says in a line that the file is none of what it is to be, and of how many problems that is told.
    pub(crate) fn verdict(&self, what: &str) -> String {
        let count = self.diagnostics.len();
        let problems = if count == 1 { "problem" } else { "problems" };
        format!("{} is no valid {what}: {count} {problems}", visible(&self.name))
    }

    /// Renders all diagnostics for a person, with excerpts of the file, in colour if asked for.
    ///
    /// Control characters are shown as symbols, and what may be a secret not at all.
    pub fn render(&self, colour: bool) -> String {
        let mut out = String::new();
        for diagnostic in self.diagnostics.iter().take(MAX_RENDERED) {
            // Writing to a string does not fail.
            let _ = self.render_one(&mut out, diagnostic, &Paint { colour });
        }
        if let Some(more) = self.diagnostics.len().checked_sub(MAX_RENDERED).filter(|more| *more > 0) {
            let _ = writeln!(out, "… and {more} more");
        }
        out
    }

    fn render_one(&self, out: &mut String, diagnostic: &Diagnostic, paint: &Paint) -> fmt::Result {
        let (word, style) = match diagnostic.severity {
            Severity::Error => ("error", "1;31"),
            Severity::Warning => ("warning", "1;33"),
        };
        let head = paint.with(style, &format!("{word}[{}]", diagnostic.code));
        writeln!(out, "{head}: {}", paint.with("1", &visible(&diagnostic.message)))?;
        let name = visible(&self.name);
        match &diagnostic.span {
            Some(span) => {
                let Position { line, column } = position(&self.text, span.start);
                let gutter = line.to_string().len();
                writeln!(out, "{:gutter$}{} {name}:{line}:{column}", "", paint.with("34", "-->"))?;
                self.excerpt(out, diagnostic, span, line, style, paint)?;
                if !diagnostic.help.is_empty() {
                    let help = visible(&diagnostic.help);
                    writeln!(out, "{:gutter$} {} {} {help}", "", paint.with("34", "="), paint.with("1", "help:"))?;
                }
            }
            None => {
                if !name.is_empty() {
                    writeln!(out, " {} {name}", paint.with("34", "-->"))?;
                }
                if !diagnostic.path.is_empty() {
                    writeln!(out, "  {} at {}", paint.with("34", "|"), visible(&diagnostic.path))?;
                }
                if !diagnostic.help.is_empty() {
                    let help = visible(&diagnostic.help);
                    writeln!(out, "  {} {} {help}", paint.with("34", "="), paint.with("1", "help:"))?;
                }
            }
        }
        writeln!(out)
    }

    /// Writes the line that `span` begins in, with that part of the span underlined which is on it.
    fn excerpt(
        &self,
        out: &mut String,
        diagnostic: &Diagnostic,
        span: &Range<usize>,
        line: usize,
        style: &str,
        paint: &Paint,
    ) -> fmt::Result {
        let bounds = line_bounds(&self.text, span.start);
        let start = span.start.clamp(bounds.start, bounds.end);
        let end = span.end.clamp(start, bounds.end);
        let before = self.text[bounds.start..start].chars().count();
        let skipped = before.saturating_sub(MAX_EXCERPT_CHARS / 2);
        let mut shown = String::new();
        let (mut indent, mut width) = (0, 0);
        if skipped > 0 {
            shown.push('…');
            indent += 1;
        }
        let mut cut = false;
        for (count, (offset, symbol)) in symbols(&self.text[bounds.clone()]).enumerate().skip(skipped) {
            if count - skipped >= MAX_EXCERPT_CHARS {
                cut = true;
                break;
            }
            let at = bounds.start + offset;
            let hidden = self.hidden.iter().any(|range| range.contains(&at));
            let text = if hidden { "*".to_owned() } else { symbol };
            let columns = console::measure_text_width(&text);
            if at < start {
                indent += columns;
            } else if at < end {
                width += columns;
            }
            shown.push_str(&text);
        }
        if cut {
            shown.push('…');
        }
        let number = line.to_string();
        let gutter = number.len();
        let bar = paint.with("34", "|");
        writeln!(out, "{:gutter$} {bar}", "")?;
        writeln!(out, "{} {bar} {}", paint.with("34", &number), shown.trim_end())?;
        let mut marks = "^".repeat(width.max(1));
        if !diagnostic.label.is_empty() {
            let _ = write!(marks, " {}", visible(&diagnostic.label));
        }
        writeln!(out, "{:gutter$} {bar} {:indent$}{}", "", "", paint.with(style, &marks))
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.render(false).trim_end())
    }
}

/// Returns the place of a byte.
pub(super) fn position(text: &str, byte: usize) -> Position {
    let byte = text.floor_char_boundary(byte);
    let before = &text[..byte];
    let line = before.bytes().filter(|byte| *byte == b'\n').count() + 1;
    let column = before.rsplit('\n').next().unwrap_or_default().chars().count() + 1;
    Position { line, column }
}

/// Returns the bytes of the line that a byte is in, without its end.
pub(super) fn line_bounds(text: &str, byte: usize) -> Range<usize> {
    let byte = text.floor_char_boundary(byte);
    let start = text[..byte].rfind('\n').map_or(0, |at| at + 1);
    let end = text[byte..].find('\n').map_or(text.len(), |at| byte + at);
    let end = if text[start..end].ends_with('\r') { end - 1 } else { end };
    start..end
}

/// Colours, or none.
struct Paint {
    colour: bool,
}

impl Paint {
    fn with(&self, style: &str, text: &str) -> String {
        if self.colour { format!("\x1b[{style}m{text}\x1b[0m") } else { text.to_owned() }
    }
}
