//! Rows, as several parts of the room look them up.

use rusqlite::{Connection, OptionalExtension, Result, Row};

use super::format::{CommitColumns, GENESIS, Hash, SnapshotColumns};
use super::heads::Tombstone;
use super::notary::Standing;

/// A stream's number and head.
#[derive(Clone, Copy, Debug)]
pub(super) struct StreamRow {
    pub(super) id: i64,
    pub(super) head: u64,
    pub(super) hash: Hash,
}

/// Looks for a stream by its name.
pub(super) fn stream(connection: &Connection, name: &str) -> Result<Option<StreamRow>> {
    let select = "SELECT id, head_seq, head_hash FROM streams WHERE name = ?1";
    let found = connection
        .prepare_cached(select)?
        .query_row([name], |row| Ok(StreamRow { id: row.get(0)?, head: number(row, 1)?, hash: row.get(2)? }));
    found.optional()
}

/// Looks for an event's hash.
pub(super) fn event_hash(connection: &Connection, stream: i64, seq: u64) -> Result<Option<Hash>> {
    let select = "SELECT hash FROM events WHERE stream = ?1 AND seq = ?2";
    connection.prepare_cached(select)?.query_row((stream, seq.cast_signed()), |row| row.get(0)).optional()
}

/// Looks for a stream's tombstone.
pub(super) fn tombstone(connection: &Connection, stream: i64) -> Result<Option<Tombstone>> {
    let select = "SELECT upto_seq, hash, snapshot_digest FROM tombstones WHERE stream = ?1";
    let found = connection
        .prepare_cached(select)?
        .query_row([stream], |row| Ok(Tombstone { upto: number(row, 0)?, hash: row.get(1)?, snapshot: row.get(2)? }));
    found.optional()
}

/// Returns the hash of a stream's chain at a number: of the event, or where that has been pruned, of the tombstone.
pub(super) fn chain_hash(connection: &Connection, stream: i64, seq: u64) -> Result<Option<Hash>> {
    if seq == 0 {
        return Ok(Some(GENESIS));
    }
    match event_hash(connection, stream, seq)? {
        Some(hash) => Ok(Some(hash)),
        None => Ok(tombstone(connection, stream)?.filter(|tombstone| tombstone.upto == seq).map(|found| found.hash)),
    }
}

/// A commit, as it is stored.
pub(super) struct CommitRow {
    pub(super) id: u64,
    pub(super) epoch: u64,
    pub(super) time_ms: u64,
    pub(super) heads: Vec<u8>,
    pub(super) hash: Hash,
}

/// The columns that [`CommitRow::read`] reads.
pub(super) const COMMIT_COLUMNS: &str = "id, epoch, time_ms, heads, hash";

impl CommitRow {
    /// Reads a row of [`COMMIT_COLUMNS`].
    pub(super) fn read(row: &Row<'_>) -> Result<Self> {
        Ok(Self {
            id: number(row, 0)?,
            epoch: number(row, 1)?,
            time_ms: number(row, 2)?,
            heads: row.get(3)?,
            hash: row.get(4)?,
        })
    }

    /// Returns what the commit's hash covers.
    pub(super) fn columns(&self) -> CommitColumns<'_> {
        CommitColumns { id: self.id, epoch: self.epoch, time_ms: self.time_ms, heads: &self.heads }
    }
}

/// Looks for a commit's hash.
pub(super) fn commit_hash(connection: &Connection, id: u64) -> Result<Option<Hash>> {
    let select = "SELECT hash FROM commits WHERE id = ?1";
    connection.prepare_cached(select)?.query_row([id.cast_signed()], |row| row.get(0)).optional()
}

/// Looks how the store stands; none as long as it has no commits.
pub(super) fn standing(connection: &Connection) -> Result<Option<Standing>> {
    let last = "SELECT id, hash FROM commits ORDER BY id DESC LIMIT 1";
    let last = connection.query_row(last, (), |row| Ok((number(row, 0)?, row.get(1)?))).optional()?;
    let Some((size, root)) = last else { return Ok(None) };
    Ok(commit_hash(connection, 1)?.map(|store| Standing { store, size, root }))
}

/// A snapshot, as it is stored.
pub(super) struct SnapshotRow {
    pub(super) seq: u64,
    pub(super) version: u16,
    pub(super) state: Vec<u8>,
    pub(super) digest: Hash,
}

impl SnapshotRow {
    /// Looks for a stream's snapshot.
    pub(super) fn find(connection: &Connection, stream: i64) -> Result<Option<Self>> {
        let select = "SELECT seq, version, state, digest FROM snapshots WHERE stream = ?1";
        let found = connection.prepare_cached(select)?.query_row([stream], |row| {
            Ok(Self { seq: number(row, 0)?, version: row.get(1)?, state: row.get(2)?, digest: row.get(3)? })
        });
        found.optional()
    }

    /// Returns what the snapshot's digest covers.
    pub(super) fn columns(&self) -> SnapshotColumns<'_> {
        SnapshotColumns { seq: self.seq, version: self.version, state: &self.state }
    }
}

/// Looks for a blob's bytes.
pub(super) fn blob(connection: &Connection, hash: &Hash) -> Result<Option<Vec<u8>>> {
    connection.prepare_cached("SELECT bytes FROM blobs WHERE hash = ?1")?.query_row([hash], |row| row.get(0)).optional()
}

/// Reads a number. SQLite's are signed, ours are not; the bits are the same.
pub(super) fn number(row: &Row<'_>, column: usize) -> Result<u64> {
    row.get::<_, i64>(column).map(i64::cast_unsigned)
}
