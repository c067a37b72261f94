//! Appending, and what readers see of it.

use std::sync::mpsc;
use std::time::{Duration, Instant};

use super::*;

/// A batch that says on a channel what became of it.
fn waited_for(parts: Vec<Part>) -> (Batch, mpsc::Receiver<Result<(), Error>>) {
    let (said, heard) = mpsc::channel();
    (Batch { parts, durable: vec![Box::new(move |result| said.send(result).unwrap())] }, heard)
}

/// Keeps the writer waiting while the returned connection has its transaction.
fn stall(directory: &Path) -> rusqlite::Connection {
    let outsider = outsider(directory);
    outsider.execute_batch("BEGIN IMMEDIATE").unwrap();
    outsider
}

#[tokio::test]
async fn what_is_appended_is_read_whole_and_in_order() {
    let (dir, journal) = journal();
    journal.append(batch(vec![part("run/a", records(1..=3)), part("ledger", records(1..=1))])).unwrap();
    journal.append(batch(vec![part("run/a", records(4..=5))])).unwrap();
    journal.sync().await.unwrap();
    let store = journal.store().unwrap();
    assert_eq!(store.read(&name("run/a"), 0, usize::MAX).unwrap(), records(1..=5));
    assert_eq!(store.read(&name("run/a"), 2, 2).unwrap(), records(3..=4));
    assert_eq!(store.read(&name("run/a"), 5, 9).unwrap(), []);
    assert_eq!(store.read(&name("run/a"), 77, 9).unwrap(), []);
    assert_eq!(store.read(&name("ledger"), 0, 9).unwrap(), records(1..=1));
    assert!(matches!(store.read(&name("run/b"), 0, 9), Err(Error::NoSuchStream { .. })));
    let verified = verify(dir.path()).unwrap();
    assert_eq!((verified.streams, verified.events), (2, 6));
}

#[tokio::test]
async fn a_record_of_extremes_comes_back_the_same() {
    let (dir, journal) = journal();
    let extreme = Record {
        seq: 1,
        time_ms: u64::MAX,
        agent: Some("".into()),
        incarnation: u32::MAX,
        cause: Some(u64::MAX),
        labels: vec![String::new(), "\u{0}\"\\".to_owned()],
        kind: "".into(),
        version: u16::MAX,
        payload: Vec::new(),
    };
    journal.append(batch(vec![part("", vec![extreme.clone()])])).unwrap();
    journal.close().await.unwrap();
    assert_eq!(read(dir.path(), "").unwrap(), [extreme]);
    verify(dir.path()).unwrap();
}

#[tokio::test]
async fn a_store_goes_on_where_it_ended() {
    let (dir, mut journal) = journal();
    for seq in 1..=30 {
        if seq % 10 == 0 {
            let epoch = journal.epoch();
            journal.clone().close().await.unwrap();
            assert!(matches!(journal.append(Batch::default()), Err(Error::Closed)));
            journal = Journal::open(dir.path(), false).unwrap();
            assert_eq!(journal.epoch(), epoch + 1);
        }
        journal.append(batch(vec![part("run/a", records(seq..=seq))])).unwrap();
        journal.sync().await.unwrap();
    }
    assert_eq!(read(dir.path(), "run/a").unwrap(), records(1..=30));
    assert_eq!(verify(dir.path()).unwrap().commits, 30);
}

#[test]
fn dropping_the_last_clone_writes_what_is_queued() {
    let (dir, journal) = journal();
    let clone = journal.clone();
    journal.append(batch(vec![part("run/a", records(1..=3))])).unwrap();
    drop(journal);
    clone.append(batch(vec![part("run/a", records(4..=4))])).unwrap();
    drop(clone);
    assert_eq!(read(dir.path(), "run/a").unwrap(), records(1..=4));
    Journal::open(dir.path(), false).unwrap();
}

#[test]
fn the_last_clone_may_go_on_the_writers_own_thread() {
    let (dir, journal) = journal();
    let (said, heard) = mpsc::channel();
    let inside = journal.clone();
    let durable: Durable = Box::new(move |result| {
        drop(inside);
        said.send(result).unwrap();
    });
    let stalled = stall(dir.path());
    journal.append(Batch { parts: vec![part("run/a", records(1..=1))], durable: vec![durable] }).unwrap();
    let dropping = std::thread::spawn(move || drop(journal));
    stalled.execute_batch("ROLLBACK").unwrap();
    heard.recv().unwrap().unwrap();
    dropping.join().unwrap();
    assert_eq!(read(dir.path(), "run/a").unwrap(), records(1..=1));
}

#[test]
fn what_is_durable_says_so_in_order_and_is_readable_then() {
    let (dir, journal) = journal();
    let (said, heard) = mpsc::channel();
    for seq in 1..=50 {
        let (directory, said) = (dir.path().to_owned(), said.clone());
        let durable: Durable = Box::new(move |result| {
            let head = Store::open(&directory).unwrap().stream(&name("run/a")).unwrap().head;
            said.send((seq, head, result.is_ok())).unwrap();
        });
        journal.append(Batch { parts: vec![part("run/a", records(seq..=seq))], durable: vec![durable] }).unwrap();
    }
    for seq in 1..=50 {
        let (told, head, is_ok) = heard.recv().unwrap();
        assert!(told == seq && head >= seq && is_ok, "{told} {head}");
    }
}

#[tokio::test]
async fn a_waiter_that_panics_hurts_nobody() {
    let (dir, journal) = journal();
    let parts = vec![part("run/a", records(1..=1))];
    journal.append(Batch { parts, durable: vec![Box::new(|_| panic!("as the test wants it"))] }).unwrap();
    journal.append(batch(vec![part("run/a", records(2..=2))])).unwrap();
    journal.sync().await.unwrap();
    assert_eq!(read(dir.path(), "run/a").unwrap().len(), 2);
}

#[tokio::test]
async fn what_comes_while_the_writer_is_busy_shares_one_commit() {
    let (dir, journal) = journal();
    let stalled = stall(dir.path());
    for seq in 1..=500 {
        journal.append(batch(vec![part("run/a", records(seq..=seq))])).unwrap();
        journal.append(batch(vec![part(&format!("run/{seq}"), records(1..=1))])).unwrap();
    }
    stalled.execute_batch("ROLLBACK").unwrap();
    journal.sync().await.unwrap();
    // What the writer had taken when it was stalled, and the rest.
    assert!(journal.commits() <= 2, "{} commits", journal.commits());
    assert_eq!(verify(dir.path()).unwrap().events, 1_000);
}

#[test]
fn what_nobody_waits_for_is_written_soon_all_the_same() {
    let (dir, journal) = journal();
    journal.append(batch(vec![part("run/a", records(1..=1))])).unwrap();
    journal.append(batch(vec![part("run/a", records(2..=2))])).unwrap();
    let since = Instant::now();
    while read(dir.path(), "run/a").map_or(0, |records| records.len()) < 2 {
        assert!(since.elapsed() < Duration::from_secs(20));
        std::thread::sleep(Duration::from_millis(2));
    }
    assert_eq!(journal.commits(), 1, "they rode together");
}

#[tokio::test]
async fn a_full_queue_makes_its_callers_wait() {
    let (dir, journal) = journal();
    journal.has_room().await;
    let stalled = stall(dir.path());
    for seq in 1..=40 {
        let mut large = record(seq);
        large.payload = vec![0xc1; 1 << 20];
        journal.append(batch(vec![part("run/a", vec![large])])).unwrap();
    }
    let waiting = tokio::time::timeout(Duration::from_millis(50), journal.has_room());
    assert!(waiting.await.is_err(), "there was room");
    stalled.execute_batch("ROLLBACK").unwrap();
    journal.has_room().await;
    assert_eq!(journal.failure().map(|failure| failure.to_string()), None);
}

#[test]
fn a_record_out_of_order_stops_everything_and_leaves_nothing_of_its_batch() {
    let (dir, journal) = journal();
    let (first, durable) = waited_for(vec![part("run/a", records(1..=2))]);
    journal.append(first).unwrap();
    durable.recv().unwrap().unwrap();
    let (wrong, failed) = waited_for(vec![part("run/b", records(1..=1)), part("run/a", records(4..=4))]);
    journal.append(wrong).unwrap();
    let error = failed.recv().unwrap().unwrap_err();
    assert!(matches!(&error, Error::OutOfOrder { stream, seq: 4, head: 2 } if stream == "run/a"), "{error}");
    assert!(matches!(journal.append(batch(vec![part("run/a", records(3..=3))])), Err(Error::OutOfOrder { .. })));
    drop(journal);
    assert_eq!(read(dir.path(), "run/a").unwrap(), records(1..=2));
    assert!(matches!(read(dir.path(), "run/b"), Err(Error::NoSuchStream { .. })));
    verify(dir.path()).unwrap();
}

#[test]
fn a_failed_write_is_told_to_all_who_wait_and_all_who_come_later() {
    let (dir, journal) = journal();
    let stalled = stall(dir.path());
    let waiting = (1..=3).map(|seq| {
        let (batch, heard) = waited_for(vec![part("run/a", records(seq..=seq))]);
        journal.append(batch).unwrap();
        heard
    });
    let waiting: Vec<_> = waiting.collect();
    stalled
        .execute_batch("CREATE TRIGGER no BEFORE INSERT ON events BEGIN SELECT raise(ABORT, 'no'); END; COMMIT")
        .unwrap();
    for heard in waiting {
        assert!(heard.recv().unwrap().is_err());
    }
    assert!(journal.failure().is_some());
    assert!(journal.append(Batch::default()).is_err());
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    runtime.block_on(journal.has_room());
    assert!(runtime.block_on(journal.sync()).is_err());
    assert!(runtime.block_on(journal.prune(Vec::new(), Vec::new())).is_err());
    // Mended or not: it does not go on as if nothing had been.
    outsider(dir.path()).execute_batch("DROP TRIGGER no").unwrap();
    assert!(runtime.block_on(journal.sync()).is_err());
    // It is held until it is closed: something of this process may still be under way.
    assert!(matches!(Journal::open(dir.path(), false), Err(Error::Held { .. })));
    assert!(runtime.block_on(journal.close()).is_err());
    let journal = Journal::open(dir.path(), false).unwrap();
    journal.append(batch(vec![part("run/a", records(1..=1))])).unwrap();
    runtime.block_on(journal.close()).unwrap();
}

#[tokio::test]
async fn a_panic_of_the_writer_is_a_failure() {
    let (dir, journal) = journal();
    let stalled = stall(dir.path());
    journal.append(batch(vec![part("run/a", records(1..=1))])).unwrap();
    journal.panic();
    let (batch, heard) = waited_for(vec![part("run/a", records(2..=2))]);
    journal.append(batch).unwrap();
    stalled.execute_batch("ROLLBACK").unwrap();
    assert!(matches!(heard.recv().unwrap(), Err(Error::Io { .. })));
    assert!(journal.failure().unwrap().to_string().contains("panicked"));
    assert!(journal.close().await.is_err());
    verify(dir.path()).unwrap();
}

#[tokio::test]
async fn marks_say_where_streams_stand() {
    let (_dir, journal) = journal();
    let with = |records, mark| Part { mark: Some(mark), ..part("run/a", records) };
    journal.append(batch(vec![with(records(1..=1), mark("running", false, Some("one")))])).unwrap();
    journal.append(batch(vec![part("run/b", records(1..=2))])).unwrap();
    journal.append(batch(vec![with(Vec::new(), mark("parked", true, None))])).unwrap();
    journal.append(batch(vec![with(records(2..=3), mark("running", false, None))])).unwrap();
    journal.sync().await.unwrap();
    let store = journal.store().unwrap();
    let a = store.stream(&name("run/a")).unwrap();
    let expected = StreamInfo {
        name: name("run/a"),
        created_ms: record(1).time_ms,
        head: 3,
        mark: Some(mark("running", false, Some("one"))),
        pruned: false,
    };
    assert_eq!(a, expected);
    let b = store.stream(&name("run/b")).unwrap();
    assert_eq!(b.created_ms, record(2).time_ms, "a stream may begin with copies of what is older");
    let streams = store.streams("run/").unwrap();
    assert_eq!(
        streams.iter().map(|info| (info.name.as_str(), info.head)).collect::<Vec<_>>(),
        [("run/a", 3), ("run/b", 2)]
    );
    assert_eq!(streams[1].mark, None);
    assert!(store.streams("%").unwrap().is_empty());
    // A mark makes no stream.
    journal.append(batch(vec![Part { mark: Some(mark("x", false, None)), ..part("run/c", Vec::new()) }])).unwrap();
    assert!(matches!(journal.sync().await, Err(Error::NoSuchStream { .. })));
}

#[tokio::test]
async fn a_reader_notices_what_is_committed() {
    let (_dir, journal) = journal();
    let mut store = journal.store().unwrap();
    assert!(!store.has_changed().unwrap());
    journal.append(batch(vec![part("run/a", records(1..=1))])).unwrap();
    journal.sync().await.unwrap();
    assert!(store.has_changed().unwrap());
    assert!(!store.has_changed().unwrap());
    assert_eq!(store.read(&name("run/a"), 0, 9).unwrap().len(), 1);
}

#[tokio::test]
async fn only_the_last_snapshot_is_kept() {
    let (dir, journal) = journal();
    let snapshot = |seq| Snapshot { seq, version: 7, state: payload(&"state ".repeat(1_000 + seq as usize)) };
    for seq in 1..=3 {
        let part = Part { snapshot: Some(snapshot(seq)), ..part("run/a", records(2 * seq - 1..=2 * seq)) };
        journal.append(batch(vec![part])).unwrap();
    }
    journal.sync().await.unwrap();
    let store = journal.store().unwrap();
    assert_eq!(store.snapshot(&name("run/a")).unwrap(), Some(snapshot(3)));
    verify(dir.path()).unwrap();
    // One of what is still to come is a bug of its maker's.
    let part = Part { snapshot: Some(snapshot(99)), ..part("run/a", Vec::new()) };
    journal.append(batch(vec![part])).unwrap();
    assert!(matches!(journal.sync().await, Err(Error::OutOfOrder { seq: 99, .. })));
}

#[tokio::test]
async fn a_long_text_is_kept_once_for_all_streams() {
    let (dir, journal) = journal();
    let text = "a long text ".repeat(10_000);
    for stream in ["run/a", "run/b"] {
        let long = |seq| Record { payload: payload(&text), ..record(seq) };
        journal.append(batch(vec![part(stream, vec![long(1), long(2), record(3)])])).unwrap();
    }
    journal.sync().await.unwrap();
    assert_eq!(read(dir.path(), "run/b").unwrap()[1].payload, payload(&text));
    assert_eq!(verify(dir.path()).unwrap().blobs, 1);
    let longest = "SELECT max(length(payload)) FROM events";
    let longest: i64 = outsider(dir.path()).query_row(longest, (), |row| row.get(0)).unwrap();
    assert!(longest < 200, "{longest}");
}

#[tokio::test]
async fn the_log_does_not_grow_without_bound_though_readers_come_and_go() {
    let (dir, journal) = journal();
    let stores: Vec<_> = (0..3).map(|_| journal.store().unwrap()).collect();
    let text = vec![0xc1; 64 << 10];
    for seq in 1..=4_000 {
        let large = Record { payload: text.clone(), ..record(seq) };
        journal.append(batch(vec![part("run/a", vec![large])])).unwrap();
        if seq % 64 == 0 {
            journal.sync().await.unwrap();
            stores[(seq % 3) as usize].stream(&name("run/a")).unwrap();
        }
    }
    journal.sync().await.unwrap();
    let log = std::fs::metadata(dir.path().join("provost.db-wal")).unwrap().len();
    assert!(log < 128 << 20, "{log}");
}
