//! A network file as bytes and as TOML: what can be wrong with it before any key is looked at.

use std::fs::File;
use std::io::{ErrorKind, Read};
use std::ops::Range;
use std::path::Path;

use toml::de::{DeTable, DeValue};

use super::MAX_FILE_BYTES;
use super::diagnostic::{Diagnostic, Severity, line_bounds};
use super::findings::nearest;
use super::node::Node;

/// How many syntax errors are looked for: each is one more parse of the file.
const MAX_SYNTAX_ERRORS: usize = 20;

/// How many syntax errors at once say that the file is something else, and no use is in a closer look.
const HOPELESS: usize = 2_000;

/// A file that is no text, and as much of it as can be shown.
pub(super) struct Unreadable {
    pub(super) fault: Box<Diagnostic>,
    pub(super) text: String,
}

/// Reads a network file.
pub(super) fn read(path: &Path) -> Result<String, Unreadable> {
    let fault = |code, message: String, help: String| Unreadable {
        fault: Box::new(Diagnostic {
            severity: Severity::Error,
            code,
            message,
            path: String::new(),
            span: None,
            label: String::new(),
            help,
        }),
        text: String::new(),
    };
    if path.is_dir() {
        let help = match toml_files(path).as_slice() {
            [] => "give the network file itself; `provost new NAME` writes one to begin with".to_owned(),
            [first, ..] => format!("give the network file itself; did you mean `{}`?", path.join(first).display()),
        };
        return Err(fault("file_is_a_directory", "this is a directory, not a network file".to_owned(), help));
    }
    let mut bytes = Vec::new();
    File::open(path).and_then(|file| file.take(MAX_FILE_BYTES + 1).read_to_end(&mut bytes)).map_err(
        |error| match error.kind() {
            ErrorKind::NotFound => fault("file_not_found", "there is no such file".to_owned(), missing_help(path)),
            ErrorKind::PermissionDenied => fault(
                "file_unreadable",
                "the file may not be read".to_owned(),
                "check its permissions, and those of the directories above it".to_owned(),
            ),
            _ => fault("file_unreadable", format!("the file can't be read: {error}"), String::new()),
        },
    )?;
    if bytes.len() as u64 > MAX_FILE_BYTES {
        return Err(fault(
            "file_too_large",
            format!("the file is larger than {} KiB", MAX_FILE_BYTES / 1024),
            "a network file holds a network, no data; move long texts into files that tools read".to_owned(),
        ));
    }
    decode(&bytes).map_err(|(at, message, help)| {
        let Unreadable { mut fault, .. } = fault("file_not_text", message, help.to_owned());
        let start = String::from_utf8_lossy(&bytes[..at]).len();
        let text = String::from_utf8_lossy(&bytes).into_owned();
        let end = text.ceil_char_boundary(start + 1);
        fault.span = Some(start..end);
        Unreadable { fault, text }
    })
}

/// Makes text of a file's bytes, or says which byte keeps them from being text.
fn decode(bytes: &[u8]) -> Result<String, (usize, String, &'static str)> {
    if bytes.starts_with(&[0xff, 0xfe]) || bytes.starts_with(&[0xfe, 0xff]) {
        return Err((0, "the file is UTF-16, not UTF-8".to_owned(), "save it as UTF-8"));
    }
    if let Some(at) = bytes.iter().position(|byte| *byte == 0) {
        let message = format!("the file is binary: byte {at} is zero");
        return Err((at, message, "give the network file, which is text"));
    }
    let text = std::str::from_utf8(bytes).map_err(|error| {
        let at = error.valid_up_to();
        (at, format!("the file is not UTF-8: byte {at} is 0x{:02x}", bytes[at]), "save it as UTF-8")
    })?;
    // Some editors begin a file with a byte order mark.
    Ok(text.strip_prefix('\u{feff}').unwrap_or(text).to_owned())
}

fn missing_help(path: &Path) -> String {
    let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    if !parent.is_dir() {
        return format!("there is no directory `{}` either", parent.display());
    }
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let near = toml_files(parent);
    match nearest(&name, near.iter().map(String::as_str)) {
        Some(meant) => format!("did you mean `{}`?", path.with_file_name(meant).display()),
        None => "`provost new NAME` writes a network to begin with".to_owned(),
    }
}

/// Returns the names of the TOML files in a directory, sorted.
fn toml_files(directory: &Path) -> Vec<String> {
    let mut names: Vec<String> = std::fs::read_dir(directory)
        .into_iter()
        .flatten()
        .take(1_000)
        .filter_map(|entry| Some(entry.ok()?.file_name().to_string_lossy().into_owned()))
        .filter(|name| name.ends_with(".toml") && name != "Cargo.toml")
        .collect();
    names.sort();
    names
}

/// A file's tree, so far as it could be read.
pub(super) struct Parsed {
    pub(super) tree: Node,
    pub(super) diagnostics: Vec<Diagnostic>,
    /// The lines that could not be read.
    pub(super) torn: Vec<Range<usize>>,
}

/// Parses a file. A statement that is no TOML is reported, blanked out, and the rest parsed again, so that each
/// mistake is reported once and the others are found as well.
pub(super) fn parse(text: &str) -> Parsed {
    let mut work = text.to_owned();
    let mut parsed = Parsed { tree: Node::document(&DeTable::new()), diagnostics: Vec::new(), torn: Vec::new() };
    loop {
        let (table, errors) = DeTable::parse_recoverable(&work);
        let start = |error: &toml::de::Error| error.span().map_or(0, |span| span.start);
        let (twice, mut broken): (Vec<_>, Vec<_>) =
            errors.into_iter().partition(|error| error.message().contains("duplicate key"));
        broken.sort_by_key(start);
        let hopeless = broken.len() > HOPELESS;
        let first = broken.into_iter().next();
        let done = first.is_none() || hopeless || parsed.diagnostics.len() >= MAX_SYNTAX_ERRORS;
        if let Some(error) = first {
            let at = work.floor_char_boundary(start(&error).min(work.len()));
            let (lines, diagnostic) = tear(&work, table.get_ref(), at, &error);
            let stuck = work[lines.clone()].trim().is_empty();
            if !stuck || parsed.diagnostics.is_empty() {
                parsed.diagnostics.push(diagnostic);
            }
            parsed.torn.push(lines.clone());
            if !done && !stuck {
                let blank: String = work[lines.clone()]
                    .chars()
                    .map(|c| if c == '\n' { "\n".to_owned() } else { " ".repeat(c.len_utf8()) })
                    .collect();
                work.replace_range(lines, &blank);
                continue;
            }
        }
        parsed.diagnostics.extend(twice.iter().map(duplicate));
        parsed.tree = Node::document(table.get_ref());
        return parsed;
    }
}

fn duplicate(error: &toml::de::Error) -> Diagnostic {
    Diagnostic {
        severity: Severity::Error,
        code: "duplicate_key",
        message: "this key or table stands twice in the file".to_owned(),
        path: String::new(),
        span: Some(error.span().unwrap_or(0..0)),
        label: "named before".to_owned(),
        help: "take one of the two out, or give it another name".to_owned(),
    }
}

/// Says which lines must go for the rest to be read, and what is wrong with them.
fn tear(text: &str, table: &DeTable<'_>, at: usize, error: &toml::de::Error) -> (Range<usize>, Diagnostic) {
    let line = line_bounds(text, at);
    let mut span = error.span().unwrap_or(at..at);
    let mut message = format!("this is no TOML: {}", error.message());
    let mut help = match error.message() {
        words if words.contains("must be quoted") => "put quotes around it",
        words if words.contains("unclosed") => "close it",
        words if words.starts_with("invalid") && words.contains(" string") => {
            "check its quotes; a string on one line ends there, and \\ in double quotes must be written \\\\"
        }
        words if words.starts_with("invalid") => "text needs quotes around it",
        words if words.contains("key with no value") => "write `key = value`",
        _ => "",
    };
    let mut lines = line.clone();
    if let Some(value) = statement(table, at) {
        let begins = line_bounds(text, value.start);
        if begins.start < line.start {
            if looks_like_a_statement(&text[line.clone()]) || at >= text.trim_end().len() {
                let what = match text.as_bytes().get(value.start) {
                    Some(b'[') => "list",
                    Some(b'{') => "table",
                    _ => "string",
                };
                message = format!("this is no TOML: the {what} that begins here has no end");
                help = "close it";
                span = value.start..value.start + 1;
                lines = begins.start..if at >= text.trim_end().len() { text.len() } else { line.start };
            } else {
                lines = begins.start..line.end;
            }
        }
    }
    if text[lines.clone()].trim_start().starts_with('[') {
        // Without its header a table's keys would seem to be those of the table before.
        let next = text[lines.end..].find("\n[").map_or(text.len(), |offset| lines.end + offset);
        lines.end = next;
    }
    let diagnostic = Diagnostic {
        severity: Severity::Error,
        code: "syntax",
        message,
        path: String::new(),
        span: Some(span),
        label: String::new(),
        help: help.to_owned(),
    };
    (lines, diagnostic)
}

/// Returns the bytes of the outermost value that `at` lies in or just behind.
fn statement(table: &DeTable<'_>, at: usize) -> Option<Range<usize>> {
    table.iter().find_map(|(_, value)| {
        let span = value.span();
        match value.get_ref() {
            DeValue::Table(inner) if !span.contains(&at) => statement(inner, at),
            DeValue::Array(items) if !(span.start..=span.end).contains(&at) => {
                items.iter().find_map(|item| item.get_ref().as_table().and_then(|inner| statement(inner, at)))
            }
            _ => (span.start..=span.end).contains(&at).then_some(span),
        }
    })
}

fn looks_like_a_statement(line: &str) -> bool {
    let line = line.trim_start();
    let key = line.split('=').next().unwrap_or_default().trim_end();
    line.starts_with('[')
        || (line.contains('=')
            && !key.is_empty()
            && key.chars().all(|c| c.is_alphanumeric() || matches!(c, '_' | '-' | '.' | '"' | '\'')))
}
