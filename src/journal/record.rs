//! What is appended and read.

use std::borrow::Cow;
use std::fmt;
use std::sync::Arc;

use super::Error;

/// The name of a stream: `run/RUN` for a run, `ledger` for the ledger.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct StreamName(Arc<str>);

impl StreamName {
    /// Makes the name from its text.
    pub fn new(text: impl Into<Arc<str>>) -> Self {
        Self(text.into())
    }

    /// Returns the name's text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for StreamName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// One event of a stream, as bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    /// Its number in its stream, counted from 1 without a gap.
    pub seq: u64,
    /// When it was numbered, in milliseconds since 1970 (UTC). For people: the clock may go backwards.
    pub time_ms: u64,
    /// The agent instance that it belongs to, if any.
    pub agent: Option<Arc<str>>,
    /// Which incarnation of the instance was living then; 0 for none.
    pub incarnation: u32,
    /// The number of the event that it follows from, if any.
    pub cause: Option<u64>,
    /// What it was influenced by.
    pub labels: Vec<String>,
    /// What kind of event it is, for people who look into the store.
    pub kind: Cow<'static, str>,
    /// The version of the payload's format.
    pub version: u16,
    /// What happened, as MessagePack.
    pub payload: Vec<u8>,
}

/// What goes into the store together or not at all.
#[derive(Default)]
pub struct Batch {
    /// The parts, by stream.
    pub parts: Vec<Part>,
    /// Who is told when the batch is durable.
    pub durable: Vec<Durable>,
}

/// Is called once, on the writer's thread, when a batch is durable or has failed; it must not block.
pub type Durable = Box<dyn FnOnce(Result<(), Error>) + Send>;

/// What a batch adds to one stream.
#[derive(Clone, Debug)]
pub struct Part {
    /// The stream; it comes into being with its first record.
    pub stream: StreamName,
    /// The records, numbered on from the stream's last one.
    pub records: Vec<Record>,
    /// What the stream's owner says of it from now on; none to leave it as it is.
    pub mark: Option<Mark>,
    /// A new snapshot in the place of the last one.
    pub snapshot: Option<Snapshot>,
}

/// What a stream's owner says of it, so that a list of streams needs no look at their records. It is a copy of what the
/// records say, and no part of the chain.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mark {
    /// Where the stream stands, in a word.
    pub state: Cow<'static, str>,
    /// Whether it is at rest: at its end, or parked.
    pub closed: bool,
    /// What else there is to say, in the owner's own form; none to leave it as it is.
    pub summary: Option<Vec<u8>>,
}

/// A fold of a stream's records up to a number.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Snapshot {
    /// The last record that is folded into it.
    pub seq: u64,
    /// The version of the state's format.
    pub version: u16,
    /// The state, in the owner's own form.
    pub state: Vec<u8>,
}

/// What a list of streams says of one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StreamInfo {
    /// The stream.
    pub name: StreamName,
    /// When it came into being, in milliseconds since 1970: the time of the last record of its first batch.
    pub created_ms: u64,
    /// The number of its last record.
    pub head: u64,
    /// Its owner's last mark, where there is one.
    pub mark: Option<Mark>,
    /// Whether its records have been pruned.
    pub pruned: bool,
}
