//! A store's commits, compared with what checkpoints say of them.

use std::collections::BTreeMap;
use std::path::Path;

use super::{Anchor, Checkpoint, PublicKey, Target, beside, list};
use crate::journal::Error;
use crate::journal::format::{Hash, hex};

/// How many checkpoints are compared at once, about 200 bytes each: at one every thirty seconds, those of a year.
const MOST: usize = 1 << 20;

/// The checkpoints that somebody keeps.
#[derive(Debug)]
pub struct Evidence {
    at: String,
    /// Whether other stores may keep theirs there too.
    is_shared: bool,
    /// In the order in which they were taken, each with whether its signature holds.
    checkpoints: Vec<(Checkpoint, bool)>,
}

/// What has been found to agree.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Attested {
    /// Where the checkpoints are.
    pub at: String,
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
    /// Reads the checkpoints beside a store.
    ///
    /// # Errors
    /// They can't be read, or are none.
    pub fn beside(directory: &Path) -> Result<Self, Error> {
        let path = beside(directory);
        let mut reading = Reading::new(path.display().to_string(), false);
        list::each(&path, &mut |line| reading.take(line)).map_err(|source| Error::beside(&path, "read", source))?;
        reading.finish()
    }

    /// Reads those that an anchor has.
    ///
    /// # Errors
    /// It can't be read, or what it has are no checkpoints.
    pub fn of(target: &Target, anchor: &dyn Anchor) -> Result<Self, Error> {
        let mut reading = Reading::new(target.to_string(), true);
        anchor.lines(&mut |line| reading.take(line))?;
        reading.finish()
    }

    /// Compares them with a store of `size` commits; `root_at` returns the hash of a commit. `keys` are those whose signatures
    /// are believed; where none is named, it is the one that signed the first.
    pub(in crate::journal) fn check<E: From<Refuted>>(
        &self,
        size: u64,
        mut root_at: impl FnMut(u64) -> Result<Option<Hash>, E>,
        keys: &[PublicKey],
    ) -> Result<Attested, E> {
        let store = root_at(1)?;
        let is_own = |checkpoint: &Checkpoint| Some(checkpoint.standing.store) == store;
        let own: Vec<&(Checkpoint, bool)> = self.checkpoints.iter().filter(|(found, _)| is_own(found)).collect();
        self.are_of(store, own.len())?;
        self.are_signed(&own, keys)?;
        let (mut agreed, mut rewritten) = (0, None);
        let mut roots: BTreeMap<u64, &Checkpoint> = BTreeMap::new();
        for (checkpoint, _) in &own {
            let before = *roots.entry(checkpoint.size()).or_insert(checkpoint);
            if before.standing != checkpoint.standing {
                return Err(Refuted::Contradiction { at: self.at.clone(), size: checkpoint.size() }.into());
            }
        }
        for (&at, &checkpoint) in roots.range(..=size) {
            match root_at(at)? == Some(checkpoint.standing.root) {
                true => agreed = at,
                false => {
                    rewritten = Some(checkpoint);
                    break;
                }
            }
        }
        let (at, newest) = (self.at.clone(), roots.last_key_value().map(|(_, newest)| *newest));
        if let Some(checkpoint) = rewritten {
            let (size, time) = (checkpoint.size(), utc(checkpoint.time_ms()));
            return Err(Refuted::Rewritten { at, size, time, agreed }.into());
        }
        if let Some(newest) = newest.filter(|newest| newest.size() > size) {
            let time = utc(newest.time_ms());
            return Err(Refuted::Cut { at, size: newest.size(), time, found: size }.into());
        }
        let since = size - newest.map_or(0, Checkpoint::size);
        Ok(Attested { at, checkpoints: own.len() as u64, newest: newest.cloned(), since })
    }

    /// Whether they are of this store, as far as they must be.
    fn are_of(&self, store: Option<Hash>, own: usize) -> Result<(), Refuted> {
        let at = self.at.clone();
        let other = self.checkpoints.iter().find(|(checkpoint, _)| Some(checkpoint.standing.store) != store);
        match other {
            // What lies beside a store is of that store alone.
            Some((other, _)) if own == 0 || !self.is_shared => {
                let store = store.map_or("none".to_owned(), |store| hex(&store));
                Err(Refuted::OtherStore { at, store, other: other.store() })
            }
            None if self.is_shared && store.is_some() && own == 0 => Err(Refuted::Nothing { at }),
            _ => Ok(()),
        }
    }

    fn are_signed(&self, own: &[&(Checkpoint, bool)], keys: &[PublicKey]) -> Result<(), Refuted> {
        let first = own.first().map(|(checkpoint, _)| checkpoint.key());
        for (checkpoint, is_genuine) in own {
            let (at, size, key) = (self.at.clone(), checkpoint.size(), checkpoint.key());
            if !is_genuine {
                return Err(Refuted::Forged { at, size });
            }
            let is_believed = if keys.is_empty() { Some(key) == first } else { keys.contains(&key) };
            if !is_believed {
                return Err(Refuted::OtherKey { at, size, key });
            }
        }
        Ok(())
    }
}

struct Reading {
    evidence: Evidence,
    lines: u64,
    fault: Option<Refuted>,
}

impl Reading {
    fn new(at: String, is_shared: bool) -> Self {
        Self { evidence: Evidence { at, is_shared, checkpoints: Vec::new() }, lines: 0, fault: None }
    }

    /// Takes the next line; returns whether another is wanted.
    fn take(&mut self, line: &str) -> bool {
        self.lines += 1;
        let at = || self.evidence.at.clone();
        self.fault = match Checkpoint::parse(line) {
            None => Some(Refuted::Unreadable { at: at(), line: self.lines }),
            Some(_) if self.evidence.checkpoints.len() >= MOST => Some(Refuted::TooMany { at: at() }),
            Some(checkpoint) => {
                let is_genuine = checkpoint.is_genuine();
                self.evidence.checkpoints.push((checkpoint, is_genuine));
                None
            }
        };
        self.fault.is_none()
    }

    fn finish(self) -> Result<Evidence, Error> {
        self.fault.map_or(Ok(self.evidence), |fault| Err(fault.into()))
    }
}

/// Returns a time as it is the same everywhere.
fn utc(time_ms: u64) -> String {
    let at = i64::try_from(time_ms).ok().and_then(|time_ms| jiff::Timestamp::from_millisecond(time_ms).ok());
    at.map(|at| at.strftime("%Y-%m-%d %H:%M:%S UTC").to_string()).unwrap_or_default()
}
