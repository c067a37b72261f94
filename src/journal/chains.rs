//! The chains of a store, followed row by row: what `verify` checks of events and commits, as a fold that can be begun anywhere
//! and knows nothing of where the rows are.

use std::collections::HashMap;

use super::blob::references;
use super::format::{GENESIS, Hash, Hasher};
use super::heads::{Heads, Tombstone};
use super::rows::CommitRow;
use super::store::Event;
use super::verify::{Fault, found};

/// What is looked up in the store beside the row at hand.
pub(super) trait Lookup {
    /// Whether a stream refers to a blob.
    fn refers(&self, stream: i64, blob: &Hash) -> Result<bool, Fault>;

    /// Returns the hash of a stream's chain at a number.
    fn chain_hash(&self, stream: i64, seq: u64) -> Result<Option<Hash>, Fault>;
}

/// A stream, and how far it has been followed.
#[derive(Clone)]
pub(super) struct Stream {
    pub(super) name: String,
    pub(super) head: u64,
    pub(super) hash: Hash,
    /// What stands in the tombstones' table.
    pub(super) tombstone: Option<Tombstone>,
    /// The last event that has been looked at.
    reached: Option<(u64, Hash)>,
    /// Where the commits that have been looked at leave it, and the tombstone that they left.
    committed: (u64, Hash),
    buried: Option<Tombstone>,
}

impl Stream {
    /// Returns how far it has been followed; that begins at its tombstone, where it has one.
    fn reached(&self) -> (u64, Hash) {
        let start = || self.tombstone.map_or((0, GENESIS), |tombstone| (tombstone.upto, tombstone.hash));
        self.reached.unwrap_or_else(start)
    }
}

/// The chains, as far as they have been followed: first all events, stream by stream, then all commits.
#[derive(Clone, Default)]
pub(super) struct Chains {
    pub(super) streams: HashMap<i64, Stream>,
    ids: HashMap<String, i64>,
    hasher: Hasher,
    /// The last commit that has been looked at.
    last: Option<(u64, Hash)>,
}

impl Chains {
    /// Takes a row of `streams`; all of them come before anything else.
    pub(super) fn stream(&mut self, id: i64, name: String, head: u64, hash: Hash) {
        let (reached, committed) = (None, (0, GENESIS));
        self.ids.insert(name.clone(), id);
        let stream = Stream { name, head, hash, tombstone: None, reached, committed, buried: None };
        self.streams.insert(id, stream);
    }

    /// Returns how many commits have been followed, and the hash of the last.
    pub(super) fn last_commit(&self) -> (u64, Hash) {
        self.last.unwrap_or((0, GENESIS))
    }

    /// Follows a stream to its next event.
    pub(super) fn event(&mut self, id: i64, event: &Event<'_>, look: &impl Lookup) -> Result<(), Fault> {
        let seq = event.columns.seq;
        let Some(stream) = self.streams.get_mut(&id) else {
            return Err(found(format!("event {seq} is of no stream ({id})")));
        };
        let (last, previous) = stream.reached();
        if seq != last + 1 {
            return Err(found(format!("event {} of `{}` is missing", last + 1, stream.name)));
        }
        if self.hasher.event(&stream.name, &previous, &event.columns) != event.hash {
            return Err(found(format!("event {seq} of `{}` is not what was written", stream.name)));
        }
        let references = references(event.columns.payload);
        let references = references.map_err(|_| found(format!("event {seq} of `{}` can't be read", stream.name)))?;
        for (_, reference) in references {
            if !look.refers(id, &reference.hash)? {
                return Err(found(format!("event {seq} of `{}` has lost a blob", stream.name)));
            }
        }
        stream.reached = Some((seq, event.hash));
        Ok(())
    }

    /// Looks whether each stream was followed to its head.
    pub(super) fn heads(&self) -> Result<(), Fault> {
        for stream in self.streams.values() {
            let (last, hash) = stream.reached();
            if (last, hash) != (stream.head, stream.hash) {
                return Err(found(format!(
                    "`{}` ends with event {last}, and its head is {}",
                    stream.name, stream.head
                )));
            }
        }
        Ok(())
    }

    /// Follows the commits to the next one: the heads that it moved are in the streams' chains.
    pub(super) fn commit(&mut self, commit: &CommitRow, look: &impl Lookup) -> Result<(), Fault> {
        let (last, previous) = self.last_commit();
        if commit.id != last + 1 {
            return Err(found(format!("commit {} is missing", last + 1)));
        }
        if self.hasher.commit(&previous, &commit.columns()) != commit.hash {
            return Err(found(format!("commit {} is not what was written", commit.id)));
        }
        let heads = Heads::decode(&commit.heads);
        let heads = heads.ok_or_else(|| found(format!("commit {} can't be read", commit.id)))?;
        for head in heads.moved {
            self.moved(commit.id, head.stream, head.seq, head.hash, look)?;
        }
        for (name, tombstone) in heads.tombstones {
            self.named(commit.id, name)?.1.buried = Some(tombstone);
        }
        self.last = Some((commit.id, commit.hash));
        Ok(())
    }

    fn named(&mut self, commit: u64, name: &str) -> Result<(i64, &mut Stream), Fault> {
        let id = self.ids.get(name).copied();
        let stream = id.and_then(|id| Some((id, self.streams.get_mut(&id)?)));
        stream.ok_or_else(|| found(format!("commit {commit} is of a stream that is missing, `{name}`")))
    }

    fn moved(&mut self, commit: u64, name: &str, seq: u64, hash: Hash, look: &impl Lookup) -> Result<(), Fault> {
        let (id, stream) = self.named(commit, name)?;
        if seq <= stream.committed.0 {
            return Err(found(format!("commit {commit} moves `{name}` from {} to {seq}", stream.committed.0)));
        }
        stream.committed = (seq, hash);
        let is_pruned = stream.tombstone.is_some_and(|tombstone| seq < tombstone.upto);
        if !is_pruned && look.chain_hash(id, seq)? != Some(hash) {
            return Err(found(format!("event {seq} of `{name}` is not the one of commit {commit}")));
        }
        Ok(())
    }

    /// Looks whether the streams stand where the last commits left them, and have the tombstones that commits left.
    pub(super) fn ends(&self) -> Result<(), Fault> {
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
}
