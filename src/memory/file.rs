//! The files: making them, telling whether they are ours, opening them.

use std::fs::{self, DirBuilder, OpenOptions};
use std::io::ErrorKind;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use rusqlite::{Connection, OpenFlags, TransactionBehavior};

use super::Error;

/// How long a statement waits for another process's transaction. The longest are those of an indexing, which commits
/// after every few files.
const BUSY: Duration = Duration::from_secs(10);

/// How long another opening is waited for that is just making the file; SQLite itself does not wait there.
const MAKING: Duration = Duration::from_secs(5);

/// The pause between two looks at it.
const PAUSE: Duration = Duration::from_millis(5);

/// What tells one kind of file from another, and from all others.
pub(super) struct Kind {
    /// Its name in the data directory.
    pub(super) name: &'static str,
    /// SQLite's `application_id`.
    pub(super) application_id: i32,
    /// The version of its tables, SQLite's `user_version`.
    pub(super) format: u32,
    /// The statements that make its tables.
    pub(super) tables: &'static str,
}

impl Kind {
    /// Opens the file of a data directory for writing, and makes an empty one where there is none. What is committed to it
    /// is on disk.
    pub(super) fn open_for_writing(&self, directory: &Path) -> Result<Connection, Error> {
        let path = directory.join(self.name);
        let opened = |source| Error::io(&path, "opened", source);
        DirBuilder::new().recursive(true).mode(0o700).create(directory).map_err(opened)?;
        // Never opened where it is there: closing a file of one's own would let go of SQLite's locks on it.
        match OpenOptions::new().write(true).create_new(true).mode(0o600).open(&path) {
            Err(error) if error.kind() != ErrorKind::AlreadyExists => return Err(opened(error)),
            _ => {}
        }
        is_file(&path)?;
        let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
        let mut connection = connect(&path, flags)?;
        let began = Instant::now();
        loop {
            match self.prepare(&mut connection, &path) {
                Err(Error::Io { source, .. }) if is_busy(&*source) && began.elapsed() < MAKING => thread::sleep(PAUSE),
                prepared => break prepared?,
            }
        }
        Ok(connection)
    }

    /// Opens the file of a data directory for reading; none where there is no file, or nothing in it yet.
    pub(super) fn open_for_reading(&self, directory: &Path) -> Result<Option<Connection>, Error> {
        let path = directory.join(self.name);
        match fs::metadata(&path) {
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(Error::io(&path, "opened", error)),
            Ok(_) => is_file(&path)?,
        }
        let connection = connect(&path, OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX)?;
        Ok(self.is_made(&connection, &path)?.then_some(connection))
    }

    /// Makes a file that lives as long as its connection.
    pub(super) fn open_in_memory(&self) -> Result<Connection, Error> {
        let path = Path::new(self.name);
        let connection = Connection::open_in_memory().map_err(|source| Error::sqlite(path, "opened", source))?;
        connection.execute_batch(self.tables).map_err(|source| Error::sqlite(path, "opened", source))?;
        Ok(connection)
    }

    /// Makes the tables where they are not there yet: of several who do so at once one is first.
    fn prepare(&self, connection: &mut Connection, path: &Path) -> Result<(), Error> {
        let failed = |source| Error::sqlite(path, "opened", source);
        if !self.is_made(connection, path)? {
            let made = connection.transaction_with_behavior(TransactionBehavior::Immediate).map_err(failed)?;
            if !self.is_made(&made, path)? {
                let (id, format, tables) = (self.application_id, self.format, self.tables);
                let make = format!("PRAGMA application_id = {id}; PRAGMA user_version = {format}; {tables}");
                made.execute_batch(&make).map_err(failed)?;
            }
            made.commit().map_err(failed)?;
        }
        let set = "PRAGMA synchronous = FULL; PRAGMA secure_delete = ON;";
        connection.execute_batch(set).map_err(failed)?;
        let mode = connection.query_row("PRAGMA journal_mode = WAL", (), |row| row.get::<_, String>(0));
        match mode.map_err(failed)?.as_str() {
            "wal" => Ok(()),
            mode => Err(Error::Damaged { path: path.to_owned(), what: format!("its journal mode stays `{mode}`") }),
        }
    }

    /// Whether the tables are there; none yet are in a file that was just made.
    fn is_made(&self, connection: &Connection, path: &Path) -> Result<bool, Error> {
        let failed = |source| Error::sqlite(path, "opened", source);
        // All at one moment: another process may just be making them.
        let _moment = match connection.is_autocommit() {
            true => Some(connection.unchecked_transaction().map_err(failed)?),
            false => None,
        };
        let number = |asked: &str| connection.query_row(asked, (), |row| row.get::<_, i32>(0)).map_err(failed);
        let foreign = |why: &str| Error::Foreign { path: path.to_owned(), why: why.to_owned() };
        match (number("PRAGMA application_id")?, number("PRAGMA user_version")?.cast_unsigned()) {
            (0, 0) if number("SELECT count(*) FROM sqlite_schema")? == 0 => Ok(false),
            (id, _) if id != self.application_id => Err(foreign("it is an SQLite file of something else")),
            (_, found) if found > self.format => Err(Error::Newer { path: path.to_owned(), found, known: self.format }),
            (_, found) if found == self.format => Ok(true),
            (_, found) => Err(Error::Damaged { path: path.to_owned(), what: format!("its format is {found}") }),
        }
    }
}

fn connect(path: &Path, flags: OpenFlags) -> Result<Connection, Error> {
    let failed = |source| Error::sqlite(path, "opened", source);
    let connection = Connection::open_with_flags(path, flags).map_err(failed)?;
    connection.busy_timeout(BUSY).map_err(failed)?;
    let set = "PRAGMA cell_size_check = ON; PRAGMA trusted_schema = OFF; PRAGMA temp_store = MEMORY;";
    connection.execute_batch(set).map_err(failed)?;
    Ok(connection)
}

fn is_file(path: &Path) -> Result<(), Error> {
    match fs::metadata(path) {
        Ok(file) if file.is_file() => Ok(()),
        Ok(_) => Err(Error::Foreign { path: path.to_owned(), why: "it is no file".to_owned() }),
        Err(error) => Err(Error::io(path, "opened", error)),
    }
}

fn is_busy(error: &(dyn std::error::Error + 'static)) -> bool {
    use rusqlite::ErrorCode as Code;
    let code = error.downcast_ref::<rusqlite::Error>().and_then(rusqlite::Error::sqlite_error_code);
    matches!(code, Some(Code::DatabaseBusy | Code::DatabaseLocked))
}
