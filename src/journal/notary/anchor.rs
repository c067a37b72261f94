//! An anchor: a place outside of the data directory that keeps checkpoints, and which one a data directory has.

use std::fmt;
use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, ErrorKind, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::{Checkpoint, beside, list};
use crate::journal::Error;
use crate::journal::format::hex;

/// Where the data directory says which anchor it has.
const CONFIG: &str = "anchor.json";

/// Where it says what that anchor has.
const STATE: &str = "anchored.json";

/// The version of both.
const VERSION: u32 = 1;

/// A place that keeps checkpoints. What it has once taken it keeps, in the order in which it came.
pub trait Anchor: Send + Sync {
    /// Adds a checkpoint's line, which is durable there when this returns. It may block for seconds, and no longer.
    ///
    /// # Errors
    /// It is not known to have been taken; it may have been all the same, and can be sent again.
    fn append(&self, line: &str) -> Result<(), AnchorError>;

    /// Gives each line that it has to `each`, until that returns false.
    ///
    /// # Errors
    /// They can't be read, or not all of them.
    fn lines(&self, each: &mut dyn FnMut(&str) -> bool) -> Result<(), AnchorError>;
}

/// Makes ready to reach an anchor by its URL. Nothing is sent yet.
pub type Connect = fn(&str) -> Result<Box<dyn Anchor>, AnchorError>;

/// Why an anchor is of no use.
#[derive(Clone, Debug, thiserror::Error)]
pub enum AnchorError {
    /// It can't be one.
    #[error("{target} can't be an anchor: {why}")]
    Unfit {
        /// What was named.
        target: String,
        /// Why not.
        why: String,
    },
    /// It can't be read or written just now.
    #[error("the anchor {target} can't be {doing}: {why}")]
    Unreachable {
        /// The anchor.
        target: String,
        /// `read` or `written`.
        doing: &'static str,
        /// Why.
        why: String,
    },
}

/// Where an anchor is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Target {
    /// A file, by its absolute path.
    File(PathBuf),
    /// An address of HTTP.
    Http(String),
}

impl Target {
    /// Reads an address that begins with `http://` or `https://`, or else a path, which may begin at the working directory.
    ///
    /// # Errors
    /// There is no working directory.
    pub fn of(text: &str) -> Result<Self, AnchorError> {
        if ["http://", "https://"].iter().any(|scheme| text.starts_with(scheme)) {
            return Ok(Self::Http(text.to_owned()));
        }
        let unfit = |error: io::Error| AnchorError::Unfit { target: text.to_owned(), why: error.to_string() };
        std::path::absolute(text).map(Self::File).map_err(unfit)
    }

    /// Returns what [`Target::of`] reads.
    fn text(&self) -> String {
        match self {
            Self::File(path) => path.display().to_string(),
            Self::Http(url) => url.clone(),
        }
    }

    /// Makes ready to reach the anchor.
    ///
    /// # Errors
    /// It is no address, or nobody here speaks HTTP.
    pub fn connect(&self, http: Option<Connect>) -> Result<Box<dyn Anchor>, AnchorError> {
        match (self, http) {
            (Self::File(path), _) => Ok(Box::new(FileAnchor::of(path))),
            (Self::Http(url), Some(http)) => http(url),
            (Self::Http(_), None) => {
                let why = "this program does not speak HTTP to anchors".to_owned();
                Err(AnchorError::Unfit { target: self.to_string(), why })
            }
        }
    }
}

/// Writes it without what follows a `?`, which may be a key.
impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File(path) => path.display().fmt(f),
            Self::Http(url) => f.write_str(url.split('?').next().unwrap_or_default()),
        }
    }
}

/// A file of lines, best on another machine's disk.
struct FileAnchor {
    path: PathBuf,
}

impl FileAnchor {
    fn of(path: &Path) -> Self {
        Self { path: path.to_owned() }
    }

    fn unreachable(&self, doing: &'static str) -> impl Fn(io::Error) -> AnchorError {
        move |error| AnchorError::Unreachable { target: self.path.display().to_string(), doing, why: error.to_string() }
    }
}

impl Anchor for FileAnchor {
    fn append(&self, line: &str) -> Result<(), AnchorError> {
        list::append(&self.path, line).map_err(self.unreachable("written"))
    }

    fn lines(&self, each: &mut dyn FnMut(&str) -> bool) -> Result<(), AnchorError> {
        // One that was there and is not any more must not look like one that has nothing yet.
        File::open(&self.path).and_then(|_| list::each(&self.path, each)).map_err(self.unreachable("read"))
    }
}

#[derive(Serialize, Deserialize)]
struct Config {
    version: u32,
    target: String,
}

/// What is known of a data directory's anchor.
#[derive(Serialize, Deserialize)]
struct State {
    version: u32,
    target: String,
    store: String,
    /// The newest checkpoint that it has taken.
    size: u64,
    time_ms: u64,
    failing: Option<Failing>,
}

/// That an anchor does not take what it is sent.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Failing {
    /// Since when, in milliseconds since 1970 (UTC).
    pub since_ms: u64,
    /// Why, the last time.
    pub why: String,
}

/// How far a data directory's anchor is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Anchoring {
    /// The anchor.
    pub target: Target,
    /// The newest checkpoint beside the store; none if there is none yet.
    pub newest: Option<Checkpoint>,
    /// How many commits the newest checkpoint names that the anchor has taken of this store, and its time; none if it has
    /// taken none.
    pub anchored: Option<(u64, u64)>,
    /// Why it does not take what it is sent, if that is so.
    pub failing: Option<Failing>,
}

impl Anchoring {
    /// Returns how many commits have a checkpoint that the anchor has not taken.
    pub fn lag(&self) -> u64 {
        let size = self.newest.as_ref().map_or(0, Checkpoint::size);
        size.saturating_sub(self.anchored.map_or(0, |(anchored, _)| anchored))
    }
}

/// Returns the anchor of a data directory.
///
/// # Errors
/// What it says of it can't be read.
pub fn anchor(directory: &Path) -> Result<Option<Target>, Error> {
    let path = directory.join(CONFIG);
    let Some(config) = read::<Config>(&path)? else { return Ok(None) };
    if config.version != VERSION {
        return Err(Error::beside(&path, "read", format!("it has version {}", config.version)));
    }
    Ok(Some(Target::of(&config.target)?))
}

/// Gives a data directory an anchor, in the place of the one that it had. It is on disk when this returns; whoever holds the
/// store sends checkpoints there from its next on.
///
/// # Errors
/// A file in the data directory itself, which is outside of nothing, or one that can't be made; or the directory can't be
/// written. An address is not asked anything.
pub fn set_anchor(directory: &Path, target: &Target) -> Result<(), Error> {
    let path = directory.join(CONFIG);
    let unwritten = |source: io::Error| Error::beside(&path, "written", source);
    DirBuilder::new().recursive(true).mode(0o700).create(directory).map_err(unwritten)?;
    if let Target::File(file) = target {
        let within = fs::canonicalize(directory).map_err(unwritten)?;
        let parent = file.parent().map(fs::canonicalize).and_then(Result::ok);
        if parent.is_some_and(|parent| parent.starts_with(&within)) {
            let why = "it lies in the data directory, whose owner could change it too".to_owned();
            return Err(AnchorError::Unfit { target: target.to_string(), why }.into());
        }
        if file.to_str().is_none() {
            let why = "its path is no text, as which it is kept".to_owned();
            return Err(AnchorError::Unfit { target: target.to_string(), why }.into());
        }
        // Nobody makes it later: on a disk that is not there just then it would be made somewhere else.
        list::make(file).map_err(FileAnchor::of(file).unreachable("written"))?;
    }
    write(&path, &Config { version: VERSION, target: target.text() }).map_err(unwritten)
}

/// Takes a data directory's anchor away, and returns it. What the anchor has it keeps.
///
/// # Errors
/// The directory can't be written.
pub fn remove_anchor(directory: &Path) -> Result<Option<Target>, Error> {
    let before = anchor(directory)?;
    for path in [CONFIG, STATE].map(|file| directory.join(file)) {
        match fs::remove_file(&path) {
            Err(error) if error.kind() != ErrorKind::NotFound => return Err(Error::beside(&path, "written", error)),
            _ => {}
        }
    }
    Ok(before)
}

/// Says how far a data directory's anchor is, as far as the last process knew that sent it anything; none without an anchor.
///
/// # Errors
/// It can't be read.
pub fn anchoring(directory: &Path) -> Result<Option<Anchoring>, Error> {
    let Some(target) = anchor(directory)? else { return Ok(None) };
    let path = beside(directory);
    let newest = list::last(&path).map_err(|source| Error::beside(&path, "read", source))?;
    Ok(Some(known(directory, target, newest.as_deref().and_then(Checkpoint::parse))))
}

/// Says what is known of an anchor. What can't be read of that is not known, and found out anew.
fn known(directory: &Path, target: Target, newest: Option<Checkpoint>) -> Anchoring {
    let state = read::<State>(&directory.join(STATE)).ok().flatten();
    let state = state.filter(|state| state.version == VERSION && state.target == target.text());
    let is_of = |state: &State| newest.as_ref().is_none_or(|newest| newest.store() == state.store);
    let anchored =
        state.as_ref().filter(|state| state.size > 0 && is_of(state)).map(|state| (state.size, state.time_ms));
    Anchoring { target, newest, anchored, failing: state.and_then(|state| state.failing) }
}

/// Sends the newest checkpoint to the data directory's anchor, if there is one that has not taken it. What came before needs
/// no sending: the newest covers it. Returns what is known then.
pub(super) fn send(
    directory: &Path,
    newest: Option<Checkpoint>,
    http: Option<Connect>,
    now_ms: u64,
) -> Result<Option<Anchoring>, Error> {
    let (Some(target), Some(newest)) = (anchor(directory)?, newest) else { return Ok(None) };
    let mut known = known(directory, target, Some(newest.clone()));
    if known.failing.is_none() && known.lag() == 0 {
        return Ok(Some(known));
    }
    match known.target.connect(http).and_then(|anchor| anchor.append(&newest.to_string())) {
        Ok(()) => (known.anchored, known.failing) = (Some((newest.size(), newest.time_ms())), None),
        Err(error) => {
            let since_ms = known.failing.map_or(now_ms, |failing| failing.since_ms);
            known.failing = Some(Failing { since_ms, why: error.to_string() });
        }
    }
    let (size, time_ms) = known.anchored.unwrap_or_default();
    let state = State {
        version: VERSION,
        target: known.target.text(),
        store: hex(&newest.standing.store),
        size,
        time_ms,
        failing: known.failing.clone(),
    };
    let path = directory.join(STATE);
    write(&path, &state).map_err(|source| Error::beside(&path, "written", source))?;
    Ok(Some(known))
}

fn read<T: DeserializeOwned>(path: &Path) -> Result<Option<T>, Error> {
    match fs::read(path) {
        Ok(bytes) => serde_json::from_slice(&bytes).map(Some).map_err(|error| Error::beside(path, "read", error)),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
        Err(error) => Err(Error::beside(path, "read", error)),
    }
}

/// Writes a small file whole: whoever reads it finds what it was before or what it is now, after a crash too.
fn write(path: &Path, content: &impl Serialize) -> io::Result<()> {
    let new = path.with_extension(format!("{}.new", std::process::id()));
    let _ = fs::remove_file(&new);
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&new)?;
    writeln!(file, "{}", serde_json::to_string(content)?)?;
    file.sync_all()?;
    fs::rename(&new, path)?;
    path.parent().map_or(Ok(()), |parent| File::open(parent)?.sync_all())
}
