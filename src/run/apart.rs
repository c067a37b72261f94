//! Two texts beside each other, cut so that it can be seen where they part.

/// Cuts two texts to about `chars` characters each, which is at least 40. Where they have a long beginning in common, most
/// of it is left out of both.
pub fn apart(one: &str, other: &str, chars: usize) -> (String, String) {
    let common = one.chars().zip(other.chars()).take_while(|(one, other)| one == other).count();
    (cut(one, common, chars), cut(other, common, chars))
}

fn cut(text: &str, common: usize, chars: usize) -> String {
    let whole = text.chars().count();
    if whole <= chars {
        return text.to_owned();
    }
    // A quarter shows how both begin, and another what stands before the place where they part.
    let shown = chars / 4;
    let (mut kept, mut from) = (String::new(), 0);
    if common > 2 * shown {
        kept.extend(text.chars().take(shown));
        kept.push_str(" … ");
        from = common - shown;
    }
    let room = chars.saturating_sub(kept.chars().count() + 1);
    kept.extend(text.chars().skip(from).take(room));
    if from + room < whole {
        kept.push('…');
    }
    kept
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_texts_are_cut_around_the_place_where_they_part() {
        let (same, tail) = ("s".repeat(1_000), "ü".repeat(1_000));
        for chars in [40, 90, 240] {
            let (one, other) = apart(&format!("{same}one{tail}"), &format!("{same}other{tail}"), chars);
            assert!(one.contains("sone") && other.contains("sother"), "{one}\n{other}");
            assert!(one.starts_with("sss") && one.ends_with("ü…") && one.chars().count() <= chars, "{one}");
        }
        assert_eq!(apart("ä", "b", 40), ("ä".to_owned(), "b".to_owned()));
        let longer = format!("{same}.");
        assert!(apart(&longer, &same, 40).0.ends_with("s."), "the end is shown where that is what differs");
    }
}
