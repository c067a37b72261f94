//! Whatever happens to the bytes: what is read is what was written, up to some event, or it is an error.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;

use super::*;

/// What was written: each stream's records, and how far each stream was after each commit.
struct Truth {
    records: BTreeMap<String, Vec<Record>>,
    states: Vec<BTreeMap<String, u64>>,
}

/// How a store's bytes are spread over its files.
#[derive(Clone, Copy, Debug)]
enum Spread {
    /// All of it is in the file.
    File,
    /// All but the empty store is in the log.
    Log,
    /// All of it is in the log, and in the file too.
    Both,
    /// Some of it is in the file, the last of it in the log, and what was in the log before beyond that.
    Reused,
    /// All of it is in the log, and the first of it in the file too, because a reader stood in the way.
    Part,
}

const SPREADS: [Spread; 5] = [Spread::File, Spread::Log, Spread::Both, Spread::Reused, Spread::Part];

/// Writes a small store with everything in it, and copies its files as a `kill -9` would leave them.
async fn written(spread: Spread) -> (TempDir, Truth) {
    let (dir, journal) = journal();
    let mut truth = Truth { records: BTreeMap::new(), states: vec![BTreeMap::new()] };
    let other = outsider(dir.path());
    for commit in 0..10 {
        journal.append(batch(truth.next(commit))).unwrap();
        journal.sync().await.unwrap();
        match spread {
            Spread::Reused if commit == 4 => other.execute_batch("PRAGMA wal_checkpoint = RESTART").unwrap(),
            Spread::Part if commit == 4 => other.execute_batch("BEGIN; SELECT count(*) FROM events").unwrap(),
            _ => {}
        }
    }
    journal.prune(Vec::new(), vec![name("ledger")]).await.unwrap();
    if matches!(spread, Spread::Both | Spread::Part) {
        outsider(dir.path()).execute_batch("PRAGMA wal_checkpoint = PASSIVE").unwrap();
    }
    if matches!(spread, Spread::File) {
        drop((other, journal));
    }
    let copy = tempfile::tempdir().unwrap();
    for file in fs::read_dir(dir.path()).unwrap().map(|file| file.unwrap().file_name()) {
        if file == "provost.db" || file == "provost.db-wal" {
            fs::copy(dir.path().join(&file), copy.path().join(&file)).unwrap();
        }
    }
    (copy, truth)
}

impl Truth {
    /// Two records more for the ledger and for one of two runs, long ones and short ones.
    fn next(&mut self, commit: u64) -> Vec<Part> {
        let mut state = self.states.last().unwrap().clone();
        let parts = ["ledger", if commit.is_multiple_of(2) { "run/a" } else { "run/b" }].map(|stream| {
            let known = self.records.entry(stream.to_owned()).or_default();
            let first = known.len() as u64 + 1;
            known.extend((first..first + 2).map(|seq| Record {
                payload: if seq % 4 == 1 { payload(&format!("{seq}").repeat(1_500)) } else { payload(stream) },
                ..record(seq)
            }));
            state.insert(stream.to_owned(), first + 1);
            Part {
                snapshot: (commit == 5 && stream == "ledger").then(snapshot),
                mark: Some(mark("running", commit > 6, None)),
                ..part(stream, known[first as usize - 1..].to_vec())
            }
        });
        self.states.push(state);
        parts.into()
    }

    /// Reads all there is, and panics where it is not what was written. Returns how far each stream is, if nothing is
    /// said to be wrong with it.
    fn check(&self, directory: &Path, what: &str) -> Option<BTreeMap<String, u64>> {
        let store = Store::open(directory).ok()?;
        let listed = store.streams("").ok();
        let listed = listed.iter().flatten().map(|info| info.name.as_str());
        let names: BTreeSet<&str> = listed.chain(self.records.keys().map(String::as_str)).collect();
        let mut found = Some(BTreeMap::new());
        for stream in names {
            let written = self.records.get(stream).map_or(&[][..], Vec::as_slice);
            if let Ok(Some(found)) = store.snapshot(&name(stream)) {
                assert_eq!((stream, found), ("ledger", snapshot()), "{what}");
            }
            let (from, read) = match store.read(&name(stream), 0, usize::MAX) {
                Err(Error::Pruned { .. }) => (TRIMMED, store.read(&name(stream), TRIMMED, usize::MAX)),
                read => (0, read),
            };
            match read {
                Ok(read) => {
                    assert!(
                        written[(from as usize).min(written.len())..].starts_with(&read),
                        "{what}: {stream} differs"
                    );
                    if let Some(found) = &mut found {
                        found.insert(stream.to_owned(), from + read.len() as u64);
                    }
                }
                Err(Error::NoSuchStream { .. }) => {}
                Err(Error::Damaged { .. } | Error::Foreign { .. } | Error::Io { .. }) => found = None,
                Err(error) => panic!("{what}: {error}"),
            }
        }
        found
    }

    /// The same, and what `verify` says fits: if it finds nothing, what is read is a state that once was.
    /// Returns whether it does.
    fn check_all(&self, directory: &Path, what: &str) -> bool {
        let found = self.check(directory, what);
        let is_whole = verify(directory).is_ok();
        if is_whole {
            let found = found.unwrap_or_else(|| panic!("{what}: `verify` finds nothing, and reading does"));
            assert!(self.states.contains(&found), "{what}: it never stood at {found:?}");
        }
        is_whole
    }
}

/// The ledger's snapshot is at this number, and it is trimmed up to it.
const TRIMMED: u64 = 12;

fn snapshot() -> Snapshot {
    Snapshot { seq: TRIMMED, version: 1, state: payload(&"state".repeat(400)) }
}

/// A number that depends on nothing but what it is asked for.
pub(super) fn draw(of: &str, below: usize) -> usize {
    let hash = blake3::hash(of.as_bytes());
    let first = hash.as_bytes().first_chunk().copied().unwrap();
    (u64::from_le_bytes(first) % below as u64) as usize
}

/// Readers leave an index of the log; the next one is to make its own.
fn forget_index(directory: &Path) {
    let _ = fs::remove_file(directory.join("provost.db-shm"));
}

#[tokio::test]
async fn undamaged_everything_is_there() {
    for spread in SPREADS {
        let (dir, truth) = written(spread).await;
        let found = truth.check(dir.path(), "undamaged");
        assert_eq!(found.as_ref(), truth.states.last(), "{spread:?}");
        verify(dir.path()).unwrap();
        drop(Journal::open(dir.path(), false).unwrap());
        verify(dir.path()).unwrap();
    }
}

/// How often to do something that by default is done few times.
pub(super) fn times(variable: &str, default: usize) -> usize {
    std::env::var(variable).ok().and_then(|times| times.parse().ok()).unwrap_or(default)
}

/// Wherever the log is cut, as a crash or a full disk may, what is read is what had been committed by then. A cut into a
/// log that is also in the file can leave pages of two times; that is told, or is not to be seen.
#[tokio::test]
async fn a_log_that_is_cut_anywhere_gives_what_was_committed_before() {
    const FRAME: usize = 4_096 + 24;
    let every = if times("PROVOST_FLIPS", 0) > 0 { 1 } else { 2_053 };
    for spread in [Spread::Log, Spread::Both, Spread::Reused, Spread::Part] {
        let (dir, truth) = written(spread).await;
        let log = dir.path().join("provost.db-wal");
        let file = fs::File::options().write(true).open(&log).unwrap();
        let length = file.metadata().unwrap().len() as usize;
        let mut heads = truth.states.last().unwrap().clone();
        let is_tried = |cut: &usize| {
            // At a frame's beginning, within and after its header.
            cut.is_multiple_of(every) || *cut <= 32 || matches!((cut - 32) % FRAME, 0 | 1 | 23 | 24)
        };
        for cut in (0..=length).rev().filter(is_tried) {
            file.set_len(cut as u64).unwrap();
            forget_index(dir.path());
            let what = format!("{spread:?} cut at {cut}");
            if !matches!(spread, Spread::Log) {
                truth.check_all(dir.path(), &what);
                continue;
            }
            let found = truth.check(dir.path(), &what).unwrap_or_else(|| panic!("{what}: damaged"));
            assert!(truth.states.contains(&found), "{what}: it never stood at {found:?}");
            assert!(found.iter().all(|(stream, head)| *head <= heads[stream]), "{what}: a shorter log says more");
            heads = found;
        }
        assert!(heads.is_empty() || !matches!(spread, Spread::Log));
    }
}

/// One change of the medium's: mostly a bit, sometimes a few bytes or a sector.
fn damage(bytes: &mut [u8], of: &str) -> String {
    let at = draw(&format!("{of} at"), bytes.len());
    let bit = 1 << draw(&format!("{of} bit"), 8);
    let rest = &mut bytes[at..];
    match draw(&format!("{of} how"), 16) {
        0 => {
            let end = rest.len().min(512);
            rest[..end].fill(0);
        }
        1 | 2 => rest.iter_mut().take(8).for_each(|byte| *byte = !*byte),
        _ => rest[0] ^= bit,
    }
    format!("{of}, at {at}")
}

#[tokio::test]
async fn whatever_bits_flip_nothing_is_read_that_was_not_written() {
    let flips = times("PROVOST_FLIPS", 1_500);
    let mut told = 0;
    for spread in SPREADS {
        let (dir, truth) = written(spread).await;
        let files: Vec<PathBuf> = ["provost.db", "provost.db-wal"].map(|file| dir.path().join(file)).into();
        let files: Vec<_> = files.into_iter().filter_map(|path| Some((fs::read(&path).ok()?, path))).collect();
        for flip in 0..flips / SPREADS.len() {
            let of = format!("{spread:?} {flip}");
            let (whole, path) = &files[draw(&format!("{of} file"), files.len())];
            let mut damaged = whole.clone();
            let what = damage(&mut damaged, &of);
            // In place: a file that is cut and filled anew costs more than all else here.
            let file = fs::File::options().write(true).open(path).unwrap();
            file.write_all_at(&damaged, 0).unwrap();
            forget_index(dir.path());
            let is_whole = truth.check_all(dir.path(), &format!("{what} of {}", path.display()));
            told += usize::from(!is_whole);
            file.write_all_at(whole, 0).unwrap();
        }
        forget_index(dir.path());
        verify(dir.path()).unwrap();
    }
    // The others lie where nothing is, or end the log sooner.
    assert!(told > flips / 10, "only {told} of {flips} were found");
}

/// Changes that somebody makes who knows SQLite but not what our hashes are for: each is found, and reading what it
/// concerns tells.
#[tokio::test]
async fn every_change_by_hand_is_found() {
    let (whole, truth) = written(Spread::File).await;
    let changes = [
        ("UPDATE events SET payload = x'c0' WHERE stream = 2 AND seq = 3", Some("run/a")),
        ("UPDATE events SET agent = 'other' WHERE stream = 2 AND seq = 3", Some("run/a")),
        ("UPDATE events SET cause = NULL WHERE stream = 2 AND seq = 3", Some("run/a")),
        ("UPDATE events SET labels = NULL WHERE stream = 2 AND seq = 4", Some("run/a")),
        ("UPDATE events SET time_ms = time_ms + 1 WHERE stream = 2 AND seq = 3", Some("run/a")),
        ("UPDATE events SET kind = kind || 'x', version = 2 WHERE stream = 2 AND seq = 3", Some("run/a")),
        ("UPDATE events SET hash = zeroblob(32) WHERE stream = 2 AND seq = 10", Some("run/a")),
        ("DELETE FROM events WHERE stream = 2 AND seq = 1", Some("run/a")),
        ("DELETE FROM events WHERE stream = 2 AND seq = 3", Some("run/a")),
        ("DELETE FROM events WHERE stream = 2 AND seq = 10", Some("run/a")),
        ("DELETE FROM events WHERE stream = 2", Some("run/a")),
        ("DELETE FROM events WHERE stream = 2; DELETE FROM streams WHERE id = 2", None),
        (
            "DELETE FROM events WHERE stream = 2 AND seq = 10; UPDATE streams SET head_seq = 9, \
             head_hash = (SELECT hash FROM events WHERE stream = 2 AND seq = 9) WHERE id = 2",
            None,
        ),
        (
            "INSERT INTO events SELECT NULL, stream, 11, time_ms, agent, incarnation, cause, labels, kind, version, \
             payload, hash FROM events WHERE stream = 2 AND seq = 10",
            Some("run/a"),
        ),
        ("UPDATE events SET seq = seq + 1 WHERE stream = 2 AND seq = 10", Some("run/a")),
        ("UPDATE events SET stream = 9 WHERE stream = 2 AND seq = 10", Some("run/a")),
        ("UPDATE streams SET name = 'run/c' WHERE id = 2", None),
        ("UPDATE streams SET head_seq = 8 WHERE id = 2", Some("run/a")),
        ("UPDATE streams SET head_hash = zeroblob(32) WHERE id = 2", Some("run/a")),
        (
            "INSERT INTO streams (name, created_ms, head_seq, head_hash, closed) VALUES ('x', 1, 1, zeroblob(32), 0)",
            None,
        ),
        ("UPDATE commits SET time_ms = 1 WHERE id = 3", None),
        ("UPDATE commits SET epoch = 2 WHERE id = 11", None),
        ("UPDATE commits SET hash = zeroblob(32) WHERE id = 11", None),
        ("DELETE FROM commits WHERE id = 5", None),
        ("DELETE FROM commits WHERE id = 10", None),
        ("DELETE FROM commits", None),
        ("UPDATE commits SET heads = x'00' WHERE id = 3", None),
        ("UPDATE blobs SET bytes = x'00'", Some("run/a")),
        ("DELETE FROM blobs", Some("run/a")),
        ("DELETE FROM blob_refs WHERE stream = 2", None),
        ("INSERT INTO blobs VALUES (x'af1349b9f5f9a1a6a0404dea36dcc9499bcb25c9adc112b7cc9a93cae41f3262', x'')", None),
        ("UPDATE snapshots SET state = x'c0'", None),
        ("DELETE FROM snapshots", None),
        ("UPDATE snapshots SET digest = zeroblob(32)", None),
        ("UPDATE tombstones SET hash = zeroblob(32)", Some("ledger")),
        ("UPDATE tombstones SET upto_seq = 11", Some("ledger")),
        ("UPDATE tombstones SET snapshot_digest = NULL", None),
        ("DELETE FROM tombstones", Some("ledger")),
        ("INSERT INTO tombstones VALUES (2, 10, zeroblob(32), NULL, 1)", Some("run/a")),
        ("DROP TABLE tombstones", None),
        ("DROP INDEX events_by_stream", None),
    ];
    for (change, concerns) in changes {
        let dir = tempfile::tempdir().unwrap();
        fs::copy(whole.path().join("provost.db"), dir.path().join("provost.db")).unwrap();
        outsider(dir.path()).execute_batch(change).unwrap();
        let verified = verify(dir.path());
        assert!(matches!(verified, Err(Error::Damaged { .. })), "{change}: {verified:?}");
        if let Some(stream) = concerns {
            let found = truth.check(dir.path(), change);
            let pruned = Store::open(dir.path()).unwrap().read(&name(stream), 0, 1_000);
            assert!(found.is_none() || matches!(pruned, Err(Error::Pruned { .. })), "{change}: {stream} reads");
        }
    }
}

/// An event that is chained as it must be, by someone who knows how, but that no commit says anything of.
#[tokio::test]
async fn an_event_that_no_commit_knows_is_found() {
    use crate::journal::format::{Columns, Hash, Hasher};

    for stream in ["run/a", "run/forged"] {
        let (dir, _) = written(Spread::File).await;
        let connection = outsider(dir.path());
        let insert = "INSERT OR IGNORE INTO streams (name, created_ms, head_seq, head_hash, closed) \
            VALUES (?1, 1, 0, zeroblob(32), 0)";
        connection.execute(insert, [stream]).unwrap();
        let select = "SELECT id, head_seq, head_hash FROM streams WHERE name = ?1";
        let (id, head, before): (i64, i64, Hash) =
            connection.query_row(select, [stream], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?))).unwrap();
        let forged = Record { labels: Vec::new(), agent: None, cause: None, ..record(head as u64 + 1) };
        let columns = Columns {
            seq: forged.seq,
            time_ms: forged.time_ms,
            agent: None,
            incarnation: forged.incarnation,
            cause: None,
            labels: None,
            kind: &forged.kind,
            version: forged.version,
            payload: &forged.payload,
        };
        let hash = Hasher::default().event(stream, &before, &columns);
        let insert = "INSERT INTO events (stream, seq, time_ms, incarnation, kind, version, payload, hash) \
            VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8)";
        let (seq, time) = (forged.seq as i64, forged.time_ms as i64);
        let row = (id, seq, time, forged.incarnation, &*forged.kind, forged.version, &forged.payload, hash);
        connection.execute(insert, row).unwrap();
        connection.execute("UPDATE streams SET head_seq = ?2, head_hash = ?3 WHERE id = ?1", (id, seq, hash)).unwrap();
        // Reading a stream can't tell: its chain is whole.
        assert_eq!(read(dir.path(), stream).unwrap().last(), Some(&forged));
        assert!(matches!(verify(dir.path()), Err(Error::Damaged { .. })), "{stream}");
    }
}

/// The next holder looks at the end of the store before it goes on.
#[tokio::test]
async fn a_store_whose_end_does_not_hold_is_not_gone_on_with() {
    let (whole, _) = written(Spread::File).await;
    let changes = [
        "DELETE FROM events WHERE stream = 2 AND seq = 10",
        "UPDATE events SET hash = zeroblob(32) WHERE stream = 2 AND seq = 10",
        "UPDATE streams SET head_seq = 9 WHERE id = 2",
        "UPDATE streams SET head_hash = zeroblob(32) WHERE id = 2",
        "DELETE FROM streams WHERE id = 2",
        "DELETE FROM commits WHERE id = 10",
        "UPDATE commits SET epoch = 2 WHERE id = 11",
        "UPDATE commits SET heads = x'00' WHERE id = 3",
    ];
    for change in changes {
        let dir = tempfile::tempdir().unwrap();
        fs::copy(whole.path().join("provost.db"), dir.path().join("provost.db")).unwrap();
        outsider(dir.path()).execute_batch(change).unwrap();
        let opened = Journal::open(dir.path(), false);
        assert!(matches!(opened, Err(Error::Damaged { .. })), "{change}");
        assert_eq!(
            fs::read_dir(dir.path())
                .unwrap()
                .filter(|file| { file.as_ref().unwrap().file_name().to_string_lossy().starts_with("holder") })
                .count(),
            0,
            "{change}"
        );
    }
}
