//! The built-in tool that runs a program: one of those allowed, without a shell, in an environment of its own, as a
//! process group that ends with the call. (A program that leaves its group to outlive it is the sandbox's business.)

mod capture;
mod group;

use std::collections::BTreeSet;
use std::ffi::{OsStr, OsString};
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::process::ExitStatusExt as _;
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use tokio::process::Command;

pub(super) use self::capture::Capture;
use self::capture::{Excerpt, share};
pub(super) use self::group::Group;
use super::fs::is_zero;
use super::preview::{self, NamedFile, Preview};
use super::size::FRAME_BYTES;
use super::{Call, Effect, Error, Tool};

pub(crate) use self::group::kill_programs;

/// Where programs are looked for when the runtime itself has no `PATH`.
const DEFAULT_PATH: &str = "/usr/local/bin:/usr/bin:/bin";

/// `process.run`.
pub(super) struct Run {
    programs: Vec<Program>,
    /// The working directory of every program.
    root: PathBuf,
    /// All that a program inherits.
    environment: Vec<(&'static str, OsString)>,
}

struct Program {
    /// As the network file has it, and as the model must write it.
    name: String,
    /// What is started.
    path: PathBuf,
}

#[derive(Deserialize, JsonSchema)]
pub(super) struct Arguments {
    /// The program and its arguments, each a string of its own. There is no shell: no pipes, globs or variables.
    argv: Vec<String>,
    /// What the program reads from its standard input; nothing where it is left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "String")]
    stdin: Option<String>,
}

#[derive(Debug, Serialize)]
pub(super) struct Output {
    status: Status,
    stdout: String,
    stderr: String,
    /// How much of the standard output was left out.
    #[serde(skip_serializing_if = "is_zero")]
    stdout_dropped_bytes: u64,
    /// How much of the standard error was left out.
    #[serde(skip_serializing_if = "is_zero")]
    stderr_dropped_bytes: u64,
}

/// How a program ended.
#[derive(Debug, Serialize)]
#[serde(rename_all = "snake_case")]
enum Status {
    /// By itself.
    ExitCode(i32),
    /// Killed by a signal.
    Signal(i32),
}

impl From<ExitStatus> for Status {
    fn from(status: ExitStatus) -> Self {
        match (status.code(), status.signal()) {
            (Some(code), _) => Self::ExitCode(code),
            (None, signal) => Self::Signal(signal.unwrap_or_default()),
        }
    }
}

impl Run {
    /// Makes the tool; each of `allow` is looked up now and never again.
    pub(super) fn new(allow: &[String], root: &Path) -> Result<Self, Error> {
        if allow.is_empty() {
            return Err(Error::Failed("process.run allows no program; name some in `allow`".to_owned()));
        }
        let path = std::env::var_os("PATH").unwrap_or_else(|| DEFAULT_PATH.into());
        let programs = allow.iter().map(|name| Program::find(name, &path)).collect::<Result<_, _>>()?;
        let mut environment =
            vec![("PATH", path), ("LANG", "C.UTF-8".into()), ("TMPDIR", std::env::temp_dir().into_os_string())];
        environment.extend(std::env::var_os("HOME").map(|home| ("HOME", home)));
        Ok(Self { programs, root: root.to_owned(), environment })
    }

    /// Returns what the model is told of it, where `allowed` are the programs as the network file has them.
    pub(super) fn description_of(allowed: &str) -> String {
        format!("Runs a program without a shell and returns its exit code and output. The allowed programs: {allowed}.")
    }

    fn allowed(&self) -> String {
        self.programs.iter().map(|program| program.name.as_str()).collect::<Vec<_>>().join(", ")
    }

    fn command(&self, arguments: &Arguments, call: &Call) -> Result<Command, Error> {
        let Some((name, rest)) = arguments.argv.split_first() else {
            return Err(Error::Arguments("argv is empty; its first element is the program".to_owned()));
        };
        let Some(program) = self.programs.iter().find(|program| program.name == *name) else {
            return Err(Error::Refused(format!("{name} is not allowed; allowed: {}", self.allowed())));
        };
        let mut command = Command::new(&program.path);
        command
            .args(rest)
            .current_dir(&self.root)
            .env_clear()
            .envs(self.environment.iter().map(|(name, value)| (name, value)))
            .env("PROVOST_IDEMPOTENCY_KEY", &call.idempotency_key)
            .stdin(if arguments.stdin.is_some() { Stdio::piped() } else { Stdio::null() })
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        Ok(command)
    }
}

/// Looks at what is started, where, and at each file that its arguments name.
fn look(root: &Path, program: Option<PathBuf>, rest: &[String]) -> Preview {
    let named = rest.iter().flat_map(|part| {
        // What follows the name of an option may be a file, too.
        let value = part.split_once('=').map(|(_, value)| value);
        [Some(part.as_str()), value].into_iter().flatten().filter(|name| !name.is_empty())
    });
    let paths = program.into_iter().chain(named.map(|name| root.join(name)));
    // It works where links lead now.
    let place = root.canonicalize().unwrap_or_else(|_| root.to_owned()).display().to_string().into();
    // Each is looked at once, however often it is named.
    let paths: BTreeSet<PathBuf> = paths.collect();
    let mut left = preview::MAX_DIGESTED_BYTES;
    let mut files: Vec<NamedFile> = paths.iter().filter_map(|path| preview::used(path, &mut left)).collect();
    files.sort_by(|one, other| one.path.cmp(&other.path));
    files.dedup();
    files.push(NamedFile { path: place, digest: None, is_target: false });
    Preview { change: None, files }
}

impl Program {
    /// Finds what `name` stands for: itself where it is absolute, else the first of that name in `search`.
    fn find(name: &str, search: &OsStr) -> Result<Self, Error> {
        let failed = |reason: &str| Error::Failed(format!("process.run can't allow {name:?}: {reason}"));
        let found = |path: PathBuf| Self { name: name.to_owned(), path };
        if name.starts_with('/') {
            let path = PathBuf::from(name);
            return if is_executable(&path) { Ok(found(path)) } else { Err(failed("there is no such program")) };
        }
        if name.is_empty() || name.contains('/') {
            return Err(failed("give a bare name or an absolute path"));
        }
        std::env::split_paths(search)
            // A relative entry would find whatever an agent has written to the working directory.
            .filter(|dir| dir.is_absolute())
            .map(|dir| dir.join(name))
            .find(|path| is_executable(path))
            .map(found)
            .ok_or_else(|| failed("there is no such program in PATH"))
    }
}

fn is_executable(path: &Path) -> bool {
    path.metadata().is_ok_and(|metadata| metadata.is_file() && metadata.permissions().mode() & 0o111 != 0)
}

impl Tool for Run {
    type Arguments = Arguments;
    type Output = Output;

    fn description(&self) -> String {
        Self::description_of(&self.allowed())
    }

    fn effect(&self) -> Effect {
        Effect::Once
    }

    async fn preview(&self, arguments: Arguments) -> Preview {
        let Some((name, rest)) = arguments.argv.split_first() else { return Preview::default() };
        let program = self.programs.iter().find(|program| program.name == *name).map(|program| program.path.clone());
        let (root, rest) = (self.root.clone(), rest.to_vec());
        tokio::task::spawn_blocking(move || look(&root, program, &rest)).await.unwrap_or_default()
    }

    /// A program that fails is a result like any other. When the call is cancelled, the program and all that it started
    /// within its process group are told to end (`SIGTERM`); when it is dropped, they are killed.
    async fn call(&self, arguments: Arguments, call: Call) -> Result<Output, Error> {
        let mut command = self.command(&arguments, &call)?;
        let failed = |what: &str, error: std::io::Error| {
            Error::Failed(format!("can't {what} {} in {}: {error}", arguments.argv[0], self.root.display()))
        };
        let mut group = Group::start(&mut command).map_err(|error| failed("start", error))?;
        let room = call.output_limit_bytes.saturating_sub(FRAME_BYTES);
        let (mut stdout, mut stderr) = (Capture::new(room), Capture::new(room));
        let status = group
            .finish(arguments.stdin.as_deref().unwrap_or_default(), &mut stdout, &mut stderr, &call.cancelled)
            .await
            .map_err(|error| failed("wait for", error))?;
        let (stdout_room, stderr_room) = share(room, stdout.json_len(), stderr.json_len());
        let Excerpt { text: stdout, dropped_bytes: stdout_dropped_bytes } = stdout.excerpt(stdout_room);
        let Excerpt { text: stderr, dropped_bytes: stderr_dropped_bytes } = stderr.excerpt(stderr_room);
        Ok(Output { status: status.into(), stdout, stderr, stdout_dropped_bytes, stderr_dropped_bytes })
    }
}

#[cfg(test)]
mod tests;
