//! The built-in tool that searches files, by ripgrep's libraries.

use std::io;
use std::ops::ControlFlow;
use std::path::Path;
use std::sync::Arc;

use cap_std::fs::File;
use grep_regex::{RegexMatcher, RegexMatcherBuilder};
use grep_searcher::{BinaryDetection, Searcher, SearcherBuilder, Sink, SinkFinish, SinkMatch};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use tokio_util::sync::CancellationToken;

use super::list::is_zero;
use super::walk::{Kind, Walk};
use super::{Root, blocking, check, open_in, shown};
use crate::tool::size::{FRAME_BYTES, floor, json_len};
use crate::tool::{Call, Effect, Error, Tool};

/// How many matches one answer has; who wants more does better to ask more narrowly.
const MAX_MATCHES: usize = 200;

/// How much of a matching line is shown: some lines of source, but not a minified file.
const MAX_LINE_BYTES: usize = 400;

/// The longest line that is searched; a file with a longer one counts as unreadable from there.
const MAX_SEARCHED_LINE_BYTES: usize = 8 * 1024 * 1024;

/// How large a pattern may become, compiled, and how much its search may cache: ten times what people write.
const MAX_PATTERN_BYTES: usize = 10 * 1024 * 1024;

/// What a match takes in JSON beside its path and text.
const MATCH_FRAME_BYTES: usize = 48;

/// `fs.search`.
pub(in crate::tool) struct Search {
    root: Arc<Root>,
}

impl Search {
    /// What the model is told of it.
    pub(in crate::tool) const DESCRIPTION: &str = "Searches text files for a pattern and returns the matching lines, \
        each with its file and line number. Leaves out hidden files, binary files, and those that .gitignore \
        names.";

    pub(in crate::tool) fn new(root: Arc<Root>) -> Self {
        Self { root }
    }
}

#[derive(Deserialize, JsonSchema)]
pub(in crate::tool) struct Arguments {
    /// The text to search for, within a line.
    pattern: String,
    /// The directory or file to search, relative to the root; the root itself where it is left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "String")]
    path: Option<String>,
    /// Whether pattern is a regular expression; plain text where it is left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "bool")]
    regex: Option<bool>,
    /// Search only the files that match, such as *.md or src/**/*.rs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "String")]
    glob: Option<String>,
    /// Whether upper and lower case are the same.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "bool")]
    ignore_case: Option<bool>,
}

#[derive(Debug, Serialize)]
pub(in crate::tool) struct Output {
    matches: Vec<Match>,
    /// Whether there are, or may be, more.
    truncated: bool,
    /// How many files and directories could not be read to their end.
    #[serde(skip_serializing_if = "is_zero")]
    unreadable: u64,
}

#[derive(Debug, Serialize)]
struct Match {
    path: String,
    line: u64,
    text: String,
}

impl Tool for Search {
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
        let room = call.output_limit_bytes.saturating_sub(FRAME_BYTES);
        blocking(&call, move |cancelled| search(&root, &arguments, room, cancelled)).await
    }
}

fn search(root: &Root, arguments: &Arguments, room: usize, cancelled: &CancellationToken) -> Result<Output, Error> {
    check(cancelled)?;
    let mut hunt = Hunt::new(arguments, room, cancelled)?;
    let start = root.existing(arguments.path.as_deref().unwrap_or_default())?;
    if !root.metadata(&start)?.is_dir() {
        let file = root.open_file(&start)?;
        let _ = hunt.file(file, &start)?;
        return Ok(hunt.output());
    }
    let walk = Walk { root, start: &start, glob: arguments.glob.as_deref(), depth: None, cancelled };
    let walked = walk.run(&mut |entry| {
        if entry.kind != Kind::File {
            return Ok(ControlFlow::Continue(()));
        }
        match open_in(entry.dir, entry.name) {
            Ok(file) => hunt.file(file, entry.path),
            Err(_) => {
                hunt.unreadable += 1;
                Ok(ControlFlow::Continue(()))
            }
        }
    })?;
    hunt.truncated |= !walked.complete;
    hunt.unreadable += walked.unreadable;
    Ok(hunt.output())
}

/// A search under way: what it looks for, and what it has found.
struct Hunt<'a> {
    matcher: RegexMatcher,
    searcher: Searcher,
    cancelled: &'a CancellationToken,
    matches: Vec<Match>,
    /// How many bytes of JSON are left.
    room: usize,
    truncated: bool,
    unreadable: u64,
}

impl<'a> Hunt<'a> {
    fn new(arguments: &Arguments, room: usize, cancelled: &'a CancellationToken) -> Result<Self, Error> {
        if arguments.pattern.is_empty() {
            return Err(Error::Arguments("the pattern is empty".to_owned()));
        }
        let matcher = RegexMatcherBuilder::new()
            .fixed_strings(!arguments.regex.unwrap_or_default())
            .case_insensitive(arguments.ignore_case.unwrap_or_default())
            .multi_line(true)
            .size_limit(MAX_PATTERN_BYTES)
            .dfa_size_limit(MAX_PATTERN_BYTES)
            .crlf(true)
            .line_terminator(Some(b'\n'))
            .build(&arguments.pattern)
            .map_err(|error| Error::Arguments(format!("the pattern can't be used: {error}")))?;
        let searcher = SearcherBuilder::new()
            .binary_detection(BinaryDetection::quit(0))
            .heap_limit(Some(MAX_SEARCHED_LINE_BYTES))
            .line_number(true)
            .build();
        Ok(Self { matcher, searcher, cancelled, matches: Vec::new(), room, truncated: false, unreadable: 0 })
    }

    fn file(&mut self, file: File, path: &Path) -> Result<ControlFlow<()>, Error> {
        let mut sink = FileSink {
            path: shown(path),
            found: Vec::new(),
            left: MAX_MATCHES - self.matches.len(),
            room: self.room,
            binary: false,
            full: false,
        };
        let reader = Cancellable { file, cancelled: self.cancelled };
        let searched = self.searcher.search_reader(&self.matcher, reader, &mut sink);
        check(self.cancelled)?;
        if searched.is_err() {
            self.unreadable += 1;
        }
        if sink.binary {
            return Ok(ControlFlow::Continue(()));
        }
        self.room = sink.room;
        self.matches.append(&mut sink.found);
        self.truncated = sink.full;
        Ok(if sink.full { ControlFlow::Break(()) } else { ControlFlow::Continue(()) })
    }

    fn output(self) -> Output {
        Output { matches: self.matches, truncated: self.truncated, unreadable: self.unreadable }
    }
}

/// Takes what the searcher finds in one file. A file counts as binary as a whole, even where the proof comes late.
struct FileSink {
    path: String,
    found: Vec<Match>,
    left: usize,
    room: usize,
    binary: bool,
    /// Whether a match was left out.
    full: bool,
}

impl Sink for FileSink {
    type Error = io::Error;

    fn matched(&mut self, _: &Searcher, found: &SinkMatch<'_>) -> Result<bool, io::Error> {
        let text = excerpt(found.bytes());
        let cost = json_len(text.as_bytes()) + json_len(self.path.as_bytes()) + MATCH_FRAME_BYTES;
        if self.found.len() == self.left || cost > self.room {
            self.full = true;
            return Ok(false);
        }
        self.room -= cost;
        self.found.push(Match { path: self.path.clone(), line: found.line_number().unwrap_or_default(), text });
        Ok(true)
    }

    fn finish(&mut self, _: &Searcher, finish: &SinkFinish) -> Result<(), io::Error> {
        self.binary = finish.binary_byte_offset().is_some();
        Ok(())
    }
}

/// The line without its end, and without most of itself where it is very long.
fn excerpt(line: &[u8]) -> String {
    let line = line.strip_suffix(b"\n").unwrap_or(line);
    let line = line.strip_suffix(b"\r").unwrap_or(line);
    let cut = floor(line, MAX_LINE_BYTES);
    let mark = if cut < line.len() { "…" } else { "" };
    format!("{}{mark}", String::from_utf8_lossy(&line[..cut]))
}

/// A file that ends with an error once nobody wants it any more.
struct Cancellable<'a> {
    file: File,
    cancelled: &'a CancellationToken,
}

impl io::Read for Cancellable<'_> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        if self.cancelled.is_cancelled() {
            return Err(io::Error::other("cancelled"));
        }
        self.file.read(into)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::spec::Builtin;
    use crate::tool::fs::testing::{ask, call, tree};

    async fn search(root: &Path, arguments: Value) -> Result<Value, Error> {
        ask(Builtin::FsSearch, root, arguments, call()).await
    }

    async fn places(root: &Path, arguments: Value) -> Vec<String> {
        let found = search(root, arguments).await.unwrap();
        let matches = found["matches"].as_array().unwrap().iter();
        matches.map(|found| format!("{}:{}", found["path"].as_str().unwrap(), found["line"])).collect()
    }

    #[tokio::test]
    async fn finds_lines_in_order_of_path_and_line() {
        let root = tree(&[("b.txt", "x a.c\nabc\r\n"), ("a/z.txt", "no\na.c"), ("a.txt", "a.c\n")]);
        assert_eq!(
            search(root.path(), json!({"pattern": "a.c"})).await.unwrap(),
            json!({
                "matches": [
                    {"path": "a/z.txt", "line": 2, "text": "a.c"},
                    {"path": "a.txt", "line": 1, "text": "a.c"},
                    {"path": "b.txt", "line": 1, "text": "x a.c"},
                ],
                "truncated": false,
            })
        );
        let as_regex = search(root.path(), json!({"pattern": "^a.c$", "regex": true, "path": "b.txt"})).await.unwrap();
        assert_eq!(as_regex["matches"], json!([{"path": "b.txt", "line": 2, "text": "abc"}]));
    }

    #[tokio::test]
    async fn a_path_a_glob_and_case_narrow_it() {
        let root =
            tree(&[("a/x.md", "One"), ("a/x.rs", "one"), ("b/x.md", "one"), (".h/x.md", "one"), ("i.md", "one")]);
        std::fs::write(root.path().join(".gitignore"), "i.md\n").unwrap();
        let root = root.path();
        assert_eq!(places(root, json!({"pattern": "one"})).await, ["a/x.rs:1", "b/x.md:1"]);
        assert_eq!(places(root, json!({"pattern": "one", "glob": "*.md"})).await, ["b/x.md:1"]);
        assert_eq!(places(root, json!({"pattern": "one", "path": "a"})).await, ["a/x.rs:1"]);
        let everywhere = json!({"pattern": "ONE", "ignore_case": true});
        assert_eq!(places(root, everywhere).await, ["a/x.md:1", "a/x.rs:1", "b/x.md:1"]);
        assert_eq!(places(root, json!({"pattern": "two"})).await, [""; 0]);
    }

    #[tokio::test]
    async fn binary_files_are_left_out_even_where_the_proof_comes_late() {
        let late = format!("needle\n{}\0", "x\n".repeat(200_000));
        let root = tree(&[("a.bin", "needle\0"), ("b.bin", &late), ("c.txt", "needle")]);
        assert_eq!(places(root.path(), json!({"pattern": "needle"})).await, ["c.txt:1"]);
    }

    #[tokio::test]
    async fn a_bad_pattern_says_what_is_wrong() {
        let root = tree(&[("a.txt", "a(b")]);
        assert_eq!(places(root.path(), json!({"pattern": "a(b"})).await, ["a.txt:1"]);
        let vast = r"(\w{20}){20}";
        for (pattern, reason) in [("a(b", "unclosed group"), ("a\\nb", "not allowed"), (vast, "size limit")] {
            let error = search(root.path(), json!({"pattern": pattern, "regex": true})).await.unwrap_err();
            assert!(matches!(&error, Error::Arguments(text) if text.contains(reason)), "{error}");
        }
        let empty = search(root.path(), json!({"pattern": ""})).await.unwrap_err();
        assert!(matches!(empty, Error::Arguments(_)), "{empty}");
    }

    #[tokio::test]
    async fn the_number_of_matches_and_the_length_of_lines_are_bounded() {
        let line = format!("needle {}\n", "ü".repeat(MAX_LINE_BYTES));
        let root = tree(&[("a.txt", &line.repeat(MAX_MATCHES)), ("b.txt", "needle")]);
        let loud = Call { output_limit_bytes: usize::MAX, ..call() };
        let found = ask(Builtin::FsSearch, root.path(), json!({"pattern": "needle"}), loud).await.unwrap();
        assert_eq!((found["matches"].as_array().unwrap().len(), &found["truncated"]), (MAX_MATCHES, &json!(true)));
        let text = found["matches"][0]["text"].as_str().unwrap();
        assert!(text.len() <= MAX_LINE_BYTES + "…".len() && text.ends_with("ü…"), "{text}");
        // Exactly as many as there is room for are not truncated.
        let exact = json!({"pattern": "needle", "path": "a.txt"});
        let loud = Call { output_limit_bytes: usize::MAX, ..call() };
        assert_eq!(ask(Builtin::FsSearch, root.path(), exact, loud).await.unwrap()["truncated"], false);
        let quiet = Call { output_limit_bytes: 3_000, ..call() };
        let some = ask(Builtin::FsSearch, root.path(), json!({"pattern": "needle"}), quiet).await.unwrap();
        assert!(some["truncated"] == true && some.to_string().len() <= 3_000, "{}", some.to_string().len());
        assert!(some["matches"].as_array().unwrap().len() > 3);
    }

    #[tokio::test]
    async fn an_endless_line_is_unreadable_rather_than_held() {
        let root = tree(&[("b.txt", "needle")]);
        let endless = "needle ".repeat(2 * MAX_SEARCHED_LINE_BYTES / "needle ".len());
        std::fs::write(root.path().join("a.txt"), endless).unwrap();
        let found = search(root.path(), json!({"pattern": "needle"})).await.unwrap();
        assert_eq!(found["unreadable"], 1);
        assert_eq!(found["matches"], json!([{"path": "b.txt", "line": 1, "text": "needle"}]));
    }
}
