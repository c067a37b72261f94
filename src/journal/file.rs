//! The file: making it, telling whether it is ours, opening it.

use std::fs::{self, DirBuilder, OpenOptions};
use std::io::ErrorKind;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use rusqlite::{Connection, OpenFlags};

use super::Error;
use super::format::{APPLICATION_ID, FILE, FORMAT, TABLE_COUNT, TABLES};

/// How long a statement waits for others' locks. Nobody holds one for longer than a commit takes, but for a process
/// that was stopped in the midst of one.
pub(super) const BUSY: Duration = Duration::from_secs(5);

/// The write-ahead log is cut back to this size once its contents are in the main file.
const LOG_KEPT_BYTES: u64 = 64 << 20;

/// How the name of a store ends that is not in its place yet.
const NEW: &str = ".new";

/// Making a store takes milliseconds: one that is this old and still not in its place has no maker any more.
const LEFT_OVER: Duration = Duration::from_secs(600);

/// Returns where the store of a data directory is.
pub(super) fn path(directory: &Path) -> PathBuf {
    directory.join(FILE)
}

/// Opens the store for writing, and makes an empty one where there is none.
pub(super) fn open_for_writing(directory: &Path) -> Result<Connection, Error> {
    let path = path(directory);
    let opened = |source| Error::io(&path, "opened", source);
    DirBuilder::new().recursive(true).mode(0o700).create(directory).map_err(opened)?;
    match inspect(&path) {
        Err(Error::Absent { .. }) => make(directory, &path)?,
        inspected => inspected?,
    }
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let connection = connect(&path, &path, flags)?;
    let set = || {
        connection.execute_batch(&format!(
            "PRAGMA synchronous = FULL; PRAGMA wal_autocheckpoint = 0; PRAGMA journal_size_limit = {LOG_KEPT_BYTES};"
        ))?;
        connection.query_row("PRAGMA journal_mode = WAL", (), |row| row.get::<_, String>(0))
    };
    let mode = set().map_err(|source| Error::sqlite(&path, "opened", source))?;
    if mode != "wal" {
        return Err(Error::io(&path, "opened", format!("its journal mode is `{mode}`, and can't be made `wal`")));
    }
    Ok(connection)
}

/// Opens the store for reading.
pub(super) fn open_for_reading(directory: &Path) -> Result<Connection, Error> {
    let path = path(directory);
    inspect(&path)?;
    let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_URI | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    match connect(&path, &path, flags) {
        // Where nothing can be written, SQLite can make no index of a log; where there is no log, none is needed.
        Err(Error::Io { .. }) if !has_log(&path) => connect(&path, Path::new(&immutable(&path)), flags),
        connected => connected,
    }
}

/// Whether there is a log with something in it.
fn has_log(path: &Path) -> bool {
    let mut log = path.as_os_str().to_owned();
    log.push("-wal");
    fs::metadata(log).is_ok_and(|log| log.len() > 0)
}

/// Connects to the store at `path`, which SQLite is to know as `name`.
fn connect(path: &Path, name: &Path, flags: OpenFlags) -> Result<Connection, Error> {
    let failed = |source| Error::sqlite(path, "opened", source);
    let connection = Connection::open_with_flags(name, flags).map_err(failed)?;
    connection.busy_timeout(BUSY).map_err(failed)?;
    let set = "PRAGMA cell_size_check = ON; PRAGMA trusted_schema = OFF; PRAGMA temp_store = MEMORY;";
    connection.execute_batch(set).map_err(failed)?;
    check_header(&connection, path)?;
    let count = "SELECT count(*) FROM sqlite_schema WHERE name IN ('events', 'streams', 'commits', 'blobs',
        'blob_refs', 'snapshots', 'tombstones', 'holder', 'events_by_stream', 'blob_refs_by_hash')";
    let count: i64 = connection.query_row(count, (), |row| row.get(0)).map_err(failed)?;
    if count != TABLE_COUNT {
        return Err(Error::damaged(path, format!("{count} of {TABLE_COUNT} tables and indices are there")));
    }
    Ok(connection)
}

/// Looks whether the file is a store of ours, without touching it or anything beside it.
///
/// The file is only ever opened through SQLite: closing a file of one's own would let go of SQLite's locks on it.
fn inspect(path: &Path) -> Result<(), Error> {
    let file = match fs::metadata(path) {
        Ok(file) => file,
        Err(error) if error.kind() == ErrorKind::NotFound => {
            return Err(match has_log(path) {
                true => Error::damaged(path, "its log is there, and the file is not"),
                false => Error::Absent { path: path.to_owned() },
            });
        }
        Err(error) => return Err(Error::io(path, "opened", error)),
    };
    if !file.is_file() {
        return Err(Error::foreign(path, "it is no file"));
    }
    if file.len() == 0 {
        return Err(Error::damaged(path, "it is empty"));
    }
    // A database that is opened as immutable is read without its log, and nothing is made beside it. What tells whose it
    // is stands in the main file from its first moment.
    let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_URI | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let failed = |source| Error::sqlite(path, "opened", source);
    let connection = Connection::open_with_flags(immutable(path), flags).map_err(failed)?;
    // A move of the log to the main file that was cut off, by a kill or a full disk, leaves a first page that speaks of
    // more pages than are there yet; with the log, nothing is missing. This makes SQLite read the header all the same.
    connection.execute_batch("PRAGMA writable_schema = ON").map_err(failed)?;
    check_header(&connection, path)
}

fn check_header(connection: &Connection, path: &Path) -> Result<(), Error> {
    let number = |pragma: &str| {
        let asked = connection.query_row(&format!("PRAGMA {pragma}"), (), |row| row.get::<_, i32>(0));
        asked.map_err(|source| Error::sqlite(path, "opened", source))
    };
    if number("application_id")? != APPLICATION_ID {
        return Err(Error::foreign(path, "it is an SQLite file of something else"));
    }
    match number("user_version")?.cast_unsigned() {
        0 => Err(Error::damaged(path, "its format is 0")),
        FORMAT => Ok(()),
        found => Err(Error::Newer { path: path.to_owned(), found, known: FORMAT }),
    }
}

/// Returns the URI under which SQLite reads a file as one that nobody changes.
fn immutable(path: &Path) -> String {
    use std::os::unix::ffi::OsStrExt;

    let mut uri = String::from("file:");
    for &byte in path.as_os_str().as_bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'/' | b'.' | b'-' | b'_' => uri.push(byte.into()),
            _ => uri.push_str(&format!("%{byte:02x}")),
        }
    }
    uri + "?immutable=1"
}

/// Makes an empty store beside its place, whole, and only then puts it there: so that nobody ever sees half of one, and
/// of several that do so at once one's is taken.
pub(super) fn make(directory: &Path, path: &Path) -> Result<(), Error> {
    let failed = |source| Error::io(path, "opened", source);
    // Where somebody else has made the store meanwhile, and has begun to write to it, it was there before its log.
    if has_log(path) && !path.try_exists().map_err(failed)? {
        return Err(Error::damaged(path, "its log is there, and the file is not"));
    }
    let made = tempfile_in(directory).map_err(failed)?;
    let placed =
        fill(&made).map_err(|source| Error::sqlite(path, "opened", source)).and_then(|()| {
            match fs::hard_link(&made, path) {
                Err(error) if error.kind() != ErrorKind::AlreadyExists => Err(failed(error)),
                _ => fs::File::open(directory).and_then(|directory| directory.sync_all()).map_err(failed),
            }
        });
    let _ = fs::remove_file(&made);
    placed
}

/// Whether a file is a store that was not put in its place in all this time, because its maker has died.
pub(super) fn is_left_over(file: &fs::DirEntry) -> bool {
    let is_new = file.file_name().to_str().is_some_and(|name| name.starts_with(FILE) && name.ends_with(NEW));
    let age = || file.metadata().and_then(|file| file.modified()).ok()?.elapsed().ok();
    is_new && age().is_some_and(|age| age > LEFT_OVER)
}

/// Makes an empty file for our eyes only under a name that nobody else uses.
fn tempfile_in(directory: &Path) -> std::io::Result<PathBuf> {
    use std::sync::atomic::{AtomicU32, Ordering};

    static MADE: AtomicU32 = AtomicU32::new(0);
    let number = MADE.fetch_add(1, Ordering::Relaxed);
    let path = directory.join(format!("{FILE}.{}.{number}{NEW}", std::process::id()));
    // What a process of the same number has left.
    let _ = fs::remove_file(&path);
    OpenOptions::new().write(true).create_new(true).mode(0o600).open(&path)?;
    Ok(path)
}

fn fill(path: &Path) -> Result<(), rusqlite::Error> {
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let connection = Connection::open_with_flags(path, flags)?;
    connection.execute_batch(&format!(
        "PRAGMA page_size = 4096; PRAGMA synchronous = FULL; PRAGMA journal_mode = WAL;
         BEGIN; PRAGMA application_id = {APPLICATION_ID}; PRAGMA user_version = {FORMAT}; {TABLES} COMMIT;"
    ))?;
    // Closing moves the log into the file and syncs it.
    connection.close().map_err(|(_, error)| error)
}
