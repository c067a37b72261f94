//! How much room text takes in a result, which reaches the model as JSON.

/// What a result's field names, numbers and punctuation take, generously.
pub(super) const FRAME_BYTES: usize = 256;

/// Returns how many bytes `text` takes within a JSON string, at most.
pub(super) fn json_len(text: &[u8]) -> usize {
    text.iter().copied().map(byte_len).sum()
}

/// Returns how many bytes from the start of `text` fit into `room` bytes of a JSON string.
pub(super) fn fitting(text: &[u8], room: usize) -> usize {
    let mut spent = 0;
    text.iter()
        .position(|byte| {
            spent += byte_len(*byte);
            spent > room
        })
        .unwrap_or(text.len())
}

/// Returns the greatest boundary of a character at or before `index`.
pub(super) fn floor(text: &[u8], index: usize) -> usize {
    /// No character of UTF-8 has more bytes than four, so the boundary is one of these.
    const CANDIDATES: usize = 4;
    let begins = |at: usize| text.get(at).is_none_or(|byte| byte & 0b1100_0000 != 0b1000_0000);
    let index = index.min(text.len());
    (index.saturating_sub(CANDIDATES - 1)..=index).rev().find(|at| begins(*at)).unwrap_or(index)
}

fn byte_len(byte: u8) -> usize {
    match byte {
        b'"' | b'\\' | b'\n' | b'\r' | b'\t' => 2,
        0..0x20 => 6,
        _ => 1,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_is_never_longer_in_json_than_said() {
        for text in ["plain", "a\nb\t\"c\"\\", "\0\u{1}\u{8}\u{c}\u{1f}\u{7f}", "grün 語 😀"] {
            let written = serde_json::to_string(text).unwrap().len() - 2;
            assert!(json_len(text.as_bytes()) >= written, "{text:?}");
        }
        assert_eq!(json_len(b"a\nb"), 4);
    }

    #[test]
    fn what_fits_fits() {
        assert_eq!(fitting(b"abc", 3), 3);
        assert_eq!(fitting(b"abc", 2), 2);
        assert_eq!(fitting(b"a\nb", 2), 1);
        assert_eq!(fitting(b"", 0), 0);
    }

    #[test]
    fn characters_stay_whole() {
        let text = "a😀b".as_bytes();
        assert_eq!((0..=7).map(|at| floor(text, at)).collect::<Vec<_>>(), [0, 1, 1, 1, 1, 5, 6, 6]);
    }
}
