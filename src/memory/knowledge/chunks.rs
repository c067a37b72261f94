//! A file's text in passages: short enough to be read many at once, and cut where a reader would.
//!
//! No language is known here but Markdown. What is left of the margin after an empty line begins something (a function, a
//! paragraph), and the last line further out than a passage's first is what it stands in.

/// How long a passage may be: some 40 lines. What is longer is cut wherever it is.
pub(super) const MAX_BYTES: usize = 1_600;

/// A section that is shorter goes with the next one.
const SECTION_BYTES: usize = 300;

/// What begins at the margin begins a new passage once the last one is this long.
const ITEM_BYTES: usize = 700;

/// A paragraph within something begins a new passage once the last one is this long.
const PARAGRAPH_BYTES: usize = 1_200;

/// How much of a heading, or of the line that a passage stands in, is kept.
const MAX_HEADING_BYTES: usize = 160;

/// A passage of a file.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Chunk {
    /// Its first line, from 1.
    pub(super) first: u32,
    /// Its last line.
    pub(super) last: u32,
    /// The headings, or the line, that it stands under; may be empty.
    pub(super) heading: String,
    /// The text, of whole lines but where a line is longer than a passage.
    pub(super) text: String,
}

/// Takes a text apart. Passages without a word are left out.
pub(super) fn chunks(text: &str, is_markdown: bool) -> Vec<Chunk> {
    let mut cutter = Cutter { is_markdown, ..Cutter::default() };
    for (line, number) in text.lines().zip(1..) {
        cutter.line(line, number);
    }
    cutter.cut();
    cutter.chunks
}

/// Returns the first words of a file, which often say what it is about.
pub(super) fn title(text: &str) -> &str {
    let bare = |line: &'_ str| -> bool { line.chars().any(char::is_alphanumeric) };
    let line = text.lines().take(20).find(|line| bare(line)).unwrap_or_default();
    let line = line.trim_start_matches(|letter: char| !letter.is_alphanumeric());
    shortened(line)
}

fn shortened(line: &str) -> &str {
    let line = line.trim();
    &line[..line.floor_char_boundary(MAX_HEADING_BYTES)]
}

#[derive(Default)]
struct Cutter {
    is_markdown: bool,
    is_fenced: bool,
    was_blank: bool,
    chunks: Vec<Chunk>,
    /// The passage under way.
    text: String,
    first: u32,
    last: u32,
    heading: String,
    /// The last place in it where it could be cut.
    gap: Option<Gap>,
    /// The headings that hold here, by their depth.
    headings: Vec<(usize, String)>,
    /// The last line at the margin that holds a word.
    outer: String,
}

/// A place after an empty line.
struct Gap {
    /// How much of the passage is before it.
    bytes: usize,
    /// The line after it.
    first: u32,
    /// What that line stands under.
    heading: String,
}

impl Cutter {
    fn line(&mut self, line: &str, number: u32) {
        let level = self.heading_level(line);
        let bytes = self.text.len();
        let is_blank = line.trim().is_empty();
        let is_at_margin = !line.starts_with([' ', '\t']);
        let begins = match () {
            () if level.is_some() => bytes >= SECTION_BYTES,
            () if is_blank || !self.was_blank => false,
            () if is_at_margin && !closes(line) => bytes >= ITEM_BYTES,
            () => bytes >= PARAGRAPH_BYTES,
        };
        if begins {
            self.cut();
        } else if bytes > 0 && bytes + line.len() >= MAX_BYTES {
            self.cut_earlier(line.len());
        }
        if let Some(level) = level {
            self.headings.retain(|(above, _)| *above < level);
            self.headings.push((level, shortened(line.trim_start_matches('#')).to_owned()));
        }
        if self.text.is_empty() {
            if is_blank {
                self.was_blank = true;
                return;
            }
            self.first = number;
            self.heading = self.standing_in(is_at_margin);
        } else if self.was_blank && !is_blank && !closes(line) && self.text.len() >= SECTION_BYTES {
            self.gap = Some(Gap { bytes: self.text.len(), first: number, heading: self.standing_in(is_at_margin) });
        }
        self.push(line, number);
        if is_at_margin && !is_blank && !closes(line) && line.chars().any(char::is_alphanumeric) {
            shortened(line).clone_into(&mut self.outer);
        }
        self.was_blank = is_blank;
    }

    /// Adds a line to the passage; one that is longer than a passage in several.
    fn push(&mut self, line: &str, number: u32) {
        let mut rest = line;
        while rest.len() >= MAX_BYTES {
            let (piece, after) = rest.split_at(rest.floor_char_boundary(MAX_BYTES - 1));
            self.text.push_str(piece);
            self.last = number;
            self.cut();
            (rest, self.first) = (after, number);
        }
        self.text.push_str(rest);
        self.text.push('\n');
        self.last = number;
    }

    fn heading_level(&mut self, line: &str) -> Option<usize> {
        if !self.is_markdown {
            return None;
        }
        self.is_fenced ^= line.trim_start().starts_with("```");
        let level = line.bytes().take_while(|&byte| byte == b'#').count();
        let is_heading = !self.is_fenced && (1..=6).contains(&level) && line[level..].starts_with(' ');
        is_heading.then_some(level)
    }

    fn standing_in(&self, is_at_margin: bool) -> String {
        if self.is_markdown {
            return self.headings.iter().map(|(_, heading)| &**heading).collect::<Vec<_>>().join(" > ");
        }
        if is_at_margin { String::new() } else { self.outer.clone() }
    }

    /// Ends the passage, which has become too long, at its last gap; or here, where it has none or what is after that has
    /// no room for another line.
    fn cut_earlier(&mut self, more: usize) {
        let Some(Gap { bytes, first, heading }) = self.gap.take() else { return self.cut() };
        let (rest, last) = (self.text.split_off(bytes), self.last);
        self.last = first - 1;
        self.cut();
        (self.text, self.first, self.last, self.heading) = (rest, first, last, heading);
        if self.text.len() + more >= MAX_BYTES {
            self.cut();
        }
    }

    fn cut(&mut self) {
        self.gap = None;
        let text = std::mem::take(&mut self.text);
        if text.chars().any(char::is_alphanumeric) {
            let blank = text.lines().rev().take_while(|line| line.trim().is_empty()).count() as u32;
            let (first, last, heading) = (self.first, self.last - blank, self.heading.clone());
            self.chunks.push(Chunk { first, last, heading, text: text.trim_end().to_owned() });
        }
    }
}

/// Whether a line but ends what came before it.
fn closes(line: &str) -> bool {
    line.starts_with(['}', ')', ']'])
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn sections_are_passages_with_the_headings_above_them() {
        let long = "words ".repeat(60);
        let text = format!("# Top\n\n{long}\n\n## One\n\n{long}\n```\n# no heading\n```\n\n## Two\n{long}\n");
        let found: Vec<(u32, u32, String)> =
            chunks(&text, true).into_iter().map(|chunk| (chunk.first, chunk.last, chunk.heading)).collect();
        let expected = [(1, 3, "Top"), (5, 10, "Top > One"), (12, 13, "Top > Two")];
        assert_eq!(found, expected.map(|(first, last, heading)| (first, last, heading.to_owned())));
    }

    #[test]
    fn code_is_cut_between_items_and_knows_what_it_stands_in() {
        let body = "    let number = something(that, takes, arguments);\n".repeat(14);
        let method = format!("    fn method(&self) {{\n{body}    }}\n\n");
        let text =
            format!("/// One.\nfn one() {{\n{body}}}\n\nfn short() {{}}\n\nimpl Two {{\n{}}}\n", method.repeat(4));
        let found = chunks(&text, false);
        assert!(found[0].text.starts_with("/// One.") && found[0].text.ends_with('}'), "{}", found[0].text);
        assert_eq!((found[0].first, found[0].last), (1, 17));
        assert!(found[1].text.starts_with("fn short() {}"), "{}", found[1].text);
        assert!(found[2..].iter().all(|chunk| chunk.text.starts_with("    fn method")), "{found:?}");
        assert!(found[2..].iter().all(|chunk| chunk.heading == "impl Two {"), "{found:?}");
    }

    #[test]
    fn titles_are_the_first_words() {
        assert_eq!(title("#!/\n\n//! What is told.\nmod x;"), "What is told.");
        assert_eq!(title("\n \n---\n# A **title**"), "A **title**");
        assert_eq!(title(""), "");
    }

    proptest! {
        #[test]
        fn no_word_is_lost_and_no_passage_is_too_long(text in "([a-zäé {}#\n`\t]{0,40}\n){0,60}(x{0,4000}\n)?", md: bool) {
            let found = chunks(&text, md);
            for chunk in &found {
                prop_assert!(chunk.text.len() <= MAX_BYTES && chunk.first >= 1 && chunk.first <= chunk.last);
                prop_assert!(chunk.last as usize <= text.lines().count());
            }
            let letters = |text: &str| text.chars().filter(|letter| letter.is_alphanumeric()).collect::<String>();
            prop_assert_eq!(letters(&text), found.iter().map(|chunk| letters(&chunk.text)).collect::<String>());
            // Each stands where it says.
            let lines: Vec<&str> = text.lines().collect();
            for chunk in found.iter().filter(|chunk| chunk.first < chunk.last) {
                let first = chunk.text.lines().next().unwrap_or_default();
                prop_assert!(lines[chunk.first as usize - 1].ends_with(first));
            }
        }
    }
}
