//! Long strings kept once: what is longer than [`BLOB_OVER_BYTES`] in a payload is put in a table by its hash, and an
//! extension type in its place.
//!
//! The extension's data is one byte that says what stood there, the BLAKE3 hash of the bytes (32), and their count
//! (four bytes, most significant first). What stood there is told by its MessagePack marker: a string (`da`, `db`), a
//! binary (`c5`, `c6`), or, as `c7`, a whole element that already was an extension of our type: so that whatever
//! bytes come in, the same come out. Bytes that are no MessagePack stay as they are, and are recognised by that.

use super::format::{BLOB_EXTENSION, BLOB_OVER_BYTES, Hash};

/// How many bytes an extension's data has.
const REFERENCE_BYTES: usize = 1 + 32 + 4;
/// The marker of an extension whose length is one byte.
const EXT_8: u8 = 0xc7;
const BIN_16: u8 = 0xc5;
const BIN_32: u8 = 0xc6;
const STR_16: u8 = 0xda;
const STR_32: u8 = 0xdb;
/// What stood there was a whole element, kept with its marker.
const WHOLE: u8 = EXT_8;

/// Bytes kept by their hash.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Blob {
    pub(super) hash: Hash,
    pub(super) bytes: Vec<u8>,
}

/// What an extension of ours says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Reference {
    kind: u8,
    pub(super) hash: Hash,
    length: u32,
}

/// An extension of our type that is none of ours.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Malformed;

/// Takes the long strings out of a payload and adds them to `blobs`.
pub(super) fn outline(payload: Vec<u8>, blobs: &mut Vec<Blob>) -> Vec<u8> {
    let mut cuts = Vec::new();
    let is_valid = walk(&payload, |start, element, bytes| {
        let end = start + element.header + element.body;
        if element.extension == Some(BLOB_EXTENSION) {
            cuts.push((start, start, end, WHOLE));
        } else if element.body > BLOB_OVER_BYTES && matches!(bytes[0], BIN_16 | BIN_32 | STR_16 | STR_32) {
            cuts.push((start, start + element.header, end, bytes[0]));
        }
    });
    if !is_valid || cuts.is_empty() {
        return payload;
    }
    let mut outlined = Vec::with_capacity(BLOB_OVER_BYTES);
    let mut done = 0;
    for (start, from, end, kind) in cuts {
        let bytes = &payload[from..end];
        let hash: Hash = blake3::hash(bytes).into();
        outlined.extend_from_slice(&payload[done..start]);
        outlined.extend_from_slice(&[EXT_8, REFERENCE_BYTES as u8, BLOB_EXTENSION, kind]);
        outlined.extend_from_slice(&hash);
        // MessagePack's own lengths are four bytes at most.
        outlined.extend_from_slice(&(bytes.len() as u32).to_be_bytes());
        blobs.push(Blob { hash, bytes: bytes.to_vec() });
        done = end;
    }
    outlined.extend_from_slice(&payload[done..]);
    outlined
}

/// Returns the references in a stored payload, each with where it stands.
pub(super) fn references(stored: &[u8]) -> Result<Vec<(std::ops::Range<usize>, Reference)>, Malformed> {
    let mut found = Vec::new();
    let is_valid = walk(stored, |start, element, bytes| {
        if element.extension == Some(BLOB_EXTENSION) {
            let end = start + element.header + element.body;
            found.push((start..end, Reference::read(&bytes[element.header..])));
        }
    });
    if !is_valid {
        return Ok(Vec::new());
    }
    found.into_iter().map(|(place, reference)| Ok((place, reference.ok_or(Malformed)?))).collect()
}

/// Puts the blobs back into a stored payload. `blob` finds one by its hash.
pub(super) fn inline<E: From<Malformed>>(
    stored: Vec<u8>,
    mut blob: impl FnMut(&Hash) -> Result<Vec<u8>, E>,
) -> Result<Vec<u8>, E> {
    let references = references(&stored)?;
    if references.is_empty() {
        return Ok(stored);
    }
    let mut payload = Vec::new();
    let mut done = 0;
    for (place, reference) in references {
        let bytes = blob(&reference.hash)?;
        payload.extend_from_slice(&stored[done..place.start]);
        reference.put_back(&bytes, &mut payload)?;
        done = place.end;
    }
    payload.extend_from_slice(&stored[done..]);
    Ok(payload)
}

impl Reference {
    fn read(data: &[u8]) -> Option<Self> {
        let data: &[u8; REFERENCE_BYTES] = data.try_into().ok()?;
        let (&kind, rest) = data.split_first()?;
        let (&hash, rest) = rest.split_first_chunk()?;
        let (&length, _) = rest.split_first_chunk()?;
        let is_known = matches!(kind, BIN_16 | BIN_32 | STR_16 | STR_32 | WHOLE);
        is_known.then_some(Self { kind, hash, length: u32::from_be_bytes(length) })
    }

    fn put_back(&self, bytes: &[u8], payload: &mut Vec<u8>) -> Result<(), Malformed> {
        if bytes.len() != self.length as usize {
            return Err(Malformed);
        }
        match self.kind {
            WHOLE => {}
            BIN_16 | STR_16 => {
                payload.push(self.kind);
                payload.extend_from_slice(&u16::try_from(bytes.len()).map_err(|_| Malformed)?.to_be_bytes());
            }
            _ => {
                payload.push(self.kind);
                payload.extend_from_slice(&self.length.to_be_bytes());
            }
        }
        payload.extend_from_slice(bytes);
        Ok(())
    }
}

/// One element of MessagePack, without those inside it.
struct Element {
    /// How many bytes say what it is and how long.
    header: usize,
    /// How many bytes follow that belong to it alone.
    body: usize,
    /// How many elements follow that are inside it.
    children: u64,
    /// Its extension type, if it has one.
    extension: Option<u8>,
}

/// Shows each element to `visit`, with where it begins and its bytes. Returns whether the bytes are one whole value and
/// nothing else; whatever they are, it takes one step for each of them at most.
fn walk<'a>(bytes: &'a [u8], mut visit: impl FnMut(usize, &Element, &'a [u8])) -> bool {
    let (mut at, mut pending) = (0, 1u64);
    while pending > 0 {
        let Some(element) = bytes.get(at..).and_then(Element::read) else { return false };
        let Some(end) = at.checked_add(element.header).and_then(|end| end.checked_add(element.body)) else {
            return false;
        };
        let Some(own) = bytes.get(at..end) else { return false };
        // Each element is a byte at least, so that this neither overflows nor goes on for long.
        pending = pending - 1 + element.children;
        if pending > (bytes.len() - end) as u64 {
            return false;
        }
        visit(at, &element, own);
        at = end;
    }
    at == bytes.len()
}

impl Element {
    fn read(rest: &[u8]) -> Option<Self> {
        let marker = *rest.first()?;
        let low = |mask: u8| usize::from(marker & mask);
        let sized = |bytes: usize| Some((1 + bytes, length(rest, bytes)?));
        let (header, body) = match marker {
            0xa0..=0xbf => (1, low(0x1f)),
            0xc1 => return None,
            0xc4 | 0xd9 => sized(1)?,
            0xc5 | 0xda => sized(2)?,
            0xc6 | 0xdb => sized(4)?,
            0xc7 => (3, length(rest, 1)?),
            0xc8 => (4, length(rest, 2)?),
            0xc9 => (6, length(rest, 4)?),
            0xcc | 0xd0 => (1, 1),
            0xcd | 0xd1 => (1, 2),
            0xca | 0xce | 0xd2 => (1, 4),
            0xcb | 0xcf | 0xd3 => (1, 8),
            0xd4..=0xd8 => (2, 1 << (marker - 0xd4)),
            0xdc | 0xde => (3, 0),
            0xdd | 0xdf => (5, 0),
            _ => (1, 0),
        };
        let count = |bytes: usize| Some(length(rest, bytes)? as u64);
        let children = match marker {
            0x80..=0x8f => 2 * low(0x0f) as u64,
            0x90..=0x9f => low(0x0f) as u64,
            0xdc => count(2)?,
            0xdd => count(4)?,
            0xde => 2 * count(2)?,
            0xdf => 2 * count(4)?,
            _ => 0,
        };
        let extension = match marker {
            0xc7..=0xc9 | 0xd4..=0xd8 => Some(*rest.get(header - 1)?),
            _ => None,
        };
        Some(Self { header, body, children, extension })
    }
}

/// Returns the number in the `count` bytes after the marker.
fn length(rest: &[u8], count: usize) -> Option<usize> {
    let bytes = rest.get(1..=count)?;
    Some(bytes.iter().fold(0, |number, &byte| number << 8 | usize::from(byte)))
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use proptest::prelude::*;
    use serde_json::{Value, json};

    use super::*;

    /// Takes the long strings out and puts them back; returns what is stored in between.
    fn round_trip(payload: &[u8]) -> (Vec<u8>, Vec<Blob>) {
        let mut blobs = Vec::new();
        let stored = outline(payload.to_vec(), &mut blobs);
        let kept: HashMap<Hash, Vec<u8>> = blobs.iter().map(|blob| (blob.hash, blob.bytes.clone())).collect();
        let back = inline::<Malformed>(stored.clone(), |hash| kept.get(hash).cloned().ok_or(Malformed));
        assert_eq!(back.unwrap(), payload);
        (stored, blobs)
    }

    #[test]
    fn what_is_long_is_kept_apart_and_what_is_short_stays() {
        for (length, blobs) in [(BLOB_OVER_BYTES, 0), (BLOB_OVER_BYTES + 1, 1), (70_000, 1)] {
            let payload = rmp_serde::to_vec(&json!(["short", "x".repeat(length)])).unwrap();
            let (stored, kept) = round_trip(&payload);
            assert_eq!(kept.len(), blobs, "{length}");
            assert_eq!(stored.len() < 60, blobs == 1, "{length}");
        }
    }

    #[test]
    fn every_marker_of_a_long_element_comes_back() {
        let body = [0x5a; 2_000];
        for header in
            [&[0xda, 0x07, 0xd0][..], &[0xdb, 0, 0, 0x07, 0xd0], &[0xc5, 0x07, 0xd0], &[0xc6, 0, 0, 0x07, 0xd0]]
        {
            let (stored, blobs) = round_trip(&[header, &body].concat());
            assert_eq!((stored.len(), blobs.len()), (3 + REFERENCE_BYTES, 1));
        }
    }

    #[test]
    fn an_extension_that_looks_like_ours_is_none_of_ours() {
        let (ours, _) = round_trip(&rmp_serde::to_vec(&"x".repeat(2_000)).unwrap());
        let (stored, blobs) = round_trip(&ours);
        assert_eq!((blobs.len(), stored.len()), (1, ours.len()));
        assert_eq!(blobs[0].bytes, ours);
        // One that is too short to be ours.
        round_trip(&[0xd4, BLOB_EXTENSION, 7]);
        assert_eq!(references(&[0xd4, BLOB_EXTENSION, 7]), Err(Malformed));
    }

    #[test]
    fn what_is_no_messagepack_stays_as_it_is() {
        let long = [&[0xda, 0x07, 0xd0][..], &[0x5a; 2_000]].concat();
        let (ours, _) = round_trip(&long);
        for bytes in
            [Vec::new(), vec![0xc1], [&long[..], &[0]].concat(), long[..1_999].to_vec(), [&ours[..], &[1]].concat()]
        {
            let (stored, blobs) = round_trip(&bytes);
            assert_eq!((stored, blobs.len()), (bytes, 0));
        }
        // Counts that promise more than there is.
        for bytes in [
            &[0xdd, 0xff, 0xff, 0xff, 0xff][..],
            &[0xdf, 0xff, 0xff, 0xff, 0xff, 1, 2],
            &[0xdb, 0xff, 0xff, 0xff, 0xff],
        ] {
            round_trip(bytes);
        }
    }

    #[test]
    fn a_blob_of_another_length_is_refused() {
        let mut blobs = Vec::new();
        let stored = outline(rmp_serde::to_vec(&"x".repeat(2_000)).unwrap(), &mut blobs);
        assert_eq!(inline::<Malformed>(stored, |_| Ok(vec![0; 3])), Err(Malformed));
    }

    fn value() -> impl Strategy<Value = Value> {
        let text = prop_oneof![".{0,20}", (0usize..3_000).prop_map(|length| "é".repeat(length / 2))];
        let leaf = prop_oneof![
            Just(Value::Null),
            any::<bool>().prop_map(Value::from),
            any::<i64>().prop_map(Value::from),
            any::<f64>().prop_map(Value::from),
            text.prop_map(Value::from),
        ];
        leaf.prop_recursive(5, 40, 20, |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..20).prop_map(Value::from),
                prop::collection::vec((".{0,9}", inner), 0..20)
                    .prop_map(|pairs| Value::Object(pairs.into_iter().collect())),
            ]
        })
    }

    proptest! {
        #[test]
        fn every_value_comes_back(value in value()) {
            let payload = rmp_serde::to_vec(&value).unwrap();
            let (stored, _) = round_trip(&payload);
            round_trip(&stored);
        }

        #[test]
        fn all_bytes_come_back(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            round_trip(&bytes);
        }

        /// A value with some of its bytes changed: near enough to MessagePack to get far.
        #[test]
        fn a_changed_value_comes_back(value in value(), changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..4)) {
            let mut payload = rmp_serde::to_vec(&value).unwrap();
            for (at, byte) in changes {
                let at = at.index(payload.len());
                payload[at] = byte;
            }
            round_trip(&payload);
        }
    }
}
