//! The format: the file, its tables, and the bytes that are hashed. `docs/journal.md` says the same for people.

use std::fmt::Write as _;

/// The store's file in the data directory.
pub(super) const FILE: &str = "provost.db";

/// What SQLite's header says of whose file it is: `Prov` in ASCII.
pub(super) const APPLICATION_ID: i32 = 0x5072_6f76;

/// The version of the format, in SQLite's `user_version`.
pub(super) const FORMAT: u32 = 1;

/// The MessagePack extension type that stands for a blob.
pub(super) const BLOB_EXTENSION: u8 = 0x42;

/// A string or binary longer than this is kept as a blob: below it, a row of its own costs more than it saves.
pub(super) const BLOB_OVER_BYTES: usize = 1024;

/// The tables.
pub(super) const TABLES: &str = "
CREATE TABLE events (
  id INTEGER PRIMARY KEY,
  stream INTEGER NOT NULL,
  seq INTEGER NOT NULL,
  time_ms INTEGER NOT NULL,
  agent TEXT,
  incarnation INTEGER NOT NULL,
  cause INTEGER,
  labels TEXT,
  kind TEXT NOT NULL,
  version INTEGER NOT NULL,
  payload BLOB NOT NULL,
  hash BLOB NOT NULL
) STRICT;
CREATE UNIQUE INDEX events_by_stream ON events (stream, seq);
CREATE TABLE streams (
  id INTEGER PRIMARY KEY,
  name TEXT NOT NULL UNIQUE,
  created_ms INTEGER NOT NULL,
  head_seq INTEGER NOT NULL,
  head_hash BLOB NOT NULL,
  state TEXT,
  closed INTEGER NOT NULL,
  summary BLOB
) STRICT;
CREATE TABLE commits (
  id INTEGER PRIMARY KEY,
  epoch INTEGER NOT NULL,
  time_ms INTEGER NOT NULL,
  heads BLOB NOT NULL,
  hash BLOB NOT NULL
) STRICT;
CREATE TABLE blobs (hash BLOB PRIMARY KEY, bytes BLOB NOT NULL) STRICT;
CREATE TABLE blob_refs (stream INTEGER NOT NULL, hash BLOB NOT NULL, PRIMARY KEY (stream, hash)) STRICT, WITHOUT ROWID;
CREATE INDEX blob_refs_by_hash ON blob_refs (hash);
CREATE TABLE snapshots (
  stream INTEGER PRIMARY KEY,
  seq INTEGER NOT NULL,
  version INTEGER NOT NULL,
  state BLOB NOT NULL,
  digest BLOB NOT NULL
) STRICT;
CREATE TABLE tombstones (
  stream INTEGER PRIMARY KEY,
  upto_seq INTEGER NOT NULL,
  hash BLOB NOT NULL,
  snapshot_digest BLOB,
  time_ms INTEGER NOT NULL
) STRICT;
CREATE TABLE holder (id INTEGER PRIMARY KEY CHECK (id = 1), epoch INTEGER NOT NULL) STRICT;
INSERT INTO holder (id, epoch) VALUES (1, 0);
";

/// How many tables and indices that is.
pub(super) const TABLE_COUNT: i64 = 10;

/// A BLAKE3 hash.
pub(super) type Hash = [u8; 32];

/// What stands in the place of the previous hash before the first link of a chain.
pub(super) const GENESIS: Hash = [0; 32];

/// Returns a hash as people read it.
pub(super) fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::with_capacity(2 * bytes.len()), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

/// Reads what [`hex`] writes, and nothing else.
pub(super) fn unhex<const N: usize>(text: &str) -> Option<[u8; N]> {
    let digit = |digit: u8| match digit {
        b'0'..=b'9' => Some(digit - b'0'),
        b'a'..=b'f' => Some(digit - b'a' + 10),
        _ => None,
    };
    let (pairs, []) = text.as_bytes().as_chunks::<2>() else { return None };
    let bytes: Option<Vec<u8>> = pairs.iter().map(|[high, low]| Some(digit(*high)? << 4 | digit(*low)?)).collect();
    bytes?.try_into().ok()
}

/// The columns of an event that its hash covers, as they are stored.
pub(super) struct Columns<'a> {
    pub(super) seq: u64,
    pub(super) time_ms: u64,
    pub(super) agent: Option<&'a str>,
    pub(super) incarnation: u32,
    pub(super) cause: Option<u64>,
    pub(super) labels: Option<&'a str>,
    pub(super) kind: &'a str,
    pub(super) version: u16,
    pub(super) payload: &'a [u8],
}

/// A row of `commits`, but for its hash.
pub(super) struct CommitColumns<'a> {
    pub(super) id: u64,
    pub(super) epoch: u64,
    pub(super) time_ms: u64,
    pub(super) heads: &'a [u8],
}

/// A row of `snapshots`, but for its digest.
pub(super) struct SnapshotColumns<'a> {
    pub(super) seq: u64,
    pub(super) version: u16,
    pub(super) state: &'a [u8],
}

/// The length that says that a field is absent.
const ABSENT: u32 = u32::MAX;

/// A list of fields as bytes.
///
/// Each field is its length as four bytes, then its bytes; a number is eight bytes; all least significant first. So no
/// two lists of fields have the same bytes.
#[derive(Clone, Default)]
pub(super) struct Fields(Vec<u8>);

impl Fields {
    /// Begins a list with what it is a list of.
    pub(super) fn new(domain: &str) -> Self {
        let mut fields = Self::default();
        fields.bytes(domain.as_bytes());
        fields
    }

    pub(super) fn bytes(&mut self, bytes: &[u8]) {
        // SQLite keeps nothing of four gigabytes, so that the cut never happens to what is stored.
        let length = u32::try_from(bytes.len()).unwrap_or(ABSENT - 1);
        self.0.extend_from_slice(&length.to_le_bytes());
        self.0.extend_from_slice(bytes);
    }

    pub(super) fn number(&mut self, number: u64) {
        self.bytes(&number.to_le_bytes());
    }

    pub(super) fn into_bytes(self) -> Vec<u8> {
        self.0
    }

    fn optional(&mut self, bytes: Option<&[u8]>) {
        match bytes {
            Some(bytes) => self.bytes(bytes),
            None => self.0.extend_from_slice(&ABSENT.to_le_bytes()),
        }
    }
}

/// Makes hashes over lists of fields; keeps its buffer from one to the next.
#[derive(Clone, Default)]
pub(super) struct Hasher {
    fields: Fields,
}

impl Hasher {
    /// Returns an event's hash.
    pub(super) fn event(&mut self, stream: &str, previous: &Hash, event: &Columns<'_>) -> Hash {
        self.begin("provost event 1");
        self.fields.bytes(stream.as_bytes());
        self.fields.bytes(previous);
        self.fields.number(event.seq);
        self.fields.number(event.time_ms);
        self.fields.optional(event.agent.map(str::as_bytes));
        self.fields.number(event.incarnation.into());
        match event.cause {
            Some(cause) => self.fields.number(cause),
            None => self.fields.optional(None),
        }
        self.fields.optional(event.labels.map(str::as_bytes));
        self.fields.bytes(event.kind.as_bytes());
        self.fields.number(event.version.into());
        self.fields.bytes(event.payload);
        self.finish()
    }

    /// Returns a commit's hash.
    pub(super) fn commit(&mut self, previous: &Hash, commit: &CommitColumns<'_>) -> Hash {
        self.begin("provost commit 1");
        self.fields.bytes(previous);
        self.fields.number(commit.id);
        self.fields.number(commit.epoch);
        self.fields.number(commit.time_ms);
        self.fields.bytes(commit.heads);
        self.finish()
    }

    /// Returns a snapshot's digest; `at` is the hash of the last event that is folded into it.
    pub(super) fn snapshot(&mut self, stream: &str, at: &Hash, snapshot: &SnapshotColumns<'_>) -> Hash {
        self.begin("provost snapshot 1");
        self.fields.bytes(stream.as_bytes());
        self.fields.bytes(at);
        self.fields.number(snapshot.seq);
        self.fields.number(snapshot.version.into());
        self.fields.bytes(snapshot.state);
        self.finish()
    }

    fn begin(&mut self, domain: &str) {
        self.fields.0.clear();
        self.fields.bytes(domain.as_bytes());
    }

    fn finish(&mut self) -> Hash {
        blake3::hash(&self.fields.0).into()
    }
}
