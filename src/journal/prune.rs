//! Removing records that are no longer wanted.

use std::collections::HashSet;

use super::blob::references;
use super::commit::{Writer, now_ms};
use super::format::{Hash, Hasher};
use super::heads::Tombstone;
use super::rows::{self, SnapshotRow};
use super::{Error, Pruned, StreamName};

impl Writer<'_> {
    /// Removes the records of `streams`, which must be closed, and those of `trim` up to their snapshots.
    pub(super) fn prune(&mut self, streams: &[StreamName], trim: &[StreamName]) -> Result<Pruned, Error> {
        self.begin()?;
        let mut pruned = Pruned::default();
        for stream in streams {
            let removed = self.prune_stream(stream, &mut pruned).map_err(|source| self.failed(source))?;
            self.leave(stream, removed, &mut pruned)?;
        }
        for stream in trim {
            let removed = self.trim_stream(stream, &mut pruned).map_err(|source| self.failed(source))?;
            self.leave(stream, removed, &mut pruned)?;
        }
        self.commit()?;
        Ok(pruned)
    }

    /// Leaves the tombstone of what has been removed, in its table and in the commit.
    fn leave(
        &mut self,
        stream: &StreamName,
        removed: Option<(i64, Tombstone)>,
        pruned: &mut Pruned,
    ) -> Result<(), Error> {
        let Some((id, tombstone)) = removed else { return Ok(()) };
        let insert = "INSERT OR REPLACE INTO tombstones (stream, upto_seq, hash, snapshot_digest, time_ms)
            VALUES (?1, ?2, ?3, ?4, ?5)";
        let Tombstone { upto, hash, snapshot } = tombstone;
        let row = (id, upto.cast_signed(), hash, snapshot, now_ms().cast_signed());
        self.connection.execute(insert, row).map_err(|source| self.failed(source))?;
        self.say_tombstone(stream, &tombstone);
        pruned.streams += 1;
        Ok(())
    }

    fn prune_stream(&self, stream: &StreamName, pruned: &mut Pruned) -> rusqlite::Result<Option<(i64, Tombstone)>> {
        let Some(row) = rows::stream(self.connection, stream.as_str())? else { return Ok(None) };
        let is_closed = "SELECT closed FROM streams WHERE id = ?1";
        let is_closed = self.connection.query_row(is_closed, [row.id], |row| row.get::<_, bool>(0))?;
        let tombstone = Tombstone { upto: row.head, hash: row.hash, snapshot: None };
        if !is_closed || row.head == 0 || rows::tombstone(self.connection, row.id)? == Some(tombstone) {
            return Ok(None);
        }
        pruned.events += self.connection.execute("DELETE FROM events WHERE stream = ?1", [row.id])? as u64;
        self.connection.execute("DELETE FROM snapshots WHERE stream = ?1", [row.id])?;
        pruned.blobs += self.release_blobs(row.id, &HashSet::new())?;
        Ok(Some((row.id, tombstone)))
    }

    fn trim_stream(&self, stream: &StreamName, pruned: &mut Pruned) -> rusqlite::Result<Option<(i64, Tombstone)>> {
        let Some(row) = rows::stream(self.connection, stream.as_str())? else { return Ok(None) };
        let Some(snapshot) = SnapshotRow::find(self.connection, row.id)? else { return Ok(None) };
        let Some(hash) = rows::event_hash(self.connection, row.id, snapshot.seq)? else { return Ok(None) };
        if Hasher::default().snapshot(stream.as_str(), &hash, &snapshot.columns()) != snapshot.digest {
            return Ok(None);
        }
        let delete = "DELETE FROM events WHERE stream = ?1 AND seq <= ?2";
        pruned.events += self.connection.execute(delete, (row.id, snapshot.seq.cast_signed()))? as u64;
        let mut kept = HashSet::new();
        keep(&snapshot.state, &mut kept);
        let mut left = self.connection.prepare("SELECT payload FROM events WHERE stream = ?1")?;
        let mut left = left.query([row.id])?;
        while let Some(event) = left.next()? {
            keep(event.get_ref(0)?.as_blob()?, &mut kept);
        }
        pruned.blobs += self.release_blobs(row.id, &kept)?;
        Ok(Some((row.id, Tombstone { upto: snapshot.seq, hash, snapshot: Some(snapshot.digest) })))
    }

    /// Removes a stream's references but for those that are kept, and the blobs that nothing refers to then.
    fn release_blobs(&self, stream: i64, kept: &HashSet<Hash>) -> rusqlite::Result<u64> {
        let mut select = self.connection.prepare("SELECT hash FROM blob_refs WHERE stream = ?1")?;
        let referred = select.query_map([stream], |row| row.get(0))?.collect::<rusqlite::Result<Vec<Hash>>>()?;
        let mut release = self.connection.prepare("DELETE FROM blob_refs WHERE stream = ?1 AND hash = ?2")?;
        let mut remove = self.connection.prepare(
            "DELETE FROM blobs WHERE hash = ?1 AND NOT EXISTS (SELECT 1 FROM blob_refs WHERE blob_refs.hash = ?1)",
        )?;
        let mut removed = 0;
        for hash in referred.iter().filter(|hash| !kept.contains(*hash)) {
            release.execute((stream, hash))?;
            removed += remove.execute([hash])? as u64;
        }
        Ok(removed)
    }
}

fn keep(stored: &[u8], kept: &mut HashSet<Hash>) {
    // What is malformed can't be read later either; `verify` tells.
    kept.extend(references(stored).unwrap_or_default().into_iter().map(|(_, reference)| reference.hash));
}
