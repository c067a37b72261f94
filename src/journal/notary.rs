//! The notary: signed checkpoints of how the store stands, beside it and at an anchor outside.
//!
//! A thread of its own, beside the writer's: no commit waits for it. It looks every [`INTERVAL`] whether there are commits
//! without a checkpoint, and the writer signs a last one before it lets the store go. Only what is durable is signed. What
//! goes wrong here stops nothing: it is said, and tried again. `docs/audit.md` says what checkpoints show.

mod against;
mod anchor;
mod checkpoint;
mod key;
mod list;

use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::Duration;

pub use self::against::{Attested, Evidence, Refuted};
pub use self::anchor::{
    Anchor, AnchorError, Anchoring, Connect, Failing, Target, anchor, anchoring, remove_anchor, set_anchor,
};
pub use self::checkpoint::Checkpoint;
pub(super) use self::checkpoint::Standing;
pub(super) use self::key::Key;
pub use self::key::{PublicKey, public_key};
use super::Error;
use super::commit::now_ms;
use super::queue::Queue;
use crate::fault;

/// The checkpoints' file in the data directory.
const FILE: &str = "checkpoints.jsonl";

/// How long a commit waits for a checkpoint at the most, while the process lives: of what came later than the anchor's newest
/// checkpoint, nobody outside knows. At 450 bytes each, a day of commits without a pause makes 1.3 MB of them.
const INTERVAL: Duration = Duration::from_secs(30);

/// Returns where the checkpoints of a data directory are.
fn beside(directory: &Path) -> PathBuf {
    directory.join(FILE)
}

/// The notary of a store that this process holds.
pub(super) struct Notary {
    directory: PathBuf,
    /// Says how the store stands.
    queue: Arc<Queue>,
    http: Option<Connect>,
    /// The newest checkpoint beside the store.
    newest: Mutex<Option<Checkpoint>>,
    is_closed: Mutex<bool>,
    closed: Condvar,
    thread: Mutex<Option<JoinHandle<()>>>,
}

impl Notary {
    /// Begins. What an earlier process has left without a checkpoint, or without an anchor's, is seen to at once.
    pub(super) fn begin(directory: &Path, queue: Arc<Queue>, http: Option<Connect>) -> Result<Arc<Self>, Error> {
        let path = beside(directory);
        let newest = list::last(&path).map_err(|source| Error::beside(&path, "read", source))?;
        let newest = Mutex::new(newest.as_deref().and_then(Checkpoint::parse));
        let notary = Arc::new(Self {
            directory: directory.to_owned(),
            queue,
            http,
            newest,
            is_closed: Mutex::default(),
            closed: Condvar::new(),
            thread: Mutex::default(),
        });
        let work = notary.clone();
        let thread = thread::Builder::new().name("notary".to_owned()).spawn(move || work.until_closed());
        let thread = thread.map_err(|source| Error::beside(&path, "written", source))?;
        *notary.thread.lock().unwrap_or_else(PoisonError::into_inner) = Some(thread);
        Ok(notary)
    }

    fn until_closed(&self) {
        let mut is_failing = self.attest();
        loop {
            let is_closed = self.is_closed.lock().unwrap_or_else(PoisonError::into_inner);
            let waited = self.closed.wait_timeout_while(is_closed, INTERVAL, |is_closed| !*is_closed);
            if *waited.unwrap_or_else(PoisonError::into_inner).0 {
                break;
            }
            let was_failing = std::mem::replace(&mut is_failing, self.attest());
            if let (None, Some(why)) = (was_failing, &is_failing) {
                tracing::warn!("{why}; it is tried again");
            }
        }
        // What the writer has signed last is sent by a process that may wait a little, and not by one that fails.
        let _ = self.send();
    }

    /// Signs what has no checkpoint, and sends what the anchor has not. Returns why that failed, if it did.
    fn attest(&self) -> Option<String> {
        let signed = self.sign();
        let sent = self.send();
        let error = signed.err().or(sent.as_ref().err().cloned());
        let failing = || sent.ok()??.failing.map(|failing| failing.why);
        error.map(|error| error.to_string()).or_else(failing)
    }

    /// Signs how the store stands, unless it stands where the newest checkpoint left it. One that stands further back does not
    /// get another checkpoint until it is beyond that: what shows it is to stay the newest.
    pub(super) fn sign(&self) -> Result<(), Error> {
        let Some(standing) = self.queue.standing() else { return Ok(()) };
        let mut newest = self.newest.lock().unwrap_or_else(PoisonError::into_inner);
        let before = newest.as_ref().map(|newest| newest.standing).filter(|before| before.store == standing.store);
        if before.is_some_and(|before| before.size >= standing.size) {
            return Ok(());
        }
        let checkpoint = Checkpoint::sign(standing, now_ms(), &Key::of_directory(&self.directory)?);
        fault::point("checkpoint.before_write");
        let path = beside(&self.directory);
        let append = || list::make(&path).and_then(|()| list::append(&path, &checkpoint.to_string()));
        let written = fault::fails("checkpoint.write").and_then(|()| append());
        written.map_err(|source| Error::beside(&path, "written", source))?;
        *newest = Some(checkpoint);
        fault::point("checkpoint.after_write");
        Ok(())
    }

    fn send(&self) -> Result<Option<Anchoring>, Error> {
        let newest = self.newest.lock().unwrap_or_else(PoisonError::into_inner).clone();
        anchor::send(&self.directory, newest, self.http, now_ms())
    }

    /// Sends what is left, and ends.
    pub(super) fn close(&self) {
        *self.is_closed.lock().unwrap_or_else(PoisonError::into_inner) = true;
        self.closed.notify_all();
        let thread = self.thread.lock().unwrap_or_else(PoisonError::into_inner).take();
        let _ = thread.map(JoinHandle::join);
    }
}
