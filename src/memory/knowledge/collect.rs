//! Which files there are to index: what `.gitignore` files name and what is hidden is left out, and no link is followed.

use std::collections::BTreeSet;
use std::fs::{self, Metadata};
use std::io::{ErrorKind, Read};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use ignore::WalkBuilder;

use super::super::Error;

/// How large a file may be: longer than any that people write, shorter than most that are generated or logged.
pub const MAX_FILE_BYTES: u64 = 1024 * 1024;

/// How deep a walk goes; no tree that people made is deeper.
const MAX_DEPTH: usize = 64;

/// A file that was changed so shortly before it is looked at may change again without a trace in its time.
const RACY: Duration = Duration::from_secs(2);

/// What a walk came by.
#[derive(Default)]
pub(super) struct Collected {
    /// The files, in order.
    pub(super) files: Vec<Found>,
    /// How many are larger than [`MAX_FILE_BYTES`].
    pub(super) too_large: u64,
    /// How many files and directories could not be looked at.
    pub(super) unreadable: u64,
}

/// A file, as it was found.
pub(super) struct Found {
    /// Where it is.
    pub(super) path: PathBuf,
    /// Its path as people see it: from what they named on.
    pub(super) from_root: String,
    pub(super) stamp: Stamp,
}

/// What tells whether a file is as it was: its length and when it was changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Stamp {
    pub(super) bytes: i64,
    /// In nanoseconds since 1970; 0 where that says nothing, because it was just now.
    pub(super) mtime_ns: i64,
}

impl Stamp {
    fn of(metadata: &Metadata) -> Self {
        let changed = metadata.modified().unwrap_or(UNIX_EPOCH);
        let is_racy = SystemTime::now().duration_since(changed).map_or(true, |age| age < RACY);
        let since = changed.duration_since(UNIX_EPOCH).unwrap_or_default();
        let mtime_ns = if is_racy { 0 } else { i64::try_from(since.as_nanos()).unwrap_or_default() };
        Self { bytes: metadata.len().cast_signed(), mtime_ns }
    }

    /// Whether a file that was stamped so is certainly still the same.
    pub(super) fn is_still(self, now: Self) -> bool {
        self == now && self.mtime_ns != 0
    }
}

/// Returns a path as the index knows it.
///
/// # Errors
/// There is nothing there, or the path is no text.
pub(super) fn resolved(path: &Path) -> Result<PathBuf, Error> {
    let resolved = fs::canonicalize(path).map_err(|source| unfit(path, source))?;
    match resolved.to_str() {
        Some(_) => Ok(resolved),
        None => Err(unfit(path, std::io::Error::new(ErrorKind::InvalidInput, "it is no UTF-8 text"))),
    }
}

/// Returns the path of something that can be indexed, as the index knows it.
///
/// # Errors
/// There is no such file or directory, or its path is no text.
pub(super) fn indexable(path: &Path) -> Result<PathBuf, Error> {
    let resolved = resolved(path)?;
    let kind = fs::metadata(&resolved).map_err(|source| unfit(path, source))?;
    match kind.is_file() || kind.is_dir() {
        true => Ok(resolved),
        false => Err(unfit(path, std::io::Error::new(ErrorKind::InvalidInput, "it is neither a file nor a directory"))),
    }
}

fn unfit(path: &Path, source: std::io::Error) -> Error {
    Error::Path { path: path.to_owned(), source: Arc::new(source) }
}

/// Looks for the files at and beneath `root`, which is resolved, but for those at and beneath what is `left_out`.
pub(super) fn collect(root: &Path, left_out: &Arc<BTreeSet<PathBuf>>, into: &mut Collected) {
    let above = root.parent().unwrap_or(root);
    let mut walk = WalkBuilder::new(root);
    // What is named is wanted, even if a file that only this machine has would ignore it.
    walk.require_git(false).git_global(false).follow_links(false).max_depth(Some(MAX_DEPTH));
    let left_out = left_out.clone();
    walk.filter_entry(move |entry| !left_out.contains(entry.path()));
    for entry in walk.sort_by_file_name(std::ffi::OsStr::cmp).build() {
        let Ok(entry) = entry else {
            into.unreadable += 1;
            continue;
        };
        if !entry.file_type().is_some_and(|kind| kind.is_file()) {
            continue;
        }
        let (Ok(metadata), Some(_)) = (entry.metadata(), entry.path().to_str()) else {
            into.unreadable += 1;
            continue;
        };
        if metadata.len() > MAX_FILE_BYTES {
            into.too_large += 1;
            continue;
        }
        let from_root = entry.path().strip_prefix(above).unwrap_or(entry.path()).to_string_lossy().into_owned();
        into.files.push(Found { stamp: Stamp::of(&metadata), path: entry.into_path(), from_root });
    }
}

/// Reads a file's text; none if it is binary.
pub(super) fn read(path: &Path) -> std::io::Result<Option<String>> {
    let mut bytes = Vec::new();
    // It may have grown meanwhile.
    fs::File::open(path)?.take(MAX_FILE_BYTES).read_to_end(&mut bytes)?;
    if bytes.contains(&0) {
        return Ok(None);
    }
    Ok(String::from_utf8(bytes).ok())
}
