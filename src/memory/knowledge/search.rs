//! Finding passages: by their words, and where there is a vector to compare with, by that too.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use rusqlite::params;
use serde::Serialize;

use super::super::Error;
use super::super::words::expression;
use super::{Knowledge, Row, vectors};

/// What a word counts in a passage's path, in its headings, in its text, and among the hidden parts of its names.
const RANK: &str = "bm25(4.0, 3.0, 1.0, 0.5)";

/// How many passages each ranking names: more than are wanted, so that the two can meet.
const CANDIDATES: usize = 60;

/// How many passages of one file come before those of others: who asks wants to see several places.
const OF_ONE_FILE: usize = 2;

/// What a place in a ranking is worth is one over it and this. From Cormack, Clarke and Büttcher, "Reciprocal rank fusion
/// outperforms Condorcet and individual rank learning methods" (2009).
const FUSION: f64 = 60.0;

/// A passage that was found.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Passage {
    /// The file.
    pub path: PathBuf,
    /// The first line, from 1.
    pub first: u32,
    /// The last line.
    pub last: u32,
    /// The headings, or the line, that it stands under; may be empty.
    pub heading: String,
    /// The text.
    pub text: String,
}

impl Passage {
    /// Writes where it is: `path:first-last`, from `directory` if it is beneath that.
    pub fn place(&self, directory: &Path) -> String {
        let path = self.path.strip_prefix(directory).unwrap_or(&self.path);
        format!("{}:{}-{}", path.display(), self.first, self.last)
    }
}

/// What passages were ranked by.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Ranking {
    /// Their words (BM25).
    Words,
    /// Their words and their vectors, by reciprocal rank fusion.
    WordsAndVectors,
}

/// What a search comes to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hits {
    /// The passages, the best first.
    pub passages: Vec<Passage>,
    /// What they were ranked by.
    pub ranked_by: Ranking,
    /// Why no vectors were looked at, where there was one to compare with.
    pub without_vectors: Option<String>,
}

impl Knowledge {
    /// Finds the passages that fit a query best, at most `limit`, the best first; `vector` is what the query means, where
    /// that is known.
    ///
    /// # Errors
    /// Nothing is indexed under the name, the query has no words or is too long, or the file is at fault.
    pub fn search(&self, name: &str, query: &str, vector: Option<&[f32]>, limit: usize) -> Result<Hits, Error> {
        let words = expression(query)?;
        let _moment = self.moment()?;
        let row = self.row(name)?;
        let candidates = CANDIDATES.max(limit);
        let by_words = self.by_words(&row, &words, candidates)?;
        let by_vectors = match vector {
            Some(vector) => self.read(|connection| vectors::nearest(connection, &row, vector, candidates))?,
            None => Vec::new(),
        };
        let without_vectors = match vector {
            Some(vector) if by_vectors.is_empty() => Some(self.why_without_vectors(&row, vector)?),
            _ => None,
        };
        let ranked_by = if by_vectors.is_empty() { Ranking::Words } else { Ranking::WordsAndVectors };
        let order = if by_vectors.is_empty() { by_words } else { fused(&[by_words, by_vectors]) };
        Ok(Hits { passages: self.passages(&order, limit)?, ranked_by, without_vectors })
    }

    fn by_words(&self, row: &Row, words: &str, limit: usize) -> Result<Vec<i64>, Error> {
        self.read(|connection| {
            let table = row.words();
            let select =
                format!("SELECT rowid FROM {table} WHERE {table} MATCH ?1 AND rank MATCH ?2 ORDER BY rank LIMIT ?3");
            let mut select = connection.prepare_cached(&select)?;
            select.query_map(params![words, RANK, limit as i64], |row| row.get(0))?.collect()
        })
    }

    /// Reads passages in an order, at most `limit`; of each file only a few before those of others.
    fn passages(&self, order: &[i64], limit: usize) -> Result<Vec<Passage>, Error> {
        self.read(|connection| {
            let select = "SELECT path, first, last, heading, text FROM passages JOIN files ON files.id = passages.file
                WHERE passages.id = ?1";
            let mut select = connection.prepare_cached(select)?;
            let (mut first, mut later) = (Vec::new(), Vec::new());
            let mut of_file: HashMap<PathBuf, usize> = HashMap::new();
            for id in order {
                if first.len() == limit {
                    break;
                }
                let passage = select.query_row([id], |row| {
                    let path = PathBuf::from(row.get::<_, String>(0)?);
                    Ok(Passage { path, first: row.get(1)?, last: row.get(2)?, heading: row.get(3)?, text: row.get(4)? })
                })?;
                let count = of_file.entry(passage.path.clone()).or_default();
                *count += 1;
                if *count <= OF_ONE_FILE { first.push(passage) } else { later.push(passage) }
            }
            first.extend(later);
            first.truncate(limit);
            Ok(first)
        })
    }
}

/// Joins rankings: what stands high in several comes first.
fn fused(rankings: &[Vec<i64>]) -> Vec<i64> {
    let mut worth: HashMap<i64, f64> = HashMap::new();
    for ranking in rankings {
        for (place, id) in (1..).zip(ranking) {
            *worth.entry(*id).or_default() += 1.0 / (FUSION + f64::from(place));
        }
    }
    let mut order: Vec<(i64, f64)> = worth.into_iter().collect();
    order.sort_by(|one, other| other.1.total_cmp(&one.1).then(one.0.cmp(&other.0)));
    order.into_iter().map(|(id, _)| id).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_two_rankings_agree_on_comes_first() {
        assert_eq!(fused(&[vec![1, 2, 3], vec![4, 2, 5]]), [2, 1, 4, 3, 5]);
        assert_eq!(fused(&[vec![7, 8], vec![]]), [7, 8]);
    }
}
