//! What a call would change, and which files it names: for a person who is asked whether it may happen.

use std::fs::{File, Metadata};
use std::io::{self, Read};
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

/// How much of a change is shown, in bytes: more than anybody reads of one call.
const MAX_CHANGE_BYTES: usize = 64 * 1024;

/// How much of a file is read to be shown beside what becomes of it, in bytes: four times what is shown of a change, which is about
/// a part of it.
const MAX_SHOWN_BYTES: u64 = 256 * 1024;

/// How much of all files of a call is read to tell whether they stay the same, in bytes: a second's worth. What is longer is
/// told by what the file system says of it.
pub(super) const MAX_DIGESTED_BYTES: u64 = 256 * 1024 * 1024;

/// How long looking for the lines that stay may take; then those that go and come are shown as they are.
const DIFF: Duration = Duration::from_millis(500);

/// What a call would do, as far as its tool can tell without doing it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Preview {
    /// What would change, for a person to read; none where the arguments say it all.
    pub change: Option<String>,
    /// The files that the call names. A grant holds only while they are as they were when somebody was asked.
    pub files: Vec<NamedFile>,
}

/// A file that a call names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NamedFile {
    /// Where it is.
    pub path: Arc<str>,
    /// The digest of what is in it; none where there is no such file, or it can't be read.
    pub digest: Option<Arc<str>>,
    /// Whether the call is to change it, and not to use it.
    pub is_target: bool,
}

/// A file, as it was looked at.
pub(super) struct Looked {
    /// The digest of what is in it.
    pub(super) digest: Arc<str>,
    /// What is in it, where it is no longer than is shown.
    text: Option<String>,
    bytes: u64,
}

impl Looked {
    /// Looks at a regular file. Reads as much as it has when it is opened, for what only seems to be a file has nothing; and no
    /// more than is `left`, from which it is taken.
    pub(super) fn at(mut file: File, left: &mut u64) -> Self {
        let mut hasher = blake3::Hasher::new();
        let (mut text, mut bytes) = (None, 0);
        let read = file.metadata().and_then(|metadata| {
            bytes = metadata.len();
            let is_read = bytes <= *left;
            *left = left.saturating_sub(bytes);
            match bytes {
                _ if !is_read => {
                    // No file with such a text in it passes for that.
                    hasher = blake3::Hasher::new_derive_key("provost: which file, and in which state");
                    hasher.update(identity(&metadata).as_bytes());
                }
                0..=MAX_SHOWN_BYTES => {
                    let mut shown = Vec::new();
                    (&mut file).take(bytes).read_to_end(&mut shown)?;
                    hasher.update(&shown);
                    text = Some(String::from_utf8_lossy(&shown).into_owned());
                }
                _ => drop(io::copy(&mut (&mut file).take(bytes), &mut hasher)?),
            }
            Ok(())
        });
        if let Err(error) = read {
            // What can't be read is another file once it can.
            hasher.update(error.to_string().as_bytes());
        }
        Self { digest: hasher.finalize().to_hex().as_str().into(), text, bytes }
    }
}

/// Says which file it is, and in which state. Who changes it can't set the time of its last change back; who has it in his
/// memory can change it without.
fn identity(metadata: &Metadata) -> String {
    let (number, changed) = ((metadata.dev(), metadata.ino()), (metadata.ctime(), metadata.ctime_nsec()));
    format!("{number:?} {changed:?} {}", metadata.len())
}

/// Looks at a file that a call is to use; none where there is no regular file. It is named by where it is, whatever links lead
/// there.
pub(super) fn used(path: &Path, left: &mut u64) -> Option<NamedFile> {
    let path = path.canonicalize().ok()?;
    path.metadata().ok().filter(Metadata::is_file)?;
    let digest = File::open(&path).ok().map(|file| Looked::at(file, left).digest);
    Some(NamedFile { path: path.display().to_string().into(), digest, is_target: false })
}

/// Shows how a text becomes another: the lines that go and come, with some around them.
pub(super) fn change(path: &str, before: Option<&Looked>, after: &str) -> String {
    /// How many lines around a change are shown.
    const AROUND: usize = 3;
    let (from, before) = match before {
        None => ("nothing", ""),
        Some(Looked { text: Some(text), .. }) => (path, text.as_str()),
        Some(Looked { bytes, .. }) => return format!("{path}, {bytes} bytes, is replaced by {} bytes", after.len()),
    };
    if after.len() as u64 > MAX_SHOWN_BYTES {
        return format!("{path}, {} bytes, is replaced by {} bytes", before.len(), after.len());
    }
    let diff = similar::TextDiff::configure().timeout(DIFF).diff_lines(before, after);
    let mut text = diff.unified_diff().context_radius(AROUND).header(from, path).to_string();
    if text.is_empty() {
        return format!("{path} stays as it is");
    }
    let whole = text.len();
    if whole > MAX_CHANGE_BYTES {
        text.truncate(text.floor_char_boundary(MAX_CHANGE_BYTES));
        text.push_str(&format!("\n[cut: the first {MAX_CHANGE_BYTES} of {whole} bytes]"));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(text: &str) -> Looked {
        let mut file = tempfile::tempfile().unwrap();
        io::Write::write_all(&mut file, text.as_bytes()).unwrap();
        io::Seek::rewind(&mut file).unwrap();
        Looked::at(file, &mut MAX_DIGESTED_BYTES.clone())
    }

    #[test]
    fn a_change_is_shown_line_by_line_and_not_without_bound() {
        let shown = change("a.txt", Some(&file("one\ntwo\n")), "one\nthree\n");
        assert_eq!(shown, "--- a.txt\n+++ a.txt\n@@ -1,2 +1,2 @@\n one\n-two\n+three\n");
        assert_eq!(change("a.txt", None, "x\n"), "--- nothing\n+++ a.txt\n@@ -0,0 +1 @@\n+x\n");
        assert_eq!(change("a.txt", Some(&file("x\n")), "x\n"), "a.txt stays as it is");
        let long = change("a.txt", None, &"ü\n".repeat(MAX_CHANGE_BYTES));
        assert!(long.len() < MAX_CHANGE_BYTES + 100 && long.contains("[cut: the first 65536 of "), "{}", long.len());
        let longer = "x\n".repeat(MAX_SHOWN_BYTES as usize);
        assert_eq!(change("a.txt", Some(&file(&longer)), "y"), "a.txt, 524288 bytes, is replaced by 1 bytes");
        assert_eq!(change("a.txt", Some(&file("y")), &longer), "a.txt, 1 bytes, is replaced by 524288 bytes");
    }

    #[test]
    fn a_file_is_told_from_any_other_in_time_however_long_it_is() {
        assert_eq!(file("one").digest, file("one").digest);
        assert_ne!(file("one").digest, file("two").digest);
        let sparse = || {
            let file = tempfile::tempfile().unwrap();
            file.set_len(1 << 40).unwrap();
            file
        };
        // Both are there at once: a file that is gone may leave its number to the next one.
        let files = [sparse(), sparse()];
        let [one, other] =
            files.each_ref().map(|file| Looked::at(file.try_clone().unwrap(), &mut MAX_DIGESTED_BYTES.clone()));
        assert!(one.digest != other.digest && one.text.is_none());
    }
}
