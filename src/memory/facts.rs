//! The facts that agents keep, each in somebody's memory, with where it came from.

use std::path::{Path, PathBuf};

use rusqlite::{Connection, OptionalExtension, Row, Transaction, TransactionBehavior, params};
use serde::Serialize;

use super::file::Kind;
use super::words::{expression, hidden_parts, terms};
use super::{Error, words};
use crate::run::{AgentId, Labels, RunId};

/// How long a fact may be: some pages. What is longer belongs into a file, which can be indexed.
pub const MAX_FACT_BYTES: usize = 8 * 1024;

/// How many facts one memory may have: far more than a person would keep of anything, and few enough to be counted at each
/// new one.
pub const MAX_FACTS: u64 = 10_000;

/// How many forgotten facts are known as such, over all memories: the last ones. It takes a crash between a forgetting and
/// its record, and then so many others, for one to be missed.
const FORGOTTEN: i64 = 100_000;

/// The length of a fact's id, in hexadecimal digits: short enough for a model to repeat, and with as many facts as one
/// memory may have, two of the same id are as likely as one in 10¹¹.
const ID_DIGITS: usize = 16;

/// The columns of the index count so much: whose it is says nothing, and the parts of names less than what is written.
const RANK: &str = "bm25(0.0, 1.0, 0.5)";

const KIND: Kind = Kind {
    name: "memory.db",
    // "PvMm"
    application_id: 0x5076_4d6d,
    format: 1,
    tables: "
        CREATE TABLE memories (id INTEGER PRIMARY KEY, whose TEXT NOT NULL UNIQUE) STRICT;
        CREATE TABLE facts (
            row INTEGER PRIMARY KEY AUTOINCREMENT, memory INTEGER NOT NULL, id TEXT NOT NULL, text TEXT NOT NULL,
            run TEXT NOT NULL, agent TEXT NOT NULL, time_ms INTEGER NOT NULL, labels TEXT NOT NULL, UNIQUE (memory, id)
        ) STRICT;
        CREATE TABLE forgotten (
            row INTEGER PRIMARY KEY AUTOINCREMENT, memory INTEGER NOT NULL, id TEXT NOT NULL, UNIQUE (memory, id)
        ) STRICT;
        CREATE VIRTUAL TABLE words USING fts5 (
            whose, text, parts, content = '', contentless_delete = 1, tokenize = 'porter unicode61 remove_diacritics 2'
        );",
};

/// Whose memory it is. Nobody else sees what is in it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Whose(String);

impl Whose {
    /// Names the memory of an agent in networks of one name, for one tenant.
    pub fn agent(tenant: &str, network: &str, agent: &str) -> Self {
        Self(format!("agent/{}/{}/{}", part(tenant), part(network), part(agent)))
    }

    /// Names the memory of the runs of a session.
    pub fn session(tenant: &str, session: &str) -> Self {
        Self(format!("session/{}/{}", part(tenant), part(session)))
    }

    /// Names the memory of all runs of a tenant.
    pub fn tenant(tenant: &str) -> Self {
        Self(format!("tenant/{}", part(tenant)))
    }
}

/// Writes a name so that no `/` in it can be taken for one between two.
fn part(name: &str) -> String {
    name.replace('%', "%25").replace('/', "%2F")
}

/// A fact that is to be kept.
#[derive(Clone, Debug)]
pub struct NewFact<'a> {
    /// Whose memory it goes into.
    pub whose: &'a Whose,
    /// The same for each try to keep it, and for no other fact.
    pub key: &'a str,
    /// What it says.
    pub text: &'a str,
    /// The run that it comes from.
    pub run: &'a RunId,
    /// The agent instance that keeps it.
    pub agent: &'a AgentId,
    /// When, in milliseconds since 1970 (UTC).
    pub time_ms: u64,
    /// What that agent had been influenced by.
    pub labels: &'a Labels,
}

/// A fact that was kept.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Fact {
    /// Its name in its memory, for as long as it is there.
    pub id: String,
    /// What it says.
    pub text: String,
    /// The run that it comes from.
    pub run: RunId,
    /// The agent instance that kept it.
    pub agent: AgentId,
    /// When, in milliseconds since 1970 (UTC).
    pub time_ms: u64,
    /// What that agent had been influenced by.
    pub labels: Labels,
}

/// The file of the facts.
pub(super) struct Facts {
    connection: Connection,
    path: PathBuf,
}

impl Facts {
    /// Opens the facts of a data directory; without one they last as long as the value.
    pub(super) fn open(directory: Option<&Path>) -> Result<Self, Error> {
        match directory {
            Some(directory) => {
                Ok(Self { connection: KIND.open_for_writing(directory)?, path: directory.join(KIND.name) })
            }
            None => Ok(Self { connection: KIND.open_in_memory()?, path: KIND.name.into() }),
        }
    }

    /// Keeps a fact, and returns its id. One that was kept before under the same key is the same fact, even if it was
    /// forgotten meanwhile. When this returns the fact is on disk.
    pub(super) fn put(&mut self, fact: &NewFact<'_>, is_cancelled: &dyn Fn() -> bool) -> Result<String, Error> {
        if fact.text.trim().is_empty() {
            return Err(Error::FactEmpty);
        }
        if fact.text.len() > MAX_FACT_BYTES {
            return Err(Error::FactTooLong(fact.text.len()));
        }
        let mut id = blake3::hash(fact.key.as_bytes()).to_hex().to_string();
        id.truncate(ID_DIGITS);
        self.change(is_cancelled, |change| Ok(put(change, fact, &id)?.map(|()| id)))
    }

    /// Finds the facts of a memory that fit a query best, the best first.
    pub(super) fn search(&self, whose: &Whose, query: &str, limit: usize) -> Result<Vec<Fact>, Error> {
        let words = expression(query)?;
        let found = || {
            let Some(memory) = memory(&self.connection, whose)? else { return Ok(Vec::new()) };
            let select =
                "SELECT id, facts.text, run, agent, time_ms, labels FROM words JOIN facts ON facts.row = words.rowid
                WHERE words MATCH ?1 AND rank MATCH ?2 AND facts.memory = ?3 ORDER BY rank, words.rowid DESC LIMIT ?4";
            let matching = format!("whose : \"{}\" AND {{text parts}} : ({words})", mark(memory));
            let mut select = self.connection.prepare_cached(select)?;
            let rows = select.query_map(params![matching, RANK, memory, limit as i64], read)?;
            rows.collect::<Result<Vec<_>, _>>()
        };
        found().map_err(|source| Error::sqlite(&self.path, "read", source))
    }

    /// Lets a fact go. One that was let go of before is no error.
    pub(super) fn forget(&mut self, whose: &Whose, id: &str, is_cancelled: &dyn Fn() -> bool) -> Result<(), Error> {
        self.change(is_cancelled, |change| match forget(change, whose, id)? {
            true => Ok(Ok(())),
            false => Ok(Err(Error::NoSuchFact(words::excerpt(id)))),
        })
    }

    /// Changes something in one transaction; nothing, where it is refused, or is cancelled before the transaction commits.
    fn change<T>(
        &mut self,
        is_cancelled: &dyn Fn() -> bool,
        change: impl FnOnce(&Transaction<'_>) -> Result<Result<T, Error>, rusqlite::Error>,
    ) -> Result<T, Error> {
        // There may have been others before it in this process, and it need not wait for those of other processes, too.
        if is_cancelled() {
            return Err(Error::Cancelled);
        }
        let path = &self.path;
        let failed = |source| Error::sqlite(path, "written", source);
        let transaction = self.connection.transaction_with_behavior(TransactionBehavior::Immediate).map_err(failed)?;
        let done = change(&transaction).map_err(failed)??;
        // Now it has waited for them: who was told meanwhile that it failed must not find it done.
        if is_cancelled() {
            return Err(Error::Cancelled);
        }
        transaction.commit().map_err(failed)?;
        Ok(done)
    }
}

/// Writes a fact down where it is not there and was not, unless there is no room, or no way to find it.
fn put(change: &Transaction<'_>, fact: &NewFact<'_>, id: &str) -> Result<Result<(), Error>, rusqlite::Error> {
    let memory = match memory(change, fact.whose)? {
        Some(memory) => memory,
        None => {
            change.execute("INSERT INTO memories (whose) VALUES (?1)", [&fact.whose.0])?;
            change.last_insert_rowid()
        }
    };
    if is_in(change, "facts", memory, id)? || is_in(change, "forgotten", memory, id)? {
        return Ok(Ok(()));
    }
    let count: i64 = change.query_row("SELECT count(*) FROM facts WHERE memory = ?1", [memory], |row| row.get(0))?;
    if count.cast_unsigned() >= MAX_FACTS {
        return Ok(Err(Error::TooManyFacts));
    }
    let labels = serde_json::to_string(fact.labels).unwrap_or_default();
    change.execute(
        "INSERT INTO facts (memory, id, text, run, agent, time_ms, labels) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)",
        params![memory, id, fact.text, fact.run.as_str(), fact.agent.as_str(), fact.time_ms.cast_signed(), labels],
    )?;
    let row = change.last_insert_rowid();
    change.execute(
        "INSERT INTO words (rowid, whose, text, parts) VALUES (?1, ?2, ?3, ?4)",
        params![row, mark(memory), fact.text, hidden_parts(fact.text)],
    )?;
    Ok(if has_words(change, row, fact.text)? { Ok(()) } else { Err(Error::FactWithoutWords) })
}

/// Whether a fact is found by any of its words. The index itself is asked: it has its own mind of what a letter is.
fn has_words(connection: &Connection, row: i64, text: &str) -> Result<bool, rusqlite::Error> {
    let mut select = connection.prepare_cached("SELECT 1 FROM words WHERE words MATCH ?1 AND rowid = ?2")?;
    for term in terms(text) {
        if select.exists(params![format!("{{text parts}} : \"{term}\""), row])? {
            return Ok(true);
        }
    }
    Ok(false)
}

/// Takes a fact out; says whether it is there, or was.
fn forget(change: &Transaction<'_>, whose: &Whose, id: &str) -> Result<bool, rusqlite::Error> {
    let Some(memory) = memory(change, whose)? else { return Ok(false) };
    let select = "SELECT row FROM facts WHERE memory = ?1 AND id = ?2";
    let row: Option<i64> = change.query_row(select, params![memory, id], |row| row.get(0)).optional()?;
    let Some(row) = row else { return is_in(change, "forgotten", memory, id) };
    change.execute("DELETE FROM facts WHERE row = ?1", [row])?;
    change.execute("DELETE FROM words WHERE rowid = ?1", [row])?;
    change.execute("INSERT INTO forgotten (memory, id) VALUES (?1, ?2)", params![memory, id])?;
    change.execute("DELETE FROM forgotten WHERE row <= (SELECT max(row) FROM forgotten) - ?1", [FORGOTTEN])?;
    Ok(true)
}

fn is_in(connection: &Connection, table: &str, memory: i64, id: &str) -> Result<bool, rusqlite::Error> {
    let select = format!("SELECT count(*) FROM {table} WHERE memory = ?1 AND id = ?2");
    connection.query_row(&select, params![memory, id], |row| Ok(row.get::<_, i64>(0)? > 0))
}

fn memory(connection: &Connection, whose: &Whose) -> Result<Option<i64>, rusqlite::Error> {
    let select = "SELECT id FROM memories WHERE whose = ?1";
    connection.prepare_cached(select)?.query_row([&whose.0], |row| row.get(0)).optional()
}

/// The word by which the index knows a memory's facts.
fn mark(memory: i64) -> String {
    format!("memory{memory}")
}

fn read(row: &Row<'_>) -> Result<Fact, rusqlite::Error> {
    let labels: String = row.get(5)?;
    let malformed = |error: serde_json::Error| {
        rusqlite::Error::FromSqlConversionFailure(5, rusqlite::types::Type::Text, error.into())
    };
    Ok(Fact {
        id: row.get(0)?,
        text: row.get(1)?,
        run: RunId::new(row.get::<_, String>(2)?),
        agent: AgentId::new(row.get::<_, String>(3)?),
        time_ms: row.get::<_, i64>(4)?.cast_unsigned(),
        labels: serde_json::from_str(&labels).map_err(malformed)?,
    })
}

#[cfg(test)]
mod tests;
