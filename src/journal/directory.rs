//! Where state is kept.

use std::path::{Path, PathBuf};

/// The directory in which state is kept where none is named.
const DIRECTORY: &str = ".provost";

/// Returns the data directory for a process that works in `working_directory`: `.provost` in it, or in the nearest
/// directory above it that has one.
pub fn data_directory(working_directory: &Path) -> PathBuf {
    let existing = working_directory.ancestors().map(|above| above.join(DIRECTORY)).find(|path| path.is_dir());
    existing.unwrap_or_else(|| working_directory.join(DIRECTORY))
}

#[cfg(test)]
mod tests {
    use std::fs;

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
}
