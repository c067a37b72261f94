//! What a call would change, and which files it names: for a person who is asked whether it may happen.

use std::fs::File;
use std::io::{self, Read};
use std::path::Path;
use std::sync::Arc;

/// How much of a change is shown, in bytes: more than anybody reads of one call.
const MAX_CHANGE_BYTES: usize = 64 * 1024;

/// How many files of one call are looked at: what names more is asked about by its arguments alone.
pub(super) const MAX_FILES: usize = 64;

/// What a call would do, as far as its tool can tell without doing it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Preview {
    /// What would change, for a person to read; none where the arguments say it all.
    pub change: Option<String>,
    /// The files that the call names. A grant holds only while they are as they were when somebody was asked.
    pub files: Vec<NamedFile>,
}

/// A file that a call names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NamedFile {
    /// Where it is.
    pub path: Arc<str>,
    /// The digest of what is in it; none where there is no such file, or it can't be read.
    pub digest: Option<Arc<str>>,
    /// Whether the call is to change it, and not to use it.
    pub is_target: bool,
}

/// Digests what a reader gives.
pub(super) fn digest(reader: &mut impl Read) -> io::Result<Arc<str>> {
    let mut hasher = blake3::Hasher::new();
    io::copy(reader, &mut hasher)?;
    Ok(hasher.finalize().to_hex().as_str().into())
}

/// Looks at a file that a call is to use; none where there is no regular file.
pub(super) fn used(path: &Path) -> Option<NamedFile> {
    path.metadata().ok().filter(std::fs::Metadata::is_file)?;
    let digest = File::open(path).and_then(|mut file| digest(&mut file)).ok();
    Some(NamedFile { path: path.display().to_string().into(), digest, is_target: false })
}

/// Shows how a text becomes another: the lines that go and come, with some around them.
pub(super) fn change(path: &str, before: Option<&str>, after: &str) -> String {
    /// How many lines around a change are shown.
    const AROUND: usize = 3;
    let from = if before.is_some() { path } else { "nothing" };
    let diff = similar::TextDiff::from_lines(before.unwrap_or_default(), after);
    let mut text = diff.unified_diff().context_radius(AROUND).header(from, path).to_string();
    if text.is_empty() {
        return format!("{path} stays as it is");
    }
    let whole = text.len();
    if whole > MAX_CHANGE_BYTES {
        text.truncate(text.floor_char_boundary(MAX_CHANGE_BYTES));
        text.push_str(&format!("\n[cut: the first {MAX_CHANGE_BYTES} of {whole} bytes]"));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_change_is_shown_line_by_line_and_not_without_bound() {
        let shown = change("a.txt", Some("one\ntwo\n"), "one\nthree\n");
        assert_eq!(shown, "--- a.txt\n+++ a.txt\n@@ -1,2 +1,2 @@\n one\n-two\n+three\n");
        assert_eq!(change("a.txt", None, "x\n"), "--- nothing\n+++ a.txt\n@@ -0,0 +1 @@\n+x\n");
        assert_eq!(change("a.txt", Some("x\n"), "x\n"), "a.txt stays as it is");
        let long = change("a.txt", None, &"ü\n".repeat(MAX_CHANGE_BYTES));
        assert!(long.len() < MAX_CHANGE_BYTES + 100 && long.contains("[cut: the first 65536 of "), "{}", long.len());
    }
}
