//! An anchor: a place outside of the data directory that keeps checkpoints, and which one a data directory has.

use std::fmt;
use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, ErrorKind, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::{Checkpoint, Key, against, beside, list};
use crate::journal::Error;
use crate::journal::commit::now_ms;
use crate::journal::format::{Hash, hex};

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
    /// It has no longer what it had taken. Nothing is added, so that this is found whenever somebody looks.
    #[error("the anchor {target} has lost what it had taken of this store, up to commit {size}")]
    Lost {
        /// The anchor.
        target: String,
        /// What it had taken.
        size: u64,
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
    /// It is an address of something else, or looks like one and no such file is there; or there is no working directory.
    pub fn of(text: &str) -> Result<Self, AnchorError> {
        let unfit = |why: String| AnchorError::Unfit { target: hidden(text), why };
        let scheme = text.split_once("://").map(|(scheme, _)| scheme.to_ascii_lowercase());
        match scheme.as_deref() {
            Some("http" | "https") => return Ok(Self::Http(text.to_owned())),
            Some(other) if !other.is_empty() && other.bytes().all(|byte| byte.is_ascii_alphanumeric()) => {
                return Err(unfit(format!("an anchor is a file or is spoken to over HTTP, not {other}")));
            }
            _ => {}
        }
        let port = text.split('/').next().and_then(|host| host.rsplit_once(':'));
        let is_address = port.is_some_and(|(host, port)| !host.is_empty() && port.parse::<u16>().is_ok());
        if is_address && !Path::new(text).exists() {
            return Err(unfit(format!(
                "it looks like an address, which begins with http://, and a file would be ./{text}"
            )));
        }
        std::path::absolute(text).map(Self::File).map_err(|error| unfit(error.to_string()))
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

/// Writes it without what may be secret.
impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File(path) => path.display().fmt(f),
            Self::Http(url) => f.write_str(&hidden(url)),
        }
    }
}

/// Returns an address without what follows a `?`, which may be a key, and without a name and a password.
fn hidden(url: &str) -> String {
    let url = url.split(['?', '#']).next().unwrap_or_default();
    let Some((scheme, rest)) = url.split_once("://") else { return url.to_owned() };
    let (host, path) = rest.find('/').map_or((rest, ""), |at| rest.split_at(at));
    format!("{scheme}://{}{path}", host.rsplit('@').next().unwrap_or_default())
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
        let found = list::open(&self.path, OpenOptions::new().read(true));
        found.and_then(|_| list::each(&self.path, each)).map_err(self.unreachable("read"))
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
    /// Of which store it has taken something; empty where it has taken nothing and there was no store.
    store: String,
    /// The newest checkpoint that it has taken; 0 where it has taken none.
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

    fn fails(&mut self, why: String) {
        let since_ms = self.failing.as_ref().map_or_else(now_ms, |failing| failing.since_ms);
        self.failing = Some(Failing { since_ms, why });
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
/// store sends checkpoints there from its next on. The anchor is asked what it has: what was known of it before is forgotten, and what
/// it has lost is sent again. One that can't be asked is the anchor all the same, and is [failing](Anchoring::failing).
///
/// # Errors
/// A file in the data directory itself, which is outside of nothing, or one that can't be made, or something that is no file; what
/// can't be reached by `http`; or the directory can't be written.
pub fn set_anchor(directory: &Path, target: &Target, http: Option<Connect>) -> Result<(), Error> {
    let path = directory.join(CONFIG);
    let unwritten = |source: io::Error| Error::beside(&path, "written", source);
    // What is no anchor at all is told before it is one.
    let anchor = target.connect(http)?;
    DirBuilder::new().recursive(true).mode(0o700).create(directory).map_err(unwritten)?;
    if let Target::File(file) = target {
        let unfit = |why: &str| AnchorError::Unfit { target: target.to_string(), why: why.to_owned() };
        let within = fs::canonicalize(directory).map_err(unwritten)?;
        // What it is a link to is where it lies.
        let place = fs::canonicalize(file).ok().or_else(|| fs::canonicalize(file.parent()?).ok());
        if place.is_some_and(|place| place.starts_with(&within)) {
            return Err(unfit("it lies in the data directory, whose owner could change it too").into());
        }
        if file.to_str().is_none() {
            return Err(unfit("its path is no text, as which it is kept").into());
        }
        if fs::metadata(file).is_ok_and(|found| !found.is_file()) {
            return Err(unfit("it is no regular file, to which lines could be added").into());
        }
        // Nobody makes it later: on a disk that is not there just then it would be made somewhere else.
        let made = list::make(file).and_then(|()| list::open(file, OpenOptions::new().append(true)));
        made.map_err(FileAnchor::of(file).unreachable("written"))?;
    }
    let store = against::name(directory)?;
    let found = store.map(|store| newest_of(directory, store, &*anchor)).transpose();
    let failing = found.as_ref().err().map(|error| Failing { since_ms: now_ms(), why: error.to_string() });
    let anchored = found.ok().flatten().flatten();
    keep(directory, target, store.as_ref(), anchored, failing)?;
    write(&path, &Config { version: VERSION, target: target.text() }).map_err(unwritten)
}

/// Returns the size and the time of the newest checkpoint that an anchor has of a store, signed with the data directory's key.
fn newest_of(directory: &Path, store: Hash, anchor: &dyn Anchor) -> Result<Option<(u64, u64)>, AnchorError> {
    let Some(key) = Key::found(directory) else { return Ok(None) };
    let mut newest = None;
    anchor.lines(&mut |line| {
        let checkpoint = Checkpoint::parse(line).filter(|found| found.standing.store == store && found.key() == key);
        let checkpoint = checkpoint.filter(|found| newest.is_none_or(|(size, _)| size < found.size()));
        newest = checkpoint.filter(Checkpoint::is_genuine).map(|found| (found.size(), found.time_ms())).or(newest);
        true
    })?;
    Ok(newest)
}

/// What is known of what somebody keeps.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::journal) enum Known {
    /// Nothing: there must be something.
    Nothing,
    /// That there need not be anything yet.
    Empty,
    /// That there was a checkpoint of so many commits.
    Took(u64),
}

/// Returns of how many commits the newest checkpoint of a store is that the data directory's anchor is known to have taken.
pub(super) fn taken(directory: &Path, store: Option<&Hash>) -> Option<u64> {
    let state = read::<State>(&directory.join(STATE)).ok().flatten();
    let state =
        state.filter(|state| state.version == VERSION && Some(&state.store) == store.map(|store| hex(store)).as_ref());
    state.map(|state| state.size).filter(|size| *size > 0)
}

/// Returns what a data directory knows of an anchor, for its store.
pub(super) fn known_of(directory: &Path, target: &Target, store: Option<&Hash>, is_own: bool) -> Known {
    let state = read::<State>(&directory.join(STATE)).ok().flatten();
    let Some(state) = state.filter(|state| state.version == VERSION && state.target == target.text()) else {
        return Known::Nothing;
    };
    let is_of = Some(&state.store) == store.map(|store| hex(store)).as_ref();
    match state.size {
        0 if is_own && (is_of || state.store.is_empty()) => Known::Empty,
        size if is_of && size > 0 => Known::Took(size),
        _ => Known::Nothing,
    }
}

/// Takes a data directory's anchor away, and returns it, if it can be read. What the anchor has it keeps.
///
/// # Errors
/// The directory can't be written.
pub fn remove_anchor(directory: &Path) -> Result<Option<Target>, Error> {
    let before = anchor(directory).ok().flatten();
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
    let newest = newest(directory, None)?;
    Ok(Some(known(directory, target, newest)))
}

/// Returns the newest checkpoint beside a store; where no store is named, of that of the last line.
pub(super) fn newest(directory: &Path, store: Option<Hash>) -> Result<Option<Checkpoint>, Error> {
    let (path, mut found) = (beside(directory), Vec::<Checkpoint>::new());
    let read = list::tail(&path, &mut |line| found.extend(Checkpoint::parse(line)));
    read.map_err(|source| Error::beside(&path, "read", source))?;
    let store = store.or_else(|| found.last().map(|last| last.standing.store));
    let own = found.into_iter().filter(|checkpoint| Some(checkpoint.standing.store) == store);
    Ok(own.max_by_key(Checkpoint::size))
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
/// no sending: the newest covers it. Returns what is known then. Once nobody waits for it any more, what came of it is not kept.
pub(super) fn send(
    directory: &Path,
    newest: Option<Checkpoint>,
    http: Option<Connect>,
    is_given_up: impl Fn() -> bool,
) -> Result<Option<Anchoring>, Error> {
    let (Some(target), Some(newest)) = (anchor(directory)?, newest) else { return Ok(None) };
    let mut known = known(directory, target, Some(newest.clone()));
    if known.failing.is_none() && known.lag() == 0 {
        return Ok(Some(known));
    }
    let append = || match has_lost(&known, &newest.standing.store) {
        Some(size) => Err(AnchorError::Lost { target: known.target.to_string(), size }),
        None => known.target.connect(http)?.append(&newest.to_string()),
    };
    match append() {
        // Another process may have sent more meanwhile.
        Ok(()) => (known.anchored, known.failing) = (known.anchored.max(Some((newest.size(), newest.time_ms()))), None),
        Err(error) => known.fails(error.to_string()),
    }
    if !is_given_up() {
        keep(directory, &known.target, Some(&newest.standing.store), known.anchored, known.failing.clone())?;
    }
    Ok(Some(known))
}

/// Returns what a file had taken of a store and does not have at its end, where the store's would be if no other had written
/// more since than is looked through. What an address has is not asked each time.
fn has_lost(known: &Anchoring, store: &Hash) -> Option<u64> {
    let (Target::File(path), Some((size, _))) = (&known.target, known.anchored) else { return None };
    let mut has = false;
    let read = list::tail(path, &mut |line| {
        has |= Checkpoint::parse(line).is_some_and(|found| found.standing.store == *store && found.size() >= size);
    });
    let is_whole = std::fs::metadata(path).is_ok_and(|metadata| metadata.len() <= list::TAIL_BYTES);
    (read.is_ok() && is_whole && !has).then_some(size)
}

/// Keeps in mind that an anchor has not answered in the time that there was.
pub(super) fn give_up(directory: &Path, newest: Option<Checkpoint>) -> Result<(), Error> {
    let (Some(target), Some(newest)) = (anchor(directory)?, newest) else { return Ok(()) };
    let mut known = known(directory, target, Some(newest.clone()));
    let why = format!("it does not answer within {} s", list::PATIENCE.as_secs());
    let late = AnchorError::Unreachable { target: known.target.to_string(), doing: "written", why };
    known.fails(late.to_string());
    keep(directory, &known.target, Some(&newest.standing.store), known.anchored, known.failing)
}

fn keep(
    directory: &Path,
    target: &Target,
    store: Option<&Hash>,
    anchored: Option<(u64, u64)>,
    failing: Option<Failing>,
) -> Result<(), Error> {
    let (size, time_ms) = anchored.unwrap_or_default();
    let store = store.map(|store| hex(store)).unwrap_or_default();
    let state = State { version: VERSION, target: target.text(), store, size, time_ms, failing };
    let path = directory.join(STATE);
    write(&path, &state).map_err(|source| Error::beside(&path, "written", source))
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
    static WRITTEN: AtomicU32 = AtomicU32::new(0);
    let number = WRITTEN.fetch_add(1, Ordering::Relaxed);
    let new = path.with_extension(format!("{}.{number}.new", std::process::id()));
    let _ = fs::remove_file(&new);
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&new)?;
    writeln!(file, "{}", serde_json::to_string(content)?)?;
    file.sync_all()?;
    fs::rename(&new, path)?;
    path.parent().map_or(Ok(()), |parent| File::open(parent)?.sync_all())
}
