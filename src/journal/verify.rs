//! Checking a store from outside.

use std::collections::HashMap;
use std::path::Path;

use rusqlite::Connection;

use super::blob::references;
use super::format::{GENESIS, Hash, Hasher, hex};
use super::heads::{Heads, Tombstone};
use super::rows::{self, COMMIT_COLUMNS, CommitRow, SnapshotRow};
use super::store::Event;
use super::{Error, Store};

/// What has been checked.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct Verified {
    /// How many streams there are.
    pub streams: u64,
    /// How many events.
    pub events: u64,
    /// How many commits.
    pub commits: u64,
    /// How many blobs.
    pub blobs: u64,
    /// How many tombstones.
    pub tombstones: u64,
    /// The hash of the last commit, in hex: the same for the same history.
    pub head: String,
}

/// Checks every record, chain, blob, snapshot and tombstone of a store, and the file itself. Needs no lock and changes
/// nothing; it sees the state of one commit, and takes about as long as reading everything twice.
///
/// # Errors
/// The first fault that is found, as [`Error::Damaged`]; or the store can't be read.
pub fn verify(directory: &Path) -> Result<Verified, Error> {
    let store = Store::open(directory)?;
    let _reading = store.begin()?;
    let mut verifier = Verifier {
        connection: store.connection(),
        streams: HashMap::new(),
        ids: HashMap::new(),
        hasher: Hasher::default(),
        verified: Verified { streams: 0, events: 0, commits: 0, blobs: 0, tombstones: 0, head: hex(&GENESIS) },
    };
    match verifier.all() {
        Ok(()) => Ok(verifier.verified),
        Err(Fault::Sqlite(source)) => Err(store.failed(source)),
        Err(Fault::Found(what)) => Err(Error::damaged(store.path(), what)),
    }
}

enum Fault {
    Found(String),
    Sqlite(rusqlite::Error),
}

impl From<rusqlite::Error> for Fault {
    fn from(source: rusqlite::Error) -> Self {
        Self::Sqlite(source)
    }
}

fn found(what: impl Into<String>) -> Fault {
    Fault::Found(what.into())
}

struct Stream {
    name: String,
    head: u64,
    hash: Hash,
    /// What stands in the tombstones' table.
    tombstone: Option<Tombstone>,
    /// Where the commits that have been looked at leave it, and the tombstone that they left.
    committed: (u64, Hash),
    buried: Option<Tombstone>,
}

struct Verifier<'c> {
    connection: &'c Connection,
    streams: HashMap<i64, Stream>,
    ids: HashMap<String, i64>,
    hasher: Hasher,
    verified: Verified,
}

impl Verifier<'_> {
    fn all(&mut self) -> Result<(), Fault> {
        self.file()?;
        self.load_streams()?;
        self.load_tombstones()?;
        self.events()?;
        self.commits()?;
        self.ends()?;
        self.blobs()?;
        self.snapshots()
    }

    /// SQLite's own check: pages, and whether the indices say what the tables say.
    fn file(&mut self) -> Result<(), Fault> {
        let said: String = self.connection.query_row("PRAGMA integrity_check(1)", (), |row| row.get(0))?;
        if said == "ok" { Ok(()) } else { Err(found(said)) }
    }

    fn load_streams(&mut self) -> Result<(), Fault> {
        let mut select = self.connection.prepare("SELECT id, name, head_seq, head_hash FROM streams")?;
        let mut rows = select.query(())?;
        while let Some(row) = rows.next()? {
            let (id, name): (i64, String) = (row.get(0)?, row.get(1)?);
            let stream = Stream {
                name: name.clone(),
                head: rows::number(row, 2)?,
                hash: row.get(3)?,
                tombstone: None,
                committed: (0, GENESIS),
                buried: None,
            };
            self.streams.insert(id, stream);
            self.ids.insert(name, id);
            self.verified.streams += 1;
        }
        Ok(())
    }

    fn load_tombstones(&mut self) -> Result<(), Fault> {
        let mut select = self.connection.prepare("SELECT stream FROM tombstones")?;
        for id in select.query_map((), |row| row.get::<_, i64>(0))? {
            let id = id?;
            let stream =
                self.streams.get_mut(&id).ok_or_else(|| found(format!("a tombstone is of no stream ({id})")))?;
            stream.tombstone = rows::tombstone(self.connection, id)?;
            self.verified.tombstones += 1;
        }
        Ok(())
    }

    /// Every event follows its predecessor, from the beginning or the tombstone on to the stream's head.
    fn events(&mut self) -> Result<(), Fault> {
        let mut select = self.connection.prepare(
            "SELECT seq, time_ms, agent, incarnation, cause, labels, kind, version, payload, hash, stream
             FROM events ORDER BY stream, seq",
        )?;
        let mut refers = self.connection.prepare("SELECT 1 FROM blob_refs WHERE stream = ?1 AND hash = ?2")?;
        let mut rows = select.query(())?;
        let mut places: HashMap<i64, (u64, Hash)> = HashMap::new();
        while let Some(row) = rows.next()? {
            let (id, event) = (row.get::<_, i64>(10)?, Event::read(row)?);
            let seq = event.columns.seq;
            let Some(stream) = self.streams.get(&id) else {
                return Err(found(format!("event {seq} is of no stream ({id})")));
            };
            let (last, previous) = places.entry(id).or_insert_with(|| stream.start());
            if seq != *last + 1 {
                return Err(found(format!("event {} of `{}` is missing", *last + 1, stream.name)));
            }
            if self.hasher.event(&stream.name, previous, &event.columns) != event.hash {
                return Err(found(format!("event {seq} of `{}` is not what was written", stream.name)));
            }
            let references = references(event.columns.payload);
            let references =
                references.map_err(|_| found(format!("event {seq} of `{}` can't be read", stream.name)))?;
            for (_, reference) in references {
                if !refers.exists((id, reference.hash))? {
                    return Err(found(format!("event {seq} of `{}` has lost a blob", stream.name)));
                }
            }
            (*last, *previous) = (seq, event.hash);
            self.verified.events += 1;
        }
        for (id, stream) in &self.streams {
            let (last, hash) = places.get(id).copied().unwrap_or_else(|| stream.start());
            if (last, hash) != (stream.head, stream.hash) {
                return Err(found(format!(
                    "`{}` ends with event {last}, and its head is {}",
                    stream.name, stream.head
                )));
            }
        }
        Ok(())
    }

    /// Every commit follows its predecessor, and the heads that it moved are in the streams' chains.
    fn commits(&mut self) -> Result<(), Fault> {
        let mut select = self.connection.prepare(&format!("SELECT {COMMIT_COLUMNS} FROM commits ORDER BY id"))?;
        let mut rows = select.query(())?;
        let mut previous = GENESIS;
        while let Some(row) = rows.next()? {
            let commit = CommitRow::read(row)?;
            self.verified.commits += 1;
            if commit.id != self.verified.commits {
                return Err(found(format!("commit {} is missing", self.verified.commits)));
            }
            if self.hasher.commit(&previous, &commit.columns()) != commit.hash {
                return Err(found(format!("commit {} is not what was written", commit.id)));
            }
            previous = commit.hash;
            let heads = Heads::decode(&commit.heads);
            let heads = heads.ok_or_else(|| found(format!("commit {} can't be read", commit.id)))?;
            for head in heads.moved {
                self.moved(commit.id, head.stream, head.seq, head.hash)?;
            }
            for (name, tombstone) in heads.tombstones {
                self.stream(commit.id, name)?.1.buried = Some(tombstone);
            }
        }
        self.verified.head = hex(&previous);
        Ok(())
    }

    fn stream(&mut self, commit: u64, name: &str) -> Result<(i64, &mut Stream), Fault> {
        let id = self.ids.get(name).copied();
        let stream = id.and_then(|id| Some((id, self.streams.get_mut(&id)?)));
        stream.ok_or_else(|| found(format!("commit {commit} is of a stream that is missing, `{name}`")))
    }

    fn moved(&mut self, commit: u64, name: &str, seq: u64, hash: Hash) -> Result<(), Fault> {
        let connection = self.connection;
        let (id, stream) = self.stream(commit, name)?;
        if seq <= stream.committed.0 {
            return Err(found(format!("commit {commit} moves `{name}` from {} to {seq}", stream.committed.0)));
        }
        stream.committed = (seq, hash);
        let is_pruned = stream.tombstone.is_some_and(|tombstone| seq < tombstone.upto);
        if !is_pruned && rows::chain_hash(connection, id, seq)? != Some(hash) {
            return Err(found(format!("event {seq} of `{name}` is not the one of commit {commit}")));
        }
        Ok(())
    }

    /// The streams stand where the last commits left them, and have the tombstones that commits left.
    fn ends(&self) -> Result<(), Fault> {
        for stream in self.streams.values() {
            let (seq, hash) = stream.committed;
            if (seq, hash) != (stream.head, stream.hash) {
                return Err(found(format!(
                    "`{}` stands at {}, and its last commit left it at {seq}",
                    stream.name, stream.head
                )));
            }
            if stream.tombstone != stream.buried {
                return Err(found(format!("the tombstone of `{}` is not the one that a commit left", stream.name)));
            }
        }
        Ok(())
    }

    fn blobs(&mut self) -> Result<(), Fault> {
        let mut select = self.connection.prepare("SELECT hash, bytes FROM blobs")?;
        let mut rows = select.query(())?;
        while let Some(row) = rows.next()? {
            let hash: Hash = row.get(0)?;
            if blake3::hash(row.get_ref(1)?.as_blob().map_err(rusqlite::Error::from)?) != hash {
                return Err(found(format!("blob {} is not what was written", hex(&hash))));
            }
            self.verified.blobs += 1;
        }
        let lost = "SELECT count(*) FROM blob_refs WHERE NOT EXISTS (SELECT 1 FROM blobs WHERE hash = blob_refs.hash)
            OR NOT EXISTS (SELECT 1 FROM streams WHERE id = blob_refs.stream)";
        let loose = "SELECT count(*) FROM blobs WHERE NOT EXISTS (SELECT 1 FROM blob_refs WHERE hash = blobs.hash)";
        for (select, what) in [(lost, "a blob is missing"), (loose, "a blob belongs to nothing")] {
            if self.connection.query_row(select, (), |row| row.get::<_, i64>(0))? != 0 {
                return Err(found(what));
            }
        }
        Ok(())
    }

    fn snapshots(&mut self) -> Result<(), Fault> {
        let mut select = self.connection.prepare("SELECT stream FROM snapshots")?;
        let mut with = std::collections::HashSet::new();
        for id in select.query_map((), |row| row.get::<_, i64>(0))? {
            let id = id?;
            let stream = self.streams.get(&id).ok_or_else(|| found(format!("a snapshot is of no stream ({id})")))?;
            let changed = || found(format!("the snapshot of `{}` is not what was written", stream.name));
            let snapshot = SnapshotRow::find(self.connection, id)?.ok_or_else(changed)?;
            let at = rows::chain_hash(self.connection, id, snapshot.seq)?.ok_or_else(changed)?;
            if self.hasher.snapshot(&stream.name, &at, &snapshot.columns()) != snapshot.digest {
                return Err(changed());
            }
            let is_buried = stream.tombstone.is_some_and(|tombstone| tombstone.upto == snapshot.seq);
            if is_buried && stream.tombstone.and_then(|tombstone| tombstone.snapshot) != Some(snapshot.digest) {
                return Err(changed());
            }
            for (_, reference) in references(&snapshot.state).map_err(|_| changed())? {
                rows::blob(self.connection, &reference.hash)?.ok_or_else(changed)?;
            }
            with.insert(id);
        }
        for (id, stream) in &self.streams {
            if stream.tombstone.is_some_and(|tombstone| tombstone.snapshot.is_some()) && !with.contains(id) {
                return Err(found(format!("the snapshot of `{}` is missing", stream.name)));
            }
        }
        Ok(())
    }
}

impl Stream {
    /// Returns where its chain begins.
    fn start(&self) -> (u64, Hash) {
        self.tombstone.map_or((0, GENESIS), |tombstone| (tombstone.upto, tombstone.hash))
    }
}
