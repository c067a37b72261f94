//! Server-sent events, as far as an answer needs them: the `data` of each event, nothing else.
//!
//! Each byte is looked at once, however it arrives, so that a line without an end costs no more than its length.

/// Turns bytes into the data of events. It holds one unfinished event; who feeds it bounds what it is fed.
#[derive(Default)]
pub(super) struct Decoder {
    line: Vec<u8>,
    data: Vec<u8>,
    has_data: bool,
    /// The last byte was a carriage return, so that a line feed that follows belongs to it.
    after_return: bool,
    /// The first line has been seen, and its byte order mark taken off.
    started: bool,
}

impl Decoder {
    /// Takes the next bytes and returns the data of each event that they complete.
    pub(super) fn feed(&mut self, mut bytes: &[u8]) -> Vec<String> {
        let mut events = Vec::new();
        if std::mem::take(&mut self.after_return) && bytes.first() == Some(&b'\n') {
            bytes = &bytes[1..];
        }
        while let Some(end) = bytes.iter().position(|byte| matches!(byte, b'\n' | b'\r')) {
            self.line.extend_from_slice(&bytes[..end]);
            events.extend(self.end_line());
            let is_return = bytes[end] == b'\r';
            bytes = &bytes[end + 1..];
            match bytes.first() {
                Some(b'\n') if is_return => bytes = &bytes[1..],
                None => self.after_return = is_return,
                _ => {}
            }
        }
        self.line.extend_from_slice(bytes);
        events
    }

    /// Returns the last event's data, where the stream ended without the empty line that should close it.
    pub(super) fn finish(mut self) -> Option<String> {
        if !self.line.is_empty() {
            self.end_line();
        }
        self.end_event()
    }

    fn end_line(&mut self) -> Option<String> {
        let line = std::mem::take(&mut self.line);
        let mut line = line.as_slice();
        if !std::mem::replace(&mut self.started, true) {
            line = line.strip_prefix("\u{feff}".as_bytes()).unwrap_or(line);
        }
        if line.is_empty() {
            return self.end_event();
        }
        if let Some(value) = line.strip_prefix(b"data:") {
            if std::mem::replace(&mut self.has_data, true) {
                self.data.push(b'\n');
            }
            self.data.extend_from_slice(value.strip_prefix(b" ").unwrap_or(value));
        }
        None
    }

    fn end_event(&mut self) -> Option<String> {
        let data = std::mem::take(&mut self.data);
        std::mem::take(&mut self.has_data).then(|| String::from_utf8_lossy(&data).into_owned())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn decode<'a>(chunks: impl IntoIterator<Item = &'a [u8]>) -> Vec<String> {
        let mut decoder = Decoder::default();
        let mut events: Vec<String> = chunks.into_iter().flat_map(|chunk| decoder.feed(chunk)).collect();
        events.extend(decoder.finish());
        events
    }

    #[track_caller]
    fn check(text: &str, expected: &[&str]) {
        assert_eq!(decode([text.as_bytes()]), expected, "{text:?}");
        assert_eq!(decode(text.as_bytes().chunks(1)), expected, "{text:?}, byte by byte");
    }

    #[test]
    fn the_data_of_each_event_is_returned() {
        check("data: one\n\ndata:two\n\n", &["one", "two"]);
        check("data: a\r\ndata: b\r\n\r\n", &["a\nb"]);
        check("data: a\rdata: b\r\r", &["a\nb"]);
        check(": keep-alive\n\nevent: x\nid: 1\nretry: 5\ndata: one\n\n", &["one"]);
        check("\u{feff}data: one\n\n", &["one"]);
        check("data: [DONE]", &["[DONE]"]);
        check("data: [DONE]\n", &["[DONE]"]);
        check("<html>\n<body>\n\n", &[]);
        check("", &[]);
        check("\n\n\n", &[]);
        check("data: ü€😀\n\n", &["ü€😀"]);
    }

    proptest! {
        #[test]
        fn how_bytes_are_cut_does_not_matter(bytes in "(data: |[:a]|\r|\n){0,40}", cut in 1usize..7) {
            prop_assert_eq!(decode([bytes.as_bytes()]), decode(bytes.as_bytes().chunks(cut)));
        }
    }
}
