//! Removing what is no longer wanted.

use super::*;

fn long(seq: u64, text: &str) -> Record {
    Record { payload: payload(&text.repeat(2_000)), ..record(seq) }
}

/// A closed run and an open one that share a text, each with one of its own, and a ledger with a snapshot at 3.
fn store() -> (TempDir, Journal) {
    let (dir, journal) = journal();
    let closed =
        Part { mark: Some(mark("done", true, Some("sum"))), ..part("run/a", vec![long(1, "both"), long(2, "a")]) };
    let open = Part { mark: Some(mark("running", false, None)), ..part("run/b", vec![long(1, "both"), long(2, "b")]) };
    let snapshot = Snapshot { seq: 3, version: 1, state: payload(&"state".repeat(2_000)) };
    let ledger = vec![long(1, "old"), record(2), record(3), long(4, "new")];
    let ledger = Part { snapshot: Some(snapshot), ..part("ledger", ledger) };
    journal.append(batch(vec![closed, open, ledger])).unwrap();
    (dir, journal)
}

#[tokio::test]
async fn a_closed_stream_leaves_a_tombstone_and_an_open_one_is_left_alone() {
    let (dir, journal) = store();
    let asked = vec![name("run/a"), name("run/b"), name("run/none")];
    let pruned = journal.prune(asked.clone(), Vec::new()).await.unwrap();
    assert_eq!(pruned, Pruned { streams: 1, events: 2, blobs: 1 });
    assert!(matches!(read(dir.path(), "run/a"), Err(Error::Pruned { .. })));
    assert_eq!(read(dir.path(), "run/b").unwrap(), [long(1, "both"), long(2, "b")]);
    let store = journal.store().unwrap();
    let info = store.stream(&name("run/a")).unwrap();
    assert_eq!((info.head, info.pruned, info.mark), (2, true, Some(mark("done", true, Some("sum")))));
    assert!(!store.stream(&name("run/b")).unwrap().pruned);
    assert_eq!(store.snapshot(&name("run/a")).unwrap(), None);
    assert_eq!(verify(dir.path()).unwrap().tombstones, 1);
    assert_eq!(journal.prune(asked, Vec::new()).await.unwrap(), Pruned::default());
    verify(dir.path()).unwrap();
}

#[tokio::test]
async fn a_pruned_stream_can_go_on() {
    let (dir, journal) = store();
    journal.prune(vec![name("run/a")], Vec::new()).await.unwrap();
    journal.append(batch(vec![part("run/a", records(3..=4))])).unwrap();
    journal.sync().await.unwrap();
    let store = journal.store().unwrap();
    assert!(matches!(store.read(&name("run/a"), 1, 9), Err(Error::Pruned { .. })));
    assert_eq!(store.read(&name("run/a"), 2, 9).unwrap(), records(3..=4));
    verify(dir.path()).unwrap();
}

#[tokio::test]
async fn a_trimmed_stream_is_its_snapshot_and_what_came_after() {
    let (dir, journal) = store();
    let pruned = journal.prune(Vec::new(), vec![name("ledger"), name("run/b")]).await.unwrap();
    assert_eq!(pruned, Pruned { streams: 1, events: 3, blobs: 1 });
    let store = journal.store().unwrap();
    for after in 0..3 {
        assert!(matches!(store.read(&name("ledger"), after, 9), Err(Error::Pruned { .. })));
    }
    assert_eq!(store.read(&name("ledger"), 3, 9).unwrap(), [long(4, "new")]);
    assert_eq!(store.snapshot(&name("ledger")).unwrap().unwrap().seq, 3);
    assert!(!store.stream(&name("ledger")).unwrap().pruned);
    verify(dir.path()).unwrap();
    // A later snapshot takes the place of the one that the tombstone names, and may be trimmed to in its turn.
    let snapshot = Snapshot { seq: 6, version: 1, state: payload("later") };
    let part = Part { snapshot: Some(snapshot.clone()), ..part("ledger", records(5..=6)) };
    journal.append(batch(vec![part])).unwrap();
    journal.sync().await.unwrap();
    assert_eq!(store.snapshot(&name("ledger")).unwrap(), Some(snapshot.clone()));
    verify(dir.path()).unwrap();
    let pruned = journal.prune(Vec::new(), vec![name("ledger")]).await.unwrap();
    assert_eq!(pruned, Pruned { streams: 1, events: 3, blobs: 2 });
    assert_eq!(store.read(&name("ledger"), 6, 9).unwrap(), []);
    assert_eq!(store.snapshot(&name("ledger")).unwrap(), Some(snapshot));
    verify(dir.path()).unwrap();
    drop(journal);
    Journal::open(dir.path(), false).unwrap();
}

#[tokio::test]
async fn a_snapshot_that_does_not_check_is_none_until_it_is_all_there_is() {
    let (dir, journal) = store();
    journal.sync().await.unwrap();
    let spoil = "UPDATE snapshots SET version = version + 1";
    outsider(dir.path()).execute_batch(spoil).unwrap();
    let store = journal.store().unwrap();
    assert_eq!(store.snapshot(&name("ledger")).unwrap(), None);
    assert!(matches!(verify(dir.path()), Err(Error::Damaged { .. })));
    assert_eq!(journal.prune(Vec::new(), vec![name("ledger")]).await.unwrap(), Pruned::default());
    outsider(dir.path()).execute_batch("UPDATE snapshots SET version = version - 1").unwrap();
    journal.prune(Vec::new(), vec![name("ledger")]).await.unwrap();
    outsider(dir.path()).execute_batch(spoil).unwrap();
    assert!(matches!(store.snapshot(&name("ledger")), Err(Error::Damaged { .. })));
    outsider(dir.path()).execute_batch("DELETE FROM snapshots").unwrap();
    assert!(matches!(store.snapshot(&name("ledger")), Err(Error::Damaged { .. })));
    assert!(matches!(verify(dir.path()), Err(Error::Damaged { .. })));
}

#[tokio::test]
async fn what_is_pruned_after_it_was_appended_is_in_order() {
    let (dir, journal) = journal();
    let closed = |stream: &str| Part { mark: Some(mark("done", true, None)), ..part(stream, records(1..=2)) };
    journal.append(batch(vec![closed("run/a")])).unwrap();
    let pruning = journal.prune(vec![name("run/a"), name("run/b")], Vec::new());
    let (pruned, ()) = tokio::join!(pruning, async {
        journal.append(batch(vec![closed("run/b")])).unwrap();
    });
    assert_eq!(pruned.unwrap(), Pruned { streams: 1, events: 2, blobs: 0 });
    journal.sync().await.unwrap();
    assert_eq!(read(dir.path(), "run/b").unwrap(), records(1..=2));
}
