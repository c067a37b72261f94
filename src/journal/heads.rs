//! What a commit says: the heads that it moved and the tombstones that it left.
//!
//! A count (four bytes), that many heads, a count, that many tombstones. A head is a name (its length as four bytes,
//! then its bytes), the number (eight bytes) and the hash (32). A tombstone is the same and then one byte: 0, or 1 and
//! the digest of the snapshot (32 bytes). Numbers have their least significant byte first.

use super::format::Hash;

/// A stream's head after a commit.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct MovedHead<'a> {
    pub(super) stream: &'a str,
    pub(super) seq: u64,
    pub(super) hash: Hash,
}

/// What pruning left of a stream's records.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Tombstone {
    /// The last record that has been removed.
    pub(super) upto: u64,
    /// Its hash.
    pub(super) hash: Hash,
    /// The digest of the snapshot that stands for what was removed; none if the whole stream was.
    pub(super) snapshot: Option<Hash>,
}

/// Puts the lists together.
#[derive(Default)]
pub(super) struct Encoder {
    heads: Vec<u8>,
    head_count: u32,
    tombstones: Vec<u8>,
    tombstone_count: u32,
}

impl Encoder {
    /// Adds a head that has moved.
    pub(super) fn head(&mut self, stream: &str, seq: u64, hash: &Hash) {
        self.head_count += 1;
        entry(&mut self.heads, stream, seq, hash);
    }

    /// Adds a tombstone.
    pub(super) fn tombstone(&mut self, stream: &str, tombstone: &Tombstone) {
        self.tombstone_count += 1;
        entry(&mut self.tombstones, stream, tombstone.upto, &tombstone.hash);
        self.tombstones.push(tombstone.snapshot.is_some().into());
        self.tombstones.extend_from_slice(tombstone.snapshot.as_ref().map_or(&[], Hash::as_slice));
    }

    /// Returns the bytes, and begins anew.
    pub(super) fn finish(&mut self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(8 + self.heads.len() + self.tombstones.len());
        bytes.extend_from_slice(&self.head_count.to_le_bytes());
        bytes.append(&mut self.heads);
        bytes.extend_from_slice(&self.tombstone_count.to_le_bytes());
        bytes.append(&mut self.tombstones);
        (self.head_count, self.tombstone_count) = (0, 0);
        bytes
    }
}

fn entry(bytes: &mut Vec<u8>, stream: &str, seq: u64, hash: &Hash) {
    // A name is never that long: SQLite would have refused its row.
    bytes.extend_from_slice(&u32::try_from(stream.len()).unwrap_or(u32::MAX).to_le_bytes());
    bytes.extend_from_slice(stream.as_bytes());
    bytes.extend_from_slice(&seq.to_le_bytes());
    bytes.extend_from_slice(hash);
}

/// What a commit says, read back.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Heads<'a> {
    pub(super) moved: Vec<MovedHead<'a>>,
    pub(super) tombstones: Vec<(&'a str, Tombstone)>,
}

impl<'a> Heads<'a> {
    /// Reads the lists; none if the bytes are no such lists.
    pub(super) fn decode(bytes: &'a [u8]) -> Option<Self> {
        let mut rest = bytes;
        let mut heads = Self::default();
        for _ in 0..u32::from_le_bytes(take(&mut rest)?) {
            let (stream, seq, hash) = read_entry(&mut rest)?;
            heads.moved.push(MovedHead { stream, seq, hash });
        }
        for _ in 0..u32::from_le_bytes(take(&mut rest)?) {
            let (stream, upto, hash) = read_entry(&mut rest)?;
            let snapshot = match take::<1>(&mut rest)? {
                [0] => None,
                [1] => Some(take(&mut rest)?),
                _ => return None,
            };
            heads.tombstones.push((stream, Tombstone { upto, hash, snapshot }));
        }
        rest.is_empty().then_some(heads)
    }
}

fn take<const N: usize>(rest: &mut &[u8]) -> Option<[u8; N]> {
    let (taken, left) = rest.split_first_chunk::<N>()?;
    *rest = left;
    Some(*taken)
}

fn read_entry<'a>(rest: &mut &'a [u8]) -> Option<(&'a str, u64, Hash)> {
    let length = u32::from_le_bytes(take(rest)?) as usize;
    let (name, left) = rest.split_at_checked(length)?;
    *rest = left;
    Some((str::from_utf8(name).ok()?, u64::from_le_bytes(take(rest)?), take(rest)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_commit_says_is_read_back_and_nothing_else_is() {
        let mut encoder = Encoder::default();
        encoder.head("run/a", 7, &[1; 32]);
        encoder.head("", u64::MAX, &[2; 32]);
        let tombstone = |snapshot| Tombstone { upto: 3, hash: [3; 32], snapshot };
        encoder.tombstone("run/b", &tombstone(None));
        encoder.tombstone("ledger", &tombstone(Some([4; 32])));
        let bytes = encoder.finish();
        let heads = Heads::decode(&bytes).unwrap();
        let expected = Heads {
            moved: vec![
                MovedHead { stream: "run/a", seq: 7, hash: [1; 32] },
                MovedHead { stream: "", seq: u64::MAX, hash: [2; 32] },
            ],
            tombstones: vec![("run/b", tombstone(None)), ("ledger", tombstone(Some([4; 32])))],
        };
        assert_eq!(heads, expected);
        for end in 0..bytes.len() {
            assert_eq!(Heads::decode(&bytes[..end]), None, "{end}");
        }
        assert_eq!(Heads::decode(&[&bytes[..], &[0]].concat()), None);
        assert_eq!(Heads::decode(&encoder.finish()), Some(Heads::default()));
    }
}
