//! A walk through a directory tree, by capability and in order: what `.gitignore` files name is left out, so is what
//! is hidden, and no link is followed.

use std::ffi::OsString;
use std::io::Read as _;
use std::ops::ControlFlow;
use std::path::Path;

use cap_std::fs::{Dir, DirEntry, FileType};
use ignore::gitignore::{Gitignore, GitignoreBuilder};
use ignore::overrides::{Override, OverrideBuilder};
use tokio_util::sync::CancellationToken;

use super::{Error, Root, check, open_in};

/// How many names a walk reads, ignored ones included: a large repository has fewer, and their names take a few tens
/// of megabytes at most.
const MAX_NAMES: usize = 200_000;

/// How deep a walk goes. Each level holds a directory open; no tree that people made is deeper.
const MAX_DEPTH: u32 = 64;

/// How much of a `.gitignore` is read; the largest collections of patterns have a tenth of that.
const MAX_GITIGNORE_BYTES: u64 = 256 * 1024;

/// What an entry is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    File,
    Dir,
    Link,
    /// A socket, a pipe, a device.
    Other,
}

impl Kind {
    fn of(file_type: FileType) -> Self {
        if file_type.is_dir() {
            Self::Dir
        } else if file_type.is_file() {
            Self::File
        } else if file_type.is_symlink() {
            Self::Link
        } else {
            Self::Other
        }
    }
}

/// An entry that a walk came by.
pub(super) struct Entry<'a> {
    /// The directory that it is in.
    pub(super) dir: &'a Dir,
    /// Its name there.
    pub(super) name: &'a Path,
    /// Its path from the root.
    pub(super) path: &'a Path,
    pub(super) kind: Kind,
}

/// What a walk is asked for.
pub(super) struct Walk<'a> {
    pub(super) root: &'a Root,
    /// Where it starts, from the root; a directory.
    pub(super) start: &'a Path,
    /// Only files that match; then directories are walked, but not shown.
    pub(super) glob: Option<&'a str>,
    /// How many levels, 1 being the entries of `start`.
    pub(super) depth: Option<u32>,
    pub(super) cancelled: &'a CancellationToken,
}

/// What a walk left out.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Walked {
    /// Whether it saw all that it was asked for.
    pub(super) complete: bool,
    /// How many directories could not be opened.
    pub(super) unreadable: u64,
}

impl Walk<'_> {
    /// Shows the entries to `visit`, each directory before what is in it, names in the order of their bytes.
    ///
    /// # Errors
    /// A glob that can't be read, a start that can't be opened, a cancel, or what `visit` says.
    pub(super) fn run(
        &self,
        visit: &mut dyn FnMut(Entry<'_>) -> Result<ControlFlow<()>, Error>,
    ) -> Result<Walked, Error> {
        let mut walker = Walker {
            walk: self,
            glob: self.glob.filter(|glob| !glob.is_empty()).map(parse_glob).transpose()?,
            ignores: ignores_above(self.root, self.start),
            names_left: MAX_NAMES,
            walked: Walked { complete: true, unreadable: 0 },
            visit,
        };
        let dir = self.root.open_dir(self.start)?;
        let entries = dir.entries().map_err(|error| self.root.explain("list", self.start, &error))?;
        if walker.directory(&dir, entries, self.start, 1)?.is_break() {
            walker.walked.complete = false;
        }
        Ok(walker.walked)
    }
}

struct Walker<'a> {
    walk: &'a Walk<'a>,
    glob: Option<Override>,
    /// One for each `.gitignore` between the root and here.
    ignores: Vec<Gitignore>,
    names_left: usize,
    walked: Walked,
    visit: &'a mut dyn FnMut(Entry<'_>) -> Result<ControlFlow<()>, Error>,
}

impl Walker<'_> {
    fn directory(
        &mut self,
        dir: &Dir,
        entries: impl Iterator<Item = std::io::Result<DirEntry>>,
        path: &Path,
        depth: u32,
    ) -> Result<ControlFlow<()>, Error> {
        let outer = self.ignores.len();
        self.ignores.extend(gitignore(dir, path));
        let mut flow = ControlFlow::Continue(());
        for (name, kind) in self.names(entries)? {
            check(self.walk.cancelled)?;
            flow = self.entry(dir, Path::new(&name), &path.join(&name), kind, depth)?;
            if flow.is_break() {
                break;
            }
        }
        self.ignores.truncate(outer);
        Ok(flow)
    }

    fn entry(&mut self, dir: &Dir, name: &Path, path: &Path, kind: Kind, depth: u32) -> Result<ControlFlow<()>, Error> {
        if self.is_ignored(path, kind) {
            return Ok(ControlFlow::Continue(()));
        }
        if self.is_shown(kind) && (self.visit)(Entry { dir, name, path, kind })?.is_break() {
            return Ok(ControlFlow::Break(()));
        }
        if kind != Kind::Dir || self.walk.depth.is_some_and(|limit| depth >= limit) {
            return Ok(ControlFlow::Continue(()));
        }
        if depth >= MAX_DEPTH {
            self.walked.complete = false;
            return Ok(ControlFlow::Continue(()));
        }
        let Ok((inner, entries)) = dir.open_dir(name).and_then(|inner| inner.entries().map(|all| (inner, all))) else {
            self.walked.unreadable += 1;
            return Ok(ControlFlow::Continue(()));
        };
        self.directory(&inner, entries, path, depth + 1)
    }

    /// Reads a directory's names, without the hidden ones, and sorts them.
    fn names(
        &mut self,
        entries: impl Iterator<Item = std::io::Result<DirEntry>>,
    ) -> Result<Vec<(OsString, Kind)>, Error> {
        let mut names = Vec::new();
        for entry in entries {
            check(self.walk.cancelled)?;
            let Ok(entry) = entry else {
                self.walked.complete = false;
                break;
            };
            let Some(left) = self.names_left.checked_sub(1) else {
                self.walked.complete = false;
                break;
            };
            self.names_left = left;
            let name = entry.file_name();
            if !name.as_encoded_bytes().starts_with(b".") {
                names.push((name, kind_of(&entry)));
            }
        }
        names.sort_unstable_by(|(left, _), (right, _)| left.cmp(right));
        Ok(names)
    }

    fn is_ignored(&self, path: &Path, kind: Kind) -> bool {
        let is_dir = kind == Kind::Dir;
        let verdict = self.ignores.iter().rev().map(|level| level.matched(path, is_dir)).find(|found| !found.is_none());
        verdict.is_some_and(|found| found.is_ignore())
            || self.glob.as_ref().is_some_and(|glob| glob.matched(path, is_dir).is_ignore())
    }

    fn is_shown(&self, kind: Kind) -> bool {
        self.glob.is_none() || kind != Kind::Dir
    }
}

/// Reads a glob as ripgrep's `-g` does: without a `/` it matches names at any depth, with a leading `!` it excludes.
/// A leading `./` is what models write, and means nothing.
fn parse_glob(glob: &str) -> Result<Override, Error> {
    let bare = glob.strip_prefix("./").unwrap_or(glob);
    let mut builder = OverrideBuilder::new("");
    builder
        .add(bare)
        .and_then(|builder| builder.build())
        .map_err(|error| Error::Arguments(format!("the glob {glob:?} can't be read: {error}")))
}

/// The kind that the directory tells, or the file itself where its file system doesn't.
fn kind_of(entry: &DirEntry) -> Kind {
    match entry.file_type().map(Kind::of) {
        Ok(kind @ (Kind::File | Kind::Dir | Kind::Link)) => kind,
        _ => entry.metadata().map_or(Kind::Other, |metadata| Kind::of(metadata.file_type())),
    }
}

/// The `.gitignore` files from the root down to `start`, that of `start` itself not included.
fn ignores_above(root: &Root, start: &Path) -> Vec<Gitignore> {
    let mut above: Vec<_> = start.ancestors().skip(1).collect();
    above.reverse();
    above.into_iter().filter_map(|path| gitignore(&root.open_dir(path).ok()?, path)).collect()
}

/// Reads the `.gitignore` of a directory. What can't be read or understood in it ignores nothing, as git has it.
fn gitignore(dir: &Dir, path: &Path) -> Option<Gitignore> {
    let file = open_in(dir, Path::new(".gitignore")).ok()?;
    if !file.metadata().ok()?.is_file() {
        return None;
    }
    let mut bytes = Vec::new();
    file.take(MAX_GITIGNORE_BYTES).read_to_end(&mut bytes).ok()?;
    let text = String::from_utf8_lossy(&bytes);
    let mut builder = GitignoreBuilder::new(path);
    for line in text.trim_start_matches('\u{feff}').lines() {
        let _ = builder.add_line(None, line);
    }
    builder.build().ok().filter(|built| !built.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tool::fs::testing::tree;

    #[test]
    fn a_walk_stops_where_it_is_cancelled() {
        let root = tree(&[("a/b", ""), ("a/c", ""), ("d", "")]);
        let (root, cancelled, mut seen) = (Root::open(root.path()).unwrap(), CancellationToken::new(), Vec::new());
        let walk = Walk { root: &root, start: Path::new(""), glob: None, depth: None, cancelled: &cancelled };
        let walked = walk.run(&mut |entry| {
            seen.push(entry.path.to_owned());
            if seen.len() == 2 {
                cancelled.cancel();
            }
            Ok(ControlFlow::Continue(()))
        });
        assert!(matches!(&walked, Err(Error::Failed(reason)) if reason == "cancelled"), "{walked:?}");
        assert_eq!(seen, [Path::new("a"), Path::new("a/b")]);
    }

    #[test]
    fn a_walk_that_is_stopped_is_not_complete() {
        let root = tree(&[("a", ""), ("b", "")]);
        let (root, cancelled) = (Root::open(root.path()).unwrap(), CancellationToken::new());
        let walk = Walk { root: &root, start: Path::new(""), glob: None, depth: None, cancelled: &cancelled };
        let walked = |flow: ControlFlow<()>| walk.run(&mut |_| Ok(flow)).unwrap();
        assert_eq!(walked(ControlFlow::Break(())), Walked { complete: false, unreadable: 0 });
        assert_eq!(walked(ControlFlow::Continue(())), Walked { complete: true, unreadable: 0 });
    }
}
