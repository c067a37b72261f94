//! Reading.

use std::path::{Path, PathBuf};

use rusqlite::{Connection, Row, Transaction};

use super::blob::{self, Malformed};
use super::format::{Columns, Hash, Hasher, SnapshotColumns};
use super::rows::{self, SnapshotRow, StreamRow};
use super::{Error, Mark, Record, Snapshot, StreamInfo, StreamName, file};

/// A store, open for reading. It holds no lock: it sees what is durable, in the state of some commit.
pub struct Store {
    connection: Connection,
    path: PathBuf,
    /// What SQLite called the state when it was last asked whether there is a newer one.
    version: i64,
}

/// The columns that [`info`] reads.
const INFO: &str = "SELECT name, created_ms, head_seq, state, closed, summary,
        EXISTS (SELECT 1 FROM tombstones WHERE stream = streams.id AND snapshot_digest IS NULL)
    FROM streams";

impl Store {
    /// Opens the store of a data directory.
    ///
    /// # Errors
    /// There is none, it is no store of ours, it is of a newer format, or it can't be read.
    pub fn open(directory: &Path) -> Result<Self, Error> {
        let connection = file::open_for_reading(directory)?;
        let mut store = Self { connection, path: file::path(directory), version: 0 };
        store.has_changed()?;
        Ok(store)
    }

    /// Returns the streams whose names begin with `prefix`, in the order in which they came into being.
    ///
    /// # Errors
    /// The store is damaged or can't be read.
    pub fn streams(&self, prefix: &str) -> Result<Vec<StreamInfo>, Error> {
        let list = || {
            let select = format!("{INFO} WHERE substr(name, 1, length(?1)) = ?1 ORDER BY id");
            let mut statement = self.connection.prepare_cached(&select)?;
            statement.query_map([prefix], info)?.collect::<Result<Vec<_>, _>>()
        };
        list().map_err(|source| self.failed(source))
    }

    /// Returns one stream.
    ///
    /// # Errors
    /// As for [`Store::streams`], and if there is no such stream.
    pub fn stream(&self, name: &StreamName) -> Result<StreamInfo, Error> {
        let select = format!("{INFO} WHERE name = ?1");
        let found = self.connection.prepare_cached(&select).and_then(|mut find| find.query_row([name.as_str()], info));
        found.map_err(|source| match source {
            rusqlite::Error::QueryReturnedNoRows => Error::NoSuchStream { stream: name.to_string() },
            source => self.failed(source),
        })
    }

    /// Returns a stream's records after number `after`, at most `limit` of them. Each is checked against its hash and
    /// its predecessor's; reading to the end, so is the stream's head. Where records have been trimmed, those after
    /// them can be read.
    ///
    /// # Errors
    /// As for [`Store::stream`], and if records after `after` have been pruned.
    pub fn read(&self, stream: &StreamName, after: u64, limit: usize) -> Result<Vec<Record>, Error> {
        let _reading = self.begin()?;
        let row = self.row(stream)?;
        let Some(mut before) = self.place(stream, &row, after)? else { return Ok(Vec::new()) };
        let records = self.chained(stream, &row, &mut before, limit)?;
        let is_over = before.head >= row.head || records.len() < limit;
        if is_over && before.head != row.head {
            let what = format!("`{stream}` ends with event {}, and its head is {}", before.head, row.head);
            return Err(Error::damaged(&self.path, what));
        }
        if is_over && before.hash != row.hash {
            return Err(Error::damaged(&self.path, not_written(stream, row.head)));
        }
        Ok(records)
    }

    /// Returns a stream's snapshot, if it has one that is whole. Where the records up to it have been trimmed there must
    /// be one.
    ///
    /// # Errors
    /// As for [`Store::stream`], and if the records up to it have been trimmed and it is not whole.
    pub fn snapshot(&self, stream: &StreamName) -> Result<Option<Snapshot>, Error> {
        let _reading = self.begin()?;
        let row = self.row(stream)?;
        let tombstone = rows::tombstone(&self.connection, row.id).map_err(|source| self.failed(source))?;
        let trimmed = tombstone.filter(|tombstone| tombstone.snapshot.is_some());
        match (self.whole_snapshot(stream, &row), trimmed) {
            (Ok(Some((snapshot, digest))), Some(trimmed)) => {
                let is_it = snapshot.seq > trimmed.upto || Some(digest) == trimmed.snapshot;
                if is_it { Ok(Some(snapshot)) } else { Err(self.no_snapshot(stream)) }
            }
            (Ok(found), None) => Ok(found.map(|(snapshot, _)| snapshot)),
            (Ok(None) | Err(Error::Damaged { .. }), Some(_)) => Err(self.no_snapshot(stream)),
            (Err(Error::Damaged { .. }), None) => Ok(None),
            (Err(error), _) => Err(error),
        }
    }

    /// Whether anything has been committed since the last time that this was asked, or since the store was opened. It
    /// may say so where nothing was.
    ///
    /// # Errors
    /// The store can't be read.
    pub fn has_changed(&mut self) -> Result<bool, Error> {
        let asked = self.connection.query_row("PRAGMA data_version", (), |row| row.get(0));
        let version = asked.map_err(|source| self.failed(source))?;
        Ok(std::mem::replace(&mut self.version, version) != version)
    }

    /// Begins to read one state of the store; it lasts until what is returned is dropped.
    pub(super) fn begin(&self) -> Result<Transaction<'_>, Error> {
        self.connection.unchecked_transaction().map_err(|source| self.failed(source))
    }

    pub(super) fn connection(&self) -> &Connection {
        &self.connection
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    pub(super) fn failed(&self, source: rusqlite::Error) -> Error {
        Error::sqlite(&self.path, "read", source)
    }

    fn row(&self, stream: &StreamName) -> Result<StreamRow, Error> {
        let found = rows::stream(&self.connection, stream.as_str()).map_err(|source| self.failed(source))?;
        found.ok_or_else(|| Error::NoSuchStream { stream: stream.to_string() })
    }

    /// Returns the place in the chain after which to read; none if there is nothing after it.
    fn place(&self, stream: &StreamName, row: &StreamRow, after: u64) -> Result<Option<StreamRow>, Error> {
        let tombstone = rows::tombstone(&self.connection, row.id).map_err(|source| self.failed(source))?;
        if tombstone.is_some_and(|tombstone| after < tombstone.upto) {
            return Err(Error::Pruned { stream: stream.to_string() });
        }
        if after > row.head {
            return Ok(None);
        }
        let hash = rows::chain_hash(&self.connection, row.id, after).map_err(|source| self.failed(source))?;
        let hash = hash.ok_or_else(|| Error::damaged(&self.path, format!("event {after} of `{stream}` is missing")))?;
        Ok(Some(StreamRow { id: row.id, head: after, hash }))
    }

    /// Reads on from `before`, and moves it to the last record read.
    fn chained(
        &self,
        stream: &StreamName,
        row: &StreamRow,
        before: &mut StreamRow,
        limit: usize,
    ) -> Result<Vec<Record>, Error> {
        let select = "SELECT seq, time_ms, agent, incarnation, cause, labels, kind, version, payload, hash
            FROM events WHERE stream = ?1 AND seq > ?2 ORDER BY seq LIMIT ?3";
        let mut statement = self.connection.prepare_cached(select).map_err(|source| self.failed(source))?;
        let limit = i64::try_from(limit).unwrap_or(i64::MAX);
        let from = (row.id, before.head.cast_signed(), limit);
        let mut found = statement.query(from).map_err(|source| self.failed(source))?;
        let (mut records, mut hasher) = (Vec::new(), Hasher::default());
        while let Some(event) = found.next().map_err(|source| self.failed(source))? {
            let event = Event::read(event).map_err(|source| self.failed(source))?;
            if event.columns.seq != before.head + 1 {
                let what = format!("event {} of `{stream}` is missing", before.head + 1);
                return Err(Error::damaged(&self.path, what));
            }
            before.head = event.columns.seq;
            if hasher.event(stream.as_str(), &before.hash, &event.columns) != event.hash {
                return Err(Error::damaged(&self.path, not_written(stream, before.head)));
            }
            before.hash = event.hash;
            records.push(self.record(stream, &event.columns)?);
        }
        Ok(records)
    }

    fn record(&self, stream: &StreamName, columns: &Columns<'_>) -> Result<Record, Error> {
        let unreadable = || Error::damaged(&self.path, format!("event {} of `{stream}` can't be read", columns.seq));
        let payload = self.inline(columns.payload.to_vec()).map_err(|fault| self.told(fault, stream, columns.seq))?;
        Ok(Record {
            seq: columns.seq,
            time_ms: columns.time_ms,
            agent: columns.agent.map(Into::into),
            incarnation: columns.incarnation,
            cause: columns.cause,
            labels: match columns.labels {
                Some(labels) => serde_json::from_str(labels).map_err(|_| unreadable())?,
                None => Vec::new(),
            },
            kind: columns.kind.to_owned().into(),
            version: columns.version,
            payload,
        })
    }

    fn whole_snapshot(&self, stream: &StreamName, row: &StreamRow) -> Result<Option<(Snapshot, Hash)>, Error> {
        let sqlite = |source| self.failed(source);
        let Some(found) = SnapshotRow::find(&self.connection, row.id).map_err(sqlite)? else { return Ok(None) };
        let Some(at) = rows::chain_hash(&self.connection, row.id, found.seq).map_err(sqlite)? else { return Ok(None) };
        let SnapshotRow { seq, version, state, digest } = found;
        let columns = SnapshotColumns { seq, version, state: &state };
        if Hasher::default().snapshot(stream.as_str(), &at, &columns) != digest {
            return Ok(None);
        }
        let state = self.inline(state).map_err(|fault| self.told(fault, stream, seq))?;
        Ok(Some((Snapshot { seq, version, state }, digest)))
    }

    /// Puts a payload's long strings back, each checked against its hash.
    fn inline(&self, stored: Vec<u8>) -> Result<Vec<u8>, Fault> {
        blob::inline(stored, |hash| {
            let bytes = rows::blob(&self.connection, hash)?.ok_or(Fault::Blob)?;
            if blake3::hash(&bytes) == *hash { Ok(bytes) } else { Err(Fault::Blob) }
        })
    }

    fn told(&self, fault: Fault, stream: &StreamName, seq: u64) -> Error {
        match fault {
            Fault::Sqlite(source) => self.failed(source),
            Fault::Blob => {
                Error::damaged(&self.path, format!("a blob of event {seq} of `{stream}` is missing or changed"))
            }
        }
    }

    fn no_snapshot(&self, stream: &StreamName) -> Error {
        let what =
            format!("the snapshot of `{stream}`, whose records up to it have been trimmed, is missing or changed");
        Error::damaged(&self.path, what)
    }
}

fn not_written(stream: &StreamName, seq: u64) -> String {
    format!("event {seq} of `{stream}` is not what was written")
}

/// Why a payload can't be put together.
enum Fault {
    /// A blob is not there, or not what it was, or what refers to it is malformed.
    Blob,
    Sqlite(rusqlite::Error),
}

impl From<Malformed> for Fault {
    fn from(_: Malformed) -> Self {
        Self::Blob
    }
}

impl From<rusqlite::Error> for Fault {
    fn from(source: rusqlite::Error) -> Self {
        Self::Sqlite(source)
    }
}

/// A row of `events`.
pub(super) struct Event<'r> {
    pub(super) columns: Columns<'r>,
    pub(super) hash: Hash,
}

impl<'r> Event<'r> {
    /// Reads `seq, time_ms, agent, incarnation, cause, labels, kind, version, payload, hash`.
    pub(super) fn read(row: &'r Row<'_>) -> rusqlite::Result<Self> {
        let columns = Columns {
            seq: rows::number(row, 0)?,
            time_ms: rows::number(row, 1)?,
            agent: row.get_ref(2)?.as_str_or_null()?,
            incarnation: row.get(3)?,
            cause: row.get::<_, Option<i64>>(4)?.map(i64::cast_unsigned),
            labels: row.get_ref(5)?.as_str_or_null()?,
            kind: row.get_ref(6)?.as_str()?,
            version: row.get(7)?,
            payload: row.get_ref(8)?.as_blob()?,
        };
        Ok(Self { columns, hash: row.get(9)? })
    }
}

fn info(row: &Row<'_>) -> rusqlite::Result<StreamInfo> {
    let mark = match row.get::<_, Option<String>>(3)? {
        Some(state) => Some(Mark { state: state.into(), closed: row.get(4)?, summary: row.get(5)? }),
        None => None,
    };
    Ok(StreamInfo {
        name: StreamName::new(row.get::<_, String>(0)?),
        created_ms: rows::number(row, 1)?,
        head: rows::number(row, 2)?,
        mark,
        pruned: row.get(6)?,
    })
}
