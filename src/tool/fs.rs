//! The built-in tools that work on files beneath a root, and the root itself: a capability, so that no `..`, no
//! absolute path and no symbolic link leads out of it, whoever changes the tree meanwhile.

mod list;
mod read;
mod search;
mod walk;
mod write;

pub(super) use list::{List, is_zero};
pub(super) use read::Read;
pub(super) use search::Search;
pub(super) use write::Write;

use std::io;
use std::path::{Component, Path, PathBuf};
use std::sync::Arc;

use cap_std::ambient_authority;
use cap_std::fs::{Dir, File, Metadata, OpenOptions, OpenOptionsExt};
use rustix::fs::OFlags;
use serde_json::Value;
use tokio_util::sync::CancellationToken;

use super::{Call, Error};

/// How much is read at once: large enough that system calls don't count, small enough that a cancel is heard at once.
const CHUNK_BYTES: usize = 64 * 1024;

/// A directory that a tool never leaves.
#[derive(Debug)]
pub(super) struct Root {
    dir: Dir,
    /// Where it was opened; for messages, and to understand a model that gives absolute paths.
    path: PathBuf,
    /// Where that was then, through links.
    real: PathBuf,
}

impl Root {
    pub(super) fn open(path: &Path) -> Result<Arc<Self>, Error> {
        let failed = |reason: String| Error::Failed(format!("the root {} {reason}", path.display()));
        let metadata = std::fs::metadata(path).map_err(|error| failed(format!("can't be opened: {error}")))?;
        if !metadata.is_dir() {
            return Err(failed("is not a directory".to_owned()));
        }
        let dir = Dir::open_ambient_dir(path, ambient_authority())
            .map_err(|error| failed(format!("can't be opened: {error}")))?;
        let real = path.canonicalize().map_err(|error| failed(format!("can't be opened: {error}")))?;
        Ok(Arc::new(Self { dir, path: path.to_owned(), real }))
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Turns the path that a model gave for something that is there into one relative to the root. A path that begins
    /// with the root's own name, or with the end of its path, as small models write it, is taken without that where only
    /// what is left leads somewhere.
    fn existing(&self, given: &str) -> Result<PathBuf, Error> {
        let path = self.relative(given)?;
        let is_there = |path: &Path| self.dir.symlink_metadata(or_dot(path)).is_ok();
        if is_there(&path) {
            return Ok(path);
        }
        let own = path.ancestors().find(|own| !own.as_os_str().is_empty() && self.path.ends_with(own));
        let rest = own.and_then(|own| path.strip_prefix(own).ok()).filter(|rest| is_there(rest));
        Ok(rest.map(Path::to_owned).unwrap_or(path))
    }

    /// Turns the path that a model gave into one relative to the root, without `.` and `..`; the root itself is the
    /// empty path. An absolute path is taken where it spells the root's own.
    fn relative(&self, given: &str) -> Result<PathBuf, Error> {
        let mut path = Path::new(given);
        if path.is_absolute() {
            path = path.strip_prefix(&self.path).map_err(|_| {
                Error::Refused(format!("{given} is outside the tool's root; give a path relative to the root"))
            })?;
        }
        let mut relative = PathBuf::new();
        for component in path.components() {
            match component {
                Component::Normal(name) => relative.push(name),
                Component::CurDir => {}
                Component::ParentDir | Component::RootDir | Component::Prefix(_) => {
                    return Err(Error::Refused(format!(
                        "{given} has `..` in it; give a path relative to the root, without `..`"
                    )));
                }
            }
        }
        Ok(relative)
    }

    /// Returns arguments whose `path` is the one way to name what it leads to: relative to the root, through links, without
    /// `.`. None where it is that already, or leads nowhere that the tool would go.
    async fn canonical(
        self: &Arc<Self>,
        arguments: &Value,
        find: fn(&Self, &str) -> Result<PathBuf, Error>,
    ) -> Option<Value> {
        let given = arguments.get("path")?.as_str()?.to_owned();
        let root = Arc::clone(self);
        let found = tokio::task::spawn_blocking(move || {
            let path = find(&root, &given).ok()?;
            let real = shown(&root.followed(&path));
            (real != given).then_some(real)
        });
        let mut arguments = arguments.clone();
        *arguments.get_mut("path")? = found.await.ok()??.into();
        Some(arguments)
    }

    /// Follows the links in a path, as far as there is something.
    fn followed(&self, path: &Path) -> PathBuf {
        let there = path.ancestors().find_map(|there| Some((self.dir.canonicalize(or_dot(there)).ok()?, there)));
        let Some((real, there)) = there else { return path.to_owned() };
        let rest = path.strip_prefix(there).unwrap_or(Path::new(""));
        real.components().chain(rest.components()).filter(|part| *part != Component::CurDir).collect()
    }

    /// Returns where a path leads to in the file system, for whoever is asked about it: beneath the directory that was opened,
    /// wherever its name leads by now.
    fn whole(&self, path: &Path) -> PathBuf {
        self.real.join(self.followed(path))
    }

    /// Looks what is at `path`, following links that stay beneath the root.
    fn metadata(&self, path: &Path) -> Result<Metadata, Error> {
        self.dir.metadata(or_dot(path)).map_err(|error| self.explain("open", path, &error))
    }

    fn open_dir(&self, path: &Path) -> Result<Dir, Error> {
        self.dir.open_dir(or_dot(path)).map_err(|error| self.explain("open", path, &error))
    }

    /// Opens a regular file for reading.
    fn open_file(&self, path: &Path) -> Result<File, Error> {
        let file = open_in(&self.dir, or_dot(path)).map_err(|error| self.explain("open", path, &error))?;
        let metadata = file.metadata().map_err(|error| self.explain("open", path, &error))?;
        if metadata.is_dir() {
            return Err(Error::Failed(format!("{} is a directory, not a file", shown(path))));
        }
        if !metadata.is_file() {
            return Err(Error::Failed(format!("{} is not a regular file", shown(path))));
        }
        Ok(file)
    }

    /// Says what went wrong with `path`, in words for the model.
    fn explain(&self, verb: &str, path: &Path, error: &io::Error) -> Error {
        let shown = shown(path);
        // cap-std's own refusals carry no number of the operating system.
        if error.kind() == io::ErrorKind::PermissionDenied && error.raw_os_error().is_none() {
            return Error::Refused(format!("{shown} leads out of the tool's root"));
        }
        let named_like_root = self.path.file_name().is_some_and(|name| path.starts_with(name));
        let hint = if error.kind() == io::ErrorKind::NotFound && named_like_root {
            " (paths are relative to the root; leave the root's own name out)"
        } else {
            ""
        };
        Error::Failed(format!("can't {verb} {shown}: {error}{hint}"))
    }
}

/// Opens a file for reading, without waiting where it turns out to be a pipe that nobody writes to.
fn open_in(dir: &Dir, path: &Path) -> io::Result<File> {
    dir.open_with(path, OpenOptions::new().read(true).custom_flags(OFlags::NONBLOCK.bits().cast_signed()))
}

/// The empty path is the root to us, and nothing to the operating system.
fn or_dot(path: &Path) -> &Path {
    if path.as_os_str().is_empty() { Path::new(".") } else { path }
}

/// Writes a relative path as results do: with `/`, and `.` for the root.
fn shown(path: &Path) -> String {
    let names: Vec<_> = path.iter().map(|name| name.to_string_lossy()).collect();
    if names.is_empty() { ".".to_owned() } else { names.join("/") }
}

/// Does file work on a thread that may block. `work` sees a token that is cancelled with the call, and also when the
/// returned future is dropped; it has to look at it wherever it may take long.
pub(super) async fn blocking<T: Send + 'static>(
    call: &Call,
    work: impl FnOnce(&CancellationToken) -> Result<T, Error> + Send + 'static,
) -> Result<T, Error> {
    let cancelled = call.cancelled.child_token();
    let _stop_when_dropped = cancelled.clone().drop_guard();
    match tokio::task::spawn_blocking(move || work(&cancelled)).await {
        Ok(result) => result,
        Err(error) => match error.try_into_panic() {
            Ok(panic) => std::panic::resume_unwind(panic),
            Err(_) => Err(Error::Failed("the runtime is shutting down".to_owned())),
        },
    }
}

/// Ends blocking work whose result nobody wants any more.
fn check(cancelled: &CancellationToken) -> Result<(), Error> {
    if cancelled.is_cancelled() { Err(Error::Failed("cancelled".to_owned())) } else { Ok(()) }
}

#[cfg(test)]
pub(super) mod testing {
    //! What the tests of the built-in tools share.

    use std::path::Path;
    use std::sync::Arc;
    use std::time::Duration;

    use serde_json::Value;
    use tokio_util::sync::CancellationToken;

    use crate::run::{AgentId, CallId, RunId};
    use crate::spec::{Builtin, ToolSpec};
    use crate::tool::{Call, Caller, Error, builtin};

    pub(in crate::tool) fn call() -> Call {
        Call {
            run: RunId::new("01test"),
            id: CallId::tool(&AgentId::new("scout"), 1, 0),
            idempotency_key: "01test/scout#1.0".to_owned(),
            age: Duration::ZERO,
            cancelled: CancellationToken::new(),
            output_limit_bytes: ToolSpec::DEFAULT_OUTPUT_LIMIT_BYTES,
            caller: Caller {
                network: "test".into(),
                agent: "scout".into(),
                tenant: "local".into(),
                ..Caller::default()
            },
            influence: Default::default(),
        }
    }

    /// Makes a directory with these files in it.
    pub(in crate::tool) fn tree(files: &[(&str, &str)]) -> tempfile::TempDir {
        let root = tempfile::tempdir().unwrap();
        for (path, text) in files {
            let path = root.path().join(path);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, text).unwrap();
        }
        root
    }

    /// Calls a built-in tool as the gate does, and returns its result as JSON.
    pub(in crate::tool) async fn ask(tool: Builtin, root: &Path, arguments: Value, call: Call) -> Result<Value, Error> {
        let spec = ToolSpec { builtin: Some(tool), ..ToolSpec::default() };
        let text = Arc::clone(&builtin(&spec, root, &Default::default())?).call(arguments, call).await?;
        Ok(serde_json::from_str(&text).unwrap())
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use serde_json::{Value, json};

    use super::testing::{ask, call, tree};
    use super::*;
    use crate::spec::Builtin;

    const SECRET: &str = "the secret outside";

    /// A root full of ways out of it, beside a directory that nothing may reach.
    fn trap() -> (tempfile::TempDir, PathBuf) {
        let top = tree(&[("outside/secret.txt", SECRET), ("root/inside.txt", "inside"), ("root/sub/deep.txt", "deep")]);
        let (root, outside) = (top.path().join("root"), top.path().join("outside"));
        symlink(outside.join("secret.txt"), root.join("file")).unwrap();
        symlink("../outside/secret.txt", root.join("relative")).unwrap();
        symlink(&outside, root.join("dir")).unwrap();
        symlink("../../outside", root.join("sub/up")).unwrap();
        symlink(outside.join("new.txt"), root.join("dangling")).unwrap();
        symlink("sub", root.join("within")).unwrap();
        (top, root)
    }

    const WAYS_OUT: [&str; 10] = [
        "../outside/secret.txt",
        "sub/../../outside/secret.txt",
        "/etc/passwd",
        "file",
        "relative",
        "dir/secret.txt",
        "sub/up/secret.txt",
        "within/up/secret.txt",
        "dangling",
        "dir/new.txt",
    ];

    #[tokio::test]
    async fn nothing_leads_out_of_the_root() {
        let (top, root) = trap();
        for path in WAYS_OUT {
            for (tool, arguments) in [
                (Builtin::FsRead, json!({"path": path})),
                (Builtin::FsList, json!({"path": path})),
                (Builtin::FsSearch, json!({"path": path, "pattern": "secret"})),
                (Builtin::FsWrite, json!({"path": path, "text": "overwritten"})),
            ] {
                let result = ask(tool, &root, arguments, call()).await;
                assert!(matches!(result, Err(Error::Refused(_))), "{tool:?} {path}: {result:?}");
            }
        }
        assert_eq!(std::fs::read_to_string(top.path().join("outside/secret.txt")).unwrap(), SECRET);
        assert!(!top.path().join("outside/new.txt").exists());
    }

    #[tokio::test]
    async fn walks_follow_no_links() {
        let (_top, root) = trap();
        let found = ask(Builtin::FsSearch, &root, json!({"pattern": "e"}), call()).await.unwrap();
        let paths: Vec<_> = found["matches"].as_array().unwrap().iter().map(|hit| hit["path"].clone()).collect();
        assert_eq!(paths, ["inside.txt", "sub/deep.txt"]);
        let listed = ask(Builtin::FsList, &root, json!({}), call()).await.unwrap();
        assert!(!listed.to_string().contains("secret"), "{listed}");
        assert!(!listed.to_string().contains("within/"), "{listed}");
    }

    #[tokio::test]
    async fn links_that_stay_beneath_the_root_can_be_read_through() {
        let (_top, root) = trap();
        let read = ask(Builtin::FsRead, &root, json!({"path": "within/deep.txt"}), call()).await.unwrap();
        assert_eq!(read["text"], "deep");
    }

    #[tokio::test]
    async fn the_root_has_several_spellings() {
        let root = tree(&[("sub/a.txt", "a")]);
        let absolute = root.path().join("sub/a.txt");
        let name = root.path().file_name().unwrap().to_str().unwrap().to_owned();
        let own_name = format!("{name}/sub/a.txt");
        let above = root.path().parent().and_then(|above| above.file_name()).unwrap().to_str().unwrap();
        let own_path = format!("{above}/{name}/sub/a.txt");
        for path in ["sub/a.txt", "./sub/a.txt", "sub/./a.txt", absolute.to_str().unwrap(), &own_name, &own_path] {
            let read = ask(Builtin::FsRead, root.path(), json!({"path": path}), call()).await.unwrap();
            assert_eq!(read["path"], "sub/a.txt");
        }
        for path in ["", ".", "./", root.path().to_str().unwrap(), &name] {
            let listed = ask(Builtin::FsList, root.path(), json!({"path": path}), call()).await.unwrap();
            assert_eq!(listed["entries"][0]["path"], "sub");
        }
    }

    #[tokio::test]
    async fn what_is_missing_is_named_with_the_words_of_the_operating_system() {
        let root = tree(&[]);
        let name = root.path().file_name().unwrap().to_str().unwrap().to_owned();
        let error = ask(Builtin::FsRead, root.path(), json!({"path": "a/b"}), call()).await.unwrap_err().to_string();
        assert_eq!(error, "can't open a/b: No such file or directory (os error 2)");
        let path = format!("{name}/b");
        let error = ask(Builtin::FsRead, root.path(), json!({"path": path}), call()).await.unwrap_err().to_string();
        assert!(error.contains("leave the root's own name out"), "{error}");
    }

    #[tokio::test]
    async fn blocking_work_ends_when_its_future_is_dropped() {
        let (told, mut hears) = tokio::sync::mpsc::channel::<()>(1);
        let (started, mut starts) = tokio::sync::mpsc::channel::<()>(1);
        let call = call();
        let work = blocking(&call, move |cancelled| {
            let _ = started.blocking_send(());
            while !cancelled.is_cancelled() {
                std::thread::yield_now();
            }
            drop(told);
            Ok(())
        });
        tokio::select! {
            _ = work => panic!("it ends only when it is dropped"),
            _ = starts.recv() => {}
        }
        assert_eq!(hears.recv().await, None);
    }

    #[tokio::test]
    async fn a_cancelled_call_does_nothing() {
        let root = tree(&[("a.txt", "a")]);
        for (tool, arguments) in [
            (Builtin::FsRead, json!({"path": "a.txt"})),
            (Builtin::FsList, json!({})),
            (Builtin::FsSearch, json!({"pattern": "a"})),
            (Builtin::FsWrite, json!({"path": "b.txt", "text": "b"})),
        ] {
            let call = call();
            call.cancelled.cancel();
            let result: Result<Value, Error> = ask(tool, root.path(), arguments, call).await;
            assert!(matches!(&result, Err(Error::Failed(reason)) if reason == "cancelled"), "{tool:?}: {result:?}");
        }
        assert!(!root.path().join("b.txt").exists());
    }
}
