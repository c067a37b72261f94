//! Checking a store from outside.

use std::path::Path;

use rusqlite::Connection;

use super::blob::references;
use super::chains::{Chains, Lookup};
use super::format::{GENESIS, Hash, Hasher, hex};
use super::rows::{self, COMMIT_COLUMNS, CommitRow, SnapshotRow};
use super::store::Event;
use super::{Attested, Error, Evidence, PublicKey, Refuted, Store};

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
    verify_against(directory, &[], &[]).map(|(verified, _)| verified)
}

/// Checks a store as [`verify`] does, and that it is the one that checkpoints speak of: its commit chain has, at each size that
/// one names, the very head. `evidence` must have been read before this is called: what is checked is then no older.
/// `keys` are the keys whose signatures are believed; where none is named, it is for each evidence the one that signed the first.
///
/// # Errors
/// As for [`verify`]; and [`Error::Refuted`], where a checkpoint says something else or can't be believed.
pub fn verify_against(
    directory: &Path,
    evidence: &[Evidence],
    keys: &[PublicKey],
) -> Result<(Verified, Vec<Attested>), Error> {
    let store = Store::open(directory)?;
    let _reading = store.begin()?;
    let mut verifier = Verifier {
        connection: store.connection(),
        chains: Chains::default(),
        verified: Verified { streams: 0, events: 0, commits: 0, blobs: 0, tombstones: 0, head: hex(&GENESIS) },
    };
    match verifier.all().and_then(|()| verifier.compare(evidence, keys)) {
        Ok(attested) => Ok((verifier.verified, attested)),
        Err(Fault::Sqlite(source)) => Err(store.failed(source)),
        Err(Fault::Found(what)) => Err(Error::damaged(store.path(), what)),
        Err(Fault::Refuted(refuted)) => Err(refuted.into()),
    }
}

/// Why a store is not what was written, or can't be read.
#[derive(Debug)]
pub(super) enum Fault {
    Found(String),
    Refuted(Refuted),
    Sqlite(rusqlite::Error),
}

impl From<rusqlite::Error> for Fault {
    fn from(source: rusqlite::Error) -> Self {
        Self::Sqlite(source)
    }
}

impl From<Refuted> for Fault {
    fn from(refuted: Refuted) -> Self {
        Self::Refuted(refuted)
    }
}

pub(super) fn found(what: impl Into<String>) -> Fault {
    Fault::Found(what.into())
}

impl Lookup for Connection {
    fn refers(&self, stream: i64, blob: &Hash) -> Result<bool, Fault> {
        let select = "SELECT 1 FROM blob_refs WHERE stream = ?1 AND hash = ?2";
        Ok(self.prepare_cached(select)?.exists((stream, blob))?)
    }

    fn chain_hash(&self, stream: i64, seq: u64) -> Result<Option<Hash>, Fault> {
        Ok(rows::chain_hash(self, stream, seq)?)
    }
}

struct Verifier<'c> {
    connection: &'c Connection,
    chains: Chains,
    verified: Verified,
}

impl Verifier<'_> {
    fn all(&mut self) -> Result<(), Fault> {
        self.file()?;
        self.load_streams()?;
        self.load_tombstones()?;
        self.events()?;
        self.commits()?;
        self.chains.ends()?;
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
            self.chains.stream(row.get(0)?, row.get(1)?, rows::number(row, 2)?, row.get(3)?);
            self.verified.streams += 1;
        }
        Ok(())
    }

    fn load_tombstones(&mut self) -> Result<(), Fault> {
        let mut select = self.connection.prepare("SELECT stream FROM tombstones")?;
        for id in select.query_map((), |row| row.get::<_, i64>(0))? {
            let id = id?;
            let stream = self.chains.streams.get_mut(&id);
            let stream = stream.ok_or_else(|| found(format!("a tombstone is of no stream ({id})")))?;
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
        let mut rows = select.query(())?;
        while let Some(row) = rows.next()? {
            self.chains.event(row.get(10)?, &Event::read(row)?, self.connection)?;
            self.verified.events += 1;
        }
        self.chains.heads()
    }

    /// Every commit follows its predecessor, and the heads that it moved are in the streams' chains.
    fn commits(&mut self) -> Result<(), Fault> {
        let mut select = self.connection.prepare(&format!("SELECT {COMMIT_COLUMNS} FROM commits ORDER BY id"))?;
        let mut rows = select.query(())?;
        while let Some(row) = rows.next()? {
            self.chains.commit(&CommitRow::read(row)?, self.connection)?;
        }
        let (commits, head) = self.chains.last_commit();
        (self.verified.commits, self.verified.head) = (commits, hex(&head));
        Ok(())
    }

    /// The commits are those that checkpoints name.
    fn compare(&self, evidence: &[Evidence], keys: &[PublicKey]) -> Result<Vec<Attested>, Fault> {
        let root_at = |id| Ok::<_, Fault>(rows::commit_hash(self.connection, id)?);
        evidence.iter().map(|evidence| evidence.check(self.verified.commits, root_at, keys)).collect()
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
            let stream =
                self.chains.streams.get(&id).ok_or_else(|| found(format!("a snapshot is of no stream ({id})")))?;
            let changed = || found(format!("the snapshot of `{}` is not what was written", stream.name));
            let snapshot = SnapshotRow::find(self.connection, id)?.ok_or_else(changed)?;
            let at = rows::chain_hash(self.connection, id, snapshot.seq)?.ok_or_else(changed)?;
            if Hasher::default().snapshot(&stream.name, &at, &snapshot.columns()) != snapshot.digest {
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
        for (id, stream) in &self.chains.streams {
            if stream.tombstone.is_some_and(|tombstone| tombstone.snapshot.is_some()) && !with.contains(id) {
                return Err(found(format!("the snapshot of `{}` is missing", stream.name)));
            }
        }
        Ok(())
    }
}
