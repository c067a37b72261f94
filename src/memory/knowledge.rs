//! Files that were indexed under a name, in passages that can be found by their words, and by what they mean where an
//! embeddings server says so.

mod chunks;
mod collect;
mod index;
mod search;
mod vectors;

pub use collect::MAX_FILE_BYTES;
pub use index::{Added, MAX_PASSAGES};
pub use search::{Hits, Passage, Ranking};

use std::path::{Path, PathBuf};

use rusqlite::{Connection, OptionalExtension, Transaction};
use serde::Serialize;

use super::Error;
use super::file::Kind;
use crate::spec::SecretRef;

const KIND: Kind = Kind {
    name: "knowledge.db",
    // "PvKn"
    application_id: 0x5076_4b6e,
    format: 1,
    tables: "
        CREATE TABLE collections (
            id INTEGER PRIMARY KEY AUTOINCREMENT, name TEXT NOT NULL UNIQUE, url TEXT, model TEXT, key TEXT
        ) STRICT;
        CREATE TABLE roots (
            collection INTEGER NOT NULL, path TEXT NOT NULL, UNIQUE (collection, path)
        ) STRICT;
        CREATE TABLE left_out (
            collection INTEGER NOT NULL, path TEXT NOT NULL, UNIQUE (collection, path)
        ) STRICT;
        CREATE TABLE files (
            id INTEGER PRIMARY KEY AUTOINCREMENT, collection INTEGER NOT NULL, path TEXT NOT NULL,
            bytes INTEGER NOT NULL, mtime_ns INTEGER NOT NULL, hash BLOB NOT NULL, UNIQUE (collection, path)
        ) STRICT;
        CREATE TABLE passages (
            id INTEGER PRIMARY KEY AUTOINCREMENT, collection INTEGER NOT NULL, file INTEGER NOT NULL,
            first INTEGER NOT NULL, last INTEGER NOT NULL, heading TEXT NOT NULL, text TEXT NOT NULL
        ) STRICT;
        CREATE INDEX passages_by_file ON passages (file);
        CREATE INDEX passages_by_collection ON passages (collection);",
};

/// The index of a data directory. Several processes may have it open; who changes it commits after every few files, so that
/// others can go on in between, and what was begun and cut off goes on where it was.
pub struct Knowledge {
    connection: Connection,
    path: PathBuf,
}

/// What is indexed under a name.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Collection {
    /// The name.
    pub name: String,
    /// What was given to be indexed: files and directories.
    pub paths: Vec<PathBuf>,
    /// What was taken out again from beneath that, and stays out until it is given by name.
    pub left_out: Vec<PathBuf>,
    /// How many files are indexed.
    pub files: u64,
    /// In how many passages.
    pub passages: u64,
    /// How many of them have a vector.
    pub vectors: u64,
    /// Where vectors come from, if there are to be any.
    pub embeddings: Option<Embeddings>,
}

/// Where the vectors of a collection come from.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Embeddings {
    /// Where the server's API begins, as in `http://127.0.0.1:8080/v1`.
    pub url: String,
    /// The server's name for the model; none where the server has but one.
    pub model: Option<String>,
    /// Where the key is; none for a server that wants none.
    pub key: Option<SecretRef>,
}

impl Embeddings {
    /// Writes the server and its model as `provost knowledge add --embeddings` takes them.
    pub fn server(&self) -> String {
        let model = self.model.as_ref().map(|model| format!("#{model}")).unwrap_or_default();
        format!("{}{model}", self.url)
    }

    /// Writes the options that name all of this.
    fn options(&self) -> String {
        let key = self.key.as_ref().map(|key| format!(" --embeddings-key {}", key.0)).unwrap_or_default();
        format!("--embeddings {}{key}", self.server())
    }
}

/// A collection's row.
struct Row {
    id: i64,
    name: String,
    embeddings: Option<Embeddings>,
}

impl Row {
    /// The name of its index of words: a table of its own, so that what is rare in a collection is rare by itself.
    fn words(&self) -> String {
        format!("words_{}", self.id)
    }

    /// The name of its table of vectors.
    fn vectors(&self) -> String {
        format!("vectors_{}", self.id)
    }
}

impl Knowledge {
    /// Opens the index for reading; none where nothing was ever indexed.
    ///
    /// # Errors
    /// The file is at fault.
    pub fn open(directory: &Path) -> Result<Option<Self>, Error> {
        let opened = KIND.open_for_reading(directory)?;
        Ok(opened.map(|connection| Self { connection, path: directory.join(KIND.name) }))
    }

    /// Opens the index for changing it, and makes an empty one where there is none.
    ///
    /// # Errors
    /// The file is at fault, or can't be made.
    pub fn open_for_writing(directory: &Path) -> Result<Self, Error> {
        Ok(Self { connection: KIND.open_for_writing(directory)?, path: directory.join(KIND.name) })
    }

    /// Returns what is indexed, by name.
    ///
    /// # Errors
    /// The file is at fault.
    pub fn list(&self) -> Result<Vec<Collection>, Error> {
        let _moment = self.moment()?;
        let names = self.read(|connection| {
            let mut select = connection.prepare("SELECT name FROM collections ORDER BY name")?;
            select.query_map((), |row| row.get(0))?.collect::<Result<Vec<String>, _>>()
        })?;
        names.into_iter().map(|name| self.collection(&name)).collect()
    }

    /// Returns what is indexed under a name.
    ///
    /// # Errors
    /// Nothing is, or the file is at fault.
    pub fn collection(&self, name: &str) -> Result<Collection, Error> {
        let _moment = self.moment()?;
        let row = self.row(name)?;
        self.read(|connection| {
            let count = |from: String| {
                connection
                    .query_row(&format!("SELECT count(*) FROM {from}"), (), |row| row.get(0).map(i64::cast_unsigned))
            };
            Ok(Collection {
                name: name.to_owned(),
                paths: paths(connection, &row, "roots")?,
                left_out: paths(connection, &row, "left_out")?,
                files: count(format!("files WHERE collection = {}", row.id))?,
                passages: count(format!("passages WHERE collection = {}", row.id))?,
                vectors: count(row.vectors())?,
                embeddings: row.embeddings.clone(),
            })
        })
    }

    /// Returns where the vectors of a collection come from.
    ///
    /// # Errors
    /// Nothing is indexed under the name, or the file is at fault.
    pub fn embeddings(&self, name: &str) -> Result<Option<Embeddings>, Error> {
        Ok(self.row(name)?.embeddings)
    }

    fn row(&self, name: &str) -> Result<Row, Error> {
        let found = self.read(|connection| find(connection, name))?;
        found.ok_or_else(|| Error::NotIndexed { name: name.to_owned() })
    }

    /// Lets all that is read until it is dropped be of one moment, whatever other processes change meanwhile; none where that
    /// is so already.
    fn moment(&self) -> Result<Option<Transaction<'_>>, Error> {
        let begun = self.connection.is_autocommit().then(|| self.connection.unchecked_transaction()).transpose();
        begun.map_err(|source| Error::sqlite(&self.path, "read", source))
    }

    fn read<T>(&self, read: impl FnOnce(&Connection) -> Result<T, rusqlite::Error>) -> Result<T, Error> {
        read(&self.connection).map_err(|source| Error::sqlite(&self.path, "read", source))
    }
}

/// Reads the paths of a collection's `roots` or `left_out`, in order.
fn paths(connection: &Connection, row: &Row, table: &str) -> Result<Vec<PathBuf>, rusqlite::Error> {
    let mut select = connection.prepare(&format!("SELECT path FROM {table} WHERE collection = ?1 ORDER BY path"))?;
    select.query_map([row.id], |row| row.get::<_, String>(0).map(PathBuf::from))?.collect()
}

fn find(connection: &Connection, name: &str) -> Result<Option<Row>, rusqlite::Error> {
    let select = "SELECT id, url, model, key FROM collections WHERE name = ?1";
    let read = |row: &rusqlite::Row<'_>| {
        let (model, key) = (row.get(2)?, row.get::<_, Option<String>>(3)?.map(SecretRef));
        let url: Option<String> = row.get(1)?;
        Ok(Row { id: row.get(0)?, name: name.to_owned(), embeddings: url.map(|url| Embeddings { url, model, key }) })
    };
    connection.prepare_cached(select)?.query_row([name], read).optional()
}
