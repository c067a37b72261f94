//! Why the store can't be used.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::notary::{AnchorError, Refuted};

/// Why the store can't be opened, read or written.
#[derive(Clone, Debug, thiserror::Error)]
pub enum Error {
    /// There is no store in the directory.
    #[error("there is no store at {}", .path.display())]
    Absent {
        /// Where it should be.
        path: PathBuf,
    },
    /// Another process holds the store.
    #[error("the store at {} is held by process {pid}", .path.display())]
    Held {
        /// The store.
        path: PathBuf,
        /// The process, as it says itself; 0 where it has not said so yet.
        pid: u32,
    },
    /// Another process has taken the store over since this one opened it. Nothing of this process is written any more.
    #[error("another process has taken over the store at {}", .path.display())]
    Fenced {
        /// The store.
        path: PathBuf,
    },
    /// The file is no store of Provost's.
    #[error("{} is no store of Provost's: {why}", .path.display())]
    Foreign {
        /// The file.
        path: PathBuf,
        /// What it is instead.
        why: String,
    },
    /// The store was written by a newer Provost.
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
    #[error("the store at {} is damaged: {what}", .path.display())]
    Damaged {
        /// The store.
        path: PathBuf,
        /// What does not hold, and where.
        what: String,
    },
    /// A stream that does not exist.
    #[error("there is no stream `{stream}`")]
    NoSuchStream {
        /// Its name.
        stream: String,
    },
    /// A record that does not follow the last one of its stream, or a snapshot of what is not there. It is a bug of who
    /// numbers the stream, or there are two of them: nothing more is accepted.
    #[error("`{stream}` stands at {head}, and {seq} does not follow")]
    OutOfOrder {
        /// The stream's name.
        stream: String,
        /// The number of the record.
        seq: u64,
        /// The stream's last number.
        head: u64,
    },
    /// A stream whose records have been pruned.
    #[error("the records of `{stream}` have been pruned")]
    Pruned {
        /// Its name.
        stream: String,
    },
    /// The file can't be read or written. After a failed write nothing more is accepted.
    #[error("the store at {} can't be {doing}: {source}", .path.display())]
    Io {
        /// The store.
        path: PathBuf,
        /// `opened`, `read` or `written`.
        doing: &'static str,
        /// Why.
        source: Arc<dyn std::error::Error + Send + Sync>,
    },
    /// A file beside the store can't be read or written: the key, the checkpoints, what is said of the anchor.
    #[error("{} can't be {doing}: {source}", .path.display())]
    Beside {
        /// The file.
        path: PathBuf,
        /// `read` or `written`.
        doing: &'static str,
        /// Why.
        source: Arc<dyn std::error::Error + Send + Sync>,
    },
    /// The store is not the one that checkpoints speak of.
    #[error(transparent)]
    Refuted(#[from] Refuted),
    /// An anchor can't be asked.
    #[error(transparent)]
    Anchor(#[from] AnchorError),
    /// The journal has been closed.
    #[error("the journal has been closed")]
    Closed,
}

impl Error {
    /// Makes [`Error::Io`] from what the file system, or the writer, says.
    pub(super) fn io(
        path: &Path,
        doing: &'static str,
        source: impl Into<Box<dyn std::error::Error + Send + Sync>>,
    ) -> Self {
        Self::Io { path: path.to_owned(), doing, source: Arc::from(source.into()) }
    }

    /// Makes [`Error::Beside`].
    pub(super) fn beside(
        path: &Path,
        doing: &'static str,
        source: impl Into<Box<dyn std::error::Error + Send + Sync>>,
    ) -> Self {
        Self::Beside { path: path.to_owned(), doing, source: Arc::from(source.into()) }
    }

    /// Makes [`Error::Damaged`].
    pub(super) fn damaged(path: &Path, what: impl Into<String>) -> Self {
        Self::Damaged { path: path.to_owned(), what: what.into() }
    }

    /// Makes [`Error::Foreign`].
    pub(super) fn foreign(path: &Path, why: impl Into<String>) -> Self {
        Self::Foreign { path: path.to_owned(), why: why.into() }
    }

    /// Makes the error that says what SQLite's means: what it finds malformed is damage, the rest is the medium.
    pub(super) fn sqlite(path: &Path, doing: &'static str, source: rusqlite::Error) -> Self {
        use rusqlite::ErrorCode as Code;
        match source.sqlite_error_code() {
            Some(Code::NotADatabase) => Self::foreign(path, "it is not an SQLite file"),
            // `Unknown` is SQLite's general error: a table or a column that is not there.
            Some(Code::DatabaseCorrupt | Code::ConstraintViolation | Code::TypeMismatch | Code::Unknown) => {
                Self::damaged(path, source.to_string())
            }
            Some(_) => Self::io(path, doing, source),
            // Not SQLite but the reading of its answer: a column of another type, text that is no text.
            None => Self::damaged(path, source.to_string()),
        }
    }
}
