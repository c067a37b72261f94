//! What others say, made visible: text that a model, a tool, a file or a person chose can't drive the terminal that it is
//! shown on, hide in it, or pass for a line of ours. The one place that says which characters those are.
//!
//! What is shown as it is stays readable: letters of all scripts, marks and emoji. An invisible character is shown as it is
//! only where writing needs it: a joiner between letters of a script that joins, or between emoji; a selector after an emoji.

use std::borrow::Cow;
use std::fmt::Write;

/// The styles that Provost itself writes, without the escape that begins them. No other sequence reaches a terminal, and
/// none of these hides anything.
const STYLES: [&str; 9] = ["[0m", "[1m", "[4m", "[31m", "[32m", "[33m", "[34m", "[1;31m", "[1;33m"];

/// Begins every sequence that drives a terminal, but for those of one character.
const ESCAPE: char = '\u{1b}';

const TAB: &str = "    ";

/// Returns a text on one line, with what can't be shown as it is made visible.
pub(crate) fn visible(text: &str) -> Cow<'_, str> {
    rewritten(text, &[], |out, character, _| match character {
        '\t' => out.push_str(TAB),
        _ => out.push_str(&symbol(character)),
    })
}

/// Returns a text of several lines, with what can't be shown as it is made visible. Line breaks and tabs stay.
pub(crate) fn visible_text(text: &str) -> Cow<'_, str> {
    rewritten(text, &['\n', '\t'], |out, character, after| match (character, after) {
        // The other way to end a line.
        ('\r', Some('\n')) => {}
        _ => out.push_str(&symbol(character)),
    })
}

/// Returns a text of several lines, as [`visible_text`], in which the styles that Provost writes stay too. For what is
/// printed as a whole; what others say in it has been made visible before.
pub(crate) fn visible_styled(text: &str) -> Cow<'_, str> {
    let mut parts = text.split(ESCAPE);
    let first = visible_text(parts.next().unwrap_or_default());
    let mut out = first;
    for part in parts {
        let style = STYLES.into_iter().find(|style| part.starts_with(style)).unwrap_or_default();
        let out = out.to_mut();
        match style.is_empty() {
            true => out.push_str(&symbol(ESCAPE)),
            false => out.extend([ESCAPE.encode_utf8(&mut [0; 4]), style]),
        }
        out.push_str(&visible_text(&part[style.len()..]));
    }
    out
}

/// Returns JSON that means the very same, in which what can't be shown as it is is written as an escape. Such characters
/// stand in strings only, so that nothing else changes.
pub(crate) fn visible_json(json: &str) -> Cow<'_, str> {
    rewritten(json, &['\n'], |out, character, _| {
        for unit in character.encode_utf16(&mut [0; 2]) {
            // Writing to a string does not fail.
            let _ = write!(out, "\\u{unit:04x}");
        }
    })
}

/// Goes through the characters of a line: each with its place in bytes, and as it is shown.
pub(super) fn symbols(text: &str) -> impl Iterator<Item = (usize, String)> {
    judged(text).map(|(at, character, stays)| match (stays, character) {
        (true, _) => (at, character.to_string()),
        (false, '\t') => (at, TAB.to_owned()),
        (false, _) => (at, symbol(character)),
    })
}

/// Returns how a character is shown that can't be shown as it is.
fn symbol(character: char) -> String {
    match character {
        '\u{0}'..='\u{1f}' => char::from_u32(0x2400 + u32::from(character)).unwrap_or('\u{fffd}').to_string(),
        '\u{7f}' => '\u{2421}'.to_string(),
        character => character.escape_unicode().to_string(),
    }
}

/// Rewrites by `put`, which is told what comes after it, each character that can't be shown as it is and is none of `kept`.
fn rewritten<'a>(text: &'a str, kept: &[char], put: impl Fn(&mut String, char, Option<char>)) -> Cow<'a, str> {
    // Nearly all that is printed, and quickly seen.
    if text.bytes().all(|byte| matches!(byte, b' '..=b'~')) {
        return Cow::Borrowed(text);
    }
    let mut out: Option<String> = None;
    for (at, character, stays) in judged(text) {
        match (stays || kept.contains(&character), &mut out) {
            (true, None) => {}
            (true, Some(out)) => out.push(character),
            (false, out) => {
                let after = text[at + character.len_utf8()..].chars().next();
                put(out.get_or_insert_with(|| text[..at].to_owned()), character, after);
            }
        }
    }
    out.map_or(Cow::Borrowed(text), Cow::Owned)
}

/// Goes through the characters of a text: each with its place in bytes, and whether it can be shown as it is.
fn judged(text: &str) -> impl Iterator<Item = (usize, char, bool)> {
    let mut before = None;
    text.char_indices().map(move |(at, character)| {
        let stays = match is_unseen(character) {
            false => true,
            true => is_needed(before, character, text[at + character.len_utf8()..].chars().next()),
        };
        // What is not shown as it is is no neighbour of what follows it on the terminal.
        before = stays.then_some(character);
        (at, character, stays)
    })
}

/// Whether a character drives a terminal, breaks a line, turns the direction of writing, or is not seen at all: the controls,
/// C1 too; what Unicode has as `Default_Ignorable_Code_Point`; separators of lines and paragraphs; and what is no character.
fn is_unseen(character: char) -> bool {
    matches!(character,
        '\u{0}'..='\u{1f}' | '\u{7f}'..='\u{9f}'
        | '\u{ad}' | '\u{34f}' | '\u{61c}' | '\u{115f}'..='\u{1160}' | '\u{17b4}'..='\u{17b5}' | '\u{180b}'..='\u{180f}'
        | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{3164}'
        | '\u{fdd0}'..='\u{fdef}' | '\u{fe00}'..='\u{fe0f}' | '\u{feff}' | '\u{ffa0}' | '\u{fff0}'..='\u{fffb}'
        | '\u{1bca0}'..='\u{1bca3}' | '\u{1d173}'..='\u{1d17a}' | '\u{e0000}'..='\u{e0fff}')
        || u32::from(character) & 0xfffe == 0xfffe
}

/// Whether an unseen character is there because writing needs it: one alone, between two that it belongs to.
fn is_needed(before: Option<char>, character: char, after: Option<char>) -> bool {
    let (Some(before), after) = (before, after.unwrap_or_default()) else { return false };
    match character {
        '\u{200c}' => joins(before) && joins(after),
        '\u{200d}' => joins(before) && joins(after) || (is_emoji(before) || before == '\u{fe0f}') && is_emoji(after),
        '\u{fe0e}' => is_emoji(before),
        // The keycaps are digits in a box.
        '\u{fe0f}' => is_emoji(before) || matches!(before, '0'..='9' | '#' | '*') && after == '\u{20e3}',
        _ => false,
    }
}

/// Whether a letter is of a script whose letters change their shape by a joiner: from Arabic to Thaana, of India, of
/// Southeast Asia, and Mongolian. The blocks are those of Unicode.
fn joins(character: char) -> bool {
    let is_of_script = matches!(character,
        '\u{600}'..='\u{8ff}' | '\u{900}'..='\u{dff}' | '\u{1000}'..='\u{109f}' | '\u{1780}'..='\u{18af}');
    is_of_script && !is_unseen(character)
}

/// Whether a character is a picture, or can be one.
fn is_emoji(character: char) -> bool {
    matches!(character,
        '\u{a9}' | '\u{ae}' | '\u{203c}' | '\u{2049}' | '\u{2122}' | '\u{2139}' | '\u{2190}'..='\u{27ff}'
        | '\u{2900}'..='\u{2bff}' | '\u{3030}' | '\u{303d}' | '\u{3297}' | '\u{3299}' | '\u{1f000}'..='\u{1faff}')
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// All that must never reach a terminal, told apart from the code that is tested.
    fn is_dangerous(character: char) -> bool {
        character.is_control()
            || matches!(u32::from(character),
                0xad | 0x61c | 0x200b | 0x200e | 0x200f | 0x2028..=0x202e | 0x2060..=0x206f | 0xfeff | 0xe0000..=0xe01ef)
    }

    /// Texts of what is dangerous, what is needed here and there, and what is harmless, close together.
    fn any_text() -> impl Strategy<Value = String> {
        let nasty = prop::sample::select(
            "\u{0}\t\n\r\u{8}\u{1b}[]m0;1\u{7}\u{7f}\u{85}\u{90}\u{9b}\u{9c}\u{9d}\u{ad}\u{61c}\u{200b}\u{200c}\u{200d}\u{200e}\
             \u{2028}\u{202e}\u{2066}\u{2069}\u{fe0e}\u{fe0f}\u{feff}\u{ffff}\u{20e3}\u{e0041}\u{e0100}ü你سनि👩❤#\\\"'"
                .chars()
                .collect::<Vec<_>>(),
        );
        prop::collection::vec(prop_oneof![4 => nasty, 1 => any::<char>()], 0..40)
            .prop_map(|characters| characters.into_iter().collect())
    }

    /// Returns a text without the styles that are ours.
    fn without_styles(text: &str) -> String {
        STYLES.iter().fold(text.to_owned(), |text, style| text.replace(&format!("\u{1b}{style}"), ""))
    }

    proptest! {
        #[test]
        fn whatever_is_said_drives_nothing(text in any_text()) {
            let (line, lines, styled) = (visible(&text), visible_text(&text), visible_styled(&text));
            prop_assert!(!line.contains(is_dangerous), "{line:?}");
            let is_out_of_place = |character| is_dangerous(character) && !"\n\t".contains(character);
            prop_assert!(!lines.contains(is_out_of_place), "{lines:?}");
            prop_assert!(!without_styles(&styled).contains(is_out_of_place), "{styled:?}");
            // What is visible stays as it is, whatever is around it.
            prop_assert_eq!(visible(&line), &*line);
            prop_assert_eq!(visible_text(&lines), &*lines);
            prop_assert_eq!(visible_styled(&styled), &*styled);
            let both = format!("{line}\n{lines}");
            prop_assert_eq!(visible_styled(&both), &*both);
            prop_assert_eq!(symbols(&text).map(|(_, symbol)| symbol).collect::<String>(), line);
        }

        #[test]
        fn json_says_the_same_and_drives_nothing(text in any_text(), key in any_text()) {
            let value = serde_json::json!({ key: [text, 1, null] });
            for json in [value.to_string(), format!("{value:#}")] {
                let shown = visible_json(&json);
                prop_assert!(!shown.contains(|character| is_dangerous(character) && character != '\n'), "{shown:?}");
                prop_assert_eq!(&serde_json::from_str::<serde_json::Value>(&shown).unwrap(), &value);
                prop_assert_eq!(visible_json(&shown), &*shown);
                prop_assert_eq!(shown.lines().count(), json.lines().count());
            }
        }
    }

    #[test]
    fn what_is_harmless_is_neither_changed_nor_copied() {
        for text in [
            "plain",
            "Grüße aus Köln – „schön“",
            "你好，世界",
            "مرحبا بالعالم",
            "می‌خواهم",
            "क्‍ष",
            "👩‍👩‍👧‍👦 👍🏽 ❤️ 🏳️‍🌈 1️⃣ 🇩🇪",
            "e\u{301}",
        ] {
            for shown in [visible(text), visible_text(text), visible_styled(text), visible_json(text)] {
                assert!(matches!(shown, Cow::Borrowed(same) if same == text), "{text}: {shown}");
            }
        }
        assert!(matches!(visible_text("a\n\tb"), Cow::Borrowed(_)));
    }

    #[test]
    fn what_is_not_seen_is_shown_where_writing_has_no_use_for_it() {
        for (text, shown) in [
            ("a\u{200d}b", "a\\u{200d}b"),
            ("你\u{200d}好", "你\\u{200d}好"),
            ("می\u{200c}\u{200c}خ", "می\\u{200c}\\u{200c}خ"),
            ("a\u{fe0f}\u{200d}👩", "a\\u{fe0f}\\u{200d}👩"),
            ("1\u{fe0f}", "1\\u{fe0f}"),
            ("👩\u{e0061}\u{e007f}", "👩\\u{e0061}\\u{e007f}"),
            ("葛\u{e0100}", "葛\\u{e0100}"),
            ("\u{9b}2J\u{1b}]52;c;x\u{7}", "\\u{9b}2J␛]52;c;x␇"),
            ("a\tb\r\nc\u{2028}d", "a    b␍␊c\\u{2028}d"),
            ("admin\u{202e}nimda", "admin\\u{202e}nimda"),
        ] {
            assert_eq!(visible(text), shown);
        }
        assert_eq!(visible_text("a\tb\r\nc\rd\r\r\n"), "a\tb\nc␍d␍\n");
    }

    #[test]
    fn our_styles_stay_and_no_others() {
        let ours = "\u{1b}[1;31merror\u{1b}[0m: \u{1b}[31m\u{1b}[1mx\u{1b}[0m\n";
        assert_eq!(visible_styled(ours), ours);
        assert_eq!(visible_styled("\u{1b}[8mx\u{1b}[31;8my\u{1b}[2Jz\u{1b}"), "␛[8mx␛[31;8my␛[2Jz␛");
        assert_eq!(visible_text("\u{1b}[31mx"), "␛[31mx");
    }
}
