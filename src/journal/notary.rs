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
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

pub use self::against::{Attested, Evidence, Refuted};
#[cfg(test)]
pub(super) use self::anchor::Known;
pub use self::anchor::{
    Anchor, AnchorError, Anchoring, Connect, Failing, Target, anchor, anchoring, remove_anchor, set_anchor,
};
pub use self::checkpoint::Checkpoint;
pub(super) use self::checkpoint::Standing;
pub(super) use self::key::Key;
pub use self::key::{PublicKey, public_key};
use super::commit::now_ms;
use super::queue::Queue;
use super::{Error, file, hold};
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
    /// The epoch under which it is held.
    epoch: u64,
    /// Says how the store stands.
    queue: Arc<Queue>,
    http: Option<Connect>,
    /// The newest checkpoint beside the store.
    newest: Mutex<Option<Checkpoint>>,
    stage: Mutex<Stage>,
    /// Tells those who wait for another stage.
    moved: Condvar,
}

/// How far the notary's thread is.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Stage {
    /// It looks now and then.
    Open,
    /// It is to send what is left.
    Closing,
    /// It has ended.
    Ended,
    /// Nobody waits for it any more: it hangs in a file system, perhaps for good.
    GivenUp,
}

impl Notary {
    /// Begins. What an earlier process has left without a checkpoint, or without an anchor's, is seen to at once.
    pub(super) fn begin(
        directory: &Path,
        epoch: u64,
        queue: Arc<Queue>,
        http: Option<Connect>,
    ) -> Result<Arc<Self>, Error> {
        let newest = anchor::newest(directory, queue.standing().map(|standing| standing.store))?;
        let notary = Arc::new(Self {
            directory: directory.to_owned(),
            epoch,
            queue,
            http,
            newest: Mutex::new(newest),
            stage: Mutex::new(Stage::Open),
            moved: Condvar::new(),
        });
        let work = notary.clone();
        // It is never joined: a file system may keep it for ever.
        let thread = thread::Builder::new().name("notary".to_owned()).spawn(move || {
            work.until_closed();
            work.moves(Stage::Closing, Stage::Ended);
        });
        thread.map_err(|source| Error::beside(&beside(directory), "written", source))?;
        Ok(notary)
    }

    fn until_closed(&self) {
        let mut was_failing = None;
        loop {
            let is_failing = self.attest();
            if let (None, Some(why)) = (&was_failing, &is_failing) {
                tracing::warn!("{why}; it is tried again");
            }
            was_failing = is_failing;
            let waited = self.moved.wait_timeout_while(self.stage(), INTERVAL, |stage| *stage == Stage::Open);
            if *waited.unwrap_or_else(PoisonError::into_inner).0 != Stage::Open {
                break;
            }
        }
        // What the writer has signed last is sent by a process that may wait a little, and not by one that fails.
        let _ = self.send();
    }

    fn stage(&self) -> MutexGuard<'_, Stage> {
        self.stage.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Goes from one stage to the next, and says whether it was there.
    fn moves(&self, from: Stage, to: Stage) -> bool {
        let mut stage = self.stage();
        let moves = *stage == from;
        if moves {
            *stage = to;
        }
        drop(stage);
        self.moved.notify_all();
        moves
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
        if before.is_some_and(|before| before.size >= standing.size) || !self.is_ours()? {
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

    /// Whether this process still holds the store. One that was stopped and taken over has nothing to say of it any more.
    fn is_ours(&self) -> Result<bool, Error> {
        let connection = file::open_for_reading(&self.directory)?;
        Ok(hold::epoch(&connection, &file::path(&self.directory))? == self.epoch)
    }

    /// Sends the newest checkpoint. Another process may hold the store by now; what it has sent is newer, and is not forgotten.
    fn send(&self) -> Result<Option<Anchoring>, Error> {
        let newest = self.newest.lock().unwrap_or_else(PoisonError::into_inner).clone();
        anchor::send(&self.directory, newest, self.http, || *self.stage() == Stage::GivenUp)
    }

    /// Sends what is left, and ends. Waits for that no longer than [`list::PATIENCE`].
    pub(super) fn close(&self) {
        if !self.moves(Stage::Open, Stage::Closing) {
            return;
        }
        let waited = self.moved.wait_timeout_while(self.stage(), list::PATIENCE, |stage| *stage == Stage::Closing);
        drop(waited);
        if self.moves(Stage::Closing, Stage::GivenUp) {
            let newest = self.newest.try_lock().ok().and_then(|newest| newest.clone());
            if let Err(error) = anchor::give_up(&self.directory, newest) {
                tracing::warn!("{error}");
            }
        }
    }
}
