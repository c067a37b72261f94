//! What outlasts a run besides its record: facts that agents keep, and files that were indexed to be looked up.
//!
//! Each has an SQLite file of its own in the data directory (`memory.db`, `knowledge.db`), apart from the journal: what is
//! kept here is not what happened, and is not rewound with it. Any number of processes may use the files at once. No SQLite
//! type leaves this room.

mod error;
mod facts;
mod file;
mod knowledge;
mod shelf;
mod words;

pub use error::Error;
pub use facts::{Fact, MAX_FACT_BYTES, MAX_FACTS, NewFact, Whose};
pub use knowledge::{Added, Collection, Embeddings, Hits, Knowledge, MAX_FILE_BYTES, MAX_PASSAGES, Passage, Ranking};
pub use shelf::Shelf;
pub use words::MAX_QUERY_BYTES;
