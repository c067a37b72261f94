//! The built-in tool that reads a file.

use std::io::Read as _;
use std::path::Path;
use std::sync::Arc;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use tokio_util::sync::CancellationToken;

use super::{CHUNK_BYTES, Root, blocking, check, shown};
use crate::tool::size::{FRAME_BYTES, fitting, floor, json_len};
use crate::tool::{Call, Effect, Error, Tool};

/// How much of a file is read only to count its lines: enough for any text that people wrote, and a fraction of a
/// second's work.
const MAX_COUNTED_BYTES: usize = 64 * 1024 * 1024;

/// `fs.read`.
pub(in crate::tool) struct Read {
    root: Arc<Root>,
}

impl Read {
    /// What the model is told of it.
    pub(in crate::tool) const DESCRIPTION: &str = "Reads a text file, or some of its lines. When the answer says \
        truncated, go on from the line after last_line.";

    pub(in crate::tool) fn new(root: Arc<Root>) -> Self {
        Self { root }
    }
}

#[derive(Deserialize, JsonSchema)]
pub(in crate::tool) struct Arguments {
    /// The file, relative to the root.
    path: String,
    /// The first line to read, counted from 1; the file's first where it is left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "u64")]
    first_line: Option<u64>,
    /// The last line to read; the file's last where it is left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "u64")]
    last_line: Option<u64>,
}

#[derive(Debug, Serialize)]
pub(in crate::tool) struct Output {
    path: String,
    text: String,
    first_line: u64,
    /// The last line that `text` has anything of; less than `first_line` where it is empty.
    last_line: u64,
    /// None for a file so large that its lines were not counted.
    #[serde(skip_serializing_if = "Option::is_none")]
    total_lines: Option<u64>,
    /// Whether `text` lacks some of what was asked for.
    truncated: bool,
}

impl Tool for Read {
    type Arguments = Arguments;
    type Output = Output;

    fn description(&self) -> String {
        Self::DESCRIPTION.to_owned()
    }

    fn effect(&self) -> Effect {
        Effect::Pure
    }

    async fn canonical(&self, arguments: &Value) -> Option<Value> {
        self.root.canonical(arguments, Root::existing).await
    }

    async fn call(&self, arguments: Arguments, call: Call) -> Result<Output, Error> {
        let root = Arc::clone(&self.root);
        let limit = call.output_limit_bytes;
        blocking(&call, move |cancelled| read(&root, &arguments, limit, cancelled)).await
    }
}

fn read(root: &Root, arguments: &Arguments, limit: usize, cancelled: &CancellationToken) -> Result<Output, Error> {
    check(cancelled)?;
    let first = arguments.first_line.unwrap_or(1).max(1);
    let last = arguments.last_line.unwrap_or(u64::MAX);
    if last < first {
        return Err(Error::Arguments(format!("last_line {last} is before first_line {first}")));
    }
    let path = root.existing(&arguments.path)?;
    let mut file = root.open_file(&path)?;
    let room = limit.saturating_sub(FRAME_BYTES + json_len(shown(&path).as_bytes()));
    let mut window = Window::new(first, last, room);
    let mut chunk = vec![0; CHUNK_BYTES];
    let mut seen_bytes = 0;
    let total_lines = loop {
        check(cancelled)?;
        let count = file.read(&mut chunk).map_err(|error| root.explain("read", &path, &error))?;
        if count == 0 {
            break Some(window.lines());
        }
        if seen_bytes == 0 && chunk[..count].contains(&0) {
            return Err(binary(&path));
        }
        window.feed(&chunk[..count]);
        seen_bytes += count;
        if window.is_done() && seen_bytes >= MAX_COUNTED_BYTES {
            break None;
        }
    };
    if let Some(total) = total_lines.filter(|total| first > (*total).max(1)) {
        return Err(Error::Arguments(format!("{} has {total} lines; there is no line {first}", shown(&path))));
    }
    let (first_line, last_line, truncated) = (first, window.last_kept, window.full);
    Ok(Output { path: shown(&path), text: window.text(&path)?, first_line, last_line, total_lines, truncated })
}

fn binary(path: &Path) -> Error {
    Error::Failed(format!("{} is a binary file, not text", shown(path)))
}

/// The lines that were asked for, as far as there is room, out of a file that passes by in chunks.
struct Window {
    first: u64,
    last: u64,
    /// How many bytes of JSON are left.
    room: usize,
    kept: Vec<u8>,
    /// How much of `kept` is whole lines.
    whole: usize,
    /// The last line that `kept` has anything of.
    last_kept: u64,
    /// Whether there was no room for a line that was asked for.
    full: bool,
    /// The line that comes next, or is under way.
    line: u64,
    at_line_start: bool,
}

impl Window {
    fn new(first: u64, last: u64, room: usize) -> Self {
        let last_kept = first - 1;
        Self { first, last, room, kept: Vec::new(), whole: 0, last_kept, full: false, line: 1, at_line_start: true }
    }

    fn feed(&mut self, chunk: &[u8]) {
        for piece in chunk.split_inclusive(|byte| *byte == b'\n') {
            if (self.first..=self.last).contains(&self.line) && !self.full {
                self.keep(piece);
            }
            self.at_line_start = piece.ends_with(b"\n");
            if self.at_line_start {
                self.line += 1;
            }
        }
    }

    /// Keeps whole lines as long as there is room, and part of a line only where it is the first.
    fn keep(&mut self, piece: &[u8]) {
        let cost = json_len(piece);
        if cost <= self.room {
            self.room -= cost;
            self.kept.extend_from_slice(piece);
            self.last_kept = self.line;
            if piece.ends_with(b"\n") {
                self.whole = self.kept.len();
            }
            return;
        }
        self.full = true;
        if self.whole > 0 {
            self.kept.truncate(self.whole);
            self.last_kept = self.line - 1;
        } else {
            self.kept.extend_from_slice(&piece[..fitting(piece, self.room)]);
            self.kept.truncate(floor(&self.kept, self.kept.len().saturating_sub(1)));
            self.last_kept = self.line;
        }
    }

    fn is_done(&self) -> bool {
        self.full || self.line > self.last
    }

    /// Returns how many lines have passed; one that ends without a line feed is a line too.
    fn lines(&self) -> u64 {
        if self.at_line_start { self.line - 1 } else { self.line }
    }

    fn text(self, path: &Path) -> Result<String, Error> {
        if self.kept.contains(&0) {
            return Err(binary(path));
        }
        String::from_utf8(self.kept).map_err(|_| Error::Failed(format!("{} is not UTF-8 text", shown(path))))
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use serde_json::{Value, json};

    use super::*;
    use crate::spec::Builtin;
    use crate::tool::fs::testing::{ask, call, tree};

    async fn read(root: &Path, arguments: Value) -> Result<Value, Error> {
        ask(Builtin::FsRead, root, arguments, call()).await
    }

    #[tokio::test]
    async fn reads_a_file_whole() {
        let root = tree(&[("a/b.txt", "one\ntwo\r\nthree")]);
        assert_eq!(
            read(root.path(), json!({"path": "a/b.txt", "surplus": 1})).await.unwrap(),
            json!({
                "path": "a/b.txt", "text": "one\ntwo\r\nthree",
                "first_line": 1, "last_line": 3, "total_lines": 3, "truncated": false,
            })
        );
    }

    #[tokio::test]
    async fn reads_the_lines_that_were_asked_for() {
        let root = tree(&[("a.txt", "1\n2\n3\n4\n")]);
        for (first, last, text, last_line) in [
            (json!(2), json!(3), "2\n3\n", 3),
            (json!(3), json!(null), "3\n4\n", 4),
            (json!(null), json!(1), "1\n", 1),
            (json!(0), json!(1), "1\n", 1),
            (json!(4), json!(99), "4\n", 4),
        ] {
            let arguments = json!({"path": "a.txt", "first_line": first, "last_line": last});
            let some = read(root.path(), arguments).await.unwrap();
            assert_eq!((&some["text"], &some["last_line"]), (&json!(text), &json!(last_line)));
            assert_eq!((&some["total_lines"], &some["truncated"]), (&json!(4), &json!(false)));
        }
        let past = read(root.path(), json!({"path": "a.txt", "first_line": 5})).await.unwrap_err();
        assert!(matches!(&past, Error::Arguments(reason) if reason.contains("a.txt has 4 lines")), "{past}");
        let swapped = read(root.path(), json!({"path": "a.txt", "first_line": 3, "last_line": 2})).await.unwrap_err();
        assert!(matches!(swapped, Error::Arguments(_)), "{swapped}");
    }

    #[tokio::test]
    async fn an_empty_file_has_no_lines() {
        let root = tree(&[("a.txt", "")]);
        let empty = read(root.path(), json!({"path": "a.txt"})).await.unwrap();
        assert_eq!((&empty["text"], &empty["last_line"], &empty["total_lines"]), (&json!(""), &json!(0), &json!(0)));
    }

    #[tokio::test]
    async fn what_is_not_text_is_refused() {
        let root = tree(&[("nul", "a\0b")]);
        std::fs::write(root.path().join("latin"), b"gr\xfcn").unwrap();
        std::fs::write(root.path().join("late"), [vec![b'\n'; 2 * CHUNK_BYTES], vec![0]].concat()).unwrap();
        let error = |result: Result<Value, Error>| result.unwrap_err().to_string();
        assert_eq!(error(read(root.path(), json!({"path": "nul"})).await), "nul is a binary file, not text");
        assert_eq!(error(read(root.path(), json!({"path": "latin"})).await), "latin is not UTF-8 text");
        let late = json!({"path": "late", "first_line": 2 * CHUNK_BYTES});
        assert_eq!(error(read(root.path(), late).await), "late is a binary file, not text");
        assert!(error(read(root.path(), json!({"path": "."})).await).contains("is a directory"));
    }

    #[tokio::test]
    async fn a_pipe_does_not_hang() {
        let root = tree(&[]);
        let made = std::process::Command::new("mkfifo").arg(root.path().join("pipe")).status().unwrap();
        assert!(made.success());
        let error = read(root.path(), json!({"path": "pipe"})).await.unwrap_err().to_string();
        assert_eq!(error, "pipe is not a regular file");
    }

    #[tokio::test]
    async fn long_files_are_cut_at_a_line_and_read_on_from_there() {
        let text: String = (1..=5_000).map(|line| format!("line {line} \"quoted\"\n")).collect();
        let root = tree(&[("a.txt", &text)]);
        let (mut joined, mut first, limit) = (String::new(), 1, 4_000);
        loop {
            let call = Call { output_limit_bytes: limit, ..call() };
            let arguments = json!({"path": "a.txt", "first_line": first});
            let part = ask(Builtin::FsRead, root.path(), arguments, call).await.unwrap();
            assert!(part.to_string().len() <= limit, "{}", part.to_string().len());
            assert_eq!(part["total_lines"], 5_000);
            joined.push_str(part["text"].as_str().unwrap());
            first = part["last_line"].as_u64().unwrap() + 1;
            if part["truncated"] == false {
                break;
            }
        }
        assert_eq!(joined, text);
    }

    #[tokio::test]
    async fn an_endless_line_is_cut_between_characters() {
        for pad in 0..4 {
            let text = format!("{}{}", "x".repeat(pad), "😀".repeat(CHUNK_BYTES));
            let root = tree(&[("a.txt", &text)]);
            let call = Call { output_limit_bytes: 2_000, ..call() };
            let part = ask(Builtin::FsRead, root.path(), json!({"path": "a.txt"}), call).await.unwrap();
            let kept = part["text"].as_str().unwrap();
            assert!(text.starts_with(kept) && kept.len() > 1_500 && kept.len() <= 2_000, "{}", kept.len());
            assert_eq!((&part["last_line"], &part["truncated"]), (&json!(1), &json!(true)));
        }
    }

    #[tokio::test]
    async fn of_a_huge_file_only_a_part_is_read() {
        let root = tree(&[]);
        let mut file = std::fs::File::create(root.path().join("huge")).unwrap();
        file.write_all("a line\n".repeat(CHUNK_BYTES).as_bytes()).unwrap();
        // A hole of a tebibyte: whoever reads it to its end or holds it whole does not come back.
        file.set_len(1 << 40).unwrap();
        let part = read(root.path(), json!({"path": "huge"})).await.unwrap();
        assert_eq!((&part["truncated"], part.get("total_lines")), (&json!(true), None));
        let two = read(root.path(), json!({"path": "huge", "first_line": 4, "last_line": 5})).await.unwrap();
        assert_eq!((&two["text"], &two["truncated"]), (&json!("a line\na line\n"), &json!(false)));
    }
}
