//! A run's record on disk, for people and scripts to read afterwards: JSON Lines, one file a run.
//!
//! A line is handed to the operating system as soon as its event has happened, so that it outlives this process; it is
//! not synced, so that a machine that loses its power may lose the last lines. Nothing is read back from it yet.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use serde::Serialize;

/// The directory in which state is kept where none is named.
const DIRECTORY: &str = ".provost";

/// Returns the data directory for a process that works in `working_directory`: `.provost` in it, or in the nearest
/// directory above it that has one.
pub fn data_directory(working_directory: &Path) -> PathBuf {
    let existing = working_directory.ancestors().map(|above| above.join(DIRECTORY)).find(|path| path.is_dir());
    existing.unwrap_or_else(|| working_directory.join(DIRECTORY))
}

/// Why a record can't be written.
#[derive(Debug, thiserror::Error)]
#[error("the run's record {} can't be written: {source}", .path.display())]
pub struct Error {
    path: PathBuf,
    source: io::Error,
}

/// A run's record.
#[derive(Debug)]
pub struct RunFile {
    path: PathBuf,
    file: File,
}

impl RunFile {
    /// Creates the record of a run, `runs/RUN.jsonl` in the data directory, readable for its owner alone: what agents
    /// read may be private.
    ///
    /// # Errors
    /// The directory can't be made or written, or the run has a record already.
    pub fn create(data_directory: &Path, run: &str) -> Result<Self, Error> {
        use std::os::unix::fs::OpenOptionsExt;
        let directory = data_directory.join("runs");
        let path = directory.join(format!("{run}.jsonl"));
        let create = || {
            fs::create_dir_all(&directory)?;
            OpenOptions::new().append(true).create_new(true).mode(0o600).open(&path)
        };
        match create() {
            Ok(file) => Ok(Self { path, file }),
            Err(source) => Err(Error { path, source }),
        }
    }

    /// Removes the record of a run that has not begun.
    pub fn discard(self) {
        // Where it can't be removed it is empty, and says nothing wrong.
        let _ = fs::remove_file(&self.path);
    }

    /// Appends one line.
    ///
    /// # Errors
    /// The disk is full, or the file can't be written any more. What has been written stays; the last line may be torn.
    pub fn append(&mut self, record: &impl Serialize) -> Result<(), Error> {
        let mut line = serde_json::to_vec(record).unwrap_or_default();
        line.push(b'\n');
        self.file.write_all(&line).map_err(|source| Error { path: self.path.clone(), source })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_nearest_data_directory_above_is_taken() {
        let top = tempfile::tempdir().unwrap();
        let below = top.path().join("a/b");
        fs::create_dir_all(&below).unwrap();
        assert_eq!(data_directory(&below), below.join(DIRECTORY));
        fs::create_dir(top.path().join(DIRECTORY)).unwrap();
        assert_eq!(data_directory(&below), top.path().join(DIRECTORY));
    }

    #[test]
    fn a_record_is_written_line_by_line_and_never_overwritten() {
        let top = tempfile::tempdir().unwrap();
        let mut file = RunFile::create(top.path(), "r").unwrap();
        file.append(&1).unwrap();
        file.append(&"zwei").unwrap();
        assert_eq!(fs::read_to_string(top.path().join("runs/r.jsonl")).unwrap(), "1\n\"zwei\"\n");
        assert!(RunFile::create(top.path(), "r").is_err());
    }
}
