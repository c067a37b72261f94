//! A store that was once written reads the same for ever, and its bytes are as `docs/journal.md` says.

use std::fs;

use super::*;

/// The store of format 1 that is checked in.
const GOLDEN: &str = "tests/golden/journal/v1/provost.db";

/// The hash of its last commit.
const HEAD: &str = "9d11ee0cb2a44049647ae1bb2f8d36813b935da686af8ba46873bfbd1d7b1643";

fn long(seq: u64) -> Record {
    Record { payload: payload(&format!("record {seq} is long; ").repeat(100)), ..record(seq) }
}

fn snapshot() -> Snapshot {
    Snapshot { seq: 4, version: 3, state: payload(&"folded ".repeat(300)) }
}

/// What was written into it.
fn contents() -> Vec<Part> {
    vec![
        Part { mark: Some(mark("running", false, None)), ..part("run/a", vec![record(1), long(2)]) },
        Part { snapshot: Some(snapshot()), ..part("ledger", vec![record(1), long(2), record(3), record(4), long(5)]) },
        Part { mark: Some(mark("done", true, Some("gone"))), ..part("run/b", vec![long(1), record(2)]) },
        Part { mark: Some(mark("done", true, Some("kept"))), ..part("run/a", vec![record(3), long(4)]) },
    ]
}

/// A copy, because SQLite makes files beside what it reads.
fn copy() -> TempDir {
    let dir = tempfile::tempdir().unwrap();
    fs::copy(GOLDEN, dir.path().join("provost.db")).unwrap();
    dir
}

/// Made it; a store of another format gets a directory of its own.
#[tokio::test]
#[ignore = "it has been written, once and for all"]
async fn write_the_golden_store() {
    let (dir, journal) = journal();
    for part in contents() {
        journal.append(batch(vec![part])).unwrap();
        journal.sync().await.unwrap();
    }
    journal.prune(vec![name("run/b")], vec![name("ledger")]).await.unwrap();
    journal.close().await.unwrap();
    fs::create_dir_all(Path::new(GOLDEN).parent().unwrap()).unwrap();
    fs::copy(dir.path().join("provost.db"), GOLDEN).unwrap();
    println!("{}", verify(dir.path()).unwrap().head);
}

#[test]
fn the_golden_store_reads_as_it_was_written() {
    let dir = copy();
    let store = Store::open(dir.path()).unwrap();
    assert_eq!(store.read(&name("run/a"), 0, 99).unwrap(), [record(1), long(2), record(3), long(4)]);
    assert_eq!(store.read(&name("ledger"), 4, 99).unwrap(), [long(5)]);
    assert_eq!(store.snapshot(&name("ledger")).unwrap(), Some(snapshot()));
    assert!(matches!(store.read(&name("run/b"), 0, 99), Err(Error::Pruned { .. })));
    let mark = |stream: &str| store.stream(&name(stream)).unwrap().mark;
    assert_eq!(mark("run/a"), Some(super::mark("done", true, Some("kept"))));
    assert_eq!(mark("run/b"), Some(super::mark("done", true, Some("gone"))));
    let verified = verify(dir.path()).unwrap();
    let expected = Verified { streams: 3, events: 5, commits: 5, blobs: 4, tombstones: 2, head: HEAD.to_owned() };
    assert_eq!(verified, expected);
}

#[tokio::test]
async fn the_golden_store_can_be_gone_on_with() {
    let dir = copy();
    let journal = Journal::open(dir.path(), false).unwrap();
    journal.append(batch(vec![part("run/a", vec![record(5)]), part("ledger", vec![record(6)])])).unwrap();
    journal.close().await.unwrap();
    assert_eq!(read(dir.path(), "run/a").unwrap()[4], record(5));
    verify(dir.path()).unwrap();
}

/// A field of the list that is hashed, by the letter of `docs/journal.md`.
fn field(list: &mut Vec<u8>, value: rusqlite::types::ValueRef<'_>) {
    use rusqlite::types::ValueRef;

    let integer;
    let bytes = match value {
        ValueRef::Null => return list.extend([0xff; 4]),
        ValueRef::Integer(value) => {
            integer = value.to_le_bytes();
            &integer
        }
        ValueRef::Text(bytes) | ValueRef::Blob(bytes) => bytes,
        ValueRef::Real(_) => panic!("there are none"),
    };
    list.extend((bytes.len() as u32).to_le_bytes());
    list.extend(bytes);
}

/// Each row's columns but the last, hashed after `domain`; the last is that hash.
fn follows(connection: &rusqlite::Connection, domain: &str, select: &str) -> usize {
    let mut select = connection.prepare(select).unwrap();
    let columns = select.column_count();
    let mut rows = select.query(()).unwrap();
    let mut checked = 0;
    while let Some(row) = rows.next().unwrap() {
        let mut list = Vec::new();
        field(&mut list, rusqlite::types::ValueRef::Text(domain.as_bytes()));
        (0..columns - 1).for_each(|column| field(&mut list, row.get_ref(column).unwrap()));
        let stored: [u8; 32] = row.get(columns - 1).unwrap();
        assert_eq!(*blake3::hash(&list).as_bytes(), stored, "{domain}");
        checked += 1;
    }
    checked
}

#[test]
fn the_bytes_are_as_the_document_says() {
    let dir = copy();
    let connection = outsider(dir.path());
    let events = "SELECT name, coalesce(
            (SELECT hash FROM events before WHERE before.stream = events.stream AND before.seq = events.seq - 1),
            (SELECT hash FROM tombstones WHERE stream = events.stream), zeroblob(32)
        ), seq, time_ms, agent, incarnation, cause, labels, kind, version, payload, hash
        FROM events JOIN streams ON streams.id = events.stream";
    assert_eq!(follows(&connection, "provost event 1", events), 5);
    let commits = "SELECT coalesce((SELECT hash FROM commits before WHERE before.id = commits.id - 1), zeroblob(32)),
        id, epoch, time_ms, heads, hash FROM commits";
    assert_eq!(follows(&connection, "provost commit 1", commits), 5);
    let snapshots = "SELECT name, hash, seq, version, snapshots.state, digest FROM snapshots
        JOIN tombstones USING (stream) JOIN streams ON streams.id = snapshots.stream";
    assert_eq!(follows(&connection, "provost snapshot 1", snapshots), 1);
    let pragma = |name: &str| connection.query_row(&format!("PRAGMA {name}"), (), |row| row.get::<_, i64>(0)).unwrap();
    assert_eq!((pragma("application_id"), pragma("user_version")), (0x5072_6f76, 1));
}
