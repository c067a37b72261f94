//! Who holds the store.
//!
//! The store's `holder` row has an epoch, which each opening raises by one. Whoever holds the store under an epoch has a
//! lock on `holder-EPOCH.lock`, so that the epoch in the store says which lock counts: a process that was taken over
//! keeps its lock, and it no longer means anything. Both are changed together, within one write transaction of SQLite's:
//! of any number of processes that open at once one is first, and the others find a holder who lives.
//!
//! The lock only tells the living from the dead. What keeps a past holder from writing is the epoch: every commit looks
//! at it within its own transaction.

use std::fs::{self, File, OpenOptions};
use std::io::{ErrorKind, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::thread;
use std::time::Duration;

use rusqlite::{Connection, Transaction, TransactionBehavior};
use rustix::fs::{FlockOperation, flock};

use super::{Error, file, tail};

/// How often a lock that nobody should have is tried: another opening may be about to let it go.
const TRIES: u32 = 50;
/// The pause between two tries.
const PAUSE: Duration = Duration::from_millis(10);

/// The lock of a holder; dropping it lets the store go.
#[derive(Debug)]
pub(super) struct Hold {
    path: PathBuf,
    _file: File,
}

impl Drop for Hold {
    fn drop(&mut self) {
        // While it is locked: whoever comes later finds either the lock or no file.
        let _ = fs::remove_file(&self.path);
    }
}

fn lock_path(directory: &Path, epoch: u64) -> PathBuf {
    directory.join(format!("holder-{epoch}.lock"))
}

/// Returns the epoch that stands in the store.
pub(super) fn epoch(connection: &Connection, path: &Path) -> Result<u64, Error> {
    let asked = connection.query_row("SELECT epoch FROM holder", (), |row| row.get::<_, i64>(0));
    asked.map(i64::cast_unsigned).map_err(|source| Error::sqlite(path, "opened", source))
}

/// Returns the process that holds the store under an epoch, if it lives; 0 if it does not say which it is.
fn living(directory: &Path, epoch: u64) -> std::io::Result<Option<u32>> {
    let path = lock_path(directory, epoch);
    let lock = match File::open(&path) {
        Ok(lock) => lock,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error),
    };
    // Shared: so that two who look at once do not take each other for the holder.
    match flock(&lock, FlockOperation::NonBlockingLockShared) {
        Ok(()) => Ok(None),
        Err(rustix::io::Errno::WOULDBLOCK) => {
            Ok(Some(fs::read_to_string(&path).ok().and_then(|pid| pid.trim().parse().ok()).unwrap_or(0)))
        }
        Err(error) => Err(error.into()),
    }
}

/// Becomes the holder; returns the lock and the epoch. The end of what is stored is looked at first.
pub(super) fn acquire(connection: &Connection, directory: &Path, take_over: bool) -> Result<(Hold, u64), Error> {
    let path = &file::path(directory);
    let io = |source| Error::io(path, "opened", source);
    let sqlite = |source| Error::sqlite(path, "opened", source);
    let held = |pid| Error::Held { path: path.to_owned(), pid };
    let seen = epoch(connection, path)?;
    let holder = living(directory, seen).map_err(io)?;
    if let (Some(pid), false) = (holder, take_over) {
        return Err(held(pid));
    }
    let opening = match Transaction::new_unchecked(connection, TransactionBehavior::Immediate) {
        Ok(opening) => opening,
        // Whoever was stopped in the midst of a commit has SQLite's own lock, which nothing but its end takes away.
        Err(error) => {
            let is_busy = error.sqlite_error_code() == Some(rusqlite::ErrorCode::DatabaseBusy);
            return Err(holder.filter(|_| is_busy).map_or_else(|| sqlite(error), held));
        }
    };
    let before = epoch(&opening, path)?;
    if let Some(pid) = living(directory, before).map_err(io)? {
        // Taking over is meant for the holder that was seen, not for one who came since.
        if !take_over || before != seen {
            return Err(held(pid));
        }
    }
    tail::check(&opening, path)?;
    let epoch = before + 1;
    let hold = lock(directory, epoch).map_err(io)?;
    opening.execute("UPDATE holder SET epoch = ?1", [epoch.cast_signed()]).map_err(sqlite)?;
    opening.commit().map_err(sqlite)?;
    remove_older(directory, epoch);
    Ok((hold, epoch))
}

/// Makes the lock file of an epoch and locks it. Only who has the store's write transaction does so; another whose
/// transaction has failed just now may still have it, and remove it: then it is made anew.
fn lock(directory: &Path, epoch: u64) -> std::io::Result<Hold> {
    let path = lock_path(directory, epoch);
    for _ in 0..TRIES {
        let mut file = OpenOptions::new().write(true).create(true).truncate(false).mode(0o600).open(&path)?;
        let is_locked = match flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => true,
            Err(rustix::io::Errno::WOULDBLOCK) => false,
            Err(error) => return Err(error.into()),
        };
        if is_locked && fs::metadata(&path).is_ok_and(|at| at.ino() == file.metadata().map_or(0, |file| file.ino())) {
            file.set_len(0)?;
            writeln!(file, "{}", std::process::id())?;
            return Ok(Hold { path, _file: file });
        }
        thread::sleep(PAUSE);
    }
    Err(rustix::io::Errno::WOULDBLOCK.into())
}

/// Removes the lock files of earlier epochs, which mean nothing any more, and stores that were never put in place.
fn remove_older(directory: &Path, epoch: u64) {
    let Ok(entries) = fs::read_dir(directory) else { return };
    for entry in entries.flatten() {
        let name = entry.file_name();
        let of =
            name.to_str().and_then(|name| name.strip_prefix("holder-")?.strip_suffix(".lock")?.parse::<u64>().ok());
        if of.is_some_and(|of| of < epoch) || file::is_left_over(&entry) {
            let _ = fs::remove_file(entry.path());
        }
    }
}
