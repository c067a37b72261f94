//! The transaction that makes what was queued durable.

use std::collections::HashMap;
use std::path::Path;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rusqlite::{Connection, Statement};

use super::file::BUSY;
use super::format::{Columns, CommitColumns, GENESIS, Hash, Hasher, SnapshotColumns};
use super::heads::{Encoder, Tombstone};
use super::notary::Standing;
use super::queue::{Prepared, PreparedPart, Queue, Work, tell};
use super::rows::{self, StreamRow};
use super::{Error, Mark, Record, Snapshot, StreamName};
use crate::fault::{self, Bug};

/// So many streams' heads are kept in memory, about 200 bytes each; beyond, they are looked up again.
const HEADS_KEPT: usize = 1 << 16;

/// Once the log has so many pages (32 MiB), its contents are moved to the main file.
const CHECKPOINT_PAGES: i64 = 8 << 10;

/// Once it has so many, because readers are in the way, the writer waits for them a little.
const LOG_MOST_PAGES: i64 = 8 * CHECKPOINT_PAGES;

/// How long it waits for them.
const READERS: Duration = Duration::from_millis(100);

/// The statements that every commit needs, prepared once.
struct Statements<'c> {
    begin: Statement<'c>,
    commit: Statement<'c>,
    epoch: Statement<'c>,
    event: Statement<'c>,
    stream: Statement<'c>,
    head: Statement<'c>,
    mark: Statement<'c>,
    blob: Statement<'c>,
    has_blob: Statement<'c>,
    blob_ref: Statement<'c>,
    snapshot: Statement<'c>,
    commit_row: Statement<'c>,
    log_pages: Statement<'c>,
}

impl<'c> Statements<'c> {
    fn new(connection: &'c Connection) -> rusqlite::Result<Self> {
        let prepare = |sql| connection.prepare(sql);
        Ok(Self {
            begin: prepare("BEGIN IMMEDIATE")?,
            commit: prepare("COMMIT")?,
            epoch: prepare("SELECT epoch FROM holder")?,
            event: prepare(
                "INSERT INTO events (stream, seq, time_ms, agent, incarnation, cause, labels, kind, version, payload, hash)
                 VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11)",
            )?,
            stream: prepare(
                "INSERT INTO streams (name, created_ms, head_seq, head_hash, closed) VALUES (?1, ?2, 0, ?3, 0)",
            )?,
            head: prepare("UPDATE streams SET head_seq = ?2, head_hash = ?3 WHERE id = ?1")?,
            mark: prepare(
                "UPDATE streams SET state = ?2, closed = ?3, summary = coalesce(?4, summary) WHERE id = ?1",
            )?,
            blob: prepare("INSERT INTO blobs (hash, bytes) VALUES (?1, ?2)")?,
            has_blob: prepare("SELECT 1 FROM blobs WHERE hash = ?1")?,
            blob_ref: prepare("INSERT OR IGNORE INTO blob_refs (stream, hash) VALUES (?1, ?2)")?,
            snapshot: prepare(
                "INSERT OR REPLACE INTO snapshots (stream, seq, version, state, digest) VALUES (?1, ?2, ?3, ?4, ?5)",
            )?,
            commit_row: prepare("INSERT INTO commits (id, epoch, time_ms, heads, hash) VALUES (?1, ?2, ?3, ?4, ?5)")?,
            log_pages: prepare("PRAGMA wal_checkpoint = NOOP")?,
        })
    }
}

/// Where a stream stands, as the writer knows it.
#[derive(Clone, Copy)]
struct Head {
    row: StreamRow,
    /// The commit that has moved it last.
    moved_in: u64,
}

/// The writer of a store. After an error it must not be used any more: what it knows may not be what is stored.
pub(super) struct Writer<'c> {
    pub(super) connection: &'c Connection,
    pub(super) path: &'c Path,
    sql: Statements<'c>,
    epoch: u64,
    /// The last commit and its hash.
    last: (u64, Hash),
    /// The first commit's hash.
    first: Option<Hash>,
    heads: HashMap<StreamName, Head>,
    /// The streams that this commit has moved, in their order.
    moved: Vec<StreamName>,
    /// The streams that this commit has closed: they are not kept in memory.
    closed: Vec<StreamName>,
    said: Encoder,
    hasher: Hasher,
    labels: Vec<u8>,
    /// How many pages the log has when its contents are next moved.
    checkpoint_at: i64,
}

impl<'c> Writer<'c> {
    /// Begins where the store stands.
    pub(super) fn new(connection: &'c Connection, path: &'c Path, epoch: u64) -> Result<Self, Error> {
        let begin = || {
            let standing = rows::standing(connection)?;
            let last = standing.map_or((0, GENESIS), |standing| (standing.size, standing.root));
            Ok((Statements::new(connection)?, last, standing.map(|standing| standing.store)))
        };
        let (sql, last, first) = begin().map_err(|source| Error::sqlite(path, "opened", source))?;
        Ok(Self {
            connection,
            path,
            sql,
            epoch,
            last,
            first,
            heads: HashMap::new(),
            moved: Vec::new(),
            closed: Vec::new(),
            said: Encoder::default(),
            hasher: Hasher::default(),
            labels: Vec::new(),
            checkpoint_at: CHECKPOINT_PAGES,
        })
    }

    /// Does all of `work`, and tells whoever waits for it. Neighbouring batches share a commit.
    pub(super) fn write(&mut self, work: &mut [Work], queue: &Queue) -> Result<(), Error> {
        for group in work.chunk_by_mut(|a, b| matches!((a, b), (Work::Batch(_), Work::Batch(_)))) {
            match group {
                [Work::Prune(prune)] => {
                    let pruned = self.prune(&prune.streams, &prune.trim)?;
                    queue.committed(self.standing());
                    let (unheard, _) = tokio::sync::oneshot::channel();
                    let _ = std::mem::replace(&mut prune.done, unheard).send(Ok(pruned));
                }
                #[cfg(test)]
                [Work::Panic] => panic!("as the test wants it"),
                batches => self.write_batches(batches, queue)?,
            }
        }
        Ok(())
    }

    fn write_batches(&mut self, work: &mut [Work], queue: &Queue) -> Result<(), Error> {
        fn batches(work: &mut [Work]) -> impl Iterator<Item = &mut Prepared> {
            work.iter_mut().filter_map(|work| match work {
                Work::Batch(batch) => Some(batch),
                _ => None,
            })
        }
        if batches(work).any(|batch| !batch.parts.is_empty()) {
            fault::point("journal.before_write");
            if fault::is_planted(Bug::ToldBeforeCommit) {
                batches(work).for_each(|batch| tell(&mut batch.durable, &Ok(())));
            }
            self.begin()?;
            for prepared in batches(work).flat_map(|batch| &batch.parts) {
                self.part(prepared)?;
            }
            self.commit()?;
            queue.committed(self.standing());
            fault::point("journal.after_sync");
        }
        batches(work).for_each(|batch| tell(&mut batch.durable, &Ok(())));
        Ok(())
    }

    /// Begins a transaction, and looks whether the store is still ours.
    pub(super) fn begin(&mut self) -> Result<(), Error> {
        self.sql.begin.execute(()).map_err(|source| self.failed(source))?;
        let epoch = self.sql.epoch.query_row((), |row| rows::number(row, 0)).map_err(|source| self.failed(source))?;
        if epoch != self.epoch && !fault::is_planted(Bug::EpochNotChecked) {
            return Err(Error::Fenced { path: self.path.to_owned() });
        }
        Ok(())
    }

    /// Appends the commit's own row, and makes it all durable.
    pub(super) fn commit(&mut self) -> Result<(), Error> {
        let id = self.last.0 + 1;
        for stream in self.moved.drain(..) {
            if let Some(Head { row, .. }) = self.heads.get(&stream) {
                let moved = self.sql.head.execute((row.id, row.head.cast_signed(), row.hash));
                moved.map_err(|source| Error::sqlite(self.path, "written", source))?;
                self.said.head(stream.as_str(), row.head, &row.hash);
            }
        }
        let heads = self.said.finish();
        let columns = CommitColumns { id, epoch: self.epoch, time_ms: now_ms(), heads: &heads };
        let hash = self.hasher.commit(&self.last.1, &columns);
        let row = (id.cast_signed(), self.epoch.cast_signed(), columns.time_ms.cast_signed(), &heads, hash);
        self.sql.commit_row.execute(row).map_err(|source| self.failed(source))?;
        fault::point("journal.before_sync");
        fault::fails("journal.sync").map_err(|source| Error::io(self.path, "written", source))?;
        self.sql.commit.execute(()).map_err(|source| self.failed(source))?;
        self.last = (id, hash);
        self.first.get_or_insert(hash);
        for stream in self.closed.drain(..) {
            self.heads.remove(&stream);
        }
        if self.heads.len() > HEADS_KEPT {
            self.heads.clear();
        }
        Ok(())
    }

    /// Says how the store stands after the last commit.
    fn standing(&self) -> Option<Standing> {
        let (size, root) = self.last;
        self.first.map(|store| Standing { store, size, root })
    }

    /// Says in the commit under way that a stream has been pruned.
    pub(super) fn say_tombstone(&mut self, stream: &StreamName, tombstone: &Tombstone) {
        self.said.tombstone(stream.as_str(), tombstone);
    }

    /// Moves the log's contents to the main file once it is long, so that its room is used again.
    pub(super) fn checkpoint(&mut self) -> Result<(), Error> {
        let pages =
            self.sql.log_pages.query_row((), |row| row.get::<_, i64>(1)).map_err(|source| self.failed(source))?;
        if pages < CHECKPOINT_PAGES {
            self.checkpoint_at = CHECKPOINT_PAGES;
        }
        if pages < self.checkpoint_at {
            return Ok(());
        }
        // While readers keep something from being moved, the next try is only worth it when there is more.
        self.checkpoint_at = pages + CHECKPOINT_PAGES;
        let moved = if pages < LOG_MOST_PAGES {
            self.connection.query_row("PRAGMA wal_checkpoint = PASSIVE", (), |_| Ok(()))
        } else {
            let restart = "PRAGMA wal_checkpoint = RESTART";
            let waits = self.connection.busy_timeout(READERS);
            let moved = waits.and_then(|()| self.connection.query_row(restart, (), |_| Ok(())));
            moved.and_then(|()| self.connection.busy_timeout(BUSY))
        };
        moved.map_err(|source| self.failed(source))
    }

    /// Moves all of the log to the main file, as far as readers allow: the store is let go, and most often lies in one
    /// file then. What can't be moved stays durable where it is.
    pub(super) fn put_away(&self) {
        let _ = self.connection.busy_timeout(READERS);
        let _ = self.connection.query_row("PRAGMA wal_checkpoint = TRUNCATE", (), |_| Ok(()));
    }

    /// Returns a stream's head; makes the stream if it is to come into being.
    fn head(&mut self, stream: &StreamName, newest: Option<&Record>) -> Result<Head, Error> {
        if let Some(head) = self.heads.get(stream) {
            return Ok(*head);
        }
        let found = rows::stream(self.connection, stream.as_str()).map_err(|source| self.failed(source))?;
        let row = match (found, newest) {
            (Some(found), _) => found,
            (None, Some(newest)) => {
                // It may begin with copies of what is older than itself.
                let made = self.sql.stream.insert((stream.as_str(), newest.time_ms.cast_signed(), GENESIS));
                StreamRow { id: made.map_err(|source| self.failed(source))?, head: 0, hash: GENESIS }
            }
            (None, None) => return Err(Error::NoSuchStream { stream: stream.to_string() }),
        };
        Ok(Head { row, moved_in: 0 })
    }

    fn part(&mut self, PreparedPart { part, blobs }: &PreparedPart) -> Result<(), Error> {
        let mut head = self.head(&part.stream, part.records.last())?;
        for record in &part.records {
            fault::fails("journal.write").map_err(|source| Error::io(self.path, "written", source))?;
            if record.seq != head.row.head + 1 {
                return Err(out_of_order(&part.stream, record.seq, &head));
            }
            head.row.hash = self.event(&part.stream, &head.row, record)?;
            head.row.head = record.seq;
        }
        let commit = self.last.0 + 1;
        if !part.records.is_empty() && head.moved_in != commit {
            head.moved_in = commit;
            self.moved.push(part.stream.clone());
        }
        self.heads.insert(part.stream.clone(), head);
        for blob in blobs {
            let written = (|| {
                if !self.sql.has_blob.exists([&blob.hash])? {
                    self.sql.blob.execute((&blob.hash, &blob.bytes))?;
                }
                self.sql.blob_ref.execute((head.row.id, &blob.hash))
            })();
            written.map_err(|source| self.failed(source))?;
        }
        if let Some(mark) = &part.mark {
            self.mark(&part.stream, head.row.id, mark)?;
        }
        part.snapshot.as_ref().map_or(Ok(()), |snapshot| self.snapshot(&part.stream, &head, snapshot))
    }

    fn event(&mut self, stream: &StreamName, at: &StreamRow, record: &Record) -> Result<Hash, Error> {
        let labels = labels(&record.labels, &mut self.labels);
        let columns = Columns {
            seq: record.seq,
            time_ms: record.time_ms,
            agent: record.agent.as_deref(),
            incarnation: record.incarnation,
            cause: record.cause,
            labels,
            kind: &record.kind,
            version: record.version,
            payload: &record.payload,
        };
        let hash = self.hasher.event(stream.as_str(), &at.hash, &columns);
        let inserted = self.sql.event.execute((
            at.id,
            record.seq.cast_signed(),
            record.time_ms.cast_signed(),
            columns.agent,
            record.incarnation,
            record.cause.map(u64::cast_signed),
            labels,
            &*record.kind,
            record.version,
            &record.payload,
            &hash,
        ));
        inserted.map_err(|source| Error::sqlite(self.path, "written", source))?;
        Ok(hash)
    }

    fn mark(&mut self, stream: &StreamName, id: i64, mark: &Mark) -> Result<(), Error> {
        let marked = self.sql.mark.execute((id, &*mark.state, mark.closed, &mark.summary));
        marked.map_err(|source| self.failed(source))?;
        if mark.closed {
            self.closed.push(stream.clone());
        }
        Ok(())
    }

    /// Replaces a stream's snapshot. It is bound to the hash of the last event that is folded into it.
    fn snapshot(&mut self, stream: &StreamName, head: &Head, snapshot: &Snapshot) -> Result<(), Error> {
        let id = head.row.id;
        let at = if snapshot.seq == head.row.head {
            Some(head.row.hash)
        } else {
            rows::chain_hash(self.connection, id, snapshot.seq).map_err(|source| self.failed(source))?
        };
        let at = at.ok_or_else(|| out_of_order(stream, snapshot.seq, head))?;
        let columns = SnapshotColumns { seq: snapshot.seq, version: snapshot.version, state: &snapshot.state };
        let digest = self.hasher.snapshot(stream.as_str(), &at, &columns);
        let row = (id, snapshot.seq.cast_signed(), snapshot.version, &snapshot.state, digest);
        self.sql.snapshot.execute(row).map(drop).map_err(|source| self.failed(source))
    }

    pub(super) fn failed(&self, source: rusqlite::Error) -> Error {
        Error::sqlite(self.path, "written", source)
    }
}

fn out_of_order(stream: &StreamName, seq: u64, head: &Head) -> Error {
    Error::OutOfOrder { stream: stream.to_string(), seq, head: head.row.head }
}

/// Returns labels as they are stored: a JSON list, or nothing for none.
fn labels<'b>(labels: &[String], buffer: &'b mut Vec<u8>) -> Option<&'b str> {
    if labels.is_empty() {
        return None;
    }
    buffer.clear();
    serde_json::to_writer(&mut *buffer, labels).ok()?;
    str::from_utf8(buffer).ok()
}

/// Returns the wall clock, in milliseconds since 1970. For people: it may go backwards.
pub(super) fn now_ms() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}
