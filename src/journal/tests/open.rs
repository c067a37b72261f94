//! Opening: what is no store of ours is left alone, and of those who open at once one gets it.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::sync::{Arc, Barrier};
use std::time::Duration;

use super::*;

/// The files of a directory, and what is in them.
fn contents(directory: &Path) -> BTreeMap<String, Vec<u8>> {
    let entries = fs::read_dir(directory).unwrap().map(|entry| {
        let entry = entry.unwrap();
        (entry.file_name().into_string().unwrap(), fs::read(entry.path()).unwrap_or_default())
    });
    entries.collect()
}

/// Both ways to open find the same fault, and neither changes anything.
fn refused(directory: &Path) -> Error {
    let before = contents(directory);
    let reading = Store::open(directory).err().unwrap();
    let writing = Journal::open(directory, true).err().unwrap();
    assert_eq!(contents(directory), before, "something was changed");
    assert_eq!(reading.to_string(), writing.to_string());
    assert!(verify(directory).is_err());
    writing
}

/// A store that is at rest.
fn closed() -> TempDir {
    let (dir, journal) = journal();
    journal.append(batch(vec![part("run/a", records(1..=5))])).unwrap();
    drop(journal);
    dir
}

#[test]
fn a_store_is_for_its_owner_only() {
    let above = tempfile::tempdir().unwrap();
    let directory = above.path().join("deep/.provost");
    let _journal = Journal::open(&directory, false).unwrap();
    let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode(&directory), 0o700);
    for file in fs::read_dir(&directory).unwrap() {
        let path = file.unwrap().path();
        assert_eq!(mode(&path), 0o600, "{}", path.display());
    }
    let names: Vec<_> = contents(&directory).into_keys().collect();
    assert_eq!(names, ["holder-1.lock", "provost.db", "provost.db-shm", "provost.db-wal"]);
}

#[test]
fn a_store_at_rest_is_one_file() {
    let dir = closed();
    assert_eq!(contents(dir.path()).into_keys().collect::<Vec<_>>(), ["provost.db"]);
}

#[test]
fn where_there_is_no_store_none_is_made_by_reading() {
    let dir = tempfile::tempdir().unwrap();
    assert!(matches!(Store::open(dir.path()), Err(Error::Absent { .. })));
    assert!(matches!(verify(&dir.path().join("nowhere")), Err(Error::Absent { .. })));
    assert!(contents(dir.path()).is_empty());
}

#[test]
fn a_store_of_a_newer_format_is_left_untouched() {
    let dir = closed();
    outsider(dir.path()).execute_batch("PRAGMA user_version = 2").unwrap();
    let error = refused(dir.path());
    assert!(matches!(error, Error::Newer { found: 2, known: 1, .. }), "{error}");
}

#[test]
fn files_of_others_are_left_untouched() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("provost.db");
    fs::write(
        &path,
        "a text that somebody keeps under this name, long enough to be taken for a file of pages".repeat(99),
    )
    .unwrap();
    assert!(matches!(refused(dir.path()), Error::Foreign { .. }));
    fs::remove_file(&path).unwrap();
    rusqlite::Connection::open(&path).unwrap().execute_batch("CREATE TABLE theirs (x)").unwrap();
    assert!(matches!(refused(dir.path()), Error::Foreign { .. }));
    fs::remove_file(&path).unwrap();
    fs::create_dir(&path).unwrap();
    assert!(matches!(refused(dir.path()), Error::Foreign { .. }));
}

#[test]
fn a_file_that_is_cut_is_damaged() {
    let whole = fs::read(closed().path().join("provost.db")).unwrap();
    for length in [0, 1, 15, 16, 50, 99, 100, 101, 511, 512, 4_095] {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("provost.db"), &whole[..length]).unwrap();
        let error = Journal::open(dir.path(), false).err().unwrap();
        assert!(matches!(error, Error::Damaged { .. } | Error::Foreign { .. }), "{length}: {error}");
    }
    for length in (4_096..whole.len()).step_by(512) {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("provost.db"), &whole[..length]).unwrap();
        let error = verify(dir.path()).err().unwrap();
        assert!(matches!(error, Error::Damaged { .. }), "{length}: {error}");
    }
}

#[test]
fn a_log_without_its_file_is_not_given_a_new_one() {
    let (dir, journal) = journal();
    journal.append(batch(vec![part("run/a", records(1..=5))])).unwrap();
    let copy = tempfile::tempdir().unwrap();
    let log = "provost.db-wal";
    while fs::copy(dir.path().join(log), copy.path().join(log)).unwrap() == 0 {}
    assert!(matches!(Journal::open(copy.path(), false), Err(Error::Damaged { .. })));
    assert!(!copy.path().join("provost.db").exists());
}

#[test]
fn what_may_not_be_written_says_so() {
    if rustix::process::geteuid().is_root() {
        // For whom nothing is forbidden.
        return;
    }
    let dir = closed();
    fs::set_permissions(dir.path().join("provost.db"), fs::Permissions::from_mode(0o400)).unwrap();
    assert!(matches!(Journal::open(dir.path(), false), Err(Error::Io { .. })));
    fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o500)).unwrap();
    assert!(matches!(Journal::open(dir.path(), false), Err(Error::Io { .. })));
    let read = read(dir.path(), "run/a");
    fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o700)).unwrap();
    assert!(matches!(read, Ok(_) | Err(Error::Io { .. })));
}

#[test]
fn a_held_store_is_left_alone_and_read() {
    let (dir, journal) = journal();
    journal.append(batch(vec![part("run/a", records(1..=5))])).unwrap();
    for _ in 0..3 {
        let error = Journal::open(dir.path(), false).err().unwrap();
        assert!(matches!(error, Error::Held { pid, .. } if pid == std::process::id()), "{error}");
    }
    assert_eq!(journal.epoch(), 1);
    while read(dir.path(), "run/a").is_err() {}
    assert_eq!(read(dir.path(), "run/a").unwrap(), records(1..=5));
}

#[tokio::test]
async fn who_is_taken_over_writes_nothing_any_more() {
    let (dir, old) = journal();
    old.append(batch(vec![part("run/a", records(1..=2))])).unwrap();
    old.sync().await.unwrap();
    let new = Journal::open(dir.path(), true).unwrap();
    assert_eq!((old.epoch(), new.epoch()), (1, 2));
    old.append(batch(vec![part("run/a", records(3..=4))])).unwrap();
    assert!(matches!(old.sync().await, Err(Error::Fenced { .. })));
    assert!(matches!(old.failure(), Some(Error::Fenced { .. })));
    // The old holder lives, and is holder no more: it is the new one that others find.
    assert!(matches!(Journal::open(dir.path(), false), Err(Error::Held { .. })));
    new.append(batch(vec![part("run/a", records(3..=3))])).unwrap();
    new.sync().await.unwrap();
    new.close().await.unwrap();
    // The new one is gone, and the old one still is no holder.
    let third = Journal::open(dir.path(), false).unwrap();
    assert!(matches!(old.close().await, Err(Error::Fenced { .. })));
    assert!(matches!(Journal::open(dir.path(), false), Err(Error::Held { .. })));
    assert_eq!(third.epoch(), 3);
    assert_eq!(read(dir.path(), "run/a").unwrap(), records(1..=3));
    verify(dir.path()).unwrap();
}

/// Lets several open at once, each after `start`; returns those who did.
fn at_once(directory: &Path, take_over: bool, start: impl FnOnce()) -> Vec<Journal> {
    let barrier = Arc::new(Barrier::new(7));
    let opening: Vec<_> = (0..6)
        .map(|_| {
            let (barrier, directory) = (barrier.clone(), directory.to_owned());
            std::thread::spawn(move || {
                barrier.wait();
                Journal::open(&directory, take_over)
            })
        })
        .collect();
    barrier.wait();
    start();
    let opened = opening.into_iter().filter_map(|opening| match opening.join().unwrap() {
        Ok(journal) => Some(journal),
        Err(Error::Held { .. }) => None,
        Err(error) => panic!("{error}"),
    });
    opened.collect()
}

/// Who finds no store may come to make one when somebody else has made it and writes to it already.
#[test]
fn a_store_that_was_made_meanwhile_is_taken_and_a_log_without_one_is_damage() {
    let (dir, journal) = journal();
    let path = file::path(dir.path());
    journal.append(batch(vec![part("run/a", records(1..=5))])).unwrap();
    let before = contents(dir.path());
    file::make(dir.path(), &path).unwrap();
    assert_eq!(contents(dir.path()).keys().collect::<Vec<_>>(), before.keys().collect::<Vec<_>>());
    drop(journal);
    assert_eq!(read(dir.path(), "run/a").unwrap(), records(1..=5));

    let empty = tempfile::tempdir().unwrap();
    fs::write(empty.path().join("provost.db-wal"), "what is left of a store").unwrap();
    assert!(matches!(Journal::open(empty.path(), false), Err(Error::Damaged { .. })));
}

#[test]
fn of_those_who_open_at_once_one_gets_the_store() {
    for _ in 0..10 {
        let dir = tempfile::tempdir().unwrap();
        for _ in 0..3 {
            assert_eq!(at_once(dir.path(), false, || ()).len(), 1);
        }
    }
}

#[test]
fn of_those_who_take_a_holder_over_at_once_one_does() {
    let (dir, old) = journal();
    let stalled = outsider(dir.path());
    stalled.execute_batch("BEGIN IMMEDIATE").unwrap();
    let taken = at_once(dir.path(), true, || {
        // Until all of them have seen the old holder, and wait for their turn.
        std::thread::sleep(Duration::from_millis(500));
        stalled.execute_batch("ROLLBACK").unwrap();
    });
    assert_eq!(taken.iter().map(Journal::epoch).collect::<Vec<_>>(), [old.epoch() + 1]);
}
