//! A file to which lines are only ever added.

use std::fs::{File, OpenOptions};
use std::io::{self, BufRead, BufReader, ErrorKind, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use rustix::fs::{FlockOperation, flock};

/// How long a line may be: a checkpoint has about 450 bytes.
pub(super) const LINE_BYTES: usize = 4096;

/// Adds a line, which is durable when this returns. Half a line at the end, which a crash has left, is cut off first.
///
/// After a crash the line is there whole, or not at all, or is the half that the next call cuts off.
pub(super) fn append(path: &Path, line: &str) -> io::Result<()> {
    let mut file = OpenOptions::new().read(true).append(true).open(path)?;
    // Of several stores that share the file none is to take another's line for half a one.
    flock(&file, FlockOperation::LockExclusive)?;
    let torn = ending(&mut file)?.1;
    if torn > 0 {
        let length = file.metadata()?.len();
        file.set_len(length - torn)?;
    }
    file.write_all(format!("{line}\n").as_bytes())?;
    file.sync_all()
}

/// Makes the file, for its owner only, if it is not there; it is durable when this returns.
pub(super) fn make(path: &Path) -> io::Result<()> {
    match OpenOptions::new().append(true).create_new(true).mode(0o600).open(path) {
        Ok(_) => path.parent().map_or(Ok(()), |parent| File::open(parent)?.sync_all()),
        Err(error) if error.kind() == ErrorKind::AlreadyExists => Ok(()),
        Err(error) => Err(error),
    }
}

/// Returns the last whole line; none where there is none.
pub(super) fn last(path: &Path) -> io::Result<Option<String>> {
    match File::open(path) {
        Ok(mut file) => ending(&mut file).map(|(line, _)| line),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

/// Returns the last whole line, and of how many bytes the half line after it is.
fn ending(file: &mut File) -> io::Result<(Option<String>, u64)> {
    let length = file.metadata()?.len();
    let from = length.saturating_sub(2 * LINE_BYTES as u64);
    file.seek(SeekFrom::Start(from))?;
    let mut bytes = Vec::new();
    file.take(2 * LINE_BYTES as u64).read_to_end(&mut bytes)?;
    let is_end = |byte: &u8| *byte == b'\n';
    let Some(end) = bytes.iter().rposition(is_end) else {
        return match from {
            0 => Ok((None, bytes.len() as u64)),
            _ => Err(io::Error::new(ErrorKind::InvalidData, "it does not end with a line")),
        };
    };
    let begin = bytes[..end].iter().rposition(is_end).map_or(0, |before| before + 1);
    let line = String::from_utf8_lossy(&bytes[begin..end]).into_owned();
    Ok((Some(line), (bytes.len() - end - 1) as u64))
}

/// Gives each whole line to `each`, until that returns false; none where there is no file. Half a line at the end was never
/// said to be there.
pub(super) fn each(path: &Path, each: &mut dyn FnMut(&str) -> bool) -> io::Result<()> {
    let file = match File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(error),
    };
    let (mut file, mut line) = (BufReader::new(file), Vec::new());
    loop {
        line.clear();
        // One byte more than a line may have shows one that is longer; it is given on as far as it was read.
        (&mut file).take(LINE_BYTES as u64 + 1).read_until(b'\n', &mut line)?;
        let is_whole = line.pop_if(|last| *last == b'\n').is_some();
        if !is_whole && line.len() <= LINE_BYTES {
            return Ok(());
        }
        if !each(&String::from_utf8_lossy(&line)) || !is_whole {
            return Ok(());
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    fn lines(path: &Path) -> Vec<String> {
        let mut lines = Vec::new();
        each(path, &mut |line| {
            lines.push(line.to_owned());
            true
        })
        .unwrap();
        lines
    }

    #[test]
    fn wherever_a_crash_tears_a_line_the_others_are_there_and_the_next_follows_them() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("list");
        assert_eq!((lines(&path), last(&path).unwrap()), (vec![], None));
        assert!(append(&path, "nowhere").is_err());
        make(&path).unwrap();
        for line in ["one", "", "three"] {
            append(&path, line).unwrap();
        }
        let whole = fs::read(&path).unwrap();
        assert_eq!(whole, b"one\n\nthree\n");
        for end in 0..=whole.len() {
            fs::write(&path, &whole[..end]).unwrap();
            let mut expected: Vec<String> = ["one", "", "three"].map(str::to_owned).into();
            expected.truncate(whole[..end].iter().filter(|byte| **byte == b'\n').count());
            assert_eq!((lines(&path), last(&path).unwrap()), (expected.clone(), expected.last().cloned()), "{end}");
            append(&path, "next").unwrap();
            expected.push("next".to_owned());
            assert_eq!(lines(&path), expected, "{end}");
        }
    }

    #[test]
    fn a_line_without_an_end_is_not_read_for_ever() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("list");
        fs::write(&path, "x".repeat(10 * LINE_BYTES)).unwrap();
        assert_eq!(lines(&path), ["x".repeat(LINE_BYTES + 1)]);
        assert!(append(&path, "next").is_err() && last(&path).is_err());
    }
}
