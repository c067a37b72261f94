//! The journal: what happened, kept so that it outlives the process.
//!
//! Streams of records lie in one SQLite file, `provost.db` in the data directory. One process at a time holds the store
//! and writes ([`Journal`]); any number may read ([`Store`]), and needs no lock. What the records mean is none of this
//! room's business: it knows numbers, bytes and hashes. `docs/journal.md` fixes the format.

mod blob;
mod chains;
mod commit;
mod directory;
mod error;
mod file;
mod format;
mod heads;
mod hold;
mod inline;
mod log;
mod notary;
mod prune;
mod queue;
mod record;
mod rows;
mod store;
mod tail;
mod verify;
mod writer;

pub use directory::data_directory;
pub use error::Error;
pub use inline::{Inline, Moment};
pub use log::{Log, Reader};
pub use notary::{
    Anchor, AnchorError, Anchoring, Attested, Checkpoint, Connect, Evidence, Failing, PublicKey, Refuted, Target,
    anchor, anchoring, public_key, remove_anchor, set_anchor,
};
pub use record::{Batch, Durable, Mark, Part, Record, Snapshot, StreamInfo, StreamName};
pub use store::Store;
pub use verify::{Verified, verify, verify_against};
pub use writer::{Journal, Pruned};

#[cfg(test)]
mod tests;
