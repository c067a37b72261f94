//! What is kept of a program's output: its beginning and its end, however much there is.

use std::collections::VecDeque;

use tokio::io::{AsyncRead, AsyncReadExt as _};

use crate::tool::size::json_len;

/// How much is read at once: what a pipe holds.
const CHUNK_BYTES: usize = 64 * 1024;

/// What the mark between beginning and end takes in JSON, at most.
const MARK_BYTES: usize = 64;

/// What the character takes that stands for bytes that are not UTF-8.
const REPLACEMENT_BYTES: usize = char::REPLACEMENT_CHARACTER.len_utf8();

/// The beginning and the end of a stream, in a fixed amount of memory.
#[derive(Debug)]
pub(in crate::tool) struct Capture {
    /// How much is kept of the beginning, and as much of the end.
    half: usize,
    head: Vec<u8>,
    tail: VecDeque<u8>,
    total: u64,
}

/// As much of a stream as there was room for.
#[derive(Debug, PartialEq, Eq)]
pub(in crate::tool) struct Excerpt {
    pub(in crate::tool) text: String,
    pub(in crate::tool) dropped_bytes: u64,
}

impl Capture {
    /// Makes a capture that keeps `limit` bytes.
    pub(in crate::tool) fn new(limit: usize) -> Self {
        Self { half: limit.div_ceil(2), head: Vec::new(), tail: VecDeque::new(), total: 0 }
    }

    /// Reads the stream to its end, so that whoever writes it never waits. Dropped, it keeps what it has.
    pub(in crate::tool) async fn drain(&mut self, stream: Option<impl AsyncRead + Unpin>) {
        let Some(mut stream) = stream else { return };
        let mut chunk = vec![0; CHUNK_BYTES];
        while let Ok(count @ 1..) = stream.read(&mut chunk).await {
            self.push(&chunk[..count]);
        }
    }

    fn push(&mut self, bytes: &[u8]) {
        self.total += bytes.len() as u64;
        let (head, rest) = bytes.split_at(bytes.len().min(self.half - self.head.len()));
        self.head.extend_from_slice(head);
        let rest = &rest[rest.len().saturating_sub(self.half)..];
        let surplus = (self.tail.len() + rest.len()).saturating_sub(self.half);
        self.tail.drain(..surplus);
        self.tail.extend(rest);
    }

    /// Joins the beginning and the end where there was nothing between, so that a character that stands across them is
    /// one again. Returns whether there was a gap.
    fn join(&mut self) -> bool {
        let gap = self.total > (self.head.len() + self.tail.len()) as u64;
        if !gap {
            self.head.extend(self.tail.drain(..));
        }
        gap
    }

    /// Returns how much room what is kept takes in JSON. The stream has ended by then.
    pub(in crate::tool) fn json_len(&mut self) -> usize {
        self.join();
        cost(&self.head) + cost(self.tail.make_contiguous())
    }

    /// Returns all of the stream where it fits into `room` bytes of JSON, else its beginning and its end around a mark.
    pub(in crate::tool) fn excerpt(mut self, room: usize) -> Excerpt {
        let gap = self.join();
        if !gap && cost(&self.head) <= room {
            return Excerpt { text: String::from_utf8_lossy(&self.head).into_owned(), dropped_bytes: 0 };
        }
        let half = room.saturating_sub(MARK_BYTES) / 2;
        let head = &self.head[..beginning(&self.head, half)];
        let tail = if gap { self.tail.make_contiguous() } else { &self.head[head.len()..] };
        let tail = &tail[end(tail, half)..];
        let dropped_bytes = self.total - (head.len() + tail.len()) as u64;
        let (head, tail) = (String::from_utf8_lossy(head), String::from_utf8_lossy(tail));
        Excerpt { text: format!("{head}\n[… {dropped_bytes} bytes left out …]\n{tail}"), dropped_bytes }
    }
}

/// Divides `room` between two streams: each has half, and what one doesn't need the other may use.
pub(in crate::tool) fn share(room: usize, left: usize, right: usize) -> (usize, usize) {
    let half = room / 2;
    if left <= half {
        (left, room - left)
    } else if right <= half {
        (room - right, right)
    } else {
        (half, half)
    }
}

/// Cuts bytes into characters and what is none; each with its length and with what it takes in JSON.
fn pieces(bytes: &[u8]) -> impl Iterator<Item = (usize, usize)> {
    bytes.utf8_chunks().flat_map(|chunk| {
        let characters = chunk.valid().chars().map(|character| {
            let length = character.len_utf8();
            (length, json_len(&character.encode_utf8(&mut [0; 4]).as_bytes()[..length]))
        });
        let invalid = chunk.invalid().len();
        characters.chain((invalid > 0).then_some((invalid, REPLACEMENT_BYTES)))
    })
}

fn cost(bytes: &[u8]) -> usize {
    pieces(bytes).map(|(_, cost)| cost).sum()
}

/// Returns where the longest beginning ends that fits into `room`.
fn beginning(bytes: &[u8], mut room: usize) -> usize {
    let fits = |&(_, cost): &(usize, usize)| {
        let left = room.checked_sub(cost);
        room = left.unwrap_or(room);
        left.is_some()
    };
    pieces(bytes).take_while(fits).map(|(length, _)| length).sum()
}

/// Returns where the longest end begins that fits into `room`.
fn end(bytes: &[u8], room: usize) -> usize {
    let mut left = cost(bytes);
    let too_much = |&(_, cost): &(usize, usize)| {
        let over = left > room;
        left = left.saturating_sub(cost);
        over
    };
    pieces(bytes).take_while(too_much).map(|(length, _)| length).sum()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn captured(limit: usize, chunks: &[&[u8]]) -> Capture {
        let mut capture = Capture::new(limit);
        chunks.iter().for_each(|chunk| capture.push(chunk));
        capture
    }

    #[test]
    fn what_fits_is_kept_whole() {
        let excerpt = captured(8, &[b"abc", b"", b"def"]).excerpt(8);
        assert_eq!(excerpt, Excerpt { text: "abcdef".to_owned(), dropped_bytes: 0 });
    }

    #[test]
    fn of_a_flood_the_beginning_and_the_end_are_kept() {
        let mut capture = Capture::new(1_000);
        (0..100_000_u32).for_each(|number| capture.push(format!("{number:06}\n").as_bytes()));
        assert!(capture.head.capacity() <= 4_000 && capture.tail.capacity() <= 4_000, "{capture:?}");
        let excerpt = capture.excerpt(200);
        assert!(excerpt.text.starts_with("000000\n000001\n"), "{}", excerpt.text);
        assert!(excerpt.text.ends_with("099998\n099999\n"), "{}", excerpt.text);
        assert!(excerpt.text.contains(&format!("[… {} bytes left out …]", excerpt.dropped_bytes)));
    }

    #[test]
    fn a_character_across_the_two_halves_stays_whole() {
        let mut capture = captured(10, &["1234ü789".as_bytes()]);
        assert_eq!(capture.json_len(), 9);
        assert_eq!(capture.excerpt(9), Excerpt { text: "1234ü789".to_owned(), dropped_bytes: 0 });
    }

    #[test]
    fn a_stream_gets_what_the_other_leaves() {
        assert_eq!(share(100, 10, 500), (10, 90));
        assert_eq!(share(100, 500, 10), (90, 10));
        assert_eq!(share(100, 500, 500), (50, 50));
        assert_eq!(share(100, 10, 20), (10, 90));
    }

    proptest! {
        #[test]
        fn an_excerpt_keeps_to_its_room_and_counts_what_it_drops(
            chunks in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..40), 0..20),
            limit in 0_usize..300,
            room in 0_usize..300,
        ) {
            let chunks: Vec<&[u8]> = chunks.iter().map(Vec::as_slice).collect();
            let all = chunks.concat();
            let mut capture = captured(limit, &chunks);
            prop_assert!(capture.head.len() + capture.tail.len() <= limit + 1);
            let whole = all.len() <= capture.head.len() + capture.tail.len() && capture.json_len() <= room;
            let excerpt = capture.excerpt(room);
            if whole {
                prop_assert_eq!(&excerpt.text, &String::from_utf8_lossy(&all));
            }
            prop_assert_eq!(whole, excerpt.dropped_bytes == 0 && !excerpt.text.contains("bytes left out"));
            let written = serde_json::to_string(&excerpt.text).unwrap().len() - 2;
            prop_assert!(written <= room.max(MARK_BYTES), "{} in {}", written, room);
        }
    }
}
