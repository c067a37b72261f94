//! A file to which lines are only ever added.

use std::fs::{File, OpenOptions};
use std::io::{self, BufRead, BufReader, ErrorKind, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use rustix::fs::{FlockOperation, OFlags, flock};
use rustix::io::Errno;

/// How long a line may be: a checkpoint has about 450 bytes.
pub(super) const LINE_BYTES: usize = 4096;

/// How much of the end is looked through for the newest checkpoint: two thousand of them. Those of one store are in their order, but
/// for one that a process wrote late that had been stopped.
pub(super) const TAIL_BYTES: u64 = 1 << 20;

/// How long a file is waited for that somebody has locked. Whoever may read a file can lock it, for as long as they like.
pub(super) const PATIENCE: Duration = Duration::from_secs(3);

/// The pause between two tries.
const PAUSE: Duration = Duration::from_millis(20);

/// Adds a line, which is durable when this returns. Half a line at the end, which a crash has left, is cut off first.
///
/// After a crash the line is there whole, or not at all, or is the half that the next call cuts off.
pub(super) fn append(path: &Path, line: &str) -> io::Result<()> {
    let mut file = open(path, OpenOptions::new().read(true).append(true))?;
    // Of several stores that share the file none is to take another's line for half a one.
    lock(&file)?;
    let torn = ending(&mut file)?;
    if torn > 0 {
        let length = file.metadata()?.len();
        file.set_len(length - torn)?;
    }
    file.write_all(format!("{line}\n").as_bytes())?;
    file.sync_all()
}

/// Opens a regular file, and nothing else: a pipe would be waited for, and a device keeps nothing.
pub(super) fn open(path: &Path, options: &mut OpenOptions) -> io::Result<File> {
    let file = options.custom_flags(OFlags::NONBLOCK.bits().cast_signed()).open(path)?;
    let is_file = file.metadata()?.is_file();
    is_file.then_some(file).ok_or_else(|| io::Error::new(ErrorKind::InvalidInput, "it is no regular file"))
}

fn lock(file: &File) -> io::Result<()> {
    let began = Instant::now();
    loop {
        match flock(file, FlockOperation::NonBlockingLockExclusive) {
            Err(Errno::WOULDBLOCK) if began.elapsed() < PATIENCE => thread::sleep(PAUSE),
            Err(Errno::WOULDBLOCK) => {
                let why = format!("another process has had it locked for {} s", PATIENCE.as_secs());
                return Err(io::Error::new(ErrorKind::TimedOut, why));
            }
            locked => return Ok(locked?),
        }
    }
}

/// Makes the file, for its owner only, if it is not there; it is durable when this returns.
pub(super) fn make(path: &Path) -> io::Result<()> {
    match OpenOptions::new().append(true).create_new(true).mode(0o600).open(path) {
        Ok(_) => path.parent().map_or(Ok(()), |parent| File::open(parent)?.sync_all()),
        Err(error) if error.kind() == ErrorKind::AlreadyExists => Ok(()),
        Err(error) => Err(error),
    }
}

/// Gives the whole lines at the end to `each`; none where there is no file.
pub(super) fn tail(path: &Path, each: &mut dyn FnMut(&str)) -> io::Result<()> {
    let Some(mut file) = found(path)? else { return Ok(()) };
    let from = file.metadata()?.len().saturating_sub(TAIL_BYTES);
    file.seek(SeekFrom::Start(from))?;
    let mut file = BufReader::new(file);
    if from > 0 {
        // It begins within a line.
        skip_line(&mut file)?;
    }
    lines(file, &mut |line| {
        each(line);
        true
    })
}

/// Returns of how many bytes the half line at the end is.
fn ending(file: &mut File) -> io::Result<u64> {
    let length = file.metadata()?.len();
    let from = length.saturating_sub(2 * LINE_BYTES as u64);
    file.seek(SeekFrom::Start(from))?;
    let mut bytes = Vec::new();
    file.take(2 * LINE_BYTES as u64).read_to_end(&mut bytes)?;
    match bytes.iter().rposition(|byte| *byte == b'\n') {
        Some(end) => Ok((bytes.len() - end - 1) as u64),
        None if from == 0 => Ok(bytes.len() as u64),
        None => Err(io::Error::new(ErrorKind::InvalidData, "it does not end with a line")),
    }
}

/// Gives each whole line to `each`, until that returns false; none where there is no file. Half a line at the end was never
/// said to be there.
pub(super) fn each(path: &Path, each: &mut dyn FnMut(&str) -> bool) -> io::Result<()> {
    found(path)?.map_or(Ok(()), |file| lines(BufReader::new(file), each))
}

fn found(path: &Path) -> io::Result<Option<File>> {
    match open(path, OpenOptions::new().read(true)) {
        Ok(file) => Ok(Some(file)),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

fn lines(mut file: impl BufRead, each: &mut dyn FnMut(&str) -> bool) -> io::Result<()> {
    let mut line = Vec::new();
    loop {
        line.clear();
        // One byte more than a line may have shows one that is longer; it is given on as far as it was read.
        (&mut file).take(LINE_BYTES as u64 + 1).read_until(b'\n', &mut line)?;
        let is_whole = line.pop_if(|last| *last == b'\n').is_some();
        if !is_whole && line.len() <= LINE_BYTES {
            return Ok(());
        }
        if !each(&String::from_utf8_lossy(&line)) {
            return Ok(());
        }
        if !is_whole {
            skip_line(&mut file)?;
        }
    }
}

/// Goes on to the next line, however far that is.
fn skip_line(file: &mut impl BufRead) -> io::Result<()> {
    loop {
        let piece = file.fill_buf()?;
        let (end, length) = (piece.iter().position(|byte| *byte == b'\n'), piece.len());
        file.consume(end.map_or(length, |end| end + 1));
        if end.is_some() || length == 0 {
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

    fn last(path: &Path) -> Option<String> {
        let mut last = None;
        tail(path, &mut |line| last = Some(line.to_owned())).unwrap();
        last
    }

    #[test]
    fn wherever_a_crash_tears_a_line_the_others_are_there_and_the_next_follows_them() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("list");
        assert_eq!((lines(&path), last(&path)), (vec![], None));
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
            assert_eq!((lines(&path), last(&path)), (expected.clone(), expected.last().cloned()), "{end}");
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
        assert!(append(&path, "next").is_err());
        // Nor does one in the midst hide those after it.
        fs::write(&path, format!("one\n{}\nthree\n", "x".repeat(3 * TAIL_BYTES as usize))).unwrap();
        assert_eq!(lines(&path), ["one", &"x".repeat(LINE_BYTES + 1), "three"]);
        assert_eq!(last(&path), Some("three".to_owned()));
    }

    #[test]
    fn what_is_no_regular_file_is_not_waited_for() {
        let dir = tempfile::tempdir().unwrap();
        let pipe = dir.path().join("pipe");
        rustix::fs::mkfifoat(rustix::fs::CWD, &pipe, rustix::fs::Mode::RWXU).unwrap();
        for path in [pipe.as_path(), dir.path(), Path::new("/dev/null")] {
            let kind = |error: io::Error| error.kind();
            assert!(append(path, "line").is_err());
            assert!(each(path, &mut |_| true).map_err(kind).is_err(), "{}", path.display());
        }
    }

    #[test]
    fn a_file_that_somebody_has_locked_is_not_waited_for_for_ever() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("list");
        make(&path).unwrap();
        let other = File::open(&path).unwrap();
        flock(&other, FlockOperation::LockExclusive).unwrap();
        assert_eq!(append(&path, "line").unwrap_err().kind(), ErrorKind::TimedOut);
        drop(other);
        append(&path, "line").unwrap();
    }
}
