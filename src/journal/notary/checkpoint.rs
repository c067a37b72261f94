//! A checkpoint: what a store's commits have come to, signed.

use std::fmt;

use serde::{Deserialize, Serialize};

use super::key::{Key, PublicKey};
use crate::journal::format::{Fields, Hash, hex, unhex};

/// The version of a checkpoint's line.
const VERSION: u32 = 1;

/// How a commit chain stands: what a checkpoint is made of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::journal) struct Standing {
    /// The hash of the first commit, which names the store.
    pub(in crate::journal) store: Hash,
    /// The number of the last commit.
    pub(in crate::journal) size: u64,
    /// The hash of the last commit.
    pub(in crate::journal) root: Hash,
}

/// That a store's commit chain had so many commits, and this head, signed by who held the store.
///
/// A store is named by the hash of its first commit: a copy of it and an older state of it have the same name, another
/// store never has.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Checkpoint {
    pub(in crate::journal) standing: Standing,
    time_ms: u64,
    key: PublicKey,
    signature: [u8; 64],
}

/// A checkpoint as a line of JSON.
#[derive(Serialize, Deserialize)]
struct Line {
    version: u32,
    store: String,
    size: u64,
    root: String,
    time_ms: u64,
    key: String,
    signature: String,
}

impl Checkpoint {
    /// Signs how a store stands.
    pub(in crate::journal) fn sign(standing: Standing, time_ms: u64, key: &Key) -> Self {
        let signature = key.sign(&said(&standing, time_ms));
        Self { standing, time_ms, key: key.public(), signature }
    }

    /// Reads a line; none if it is no checkpoint of a version that is known.
    pub fn parse(line: &str) -> Option<Self> {
        let line: Line = serde_json::from_str(line).ok()?;
        let standing = Standing { store: unhex(&line.store)?, size: line.size, root: unhex(&line.root)? };
        let (key, signature) = (PublicKey::of(unhex(&line.key)?), unhex(&line.signature)?);
        (line.version == VERSION).then_some(Self { standing, time_ms: line.time_ms, key, signature })
    }

    /// Whether it is signed by the key that it names.
    pub fn is_genuine(&self) -> bool {
        self.key.has_signed(&said(&self.standing, self.time_ms), &self.signature)
    }

    /// Names the store: the hash of its first commit, in hex.
    pub fn store(&self) -> String {
        hex(&self.standing.store)
    }

    /// Returns how many commits the store had.
    pub fn size(&self) -> u64 {
        self.standing.size
    }

    /// Returns the hash of the last of them, in hex.
    pub fn root(&self) -> String {
        hex(&self.standing.root)
    }

    /// Returns when it was signed, in milliseconds since 1970 (UTC), by the clock of who signed it.
    pub fn time_ms(&self) -> u64 {
        self.time_ms
    }

    /// Returns the key that it says to be signed with.
    pub fn key(&self) -> PublicKey {
        self.key
    }
}

/// Writes the line, without its end.
impl fmt::Display for Checkpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let line = Line {
            version: VERSION,
            store: self.store(),
            size: self.size(),
            root: self.root(),
            time_ms: self.time_ms,
            key: self.key.to_string(),
            signature: hex(&self.signature),
        };
        f.write_str(&serde_json::to_string(&line).map_err(|_| fmt::Error)?)
    }
}

/// Returns the bytes that are signed.
fn said(standing: &Standing, time_ms: u64) -> Vec<u8> {
    let mut fields = Fields::new("provost checkpoint 1");
    fields.bytes(&standing.store);
    fields.number(standing.size);
    fields.bytes(&standing.root);
    fields.number(time_ms);
    fields.into_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn checkpoint() -> Checkpoint {
        let standing = Standing { store: [1; 32], size: 7, root: [2; 32] };
        Checkpoint::sign(standing, 1_700_000_000_000, &Key::of([3; 32]))
    }

    /// The bytes are public: a verifier of somebody else's must find what ours finds.
    #[test]
    fn a_checkpoint_has_one_form_for_ever() {
        insta::assert_snapshot!(checkpoint(), @r#"{"version":1,"store":"0101010101010101010101010101010101010101010101010101010101010101","size":7,"root":"0202020202020202020202020202020202020202020202020202020202020202","time_ms":1700000000000,"key":"ed4928c628d1c2c6eae90338905995612959273a5c63f93636c14614ac8737d1","signature":"86fcbb67714e96926313441ef533a62e42074b04942bd24f25ba86fe1362086f12a347bc30e23df375f5685585702dc772cb6605f99d4b09bf27aec7d7b4d805"}"#);
        let signed = said(&checkpoint().standing, checkpoint().time_ms);
        insta::assert_snapshot!(blake3::hash(&signed).to_string(), @"b72b7d7ba9e98ffed89f465798e9dbbde5c9c1c39cf1801488217fc09b8064ff");
    }

    #[test]
    fn a_line_is_read_back_and_no_other_line_is_genuine() {
        let line = checkpoint().to_string();
        assert_eq!(Checkpoint::parse(&line), Some(checkpoint()));
        assert!(checkpoint().is_genuine());
        for at in 0..line.len() {
            let mut changed = line.clone().into_bytes();
            changed[at] ^= 1;
            let read = String::from_utf8(changed).ok().and_then(|changed| Checkpoint::parse(&changed));
            assert!(read.is_none_or(|read| !read.is_genuine()), "byte {at} of {line}");
        }
        for end in 0..line.len() {
            assert_eq!(Checkpoint::parse(&line[..end]), None, "{end}");
        }
    }
}
