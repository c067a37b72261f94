//! What a process has of all this: the way to the files of one data directory.

use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use super::Error;
use super::facts::{Fact, Facts, NewFact, Whose};
use super::knowledge::Knowledge;

/// The way to the facts and the knowledge of a data directory. Nothing is opened before it is needed. All that it does may
/// wait for the disk, and for other processes.
#[derive(Default)]
pub struct Shelf {
    directory: Option<PathBuf>,
    /// Kept open, since each fact is a transaction; after a fault it is opened anew.
    facts: Mutex<Option<Facts>>,
}

impl Shelf {
    /// Makes the shelf of a data directory.
    pub fn at(directory: &Path) -> Self {
        Self { directory: Some(directory.to_owned()), facts: Mutex::default() }
    }

    /// Makes a shelf whose facts last as long as it does, and that has no knowledge.
    pub fn in_process() -> Self {
        Self::default()
    }

    /// Keeps a fact, and returns its id. One that was kept before under the same key is the same fact, even if it was
    /// forgotten meanwhile. When this returns the fact is on disk. Whether it `is_cancelled` is asked last of all, right
    /// before the commit: what waited too long for its turn changes nothing.
    ///
    /// # Errors
    /// The fact is empty, too long or without a word to find it by, its memory is full, it was cancelled, or the file is at
    /// fault. Nothing is kept then.
    pub fn put(&self, fact: &NewFact<'_>, is_cancelled: &dyn Fn() -> bool) -> Result<String, Error> {
        self.with_facts(|facts| facts.put(fact, is_cancelled))
    }

    /// Finds the facts of a memory that fit a query best, at most `limit`, the best first. They fit by their words (BM25).
    ///
    /// # Errors
    /// The query has no words or is too long, or the file is at fault.
    pub fn search(&self, whose: &Whose, query: &str, limit: usize) -> Result<Vec<Fact>, Error> {
        self.with_facts(|facts| facts.search(whose, query, limit))
    }

    /// Lets a fact go; one that was let go of before is no error. `is_cancelled` as for [`Shelf::put`].
    ///
    /// # Errors
    /// There is no such fact in this memory, it was cancelled, or the file is at fault. Nothing is forgotten then.
    pub fn forget(&self, whose: &Whose, id: &str, is_cancelled: &dyn Fn() -> bool) -> Result<(), Error> {
        self.with_facts(|facts| facts.forget(whose, id, is_cancelled))
    }

    /// Opens what is indexed, to look for something under a name. Without a data directory nothing is.
    ///
    /// # Errors
    /// Nothing was ever indexed, or the file is at fault.
    pub fn knowledge(&self, name: &str) -> Result<Knowledge, Error> {
        let opened = self.directory.as_deref().map(Knowledge::open).transpose()?;
        opened.flatten().ok_or_else(|| Error::NotIndexed { name: name.to_owned() })
    }

    pub(super) fn with_facts<T>(&self, work: impl FnOnce(&mut Facts) -> Result<T, Error>) -> Result<T, Error> {
        let mut kept = self.facts.lock().unwrap_or_else(PoisonError::into_inner);
        let mut facts = match kept.take() {
            Some(facts) => facts,
            None => Facts::open(self.directory.as_deref())?,
        };
        let done = work(&mut facts);
        if !done.as_ref().is_err_and(Error::is_of_the_file) {
            *kept = Some(facts);
        }
        done
    }
}

impl std::fmt::Debug for Shelf {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Shelf").field("directory", &self.directory).finish_non_exhaustive()
    }
}
