//! What the room promises, seen from outside of it.

mod checkpoints;
mod damage;
mod exhaustive;
mod golden;
mod open;
mod prune;
mod write;

use std::path::Path;

use tempfile::TempDir;

use super::*;

/// A stream by its name.
pub(super) fn name(text: &str) -> StreamName {
    StreamName::new(text)
}

/// A payload with a text in it.
pub(super) fn payload(text: &str) -> Vec<u8> {
    rmp_serde::to_vec_named(&serde_json::json!({ "text": text, "n": [1, 2, 3] })).unwrap()
}

/// A record that differs from others of other numbers in all that it has.
pub(super) fn record(seq: u64) -> Record {
    Record {
        seq,
        time_ms: 1_700_000_000_000 + seq,
        agent: (!seq.is_multiple_of(3)).then(|| format!("agent-{}", seq % 3).into()),
        incarnation: (seq % 5) as u32,
        cause: (seq > 1).then(|| seq - 1),
        labels: if seq.is_multiple_of(2) { vec!["private".to_owned(), format!("from \"{seq}\"")] } else { Vec::new() },
        kind: "model_called".into(),
        version: 1,
        payload: payload(&format!("record {seq}")),
    }
}

/// The records of some numbers.
pub(super) fn records(seqs: std::ops::RangeInclusive<u64>) -> Vec<Record> {
    seqs.map(record).collect()
}

/// A part that adds records to a stream and nothing else.
pub(super) fn part(stream: &str, records: Vec<Record>) -> Part {
    Part { stream: name(stream), records, mark: None, snapshot: None }
}

/// A mark.
pub(super) fn mark(state: &'static str, closed: bool, summary: Option<&str>) -> Mark {
    Mark { state: state.into(), closed, summary: summary.map(|summary| summary.as_bytes().to_vec()) }
}

/// A batch that nobody waits for.
pub(super) fn batch(parts: Vec<Part>) -> Batch {
    Batch { parts, durable: Vec::new() }
}

/// A directory for a store, and the store, held.
pub(super) fn journal() -> (TempDir, Journal) {
    let dir = tempfile::tempdir().unwrap();
    let journal = Journal::open(dir.path(), false).unwrap();
    (dir, journal)
}

/// All records of a stream.
pub(super) fn read(directory: &Path, stream: &str) -> Result<Vec<Record>, Error> {
    Store::open(directory)?.read(&name(stream), 0, usize::MAX)
}

/// A connection of somebody else's to the store.
pub(super) fn outsider(directory: &Path) -> rusqlite::Connection {
    rusqlite::Connection::open(directory.join("provost.db")).unwrap()
}
