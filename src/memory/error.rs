//! Why something can't be kept or found.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::facts::{MAX_FACT_BYTES, MAX_FACTS};
use super::knowledge::MAX_PASSAGES;
use super::words::MAX_QUERY_BYTES;

/// Why something can't be kept or found.
#[derive(Clone, Debug, thiserror::Error)]
pub enum Error {
    /// The file is none of Provost's.
    #[error("{} is no file of Provost's: {why}", .path.display())]
    Foreign {
        /// The file.
        path: PathBuf,
        /// What it is instead.
        why: String,
    },
    /// The file was written by a newer Provost.
    #[error("{} has format {found}, and this Provost reads up to {known}", .path.display())]
    Newer {
        /// The file.
        path: PathBuf,
        /// Its format.
        found: u32,
        /// The newest known one.
        known: u32,
    },
    /// What is stored is not what was written.
    #[error("{} is damaged: {what}", .path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What does not hold.
        what: String,
    },
    /// The file can't be read or written.
    #[error("{} can't be {doing}: {source}", .path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// `opened`, `read` or `written`.
        doing: &'static str,
        /// Why.
        source: Arc<dyn std::error::Error + Send + Sync>,
    },
    /// A fact is longer than one may be.
    #[error("the fact has {0} bytes, and may have at most {MAX_FACT_BYTES}; keep what is worth finding again")]
    FactTooLong(usize),
    /// A fact says nothing.
    #[error("the fact is empty")]
    FactEmpty,
    /// A fact has no word that the index of words knows.
    #[error(
        "the fact has no word by which it could be found again; say what it means in words, with spaces or other marks between them"
    )]
    FactWithoutWords,
    /// Who wanted something changed waits for it no longer.
    #[error("the call was cancelled or took too long, and nothing was changed")]
    Cancelled,
    /// There is no room for another fact.
    #[error("this memory has {MAX_FACTS} facts, which is as many as it may have; forget some first")]
    TooManyFacts,
    /// There is no such fact in this memory, and there was none lately.
    #[error("there is no fact `{0}` in this memory; a search shows the ids of those that there are")]
    NoSuchFact(String),
    /// Nothing is indexed under a name.
    #[error("nothing is indexed under the name `{name}`; `provost knowledge add {name} PATH` indexes files")]
    NotIndexed {
        /// The name.
        name: String,
    },
    /// Nothing that is indexed is there.
    #[error("nothing of `{name}` is at or beneath {}", .path.display())]
    NotAmong {
        /// The name.
        name: String,
        /// Where it should be.
        path: PathBuf,
    },
    /// A path that is to be indexed is not there.
    #[error("{} can't be indexed: {source}", .path.display())]
    Path {
        /// The path.
        path: PathBuf,
        /// Why.
        source: Arc<std::io::Error>,
    },
    /// There is no room for more passages.
    #[error("`{name}` has more than {MAX_PASSAGES} passages, which is as many as a name may have; use several names")]
    TooManyPassages {
        /// The name.
        name: String,
    },
    /// An embeddings server's vector has no direction, or far too many numbers.
    #[error("the embeddings server's answer holds something that is no vector")]
    NoVector,
    /// What is looked for has no word in it.
    #[error("the query has no words to look for")]
    NoWords,
    /// What is looked for is too long.
    #[error("the query has {0} bytes, and may have at most {MAX_QUERY_BYTES}; a few words find more")]
    QueryTooLong(usize),
}

impl Error {
    /// Whether the file is at fault, and not what was asked.
    pub fn is_of_the_file(&self) -> bool {
        matches!(self, Self::Foreign { .. } | Self::Newer { .. } | Self::Damaged { .. } | Self::Io { .. })
    }

    /// Makes [`Error::Io`] from what the file system says.
    pub(super) fn io(path: &Path, doing: &'static str, source: std::io::Error) -> Self {
        Self::Io { path: path.to_owned(), doing, source: Arc::new(source) }
    }

    /// Makes the error that says what SQLite's means: what it finds malformed is damage, the rest is the medium.
    pub(super) fn sqlite(path: &Path, doing: &'static str, source: rusqlite::Error) -> Self {
        use rusqlite::ErrorCode as Code;
        let path = path.to_owned();
        match source.sqlite_error_code() {
            Some(Code::NotADatabase) => Self::Foreign { path, why: "it is not an SQLite file".to_owned() },
            Some(Code::DatabaseCorrupt | Code::ConstraintViolation | Code::TypeMismatch | Code::Unknown) | None => {
                Self::Damaged { path, what: source.to_string() }
            }
            Some(_) => Self::Io { path, doing, source: Arc::new(source) },
        }
    }
}
