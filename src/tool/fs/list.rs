//! The built-in tool that lists files.

use std::ops::ControlFlow;
use std::sync::Arc;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use tokio_util::sync::CancellationToken;

use super::walk::{Entry, Kind, Walk};
use super::{Root, blocking, check, shown};
use crate::tool::size::{FRAME_BYTES, json_len};
use crate::tool::{Call, Effect, Error, Tool};

/// How many entries one answer has: more than a model can use, and a quarter of a small model's context.
const MAX_ENTRIES: usize = 1_000;

/// What an entry takes in JSON beside its path.
const ENTRY_FRAME_BYTES: usize = 48;

/// `fs.list`.
pub(in crate::tool) struct List {
    root: Arc<Root>,
}

impl List {
    /// What the model is told of it.
    pub(in crate::tool) const DESCRIPTION: &str = "Lists the files and directories beneath a directory, with sizes \
        in bytes. Leaves out hidden files and those that .gitignore names. When the answer says truncated, ask \
        again with a path, a depth or a glob.";

    pub(in crate::tool) fn new(root: Arc<Root>) -> Self {
        Self { root }
    }
}

#[derive(Deserialize, JsonSchema)]
pub(in crate::tool) struct Arguments {
    /// The directory, relative to the root; the root itself where it is left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "String")]
    path: Option<String>,
    /// How many levels to list; 1 is the directory alone. All levels where it is left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "u32")]
    depth: Option<u32>,
    /// List only the files that match, such as *.md or src/**/*.rs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "String")]
    glob: Option<String>,
}

#[derive(Debug, Default, Serialize)]
pub(in crate::tool) struct Output {
    entries: Vec<Listed>,
    truncated: bool,
    /// How many entries there are beyond those listed, where all of them were counted.
    #[serde(skip_serializing_if = "Option::is_none")]
    left_out: Option<u64>,
    /// How many directories could not be opened.
    #[serde(skip_serializing_if = "is_zero")]
    unreadable: u64,
}

#[derive(Debug, Serialize)]
struct Listed {
    path: String,
    /// `file`, `dir`, or `link` for a symbolic link, which is not followed.
    kind: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    bytes: Option<u64>,
}

pub(in crate::tool) fn is_zero(count: &u64) -> bool {
    *count == 0
}

impl Tool for List {
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
        blocking(&call, move |cancelled| list(&root, &arguments, room, cancelled)).await
    }
}

fn list(root: &Root, arguments: &Arguments, mut room: usize, cancelled: &CancellationToken) -> Result<Output, Error> {
    check(cancelled)?;
    let start = root.existing(arguments.path.as_deref().unwrap_or_default())?;
    let metadata = root.metadata(&start)?;
    if !metadata.is_dir() {
        let kind = if metadata.is_file() { "file" } else { "other" };
        let entries = vec![Listed { path: shown(&start), kind, bytes: Some(metadata.len()) }];
        return Ok(Output { entries, ..Output::default() });
    }
    let (mut entries, mut left_out) = (Vec::new(), 0);
    let walk = Walk { root, start: &start, glob: arguments.glob.as_deref(), depth: arguments.depth, cancelled };
    let walked = walk.run(&mut |entry| {
        let Some(kind) = word(entry.kind) else { return Ok(ControlFlow::Continue(())) };
        let path = shown(entry.path);
        let cost = json_len(path.as_bytes()) + ENTRY_FRAME_BYTES;
        // Once one is left out all are, so that what is listed has no holes.
        if left_out > 0 || entries.len() == MAX_ENTRIES || cost > room {
            left_out += 1;
        } else {
            room -= cost;
            entries.push(Listed { path, kind, bytes: bytes(&entry) });
        }
        Ok(ControlFlow::Continue(()))
    })?;
    let truncated = left_out > 0 || !walked.complete;
    let left_out = (left_out > 0 && walked.complete).then_some(left_out);
    Ok(Output { entries, truncated, left_out, unreadable: walked.unreadable })
}

fn word(kind: Kind) -> Option<&'static str> {
    match kind {
        Kind::File => Some("file"),
        Kind::Dir => Some("dir"),
        Kind::Link => Some("link"),
        Kind::Other => None,
    }
}

fn bytes(entry: &Entry<'_>) -> Option<u64> {
    let metadata = (entry.kind == Kind::File).then(|| entry.dir.symlink_metadata(entry.name))?;
    metadata.ok().map(|metadata| metadata.len())
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use serde_json::{Value, json};

    use super::*;
    use crate::spec::Builtin;
    use crate::tool::fs::testing::{ask, call, tree};

    async fn listed(root: &Path, arguments: Value) -> Value {
        ask(Builtin::FsList, root, arguments, call()).await.unwrap()
    }

    fn paths(listed: &Value) -> Vec<&str> {
        listed["entries"].as_array().unwrap().iter().map(|entry| entry["path"].as_str().unwrap()).collect()
    }

    #[tokio::test]
    async fn lists_in_order_with_kinds_and_sizes() {
        let root = tree(&[("b.txt", "12"), ("a/z.txt", "1"), ("a.txt", ""), ("a/b/c.txt", "123")]);
        std::os::unix::fs::symlink("b.txt", root.path().join("link")).unwrap();
        assert_eq!(
            listed(root.path(), json!({})).await,
            json!({
                "entries": [
                    {"path": "a", "kind": "dir"},
                    {"path": "a/b", "kind": "dir"},
                    {"path": "a/b/c.txt", "kind": "file", "bytes": 3},
                    {"path": "a/z.txt", "kind": "file", "bytes": 1},
                    {"path": "a.txt", "kind": "file", "bytes": 0},
                    {"path": "b.txt", "kind": "file", "bytes": 2},
                    {"path": "link", "kind": "link"},
                ],
                "truncated": false,
            })
        );
    }

    #[tokio::test]
    async fn a_path_a_depth_and_a_glob_narrow_it() {
        let root = tree(&[("a/x.md", ""), ("a/b/y.md", ""), ("a/b/y.rs", ""), ("c.md", "")]);
        let root = root.path();
        assert_eq!(paths(&listed(root, json!({"depth": 1})).await), ["a", "c.md"]);
        assert_eq!(paths(&listed(root, json!({"path": "a", "depth": 1})).await), ["a/b", "a/x.md"]);
        assert_eq!(paths(&listed(root, json!({"glob": "*.md"})).await), ["a/b/y.md", "a/x.md", "c.md"]);
        assert_eq!(paths(&listed(root, json!({"glob": "./a/*.md"})).await), ["a/x.md"]);
        assert_eq!(paths(&listed(root, json!({"glob": "!*.md"})).await), ["a/b/y.rs"]);
        assert_eq!(paths(&listed(root, json!({"glob": "", "depth": 1})).await), ["a", "c.md"]);
        assert_eq!(paths(&listed(root, json!({"path": "c.md"})).await), ["c.md"]);
        let error = ask(Builtin::FsList, root, json!({"glob": "a[b"}), call()).await.unwrap_err();
        assert!(matches!(&error, Error::Arguments(reason) if reason.contains("a[b")), "{error}");
    }

    #[tokio::test]
    async fn leaves_out_what_is_hidden_or_ignored() {
        let root = tree(&[
            (".gitignore", "*.log\n/target/\n!keep.log\n"),
            (".hidden/x", ""),
            ("a.log", ""),
            ("keep.log", ""),
            ("target/debug/x", ""),
            ("src/target/x", ""),
            ("src/.gitignore", "secret.txt\n!b.log\n"),
            ("src/secret.txt", ""),
            ("src/b.log", ""),
            ("src/c.log", ""),
            ("secret.txt", ""),
            ("tail/secret.txt", ""),
        ]);
        let root = root.path();
        let expected =
            ["keep.log", "secret.txt", "src", "src/b.log", "src/target", "src/target/x", "tail", "tail/secret.txt"];
        assert_eq!(paths(&listed(root, json!({})).await), expected);
        // The files above where it starts count too, and so does one's own name for what is hidden.
        assert_eq!(paths(&listed(root, json!({"path": "src"})).await), expected[3..6]);
        assert_eq!(paths(&listed(root, json!({"path": ".hidden"})).await), [".hidden/x"]);
    }

    #[tokio::test]
    async fn a_gitignore_outside_the_root_says_nothing() {
        let top = tree(&[(".gitignore", "*.txt\n"), ("root/a.txt", "")]);
        let root = top.path().join("root");
        assert_eq!(paths(&listed(&root, json!({})).await), ["a.txt"]);
        std::os::unix::fs::symlink("../.gitignore", root.join(".gitignore")).unwrap();
        assert_eq!(paths(&listed(&root, json!({})).await), ["a.txt"]);
    }

    #[tokio::test]
    async fn says_how_many_it_left_out() {
        let root = tree(&[]);
        for number in 0..MAX_ENTRIES + 7 {
            std::fs::write(root.path().join(format!("{number:05}")), "").unwrap();
        }
        let call = Call { output_limit_bytes: usize::MAX, ..call() };
        let all = ask(Builtin::FsList, root.path(), json!({}), call).await.unwrap();
        assert_eq!(paths(&all).len(), MAX_ENTRIES);
        assert_eq!((&all["truncated"], &all["left_out"]), (&json!(true), &json!(7)));
        assert_eq!(paths(&all).last(), Some(&"00999"));
    }

    #[tokio::test]
    async fn keeps_to_the_output_limit() {
        let root = tree(&[]);
        for number in 0..200 {
            std::fs::write(root.path().join(format!("a-rather-long-name-\u{1}-{number:05}")), "").unwrap();
        }
        let limit = 4_000;
        let call = Call { output_limit_bytes: limit, ..call() };
        let some = ask(Builtin::FsList, root.path(), json!({}), call).await.unwrap();
        assert!(some.to_string().len() <= limit, "{}", some.to_string().len());
        assert_eq!(some["left_out"].as_u64().unwrap() + paths(&some).len() as u64, 200);
    }

    #[tokio::test]
    async fn a_bottomless_tree_has_a_bottom() {
        let deep = format!("{}f", "d/".repeat(70));
        let root = tree(&[(&deep, "")]);
        let some = listed(root.path(), json!({})).await;
        assert_eq!(some["truncated"], true);
        assert_eq!(paths(&some).len(), 64);
    }
}
