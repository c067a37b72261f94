//! Indexing: only what is new or has changed is read, and what is gone is taken out.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rusqlite::{Connection, Transaction, TransactionBehavior, params};
use serde::Serialize;

use super::super::Error;
use super::super::words::hidden_parts;
use super::chunks::{Chunk, chunks, title};
use super::collect::{Collected, Found, Stamp, collect, indexable, read, resolved};
use super::{Collection, Embeddings, Knowledge, Row, find, paths};

/// How many passages a collection may have: a search looks at all that have a word, and beyond this it takes too long.
pub const MAX_PASSAGES: u64 = 1_000_000;

/// How much text is written at once: others wait that long for their turn.
const BATCH_BYTES: usize = 4 * 1024 * 1024;

/// How many files are, at most.
const BATCH_FILES: usize = 256;

/// What an indexing did.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Added {
    /// Files that were not there before.
    pub new: u64,
    /// Files that were there, and have changed.
    pub changed: u64,
    /// Files that are as they were.
    pub unchanged: u64,
    /// Files that are no longer there, or no longer to be indexed.
    pub removed: u64,
    /// Passages that were made.
    pub passages: u64,
    /// Files left out because they are no text.
    pub binary: u64,
    /// Files left out because they are longer than [`MAX_FILE_BYTES`](super::MAX_FILE_BYTES).
    pub too_large: u64,
    /// Files and directories that could not be read.
    pub unreadable: u64,
}

/// What is known of a file.
struct Known {
    id: i64,
    stamp: Stamp,
    hash: Vec<u8>,
}

/// What is to be done with a file.
enum Change {
    /// It is taken out.
    Remove(i64),
    /// It says what it said, and looks otherwise.
    Restamp(i64, Stamp),
    /// It is taken in, in the place of what it was.
    Write(Option<i64>, Box<Read>),
}

/// A file that was read.
struct Read {
    path: String,
    from_root: String,
    stamp: Stamp,
    hash: blake3::Hash,
    title: String,
    chunks: Vec<Chunk>,
}

impl Knowledge {
    /// Indexes files and directories under a name, beside what is there already; without any, what was given before. Only
    /// what has changed since is read. What was taken out by name stays out until it is given by name again.
    ///
    /// # Errors
    /// A path is no file or directory that is there, nothing is known under the name and no path is given, there are too
    /// many passages, or the file is at fault. What was done until then is kept.
    pub fn add(&mut self, name: &str, paths: &[PathBuf]) -> Result<Added, Error> {
        let given = paths.iter().map(|path| indexable(path)).collect::<Result<Vec<_>, _>>()?;
        let row = match given.is_empty() {
            true => self.row(name)?,
            false => self.write(|change| open(change, name, &given))?,
        };
        // What was named by itself beneath them stays wanted, even where they leave it out.
        let Collection { paths: named, left_out, .. } = self.collection(name)?;
        let is_wanted = |named: &PathBuf| given.is_empty() || given.iter().any(|root| named.starts_with(root));
        let roots: Vec<PathBuf> = named.into_iter().filter(is_wanted).collect();
        let left_out = Arc::new(left_out.into_iter().collect());
        let mut found = Collected::default();
        roots.iter().for_each(|root| collect(root, &left_out, &mut found));
        let mut known = self.known(&row, &roots)?;
        let mut added = Added { too_large: found.too_large, unreadable: found.unreadable, ..Added::default() };
        let mut batch = Batch::default();
        let mut seen = BTreeSet::new();
        for file in found.files {
            let path = file.path.to_string_lossy().into_owned();
            if !seen.insert(path.clone()) {
                continue;
            }
            batch.take(file, known.remove(&path), &mut added);
            if batch.is_full() {
                self.commit(&row, &mut batch, &mut added)?;
            }
        }
        // Where something could not be looked at, what was not seen may still be there.
        let is_gone = |path: &str| added.unreadable == 0 || !Path::new(path).exists();
        let gone: Vec<i64> = known.iter().filter(|(path, _)| is_gone(path)).map(|(_, known)| known.id).collect();
        added.removed += gone.len() as u64;
        batch.changes.extend(gone.into_iter().map(Change::Remove));
        self.commit(&row, &mut batch, &mut added)?;
        Ok(added)
    }

    /// Takes files out that are at or beneath these paths, or all of them where none is given; returns how many. What
    /// lies beneath something else that was given is left out from now on, until it is given itself.
    ///
    /// # Errors
    /// Nothing is indexed under the name, or not there, or the file is at fault.
    pub fn remove(&mut self, name: &str, paths: &[PathBuf]) -> Result<u64, Error> {
        let row = self.row(name)?;
        if paths.is_empty() {
            return self.write_to(&row, |change| drop_all(change, &row));
        }
        // What is gone has no path to resolve any more.
        let absolute = |path: &PathBuf| resolved(path).or_else(|_| std::path::absolute(path)).unwrap_or(path.clone());
        let taken: Vec<PathBuf> = paths.iter().map(absolute).collect();
        let files = self.known(&row, &taken)?;
        if files.is_empty() {
            return Err(Error::NotAmong { name: name.to_owned(), path: paths[0].clone() });
        }
        self.write_to(&row, |change| {
            for file in files.values() {
                remove_file(change, &row, file.id)?;
            }
            taken.iter().try_for_each(|path| leave_out(change, &row, path))?;
            Ok(files.len() as u64)
        })
    }

    /// Sets where the vectors of a collection come from. Those that come from elsewhere are taken out.
    ///
    /// # Errors
    /// Nothing is indexed under the name, or the file is at fault.
    pub fn set_embeddings(&mut self, name: &str, embeddings: Option<&Embeddings>) -> Result<(), Error> {
        let row = self.row(name)?;
        let space = |of: Option<&Embeddings>| of.map(|of| (of.url.clone(), of.model.clone()));
        let is_other = space(row.embeddings.as_ref()) != space(embeddings);
        let key = embeddings.and_then(|embeddings| embeddings.key.as_ref()).map(|key| &key.0);
        let (url, model) = (embeddings.map(|of| &of.url), embeddings.and_then(|of| of.model.as_ref()));
        self.write_to(&row, |change| {
            if is_other {
                change.execute(&format!("DELETE FROM {}", row.vectors()), ())?;
            }
            change.execute(
                "UPDATE collections SET url = ?2, model = ?3, key = ?4 WHERE id = ?1",
                params![row.id, url, model, key],
            )?;
            Ok(())
        })
    }

    /// Returns the files that are known at and beneath some paths.
    fn known(&self, row: &Row, roots: &[PathBuf]) -> Result<BTreeMap<String, Known>, Error> {
        let all = self.read(|connection| {
            let mut select =
                connection.prepare("SELECT path, id, bytes, mtime_ns, hash FROM files WHERE collection = ?1")?;
            let read = |row: &rusqlite::Row<'_>| {
                let stamp = Stamp { bytes: row.get(2)?, mtime_ns: row.get(3)? };
                Ok((row.get::<_, String>(0)?, Known { id: row.get(1)?, stamp, hash: row.get(4)? }))
            };
            select.query_map([row.id], read)?.collect::<Result<BTreeMap<_, _>, _>>()
        })?;
        let is_beneath = |path: &str| roots.iter().any(|root| Path::new(path).starts_with(root));
        Ok(all.into_iter().filter(|(path, _)| is_beneath(path)).collect())
    }

    fn commit(&mut self, row: &Row, batch: &mut Batch, added: &mut Added) -> Result<(), Error> {
        let changes = std::mem::take(batch).changes;
        let passages: usize = changes.iter().map(Change::passages).sum();
        let fits = self.write_to(row, |change| {
            let count = "SELECT count(*) FROM passages WHERE collection = ?1";
            let count: i64 = change.query_row(count, [row.id], |row| row.get(0))?;
            let fits = count.cast_unsigned() + passages as u64 <= MAX_PASSAGES;
            if fits {
                changes.iter().try_for_each(|one| one.make(change, row))?;
            }
            Ok(fits)
        })?;
        added.passages += passages as u64;
        if fits { Ok(()) } else { Err(Error::TooManyPassages { name: row.name.clone() }) }
    }

    /// Changes something of a collection in one transaction, unless another process has taken the collection out.
    pub(super) fn write_to<T>(
        &mut self,
        row: &Row,
        change: impl FnOnce(&Transaction<'_>) -> Result<T, rusqlite::Error>,
    ) -> Result<T, Error> {
        let done = self.write(|transaction| {
            let is_there = find(transaction, &row.name)?.is_some_and(|found| found.id == row.id);
            is_there.then(|| change(transaction)).transpose()
        })?;
        done.ok_or_else(|| Error::NotIndexed { name: row.name.clone() })
    }

    /// Changes something in one transaction.
    fn write<T>(&mut self, change: impl FnOnce(&Transaction<'_>) -> Result<T, rusqlite::Error>) -> Result<T, Error> {
        let done = self.connection.transaction_with_behavior(TransactionBehavior::Immediate).and_then(|transaction| {
            let done = change(&transaction)?;
            transaction.commit()?;
            Ok(done)
        });
        done.map_err(|source| Error::sqlite(&self.path, "written", source))
    }
}

/// What is written next.
#[derive(Default)]
struct Batch {
    changes: Vec<Change>,
    bytes: usize,
}

impl Batch {
    fn is_full(&self) -> bool {
        self.bytes >= BATCH_BYTES || self.changes.len() >= BATCH_FILES
    }

    /// Looks what is to be done with a file, and counts it.
    fn take(&mut self, file: Found, known: Option<Known>, added: &mut Added) {
        if known.as_ref().is_some_and(|known| known.stamp.is_still(file.stamp)) {
            added.unchanged += 1;
            return;
        }
        let text = match read(&file.path) {
            Ok(Some(text)) => text,
            unread => {
                let left_out = if unread.is_ok() { &mut added.binary } else { &mut added.unreadable };
                *left_out += 1;
                added.removed += u64::from(known.is_some());
                self.changes.extend(known.map(|known| Change::Remove(known.id)));
                return;
            }
        };
        let hash = blake3::hash(text.as_bytes());
        if let Some(known) = known.as_ref().filter(|known| known.hash == hash.as_bytes()) {
            added.unchanged += 1;
            self.changes.push(Change::Restamp(known.id, file.stamp));
            return;
        }
        *(if known.is_some() { &mut added.changed } else { &mut added.new }) += 1;
        self.bytes += text.len();
        let ending = file.path.extension().and_then(|ending| ending.to_str()).unwrap_or_default();
        let read = Read {
            path: file.path.to_string_lossy().into_owned(),
            from_root: file.from_root,
            stamp: file.stamp,
            hash,
            title: title(&text).to_owned(),
            chunks: chunks(&text, matches!(ending, "md" | "markdown" | "mdx")),
        };
        self.changes.push(Change::Write(known.map(|known| known.id), Box::new(read)));
    }
}

impl Change {
    fn passages(&self) -> usize {
        if let Self::Write(_, read) = self { read.chunks.len() } else { 0 }
    }

    fn make(&self, change: &Transaction<'_>, row: &Row) -> Result<(), rusqlite::Error> {
        match self {
            Self::Remove(id) => remove_file(change, row, *id),
            Self::Restamp(id, stamp) => {
                let update = "UPDATE files SET bytes = ?2, mtime_ns = ?3 WHERE id = ?1";
                change.prepare_cached(update)?.execute(params![id, stamp.bytes, stamp.mtime_ns])?;
                Ok(())
            }
            Self::Write(old, read) => {
                old.map_or(Ok(()), |old| remove_file(change, row, old))?;
                read.write(change, row)
            }
        }
    }
}

impl Read {
    fn write(&self, change: &Transaction<'_>, row: &Row) -> Result<(), rusqlite::Error> {
        // Another process may have taken it in meanwhile; then what was read last stands.
        let replace = "REPLACE INTO files (collection, path, bytes, mtime_ns, hash) VALUES (?1, ?2, ?3, ?4, ?5)";
        let Stamp { bytes, mtime_ns } = self.stamp;
        if let Some(other) = file_of(change, row, &self.path)? {
            remove_file(change, row, other)?;
        }
        change.prepare_cached(replace)?.execute(params![row.id, self.path, bytes, mtime_ns, self.hash.as_bytes()])?;
        let file = change.last_insert_rowid();
        let mut passage = change.prepare_cached(
            "INSERT INTO passages (collection, file, first, last, heading, text) VALUES (?1, ?2, ?3, ?4, ?5, ?6)",
        )?;
        let mut words = change.prepare_cached(&format!(
            "INSERT INTO {} (rowid, path, heading, text, parts) VALUES (?1, ?2, ?3, ?4, ?5)",
            row.words()
        ))?;
        for Chunk { first, last, heading, text } in &self.chunks {
            passage.execute(params![row.id, file, first, last, heading, text])?;
            let heading = format!("{} {heading}", self.title);
            let parts = hidden_parts(&format!("{} {heading} {text}", self.from_root));
            words.execute(params![change.last_insert_rowid(), self.from_root, heading, text, parts])?;
        }
        Ok(())
    }
}

fn file_of(connection: &Connection, row: &Row, path: &str) -> Result<Option<i64>, rusqlite::Error> {
    use rusqlite::OptionalExtension;

    let select = "SELECT id FROM files WHERE collection = ?1 AND path = ?2";
    connection.prepare_cached(select)?.query_row(params![row.id, path], |row| row.get(0)).optional()
}

/// Lets go of what was given at and beneath a path. Where the path is beneath something that stays, that is noted, so that the
/// next indexing does not take it in again.
fn leave_out(change: &Transaction<'_>, row: &Row, path: &Path) -> Result<(), rusqlite::Error> {
    for table in ["roots", "left_out"] {
        let delete = format!("DELETE FROM {table} WHERE collection = ?1 AND path = ?2");
        for known in paths(change, row, table)?.iter().filter(|known| known.starts_with(path)) {
            change.execute(&delete, params![row.id, known.to_string_lossy()])?;
        }
    }
    if paths(change, row, "roots")?.iter().any(|root| path.starts_with(root)) {
        let insert = "INSERT INTO left_out (collection, path) VALUES (?1, ?2)";
        change.execute(insert, params![row.id, path.to_string_lossy()])?;
    }
    Ok(())
}

/// Finds or makes a collection, and adds to what is to be indexed in it.
fn open(change: &Transaction<'_>, name: &str, roots: &[PathBuf]) -> Result<Row, rusqlite::Error> {
    let row = match find(change, name)? {
        Some(row) => row,
        None => {
            change.execute("INSERT INTO collections (name) VALUES (?1)", [name])?;
            let row = Row { id: change.last_insert_rowid(), name: name.to_owned(), embeddings: None };
            change.execute_batch(&format!(
                "CREATE VIRTUAL TABLE {words} USING fts5 (
                    path, heading, text, parts, content = '', contentless_delete = 1,
                    tokenize = 'porter unicode61 remove_diacritics 2'
                );
                CREATE TABLE {vectors} (passage INTEGER PRIMARY KEY, vector BLOB NOT NULL) STRICT;",
                words = row.words(),
                vectors = row.vectors(),
            ))?;
            row
        }
    };
    for root in roots {
        let path = root.to_string_lossy();
        change.execute("INSERT OR IGNORE INTO roots (collection, path) VALUES (?1, ?2)", params![row.id, path])?;
        change.execute("DELETE FROM left_out WHERE collection = ?1 AND path = ?2", params![row.id, path])?;
    }
    Ok(row)
}

fn remove_file(change: &Transaction<'_>, row: &Row, file: i64) -> Result<(), rusqlite::Error> {
    for table in [(row.words(), "rowid"), (row.vectors(), "passage")] {
        let delete = format!("DELETE FROM {} WHERE {} IN (SELECT id FROM passages WHERE file = ?1)", table.0, table.1);
        change.prepare_cached(&delete)?.execute([file])?;
    }
    change.prepare_cached("DELETE FROM passages WHERE file = ?1")?.execute([file])?;
    change.prepare_cached("DELETE FROM files WHERE id = ?1")?.execute([file])?;
    Ok(())
}

fn drop_all(change: &Transaction<'_>, row: &Row) -> Result<u64, rusqlite::Error> {
    let files = change.execute("DELETE FROM files WHERE collection = ?1", [row.id])?;
    change.execute("DELETE FROM passages WHERE collection = ?1", [row.id])?;
    change.execute("DELETE FROM roots WHERE collection = ?1", [row.id])?;
    change.execute("DELETE FROM left_out WHERE collection = ?1", [row.id])?;
    change.execute("DELETE FROM collections WHERE id = ?1", [row.id])?;
    change.execute_batch(&format!("DROP TABLE {}; DROP TABLE {};", row.words(), row.vectors()))?;
    Ok(files as u64)
}
