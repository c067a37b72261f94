//! A store's commits, compared with what checkpoints say of them.

use std::collections::{BTreeMap, btree_map};
use std::path::Path;

use serde::Deserialize;

use super::anchor::{self, Known};
use super::{Anchor, Checkpoint, PublicKey, Target, beside, list};
use crate::journal::format::{Hash, hex};
use crate::journal::{Error, Store, rows};

/// How many checkpoints of one store are compared, about a hundred bytes each: at one every thirty seconds, those of thirty years.
const MOST: usize = 1 << 25;

/// The checkpoints of one store that somebody keeps.
#[derive(Debug)]
pub struct Evidence {
    at: String,
    /// Whether other stores may keep theirs there too.
    is_shared: bool,
    /// The store that they are of.
    store: Option<Hash>,
    /// What must be there.
    known: Known,
    /// How many there are of this store.
    count: u64,
    /// By how many commits there were.
    own: BTreeMap<u64, (Hash, u64)>,
    newest: Option<Checkpoint>,
    /// Those who have signed them, in the order in which they came, and the commit of the first of each.
    keys: Vec<(PublicKey, u64)>,
    /// A store of which there are others.
    other: Option<String>,
    lines: u64,
    /// The first line since the last of this store's checkpoints that is none, and may have been one.
    unreadable: Option<u64>,
    /// What makes all of it worth nothing.
    fault: Option<Refuted>,
}

/// What has been found to agree.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Attested {
    /// Where the checkpoints are.
    pub at: String,
    /// Whether it is an anchor, where other stores may keep theirs too.
    pub is_shared: bool,
    /// How many there are of this store.
    pub checkpoints: u64,
    /// The one of the most commits; none where there is none.
    pub newest: Option<Checkpoint>,
    /// How many commits came after it.
    pub since: u64,
}

/// Why a store is not the one that checkpoints speak of, or they can't be believed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refuted {
    /// What should be a checkpoint is none.
    #[error("line {line} of {at} is no checkpoint that this Provost can read")]
    Unreadable {
        /// Where.
        at: String,
        /// Which line, counted from 1.
        line: u64,
    },
    /// There are more than can be compared.
    #[error("{at} has more than {MOST} checkpoints")]
    TooMany {
        /// Where.
        at: String,
    },
    /// A signature does not hold.
    #[error("the checkpoint of commit {size} at {at} is forged: its key has not signed it")]
    Forged {
        /// Where.
        at: String,
        /// Of which commit.
        size: u64,
    },
    /// A checkpoint is signed by another key than the one that is believed.
    #[error("the checkpoint of commit {size} at {at} is signed by another key, {key}")]
    OtherKey {
        /// Where.
        at: String,
        /// Of which commit.
        size: u64,
        /// The key.
        key: PublicKey,
    },
    /// Two checkpoints can't both be right.
    #[error(
        "two checkpoints of commit {size} at {at} contradict each other: two copies of the store have gone on apart"
    )]
    Contradiction {
        /// Where.
        at: String,
        /// Of which commit.
        size: u64,
    },
    /// There are checkpoints, and none is of this store.
    #[error("{at} has no checkpoint of this store, which begins with commit {store}; it has those of {other}")]
    OtherStore {
        /// Where.
        at: String,
        /// The store, by its first commit; `none` where it has no commits.
        store: String,
        /// A store of which there are checkpoints.
        other: String,
    },
    /// There is no checkpoint at all, where there must be one.
    #[error("{at} has no checkpoint, of this store or of another one")]
    Nothing {
        /// Where.
        at: String,
    },
    /// Checkpoints that were there are there no longer.
    #[error(
        "{at} has lost checkpoints: it had one of commit {size}, and {}",
        match newest { 0 => "has none of this store".to_owned(), newest => format!("its newest is of commit {newest}") }
    )]
    Lost {
        /// Where.
        at: String,
        /// Of which commit the newest was that it is known to have had.
        size: u64,
        /// Of which commit the newest is that it has; 0 where it has none.
        newest: u64,
    },
    /// The store is shorter than it was.
    #[error(
        "the store ends with commit {found}, and had {size} commits by the checkpoint of {time} at {at}: its tail was cut off, \
         or an older copy was put in its place"
    )]
    Cut {
        /// Where.
        at: String,
        /// How many commits there were.
        size: u64,
        /// When, by the clock of who signed it.
        time: String,
        /// How many there are.
        found: u64,
    },
    /// The store has other commits than it had.
    #[error(
        "commit {size} is not the one that the checkpoint of {time} at {at} names: what came after commit {agreed} was \
         rewritten, or is of another copy of the store"
    )]
    Rewritten {
        /// Where.
        at: String,
        /// Of which commit.
        size: u64,
        /// When, by the clock of who signed it.
        time: String,
        /// The last commit before it of which a checkpoint agrees; 0 if there is none.
        agreed: u64,
    },
}

impl Evidence {
    /// Reads the checkpoints beside a store. What its anchor is known to have taken must be among them.
    ///
    /// # Errors
    /// They can't be read, or the store can't.
    pub fn beside(directory: &Path) -> Result<Self, Error> {
        let (path, store) = (beside(directory), name(directory)?);
        let known = anchor::taken(directory, store.as_ref()).map_or(Known::Nothing, Known::Took);
        let mut evidence = Self::none(path.display().to_string(), false, store, known);
        list::each(&path, &mut |line| evidence.take(line)).map_err(|source| Error::beside(&path, "read", source))?;
        Ok(evidence)
    }

    /// Reads those that an anchor has of a data directory's store. `is_own` says that it is asked because the data directory names it:
    /// then it is believed, too, that the anchor has taken nothing of this store yet.
    ///
    /// # Errors
    /// It can't be read, or the store can't.
    pub fn of(directory: &Path, target: &Target, anchor: &dyn Anchor, is_own: bool) -> Result<Self, Error> {
        let store = name(directory)?;
        // Known before it is asked: meanwhile it may take more.
        let known = anchor::known_of(directory, target, store.as_ref(), is_own);
        let mut evidence = Self::none(target.to_string(), true, store, known);
        anchor.lines(&mut |line| evidence.take(line))?;
        Ok(evidence)
    }

    pub(in crate::journal) fn none(at: String, is_shared: bool, store: Option<Hash>, known: Known) -> Self {
        Self {
            at,
            is_shared,
            store,
            known,
            count: 0,
            own: BTreeMap::new(),
            newest: None,
            keys: Vec::new(),
            other: None,
            lines: 0,
            unreadable: None,
            fault: None,
        }
    }

    /// Takes the next line; returns whether another is wanted.
    pub(in crate::journal) fn take(&mut self, line: &str) -> bool {
        self.lines += 1;
        match (Checkpoint::parse(line), self.store) {
            _ if line.trim().is_empty() => {}
            (Some(checkpoint), Some(store)) if checkpoint.standing.store == store => self.own(checkpoint),
            (Some(checkpoint), _) => self.other = self.other.take().or(Some(checkpoint.store())),
            // Another store's, of another version.
            (None, store) if said_of(line).is_some_and(|said| Some(said) != store.as_ref().map(|store| hex(store))) => {
            }
            (None, _) => self.unreadable = self.unreadable.or(Some(self.lines)),
        }
        self.fault.is_none()
    }

    fn own(&mut self, checkpoint: Checkpoint) {
        let (at, size, key) = (self.at.clone(), checkpoint.size(), checkpoint.key());
        if !checkpoint.is_genuine() {
            self.fault = Some(Refuted::Forged { at, size });
            return;
        }
        (self.count, self.unreadable) = (self.count + 1, None);
        if !self.keys.iter().any(|(known, _)| *known == key) {
            self.keys.push((key, size));
        }
        let is_full = self.own.len() >= MOST;
        match self.own.entry(size) {
            btree_map::Entry::Occupied(before) if before.get().0 != checkpoint.standing.root => {
                self.fault = Some(Refuted::Contradiction { at, size });
            }
            btree_map::Entry::Occupied(_) => {}
            btree_map::Entry::Vacant(_) if is_full => self.fault = Some(Refuted::TooMany { at }),
            btree_map::Entry::Vacant(new) => {
                new.insert((checkpoint.standing.root, checkpoint.time_ms()));
            }
        }
        if self.newest.as_ref().is_none_or(|newest| newest.size() < size) {
            self.newest = Some(checkpoint);
        }
    }

    /// Compares them with a store of `size` commits; `root_at` returns the hash of a commit. `keys` are those whose signatures
    /// are believed; where none is named, it is the one that signed the first.
    pub(in crate::journal) fn check<E: From<Refuted>>(
        &self,
        size: u64,
        mut root_at: impl FnMut(u64) -> Result<Option<Hash>, E>,
        keys: &[PublicKey],
    ) -> Result<Attested, E> {
        self.are_of(root_at(1)?)?;
        self.are_whole(keys)?;
        let (at, mut agreed) = (self.at.clone(), 0);
        for (&found, &(root, time_ms)) in self.own.range(..=size) {
            if root_at(found)? != Some(root) {
                return Err(Refuted::Rewritten { at, size: found, time: utc(time_ms), agreed }.into());
            }
            agreed = found;
        }
        let newest = self.newest.as_ref();
        if let Some(newest) = newest.filter(|newest| newest.size() > size) {
            let time = utc(newest.time_ms());
            return Err(Refuted::Cut { at, size: newest.size(), time, found: size }.into());
        }
        let has = newest.map_or(0, Checkpoint::size);
        match self.known {
            Known::Took(size) if has < size => Err(Refuted::Lost { at, size, newest: has }.into()),
            _ => {
                let since = size - has;
                Ok(Attested { at, is_shared: self.is_shared, checkpoints: self.count, newest: newest.cloned(), since })
            }
        }
    }

    /// Whether they are of this store, as far as they must be.
    fn are_of(&self, store: Option<Hash>) -> Result<(), Refuted> {
        let (at, is_missing) = (self.at.clone(), self.count == 0 && self.known == Known::Nothing);
        // The store may have got its first commit only just now.
        let is_other = store.is_some() && self.store.is_some() && store != self.store;
        match &self.other {
            // What lies beside a store is of that store alone.
            Some(other) if !self.is_shared || is_missing || is_other => {
                let store = store.map_or("none".to_owned(), |store| hex(&store));
                Err(Refuted::OtherStore { at, store, other: other.clone() })
            }
            _ if is_other => {
                let [store, other] =
                    [store, self.store].map(|store| store.map_or("none".to_owned(), |store| hex(&store)));
                Err(Refuted::OtherStore { at, store, other })
            }
            None if self.is_shared && is_missing && self.unreadable.is_none() && store.is_some() => {
                Err(Refuted::Nothing { at })
            }
            _ => Ok(()),
        }
    }

    /// Whether they can all be read, and are signed by those who are believed.
    fn are_whole(&self, keys: &[PublicKey]) -> Result<(), Refuted> {
        let at = self.at.clone();
        let first = self.keys.first().map(|(key, _)| *key);
        let is_believed = |key: &PublicKey| if keys.is_empty() { Some(*key) == first } else { keys.contains(key) };
        if let Some(fault) = &self.fault {
            return Err(fault.clone());
        }
        if let Some(&(key, size)) = self.keys.iter().find(|(key, _)| !is_believed(key)) {
            return Err(Refuted::OtherKey { at, size, key });
        }
        match self.unreadable.filter(|_| self.known != Known::Empty) {
            Some(line) => Err(Refuted::Unreadable { at, line }),
            None => Ok(()),
        }
    }
}

/// Returns the name of a data directory's store, if there is one with a commit.
pub(super) fn name(directory: &Path) -> Result<Option<Hash>, Error> {
    match Store::open(directory) {
        Ok(store) => rows::commit_hash(store.connection(), 1).map_err(|source| store.failed(source)),
        Err(Error::Absent { .. }) => Ok(None),
        Err(error) => Err(error),
    }
}

/// Returns of which store a line of some version says to be.
fn said_of(line: &str) -> Option<String> {
    #[derive(Deserialize)]
    struct Said {
        store: String,
    }
    serde_json::from_str::<Said>(line).ok().map(|said| said.store)
}

/// Returns a time as it is the same everywhere.
fn utc(time_ms: u64) -> String {
    let at = i64::try_from(time_ms).ok().and_then(|time_ms| jiff::Timestamp::from_millisecond(time_ms).ok());
    at.map(|at| at.strftime("%Y-%m-%d %H:%M:%S UTC").to_string()).unwrap_or_default()
}
