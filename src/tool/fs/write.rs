//! The built-in tool that writes a file.

use std::borrow::Cow;
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use cap_std::fs::{Dir, File, OpenOptions, Permissions, PermissionsExt};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use tokio_util::sync::CancellationToken;

use super::{CHUNK_BYTES, Root, blocking, check, open_in, or_dot, shown};
use crate::spec::visible;
use crate::tool::preview::{self, NamedFile, Preview};
use crate::tool::{Call, Effect, Error, Tool};

/// How many names are tried for the file that is written first. A name is taken only by what a killed process with
/// this process's number left behind.
const MAX_NAMES: u32 = 1_000;

/// `fs.write`. It replaces and never appends, so that a second call leaves the file as the first one did.
pub(in crate::tool) struct Write {
    root: Arc<Root>,
}

impl Write {
    /// What the model is told of it.
    pub(in crate::tool) const DESCRIPTION: &str = "Writes a text file, whole: makes it, or replaces what was there.";

    pub(in crate::tool) fn new(root: Arc<Root>) -> Self {
        Self { root }
    }
}

#[derive(Deserialize, JsonSchema)]
pub(in crate::tool) struct Arguments {
    /// The file, relative to the root. Directories on the way are made.
    path: String,
    /// All of the file's new text; what was there is replaced.
    text: String,
}

#[derive(Debug, Serialize)]
pub(in crate::tool) struct Output {
    path: String,
    bytes: u64,
}

impl Tool for Write {
    type Arguments = Arguments;
    type Output = Output;

    fn description(&self) -> String {
        Self::DESCRIPTION.to_owned()
    }

    fn effect(&self) -> Effect {
        Effect::Idempotent
    }

    async fn canonical(&self, arguments: &Value) -> Option<Value> {
        self.root.canonical(arguments, Root::relative).await
    }

    async fn preview(&self, arguments: Arguments) -> Preview {
        let root = Arc::clone(&self.root);
        tokio::task::spawn_blocking(move || look(&root, &arguments)).await.unwrap_or_default()
    }

    /// The file is either as it was or has all of the text, also when the call is dropped, the disk is full, or the
    /// machine fails; once the call has returned, the text is on disk.
    async fn call(&self, arguments: Arguments, call: Call) -> Result<Output, Error> {
        let root = Arc::clone(&self.root);
        blocking(&call, move |cancelled| write(&root, &arguments, cancelled)).await
    }
}

/// Compares what would be written with what is there.
fn look(root: &Root, arguments: &Arguments) -> Preview {
    let Ok(path) = root.relative(&arguments.path) else { return Preview::default() };
    let mut left = preview::MAX_DIGESTED_BYTES;
    let before = root.open_file(&path).ok().map(|file| preview::Looked::at(file.into_std(), &mut left));
    let change = preview::change(&shown(&path), before.as_ref(), &arguments.text);
    let digest = before.map(|looked| looked.digest);
    let path = root.whole(&path).display().to_string().into();
    Preview { change: Some(change), files: vec![NamedFile { path, digest, is_target: true }] }
}

fn write(root: &Root, arguments: &Arguments, cancelled: &CancellationToken) -> Result<Output, Error> {
    check(cancelled)?;
    let path = root.relative(&arguments.path)?;
    if let Cow::Owned(shown) = visible(&arguments.path) {
        // Whoever lists the directory later has no guard against it.
        return Err(Error::Refused(format!("{shown} has characters that are not seen; give a name without them")));
    }
    let failed = |error: io::Error| root.explain("write", &path, &error);
    let (Some(parent), Some(name)) = (path.parent(), path.file_name().map(Path::new)) else {
        return Err(Error::Failed(format!("{} is a directory, not a file", shown(&path))));
    };
    let dir = open_or_make(&root.dir, parent).map_err(failed)?;
    let permissions = replaceable(&dir, name, &path, failed)?;
    let mut draft = Draft::create(&dir, permissions).map_err(failed)?;
    for chunk in arguments.text.as_bytes().chunks(CHUNK_BYTES) {
        check(cancelled)?;
        draft.file.write_all(chunk).map_err(failed)?;
    }
    draft.file.sync_all().map_err(failed)?;
    check(cancelled)?;
    draft.rename(name).map_err(failed)?;
    Ok(Output { path: shown(&path), bytes: arguments.text.len() as u64 })
}

fn open_or_make(root: &Dir, path: &Path) -> io::Result<Dir> {
    match root.open_dir(or_dot(path)) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            root.create_dir_all(path)?;
            root.open_dir(path)
        }
        opened => opened,
    }
}

/// Looks whether what is there may be replaced, and returns the permissions that the new file takes over.
fn replaceable(
    dir: &Dir,
    name: &Path,
    path: &Path,
    failed: impl Fn(io::Error) -> Error,
) -> Result<Option<Permissions>, Error> {
    let metadata = match dir.symlink_metadata(name) {
        Ok(metadata) => metadata,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(failed(error)),
    };
    if metadata.is_symlink() {
        return Err(Error::Refused(format!("{} is a symbolic link; write the file that it names", shown(path))));
    }
    if metadata.is_dir() {
        return Err(Error::Failed(format!("{} is a directory, not a file", shown(path))));
    }
    if !metadata.is_file() {
        return Err(Error::Refused(format!("{} is not a regular file", shown(path))));
    }
    // Not more than these: nobody gets to make a set-user-id program by replacing one.
    Ok(Some(Permissions::from_mode(metadata.permissions().mode() & 0o777)))
}

/// A file that becomes another by being renamed, and is removed where it doesn't.
struct Draft<'a> {
    dir: &'a Dir,
    name: PathBuf,
    file: File,
    renamed: bool,
}

impl<'a> Draft<'a> {
    fn create(dir: &'a Dir, permissions: Option<Permissions>) -> io::Result<Self> {
        static COUNT: AtomicU64 = AtomicU64::new(0);
        let mut tries = 0;
        loop {
            let count = COUNT.fetch_add(1, Ordering::Relaxed);
            let name = PathBuf::from(format!(".provost-{}-{count}.tmp", std::process::id()));
            match dir.open_with(&name, OpenOptions::new().write(true).create_new(true)) {
                Ok(file) => {
                    let draft = Self { dir, name, file, renamed: false };
                    if let Some(permissions) = permissions {
                        draft.file.set_permissions(permissions)?;
                    }
                    return Ok(draft);
                }
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists && tries < MAX_NAMES => tries += 1,
                Err(error) => return Err(error),
            }
        }
    }

    fn rename(mut self, name: &Path) -> io::Result<()> {
        self.dir.rename(&self.name, self.dir, name)?;
        self.renamed = true;
        // The name is on disk only when its directory is.
        open_in(self.dir, Path::new("."))?.sync_all()
    }
}

impl Drop for Draft<'_> {
    fn drop(&mut self) {
        if !self.renamed {
            let _ = self.dir.remove_file(&self.name);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::{PermissionsExt as _, symlink};

    use serde_json::json;

    use super::*;
    use crate::spec::Builtin;
    use crate::tool::fs::testing::{ask, call, tree};

    async fn write(root: &Path, path: &str, text: &str) -> Result<Value, Error> {
        ask(Builtin::FsWrite, root, json!({"path": path, "text": text}), call()).await
    }

    fn names(dir: &Path) -> Vec<String> {
        let mut names: Vec<_> =
            fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }

    #[tokio::test]
    async fn makes_files_and_the_directories_on_the_way() {
        let root = tree(&[]);
        let written = write(root.path(), "a/b/c.txt", "grün").await.unwrap();
        assert_eq!(written, json!({"path": "a/b/c.txt", "bytes": 5}));
        assert_eq!(fs::read_to_string(root.path().join("a/b/c.txt")).unwrap(), "grün");
        assert_eq!(names(&root.path().join("a/b")), ["c.txt"]);
    }

    #[tokio::test]
    async fn replaces_a_file_and_keeps_its_permissions() {
        let root = tree(&[("run.sh", "a much longer text than the new one")]);
        let path = root.path().join("run.sh");
        fs::set_permissions(&path, fs::Permissions::from_mode(0o4751)).unwrap();
        write(root.path(), "run.sh", "new").await.unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), "new");
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o7777, 0o751);
        assert_eq!(names(root.path()), ["run.sh"]);
    }

    #[tokio::test]
    async fn whoever_has_the_old_file_open_never_sees_half_of_the_new_one() {
        let root = tree(&[("a.txt", "old")]);
        let mut old = fs::File::open(root.path().join("a.txt")).unwrap();
        write(root.path(), "a.txt", "new text").await.unwrap();
        assert_eq!(io::read_to_string(&mut old).unwrap(), "old");
    }

    #[tokio::test]
    async fn links_and_directories_are_not_replaced() {
        let root = tree(&[("a.txt", "a"), ("dir/x", "")]);
        symlink("a.txt", root.path().join("link")).unwrap();
        let link = write(root.path(), "link", "b").await;
        assert!(matches!(&link, Err(Error::Refused(reason)) if reason.contains("symbolic link")), "{link:?}");
        assert!(fs::symlink_metadata(root.path().join("link")).unwrap().is_symlink());
        assert_eq!(fs::read_to_string(root.path().join("a.txt")).unwrap(), "a");
        for path in ["dir", ".", "a.txt/x"] {
            let error = write(root.path(), path, "b").await.unwrap_err();
            assert!(matches!(&error, Error::Failed(reason) if reason.contains(path)), "{error}");
        }
        assert_eq!(names(root.path()), ["a.txt", "dir", "link"]);
    }

    #[tokio::test]
    async fn a_name_that_would_drive_a_terminal_is_not_written() {
        let root = tree(&[]);
        for path in ["a\nb", "\u{1b}[2J", "a/\u{202e}txt.exe", "a\u{200b}b"] {
            let refused = write(root.path(), path, "x").await;
            assert!(matches!(&refused, Err(Error::Refused(why)) if !why.contains(path)), "{refused:?}");
        }
        assert!(names(root.path()).is_empty());
        write(root.path(), "grün/你好.txt", "x").await.unwrap();
    }

    #[tokio::test]
    async fn a_write_that_fails_leaves_no_trace_and_says_why() {
        let root = tree(&[("a.txt", "old")]);
        let name = "x".repeat(300);
        let error = write(root.path(), &name, "text").await.unwrap_err().to_string();
        assert!(error.contains("File name too long") && error.contains(&name), "{error}");
        assert_eq!(names(root.path()), ["a.txt"]);
    }

    #[test]
    fn a_draft_that_is_given_up_is_removed() {
        let root = tree(&[("a.txt", "old")]);
        let dir = Dir::open_ambient_dir(root.path(), cap_std::ambient_authority()).unwrap();
        let mut draft = Draft::create(&dir, None).unwrap();
        draft.file.write_all(b"half").unwrap();
        assert_eq!(names(root.path()).len(), 2);
        drop(draft);
        assert_eq!(names(root.path()), ["a.txt"]);
    }
}
