//! What has been found while a network is read: diagnostics, and which parts are already known to be broken, so that
//! one mistake is reported once.

use std::collections::HashSet;
use std::ops::Range;

use super::diagnostic::{Diagnostic, Severity};
use super::node::Node;

/// How many diagnostics one network is given: a file that is something else altogether could have thousands.
const MAX_DIAGNOSTICS: usize = 200;

/// How many names are searched for one that was meant.
const MAX_CANDIDATES: usize = 1_000;

/// The diagnostics so far, and the tree that they point into.
pub(super) struct Findings {
    pub(super) diagnostics: Vec<Diagnostic>,
    /// Paths that have been reported, or may be lost; nothing at or beneath them is reported again.
    broken: HashSet<Vec<String>>,
    /// All beginnings of the broken paths.
    touched: HashSet<Vec<String>>,
    /// The network as it was written or built.
    tree: Node,
    /// Whether there is a file that the tree's places lie in.
    placed: bool,
    /// Lines that could not be read: what is missing may well be on them, and is not reported.
    torn: Vec<Range<usize>>,
    /// Where the headers of tables begin, so far as they can be told.
    headers: Vec<usize>,
    /// Whether whole tables could not be read.
    lost: bool,
}

/// Which bytes a diagnostic is about.
#[derive(Clone, Debug)]
pub(super) enum Place {
    /// The key at the end of the path, or the item where that is in a list.
    Key,
    /// The value at the end of the path.
    Value,
    /// These bytes.
    Bytes(Range<usize>),
}

/// What is to be said.
pub(super) struct Said {
    pub(super) code: &'static str,
    pub(super) message: String,
    pub(super) label: String,
    pub(super) help: String,
}

impl Findings {
    /// Begins with a tree that was not written but built.
    pub(super) fn built(tree: Node) -> Self {
        Self::new(tree, false, "", Vec::new())
    }

    /// Begins with a tree that was written, and the lines of its text that could not be read.
    pub(super) fn in_file(tree: Node, text: &str, torn: Vec<Range<usize>>) -> Self {
        Self::new(tree, true, text, torn)
    }

    fn new(tree: Node, placed: bool, text: &str, torn: Vec<Range<usize>>) -> Self {
        let mut headers = Vec::new();
        if !torn.is_empty() {
            let mut offset = 0;
            for line in text.split_inclusive('\n') {
                if line.trim_start().starts_with('[') {
                    headers.push(offset);
                }
                offset += line.len();
            }
        }
        let lost = torn.iter().any(|torn| headers.iter().any(|at| torn.contains(at)));
        Self {
            diagnostics: Vec::new(),
            broken: HashSet::new(),
            touched: HashSet::new(),
            tree,
            placed,
            torn,
            headers,
            lost,
        }
    }

    /// Whether lines could not be read, so that anything may be missing.
    pub(super) fn is_torn(&self) -> bool {
        !self.torn.is_empty()
    }

    /// Whether lines could not be read that may have been the table's.
    pub(super) fn is_torn_at<S: AsRef<str>>(&self, path: &[S]) -> bool {
        if self.torn.is_empty() {
            return false;
        }
        let Some(table) = self.tree.get(path).filter(|_| !path.is_empty()) else { return true };
        let start = table.span.start;
        let end = self.headers.get(self.headers.partition_point(|at| *at <= start)).copied().unwrap_or(usize::MAX);
        self.torn.iter().any(|torn| torn.start < end && start <= torn.end)
    }

    /// Whether tables could not be read, so that a name may well have been there.
    pub(super) fn has_lost_tables(&self) -> bool {
        self.lost
    }

    /// Marks a path as reported.
    pub(super) fn mark<S: AsRef<str>>(&mut self, path: &[S]) {
        let path = owned(path);
        for length in 0..path.len() {
            self.touched.insert(path[..length].to_vec());
        }
        self.broken.insert(path);
    }

    /// Whether the path, or what it lies in, has been reported.
    pub(super) fn is_broken<S: AsRef<str>>(&self, path: &[S]) -> bool {
        !self.broken.is_empty() && {
            let path = owned(path);
            (0..=path.len()).any(|length| self.broken.contains(&path[..length]))
        }
    }

    /// Whether something beneath the path has been reported, or the path itself.
    pub(super) fn is_broken_within<S: AsRef<str>>(&self, path: &[S]) -> bool {
        self.is_broken(path) || self.touched.contains(&owned(path))
    }

    /// Whether anything is wrong, and not only doubtful.
    pub(super) fn has_errors(&self) -> bool {
        self.diagnostics.iter().any(|diagnostic| diagnostic.severity == Severity::Error)
    }

    /// Whether so much is wrong that nothing more is reported.
    pub(super) fn is_full(&self) -> bool {
        self.diagnostics.len() >= MAX_DIAGNOSTICS
    }

    /// Returns the node as it was written.
    pub(super) fn written<S: AsRef<str>>(&self, path: &[S]) -> Option<&Node> {
        self.tree.get(path)
    }

    /// Returns the names in a table as it was written, those of broken entries among them.
    pub(super) fn names(&self, table: &str) -> Vec<&str> {
        self.tree.keys(&[table])
    }

    /// Reports an error, unless its place has been reported already.
    pub(super) fn error<S: AsRef<str>>(&mut self, path: &[S], place: Place, said: Said) {
        self.report(Severity::Error, path, place, said);
    }

    /// Reports a warning, unless its place has been reported already.
    pub(super) fn warning<S: AsRef<str>>(&mut self, path: &[S], place: Place, said: Said) {
        self.report(Severity::Warning, path, place, said);
    }

    fn report<S: AsRef<str>>(&mut self, severity: Severity, path: &[S], place: Place, said: Said) {
        if self.is_full() || self.is_broken(path) {
            return;
        }
        let span = self.span(path, place);
        if let Some(span) = &span
            && self.torn.iter().any(|torn| torn.start <= span.start && span.start <= torn.end)
        {
            return;
        }
        let Said { code, message, label, help } = said;
        self.diagnostics.push(Diagnostic { severity, code, message, path: written_path(path), span, label, help });
    }

    /// Returns the bytes of a place, or of the nearest table around it that is written.
    fn span<S: AsRef<str>>(&self, path: &[S], place: Place) -> Option<Range<usize>> {
        if !self.placed {
            return None;
        }
        if let Place::Bytes(bytes) = place {
            return Some(bytes);
        }
        if let Some(node) = self.tree.get(path) {
            return Some(if matches!(place, Place::Key) { node.key.clone() } else { node.span.clone() });
        }
        (0..path.len()).rev().find_map(|length| self.tree.get(&path[..length])).map(|node| node.key.clone())
    }
}

fn owned<S: AsRef<str>>(path: &[S]) -> Vec<String> {
    path.iter().map(|step| step.as_ref().to_owned()).collect()
}

/// Writes a path as people do: `agents.editor.tools[1]`.
pub(super) fn written_path<S: AsRef<str>>(path: &[S]) -> String {
    let mut out = String::new();
    for step in path {
        let step = step.as_ref();
        if !out.is_empty() && !step.is_empty() && step.bytes().all(|byte| byte.is_ascii_digit()) {
            out.push('[');
            out.push_str(step);
            out.push(']');
            continue;
        }
        if !out.is_empty() {
            out.push('.');
        }
        out.push_str(step);
    }
    out
}

/// Returns the candidate that is most like `name`, if one is like it at all.
pub(crate) fn nearest<'a>(name: &str, candidates: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    // The measure is quadratic, and no name is long.
    if name.chars().count() > 100 {
        return None;
    }
    let lower = name.to_lowercase();
    candidates
        .into_iter()
        .take(MAX_CANDIDATES)
        .map(|candidate| (strsim::jaro_winkler(&lower, &candidate.to_lowercase()), candidate))
        .filter(|(likeness, candidate)| {
            *likeness >= 0.8 || strsim::damerau_levenshtein(&lower, &candidate.to_lowercase()) <= 1
        })
        .max_by(|(a, _), (b, _)| a.total_cmp(b))
        .map(|(_, candidate)| candidate)
}

/// Writes names as a list: `a`, `b` and `c`.
pub(crate) fn listed<'a>(names: impl IntoIterator<Item = &'a str>) -> String {
    /// How many names a hint shows.
    const MAX: usize = 20;
    let names: Vec<String> = names.into_iter().map(|name| format!("`{name}`")).collect();
    match names.as_slice() {
        [] => "none".to_owned(),
        [only] => only.clone(),
        [first @ .., last] if names.len() <= MAX => format!("{} and {last}", first.join(", ")),
        _ => format!("{} and {} more", names[..MAX].join(", "), names.len() - MAX),
    }
}
