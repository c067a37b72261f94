//! Writing.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::thread::{self, JoinHandle};

use rusqlite::Connection;
use tokio::sync::{oneshot, watch};

use super::commit::Writer;
use super::hold::{self, Hold};
use super::notary::{Connect, Notary};
use super::queue::{Prepared, Prune, Queue, Work};
use super::{Batch, Error, Inline, Store, StreamName, file, rows};

/// A store, held and open for writing. Clones share one writer.
///
/// Dropping the last clone waits until what is queued is written, and lets the store go.
#[derive(Clone)]
pub struct Journal {
    shared: Arc<Shared>,
}

struct Shared {
    directory: PathBuf,
    epoch: u64,
    queue: Arc<Queue>,
    notary: Arc<OnceLock<Arc<Notary>>>,
    thread: Mutex<Option<JoinHandle<()>>>,
    /// Whether the writer has ended, and the store is let go.
    ended: watch::Receiver<bool>,
}

/// What pruning removed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize)]
pub struct Pruned {
    /// Streams.
    pub streams: u64,
    /// Events.
    pub events: u64,
    /// Blobs that nothing refers to any more.
    pub blobs: u64,
}

impl Journal {
    /// Opens the store of a data directory for writing, and makes one where there is none. `take_over` fences off a
    /// process that holds the store and does not answer; without it a store that is held is left alone. Of several
    /// processes that open at once, with or without `take_over`, one gets the store.
    ///
    /// Takes a few milliseconds, and seconds where another process was stopped in the midst of a commit.
    ///
    /// # Errors
    /// The store is held, is no store of ours, is of a newer format, is damaged, or can't be opened or written.
    pub fn open(directory: &Path, take_over: bool) -> Result<Self, Error> {
        let writing = Writing::begin(directory, take_over)?;
        let (epoch, queue, notary) = (writing.epoch, writing.queue.clone(), writing.notary.clone());
        let (end, ended) = watch::channel(false);
        let asked = notary.clone();
        let work = move || {
            writing.until_closed();
            // The store is let go by now: nobody waits for an anchor but who closes it.
            asked.get().iter().for_each(|notary| notary.close());
            end.send_replace(true);
        };
        let thread = thread::Builder::new().name("journal".to_owned()).spawn(work);
        let thread = thread.map_err(|source| Error::io(&file::path(directory), "opened", source))?;
        Ok(Self::of(directory, epoch, queue, notary, Some(thread), ended))
    }

    /// Opens the store as [`Journal::open`] does, but writes nothing by itself: what is appended is written by the
    /// [`Inline`] that is returned, whenever its task has its turn. For simulation: nothing waits for the medium.
    ///
    /// # Errors
    /// As for [`Journal::open`].
    pub fn open_inline(directory: &Path, take_over: bool) -> Result<(Self, Inline), Error> {
        let writing = Writing::begin(directory, take_over)?;
        let unsynced = writing.connection.execute_batch("PRAGMA synchronous = OFF");
        unsynced.map_err(|source| Error::sqlite(&writing.path, "opened", source))?;
        let (end, ended) = watch::channel(false);
        let journal = Self::of(directory, writing.epoch, writing.queue.clone(), Arc::default(), None, ended);
        Ok((journal, Inline::new(writing, end)))
    }

    fn of(
        directory: &Path,
        epoch: u64,
        queue: Arc<Queue>,
        notary: Arc<OnceLock<Arc<Notary>>>,
        thread: Option<JoinHandle<()>>,
        ended: watch::Receiver<bool>,
    ) -> Self {
        let (directory, thread) = (directory.to_owned(), Mutex::new(thread));
        Self { shared: Arc::new(Shared { directory, epoch, queue, notary, thread, ended }) }
    }

    /// Keeps signed checkpoints of the store from here on: within thirty seconds of a commit, and before the store is let go;
    /// and sends them to the data directory's anchor, if it has one. `http` reaches those that are spoken to over HTTP. No
    /// commit waits for any of this, and what fails of it stops nothing. A journal that is written inline keeps none.
    ///
    /// A crash leaves the last commits without a checkpoint: whoever holds the store next signs one as it finds them.
    ///
    /// # Errors
    /// The checkpoints that are there can't be read.
    pub fn keep_checkpoints(&self, http: Option<Connect>) -> Result<(), Error> {
        if self.shared.notary.get().is_some() {
            return Ok(());
        }
        let notary = Notary::begin(&self.shared.directory, self.shared.epoch, self.shared.queue.clone(), http)?;
        if let Err(second) = self.shared.notary.set(notary) {
            second.close();
        }
        Ok(())
    }

    /// Returns the data directory.
    pub fn directory(&self) -> &Path {
        &self.shared.directory
    }

    /// Returns the fencing epoch under which this process holds the store.
    pub fn epoch(&self) -> u64 {
        self.shared.epoch
    }

    /// Returns how many commits this process has made so far. Many batches share one: the fewer commits there are for
    /// what was appended, the better they are grouped.
    pub fn commits(&self) -> u64 {
        self.shared.queue.commits()
    }

    /// Hands a batch to the writer. Batches are written in the order of the calls; each is written whole or not at
    /// all. Returns at once: the batch is durable when its `durable` say so. A batch that nobody waits for rides along
    /// with the next one that somebody does, or is written within a few milliseconds.
    ///
    /// # Errors
    /// An earlier write has failed, or the journal has been closed: nothing is accepted any more. The batch is dropped,
    /// and its `durable` with it.
    pub fn append(&self, batch: Batch) -> Result<(), Error> {
        self.shared.queue.push(Work::Batch(Prepared::new(batch)))
    }

    /// Waits until the queue of what is to be written has room. The gate waits here before it lets a call begin, so
    /// that a slow disk slows the runs down. Returns at once when nothing is accepted any more. Cancel-safe.
    pub async fn has_room(&self) {
        self.shared.queue.has_room().await;
    }

    /// Waits until all that was appended before is durable. Cancel-safe.
    ///
    /// # Errors
    /// It could not be written.
    pub async fn sync(&self) -> Result<(), Error> {
        let (done, durable) = oneshot::channel();
        let told = Box::new(|result| {
            let _ = done.send(result);
        });
        self.append(Batch { parts: Vec::new(), durable: vec![told] })?;
        durable.await.unwrap_or(Err(Error::Closed))
    }

    /// Returns why nothing is accepted any more, if that is so.
    pub fn failure(&self) -> Option<Error> {
        self.shared.queue.failure()
    }

    /// Waits until nothing is accepted any more, because something has failed or the journal has been closed, and
    /// returns why. Cancel-safe.
    pub async fn failed(&self) -> Error {
        self.shared.queue.failed().await
    }

    /// Opens the store for reading.
    ///
    /// # Errors
    /// It can't be opened.
    pub fn store(&self) -> Result<Store, Error> {
        Store::open(&self.shared.directory)
    }

    /// Removes the records of closed streams, and the records of others up to their snapshots (`trim`); each leaves a
    /// tombstone with the head. Streams that are not closed, and those to trim that have no snapshot that is whole, are
    /// left alone. It is all removed in one commit. Once it has been asked for it happens, whether awaited or not.
    ///
    /// # Errors
    /// The store can't be written.
    pub async fn prune(&self, streams: Vec<StreamName>, trim: Vec<StreamName>) -> Result<Pruned, Error> {
        let (done, pruned) = oneshot::channel();
        self.shared.queue.push(Work::Prune(Prune { streams, trim, done }))?;
        pruned.await.unwrap_or(Err(Error::Closed))
    }

    /// Makes the writer panic.
    #[cfg(test)]
    pub(super) fn panic(&self) {
        let _ = self.shared.queue.push(Work::Panic);
    }

    /// Writes what is queued, and lets the store go. Dropping the last clone does the same.
    ///
    /// # Errors
    /// Something that was queued could not be written.
    pub async fn close(self) -> Result<(), Error> {
        self.shared.queue.close();
        // The sender goes when the writer ends, so that either way the store has been let go.
        let _ = self.shared.ended.clone().wait_for(|&ended| ended).await;
        self.failure().map_or(Ok(()), Err)
    }
}

impl Drop for Shared {
    fn drop(&mut self) {
        self.queue.close();
        let thread = self.thread.lock().unwrap_or_else(PoisonError::into_inner).take();
        // The last clone may be dropped by a `durable`, on the writer's own thread; it ends by itself then.
        if let Some(thread) = thread.filter(|thread| thread.thread().id() != thread::current().id()) {
            let _ = thread.join();
        }
    }
}

/// What a writer writes with.
pub(super) struct Writing {
    pub(super) path: PathBuf,
    pub(super) connection: Connection,
    pub(super) epoch: u64,
    pub(super) queue: Arc<Queue>,
    notary: Arc<OnceLock<Arc<Notary>>>,
    _hold: Hold,
}

impl Writing {
    fn begin(directory: &Path, take_over: bool) -> Result<Self, Error> {
        let connection = file::open_for_writing(directory)?;
        let (_hold, epoch) = hold::acquire(&connection, directory, take_over)?;
        let (path, queue) = (file::path(directory), Arc::<Queue>::default());
        queue.stands(rows::standing(&connection).map_err(|source| Error::sqlite(&path, "opened", source))?);
        Ok(Self { path, connection, epoch, queue, notary: Arc::default(), _hold })
    }

    /// The writer's thread. After a failure it keeps the store until it is closed: what this process still has under way
    /// must have ended before another takes over.
    fn until_closed(self) {
        let mut taken = Vec::new();
        let work = std::panic::AssertUnwindSafe(|| {
            let mut writer = Writer::new(&self.connection, &self.path, self.epoch)?;
            while self.queue.take(&mut taken) {
                writer.write(&mut taken, &self.queue)?;
                taken.clear();
                self.queue.written();
                writer.checkpoint()?;
            }
            writer.put_away();
            if let Some(Err(error)) = self.notary.get().map(|notary| notary.sign()) {
                tracing::warn!("{error}; the next process that holds the store tries again");
            }
            Ok(())
        });
        let failed = match std::panic::catch_unwind(work) {
            Ok(Ok(())) => None,
            Ok(Err(error)) => Some(error),
            Err(_) => Some(Error::io(&self.path, "written", "the writer has panicked")),
        };
        if let Some(error) = failed {
            self.fail(&mut taken, &error);
            self.queue.wait_closed();
        }
    }

    /// Accepts nothing more. Neither this process nor SQLite, when it closes the file, is to touch it again.
    pub(super) fn fail(&self, taken: &mut [Work], error: &Error) {
        let _ = self.connection.execute_batch("ROLLBACK");
        let _ = self.connection.set_db_config(rusqlite::config::DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, true);
        self.queue.fail(error);
        taken.iter_mut().for_each(|work| work.fail(error));
    }
}
