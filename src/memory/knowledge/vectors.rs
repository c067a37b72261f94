//! Vectors: what passages mean, as an embeddings server sees it. They are kept with one byte a number, and compared one by
//! one.

use rusqlite::{Connection, OptionalExtension, Transaction, params};

use super::super::Error;
use super::{Knowledge, Row};

/// How many numbers a vector may have; the longest that embedding models make have 4,096.
const MAX_NUMBERS: usize = 16_384;

/// How many bytes the scale before the numbers takes.
const SCALE_BYTES: usize = 4;

impl Knowledge {
    /// Returns passages that have no vector yet, at most `limit`, each with the text that one is to be made of.
    ///
    /// # Errors
    /// Nothing is indexed under the name, or the file is at fault.
    pub fn without_vectors(&self, name: &str, limit: usize) -> Result<Vec<(i64, String)>, Error> {
        let _moment = self.moment()?;
        let row = self.row(name)?;
        self.read(|connection| {
            let select = format!(
                "SELECT id, heading, text FROM passages
                WHERE collection = ?1 AND id NOT IN (SELECT passage FROM {}) ORDER BY id LIMIT ?2",
                row.vectors()
            );
            let mut select = connection.prepare_cached(&select)?;
            let read = |row: &rusqlite::Row<'_>| {
                let (heading, text): (String, String) = (row.get(1)?, row.get(2)?);
                Ok((row.get(0)?, if heading.is_empty() { text } else { format!("{heading}\n{text}") }))
            };
            select.query_map(params![row.id, limit as i64], read)?.collect()
        })
    }

    /// Keeps the vectors of passages, all of one length. Those of passages that are gone meanwhile are let go of, and so are
    /// all that are there already, if they have another length: they can't be compared with what the server answers now.
    ///
    /// # Errors
    /// Nothing is indexed under the name, a vector is none or of another length than the first, or the file is at fault.
    pub fn put_vectors(&mut self, name: &str, vectors: &[(i64, Vec<f32>)]) -> Result<(), Error> {
        let row = self.row(name)?;
        let Some(numbers) = vectors.first().map(|(_, vector)| vector.len()) else { return Ok(()) };
        if vectors.iter().any(|(_, vector)| vector.len() != numbers) {
            return Err(Error::NoVector);
        }
        let packed = vectors.iter().map(|(id, vector)| Some((*id, pack(vector)?))).collect::<Option<Vec<_>>>();
        let packed = packed.ok_or(Error::NoVector)?;
        self.write_to(&row, |change| {
            drop_others(change, &row, numbers)?;
            let insert = format!(
                "INSERT OR REPLACE INTO {} (passage, vector) SELECT id, ?2 FROM passages WHERE id = ?1",
                row.vectors()
            );
            let mut insert = change.prepare_cached(&insert)?;
            packed.iter().try_for_each(|(id, bytes)| insert.execute(params![id, bytes]).map(drop))
        })
    }

    /// Lets go of all vectors of a collection if they have not so many numbers.
    ///
    /// # Errors
    /// Nothing is indexed under the name, or the file is at fault.
    pub fn keep_vectors_of(&mut self, name: &str, numbers: usize) -> Result<(), Error> {
        let row = self.row(name)?;
        self.write_to(&row, |change| drop_others(change, &row, numbers))
    }

    /// Says why no passage is near a vector.
    pub(super) fn why_without_vectors(&self, row: &Row, vector: &[f32]) -> Result<String, Error> {
        let name = &row.name;
        let options = row.embeddings.as_ref().map(|of| format!(" {}", of.options())).unwrap_or_default();
        if unit(vector).is_none() {
            return Ok("the embeddings server answered with something that is no vector".to_owned());
        }
        Ok(match self.read(|connection| kept_numbers(connection, row))? {
            None => format!("no passage has a vector yet; `provost knowledge add {name}` makes them"),
            Some(kept) => format!(
                "the server's vectors have {} numbers, and those that are kept have {kept}; \
                `provost knowledge add {name}{options}` makes them anew",
                vector.len()
            ),
        })
    }
}

/// Returns how many numbers the vectors of a collection have: all the same, since those of another length are let go of.
fn kept_numbers(connection: &Connection, row: &Row) -> Result<Option<usize>, rusqlite::Error> {
    let select = format!("SELECT length(vector) FROM {} LIMIT 1", row.vectors());
    let bytes: Option<i64> = connection.prepare_cached(&select)?.query_row((), |row| row.get(0)).optional()?;
    Ok(bytes.map(|bytes| (bytes.cast_unsigned() as usize).saturating_sub(SCALE_BYTES)))
}

fn drop_others(change: &Transaction<'_>, row: &Row, numbers: usize) -> Result<(), rusqlite::Error> {
    if kept_numbers(change, row)?.is_some_and(|kept| kept != numbers) {
        change.execute(&format!("DELETE FROM {}", row.vectors()), ())?;
    }
    Ok(())
}

/// Returns the passages whose vectors are nearest to another, the nearest first; none where it is no vector, or of another
/// length than theirs.
pub(super) fn nearest(
    connection: &Connection,
    row: &Row,
    vector: &[f32],
    limit: usize,
) -> Result<Vec<i64>, rusqlite::Error> {
    let Some(wanted) = unit(vector) else { return Ok(Vec::new()) };
    let mut select = connection.prepare_cached(&format!("SELECT passage, vector FROM {}", row.vectors()))?;
    let mut rows = select.query(())?;
    let mut best: Vec<(f32, i64)> = Vec::new();
    while let Some(row) = rows.next()? {
        let bytes = row.get_ref(1)?.as_blob()?;
        let Some(nearness) = cosine(&wanted, bytes) else { continue };
        best.push((nearness, row.get(0)?));
        // Sorted now and then, so that no more is held than a few times what is wanted.
        if best.len() >= 16 * limit.max(64) {
            keep_best(&mut best, limit);
        }
    }
    keep_best(&mut best, limit);
    Ok(best.into_iter().map(|(_, id)| id).collect())
}

fn keep_best(best: &mut Vec<(f32, i64)>, limit: usize) {
    best.sort_by(|one, other| other.0.total_cmp(&one.0).then(one.1.cmp(&other.1)));
    best.truncate(limit);
}

/// Returns a vector of the same direction, of length one; none of what has no direction.
fn unit(vector: &[f32]) -> Option<Vec<f32>> {
    let length = vector.iter().map(|number| number * number).sum::<f32>().sqrt();
    let fits = (1..=MAX_NUMBERS).contains(&vector.len()) && length.is_normal();
    fits.then(|| vector.iter().map(|number| number / length).collect())
}

/// Packs a vector's direction: a scale, and for each number a byte. What is lost is less than a hundredth of the greatest
/// number, far less than what tells two passages apart.
fn pack(vector: &[f32]) -> Option<Vec<u8>> {
    let unit = unit(vector)?;
    let greatest = unit.iter().fold(0.0_f32, |greatest, number| greatest.max(number.abs()));
    let scale = greatest / f32::from(i8::MAX);
    let numbers = unit.iter().map(|number| ((number / scale).round() as i8).cast_unsigned());
    Some(scale.to_le_bytes().into_iter().chain(numbers).collect())
}

/// Returns how near a packed vector is to one of length one, from -1 to 1; none if they are not of one length.
fn cosine(unit: &[f32], packed: &[u8]) -> Option<f32> {
    let (scale, numbers) = packed.split_first_chunk::<SCALE_BYTES>()?;
    if numbers.len() != unit.len() {
        return None;
    }
    let sum: f32 = unit.iter().zip(numbers).map(|(one, other)| one * f32::from(other.cast_signed())).sum();
    Some(sum * f32::from_le_bytes(*scale))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn what_is_no_vector_is_not_kept() {
        for none in [vec![], vec![0.0; 3], vec![f32::NAN, 1.0], vec![f32::INFINITY], vec![1.0; MAX_NUMBERS + 1]] {
            assert_eq!(pack(&none), None);
        }
        assert_eq!(cosine(&[1.0], &pack(&[1.0, 2.0]).unwrap()), None);
        assert_eq!(cosine(&[1.0], &[0; 3]), None);
    }

    proptest! {
        #[test]
        fn packing_keeps_the_nearness(pair in proptest::collection::vec((-1.0_f32..1.0, -1.0_f32..1.0), 8..200)) {
            let (one, other): (Vec<f32>, Vec<f32>) = pair.into_iter().unzip();
            let (Some(one), Some(exact)) = (unit(&one), unit(&other)) else { return Ok(()) };
            let dot: f32 = one.iter().zip(&exact).map(|(a, b)| a * b).sum();
            let packed = cosine(&one, &pack(&other).unwrap()).unwrap();
            prop_assert!((dot - packed).abs() < 0.02, "{dot} {packed}");
        }
    }
}
