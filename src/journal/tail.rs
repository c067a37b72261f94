//! Looking at the end of the store, at each opening.

use std::collections::HashMap;
use std::path::Path;

use rusqlite::Connection;

use super::format::{GENESIS, Hash, Hasher, hex};
use super::heads::{Heads, MovedHead};
use super::rows::{self, COMMIT_COLUMNS, CommitRow};
use super::{Error, rows::StreamRow};

/// How many commits are looked at. A fault of the medium mostly lies in what was written last; the rest is for `verify`.
const COMMITS: usize = 64;

/// Checks that the last commits are chained, and that they, the streams and the events say the same.
pub(super) fn check(connection: &Connection, path: &Path) -> Result<(), Error> {
    let sqlite = |source| Error::sqlite(path, "opened", source);
    let commits = last_commits(connection).map_err(sqlite)?;
    // The first of more has its predecessor out of sight.
    let (mut previous, looked_at) = match commits.split_first() {
        Some((before, rest)) if rest.len() == COMMITS => (before.hash, rest),
        _ => (GENESIS, commits.as_slice()),
    };
    let mut heads = HashMap::new();
    for commit in looked_at {
        if Hasher::default().commit(&previous, &commit.columns()) != commit.hash {
            return Err(Error::damaged(path, format!("commit {} does not have its hash", commit.id)));
        }
        previous = commit.hash;
        let Some(said) = Heads::decode(&commit.heads) else {
            return Err(Error::damaged(path, format!("commit {} can't be read", commit.id)));
        };
        heads.extend(said.moved.into_iter().map(|head| (head.stream, head)));
    }
    for head in heads.into_values() {
        let found = rows::stream(connection, head.stream).map_err(sqlite)?;
        let is_so = found.is_some_and(|stream| (stream.head, stream.hash) == (head.seq, head.hash));
        let stream = found.filter(|_| is_so).ok_or_else(|| elsewhere(path, &head, found))?;
        if rows::chain_hash(connection, stream.id, head.seq).map_err(sqlite)? != Some(head.hash) {
            return Err(Error::damaged(
                path,
                format!("event {} of `{}` is not the one committed", head.seq, head.stream),
            ));
        }
    }
    Ok(())
}

fn last_commits(connection: &Connection) -> rusqlite::Result<Vec<CommitRow>> {
    let select = format!("SELECT {COMMIT_COLUMNS} FROM commits ORDER BY id DESC LIMIT {}", COMMITS + 1);
    let mut statement = connection.prepare(&select)?;
    let mut commits = statement.query_map((), CommitRow::read)?.collect::<rusqlite::Result<Vec<_>>>()?;
    commits.reverse();
    Ok(commits)
}

fn elsewhere(path: &Path, head: &MovedHead<'_>, found: Option<StreamRow>) -> Error {
    let place = |seq: u64, hash: &Hash| format!("{seq} ({})", &hex(hash)[..16]);
    let stands = found.map_or_else(|| "nowhere".to_owned(), |found| place(found.head, &found.hash));
    let left = place(head.seq, &head.hash);
    Error::damaged(path, format!("`{}` stands at {stands}, and the last commits left it at {left}", head.stream))
}
